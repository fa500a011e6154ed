//! What is decided for those who share partitions: a state that is told what clients said, what the coordinator wants,
//! what was read and what time it is, and that says what to send, what to read next and what to commit.
//!
//! Every stream is a *seat*. In order, a session has one; where records are spread, it has all of its group and topic.
//! Pure. [`super::run`] does what it says.

mod client;
mod copies;
mod delivering;
mod leaving;
mod opening;
mod room;
mod seat;
mod settling;
mod stall;
mod target;
mod waiting;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use aqueduct_storage::Offset;
use tokio::time::Instant;

pub(super) use self::leaving::Survey;
pub(super) use self::seat::SeatTerms;
use self::{
    copies::Copies,
    leaving::{Leavings, Surveying},
    opening::Opening,
    seat::{Line, Phase, Seat, Seats},
    settling::{Awaiting, Settling},
};
pub(in crate::groups) use self::{
    copies::{detached, pool as copies_pool},
    leaving::{Departed, Exits, MOVED_BYTES, Moved},
};
use super::message::{Assigned, Delivery, Event, Loss, Request, Settle};
use crate::{
    fair_pool::Share,
    groups::{
        assignment::MemberId,
        error::GroupError,
        policy::{Mode, Policy},
        retry::{OnExhausted, RetryPolicy, error_text},
        window::{Fault, Keys, Scope, Window},
    },
};

/// Events that wait for a client before nothing more is taken from it.
const OUTBOX_EVENTS: usize = 1024;
/// Acks that wait for the journal before nothing more is taken from their client.
const AWAITING_ACKS: usize = 4096;
/// A member is gone after this many heartbeats of silence.
const SILENT_HEARTBEATS: u32 = 3;
/// While nobody is there, and nothing is to be done.
const IDLE: Duration = Duration::from_secs(60);

/// See the [module](self).
pub(super) struct Session {
    /// As which it has its partitions.
    id: MemberId,
    policy: Policy,
    wall_clock: WallClock,
    seats: Seats,
    entry: Entry,
    /// Everybody's stream ends with this.
    ending: Option<GroupError>,
    held: BTreeMap<u32, Held>,
    /// Where keys are kept together: which of them is where.
    keys: Keys,
    looking_through: LookingThrough,
    surveying: Surveying,
    /// How often dead letters have been redriven or discarded, as far as is known.
    letters_settled: u64,
    /// Partitions that may have something to deliver, in order of their turns. None is in it twice.
    turns: VecDeque<u32>,
    settling: Settling,
    leaving: Leavings,
    copies: Copies,
    opening: Opening,
    /// Generations that were given up and that the coordinator may still list.
    given_up: BTreeSet<u64>,
    /// Nothing is due before.
    timer: Instant,
}

/// Whether seats may still be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entry {
    Open,
    Closed,
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

/// A partition that the session has.
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
    /// Broken: it was reported, and stays with the session.
    Failed,
    /// Revoked: moves on once nothing is open.
    Leaving,
}

/// Whether all that was in retry when the session got it has been seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LookingThrough {
    Done,
    UnderWay,
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

/// What to read next, and for whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Turn {
    pub(super) partition: u32,
    pub(super) generation: u64,
    pub(super) seat: MemberId,
    pub(super) cursor: Offset,
    pub(super) bytes_max: usize,
}

impl Session {
    pub(super) fn new(id: MemberId, policy: Policy, wall_clock: WallClock, copies: Arc<Share>) -> Self {
        let mut session = Self {
            id,
            policy,
            wall_clock,
            seats: Seats::default(),
            entry: Entry::Open,
            ending: None,
            held: BTreeMap::new(),
            keys: Keys::default(),
            looking_through: LookingThrough::Done,
            surveying: Surveying::Done,
            letters_settled: 0,
            turns: VecDeque::new(),
            settling: Settling::default(),
            leaving: Leavings::default(),
            copies: Copies::new(copies),
            opening: Opening::default(),
            given_up: BTreeSet::new(),
            timer: wall_clock.at,
        };
        session.set_scope();
        session
    }

    // ---- who is there

    /// A stream joins.
    pub(super) fn join(&mut self, id: MemberId, terms: SeatTerms, joined: Event, now: Instant) {
        let mut seat = Seat::new(terms, now);
        seat.outbox.push_back(joined);
        let assigned: Vec<Assigned> = self.held.iter().filter_map(|(p, held)| held.assigned_to(*p, &seat)).collect();
        if !assigned.is_empty() {
            seat.outbox.push_back(Event::Assignment { assigned, revoked: Vec::new() });
        }
        self.seats.insert(id, seat);
        self.timer = now;
        if let Some(error) = self.ending.clone() {
            self.end_seat(id, error);
        }
    }

