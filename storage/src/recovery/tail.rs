//! The end of the last segment: what was acknowledged, what is a tail, and where the log goes on.
//!
//! One walk over the headers from the last known durable position finds the highest proof of durability, `proven`.
//! Batches below it were acknowledged, damage below it is reported and left. Batches above it are kept up to the first
//! damage (their payloads are read and checked), *written again* and synced, because after a failed sync or a kill they
//! may exist only in the page cache; the rest is cut. If the damage reaches from below `proven` to the end, the file
//! holds what should not be touched and the log goes on in a fresh segment.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::path::PathBuf;
use std::sync::Arc;

use super::chain::read_trailer;
use super::{Listed, Place};
use crate::batch::payload_crc;
use crate::disk::{Access, DiskFile};
use crate::segment::file_name;
use crate::segment::format::{BLOCK_BYTES, BlockFault, HEADER_BYTES, SegmentHeader, TRAILER_BYTES, Trailer, damage};
use crate::segment::scan::HeaderScan;
use crate::segment::walk::{End, Step, Walk};
use crate::state::{SegmentKind, State};
use crate::{DamagedRange, Offset, OpenError, StorageError};

/// Copied at once when a tail is written again.
const PIECE_BYTES: u64 = 1 << 20;

/// What has become of the last segment.
#[derive(Debug)]
pub(super) struct TailOutcome {
    /// Log end.
    pub(super) end: Offset,
    pub(super) ending: Ending,
    pub(super) last_append_time_us: Option<i64>,
    /// The highest epoch seen.
    pub(super) epoch: u32,
    pub(super) damage: Vec<DamagedRange>,
    pub(super) notes: Vec<String>,
    pub(super) scanned_bytes: u64,
    pub(super) rewritten_bytes: u64,
    pub(super) cut_bytes: u64,
}

/// How the log goes on after its last segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// In it, at `position`. The batches from `recent_from` on are not indexed.
    GoesOn { position: u64, recent_from: Offset },
    /// In the next one: it is sealed and has this many bytes.
    Sealed { bytes: u64 },
    /// In a fresh one at the log end: it is damaged, and left as it is.
    Superseded,
    /// In a new one of the same name: it was created, and never held anything.
    Removed,
}

impl TailOutcome {
    /// A log without segments.
    pub(super) fn empty(end: Offset) -> Self {
        Self {
            end,
            ending: Ending::Removed,
            last_append_time_us: None,
            epoch: 0,
            damage: Vec::new(),
            notes: Vec::new(),
            scanned_bytes: 0,
            rewritten_bytes: 0,
            cut_bytes: 0,
        }
    }
}

/// A batch or a damaged place that is not yet known to be acknowledged or tail.
#[derive(Debug)]
enum Open {
    Batch { position: u64, base: Offset, next: Offset, header_bytes: u32, payload_bytes: u32, crc: u32, time_us: i64 },
    Damage { position: u64, from: Offset, to: Option<Resync>, what: &'static str },
}

/// The intact batch behind damage.
#[derive(Debug, Clone, Copy)]
struct Resync {
    offset: Offset,
    position: u64,
}

/// The end of what is accepted so far.
#[derive(Debug, Clone, Copy)]
struct Reached {
    offset: Offset,
    position: u64,
    time_us: Option<i64>,
}

/// Recovers the last segment of the log in `place`.
pub(super) fn recover(place: Place<'_>, last: Listed, state: Option<&State>) -> Result<TailOutcome, OpenError> {
    let mut outcome = TailOutcome::empty(last.base);
    let proven = state.map_or(0, |state| state.durable_end);
    if let Some(trailer) = read_trailer(place, last)? {
        // A trailer is written when everything before it is durable.
        if proven > trailer.end {
            let after = place.dir.join(file_name(last.base));
            return Err(OpenError::MissingSegment { from: trailer.end, to: proven, after });
        }
        write_again(place, last, &trailer)?;
        outcome.rewritten_bytes = TRAILER_BYTES;
        outcome.end = trailer.end;
        outcome.ending = Ending::Sealed { bytes: last.bytes };
        outcome.epoch = trailer.epoch;
        outcome.last_append_time_us = trailer.append_time_us();
        return Ok(outcome);
    }
    TailRecovery::new(place, last, proven, outcome)?.run(state)
}

/// Makes the trailer of the last segment durable, which a kill may have left in the page cache alone: the log goes on in
/// the next segment, and nobody would write it again. What lies before it was durable when it was written.
fn write_again(place: Place<'_>, last: Listed, trailer: &Trailer) -> Result<(), StorageError> {
    let path = place.dir.join(file_name(last.base));
    let io = |operation, error| StorageError::io(operation, &path, error);
    let file = place.disk.open(&path, Access::ReadWrite).map_err(|error| io("open", error))?;
    let bytes = trailer.encode(place.id);
    file.write_at(trailer.position, &mut [IoSlice::new(&bytes)]).map_err(|error| io("write", error))?;
    file.sync_data().map_err(|error| io("sync", error))
}

struct TailRecovery {
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    id: crate::LogId,
    last: Listed,
    /// Everything below was acknowledged.
    proven: Offset,
    reached: Reached,
    open: VecDeque<Open>,
    outcome: TailOutcome,
}

impl TailRecovery {
    fn new(place: Place<'_>, last: Listed, proven: Offset, outcome: TailOutcome) -> Result<Self, StorageError> {
        let path = place.dir.join(file_name(last.base));
        let file = place.disk.open(&path, Access::ReadWrite).map_err(|error| StorageError::io("open", &path, error))?;
        let reached = Reached { offset: last.base, position: HEADER_BYTES, time_us: None };
        Ok(Self { file, path, id: place.id, last, proven, reached, open: VecDeque::new(), outcome })
    }

