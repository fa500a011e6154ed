//! The task that owns a partition: the only one that appends to it.
//!
//! It takes requests from a bounded mailbox, lets the [`Sequencer`] decide, hands the batches to the engine without
//! waiting for earlier ones, and answers in order as the engine resolves. After an unknown outcome it answers
//! everything in flight, takes a new lease and goes on; until then it refuses with the reason.

use std::{sync::Arc, time::Duration};

use aqueduct_storage::{Batch, Offset};
use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesOrdered};
use tokio::sync::{mpsc, oneshot};

use super::{
    Appended, Request, Shared,
    sequencer::{Admission, Sequencer, When},
};
use crate::{
    engine::{AppendError, EngineError, PartitionLog, ReadError},
    error::PublishError,
};

/// Requests admitted in one go: they share one call of the engine.
const ADMIT_MAX: usize = 256;

/// Bytes that go to the engine in one call. It bounds its groups between calls.
const APPEND_BYTES_MAX: u64 = 4 << 20;

/// Appends under way at the engine. The engine groups what waits, so more only costs memory.
const IN_FLIGHT_MAX: usize = 64;

/// Bytes of log after which the table of producers is saved again: what a restart has to read at most.
const CHECKPOINT_BYTES: u64 = 64 << 20;

const REACQUIRE_BACKOFF_MIN: Duration = Duration::from_millis(50);
const REACQUIRE_BACKOFF_MAX: Duration = Duration::from_secs(5);

/// Requests that went to the engine together.
struct Group {
    waiters: Vec<Waiter>,
    base_offset: Offset,
    bytes: u64,
    outcome: Result<(), AppendError>,
}

struct Waiter {
    appended: Appended,
    request: Answer,
}

/// Where the answer goes. The budget is given back together with it.
struct Answer {
    reply: oneshot::Sender<Result<Appended, PublishError>>,
    _permit: crate::budget::Permit,
}

/// What ended the pipeline's normal course.
enum Trouble {
    /// Nothing at or above this offset was written; the lease is good.
    NotWritten { log_end: Offset, cause: PublishError },
    /// The lease is over.
    LeaseLost { cause: String },
}

struct Owner {
    shared: Arc<Shared>,
    log: Arc<dyn PartitionLog>,
    sequencer: Sequencer,
    in_flight: FuturesOrdered<BoxFuture<'static, Group>>,
    bytes_since_checkpoint: u64,
}

/// Runs until the mailbox is closed and everything in it is answered.
pub(super) async fn run(shared: Arc<Shared>, log: Arc<dyn PartitionLog>, mut mailbox: mpsc::Receiver<Box<Request>>) {
    let Some(sequencer) = start(&shared, &*log, &mut mailbox).await else { return };
    let mut owner = Owner { shared, log, sequencer, in_flight: FuturesOrdered::new(), bytes_since_checkpoint: 0 };
    let mut requests = Vec::new();
    loop {
        tokio::select! {
            biased;
            Some(group) = owner.in_flight.next(), if !owner.in_flight.is_empty() => {
                owner.settle(group, &mut mailbox).await;
            }
            received = mailbox.recv_many(&mut requests, ADMIT_MAX), if owner.in_flight.len() < IN_FLIGHT_MAX => {
                if received == 0 {
                    break;
                }
                owner.admit(&mut requests);
            }
        }
    }
    while let Some(group) = owner.in_flight.next().await {
        owner.settle(group, &mut mailbox).await;
    }
    owner.save_checkpoint().await;
}

