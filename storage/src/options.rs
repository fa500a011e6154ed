//! What can be set for one log.

use std::sync::Arc;
use std::time::Duration;

use crate::CacheBudget;
use crate::retention::Limits;

/// What an acknowledged append has survived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// `fdatasync`: kill, kernel crash and power loss.
    #[default]
    Fsync,
    /// The write into the page cache: a kill, but not a power loss. The identity of a record is (epoch, offset).
    Os,
}

/// Options of a [`PartitionLog`](crate::PartitionLog). Values outside their bounds are taken as the nearest bound.
#[derive(Debug, Clone)]
pub struct LogOptions {
    /// A segment is sealed when the next group would make it larger, bytes. Default 256 MiB; 4 KiB to 1 TiB.
    pub segment_bytes: u64,
    /// Distance of the entries of the sparse index, bytes. Default 64 KiB; at least 1.
    pub index_interval_bytes: u64,
    /// Sealed segments are removed while the log is at least this large without them, bytes. Default: kept.
    pub retention_bytes: Option<u64>,
    /// Sealed segments are removed when their youngest record is older. Default: kept.
    pub retention_age: Option<Duration>,
    /// What an append waits for. Default [`Durability::Fsync`].
    pub durability: Durability,
    /// Batches kept in memory for readers at the tail, bytes. Default 4 MiB; 0 keeps none.
    pub tail_cache_bytes: u64,
    /// A bound that this log's cache shares with others. Default: none. Fixed when the log is opened.
    pub cache_budget: Option<Arc<CacheBudget>>,
    /// After this many appended bytes the durable end is noted for the next recovery, so that after a kill it scans, and
    /// writes again, about as much, bytes. A note costs one small write, no sync. Default 256 KiB; at least 4 KiB.
    pub checkpoint_bytes: u64,
    /// While groups are small, up to so many zeros are written behind them at a time, and no more than the segment holds,
    /// so that most syncs leave the file's metadata alone, bytes. Default 1 MiB; at most 16 MiB; 0 for none.
    pub zero_ahead_bytes: u64,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            segment_bytes: 256 << 20,
            index_interval_bytes: 64 << 10,
            retention_bytes: None,
            retention_age: None,
            durability: Durability::Fsync,
            tail_cache_bytes: 4 << 20,
            cache_budget: None,
            checkpoint_bytes: 256 << 10,
            zero_ahead_bytes: 1 << 20,
        }
    }
}

impl LogOptions {
    /// The same options, every value within its bounds.
    pub(crate) fn bounded(mut self) -> Self {
        self.segment_bytes = self.segment_bytes.clamp(4 << 10, 1 << 40);
        self.index_interval_bytes = self.index_interval_bytes.max(1);
        self.checkpoint_bytes = self.checkpoint_bytes.max(4 << 10);
        self.zero_ahead_bytes = self.zero_ahead_bytes.min(16 << 20);
        self
    }

    pub(crate) fn limits(&self) -> Limits {
        Limits { bytes: self.retention_bytes, age: self.retention_age }
    }
}
