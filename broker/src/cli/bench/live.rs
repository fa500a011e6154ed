//! Publishing on schedule while subscribers and a consumer group read at the tail.
//!
//! A record's timestamp is when it was due, in microseconds since the load began, on the one clock of this process. So
//! every reader knows how long it took, from when it should have been published to the reader's own code.

mod publisher;
mod reader;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use aqueduct_client::{Client, Consumer, Start, Subscription, Timestamp};
use futures_util::future::try_join_all;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::histogram::{Latencies, human};
use super::outcome::{Outcome, Totals};
use super::payload::Payloads;
use super::pipelined::partition_of;
use super::plan::{Live, Shape};
use super::progress::Progress;
use super::schedule::Schedule;
use super::stage::{Retention, Stage};
use super::window::{Counters, Window, meter};
use crate::cli::size::{counted, grouped};
use publisher::{Publisher, Sent};

/// When everything is published, readers have this long to read it.
const CATCH_UP_WITHIN: Duration = Duration::from_secs(30);

/// What publishers and readers write down.
#[derive(Debug, Default)]
struct Book {
    counters: Counters,
    /// Due → handed to the client: what of each latency is the load's own.
    lateness: Mutex<Latencies>,
    /// Due → acknowledged.
    acks: Mutex<Latencies>,
    /// Due → user code of a subscriber.
    deliveries: Mutex<Latencies>,
    /// Due → user code of a member of the group.
    consumptions: Mutex<Latencies>,
    /// A reader has read something.
    progress: Notify,
}

pub(super) async fn run(stage: &Stage, load: &Live, shape: &Shape, progress: &Progress) -> anyhow::Result<Outcome> {
    stage.make_topic(shape, Retention::Bounded).await?;
    let book = Arc::new(Book::default());
    // Everybody is ready before the first record is due.
    progress.phase("connecting", None);
    let subscriptions = subscriptions(stage, load).await?;
    let consumers = consumers(stage, load).await?;
    let mut publishers = Vec::new();
    for number in 0..load.producers {
        publishers
            .push(Publisher::new(stage, load, shape, partition_of(number, load.producers, shape.partitions)).await?);
    }
    let payloads = Payloads::new(shape.value_bytes());
    let window = Window::open(shape.warm_up, shape.duration);
    let (stop, stopped) = watch::channel(());
    let subscribing = try_join_all(subscriptions.into_iter().map(|(client, subscription)| {
        let task = tokio::spawn(reader::subscribe(client, subscription, window, Arc::clone(&book), stopped.clone()));
        async { task.await? }
    }));
    let consuming = try_join_all(consumers.into_iter().map(|(client, consumer)| {
        let task = tokio::spawn(reader::consume(client, consumer, window, Arc::clone(&book), stopped.clone()));
        async { task.await? }
    }));
    let publishing = try_join_all((0..).zip(publishers).map(|(number, publisher)| {
        let schedule = Schedule::new(load.rate, load.producers, number);
        let task = tokio::spawn(publisher.run(schedule, window, payloads.clone(), Arc::clone(&book)));
        async { task.await? }
    }));
    let leading = async {
        let sent: Sent = publishing.await?.into_iter().sum();
        catch_up(&book, sent.records, load).await?;
        drop(stop);
        anyhow::Ok(sent)
    };
    let metering = async { anyhow::Ok(meter(window, stage.broker_pid(), || book.counters.now(), progress).await) };
    let (sent, subscribed, consumed, metered) = tokio::try_join!(leading, subscribing, consuming, metering)?;

    anyhow::ensure!(
        subscribed.iter().all(|read| *read == sent.records),
        "{} records were published, but the subscribers read {subscribed:?}",
        sent.records
    );
    let mut outcome = Outcome::new(&metered);
    outcome.totals = Totals {
        published: sent.records,
        delivered: subscribed.iter().sum(),
        consumed: consumed.iter().sum(),
        unsent: sent.unsent,
    };
    describe(&mut outcome, load, shape, &book, metered.counts);
    if sent.unsent > 0 {
        outcome.notes.push(behind(load.rate, sent.unsent));
    }
    if load.members > 0 {
        audit_group(stage, sent.records, &mut outcome).await?;
    }
    Ok(outcome)
}