    fn run(mut self, state: Option<&State>) -> Result<TailOutcome, OpenError> {
        let header = self.read_header()?;
        self.outcome.epoch = header.map_or(0, |header| header.epoch);
        self.start_at_checkpoint(state);
        let recent_from = self.reached.offset;
        self.walk()?;
        let tail_position = self.settle_open()?;
        let Reached { offset, position, time_us } = self.reached;
        self.outcome.last_append_time_us = time_us;
        self.outcome.end = offset.max(self.proven);
        if offset < self.proven {
            // What was acknowledged ends in damage: nothing in this file is cut.
            self.outcome.ending = Ending::Superseded;
            return Ok(self.outcome);
        }
        if header.is_none() && offset == self.last.base {
            // Created by the group whose sync never finished.
            self.outcome.cut_bytes = self.last.bytes;
            self.outcome.ending = Ending::Removed;
            return Ok(self.outcome);
        }
        self.rewrite(tail_position, position)?;
        self.outcome.ending = match header {
            Some(_) => Ending::GoesOn { position, recent_from },
            None => {
                self.outcome.notes.push(format!("the header of {} is damaged", self.path.display()));
                Ending::Superseded
            }
        };
        Ok(self.outcome)
    }

    fn read_header(&self) -> Result<Option<SegmentHeader>, StorageError> {
        let bytes = self.file.read_at(0, BLOCK_BYTES).map_err(|error| StorageError::io("read", &self.path, error))?;
        match SegmentHeader::decode(&bytes, self.id) {
            Ok(header) => Ok(Some(header).filter(|header| header.base == self.last.base)),
            Err(BlockFault::Damaged) => Ok(None),
            Err(BlockFault::Unsupported(version)) => {
                let what = format!("segment version {version}");
                Err(StorageError::Unsupported { path: self.path.clone(), what })
            }
        }
    }

    /// What lies before the last checkpoint is known to have been intact and need not be scanned.
    fn start_at_checkpoint(&mut self, state: Option<&State>) {
        let Some((state, left)) = state.and_then(|state| Some((state, state.last_segment?))) else { return };
        let is_in_file = left.base == self.last.base && left.position <= self.last.bytes;
        if is_in_file && left.kind == SegmentKind::Active {
            let time_us = state.last_append_time_us;
            self.reached = Reached { offset: state.durable_end, position: left.position, time_us };
        }
    }

    /// Walks to the end of the file. What turns out to be acknowledged is accepted at once, so that only the tail and
    /// what follows damage is held in memory.
    fn walk(&mut self) -> Result<(), StorageError> {
        let scan = HeaderScan::new(self.file.clone(), &self.path, self.id, self.reached.position, self.last.bytes);
        let mut walk = Walk::new(scan, self.reached.offset, Offset::MAX, self.outcome.epoch);
        loop {
            match walk.step()? {
                Step::Batch { position, stored } => {
                    let header = &stored.header;
                    self.proven = self.proven.max(header.durable_offset);
                    self.outcome.epoch = self.outcome.epoch.max(header.epoch);
                    self.open.push_back(Open::Batch {
                        position,
                        base: header.base_offset,
                        next: header.next_offset(),
                        header_bytes: stored.header_bytes,
                        payload_bytes: stored.payload_bytes,
                        crc: header.payload_crc,
                        time_us: header.append_time_us,
                    });
                }
                Step::Damage { position, from, to, what } => {
                    let to = to.map(|offset| Resync { offset, position: walk.position() });
                    self.open.push_back(Open::Damage { position, from, to, what });
                }
                Step::End(End::Limit | End::File | End::Trailer(_)) => break,
            }
            self.accept_proven();
        }
        self.outcome.scanned_bytes = walk.bytes_read();
        Ok(())
    }

