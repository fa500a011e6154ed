//! The files of a log, for tests that damage them. `storage/FORMAT.md` says what lies where.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Magic at the start of a batch.
const BATCH_MAGIC: &[u8] = b"AQBT";
const SEGMENT_HEADER_BYTES: usize = 64;

/// The segments of a partition of a stopped broker, in order.
///
/// # Panics
/// If there is no such partition.
pub fn segments(data: &Path, topic: &str, partition: u32) -> Vec<PathBuf> {
    let directory = data.join("topics").join(topic).join(partition.to_string());
    let entries = fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
    files.sort();
    files
}

/// The base offset in a segment's name.
///
/// # Panics
/// If it is not one.
pub fn base_offset(segment: &Path) -> u64 {
    segment.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok()).expect("an offset")
}

/// Where each batch of a segment begins, and where the last one ends.
///
/// # Panics
/// If the file cannot be read.
pub fn batch_positions(segment: &Path) -> Vec<usize> {
    let bytes = fs::read(segment).expect("the segment");
    let number = |at: usize| {
        let four = bytes[at..at + 4].try_into().expect("four bytes");
        u32::from_le_bytes(four) as usize
    };
    let mut positions = vec![SEGMENT_HEADER_BYTES];
    let mut at = SEGMENT_HEADER_BYTES;
    while bytes.get(at..at + 4) == Some(BATCH_MAGIC) {
        at += number(at + 8) + number(at + 16);
        positions.push(at);
    }
    positions
}

/// Changes one bit.
///
/// # Panics
/// If the file is shorter, or cannot be written.
pub fn flip(file: &Path, at: usize) {
    let mut bytes = fs::read(file).expect("the file");
    bytes[at] ^= 1;
    fs::write(file, bytes).expect("written");
}
