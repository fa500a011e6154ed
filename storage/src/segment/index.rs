//! The sparse index of a segment: every so many bytes, where a batch lies and when it was appended.
//!
//! Append times never go back, so that one list serves lookups by offset and by time. An index is never evidence: it
//! says where to begin looking, and what is found there must prove itself. One that is missing, damaged or of another
//! extent is built again from the batches.

use std::io::IoSlice;
use std::path::Path;

use crate::batch::LogId;
use crate::disk::{Access, Disk};
use crate::wire::{Fields, put};
use crate::{Offset, StorageError};

const MAGIC: [u8; 4] = *b"AQIX";
const VERSION: u16 = 1;
const HEADER_BYTES: usize = 64;
const CRC_AT: usize = 8;
const ENTRY_BYTES: usize = 24;

/// Where one batch lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct IndexEntry {
    /// Its base offset.
    pub(crate) offset: Offset,
    /// Byte position of its header in the segment.
    pub(crate) position: u64,
    /// Its append time, µs since the epoch.
    pub(crate) append_time_us: i64,
}

/// The last entry for which `is_before` holds and the first for which it does not; `entries` are ordered by it.
pub(crate) fn around(
    entries: &[IndexEntry],
    is_before: impl Fn(&IndexEntry) -> bool,
) -> (Option<IndexEntry>, Option<IndexEntry>) {
    let after = entries.partition_point(is_before);
    (after.checked_sub(1).map(|last| entries[last]), entries.get(after).copied())
}

/// Chooses which batches of a segment are indexed.
#[derive(Debug)]
pub(crate) struct IndexSampler {
    interval_bytes: u64,
    next_position: u64,
}

impl IndexSampler {
    /// The first batch offered is taken, then one every `interval_bytes`.
    pub(crate) fn new(interval_bytes: u64) -> Self {
        Self { interval_bytes, next_position: 0 }
    }

    pub(crate) fn takes(&mut self, position: u64) -> bool {
        if position < self.next_position {
            return false;
        }
        self.next_position = position + self.interval_bytes;
        true
    }
}

/// Replaces the index file at `path`, which covers the offsets from `base` to `end`. Not synced: a torn one is
/// noticed and built again.
pub(crate) fn save(
    disk: &dyn Disk,
    path: &Path,
    id: LogId,
    extent: std::ops::Range<Offset>,
    entries: &[IndexEntry],
) -> Result<(), StorageError> {
    let bytes = encode(id, extent, entries);
    match disk.remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(StorageError::io("remove", path, error)),
    }
    let file = disk.create(path).map_err(|error| StorageError::io("create", path, error))?;
    file.write_at(0, &mut [IoSlice::new(&bytes)]).map_err(|error| StorageError::io("write", path, error))
}

/// What an index file holds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum StoredIndex {
    Intact {
        covers: std::ops::Range<Offset>,
        entries: Vec<IndexEntry>,
    },
    Missing,
    /// Without a byte.
    Empty,
    Damaged,
}

/// The index file at `path`, whatever it covers.
pub(crate) fn load_any(disk: &dyn Disk, path: &Path, id: LogId) -> std::io::Result<StoredIndex> {
    let file = match disk.open(path, Access::Read) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(StoredIndex::Missing),
        Err(error) => return Err(error),
    };
    let bytes = file.read_at(0, usize::try_from(file.len()?).unwrap_or(usize::MAX))?;
    Ok(if bytes.is_empty() { StoredIndex::Empty } else { decode(&bytes, id).unwrap_or(StoredIndex::Damaged) })
}

/// The index file at `path` if it is intact and covers exactly `extent`.
pub(crate) fn load(
    disk: &dyn Disk,
    path: &Path,
    id: LogId,
    extent: std::ops::Range<Offset>,
) -> Option<Vec<IndexEntry>> {
    match load_any(disk, path, id) {
        Ok(StoredIndex::Intact { covers, entries }) if covers == extent => Some(entries),
        Ok(_) | Err(_) => None,
    }
}

