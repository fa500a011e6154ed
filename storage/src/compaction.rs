//! Key compaction: of each key the latest record stays, and no offset changes.
//!
//! A [`Compaction`] is one pass over the sealed segments of a log. It reads what was not compacted yet into a table of
//! keys ([`keys`]), and then writes the segments from the first one on anew ([`rewrite`]), one group of neighbours at a
//! time, each into one file beside the log. It runs beside the writer, who takes a few moments to put each finished file
//! in place ([`PartitionLog::install`](crate::PartitionLog::install)).
//!
//! What a crash leaves is a log at every step: see FORMAT.md, "Compaction". Groups are installed in order, so that what is
//! older than a tombstone is gone, durably, before the tombstone can go.

mod keys;
mod plan;
mod rewrite;
mod source;

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::segment::Segment;
use crate::shared::Shared;
use crate::{Batch, Codec, LogReader, Offset, ReadError, StorageError};
use keys::{Horizon, Keys};
pub use plan::Urgency;
use plan::{Group, Sealed};
pub use rewrite::Rewritten;
use source::Source;

/// Batches of a producer that was silent for this long are no longer needed to recognise what it sends again.
const PRODUCER_RETENTION: Duration = Duration::from_secs(7 * 24 * 3600);
/// Batches younger than this are kept, empty if need be, whoever sent them: a producer may send them again.
const RETRY_WINDOW: Duration = Duration::from_secs(15 * 60);

/// What compaction may take out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompactionPolicy {
    /// The wall clock, µs since the epoch.
    pub now_us: i64,
    /// A tombstone stays for this long after it was appended.
    pub tombstone_retention: Duration,
    /// A segment with a record younger than this is left alone, and so is what follows it.
    pub min_lag: Duration,
    /// An active segment whose first record is older than this is sealed first, if that makes enough to do: see
    /// [`LogReader::is_roll_due`].
    pub active_age_max: Duration,
    /// Keys held in memory at once, about 32 bytes each. With more of them than this, one pass does a part of the log.
    pub keys_max: usize,
    /// When there is enough to do.
    pub urgency: Urgency,
}

impl CompactionPolicy {
    /// Keys that are held in memory unless told otherwise: 64 MiB.
    pub const KEYS_MAX: usize = 2 << 20;

    /// Append times below this are more than `age` ago.
    fn before_us(&self, age: Duration) -> i64 {
        self.now_us.saturating_sub(i64::try_from(age.as_micros()).unwrap_or(i64::MAX))
    }
}

/// One record of a batch, as far as compaction looks at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpacked {
    /// `None`: it has no key, and stays.
    pub key: Option<Bytes>,
    /// Whether it has a value or says that its key is gone.
    pub value: ValueKind,
    /// The record as it lies in the unpacked payload, with whatever frames it there.
    pub encoded: Bytes,
}

/// See [`Unpacked`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueKind {
    /// There is one, empty or not.
    Present,
    /// A tombstone.
    Absent,
}

/// How records lie in a payload, which the log itself does not know.
pub trait RecordFormat: Send + Sync {
    /// The records of `batch` in order, unpacked; `None` if they cannot be told apart: then it stays as it is.
    fn unpack(&self, batch: &Batch) -> Option<Vec<Unpacked>>;

    /// A payload of `records`, packed with `codec`, or not at all if that makes it no smaller; `None` if that fails: then
    /// the batch stays as it is.
    fn pack(&self, codec: Codec, records: &[Unpacked]) -> Option<Packed>;
}

/// A payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed {
    /// How it is compressed.
    pub codec: Codec,
    /// Its bytes.
    pub payload: Bytes,
}

