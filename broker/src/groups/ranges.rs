//! Sets and maps of offset ranges: what is acked, what is open, how often it was tried.
//!
//! Invariant of both: ranges are not empty and do not overlap; those of a [`RangeSet`] do not touch either.

use std::{collections::BTreeMap, ops::Range};

use aqueduct_storage::Offset;

/// Offsets, kept as ranges.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct RangeSet {
    /// From (inclusive) to (exclusive).
    ranges: BTreeMap<Offset, Offset>,
}

impl RangeSet {
    /// Adds `range`, joining what it touches.
    pub(crate) fn insert(&mut self, range: Range<Offset>) {
        if range.is_empty() {
            return;
        }
        let Range { mut start, mut end } = range;
        if let Some((&from, &to)) = self.ranges.range(..=start).next_back()
            && to >= start
        {
            start = from;
            end = end.max(to);
        }
        while let Some((&from, &to)) = self.ranges.range(start..=end).next() {
            self.ranges.remove(&from);
            end = end.max(to);
        }
        self.ranges.insert(start, end);
    }

    /// Takes `range` out.
    pub(crate) fn remove(&mut self, range: Range<Offset>) {
        if range.is_empty() {
            return;
        }
        if let Some((&from, &to)) = self.ranges.range(..range.start).next_back()
            && to > range.start
        {
            self.ranges.insert(from, range.start);
            if to > range.end {
                self.ranges.insert(range.end, to);
            }
        }
        while let Some((&from, &to)) = self.ranges.range(range.clone()).next() {
            self.ranges.remove(&from);
            if to > range.end {
                self.ranges.insert(range.end, to);
            }
        }
    }

    /// Takes the first range out if it begins at or below `offset`, and returns its end.
    pub(crate) fn take_reached(&mut self, offset: Offset) -> Option<Offset> {
        let first = self.ranges.first_entry()?;
        (*first.key() <= offset).then(|| first.remove())
    }

    /// Whether all of `range`, which is not empty, is in the set.
    pub(crate) fn contains(&self, range: &Range<Offset>) -> bool {
        self.ranges.range(..=range.start).next_back().is_some_and(|(_, to)| *to >= range.end)
    }

    /// The parts of `range` that are in the set.
    pub(crate) fn within(&self, range: &Range<Offset>) -> Vec<Range<Offset>> {
        if range.is_empty() {
            return Vec::new();
        }
        let before = self.ranges.range(..range.start).next_back();
        before
            .into_iter()
            .chain(self.ranges.range(range.clone()))
            .map(|(&from, &to)| from.max(range.start)..to.min(range.end))
            .filter(|part| !part.is_empty())
            .collect()
    }

    /// The parts of `range` that are not in the set.
    pub(crate) fn missing_in(&self, range: &Range<Offset>) -> Vec<Range<Offset>> {
        between(range, self.within(range))
    }

    /// In ascending order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Range<Offset>> {
        self.ranges.iter().map(|(&from, &to)| from..to)
    }
}

impl FromIterator<Range<Offset>> for RangeSet {
    fn from_iter<I: IntoIterator<Item = Range<Offset>>>(ranges: I) -> Self {
        let mut set = Self::default();
        ranges.into_iter().for_each(|range| set.insert(range));
        set
    }
}

/// A value for each of some ranges of offsets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RangeMap<V> {
    ranges: BTreeMap<Offset, (Offset, V)>,
    /// How many offsets have a value.
    offsets: u64,
}

impl<V> Default for RangeMap<V> {
    fn default() -> Self {
        Self { ranges: BTreeMap::new(), offsets: 0 }
    }
}

impl<V: Clone> RangeMap<V> {
    /// Sets the value of `range`, in place of what its offsets had.
    pub(crate) fn insert(&mut self, range: Range<Offset>, value: V) {
        if range.is_empty() {
            return;
        }
        self.carve(&range);
        self.offsets += range.end - range.start;
        self.ranges.insert(range.start, (range.end, value));
    }

    /// Takes the parts within `range` out and returns them in ascending order.
    pub(crate) fn carve(&mut self, range: &Range<Offset>) -> Vec<(Range<Offset>, V)> {
        let parts = self.within(range);
        self.offsets -= parts.iter().map(|(part, _)| part.end - part.start).sum::<u64>();
        if parts.is_empty() {
            return parts;
        }
        if let Some((&from, (to, value))) = self.ranges.range(..range.start).next_back()
            && *to > range.start
        {
            let (to, value) = (*to, value.clone());
            self.ranges.insert(from, (range.start, value.clone()));
            if to > range.end {
                self.ranges.insert(range.end, (to, value));
            }
        }
        while let Some((&from, _)) = self.ranges.range(range.clone()).next() {
            if let Some((to, value)) = self.ranges.remove(&from)
                && to > range.end
            {
                self.ranges.insert(range.end, (to, value));
            }
        }
        parts
    }

