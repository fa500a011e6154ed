//! The log of Aqueduct: one append-only, segmented, checksummed log per partition.
//!
//! An acknowledged append is on disk: written, synced, and its file's directory entry synced. The layers, from the
//! bottom: a disk that can be simulated ([`Disk`]); batches, the unit that is checksummed; segments, the files they lie
//! in; [`PartitionLog`], the one writer of a log, and [`LogReader`], its readers; [`DataDir`], where logs live. What
//! lies on disk is told byte by byte in FORMAT.md. Everything here blocks; nothing here knows of networks.
#![forbid(unsafe_code)]

mod age_clock;
mod batch;
mod cache;
mod commit;
mod compaction;
mod data_dir;
mod disk;
mod error;
mod log;
mod options;
mod quarantine;
mod reader;
mod recovery;
mod repair;
mod retention;
mod rewrite;
mod segment;
mod shared;
mod state;
mod sync;
mod verify;
mod wire;

pub use batch::{Batch, BatchHeader, Codec, LogId, Offset, ProducerSequence, payload_crc};
pub use cache::CacheBudget;
pub use commit::{Committer, SyncEachGroup, SyncFailed, Synced, Written};
pub use compaction::{
    Compaction, CompactionError, CompactionPolicy, Pace, Packed, RecordFormat, Rewritten, Uncompacted, Unpacked,
    Urgency, ValueKind,
};
pub use data_dir::{Cleanup, DataDir, DataDirError, TopicMeta};
pub use disk::{Access, BootTime, DirEntry, Disk, DiskFile, DiskLock, EntryKind, LockError, RealDisk};
pub use error::{AppendError, DamagedRange, OpenError, ReadError, Rejection, StorageError};
pub use log::{Installed, PartitionLog, RetentionOutcome};
pub use options::{Durability, LogOptions};
pub use reader::LogReader;
pub use recovery::{LastStop, RecoveryReport};
pub use repair::{RepairAction, RepairMode, RepairStep, Repaired, repair_dir, repair_log};
pub use shared::Window;
pub use verify::{
    Audience, Checked, Fact, Finding, Inventory, LogName, Severity, StoppedDir, TornTail, verify_dir, verify_log,
};

/// A disk in memory that loses what a real one may lose, for tests.
#[cfg(feature = "sim")]
pub mod sim {
    pub use crate::disk::sim::{Fault, Injection, OpKind, Operation, SECTOR_BYTES, SimDisk, SyncLoss};
}
