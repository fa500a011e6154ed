//! What the broker has promised, and what it may have done without saying so.

use std::collections::{BTreeMap, BTreeSet};

use aqueduct_storage::Offset;
use bytes::Bytes;

use crate::client::{Record, TopicId};

/// One numbered producer, which publishes to one partition.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) id: Bytes,
    pub(super) partition: u32,
    /// Sequence of the next record.
    pub(super) next: u64,
    /// Sent and not acknowledged: it is sent again before anything else.
    pub(super) pending: Option<Sent>,
    /// The last one that was acknowledged, and where.
    pub(super) last: Option<(Sent, Offset)>,
}

/// One request of a producer.
#[derive(Debug, Clone)]
pub(super) struct Sent {
    pub(super) sequence: u64,
    pub(super) records: Vec<Record>,
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Ledger {
    pub(super) context: String,
    pub(super) lanes: Vec<Lane>,
    /// Everything that was acknowledged or read, by partition.
    pub(super) stored: [BTreeMap<Offset, Bytes>; 2],
    /// Values that may be found.
    pub(super) sent: BTreeSet<Bytes>,
    /// Offsets that a group has durably acked, by partition.
    pub(super) acked: BTreeMap<&'static str, [BTreeSet<Offset>; 2]>,
    /// Committed offsets as they were last shown.
    pub(super) committed: BTreeMap<(&'static str, u32), Offset>,
    /// What may be found under each name of a short-lived topic.
    pub(super) topics: BTreeMap<String, Vec<Option<TopicId>>>,
    pub(super) crashes: u64,
    pub(super) publishes_acked: u64,
    pub(super) acks_durable: u64,
    pub(super) topics_acked: u64,
    pub(super) duplicates: u64,
}

impl Ledger {
    pub(super) fn new(context: String) -> Self {
        let lane = |number: u8| Lane {
            id: Bytes::from(vec![number + 1; 16]),
            partition: u32::from(number % 2),
            next: 0,
            pending: None,
            last: None,
        };
        Self {
            context,
            lanes: (0..4).map(lane).collect(),
            stored: Default::default(),
            sent: BTreeSet::new(),
            acked: BTreeMap::new(),
            committed: BTreeMap::new(),
            topics: BTreeMap::new(),
            crashes: 0,
            publishes_acked: 0,
            acks_durable: 0,
            topics_acked: 0,
            duplicates: 0,
        }
    }

    /// An event was acknowledged or shown at `offset`: from now on it is nothing else.
    pub(super) fn show(&mut self, partition: u32, offset: Offset, value: &Bytes) {
        let before = self.stored[partition as usize].entry(offset).or_insert_with(|| value.clone());
        assert!(before == value, "{}: {partition}@{offset} was another event before", self.context);
    }

    /// The whole of a partition, as it was read.
    pub(super) fn show_all(&mut self, partition: u32, found: &[Bytes]) {
        let mut values = BTreeSet::new();
        for value in found {
            assert!(self.sent.contains(value), "{}: an event out of nowhere", self.context);
            assert!(values.insert(value), "{}: an event is stored twice in partition {partition}", self.context);
        }
        let end = self.stored[partition as usize].keys().next_back().map_or(0, |last| last + 1);
        assert!(found.len() as Offset >= end, "{}: {partition} ends at {}, not {end}", self.context, found.len());
        (0..).zip(found).for_each(|(offset, value)| self.show(partition, offset, value));
    }

    /// The committed offset of a group, as it was shown.
    pub(super) fn show_committed(&mut self, group: &'static str, partition: u32, committed: Offset, end: Offset) {
        let context = format!("{}: {group} in {partition} is at {committed}", self.context);
        assert!(committed <= end, "{context}, beyond the log end {end}");
        let before = self.committed.insert((group, partition), committed).unwrap_or(0);
        assert!(committed >= before, "{context} and was at {before}");
        let acked = self.acked.get(group).map(|acked| &acked[partition as usize]);
        let mut due = before;
        while acked.is_some_and(|acked| acked.contains(&due)) {
            due += 1;
        }
        assert!(committed >= due, "{context}, although everything before {due} was durably acked");
    }

    /// A short-lived topic is there, or not.
    pub(super) fn show_topics(&mut self, found: &BTreeMap<String, TopicId>) {
        for name in found.keys() {
            assert!(self.topics.contains_key(name), "{}: topic {name} out of nowhere", self.context);
        }
        for (name, possible) in &mut self.topics {
            let found = found.get(name).copied();
            assert!(possible.contains(&found), "{}: {name} is {found:?}, not {possible:?}", self.context);
            *possible = vec![found];
        }
    }
}
