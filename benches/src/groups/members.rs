//! What loads on groups have in common: a backlog of keyed records, and members that ack what comes, or give it back.

use anyhow::Context as _;
use aqueduct_client::{Client, Consumer, Delivery, GroupPolicy, Record};
use aqueduct_tests::BrokerProcess;
use bytes::Bytes;
use futures_util::{FutureExt as _, future::try_join_all};
use tokio::{sync::mpsc, task::JoinHandle};

const VALUE_BYTES: usize = 100;
pub(super) const PARTITIONS: u32 = 4;
pub(super) const KEYS: u64 = 10_000;

/// The key of the record with that number.
pub(super) fn key(number: u64) -> [u8; 8] {
    (number % KEYS).to_le_bytes()
}

/// The record with that number.
pub(super) fn record(number: u64) -> Record {
    const VALUE: [u8; VALUE_BYTES] = [b'v'; VALUE_BYTES];
    Record::new(Bytes::from_static(&VALUE)).key(Bytes::copy_from_slice(&key(number)))
}

pub(super) async fn publish(client: &Client, topic: &str, records: u64) -> anyhow::Result<()> {
    let producer = client.producer(topic).build().await?;
    for number in 0..records {
        let _ticket = producer.enqueue(record(number)).await?;
    }
    producer.flush().await?;
    Ok(())
}

/// A group to be measured.
pub(super) struct Group {
    pub(super) topic: &'static str,
    pub(super) name: String,
    pub(super) policy: GroupPolicy,
}

impl Group {
    /// Members, each with a connection of its own.
    pub(super) async fn join(&self, broker: &BrokerProcess, members: usize) -> anyhow::Result<Vec<Consumer>> {
        let mut joined = Vec::new();
        for _ in 0..members {
            let client = broker.client().await;
            joined.push(client.consumer(self.topic, self.name.as_str()).policy(self.policy).build().await?);
        }
        Ok(joined)
    }
}

/// What members do with a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Conduct {
    Ack,
    /// It is acked, too, but not counted.
    AckUncounted,
    Nack,
}

/// Records that members have acked, of those that are counted.
pub(super) struct Handled {
    acked: u64,
    told: mpsc::Receiver<u64>,
    consuming: Vec<JoinHandle<anyhow::Result<()>>>,
}

impl Handled {
    /// Records so far.
    pub(super) fn acked(&self) -> u64 {
        self.acked
    }

    /// Returns once so many records are acked. Cancel-safe.
    pub(super) async fn reach(&mut self, records: u64) -> anyhow::Result<()> {
        while self.acked < records {
            self.acked += self.told.recv().await.context("the members have ended")?;
        }
        Ok(())
    }

    /// The members leave their group.
    pub(super) async fn stop(self) -> anyhow::Result<()> {
        drop(self.told);
        try_join_all(self.consuming).await?.into_iter().collect()
    }
}

/// Has `members` handle what comes.
pub(super) fn consume(
    members: Vec<Consumer>,
    conduct: impl Fn(&Delivery) -> Conduct + Copy + Send + 'static,
) -> Handled {
    let (tell, told) = mpsc::channel(64);
    let consuming = members.into_iter().map(|member| tokio::spawn(settle(member, conduct, tell.clone()))).collect();
    Handled { acked: 0, told, consuming }
}

/// Tells now and then how many were acked, until nobody wants to know.
async fn settle(
    mut member: Consumer,
    conduct: impl Fn(&Delivery) -> Conduct,
    tell: mpsc::Sender<u64>,
) -> anyhow::Result<()> {
    loop {
        let first = tokio::select! {
            delivery = member.next() => delivery,
            () = tell.closed() => return Ok(()),
        };
        let (mut next, mut acked) = (Some(first), 0);
        // And whatever has arrived with it.
        while let Some(delivery) = next {
            let delivery = delivery.context("the consumer has ended")??;
            match conduct(&delivery) {
                Conduct::Ack => {
                    acked += 1;
                    delivery.ack();
                }
                Conduct::AckUncounted => delivery.ack(),
                Conduct::Nack => delivery.nack("it was to fail"),
            }
            next = member.next().now_or_never();
        }
        if tell.send(acked).await.is_err() {
            return Ok(());
        }
    }
}
