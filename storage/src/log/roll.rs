//! Sealing segments and beginning new ones.
//!
//! Order: everything in the old segment is durable, then its trailer is, then the new file is created, then, before
//! anything in the new one is acknowledged, its directory entry is durable. So a new segment proves the one before it.

use std::sync::Arc;

use super::active::{ActiveSegment, Length, SyncedUpTo, Tail};
use super::{DurablePoint, PartitionLog};
use crate::commit::FileEntry;
use crate::disk::Access;
use crate::segment::format::{BLOCK_BYTES, HEADER_BYTES, SegmentHeader, TRAILER_BYTES, Trailer};
use crate::segment::{Segment, file_name};
use crate::state::{LastSegment, SegmentKind};
use crate::{Offset, StorageError};

impl PartitionLog {
    /// Seals the active segment if `bytes` more would make it too large. Not while a group in it is written and not
    /// published: if that fails, the log goes on before it, and a segment that begins behind it would be in the way.
    pub(super) fn make_room(&mut self, bytes: u64) -> Result<(), StorageError> {
        let position = match &self.tail {
            Tail::Sealed => return Ok(()),
            Tail::Unopened { position, .. } => *position,
            Tail::Open(active) => active.position,
        };
        let is_all_published = self.log_end == self.shared.window().high_watermark;
        if is_all_published && position > HEADER_BYTES && position + bytes > self.options.segment_bytes {
            self.seal()?;
        }
        Ok(())
    }

    /// Seals the active segment, so that a compaction may take it, and begins an empty one. Does nothing if it is empty, or
    /// while a group in it is not published. Durable when it returns: a few syncs.
    ///
    /// # Errors
    /// [`StorageError::Failed`] after a failure; the disk's.
    pub fn roll(&mut self) -> Result<(), StorageError> {
        self.check_health()?;
        let is_all_published = self.log_end == self.shared.window().high_watermark;
        let is_empty = self.shared.segments().last().is_none_or(|last| last.base == self.log_end);
        if is_empty || !is_all_published { Ok(()) } else { self.begin_empty_segment() }
    }

    /// Cuts what was zeroed ahead, and makes everything written and the length of the file durable.
    pub(super) fn cut_tail(&mut self) -> Result<(), StorageError> {
        if let Tail::Open(active) = &mut self.tail
            && active.zeroed_to > active.position
            && let Err(error) = active.cut()
        {
            let path = active.segment.path.clone();
            return Err(self.fail(unlike_full(StorageError::io("truncate", &path, error))));
        }
        self.sync_tail()
    }

    /// Makes everything written durable, if it is not yet.
    pub(super) fn sync_tail(&mut self) -> Result<(), StorageError> {
        let Tail::Open(active) = &mut self.tail else { return Ok(()) };
        if active.synced_position < active.position || active.length == Length::Cut {
            let path = &active.segment.path;
            let synced = active.file.sync_data().map_err(|error| StorageError::io("sync", path, error));
            let synced = synced.and_then(|()| match &active.entry {
                FileEntry::New(disk, dir) => disk.sync_dir(dir).map_err(|error| StorageError::io("sync", dir, error)),
                FileEntry::Durable => Ok(()),
            });
            if let Err(error) = synced {
                return Err(self.fail(unlike_full(error)));
            }
            active.synced_position = active.position;
            active.length = Length::AsSynced;
            active.entry = FileEntry::Durable;
        }
        let last_segment =
            LastSegment { base: active.segment.base, position: active.position, kind: SegmentKind::Active };
        self.durable = DurablePoint {
            end: self.log_end,
            last_segment: Some(last_segment),
            last_append_time_us: self.last_append_time_us,
        };
        Ok(())
    }

    /// Writes the trailer of the active segment and makes it durable. If the disk is full, the segment stays as it was.
    pub(super) fn seal(&mut self) -> Result<(), StorageError> {
        self.open_tail()?;
        // First, and with a sync of its own: a trailer is looked for at the end of the file.
        self.cut_tail()?;
        let Tail::Open(active) = &self.tail else { return Ok(()) };
        let (path, position, base) = (active.segment.path.clone(), active.position, active.segment.base);
        let trailer = Trailer {
            epoch: self.epoch,
            base,
            end: self.log_end,
            position,
            last_append_time_us: self.last_append_time_us.unwrap_or_default(),
        };
        let bytes = trailer.encode(self.shared.id);
        if let Err(error) = active.file.write_at(position, &mut [std::io::IoSlice::new(&bytes)]) {
            let cut = active.file.truncate(position);
            let error = StorageError::io("write", &path, error);
            return Err(match (error, cut) {
                (error @ StorageError::Full { .. }, Ok(())) => error,
                (error, _) => self.fail(unlike_full(error)),
            });
        }
        if let Err(error) = active.file.sync_data() {
            return Err(self.fail(unlike_full(StorageError::io("sync", &path, error))));
        }
        // Not evidence, and built again if it cannot be written.
        drop(self.save_index(&active.segment, self.log_end));
        let bytes = position + TRAILER_BYTES;
        self.replace_last_segment(Segment::sealed(&self.shared.dir, base, bytes));
        self.shared.forget_index(base);
        self.durable.last_segment = Some(LastSegment { base, position: bytes, kind: SegmentKind::Sealed });
        self.tail = Tail::Sealed;
        Ok(())
    }

