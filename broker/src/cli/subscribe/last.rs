//! `--last N`: where the newest N events of a topic begin, whatever their partitions.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use anyhow::Context as _;
use aqueduct_client::{PartitionInfo, Start};

use crate::cli::exit::CliError;
use crate::cli::session::Session;

/// More would be held in memory for nothing: `--from` or `--since` say it better.
const COUNT_MAX: usize = 1_000_000;

/// The offset to begin at in each partition, so that `count` events follow, the newest by append time.
pub(super) async fn starts(
    session: &Session,
    topic: &str,
    only: &[u32],
    count: usize,
) -> anyhow::Result<Vec<(u32, u64)>> {
    if count > COUNT_MAX {
        let what = format!("--last {count} is over the limit of {COUNT_MAX}; use --from or --since");
        return Err(CliError::Usage(what).into());
    }
    let description = session.client.topics().describe(topic).await?;
    if let Some(missing) = only.iter().find(|only| description.partitions.iter().all(|p| p.partition != **only)) {
        let partitions = description.partitions.len();
        let what = format!("topic {topic:?} has no partition {missing}; it has {partitions}, numbered from 0");
        return Err(CliError::NotFound(what).into());
    }
    let windows: Vec<&PartitionInfo> =
        description.partitions.iter().filter(|p| only.is_empty() || only.contains(&p.partition)).collect();
    let newest = |window: &PartitionInfo| {
        window.high_watermark.saturating_sub(count as u64).max(window.log_start).min(window.high_watermark)
    };
    let candidates: Vec<(u32, u64, u64)> =
        windows.iter().map(|window| (window.partition, newest(window), window.high_watermark)).collect();
    let available: u64 = candidates.iter().map(|(_, from, to)| to - from).sum();
    if available <= count as u64 {
        return Ok(candidates.into_iter().map(|(partition, from, _)| (partition, from)).collect());
    }
    choose(session, topic, &candidates, count).await
}

/// Reads the candidates once and keeps the positions of the newest.
async fn choose(
    session: &Session,
    topic: &str,
    candidates: &[(u32, u64, u64)],
    count: usize,
) -> anyhow::Result<Vec<(u32, u64)>> {
    let mut builder = session.client.subscribe(topic);
    for (partition, from, to) in candidates.iter().filter(|(_, from, to)| from < to) {
        builder = builder.partition_from(*partition, Start::Offset(*from)).until(*partition, *to);
    }
    let mut subscription = builder.build().await?;
    let mut newest = BinaryHeap::with_capacity(count + 1);
    while let Some(batch) = subscription.next_batch().await {
        let batch = batch.context("cannot find the last events")?;
        for record in batch.records() {
            newest.push(Reverse((batch.append_time(), batch.partition(), record?.offset)));
            if newest.len() > count {
                newest.pop();
            }
        }
    }
    let mut starts: BTreeMap<u32, u64> =
        candidates.iter().map(|(partition, _, high_watermark)| (*partition, *high_watermark)).collect();
    for Reverse((_, partition, offset)) in newest {
        starts.entry(partition).and_modify(|start| *start = offset.min(*start));
    }
    Ok(starts.into_iter().collect())
}
