//! Publishing.
//!
//! ```text
//! enqueue ─▶ byte budget ─▶ lane of the partition ─▶ request stream ─▶ broker
//!    │                            (open batch)      (pulled by the transport)
//!    └── Ticket ◀── Completion of the batch ◀── driver ◀── answers ◀──┘
//! ```
//!
//! Decisions are in `lane` and `pipeline`, which know neither clock nor network.

mod builder;
mod driver;
mod error;
mod lane;
mod payload;
mod pipeline;
mod receipt;
mod requests;
mod shared;
mod ticket;

use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
};

use tonic::Code;

pub use builder::ProducerBuilder;
pub use error::{FlushError, PublishError};
pub use lane::Idempotence;
pub use receipt::{Hold, RangeReceipt, Receipt};
pub use ticket::{BatchTicket, Ticket};

use self::{
    shared::{Length, Shared},
    ticket::Done,
};
use crate::{error::BrokerError, record::Record, types::TopicId};

/// As many batches of a producer and partition as the broker remembers.
const BATCHES_IN_FLIGHT_MAX: usize = 64;
/// Records that `enqueue_all` takes from its iterator at a time.
const RUN_RECORDS: usize = 256;

/// Publishes to one topic, in batches and with many of them on their way. Cheap to clone; clones share everything.
///
/// When all clones are dropped, what was admitted is still sent.
#[derive(Clone)]
pub struct Producer {
    handle: Arc<Handle>,
}

/// Drains the producer when the last clone goes.
struct Handle {
    shared: Arc<Shared>,
    partitions: u32,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.update(|pipeline, _, _| pipeline.drain());
    }
}

/// What a producer has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProducerStats {
    /// Records with a receipt.
    pub records_stored: u64,
    /// Batches with a receipt.
    pub batches_stored: u64,
    /// Records that an earlier attempt had stored already.
    pub duplicates: u64,
    /// Records that are not stored, or not known to be.
    pub records_failed: u64,
    /// Streams that broke.
    pub reconnects: u64,
    /// Encoded bytes that have no outcome yet.
    pub buffered_bytes: u64,
}

impl Producer {
    /// Publishes one record and waits for its receipt.
    ///
    /// # Errors
    /// [`PublishError`]. Cancelled before admission, nothing is sent; after it, the record is still sent.
    pub async fn publish(&self, record: Record) -> Result<Receipt, PublishError> {
        self.enqueue(record).await?.await
    }

    /// Admits one record; waits only for the byte budget.
    ///
    /// # Errors
    /// [`PublishError::Closed`], or [`PublishError::Rejected`] for a record larger than the whole buffer. Cancelled,
    /// nothing is sent.
    pub async fn enqueue(&self, record: Record) -> Result<Ticket, PublishError> {
        let shared = &self.handle.shared;
        let length = Length::of(&record);
        if let Ok(permit) = shared.budget.try_acquire_many(length.permits()) {
            permit.forget();
            return shared.admit(record, length);
        }
        let record = self.check_length(record, length)?;
        match shared.room(length.permits()).await {
            Ok(permit) => {
                permit.forget();
                shared.admit(record, length)
            }
            Err(_) => Err(PublishError::closed(record)),
        }
    }

    /// Admits one record if there is room now.
    ///
    /// # Errors
    /// As [`enqueue`](Self::enqueue), and [`PublishError::Full`], which gives the record back and names who holds this
    /// producer.
    pub fn try_enqueue(&self, record: Record) -> Result<Ticket, PublishError> {
        let shared = &self.handle.shared;
        let length = Length::of(&record);
        if let Ok(permit) = shared.budget.try_acquire_many(length.permits()) {
            permit.forget();
            return shared.admit(record, length);
        }
        let record = Some(Box::new(self.check_length(record, length)?));
        Err(PublishError::Full { record, hold: shared.hold(), buffer_bytes_max: shared.buffer_bytes_max })
    }

    /// Publishes one record if there is room now, and waits for its receipt.
    ///
    /// # Errors
    /// As [`try_enqueue`](Self::try_enqueue) and [`publish`](Self::publish).
    pub async fn try_publish(&self, record: Record) -> Result<Receipt, PublishError> {
        self.try_enqueue(record)?.await
    }

