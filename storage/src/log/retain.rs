//! Removing the oldest part of a log: the watermark first, durably, and then the files.

use std::sync::Arc;

use super::PartitionLog;
use super::active::Tail;
use crate::commit::FileEntry;
use crate::retention::{self, Limits, SealedSegment};
use crate::segment::{Segment, index_file_name};
use crate::state::State;
use crate::{Offset, StorageError};

/// The age clock is written at least each time it has advanced by this much, µs: one hour.
const AGE_SAVE_INTERVAL_US: u64 = 3_600_000_000;

/// What retention has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetentionOutcome {
    /// First readable offset, now.
    pub log_start: Offset,
    /// Number of segments removed.
    pub segments_removed: usize,
    /// Bytes freed on disk.
    pub bytes_removed: u64,
}

impl PartitionLog {
    /// Removes what the options do not keep: whole sealed segments. An active segment that is older than anything may be
    /// is sealed. `now_us` is the wall clock, µs since the epoch; it alone makes nothing older: see FORMAT.md, "Age".
    /// Without anything to do it costs a few comparisons and, by age, one small read for each segment.
    ///
    /// # Errors
    /// [`StorageError::Failed`] after a failure; the disk's.
    pub fn enforce_retention(&mut self, now_us: i64) -> Result<RetentionOutcome, StorageError> {
        self.check_health()?;
        self.age.tick(self.shared.disk.boot_time(), now_us);
        let limits = self.options.limits();
        if let Some(age_max) = limits.age {
            if self.age.age_us - self.saved_age_us >= AGE_SAVE_INTERVAL_US {
                let state = self.state(self.stop);
                self.state_file.write_hint(&state).map_err(|error| self.fail(error))?;
                self.saved_age_us = self.age.age_us;
            }
            let age_max_us = u64::try_from(age_max.as_micros()).unwrap_or(u64::MAX);
            self.seal_if_older(age_max_us)?;
        }
        self.remove_beyond(limits)
    }

    /// Removes the segments that are too many by their bytes, which takes no clock. Without any it costs a few comparisons.
    ///
    /// # Errors
    /// [`StorageError::Failed`] after a failure; the disk's.
    pub fn enforce_retention_bytes(&mut self) -> Result<RetentionOutcome, StorageError> {
        self.check_health()?;
        self.remove_beyond(Limits { age: None, ..self.options.limits() })
    }

    fn remove_beyond(&mut self, limits: Limits) -> Result<RetentionOutcome, StorageError> {
        if limits.bytes.is_none() && limits.age.is_none() {
            return Ok(self.nothing_removed());
        }
        let sealed = self.sealed_segments(limits)?;
        let active_bytes = self.shared.segments().last().map_or(0, |segment| segment.bytes());
        match retention::new_log_start(&sealed, active_bytes, limits, self.age.age_us) {
            Some(log_start) => self.remove_below(log_start),
            None => Ok(self.nothing_removed()),
        }
    }

    /// Removes the records below `before`, clamped to the high watermark, from view, and from the disk by whole
    /// segments. Durable when it returns. Gives the first readable offset.
    ///
    /// # Errors
    /// [`StorageError::Failed`] after a failure; the disk's.
    pub fn trim(&mut self, before: Offset) -> Result<Offset, StorageError> {
        self.check_health()?;
        let window = self.shared.window();
        let before = before.min(window.high_watermark);
        if before <= window.log_start {
            return Ok(window.log_start);
        }
        let is_last_empty = self.shared.segments().last().is_none_or(|segment| segment.base == self.log_end);
        if before == self.log_end && !is_last_empty {
            self.begin_empty_segment()?;
        }
        self.remove_below(before).map(|outcome| outcome.log_start)
    }

