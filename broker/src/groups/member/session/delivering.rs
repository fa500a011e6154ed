//! What to read next, for whom, and what of it is delivered.

use aqueduct_storage::Offset;
use tokio::time::Instant;

use super::{Delivery, Event, Flow, Held, Line, LookingThrough, Loss, Phase, Session, Turn, leaving::Surveying};
use crate::groups::{
    assignment::MemberId,
    error::GroupError,
    member::keys::KeyedBatch,
    policy::Mode,
    retry::Failure,
    state::REDRIVEN,
    window::{Lending, Loan},
};

impl Session {
    /// The partition may have something to deliver.
    pub(in crate::groups::member) fn queue(&mut self, partition: u32) {
        if let Some(held) = self.held.get_mut(&partition)
            && held.flow == Flow::Running
            && !held.queued
        {
            held.queued = true;
            self.turns.push_back(partition);
        }
    }

    /// What to read next. Nothing is read that could not be sent at once.
    pub(in crate::groups::member) fn next_turn(&mut self, now: Instant) -> Option<Turn> {
        if self.opening.is_closed() {
            return None;
        }
        self.retries_are_ready();
        let seat = self.seats.next_in_turn()?;
        let bytes_max = self.seats.get(seat)?.credit.read_bytes();
        while let Some(partition) = self.turns.pop_front() {
            let Some(held) = self.held.get_mut(&partition) else { continue };
            held.queued = false;
            if partition != REDRIVEN && !self.keys.know_all() {
                // It is queued again when they do.
                continue;
            }
            if let Some(until) = held.window.held_until(now) {
                self.timer = self.timer.min(until);
            } else if held.flow == Flow::Running && held.window.has_room(&self.keys) {
                let (generation, cursor) = (held.generation, held.window.cursor());
                return Some(Turn { partition, generation, seat, cursor, bytes_max });
            }
        }
        None
    }

    /// What is in retry may be delivered once its key's turn has come.
    fn retries_are_ready(&mut self) {
        let ready = self.keys.take_ready();
        if let Some(held) = self.held.get_mut(&REDRIVEN).filter(|_| !ready.is_empty()) {
            held.window.come_again(ready);
            self.queue(REDRIVEN);
        }
    }

    /// The log was read up to its end.
    pub(in crate::groups::member) fn read_to_the_end(&mut self, partition: u32) {
        if partition == REDRIVEN {
            self.keys.seen_to_the_end();
            self.looking_through = LookingThrough::Done;
            self.know_more();
        }
    }

    /// New records are delivered once it is known which keys have something in retry, or are parked.
    pub(super) fn know_more(&mut self) {
        let knows_all = self.looking_through == LookingThrough::Done && self.surveying == Surveying::Done;
        if knows_all && !self.keys.know_all() {
            self.keys.looked_through();
            let partitions: Vec<u32> = self.held.keys().copied().collect();
            partitions.into_iter().for_each(|partition| self.queue(partition));
        }
    }

    /// The connection of `seat` takes nothing for now.
    pub(in crate::groups::member) fn hold(&mut self, seat: MemberId) {
        self.set_line(seat, Line::Full);
    }

    /// It takes something again.
    pub(in crate::groups::member) fn unhold(&mut self, seat: MemberId) {
        self.set_line(seat, Line::Free);
    }

    fn set_line(&mut self, seat: MemberId, line: Line) {
        if let Some(seat) = self.seats.get_mut(seat) {
            seat.line = line;
        }
    }