    /// The parts within `range` that have a value, in ascending order.
    pub(crate) fn within(&self, range: &Range<Offset>) -> Vec<(Range<Offset>, V)> {
        if range.is_empty() {
            return Vec::new();
        }
        let before = self.ranges.range(..range.start).next_back();
        before
            .into_iter()
            .chain(self.ranges.range(range.clone()))
            .map(|(&from, (to, value))| (from.max(range.start)..(*to).min(range.end), value.clone()))
            .filter(|(part, _)| !part.is_empty())
            .collect()
    }

    /// The parts of `range` that have no value.
    pub(crate) fn missing_in(&self, range: &Range<Offset>) -> Vec<Range<Offset>> {
        between(range, self.within(range).into_iter().map(|(part, _)| part))
    }

    /// Whether an offset of `range` has a value that satisfies `wanted`.
    pub(crate) fn any_within(&self, range: &Range<Offset>, wanted: impl Fn(&V) -> bool) -> bool {
        if range.is_empty() {
            return false;
        }
        let before = self.ranges.range(..range.start).next_back().filter(|(_, (to, _))| *to > range.start);
        before.into_iter().chain(self.ranges.range(range.clone())).any(|(_, (_, value))| wanted(value))
    }

    /// In ascending order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Range<Offset>, &V)> {
        self.ranges.iter().map(|(&from, (to, value))| (from..*to, value))
    }

    /// How many ranges have a value.
    pub(crate) fn len(&self) -> usize {
        self.ranges.len()
    }

    /// Whether no offset has a value.
    pub(crate) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// How many offsets have a value.
    pub(crate) fn offsets(&self) -> u64 {
        self.offsets
    }
}

/// What of `range` lies between `parts` of it, which ascend.
fn between(range: &Range<Offset>, parts: impl IntoIterator<Item = Range<Offset>>) -> Vec<Range<Offset>> {
    let mut missing = Vec::new();
    let mut next = range.start;
    for part in parts {
        missing.push(next..part.start);
        next = part.end;
    }
    missing.push(next..range.end);
    missing.retain(|part| !part.is_empty());
    missing
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn span(range: &Range<Offset>) -> impl Iterator<Item = Offset> + use<> {
        range.clone()
    }

    #[test]
    fn a_range_set_agrees_with_a_set_of_offsets() {
        for seed in 0..200 {
            let mut random = fastrand::Rng::with_seed(seed);
            let (mut set, mut model) = (RangeSet::default(), BTreeSet::new());
            for _ in 0..60 {
                let from = random.u64(0..60);
                let range = from..from + random.u64(0..8);
                if random.u8(0..3) == 0 {
                    set.remove(range.clone());
                    model.retain(|offset| !range.contains(offset));
                } else {
                    set.insert(range.clone());
                    model.extend(span(&range));
                }
                let ranges: Vec<_> = set.iter().collect();
                assert!(ranges.windows(2).all(|pair| pair[0].end < pair[1].start), "seed {seed}: {ranges:?} touch");
                assert_eq!(set.iter().flatten().collect::<BTreeSet<_>>(), model, "seed {seed}");

                let view = random.u64(0..40)..random.u64(30..70);
                let inside: Vec<_> = set.within(&view).into_iter().flatten().collect();
                let outside: Vec<_> = set.missing_in(&view).into_iter().flatten().collect();
                let (in_model, out_model): (Vec<_>, Vec<_>) = span(&view).partition(|offset| model.contains(offset));
                let is_whole = !view.is_empty() && out_model.is_empty();
                assert_eq!(!view.is_empty() && set.contains(&view), is_whole, "seed {seed}, view {view:?}");
                assert_eq!((inside, outside), (in_model, out_model), "seed {seed}, view {view:?}");
            }
        }
    }

    #[test]
    fn a_range_map_agrees_with_a_map_of_offsets() {
        for seed in 0..200 {
            let mut random = fastrand::Rng::with_seed(seed);
            let (mut map, mut model) = (RangeMap::default(), BTreeMap::new());
            for step in 0..60_u32 {
                let from = random.u64(0..60);
                let range = from..from + random.u64(0..8);
                if random.u8(0..3) == 0 {
                    let carved: Vec<_> =
                        map.carve(&range).into_iter().flat_map(|(r, v)| r.map(move |o| (o, v))).collect();
                    let expected: Vec<_> = span(&range).filter_map(|o| model.remove(&o).map(|v| (o, v))).collect();
                    assert_eq!(carved, expected, "seed {seed}");
                } else {
                    map.insert(range.clone(), step);
                    model.extend(span(&range).map(|offset| (offset, step)));
                }
                let all: BTreeMap<_, _> =
                    map.within(&(0..100)).into_iter().flat_map(|(r, v)| r.map(move |o| (o, v))).collect();
                assert_eq!(all, model, "seed {seed}");
                assert_eq!(map.offsets(), model.len() as u64, "seed {seed}");
                assert_eq!(
                    map.any_within(&range, |value| *value == step),
                    span(&range).any(|o| model.get(&o) == Some(&step)),
                    "seed {seed}"
                );
            }
        }
    }
}
