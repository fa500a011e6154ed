//! Making a written group durable, apart from writing it.
//!
//! The writer of a log produces [`Written`]; a [`Committer`] turns it into [`Synced`], on whatever thread and together
//! with whatever else it likes; only then does the log publish it. A journal shared by many logs would be another
//! committer.

use std::path::PathBuf;
use std::sync::Arc;

use crate::disk::{Disk, DiskFile};
use crate::{Batch, Offset, StorageError};

/// A group that is written and not yet durable. Nothing of it is visible.
#[derive(Debug)]
#[must_use = "a written group is acknowledged only after it was committed and published"]
pub struct Written {
    pub(crate) batches: Vec<Batch>,
    /// Log end with this group.
    pub(crate) end: Offset,
    /// Position in the file after this group.
    pub(crate) position: u64,
    /// Base offset of the segment it lies in.
    pub(crate) segment: Offset,
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) path: PathBuf,
    pub(crate) entry: FileEntry,
}

/// Whether the directory entry of the written file is durable.
#[derive(Debug, Clone)]
pub(crate) enum FileEntry {
    Durable,
    /// The file is new: its directory must be synced before anything in it is acknowledged.
    New(Arc<dyn Disk>, PathBuf),
}

impl Written {
    /// Waits until the group is durable: one `fdatasync`, and in a new segment one sync of its directory.
    ///
    /// # Errors
    /// [`SyncFailed`]: nothing is known about the group any more, and it must not be synced again.
    pub fn sync(self) -> Result<Synced, SyncFailed> {
        self.file.sync_data().map_err(|error| SyncFailed(StorageError::io("sync", &self.path, error)))?;
        if let FileEntry::New(disk, dir) = &self.entry {
            disk.sync_dir(dir).map_err(|error| SyncFailed(StorageError::io("sync", dir, error)))?;
        }
        Ok(Synced { written: self, reach: Reach::Disk })
    }

    /// Takes the page cache for durable, as `Durability::Os` promises no more.
    pub(crate) fn in_page_cache(self) -> Synced {
        Synced { written: self, reach: Reach::PageCache }
    }
}

/// A group that is as durable as it will be, and may be published.
#[derive(Debug)]
#[must_use = "a synced group becomes visible only when it is published"]
pub struct Synced {
    pub(crate) written: Written,
    pub(crate) reach: Reach,
}

/// How far a group has got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    PageCache,
    Disk,
}

/// A sync that failed: the group may or may not survive.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct SyncFailed(#[from] pub StorageError);

/// Makes written groups durable.
pub trait Committer: Send + Sync {
    /// Waits until `written` is durable.
    ///
    /// # Errors
    /// [`SyncFailed`]: the outcome is unknown, and the log must be told so by
    /// [`publish`](crate::PartitionLog::publish).
    fn commit(&self, written: Written) -> Result<Synced, SyncFailed>;
}

/// The committer of a log on its own: one sync for each group.
#[derive(Debug, Clone, Copy, Default)]
pub struct SyncEachGroup;

impl Committer for SyncEachGroup {
    fn commit(&self, written: Written) -> Result<Synced, SyncFailed> {
        written.sync()
    }
}