    /// Delivers what was read for `turn`, as far as credit goes.
    pub(in crate::groups::member) fn deliver(
        &mut self,
        turn: Turn,
        batches: Vec<KeyedBatch>,
        high_watermark: Offset,
        now: Instant,
    ) {
        let Some(held) = self.held.get_mut(&turn.partition).filter(|held| held.is_running(turn)) else { return };
        let seat = self.seats.get_mut(turn.seat).filter(|seat| seat.phase == Phase::Active);
        let is_due = held.window.held_until(now).is_none() && !self.opening.is_closed();
        let Some(seat) = seat.filter(|_| is_due && held.window.cursor() == turn.cursor) else {
            // It was settled meanwhile in a way that makes another read necessary, or the hours are over.
            return self.queue(turn.partition);
        };
        let loan = Loan { seat: turn.seat, until: now + self.policy.ack_timeout };
        let committed = held.window.progress().committed();
        let generation = seat.generation(turn.generation);
        let mut kept = self.copies.reading(turn.partition, batches.iter().map(|keyed| &keyed.batch));
        for KeyedBatch { batch, belongs } in batches {
            if !seat.credit.is_left() || !held.window.has_room(&self.keys) {
                break;
            }
            let records_max = match self.policy.mode {
                Mode::Ordered => u64::MAX,
                Mode::Shared | Mode::Keyed => seat.credit.records(),
            };
            let lending = Lending { loan, records_max, now };
            for portion in held.window.deliver(&batch.header, &belongs, lending, &mut self.keys) {
                seat.credit.take(batch.payload.len(), portion.records());
                seat.outbox.push_back(Event::Delivery(Delivery {
                    partition: turn.partition,
                    generation,
                    batch: batch.clone(),
                    ranges: portion.ranges,
                    attempt: portion.attempt,
                    high_watermark,
                }));
            }
            if self.policy.mode != Mode::Ordered {
                self.copies.keep(&mut kept, &batch);
                // Some of it may leave without having been delivered.
                let leaving = held.window.leaving_in(&(batch.header.base_offset..batch.header.next_offset()));
                self.copies.make_from(turn.partition, &batch, &leaving);
            }
        }
        if held.window.progress().committed() != committed {
            self.settling.moved.insert(turn.partition);
        }
        let halted = held.window.halted();
        self.seats.served(turn.seat);
        if let Some((offset, Failure { attempts, last_error, .. })) = halted {
            let partition = turn.partition;
            let error = GroupError::Halted { partition, offset, attempts, last_error: last_error.to_string() };
            self.push(turn.seat, Event::Failure { partition, error });
        }
        self.timer = self.keys.next_pause().into_iter().chain([self.timer, loan.until]).min().unwrap_or(now);
        self.queue(turn.partition);
        self.count_open(turn.seat);
    }

    /// What `turn` was to read is gone up to `next`: the member is told, and the group goes on there.
    pub(in crate::groups::member) fn gap(&mut self, turn: Turn, next: Offset, cause: Loss) {
        let Some(held) = self.held.get_mut(&turn.partition).filter(|held| held.is_running(turn)) else { return };
        let lost = held.window.skip_to(next, &mut self.keys);
        if !lost.is_empty() {
            self.copies.forget(turn.partition, lost.clone());
            self.answer_left(turn.partition);
            self.settling.moved.insert(turn.partition);
            self.push(turn.seat, Event::Gap { partition: turn.partition, lost, cause });
            self.seats.ids().into_iter().for_each(|id| self.count_open(id));
        }
        self.queue(turn.partition);
    }

    /// The partition cannot be delivered further. The others go on.
    pub(in crate::groups::member) fn fail(&mut self, partition: u32, generation: u64, error: GroupError) {
        let Some(held) = self.held.get_mut(&partition).filter(|held| held.generation == generation) else { return };
        if held.flow == Flow::Running {
            held.flow = Flow::Failed;
            self.read_to_the_end(partition);
            self.push_to_all(&Event::Failure { partition, error });
        }
    }

    /// The generation in which the session has `partition`.
    pub(in crate::groups::member) fn generation(&self, partition: u32) -> Option<u64> {
        self.held.get(&partition).map(|held| held.generation)
    }
}

impl Held {
    /// Whether it is still delivered in the generation of `turn`.
    fn is_running(&self, turn: Turn) -> bool {
        self.generation == turn.generation && self.flow == Flow::Running
    }
}