    /// Seals the active segment if its first record may be older than `age_max_us`, and begins an empty one if even its
    /// last may be: an idle log expires as well.
    fn seal_if_older(&mut self, age_max_us: u64) -> Result<(), StorageError> {
        let Some(last) = self.shared.segments().last().cloned() else { return Ok(()) };
        if last.base == self.log_end {
            return Ok(());
        }
        let begun_age_us = match &self.tail {
            Tail::Open(active) => Some(active.begun_age_us),
            Tail::Unopened { segment, .. } => self.segment_age_us(segment)?,
            Tail::Sealed => self.segment_age_us(&last)?,
        };
        let is_older = |age_us: u64| self.age.age_us.saturating_sub(age_us) > age_max_us;
        if is_older(self.last_append_age_us) {
            self.begin_empty_segment()
        } else if begun_age_us.is_some_and(is_older) && !matches!(self.tail, Tail::Sealed) {
            self.seal()
        } else {
            Ok(())
        }
    }

    /// Seals the active segment and begins the next one with nothing in it, so that the last segment, which names the
    /// log end, can be removed.
    pub(super) fn begin_empty_segment(&mut self) -> Result<(), StorageError> {
        if !matches!(self.tail, Tail::Sealed) {
            self.seal()?;
        }
        let active = self.fresh_segment(self.log_end).map_err(|error| match error {
            error @ StorageError::Full { .. } => error,
            error => self.fail(error),
        })?;
        self.list_segment(active.segment.clone());
        self.set_fresh_tail(active);
        Ok(())
    }

    /// All segments but the last, whose file name is the proof of where the log ends.
    fn sealed_segments(&self, limits: Limits) -> Result<Vec<SealedSegment>, StorageError> {
        let list = self.shared.segments();
        let is_aged = limits.age.is_some();
        let view = |pair: &[Arc<Segment>]| {
            let [segment, next] = pair else { return Ok(None) };
            let appended_by_us = if is_aged { self.segment_age_us(next)? } else { None };
            let (end, bytes) = (next.base, segment.bytes());
            // A header that cannot be read must not expire anything.
            Ok(Some(SealedSegment { end, bytes, appended_by_us: appended_by_us.unwrap_or(u64::MAX) }))
        };
        list.windows(2).map(view).filter_map(Result::transpose).collect()
    }

    fn remove_below(&mut self, log_start: Offset) -> Result<RetentionOutcome, StorageError> {
        let is_last_new = matches!(&self.tail, Tail::Open(active) if matches!(active.entry, FileEntry::New(..)));
        if log_start > self.durable.end || is_last_new {
            // A log start that outlives the records before it would have their offsets used again, and removals that
            // outlive the creation of the last segment would leave none.
            self.sync_tail()?;
        }
        let state = State { log_start, ..self.state(crate::state::Stop::Running) };
        self.write_state(&state).map_err(|error| match error {
            error @ StorageError::Full { .. } => error,
            error => self.fail(error),
        })?;
        let mut window = self.shared.window();
        window.log_start = log_start;
        self.shared.publish_window(window);
        let list = self.shared.segments();
        let surplus = list.windows(2).take_while(|pair| pair[1].base <= log_start).count();
        let (removed, kept) = list.split_at(surplus);
        self.shared.publish_segments(kept.to_vec());
        let mut outcome = RetentionOutcome { log_start, segments_removed: 0, bytes_removed: 0 };
        for segment in removed {
            remove_segment(&*self.shared.disk, segment)?;
            self.shared.forget_index(segment.base);
            outcome.segments_removed += 1;
            outcome.bytes_removed += segment.bytes();
        }
        Ok(outcome)
    }

    fn nothing_removed(&self) -> RetentionOutcome {
        RetentionOutcome { log_start: self.shared.window().log_start, segments_removed: 0, bytes_removed: 0 }
    }
}

/// Unlinks a segment and its index. What a crash leaves of them is removed at the next open.
pub(crate) fn remove_segment(disk: &dyn crate::disk::Disk, segment: &Segment) -> Result<(), StorageError> {
    for path in [segment.path.with_file_name(index_file_name(segment.base)), segment.path.clone()] {
        match disk.remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(StorageError::io("remove", &path, error)),
        }
    }
    Ok(())
}
