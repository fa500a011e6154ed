//! Every record is settled by itself, and nothing comes back for the sake of another. What has failed leaves the window:
//! it is moved away, and the committed offset goes on without it.

use std::ops::Range;

use aqueduct_storage::{BatchHeader, Offset};
use tokio::time::Instant;

use super::{
    Exit, Fault, Loan, OPEN_RECORDS_MAX, PORTIONS_MAX, Pause, Portion, Refusal, Way, loans::Loans, settle_holes,
};
use crate::groups::{
    assignment::MemberId,
    progress::Progress,
    ranges::{RangeMap, RangeSet},
    retry::Failure,
};

/// See the [module](self).
///
/// Invariant: below the cursor, what is not acked is either with a member, or leaving, or in `again`.
#[derive(Debug)]
pub(super) struct FreeWindow {
    progress: Progress,
    /// The first offset that was never delivered.
    cursor: Offset,
    loans: Loans,
    /// Given back: to be delivered before anything new.
    again: RangeSet,
    /// Not delivered any more, not settled yet.
    leaving: RangeMap<Leaving>,
}

/// Why a record leaves, and where to.
#[derive(Debug, Clone)]
struct Leaving {
    failure: Failure,
    way: Way,
}

impl FreeWindow {
    /// Goes on from `progress`.
    pub(super) fn new(progress: Progress) -> Self {
        let cursor = progress.committed();
        let loans = Loans::default();
        Self { progress, cursor, loans, again: RangeSet::default(), leaving: RangeMap::default() }
    }

    pub(super) fn progress(&self) -> &Progress {
        &self.progress
    }

    pub(super) fn next_read(&self) -> Offset {
        self.again.iter().next().map_or(self.cursor, |first| first.start)
    }

    pub(super) fn is_settled(&self) -> bool {
        self.loans.is_empty() && self.leaving.is_empty()
    }

    pub(super) fn open_records(&self, seat: MemberId) -> u64 {
        self.loans.records_of(seat)
    }

    pub(super) fn has_room(&self) -> bool {
        self.next_read() < self.cursor || self.cursor.saturating_sub(self.progress.committed()) < OPEN_RECORDS_MAX
    }

    pub(super) fn deliver(&mut self, header: &BatchHeader, loan: Loan, records_max: u64) -> Option<Portion> {
        let from = self.next_read();
        settle_holes(&mut self.progress, from, header);
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
        self.again.remove(from..reached);
        self.cursor = self.cursor.max(reached);
        self.loans.lend(&ranges, loan);
        (!ranges.is_empty()).then_some(Portion { ranges, attempt: 1 })
    }

    pub(super) fn ack(&mut self, seat: MemberId, ranges: &[Range<Offset>]) -> Result<(), Refusal> {
        self.check(ranges)?;
        for range in ranges {
            for part in self.loans.take(range, seat) {
                self.progress.ack(part);
            }
        }
        let settled = ranges.iter().all(|range| self.progress.unacked_in(range).is_empty());
        if settled { Ok(()) } else { Err(Refusal::TakenBack) }
    }

    /// What `seat` has of `ranges` leaves the window.
    pub(super) fn let_go(
        &mut self,
        seat: MemberId,
        ranges: &[Range<Offset>],
        fault: &Fault,
        way: Way,
    ) -> Result<(), Refusal> {
        self.check(ranges)?;
        for range in ranges {
            for part in self.loans.take(range, seat) {
                self.fail(part, fault, way);
            }
        }
        self.taken_from(ranges)
    }

    pub(super) fn release(&mut self, seat: MemberId, ranges: &[Range<Offset>]) -> Result<(), Refusal> {
        self.check(ranges)?;
        for range in ranges {
            let released = self.loans.take(range, seat);
            released.into_iter().for_each(|part| self.again.insert(part));
        }
        Ok(())
    }

