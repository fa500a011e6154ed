//! Settings of a topic: their defaults and bounds. Pure.

use std::{collections::BTreeMap, time::Duration};

use aqueduct_storage::{Cleanup, Durability, TopicMeta};

use crate::{backlog::Backlog, error::TopicError, names};

/// Most partitions of one topic.
pub(crate) const PARTITIONS_MAX: u32 = 10_000;

/// Smallest segment, in bytes: smaller ones would make a file out of every few batches.
pub(crate) const SEGMENT_BYTES_MIN: u64 = 64 << 10;

/// Largest segment, in bytes.
pub(crate) const SEGMENT_BYTES_MAX: u64 = 16 << 30;

/// How long a compaction keeps a tombstone, unless the topic says otherwise: whoever reads the topic from its beginning
/// within that time learns of every key that has gone.
pub(crate) const TOMBSTONE_RETENTION: Duration = Duration::from_secs(24 * 3600);

const OWNER_BYTES_MAX: usize = 1024;

/// A topic to be made.
#[derive(Debug, Clone)]
pub(crate) struct NewTopic {
    /// 1 to [`PARTITIONS_MAX`].
    pub partitions: u32,
    /// Per partition; `None`: unlimited.
    pub retention_bytes: Option<u64>,
    /// `None`: for ever.
    pub retention_age: Option<Duration>,
    /// What an acknowledgement means.
    pub durability: Durability,
    /// [`SEGMENT_BYTES_MIN`] to [`SEGMENT_BYTES_MAX`]; `None`: the broker's.
    pub segment_bytes: Option<u64>,
    /// Who answers for it.
    pub owner: Option<String>,
    /// What happens to publishers while a group is too far behind.
    pub backlog: Option<Backlog>,
    /// What becomes of old records.
    pub cleanup: Cleanup,
    /// How long a compaction keeps a tombstone; `None`: [`TOMBSTONE_RETENTION`].
    pub tombstone_retention: Option<Duration>,
    /// Younger records are not compacted; `None`: all may be.
    pub min_compaction_lag: Option<Duration>,
}

impl Default for NewTopic {
    fn default() -> Self {
        Self {
            partitions: 1,
            retention_bytes: None,
            retention_age: None,
            durability: Durability::Fsync,
            segment_bytes: None,
            owner: None,
            backlog: None,
            cleanup: Cleanup::Delete,
            tombstone_retention: None,
            min_compaction_lag: None,
        }
    }
}

impl NewTopic {
    /// Itself, if every setting is within its bounds.
    pub(super) fn checked(self) -> Result<Self, TopicError> {
        check_partitions(self.partitions)?;
        check_retention(self.retention_bytes, self.retention_age)?;
        check_owner(self.owner.as_deref())?;
        if let Some(bytes) = self.segment_bytes
            && !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&bytes)
        {
            let reason = format!("must be between {SEGMENT_BYTES_MIN} and {SEGMENT_BYTES_MAX}, not {bytes}");
            return Err(TopicError::Config { field: "segment_bytes", reason });
        }
        let backlog = self.backlog.map(Backlog::checked).transpose()?;
        Ok(Self { backlog, ..self })
    }

    pub(super) fn into_meta(self, name: &str, id: [u8; 16], created_us: i64) -> TopicMeta {
        let mut settings = BTreeMap::new();
        Backlog::store(self.backlog.as_ref(), &mut settings);
        TopicMeta {
            name: name.to_owned(),
            id,
            partitions: self.partitions,
            retention_bytes: self.retention_bytes,
            retention_age: self.retention_age,
            durability: self.durability,
            segment_bytes: self.segment_bytes,
            owner: self.owner,
            cleanup: self.cleanup,
            tombstone_retention: self.tombstone_retention,
            min_compaction_lag: self.min_compaction_lag,
            created_us,
            settings,
        }
    }
}

