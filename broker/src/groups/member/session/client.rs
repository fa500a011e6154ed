//! What a client says: room, settlements, that it is there, and that it goes.

use std::{num::NonZeroU64, ops::Range};

use aqueduct_storage::Offset;
use tokio::time::Instant;

use super::{Awaiting, Event, Request, Session, Settle, seat::Phase};
use crate::groups::{
    assignment::MemberId,
    error::GroupError,
    window::{Failed, Keys, Loan, Refusal, Window},
};

impl Session {
    /// Whether there is room for what another request of `seat` may cause.
    pub(in crate::groups::member) fn takes_requests(&self, seat: MemberId) -> bool {
        self.seats.get(seat).is_some_and(|seat| seat.takes_requests())
    }

    pub(in crate::groups::member) fn request(&mut self, id: MemberId, request: Request, now: Instant) {
        let Some(seat) = self.seats.get_mut(id) else { return };
        seat.last_heard = now;
        if matches!(request, Request::Ack(_) | Request::Nack { .. } | Request::Park { .. } | Request::Extend(_)) {
            seat.is_working(self.wall_clock.at_us(now));
        }
        match request {
            Request::Credit(credit) => seat.credit.add(credit),
            Request::Ack(settle) => self.settle(id, &settle, |window, ranges, keys| window.ack(id, ranges, keys)),
            Request::Nack { settle, pause, error } => {
                let fault = self.wall_clock.fault(&error, now);
                self.nack(id, settle, &Failed { fault, pause });
            }
            Request::Park { settle, reason } => self.park(id, settle, &self.wall_clock.fault(&reason, now)),
            Request::Extend(settle) => {
                let loan = Loan { seat: id, until: now + self.policy.ack_timeout };
                // There is nobody to answer; a generation that is over has no deadline to extend.
                self.applied(id, &settle, |window, ranges, _| window.extend(ranges, loan));
            }
            Request::Release(settle) => {
                self.settle(id, &settle, |window, ranges, keys| window.release(id, ranges, keys));
            }
            Request::Heartbeat => {}
            Request::Leave(leave) => seat.leave(leave),
            Request::Join(_) => {
                let reason = "this stream has joined already; open another one".to_owned();
                self.end_seat(id, GroupError::Invalid { field: "join", reason });
            }
        }
    }

    /// The client has gone, or has nothing more to say.
    pub(in crate::groups::member) fn client_gone(&mut self, id: MemberId, now: Instant) {
        let Some(seat) = self.seats.get_mut(id) else { return };
        let was = std::mem::replace(&mut seat.phase, Phase::Gone);
        match was {
            Phase::Active => self.abandon(id, "its member went away", now),
            Phase::Leaving | Phase::Ending(_) | Phase::Gone => self.vacate(id),
        }
        self.settling.retry_at = None;
    }

    /// The stream ends with `error`, once what was settled is durable.
    pub(in crate::groups::member) fn end_seat(&mut self, id: MemberId, error: GroupError) {
        if let Some(seat) = self.seats.get_mut(id).filter(|seat| seat.is_there()) {
            if error.is_about_conduct() {
                seat.stats.set_taken_out(error.clone());
            }
            seat.phase = Phase::Ending(error);
            self.settling.retry_at = None;
            self.vacate(id);
        }
    }

    /// The member has gone without a word: it may have been a record that took it along.
    pub(super) fn abandon(&mut self, id: MemberId, error: &str, now: Instant) {
        let fault = self.wall_clock.fault(error, now);
        for (partition, held) in &mut self.held {
            if held.window.open_records(id) > 0 {
                held.window.abandon(id, &fault, &mut self.keys);
                self.settling.moved.insert(*partition);
            }
        }
        self.vacate(id);
    }

    /// What the member had comes again, for others.
    fn vacate(&mut self, id: MemberId) {
        let partitions: Vec<u32> = self.held.keys().copied().collect();
        for partition in partitions {
            if let Some(held) = self.held.get_mut(&partition) {
                held.window.vacate(id, &mut self.keys);
                self.less_is_open(partition);
            }
        }
        self.count_open(id);
    }

    fn settle(
        &mut self,
        seat: MemberId,
        settle: &Settle,
        apply: impl FnOnce(&mut Window, &[Range<Offset>], &mut Keys) -> Result<(), Refusal>,
    ) {
        if let Some(committed) = self.applied(seat, settle, apply) {
            self.answer_when_durable(seat, settle, committed);
        }
    }

    pub(super) fn answer_when_durable(&mut self, seat: MemberId, settle: &Settle, committed: Offset) {
        let &Settle { ack_id, partition, generation, .. } = settle;
        if let (Some(ack_id), Some(with_seat)) = (ack_id, self.seats.get_mut(seat)) {
            with_seat.awaiting += 1;
            self.settling.next.push(Awaiting { seat, ack_id, partition, generation, committed });
        }
    }

    /// Delivery of a partition goes on from before.
    pub(super) fn rewound(&mut self, seat: MemberId, settle: &Settle, now: Instant) {
        let &Settle { partition, generation, .. } = settle;
        let Some(window) = self.held.get(&partition).map(|held| &held.window) else { return };
        let due = window.held_until(now).into_iter().chain(window.next_deadline()).chain(self.keys.next_pause());
        self.timer = due.chain([self.timer]).min().unwrap_or(now);
        let offset = window.cursor();
        self.push(seat, Event::Rewound { partition, generation, offset });
    }

    /// Applies a settlement, and returns the committed offset after it; one that is out of place is answered.
    pub(super) fn applied(
        &mut self,
        id: MemberId,
        settle: &Settle,
        apply: impl FnOnce(&mut Window, &[Range<Offset>], &mut Keys) -> Result<(), Refusal>,
    ) -> Option<Offset> {
        let &Settle { ack_id, partition, generation, ref ranges } = settle;
        let seat = self.seats.get_mut(id)?;
        let held = self.held.get_mut(&partition);
        let Some(held) = held.filter(|held| seat.generation(held.generation) == generation) else {
            seat.answer(ack_id, 0, Some(GroupError::StaleGeneration { partition, generation }));
            return None;
        };
        let outcome = apply(&mut held.window, ranges, &mut self.keys);
        let committed = held.window.progress().committed();
        if outcome == Err(Refusal::NotDelivered) {
            let reason = format!("offsets of partition {partition} that were not delivered");
            seat.answer(ack_id, committed, Some(GroupError::Invalid { field: "ranges", reason }));
            return None;
        }
        seat.carried_by = self.settling.coming();
        self.settling.moved.insert(partition);
        self.less_is_open(partition);
        self.count_open(id);
        match outcome {
            Ok(()) => Some(committed),
            Err(Refusal::TakenBack | Refusal::NotDelivered) => {
                self.answer(id, ack_id, GroupError::TakenBack { partition });
                None
            }
        }
    }

    fn answer(&mut self, seat: MemberId, ack_id: Option<NonZeroU64>, error: GroupError) {
        if let Some(seat) = self.seats.get_mut(seat) {
            seat.answer(ack_id, 0, Some(error));
        }
    }
}
