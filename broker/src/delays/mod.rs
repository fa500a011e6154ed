//! Records that wait for their time: kept durably, and appended to their partition once they are due.
//!
//! A record that is put goes into one of the [tiers], logs of the broker's own. As its time comes nearer it moves from
//! tier to tier; from tier 0 it moves to its partition. What waits lies on disk: only what is [near] is known in memory.
//! One task, the [mover], makes all moves.
//!
//! **A move happens once, whatever crashes.** First its intent is made durable in the [journal]: which records, where to,
//! and a sequence number there. Then they are appended, under a producer id that only the store uses for that target, with
//! that sequence number. Then the journal is told that it was made, at leisure. After a crash, every intent of which that
//! is not known is carried out again, first of all: the target recognises what it has. It keeps the store's producer as
//! long as it keeps anything, so it cannot have forgotten. Numbers begin at 0 with every life of the store, under a higher
//! producer epoch, so that nothing has to be remembered of targets between them. Intents name offsets, and a tier lets go
//! of offsets only after a [snapshot](Journal::snapshot) without the intents that name them: what is carried out again is
//! the same batch.
//!
//! **Order** is that of due times and, where those are equal, of puts; `put` gives every record a number that rises, also
//! across restarts. A partition that takes no writes does not hold others up: what is due for it waits for a while, and
//! then goes back into a tier, to be tried again from there. Only then, records of different times may overtake each other.

mod census;
mod entry;
mod error;
mod journal;
mod lane;
mod mover;
mod near;
mod own_log;
mod reading;
mod shelf;
mod state;
mod tiers;
mod transfer;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use aqueduct_client::Record;
use parking_lot::Mutex;
use tokio::{
    sync::{Mutex as Turn, Notify, OnceCell, mpsc, oneshot},
    task::JoinHandle,
    time::Instant,
};

pub(crate) use self::{census::Extent, error::DelaysError, journal::is_intact_snapshot, shelf::is_intact_list};
use self::{
    census::{QUESTIONS, SettledReply},
    entry::{Entry, tier_batch},
    journal::Journal,
    mover::Mover,
    shelf::Shelf,
    tiers::{latest_entry_us, tier_for},
};
use crate::{
    engine::{EngineError, MetaStore},
    error::PublishError,
    services::Encoded,
    to_the_end::to_the_end,
    topics::Topics,
};

/// Where a record goes when its time has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Destination {
    /// The topic's identity: one that is deleted and made again gets nothing.
    pub(crate) topic: [u8; 16],
    pub(crate) partition: u32,
}

impl Destination {
    /// The producer under which the store appends there, and nobody else.
    pub(crate) fn producer(self) -> [u8; 16] {
        let mut id = self.topic;
        for (byte, mask) in id.iter_mut().zip(b"aqueduct~delays~") {
            *byte ^= mask;
        }
        for (byte, mask) in id[12..].iter_mut().zip(self.partition.to_be_bytes()) {
            *byte ^= mask;
        }
        id
    }
}

/// A record that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Delayed {
    /// By the wall clock. One that has passed is due now.
    pub(crate) due_us: i64,
    /// As it is to be delivered.
    pub(crate) record: Encoded,
}

impl Delayed {
    pub(crate) fn new(due_us: i64, record: &Record) -> Self {
        Self { due_us, record: Encoded::from(record) }
    }
}

/// Durable, and on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Scheduled {
    /// Of the first record; those that were put with it have the following ones. Rises with every put.
    pub(crate) id: u64,
}

/// How many puts one life of the store has numbers for; above these bits stands its epoch.
const PUT_BITS: u32 = 40;

/// See the [module](self).
pub(crate) struct Delays {
    meta: Arc<dyn MetaStore>,
    topics: Arc<Topics>,
    /// Started with the first put ever; a broker that never delays anything has none of its logs.
    running: OnceCell<Result<Running, DelaysError>>,
}

/// What callers and the mover share.
struct Shared {
    topics: Arc<Topics>,
    shelf: Shelf,
    wake: Notify,
    next_put: AtomicU64,
    settled: AtomicU64,
    dropped: AtomicU64,
}

impl Shared {
    /// Makes entries durable in one tier: that of the first one that is due.
    async fn put(&self, entries: &[Entry], first_due_us: i64) -> Result<(), PublishError> {
        let now_us = self.topics.clock().now_us();
        let number = tier_for(first_due_us, now_us, |tier| self.shelf.last_append_us(tier));
        match self.put_into(number, entries, first_due_us).await {
            // The clock has jumped, or the disk was that slow. For tier 0 it is never too late.
            Err(PublishError::NotInTime { .. }) => self.put_into(0, entries, first_due_us).await,
            outcome => outcome,
        }
    }

