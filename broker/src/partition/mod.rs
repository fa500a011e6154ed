//! One partition as the broker sees it: its log, and the task that owns appending to it.
//!
//! The task starts with the first publish: a partition that is only read, or idle, has none.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use aqueduct_storage::{Batch, Offset};
use parking_lot::Mutex;
use tokio::{
    sync::{
        mpsc::{self, error::TrySendError},
        oneshot,
    },
    task::JoinHandle,
};

use self::{
    failure::{Failure, FailureNotice, FailureState},
    producers::{Producers, Stored},
};
use crate::{
    budget::{Budget, Permit},
    clock::Clock,
    engine::{EngineError, PartitionLog, ReadError},
    error::{PublishError, TopicError},
    producer_names::Fences,
    turns::Turns,
};

pub(crate) mod failure;
mod owner;
pub(crate) mod producers;
mod sequencer;

/// Requests that wait for the owner; their bytes are bounded by the budgets.
const MAILBOX_REQUESTS: usize = 1024;

/// Headers read in one go while the table of producers is rebuilt.
const HEADERS_READ: usize = 4096;

/// A place in the log, granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Appended {
    /// Of the first record.
    pub base_offset: Offset,
    /// How many.
    pub record_count: u32,
    /// When.
    pub append_time_us: i64,
    /// The log's epoch.
    pub epoch: u32,
    /// An earlier attempt had stored it.
    pub duplicate: bool,
}

impl Appended {
    fn of(batch: &Batch) -> Self {
        Self {
            base_offset: batch.header.base_offset,
            record_count: batch.header.record_count,
            append_time_us: batch.header.append_time_us,
            epoch: batch.header.epoch,
            duplicate: false,
        }
    }
}

impl From<Stored> for Appended {
    fn from(stored: Stored) -> Self {
        Self {
            base_offset: stored.base_offset,
            record_count: stored.record_count,
            append_time_us: stored.append_time_us,
            epoch: stored.epoch,
            duplicate: true,
        }
    }
}

/// A batch on its way to the owner. Boxed there: an empty mailbox reserves 32 places, and thousands of partitions are normal.
struct Request {
    batch: Batch,
    /// It is appended by this time of the wall clock, or not at all.
    latest_us: i64,
    permit: Permit,
    reply: oneshot::Sender<Result<Appended, PublishError>>,
}

/// Which partition it is.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// The topic's name.
    pub topic: String,
    /// Its number.
    pub index: u32,
    /// Under which the broker itself appends to it: never forgotten.
    pub own_producer: [u8; 16],
}

/// What the owner and the handle share.
struct Shared {
    topic: String,
    index: u32,
    own_producer: [u8; 16],
    fences: Arc<Fences>,
    clock: Clock,
    failure: FailureState,
}

impl Shared {
    /// Refuses a batch of a named producer that has been opened again since.
    fn check_fence(&self, batch: &Batch) -> Result<(), PublishError> {
        let Some(producer) = batch.header.producer else { return Ok(()) };
        match self.fences.newer_than(&producer.id, producer.epoch) {
            Some(current) => Err(PublishError::ProducerFenced { actual: producer.epoch, current }),
            None => Ok(()),
        }
    }

    fn unavailable(&self) -> PublishError {
        let reason = self.failure.get().map_or_else(|| "it is closing".to_owned(), |failure| failure.reason);
        PublishError::Unavailable { topic: self.topic.clone(), partition: self.index, reason }
    }
}

/// One partition. Dropping it lets the owner finish what it has.
pub(crate) struct Partition {
    shared: Arc<Shared>,
    log: Result<Arc<dyn PartitionLog>, EngineError>,
    budget: Arc<Budget>,
    owner: Mutex<OwnerHandle>,
    /// Of connections that wait for a place in the mailbox.
    turns: Turns,
    batch_bytes: AtomicUsize,
}

enum OwnerHandle {
    NotStarted,
    Running { mailbox: mpsc::Sender<Box<Request>>, task: JoinHandle<()> },
    Closed,
}

/// The answer to an append, once it is there.
pub(crate) type AppendReply = oneshot::Receiver<Result<Appended, PublishError>>;

impl Partition {
    /// A partition with its topic's budget. `log` may be an error: everything then answers with it.
    pub(crate) fn new(
        place: Place,
        log: Result<Arc<dyn PartitionLog>, EngineError>,
        budget: Arc<Budget>,
        fences: Arc<Fences>,
        clock: Clock,
        notice: FailureNotice,
    ) -> Self {
        let failure = FailureState::new(log.as_ref().err().map(ToString::to_string), notice);
        let Place { topic, index, own_producer } = place;
        let shared = Arc::new(Shared { topic, index, own_producer, fences, clock, failure });
        let owner = Mutex::new(OwnerHandle::NotStarted);
        Self { shared, log, budget, owner, turns: Turns::default(), batch_bytes: AtomicUsize::new(0) }
    }

    /// The topic's name.
    pub(crate) fn topic_name(&self) -> &str {
        &self.shared.topic
    }

    /// Its number.
    pub(crate) fn index(&self) -> u32 {
        self.shared.index
    }

    /// The producer under which the broker itself appends to it.
    pub(crate) fn own_producer(&self) -> [u8; 16] {
        self.shared.own_producer
    }

