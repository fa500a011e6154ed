//! The engine seam: the only way in which the broker reaches partitions and metadata.
//!
//! Nothing above it knows about files; nothing below it knows about gRPC. Every implementation passes the suite in
//! `conformance.rs`. Three things shape the traits because they cannot be added later: an append whose outcome is
//! *unknown*, a lease whose epoch fences every older owner, and a durability that differs between engines.

use std::{ops::Range, sync::Arc, time::Duration};

use aqueduct_storage::{Batch, BatchHeader, CompactionPolicy, Durability, Offset, Severity, TopicMeta, Window};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, watch};

#[cfg(test)]
mod conformance;
pub(crate) mod embedded;

/// The right to append, granted by [`PartitionLog::acquire`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lease {
    /// Fences every lease with a smaller one.
    pub epoch: u32,
    /// The log end when the lease was granted: the first offset to append at.
    pub tail: Offset,
    /// Append time of the last batch that the log has ever held: later ones must not be earlier.
    pub last_append_time_us: Option<i64>,
}

/// Why an append was not acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AppendError {
    /// The batches break a rule of the engine. Nothing was written.
    #[error("the engine refused the batch: {0}")]
    Rejected(String),
    /// A newer lease exists. Nothing was written.
    #[error("another owner holds the partition since epoch {epoch}")]
    Fenced {
        /// Of the lease in force.
        epoch: u32,
    },
    /// The log takes nothing: it has failed and waits to be acquired again, or is closed. Nothing was written.
    #[error("the log takes no writes: {0}")]
    Closed(&'static str),
    /// `expected_offset` is not the log end, because an earlier append of the pipeline failed. Nothing was written.
    #[error("the log ends at {tail}")]
    TailMoved {
        /// The log end.
        tail: Offset,
    },
    /// There is no room for it. Nothing was written; the log goes on as soon as there is.
    #[error("the disk is full")]
    Full,
    /// It may have been written, and it may not. The lease is over: acquire again.
    #[error("the outcome of a write is unknown: {0}")]
    Unknown(String),
}

/// Why a read failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The offset is not in the log.
    #[error("offset {requested} is outside [{}, {}]", window.log_start, window.high_watermark)]
    OutOfRange {
        /// What was asked for.
        requested: Offset,
        /// What there is.
        window: Window,
    },
    /// The bytes of these offsets fail their checksum.
    #[error("offsets {from} to {to} (exclusive) are damaged: {what}")]
    Damaged {
        /// First damaged offset.
        from: Offset,
        /// First offset after the damage.
        to: Offset,
        /// File, position and kind of damage.
        what: String,
    },
    /// The records of these offsets were damaged, and a repair has taken them out.
    #[error("offsets {from} to {to} (exclusive) are lost: they were damaged, and were taken out by a repair")]
    Lost {
        /// First lost offset.
        from: Offset,
        /// First offset after those.
        to: Offset,
    },
    /// The engine could not read.
    #[error("{0}")]
    Failed(String),
}

/// An operation on the engine failed; what and why, for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct EngineError(pub String);

/// The state of one partition's log, for `Describe`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PartitionStats {
    /// Stored bytes.
    pub size_bytes: u64,
    /// Files.
    pub segments: u32,
    /// Of the last lease.
    pub epoch: u32,
}

/// What keeps retention by bytes from removing a record: it removes what lies together, the oldest first, and only what is
/// not written to any more.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Shelter {
    /// Stored bytes that the log would still have without the record and what lies with it. It goes once these are as many
    /// as are to be kept.
    pub bytes_after: u64,
    /// At least so many stored bytes have to come before they begin to lie after it.
    pub bytes_until_sealed: u64,
}

/// What a verification tells while it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum VerifyEvent {
    /// Something that is not as it was written, or worth a note.
    Found(Flaw),
    /// So many more bytes were read.
    Read(u64),
}

/// What a verification has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Flaw {
    /// Whether it is damage.
    pub severity: Severity,
    /// One word for programs.
    pub kind: &'static str,
    /// Where the engine keeps it.
    pub file: String,
    /// Byte positions in there.
    pub bytes: Option<Range<u64>>,
    /// Offsets that are concerned.
    pub offsets: Option<Range<Offset>>,
    /// For people.
    pub message: String,
}

/// What a verification has looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Verified {
    /// Files.
    pub segments: u64,
    /// Intact ones.
    pub batches: u64,
    /// In those.
    pub records: u64,
    /// From the disk.
    pub bytes: u64,
}

/// What a compaction has come to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Compacted {
    /// Records taken out.
    pub records_removed: u64,
    /// Bytes freed.
    pub bytes_freed: u64,
}

/// Bounds that the engine sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EngineLimits {
    /// The largest payload of one batch, in bytes.
    pub batch_bytes_max: usize,
    /// Batches of one append call.
    pub append_batches_max: usize,
}

