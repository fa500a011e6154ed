//! What must be found in the data directory: topics, logs, committed offsets, small files.
//!
//! Where an operation was not acknowledged, more than one thing may be found; what was found is certain from then on.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use aqueduct_storage::{Batch, Durability, LogId, Offset, TopicMeta};

use crate::support::model::Model;

/// Distinguishes the topics that ever were, whatever their names.
pub(crate) type TopicId = u8;

/// One of the logs of the directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum LogName {
    /// Where committed offsets are kept.
    Journal,
    Partition {
        topic: TopicId,
        partition: u32,
    },
}

/// One of the small files of the directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum SmallFile {
    System(&'static str),
    /// What a partition knows of its producers, beside its log.
    Producers {
        topic: TopicId,
        partition: u32,
    },
}

/// What a group has committed in a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct CommitKey {
    pub(crate) group: u8,
    pub(crate) topic: TopicId,
    pub(crate) partition: u32,
}

/// A committed offset: the one that was acknowledged, and those that were not and may be found.
#[derive(Debug, Clone, Default)]
pub(crate) struct Committed {
    pub(crate) acked: Option<Offset>,
    pub(crate) maybe: Vec<Offset>,
}

impl Committed {
    /// The highest that may be found.
    pub(crate) fn highest(&self) -> Offset {
        self.maybe.iter().copied().chain(self.acked).max().unwrap_or(0)
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    /// What may be found under each name; one entry is certainty.
    pub(crate) topics: BTreeMap<&'static str, Vec<Option<TopicMeta>>>,
    pub(crate) logs: BTreeMap<LogName, Model>,
    pub(crate) offsets: BTreeMap<CommitKey, Committed>,
    pub(crate) files: BTreeMap<SmallFile, Vec<Option<Vec<u8>>>>,
    topics_made: TopicId,
}

pub(crate) fn topic_id(meta: &TopicMeta) -> TopicId {
    meta.id[0]
}

pub(crate) fn log_id(name: LogName) -> LogId {
    let mut id = [0xee; 16];
    if let LogName::Partition { topic, partition } = name {
        id = [topic; 16];
        id[12..].copy_from_slice(&partition.to_be_bytes());
    }
    LogId(id)
}

impl Known {
    pub(crate) fn new() -> Self {
        let journal = Model::of(PathBuf::new(), log_id(LogName::Journal), Durability::Fsync);
        Self {
            topics: BTreeMap::new(),
            logs: BTreeMap::from([(LogName::Journal, journal)]),
            offsets: BTreeMap::new(),
            files: BTreeMap::new(),
            topics_made: 0,
        }
    }

    /// A topic that never was, with models of its logs.
    pub(crate) fn new_topic(&mut self, name: &str, settings: TopicMeta) -> TopicMeta {
        self.topics_made += 1;
        let topic = self.topics_made;
        for partition in 0..settings.partitions {
            let name = LogName::Partition { topic, partition };
            let model = Model::of(PathBuf::new(), log_id(name), settings.durability);
            self.logs.insert(name, if settings.cleanup.compacts() { model.compacted() } else { model });
        }
        TopicMeta { name: name.to_owned(), id: [topic; 16], ..settings }
    }

    /// Forgets all about topics that are gone for good.
    fn forget_gone(&mut self) {
        let may_be = |topic: TopicId| self.topics.values().flatten().flatten().any(|meta| topic_id(meta) == topic);
        self.logs.retain(|name, _| match name {
            LogName::Journal => true,
            LogName::Partition { topic, .. } => may_be(*topic),
        });
        self.files.retain(|name, _| match name {
            SmallFile::System(_) => true,
            SmallFile::Producers { topic, .. } => may_be(*topic),
        });
    }

    /// The directory shows these topics.
    pub(crate) fn find_topics(&mut self, found: &[TopicMeta], context: &str) {
        for meta in found {
            assert!(self.topics.contains_key(meta.name.as_str()), "{context}: {meta:?} out of nowhere");
        }
        for (name, possible) in &mut self.topics {
            let found = found.iter().find(|meta| meta.name == **name).cloned();
            assert!(possible.contains(&found), "{context}: {found:?} instead of {possible:?}");
            *possible = vec![found];
        }
        self.forget_gone();
    }

    /// The topic `name` is certainly `meta` now, or not there.
    pub(crate) fn set_topic(&mut self, name: &'static str, meta: Option<TopicMeta>) {
        self.topics.insert(name, vec![meta]);
        self.forget_gone();
    }

    /// The topic `name` may be `meta` now, or not there; or what it could be before.
    pub(crate) fn suspect_topic(&mut self, name: &'static str, meta: Option<TopicMeta>) {
        self.topics.entry(name).or_insert_with(|| vec![None]).push(meta);
    }

    /// The small file has this content.
    pub(crate) fn find_file(&mut self, name: SmallFile, found: Option<Vec<u8>>, context: &str) {
        let Some(possible) = self.files.get_mut(&name) else { return };
        assert!(possible.contains(&found), "{context}: {name:?} holds what was never written to it");
        match name {
            SmallFile::System(_) => *possible = vec![found],
            // A checkpoint may fall back to one before it: what it lacks is read from the log.
            SmallFile::Producers { .. } => {}
        }
    }

    /// The journal was read: no committed offset has gone back, none is one that was never asked for, and none lies
    /// beyond the end of its log.
    pub(crate) fn find_offsets(&mut self, end_of: impl Fn(LogName) -> Option<Offset>, context: &str) {
        let found = replay(&self.logs[&LogName::Journal].certain);
        for key in found.keys() {
            assert!(self.offsets.contains_key(key), "{context}: {key:?} was never committed");
        }
        for (key, committed) in &mut self.offsets {
            let found = found.get(key).copied();
            let possible = committed.maybe.iter().copied().map(Some).chain([committed.acked]);
            assert!(
                possible.clone().any(|possible| possible == found),
                "{context}: {key:?} is {found:?} instead of {committed:?}"
            );
            assert!(found >= committed.acked, "{context}: {key:?} went back from {committed:?} to {found:?}");
            let log = LogName::Partition { topic: key.topic, partition: key.partition };
            if let (Some(found), Some(end)) = (found, end_of(log)) {
                assert!(found <= end, "{context}: {key:?} is {found}, beyond the log end {end}");
            }
            *committed = Committed { acked: found, maybe: Vec::new() };
        }
    }
}

/// What the journal says of a committed offset.
pub(crate) fn commit_line(key: CommitKey, offset: Offset) -> String {
    let CommitKey { group, topic, partition } = key;
    format!("{group} {topic} {partition} {offset}\n")
}

fn replay(journal: &[Batch]) -> BTreeMap<CommitKey, Offset> {
    let mut offsets = BTreeMap::new();
    for batch in journal {
        let text = std::str::from_utf8(&batch.payload).expect("text");
        for line in text.lines() {
            let fields: Vec<u64> = line.split(' ').map(|field| field.parse().expect("a number")).collect();
            let [group, topic, partition, offset] = fields[..] else { panic!("{line:?}") };
            let small = |field: u64| u8::try_from(field).expect("small");
            let key = CommitKey { group: small(group), topic: small(topic), partition: u32::from(small(partition)) };
            offsets.insert(key, offset);
        }
    }
    offsets
}

/// Where a small file of the system lies in the data directory.
pub(crate) fn system_file(name: &str) -> PathBuf {
    Path::new("system").join(name)
}