/// Why a compaction ended before it was through. What it has installed stays.
#[derive(Debug, thiserror::Error)]
pub enum CompactionError {
    /// A segment is damaged; nothing of it, nor of what follows, was touched.
    #[error(transparent)]
    Damaged(#[from] crate::DamagedRange),
    /// It was told to stop.
    #[error("stopped")]
    Stopped,
    /// The disk refused.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// Told of the bytes read and written, as they are; may wait, to pace the work, and may end it.
pub type Pace<'a> = &'a mut dyn FnMut(u64) -> ControlFlow<()>;

/// One pass over a log; see the module.
pub struct Compaction {
    shared: Arc<Shared>,
    policy: CompactionPolicy,
    keys: Keys,
    steps: VecDeque<Step>,
    segment_bytes: u64,
}

/// What comes next.
#[derive(Debug)]
enum Step {
    /// The part of a segment behind this offset becomes a segment of its own: there are too many keys for all of it.
    Split {
        segment: Arc<Segment>,
        at: Offset,
        end: Offset,
    },
    Group(Group),
}

impl std::fmt::Debug for Compaction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compaction").field("dir", &self.shared.dir).field("steps", &self.steps).finish_non_exhaustive()
    }
}

impl LogReader {
    /// Begins a compaction, if there is enough to do: reads what was not compacted yet. `segment_bytes` bounds the size
    /// to which small segments are merged. Only one at a time may run for a log. Blocks for as long as it takes to read
    /// everything that is new.
    ///
    /// # Errors
    /// [`CompactionError`]; nothing was changed.
    pub fn compact(
        &self,
        policy: CompactionPolicy,
        segment_bytes: u64,
        records: &dyn RecordFormat,
        pace: Pace<'_>,
    ) -> Result<Option<Compaction>, CompactionError> {
        let shared = self.shared_arc();
        let sealed = plan::sealed(&shared)?;
        let Some(range) = plan::range(&sealed, policy.before_us(policy.min_lag), policy.urgency) else {
            return Ok(None);
        };
        let mut compaction =
            Compaction { shared, keys: Keys::new(policy.keys_max), policy, steps: VecDeque::new(), segment_bytes };
        let reached = compaction.learn(&sealed[..range], records, pace)?;
        compaction.steps = compaction.steps(&sealed[..range], reached);
        Ok(Some(compaction))
    }

    /// Whether the active segment, which is never compacted, is to be [sealed](crate::PartitionLog::roll) before a
    /// compaction: a quiet log may never fill it, and what is superseded there would stay. It stays while there is not enough
    /// to do with that segment, either: that bounds the room it takes. Two small reads for each sealed segment, and one more.
    ///
    /// # Errors
    /// [`CompactionError`].
    pub fn is_roll_due(&self, policy: &CompactionPolicy) -> Result<bool, CompactionError> {
        let end = self.window().high_watermark;
        let Some(segment) = self.shared().segments().last().filter(|last| last.base < end).cloned() else {
            return Ok(false);
        };
        let first_us = match self.append_time_at(segment.base.max(self.window().log_start)) {
            Ok(time_us) => time_us,
            // Retention or a repair has just taken it.
            Err(ReadError::OffsetOutOfRange { .. } | ReadError::Lost { .. }) => None,
            Err(ReadError::Corrupt(damage)) => return Err(damage.into()),
            Err(ReadError::Storage(error)) => return Err(error.into()),
        };
        if first_us.is_none_or(|first_us| first_us > policy.before_us(policy.active_age_max)) {
            return Ok(false);
        }
        let mut sealed = plan::sealed(self.shared())?;
        let bytes = segment.bytes();
        sealed.push(Sealed { segment, end, bytes, is_compacted: false, last_append_time_us: None });
        // However young its last record is: a segment that is sealed grows old enough, one that is written does not.
        Ok(plan::range(&sealed, i64::MAX, policy.urgency) == Some(sealed.len()))
    }