fn encode(id: LogId, extent: std::ops::Range<Offset>, entries: &[IndexEntry]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_BYTES + ENTRY_BYTES * entries.len());
    put(&mut out, MAGIC);
    put(&mut out, VERSION.to_le_bytes());
    put(&mut out, 64_u16.to_le_bytes());
    put(&mut out, [0; 4]);
    put(&mut out, 0_u32.to_le_bytes());
    put(&mut out, extent.start.to_le_bytes());
    put(&mut out, extent.end.to_le_bytes());
    put(&mut out, (entries.len() as u64).to_le_bytes());
    out.resize(HEADER_BYTES, 0);
    for entry in entries {
        put(&mut out, entry.offset.to_le_bytes());
        put(&mut out, entry.position.to_le_bytes());
        put(&mut out, entry.append_time_us.to_le_bytes());
    }
    let crc = crc_of(&out, id);
    out[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
    out
}

fn decode(bytes: &[u8], id: LogId) -> Option<StoredIndex> {
    if bytes.len() < HEADER_BYTES {
        return None;
    }
    let mut fields = Fields::new(bytes);
    let (magic, version, header_bytes, crc) = (fields.bytes::<4>(), fields.u16(), fields.u16(), fields.u32());
    let _reserved = fields.u32();
    let (start, end, count) = (fields.u64(), fields.u64(), fields.u64());
    let entries = &bytes[HEADER_BYTES..];
    let intact = magic == MAGIC
        && version == VERSION
        && usize::from(header_bytes) == HEADER_BYTES
        && count.checked_mul(ENTRY_BYTES as u64) == Some(entries.len() as u64)
        && crc == crc_of(bytes, id);
    intact.then(|| {
        let entry = |bytes: &[u8]| {
            let mut fields = Fields::new(bytes);
            IndexEntry { offset: fields.u64(), position: fields.u64(), append_time_us: fields.i64() }
        };
        StoredIndex::Intact { covers: start..end, entries: entries.chunks_exact(ENTRY_BYTES).map(entry).collect() }
    })
}

fn crc_of(bytes: &[u8], id: LogId) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&id.0);
    hasher.update(&bytes[..CRC_AT]);
    hasher.update(&bytes[CRC_AT + 4..]);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: LogId = LogId([1; 16]);

    fn entries() -> Vec<IndexEntry> {
        (0..5).map(|i| IndexEntry { offset: 10 * i, position: 100 * i, append_time_us: -3 }).collect()
    }

    #[test]
    fn an_index_is_read_as_written_and_only_for_its_log() {
        let bytes = encode(ID, 0..50, &entries());
        assert_eq!(decode(&bytes, ID), Some(StoredIndex::Intact { covers: 0..50, entries: entries() }));
        assert_eq!(decode(&bytes, LogId([2; 16])), None);
        assert_eq!(decode(&bytes[..bytes.len() - 1], ID), None);
        assert_eq!(decode(&vec![0; bytes.len()], ID), None);
    }

    #[test]
    fn a_lookup_finds_the_entries_on_both_sides() {
        let list = entries();
        let offsets = |offset| {
            let (before, after) = around(&list, |entry| entry.offset <= offset);
            (before.map(|entry| entry.offset), after.map(|entry| entry.offset))
        };
        assert_eq!(offsets(0), (Some(0), Some(10)));
        assert_eq!(offsets(19), (Some(10), Some(20)));
        assert_eq!(offsets(99), (Some(40), None));
    }

    #[test]
    fn the_first_batch_is_sampled_and_then_one_per_interval() {
        let mut sampler = IndexSampler::new(100);
        let taken: Vec<u64> = (64..400).step_by(30).filter(|position| sampler.takes(*position)).collect();
        assert_eq!(taken, [64, 184, 304]);
    }
}
