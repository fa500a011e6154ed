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
    /// Between `position` and here the file holds zeros, or ends; not beyond `position` if nothing was zeroed ahead.
    pub(crate) zeroed_to: u64,
    pub(crate) length: Length,
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
        let (zeroed_to, length) = (position, Length::AsSynced);
        Self { segment, file, position, synced_position, zeroed_to, length, entry, sampler, begun_age_us }
    }

    /// Cuts the file after the last batch. Durable only with the next sync.
    pub(crate) fn cut(&mut self) -> std::io::Result<()> {
        self.file.truncate(self.position)?;
        self.zeroed_to = self.position;
        self.length = Length::Cut;
        Ok(())
    }

    /// Takes note of a written batch.
    pub(crate) fn index(&mut self, entry: IndexEntry) {
        if self.sampler.takes(entry.position) {
            self.segment.push_recent(&[entry]);
        }
    }
}

/// Whether the file was cut since its last sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Length {
    AsSynced,
    Cut,
}

/// How much of a file is written, and how much of that is durable.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SyncedUpTo {
    pub(crate) position: u64,
    pub(crate) synced_position: u64,
}
