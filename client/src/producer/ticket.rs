//! The promise of a receipt. A ticket is a share of its batch's one completion: records cost no allocation here.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;

use super::{
    error::PublishError,
    receipt::{BatchAck, RangeReceipt, Receipt},
};
use crate::{codec, error::BrokerError, record::Record, types::TopicId};

/// What all batches of a producer have in common.
#[derive(Debug)]
pub(crate) struct TopicRef {
    pub(crate) name: Arc<str>,
    pub(crate) id: TopicId,
    /// Failures that no ticket will report.
    pub(crate) unseen: Mutex<UnseenFailures>,
}

/// Failures of events whose tickets were dropped, for `flush`.
#[derive(Debug, Default)]
pub(crate) struct UnseenFailures {
    pub(crate) records: u64,
    pub(crate) first: Option<PublishError>,
}

/// How a batch ended.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    Stored(BatchAck),
    /// Surely not stored.
    Rejected {
        error: Box<BrokerError>,
        record_set: Bytes,
    },
    /// Maybe stored.
    Unknown {
        error: Option<Box<BrokerError>>,
        after: Duration,
    },
}

/// The end of one batch, awaited by the tickets of its records.
#[derive(Debug)]
pub(crate) struct Completion {
    topic: Arc<TopicRef>,
    partition: u32,
    outcome: OnceLock<Outcome>,
    waiters: Mutex<Waiters>,
}

#[derive(Debug, Default)]
struct Waiters {
    wakers: Vec<Option<Waker>>,
    /// Records whose tickets were dropped before the outcome was known.
    abandoned: u64,
}

impl Completion {
    pub(crate) fn new(topic: Arc<TopicRef>, partition: u32) -> Self {
        Self { topic, partition, outcome: OnceLock::new(), waiters: Mutex::default() }
    }

    /// Ends the batch, once.
    pub(crate) fn complete(&self, outcome: Outcome) {
        let mut waiters = self.waiters.lock();
        if self.outcome.set(outcome).is_err() {
            return;
        }
        let wakers = std::mem::take(&mut waiters.wakers);
        let abandoned = waiters.abandoned;
        drop(waiters);
        self.count_unseen(abandoned);
        wakers.into_iter().flatten().for_each(Waker::wake);
    }

    fn count_unseen(&self, records: u64) {
        if records == 0 {
            return;
        }
        // Position 0 stands for all: the record itself is not what flush reports.
        if let Some(error) = self.outcome.get().and_then(|outcome| self.error(outcome, None)) {
            let mut unseen = self.topic.unseen.lock();
            unseen.records += records;
            unseen.first.get_or_insert(error);
        }
    }

    /// `None` if the batch is stored.
    fn error(&self, outcome: &Outcome, index: Option<u32>) -> Option<PublishError> {
        match outcome {
            Outcome::Stored(_) => None,
            Outcome::Rejected { error, record_set } => {
                let record = index.and_then(|index| record_at(record_set, index)).map(Box::new);
                Some(PublishError::Rejected { record, error: error.clone() })
            }
            Outcome::Unknown { error, after } => {
                Some(PublishError::Unknown { partition: self.partition, error: error.clone(), after: *after })
            }
        }
    }

    fn receipt(&self, index: u32) -> Result<Receipt, PublishError> {
        match self.outcome.get() {
            Some(Outcome::Stored(ack)) => Ok(Receipt {
                topic: Arc::clone(&self.topic.name),
                topic_id: self.topic.id,
                partition: self.partition,
                offset: ack.base_offset + u64::from(index),
                append_time: ack.append_time,
                durability: ack.durability,
                duplicate: ack.duplicate,
                epoch: ack.epoch,
            }),
            Some(outcome) => Err(self.error(outcome, Some(index)).unwrap_or(PublishError::Closed { record: None })),
            None => Err(PublishError::Closed { record: None }),
        }
    }

    /// Ready once the outcome is known; else `slot` remembers where this waiter's waker is.
    fn poll_done(&self, cx: &mut Context<'_>, slot: &mut Option<usize>) -> Poll<()> {
        if self.outcome.get().is_some() {
            return Poll::Ready(());
        }
        let mut waiters = self.waiters.lock();
        if self.outcome.get().is_some() {
            return Poll::Ready(());
        }
        match slot.and_then(|slot| waiters.wakers.get_mut(slot)) {
            Some(Some(waker)) => waker.clone_from(cx.waker()),
            Some(empty) => *empty = Some(cx.waker().clone()),
            None => {
                *slot = Some(waiters.wakers.len());
                waiters.wakers.push(Some(cx.waker().clone()));
            }
        }
        Poll::Pending
    }

