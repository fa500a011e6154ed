//! Between protobuf messages and the types of the broker. Nothing below this module knows protobuf.

use std::{sync::Arc, time::Duration};

use aqueduct_client::{
    Codec as ClientCodec, Record,
    codec::{self, DecodeError, EventBatch},
};
use aqueduct_proto::v1;
use aqueduct_storage::{Batch, BatchHeader, Cleanup, Codec, Durability, ProducerSequence, TopicMeta, payload_crc};
use bytes::Bytes;

use crate::{
    backlog::{self, Backlog, Bounds, Mode},
    batch_check,
    budget::Held,
    error::{PublishError, TopicError},
    partition::{Appended, Partition, failure::Failure},
    topics::{
        FailedPartition, Topic,
        settings::{NewTopic, TopicChange},
    },
};

pub(super) fn batch_to_wire(batch: Batch) -> v1::Batch {
    let Batch { header, payload } = batch;
    v1::Batch {
        base_offset: header.base_offset,
        record_count: header.record_count,
        codec: codec_to_wire(header.codec).into(),
        crc32: header.payload_crc,
        records: payload,
        append_time_us: header.append_time_us,
        max_timestamp_us: header.max_timestamp_us,
        offset_span: header.offset_span,
        offset_deltas: header.offset_deltas,
        attributes: header.attributes,
        epoch: header.epoch,
        producer: header.producer.map(sequence_to_wire),
        key_hashes: header.key_hashes,
    }
}

/// The records of a stored batch. Its checksum was checked when it came in, or when it was read.
///
/// # Errors
/// [`DecodeError`] for bytes that are not what the batch says.
pub(crate) fn unpack(topic: &Arc<str>, partition: u32, batch: Batch) -> Result<EventBatch, DecodeError> {
    codec::decode_checked_batch(topic, partition, batch_to_wire(batch))
}

/// A batch of records.
///
/// # Errors
/// [`PublishError`] without records.
#[cfg(test)]
pub(crate) fn pack(records: &[Record]) -> Result<Batch, PublishError> {
    let packed = codec::encode_batch(records, ClientCodec::None)
        .map_err(|error| PublishError::Invalid { field: "records", reason: error.to_string() })?;
    batch_from_wire(packed)
}

/// A record as batches carry it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Encoded {
    pub(crate) timestamp_us: Option<i64>,
    /// A `RecordSet` that holds just this record: such sets, one after the other, are the set of all of them.
    pub(crate) set: Bytes,
}

impl Encoded {
    /// In bytes.
    pub(crate) fn len(&self) -> usize {
        self.set.len()
    }

    /// A copy: a view would keep all of what it was read with in memory.
    pub(crate) fn detached(&self) -> Self {
        Self { set: Bytes::copy_from_slice(&self.set), ..*self }
    }
}

impl From<&Record> for Encoded {
    fn from(record: &Record) -> Self {
        let timestamp_us = record.timestamp.map(|time| time.as_micros());
        Self { timestamp_us, set: codec::encode_record_set([record]) }
    }
}

/// A batch of records that the broker itself publishes.
pub(crate) fn joined_records<'a>(records: impl ExactSizeIterator<Item = &'a Encoded> + Clone) -> Batch {
    let record_count = u32::try_from(records.len()).unwrap_or(u32::MAX);
    let max_timestamp_us = records.clone().filter_map(|record| record.timestamp_us).max().unwrap_or(0);
    let mut payload = Vec::with_capacity(records.clone().map(Encoded::len).sum());
    records.for_each(|record| payload.extend_from_slice(&record.set));
    plain_batch(payload.into(), record_count, max_timestamp_us)
}

/// A batch that is not compressed. What an append sets, offset, time and epoch, is left to it.
pub(crate) fn plain_batch(payload: Bytes, record_count: u32, max_timestamp_us: i64) -> Batch {
    let payload_crc = payload_crc(&payload);
    Batch { header: BatchHeader { record_count, max_timestamp_us, payload_crc, ..BatchHeader::default() }, payload }
}

