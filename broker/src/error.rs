//! What can go wrong in the broker, one small enum per concern. [`crate::status`] maps them to gRPC.

use std::{sync::Arc, time::Duration};

use aqueduct_storage::Offset;

use crate::{
    backlog::{self, GroupHold},
    engine::{EngineError, ReadError},
};

/// A name breaks the rule of [`crate::names`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// No name at all.
    #[error("the name is empty")]
    Empty,
    /// Over 249 bytes.
    #[error("the name has {bytes} bytes; at most 249 are allowed")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// Begins with something else than a letter, a digit or `_`.
    #[error("the name begins with {0:?}; it must begin with a letter, a digit or '_'")]
    FirstCharacter(char),
    /// Contains something else than letters, digits, `.`, `_` and `-`.
    #[error("the name contains {0:?}; letters, digits, '.', '_' and '-' are allowed")]
    Character(char),
    /// Contains `~`.
    #[error("names with '~' belong to the broker")]
    System,
}

/// About topics and partitions.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// See [`NameError`].
    #[error("topic {name:?}: {source}")]
    Name {
        /// As given.
        name: String,
        /// The rule it breaks.
        source: NameError,
    },
    /// The broker has been closed.
    #[error("the broker is shutting down: connect again")]
    ShuttingDown,
    /// No such topic.
    #[error("topic {0:?} does not exist; create it with `aqueduct topic create {0}`")]
    Unknown(String),
    /// The topic has fewer partitions.
    #[error("topic {topic:?} has no partition {partition}; it has {partitions}, numbered from 0")]
    UnknownPartition {
        /// Its name.
        topic: String,
        /// What was asked for.
        partition: u32,
        /// How many it has.
        partitions: usize,
    },
    /// A topic that only the broker itself writes to.
    #[error("topic {0:?} belongs to the broker: it can be read, but nobody else publishes to it")]
    System(String),
    /// A topic of that name exists.
    #[error("topic {0:?} exists already")]
    Exists(String),
    /// The id in the request is another one.
    #[error("topic {topic:?} is not the one this request was made for: it has been deleted and made again")]
    WrongId {
        /// Its name.
        topic: String,
    },
    /// A setting is out of its bounds.
    #[error("{field}: {reason}")]
    Config {
        /// The field of the request.
        field: &'static str,
        /// Its bounds and what was given.
        reason: String,
    },
    /// Somebody is using it.
    #[error("topic {topic:?} is in use by {users}; stop them, or delete it with force")]
    InUse {
        /// Its name.
        topic: String,
        /// Groups with active members.
        users: String,
    },
    /// The partition could not be opened; the others work.
    #[error("partition {topic}/{partition} is out of service: {reason}")]
    PartitionFailed {
        /// Topic.
        topic: String,
        /// Number.
        partition: u32,
        /// From the engine.
        reason: String,
    },
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// Why a batch was not acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PublishError {
    /// See [`TopicError`].
    #[error(transparent)]
    Topic(#[from] TopicError),
    /// A field of the request is missing or wrong. Nothing was written.
    #[error("{field}: {reason}")]
    Invalid {
        /// The field of the request.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A record or batch is over a limit. Nothing was written.
    #[error("{what} has {actual} {unit}; the limit is {limit}")]
    TooLarge {
        /// A record, a batch …
        what: &'static str,
        /// Its size.
        actual: u64,
        /// The limit in force.
        limit: u64,
        /// Bytes or records.
        unit: &'static str,
    },
    /// The sequence does not follow the last one. Nothing was written.
    #[error("the producer's next sequence in this partition is {expected}, not {actual}: resend from there")]
    SequenceGap {
        /// What must come next.
        expected: u64,
        /// What came.
        actual: u64,
    },
    /// The sequence is older than what is remembered: whether it is a duplicate cannot be told. Nothing was written.
    #[error("sequence {actual} is older than the {remembered} batches remembered of this producer")]
    SequenceTooOld {
        /// What came.
        actual: u64,
        /// How many are kept.
        remembered: usize,
    },
    /// A newer instance of this producer exists. Nothing was written.
    #[error("producer epoch {actual} is fenced by epoch {current}: a newer instance has opened this producer")]
    ProducerFenced {
        /// What came.
        actual: u32,
        /// The newest known.
        current: u32,
    },
    /// It would be appended later than its publisher wants. Nothing was written.
    #[error("it would be appended at {append_time_us}, which is later than {latest_us}")]
    NotInTime {
        /// µs since the epoch.
        append_time_us: i64,
        /// The publisher's limit.
        latest_us: i64,
    },
    /// A budget is used up. Nothing was written.
    #[error("held back by {culprit}; retry after {} ms", retry_after.as_millis())]
    Overloaded {
        /// Machine-readable: `BROKER_BUDGET`, `CONNECTION_BUDGET`, `TOPIC_BUDGET`.
        reason: &'static str,
        /// The limit or group that holds the publisher.
        culprit: String,
        /// When it makes sense to try again.
        retry_after: Duration,
    },
    /// A group is too far behind. Nothing was written.
    #[error("held back by {}; retry after {} ms", .0.culprit(), backlog::RETRY_AFTER.as_millis())]
    GroupBacklog(Arc<GroupHold>),
    /// No room on the disk. Nothing was written.
    #[error("the disk of the broker is full: free some space or lower the retention; publishing resumes by itself")]
    DiskFull,
    /// The partition takes no writes for now. Nothing was written.
    #[error("partition {topic}/{partition} takes no writes for now: {reason}")]
    Unavailable {
        /// Topic.
        topic: String,
        /// Number.
        partition: u32,
        /// Why.
        reason: String,
    },
    /// It may have been written, and it may not.
    #[error("the outcome is unknown: {0}; a retry with the same producer sequence is stored once")]
    Unknown(String),
}

/// Why events could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// See [`TopicError`].
    #[error(transparent)]
    Topic(#[from] TopicError),
    /// A field of the request is missing or wrong.
    #[error("{field}: {reason}")]
    Invalid {
        /// The field of the request.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// See [`ReadError`].
    #[error("{topic}/{partition}: {source}")]
    Read {
        /// Topic.
        topic: String,
        /// Number.
        partition: u32,
        /// From the engine.
        source: ReadError,
    },
    /// A stored batch does not decode; it can still be fetched raw.
    #[error("{topic}/{partition}: the batch at offset {offset} does not decode: {reason}")]
    Undecodable {
        /// Topic.
        topic: String,
        /// Number.
        partition: u32,
        /// Of the batch.
        offset: Offset,
        /// Why.
        reason: String,
    },
}

/// Why a broker could not be opened or stopped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// A setting is out of its bounds.
    #[error("{key}: {reason}")]
    Config {
        /// The key of the configuration.
        key: &'static str,
        /// Its bounds and what was given.
        reason: String,
    },
    /// Another process has the data directory.
    #[error("data directory {directory} is in use by {}; stop it, or choose another directory",
        pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}")))]
    Locked {
        /// The directory.
        directory: String,
        /// The holder, if it has written its pid.
        pid: Option<u32>,
    },
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
}
