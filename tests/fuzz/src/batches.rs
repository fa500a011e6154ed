//! Batches: what a client makes of what a broker sends it, and what a broker accepts from a client.

use std::sync::Arc;

use aqueduct::Limits;
use aqueduct_client::{Codec, Header, Record, RecordRef, Timestamp, codec};
use aqueduct_proto::v1;
use aqueduct_storage::{Batch, BatchHeader, payload_crc};
use bytes::Bytes;
use prost::Message as _;

/// A batch as a broker sends it, with any bytes in any field.
///
/// Decoding it ends, with an error or with at most as many records as it says; both iterators see the same; generated code
/// sees the same in what is not compressed; and what was read is read again after it was encoded.
pub fn decode(input: &[u8]) {
    let Ok(mut batch) = v1::Batch::decode(input) else { return };
    // Else nearly every input would end at the checksum.
    batch.crc32 = crc32fast::hash(&batch.records);
    let (record_count, codec, bytes) = (batch.record_count, batch.codec, batch.records.clone());
    let is_dense = batch.offset_deltas.is_empty();
    let base_offset = batch.base_offset;
    let Ok(batch) = codec::decode_batch(&topic(), 0, batch) else { return };
    let (mut records, mut is_whole) = (Vec::new(), true);
    let mut events = batch.events();
    let mut items = 0_u64;
    for item in batch.records() {
        items += 1;
        assert!(items <= u64::from(record_count) + 1, "more items than the batch claims");
        let event = events.next().expect("both walks are equally long");
        match (item, event) {
            (Ok(record), Ok(event)) => {
                assert_eq!(record.offset, event.offset);
                let owned = owned(&record);
                assert_eq!(owned, event.record, "a view and a copy of one record differ");
                records.push(owned);
            }
            (Err(left), Err(right)) => {
                assert_eq!(left, right);
                is_whole = false;
            }
            (left, right) => panic!("{left:?} in one walk, {right:?} in the other"),
        }
    }
    assert!(events.next().is_none(), "both walks are equally long");
    if is_whole && is_dense && base_offset.checked_add(u64::from(record_count)).is_some() {
        assert_eq!(records.len(), batch.len(), "as many as announced");
    }
    if is_whole && records.len() == record_count as usize && codec == i32::from(v1::Codec::None) {
        agrees_with_generated_code(&bytes, &records);
    }
    if is_whole {
        comes_back(&records);
    }
}

/// Generated code may refuse what is read leniently here, but never reads anything else.
fn agrees_with_generated_code(bytes: &Bytes, records: &[Record]) {
    let Ok(set) = v1::RecordSet::decode(bytes.clone()) else { return };
    let generated: Vec<Record> = set.records.into_iter().map(from_proto).collect();
    assert_eq!(generated, records, "generated code reads something else");
}

fn comes_back(records: &[Record]) {
    for codec in [Codec::None, Codec::Lz4, Codec::Zstd] {
        let Ok(batch) = codec::encode_batch(records, codec) else { return };
        let batch = codec::decode_batch(&topic(), 0, batch).expect("what was encoded is decoded");
        let again: Vec<Record> = batch.events().map(|event| event.expect("a record").record).collect();
        assert_eq!(again, records, "{codec}");
    }
}

/// A batch as a client publishes it. What the broker accepts has exactly as many records as it says, for the client too.
pub fn batch_check(input: &[u8]) {
    let Ok(batch) = v1::Batch::decode(input) else { return };
    let Some(stored) = stored(&batch) else { return };
    let Ok(accepted) = aqueduct::fuzzing::check_batch(stored, &Limits::default()) else { return };
    let record_count = batch.record_count;
    let sent = v1::Batch {
        records: accepted.payload,
        record_count,
        codec: batch.codec,
        crc32: accepted.header.payload_crc,
        offset_span: accepted.header.offset_span,
        ..v1::Batch::default()
    };
    let decoded = codec::decode_batch(&topic(), 0, sent).expect("a stored batch can be unpacked");
    let mut items = 0;
    for item in decoded.records() {
        match item {
            Ok(_) | Err(codec::DecodeError::Malformed { .. }) => items += 1,
            Err(error) => panic!("a stored batch cannot be read: {error}"),
        }
    }
    assert_eq!(items, record_count, "a stored batch holds as many records as it says");
}

fn stored(batch: &v1::Batch) -> Option<Batch> {
    let codec = match v1::Codec::try_from(batch.codec).ok()? {
        v1::Codec::Unspecified | v1::Codec::None => aqueduct_storage::Codec::None,
        v1::Codec::Lz4 => aqueduct_storage::Codec::Lz4,
        v1::Codec::Zstd => aqueduct_storage::Codec::Zstd,
    };
    let header = BatchHeader {
        record_count: batch.record_count,
        codec,
        payload_crc: payload_crc(&batch.records),
        offset_span: batch.offset_span,
        offset_deltas: batch.offset_deltas.clone(),
        attributes: batch.attributes,
        key_hashes: batch.key_hashes.clone(),
        ..BatchHeader::default()
    };
    Some(Batch { header, payload: batch.records.clone() })
}

fn topic() -> Arc<str> {
    "orders".into()
}

fn owned(record: &RecordRef<'_>) -> Record {
    let copy = Bytes::copy_from_slice;
    Record {
        key: record.key.map(copy),
        value: record.value.map(copy),
        headers: record
            .headers()
            .map(|(name, value)| Header { name: name.to_owned().into(), value: copy(value) })
            .collect(),
        timestamp: record.timestamp,
    }
}

fn from_proto(record: v1::Record) -> Record {
    let headers = record.headers.into_iter().map(|header| Header { name: header.name.into(), value: header.value });
    Record {
        key: record.key,
        value: record.value,
        headers: headers.collect(),
        timestamp: record.timestamp_us.map(Timestamp::from_micros),
    }
}
