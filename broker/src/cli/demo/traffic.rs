//! Producers that keep every receipt, and groups that remember everything they were given.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use aqueduct_client::{Client, ConsumeError, Consumer, LagWatch, Producer, ProducerStats, RequestError, Ticket};
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};

use super::flights::{self, Airport};
use super::ledger::{Ledger, Seen};

/// Receipts awaited together; the ledger is locked once for them.
const RECEIPTS_TOGETHER: usize = 256;
/// Events on their way, per producer.
const TICKETS_MAX: usize = 8_192;
/// Events a slow group handles between two rests.
const SLOW_STEP: u32 = 200;
/// Before a broken stream is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// Producers at work.
#[derive(Debug)]
pub(super) struct Publishing {
    /// Receipts so far.
    pub(super) acked: watch::Receiver<u64>,
    ledger: Arc<Mutex<Ledger>>,
    tasks: JoinSet<anyhow::Result<ProducerStats>>,
}

/// What the producers did, all together.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Published {
    /// Streams that broke, and were opened again.
    pub(super) reconnects: u64,
    /// Records sent again that turned out to be stored already.
    pub(super) duplicates: u64,
}

impl Publishing {
    /// One producer for each airport, all into one topic.
    pub(super) async fn start(
        client: &Client,
        topic: &str,
        partitions: usize,
        airports: Vec<Airport>,
        rounds: u32,
    ) -> anyhow::Result<Self> {
        let ledger = Arc::new(Mutex::new(Ledger::new(partitions)));
        let (count, acked) = watch::channel(0);
        let count = Arc::new(count);
        let mut tasks = JoinSet::new();
        for airport in airports {
            let producer = client.producer(topic).build().await?;
            tasks.spawn(publish(producer, airport, rounds, Arc::clone(&ledger), Arc::clone(&count)));
        }
        Ok(Self { acked, ledger, tasks })
    }

    /// Waits for the last receipt.
    pub(super) async fn finish(&mut self) -> anyhow::Result<Published> {
        let mut published = Published::default();
        while let Some(task) = self.tasks.join_next().await {
            let stats = task.context("a producer died")??;
            published.reconnects += stats.reconnects;
            published.duplicates += stats.duplicates;
        }
        Ok(published)
    }

    /// The receipts, once everything has finished.
    pub(super) fn into_ledger(self) -> Ledger {
        let partitions = self.ledger.lock().ends().len();
        std::mem::replace(&mut *self.ledger.lock(), Ledger::new(partitions))
    }
}

async fn publish(
    producer: Producer,
    airport: Airport,
    rounds: u32,
    ledger: Arc<Mutex<Ledger>>,
    acked: Arc<watch::Sender<u64>>,
) -> anyhow::Result<ProducerStats> {
    let (tickets, mut waiting) = mpsc::channel::<(u64, Ticket)>(TICKETS_MAX);
    let feed = async {
        // Moved, so that the channel closes when the last event is on its way.
        let tickets = tickets;
        for record in airport.records(rounds) {
            let fingerprint = flights::fingerprint(&record);
            let ticket = producer.enqueue(record).await?;
            if tickets.send((fingerprint, ticket)).await.is_err() {
                break;
            }
        }
        anyhow::Ok(())
    };
    let settle = async {
        let mut together = Vec::with_capacity(RECEIPTS_TOGETHER);
        while waiting.recv_many(&mut together, RECEIPTS_TOGETHER).await > 0 {
            let count = together.len() as u64;
            let mut receipts = Vec::with_capacity(together.len());
            for (fingerprint, ticket) in together.drain(..) {
                receipts.push((ticket.await?, fingerprint));
            }
            let mut ledger = ledger.lock();
            receipts.iter().for_each(|(receipt, fingerprint)| ledger.enter(receipt, *fingerprint));
            drop(ledger);
            acked.send_modify(|acked| *acked += count);
        }
        anyhow::Ok(())
    };
    tokio::try_join!(feed, settle).with_context(|| format!("the producer of {} failed", airport.name))?;
    Ok(producer.stats())
}