    pub(super) fn extend(&mut self, ranges: &[Range<Offset>], loan: Loan) -> Result<(), Refusal> {
        self.check(ranges)?;
        self.loans.extend(ranges, loan);
        Ok(())
    }

    pub(super) fn abandon(&mut self, seat: MemberId, fault: &Fault) {
        let parts = self.loans.take_all(seat);
        self.take_back(parts, fault);
    }

    pub(super) fn vacate(&mut self, seat: MemberId) {
        self.loans.take_all(seat).into_iter().for_each(|part| self.again.insert(part));
    }

    pub(super) fn expire(&mut self, fault: &Fault) -> Vec<MemberId> {
        let expired = self.loans.take_expired(fault.at);
        let mut seats: Vec<MemberId> = expired.iter().map(|(_, seat)| *seat).collect();
        seats.sort_unstable();
        seats.dedup();
        for &seat in &seats {
            let parts = expired.iter().filter(|(_, of)| *of == seat).map(|(part, _)| part.clone());
            self.take_back(parts.collect(), fault);
        }
        seats
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.loans.next_deadline()
    }

    pub(super) fn next_exits(&self, records_max: u64) -> Vec<Exit> {
        let mut room = records_max;
        let mut exits = Vec::new();
        for (range, Leaving { failure, way }) in self.leaving.iter() {
            if room == 0 {
                break;
            }
            room = room.saturating_sub(range.end - range.start);
            exits.push(Exit { range, failure: failure.clone(), way: *way });
        }
        exits
    }

    pub(super) fn left(&mut self, range: &Range<Offset>) {
        self.leaving.carve(range);
        self.progress.ack(range.clone());
    }

    pub(super) fn is_leaving(&self, range: &Range<Offset>) -> bool {
        self.leaving.any_within(range, |_| true)
    }

    pub(super) fn skip_to(&mut self, next: Offset) -> Range<Offset> {
        let lost = self.next_read()..next;
        self.progress.ack(lost.clone());
        self.again.remove(lost.clone());
        self.leaving.carve(&lost);
        self.cursor = self.cursor.max(next);
        lost
    }

    fn check(&self, ranges: &[Range<Offset>]) -> Result<(), Refusal> {
        let delivered = |range: &Range<Offset>| range.start < range.end && range.end <= self.cursor;
        if !ranges.is_empty() && ranges.iter().all(delivered) { Ok(()) } else { Err(Refusal::NotDelivered) }
    }

    /// Whether nothing of `ranges` is with somebody else by now, or to be.
    fn taken_from(&self, ranges: &[Range<Offset>]) -> Result<(), Refusal> {
        let unacked = ranges.iter().flat_map(|range| self.progress.unacked_in(range));
        let settled = unacked.map(|range| self.leaving.missing_in(&range)).all(|elsewhere| elsewhere.is_empty());
        if settled { Ok(()) } else { Err(Refusal::TakenBack) }
    }

    /// What of `span` is to be delivered.
    fn due_in(&self, span: &Range<Offset>) -> Vec<Range<Offset>> {
        let unacked = self.progress.unacked_in(span);
        let staying = unacked.iter().flat_map(|range| self.leaving.missing_in(range));
        staying.flat_map(|range| self.loans.missing_in(&range)).collect()
    }

    /// One member's records come again. It counts as an attempt at the first, which is the one that it was working on.
    fn take_back(&mut self, parts: Vec<Range<Offset>>, fault: &Fault) {
        let Some(first) = parts.first().map(|part| part.start) else { return };
        for part in parts {
            self.again.insert(part.start.max(first + 1)..part.end);
        }
        self.fail(first..first + 1, fault, Way::Retry(Pause::Backoff));
    }

    fn fail(&mut self, range: Range<Offset>, fault: &Fault, way: Way) {
        self.leaving.insert(range, Leaving { failure: Failure::first(&fault.error, fault.at_us), way });
    }
}

#[cfg(test)]
mod tests;
