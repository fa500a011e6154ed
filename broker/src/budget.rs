//! Byte budgets: what is admitted but not yet on disk, bounded for the broker, each connection and each topic.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU32, Ordering},
    },
    time::Duration,
};

use aqueduct_storage::Batch;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    backlog::Passed,
    clock::Clock,
    error::PublishError,
    turns::{ConnectionId, FairSemaphore},
};

/// When a held publisher should try again: about the time a disk under load needs for a few groups.
pub(crate) const RETRY_AFTER: Duration = Duration::from_millis(100);

/// What `batch` takes of the budgets while it waits, in bytes. Its payload is a slice of the buffer that it was received
/// into, which may be twice as large: the budgets bound memory, not payloads.
pub(crate) fn charge(batch: &Batch) -> u64 {
    2 * batch.stored_bytes()
}

/// A number of bytes that may be on their way to the disk.
#[derive(Debug)]
pub(crate) struct Budget {
    reason: &'static str,
    culprit: String,
    bytes_max: u32,
    semaphore: FairSemaphore,
    waiting: Waiting,
}

/// Bytes admitted by several budgets; given back when it is dropped.
#[derive(Debug, Default)]
pub(crate) struct Permit {
    _held: [Option<OwnedSemaphorePermit>; 3],
    /// `None`: the broker's own.
    pub(crate) connection: Option<ConnectionId>,
    /// Through the gate of the topic: kept until what it was given for is stored or refused, whoever waits for the answer.
    _passed: Passed,
}

impl Permit {
    /// Together with the right to publish.
    pub(crate) fn with(self, passed: Passed) -> Self {
        Self { _passed: passed, ..self }
    }
}

/// Who waits for a budget.
#[derive(Debug, Default)]
struct Waiting {
    requests: AtomicU32,
    since_us: AtomicI64,
}

/// What a budget holds now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Queue {
    /// Requests that wait.
    pub(crate) requests: u32,
    /// Since when somebody has waited without a break.
    pub(crate) since_us: i64,
}

/// One request that waits.
struct InQueue<'a>(&'a Waiting);

impl Drop for InQueue<'_> {
    fn drop(&mut self) {
        self.0.requests.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Who holds a publisher.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Held {
    /// Machine-readable.
    pub reason: &'static str,
    /// The limit, for people: name and size.
    pub culprit: String,
}

impl From<Held> for PublishError {
    fn from(held: Held) -> Self {
        Self::Overloaded { reason: held.reason, culprit: held.culprit, retry_after: RETRY_AFTER }
    }
}

impl Budget {
    /// `reason` is machine-readable (`TOPIC_BUDGET`), `culprit` tells people whose budget it is.
    pub(crate) fn new(reason: &'static str, culprit: &str, bytes_max: u64) -> Self {
        let bytes_max =
            u32::try_from(bytes_max).unwrap_or(u32::MAX).min(u32::try_from(Semaphore::MAX_PERMITS).unwrap_or(u32::MAX));
        let culprit = format!("{culprit} (the limit of {bytes_max} bytes waiting for the disk is reached)");
        let semaphore = FairSemaphore::new(bytes_max as usize);
        Self { reason, culprit, bytes_max, semaphore, waiting: Waiting::default() }
    }

    /// Who waits for it now; `None`: nobody.
    pub(crate) fn queue(&self) -> Option<Queue> {
        let requests = self.waiting.requests.load(Ordering::Acquire);
        (requests > 0).then(|| Queue { requests, since_us: self.waiting.since_us.load(Ordering::Acquire) })
    }

    async fn acquire(&self, bytes: u32, connection: ConnectionId, clock: &Clock) -> Option<OwnedSemaphorePermit> {
        if let Some(permit) = self.semaphore.try_acquire(bytes) {
            return Some(permit);
        }
        if self.waiting.requests.fetch_add(1, Ordering::AcqRel) == 0 {
            self.waiting.since_us.store(clock.now_us(), Ordering::Release);
        }
        let _in_queue = InQueue(&self.waiting);
        self.semaphore.acquire(connection, bytes).await
    }

    /// What it says to those that it holds.
    pub(crate) fn held(&self) -> Held {
        Held { reason: self.reason, culprit: self.culprit.clone() }
    }

    /// What one request takes: one that is larger than the whole budget passes when it is alone.
    fn share(&self, bytes: u64) -> u32 {
        u32::try_from(bytes).unwrap_or(u32::MAX).min(self.bytes_max)
    }
}

/// The budgets that one request must pass, narrowest first, so that one connection cannot sit on the broker's budget
/// while it waits for its own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Admission<'a> {
    /// Of the connection.
    pub connection: &'a Arc<Budget>,
    /// Of the topic.
    pub topic: &'a Arc<Budget>,
    /// Of the broker.
    pub broker: &'a Arc<Budget>,
    /// Which waits by turns with the others.
    pub connection_id: ConnectionId,
    /// For who asks since when there is no room.
    pub clock: &'a Clock,
}

