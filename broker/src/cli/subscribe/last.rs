//! `--last N`: where the newest N events of a topic begin, whatever their partitions.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use anyhow::Context as _;
use aqueduct_client::{PartitionInfo, Start, Timestamp};

use crate::cli::exit::CliError;
use crate::cli::session::Session;

/// More would be held in memory for nothing: `--from` or `--since` say it better.
const COUNT_MAX: usize = 1_000_000;

/// The newest events of one partition, of which some may be among the newest of all.
struct Candidates {
    partition: u32,
    from: u64,
    high_watermark: u64,
}

/// Ordered by age; ties are broken so that the choice is the same every time.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    append_time: Timestamp,
    partition: u32,
    offset: u64,
}

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
    let newest = |window: &PartitionInfo| Candidates {
        partition: window.partition,
        from: window.high_watermark.saturating_sub(count as u64).max(window.log_start).min(window.high_watermark),
        high_watermark: window.high_watermark,
    };
    let candidates: Vec<Candidates> = windows.into_iter().map(newest).collect();
    let available: u64 = candidates.iter().map(|candidates| candidates.high_watermark - candidates.from).sum();
    if available <= count as u64 {
        return Ok(candidates.iter().map(|candidates| (candidates.partition, candidates.from)).collect());
    }
    choose(session, topic, &candidates, count).await
}

/// Reads the candidates once and keeps the places of the newest.
async fn choose(
    session: &Session,
    topic: &str,
    candidates: &[Candidates],
    count: usize,
) -> anyhow::Result<Vec<(u32, u64)>> {
    let mut builder = session.client.subscribe(topic);
    for candidates in candidates.iter().filter(|candidates| candidates.from < candidates.high_watermark) {
        builder = builder
            .partition_from(candidates.partition, Start::Offset(candidates.from))
            .until(candidates.partition, candidates.high_watermark);
    }
    let mut subscription = builder.build().await?;
    let mut newest = BinaryHeap::with_capacity(count + 1);
    while let Some(batch) = subscription.next_batch().await {
        let batch = batch.context("cannot find the last events")?;
        let (append_time, partition) = (batch.append_time(), batch.partition());
        for record in batch.records() {
            newest.push(Reverse(Place { append_time, partition, offset: record?.offset }));
            if newest.len() > count {
                newest.pop();
            }
        }
    }
    let mut starts: BTreeMap<u32, u64> =
        candidates.iter().map(|candidates| (candidates.partition, candidates.high_watermark)).collect();
    for Reverse(Place { partition, offset, .. }) in newest {
        starts.entry(partition).and_modify(|start| *start = offset.min(*start));
    }
    Ok(starts.into_iter().collect())
}
