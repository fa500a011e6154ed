//! `--group`: reading as a member, acknowledging exactly what standard output has taken.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use aqueduct_client::{ConsumeError, Consumer, ConsumerItem, Delivery, LagWatch, PartitionLag};
use futures_util::FutureExt as _;

use super::{Printer, SubscribeArgs, describe_gap};
use crate::cli::render;
use crate::cli::session::Session;

/// How soon `--until-end` sees that the group has reached the end.
const LAG_INTERVAL: Duration = Duration::from_millis(100);

pub(super) async fn consume(
    session: &Session,
    args: &SubscribeArgs,
    group: &str,
    printer: &mut Printer,
) -> anyhow::Result<()> {
    let mut end = None;
    if args.until_end {
        end = Some(End::of(session, &args.topic).await?);
    }
    let name = args.member.as_deref().unwrap_or("aqueduct subscribe");
    let mut consumer = session
        .client
        .consumer(&args.topic, group)
        .static_member(name, args.keep.unwrap_or(Duration::ZERO))
        .build()
        .await
        .with_context(|| format!("cannot read {:?} as group {group:?}", args.topic))?;
    if let Some(end) = &mut end {
        end.watch = Some(session.client.group(group).watch_lag(Some(&args.topic), LAG_INTERVAL).await?);
    }
    let result = run(&mut consumer, &args.topic, printer, end).await;
    // Whatever happened: what was taken is acknowledged, and the rest goes back to the group at once.
    let closed = consumer.close().await;
    result?;
    Ok(closed?)
}

async fn run(consumer: &mut Consumer, topic: &str, printer: &mut Printer, mut end: Option<End>) -> anyhow::Result<()> {
    // Printed, but perhaps not taken yet. Bounded by the buffer of standard output.
    let mut printed: Vec<Delivery> = Vec::new();
    let mut interrupted = std::pin::pin!(crate::cli::interrupted().fuse());
    let mut failure = None;
    while !printer.is_done() {
        let item = tokio::select! {
            biased;
            () = &mut interrupted => break,
            item = consumer.next_item() => item,
            () = std::future::ready(()), if printer.stdout.is_dirty() => {
                if !printer.flush(&mut interrupted).await? {
                    return Ok(());
                }
                printed.drain(..).for_each(Delivery::ack);
                continue;
            }
            reached = End::reached(&mut end), if end.is_some() => {
                if reached? { break } else { continue }
            }
        };
        match item {
            None => break,
            Some(Ok(ConsumerItem::Delivery(delivery))) => {
                printer.print(delivery.event());
                printed.push(delivery);
            }
            Some(Ok(ConsumerItem::Gap(gap))) => render::note(&describe_gap(topic, &gap)),
            Some(Ok(ConsumerItem::Assignment { .. })) => {}
            Some(Err(error @ ConsumeError::Request(_))) => return Err(error.into()),
            Some(Err(
                error @ (ConsumeError::Partition { .. }
                | ConsumeError::Damaged { .. }
                | ConsumeError::Decode(_)
                | ConsumeError::Unsettled { .. }),
            )) => {
                render::note(&error.to_string());
                failure.get_or_insert(error);
            }
        }
        if printer.stdout.is_full() {
            if !printer.flush(&mut interrupted).await? {
                return Ok(());
            }
            printed.drain(..).for_each(Delivery::ack);
        }
    }
    if printer.flush(interrupted).await? {
        printed.drain(..).for_each(Delivery::ack);
    }
    failure.map_or(Ok(()), |error| Err(anyhow::Error::from(error).context("not everything could be read")))
}

/// The end that the topic had when the command started. Other members may be the ones that reach it.
struct End {
    high_watermarks: BTreeMap<u32, u64>,
    watch: Option<LagWatch>,
}

impl End {
    async fn of(session: &Session, topic: &str) -> anyhow::Result<Self> {
        let description = session.client.topics().describe(topic).await?;
        let with_events = description.partitions.iter().filter(|p| p.high_watermark > p.log_start);
        Ok(Self { high_watermarks: with_events.map(|p| (p.partition, p.high_watermark)).collect(), watch: None })
    }

    /// Waits for the next report; says whether the group has committed everything up to the end.
    async fn reached(end: &mut Option<Self>) -> anyhow::Result<bool> {
        let Some(Self { high_watermarks, watch: Some(watch) }) = end else {
            return std::future::pending().await;
        };
        match watch.next().await {
            None => Ok(true),
            Some(report) => Ok(is_reached(high_watermarks, &report?)),
        }
    }
}

fn is_reached(high_watermarks: &BTreeMap<u32, u64>, report: &[PartitionLag]) -> bool {
    high_watermarks
        .iter()
        .all(|(partition, end)| report.iter().any(|lag| lag.partition == *partition && lag.committed_offset >= *end))
}