impl Admission<'_> {
    /// Admits `bytes` now, or tells who holds them.
    ///
    /// # Errors
    /// [`Held`] names the first budget without room.
    pub(crate) fn try_admit(&self, bytes: u64) -> Result<Permit, Held> {
        let mut held = [None, None, None];
        for (place, budget) in held.iter_mut().zip(self.budgets()) {
            *place = Some(budget.semaphore.try_acquire(budget.share(bytes)).ok_or_else(|| budget.held())?);
        }
        Ok(Permit { _held: held, connection: Some(self.connection_id), _passed: Passed::default() })
    }

    /// Admits `bytes` once there is room. Connections take turns; within one, it is in the order of the calls.
    pub(crate) async fn admit(&self, bytes: u64) -> Permit {
        let mut held = [None, None, None];
        for (place, budget) in held.iter_mut().zip(self.budgets()) {
            *place = budget.acquire(budget.share(bytes), self.connection_id, self.clock).await;
        }
        Permit { _held: held, connection: Some(self.connection_id), _passed: Passed::default() }
    }

    fn budgets(&self) -> [&Arc<Budget>; 3] {
        [self.connection, self.topic, self.broker]
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn budgets(bytes: [u64; 3]) -> [Arc<Budget>; 3] {
        let names = [("CONNECTION_BUDGET", "a"), ("TOPIC_BUDGET", "b"), ("BROKER_BUDGET", "c")];
        std::array::from_fn(|i| Arc::new(Budget::new(names[i].0, names[i].1, bytes[i])))
    }

    fn admission<'a>([connection, topic, broker]: &'a [Arc<Budget>; 3], clock: &'a Clock) -> Admission<'a> {
        Admission { connection, topic, broker, connection_id: ConnectionId::next(), clock }
    }

    #[test]
    fn the_budget_without_room_is_named_and_nothing_is_kept() {
        let budgets = budgets([100, 50, 100]);
        let clock = Clock::default();
        let admission = admission(&budgets, &clock);
        let _permit = admission.try_admit(40).unwrap();
        assert_eq!(admission.try_admit(20).unwrap_err().reason, "TOPIC_BUDGET");
        assert!(admission.try_admit(10).is_ok());
        assert!(budgets[0].semaphore.try_acquire(60).is_some(), "what was refused has taken nothing");
    }

    #[test]
    fn a_request_larger_than_the_budget_passes_alone() {
        let budgets = budgets([100, 100, 10]);
        let clock = Clock::default();
        let admission = admission(&budgets, &clock);
        let permit = admission.try_admit(1_000).unwrap();
        assert_eq!(admission.try_admit(1).unwrap_err().reason, "CONNECTION_BUDGET");
        drop(permit);
        assert!(admission.try_admit(1).is_ok());
    }

    #[test]
    fn waiting_ends_when_bytes_are_given_back() {
        let budgets = budgets([10, 10, 10]);
        let clock = Clock::default();
        let admission = admission(&budgets, &clock);
        let permit = admission.try_admit(10).unwrap();
        let mut waiting = std::pin::pin!(admission.admit(1));
        assert!(waiting.as_mut().now_or_never().is_none());
        assert_eq!(budgets[0].queue().map(|queue| queue.requests), Some(1));
        drop(permit);
        assert!(waiting.as_mut().now_or_never().is_some());
        assert_eq!(budgets[0].queue(), None);
    }
}