    /// What is parked with a record may have changed.
    fn set_scope(&mut self) {
        let scope = match self.policy.retry.on_exhausted {
            OnExhausted::Park | OnExhausted::Halt => Scope::Record,
            OnExhausted::ParkKey => Scope::Key,
        };
        if self.keys.scope() != scope {
            self.keys.set_scope(scope);
            self.survey_if_it_matters();
            self.know_more();
        }
    }

    /// Dead letters have come or gone without the session: it looks which keys are parked before it delivers anything new.
    fn survey_if_it_matters(&mut self) {
        self.surveying = match self.keys.scope() {
            Scope::Record => Surveying::Done,
            Scope::Key => {
                self.keys.look_through();
                Surveying::Due
            }
        };
    }

    /// Nobody else will join.
    pub(super) fn close_entry(&mut self) {
        self.entry = Entry::Closed;
    }

    /// Every stream ends with `error`, once what was settled is durable.
    pub(super) fn end(&mut self, error: GroupError) {
        self.settling.retry_at = None;
        for id in self.seats.ids() {
            self.end_seat(id, error.clone());
        }
        self.ending.get_or_insert(error);
    }

    /// A stream that has nothing to wait for any more, and how it ends.
    pub(super) fn next_departure(&self) -> Option<(MemberId, End)> {
        self.seats.iter().find_map(|(id, seat)| {
            let is_carried = self.settling.has_ended(seat.carried_by);
            let end = match &seat.phase {
                Phase::Active => None,
                Phase::Leaving => (is_carried && seat.awaiting == 0 && self.is_done(id)).then_some(End::Left),
                Phase::Ending(error) => is_carried.then(|| End::Failed(error.clone())),
                Phase::Gone => Some(End::Gone),
            };
            Some((id, end?))
        })
    }

    /// It departs; returns what is still worth sending.
    pub(super) fn depart(&mut self, id: MemberId) -> Vec<Event> {
        let Some(seat) = self.seats.remove(id) else { return Vec::new() };
        let is_worth_it = |event: &Event| !matches!(event, Event::Delivery(_) | Event::Heartbeat);
        seat.outbox.into_iter().filter(is_worth_it).collect()
    }

    /// Whether nobody is left, nor anything to be made durable.
    pub(super) fn is_finished(&self) -> bool {
        let is_closed = self.entry == Entry::Closed || self.ending.is_some();
        is_closed && self.seats.is_empty() && self.settling.is_over() && !self.is_moving()
    }

    /// What becomes of records that have failed.
    pub(super) fn retry(&self) -> RetryPolicy {
        self.policy.retry
    }

    /// Whether records of one key are kept together.
    pub(super) fn keeps_keys(&self) -> bool {
        self.policy.mode == Mode::Keyed
    }

    /// Whether there is, or may come, somebody to deliver to.
    fn goes_on(&self) -> bool {
        self.ending.is_none() && (self.entry == Entry::Open || self.seats.any_there())
    }

    /// Whether `seat` has nothing left to settle.
    fn is_done(&self, seat: MemberId) -> bool {
        let mut windows = self.held.values().map(|held| &held.window);
        match self.policy.mode {
            // Its partitions go with it.
            Mode::Ordered => windows.all(Window::is_settled),
            Mode::Shared | Mode::Keyed => windows.all(|window| window.open_records(seat) == 0),
        }
    }

    // ---- time

    /// When [`on_time`](Self::on_time) may have something to do.
    pub(super) fn timer(&self) -> Instant {
        self.timer
    }

    /// Looks what time of day it is. Whoever serves the session does so before it delivers anything.
    pub(super) fn look_at_the_clock(&mut self, now: Instant, now_us: impl FnOnce() -> i64) {
        self.timer = self.opening.look(now, now_us).into_iter().chain([self.timer]).min().unwrap_or(self.timer);
    }

