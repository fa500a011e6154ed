//! Topics.

use std::time::Duration;

use aqueduct_proto::v1;

use super::{
    backlog::{self, Backlog, PublisherHold},
    verify::VerifyTopic,
};
use crate::{
    error::RequestError,
    transport::link::Link,
    types::{Durability, Offset, Timestamp, TopicId},
};

/// The topics of a broker.
#[derive(Clone, Debug)]
pub struct Topics {
    link: Link,
}

/// A topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// Its identity.
    pub id: TopicId,
    /// Its settings.
    pub config: TopicConfig,
    /// Since when it exists.
    pub created: Timestamp,
}

/// The settings of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicConfig {
    /// At least 1; can be raised later, never lowered. Default: 1.
    pub partitions: u32,
    /// Per partition. Default: unlimited.
    pub retention_bytes: Option<u64>,
    /// By append time. Default: for ever.
    pub retention_age: Option<Duration>,
    /// What an ack means. Default: fsync.
    pub durability: Durability,
    /// Default: the broker's.
    pub segment_bytes: Option<u64>,
    /// Who answers for this topic; informational.
    pub owner: Option<String>,
    /// What happens to publishers while a group is too far behind. Default: nothing.
    pub backlog: Option<Backlog>,
    /// What becomes of old records. Default: retention removes them.
    pub cleanup: Cleanup,
    /// How long a compaction keeps a tombstone. Default: 24 hours.
    pub tombstone_retention: Option<Duration>,
    /// Younger records are not compacted away. Default: all may be.
    pub min_compaction_lag: Option<Duration>,
}

impl Default for TopicConfig {
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

/// What becomes of the old records of a topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cleanup {
    /// Retention removes them.
    #[default]
    Delete,
    /// Of each key the latest stays, for ever. Records need a key.
    Compact,
    /// Of each key the latest stays, as long as retention keeps it. Records need a key.
    Both,
}

impl std::fmt::Display for Cleanup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Delete => "delete",
            Self::Compact => "compact",
            Self::Both => "both",
        })
    }
}

impl From<Cleanup> for v1::Cleanup {
    fn from(cleanup: Cleanup) -> Self {
        match cleanup {
            Cleanup::Delete => Self::Delete,
            Cleanup::Compact => Self::Compact,
            Cleanup::Both => Self::Both,
        }
    }
}

impl From<v1::Cleanup> for Cleanup {
    fn from(cleanup: v1::Cleanup) -> Self {
        match cleanup {
            v1::Cleanup::Unspecified | v1::Cleanup::Delete => Self::Delete,
            v1::Cleanup::Compact => Self::Compact,
            v1::Cleanup::Both => Self::Both,
        }
    }
}

/// What a compaction has taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compacted {
    /// Records for which a later one of the same key stands, and tombstones beyond their time.
    pub records_removed: u64,
    /// On disk.
    pub bytes_freed: u64,
}

/// A topic and the state of its partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicDescription {
    /// The topic.
    pub topic: Topic,
    /// In order.
    pub partitions: Vec<PartitionInfo>,
    /// The groups that consume it.
    pub groups: Vec<String>,
    /// What holds its publishers now.
    pub holds: Vec<PublisherHold>,
    /// The group of its [`backlog`](TopicConfig::backlog) does not exist now, so that nobody is held.
    pub backlog_group_unknown: bool,
}

/// The state of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionInfo {
    /// Which one.
    pub partition: u32,
    /// First readable offset (inclusive).
    pub log_start: Offset,
    /// First offset readers may not see (exclusive).
    pub high_watermark: Offset,
    /// On disk.
    pub size_bytes: u64,
    /// Files of batches.
    pub segments: u32,
    /// Of the log.
    pub epoch: u32,
    /// What is wrong with it; `None`: healthy.
    pub failure: Option<String>,
    /// When the broker tries next to go on with a partition that failed.
    pub retry_in: Option<Duration>,
}

