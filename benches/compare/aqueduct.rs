//! Aqueduct with its defaults: `aqueduct serve`, one client, topics with durability `fsync`.
//!
//! The client batches by itself: batches fill while earlier ones are on their way, so nothing is tuned here. A call
//! hands over 512 records.

use std::sync::Arc;

use anyhow::Context as _;
use aqueduct_client::{Client, Record, Start, Subscription};
use aqueduct_tests::BrokerProcess;

use crate::peer::{Follower, Message, Peer, Producer, Visit};

pub(crate) struct Aqueduct {
    client: Client,
    broker: Arc<BrokerProcess>,
}

impl Aqueduct {
    pub(crate) async fn connect(broker: Arc<BrokerProcess>) -> anyhow::Result<Self> {
        Ok(Self { client: Client::connect(broker.url()).await?, broker })
    }
}

#[tonic::async_trait]
impl Peer for Aqueduct {
    fn pid(&self) -> u32 {
        self.broker.pid()
    }

    async fn create(&self, log: &str, partitions: u32) -> anyhow::Result<()> {
        self.client.topics().create(log).partitions(partitions).build().await?;
        Ok(())
    }

    async fn producer(&self, log: &str, partition: u32) -> anyhow::Result<Box<dyn Producer>> {
        Ok(Box::new(Publisher(self.client.producer(log).partition(partition).build().await?)))
    }

    async fn replay(&self, log: &str, records: u64, visit: Visit<'_>) -> anyhow::Result<()> {
        let mut events = self.client.subscribe(log).partition(0).from(Start::Earliest).until_end().build().await?;
        let mut seen = 0;
        while let Some(batch) = events.next_batch().await {
            for record in batch?.records() {
                let record = record?;
                visit(record.key.unwrap_or_default(), record.value.unwrap_or_default());
                seen += 1;
            }
        }
        anyhow::ensure!(seen == records, "{seen} records instead of {records}");
        Ok(())
    }

    async fn follow(&self, log: &str) -> anyhow::Result<Box<dyn Follower>> {
        let events = self.client.subscribe(log).partition(0).from(Start::Earliest).build().await?;
        Ok(Box::new(Tail(events)))
    }
}

struct Publisher(aqueduct_client::Producer);

fn record(message: &Message) -> Record {
    let record = Record::new(message.value.clone());
    match &message.key {
        Some(key) => record.key(key.clone()),
        None => record,
    }
}

#[tonic::async_trait]
impl Producer for Publisher {
    async fn enqueue(&mut self, messages: &[Message]) -> anyhow::Result<()> {
        // The ticket is dropped: `flush` reports what failed.
        drop(self.0.enqueue_all(messages.iter().map(record)).await?);
        Ok(())
    }

    async fn flush(&mut self) -> anyhow::Result<()> {
        Ok(self.0.flush().await?)
    }

    async fn publish(&self, message: Message) -> anyhow::Result<()> {
        self.0.publish(record(&message)).await?;
        Ok(())
    }
}

struct Tail(Subscription);

#[tonic::async_trait]
impl Follower for Tail {
    async fn next(&mut self, visit: Visit<'_>) -> anyhow::Result<()> {
        for record in self.0.next_batch().await.context("the subscription ended")??.records() {
            let record = record?;
            visit(record.key.unwrap_or_default(), record.value.unwrap_or_default());
        }
        Ok(())
    }
}
