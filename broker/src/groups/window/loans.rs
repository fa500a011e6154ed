//! Records that are with members: which of them has what, and until when.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Range,
};

use aqueduct_storage::Offset;
use tokio::time::Instant;

use crate::groups::{assignment::MemberId, ranges::RangeMap};

/// With whom a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Loan {
    pub(crate) seat: MemberId,
    pub(crate) until: Instant,
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Loans {
    open: RangeMap<Loan>,
    records: BTreeMap<MemberId, u64>,
    /// Deadlines of open ranges in order of time. A range may have been settled since.
    deadlines: VecDeque<(Instant, Range<Offset>)>,
}

impl Loans {
    /// Gives `ranges`, which ascend and are with nobody, to a member. Deadlines never go back.
    pub(super) fn lend(&mut self, ranges: &[Range<Offset>], loan: Loan) {
        for range in ranges {
            self.open.insert(range.clone(), loan);
            *self.records.entry(loan.seat).or_default() += range.end - range.start;
        }
        self.note_deadline(ranges, loan.until);
    }

    /// Takes back what `seat` has of `range`.
    pub(super) fn take(&mut self, range: &Range<Offset>, seat: MemberId) -> Vec<Range<Offset>> {
        let parts: Vec<_> = self.open.within(range).into_iter().filter(|(_, loan)| loan.seat == seat).collect();
        let parts: Vec<_> = parts.into_iter().map(|(part, _)| part).collect();
        parts.iter().for_each(|part| self.forget(part, seat));
        parts
    }

    /// Takes back one record, whoever has it.
    pub(super) fn take_from_anybody(&mut self, offset: Offset) {
        if let Some((part, loan)) = self.open.within(&(offset..offset + 1)).pop() {
            self.forget(&part, loan.seat);
        }
    }

    /// Takes back what anybody has of `range`.
    pub(super) fn take_from_all(&mut self, range: &Range<Offset>) {
        self.open.within(range).iter().for_each(|(part, loan)| self.forget(part, loan.seat));
    }

    /// Takes back everything that `seat` has.
    pub(super) fn take_all(&mut self, seat: MemberId) -> Vec<Range<Offset>> {
        let of_seat = self.open.iter().filter(|(_, loan)| loan.seat == seat);
        let parts: Vec<_> = of_seat.map(|(part, _)| part).collect();
        parts.iter().for_each(|part| self.forget(part, seat));
        parts
    }

    /// Takes back what is open beyond its time; returns it by member, in order of offsets.
    pub(super) fn take_expired(&mut self, now: Instant) -> BTreeMap<MemberId, Vec<Range<Offset>>> {
        let mut expired: BTreeMap<MemberId, Vec<Range<Offset>>> = BTreeMap::new();
        while let Some((deadline, range)) = self.deadlines.front().cloned() {
            let due = deadline <= now;
            if !due && self.open.any_within(&range, |loan| loan.until == deadline) {
                break;
            }
            self.deadlines.pop_front();
            for (part, loan) in self.open.within(&range).into_iter().filter(|(_, loan)| due && loan.until <= now) {
                self.forget(&part, loan.seat);
                expired.entry(loan.seat).or_default().push(part);
            }
        }
        expired.values_mut().for_each(|parts| parts.sort_unstable_by_key(|part| part.start));
        expired
    }

    /// Sets a new deadline for what its member has of `ranges`.
    pub(super) fn extend(&mut self, ranges: &[Range<Offset>], loan: Loan) {
        let with_seat = ranges.iter().flat_map(|range| self.open.within(range));
        let parts: Vec<_> = with_seat.filter(|(_, open)| open.seat == loan.seat).map(|(part, _)| part).collect();
        parts.iter().for_each(|part| self.open.insert(part.clone(), loan));
        self.note_deadline(&parts, loan.until);
        // A member that extends again and again leaves deadlines behind that mean nothing any more.
        if self.deadlines.len() > 2 * self.open.len() + 64 {
            let open = &self.open;
            self.deadlines.retain(|(deadline, range)| open.any_within(range, |loan| loan.until == *deadline));
        }
    }

    /// When something may expire, at the latest.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.front().map(|(deadline, _)| *deadline)
    }

    /// The parts of `range` that are with nobody.
    pub(super) fn missing_in(&self, range: &Range<Offset>) -> Vec<Range<Offset>> {
        self.open.missing_in(range)
    }

    /// Who has the record at `offset`.
    pub(super) fn holder(&self, offset: Offset) -> Option<MemberId> {
        self.open.within(&(offset..offset + 1)).first().map(|(_, loan)| loan.seat)
    }

    /// How many records `seat` has.
    pub(super) fn records_of(&self, seat: MemberId) -> u64 {
        self.records.get(&seat).copied().unwrap_or(0)
    }

    /// Whether nobody has anything.
    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    fn note_deadline(&mut self, ranges: &[Range<Offset>], until: Instant) {
        if let (Some(first), Some(last)) = (ranges.first(), ranges.last()) {
            self.deadlines.push_back((until, first.start..last.end));
        }
    }

    fn forget(&mut self, part: &Range<Offset>, seat: MemberId) {
        self.open.carve(part);
        if let Some(records) = self.records.get_mut(&seat) {
            *records -= part.end - part.start;
            if *records == 0 {
                self.records.remove(&seat);
            }
        }
    }
}
