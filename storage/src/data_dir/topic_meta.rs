//! `topic.toml`: what a topic is, for people to read.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::Durability;

/// Each is a directory and a log to open: a number beyond this is a slip of whoever edited the file.
const PARTITIONS_MAX: u32 = 1 << 16;

/// What is known of a topic on disk.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TopicMeta {
    /// Its name; system names have a `~`.
    pub name: String,
    /// Identity: a topic that is deleted and made again is another one.
    pub id: [u8; 16],
    /// Number of partitions.
    pub partitions: u32,
    /// See [`LogOptions::retention_bytes`](crate::LogOptions::retention_bytes); for each partition.
    pub retention_bytes: Option<u64>,
    /// See [`LogOptions::retention_age`](crate::LogOptions::retention_age). Kept in whole milliseconds.
    pub retention_age: Option<Duration>,
    /// See [`LogOptions::durability`](crate::LogOptions::durability).
    pub durability: Durability,
    /// See [`LogOptions::segment_bytes`](crate::LogOptions::segment_bytes); `None`: the broker's default.
    pub segment_bytes: Option<u64>,
    /// What becomes of old records.
    pub cleanup: Cleanup,
    /// How long a compaction keeps a tombstone; `None`: the broker's default. Kept in whole milliseconds.
    pub tombstone_retention: Option<Duration>,
    /// Younger records are not compacted; `None`: all may be. Kept in whole milliseconds.
    pub min_compaction_lag: Option<Duration>,
    /// Who may publish.
    pub owner: Option<String>,
    /// When it was made, µs since the epoch.
    pub created_us: i64,
    /// What the broker keeps about a topic beyond this; the storage only carries it.
    pub settings: BTreeMap<String, String>,
}

/// What becomes of the old records of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cleanup {
    /// Retention removes them.
    #[default]
    Delete,
    /// Of each key the latest stays, for ever.
    Compact,
    /// Of each key the latest stays, and retention removes what is too old or too much.
    Both,
}

impl Cleanup {
    /// Whether of each key only the latest stays.
    #[must_use]
    pub fn compacts(self) -> bool {
        match self {
            Self::Compact | Self::Both => true,
            Self::Delete => false,
        }
    }

    /// Whether retention applies.
    #[must_use]
    pub fn deletes(self) -> bool {
        match self {
            Self::Delete | Self::Both => true,
            Self::Compact => false,
        }
    }

    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// The file, key by key. A key that is not known is refused by name: it may be one that matters.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TopicFile {
    name: String,
    id: String,
    partitions: u32,
    durability: DurabilityName,
    created_us: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    retention_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retention_age_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    segment_bytes: Option<u64>,
    #[serde(default, skip_serializing_if = "Cleanup::is_default")]
    cleanup: Cleanup,
    #[serde(skip_serializing_if = "Option::is_none")]
    tombstone_retention_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    min_compaction_lag_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    settings: BTreeMap<String, String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum DurabilityName {
    Fsync,
    Os,
}

pub(super) fn to_toml(meta: &TopicMeta) -> String {
    let file = TopicFile {
        name: meta.name.clone(),
        id: super::hex(&meta.id),
        partitions: meta.partitions,
        durability: match meta.durability {
            Durability::Fsync => DurabilityName::Fsync,
            Durability::Os => DurabilityName::Os,
        },
        created_us: meta.created_us,
        // TOML's integers are signed; more than they hold is as good as the most they hold.
        retention_bytes: meta.retention_bytes.map(fit),
        retention_age_ms: meta.retention_age.map(millis),
        segment_bytes: meta.segment_bytes.map(fit),
        cleanup: meta.cleanup,
        tombstone_retention_ms: meta.tombstone_retention.map(millis),
        min_compaction_lag_ms: meta.min_compaction_lag.map(millis),
        owner: meta.owner.clone(),
        settings: meta.settings.clone(),
    };
    // Strings, bounded integers and a map of strings: nothing that TOML cannot hold.
    toml::to_string(&file).unwrap_or_default()
}

pub(crate) fn from_toml(bytes: &[u8]) -> Result<TopicMeta, String> {
    let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
    let file: TopicFile = toml::from_str(text).map_err(|error| error.message().to_owned())?;
    if file.partitions > PARTITIONS_MAX {
        return Err(format!("`partitions` is {}; there can be at most {PARTITIONS_MAX}", file.partitions));
    }
    Ok(TopicMeta {
        id: parse_id(&file.id).ok_or_else(|| "`id` is not 32 hexadecimal digits".to_owned())?,
        name: file.name,
        partitions: file.partitions,
        retention_bytes: file.retention_bytes,
        retention_age: file.retention_age_ms.map(Duration::from_millis),
        durability: match file.durability {
            DurabilityName::Fsync => Durability::Fsync,
            DurabilityName::Os => Durability::Os,
        },
        segment_bytes: file.segment_bytes,
        cleanup: file.cleanup,
        tombstone_retention: file.tombstone_retention_ms.map(Duration::from_millis),
        min_compaction_lag: file.min_compaction_lag_ms.map(Duration::from_millis),
        owner: file.owner,
        created_us: file.created_us,
        settings: file.settings,
    })
}

fn millis(duration: Duration) -> u64 {
    fit(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

fn fit(number: u64) -> u64 {
    number.min(i64::MAX.unsigned_abs())
}

fn parse_id(text: &str) -> Option<[u8; 16]> {
    if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    u128::from_str_radix(text, 16).ok().map(u128::to_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_is_read_as_it_was_written() {
        let full = TopicMeta {
            name: "orders".into(),
            id: [0x0f; 16],
            partitions: 3,
            retention_bytes: Some(u64::MAX >> 1),
            retention_age: Some(Duration::from_millis(1_500)),
            durability: Durability::Os,
            segment_bytes: Some(1 << 20),
            cleanup: Cleanup::Both,
            tombstone_retention: Some(Duration::from_secs(60)),
            min_compaction_lag: Some(Duration::from_millis(7)),
            owner: Some("billing \"team\"\n".into()),
            created_us: -1,
            settings: BTreeMap::from([("backlog".into(), "hold".into())]),
        };
        for meta in [full, TopicMeta { name: "x".into(), ..TopicMeta::default() }] {
            assert_eq!(from_toml(to_toml(&meta).as_bytes()), Ok(meta));
        }
    }

    #[test]
    fn an_unknown_key_is_refused_by_name() {
        let text = to_toml(&TopicMeta::default()).replace("partitions", "partitons");
        assert!(from_toml(text.as_bytes()).is_err_and(|what| what.contains("partitons")));
    }

    #[test]
    fn more_partitions_than_there_can_be_are_refused_by_name() {
        let text = to_toml(&TopicMeta { partitions: 4_000_000_000, ..TopicMeta::default() });
        assert!(from_toml(text.as_bytes()).is_err_and(|what| what.contains("`partitions`")));
    }
}