    /// Bytes of sealed segments that were never compacted, and of all sealed segments. Two small reads for each.
    ///
    /// # Errors
    /// A damaged header; the disk's.
    pub fn uncompacted_bytes(&self) -> Result<Uncompacted, ReadError> {
        let sealed = plan::sealed(self.shared()).map_err(|error| match error {
            CompactionError::Damaged(damage) => ReadError::Corrupt(damage),
            CompactionError::Storage(error) => ReadError::Storage(error),
            CompactionError::Stopped => ReadError::Storage(StorageError::Failed),
        })?;
        let bytes = |sealed: &[Sealed]| sealed.iter().map(|sealed| sealed.bytes).sum::<u64>();
        let new: Vec<Sealed> = sealed.iter().filter(|sealed| !sealed.is_compacted).cloned().collect();
        Ok(Uncompacted { new_bytes: bytes(&new), sealed_bytes: bytes(&sealed) })
    }
}

/// How much of a log there is to compact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Uncompacted {
    /// Bytes of sealed segments that were never compacted.
    pub new_bytes: u64,
    /// Bytes of all sealed segments.
    pub sealed_bytes: u64,
}

impl Compaction {
    /// Reads the keys of what was not compacted, and the producers of everything. Gives the offset up to which there was
    /// room for the keys.
    fn learn(
        &mut self,
        sealed: &[Sealed],
        records: &dyn RecordFormat,
        pace: Pace<'_>,
    ) -> Result<Offset, CompactionError> {
        let mut reached = sealed.first().map_or(0, |first| first.base());
        for Sealed { segment, end, is_compacted, .. } in sealed {
            let mut source = Source::open(&self.shared, segment, segment.base..*end)?;
            if *is_compacted {
                while let Some(stored) = source.next_header(pace)? {
                    self.keys.learn_producer(&stored.header);
                }
                reached = *end;
                continue;
            }
            while let Some(found) = source.next(pace)? {
                if self.keys.is_full() {
                    return Ok(reached);
                }
                reached = found.batch.header.next_offset();
                self.keys.learn(&found.batch, records);
            }
        }
        Ok(reached)
    }

    /// Whole segments as far as the keys were read; the first that is new is split if not even that one fits.
    fn steps(&self, sealed: &[Sealed], reached: Offset) -> VecDeque<Step> {
        let mut steps = VecDeque::new();
        let mut whole: Vec<Sealed> = sealed.iter().filter(|sealed| sealed.end <= reached).cloned().collect();
        let has_new = whole.iter().any(|sealed| !sealed.is_compacted);
        if !has_new && let Some(first_new) = sealed.iter().find(|sealed| !sealed.is_compacted) {
            let split = Step::Split { segment: first_new.segment.clone(), at: reached, end: first_new.end };
            steps.push_back(split);
            whole.push(Sealed { end: reached, ..first_new.clone() });
        }
        steps.extend(plan::groups(&whole, self.segment_bytes).into_iter().map(Step::Group));
        steps
    }

    /// Writes the next file, durable under another name; `None` at the end. It must be
    /// [installed](crate::PartitionLog::install) before the next call, or the compaction dropped. Blocks for as long as
    /// it takes to read and write it.
    ///
    /// # Errors
    /// [`CompactionError`]: this file was not made.
    pub fn next(&mut self, records: &dyn RecordFormat, pace: Pace<'_>) -> Result<Option<Rewritten>, CompactionError> {
        while let Some(step) = self.steps.pop_front() {
            let horizon = Horizon {
                tombstones_before_us: self.policy.before_us(self.policy.tombstone_retention),
                producers_before_us: self.policy.before_us(PRODUCER_RETENTION),
                retries_before_us: self.policy.before_us(RETRY_WINDOW),
            };
            let rewritten = match step {
                Step::Split { segment, at, end } => Some(rewrite::split(&self.shared, &segment, at..end, pace)?),
                Step::Group(group) => rewrite::group(&self.shared, &group, &self.keys, &horizon, records, pace)?,
            };
            if let Some(rewritten) = rewritten {
                return Ok(Some(rewritten));
            }
        }
        Ok(None)
    }
}
