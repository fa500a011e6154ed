//! All partitions of one producer: which batch goes next, and what an answer means. A pure state machine.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use aqueduct_proto::v1;
use bytes::Bytes;
use tokio::time::Instant;
use tonic::Code;

use super::{
    lane::{Idempotence, Lane, LaneConfig, Numbering, Readiness, Settled, Verdict},
    payload::Payload,
    receipt::{BatchAck, Hold},
    ticket::{Completion, Outcome, TopicRef},
};
use crate::{
    error::{BrokerError, Origin},
    partitioner::partition_for_key,
    record::Record,
};

/// How records find their partition.
#[derive(Clone, Copy, Debug)]
pub(super) enum Routing {
    /// By key; without one, one partition per batch.
    ByKey,
    /// All to this one.
    To(u32),
}

/// Who numbers the batches.
#[derive(Clone, Debug)]
pub(super) enum Identity {
    /// An id of the client's own. Each lane takes a fresh one when its numbering is lost.
    Anonymous,
    /// Opened by name; the broker keeps the numbering.
    Named { id: Bytes, epoch: u32 },
}

/// The batch to send next, as far as it can be said under the lock; packing it comes after.
pub(super) struct Dispatch {
    pub(super) request_id: u64,
    pub(super) partition: u32,
    pub(super) payload: Arc<Payload>,
    pub(super) producer: Option<v1::ProducerSequence>,
    /// The first request of a stream names the topic.
    pub(super) opens_stream: bool,
}

/// What the request stream does now.
pub(super) enum Next {
    Send(Dispatch),
    /// Nothing before this time, or before it is woken.
    WaitUntil(Instant),
    /// Nothing before it is woken.
    Wait,
    /// Nothing any more.
    End,
}

/// Whether the producer takes records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Intake {
    Open,
    /// What was admitted is still sent.
    Draining,
}

pub(super) struct Pipeline {
    config: LaneConfig,
    routing: Routing,
    identity: Identity,
    /// Of anonymous producers, per lane.
    lane_ids: Vec<Bytes>,
    topic: Arc<TopicRef>,
    lanes: Vec<Lane>,
    /// Lanes that have something to send; each at most once.
    active: VecDeque<usize>,
    is_active: Vec<bool>,
    /// Where records without a key go, until the batch there is full or taken.
    sticky: usize,
    /// The lane of every attempt on its way.
    attempts: HashMap<u64, usize>,
    next_request_id: u64,
    hold: Option<Hold>,
    intake: Intake,
    stream: Stream,
    /// The request stream sleeps and must be woken when there is something to send.
    asleep: bool,
    /// The lane that got the last record, and whether that record began a batch.
    touched: Touched,
    /// A named producer's numbering is lost: it must be opened again.
    reopen: bool,
    /// The stream has stopped answering: another one must be tried.
    restart: bool,
}

