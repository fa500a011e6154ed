//! How far a group has got in one partition: a committed offset, and ranges acked above it.

use std::ops::Range;

use aqueduct_storage::Offset;

use super::ranges::RangeSet;

/// Invariant: every acked range begins above `committed`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    committed: Offset,
    acked: RangeSet,
}

impl Progress {
    /// Nothing at or above `committed` has been acked.
    pub(crate) fn at(committed: Offset) -> Self {
        Self { committed, acked: RangeSet::default() }
    }

    /// The next offset that the group will be given, if nothing above it is acked.
    pub(crate) fn committed(&self) -> Offset {
        self.committed
    }

    /// Ranges acked above the committed offset, ascending.
    pub(crate) fn acked(&self) -> impl Iterator<Item = Range<Offset>> {
        self.acked.iter()
    }

    /// Records that `range` needs no delivery any more.
    pub(crate) fn ack(&mut self, range: Range<Offset>) {
        self.acked.insert(range.start.max(self.committed)..range.end);
        while let Some(end) = self.acked.take_reached(self.committed) {
            self.committed = self.committed.max(end);
        }
    }

    /// Takes over what `other` knows; nothing moves back.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.ack(self.committed..other.committed);
        other.acked().for_each(|range| self.ack(range));
    }

    /// The parts of `range` that are not acked.
    pub(crate) fn unacked_in(&self, range: &Range<Offset>) -> Vec<Range<Offset>> {
        self.acked.missing_in(&(range.start.max(self.committed)..range.end))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

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
            left.merge(&right);
            assert!(left.committed() >= before.max(right.committed()), "seed {seed}");
            let acked: BTreeSet<_> = (0..left.committed()).chain(left.acked().flatten()).collect();
            assert_eq!(acked, model, "seed {seed}");
        }
    }
}
