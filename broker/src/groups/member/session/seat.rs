//! One stream of a session: its credit, what waits to be sent to it, and whether it is still there.

use std::{
    collections::{BTreeMap, VecDeque},
    num::NonZeroU64,
    sync::Arc,
    time::Duration,
};

use aqueduct_storage::Offset;
use tokio::time::Instant;

use super::{AWAITING_ACKS, Event, OUTBOX_EVENTS, SILENT_HEARTBEATS, room::Room, stall::Stall};
use crate::groups::{
    assignment::MemberId,
    coordinator::{MemberStats, SeatGeneration},
    error::GroupError,
    member::message::{Credit, Leave},
};

/// What a stream brings along.
pub(in crate::groups::member) struct SeatTerms {
    pub(in crate::groups::member) generation: SeatGeneration,
    pub(in crate::groups::member) heartbeat: Duration,
    /// The first one.
    pub(in crate::groups::member) credit: Credit,
    pub(in crate::groups::member) stats: Arc<MemberStats>,
}

/// How a seat stands to its stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Phase {
    Active,
    /// The client wants to go; what is open is still settled.
    Leaving,
    /// The stream ends with this, once what was settled is durable.
    Ending(GroupError),
    /// The client has gone; what it had settled is still made durable.
    Gone,
}

/// Whether the connection takes more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Line {
    Free,
    Full,
}

/// See the [module](self).
pub(super) struct Seat {
    pub(super) generation: SeatGeneration,
    pub(super) heartbeat: Duration,
    pub(super) stats: Arc<MemberStats>,
    pub(super) phase: Phase,
    pub(super) credit: Room,
    pub(super) line: Line,
    pub(super) outbox: VecDeque<Event>,
    /// Requests that are answered later.
    pub(super) awaiting: usize,
    /// The settlement that has carried what it has said so far.
    pub(super) carried_by: u64,
    pub(super) last_heard: Instant,
    pub(super) last_sent: Instant,
    /// When what was due was done last.
    last_looked: Instant,
    pub(super) stall: Stall,
}

impl Seat {
    pub(super) fn new(terms: SeatTerms, now: Instant) -> Self {
        let SeatTerms { generation, heartbeat, credit, stats } = terms;
        Self {
            generation,
            heartbeat,
            stats,
            phase: Phase::Active,
            credit: credit.into(),
            line: Line::Free,
            outbox: VecDeque::new(),
            awaiting: 0,
            carried_by: 0,
            last_heard: now,
            last_sent: now,
            last_looked: now,
            stall: Stall::default(),
        }
    }

    /// Under which it has a partition that the session has in `generation`.
    pub(super) fn generation(&self, generation: u64) -> u64 {
        match self.generation {
            SeatGeneration::OfPartition => generation,
            SeatGeneration::Own(own) => own,
        }
    }

    /// Whether its client is still listened to.
    pub(super) fn is_there(&self) -> bool {
        matches!(self.phase, Phase::Active | Phase::Leaving)
    }

    /// Whether there is room for what another request may cause.
    pub(super) fn takes_requests(&self) -> bool {
        self.is_there() && self.outbox.len() < OUTBOX_EVENTS && self.awaiting < AWAITING_ACKS
    }

    /// Whether something could be sent to it at once.
    pub(super) fn takes_deliveries(&self) -> bool {
        self.phase == Phase::Active && self.outbox.is_empty() && self.line == Line::Free && self.credit.is_left()
    }

    /// Sends a heartbeat if it is time for one; returns when the next is due.
    pub(super) fn heartbeat_due(&mut self, now: Instant) -> Instant {
        let due = self.last_sent + self.heartbeat;
        if due > now {
            return due;
        }
        if self.outbox.is_empty() {
            self.outbox.push_back(Event::Heartbeat);
        }
        now + self.heartbeat
    }

