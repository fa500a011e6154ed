//! The state of all groups, as the journal tells it: policies, and how far each has got where.
//!
//! Pure. Progress only moves forward, in whatever order it is applied; only a reset moves it back.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    ops::Range,
};

use aqueduct_storage::Offset;

use super::{policy::Policy, progress::Progress, retry::Failure};

/// A topic's identity.
pub(crate) type TopicId = [u8; 16];

/// Stands among the partitions of a topic for the records that a group has had redriven. They have a log of their own,
/// and everything else in common with partitions: an owner, a position, failures.
pub(crate) const REDRIVEN: u32 = u32::MAX;

/// Names one position.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PositionKey {
    pub(crate) group: String,
    pub(crate) topic: TopicId,
    pub(crate) partition: u32,
}

/// One step from a state to the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    /// The group exists, with this policy.
    GroupSet { group: String, policy: Policy, created_us: i64 },
    /// The group and its positions are gone.
    GroupDeleted { group: String },
    /// The group has got at least this far.
    Advanced { key: PositionKey, progress: Progress },
    /// The group stands exactly here.
    Reset { key: PositionKey, committed: Offset },
    /// No group has a position in this topic.
    TopicDeleted { topic: TopicId },
}

/// One group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) policy: Policy,
    pub(crate) created_us: i64,
    positions: BTreeMap<(TopicId, u32), Progress>,
}

impl Group {
    /// How far it has got in a partition.
    pub(crate) fn position(&self, topic: TopicId, partition: u32) -> Option<&Progress> {
        self.positions.get(&(topic, partition))
    }

    /// Its positions in one topic, by partition.
    pub(crate) fn positions_in(&self, topic: TopicId) -> impl Iterator<Item = (u32, &Progress)> {
        self.positions.range((topic, 0)..=(topic, u32::MAX)).map(|((_, partition), progress)| (*partition, progress))
    }

    /// Records that have failed and are not handled yet.
    pub(crate) fn failures(&self) -> impl Iterator<Item = FailedRecords<'_>> {
        self.positions.iter().flat_map(|(&(topic, partition), progress)| {
            progress.failures().map(move |(range, failure)| FailedRecords { topic, partition, range, failure })
        })
    }

    /// The topics in which it has a position.
    pub(crate) fn topics(&self) -> Vec<TopicId> {
        let mut topics: Vec<_> = self.positions.keys().map(|(topic, _)| *topic).collect();
        topics.dedup();
        topics
    }
}

/// Neighbours that have failed together.
#[derive(Debug, Clone)]
pub(crate) struct FailedRecords<'a> {
    pub(crate) topic: TopicId,
    pub(crate) partition: u32,
    pub(crate) range: Range<Offset>,
    pub(crate) failure: &'a Failure,
}

/// All groups, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct State {
    groups: BTreeMap<String, Group>,
}

impl State {
    /// Takes one step.
    pub(crate) fn apply(&mut self, change: Change) {
        match change {
            Change::GroupSet { group, policy, created_us } => {
                let positions = self.groups.remove(&group).map(|group| group.positions).unwrap_or_default();
                self.groups.insert(group, Group { policy, created_us, positions });
            }
            Change::GroupDeleted { group } => drop(self.groups.remove(&group)),
            Change::Advanced { key, progress } => self.advance(&key, progress),
            Change::Reset { key, committed } => {
                if let Some(group) = self.groups.get_mut(&key.group) {
                    group.positions.insert((key.topic, key.partition), Progress::at(committed));
                }
            }
            Change::TopicDeleted { topic } => {
                for group in self.groups.values_mut() {
                    group.positions.retain(|(id, _), _| *id != topic);
                }
            }
        }
    }

    /// The group has got at least this far.
    pub(crate) fn advance(&mut self, key: &PositionKey, progress: Progress) {
        let Some(group) = self.groups.get_mut(&key.group) else { return };
        match group.positions.entry((key.topic, key.partition)) {
            Entry::Occupied(mut known) => known.get_mut().merge(progress),
            Entry::Vacant(unknown) => drop(unknown.insert(progress)),
        }
    }

    /// The group of that name.
    pub(crate) fn group(&self, name: &str) -> Option<&Group> {
        self.groups.get(name)
    }

    /// All groups, by name.
    pub(crate) fn groups(&self) -> impl Iterator<Item = (&str, &Group)> {
        self.groups.iter().map(|(name, group)| (name.as_str(), group))
    }

    /// How many groups there are.
    pub(crate) fn len(&self) -> usize {
        self.groups.len()
    }

    /// How far a group has got.
    pub(crate) fn position(&self, key: &PositionKey) -> Option<&Progress> {
        self.group(&key.group)?.position(key.topic, key.partition)
    }

