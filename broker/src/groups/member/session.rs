//! What a member decides: a state that is told what the client said, what the coordinator wants, what was read and what
//! time it is, and that says what to send, what to read next and what to commit.
//!
//! Pure. [`super::run`] does what it says.

mod client;
mod liveness;
mod opening;
mod parking;
mod room;
mod settling;
mod stall;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use aqueduct_storage::{Batch, Offset};
use tokio::time::Instant;

use self::{
    opening::Opening,
    parking::Parkings,
    room::Room,
    settling::{Awaiting, Settling},
    stall::Stall,
};
use super::message::{Assigned, Credit, Delivery, Event, Leave, Loss, Request, Settle};
use crate::groups::{
    assignment::MemberId,
    coordinator::{MemberStats, PartitionGeneration, Target},
    error::GroupError,
    policy::Policy,
    progress::Progress,
    retry::{Failure, error_text},
    roster::Standing,
    window::{Expired, Fault, Window},
};

/// Events that wait for the client before nothing more is taken from it.
const OUTBOX_EVENTS: usize = 1024;
/// Acks that wait for the journal before nothing more is taken from the client.
const AWAITING_ACKS: usize = 4096;
/// A member is gone after this many heartbeats of silence.
const SILENT_HEARTBEATS: u32 = 3;

/// See the [module](self).
pub(super) struct Session {
    id: MemberId,
    policy: Policy,
    wall_clock: WallClock,
    heartbeat: Duration,
    stats: Arc<MemberStats>,
    phase: Phase,
    credit: Room,
    held: BTreeMap<u32, Held>,
    /// Partitions that may have something to deliver, in order of their turns. None is in it twice.
    turns: VecDeque<u32>,
    outbox: VecDeque<Event>,
    settling: Settling,
    parking: Parkings,
    stall: Stall,
    opening: Opening,
    /// Generations that were given up and that the coordinator may still list.
    given_up: BTreeSet<u64>,
    last_heard: Instant,
    last_sent: Instant,
    /// When what was due was done last.
    last_looked: Instant,
    /// Nothing is due before.
    timer: Instant,
}

/// What a member and its group have agreed on.
pub(super) struct Terms {
    pub(super) policy: Policy,
    pub(super) heartbeat: Duration,
    /// The first one.
    pub(super) credit: Credit,
}

/// One moment on both clocks: what is decided follows the monotonic one, what is written down says the time of day.
#[derive(Debug, Clone, Copy)]
pub(super) struct WallClock {
    pub(super) at: Instant,
    pub(super) at_us: i64,
}

impl WallClock {
    fn fault(self, error: &str, at: Instant) -> Fault {
        Fault { error: error_text(error), at, at_us: self.at_us(at) }
    }

    /// The time of day at `at`.
    fn at_us(self, at: Instant) -> i64 {
        let since_us = i64::try_from(at.saturating_duration_since(self.at).as_micros()).unwrap_or(i64::MAX);
        self.at_us.saturating_add(since_us)
    }
}

/// How the member stands to its stream.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    Active,
    /// The client wants to go; what is open is still settled.
    Leaving,
    /// The stream ends with this, once what was settled is durable.
    Ending(GroupError),
    /// The client has gone; what it had settled is still made durable.
    Gone,
}

/// A partition that the member has.
struct Held {
    generation: u64,
    window: Window,
    flow: Flow,
    /// Is in `turns`.
    queued: bool,
}

/// Whether a partition delivers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    Running,
    /// Broken: it was reported, and stays with the member.
    Failed,
    /// Revoked: moves on once nothing is open.
    Leaving,
}

/// How a stream ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// As its client wanted.
    Left,
    Failed(GroupError),
    /// There is nobody left to tell.
    Gone,
}

/// What to read next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Turn {
    pub(super) partition: u32,
    pub(super) generation: u64,
    pub(super) cursor: Offset,
    pub(super) bytes_max: usize,
}

