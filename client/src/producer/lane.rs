//! One partition's batches, from the first record until the broker's answer: a pure state machine.
//!
//! ```text
//!   open ──seal──▶ batches[sent..] ──send──▶ batches[..sent] ──answer──▶ gone
//!                        ▲                          │
//!                        └───────── rewind ─────────┘
//! ```
//!
//! Invariants: batches leave in the order of their records; a sequence is given at the first send and stays with its
//! batch for every resend, unless it is certain that no batch from there on was stored; sequences on the wire have no
//! gaps.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    payload::Payload,
    ticket::{Completion, Outcome},
};
use crate::{
    codec::encode::{append_record, framed_len},
    error::BrokerError,
    record::Record,
    transport::backoff::RECONNECT,
};

/// Batches of a partition that may be on their way before new ones wait to be filled. With 2, one being synced and one next,
/// whoever publishes every 200 µs waits for answers as soon as they take 400; with 8 the median from end to end is a fifth
/// lower, and neither 64 callers nor bulk publishing, whose batches are full before that, lose anything.
const EAGER_IN_FLIGHT: usize = 8;

/// Records that are being collected.
#[derive(Debug)]
pub(super) struct OpenBatch {
    record_set: Vec<u8>,
    records: u32,
    max_timestamp_us: i64,
    created: Instant,
    completion: Arc<Completion>,
    /// Somebody flushes: no lingering.
    urgent: bool,
}

/// A batch that takes no more records.
#[derive(Debug)]
pub(super) struct Sealed {
    pub(super) payload: Arc<Payload>,
    pub(super) completion: Arc<Completion>,
    created: Instant,
    /// Of its first record; given at the first send.
    pub(super) sequence: Option<u64>,
    /// Of the attempt that is on its way.
    pub(super) request_id: u64,
    /// An attempt has been made whose end nobody knows.
    maybe_stored: bool,
}

impl Sealed {
    pub(super) fn records(&self) -> u64 {
        self.payload.records.into()
    }
}

/// A batch that has come to its end, for its tickets and the byte budget.
#[derive(Debug)]
pub(super) struct Settled {
    pub(super) completion: Arc<Completion>,
    pub(super) outcome: Outcome,
    pub(super) bytes: usize,
    pub(super) records: u32,
}

/// What an answer means for a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// An earlier batch is missing at the broker. Not stored.
    SequenceGap,
    /// Not stored; may be tried again.
    TryAgain,
    /// Nobody knows; may be tried again with the same sequence.
    Uncertain,
    /// Not stored, and another attempt would end the same way.
    Refused,
}

/// Whether batches carry sequences, so that trying again is safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idempotence {
    /// Batches are numbered; a retry is stored once.
    Enabled,
    /// No retries: whatever is not certain is [`PublishError::Unknown`](super::PublishError::Unknown) at once.
    Disabled,
}

/// Bounds that a lane keeps.
#[derive(Clone, Copy, Debug)]
pub(super) struct LaneConfig {
    pub(super) batch_bytes_max: usize,
    pub(super) batch_records_max: u32,
    pub(super) in_flight_max: usize,
    pub(super) linger: Duration,
    pub(super) delivery_timeout: Duration,
    pub(super) idempotence: Idempotence,
}

/// What can be done for a lane now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Readiness {
    /// A batch can go.
    Ready,
    /// Not before this time.
    At(Instant),
    /// Not before an answer comes.
    Blocked,
    /// There is nothing to send.
    Empty,
}

/// After this the numbering of a lane must begin anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Numbering {
    Continues,
    /// The broker's idea of the next sequence is not known any more.
    Lost,
}

#[derive(Debug)]
pub(super) struct Lane {
    open: Option<OpenBatch>,
    pub(super) batches: VecDeque<Sealed>,
    /// `batches[..sent]` are on their way, in order.
    pub(super) sent: usize,
    pub(super) next_sequence: u64,
    /// After an error: not before.
    not_before: Option<Instant>,
    /// Errors in a row.
    errors: u32,
    last_error: Option<BrokerError>,
    capacity_hint: usize,
}

