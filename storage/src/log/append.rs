//! Appending: check, write, sync, publish.
//!
//! One group is one vectored write and one sync. Nothing of it is visible before it is published, and it is published
//! only when it is as durable as the log promises; whoever is told of an append can read it.

use std::io::IoSlice;

use super::active::{ActiveSegment, Length, Tail};
use super::{Health, PartitionLog};
use crate::batch::encoding::{self, HEADER_BYTES_MAX};
use crate::commit::{Committer, Reach, SyncEachGroup, SyncFailed, Synced, Written};
use crate::error::is_disk_full;
use crate::options::Durability;
use crate::segment::index::IndexEntry;
use crate::state::{LastSegment, SegmentKind, Stop};
use crate::{AppendError, Batch, Offset, Rejection, StorageError};

impl PartitionLog {
    /// Appends `group` in order: one vectored write, one sync, and then readers see it. The caller has stamped base
    /// offsets (contiguous from [`log_end`](Self::log_end)), append times and the epoch, and has verified the payload
    /// checksums; the log stamps `durable_offset`.
    ///
    /// # Errors
    /// [`AppendError`], for the group as a whole: rejected, full and failed mean that nothing was written.
    pub fn append_group(&mut self, group: &[Batch]) -> Result<(), AppendError> {
        self.append_group_with(&SyncEachGroup, group)
    }

    /// As [`append_group`](Self::append_group), made durable by `committer`.
    ///
    /// # Errors
    /// As [`append_group`](Self::append_group).
    pub fn append_group_with(&mut self, committer: &dyn Committer, group: &[Batch]) -> Result<(), AppendError> {
        let written = self.write_group(group)?;
        let outcome = match self.options.durability {
            Durability::Fsync => committer.commit(written),
            Durability::Os => Ok(written.in_page_cache()),
        };
        self.publish(outcome)
    }

    /// The first half of an append: the group is in the page cache, and nobody sees it. Groups that were written must be
    /// published in order, or not at all.
    ///
    /// # Errors
    /// As [`append_group`](Self::append_group).
    pub fn write_group(&mut self, group: &[Batch]) -> Result<Written, AppendError> {
        if self.health == Health::Failed {
            return Err(AppendError::Failed);
        }
        self.check_group(group)?;
        if self.stop == Stop::Clean {
            // From now on an open must look at the data.
            self.save_state(Stop::Running).map_err(|error| self.not_written(error))?;
        }
        self.make_room(group.iter().map(Batch::stored_bytes).sum()).map_err(|error| self.not_written(error))?;
        self.write_to_tail(group).map_err(|error| self.not_written(error))
    }

    /// The second half of an append: moves the high watermark over the group, or, if its sync has failed, fences the
    /// log.
    ///
    /// # Errors
    /// [`AppendError::OutcomeUnknown`].
    pub fn publish(&mut self, outcome: Result<Synced, SyncFailed>) -> Result<(), AppendError> {
        let Synced { written, reach } =
            outcome.map_err(|SyncFailed(error)| AppendError::OutcomeUnknown(self.fail(error)))?;
        if self.health == Health::Failed {
            // An earlier group has failed: this one lies above the place where the log will go on.
            return Err(AppendError::OutcomeUnknown(StorageError::Failed));
        }
        let last_append_time_us = written.batches.last().map(|batch| batch.header.append_time_us);
        if reach == Reach::Disk && written.end > self.durable.end {
            let kind = SegmentKind::Active;
            self.durable.end = written.end;
            self.durable.last_segment = Some(LastSegment { base: written.segment, position: written.position, kind });
            self.durable.last_append_time_us = last_append_time_us;
        }
        if let Tail::Open(active) = &mut self.tail
            && active.segment.base == written.segment
        {
            active.segment.publish_bytes(written.position);
            if reach == Reach::Disk {
                active.synced_position = active.synced_position.max(written.position);
                active.length = Length::AsSynced;
                active.entry = crate::commit::FileEntry::Durable;
            }
        }
        let mut window = self.shared.window();
        window.high_watermark = written.end;
        self.unsaved_bytes += written.batches.iter().map(Batch::stored_bytes).sum::<u64>();
        self.shared.cache.push(written.batches.into_iter(), self.options.tail_cache_bytes);
        self.shared.publish_window(window);
        if self.unsaved_bytes >= self.options.checkpoint_bytes {
            self.note_durable_end();
        }
        Ok(())
    }

    /// Notes for the next recovery where it may begin to scan. The group is durable whatever becomes of the note: a disk
    /// that refuses it fails the log from the next append on.
    fn note_durable_end(&mut self) {
        self.unsaved_bytes = 0;
        let state = self.state(self.stop);
        if let Err(error) = self.state_file.write_hint(&state) {
            drop(self.fail(error));
        }
    }

    fn check_group(&self, group: &[Batch]) -> Result<(), Rejection> {
        if group.is_empty() {
            return Err(Rejection::Malformed { what: "no batches" });
        }
        let mut expected = self.log_end;
        let mut last_us = self.last_append_time_us;
        for Batch { header, payload } in group {
            if header.base_offset != expected {
                return Err(Rejection::OffsetMismatch { expected, found: header.base_offset });
            }
            if header.epoch != self.epoch {
                return Err(Rejection::WrongEpoch { current: self.epoch, found: header.epoch });
            }
            let found_us = header.append_time_us;
            if let Some(last_us) = last_us.filter(|last_us| found_us < *last_us) {
                return Err(Rejection::TimeWentBack { last_us, found_us });
            }
            check_sizes(encoding::header_bytes(header) as u64, payload.len() as u64)?;
            if header.span() == 0 {
                return Err(Rejection::Malformed { what: "a batch without offsets" });
            }
            if header.base_offset.checked_add(u64::from(header.span())).is_none() {
                return Err(Rejection::Malformed { what: "offsets used up" });
            }
            expected = header.next_offset();
            last_us = Some(found_us);
        }
        Ok(())
    }

