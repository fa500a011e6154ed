//! Segments: the files that a log is cut into.
//!
//! A segment is a header, batches one after the other, and, once sealed, a trailer. It holds the offsets from its base
//! to the base of the next segment: whatever it holds beyond that was superseded and is not part of the log.

pub(crate) mod format;
pub(crate) mod index;
pub(crate) mod scan;
pub(crate) mod survey;
pub(crate) mod walk;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::{Access, Disk, DiskFile};
use crate::sync::{AtomicBool, AtomicU64, Mutex, Ordering, RwLock};
use crate::{Offset, StorageError};
use index::IndexEntry;

const DIGITS: usize = 20;

/// File name of the segment that begins at `base`.
pub(crate) fn file_name(base: Offset) -> String {
    format!("{base:0DIGITS$}.log")
}

/// File name of the index of the segment that begins at `base`.
pub(crate) fn index_file_name(base: Offset) -> String {
    format!("{base:0DIGITS$}.index")
}

/// The base offset in the name of a segment (`extension` `log`) or an index (`index`); `None` for any other name.
pub(crate) fn parse_file_name(name: &str, extension: &str) -> Option<Offset> {
    let digits = name.strip_suffix(extension)?.strip_suffix('.')?;
    if digits.len() != DIGITS || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}

/// One segment as its readers see it.
#[derive(Debug)]
pub(crate) struct Segment {
    /// Offset of the first batch.
    pub(crate) base: Offset,
    pub(crate) path: PathBuf,
    /// Length of the file, as far as it is published.
    bytes: AtomicU64,
    /// The writer's descriptor while the segment is active; sealed segments keep none.
    handle: Mutex<Option<Arc<dyn DiskFile>>>,
    /// Index of what was appended since the segment was opened: batches from `recent_from` on.
    recent: RwLock<Vec<IndexEntry>>,
    /// Another file takes its name, or will at any moment.
    is_retired: AtomicBool,
    /// First offset that `recent` covers. What lies below is in the index file, or is found by scanning.
    pub(crate) recent_from: Offset,
}

impl Segment {
    /// A segment of `bytes` bytes whose batches below `recent_from` are on disk already.
    pub(crate) fn new(dir: &Path, base: Offset, recent_from: Offset, bytes: u64) -> Self {
        Self {
            base,
            path: dir.join(file_name(base)),
            bytes: AtomicU64::new(bytes),
            handle: Mutex::new(None),
            recent: RwLock::new(Vec::new()),
            is_retired: AtomicBool::new(false),
            recent_from,
        }
    }

    /// A segment to which nothing will be appended.
    pub(crate) fn sealed(dir: &Path, base: Offset, bytes: u64) -> Self {
        Self::new(dir, base, Offset::MAX, bytes)
    }

    /// Published length of the file.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Acquire)
    }

    pub(crate) fn publish_bytes(&self, bytes: u64) {
        self.bytes.store(bytes, Ordering::Release);
    }

    /// The file, for reading: the writer's descriptor, or a new one that lives as long as the caller keeps it.
    pub(crate) fn open(&self, disk: &dyn Disk) -> Result<Arc<dyn DiskFile>, StorageError> {
        if let Some(file) = self.handle.lock().clone() {
            return Ok(file);
        }
        disk.open(&self.path, Access::Read).map_err(|error| StorageError::io("open", &self.path, error))
    }

    pub(crate) fn set_handle(&self, file: Option<Arc<dyn DiskFile>>) {
        *self.handle.lock() = file;
    }

    /// Before another file takes its name: whoever has this segment goes on reading `file`, and no longer saves an index.
    pub(crate) fn retire(&self, file: Arc<dyn DiskFile>) {
        self.set_handle(Some(file));
        self.is_retired.store(true, Ordering::Release);
    }

    /// No other file has taken its name after all.
    pub(crate) fn reinstate(&self) {
        self.is_retired.store(false, Ordering::Release);
        self.set_handle(None);
    }

    pub(crate) fn is_retired(&self) -> bool {
        self.is_retired.load(Ordering::Acquire)
    }

    pub(crate) fn push_recent(&self, entries: &[IndexEntry]) {
        self.recent.write().extend_from_slice(entries);
    }

    /// What was indexed since the segment was opened.
    pub(crate) fn recent(&self) -> Vec<IndexEntry> {
        self.recent.read().clone()
    }

    /// The last recent entry at or below `offset`, and the one after it.
    pub(crate) fn recent_around(&self, offset: Offset) -> (Option<IndexEntry>, Option<IndexEntry>) {
        index::around(&self.recent.read(), |entry| entry.offset <= offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_foreign_names_are_not_segments() {
        for base in [0, 42, u64::MAX] {
            assert_eq!(parse_file_name(&file_name(base), "log"), Some(base));
            assert_eq!(parse_file_name(&index_file_name(base), "index"), Some(base));
        }
        for name in [
            "partition.state",
            "1.log",
            "00000000000000000001.log.tmp",
            "+0000000000000000001.log",
            "99999999999999999999.log",
        ] {
            assert_eq!(parse_file_name(name, "log"), None, "{name}");
        }
    }
}