impl Lane {
    pub(super) fn new() -> Self {
        Self {
            open: None,
            batches: VecDeque::new(),
            sent: 0,
            next_sequence: 0,
            not_before: None,
            errors: 0,
            last_error: None,
            capacity_hint: 256,
        }
    }

    /// Adds one record of `length` encoded bytes, without its frame; says where its outcome will be and which one it is there.
    pub(super) fn push(
        &mut self,
        record: &Record,
        length: usize,
        now: Instant,
        config: &LaneConfig,
        completion: impl FnOnce() -> Completion,
    ) -> (Arc<Completion>, u32) {
        if self.open.as_ref().is_some_and(|open| open.record_set.len() + framed_len(length) > config.batch_bytes_max) {
            self.seal();
        }
        let hint = self.capacity_hint;
        let open = self.open.get_or_insert_with(|| OpenBatch {
            record_set: Vec::with_capacity(hint.max(framed_len(length)).min(config.batch_bytes_max)),
            records: 0,
            max_timestamp_us: 0,
            created: now,
            completion: Arc::new(completion()),
            urgent: false,
        });
        append_record(&mut open.record_set, record, length);
        if let Some(timestamp) = record.timestamp {
            open.max_timestamp_us = open.max_timestamp_us.max(timestamp.as_micros());
        }
        let index = open.records;
        open.records += 1;
        let place = (Arc::clone(&open.completion), index);
        if open.records >= config.batch_records_max || open.record_set.len() >= config.batch_bytes_max {
            self.seal();
        }
        place
    }

    fn seal(&mut self) {
        let Some(open) = self.open.take() else { return };
        // The next batch will be about as large: growing a buffer from nothing copies it over and over.
        self.capacity_hint = open.record_set.len().next_power_of_two();
        self.batches.push_back(Sealed {
            payload: Arc::new(Payload::new(open.record_set, open.records, open.max_timestamp_us)),
            completion: open.completion,
            created: open.created,
            sequence: None,
            request_id: 0,
            maybe_stored: false,
        });
    }