#[derive(Clone, Copy)]
enum Touched {
    NewBatch(usize),
    SameBatch(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stream {
    Down,
    /// Open, with nothing sent yet.
    Fresh,
    Up,
}

impl Pipeline {
    pub(super) fn new(
        config: LaneConfig,
        routing: Routing,
        identity: Identity,
        topic: Arc<TopicRef>,
        partitions: u32,
    ) -> Self {
        let count = partitions.max(1) as usize;
        Self {
            config,
            routing,
            identity,
            lane_ids: (0..count).map(|_| fresh_id()).collect(),
            topic,
            lanes: (0..count).map(|_| Lane::new()).collect(),
            active: VecDeque::new(),
            is_active: vec![false; count],
            sticky: fastrand::usize(..count),
            attempts: HashMap::new(),
            next_request_id: 1,
            hold: None,
            intake: Intake::Open,
            stream: Stream::Down,
            asleep: true,
            touched: Touched::SameBatch(0),
            reopen: false,
            restart: false,
        }
    }

    pub(super) fn topic_name(&self) -> String {
        self.topic.name.to_string()
    }

    pub(super) fn hold(&self) -> Option<&Hold> {
        self.hold.as_ref()
    }

    pub(super) fn intake(&self) -> Intake {
        self.intake
    }

    /// A named producer must be opened again before anything is sent.
    pub(super) fn needs_reopening(&self) -> bool {
        self.reopen
    }

    /// This stream is of no use any more.
    pub(super) fn needs_restart(&self) -> bool {
        self.restart || self.reopen
    }

    /// Nothing will ever come again.
    pub(super) fn is_finished(&self) -> bool {
        self.intake == Intake::Draining && self.is_empty()
    }

    /// Nothing is waiting or on its way.
    pub(super) fn is_empty(&self) -> bool {
        self.lanes.iter().all(Lane::is_empty)
    }

    /// The next record wakes the driver.
    pub(super) fn sleep(&mut self) {
        self.asleep = true;
    }

    /// Adds one record of `length` encoded bytes, without its frame. The caller has checked that the intake is open.
    pub(super) fn push(&mut self, record: &Record, length: usize, now: Instant) -> (Arc<Completion>, u32) {
        let index = self.route(record);
        let topic = &self.topic;
        let partition = partition_of(index);
        let sealed_before = self.lanes[index].batches.len();
        let place =
            self.lanes[index].push(record, length, now, &self.config, || Completion::new(Arc::clone(topic), partition));
        if self.lanes[index].batches.len() != sealed_before && index == self.sticky {
            self.rotate_sticky();
        }
        self.touched = if place.1 == 0 { Touched::NewBatch(index) } else { Touched::SameBatch(index) };
        self.activate(index);
        place
    }

    fn route(&self, record: &Record) -> usize {
        match (self.routing, &record.key) {
            (Routing::To(partition), _) => (partition as usize).min(self.lanes.len() - 1),
            (Routing::ByKey, Some(key)) => {
                let partitions = u32::try_from(self.lanes.len()).unwrap_or(u32::MAX);
                partition_for_key(key, partitions) as usize
            }
            (Routing::ByKey, None) => self.sticky,
        }
    }

    fn rotate_sticky(&mut self) {
        self.sticky = (self.sticky + 1) % self.lanes.len();
    }

    fn activate(&mut self, index: usize) {
        if !self.is_active[index] {
            self.is_active[index] = true;
            self.active.push_back(index);
        }
    }

    /// Whether the request stream must be woken: it sleeps, and the last record gave it something to do. Looking at
    /// that record's lane is enough: the others were looked at before it fell asleep.
    pub(super) fn take_wake(&mut self, now: Instant) -> bool {
        if !self.asleep || self.hold.is_some() {
            return false;
        }
        let (Touched::NewBatch(lane) | Touched::SameBatch(lane)) = self.touched;
        let wake = match self.lanes[lane].readiness(now, &self.config) {
            Readiness::Ready => true,
            // A timer must be set; the batch's later records find it running.
            Readiness::At(_) => matches!(self.touched, Touched::NewBatch(_)),
            Readiness::Blocked | Readiness::Empty => false,
        };
        self.asleep = !wake;
        wake
    }

    /// The end of everything that has been admitted so far; all of it goes as soon as it may.
    pub(super) fn hurry(&mut self) -> Vec<Arc<Completion>> {
        self.stop_lingering();
        self.lanes.iter().flat_map(Lane::completions).map(Arc::clone).collect()
    }

    /// What is open goes as soon as it may.
    pub(super) fn stop_lingering(&mut self) {
        self.asleep = false;
        self.lanes.iter_mut().for_each(Lane::hurry);
    }

    /// No records any more; what was admitted goes as soon as it may.
    pub(super) fn drain(&mut self) {
        self.intake = Intake::Draining;
        self.stop_lingering();
    }

    /// A stream is being opened.
    pub(super) fn connecting(&mut self) {
        self.stream = Stream::Fresh;
        self.asleep = false;
    }

    /// What the request stream sends now.
    pub(super) fn next(&mut self, now: Instant) -> Next {
        if self.stream == Stream::Down {
            return Next::End;
        }
        if self.hold.is_none() && !self.reopen {
            match self.next_ready(now) {
                Next::Wait => {}
                next => return next,
            }
        }
        if self.is_finished() {
            return Next::End;
        }
        self.asleep = true;
        Next::Wait
    }

    fn next_ready(&mut self, now: Instant) -> Next {
        let mut wake_at: Option<Instant> = None;
        for _ in 0..self.active.len() {
            let Some(index) = self.active.pop_front() else { break };
            match self.lanes[index].readiness(now, &self.config) {
                Readiness::Empty => self.is_active[index] = false,
                Readiness::Blocked => self.active.push_back(index),
                Readiness::At(at) => {
                    wake_at = Some(wake_at.map_or(at, |earlier| earlier.min(at)));
                    self.active.push_back(index);
                }
                Readiness::Ready => {
                    self.active.push_back(index);
                    if let Some(dispatch) = self.send(index) {
                        return Next::Send(dispatch);
                    }
                }
            }
        }
        if let Some(at) = wake_at {
            self.asleep = true;
            return Next::WaitUntil(at);
        }
        Next::Wait
    }

    fn send(&mut self, index: usize) -> Option<Dispatch> {
        let request_id = self.next_request_id;
        let was_open = self.lanes[index].is_open();
        let sent = self.lanes[index].send(request_id, &self.config)?;
        let producer = sent.sequence.map(|sequence| match &self.identity {
            Identity::Anonymous => v1::ProducerSequence { id: self.lane_ids[index].clone(), epoch: 0, sequence },
            Identity::Named { id, epoch } => v1::ProducerSequence { id: id.clone(), epoch: *epoch, sequence },
        });
        let payload = Arc::clone(&sent.payload);
        self.next_request_id += 1;
        self.attempts.insert(request_id, index);
        if was_open && !self.lanes[index].is_open() && index == self.sticky {
            self.rotate_sticky();
        }
        let opens_stream = self.stream == Stream::Fresh;
        self.stream = Stream::Up;
        Some(Dispatch { request_id, partition: partition_of(index), payload, producer, opens_stream })
    }

    pub(super) fn held(&mut self, hold: Hold) {
        self.hold = Some(hold);
    }

    pub(super) fn resumed(&mut self) {
        self.hold = None;
        self.asleep = false;
    }

    /// The broker's answer to one attempt. Answers to attempts that were given up are ignored: their batches are on their
    /// way again.
    pub(super) fn answered(
        &mut self,
        request_id: u64,
        answer: Result<BatchAck, BrokerError>,
        now: Instant,
        settled: &mut Vec<Settled>,
    ) {
        let Some(index) = self.attempts.remove(&request_id) else { return };
        let lane = &mut self.lanes[index];
        let Some(position) = lane.position(request_id) else { return };
        match answer {
            Ok(ack) => {
                settled.extend(lane.stored(position).map(|batch| batch.settle(Outcome::Stored(ack))));
            }
            Err(error) => {
                let verdict = verdict(&error);
                let numbering = lane.failed(position, verdict, error, now, &self.config, settled);
                self.renumber(index, numbering);
            }
        }
        self.activate(index);
        self.asleep = false;
    }

    fn renumber(&mut self, index: usize, numbering: Numbering) {
        match (numbering, &self.identity) {
            (Numbering::Continues, _) => {}
            (Numbering::Lost, Identity::Anonymous) => {
                self.lane_ids[index] = fresh_id();
                self.lanes[index].renumber(0, 0);
            }
            (Numbering::Lost, Identity::Named { .. }) => self.reopen = true,
        }
    }

    /// A named producer has been opened again: `next_sequence` tells where each partition goes on. What may have been
    /// stored under the old epoch cannot be recognised under the new one: it ends as unknown, and is never stored twice.
    pub(super) fn reopened(
        &mut self,
        id: Bytes,
        epoch: u32,
        next_sequence: impl Fn(u32) -> u64,
        now: Instant,
        settled: &mut Vec<Settled>,
    ) {
        self.identity = Identity::Named { id, epoch };
        self.reopen = false;
        for (index, lane) in self.lanes.iter_mut().enumerate() {
            lane.begin_epoch(next_sequence(partition_of(index)), now, settled);
        }
    }

    /// Sets where a named producer goes on, before anything is sent.
    pub(super) fn start_at(&mut self, partition: u32, next_sequence: u64) {
        if let Some(lane) = self.lanes.get_mut(partition as usize) {
            lane.renumber(0, next_sequence);
        }
    }

    /// The stream is gone.
    pub(super) fn disconnected(&mut self, error: Option<&BrokerError>, now: Instant, settled: &mut Vec<Settled>) {
        self.stream = Stream::Down;
        self.hold = None;
        self.restart = false;
        self.asleep = true;
        self.attempts.clear();
        for index in 0..self.lanes.len() {
            self.lanes[index].disconnected(error, now, &self.config, settled);
            if !self.lanes[index].is_empty() {
                self.activate(index);
            }
        }
    }

    /// The broker refuses this producer as a whole: everything ends.
    pub(super) fn refused(&mut self, error: &BrokerError, now: Instant, settled: &mut Vec<Settled>) {
        self.disconnected(Some(error), now, settled);
        for index in 0..self.lanes.len() {
            self.lanes[index].end_all(error, now, settled);
            self.renumber(index, Numbering::Lost);
        }
    }

    /// Ends what has waited for too long.
    pub(super) fn expire(&mut self, now: Instant, settled: &mut Vec<Settled>) {
        let held = self.hold.as_ref().map(hold_error);
        for index in 0..self.lanes.len() {
            let numbering = self.lanes[index].expire(now, &self.config, held.as_ref(), settled);
            self.restart |= numbering == Numbering::Lost;
            self.renumber(index, numbering);
        }
        self.asleep = false;
    }

    /// When [`expire`](Self::expire) may have something to do, if anything is waiting.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.lanes.iter().filter_map(Lane::oldest).min().map(|oldest| oldest + self.config.delivery_timeout)
    }
}

fn fresh_id() -> Bytes {
    Bytes::copy_from_slice(uuid::Uuid::now_v7().as_bytes())
}

fn partition_of(lane: usize) -> u32 {
    u32::try_from(lane).unwrap_or(u32::MAX)
}

fn hold_error(hold: &Hold) -> BrokerError {
    let mut error = BrokerError::local(Code::ResourceExhausted, &hold.reason, format!("held by {}", hold.culprit));
    error.metadata.insert("culprit".into(), hold.culprit.clone());
    error.retry_after = Some(hold.retry_after);
    error
}

/// What an error says about the batch it answers.
pub(super) fn verdict(error: &BrokerError) -> Verdict {
    if error.has_reason("SEQUENCE_GAP") {
        return Verdict::SequenceGap;
    }
    match error.code {
        // The broker sends it only when nothing was written; the transport, at any time.
        Code::Unavailable if error.origin == Origin::Broker => Verdict::TryAgain,
        Code::Ok
        | Code::Unavailable
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::Cancelled
        | Code::Internal
        | Code::Aborted
        | Code::DataLoss => Verdict::Uncertain,
        Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::Unauthenticated
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::Unimplemented => Verdict::Refused,
    }
}

/// Whether trying again is safe for this configuration.
pub(super) fn in_flight_bound(idempotence: Idempotence, asked: usize) -> usize {
    match idempotence {
        Idempotence::Enabled => asked.clamp(1, super::BATCHES_IN_FLIGHT_MAX),
        Idempotence::Disabled => asked.max(1),
    }
}

#[cfg(test)]
mod tests;
