//! Putting in place what a compaction has written.
//!
//! The new file takes the name of the first segment that it stands for; the others go, each durably before the next. At
//! every moment the directory holds a log: a segment ends where the next one begins, whatever follows there in its file.

use std::path::Path;
use std::sync::Arc;

use super::roll::unlike_full;
use super::{PartitionLog, remove_segment};
use crate::StorageError;
use crate::compaction::Rewritten;
use crate::segment::{Segment, index, index_file_name};
use crate::state::Stop;

/// What has become of a segment that was written anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Installed {
    /// It is part of the log.
    InPlace {
        /// Bytes freed on disk.
        bytes_freed: u64,
        /// Records taken out.
        records_removed: u64,
    },
    /// Retention has removed what it was made of meanwhile: the compaction it is from is over.
    Overtaken,
}

impl PartitionLog {
    /// Puts a segment in place that a compaction has written. Durable when it returns. A few small operations and, for
    /// the file and each segment that goes, the sync of a directory.
    ///
    /// # Errors
    /// [`StorageError::Failed`] after a failure; the disk's. The log is whole whatever happens; if it cannot be known
    /// which file is in place, it has failed.
    pub fn install(&mut self, rewritten: Rewritten) -> Result<Installed, StorageError> {
        self.check_health()?;
        self.remove_replaced()?;
        let list = self.shared.segments();
        let is_listed = |of: &Arc<Segment>| list.iter().any(|segment| Arc::ptr_eq(segment, of));
        if !rewritten.changes.iter().all(is_listed) {
            return Ok(Installed::Overtaken);
        }
        if self.stop == Stop::Clean {
            // What is noted about the segments holds no longer.
            self.save_state(Stop::Running).map_err(|error| self.fail_unless_full(error))?;
        }
        self.retire(&rewritten)?;
        if let Err(error) = self.remove_indexes(&rewritten) {
            rewritten.changes.iter().for_each(|segment| segment.reinstate());
            return Err(self.fail_unless_full(error));
        }
        if let Err(error) = self.rename(&rewritten) {
            return Err(self.fail(unlike_full(error)));
        }
        self.publish_rewritten(&rewritten);
        let bytes_before: u64 = rewritten.replaces.iter().map(|segment| segment.bytes()).sum();
        self.replaced.extend(rewritten.replaces.iter().skip(1).cloned());
        self.remove_replaced()?;
        let path = self.shared.dir.join(index_file_name(rewritten.offsets.start));
        // Not evidence, and built again if it cannot be written.
        drop(index::save(&*self.shared.disk, &path, self.shared.id, rewritten.offsets.clone(), &rewritten.entries));
        let bytes_freed = bytes_before.saturating_sub(rewritten.bytes);
        Ok(Installed::InPlace { bytes_freed, records_removed: rewritten.records_removed })
    }

    /// Readers keep the files they have.
    fn retire(&self, rewritten: &Rewritten) -> Result<(), StorageError> {
        let open = |segment: &Arc<Segment>| segment.open(&*self.shared.disk);
        let files = rewritten.changes.iter().map(open).collect::<Result<Vec<_>, _>>()?;
        rewritten.changes.iter().zip(files).for_each(|(segment, file)| segment.retire(file));
        Ok(())
    }

    /// No index of what was is left to be taken for one of what will be.
    fn remove_indexes(&self, rewritten: &Rewritten) -> Result<(), StorageError> {
        let disk = &*self.shared.disk;
        for segment in &rewritten.changes {
            let path = self.shared.dir.join(index_file_name(segment.base));
            match disk.remove_file(&path) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(StorageError::io("remove", &path, error)),
            }
        }
        self.sync_dir()
    }

    fn rename(&self, rewritten: &Rewritten) -> Result<(), StorageError> {
        let (from, to): (&Path, &Path) = (&rewritten.new_file.path, &rewritten.path);
        self.shared.disk.rename(from, to).map_err(|error| StorageError::io("rename", from, error))?;
        self.sync_dir()
    }

    fn publish_rewritten(&self, rewritten: &Rewritten) {
        let is_replaced =
            |segment: &Arc<Segment>| rewritten.replaces.iter().any(|replaced| Arc::ptr_eq(replaced, segment));
        let base = rewritten.offsets.start;
        let mut list: Vec<Arc<Segment>> =
            self.shared.segments().iter().filter(|segment| !is_replaced(segment)).cloned().collect();
        let at = list.partition_point(|segment| segment.base < base);
        list.insert(at, Arc::new(Segment::sealed(&self.shared.dir, base, rewritten.bytes)));
        self.shared.publish_segments(list);
        self.shared.cache.forget_below(rewritten.offsets.end);
        rewritten.changes.iter().for_each(|segment| self.shared.forget_index(segment.base));
    }

    /// Removes segments that another file stands for, the lowest first and each durably: without one in the middle, the
    /// one before it would end before the next begins.
    fn remove_replaced(&mut self) -> Result<(), StorageError> {
        while let Some(segment) = self.replaced.first() {
            remove_segment(&*self.shared.disk, segment)?;
            if let Err(error) = self.sync_dir() {
                return Err(self.fail(unlike_full(error)));
            }
            self.replaced.remove(0);
        }
        Ok(())
    }

    fn sync_dir(&self) -> Result<(), StorageError> {
        let dir = &self.shared.dir;
        self.shared.disk.sync_dir(dir).map_err(|error| StorageError::io("sync", dir, error))
    }

    fn fail_unless_full(&mut self, error: StorageError) -> StorageError {
        match error {
            error @ StorageError::Full { .. } => error,
            error => self.fail(error),
        }
    }
}