/// One partition's log.
///
/// An append takes its place in the order when the method is called, not when the future is first polled, so that the
/// owner pipelines by calling again before the first answer is there.
pub(crate) trait PartitionLog: Send + Sync + 'static {
    /// Takes the partition over: fences every older epoch, and after an unknown outcome cuts what was not acknowledged.
    fn acquire(&self) -> BoxFuture<'static, Result<Lease, EngineError>>;

    /// Appends `batches`, stamped by the owner with contiguous offsets from `expected_offset`, the lease's epoch and
    /// append times that never go back. Resolves once they have the engine's [`durability`](Self::durability) and are
    /// inside the window of [`watch`](Self::watch).
    fn append(
        &self,
        lease: Lease,
        expected_offset: Offset,
        batches: Vec<Batch>,
    ) -> BoxFuture<'static, Result<(), AppendError>>;

    /// After [`AppendError::Unknown`] and a new lease: whether the batch that was sent for `offset` is in the log.
    #[allow(
        dead_code,
        reason = "the embedded engine's new lease cuts what was unknown; other engines may have kept it"
    )]
    fn resolve_unknown(
        &self,
        lease: Lease,
        offset: Offset,
        payload_crc: u32,
    ) -> BoxFuture<'static, Result<Option<Offset>, EngineError>>;

    /// Batches from the one that holds `from`, up to about `bytes_max` but at least one; empty at the high watermark.
    fn read(&self, from: Offset, bytes_max: usize) -> BoxFuture<'static, Result<Vec<Batch>, ReadError>>;

    /// As [`read`](Self::read), if that takes no waiting at all; `None` if it would.
    fn read_now(&self, from: Offset, bytes_max: usize) -> Option<Result<Vec<Batch>, ReadError>>;

    /// Headers of about `count_max` batches from the one that holds `from`; empty at the high watermark.
    fn headers(&self, from: Offset, count_max: usize) -> BoxFuture<'static, Result<Vec<BatchHeader>, ReadError>>;

    /// The readable window. Changes are notified; nobody polls.
    fn watch(&self) -> watch::Receiver<Window>;

    /// The first offset appended at or after `time_us`; `None` if there is none yet.
    fn offset_for_time(&self, time_us: i64) -> BoxFuture<'static, Result<Option<Offset>, ReadError>>;

    /// When the batch that holds `offset` was appended; `None` at the high watermark.
    fn append_time_at(&self, offset: Offset) -> BoxFuture<'static, Result<Option<i64>, ReadError>>;

    /// Stored bytes of `[from, to)`, to the granularity of the engine's index.
    fn bytes_between(&self, from: Offset, to: Offset) -> BoxFuture<'static, Result<u64, ReadError>>;

    /// What keeps retention by bytes from removing `offset`. Without I/O.
    fn shelter(&self, offset: Offset) -> Shelter;

    /// Moves the log start to `before`, or as near below it as the engine can, and returns where it is now.
    fn trim(&self, before: Offset) -> BoxFuture<'static, Result<Offset, EngineError>>;

    /// Applies the retention of the topic as of `now_us`.
    fn enforce_retention(&self, now_us: i64) -> BoxFuture<'static, Result<(), EngineError>>;

    /// Takes out records that a later one of the same key stands for, if there are enough of them; the newest part of the
    /// log, unless it is older than the policy allows, stays as it is. Offsets do not change. Runs beside appends and reads,
    /// and paces itself.
    fn compact(&self, policy: CompactionPolicy) -> BoxFuture<'static, Result<Compacted, EngineError>>;

    /// The small opaque state that the owner saved last.
    fn load_checkpoint(&self) -> BoxFuture<'static, Result<Option<Bytes>, EngineError>>;

    /// Saves a small opaque state of the owner, atomically and durably.
    fn save_checkpoint(&self, state: Bytes) -> BoxFuture<'static, Result<(), EngineError>>;

    /// Reads everything below the high watermark of now, without holding appends up, and sends what it finds. Ends early
    /// when nobody listens any more.
    fn verify(&self, events: mpsc::Sender<VerifyEvent>) -> BoxFuture<'static, Result<Verified, EngineError>>;

    /// Size and shape, without I/O.
    fn stats(&self) -> PartitionStats;

    /// What an acknowledged append has.
    fn durability(&self) -> Durability;

    /// Bounds on what can be appended.
    fn limits(&self) -> EngineLimits;

    /// Finishes what was queued and marks a clean stop. Later appends are fenced.
    fn close(&self) -> BoxFuture<'static, Result<(), EngineError>>;
}

/// A topic as the engine keeps it: its metadata and its partitions' logs, in order.
pub(crate) struct TopicLogs {
    /// Name, identity and configuration.
    pub meta: TopicMeta,
    /// One per partition; the error says why a partition cannot be opened.
    pub partitions: Vec<Result<Arc<dyn PartitionLog>, EngineError>>,
}

/// Topics, and small named states of the broker.
pub(crate) trait MetaStore: Send + Sync + 'static {
    /// Opens everything that is stored, in order of topic names.
    fn open_topics(&self) -> BoxFuture<'static, Result<Vec<TopicLogs>, EngineError>>;

    /// Creates a topic: all of it or nothing, also across a crash.
    fn create_topic(&self, meta: TopicMeta) -> BoxFuture<'static, Result<TopicLogs, EngineError>>;

    /// Stores new settings and, if `meta.partitions` has grown, creates the additional partitions, which it returns.
    fn update_topic(&self, meta: TopicMeta) -> BoxFuture<'static, Result<Vec<Arc<dyn PartitionLog>>, EngineError>>;

    /// Removes a topic and its events. Its logs must have been closed.
    fn delete_topic(&self, meta: TopicMeta) -> BoxFuture<'static, Result<(), EngineError>>;

    /// Opens, or makes, a log of the broker's own, outside the topics.
    fn system_log(&self, name: &'static str) -> BoxFuture<'static, Result<Arc<dyn PartitionLog>, EngineError>>;

    /// A small state saved by name.
    fn load(&self, name: &'static str) -> BoxFuture<'static, Result<Option<Bytes>, EngineError>>;

    /// Saves a small state by name, atomically and durably.
    fn save(&self, name: &'static str, state: Bytes) -> BoxFuture<'static, Result<(), EngineError>>;

    /// What the engine calls itself in `Admin.Info`.
    fn name(&self) -> &'static str;

    /// Stops the engine. Every log must have been closed.
    fn close(&self, deadline: Duration) -> BoxFuture<'static, Result<(), EngineError>>;
}
