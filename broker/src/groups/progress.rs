//! How far a group has got in one partition: a committed offset, ranges acked above it, and what has failed there.

use std::{ops::Range, sync::Arc};

use aqueduct_storage::Offset;

use super::{
    ranges::{RangeMap, RangeSet},
    retry::Failure,
};

/// Ranges whose failures are remembered. In order of delivery there are never more than a few; what is beyond this
/// bound is tried again as if for the first time.
pub(crate) const FAILURES_MAX: usize = 1024;

/// Invariants: every acked range begins above `committed`; what has failed is not acked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    committed: Offset,
    acked: RangeSet,
    failures: RangeMap<Failure>,
}

impl Progress {
    /// Nothing at or above `committed` has been acked.
    pub(crate) fn at(committed: Offset) -> Self {
        Self { committed, ..Self::default() }
    }

    /// The next offset that the group will be given, if nothing above it is acked.
    pub(crate) fn committed(&self) -> Offset {
        self.committed
    }

    /// Ranges acked above the committed offset, ascending.
    pub(crate) fn acked(&self) -> impl Iterator<Item = Range<Offset>> {
        self.acked.iter()
    }

    /// What has failed and is not acked, ascending.
    pub(crate) fn failures(&self) -> impl Iterator<Item = (Range<Offset>, &Failure)> {
        self.failures.iter()
    }

    /// The parts of `range` that have failed.
    pub(crate) fn failures_in(&self, range: &Range<Offset>) -> Vec<(Range<Offset>, Failure)> {
        self.failures.within(range)
    }

    /// Records that `range` needs no delivery any more.
    pub(crate) fn ack(&mut self, range: Range<Offset>) {
        if !self.failures.is_empty() {
            self.failures.carve(&range);
        }
        self.acked.insert(range.start.max(self.committed)..range.end);
        while let Some(end) = self.acked.take_reached(self.committed) {
            self.committed = self.committed.max(end);
        }
    }

    /// Records that an attempt at each offset of `range` has failed.
    pub(crate) fn fail(&mut self, range: &Range<Offset>, error: &Arc<str>, now_us: i64) {
        for unacked in self.unacked_in(range) {
            let known = self.failures.within(&unacked);
            let again = known.iter().map(|(part, failure)| (part.clone(), failure.again(error, now_us)));
            let known: RangeSet = known.iter().map(|(part, _)| part.clone()).collect();
            let first = known.missing_in(&unacked).into_iter().map(|part| (part, Failure::first(error, now_us)));
            for (part, failure) in again.chain(first).collect::<Vec<_>>() {
                self.remember(part, failure);
            }
        }
    }

    /// Keeps what is known of a failure, if there is room.
    pub(crate) fn remember(&mut self, range: Range<Offset>, failure: Failure) {
        if self.failures.len() < FAILURES_MAX || !self.failures.within(&range).is_empty() {
            self.failures.insert(range, failure);
        }
    }

    /// Takes over what `other` knows; nothing moves back.
    pub(crate) fn merge(&mut self, other: Self) {
        if other.is_ahead_of(self) {
            *self = other;
            return;
        }
        self.ack(self.committed..other.committed);
        other.acked().for_each(|range| self.ack(range));
        for (range, failure) in other.failures() {
            for unacked in self.unacked_in(&range) {
                let known = self.failures.within(&unacked);
                let known_better: RangeSet = known
                    .into_iter()
                    .filter(|(_, known)| known.attempts >= failure.attempts)
                    .map(|(part, _)| part)
                    .collect();
                for part in known_better.missing_in(&unacked) {
                    self.remember(part, failure.clone());
                }
            }
        }
    }

    /// Whether it can be told at little cost that it knows all that `other` knows. Whoever delivers a partition does.
    fn is_ahead_of(&self, other: &Self) -> bool {
        let is_acked = |range: Range<Offset>| range.end <= self.committed || self.acked.contains(&range);
        other.failures.is_empty() && other.committed <= self.committed && other.acked().all(is_acked)
    }