    async fn put_into(&self, number: u8, entries: &[Entry], first_due_us: i64) -> Result<(), PublishError> {
        let tier = self.shelf.get_or_make(number).await.map_err(DelaysError::from)?;
        tier.append_by(tier_batch(entries.iter(), None), latest_entry_us(number, first_due_us)).await
    }
}

/// The mover's task. Dropping it tells the task that nobody is left.
struct Running {
    shared: Arc<Shared>,
    task: Mutex<Option<Task>>,
    /// To the mover.
    questions: mpsc::Sender<SettledReply>,
    /// Whoever has it counts what waits.
    counting: Turn<()>,
}

struct Task {
    task: JoinHandle<()>,
    stop: oneshot::Sender<Instant>,
}

impl Delays {
    /// Opens what is stored. If it is damaged the broker runs without it, and every put says why: no record is delivered
    /// twice unasked.
    ///
    /// # Errors
    /// What the engine says.
    pub(crate) async fn open(meta: Arc<dyn MetaStore>, topics: Arc<Topics>) -> Result<Arc<Self>, EngineError> {
        let delays = Self { meta, topics, running: OnceCell::new() };
        if Shelf::is_in_use(&*delays.meta).await? {
            match delays.start().await {
                Err(damaged @ DelaysError::Damaged(_)) => {
                    tracing::error!(error = %damaged, "nothing delayed is delivered")
                }
                Err(error) => return Err(EngineError(error.to_string())),
                Ok(_) => {}
            }
        }
        Ok(Arc::new(delays))
    }

    /// Makes `records` durable, all or none. Once due, they are appended to `to`, in order of their due times and, where
    /// those are equal, in the order in which they were put.
    ///
    /// # Errors
    /// Nothing was stored, except for [`PublishError::Unknown`].
    pub(crate) async fn put(&self, to: Destination, records: Vec<Delayed>) -> Result<Scheduled, PublishError> {
        let nothing = || PublishError::Invalid { field: "records", reason: "must hold at least one record".to_owned() };
        let first_due_us = records.iter().map(|delayed| delayed.due_us).min().ok_or_else(nothing)?;
        let shared = Arc::clone(&self.start().await?.shared);
        let id = shared.next_put.fetch_add(records.len() as u64, Ordering::Relaxed);
        let entries: Vec<Entry> = (id..).zip(records).map(|(put, delayed)| Entry::new(put, to, delayed)).collect();
        // Somebody who stops waiting leaves records behind that must be seen all the same.
        to_the_end(async move {
            let outcome = shared.put(&entries, first_due_us).await;
            shared.wake.notify_one();
            outcome.map(|()| Scheduled { id })
        })
        .await
    }

    /// How many records wait. Those on their way from one tier to another may count twice.
    pub(crate) fn pending(&self) -> u64 {
        let Some(Ok(running)) = self.running.get() else { return 0 };
        running.shared.shelf.records().saturating_sub(running.shared.settled.load(Ordering::Relaxed))
    }

    /// Lets transfers under way finish until `deadline`, and closes the logs with the mark of a clean stop. What is not
    /// due yet waits for the next start.
    pub(crate) async fn shutdown(&self, deadline: Duration) {
        let Some(Ok(running)) = self.running.get() else { return };
        let Some(Task { task, stop }) = running.task.lock().take() else { return };
        // Half of it, so that the other half is left for the logs.
        let _ = stop.send(Instant::now() + deadline / 2);
        if let Err(panic) = task.await {
            tracing::error!("the mover of delayed records has failed: {panic}");
        }
    }

    async fn start(&self) -> Result<&Running, DelaysError> {
        let start = async || match Running::start(Arc::clone(&self.meta), Arc::clone(&self.topics)).await {
            Ok(running) => Ok(Ok(running)),
            // That does not change by asking again.
            Err(damaged @ DelaysError::Damaged(_)) => Ok(Err(damaged)),
            Err(error) => Err(error),
        };
        self.running.get_or_try_init(start).await?.as_ref().map_err(Clone::clone)
    }
}

impl Running {
    async fn start(meta: Arc<dyn MetaStore>, topics: Arc<Topics>) -> Result<Self, DelaysError> {
        let shelf = Shelf::open(Arc::clone(&meta), topics.clock().clone()).await?;
        let journal = Journal::open(meta, topics.clock()).await?;
        let shared = Arc::new(Shared {
            topics,
            shelf,
            wake: Notify::new(),
            next_put: AtomicU64::new(u64::from(journal.epoch()) << PUT_BITS),
            settled: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        });
        let (stop, stopped) = oneshot::channel();
        let (questions, asked) = mpsc::channel(QUESTIONS);
        let task = tokio::spawn(Mover::new(Arc::clone(&shared), journal).run(stopped, asked));
        Ok(Self { shared, task: Mutex::new(Some(Task { task, stop })), questions, counting: Turn::default() })
    }
}

#[cfg(test)]
mod tests;
