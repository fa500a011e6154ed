//! What a broker says of itself.

use std::time::Duration;

use aqueduct_proto::v1;

use super::lag::PartitionLag;
use crate::{
    error::RequestError,
    types::{Durability, Timestamp},
};

/// A broker, its abilities and its limits.
#[derive(Clone, Debug, PartialEq)]
pub struct Info {
    /// Of the software.
    pub version: String,
    /// Of the API; grows when methods or fields are added.
    pub api_level: u32,
    /// Names of optional abilities.
    pub features: Vec<String>,
    /// Where events are kept, e.g. `embedded`.
    pub engine: String,
    /// What topics can ask for.
    pub durability_levels: Vec<Durability>,
    /// In force.
    pub limits: Limits,
    /// Of the data directory.
    pub broker_id: String,
    /// Of the cluster, if it is part of one.
    pub cluster_id: String,
    /// Since when it runs.
    pub started: Timestamp,
    /// Partitions that take no writes now.
    pub failures: Vec<FailedPartition>,
    /// Events that wait for the time at which they are delivered, about.
    pub delayed_records: u64,
    /// Where retention is about to remove records that a group has not read, or has done so: the most urgent ones.
    pub at_risk: Vec<PartitionLag>,
}

/// The limits in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Of one record, encoded.
    pub record_bytes_max: u64,
    /// Of one batch as it travels.
    pub batch_bytes_max: u64,
    /// Of one batch, unpacked.
    pub batch_decoded_bytes_max: u64,
    /// Of one batch.
    pub batch_records_max: u32,
    /// Of one response, unless a single batch is larger.
    pub response_bytes_max: u64,
    /// Of one topic.
    pub topic_partitions_max: u32,
    /// Per producer and partition.
    pub producer_batches_in_flight_max: u32,
}

/// A partition that takes no writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedPartition {
    /// The topic's name.
    pub topic: String,
    /// Which one.
    pub partition: u32,
    /// For people.
    pub reason: String,
    /// When the broker tries next to go on with it; `None` if only a person can help.
    pub retry_in: Option<Duration>,
}

impl From<v1::FailedPartition> for FailedPartition {
    fn from(failure: v1::FailedPartition) -> Self {
        Self {
            topic: failure.topic,
            partition: failure.partition,
            reason: failure.reason,
            retry_in: failure.retry_in_ms.map(Duration::from_millis),
        }
    }
}

impl TryFrom<v1::InfoResponse> for Info {
    type Error = RequestError;

    fn try_from(info: v1::InfoResponse) -> Result<Self, RequestError> {
        let limits = info.limits.ok_or_else(|| RequestError::malformed("no limits in the broker's information"))?;
        Ok(Self {
            version: info.version,
            api_level: info.api_level,
            features: info.features,
            engine: info.engine,
            durability_levels: info.durability_levels.into_iter().filter_map(Durability::from_proto).collect(),
            limits: Limits {
                record_bytes_max: limits.record_bytes_max,
                batch_bytes_max: limits.batch_bytes_max,
                batch_decoded_bytes_max: limits.batch_decoded_bytes_max,
                batch_records_max: limits.batch_records_max,
                response_bytes_max: limits.response_bytes_max,
                topic_partitions_max: limits.topic_partitions_max,
                producer_batches_in_flight_max: limits.producer_batches_in_flight_max,
            },
            broker_id: info.broker_id,
            cluster_id: info.cluster_id,
            started: Timestamp::from_micros(info.started_us),
            failures: info.failures.into_iter().map(FailedPartition::from).collect(),
            delayed_records: info.delayed_records,
            at_risk: info.at_risk.into_iter().map(PartitionLag::from).collect(),
        })
    }
}
