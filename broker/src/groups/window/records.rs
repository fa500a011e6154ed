//! What windows have in common in which each record is settled by itself: how far the group has got, who has what, what
//! comes again, and what is on its way out.

use std::ops::Range;

use aqueduct_storage::Offset;

use super::{Loan, OPEN_RECORDS_MAX, Refusal, Stop, loans::Loans};
use crate::groups::{
    assignment::MemberId,
    progress::Progress,
    ranges::{RangeMap, RangeSet},
};

/// See the [module](self). `L` is what is known of a record that leaves.
#[derive(Debug)]
pub(super) struct Records<L> {
    pub(super) progress: Progress,
    /// The first offset that was never looked at.
    pub(super) cursor: Offset,
    pub(super) loans: Loans,
    /// To be delivered before anything new.
    pub(super) again: RangeSet,
    /// Not delivered any more, not settled yet.
    pub(super) leaving: RangeMap<L>,
}

impl<L: Clone> Records<L> {
    /// Goes on from `progress`.
    pub(super) fn new(progress: Progress) -> Self {
        let cursor = progress.committed();
        let (loans, again, leaving) = (Loans::default(), RangeSet::default(), RangeMap::default());
        Self { progress, cursor, loans, again, leaving }
    }

    pub(super) fn next_read(&self) -> Offset {
        self.again.iter().next().map_or(self.cursor, |first| first.start)
    }

    pub(super) fn is_settled(&self) -> bool {
        self.loans.is_empty() && self.leaving.is_empty()
    }

    /// Whether anything comes again.
    pub(super) fn has_again(&self) -> bool {
        self.next_read() < self.cursor
    }

    /// Whether the cursor may go on.
    pub(super) fn has_room_ahead(&self) -> bool {
        self.cursor.saturating_sub(self.progress.committed()) < OPEN_RECORDS_MAX
    }

    /// What of `span` is to be looked at: it comes again, or was never seen.
    pub(super) fn due_in(&self, span: &Range<Offset>) -> Vec<Range<Offset>> {
        let mut due = self.again.within(&(span.start..span.end.min(self.cursor)));
        due.extend(self.progress.unacked_in(&(span.start.max(self.cursor)..span.end)));
        due
    }

    /// Takes back what `seat` has of `ranges`.
    pub(super) fn take(&mut self, ranges: &[Range<Offset>], seat: MemberId) -> Vec<Range<Offset>> {
        ranges.iter().flat_map(|range| self.loans.take(range, seat)).collect()
    }

    /// Why the cursor may not go on.
    pub(super) fn too_far_ahead(&self) -> Stop {
        let first = self.progress.committed();
        Stop::TooFarAhead { first, with: self.loans.holder(first) }
    }

    /// What was looked at from [`next_read`](Self::next_read) up to `reached`.
    pub(super) fn looked_at(&mut self, range: Range<Offset>) {
        self.cursor = self.cursor.max(range.end);
        self.again.remove(range);
    }

    /// # Errors
    /// [`Refusal::NotDelivered`].
    pub(super) fn check(&self, ranges: &[Range<Offset>]) -> Result<(), Refusal> {
        let delivered = |range: &Range<Offset>| range.start < range.end && range.end <= self.cursor;
        if !ranges.is_empty() && ranges.iter().all(delivered) { Ok(()) } else { Err(Refusal::NotDelivered) }
    }

    /// Whether all of `ranges` is settled by now.
    ///
    /// # Errors
    /// [`Refusal::TakenBack`].
    pub(super) fn check_settled(&self, ranges: &[Range<Offset>]) -> Result<(), Refusal> {
        let settled = ranges.iter().all(|range| self.progress.unacked_in(range).is_empty());
        if settled { Ok(()) } else { Err(Refusal::TakenBack) }
    }

    /// How many of `ranges` are neither settled nor on their way out.
    pub(super) fn staying_in(&self, ranges: &[Range<Offset>]) -> u64 {
        let unacked = ranges.iter().flat_map(|range| self.progress.unacked_in(range));
        unacked.flat_map(|range| self.leaving.missing_in(&range)).map(|part| part.end - part.start).sum()
    }

    pub(super) fn extend(&mut self, ranges: &[Range<Offset>], loan: Loan) -> Result<(), Refusal> {
        self.check(ranges)?;
        self.loans.extend(ranges, loan);
        Ok(())
    }

    /// Returns what is known of the parts of `range` that were on their way.
    pub(super) fn left(&mut self, range: &Range<Offset>) -> Vec<(Range<Offset>, L)> {
        self.progress.ack(range.clone());
        self.leaving.carve(range)
    }

    pub(super) fn is_leaving(&self, range: &Range<Offset>) -> bool {
        self.leaving.any_within(range, |_| true)
    }

    pub(super) fn leaving_in(&self, range: &Range<Offset>) -> Vec<Range<Offset>> {
        self.leaving.within(range).into_iter().map(|(part, _)| part).collect()
    }

    /// Nothing up to `next` can be read: nobody has it any more, and nothing of it comes again.
    pub(super) fn skip_to(&mut self, next: Offset) -> Range<Offset> {
        let lost = self.next_read()..next;
        self.progress.ack(lost.clone());
        self.again.remove(lost.clone());
        self.leaving.carve(&lost);
        self.loans.take_from_all(&lost);
        self.cursor = self.cursor.max(next);
        lost
    }
}
