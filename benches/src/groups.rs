//! Groups: how soon the first of a long backlog is delivered, and how fast members that share it get through.
//!
//! Broker and members share the machine. Every record is acked by itself; acks travel together.

use std::time::Instant;

use anyhow::Context as _;
use aqueduct_client::{Client, Consumer, GroupMode, Record};
use aqueduct_tests::BrokerProcess;
use bytes::Bytes;
use futures_util::{FutureExt as _, future::try_join_all};
use tokio::sync::mpsc;

use crate::report::figure;

const VALUE_BYTES: usize = 100;
const MEMBERS: usize = 4;
const PARTITIONS: u32 = 4;
const KEYS: u64 = 10_000;

/// Measures every mode over a backlog of `records`.
pub(crate) async fn measure(records: u64) -> anyhow::Result<()> {
    let broker = BrokerProcess::start();
    let client = broker.client().await;
    client.topics().create("backlog").partitions(PARTITIONS).build().await?;
    publish(&client, records).await?;
    for mode in [GroupMode::Ordered, GroupMode::Shared, GroupMode::Keyed] {
        let begin = Instant::now();
        let mut first = client.consumer("backlog", format!("first-{mode}")).mode(mode).build().await?;
        first.next().await.context("the consumer has ended")??.ack();
        figure(&format!("{mode}: first delivery"), begin.elapsed().as_secs_f64() * 1e3, "ms");
        drop(first);
        drain(&broker, mode, records).await?;
    }
    Ok(())
}

async fn publish(client: &Client, records: u64) -> anyhow::Result<()> {
    let producer = client.producer("backlog").build().await?;
    let value = Bytes::from(vec![b'v'; VALUE_BYTES]);
    for number in 0..records {
        let key = Bytes::copy_from_slice(&(number % KEYS).to_le_bytes());
        let _ticket = producer.enqueue(Record::new(value.clone()).key(key)).await?;
    }
    producer.flush().await?;
    Ok(())
}

async fn drain(broker: &BrokerProcess, mode: GroupMode, records: u64) -> anyhow::Result<()> {
    let mut members = Vec::new();
    for _ in 0..MEMBERS {
        let client = broker.client().await;
        members.push(client.consumer("backlog", format!("all-{mode}")).mode(mode).build().await?);
    }
    let begin = Instant::now();
    let (handled, mut told) = mpsc::channel(64);
    let consuming: Vec<_> = members.into_iter().map(|member| tokio::spawn(consume(member, handled.clone()))).collect();
    let mut left = records;
    while left > 0 {
        left = left.saturating_sub(told.recv().await.context("the members have ended")?);
    }
    let rate = records as f64 / begin.elapsed().as_secs_f64();
    figure(&format!("{mode}: {MEMBERS} members, acked"), rate / 1e6, "M records/s");
    drop(told);
    try_join_all(consuming).await?.into_iter().collect()
}

/// Acks what comes, and tells now and then how many that were, until nobody wants to know.
async fn consume(mut member: Consumer, handled: mpsc::Sender<u64>) -> anyhow::Result<()> {
    loop {
        let mut count = 0;
        tokio::select! {
            delivery = member.next() => {
                delivery.context("the consumer has ended")??.ack();
                count += 1;
            }
            () = handled.closed() => return Ok(()),
        }
        // Whatever has arrived with it.
        while let Some(delivery) = member.next().now_or_never() {
            delivery.context("the consumer has ended")??.ack();
            count += 1;
        }
        if handled.send(count).await.is_err() {
            return Ok(());
        }
    }
}