impl Session {
    pub(super) fn new(id: MemberId, terms: Terms, stats: Arc<MemberStats>, wall_clock: WallClock) -> Self {
        let Terms { policy, heartbeat, credit } = terms;
        let now = wall_clock.at;
        Self {
            id,
            policy,
            wall_clock,
            heartbeat,
            stats,
            phase: Phase::Active,
            credit: credit.into(),
            held: BTreeMap::new(),
            turns: VecDeque::new(),
            outbox: VecDeque::new(),
            settling: Settling::default(),
            parking: Parkings::default(),
            stall: Stall::default(),
            opening: Opening::default(),
            given_up: BTreeSet::new(),
            last_heard: now,
            last_sent: now,
            last_looked: now,
            timer: now + heartbeat,
        }
    }

    /// Less may be open than before: there may be room to deliver, or nothing left to wait for.
    fn less_is_open(&mut self, partition: u32) {
        let Some(held) = self.held.get(&partition) else { return };
        match held.flow {
            Flow::Running => self.queue(partition),
            Flow::Failed => {}
            Flow::Leaving if held.window.is_settled() => drop(self.settling.to_give_up.insert(partition)),
            Flow::Leaving => {}
        }
    }

    // ---- what the coordinator wants

    /// Takes over what the coordinator wants; returns the partitions that are new.
    pub(super) fn target(&mut self, target: &Target) -> Vec<u32> {
        if let Some(error) = &target.end {
            self.end(error.clone());
            return Vec::new();
        }
        self.opening.hours = target.hours;
        let (mut assigned, mut revoked) = (Vec::new(), Vec::new());
        let lost = self
            .held
            .iter()
            .filter(|(p, held)| target.grants.get(*p).is_none_or(|grant| grant.generation != held.generation));
        for partition in lost.map(|(partition, _)| *partition).collect::<Vec<_>>() {
            if self.forget(partition).is_some_and(|held| held.flow != Flow::Leaving) {
                revoked.push(partition);
            }
            self.forget_parking(partition);
            for Awaiting { ack_id, generation, .. } in self.settling.next.extract_if(.., |a| a.partition == partition) {
                let error = Some(GroupError::StaleGeneration { partition, generation });
                self.outbox.push_back(Event::Settled { ack_id, committed: 0, error });
            }
        }
        for (&partition, grant) in &target.grants {
            let generation = grant.generation;
            match (self.held.get_mut(&partition), grant.standing) {
                (Some(held), Standing::Leaving) if held.flow != Flow::Leaving => {
                    held.flow = Flow::Leaving;
                    revoked.push(partition);
                    self.less_is_open(partition);
                }
                (Some(_), Standing::Held | Standing::Leaving) => {}
                (None, _) if self.given_up.contains(&generation) => {}
                (None, Standing::Leaving) => {
                    self.given_up.insert(generation);
                    self.settling.to_give_back.push(PartitionGeneration { partition, generation });
                }
                (None, Standing::Held) => {
                    let (flow, progress) = match &grant.progress {
                        Some(progress) => (Flow::Running, progress.clone()),
                        None => (Flow::Failed, Progress::default()),
                    };
                    let window = Window::new(progress, self.policy.retry);
                    assigned.push(Assigned { partition, generation, committed: window.progress().committed() });
                    self.held.insert(partition, Held { generation, window, flow, queued: false });
                }
            }
        }
        self.given_up.retain(|generation| target.grants.values().any(|grant| grant.generation == *generation));
        let new: Vec<u32> = assigned.iter().map(|one| one.partition).collect();
        if !(assigned.is_empty() && revoked.is_empty()) {
            self.outbox.push_back(Event::Assignment { assigned, revoked });
        }
        for &partition in new.iter().filter(|new| self.held.get(new).is_some_and(|held| held.flow == Flow::Failed)) {
            self.outbox.push_back(Event::Failure { partition, error: GroupError::NoPosition { partition } });
        }
        new
    }

    fn forget(&mut self, partition: u32) -> Option<Held> {
        self.turns.retain(|queued| *queued != partition);
        self.settling.moved.remove(&partition);
        self.settling.to_give_up.remove(&partition);
        let held = self.held.remove(&partition);
        self.count_open();
        held
    }

