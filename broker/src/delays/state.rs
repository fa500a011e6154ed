//! How far every tier has been emptied, and which transfers are under way: what the journal tells. Pure.

use std::{collections::BTreeMap, ops::Range};

use aqueduct_storage::Offset;

use super::Destination;
use crate::groups::ranges::RangeSet;

/// Where a transfer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Target {
    /// The time of its records has come.
    Partition(Destination),
    /// They wait on, there.
    Tier(u8),
}

/// A transfer that has been decided: it is made, whatever happens, and counts once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Intent {
    pub(super) id: u64,
    /// The tier it empties.
    pub(super) from: u8,
    pub(super) to: Target,
    /// With the sequence, how the target recognises it.
    pub(super) epoch: u32,
    pub(super) sequence: u64,
    /// Of its records in that tier, in the order in which they are appended.
    pub(super) offsets: Vec<Offset>,
}

/// One step from a state to the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// The store has been opened.
    Opened,
    /// Decided, or decided anew: then it replaces what has the same id.
    Intended(Intent),
    /// Made: its records are where they were to go, or there is nowhere to go any more.
    Moved {
        /// Which.
        intent: u64,
    },
    /// Not to be made after all, and nothing of it was: its records are free again.
    Withdrawn {
        /// Which.
        intent: u64,
    },
    /// These offsets of a tier cannot be read.
    Lost {
        /// Which tier.
        tier: u8,
        /// Its offsets.
        offsets: Range<Offset>,
    },
}

/// The offsets of one tier that need nothing any more.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Settled {
    /// All of these.
    below: Offset,
    /// And these.
    above: RangeSet,
    /// How many that are.
    count: u64,
}

impl Settled {
    pub(super) fn new(below: Offset, above: RangeSet) -> Self {
        let count = above.iter().fold(below, |count, range| count.saturating_add(range.end - range.start));
        Self { below, above, count }
    }

    /// The first offset that is not settled.
    pub(super) fn below(&self) -> Offset {
        self.below
    }

    pub(super) fn above(&self) -> impl Iterator<Item = Range<Offset>> {
        self.above.iter()
    }

    pub(super) fn count(&self) -> u64 {
        self.count
    }

    pub(super) fn contains(&self, offset: Offset) -> bool {
        offset < self.below || !self.above.within(&(offset..offset.saturating_add(1))).is_empty()
    }

    fn insert(&mut self, range: Range<Offset>) {
        let new = self.above.missing_in(&(range.start.max(self.below)..range.end));
        for range in new {
            self.count = self.count.saturating_add(range.end - range.start);
            self.above.insert(range);
        }
        while let Some(end) = self.above.take_reached(self.below) {
            self.below = self.below.max(end);
        }
    }
}

/// See the [module](self).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct State {
    settled: BTreeMap<u8, Settled>,
    intents: BTreeMap<u64, Intent>,
    next_intent: u64,
}

impl State {
    pub(super) fn new(settled: BTreeMap<u8, Settled>, intents: Vec<Intent>, next_intent: u64) -> Self {
        Self { settled, intents: intents.into_iter().map(|intent| (intent.id, intent)).collect(), next_intent }
    }

    /// Takes one step.
    pub(super) fn apply(&mut self, step: Step) {
        match step {
            Step::Opened => {}
            Step::Intended(intent) => {
                self.next_intent = self.next_intent.max(intent.id.saturating_add(1));
                self.intents.insert(intent.id, intent);
            }
            Step::Moved { intent } => {
                if let Some(Intent { from, offsets, .. }) = self.intents.remove(&intent) {
                    let settled = self.settled.entry(from).or_default();
                    offsets.into_iter().for_each(|offset| settled.insert(offset..offset.saturating_add(1)));
                }
            }
            Step::Withdrawn { intent } => drop(self.intents.remove(&intent)),
            Step::Lost { tier, offsets } => self.settled.entry(tier).or_default().insert(offsets),
        }
    }

    /// Of one tier.
    pub(super) fn settled(&self, tier: u8) -> Option<&Settled> {
        self.settled.get(&tier)
    }

    /// Tiers that have been emptied somewhat.
    pub(super) fn tiers(&self) -> impl Iterator<Item = (u8, &Settled)> {
        self.settled.iter().map(|(tier, settled)| (*tier, settled))
    }

    /// Transfers that are decided and not known to be made, in the order in which they were decided.
    pub(super) fn intents(&self) -> impl Iterator<Item = &Intent> {
        self.intents.values()
    }

    /// The id of the next intent.
    pub(super) fn next_intent(&self) -> u64 {
        self.next_intent
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use fastrand::Rng;

    use super::*;

    #[test]
    fn offsets_are_settled_once_their_transfer_is_made_in_whatever_order() {
        for seed in 0..200 {
            let mut rng = Rng::with_seed(seed);
            let mut state = State::default();
            let mut offsets: Vec<Offset> = (0..100).collect();
            rng.shuffle(&mut offsets);
            let (mut open, mut model) = (Vec::new(), BTreeSet::new());
            for chunk in offsets.chunks(7) {
                let id = state.next_intent();
                let intent =
                    Intent { id, from: 0, to: Target::Tier(1), epoch: 1, sequence: 0, offsets: chunk.to_vec() };
                state.apply(Step::Intended(intent.clone()));
                state.apply(Step::Intended(intent));
                open.push((id, chunk));
                if rng.bool() {
                    let (id, made) = open.swap_remove(rng.usize(..open.len()));
                    state.apply(Step::Moved { intent: id });
                    state.apply(Step::Moved { intent: id });
                    model.extend(made.iter().copied());
                }
                let settled = state.settled(0).cloned().unwrap_or_default();
                assert!((0..100).all(|offset| settled.contains(offset) == model.contains(&offset)), "seed {seed}");
                assert_eq!(settled.count(), model.len() as u64, "seed {seed}");
                assert_eq!(settled.below(), (0..).find(|offset| !model.contains(offset)).unwrap(), "seed {seed}");
                assert_eq!(state.intents().count(), open.len(), "seed {seed}");
            }
        }
    }
}
