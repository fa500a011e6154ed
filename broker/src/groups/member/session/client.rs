//! What the client says: room, settlements, that it is there, and that it goes.

use std::{num::NonZeroU64, ops::Range};

use aqueduct_storage::Offset;
use tokio::time::Instant;

use super::{AWAITING_ACKS, Awaiting, Event, Leave, OUTBOX_EVENTS, Phase, Request, Session, Settle};
use crate::groups::{
    error::GroupError,
    window::{Fault, NotDelivered, Pause, Window},
};

impl Session {
    /// Whether there is room for what another request may cause.
    pub(in crate::groups::member) fn takes_requests(&self) -> bool {
        let open = matches!(self.phase, Phase::Active | Phase::Leaving);
        let awaiting = self.settling.next.len() + self.parking.awaiting.len();
        open && self.outbox.len() < OUTBOX_EVENTS && awaiting < AWAITING_ACKS
    }

    pub(in crate::groups::member) fn request(&mut self, request: Request, now: Instant) {
        self.last_heard = now;
        if matches!(request, Request::Ack(_) | Request::Nack { .. } | Request::Park { .. } | Request::Extend(_)) {
            self.is_working(now);
        }
        match request {
            Request::Credit(credit) => self.credit.add(credit),
            Request::Ack(settle) => self.settle(settle, |window, ranges| window.ack(ranges)),
            Request::Nack { settle, pause, error } => self.nack(settle, &self.wall_clock.fault(&error, now), pause),
            Request::Park { settle, reason } => self.park(settle, &self.wall_clock.fault(&reason, now)),
            Request::Extend(settle) => {
                let deadline = now + self.policy.ack_timeout;
                // There is nobody to answer; a generation that is over has no deadline to extend.
                self.applied(&settle, |window, ranges| window.extend(ranges, deadline));
            }
            Request::Release(settle) => self.settle(settle, Window::release),
            Request::Heartbeat => {}
            Request::Leave(leave) => self.leave(leave),
            Request::Join(_) => {
                let reason = "this stream has joined already; open another one".to_owned();
                self.end(GroupError::Invalid { field: "join", reason });
            }
        }
    }

    fn leave(&mut self, leave: Leave) {
        match leave {
            Leave::ForNow => {}
            Leave::ForGood => self.stats.set_gone_for_good(),
        }
        if self.phase == Phase::Active {
            self.phase = Phase::Leaving;
        }
    }

    /// The program behind the client handles what it is delivered.
    fn is_working(&mut self, now: Instant) {
        self.stats.set_last_settled(self.wall_clock.at_us(now));
        if self.stall.timeouts() > 0 {
            self.stall.settled();
            self.stats.set_stalled_since(None);
        }
    }

    /// The client has gone, or has nothing more to say.
    pub(in crate::groups::member) fn client_gone(&mut self, now: Instant) {
        if self.phase == Phase::Active {
            self.abandon("its member went away", now);
        }
        self.phase = Phase::Gone;
        self.settling.retry_at = None;
    }

    /// The member has gone without a word: it may have been a record that took it along.
    pub(super) fn abandon(&mut self, error: &str, now: Instant) {
        let fault = self.wall_clock.fault(error, now);
        for (partition, held) in &mut self.held {
            if held.window.open_records() > 0 {
                held.window.abandon(&fault);
                self.settling.moved.insert(*partition);
            }
        }
    }

    pub(in crate::groups::member) fn client_has_gone(&self) -> bool {
        self.phase == Phase::Gone
    }

    fn nack(&mut self, settle: Settle, fault: &Fault, pause: Pause) {
        let (partition, generation) = (settle.partition, settle.generation);
        let Some(committed) = self.applied(&settle, |window, ranges| window.nack(ranges, fault, pause)) else { return };
        self.answer_when_durable(&settle, committed);
        let Some(window) = self.held.get(&partition).map(|held| &held.window) else { return };
        self.outbox.push_back(Event::Rewound { partition, generation, offset: window.cursor() });
        self.timer = window.held_until(fault.at).into_iter().chain([self.timer]).min().unwrap_or(fault.at);
    }

    fn settle(
        &mut self,
        settle: Settle,
        apply: impl FnOnce(&mut Window, &[Range<Offset>]) -> Result<(), NotDelivered>,
    ) {
        if let Some(committed) = self.applied(&settle, apply) {
            self.answer_when_durable(&settle, committed);
        }
    }

    fn answer_when_durable(&mut self, settle: &Settle, committed: Offset) {
        let &Settle { ack_id, partition, generation, .. } = settle;
        self.settling.next.extend(ack_id.map(|ack_id| Awaiting { ack_id, partition, generation, committed }));
    }

    /// Applies a settlement, and returns the committed offset after it; one that is out of place is answered.
    pub(super) fn applied(
        &mut self,
        settle: &Settle,
        apply: impl FnOnce(&mut Window, &[Range<Offset>]) -> Result<(), NotDelivered>,
    ) -> Option<Offset> {
        let &Settle { ack_id, partition, generation, ref ranges } = settle;
        let Some(held) = self.held.get_mut(&partition).filter(|held| held.generation == generation) else {
            self.answer(ack_id, 0, Some(GroupError::StaleGeneration { partition, generation }));
            return None;
        };
        let outcome = apply(&mut held.window, ranges);
        let committed = held.window.progress().committed();
        if outcome.is_err() {
            let reason = format!("offsets of partition {partition} that were not delivered");
            self.answer(ack_id, committed, Some(GroupError::Invalid { field: "ranges", reason }));
            return None;
        }
        self.settling.moved.insert(partition);
        self.less_is_open(partition);
        self.count_open();
        Some(committed)
    }

    pub(super) fn answer(&mut self, ack_id: Option<NonZeroU64>, committed: Offset, error: Option<GroupError>) {
        self.outbox.extend(ack_id.map(|ack_id| Event::Settled { ack_id, committed, error }));
    }
}