    pub(super) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.open.is_none() && self.batches.is_empty()
    }

    /// The end of everything that is in the lane now.
    pub(super) fn completions(&self) -> impl Iterator<Item = &Arc<Completion>> {
        self.batches.iter().map(|batch| &batch.completion).chain(self.open.iter().map(|open| &open.completion))
    }

    /// What is in the lane goes as soon as it may.
    pub(super) fn hurry(&mut self) {
        if let Some(open) = &mut self.open {
            open.urgent = true;
        }
    }

    pub(super) fn readiness(&self, now: Instant, config: &LaneConfig) -> Readiness {
        if self.sent == self.batches.len() && self.open.is_none() {
            return Readiness::Empty;
        }
        if self.sent >= config.in_flight_max {
            return Readiness::Blocked;
        }
        if let Some(at) = self.not_before.filter(|at| *at > now) {
            return Readiness::At(at);
        }
        match &self.open {
            _ if self.sent < self.batches.len() => Readiness::Ready,
            Some(open) if !open.urgent && now < open.created + config.linger => {
                Readiness::At(open.created + config.linger)
            }
            Some(_) if self.sent < EAGER_IN_FLIGHT => Readiness::Ready,
            Some(_) | None => Readiness::Blocked,
        }
    }

    /// Takes the next batch that is to be sent, as attempt `request_id`. The lane must be [`Readiness::Ready`].
    pub(super) fn send(&mut self, request_id: u64, config: &LaneConfig) -> Option<&Sealed> {
        if self.sent == self.batches.len() {
            self.seal();
        }
        let batch = self.batches.get_mut(self.sent)?;
        batch.request_id = request_id;
        if batch.sequence.is_none() && config.idempotence == Idempotence::Enabled {
            batch.sequence = Some(self.next_sequence);
            self.next_sequence += batch.records();
        }
        self.sent += 1;
        Some(batch)
    }

    /// Where the batch of attempt `request_id` is, if that attempt still counts.
    pub(super) fn position(&self, request_id: u64) -> Option<usize> {
        self.batches.iter().take(self.sent).position(|batch| batch.request_id == request_id)
    }

    /// The batch at `index` is stored.
    pub(super) fn stored(&mut self, index: usize) -> Option<Sealed> {
        self.errors = 0;
        self.not_before = None;
        self.last_error = None;
        self.remove(index)
    }

    fn remove(&mut self, index: usize) -> Option<Sealed> {
        let batch = self.batches.remove(index)?;
        if index < self.sent {
            self.sent -= 1;
        }
        Some(batch)
    }

    /// The batch at `index` has failed. `settled` gets what has come to its end by that.
    pub(super) fn failed(
        &mut self,
        index: usize,
        verdict: Verdict,
        error: BrokerError,
        now: Instant,
        config: &LaneConfig,
        settled: &mut Vec<Settled>,
    ) -> Numbering {
        if index >= self.batches.len() {
            return Numbering::Continues;
        }
        if config.idempotence == Idempotence::Disabled {
            let maybe_stored = verdict == Verdict::Uncertain;
            self.end(index, maybe_stored, Some(error), now, settled);
            return Numbering::Continues;
        }
        let predecessors_settled = index == 0;
        let uncertain = self.batches.iter().any(|batch| batch.maybe_stored);
        match verdict {
            // What came before is stored or gone, and still the broker misses something: it has forgotten this producer.
            Verdict::SequenceGap if predecessors_settled && uncertain => self.give_up(&error, now, settled),
            Verdict::SequenceGap if predecessors_settled => {
                self.rewind(0);
                Numbering::Lost
            }
            // The one before it fails as well, or has failed already: from here on again.
            Verdict::SequenceGap => {
                self.rewind(index);
                Numbering::Continues
            }
            Verdict::TryAgain => {
                self.pause(error, now);
                self.rewind(index);
                Numbering::Continues
            }
            Verdict::Uncertain => {
                self.mark_uncertain(index);
                self.pause(error, now);
                self.rewind(index);
                Numbering::Continues
            }
            Verdict::Refused => self.refused(index, error, now, settled),
        }
    }

    /// The batch at `index` will never be stored, or never be known to be: what comes after it needs other sequences.
    fn refused(&mut self, index: usize, error: BrokerError, now: Instant, settled: &mut Vec<Settled>) -> Numbering {
        let later_uncertain = self.batches.iter().skip(index).any(|batch| batch.maybe_stored);
        if later_uncertain {
            return self.give_up(&error, now, settled);
        }
        let sequence = self.batches.get(index).and_then(|batch| batch.sequence);
        self.rewind(index);
        self.end(index, false, Some(error), now, settled);
        if let Some(sequence) = sequence {
            // Nothing from here on was stored, because the broker takes no batch after a missing one.
            self.renumber(index, sequence);
        }
        Numbering::Continues
    }

    /// Ends every batch whose fate is uncertain; the rest needs a numbering of its own.
    fn give_up(&mut self, error: &BrokerError, now: Instant, settled: &mut Vec<Settled>) -> Numbering {
        self.end_uncertain(error, now, settled);
        Numbering::Lost
    }

    fn end_uncertain(&mut self, error: &BrokerError, now: Instant, settled: &mut Vec<Settled>) {
        self.mark_uncertain(0);
        self.rewind(0);
        let mut index = 0;
        while let Some(batch) = self.batches.get(index) {
            if batch.maybe_stored {
                self.end(index, true, Some(error.clone()), now, settled);
            } else {
                index += 1;
            }
        }
    }

    /// A new numbering begins: the next batch carries `sequence`.
    pub(super) fn renumber(&mut self, from_index: usize, sequence: u64) {
        self.next_sequence = sequence;
        self.batches.iter_mut().skip(from_index).for_each(|batch| batch.sequence = None);
    }

    /// The producer has a new epoch, in which the next batch carries `next_sequence`.
    pub(super) fn begin_epoch(&mut self, next_sequence: u64, now: Instant, settled: &mut Vec<Settled>) {
        let unknown = "the producer was opened again: what it had sent before cannot be checked any more";
        self.end_uncertain(&BrokerError::transport(unknown), now, settled);
        self.renumber(0, next_sequence);
    }

    /// Everything on its way may or may not arrive: it is sent again on the next stream.
    pub(super) fn disconnected(
        &mut self,
        error: Option<&BrokerError>,
        now: Instant,
        config: &LaneConfig,
        settled: &mut Vec<Settled>,
    ) {
        if config.idempotence == Idempotence::Disabled {
            while self.sent > 0 {
                self.end(0, true, error.cloned(), now, settled);
            }
            return;
        }
        self.mark_uncertain(0);
        self.rewind(0);
        if let Some(error) = error {
            self.last_error = Some(error.clone());
        }
    }

    /// Ends what has waited for longer than the delivery time-out. While the broker holds this producer, what it has been
    /// sent is not late: it lies there and will be read.
    pub(super) fn expire(
        &mut self,
        now: Instant,
        config: &LaneConfig,
        held: Option<&BrokerError>,
        settled: &mut Vec<Settled>,
    ) -> Numbering {
        let mut numbering = Numbering::Continues;
        if self.open.as_ref().is_some_and(|open| open.created + config.delivery_timeout <= now) {
            self.seal();
        }
        let mut index = 0;
        while let Some(batch) = self.batches.get(index)
            && batch.created + config.delivery_timeout <= now
        {
            let on_its_way = index < self.sent;
            if on_its_way && held.is_some() {
                index += 1;
                continue;
            }
            let error = held.cloned().or_else(|| self.last_error.clone());
            if on_its_way || batch.maybe_stored {
                let error = error.unwrap_or_else(|| BrokerError::transport("no answer"));
                if config.idempotence == Idempotence::Disabled {
                    self.end(index, true, Some(error), now, settled);
                } else {
                    numbering = self.give_up(&error, now, settled);
                    index = 0;
                }
            } else {
                let error = error.unwrap_or_else(BrokerError::unreachable);
                let after = self.refused(index, error, now, settled);
                if after == Numbering::Lost {
                    numbering = after;
                    index = 0;
                }
            }
        }
        numbering
    }

    /// Nothing here can ever be stored.
    pub(super) fn end_all(&mut self, error: &BrokerError, now: Instant, settled: &mut Vec<Settled>) {
        self.seal();
        while !self.batches.is_empty() {
            self.end(0, false, Some(error.clone()), now, settled);
        }
    }

    /// When something here may run into the delivery time-out.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.batches.front().map(|batch| batch.created).or_else(|| self.open.as_ref().map(|open| open.created))
    }

    fn rewind(&mut self, index: usize) {
        self.sent = self.sent.min(index);
    }

    fn mark_uncertain(&mut self, from: usize) {
        let sent = self.sent;
        self.batches.iter_mut().take(sent).skip(from).for_each(|batch| batch.maybe_stored = true);
    }

    fn pause(&mut self, error: BrokerError, now: Instant) {
        let delay = error.retry_after.unwrap_or_else(|| RECONNECT.jittered(self.errors));
        self.errors = self.errors.saturating_add(1);
        self.not_before = Some(now + delay);
        self.last_error = Some(error);
    }

    fn end(
        &mut self,
        index: usize,
        maybe_stored: bool,
        error: Option<BrokerError>,
        now: Instant,
        settled: &mut Vec<Settled>,
    ) {
        let Some(batch) = self.remove(index) else { return };
        let outcome = if maybe_stored || batch.maybe_stored {
            Outcome::Unknown { error: error.map(Box::new), after: now.saturating_duration_since(batch.created) }
        } else {
            let error = Box::new(error.unwrap_or_else(BrokerError::unreachable));
            Outcome::Rejected { error, record_set: batch.payload.record_set() }
        };
        settled.push(batch.settle(outcome));
    }
}

impl Sealed {
    pub(super) fn settle(self, outcome: Outcome) -> Settled {
        Settled { completion: self.completion, outcome, bytes: self.payload.bytes(), records: self.payload.records }
    }
}