fn describe(outcome: &mut Outcome, load: &Live, shape: &Shape, book: &Book, counts: super::window::Counts) {
    outcome.flow("published", counts.published, shape, 0);
    if load.subscribers > 0 {
        outcome.flow("delivered", counts.delivered, shape, 0);
        outcome.latency("end_to_end", "due → in the code of a subscriber", book.deliveries.lock().clone());
    }
    if load.members > 0 {
        outcome.flow("consumed", counts.consumed, shape, 0);
        outcome.latency("group", "due → in the code of a member of the group", book.consumptions.lock().clone());
    }
    outcome.latency("ack", "due → acknowledged", book.acks.lock().clone());
    outcome.notes.push(own_lateness(&book.lateness.lock()));
}

/// What of every latency is not the broker's.
fn own_lateness(lateness: &Latencies) -> String {
    let (p50, p99) = (human(lateness.at(0.5)), human(lateness.at(0.99)));
    format!("this load itself was late, in every latency above: p50 {p50}, p99 {p99}")
}

/// What a load says that could not keep its rate.
pub(super) fn behind(rate: u32, unsent: u64) -> String {
    format!(
        "{}/s was too much: {} fell due and could not be sent in time",
        grouped(rate.into()),
        counted(unsent, "record")
    )
}

async fn subscriptions(stage: &Stage, load: &Live) -> anyhow::Result<Vec<(Client, Subscription)>> {
    let mut subscriptions = Vec::new();
    for _ in 0..load.subscribers {
        let client = stage.connect().await?;
        let subscription = client.subscribe(&stage.topic).from(Start::Latest).build().await?;
        subscriptions.push((client, subscription));
    }
    Ok(subscriptions)
}

async fn consumers(stage: &Stage, load: &Live) -> anyhow::Result<Vec<(Client, Consumer)>> {
    let mut consumers = Vec::new();
    for _ in 0..load.members {
        let client = stage.connect().await?;
        let consumer = client.consumer(&stage.topic, &stage.topic).member_name("aqueduct bench").build().await?;
        consumers.push((client, consumer));
    }
    Ok(consumers)
}

/// Waits until everybody has read everything.
async fn catch_up(book: &Book, published: u64, load: &Live) -> anyhow::Result<()> {
    let everything = async {
        loop {
            let progress = book.progress.notified();
            let counts = book.counters.now();
            let delivered = counts.delivered >= published * u64::from(load.subscribers);
            let consumed = load.members == 0 || counts.consumed >= published;
            if delivered && consumed {
                return;
            }
            progress.await;
        }
    };
    tokio::time::timeout(CATCH_UP_WITHIN, everything).await.with_context(|| {
        let counts = book.counters.now();
        format!(
            "{published} records were published, but {CATCH_UP_WITHIN:?} later {} had been delivered and {} consumed",
            counts.delivered, counts.consumed
        )
    })
}

/// Everything that was consumed has been acknowledged, durably.
async fn audit_group(stage: &Stage, published: u64, outcome: &mut Outcome) -> anyhow::Result<()> {
    let lag = stage.client.group(&stage.topic).lag(&stage.topic).await?;
    let committed: u64 = lag.iter().map(|partition| partition.committed_offset).sum();
    anyhow::ensure!(committed == published, "{published} records were published, but the group committed {committed}");
    outcome.notes.push(format!("the group has committed all {}", counted(committed, "record")));
    Ok(())
}

/// When a record was due, as its timestamp.
fn timestamp(due: Duration) -> Timestamp {
    Timestamp::from_micros(i64::try_from(due.as_micros()).unwrap_or(i64::MAX))
}

/// The instant that [`timestamp`] was made of, to the microsecond.
fn due(window: Window, timestamp: Option<Timestamp>) -> Option<Instant> {
    let micros = u64::try_from(timestamp?.as_micros()).ok()?;
    Some(window.start + Duration::from_micros(micros))
}