    /// When it is taken for gone unless it says something.
    pub(super) fn silence_due(&mut self, now: Instant) -> Instant {
        if !self.takes_requests() {
            // It is we who do not listen.
            self.last_heard = now;
        }
        self.last_heard + self.heartbeat * SILENT_HEARTBEATS
    }

    /// A process that was stopped for a while, or whose clock was set forward, has heard nothing meanwhile: that is not the
    /// member's silence.
    pub(super) fn forgive_what_passed_unseen(&mut self, now: Instant) {
        let unseen = now.saturating_duration_since(self.last_looked);
        if unseen > self.heartbeat * 2 {
            self.last_heard = now.min(self.last_heard + unseen);
            self.last_sent = now.min(self.last_sent + unseen);
        }
        self.last_looked = now;
    }

    /// How long its client has taken nothing of what waits for it, if that is too long.
    pub(super) fn unread_for_too_long(&self, now: Instant) -> Option<Duration> {
        let unread = now.saturating_duration_since(self.last_sent);
        (!self.outbox.is_empty() && unread >= self.heartbeat * SILENT_HEARTBEATS).then_some(unread)
    }

    /// The program behind the client handles what it is delivered.
    pub(super) fn is_working(&mut self, now_us: i64) {
        self.stats.set_last_settled(now_us);
        if self.stall.timeouts() > 0 {
            self.stall.settled();
            self.stats.set_stalled_since(None);
        }
    }

    pub(super) fn leave(&mut self, leave: Leave) {
        match leave {
            Leave::ForNow => {}
            Leave::ForGood => self.stats.set_gone_for_good(),
        }
        if self.phase == Phase::Active {
            self.phase = Phase::Leaving;
        }
    }

    pub(super) fn answer(&mut self, ack_id: Option<NonZeroU64>, committed: Offset, error: Option<GroupError>) {
        self.outbox.extend(ack_id.map(|ack_id| Event::Settled { ack_id, committed, error }));
    }
}

/// The seats of a session, and whose turn it is.
#[derive(Default)]
pub(super) struct Seats {
    seats: BTreeMap<MemberId, Seat>,
    served_last: MemberId,
}

impl Seats {
    pub(super) fn insert(&mut self, id: MemberId, seat: Seat) {
        self.seats.insert(id, seat);
    }

    pub(super) fn remove(&mut self, id: MemberId) -> Option<Seat> {
        self.seats.remove(&id)
    }

    pub(super) fn get(&self, id: MemberId) -> Option<&Seat> {
        self.seats.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: MemberId) -> Option<&mut Seat> {
        self.seats.get_mut(&id)
    }

    pub(super) fn ids(&self) -> Vec<MemberId> {
        self.seats.keys().copied().collect()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (MemberId, &Seat)> {
        self.seats.iter().map(|(id, seat)| (*id, seat))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (MemberId, &mut Seat)> {
        self.seats.iter_mut().map(|(id, seat)| (*id, seat))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.seats.is_empty()
    }

    /// Whether any client is still listened to.
    pub(super) fn any_there(&self) -> bool {
        self.seats.values().any(Seat::is_there)
    }

    /// The next that something can be delivered to.
    pub(super) fn next_in_turn(&self) -> Option<MemberId> {
        let after = self.seats.range(self.served_last.saturating_add(1)..);
        let mut in_turn = after.chain(self.seats.range(..=self.served_last));
        in_turn.find(|(_, seat)| seat.takes_deliveries()).map(|(id, _)| *id)
    }

    /// It has had its turn.
    pub(super) fn served(&mut self, id: MemberId) {
        self.served_last = id;
    }

    /// Answers a request that had to wait.
    pub(super) fn answer(&mut self, awaiting: super::Awaiting, error: Option<GroupError>) {
        if let Some(seat) = self.seats.get_mut(&awaiting.seat) {
            seat.awaiting = seat.awaiting.saturating_sub(1);
            seat.answer(Some(awaiting.ack_id), awaiting.committed, error);
        }
    }
}