    /// A ticket for `records` of this batch is dropped without having been asked.
    fn abandon(&self, records: u64, slot: Option<usize>) {
        let mut waiters = self.waiters.lock();
        if let Some(waker) = slot.and_then(|slot| waiters.wakers.get_mut(slot)) {
            *waker = None;
        }
        if self.outcome.get().is_none() {
            waiters.abandoned += records;
            return;
        }
        drop(waiters);
        self.count_unseen(records);
    }
}

/// One record of a set. Hops over those before it: every ticket of a failed batch asks for its own.
fn record_at(record_set: &Bytes, index: u32) -> Option<Record> {
    codec::record_at(record_set, usize::try_from(index).ok()?)
}

/// Completes once the batch's outcome is known. Cancel-safe.
pub(crate) struct Done {
    completion: Arc<Completion>,
    slot: Option<usize>,
}

impl Done {
    pub(crate) fn new(completion: Arc<Completion>) -> Self {
        Self { completion, slot: None }
    }
}

impl Future for Done {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Self { completion, slot } = &mut *self;
        completion.poll_done(cx, slot)
    }
}

impl Drop for Done {
    fn drop(&mut self) {
        if self.slot.is_some() && self.completion.outcome.get().is_none() {
            self.completion.abandon(0, self.slot);
        }
    }
}

/// The promise of a [`Receipt`]: await it. Dropped, the event is still sent; if it fails, `flush` says so.
#[must_use = "the event is durable only once its ticket has given a receipt"]
#[derive(Debug)]
pub struct Ticket {
    completion: Arc<Completion>,
    index: u32,
    slot: Option<usize>,
    seen: bool,
}

impl Ticket {
    pub(crate) fn new(completion: Arc<Completion>, index: u32) -> Self {
        Self { completion, index, slot: None, seen: false }
    }

    /// Where the event goes.
    pub fn partition(&self) -> u32 {
        self.completion.partition
    }
}

impl Future for Ticket {
    type Output = Result<Receipt, PublishError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        match this.completion.poll_done(cx, &mut this.slot) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(()) => {
                this.seen = true;
                Poll::Ready(this.completion.receipt(this.index))
            }
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.seen {
            self.completion.abandon(1, self.slot);
        }
    }
}

/// Records of one ticket that lie side by side in one batch.
#[derive(Debug)]
struct Share {
    completion: Arc<Completion>,
    first: u32,
    records: u32,
}

/// One promise for many records: a [`RangeReceipt`] for each run of adjacent offsets.
///
/// If some fail, the error is the first one's, and the others' receipts are lost: use single tickets where that matters.
#[must_use = "the events are durable only once their ticket has given its receipts"]
#[derive(Debug, Default)]
pub struct BatchTicket {
    shares: Vec<Share>,
    /// Shares before this one are done.
    next: usize,
    slot: Option<usize>,
}

impl BatchTicket {
    pub(crate) fn add(&mut self, completion: Arc<Completion>, index: u32) {
        match self.shares.last_mut() {
            Some(share) if Arc::ptr_eq(&share.completion, &completion) && share.first + share.records == index => {
                share.records += 1;
            }
            Some(_) | None => self.shares.push(Share { completion, first: index, records: 1 }),
        }
    }

    /// How many records it stands for.
    pub fn records(&self) -> u64 {
        self.shares.iter().map(|share| u64::from(share.records)).sum()
    }

    fn receipts(&self) -> Result<Vec<RangeReceipt>, PublishError> {
        let receipt = |share: &Share| {
            share.completion.receipt(share.first).map(|receipt| RangeReceipt { receipt, records: share.records })
        };
        self.shares.iter().map(receipt).collect()
    }
}

impl Future for BatchTicket {
    type Output = Result<Vec<RangeReceipt>, PublishError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        while let Some(share) = this.shares.get(this.next) {
            if share.completion.poll_done(cx, &mut this.slot).is_pending() {
                return Poll::Pending;
            }
            this.slot = None;
            this.next += 1;
        }
        Poll::Ready(this.receipts())
    }
}

impl Drop for BatchTicket {
    fn drop(&mut self) {
        if self.next == self.shares.len() {
            return; // asked, and answered
        }
        for (position, share) in self.shares.iter().enumerate() {
            let slot = if position == self.next { self.slot } else { None };
            share.completion.abandon(share.records.into(), slot);
        }
    }
}
