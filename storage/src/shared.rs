//! What the writer of a log and its readers share.
//!
//! Locks here guard the replacement of small values, never I/O. The writer is the only one who replaces them. Growing:
//! write, then publish. Shrinking: publish the new log start, then unlink.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::batch::LogId;
use crate::cache::TailCache;
use crate::disk::Disk;
use crate::segment::format::HEADER_BYTES;
use crate::segment::index::{self, IndexEntry, IndexSampler};
use crate::segment::scan::HeaderScan;
use crate::segment::walk::{Step, Walk};
use crate::segment::{Segment, index_file_name};
use crate::sync::{AtomicU64, Mutex, Ordering, RwLock};
use crate::{Offset, StorageError};

/// Indexes of sealed segments that one log keeps in memory.
const INDEXES_MAX: usize = 4;

/// The readable window of a log, published by its writer as one value.
///
/// Invariant: `log_start <= high_watermark`. Both only move forward while the log is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// First offset still on disk, inclusive.
    pub log_start: Offset,
    /// First offset that readers must not see, exclusive.
    pub high_watermark: Offset,
}

/// The segments of a log, oldest first; the last may be active.
pub(crate) type SegmentList = Arc<Vec<Arc<Segment>>>;

/// A segment and where it ends.
#[derive(Debug, Clone)]
pub(crate) struct BoundedSegment {
    pub(crate) segment: Arc<Segment>,
    /// First offset that is not in it: the base of the next segment, or the high watermark.
    pub(crate) end: Offset,
}

/// The index of a segment, in memory.
#[derive(Debug)]
struct CachedIndex {
    segment: Arc<Segment>,
    entries: Arc<Vec<IndexEntry>>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) dir: PathBuf,
    pub(crate) id: LogId,
    pub(crate) cache: Arc<TailCache>,
    window: RwLock<Window>,
    segments: RwLock<SegmentList>,
    indexes: Mutex<VecDeque<CachedIndex>>,
    index_interval_bytes: AtomicU64,
}

impl Shared {
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        dir: &Path,
        id: LogId,
        cache: Arc<TailCache>,
        window: Window,
        segments: Vec<Arc<Segment>>,
    ) -> Self {
        Self {
            disk,
            dir: dir.to_owned(),
            id,
            cache,
            window: RwLock::new(window),
            segments: RwLock::new(Arc::new(segments)),
            indexes: Mutex::default(),
            index_interval_bytes: AtomicU64::new(1),
        }
    }

    pub(crate) fn window(&self) -> Window {
        *self.window.read()
    }

    pub(crate) fn publish_window(&self, window: Window) {
        *self.window.write() = window;
    }

    pub(crate) fn segments(&self) -> SegmentList {
        self.segments.read().clone()
    }

    pub(crate) fn publish_segments(&self, segments: Vec<Arc<Segment>>) {
        *self.segments.write() = Arc::new(segments);
    }

    pub(crate) fn set_index_interval_bytes(&self, bytes: u64) {
        self.index_interval_bytes.store(bytes, Ordering::Relaxed);
    }

    /// The segment that holds `offset`, which lies in the window.
    pub(crate) fn segment_at(&self, offset: Offset) -> Option<BoundedSegment> {
        let high_watermark = self.window().high_watermark;
        let list = self.segments();
        let next = list.partition_point(|segment| segment.base <= offset);
        let segment = list.get(next.checked_sub(1)?)?.clone();
        let end = list.get(next).map_or(high_watermark, |next| next.base.min(high_watermark));
        Some(BoundedSegment { segment, end })
    }

    /// The index entries of the batches below `segment.recent_from`: from memory, from the index file, or by walking
    /// over the segment once.
    pub(crate) fn older_index(&self, bounded: &BoundedSegment) -> Result<Arc<Vec<IndexEntry>>, StorageError> {
        let base = bounded.segment.base;
        // By identity: compaction puts another segment of the same base in its place.
        let is_of_it = |cached: &&CachedIndex| Arc::ptr_eq(&cached.segment, &bounded.segment);
        if let Some(cached) = self.indexes.lock().iter().find(is_of_it) {
            return Ok(cached.entries.clone());
        }
        let end = bounded.segment.recent_from.min(bounded.end);
        let path = self.dir.join(index_file_name(base));
        let entries = match index::load(&*self.disk, &path, self.id, base..end) {
            Some(entries) => entries,
            None => self.rebuild_index(&bounded.segment, end, &path)?,
        };
        let entries = Arc::new(entries);
        let mut indexes = self.indexes.lock();
        indexes.truncate(INDEXES_MAX - 1);
        indexes.push_front(CachedIndex { segment: bounded.segment.clone(), entries: entries.clone() });
        Ok(entries)
    }

    /// Forgets the index of a segment that changes its extent or goes away.
    pub(crate) fn forget_index(&self, base: Offset) {
        self.indexes.lock().retain(|cached| cached.segment.base != base);
    }

    fn rebuild_index(&self, segment: &Segment, end: Offset, path: &Path) -> Result<Vec<IndexEntry>, StorageError> {
        let file = segment.open(&*self.disk)?;
        let scan = HeaderScan::new(file, &segment.path, self.id, HEADER_BYTES, segment.bytes());
        let mut walk = Walk::new(scan, segment.base, end, 0);
        let mut sampler = IndexSampler::new(self.index_interval_bytes.load(Ordering::Relaxed));
        let mut entries = Vec::new();
        loop {
            let step = match walk.step() {
                // What a newer version has written hinders nobody from reading what lies before it.
                Err(StorageError::Unsupported { .. }) => break,
                step => step?,
            };
            match step {
                Step::Batch { position, stored } if sampler.takes(position) => entries.push(IndexEntry {
                    offset: stored.header.base_offset,
                    position,
                    append_time_us: stored.header.append_time_us,
                }),
                Step::Batch { .. } | Step::Damage { .. } => {}
                Step::End(_) => break,
            }
        }
        if segment.is_retired() {
            return Ok(entries);
        }
        // Without room for the file the index is built again next time; it is never evidence.
        drop(index::save(&*self.disk, path, self.id, segment.base..end, &entries));
        if segment.is_retired() {
            // Retired since: its index must not stay beside the file that takes its name.
            drop(self.disk.remove_file(path));
        }
        Ok(entries)
    }
}