impl Topics {
    pub(crate) fn new(link: Link) -> Self {
        Self { link }
    }

    /// Makes a topic, once its settings are complete.
    pub fn create(&self, name: impl Into<String>) -> CreateTopic {
        CreateTopic { link: self.link.clone(), name: name.into(), config: TopicConfig::default() }
    }

    /// # Errors
    /// [`RequestError`].
    pub async fn describe(&self, name: &str) -> Result<TopicDescription, RequestError> {
        let ask = || {
            let (mut topics, name) = (self.link.topics(), name.to_owned());
            async move { topics.describe(v1::DescribeTopicRequest { name }).await }
        };
        let answer = self.link.read(ask).await?;
        let partition = |partition: v1::PartitionInfo| PartitionInfo {
            partition: partition.partition,
            log_start: partition.log_start,
            high_watermark: partition.high_watermark,
            size_bytes: partition.size_bytes,
            segments: partition.segments,
            epoch: partition.epoch,
            failure: Some(partition.failure).filter(|failure| !failure.is_empty()),
            retry_in: partition.retry_in_ms.map(Duration::from_millis),
        };
        let backlog = answer.topic.as_ref().and_then(|topic| topic.config.as_ref()?.backlog.as_ref());
        Ok(TopicDescription {
            backlog_group_unknown: backlog.is_some_and(|backlog| backlog.group_unknown),
            topic: read_topic(answer.topic)?,
            partitions: answer.partitions.into_iter().map(partition).collect(),
            groups: answer.groups,
            holds: answer.holds.into_iter().map(PublisherHold::from).collect(),
        })
    }

    /// The topics that users have made.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn list(&self) -> Result<Vec<Topic>, RequestError> {
        self.list_with(v1::ListTopicsRequest { include_system: false }).await
    }

    /// All topics, the broker's own included.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn list_all(&self) -> Result<Vec<Topic>, RequestError> {
        self.list_with(v1::ListTopicsRequest { include_system: true }).await
    }

    async fn list_with(&self, request: v1::ListTopicsRequest) -> Result<Vec<Topic>, RequestError> {
        let ask = || {
            let mut topics = self.link.topics();
            async move { topics.list(request).await }
        };
        self.link.read(ask).await?.topics.into_iter().map(|topic| read_topic(Some(topic))).collect()
    }

    /// Changes a topic, once the changes are complete.
    pub fn alter(&self, name: impl Into<String>) -> AlterTopic {
        let request = v1::AlterTopicRequest { name: name.into(), ..v1::AlterTopicRequest::default() };
        AlterTopic { link: self.link.clone(), request }
    }

    /// Removes a topic and its events; refused while group members consume it.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn delete(&self, name: &str) -> Result<(), RequestError> {
        self.delete_with(v1::DeleteTopicRequest { name: name.to_owned(), ..v1::DeleteTopicRequest::default() }).await
    }

    /// Removes a topic and its events, whoever consumes it.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn delete_forced(&self, name: &str) -> Result<(), RequestError> {
        let request =
            v1::DeleteTopicRequest { name: name.to_owned(), force: true, ..v1::DeleteTopicRequest::default() };
        self.delete_with(request).await
    }

    async fn delete_with(&self, request: v1::DeleteTopicRequest) -> Result<(), RequestError> {
        let mut topics = self.link.topics();
        self.link.unary(async move { topics.delete(request).await }).await.map(drop)
    }

    /// Reads everything that a topic holds and tells what is not as it was written, once it is complete. Changes nothing.
    pub fn verify(&self, name: impl Into<String>) -> VerifyTopic {
        VerifyTopic::new(self.link.clone(), name.into())
    }

    /// Compacts a topic now, up to what was published last; the broker does so by itself when enough is new. May take
    /// as long as reading and writing the topic.
    ///
    /// # Errors
    /// [`RequestError`]; `INVALID_ARGUMENT` unless its [`cleanup`](TopicConfig::cleanup) asks for it.
    pub async fn compact(&self, name: &str) -> Result<Compacted, RequestError> {
        let mut topics = self.link.topics();
        let request = v1::CompactTopicRequest { name: name.to_owned(), ..v1::CompactTopicRequest::default() };
        let answer = self.link.unary(async move { topics.compact(request).await }).await?;
        Ok(Compacted { records_removed: answer.records_removed, bytes_freed: answer.bytes_freed })
    }

    /// Moves the log start of a partition forward; gives the new one.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn truncate(&self, name: &str, partition: u32, before_offset: Offset) -> Result<Offset, RequestError> {
        let mut topics = self.link.topics();
        let request = v1::TruncateTopicRequest { name: name.to_owned(), partition, before_offset };
        let answer = self.link.unary(async move { topics.truncate(request).await }).await?;
        Ok(answer.log_start)
    }
}

