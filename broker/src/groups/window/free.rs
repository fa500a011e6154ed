//! Every record is settled by itself, and nothing comes back for the sake of another. What has failed leaves the window:
//! it is moved away, and the committed offset goes on without it.

use std::ops::Range;

use aqueduct_storage::{BatchHeader, Offset};

use super::{Fault, Leaving, Loan, PORTIONS_MAX, Pause, Portion, Refusal, Way, records::Records, settle_holes};
use crate::groups::{assignment::MemberId, progress::Progress, retry::Failure};

/// See the [module](self).
///
/// Invariant: below the cursor, what is not acked is either with a member, or leaving, or in `again`.
#[derive(Debug)]
pub(super) struct FreeWindow {
    pub(super) records: Records<Leaving>,
}

impl FreeWindow {
    /// Goes on from `progress`.
    pub(super) fn new(progress: Progress) -> Self {
        Self { records: Records::new(progress) }
    }

    pub(super) fn has_room(&self) -> bool {
        self.records.has_again() || self.records.has_room_ahead()
    }

    pub(super) fn deliver(&mut self, header: &BatchHeader, loan: Loan, records_max: u64) -> Option<Portion> {
        let from = self.records.next_read();
        settle_holes(&mut self.records.progress, from, header);
        let span = from.max(header.base_offset)..header.next_offset();
        let mut room = records_max.max(u64::from(header.record_count.div_ceil(PORTIONS_MAX)));
        let mut ranges: Vec<Range<Offset>> = Vec::new();
        let mut reached = span.end;
        for due in self.due_in(&span) {
            let part = due.start..due.end.min(due.start.saturating_add(room));
            room -= part.end - part.start;
            let is_cut = part.end < due.end;
            if is_cut {
                reached = part.end;
            }
            ranges.extend(Some(part).filter(|part| !part.is_empty()));
            if is_cut {
                break;
            }
        }
        self.records.looked_at(from..reached);
        self.records.loans.lend(&ranges, loan);
        (!ranges.is_empty()).then_some(Portion { ranges, attempt: 1 })
    }

    pub(super) fn ack(&mut self, seat: MemberId, ranges: &[Range<Offset>]) -> Result<(), Refusal> {
        self.records.check(ranges)?;
        for range in ranges {
            for part in self.records.loans.take(range, seat) {
                self.records.progress.ack(part);
            }
        }
        self.records.check_settled(ranges)
    }

    /// What `seat` has of `ranges` leaves the window.
    pub(super) fn let_go(
        &mut self,
        seat: MemberId,
        ranges: &[Range<Offset>],
        fault: &Fault,
        way: Way,
    ) -> Result<(), Refusal> {
        self.records.check(ranges)?;
        for range in ranges {
            for part in self.records.loans.take(range, seat) {
                self.fail(part, fault, way);
            }
        }
        self.taken_from(ranges)
    }

    pub(super) fn release(&mut self, seat: MemberId, ranges: &[Range<Offset>]) -> Result<(), Refusal> {
        self.records.check(ranges)?;
        for range in ranges {
            let released = self.records.loans.take(range, seat);
            released.into_iter().for_each(|part| self.records.again.insert(part));
        }
        Ok(())
    }

    pub(super) fn abandon(&mut self, seat: MemberId, fault: &Fault) {
        let parts = self.records.loans.take_all(seat);
        self.take_back(parts, fault);
    }

    pub(super) fn vacate(&mut self, seat: MemberId) {
        self.records.loans.take_all(seat).into_iter().for_each(|part| self.records.again.insert(part));
    }

    pub(super) fn expire(&mut self, fault: &Fault) -> Vec<MemberId> {
        let expired = self.records.loans.take_expired(fault.at);
        let seats = expired.keys().copied().collect();
        expired.into_values().for_each(|parts| self.take_back(parts, fault));
        seats
    }

    /// Whether nothing of `ranges` is with somebody else by now, or to be.
    fn taken_from(&self, ranges: &[Range<Offset>]) -> Result<(), Refusal> {
        let unacked = ranges.iter().flat_map(|range| self.records.progress.unacked_in(range));
        let settled =
            unacked.map(|range| self.records.leaving.missing_in(&range)).all(|elsewhere| elsewhere.is_empty());
        if settled { Ok(()) } else { Err(Refusal::TakenBack) }
    }

    /// What of `span` is to be delivered.
    fn due_in(&self, span: &Range<Offset>) -> Vec<Range<Offset>> {
        let unacked = self.records.progress.unacked_in(span);
        let staying = unacked.iter().flat_map(|range| self.records.leaving.missing_in(range));
        staying.flat_map(|range| self.records.loans.missing_in(&range)).collect()
    }

    /// One member's records come again. It counts as an attempt at the first, which is the one that it was working on.
    fn take_back(&mut self, parts: Vec<Range<Offset>>, fault: &Fault) {
        let Some(first) = parts.first().map(|part| part.start) else { return };
        for part in parts {
            self.records.again.insert(part.start.max(first + 1)..part.end);
        }
        self.fail(first..first + 1, fault, Way::Retry(Pause::Backoff));
    }

    fn fail(&mut self, range: Range<Offset>, fault: &Fault, way: Way) {
        self.records.leaving.insert(range, Leaving { failure: Failure::first(&fault.error, fault.at_us), way });
    }
}

#[cfg(test)]
mod tests;