    /// The stream ends with `error`, once what was settled is durable.
    pub(super) fn end(&mut self, error: GroupError) {
        if matches!(self.phase, Phase::Active | Phase::Leaving) {
            self.phase = Phase::Ending(error);
            self.settling.retry_at = None;
        }
    }

    // ---- reading and delivering

    /// The partition may have something to deliver.
    pub(super) fn queue(&mut self, partition: u32) {
        if let Some(held) = self.held.get_mut(&partition)
            && held.flow == Flow::Running
            && !held.queued
        {
            held.queued = true;
            self.turns.push_back(partition);
        }
    }

    /// What to read next. Nothing is read that could not be sent at once.
    pub(super) fn next_turn(&mut self, now: Instant) -> Option<Turn> {
        if self.phase != Phase::Active || self.opening.is_closed() || !self.outbox.is_empty() || !self.credit.is_left()
        {
            return None;
        }
        while let Some(partition) = self.turns.pop_front() {
            let Some(held) = self.held.get_mut(&partition) else { continue };
            held.queued = false;
            if let Some(until) = held.window.held_until(now) {
                self.timer = self.timer.min(until);
            } else if held.flow == Flow::Running && held.window.has_room() {
                let cursor = held.window.cursor();
                let bytes_max = self.credit.read_bytes();
                return Some(Turn { partition, generation: held.generation, cursor, bytes_max });
            }
        }
        None
    }

    /// Delivers what was read for `turn`, as far as credit goes.
    pub(super) fn deliver(&mut self, turn: Turn, batches: Vec<Batch>, high_watermark: Offset, now: Instant) {
        let Some(held) = running(&mut self.held, turn) else { return };
        if held.window.held_until(now).is_some() || held.window.cursor() != turn.cursor || self.opening.is_closed() {
            // It was settled meanwhile in a way that makes another read necessary, or the hours are over.
            return self.queue(turn.partition);
        }
        let deadline = now + self.policy.ack_timeout;
        let committed = held.window.progress().committed();
        for batch in batches {
            if !self.credit.is_left() || !held.window.has_room() || self.phase != Phase::Active {
                break;
            }
            for portion in held.window.deliver(&batch.header, deadline) {
                self.credit.take(batch.payload.len(), portion.records());
                self.outbox.push_back(Event::Delivery(Delivery {
                    partition: turn.partition,
                    generation: turn.generation,
                    batch: batch.clone(),
                    ranges: portion.ranges,
                    attempt: portion.attempt,
                    high_watermark,
                }));
            }
        }
        if held.window.progress().committed() != committed {
            self.settling.moved.insert(turn.partition);
        }
        if let Some((offset, Failure { attempts, last_error, .. })) = held.window.halted() {
            let partition = turn.partition;
            let error = GroupError::Halted { partition, offset, attempts, last_error: last_error.to_string() };
            self.outbox.push_back(Event::Failure { partition, error });
        }
        self.timer = self.timer.min(deadline);
        self.queue(turn.partition);
        self.count_open();
    }

    /// What `turn` was to read is gone up to `next`: the member is told, and the group goes on there.
    pub(super) fn gap(&mut self, turn: Turn, next: Offset, cause: Loss) {
        let Some(held) = running(&mut self.held, turn) else { return };
        let lost = held.window.skip_to(next);
        if !lost.is_empty() {
            self.settling.moved.insert(turn.partition);
            self.outbox.push_back(Event::Gap { partition: turn.partition, lost, cause });
        }
        self.queue(turn.partition);
    }

    /// The partition cannot be delivered further. The others go on.
    pub(super) fn fail(&mut self, partition: u32, generation: u64, error: GroupError) {
        let Some(held) = self.held.get_mut(&partition).filter(|held| held.generation == generation) else { return };
        if held.flow == Flow::Running {
            held.flow = Flow::Failed;
            self.outbox.push_back(Event::Failure { partition, error });
        }
    }

    /// The generation in which the member has `partition`.
    pub(super) fn generation(&self, partition: u32) -> Option<u64> {
        self.held.get(&partition).map(|held| held.generation)
    }

    // ---- time

    /// When [`on_time`](Self::on_time) may have something to do.
    pub(super) fn timer(&self) -> Instant {
        self.timer
    }

