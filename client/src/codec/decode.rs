//! Viewing records inside the bytes of a batch.

use bytes::Bytes;

use super::{
    DecodeError,
    encode::{HEADER_NAME, HEADER_VALUE, HEADERS, KEY, RECORDS, TIMESTAMP_US, VALUE},
    wire::{LEN, Malformed, Reader, VARINT},
};
use crate::{
    record::{Header, Record},
    types::{Offset, Timestamp},
};

/// The encoded records of a set, one after the other.
#[derive(Clone, Debug)]
pub(super) struct Bodies<'a> {
    reader: Reader<'a>,
}

impl<'a> Bodies<'a> {
    pub(super) const fn new(record_set: &'a [u8]) -> Self {
        Self { reader: Reader::new(record_set) }
    }

    #[inline]
    fn read(&mut self) -> Result<Option<&'a [u8]>, Malformed> {
        while !self.reader.is_empty() {
            match self.reader.key()? {
                (field, LEN) if field == u32::from(RECORDS) => return self.reader.bytes().map(Some),
                (_, wire_type) => self.reader.skip(wire_type)?,
            }
        }
        Ok(None)
    }
}

impl<'a> Iterator for Bodies<'a> {
    type Item = Result<&'a [u8], Malformed>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}

/// A record where it lies: no copies, no reference counts.
#[derive(Clone, Copy, Debug)]
pub struct RecordRef<'a> {
    /// Its place in the partition.
    pub offset: Offset,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its value; `None` for a tombstone.
    pub value: Option<&'a [u8]>,
    /// The producer's clock.
    pub timestamp: Option<Timestamp>,
    /// The whole record if it has headers, else nothing.
    header_source: &'a [u8],
}

impl<'a> RecordRef<'a> {
    #[inline]
    pub(super) fn parse(offset: Offset, body: &'a [u8]) -> Result<Self, Malformed> {
        let mut record = Self { offset, key: None, value: None, timestamp: None, header_source: &[] };
        let mut reader = Reader::new(body);
        while !reader.is_empty() {
            let (field, wire_type) = reader.key()?;
            match (u8::try_from(field).unwrap_or(u8::MAX), wire_type) {
                (KEY, LEN) => record.key = Some(reader.bytes()?),
                (VALUE, LEN) => record.value = Some(reader.bytes()?),
                (HEADERS, LEN) => {
                    // Checked here once, so that iterating cannot fail.
                    parse_header(reader.bytes()?)?;
                    record.header_source = body;
                }
                (TIMESTAMP_US, VARINT) => {
                    record.timestamp = Some(Timestamp::from_micros(reader.varint()?.cast_signed()));
                }
                (KEY | VALUE | HEADERS | TIMESTAMP_US, _) => return Err("a field has the wrong wire type"),
                (_, wire_type) => reader.skip(wire_type)?,
            }
        }
        Ok(record)
    }

    /// Names and values, in order. Free if there are none.
    pub fn headers(&self) -> HeaderRefs<'a> {
        HeaderRefs { reader: Reader::new(self.header_source) }
    }

    /// The same record as views that keep `source`, the bytes it lies in, alive.
    #[inline]
    pub(super) fn to_record(self, source: &Bytes) -> Record {
        let view = |slice: &[u8]| source.slice_ref(slice);
        Record {
            key: self.key.map(view),
            value: self.value.map(view),
            headers: self
                .headers()
                .map(|(name, value)| Header { name: name.to_owned().into(), value: view(value) })
                .collect(),
            timestamp: self.timestamp,
        }
    }
}

fn parse_header(bytes: &[u8]) -> Result<(&str, &[u8]), Malformed> {
    let (mut name, mut value): (&str, &[u8]) = ("", &[]);
    let mut reader = Reader::new(bytes);
    while !reader.is_empty() {
        let (field, wire_type) = reader.key()?;
        match (u8::try_from(field).unwrap_or(u8::MAX), wire_type) {
            (HEADER_NAME, LEN) => {
                name = std::str::from_utf8(reader.bytes()?).map_err(|_| "a header's name is not UTF-8")?;
            }
            (HEADER_VALUE, LEN) => value = reader.bytes()?,
            (_, wire_type) => reader.skip(wire_type)?,
        }
    }
    Ok((name, value))
}