/// A published batch. What the broker sets, offset, time and epoch, is left to it.
pub(super) fn batch_from_wire(batch: v1::Batch) -> Result<Batch, PublishError> {
    let codec = v1::Codec::try_from(batch.codec).map_err(|_| PublishError::Invalid {
        field: "batch.codec",
        reason: format!("{} is none of NONE, LZ4 and ZSTD", batch.codec),
    })?;
    let header = BatchHeader {
        record_count: batch.record_count,
        codec: codec_from_wire(codec),
        payload_crc: batch.crc32,
        max_timestamp_us: batch.max_timestamp_us,
        offset_span: batch.offset_span,
        offset_deltas: batch.offset_deltas,
        attributes: batch.attributes,
        producer: batch.producer.map(sequence_from_wire).transpose()?,
        key_hashes: batch.key_hashes,
        ..BatchHeader::default()
    };
    Ok(Batch { header, payload: batch.records })
}

pub(super) fn sequence_from_wire(producer: v1::ProducerSequence) -> Result<ProducerSequence, PublishError> {
    batch_check::producer_sequence(&producer.id, producer.epoch, producer.sequence)
}

fn sequence_to_wire(producer: ProducerSequence) -> v1::ProducerSequence {
    v1::ProducerSequence { id: producer.id.to_vec().into(), epoch: producer.epoch, sequence: producer.sequence }
}

pub(super) fn record_to_wire(record: Record) -> v1::Record {
    let headers = record.headers.into_iter();
    v1::Record {
        key: record.key,
        value: record.value,
        headers: headers.map(|header| v1::Header { name: header.name.into_owned(), value: header.value }).collect(),
        timestamp_us: record.timestamp.map(|time| time.as_micros()),
    }
}

fn codec_from_wire(codec: v1::Codec) -> Codec {
    match codec {
        v1::Codec::Unspecified | v1::Codec::None => Codec::None,
        v1::Codec::Lz4 => Codec::Lz4,
        v1::Codec::Zstd => Codec::Zstd,
    }
}

/// The client's word for it.
pub(crate) fn client_codec(codec: Codec) -> ClientCodec {
    match codec {
        Codec::None => ClientCodec::None,
        Codec::Lz4 => ClientCodec::Lz4,
        Codec::Zstd => ClientCodec::Zstd,
    }
}

/// The storage's word for it.
pub(crate) fn stored_codec(codec: ClientCodec) -> Codec {
    match codec {
        ClientCodec::None => Codec::None,
        ClientCodec::Lz4 => Codec::Lz4,
        ClientCodec::Zstd => Codec::Zstd,
    }
}

fn codec_to_wire(codec: Codec) -> v1::Codec {
    match codec {
        Codec::None => v1::Codec::None,
        Codec::Lz4 => v1::Codec::Lz4,
        Codec::Zstd => v1::Codec::Zstd,
    }
}

pub(super) fn durability_to_wire(durability: Durability) -> v1::Durability {
    match durability {
        Durability::Fsync => v1::Durability::Fsync,
        Durability::Os => v1::Durability::Os,
    }
}

fn durability_from_wire(durability: i32) -> Result<Durability, TopicError> {
    match v1::Durability::try_from(durability) {
        Ok(v1::Durability::Unspecified | v1::Durability::Fsync) => Ok(Durability::Fsync),
        Ok(v1::Durability::Os) => Ok(Durability::Os),
        Err(_) => {
            let reason = format!("{durability} is none of FSYNC and OS");
            Err(TopicError::Config { field: "durability", reason })
        }
    }
}

fn cleanup_to_wire(cleanup: Cleanup) -> v1::Cleanup {
    match cleanup {
        Cleanup::Delete => v1::Cleanup::Delete,
        Cleanup::Compact => v1::Cleanup::Compact,
        Cleanup::Both => v1::Cleanup::Both,
    }
}