    /// The segment to append to, and the header to write first if it is a new one. The caller puts it back.
    pub(super) fn take_active(&mut self) -> Result<(Option<[u8; 64]>, ActiveSegment), StorageError> {
        self.open_tail()?;
        match std::mem::replace(&mut self.tail, Tail::Sealed) {
            Tail::Open(active) => Ok((None, active)),
            Tail::Sealed | Tail::Unopened { .. } => {
                let dir = &self.shared.dir;
                let path = dir.join(file_name(self.log_end));
                let file = self.shared.disk.create(&path).map_err(|error| StorageError::io("create", &path, error))?;
                let segment = Arc::new(Segment::new(dir, self.log_end, self.log_end, 0));
                let header = self.next_segment_header(self.log_end);
                let active = ActiveSegment::new(
                    segment,
                    file,
                    SyncedUpTo { position: 0, synced_position: 0 },
                    FileEntry::New(self.shared.disk.clone(), dir.clone()),
                    self.options.index_interval_bytes,
                    header.age_us,
                );
                Ok((Some(header.encode(self.shared.id)), active))
            }
        }
    }

    pub(super) fn next_segment_header(&self, base: Offset) -> SegmentHeader {
        let list = self.shared.segments();
        let previous = list.iter().rev().map(|segment| segment.base).find(|previous| *previous < base);
        SegmentHeader { epoch: self.epoch, base, age_us: self.last_append_age_us, previous, compacted_span: None }
    }

    /// Opens the file of a tail that was not touched since the log was opened.
    pub(super) fn open_tail(&mut self) -> Result<(), StorageError> {
        let Tail::Unopened { segment, position } = &self.tail else { return Ok(()) };
        let file = self
            .shared
            .disk
            .open(&segment.path, Access::ReadWrite)
            .map_err(|error| StorageError::io("open", &segment.path, error))?;
        // A header that cannot be read makes the segment younger, never older.
        let begun_age_us = self.segment_age_us(segment)?.unwrap_or(self.last_append_age_us);
        self.tail = Tail::Open(ActiveSegment::new(
            segment.clone(),
            file,
            SyncedUpTo { position: *position, synced_position: *position },
            FileEntry::Durable,
            self.options.index_interval_bytes,
            begun_age_us,
        ));
        Ok(())
    }

    /// The age clock in the header of `segment`; `None` if the header is damaged. One read.
    pub(super) fn segment_age_us(&self, segment: &Segment) -> Result<Option<u64>, StorageError> {
        let file = segment.open(&*self.shared.disk)?;
        let bytes = file.read_at(0, BLOCK_BYTES).map_err(|error| StorageError::io("read", &segment.path, error))?;
        Ok(SegmentHeader::decode(&bytes, self.shared.id).ok().map(|header| header.age_us))
    }

    pub(super) fn list_segment(&self, segment: Arc<Segment>) {
        let mut list = self.shared.segments().to_vec();
        list.push(segment);
        self.shared.publish_segments(list);
    }

    pub(super) fn replace_last_segment(&self, segment: Segment) {
        let mut list = self.shared.segments().to_vec();
        list.pop();
        list.push(Arc::new(segment));
        self.shared.publish_segments(list);
    }
}

/// A disk that reports only at a sync that it is full has failed that sync, and must not be taken for merely full.
pub(super) fn unlike_full(error: StorageError) -> StorageError {
    match error {
        StorageError::Full { path } => {
            StorageError::Io { operation: "sync", path, source: std::io::ErrorKind::StorageFull.into() }
        }
        error @ (StorageError::Io { .. }
        | StorageError::Corrupt { .. }
        | StorageError::Unsupported { .. }
        | StorageError::Failed) => error,
    }
}