    /// The topic's budget for bytes that wait to be written.
    pub(crate) fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// Its log, for reading.
    ///
    /// # Errors
    /// [`TopicError::PartitionFailed`] if it could not be opened.
    pub(crate) fn log(&self) -> Result<&Arc<dyn PartitionLog>, TopicError> {
        self.log.as_ref().map_err(|error| TopicError::PartitionFailed {
            topic: self.shared.topic.clone(),
            partition: self.shared.index,
            reason: error.to_string(),
        })
    }

    /// The largest batch that was appended or read since the start: whoever reads the next one should have room for it.
    pub(crate) fn batch_bytes(&self) -> usize {
        self.batch_bytes.load(Ordering::Relaxed)
    }

    /// The size of batches that were read here.
    pub(crate) fn bytes_of(&self, batches: &[Batch]) -> usize {
        let sizes = || batches.iter().map(|batch| batch.payload.len());
        self.batch_bytes.fetch_max(sizes().max().unwrap_or_default(), Ordering::Relaxed);
        sizes().sum()
    }

    /// Why it takes no writes, if it does not.
    pub(crate) fn failure(&self) -> Option<Failure> {
        self.shared.failure.get()
    }

    /// Hands a batch to the owner. Batches are stored in the order in which these calls return.
    ///
    /// # Errors
    /// [`PublishError::Unavailable`] while closing, [`TopicError::PartitionFailed`] if there is no log. Nothing was
    /// written.
    pub(crate) async fn append(&self, batch: Batch, permit: Permit) -> Result<AppendReply, PublishError> {
        self.append_by(batch, permit, i64::MAX).await
    }

    /// As [`append`](Self::append), unless the append time would be later than `latest_us`: the reply is then
    /// [`PublishError::NotInTime`].
    ///
    /// # Errors
    /// As for [`append`](Self::append).
    pub(crate) async fn append_by(
        &self,
        batch: Batch,
        permit: Permit,
        latest_us: i64,
    ) -> Result<AppendReply, PublishError> {
        let mailbox = self.mailbox()?;
        self.batch_bytes.fetch_max(batch.payload.len(), Ordering::Relaxed);
        let (reply, answer) = oneshot::channel();
        let connection = permit.connection;
        let request = Box::new(Request { batch, latest_us, permit, reply });
        match mailbox.try_send(request) {
            Ok(()) => return Ok(answer),
            Err(TrySendError::Closed(_)) => return Err(self.shared.unavailable()),
            Err(TrySendError::Full(request)) => {
                let _turn = match connection {
                    Some(connection) => Some(self.turns.take(connection).await),
                    None => None,
                };
                mailbox.send(request).await.map_err(|_| self.shared.unavailable())?;
            }
        }
        Ok(answer)
    }

    /// Answers what is queued, then closes the log with the mark of a clean stop.
    ///
    /// # Errors
    /// What the engine says.
    pub(crate) async fn close(&self) -> Result<(), EngineError> {
        let owner = std::mem::replace(&mut *self.owner.lock(), OwnerHandle::Closed);
        if let OwnerHandle::Running { mailbox, task } = owner {
            drop(mailbox);
            task.await.map_err(|e| EngineError(format!("the owner of the partition has panicked: {e}")))?;
        }
        match &self.log {
            Ok(log) => log.close().await,
            Err(_) => Ok(()),
        }
    }

    fn mailbox(&self) -> Result<mpsc::Sender<Box<Request>>, PublishError> {
        let log = self.log()?;
        let mut owner = self.owner.lock();
        match &*owner {
            OwnerHandle::Running { mailbox, .. } if mailbox.is_closed() => {
                // It ends by itself only in a panic: no acks from here on, and whoever looks is told.
                self.shared.failure.set("its owner has failed (see the log): restart the broker".to_owned());
                Err(self.shared.unavailable())
            }
            OwnerHandle::Running { mailbox, .. } => Ok(mailbox.clone()),
            OwnerHandle::Closed => Err(self.shared.unavailable()),
            OwnerHandle::NotStarted => {
                let (mailbox, requests) = mpsc::channel(MAILBOX_REQUESTS);
                let task = tokio::spawn(owner::run(Arc::clone(&self.shared), Arc::clone(log), requests));
                *owner = OwnerHandle::Running { mailbox: mailbox.clone(), task };
                Ok(mailbox)
            }
        }
    }
}

/// Rebuilds the table of producers: the checkpoint, completed from the headers of the log.
async fn load_producers(log: &dyn PartitionLog, own_producer: [u8; 16]) -> Result<Producers, ReadError> {
    let saved = log.load_checkpoint().await.map_err(|error| ReadError::Failed(error.to_string()))?;
    let (mut producers, as_of) = saved.and_then(|bytes| Producers::from_checkpoint(&bytes)).unwrap_or_default();
    producers.keep(own_producer);
    let window = *log.watch().borrow();
    producers.roll_back(window.high_watermark);
    let mut next = as_of.clamp(window.log_start, window.high_watermark);
    while next < window.high_watermark {
        match log.headers(next, HEADERS_READ).await {
            Ok(headers) => {
                for header in headers.iter().filter(|header| header.base_offset >= as_of) {
                    producers.remember(header);
                }
                match headers.last() {
                    Some(last) => next = last.next_offset(),
                    None => break,
                }
            }
            // Damage hides the sequences of those batches; their retries are refused as too old, never stored twice.
            Err(ReadError::Damaged { to, .. } | ReadError::Lost { to, .. }) => next = to,
            Err(ReadError::OutOfRange { window, .. }) => next = window.log_start.max(next + 1),
            Err(error @ ReadError::Failed(_)) => return Err(error),
        }
    }
    Ok(producers)
}

#[cfg(test)]
mod tests;