    /// The parts of `range` that are not acked.
    pub(crate) fn unacked_in(&self, range: &Range<Offset>) -> Vec<Range<Offset>> {
        self.acked.missing_in(&(range.start.max(self.committed)..range.end))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    #[test]
    fn the_committed_offset_is_the_first_that_is_not_acked() {
        for seed in 0..200 {
            let mut random = fastrand::Rng::with_seed(seed);
            let start = random.u64(0..5);
            let mut progress = Progress::at(start);
            let mut model: BTreeSet<Offset> = (0..start).collect();
            for _ in 0..50 {
                let from = random.u64(0..60);
                let range = from..from + random.u64(0..6);
                progress.ack(range.clone());
                model.extend(range);
                let first = (0..).find(|offset| !model.contains(offset)).expect("some offset is not acked");
                assert_eq!(progress.committed(), first, "seed {seed}");
                assert!(progress.acked().all(|acked| acked.start > first), "seed {seed}: {progress:?}");
                let unacked: Vec<_> = progress.unacked_in(&(0..70)).into_iter().flatten().collect();
                let expected: Vec<_> = (0..70).filter(|offset| !model.contains(offset)).collect();
                assert_eq!(unacked, expected, "seed {seed}");
            }
        }
    }

    #[test]
    fn failures_count_for_each_record_until_it_is_acked() {
        for seed in 0..200 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut progress = Progress::at(random.u64(0..5));
            let start = progress.committed();
            let mut model: BTreeMap<Offset, u32> = BTreeMap::new();
            let mut acked: BTreeSet<Offset> = BTreeSet::new();
            let error: Arc<str> = "boom".into();
            for step in 0..60 {
                let from = random.u64(start..60);
                let range = from..from + random.u64(0..6);
                if random.bool() {
                    progress.fail(&range, &error, step);
                    range.filter(|offset| !acked.contains(offset)).for_each(|o| *model.entry(o).or_default() += 1);
                } else {
                    progress.ack(range.clone());
                    model.retain(|offset, _| !range.contains(offset));
                    acked.extend(range);
                }
                let known: BTreeMap<_, _> = progress
                    .failures()
                    .flat_map(|(range, failure)| range.map(|offset| (offset, failure.attempts)))
                    .collect();
                assert_eq!(known, model, "seed {seed}");
            }
        }
    }

    #[test]
    fn merging_failures_keeps_the_larger_count() {
        let error: Arc<str> = "boom".into();
        let (mut left, mut right) = (Progress::at(0), Progress::at(0));
        left.fail(&(2..6), &error, 1);
        right.fail(&(4..8), &error, 2);
        right.fail(&(4..5), &error, 3);
        right.ack(2..3);
        left.merge(right.clone());
        let counts: Vec<_> = left.failures().flat_map(|(range, f)| range.map(|o| (o, f.attempts))).collect();
        assert_eq!(counts, [(3, 1), (4, 2), (5, 1), (6, 1), (7, 1)]);
    }

    #[test]
    fn merging_never_moves_back_and_keeps_what_either_side_knows() {
        for seed in 0..200 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut sides = [Progress::at(0), Progress::at(0)];
            let mut model = BTreeSet::new();
            for _ in 0..30 {
                let from = random.u64(0..40);
                let range = from..from + random.u64(0..6);
                sides[random.usize(0..2)].ack(range.clone());
                model.extend(range);
            }
            let [mut left, right] = sides;
            let before = left.committed();
            left.merge(right.clone());
            assert!(left.committed() >= before.max(right.committed()), "seed {seed}");
            let acked: BTreeSet<_> = (0..left.committed()).chain(left.acked().flatten()).collect();
            assert_eq!(acked, model, "seed {seed}");
            let mut behind = right;
            behind.merge(left.clone());
            assert_eq!(behind, left, "seed {seed}: whoever knows everything is followed");
        }
    }
}