    /// Nothing of the group was written if the disk was merely full; after anything else that is not known.
    fn not_written(&mut self, error: StorageError) -> AppendError {
        match error {
            StorageError::Full { .. } => AppendError::Full,
            error @ (StorageError::Io { .. }
            | StorageError::Corrupt { .. }
            | StorageError::Unsupported { .. }
            | StorageError::Failed) => AppendError::OutcomeUnknown(self.fail(error)),
        }
    }

    fn write_to_tail(&mut self, group: &[Batch]) -> Result<Written, StorageError> {
        let (segment_header, mut active) = self.take_active()?;
        let position = active.position;
        let begin = position + segment_header.as_ref().map_or(0, |header| header.len() as u64);
        let encoded = Encoded::new(group, self.durable.end, self.shared.id);
        if let Err(error) = encoded.write(&active, segment_header.as_ref().map(<[u8; 64]>::as_slice)) {
            return Err(self.undo_write(active, is_new(segment_header.as_ref()), error));
        }
        let mut at = begin;
        for (batch, header) in group.iter().zip(&encoded.headers) {
            let Batch { header: of, payload } = batch;
            active.index(IndexEntry { offset: of.base_offset, position: at, append_time_us: of.append_time_us });
            at += (header.len() + payload.len()) as u64;
        }
        active.position = at;
        if self.options.durability == Durability::Fsync {
            active.zero_ahead(at - position, &self.options)?;
        }
        if segment_header.is_some() {
            self.list_segment(active.segment.clone());
        }
        let end = group.last().map_or(self.log_end, |batch| batch.header.next_offset());
        let stamped = |batch: &Batch| {
            let mut batch = batch.clone();
            batch.header.durable_offset = self.durable.end;
            batch
        };
        let written = Written {
            batches: group.iter().map(stamped).collect(),
            end,
            position: at,
            segment: active.segment.base,
            file: active.file.clone(),
            path: active.segment.path.clone(),
            entry: active.entry.clone(),
        };
        self.tail = Tail::Open(active);
        self.log_end = end;
        self.last_append_time_us = group.last().map(|batch| batch.header.append_time_us);
        self.last_append_age_us = self.age.at_latest_us(self.shared.disk.boot_time());
        Ok(written)
    }

    /// After a failed write: if the disk was full, cuts what was written of the group, so that the log can go on. That is
    /// durable when it returns: a group that was refused must not come back after a power loss.
    fn undo_write(&mut self, mut active: ActiveSegment, file: FileAge, error: std::io::Error) -> StorageError {
        let path = active.segment.path.clone();
        let (disk_full, error) = (is_disk_full(&error), StorageError::io("write", &path, error));
        if !disk_full {
            return error;
        }
        let undone = match file {
            FileAge::New => {
                self.shared.disk.remove_file(&path).and_then(|()| self.shared.disk.sync_dir(&self.shared.dir))
            }
            FileAge::Old => active.cut().and_then(|()| active.file.sync_data()),
        };
        if let (FileAge::Old, Ok(())) = (file, &undone) {
            self.tail = Tail::Open(active);
        }
        match undone {
            Err(error) => StorageError::Io { operation: "cut", path, source: error },
            Ok(()) => error,
        }
    }
}

/// Whether a file was created by the append that failed.
#[derive(Debug, Clone, Copy)]
enum FileAge {
    New,
    Old,
}

fn is_new(segment_header: Option<&[u8; 64]>) -> FileAge {
    if segment_header.is_some() { FileAge::New } else { FileAge::Old }
}

fn check_sizes(header_bytes: u64, payload_bytes: u64) -> Result<(), Rejection> {
    for (bytes, bytes_max) in [(header_bytes, HEADER_BYTES_MAX as u64), (payload_bytes, u64::from(u32::MAX))] {
        if bytes > bytes_max {
            return Err(Rejection::TooLarge { bytes, bytes_max });
        }
    }
    Ok(())
}

/// A group as it goes to the disk: headers encoded into one buffer, payloads where they are.
struct Encoded<'a> {
    group: &'a [Batch],
    headers: Vec<std::ops::Range<usize>>,
    buffer: Vec<u8>,
}

impl<'a> Encoded<'a> {
    fn new(group: &'a [Batch], durable_offset: Offset, id: crate::LogId) -> Self {
        let bytes = group.iter().map(|batch| encoding::header_bytes(&batch.header)).sum();
        let mut buffer = Vec::with_capacity(bytes);
        let mut headers = Vec::with_capacity(group.len());
        for Batch { header, payload } in group {
            let start = buffer.len();
            // The length was checked to fit.
            let payload_bytes = u32::try_from(payload.len()).unwrap_or(u32::MAX);
            encoding::encode(header, durable_offset, payload_bytes, id, &mut buffer);
            headers.push(start..buffer.len());
        }
        Self { group, headers, buffer }
    }

    fn write(&self, active: &ActiveSegment, segment_header: Option<&[u8]>) -> std::io::Result<()> {
        let mut slices = Vec::with_capacity(2 * self.group.len() + 1);
        slices.extend(segment_header.map(IoSlice::new));
        for (batch, header) in self.group.iter().zip(&self.headers) {
            slices.push(IoSlice::new(&self.buffer[header.clone()]));
            slices.push(IoSlice::new(&batch.payload));
        }
        active.file.write_at(active.position, &mut slices)
    }
}
