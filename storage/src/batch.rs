//! Batches: the unit that is checksummed, compressed, written and sent.
//!
//! The payload is opaque here: it is carried, counted and checksummed, never interpreted. How a header lies on disk
//! is in [`encoding`].

pub(crate) mod encoding;

use std::fmt;

use bytes::Bytes;

/// Position of a record in its log. The first record ever is 0; exclusive ends make "empty" two equal offsets.
pub type Offset = u64;

/// Identity of one partition's log. Every checksum on disk is bound to it, so that bytes of another log are damage.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct LogId(pub [u8; 16]);

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LogId({self})")
    }
}

/// What an idempotent producer stamps on a batch; kept so that copies and migrations stay idempotent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProducerSequence {
    /// Identity of the producer.
    pub id: [u8; 16],
    /// Raised whenever the producer is opened anew.
    pub epoch: u32,
    /// Counts the producer's records in this partition: the number of the batch's first record.
    pub sequence: u64,
}

/// How the payload is compressed. The log carries it and never looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Codec {
    /// Not at all.
    #[default]
    None,
    /// LZ4 frame.
    Lz4,
    /// Zstandard.
    Zstd,
}

/// Everything about a batch but its payload.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BatchHeader {
    /// Offset of the first record.
    pub base_offset: Offset,
    /// Number of records in the payload.
    pub record_count: u32,
    /// How the payload is compressed.
    pub codec: Codec,
    /// CRC-32 of the payload exactly as carried; see [`payload_crc`].
    pub payload_crc: u32,
    /// When the broker appended it, µs since the epoch; never goes back within a log.
    pub append_time_us: i64,
    /// The largest of the producers' own timestamps, µs since the epoch.
    pub max_timestamp_us: i64,
    /// The next batch begins at `base_offset + offset_span`; 0 means `record_count`. See [`BatchHeader::span`].
    pub offset_span: u32,
    /// Empty: record `i` has offset `base_offset + i`. Else one ascending delta below the span for each record.
    pub offset_deltas: Vec<u32>,
    /// Bits 0–15: a reader that does not know one must refuse; 16–31 may be ignored.
    pub attributes: u32,
    /// Epoch of the log when the batch was appended.
    pub epoch: u32,
    /// Who sent it, if idempotent.
    pub producer: Option<ProducerSequence>,
    /// Empty, or one hash of the key for each record.
    pub key_hashes: Vec<u32>,
    /// The log below this was known to be durable when the batch was written. Stamped by the log; proof in recovery.
    pub durable_offset: Offset,
}

impl BatchHeader {
    /// The bit of [`attributes`](Self::attributes) of an empty batch that stands where a repair has taken out damaged
    /// ones: its offsets were acknowledged, and are lost. Readers that do not know it see an empty batch.
    pub const LOST: u32 = 1 << 16;

    /// Whether it stands for records that are lost.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.record_count == 0 && self.attributes & Self::LOST != 0
    }

    /// Number of offsets that the batch takes.
    #[must_use]
    pub fn span(&self) -> u32 {
        if self.offset_span == 0 { self.record_count } else { self.offset_span }
    }

    /// Offset at which the next batch begins.
    #[must_use]
    pub fn next_offset(&self) -> Offset {
        self.base_offset.saturating_add(u64::from(self.span()))
    }
}

/// A batch as it is appended and read. A clone shares the payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Everything but the payload.
    pub header: BatchHeader,
    /// The records, exactly as carried on the wire.
    pub payload: Bytes,
}

impl Batch {
    /// Bytes that the batch takes on disk: header and payload.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        encoding::header_bytes(&self.header) as u64 + self.payload.len() as u64
    }
}

/// CRC-32 (IEEE, as in gzip) of a payload: the same value that the wire carries.
#[must_use]
pub fn payload_crc(payload: &[u8]) -> u32 {
    crc32fast::hash(payload)
}