/// The headers of a [`RecordRef`].
#[derive(Clone, Debug)]
pub struct HeaderRefs<'a> {
    reader: Reader<'a>,
}

impl<'a> Iterator for HeaderRefs<'a> {
    type Item = (&'a str, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        while !self.reader.is_empty() {
            // The record was checked as a whole when it was parsed: no step below fails.
            match self.reader.key().ok()? {
                (field, LEN) if field == u32::from(HEADERS) => return parse_header(self.reader.bytes().ok()?).ok(),
                (_, wire_type) => self.reader.skip(wire_type).ok()?,
            }
        }
        None
    }
}

/// The records of a batch that are to be seen, with their offsets.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    bodies: Bodies<'a>,
    layout: Layout<'a>,
    /// Of the next record in the batch.
    index: u32,
    failed: bool,
}

/// Where a walk over a record set stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) remaining: usize,
    pub(super) index: u32,
    pub(super) failed: bool,
}

/// Which offsets the records of a batch have, and which of them are to be seen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout<'a> {
    pub(super) base_offset: Offset,
    pub(super) record_count: u32,
    /// Empty: dense.
    pub(super) offset_deltas: &'a [u32],
    /// First offset to be seen.
    pub(super) from: Offset,
    /// First offset not to be seen any more.
    pub(super) until: Offset,
}

impl Layout<'_> {
    /// Of the record at `index`.
    #[inline]
    pub(super) fn offset(&self, index: u32) -> Offset {
        let delta = self.offset_deltas.get(index as usize).copied().unwrap_or(index);
        self.base_offset.saturating_add(u64::from(delta))
    }
}

impl<'a> Records<'a> {
    pub(super) const fn new(record_set: &'a [u8], layout: Layout<'a>) -> Self {
        Self { bodies: Bodies::new(record_set), layout, index: 0, failed: false }
    }

    /// Goes on at `position` of the record set, where record `index` begins.
    #[inline]
    pub(super) fn resume(record_set: &'a [u8], layout: Layout<'a>, position: usize, index: u32) -> Self {
        Self { index, ..Self::new(record_set.get(position..).unwrap_or_default(), layout) }
    }

    /// How many bytes of the record set are still ahead, the next record's index, and whether the walk has failed.
    #[inline]
    pub(super) const fn place(&self) -> Place {
        Place { remaining: self.bodies.reader.remaining(), index: self.index, failed: self.failed }
    }

    #[inline]
    fn read(&mut self) -> Result<Option<RecordRef<'a>>, DecodeError> {
        let layout = self.layout;
        let mismatch = DecodeError::CountMismatch { offset: layout.base_offset, expected: layout.record_count };
        loop {
            let offset = layout.offset(self.index);
            let malformed = |detail| DecodeError::Malformed { offset, detail };
            let Some(body) = self.bodies.read().map_err(malformed)? else {
                return if self.index == layout.record_count { Ok(None) } else { Err(mismatch) };
            };
            if self.index == layout.record_count {
                return Err(mismatch);
            }
            self.index += 1;
            if offset >= layout.from && offset < layout.until {
                return RecordRef::parse(offset, body).map(Some).map_err(malformed);
            }
        }
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<RecordRef<'a>, DecodeError>;

    /// A record that cannot be read is an error in its place; what follows it is read on. A batch that cannot be
    /// walked any further ends with its error.
    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let before = self.index;
        match self.read() {
            Ok(record) => record.map(Ok),
            Err(error) => {
                // No step forward: the walk itself has failed, not one record.
                self.failed = self.index == before || matches!(error, DecodeError::CountMismatch { .. });
                Some(Err(error))
            }
        }
    }
}
