//! Batches and record sets as bytes: written once on the way in, viewed without copying on the way out.
//!
//! The encoding is plain protobuf (`RecordSet` in `types.proto`), written and read by hand because this is where a
//! client spends its time. What generated code makes of the same bytes is checked in the tests.

mod batch;
mod compress;
mod decode;
pub(crate) mod encode;
mod keyed;
#[cfg(test)]
mod tests;
mod wire;

pub use batch::{EventBatch, Events, EventsAt};
pub(crate) use compress::{Compressed, compress};
pub use decode::{HeaderRefs, RecordRef, Records};
pub use keyed::{KeyedRecord, encode_bodies, keyed_records};

use std::sync::Arc;

use aqueduct_proto::v1;
use bytes::Bytes;

use crate::{
    record::Record,
    types::{Codec, Offset},
};

/// Largest unpacked batch that a reader accepts, whatever the batch claims (16 MiB).
pub const DECODED_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Why a batch cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes are not those that were published.
    #[error("offsets {from}..{to} are damaged: checksum {computed:08x}, expected {expected:08x}")]
    Checksum {
        /// First offset of the batch.
        from: Offset,
        /// One past its last offset.
        to: Offset,
        /// What the batch says.
        expected: u32,
        /// What its bytes say.
        computed: u32,
    },
    /// Unpacked, the batch would be larger than [`DECODED_BYTES_MAX`].
    #[error("the batch at offset {offset} is larger than {bytes_max} bytes when unpacked")]
    TooLarge {
        /// First offset of the batch.
        offset: Offset,
        /// The limit.
        bytes_max: usize,
    },
    /// The bytes are not a record set, or not what their codec says.
    #[error("the record at offset {offset} cannot be read: {detail}")]
    Malformed {
        /// Of the record, or of the batch if it cannot be unpacked.
        offset: Offset,
        /// What is wrong.
        detail: &'static str,
    },
    /// The batch does not hold as many records as it says.
    #[error("the batch at offset {offset} does not hold the {expected} records it claims")]
    CountMismatch {
        /// First offset of the batch.
        offset: Offset,
        /// What the batch says.
        expected: u32,
    },
    /// Made by newer software, in a way that this client must not ignore.
    #[error("the batch at offset {offset} uses features that this client does not know (attributes {attributes:#x})")]
    UnknownAttributes {
        /// First offset of the batch.
        offset: Offset,
        /// The bits that are not known.
        attributes: u32,
    },
    /// Compressed in a way that this client does not know.
    #[error("the batch at offset {offset} is compressed with unknown codec {codec}")]
    UnknownCodec {
        /// First offset of the batch.
        offset: Offset,
        /// The codec's number.
        codec: i32,
    },
}

/// Why records cannot become one batch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// A batch holds at least one record.
    #[error("no records")]
    Empty,
    /// More records than 32 bits count.
    #[error("too many records: {0}")]
    TooMany(usize),
}

/// `records` as an encoded `RecordSet`. One allocation.
pub fn encode_record_set<'a>(records: impl IntoIterator<Item = &'a Record>) -> Bytes {
    let mut out = Vec::new();
    for record in records {
        encode::append_record(&mut out, record, encode::record_len(record));
    }
    out.into()
}

/// `records` as a batch that is ready to be published: compressed, counted, checksummed; without offsets.
///
/// # Errors
/// [`EncodeError`] when the number of records is impossible. Size limits are the broker's business.
pub fn encode_batch(records: &[Record], codec: Codec) -> Result<v1::Batch, EncodeError> {
    if records.is_empty() {
        return Err(EncodeError::Empty);
    }
    let record_count = u32::try_from(records.len()).map_err(|_| EncodeError::TooMany(records.len()))?;
    let max_timestamp_us =
        records.iter().filter_map(|record| record.timestamp).max().map_or(0, |time| time.as_micros());
    Ok(compress(encode_record_set(records), codec).into_batch(record_count, max_timestamp_us))
}

/// Checks and unpacks one batch of `topic`'s `partition`. Free of copies unless the batch is compressed.
///
/// # Errors
/// [`DecodeError`]; single records that cannot be read are reported by the iterators of the result.
pub fn decode_batch(topic: &Arc<str>, partition: u32, batch: v1::Batch) -> Result<EventBatch, DecodeError> {
    EventBatch::new(topic, partition, batch)
}

/// As [`decode_batch`], for a batch whose checksum was checked on its way here.
///
/// # Errors
/// [`DecodeError`], as there.
pub fn decode_checked_batch(topic: &Arc<str>, partition: u32, batch: v1::Batch) -> Result<EventBatch, DecodeError> {
    EventBatch::checked(topic, partition, batch)
}

/// The record at `index` of an unpacked `RecordSet`, if it is there and can be read.
pub(crate) fn record_at(bytes: &Bytes, index: usize) -> Option<Record> {
    let body = decode::Bodies::new(bytes).nth(index)?.ok()?;
    Some(decode::RecordRef::parse(0, body).ok()?.to_record(bytes))
}

/// All records of an unpacked `RecordSet`, as views of `bytes`.
///
/// # Errors
/// [`DecodeError::Malformed`] with the position of the record in place of its offset.
pub fn decode_record_set(bytes: &Bytes) -> Result<Vec<Record>, DecodeError> {
    let mut records = Vec::new();
    for (position, body) in (0..).zip(decode::Bodies::new(bytes)) {
        let malformed = |detail| DecodeError::Malformed { offset: position, detail };
        let record = decode::RecordRef::parse(position, body.map_err(malformed)?).map_err(malformed)?;
        records.push(record.to_record(bytes));
    }
    Ok(records)
}