impl Owner {
    /// Sequences requests and sends them to the engine.
    #[expect(clippy::vec_box, reason = "as they come out of the mailbox, where a place must be small")]
    fn admit(&mut self, requests: &mut Vec<Box<Request>>) {
        let now_us = self.shared.clock.now_us();
        let mut waiters = Vec::with_capacity(requests.len());
        let mut batches = Vec::with_capacity(requests.len());
        let mut bytes = 0;
        for request in requests.drain(..) {
            let Request { batch, latest_us, permit, reply } = *request;
            let when = When { now_us, latest_us };
            let request = Answer { reply, _permit: permit };
            match self.shared.check_fence(&batch).and_then(|()| self.sequencer.admit(batch, when)) {
                Ok(Admission::Append(batch)) => {
                    bytes += batch.stored_bytes();
                    waiters.push(Waiter { appended: Appended::of(&batch), request });
                    batches.push(batch);
                    if bytes >= APPEND_BYTES_MAX {
                        self.append(std::mem::take(&mut waiters), std::mem::take(&mut batches), bytes);
                        bytes = 0;
                    }
                }
                // Answered with its neighbours: the original may still be on its way to the disk.
                Ok(Admission::Duplicate(stored)) => waiters.push(Waiter { appended: stored.into(), request }),
                Err(refused) => drop(request.reply.send(Err(refused))),
            }
        }
        if !waiters.is_empty() {
            self.append(waiters, batches, bytes);
        }
    }

    fn append(&mut self, waiters: Vec<Waiter>, batches: Vec<Batch>, bytes: u64) {
        let group = move |base_offset, outcome| Group { waiters, base_offset, bytes, outcome };
        let Some(first) = batches.first() else {
            self.in_flight.push_back(futures_util::future::ready(group(Offset::MAX, Ok(()))).boxed());
            return;
        };
        let base_offset = first.header.base_offset;
        let append = self.log.append(self.sequencer.lease(), base_offset, batches);
        self.in_flight.push_back(append.map(move |outcome| group(base_offset, outcome)).boxed());
    }

    /// Answers a group; on trouble also everything behind it in the pipeline.
    async fn settle(&mut self, group: Group, mailbox: &mut mpsc::Receiver<Box<Request>>) {
        let trouble = match &group.outcome {
            Ok(()) => {
                self.bytes_since_checkpoint += group.bytes;
                answer_all(group.waiters);
                if self.bytes_since_checkpoint >= CHECKPOINT_BYTES {
                    self.save_checkpoint().await;
                }
                return;
            }
            Err(AppendError::Full) => Trouble::NotWritten { log_end: group.base_offset, cause: PublishError::DiskFull },
            Err(AppendError::Rejected(reason)) => {
                let cause = PublishError::Invalid { field: "batch", reason: reason.clone() };
                Trouble::NotWritten { log_end: group.base_offset, cause }
            }
            Err(error @ (AppendError::Fenced { .. } | AppendError::TailMoved { .. } | AppendError::Closed(_))) => {
                Trouble::LeaseLost { cause: error.to_string() }
            }
            Err(AppendError::Unknown(cause)) => Trouble::LeaseLost { cause: cause.clone() },
        };
        let high_watermark = self.log.watch().borrow().high_watermark;
        let mut failed = vec![group];
        while let Some(group) = self.in_flight.next().await {
            failed.push(group);
        }
        match trouble {
            Trouble::NotWritten { log_end, cause } => {
                tracing::warn!(topic = %self.shared.topic, partition = self.shared.index, "publishing refused: {cause}");
                self.sequencer.roll_back(log_end);
                failed.into_iter().for_each(|group| group.fail(high_watermark, |_| cause.clone()));
            }
            Trouble::LeaseLost { cause } => {
                tracing::error!(topic = %self.shared.topic, partition = self.shared.index, "the log is fenced: {cause}");
                self.shared.failure.set(cause);
                let unavailable = self.shared.unavailable();
                let cause = |error: &AppendError| outcome_of(error, &unavailable);
                failed.into_iter().for_each(|group| group.fail(high_watermark, cause));
                self.reacquire(mailbox).await;
            }
        }
    }

    /// Takes a new lease, with backoff; refuses what arrives meanwhile. Nothing of it was written.
    async fn reacquire(&mut self, mailbox: &mut mpsc::Receiver<Box<Request>>) {
        let mut backoff = REACQUIRE_BACKOFF_MIN;
        loop {
            self.shared.failure.retry_after(backoff);
            if !refuse_for(&self.shared, mailbox, backoff).await {
                return;
            }
            match self.log.acquire().await {
                Ok(lease) => {
                    tracing::info!(
                        topic = %self.shared.topic, partition = self.shared.index, epoch = lease.epoch, tail = lease.tail,
                        "the log goes on"
                    );
                    self.sequencer.renew(lease);
                    self.shared.failure.clear();
                    return;
                }
                Err(error) => self.shared.failure.set(error.to_string()),
            }
            backoff = (backoff * 2).min(REACQUIRE_BACKOFF_MAX);
        }
    }

