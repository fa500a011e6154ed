//! What can go wrong, one enum per operation.
//!
//! Variants carry facts that a caller can act on; everything that it cannot is a [`StorageError`].

use std::io;
use std::path::{Path, PathBuf};

use crate::Offset;

/// A failure of the disk or of what lies on it.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The operating system refused an operation.
    #[error("{operation} {}: {source}", path.display())]
    Io {
        /// The operation, as a verb: `open`, `sync`.
        operation: &'static str,
        /// What it was done to.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// There is no room on the disk; nothing was changed.
    #[error("no space left to write {}", path.display())]
    Full {
        /// The file that could not grow.
        path: PathBuf,
    },
    /// Stored bytes are not what was written.
    #[error("{} is damaged at byte {position}: {what}", path.display())]
    Corrupt {
        /// The damaged file.
        path: PathBuf,
        /// Byte position of the damage in the file.
        position: u64,
        /// What does not hold.
        what: String,
    },
    /// Written by a newer version, or with a mandatory extension that this one does not know.
    #[error("{} cannot be read by this version: {what}", path.display())]
    Unsupported {
        /// The file in the unknown format.
        path: PathBuf,
        /// What is unknown.
        what: String,
    },
    /// An earlier write or sync failed: the log refuses writes until
    /// [`recover_from_failure`](crate::PartitionLog::recover_from_failure).
    #[error("the log has failed and was not recovered yet")]
    Failed,
}

impl StorageError {
    /// An error of the system during `operation` on `path`; a full disk becomes [`StorageError::Full`].
    pub(crate) fn io(operation: &'static str, path: &Path, source: io::Error) -> Self {
        if is_disk_full(&source) {
            return Self::Full { path: path.to_owned() };
        }
        Self::Io { operation, path: path.to_owned(), source }
    }

    /// Whether this says that a file or directory is not there.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// Whether `error` says that the disk, or the quota on it, is used up.
pub(crate) fn is_disk_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Why a group of batches was not acknowledged.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The group breaks a rule of the log. Nothing was written; the log goes on.
    #[error("append rejected: {0}")]
    Rejected(#[from] Rejection),
    /// The disk is full. Nothing was written; the log goes on, and later appends succeed once there is room.
    #[error("append refused: the disk is full")]
    Full,
    /// The log had failed before this append. Nothing was written.
    #[error("append refused: the log has failed and was not recovered yet")]
    Failed,
    /// The write or the sync failed: the group may or may not survive. The log has failed from here on.
    #[error("the outcome of the append is unknown: {0}")]
    OutcomeUnknown(#[source] StorageError),
}

/// The rule of the log that a group broke.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// A batch does not begin where the one before it ended.
    #[error("base offset {found} where {expected} was expected")]
    OffsetMismatch {
        /// The log end, or the end of the batch before.
        expected: Offset,
        /// The base offset of the batch.
        found: Offset,
    },
    /// The append time is before that of the batch before it.
    #[error("append time {found_us} is before {last_us}")]
    TimeWentBack {
        /// Append time of the batch before, µs since the epoch.
        last_us: i64,
        /// Append time of the batch, µs since the epoch.
        found_us: i64,
    },
    /// The batch was stamped under another epoch.
    #[error("epoch {found}, the log is at {current}")]
    WrongEpoch {
        /// Epoch of the log.
        current: u32,
        /// Epoch of the batch.
        found: u32,
    },
    /// A batch is larger than the format can hold.
    #[error("{bytes} bytes, of which at most {bytes_max} can be stored")]
    TooLarge {
        /// Size of the part that is too large.
        bytes: u64,
        /// Bound of that part.
        bytes_max: u64,
    },
    /// The header contradicts itself.
    #[error("malformed batch: {what}")]
    Malformed {
        /// What does not hold.
        what: &'static str,
    },
}

/// A part of the log whose bytes are damaged; records outside it are unaffected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("offsets [{from}, {to}) are damaged in {} at byte {position}: {what}", segment.display())]
pub struct DamagedRange {
    /// First offset that cannot be read.
    pub from: Offset,
    /// First offset after the damage.
    pub to: Offset,
    /// The segment file.
    pub segment: PathBuf,
    /// Byte position in that file where the damage begins.
    pub position: u64,
    /// What does not hold.
    pub what: String,
}

/// Why a read returned nothing.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The offset was removed already, or is not durable yet.
    #[error("offset {requested} is outside [{log_start}, {high_watermark}]")]
    OffsetOutOfRange {
        /// The offset asked for.
        requested: Offset,
        /// First readable offset.
        log_start: Offset,
        /// First offset that readers may not see.
        high_watermark: Offset,
    },
    /// The record at the offset is damaged; reading goes on at [`DamagedRange::to`].
    #[error(transparent)]
    Corrupt(#[from] DamagedRange),
    /// The records at the offset were damaged, and a repair has taken them out; reading goes on at `to`.
    #[error("offsets [{from}, {to}) are lost: they were damaged, and were taken out by a repair")]
    Lost {
        /// First offset that is lost.
        from: Offset,
        /// First offset after those.
        to: Offset,
    },
    /// Anything else.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// Why a log could not be created or opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is no log in the directory, nor any trace of one.
    #[error("there is no log in {}", dir.display())]
    Missing {
        /// The directory.
        dir: PathBuf,
    },
    /// There is a log in the directory already.
    #[error("there is a log in {} already", dir.display())]
    AlreadyExists {
        /// The directory.
        dir: PathBuf,
    },
    /// The directory holds another log than the one asked for.
    #[error("the directory holds log {found}, not {expected}")]
    WrongLog {
        /// The log asked for.
        expected: crate::LogId,
        /// The log found.
        found: crate::LogId,
    },
    /// A segment in the middle of the log is gone. Nothing was changed.
    #[error("offsets [{from}, {to}) are missing after {}", after.display())]
    MissingSegment {
        /// First missing offset.
        from: Offset,
        /// First offset that is there again.
        to: Offset,
        /// The last segment before the gap, or the directory if it is the first that is missing.
        after: PathBuf,
    },
    /// Written by a newer version. Nothing was changed.
    #[error("{} cannot be read by this version: {what}", path.display())]
    Unsupported {
        /// The file in the unknown format.
        path: PathBuf,
        /// What is unknown.
        what: String,
    },
    /// Anything else.
    #[error(transparent)]
    Storage(StorageError),
}

impl From<StorageError> for OpenError {
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::Unsupported { path, what } => Self::Unsupported { path, what },
            error @ (StorageError::Io { .. }
            | StorageError::Full { .. }
            | StorageError::Corrupt { .. }
            | StorageError::Failed) => Self::Storage(error),
        }
    }
}