/// Makes a topic.
#[derive(Clone, Debug)]
#[must_use]
pub struct CreateTopic {
    link: Link,
    name: String,
    config: TopicConfig,
}

impl CreateTopic {
    /// All settings at once.
    pub fn config(mut self, config: TopicConfig) -> Self {
        self.config = config;
        self
    }

    /// Default: 1.
    pub fn partitions(mut self, partitions: u32) -> Self {
        self.config.partitions = partitions;
        self
    }

    /// Per partition. Default: unlimited.
    pub fn retention_bytes(mut self, bytes: u64) -> Self {
        self.config.retention_bytes = Some(bytes);
        self
    }

    /// By append time. Default: for ever.
    pub fn retention_age(mut self, age: Duration) -> Self {
        self.config.retention_age = Some(age);
        self
    }

    /// What an ack means. Default: fsync.
    pub fn durability(mut self, durability: Durability) -> Self {
        self.config.durability = durability;
        self
    }

    /// Default: the broker's.
    pub fn segment_bytes(mut self, bytes: u64) -> Self {
        self.config.segment_bytes = Some(bytes);
        self
    }

    /// Who answers for this topic.
    pub fn owner(mut self, owner: impl Into<String>) -> Self {
        self.config.owner = Some(owner.into());
        self
    }

    /// What happens to publishers while a group is too far behind. Default: nothing.
    pub fn backlog(mut self, backlog: Backlog) -> Self {
        self.config.backlog = Some(backlog);
        self
    }

    /// What becomes of old records. Default: retention removes them.
    pub fn cleanup(mut self, cleanup: Cleanup) -> Self {
        self.config.cleanup = cleanup;
        self
    }

    /// How long a compaction keeps a tombstone. Default: 24 hours.
    pub fn tombstone_retention(mut self, retention: Duration) -> Self {
        self.config.tombstone_retention = Some(retention);
        self
    }

    /// Younger records are not compacted away. Default: all may be.
    pub fn min_compaction_lag(mut self, lag: Duration) -> Self {
        self.config.min_compaction_lag = Some(lag);
        self
    }

    /// Makes the topic.
    ///
    /// # Errors
    /// [`RequestError`]; `ALREADY_EXISTS` if there is one of this name.
    pub async fn build(self) -> Result<Topic, RequestError> {
        let mut topics = self.link.topics();
        let request = v1::CreateTopicRequest { name: self.name, config: Some(self.config.into()) };
        read_topic(self.link.unary(async move { topics.create(request).await }).await?.topic)
    }
}

/// Changes a topic; what is not mentioned stays.
#[derive(Clone, Debug)]
#[must_use]
pub struct AlterTopic {
    link: Link,
    request: v1::AlterTopicRequest,
}

impl AlterTopic {
    /// More partitions than now. Producers and subscriptions that are open keep to those they know.
    pub fn partitions(mut self, partitions: u32) -> Self {
        self.request.partitions = Some(partitions);
        self
    }

