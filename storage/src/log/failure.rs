//! Going on after a failed write or sync.
//!
//! A failed sync leaves a file of which nothing above the high watermark can be trusted, and which must not be synced
//! again: a second sync may succeed without the data. So the log goes on at the high watermark, in a fresh file under a
//! higher epoch. The next segment's base ends the one before it, whatever bytes follow there.

use std::io::IoSlice;
use std::sync::Arc;

use super::active::{ActiveSegment, SyncedUpTo, Tail};
use super::{DurablePoint, Health, PartitionLog};
use crate::batch::LogId;
use crate::commit::FileEntry;
use crate::disk::{Disk, DiskFile};
use crate::segment::format::{HEADER_BYTES, SegmentHeader};
use crate::segment::{Segment, file_name};
use crate::state::{LastSegment, SegmentKind};
use crate::{Offset, StorageError};

impl PartitionLog {
    /// After a failure: gives up what lies above the high watermark, which nobody was promised, and goes on there in a
    /// fresh segment with a higher epoch. Does nothing to a log that is well. A few syncs.
    ///
    /// # Errors
    /// The disk's: the log is still failed; try again later.
    pub fn recover_from_failure(&mut self) -> Result<(), StorageError> {
        if self.health == Health::Good {
            return Ok(());
        }
        let high_watermark = self.shared.window().high_watermark;
        let mut list = self.shared.segments().to_vec();
        if let Some(last) = list.pop()
            && last.base < high_watermark
        {
            self.shared.forget_index(last.base);
            list.push(Arc::new(Segment::sealed(&self.shared.dir, last.base, last.bytes())));
        }
        self.save_raised_epoch()?;
        let active = self.fresh_segment(high_watermark)?;
        list.push(active.segment.clone());
        self.log_end = high_watermark;
        self.shared.publish_segments(list);
        self.set_fresh_tail(active);
        self.health = Health::Good;
        Ok(())
    }

    /// Takes a durable, empty segment for the tail.
    pub(super) fn set_fresh_tail(&mut self, active: ActiveSegment) {
        let last_segment =
            LastSegment { base: active.segment.base, position: active.position, kind: SegmentKind::Active };
        self.durable = DurablePoint { end: self.log_end, last_segment: Some(last_segment), ..self.durable };
        self.tail = Tail::Open(active);
    }

    /// Makes a durable, empty segment at `base`, in place of a file that may have this name.
    pub(super) fn fresh_segment(&self, base: Offset) -> Result<ActiveSegment, StorageError> {
        let header = self.next_segment_header(base);
        let dir = &self.shared.dir;
        let file = create_segment(&*self.shared.disk, dir, self.shared.id, header)?;
        Ok(ActiveSegment::new(
            Arc::new(Segment::new(dir, base, base, HEADER_BYTES)),
            file,
            SyncedUpTo { position: HEADER_BYTES, synced_position: HEADER_BYTES },
            FileEntry::Durable,
            self.options.index_interval_bytes,
            header.age_us,
        ))
    }
}

/// Makes a segment file that holds its header, content and entry durable. It appears under its name only when it is.
pub(crate) fn create_segment(
    disk: &dyn Disk,
    dir: &std::path::Path,
    id: LogId,
    header: SegmentHeader,
) -> Result<Arc<dyn DiskFile>, StorageError> {
    let path = dir.join(file_name(header.base));
    let new_path = dir.join(format!("{}.new", file_name(header.base)));
    let io = |operation, error| StorageError::io(operation, &new_path, error);
    match disk.remove_file(&new_path) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(io("remove", error)),
    }
    let file = disk.create(&new_path).map_err(|error| io("create", error))?;
    file.write_at(0, &mut [IoSlice::new(&header.encode(id))]).map_err(|error| io("write", error))?;
    file.sync_data().map_err(|error| io("sync", error))?;
    disk.rename(&new_path, &path).map_err(|error| io("rename", error))?;
    disk.sync_dir(dir).map_err(|error| StorageError::io("sync", dir, error))?;
    Ok(file)
}