    /// Admits many records with one ticket: the cheapest way. Waits for the byte budget as it goes.
    ///
    /// # Errors
    /// As [`enqueue`](Self::enqueue). Cancelled or failed half-way, the records admitted so far are still sent.
    pub async fn enqueue_all(&self, records: impl IntoIterator<Item = Record>) -> Result<BatchTicket, PublishError> {
        let shared = &self.handle.shared;
        let mut ticket = BatchTicket::default();
        let mut records = records.into_iter();
        loop {
            // Taken out of the iterator first: its code must not run under the producer's lock.
            let run: Vec<Record> = records.by_ref().take(RUN_RECORDS).collect();
            if run.is_empty() {
                return Ok(ticket);
            }
            let mut run = run.into_iter().peekable();
            while run.peek().is_some() {
                shared.admit_run(&mut run, &mut ticket)?;
                let Some(next) = run.peek() else { break };
                let length = Length::of(next);
                if length.framed > shared.buffer_bytes_max
                    && let Some(record) = run.next()
                {
                    self.check_length(record, length)?;
                }
                // Room for one; the run goes on with it.
                match shared.room(length.permits()).await {
                    Ok(permit) => drop(permit),
                    Err(_) => return Err(PublishError::Closed { record: run.next().map(Box::new) }),
                }
            }
        }
    }

    /// Publishes many records and waits until all are stored.
    ///
    /// # Errors
    /// That of the first record that failed.
    pub async fn publish_all(
        &self,
        records: impl IntoIterator<Item = Record>,
    ) -> Result<Vec<RangeReceipt>, PublishError> {
        self.enqueue_all(records).await?.await
    }

    /// Waits until everything admitted so far has its outcome, by any clone.
    ///
    /// # Errors
    /// [`FlushError::Failed`] if events whose tickets were dropped have failed since the last flush.
    pub async fn flush(&self) -> Result<(), FlushError> {
        for completion in self.handle.shared.hurry() {
            Done::new(completion).await;
        }
        let unseen = std::mem::take(&mut *self.handle.shared.topic.unseen.lock());
        match unseen.first {
            Some(first) => Err(FlushError::Failed { records: unseen.records, first: Box::new(first) }),
            None => Ok(()),
        }
    }

    /// Takes no more records, by any clone, and flushes.
    ///
    /// # Errors
    /// As [`flush`](Self::flush).
    pub async fn close(self) -> Result<(), FlushError> {
        self.handle.shared.update(|pipeline, _, _| pipeline.drain());
        self.flush().await
    }

    /// Who or what holds this producer now.
    pub fn hold(&self) -> Option<Hold> {
        self.handle.shared.hold()
    }

    /// The topic's name.
    pub fn topic(&self) -> &str {
        &self.handle.shared.topic.name
    }

    /// The topic's identity when the producer was built; a topic made again under this name does not get its records.
    pub fn topic_id(&self) -> TopicId {
        self.handle.shared.topic.id
    }

    /// How many partitions the topic had when the producer was built.
    pub fn partitions(&self) -> u32 {
        self.handle.partitions
    }

    /// What has happened so far.
    pub fn stats(&self) -> ProducerStats {
        let shared = &self.handle.shared;
        let counters = &shared.counters;
        let buffered = shared.buffer_bytes_max.saturating_sub(shared.budget.available_permits());
        ProducerStats {
            records_stored: counters.records_stored.load(Ordering::Relaxed),
            batches_stored: counters.batches_stored.load(Ordering::Relaxed),
            duplicates: counters.duplicates.load(Ordering::Relaxed),
            records_failed: counters.records_failed.load(Ordering::Relaxed),
            reconnects: counters.reconnects.load(Ordering::Relaxed),
            buffered_bytes: buffered as u64,
        }
    }

    fn check_length(&self, record: Record, length: Length) -> Result<Record, PublishError> {
        let bytes_max = self.handle.shared.buffer_bytes_max;
        if length.framed <= bytes_max {
            return Ok(record);
        }
        let message = format!("a record of {} bytes can never fit the buffer of {bytes_max} bytes", length.framed);
        Err(PublishError::rejected(record, BrokerError::local(Code::InvalidArgument, "RECORD_TOO_LARGE", message)))
    }
}

impl fmt::Debug for Producer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer").field("topic", &self.topic()).field("stats", &self.stats()).finish_non_exhaustive()
    }
}