    /// Per partition; `None`: unlimited.
    pub fn retention_bytes(mut self, bytes: Option<u64>) -> Self {
        self.request.retention_bytes = Some(bytes.unwrap_or(0));
        self
    }

    /// By append time; `None`: for ever.
    pub fn retention_age(mut self, age: Option<Duration>) -> Self {
        self.request.retention_age_ms = Some(age.map_or(0, age_millis));
        self
    }

    /// What an ack means from here on.
    pub fn durability(mut self, durability: Durability) -> Self {
        self.request.durability = Some(v1::Durability::from(durability).into());
        self
    }

    /// Who answers for this topic.
    pub fn owner(mut self, owner: impl Into<String>) -> Self {
        self.request.owner = Some(owner.into());
        self
    }

    /// What happens to publishers while a group is too far behind; `None`: nothing. Replaces what was set as a whole.
    pub fn backlog(mut self, backlog: Option<Backlog>) -> Self {
        self.request.backlog = Some(backlog.map_or_else(backlog::none, v1::Backlog::from));
        self
    }

    /// What becomes of old records from here on.
    pub fn cleanup(mut self, cleanup: Cleanup) -> Self {
        self.request.cleanup = Some(v1::Cleanup::from(cleanup).into());
        self
    }

    /// How long a compaction keeps a tombstone.
    pub fn tombstone_retention(mut self, retention: Duration) -> Self {
        self.request.tombstone_retention_ms = Some(age_millis(retention));
        self
    }

    /// Younger records are not compacted away.
    pub fn min_compaction_lag(mut self, lag: Duration) -> Self {
        self.request.min_compaction_lag_ms = Some(age_millis(lag));
        self
    }

    /// Changes the topic.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn build(self) -> Result<Topic, RequestError> {
        let mut topics = self.link.topics();
        let request = self.request;
        read_topic(self.link.unary(async move { topics.alter(request).await }).await?.topic)
    }
}

pub(super) fn age_millis(age: Duration) -> u64 {
    u64::try_from(age.as_millis()).unwrap_or(u64::MAX)
}

fn read_topic(topic: Option<v1::Topic>) -> Result<Topic, RequestError> {
    let topic = topic.ok_or_else(|| RequestError::malformed("an answer without its topic"))?;
    Ok(Topic {
        id: TopicId::parse(&topic.id).ok_or_else(|| RequestError::malformed("a topic's id is not 16 bytes"))?,
        name: topic.name,
        config: topic.config.unwrap_or_default().into(),
        created: Timestamp::from_micros(topic.created_us),
    })
}

impl From<TopicConfig> for v1::TopicConfig {
    fn from(config: TopicConfig) -> Self {
        Self {
            partitions: config.partitions,
            retention_bytes: config.retention_bytes,
            retention_age_ms: config.retention_age.map(age_millis),
            durability: v1::Durability::from(config.durability).into(),
            segment_bytes: config.segment_bytes,
            owner: config.owner,
            backlog: config.backlog.map(v1::Backlog::from),
            cleanup: v1::Cleanup::from(config.cleanup).into(),
            tombstone_retention_ms: config.tombstone_retention.map(age_millis),
            min_compaction_lag_ms: config.min_compaction_lag.map(age_millis),
        }
    }
}

impl From<v1::TopicConfig> for TopicConfig {
    fn from(config: v1::TopicConfig) -> Self {
        Self {
            partitions: config.partitions,
            retention_bytes: config.retention_bytes,
            retention_age: config.retention_age_ms.map(Duration::from_millis),
            durability: Durability::from_proto(config.durability).unwrap_or_default(),
            cleanup: config.cleanup().into(),
            tombstone_retention: config.tombstone_retention_ms.map(Duration::from_millis),
            min_compaction_lag: config.min_compaction_lag_ms.map(Duration::from_millis),
            segment_bytes: config.segment_bytes,
            owner: config.owner,
            backlog: config.backlog.and_then(Backlog::from_proto),
        }
    }
}