    /// Does what is due: time-outs, delays that are over, heartbeats.
    pub(super) fn on_time(&mut self, now: Instant) {
        let mut timer = now + IDLE;
        for id in self.seats.ids() {
            timer = timer.min(self.look_after(id, now));
        }
        let fault = self.wall_clock.fault("it was not settled within the ack time-out", now);
        self.keys.resume(now);
        let partitions: Vec<u32> = self.held.keys().copied().collect();
        let mut late = BTreeSet::new();
        for partition in partitions {
            let Some(held) = self.held.get_mut(&partition) else { continue };
            for seat in held.window.expire(self.id, &fault, &mut self.keys) {
                late.insert(seat);
                self.seats.get(seat).iter().for_each(|seat| seat.stats.count_timeout());
                self.settling.moved.insert(partition);
            }
            let due = held.window.next_deadline().into_iter().chain(held.window.held_until(now)).min();
            timer = due.map_or(timer, |due| timer.min(due));
            self.less_is_open(partition);
        }
        self.seats.ids().into_iter().for_each(|id| self.count_open(id));
        late.into_iter().for_each(|seat| self.timed_out(seat, now));
        let retries = self.settling.retry_at.into_iter().chain(self.leaving.retry_at).chain(self.keys.next_pause());
        self.timer = retries.chain([timer]).min().unwrap_or(timer).max(now);
    }

    /// Sends a heartbeat if it is time for one, and takes the member for gone if it has been silent for too long; returns
    /// when to look again.
    fn look_after(&mut self, id: MemberId, now: Instant) -> Instant {
        let Some(seat) = self.seats.get_mut(id) else { return now + IDLE };
        seat.forgive_what_passed_unseen(now);
        if let Some(unread) = seat.unread_for_too_long(now) {
            // Nobody has looked at what it has: no attempt is counted.
            self.end_seat(id, GroupError::MemberNotReading { unread_ms: unread.as_millis() });
            return now + IDLE;
        }
        let (heartbeat_due, silence_due) = (seat.heartbeat_due(now), seat.silence_due(now));
        if silence_due > now {
            return heartbeat_due.min(silence_due);
        }
        let silent_ms = now.duration_since(seat.last_heard).as_millis();
        if seat.phase == Phase::Active {
            self.abandon(id, "its member went silent", now);
        }
        self.end_seat(id, GroupError::MemberSilent { silent_ms });
        heartbeat_due
    }

    /// The clock was set forward: nobody has been silent for that time.
    pub(super) fn set_forward(&mut self, by: Duration) {
        for (_, seat) in self.seats.iter_mut() {
            seat.last_heard += by;
            seat.last_sent += by;
        }
    }

    /// Deliveries to `id` have run into the ack time-out.
    fn timed_out(&mut self, id: MemberId, now: Instant) {
        let Some(seat) = self.seats.get_mut(id) else { return };
        let Policy { ack_timeout, retry, .. } = &self.policy;
        seat.stall.timed_out(now, *ack_timeout);
        let timeouts = seat.stall.timeouts();
        if timeouts == 1 {
            seat.stats.set_stalled_since(Some(self.wall_clock.at_us(now)));
        }
        if seat.stall.is_stuck(retry.max_attempts) && seat.phase == Phase::Active {
            seat.stats.set_gone_for_good();
            let ack_timeout_ms = ack_timeout.as_millis();
            self.end_seat(id, GroupError::MemberStuck { timeouts, ack_timeout_ms });
        }
    }

    // ---- sending

    pub(super) fn has_events(&self, seat: MemberId) -> bool {
        self.seats.get(seat).is_some_and(|seat| !seat.outbox.is_empty() && seat.phase != Phase::Gone)
    }

    pub(super) fn next_event(&mut self, seat: MemberId, now: Instant) -> Option<Event> {
        let seat = self.seats.get_mut(seat)?;
        let event = seat.outbox.pop_front()?;
        seat.last_sent = now;
        Some(event)
    }

    fn push(&mut self, seat: MemberId, event: Event) {
        if let Some(seat) = self.seats.get_mut(seat) {
            seat.outbox.push_back(event);
        }
    }

    fn push_to_all(&mut self, event: &Event) {
        self.seats.iter_mut().for_each(|(_, seat)| seat.outbox.push_back(event.clone()));
    }

    fn count_open(&self, id: MemberId) {
        if let Some(seat) = self.seats.get(id) {
            seat.stats.set_open_records(self.held.values().map(|held| held.window.open_records(id)).sum());
        }
    }
}

impl Held {
    /// As what `seat` has it.
    fn assigned_to(&self, partition: u32, seat: &Seat) -> Option<Assigned> {
        let generation = seat.generation(self.generation);
        let committed = self.window.progress().committed();
        (self.flow != Flow::Leaving).then_some(Assigned { partition, generation, committed })
    }
}

#[cfg(test)]
mod tests;
