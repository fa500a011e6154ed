//! The first and the last bytes of a segment file. Every byte is described in FORMAT.md, "Segment".

use crate::batch::LogId;
use crate::wire::{Fields, put};
use crate::{DamagedRange, Offset};

/// Bytes of a segment header; the first batch lies here.
pub(crate) const HEADER_BYTES: u64 = 64;
/// Bytes of the trailer of a sealed segment.
pub(crate) const TRAILER_BYTES: u64 = 64;
/// First bytes of a trailer.
pub(crate) const TRAILER_MAGIC: [u8; 4] = *b"AQTR";

const HEADER_MAGIC: [u8; 4] = *b"AQSG";
const VERSION: u16 = 1;
/// Bytes of a header or a trailer, as a length in memory.
pub(crate) const BLOCK_BYTES: usize = 64;
const CRC_AT: usize = 8;
/// There is a segment before this one.
const FLAG_PREVIOUS: u32 = 1;
/// A compaction has written it.
const FLAG_COMPACTED: u32 = 2;

/// What a segment says about itself when it is created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    /// Epoch of the log at creation: no batch in the file is older.
    pub(crate) epoch: u32,
    /// Offset of the first batch.
    pub(crate) base: Offset,
    /// The log's age clock at the last append before this segment; every earlier record was appended by then.
    pub(crate) age_us: u64,
    /// Base of the segment before this one, so that a missing segment is told from one that was cut short.
    pub(crate) previous: Option<Offset>,
    /// Offsets that the segment covers, if a compaction has written it: it may stand for several that are gone.
    pub(crate) compacted_span: Option<u32>,
}

/// What a sealed segment says about itself. It is written only when everything below `end` is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Trailer {
    /// Epoch of the log when the segment was sealed.
    pub(crate) epoch: u32,
    /// Offset of the first batch.
    pub(crate) base: Offset,
    /// Offset after the last batch.
    pub(crate) end: Offset,
    /// Byte position of the trailer itself.
    pub(crate) position: u64,
    /// Append time of the last batch, µs since the epoch.
    pub(crate) last_append_time_us: i64,
}

/// Why bytes are not a header or a trailer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum BlockFault {
    /// Cut short, or not what was written.
    Damaged,
    /// Intact, but of a newer version.
    Unsupported(u16),
}

impl SegmentHeader {
    /// The offsets of a segment that a compaction has written.
    pub(crate) fn covered(&self) -> Option<std::ops::Range<Offset>> {
        self.compacted_span.map(|span| self.base..self.base.saturating_add(u64::from(span)))
    }

    pub(crate) fn encode(&self, id: LogId) -> [u8; BLOCK_BYTES] {
        let mut out = block(HEADER_MAGIC);
        put(&mut out, self.epoch.to_le_bytes());
        put(&mut out, id.0);
        put(&mut out, self.base.to_le_bytes());
        put(&mut out, self.age_us.to_le_bytes());
        put(&mut out, self.previous.unwrap_or_default().to_le_bytes());
        let has_previous = if self.previous.is_some() { FLAG_PREVIOUS } else { 0 };
        let is_compacted = if self.compacted_span.is_some() { FLAG_COMPACTED } else { 0 };
        put(&mut out, (has_previous | is_compacted).to_le_bytes());
        put(&mut out, self.compacted_span.unwrap_or_default().to_le_bytes());
        sealed(out, id)
    }

    pub(crate) fn decode(bytes: &[u8], id: LogId) -> Result<Self, BlockFault> {
        let mut fields = checked(bytes, HEADER_MAGIC, id)?;
        let epoch = fields.u32();
        let _log_id: [u8; 16] = fields.bytes(); // for people with a hex dump; the CRC is bound to it
        let (base, age_us, previous, flags) = (fields.u64(), fields.u64(), fields.u64(), fields.u32());
        let previous = Some(previous).filter(|_| flags & FLAG_PREVIOUS != 0);
        let compacted_span = Some(fields.u32()).filter(|_| flags & FLAG_COMPACTED != 0);
        Ok(Self { epoch, base, age_us, previous, compacted_span })
    }
}

impl Trailer {
    /// Append time of the last batch, if there is one.
    pub(crate) fn append_time_us(&self) -> Option<i64> {
        Some(self.last_append_time_us).filter(|_| self.end > self.base)
    }

