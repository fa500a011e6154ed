//! Callers that wait for their receipt before they publish the next record.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use aqueduct_client::{Producer, Record};
use futures_util::future::try_join_all;
use parking_lot::Mutex;

use super::histogram::Latencies;
use super::outcome::{Outcome, Totals};
use super::pacer::Pacer;
use super::payload::Payloads;
use super::pipelined::partition_of;
use super::plan::{OneAtATime, Shape};
use super::progress::Progress;
use super::schedule::{GRACE, Schedule};
use super::stage::{Retention, Stage};
use super::window::{Counters, Window, meter};

pub(super) async fn run(
    stage: &Stage,
    load: &OneAtATime,
    shape: &Shape,
    progress: &Progress,
) -> anyhow::Result<Outcome> {
    stage.make_topic(shape, Retention::Bounded).await?;
    let mut clients = Vec::new();
    let mut callers = Vec::new();
    for number in 0..load.producers {
        let client = stage.connect().await?;
        let mut builder = client.producer(&stage.topic).codec(shape.codec);
        if let Some(partition) = partition_of(number, load.producers, shape.partitions) {
            builder = builder.partition(partition);
        }
        let producer = builder.build().await?;
        callers.extend((0..load.tasks).map(|_| producer.clone()));
        clients.push(client);
    }
    let payloads = Payloads::new(shape.value_bytes());
    let book = Arc::new(Book { counters: Counters::default(), latencies: Mutex::default() });
    let tasks = u32::try_from(callers.len()).unwrap_or(u32::MAX);
    let window = Window::open(shape.warm_up, shape.duration);
    let publishing = try_join_all((0..).zip(callers).map(|(number, producer)| {
        let schedule = load.rate.map(|rate| Schedule::new(rate, tasks, number));
        let caller = Caller { producer, window, book: Arc::clone(&book) };
        let payloads = payloads.clone();
        // A task each, so that an answer wakes only the one that waits for it.
        let task = tokio::spawn(async move {
            match schedule {
                None => caller.publish_at_once(payloads).await,
                Some(schedule) => caller.publish_when_due(payloads, schedule).await,
            }
        });
        async { task.await? }
    }));
    let metering = async { anyhow::Ok(meter(window, stage.broker_pid(), || book.counters.now(), progress).await) };
    let (done, metered) = tokio::try_join!(publishing, metering)?;

    let mut outcome = Outcome::new(&metered);
    outcome.flow("published", metered.counts.published, shape, 0);
    let title = match load.rate {
        None => "publish → acknowledged",
        Some(_) => "due → acknowledged",
    };
    outcome.latency("ack", title, book.latencies.lock().clone());
    let published = done.iter().map(|done| done.published).sum();
    let unsent = done.iter().map(|done| done.unsent).sum();
    outcome.totals = Totals { published, unsent, ..Totals::default() };
    if let (Some(rate), 1..) = (load.rate, unsent) {
        outcome.notes.push(super::live::behind(rate, unsent));
    }
    Ok(outcome)
}

struct Book {
    counters: Counters,
    latencies: Mutex<Latencies>,
}

struct Caller {
    producer: Producer,
    window: Window,
    book: Arc<Book>,
}

/// What a caller has done.
struct Done {
    published: u64,
    /// Due, and not published before the end.
    unsent: u64,
}

impl Caller {
    async fn publish_at_once(self, payloads: Payloads) -> anyhow::Result<Done> {
        let mut published = 0;
        for payload in payloads {
            let called = Instant::now();
            if called >= self.window.end() {
                break;
            }
            self.publish(payload, called).await?;
            published += 1;
        }
        Ok(Done { published, unsent: 0 })
    }

    async fn publish_when_due(self, payloads: Payloads, schedule: Schedule) -> anyhow::Result<Done> {
        let pacer = Pacer::new()?;
        let all = schedule.due_before(self.window.length());
        let mut published = 0;
        for payload in payloads {
            if published == all || Instant::now() >= self.window.end() + GRACE {
                break;
            }
            let due = self.window.start + schedule.due_at(published);
            pacer.until(due).await?;
            self.publish(payload, due).await?;
            published += 1;
        }
        Ok(Done { published, unsent: all - published })
    }

    async fn publish(&self, payload: bytes::Bytes, since: Instant) -> anyhow::Result<()> {
        self.producer.publish(Record::new(payload)).await?;
        self.book.counters.published.fetch_add(1, Ordering::Relaxed);
        if self.window.measures(since) {
            self.book.latencies.lock().record(since.elapsed());
        }
        Ok(())
    }
}