    /// Looks what time of day it is. Whoever serves the member does so before it delivers anything.
    pub(super) fn look_at_the_clock(&mut self, now: Instant, now_us: impl FnOnce() -> i64) {
        self.timer = self.opening.look(now, now_us).into_iter().chain([self.timer]).min().unwrap_or(self.timer);
    }

    /// Does what is due: time-outs, delays that are over, heartbeats.
    pub(super) fn on_time(&mut self, now: Instant) {
        self.forgive_what_passed_unseen(now);
        self.end_if_unread(now);
        let mut timer = self.heartbeat_due(now).min(self.silence_due(now));
        let fault = self.wall_clock.fault("it was not settled within the ack time-out", now);
        let partitions: Vec<u32> = self.held.keys().copied().collect();
        let mut expired = Expired::None;
        for partition in partitions {
            let Some(held) = self.held.get_mut(&partition) else { continue };
            if held.window.expire(&fault) == Expired::Some {
                expired = Expired::Some;
                self.stats.count_timeout();
                self.settling.moved.insert(partition);
            }
            let due = held.window.next_deadline().into_iter().chain(held.window.held_until(now)).min();
            timer = due.map_or(timer, |due| timer.min(due));
            self.less_is_open(partition);
        }
        self.count_open();
        if expired == Expired::Some {
            self.timed_out(now);
        }
        let retries = self.settling.retry_at.into_iter().chain(self.parking.retry_at);
        self.timer = retries.chain([timer]).min().unwrap_or(timer).max(now);
    }

    /// Sends a heartbeat if it is time for one; returns when the next is due.
    fn heartbeat_due(&mut self, now: Instant) -> Instant {
        let due = self.last_sent + self.heartbeat;
        if due > now {
            return due;
        }
        if self.outbox.is_empty() {
            self.outbox.push_back(Event::Heartbeat);
        }
        now + self.heartbeat
    }

    /// Takes the member for gone if it has been silent for too long; returns when that may be next.
    fn silence_due(&mut self, now: Instant) -> Instant {
        if !self.takes_requests() {
            // It is we who do not listen.
            self.last_heard = now;
        }
        let patience = self.heartbeat * SILENT_HEARTBEATS;
        let silent = now.duration_since(self.last_heard);
        if silent < patience {
            return self.last_heard + patience;
        }
        if self.phase == Phase::Active {
            self.abandon("its member went silent", now);
        }
        self.end(GroupError::MemberSilent { silent_ms: silent.as_millis() });
        now + patience
    }

    // ---- sending

    pub(super) fn has_events(&self) -> bool {
        !self.outbox.is_empty() && self.phase != Phase::Gone
    }

    pub(super) fn next_event(&mut self, now: Instant) -> Option<Event> {
        let event = self.outbox.pop_front()?;
        self.last_sent = now;
        Some(event)
    }

    /// Events that are still worth sending when the stream ends.
    pub(super) fn last_events(&mut self) -> impl Iterator<Item = Event> {
        self.outbox.drain(..).filter(|event| !matches!(event, Event::Delivery(_) | Event::Heartbeat))
    }

    pub(super) fn push(&mut self, event: Event) {
        self.outbox.push_back(event);
    }

    /// How the stream ends, once nothing is left to be made durable.
    pub(super) fn finished(&self) -> Option<End> {
        if !self.settling.is_empty() || self.settling.under_way.is_some() {
            return None;
        }
        match &self.phase {
            Phase::Active => None,
            Phase::Leaving => self.held.values().all(|held| held.window.is_settled()).then_some(End::Left),
            Phase::Ending(error) => Some(End::Failed(error.clone())),
            Phase::Gone => Some(End::Gone),
        }
    }

    fn count_open(&self) {
        self.stats.set_open_records(self.held.values().map(|held| held.window.open_records()).sum());
    }
}

/// The partition of `turn`, if it is still delivered in that generation.
fn running(held: &mut BTreeMap<u32, Held>, turn: Turn) -> Option<&mut Held> {
    held.get_mut(&turn.partition).filter(|held| held.generation == turn.generation && held.flow == Flow::Running)
}

#[cfg(test)]
mod tests;
