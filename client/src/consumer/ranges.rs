//! Sets of offsets as few ranges. Pure.

use aqueduct_proto::v1;

use crate::types::Offset;

/// Sorted, disjoint, not adjacent. Offsets mostly come in order, which costs constant time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RangeSet {
    ranges: Vec<v1::OffsetRange>,
}

impl RangeSet {
    pub(super) fn insert(&mut self, offset: Offset) {
        self.insert_range(offset, offset.saturating_add(1));
    }

    pub(super) fn insert_range(&mut self, from: Offset, to: Offset) {
        if from >= to {
            return;
        }
        match self.ranges.last_mut() {
            Some(last) if last.to == from => last.to = to,
            Some(last) if last.to > from => self.merge(from, to),
            Some(_) | None => self.ranges.push(v1::OffsetRange { from, to }),
        }
    }

    /// Out of order: unites everything that touches `from..to`.
    fn merge(&mut self, mut from: Offset, mut to: Offset) {
        let first = self.ranges.partition_point(|range| range.to < from);
        let last = self.ranges.partition_point(|range| range.from <= to);
        if let Some(touched) = self.ranges.get(first..last)
            && let (Some(begin), Some(end)) = (touched.first(), touched.last())
        {
            from = from.min(begin.from);
            to = to.max(end.to);
        }
        self.ranges.splice(first..last, [v1::OffsetRange { from, to }]);
    }

    pub(super) fn records(&self) -> u64 {
        self.ranges.iter().map(|range| range.to - range.from).sum()
    }

    pub(super) fn into_ranges(self) -> Vec<v1::OffsetRange> {
        self.ranges
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn set(offsets: impl IntoIterator<Item = Offset>) -> Vec<(Offset, Offset)> {
        let mut set = RangeSet::default();
        offsets.into_iter().for_each(|offset| set.insert(offset));
        set.into_ranges().into_iter().map(|range| (range.from, range.to)).collect()
    }

    #[test]
    fn offsets_in_order_become_one_range() {
        assert_eq!(set(10..1_000), [(10, 1_000)]);
    }

    #[test]
    fn a_hole_that_is_filled_unites_its_neighbours() {
        assert_eq!(set([1, 3]), [(1, 2), (3, 4)]);
        assert_eq!(set([1, 3, 2]), [(1, 4)]);
        assert_eq!(set([5, 4, 3, 9, 1]), [(1, 2), (3, 6), (9, 10)]);
        assert_eq!(set([7, 7, 7]), [(7, 8)]);
    }

    proptest::proptest! {
        #[test]
        fn holds_exactly_what_was_inserted(offsets in proptest::collection::vec(0_u64..40, 0..60)) {
            let expected: BTreeSet<_> = offsets.iter().copied().collect();
            let ranges = set(offsets);
            let held: Vec<_> = ranges.iter().flat_map(|(from, to)| *from..*to).collect();
            proptest::prop_assert_eq!(held, expected.into_iter().collect::<Vec<_>>());
            proptest::prop_assert!(ranges.windows(2).all(|pair| pair[0].1 < pair[1].0));
        }
    }
}
