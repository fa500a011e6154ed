//! Turns one publish request into batches for partitions. Pure, but for the checksums.

use aqueduct_client::partition_for_key;
use aqueduct_proto::v1::{self, publish_request::Payload};
use aqueduct_storage::Batch;
use bytes::Bytes;
use prost::Message as _;

use super::convert;
use crate::{
    batch_check::{self, check_limit},
    config::Limits,
    error::PublishError,
};

/// What goes to one partition.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) partition: u32,
    pub(super) batch: Batch,
    /// Positions of its records in the request; empty: all of them.
    pub(super) record_indexes: Vec<u32>,
}

/// Splits `request` over `partitions` partitions. Records without a key go to `keyless_partition` together.
///
/// # Errors
/// [`PublishError`] tells which field of the request is missing, wrong or too large.
pub(super) fn plan(
    request: v1::PublishRequest,
    partitions: u32,
    keyless_partition: u32,
    limits: &Limits,
) -> Result<Vec<Part>, PublishError> {
    let producer = request.producer.map(convert::sequence_from_wire).transpose()?;
    let needs_partition = |what: &str| PublishError::Invalid {
        field: "partition",
        reason: format!("must be given with {what}, so that a retry goes to the same place"),
    };
    if producer.is_some() && request.partition.is_none() {
        return Err(needs_partition("`producer`"));
    }
    match request.payload {
        None => Err(PublishError::Invalid { field: "payload", reason: "give `records` or a `batch`".to_owned() }),
        Some(Payload::Batch(batch)) => {
            let partition = request.partition.ok_or_else(|| needs_partition("`batch`"))?;
            let mut batch = batch_check::check(convert::batch_from_wire(batch)?, limits)?;
            batch.header.producer = producer.or(batch.header.producer);
            Ok(vec![Part { partition, batch, record_indexes: Vec::new() }])
        }
        Some(Payload::Records(set)) => {
            check_records(&set.records, limits)?;
            let mut parts = match request.partition {
                Some(partition) => vec![(partition, set.records, Vec::new())],
                None => split_by_key(set.records, partitions, keyless_partition),
            };
            if let [(_, _, indexes)] = parts.as_mut_slice() {
                indexes.clear();
            }
            parts
                .into_iter()
                .map(|(partition, records, record_indexes)| {
                    let mut batch = encode(records, limits)?;
                    batch.header.producer = producer;
                    Ok(Part { partition, batch, record_indexes })
                })
                .collect()
        }
    }
}

fn check_records(records: &[v1::Record], limits: &Limits) -> Result<(), PublishError> {
    if records.is_empty() {
        return Err(PublishError::Invalid { field: "records", reason: "must hold at least one record".to_owned() });
    }
    check_limit("the batch", records.len() as u64, u64::from(limits.batch_records_max), "records")?;
    for record in records {
        check_limit("a record", record.encoded_len() as u64, limits.record_bytes_max, "bytes")?;
    }
    Ok(())
}

type PartRecords = (u32, Vec<v1::Record>, Vec<u32>);

fn split_by_key(records: Vec<v1::Record>, partitions: u32, keyless_partition: u32) -> Vec<PartRecords> {
    let mut parts = std::collections::BTreeMap::<u32, (Vec<v1::Record>, Vec<u32>)>::new();
    for (index, record) in (0..).zip(records) {
        let partition = record.key.as_ref().map_or(keyless_partition, |key| partition_for_key(key, partitions));
        let (records, indexes) = parts.entry(partition).or_default();
        records.push(record);
        indexes.push(index);
    }
    parts.into_iter().map(|(partition, (records, indexes))| (partition, records, indexes)).collect()
}

fn encode(records: Vec<v1::Record>, limits: &Limits) -> Result<Batch, PublishError> {
    let record_count = u32::try_from(records.len()).unwrap_or(u32::MAX);
    let max_timestamp_us = records.iter().filter_map(|record| record.timestamp_us).max().unwrap_or(0);
    let payload = Bytes::from(v1::RecordSet { records }.encode_to_vec());
    check_limit("the encoded batch", payload.len() as u64, limits.batch_bytes_max, "bytes")?;
    Ok(convert::plain_batch(payload, record_count, max_timestamp_us))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: Option<&str>, value: &str) -> v1::Record {
        v1::Record {
            key: key.map(|key| Bytes::copy_from_slice(key.as_bytes())),
            value: Some(Bytes::copy_from_slice(value.as_bytes())),
            ..v1::Record::default()
        }
    }

    fn request(records: Vec<v1::Record>, partition: Option<u32>) -> v1::PublishRequest {
        let payload = Some(Payload::Records(v1::RecordSet { records }));
        v1::PublishRequest { payload, partition, ..v1::PublishRequest::default() }
    }

    #[test]
    fn equal_keys_share_a_partition_and_indexes_lead_back_to_the_request() {
        let keys = ["a", "b", "c", "a", "b", "c", "a"];
        let records = keys.iter().map(|key| record(Some(key), key)).collect();
        let parts = plan(request(records, None), 16, 5, &Limits::default()).unwrap();
        let mut seen = vec![None; keys.len()];
        for part in &parts {
            let set = v1::RecordSet::decode(part.batch.payload.clone()).unwrap();
            assert_eq!(set.records.len(), part.record_indexes.len());
            for (record, &index) in set.records.iter().zip(&part.record_indexes) {
                assert_eq!(record.key.as_deref(), Some(keys[index as usize].as_bytes()));
                seen[index as usize] = Some(part.partition);
            }
        }
        assert_eq!(seen[0], seen[3]);
        assert_eq!(seen[0], seen[6]);
        assert!(seen.iter().all(Option::is_some));
    }

    #[test]
    fn records_without_a_key_stay_together() {
        let records = (0..10).map(|n| record(None, &n.to_string())).collect();
        let parts = plan(request(records, None), 16, 5, &Limits::default()).unwrap();
        assert_eq!((parts.len(), parts[0].partition, parts[0].record_indexes.len()), (1, 5, 0));
    }

    #[test]
    fn requests_that_lack_something_are_refused_by_field() {
        let field = |request| match plan(request, 4, 0, &Limits::default()).unwrap_err() {
            PublishError::Invalid { field, .. } => field,
            PublishError::TooLarge { what, .. } => what,
            other => panic!("{other}"),
        };
        let sequence = v1::ProducerSequence { id: vec![1; 16].into(), ..v1::ProducerSequence::default() };
        assert_eq!(field(v1::PublishRequest::default()), "payload");
        assert_eq!(field(request(Vec::new(), None)), "records");
        let sequenced =
            |producer| v1::PublishRequest { producer: Some(producer), ..request(vec![record(None, "v")], None) };
        assert_eq!(field(sequenced(sequence.clone())), "partition");
        assert_eq!(field(sequenced(v1::ProducerSequence { id: vec![1].into(), ..sequence })), "producer.id");
        let batch = v1::PublishRequest { payload: Some(Payload::Batch(v1::Batch::default())), ..Default::default() };
        assert_eq!(field(batch), "partition");
        let large = "x".repeat(1 << 20);
        assert_eq!(field(request(vec![record(None, &large)], None)), "a record");
    }
}
