//! Records for these tests: a payload is lines, `key=value`, `key` for a tombstone, `=value` without a key.

use aqueduct_storage::{Batch, Codec, Offset, Packed, RecordFormat, Unpacked, ValueKind};
use bytes::Bytes;

/// One record, as it was appended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) offset: Offset,
    pub(crate) key: Option<String>,
    pub(crate) value: Option<String>,
    pub(crate) append_time_us: i64,
}

/// The lines, and a codec that turns bits over so that a payload which is not unpacked cannot be read.
pub(crate) struct Lines;

pub(crate) fn turned_over(codec: Codec, payload: &[u8]) -> Vec<u8> {
    let mask = if codec == Codec::None { 0 } else { 0xff };
    payload.iter().map(|byte| byte ^ mask).collect()
}

impl RecordFormat for Lines {
    fn unpack(&self, batch: &Batch) -> Option<Vec<Unpacked>> {
        let body = turned_over(batch.header.codec, &batch.payload);
        let lines = body.split_inclusive(|byte| *byte == b'\n');
        lines.map(|line| unpacked(&line[..line.len() - 1], line)).collect()
    }

    fn pack(&self, codec: Codec, records: &[Unpacked]) -> Option<Packed> {
        let body: Vec<u8> = records.iter().flat_map(|record| record.encoded.to_vec()).collect();
        Some(Packed { codec, payload: turned_over(codec, &body).into() })
    }
}

fn unpacked(line: &[u8], encoded: &[u8]) -> Option<Unpacked> {
    let text = std::str::from_utf8(line).ok()?;
    let (key, value) = match text.split_once('=') {
        Some((key, _)) => (key, ValueKind::Present),
        None => (text, ValueKind::Absent),
    };
    let key = Some(key).filter(|key| !key.is_empty()).map(|key| Bytes::copy_from_slice(key.as_bytes()));
    Some(Unpacked { key, value, encoded: Bytes::copy_from_slice(encoded) })
}

/// The records of a batch as they are read.
pub(crate) fn lines_of(batch: &Batch) -> Vec<Line> {
    let header = &batch.header;
    let body = String::from_utf8(turned_over(header.codec, &batch.payload)).expect("text");
    let lines: Vec<&str> = body.lines().collect();
    assert_eq!(lines.len(), header.record_count as usize, "batch at {}", header.base_offset);
    let line = |(index, text): (usize, &&str)| {
        let delta = header.offset_deltas.get(index).copied().unwrap_or(u32::try_from(index).expect("small"));
        assert!(delta < header.span(), "batch at {}", header.base_offset);
        let (key, value) = match text.split_once('=') {
            Some((key, value)) => (key, Some(value.to_owned())),
            None => (*text, None),
        };
        Line {
            offset: header.base_offset + u64::from(delta),
            key: Some(key.to_owned()).filter(|key| !key.is_empty()),
            value,
            append_time_us: header.append_time_us,
        }
    };
    lines.iter().enumerate().map(line).collect()
}
