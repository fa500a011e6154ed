//! What the tests of the log share: batches, a log on any disk, and reading everything back.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use aqueduct_storage::{
    AppendError, Batch, BatchHeader, Disk, LogId, LogOptions, LogReader, Offset, OpenError, PartitionLog, ReadError,
    RecoveryReport, payload_crc,
};
use bytes::Bytes;

pub(crate) const ID: LogId = LogId(*b"0123456789abcdef");

pub(crate) fn log_dir() -> PathBuf {
    PathBuf::from("/log")
}

/// Small segments, so that short tests roll.
pub(crate) fn small_options() -> LogOptions {
    LogOptions {
        segment_bytes: 4096,
        index_interval_bytes: 256,
        checkpoint_bytes: 4096,
        zero_ahead_bytes: 512,
        tail_cache_bytes: 0,
        ..LogOptions::default()
    }
}

/// A batch of `count` records whose payload names its offset and epoch.
pub(crate) fn batch(base_offset: Offset, count: u32, epoch: u32, append_time_us: i64, payload_bytes: usize) -> Batch {
    let mut payload = format!("{base_offset}/{epoch}/").into_bytes();
    let filler = base_offset.wrapping_mul(2_654_435_761).to_le_bytes()[1];
    payload.resize(payload_bytes.max(payload.len()), filler);
    let header = BatchHeader {
        base_offset,
        record_count: count,
        payload_crc: payload_crc(&payload),
        append_time_us,
        max_timestamp_us: append_time_us,
        epoch,
        ..BatchHeader::default()
    };
    Batch { header, payload: Bytes::from(payload) }
}

/// The next batch of `log`.
pub(crate) fn next_batch(log: &PartitionLog, count: u32, payload_bytes: usize) -> Batch {
    let time_us = log.last_append_time_us().unwrap_or(0) + 1;
    batch(log.log_end(), count, log.epoch(), time_us, payload_bytes)
}

/// A group that follows the log end, one batch for each size.
pub(crate) fn next_group(log: &PartitionLog, payload_bytes: &[usize]) -> Vec<Batch> {
    let mut offset = log.log_end();
    let time_us = log.last_append_time_us().unwrap_or(0) + 1;
    let make = |bytes: &usize| {
        let made = batch(offset, 2, log.epoch(), time_us, *bytes);
        offset = made.header.next_offset();
        made
    };
    payload_bytes.iter().map(make).collect()
}

/// The next batch of `log`, with this payload.
pub(crate) fn note(log: &PartitionLog, payload: Bytes) -> Batch {
    let mut noted = next_batch(log, 1, 0);
    noted.header.payload_crc = payload_crc(&payload);
    noted.payload = payload;
    noted
}

pub(crate) fn append(log: &mut PartitionLog, payload_bytes: &[usize]) -> Result<Vec<Batch>, AppendError> {
    let group = next_group(log, payload_bytes);
    log.append_group(&group).map(|()| group)
}

pub(crate) fn open(disk: &Arc<dyn Disk>, dir: &Path) -> Result<(PartitionLog, RecoveryReport), OpenError> {
    PartitionLog::open(disk.clone(), dir, ID, small_options(), 0)
}

/// Every batch from `from` to the high watermark.
pub(crate) fn read_from(reader: &LogReader, mut from: Offset) -> Result<Vec<Batch>, ReadError> {
    let mut all = Vec::new();
    loop {
        let batches = reader.read(from, 700)?;
        let Some(last) = batches.last() else { return Ok(all) };
        assert!(last.header.next_offset() > from, "a read makes progress");
        from = last.header.next_offset();
        all.extend(batches);
    }
}

/// Every readable batch.
pub(crate) fn read_all(reader: &LogReader) -> Vec<Batch> {
    read_from(reader, reader.window().log_start).expect("everything is readable")
}

/// A batch without what only the log knows.
pub(crate) fn plain(batch: &Batch) -> Batch {
    let mut batch = batch.clone();
    batch.header.durable_offset = 0;
    batch
}

pub(crate) fn assert_same(found: &[Batch], expected: &[Batch], context: &str) {
    let bases = |batches: &[Batch]| batches.iter().map(|batch| batch.header.base_offset).collect::<Vec<_>>();
    assert_eq!(bases(found), bases(expected), "{context}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(plain(found) == plain(expected), "{context}: batch at {} differs", found.header.base_offset);
    }
}

/// Reads everything, going on behind damage; the offsets that are damaged.
pub(crate) fn read_around_damage(log: &PartitionLog) -> (Vec<Batch>, Vec<(Offset, Offset)>) {
    let (mut found, mut damaged) = (Vec::new(), Vec::new());
    let reader = log.reader();
    let mut from = log.window().log_start;
    while from < log.window().high_watermark {
        match reader.read(from, 500) {
            Ok(batches) => {
                from = batches.last().expect("below the high watermark").header.next_offset();
                found.extend(batches);
            }
            Err(ReadError::Corrupt(damage)) => {
                assert!(damage.to > from, "{damage}");
                damaged.push((damage.from, damage.to));
                from = damage.to;
            }
            Err(error) => panic!("{error}"),
        }
    }
    (found, damaged)
}

/// An index of the log `id` that is intact, and of which every entry points to where the next one should.
pub(crate) fn lying_index(index: &[u8], id: LogId) -> Vec<u8> {
    let mut lie = index.to_vec();
    if lie.len() < 64 {
        return lie;
    }
    let positions: Vec<[u8; 8]> = lie[64..].chunks_exact(24).map(|entry| entry[8..16].try_into().expect("8")).collect();
    for (entry, wrong) in lie[64..].chunks_exact_mut(24).zip(positions.iter().skip(1)) {
        entry[8..16].copy_from_slice(wrong);
    }
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&id.0);
    hasher.update(&lie[..8]);
    hasher.update(&lie[12..]);
    lie[8..12].copy_from_slice(&hasher.finalize().to_le_bytes());
    lie
}