    pub(crate) fn encode(&self, id: LogId) -> [u8; BLOCK_BYTES] {
        let mut out = block(TRAILER_MAGIC);
        put(&mut out, self.epoch.to_le_bytes());
        put(&mut out, self.base.to_le_bytes());
        put(&mut out, self.end.to_le_bytes());
        put(&mut out, self.position.to_le_bytes());
        put(&mut out, self.last_append_time_us.to_le_bytes());
        sealed(out, id)
    }

    pub(crate) fn decode(bytes: &[u8], id: LogId) -> Result<Self, BlockFault> {
        let mut fields = checked(bytes, TRAILER_MAGIC, id)?;
        Ok(Self {
            epoch: fields.u32(),
            base: fields.u64(),
            end: fields.u64(),
            position: fields.u64(),
            last_append_time_us: fields.i64(),
        })
    }
}

/// Magic, version, length, and room for the CRC: the same in both blocks and in all versions.
fn block(magic: [u8; 4]) -> Vec<u8> {
    let mut out = Vec::with_capacity(BLOCK_BYTES);
    put(&mut out, magic);
    put(&mut out, VERSION.to_le_bytes());
    put(&mut out, 64_u16.to_le_bytes());
    put(&mut out, [0; 4]);
    out
}

fn sealed(out: Vec<u8>, id: LogId) -> [u8; BLOCK_BYTES] {
    let mut block = [0; BLOCK_BYTES];
    block[..out.len()].copy_from_slice(&out);
    let crc = crc_of(&block, id);
    block[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
    block
}

fn checked(bytes: &[u8], magic: [u8; 4], id: LogId) -> Result<Fields<'_>, BlockFault> {
    let block = bytes.get(..BLOCK_BYTES).ok_or(BlockFault::Damaged)?;
    let mut fields = Fields::new(block);
    let found: [u8; 4] = fields.bytes();
    let (version, length, crc) = (fields.u16(), fields.u16(), fields.u32());
    if found != magic || usize::from(length) != BLOCK_BYTES || crc != crc_of(block, id) {
        return Err(BlockFault::Damaged);
    }
    if version != VERSION {
        return Err(BlockFault::Unsupported(version));
    }
    Ok(fields)
}

fn crc_of(block: &[u8], id: LogId) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&id.0);
    hasher.update(&block[..CRC_AT]);
    hasher.update(&block[CRC_AT + 4..]);
    hasher.finalize()
}

/// Damage in `segment`, for an error or a report.
pub(crate) fn damage(
    offsets: std::ops::Range<Offset>,
    segment: &std::path::Path,
    position: u64,
    what: impl Into<String>,
) -> DamagedRange {
    DamagedRange { from: offsets.start, to: offsets.end, segment: segment.to_owned(), position, what: what.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: LogId = LogId([3; 16]);
    const HEADER: SegmentHeader =
        SegmentHeader { epoch: 2, base: 77, age_us: 5, previous: Some(3), compacted_span: None };
    const TRAILER: Trailer = Trailer { epoch: 3, base: 77, end: 99, position: 4_096, last_append_time_us: -1 };

    #[test]
    fn blocks_are_read_as_written_and_only_in_their_log() {
        for header in [HEADER, SegmentHeader { previous: None, compacted_span: Some(9), ..HEADER }] {
            assert_eq!(SegmentHeader::decode(&header.encode(ID), ID), Ok(header));
        }
        assert_eq!(Trailer::decode(&TRAILER.encode(ID), ID), Ok(TRAILER));
        assert_eq!(SegmentHeader::decode(&HEADER.encode(ID), LogId([4; 16])), Err(BlockFault::Damaged));
        assert_eq!(Trailer::decode(&HEADER.encode(ID), ID), Err(BlockFault::Damaged));
    }

    #[test]
    fn every_flipped_bit_of_a_trailer_is_noticed() {
        for bit in 0..BLOCK_BYTES * 8 {
            let mut bytes = TRAILER.encode(ID);
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Trailer::decode(&bytes, ID).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_newer_version_is_told_from_damage() {
        let mut bytes = HEADER.encode(ID);
        bytes[4] = 9;
        let crc = crc_of(&bytes, ID);
        bytes[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(SegmentHeader::decode(&bytes, ID), Err(BlockFault::Unsupported(9)));
    }
}