    async fn save_checkpoint(&mut self) {
        self.bytes_since_checkpoint = 0;
        let producers = self.sequencer.producers();
        if producers.is_empty() {
            return;
        }
        let high_watermark = self.log.watch().borrow().high_watermark;
        if let Err(error) = self.log.save_checkpoint(producers.checkpoint(high_watermark)).await {
            // Without it a restart reads more of the log, and learns the same.
            tracing::warn!(topic = %self.shared.topic, partition = self.shared.index, "producers not saved: {error}");
        }
    }
}

impl Group {
    /// Answers with the failure; a duplicate, with what is true of its original.
    fn fail(self, high_watermark: Offset, error: impl Fn(&AppendError) -> PublishError) {
        let original_is_unknown = || PublishError::Unknown("the write of the original has failed".into());
        for Waiter { appended, request } in self.waiters {
            let answer = match &self.outcome {
                _ if appended.duplicate && appended.base_offset < high_watermark => Ok(appended),
                Err(outcome) if !appended.duplicate => Err(error(outcome)),
                Ok(()) | Err(_) => Err(original_is_unknown()),
            };
            let _ = request.reply.send(answer);
        }
    }
}

fn answer_all(waiters: Vec<Waiter>) {
    for waiter in waiters {
        let _ = waiter.request.reply.send(Ok(waiter.appended));
    }
}

/// What a publisher is told once the lease is lost: only what may have been written is unknown.
fn outcome_of(error: &AppendError, unavailable: &PublishError) -> PublishError {
    match error {
        AppendError::Unknown(cause) => PublishError::Unknown(cause.clone()),
        AppendError::Full => PublishError::DiskFull,
        AppendError::Rejected(_)
        | AppendError::Fenced { .. }
        | AppendError::TailMoved { .. }
        | AppendError::Closed(_) => unavailable.clone(),
    }
}

/// Acquires the partition for the first time. `None` if the mailbox was closed before that succeeded.
async fn start(
    shared: &Shared,
    log: &dyn PartitionLog,
    mailbox: &mut mpsc::Receiver<Box<Request>>,
) -> Option<Sequencer> {
    let mut backoff = REACQUIRE_BACKOFF_MIN;
    loop {
        match take_over(log, shared.own_producer).await {
            Ok(sequencer) => {
                shared.failure.clear();
                return Some(sequencer);
            }
            Err(error) => {
                tracing::error!(topic = %shared.topic, partition = shared.index, "cannot take the log over: {error}");
                shared.failure.set(error.to_string());
            }
        }
        shared.failure.retry_after(backoff);
        if !refuse_for(shared, mailbox, backoff).await {
            return None;
        }
        backoff = (backoff * 2).min(REACQUIRE_BACKOFF_MAX);
    }
}

async fn take_over(log: &dyn PartitionLog, own_producer: [u8; 16]) -> Result<Sequencer, EngineError> {
    let lease = log.acquire().await?;
    let producers = super::load_producers(log, own_producer).await;
    let producers = producers.map_err(|error: ReadError| EngineError(error.to_string()))?;
    Ok(Sequencer::new(lease, producers))
}

/// Refuses requests for as long as `pause`. `false` once the mailbox is closed.
async fn refuse_for(shared: &Shared, mailbox: &mut mpsc::Receiver<Box<Request>>, pause: Duration) -> bool {
    let deadline = tokio::time::sleep(pause);
    tokio::pin!(deadline);
    loop {
        tokio::select! {
            () = &mut deadline => return true,
            request = mailbox.recv() => match request {
                Some(request) => drop(request.reply.send(Err(shared.unavailable()))),
                None => return false,
            },
        }
    }
}
