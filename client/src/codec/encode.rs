//! Writing records into a batch's buffer.

use super::wire::{LEN, VARINT, put_varint, tag, varint_len};
use crate::record::{Header, Record};

// RecordSet
pub(super) const RECORDS: u8 = 1;
// Record
pub(super) const KEY: u8 = 1;
pub(super) const VALUE: u8 = 2;
pub(super) const HEADERS: u8 = 3;
pub(super) const TIMESTAMP_US: u8 = 4;
// Header
pub(super) const HEADER_NAME: u8 = 1;
pub(super) const HEADER_VALUE: u8 = 2;

/// A tag, a length and the bytes.
const fn field_len(bytes: usize) -> usize {
    1 + varint_len(bytes as u64) + bytes
}

fn header_len(header: &Header) -> usize {
    let name = if header.name.is_empty() { 0 } else { field_len(header.name.len()) };
    let value = if header.value.is_empty() { 0 } else { field_len(header.value.len()) };
    name + value
}

/// Bytes of the encoded `Record`, without its tag and length in the set.
pub(crate) fn record_len(record: &Record) -> usize {
    let mut length = 0;
    if let Some(key) = &record.key {
        length += field_len(key.len());
    }
    if let Some(value) = &record.value {
        length += field_len(value.len());
    }
    for header in &record.headers {
        length += field_len(header_len(header));
    }
    if let Some(timestamp) = record.timestamp {
        length += 1 + varint_len(timestamp.as_micros().cast_unsigned());
    }
    length
}

/// Bytes that a record of `record_len` bytes takes in the set.
pub(crate) const fn framed_len(record_len: usize) -> usize {
    field_len(record_len)
}

/// Appends one record to an encoded `RecordSet`. `length` is its [`record_len`].
pub(crate) fn append_record(out: &mut Vec<u8>, record: &Record, length: usize) {
    out.reserve(framed_len(length));
    out.push(tag(RECORDS, LEN));
    put_varint(out, length as u64);
    let begin = out.len();
    if let Some(key) = &record.key {
        put_bytes(out, KEY, key);
    }
    if let Some(value) = &record.value {
        put_bytes(out, VALUE, value);
    }
    for header in &record.headers {
        out.push(tag(HEADERS, LEN));
        put_varint(out, header_len(header) as u64);
        if !header.name.is_empty() {
            put_bytes(out, HEADER_NAME, header.name.as_bytes());
        }
        if !header.value.is_empty() {
            put_bytes(out, HEADER_VALUE, &header.value);
        }
    }
    if let Some(timestamp) = record.timestamp {
        out.push(tag(TIMESTAMP_US, VARINT));
        put_varint(out, timestamp.as_micros().cast_unsigned());
    }
    debug_assert_eq!(out.len() - begin, length, "the length was not this record's");
}

fn put_bytes(out: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    out.push(tag(field, LEN));
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}
