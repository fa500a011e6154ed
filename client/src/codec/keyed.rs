//! Records by their keys, with the bytes they were stored in: for whoever takes some of them out of a batch.

use aqueduct_proto::v1;
use bytes::Bytes;

use super::{
    DecodeError,
    compress::{compress, decompress},
    decode::{Bodies, RecordRef},
    encode::RECORDS,
    wire::{LEN, put_varint, tag},
};
use crate::types::Codec;

/// A record of a batch, as far as its place among others of its key goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyedRecord {
    /// Its key.
    pub key: Option<Bytes>,
    /// `false` for a tombstone.
    pub has_value: bool,
    /// The encoded `Record`.
    pub body: Bytes,
}

/// The records of a payload that was packed with `codec`.
///
/// # Errors
/// [`DecodeError`], with the number of the record in place of its offset.
pub fn keyed_records(payload: Bytes, codec: Codec) -> Result<Vec<KeyedRecord>, DecodeError> {
    let record_set = decompress(payload, v1::Codec::from(codec).into(), 0)?;
    let mut records = Vec::new();
    for (number, body) in (0..).zip(Bodies::new(&record_set)) {
        let malformed = |detail| DecodeError::Malformed { offset: number, detail };
        let body = body.map_err(malformed)?;
        let record = RecordRef::parse(number, body).map_err(malformed)?;
        records.push(KeyedRecord {
            key: record.key.map(|key| record_set.slice_ref(key)),
            has_value: record.value.is_some(),
            body: record_set.slice_ref(body),
        });
    }
    Ok(records)
}

/// Encoded records as a payload, packed with `codec` or, if that makes it no smaller, not at all.
pub fn encode_bodies<'a>(bodies: impl IntoIterator<Item = &'a [u8]>, codec: Codec) -> (Codec, Bytes) {
    let mut record_set = Vec::new();
    for body in bodies {
        record_set.push(tag(RECORDS, LEN));
        put_varint(&mut record_set, body.len() as u64);
        record_set.extend_from_slice(body);
    }
    let packed = compress(record_set.into(), codec);
    (packed.codec, packed.bytes)
}
