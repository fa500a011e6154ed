//! Groups: how soon the first of a long backlog is delivered, how fast members that share it get through, what is left of
//! that while some records fail, and what handlers cost.
//!
//! Broker and members share the machine. Every record is acked by itself; acks travel together.

pub(crate) mod failing;
pub(crate) mod handlers;
mod members;

use std::time::Instant;

use anyhow::Context as _;
use aqueduct_client::{GroupMode, GroupPolicy};
use aqueduct_tests::BrokerProcess;

use self::members::{Conduct, Group, PARTITIONS, publish};
use crate::report::figure;

const MEMBERS: usize = 4;

/// Measures every mode over a backlog of `records`.
pub(crate) async fn measure(records: u64) -> anyhow::Result<()> {
    let broker = BrokerProcess::start();
    let client = broker.client().await;
    client.topics().create("backlog").partitions(PARTITIONS).build().await?;
    publish(&client, "backlog", records).await?;
    for mode in [GroupMode::Ordered, GroupMode::Shared, GroupMode::Keyed] {
        let begin = Instant::now();
        let mut first = client.consumer("backlog", format!("first-{mode}")).mode(mode).build().await?;
        first.next().await.context("the consumer has ended")??.ack();
        figure(&format!("{mode}: first delivery"), begin.elapsed().as_secs_f64() * 1e3, "ms");
        drop(first);

        let policy = GroupPolicy { mode: Some(mode), ..GroupPolicy::default() };
        let group = Group { topic: "backlog", name: format!("all-{mode}"), policy };
        let members = group.join(&broker, MEMBERS).await?;
        let begin = Instant::now();
        let mut handled = members::consume(members, |_| Conduct::Ack);
        handled.reach(records).await?;
        let rate = records as f64 / begin.elapsed().as_secs_f64();
        handled.stop().await?;
        figure(&format!("{mode}: {MEMBERS} members, acked"), rate / 1e6, "M records/s");
    }
    Ok(())
}