fn cleanup_from_wire(cleanup: i32) -> Result<Cleanup, TopicError> {
    match v1::Cleanup::try_from(cleanup) {
        Ok(v1::Cleanup::Unspecified | v1::Cleanup::Delete) => Ok(Cleanup::Delete),
        Ok(v1::Cleanup::Compact) => Ok(Cleanup::Compact),
        Ok(v1::Cleanup::Both) => Ok(Cleanup::Both),
        Err(_) => {
            let reason = format!("{cleanup} is none of DELETE, COMPACT and BOTH");
            Err(TopicError::Config { field: "cleanup", reason })
        }
    }
}

pub(super) fn ack_to_wire(topic: &TopicMeta, partition: &Partition, appended: Appended) -> v1::PublishAck {
    // The engine knows what it has done; the topic says what is wanted from now on.
    let durability = partition.log().map_or(topic.durability, |log| log.durability());
    v1::PublishAck {
        topic: topic.name.clone(),
        topic_id: topic.id.to_vec().into(),
        partition: partition.index(),
        base_offset: appended.base_offset,
        record_count: appended.record_count,
        append_time_us: appended.append_time_us,
        durability: durability_to_wire(durability).into(),
        duplicate: appended.duplicate,
        epoch: appended.epoch,
    }
}

pub(super) fn topic_to_wire(meta: &TopicMeta) -> v1::Topic {
    v1::Topic {
        name: meta.name.clone(),
        id: meta.id.to_vec().into(),
        config: Some(v1::TopicConfig {
            partitions: meta.partitions,
            retention_bytes: meta.retention_bytes,
            retention_age_ms: meta.retention_age.map(duration_to_ms),
            durability: durability_to_wire(meta.durability).into(),
            segment_bytes: meta.segment_bytes,
            owner: meta.owner.clone(),
            backlog: backlog_to_wire(meta),
            cleanup: cleanup_to_wire(meta.cleanup).into(),
            tombstone_retention_ms: meta.tombstone_retention.map(duration_to_ms),
            min_compaction_lag_ms: meta.min_compaction_lag.map(duration_to_ms),
        }),
        created_us: meta.created_us,
    }
}

fn backlog_to_wire(meta: &TopicMeta) -> Option<v1::Backlog> {
    // One that is not understood holds nobody; the broker has said so when it opened the topic.
    let Backlog { mode, group, bounds } = Backlog::from_settings(&meta.settings).ok().flatten()?;
    let mode = match mode {
        Mode::Hold => v1::BacklogMode::Hold,
        Mode::Reject => v1::BacklogMode::Reject,
    };
    Some(v1::Backlog {
        mode: mode.into(),
        group,
        max_records: bounds.records,
        max_bytes: bounds.bytes,
        max_ms: bounds.age.map(duration_to_ms),
        group_unknown: false,
    })
}

/// `None`: no backlog. Bounds are checked with the other settings.
fn backlog_from_wire(backlog: v1::Backlog) -> Result<Option<Backlog>, TopicError> {
    let refused = |field, reason: &str| Err(TopicError::Config { field, reason: reason.to_owned() });
    let bounds = Bounds {
        records: backlog.max_records,
        bytes: backlog.max_bytes,
        age: backlog.max_ms.map(Duration::from_millis),
    };
    let mode = match v1::BacklogMode::try_from(backlog.mode) {
        Ok(v1::BacklogMode::None) if !backlog.group.is_empty() || bounds != Bounds::default() => {
            return refused("backlog", "NONE takes neither a group nor bounds");
        }
        Ok(v1::BacklogMode::None) => return Ok(None),
        Ok(v1::BacklogMode::Hold) => Mode::Hold,
        Ok(v1::BacklogMode::Reject) => Mode::Reject,
        Ok(v1::BacklogMode::Unspecified) | Err(_) => {
            return refused("backlog.mode", "must be one of NONE, HOLD and REJECT");
        }
    };
    Ok(Some(Backlog { mode, group: backlog.group, bounds }))
}

/// What holds publishers of a topic now: a group, or the topic's budget.
pub(super) fn holds_to_wire(topic: &Topic) -> Vec<v1::PublisherHold> {
    let by_budget = topic.partitions().first().and_then(|first| {
        let budget = first.budget();
        let queue = budget.queue()?;
        let Held { reason, culprit } = budget.held();
        Some(v1::PublisherHold {
            topic: topic.meta().name.clone(),
            reason: reason.to_owned(),
            culprit,
            since_us: queue.since_us,
            waiting: queue.requests,
            ..v1::PublisherHold::default()
        })
    });
    group_hold_to_wire(topic).into_iter().chain(by_budget).collect()
}