    /// Accepts, from the front, what lies below `proven`: intact batches, and damage up to an intact batch.
    fn accept_proven(&mut self) {
        while let Some(front) = self.open.front() {
            match *front {
                Open::Batch { position, next, header_bytes, payload_bytes, time_us, .. } if next <= self.proven => {
                    let position = position + u64::from(header_bytes) + u64::from(payload_bytes);
                    self.reached = Reached { offset: next, position, time_us: Some(time_us) };
                }
                Open::Damage { position, from, to: Some(to), what } if to.offset <= self.proven => {
                    self.outcome.damage.push(damage(from..to.offset, &self.path, position, what));
                    self.reached.offset = to.offset;
                    self.reached.position = to.position;
                }
                Open::Batch { .. } | Open::Damage { .. } => return,
            }
            self.open.pop_front();
        }
    }

    /// Decides what the walk left open: the tail up to its first damage is accepted. Gives the position where the tail
    /// begins.
    fn settle_open(&mut self) -> Result<u64, StorageError> {
        self.accept_proven();
        let tail_position = self.reached.position;
        while let Some(front) = self.open.pop_front() {
            match front {
                Open::Batch { position, next, header_bytes, payload_bytes, crc, time_us, base } => {
                    let payload_at = position + u64::from(header_bytes);
                    let payload = self
                        .file
                        .read_at(payload_at, payload_bytes as usize)
                        .map_err(|error| StorageError::io("read", &self.path, error))?;
                    self.outcome.scanned_bytes += u64::from(payload_bytes);
                    if base != self.reached.offset || payload_crc(&payload) != crc {
                        break;
                    }
                    let position = payload_at + u64::from(payload_bytes);
                    self.reached = Reached { offset: next, position, time_us: Some(time_us) };
                }
                Open::Damage { position, from, what, .. } => {
                    if from < self.proven {
                        self.outcome.damage.push(damage(from..self.proven, &self.path, position, what));
                    }
                    return Ok(tail_position);
                }
            }
        }
        let Reached { offset, position, .. } = self.reached;
        if offset < self.proven {
            let what = "the file ends early";
            self.outcome.damage.push(damage(offset..self.proven, &self.path, position, what));
        }
        Ok(tail_position)
    }

    /// The end of the last byte above `from` that is not zero: zeros are nothing that could be lost.
    fn content_end(&self, from: u64) -> Result<u64, StorageError> {
        let (mut at, mut end) = (from, from);
        while at < self.last.bytes {
            let bytes = usize::try_from((self.last.bytes - at).min(PIECE_BYTES)).unwrap_or(0);
            let piece = self.file.read_at(at, bytes).map_err(|error| StorageError::io("read", &self.path, error))?;
            if piece.is_empty() {
                break;
            }
            if let Some(last) = piece.iter().rposition(|byte| *byte != 0) {
                end = at + last as u64 + 1;
            }
            at += piece.len() as u64;
        }
        Ok(end)
    }

    /// Writes the bytes from `from` to `to` once more, cuts what follows, and makes that durable.
    fn rewrite(&mut self, from: u64, to: u64) -> Result<(), StorageError> {
        if from == to && to == self.last.bytes {
            return Ok(()); // proven to the last byte
        }
        let mut at = from;
        while at < to {
            let bytes = usize::try_from((to - at).min(PIECE_BYTES)).unwrap_or(0);
            let piece = self.file.read_at(at, bytes).map_err(|error| StorageError::io("read", &self.path, error))?;
            if piece.is_empty() {
                break;
            }
            self.file
                .write_at(at, &mut [IoSlice::new(&piece)])
                .map_err(|error| StorageError::io("write", &self.path, error))?;
            at += piece.len() as u64;
        }
        self.outcome.rewritten_bytes = to - from;
        self.outcome.cut_bytes = self.content_end(to)? - to;
        if self.last.bytes > to {
            self.file.truncate(to).map_err(|error| StorageError::io("truncate", &self.path, error))?;
        }
        self.file.sync_data().map_err(|error| StorageError::io("sync", &self.path, error))
    }
}