/// How fast a group handles events.
#[derive(Debug, Clone, Copy)]
pub(super) enum Pace {
    /// As they come.
    Fast,
    /// At most this many a second.
    PerSecond(u32),
}

/// A group with one member, which acknowledges everything it was given and remembers it.
#[derive(Debug)]
pub(super) struct Reading {
    stop: watch::Sender<bool>,
    task: JoinHandle<anyhow::Result<Seen>>,
}

impl Reading {
    pub(super) async fn start(
        client: &Client,
        topic: &str,
        partitions: usize,
        group: &str,
        pace: Pace,
    ) -> anyhow::Result<Self> {
        let (stop, stopped) = watch::channel(false);
        // Joined before anything is published, so that its lag is there from the beginning.
        let consumer = join(client, topic, group).await?;
        let (client, topic, group) = (client.clone(), topic.to_owned(), group.to_owned());
        let task =
            tokio::spawn(
                async move { read(&client, &topic, &group, consumer, pace, Seen::new(partitions), stopped).await },
            );
        Ok(Self { stop, task })
    }

    /// Leaves the group and tells what it was given.
    pub(super) async fn finish(self) -> anyhow::Result<Seen> {
        let _ = self.stop.send(true);
        self.task.await.context("a group's reader died")?
    }
}

async fn join(client: &Client, topic: &str, group: &str) -> Result<Consumer, ConsumeError> {
    client.consumer(topic, group).member_name("demo").build().await
}

async fn read(
    client: &Client,
    topic: &str,
    group: &str,
    mut consumer: Consumer,
    pace: Pace,
    mut seen: Seen,
    mut stopped: watch::Receiver<bool>,
) -> anyhow::Result<Seen> {
    let mut since_rest = 0;
    loop {
        let delivery = tokio::select! {
            _ = stopped.changed() => break,
            delivery = consumer.next() => delivery,
        };
        match delivery {
            Some(Ok(delivery)) => {
                seen.add(delivery.partition, delivery.offset, flights::fingerprint(&delivery.record));
                delivery.ack();
            }
            // The broker is away. What was handled but not acknowledged comes again, and is recognised.
            None | Some(Err(_)) => {
                let rejoined = tokio::select! {
                    _ = stopped.changed() => break,
                    rejoined = rejoin(client, topic, group) => rejoined,
                };
                consumer = rejoined;
            }
        }
        if let Pace::PerSecond(rate) = pace {
            since_rest += 1;
            if since_rest >= SLOW_STEP {
                since_rest = 0;
                tokio::time::sleep(Duration::from_secs(1) * SLOW_STEP / rate).await;
            }
        }
    }
    consumer.close().await?;
    Ok(seen)
}

async fn rejoin(client: &Client, topic: &str, group: &str) -> Consumer {
    loop {
        match join(client, topic, group).await {
            Ok(consumer) => return consumer,
            Err(_) => tokio::time::sleep(RETRY_PAUSE).await,
        }
    }
}

/// Reports of the broker on how far the groups are behind; goes on after the broker was away.
#[derive(Debug)]
pub(super) struct Lags {
    client: Client,
    interval: Duration,
    watch: Option<LagWatch>,
}

impl Lags {
    pub(super) fn new(client: &Client, interval: Duration) -> Self {
        Self { client: client.clone(), interval, watch: None }
    }

    /// The lag of each of `groups`, in records. Cancel-safe.
    pub(super) async fn next<const N: usize>(&mut self, groups: [&str; N]) -> [u64; N] {
        loop {
            match self.report().await {
                Ok(Some(report)) => {
                    return groups
                        .map(|group| report.iter().filter(|lag| lag.group == group).map(|lag| lag.lag_records).sum());
                }
                Ok(None) | Err(_) => {
                    self.watch = None;
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
            }
        }
    }

    async fn report(&mut self) -> Result<Option<Vec<aqueduct_client::PartitionLag>>, RequestError> {
        let watch = match &mut self.watch {
            Some(watch) => watch,
            empty @ None => empty.insert(self.client.groups().watch_lag(self.interval).await?),
        };
        watch.next().await.transpose()
    }
}
