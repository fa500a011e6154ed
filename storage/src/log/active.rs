//! The end of a log: the segment that is being appended to.

use std::sync::Arc;

use crate::commit::FileEntry;
use crate::disk::DiskFile;
use crate::segment::Segment;
use crate::segment::index::{IndexEntry, IndexSampler};

/// What the next append goes into.
#[derive(Debug)]
pub(crate) enum Tail {
    /// A new segment: there is none yet, or the last one is sealed.
    Sealed,
    /// The last segment, which was not appended to since the log was opened and has no descriptor.
    Unopened { segment: Arc<Segment>, position: u64 },
    /// The last segment.
    Open(ActiveSegment),
}

/// The segment that is being appended to.
#[derive(Debug)]
pub(crate) struct ActiveSegment {
    pub(crate) segment: Arc<Segment>,
    pub(crate) file: Arc<dyn DiskFile>,
    /// Where the next batch goes.
    pub(crate) position: u64,
    /// Everything before is durable.
    pub(crate) synced_position: u64,
    pub(crate) entry: FileEntry,
    sampler: IndexSampler,
    /// The age clock before the first append.
    pub(crate) begun_age_us: u64,
}

impl ActiveSegment {
    /// A segment of which `position` bytes are written and `synced_position` are durable.
    pub(crate) fn new(
        segment: Arc<Segment>,
        file: Arc<dyn DiskFile>,
        positions: SyncedUpTo,
        entry: FileEntry,
        index_interval_bytes: u64,
        begun_age_us: u64,
    ) -> Self {
        segment.set_handle(Some(file.clone()));
        let SyncedUpTo { position, synced_position } = positions;
        let sampler = IndexSampler::new(index_interval_bytes);
        Self { segment, file, position, synced_position, entry, sampler, begun_age_us }
    }

    /// Takes note of a written batch.
    pub(crate) fn index(&mut self, entry: IndexEntry) {
        if self.sampler.takes(entry.position) {
            self.segment.push_recent(&[entry]);
        }
    }
}

/// How much of a file is written, and how much of that is durable.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SyncedUpTo {
    pub(crate) position: u64,
    pub(crate) synced_position: u64,
}
