//! What windows have in common in which keys stay in order: members let their records go one by one, each with what becomes of
//! its key.

use std::ops::Range;

use aqueduct_storage::Offset;

use super::{Failed, Fault, Keys, Pause, Refusal, records::Records};
use crate::groups::assignment::MemberId;

/// Records whose keys are looked for at once.
const LOOKED_AHEAD: usize = 256;

/// See the [module](self).
pub(super) trait ByKey {
    /// What is known of a record that leaves.
    type Leaving: Clone;

    fn records(&mut self) -> &mut Records<Self::Leaving>;

    /// Moves a record away that is with nobody any more.
    fn fail(&mut self, offset: Offset, fault: &Fault, pause: Pause, keys: &mut Keys);

    /// Parks a record that is with nobody any more. What follows goes on, unless its key is parked, too.
    fn give_up(&mut self, offset: Offset, fault: &Fault, keys: &mut Keys);

    /// These are about to be settled.
    fn look_ahead(&self, range: Range<Offset>, keys: &Keys);

    /// The record is handled.
    fn settle(&mut self, offset: Offset, keys: &mut Keys);

    /// The record comes again: at once, or when its key says so.
    fn give_back(&mut self, offset: Offset, keys: &mut Keys);

    /// `seat` has handled what it has of `ranges`.
    fn ack(&mut self, seat: MemberId, ranges: &[Range<Offset>], keys: &mut Keys) -> Result<(), Refusal> {
        self.records().check(ranges)?;
        for part in self.records().take(ranges, seat) {
            self.records().progress.ack(part.clone());
            for begin in part.clone().step_by(LOOKED_AHEAD) {
                let some = begin..part.end.min(begin + LOOKED_AHEAD as u64);
                self.look_ahead(some.clone(), keys);
                some.for_each(|offset| self.settle(offset, keys));
            }
        }
        self.records().check_settled(ranges)
    }

    /// `seat` could not handle what it has of `ranges`.
    fn nack(
        &mut self,
        seat: MemberId,
        ranges: &[Range<Offset>],
        Failed { fault, pause }: &Failed,
        keys: &mut Keys,
    ) -> Result<(), Refusal> {
        self.let_go(seat, ranges, |window, offset| window.fail(offset, fault, *pause, keys))
    }

    /// `seat` gives up what it has of `ranges`.
    fn park(
        &mut self,
        seat: MemberId,
        ranges: &[Range<Offset>],
        fault: &Fault,
        keys: &mut Keys,
    ) -> Result<(), Refusal> {
        self.let_go(seat, ranges, |window, offset| window.give_up(offset, fault, keys))
    }

    fn release(&mut self, seat: MemberId, ranges: &[Range<Offset>], keys: &mut Keys) -> Result<(), Refusal> {
        self.records().check(ranges)?;
        let parts = self.records().take(ranges, seat);
        parts.into_iter().flatten().for_each(|offset| self.give_back(offset, keys));
        Ok(())
    }

    fn abandon(&mut self, seat: MemberId, fault: &Fault, keys: &mut Keys) {
        let parts = self.records().loans.take_all(seat);
        self.take_back(parts, fault, keys);
    }

    fn vacate(&mut self, seat: MemberId, keys: &mut Keys) {
        self.records().loans.take_all(seat).into_iter().flatten().for_each(|offset| self.give_back(offset, keys));
    }

    fn expire(&mut self, fault: &Fault, keys: &mut Keys) -> Vec<MemberId> {
        let expired = self.records().loans.take_expired(fault.at);
        let seats = expired.keys().copied().collect();
        expired.into_values().for_each(|parts| self.take_back(parts, fault, keys));
        seats
    }

    /// Lets what `seat` has of `ranges` go.
    fn let_go(
        &mut self,
        seat: MemberId,
        ranges: &[Range<Offset>],
        mut each: impl FnMut(&mut Self, Offset),
    ) -> Result<(), Refusal> {
        self.records().check(ranges)?;
        let unsettled = self.records().staying_in(ranges);
        let parts = self.records().take(ranges, seat);
        let taken: u64 = parts.iter().map(|part| part.end - part.start).sum();
        parts.into_iter().flatten().for_each(|offset| each(self, offset));
        if taken == unsettled { Ok(()) } else { Err(Refusal::TakenBack) }
    }

    /// One member's records come again. It counts as an attempt at the first, which is the one that it was working on.
    fn take_back(&mut self, parts: Vec<Range<Offset>>, fault: &Fault, keys: &mut Keys) {
        for (index, offset) in parts.into_iter().flatten().enumerate() {
            match index {
                0 => self.fail(offset, fault, Pause::Backoff, keys),
                _ => self.give_back(offset, keys),
            }
        }
    }
}