/// The group that holds publishers of a topic now.
pub(super) fn group_hold_to_wire(topic: &Topic) -> Option<v1::PublisherHold> {
    let gate = topic.gate();
    let hold = gate.hold()?;
    Some(v1::PublisherHold {
        topic: hold.topic.clone(),
        reason: backlog::REASON.to_owned(),
        culprit: hold.culprit(),
        since_us: hold.since_us,
        waiting: gate.waiting(),
        group: hold.backlog.group.clone(),
        lag_records: hold.lag.records,
        lag_bytes: hold.lag.bytes,
        lag_seconds: hold.lag.age.as_secs_f64(),
    })
}

pub(super) fn partitions_to_wire(topic: &Topic) -> Vec<v1::PartitionInfo> {
    topic.partitions().iter().map(|partition| partition_to_wire(partition)).collect()
}

fn partition_to_wire(partition: &Partition) -> v1::PartitionInfo {
    let failed = partition.failure();
    let retry_in_ms = failed.as_ref().and_then(Failure::retry_in).map(duration_to_ms);
    let failure = failed.map(|failure| failure.reason).unwrap_or_default();
    let Ok(log) = partition.log() else {
        return v1::PartitionInfo { partition: partition.index(), failure, ..v1::PartitionInfo::default() };
    };
    let window = *log.watch().borrow();
    let stats = log.stats();
    v1::PartitionInfo {
        partition: partition.index(),
        log_start: window.log_start,
        high_watermark: window.high_watermark,
        size_bytes: stats.size_bytes,
        segments: stats.segments,
        epoch: stats.epoch,
        failure,
        retry_in_ms,
    }
}

pub(super) fn failure_to_wire(failed: &FailedPartition) -> v1::FailedPartition {
    let FailedPartition { partition, failure } = failed;
    v1::FailedPartition {
        topic: partition.topic_name().to_owned(),
        partition: partition.index(),
        reason: failure.reason.clone(),
        retry_in_ms: failure.retry_in().map(duration_to_ms),
    }
}

pub(super) fn new_topic_from_wire(config: Option<v1::TopicConfig>) -> Result<NewTopic, TopicError> {
    let config = config.ok_or_else(|| TopicError::Config {
        field: "config",
        reason: "must be given, at least with `partitions`".to_owned(),
    })?;
    Ok(NewTopic {
        partitions: config.partitions,
        retention_bytes: config.retention_bytes,
        retention_age: config.retention_age_ms.map(Duration::from_millis),
        durability: durability_from_wire(config.durability)?,
        segment_bytes: config.segment_bytes,
        owner: config.owner,
        backlog: config.backlog.map(backlog_from_wire).transpose()?.flatten(),
        cleanup: cleanup_from_wire(config.cleanup)?,
        tombstone_retention: config.tombstone_retention_ms.map(Duration::from_millis),
        min_compaction_lag: config.min_compaction_lag_ms.map(Duration::from_millis),
    })
}

pub(super) fn topic_change_from_wire(request: v1::AlterTopicRequest) -> Result<TopicChange, TopicError> {
    Ok(TopicChange {
        partitions: request.partitions,
        retention_bytes: request.retention_bytes.map(|bytes| (bytes > 0).then_some(bytes)),
        retention_age: request.retention_age_ms.map(|ms| (ms > 0).then(|| Duration::from_millis(ms))),
        durability: request.durability.map(durability_from_wire).transpose()?,
        owner: request.owner,
        backlog: request.backlog.map(backlog_from_wire).transpose()?,
        cleanup: request.cleanup.map(cleanup_from_wire).transpose()?,
        tombstone_retention: request.tombstone_retention_ms.map(Duration::from_millis),
        min_compaction_lag: request.min_compaction_lag_ms.map(Duration::from_millis),
    })
}

pub(super) fn duration_to_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