/// A change of settings. The outer `None`: as it is.
#[derive(Debug, Clone, Default)]
pub(crate) struct TopicChange {
    /// Can only grow.
    pub partitions: Option<u32>,
    /// `Some(None)`: unlimited from now on.
    pub retention_bytes: Option<Option<u64>>,
    /// `Some(None)`: for ever from now on.
    pub retention_age: Option<Option<Duration>>,
    /// What an acknowledgement means from now on.
    pub durability: Option<Durability>,
    /// Who answers for it.
    pub owner: Option<String>,
    /// `Some(None)`: nobody holds publishers from now on.
    pub backlog: Option<Option<Backlog>>,
    /// What becomes of old records from now on.
    pub cleanup: Option<Cleanup>,
    /// How long a compaction keeps a tombstone.
    pub tombstone_retention: Option<Duration>,
    /// Younger records are not compacted.
    pub min_compaction_lag: Option<Duration>,
}

impl TopicChange {
    pub(super) fn apply(self, meta: &TopicMeta) -> Result<TopicMeta, TopicError> {
        let mut changed = meta.clone();
        if let Some(partitions) = self.partitions {
            check_partitions(partitions)?;
            if partitions < meta.partitions {
                let reason = format!("can only grow: the topic has {}", meta.partitions);
                return Err(TopicError::Config { field: "partitions", reason });
            }
            changed.partitions = partitions;
        }
        changed.retention_bytes = self.retention_bytes.unwrap_or(changed.retention_bytes);
        changed.retention_age = self.retention_age.unwrap_or(changed.retention_age);
        check_retention(changed.retention_bytes, changed.retention_age)?;
        check_owner(self.owner.as_deref())?;
        changed.durability = self.durability.unwrap_or(changed.durability);
        changed.owner = self.owner.or(changed.owner);
        if let Some(backlog) = self.backlog {
            check_has_publishers(&meta.name)?;
            Backlog::store(backlog.map(Backlog::checked).transpose()?.as_ref(), &mut changed.settings);
        }
        changed.cleanup = self.cleanup.unwrap_or(changed.cleanup);
        changed.tombstone_retention = self.tombstone_retention.or(changed.tombstone_retention);
        changed.min_compaction_lag = self.min_compaction_lag.or(changed.min_compaction_lag);
        Ok(changed)
    }
}

/// The broker's own topics have none that could wait: what goes there must not depend on who reads it.
fn check_has_publishers(topic: &str) -> Result<(), TopicError> {
    match names::check(topic) {
        Ok(()) => Ok(()),
        Err(_) => {
            let reason = "the broker's own topics take no backlog".to_owned();
            Err(TopicError::Config { field: "backlog", reason })
        }
    }
}

fn check_partitions(partitions: u32) -> Result<(), TopicError> {
    if (1..=PARTITIONS_MAX).contains(&partitions) {
        return Ok(());
    }
    let reason = format!("must be between 1 and {PARTITIONS_MAX}, not {partitions}");
    Err(TopicError::Config { field: "partitions", reason })
}

fn check_retention(bytes: Option<u64>, age: Option<Duration>) -> Result<(), TopicError> {
    if bytes == Some(0) {
        let reason = "must be at least 1; leave it out for unlimited".to_owned();
        return Err(TopicError::Config { field: "retention_bytes", reason });
    }
    if age == Some(Duration::ZERO) {
        let reason = "must be at least 1 ms; leave it out to keep events for ever".to_owned();
        return Err(TopicError::Config { field: "retention_age_ms", reason });
    }
    Ok(())
}

fn check_owner(owner: Option<&str>) -> Result<(), TopicError> {
    match owner {
        Some(owner) if owner.len() > OWNER_BYTES_MAX => {
            let reason = format!("must have at most {OWNER_BYTES_MAX} bytes, not {}", owner.len());
            Err(TopicError::Config { field: "owner", reason })
        }
        _ => Ok(()),
    }
}
