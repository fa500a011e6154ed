//! A producer that publishes each record when it is due.

use std::iter::Sum;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use aqueduct_client::{BatchTicket, Client, Producer, PublishError, Record};
use tokio::task::JoinSet;

use super::{Book, timestamp};
use crate::cli::bench::pacer::Pacer;
use crate::cli::bench::payload::Payloads;
use crate::cli::bench::plan::{Live, Shape};
use crate::cli::bench::schedule::{GRACE, Schedule};
use crate::cli::bench::stage::Stage;
use crate::cli::bench::window::Window;

/// Between two calls: waking up for every single record would cost more than publishing it. It counts as latency.
const REST: Duration = Duration::from_micros(50);

pub(super) struct Publisher {
    /// Keeps the connection.
    _client: Client,
    producer: Producer,
    batch: u64,
}

/// What a publisher, or all of them, have done.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sent {
    /// Acknowledged.
    pub(super) records: u64,
    /// Due, and not handed over before the end.
    pub(super) unsent: u64,
}

impl Sum for Sent {
    fn sum<I: Iterator<Item = Self>>(parts: I) -> Self {
        parts.fold(Self::default(), |sum, part| Self {
            records: sum.records + part.records,
            unsent: sum.unsent + part.unsent,
        })
    }
}

impl Publisher {
    pub(super) async fn new(stage: &Stage, load: &Live, shape: &Shape, partition: Option<u32>) -> anyhow::Result<Self> {
        let client = stage.connect().await?;
        let mut builder = client.producer(&stage.topic).codec(shape.codec);
        builder = builder.batches_in_flight_max(load.in_flight as usize);
        if let Some(partition) = partition {
            builder = builder.partition(partition);
        }
        let producer = builder.build().await?;
        Ok(Self { _client: client, producer, batch: load.batch.into() })
    }

    /// Until the window ends; returns when everything sent is acknowledged.
    pub(super) async fn run(
        self,
        schedule: Schedule,
        window: Window,
        mut payloads: Payloads,
        book: Arc<Book>,
    ) -> anyhow::Result<Sent> {
        let pacer = Pacer::new()?;
        // One for each call whose receipt is awaited; the producer's byte budget bounds how many there are.
        let mut receipts = JoinSet::new();
        let all = schedule.due_before(window.length());
        let mut sent = 0;
        while sent < all && Instant::now() < window.end() + GRACE {
            let due = schedule.due(window.start.elapsed()).min(sent + self.batch).min(all);
            if due > sent {
                let records = (sent..due)
                    .zip(payloads.by_ref())
                    .map(|(index, value)| Record::new(value).timestamp(timestamp(schedule.due_at(index))));
                let ticket = self.producer.enqueue_all(records).await?;
                receipts.spawn(receipt(ticket, schedule, sent..due, window, Arc::clone(&book)));
                window.note_since_due(&mut book.lateness.lock(), schedule, sent..due);
                sent = due;
            }
            while let Some(done) = receipts.try_join_next() {
                done??;
            }
            let next = window.start + schedule.due_at(sent);
            pacer.until(next.max(Instant::now() + REST)).await?;
        }
        while let Some(done) = receipts.join_next().await {
            done??;
        }
        self.producer.flush().await.context("not everything was acknowledged")?;
        Ok(Sent { records: sent, unsent: all - sent })
    }
}

async fn receipt(
    ticket: BatchTicket,
    schedule: Schedule,
    records: Range<u64>,
    window: Window,
    book: Arc<Book>,
) -> Result<(), PublishError> {
    ticket.await?;
    book.counters.published.fetch_add(records.end - records.start, Ordering::Relaxed);
    window.note_since_due(&mut book.acks.lock(), schedule, records);
    Ok(())
}
