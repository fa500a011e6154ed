//! A topic as a table: the latest value of each key, kept up to date.
//!
//! One task reads the topic from its beginning and owns what it learns ([`state`]); handles look it up. Events of one key
//! lie in one partition, so that the order within partitions is all that a table needs.

mod builder;
mod changes;
mod driver;
mod state;

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::{sync::watch, task::AbortHandle};

pub use builder::TableBuilder;
pub use changes::{Change, Changes, ChangesMissed};

use self::state::State;
use crate::{
    error::{RequestError, SubscribeError},
    producer::Receipt,
    record::Event,
    types::{Gap, Offset},
};

/// Why a table is not kept up to date any more, or was never made.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TableError {
    /// The topic cannot be read.
    #[error("the table cannot be read: {0}")]
    Request(Arc<RequestError>),
    /// The topic cannot be read further.
    #[error("the table is not kept up to date any more: {0}")]
    Subscribe(Arc<SubscribeError>),
    /// Events are missing, and which keys they had is not known. See [`TableBuilder::accept_gaps`].
    #[error(
        "partition {}: offsets {} to {} (exclusive) cannot be read, so the values of some keys are not known",
        .0.partition, .0.from, .0.to
    )]
    Gap(Gap),
    /// There are more keys than the table may hold. See [`TableBuilder::max_entries`].
    #[error("the topic has more keys than the table may hold ({entries_max}; `max_entries`)")]
    TooManyEntries {
        /// The limit.
        entries_max: usize,
    },
    /// Keys and values are larger than the table may hold. See [`TableBuilder::max_bytes`].
    #[error("the topic's keys and values are larger than the table may hold ({bytes_max} bytes; `max_bytes`)")]
    TooManyBytes {
        /// The limit.
        bytes_max: usize,
    },
    /// The partition is none of those that the topic had when the table was made.
    #[error("the table does not read partition {partition}")]
    UnknownPartition {
        /// Which one.
        partition: u32,
    },
    /// The client has been closed.
    #[error("the client is closed")]
    Closed,
}

impl From<RequestError> for TableError {
    fn from(error: RequestError) -> Self {
        Self::Request(Arc::new(error))
    }
}

impl From<SubscribeError> for TableError {
    fn from(error: SubscribeError) -> Self {
        Self::Subscribe(Arc::new(error))
    }
}

/// What a table has met so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableStats {
    /// Keys with a value.
    pub entries: usize,
    /// Their keys, values and headers.
    pub bytes: usize,
    /// Events without a key, which are in no table.
    pub keyless_events: u64,
    /// Gaps that were accepted.
    pub gaps: u64,
}

/// The latest event of each key of a topic. Clones share it; with the last one the reading ends.
///
/// Lost connections are resumed. Once it cannot be kept up to date, every look at it is an error that says why.
///
/// What it holds is bounded by [`max_entries`](TableBuilder::max_entries) and [`max_bytes`](TableBuilder::max_bytes); a topic
/// that is more ends it with an error, and nothing is ever left out silently. Beside that there are the batch that is being
/// taken in, what the subscription has under way, and for all [`Changes`] together the last
/// [`max_changes`](TableBuilder::max_changes) of them, which keep the events that they tell of.
#[derive(Clone, Debug)]
pub struct Table {
    shared: Arc<Shared>,
    _task: Arc<Task>,
}

/// What the task and the handles share. Locked for a look, or for one batch.
#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Sent whenever positions have moved or the table has ended.
    moved: watch::Sender<()>,
}

/// Reads as long as somebody has the table.
#[derive(Debug)]
struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Table {
    /// The latest event of `key`; `None` if there is none, or the latest says that the key is gone.
    ///
    /// # Errors
    /// [`TableError`] once the table is not kept up to date any more.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Arc<Event>>, TableError> {
        self.shared.state.lock().get(key.as_ref())
    }

    /// The latest event of every key that has a value, in no order, as of one moment. Costs one pointer for each.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn snapshot(&self) -> Result<Vec<Arc<Event>>, TableError> {
        self.shared.state.lock().snapshot()
    }

    /// Keys that have a value.
    pub fn len(&self) -> usize {
        self.stats().entries
    }

    /// Whether no key has a value.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Sizes and counts.
    pub fn stats(&self) -> TableStats {
        self.shared.state.lock().stats()
    }

    /// Whether it is kept up to date.
    ///
    /// # Errors
    /// Why it is not any more.
    pub fn check(&self) -> Result<(), TableError> {
        self.shared.state.lock().check()
    }

    /// Every change from now on, in the order in which the table made them.
    pub fn changes(&self) -> Changes {
        self.shared.state.lock().changes()
    }

    /// Waits until the table has taken in what `receipt` is for: read your own writes.
    ///
    /// # Errors
    /// As [`wait_for_offset`](Self::wait_for_offset).
    pub async fn wait_for(&self, receipt: &Receipt) -> Result<(), TableError> {
        self.wait_for_offset(receipt.partition, receipt.offset).await
    }

    /// Waits until the table has taken in `offset` of `partition`. Cancel-safe.
    ///
    /// # Errors
    /// [`TableError::UnknownPartition`]; otherwise as [`get`](Self::get).
    pub async fn wait_for_offset(&self, partition: u32, offset: Offset) -> Result<(), TableError> {
        self.shared.wait_until(|state| Ok(state.position(partition)? > offset)).await
    }
}

impl Shared {
    async fn wait_until(&self, is_reached: impl Fn(&State) -> Result<bool, TableError>) -> Result<(), TableError> {
        let mut moved = self.moved.subscribe();
        loop {
            moved.mark_unchanged();
            {
                let state = self.state.lock();
                state.check()?;
                if is_reached(&state)? {
                    return Ok(());
                }
            }
            // The sender is a field of this very value.
            let _ = moved.changed().await;
        }
    }
}

/// An event that keeps nothing in memory but itself: what was read is a view of its whole batch.
fn detached(event: Event) -> Event {
    let copy = |bytes: &Bytes| Bytes::copy_from_slice(bytes);
    let mut event = event;
    event.record.key = event.record.key.as_ref().map(copy);
    event.record.value = event.record.value.as_ref().map(copy);
    event.record.headers.iter_mut().for_each(|header| header.value = copy(&header.value));
    event
}