    /// Steps that make this state out of none.
    pub(crate) fn changes(&self) -> impl Iterator<Item = Change> {
        self.groups.iter().flat_map(|(name, group)| {
            let set =
                Change::GroupSet { group: name.clone(), policy: group.policy.clone(), created_us: group.created_us };
            let positions = group.positions.iter().map(|((topic, partition), progress)| Change::Advanced {
                key: PositionKey { group: name.clone(), topic: *topic, partition: *partition },
                progress: progress.clone(),
            });
            std::iter::once(set).chain(positions)
        })
    }
}

/// Builds a progress from what was stored or sent.
pub(crate) fn progress_of(committed: Offset, acked: impl IntoIterator<Item = Range<Offset>>) -> Progress {
    let mut progress = Progress::at(committed);
    acked.into_iter().for_each(|range| progress.ack(range));
    progress
}

#[cfg(test)]
pub(crate) mod tests {
    use std::{sync::Arc, time::Duration};

    use super::*;
    use crate::groups::{
        hours::{DailyWindow, DeliveryHours},
        policy::{Mode, StartAt},
        retry::{OnExhausted, RetryPolicy},
    };

    /// A plausible change, out of few groups, topics and partitions, so that they meet.
    pub(crate) fn random_change(random: &mut fastrand::Rng) -> Change {
        let key = PositionKey {
            group: format!("g{}", random.u8(0..3)),
            topic: [random.u8(0..2); 16],
            partition: random.u32(0..3),
        };
        match random.u8(0..20) {
            0..=3 => Change::GroupSet {
                group: key.group,
                policy: Policy {
                    mode: Mode::Ordered,
                    start: [StartAt::Earliest, StartAt::Latest, StartAt::Offset(7), StartAt::TimeUs(-9)]
                        [random.usize(0..4)],
                    ack_timeout: Duration::from_millis(random.u64(100..9999)),
                    retry: RetryPolicy {
                        backoff_min: Duration::from_millis(random.u64(1..99)),
                        max_attempts: random.u32(1..9),
                        on_exhausted: [OnExhausted::Park, OnExhausted::Halt, OnExhausted::ParkKey][random.usize(0..3)],
                        ..RetryPolicy::default()
                    },
                    hours: random_hours(random),
                },
                created_us: random.i64(..),
            },
            4 => Change::GroupDeleted { group: key.group },
            5 => Change::TopicDeleted { topic: key.topic },
            6..=7 => Change::Reset { key, committed: random.u64(0..100) },
            _ => {
                let mut progress = Progress::at(random.u64(0..100));
                for _ in 0..random.u8(0..4) {
                    let from = random.u64(0..120);
                    progress.ack(from..from + random.u64(0..9));
                    let error = Arc::from(format!("error {}", random.u8(0..3)));
                    progress.fail(&(from + 4..from + random.u64(4..9)), &error, random.i64(..));
                }
                Change::Advanced { key, progress }
            }
        }
    }

    fn random_hours(random: &mut fastrand::Rng) -> DeliveryHours {
        let windows: Vec<DailyWindow> = (0..random.u8(0..3))
            .map(|_| DailyWindow { from_minute: random.u16(0..700), to_minute: random.u16(700..1440) })
            .collect();
        DeliveryHours::new(&windows, random.i32(-800..800)).expect("they are legal")
    }

    #[test]
    fn a_state_is_made_again_from_its_changes() {
        for seed in 0..100 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut state = State::default();
            for _ in 0..80 {
                state.apply(random_change(&mut random));
            }
            let mut again = State::default();
            state.changes().for_each(|change| again.apply(change));
            assert_eq!(again, state, "seed {seed}");
        }
    }

    #[test]
    fn without_a_reset_no_committed_offset_moves_back() {
        for seed in 0..100 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut state = State::default();
            for _ in 0..200 {
                let change = random_change(&mut random);
                let before = state.clone();
                let forward = matches!(change, Change::Advanced { .. } | Change::GroupSet { .. });
                state.apply(change);
                for (name, group) in before.groups().filter(|_| forward) {
                    for ((topic, partition), progress) in &group.positions {
                        let now = state.group(name).and_then(|group| group.position(*topic, *partition));
                        assert!(now.is_some_and(|now| now.committed() >= progress.committed()), "seed {seed}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_deleted_topic_takes_every_position_with_it() {
        let mut state = State::default();
        let mut random = fastrand::Rng::with_seed(5);
        (0..200).for_each(|_| state.apply(random_change(&mut random)));
        state.apply(Change::TopicDeleted { topic: [1; 16] });
        assert!(state.groups().all(|(_, group)| !group.topics().contains(&[1; 16])));
        assert!(state.groups().any(|(_, group)| group.topics().contains(&[0; 16])), "the other topic stays");
    }
}
