//! One log against itself: state, segments, the links between them, indexes.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use super::finding::{Fact, Finding, TornTail};
use super::index::IndexCheck;
use super::{Audience, Checked};
use crate::batch::BatchHeader;
use crate::disk::{Access, DiskFile};
use crate::recovery::chain::{Order, names_as_previous, read_trailer};
use crate::recovery::{Listed, Place};
use crate::segment::format::{BLOCK_BYTES, BlockFault, HEADER_BYTES, SegmentHeader, TRAILER_BYTES, Trailer};
use crate::segment::survey::{Damage, Extent, Piece, Survey};
use crate::segment::{file_name, index_file_name};
use crate::{Offset, StorageError};

/// Why a segment was not looked at to its end.
pub(super) enum Halt {
    /// The audience has heard enough.
    Stopped,
    Failed(StorageError),
}

impl From<StorageError> for Halt {
    fn from(error: StorageError) -> Self {
        Self::Failed(error)
    }
}

/// A verification of one log in progress.
pub(super) struct LogCheck<'a> {
    pub(super) place: Place<'a>,
    pub(super) audience: &'a mut dyn Audience,
    pub(super) checked: Checked,
    last_append_time_us: Option<i64>,
    last_base: Option<Offset>,
}

/// A segment, opened, with what it says about itself as far as that is intact.
pub(crate) struct OpenSegment {
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) listed: Listed,
    pub(crate) header: Option<SegmentHeader>,
    pub(crate) trailer: Option<Trailer>,
}

impl OpenSegment {
    pub(crate) fn open(place: Place<'_>, listed: Listed) -> Result<Self, StorageError> {
        let path = place.dir.join(file_name(listed.base));
        let file = place.disk.open(&path, Access::Read).map_err(|error| StorageError::io("open", &path, error))?;
        let bytes = file.read_at(0, BLOCK_BYTES).map_err(|error| StorageError::io("read", &path, error))?;
        let header = match SegmentHeader::decode(&bytes, place.id) {
            Ok(header) => Some(header).filter(|header| header.base == listed.base),
            Err(BlockFault::Damaged) => None,
            Err(BlockFault::Unsupported(version)) => {
                return Err(StorageError::Unsupported { path, what: format!("segment version {version}") });
            }
        };
        let trailer = read_trailer(place, listed)?;
        Ok(Self { path, file, listed, header, trailer })
    }

    /// Its batches, up to `limit`.
    pub(crate) fn survey(&self, place: Place<'_>, limit: Offset) -> Survey {
        let epoch_min = self.header.map_or(0, |header| header.epoch);
        let extent = Extent::new(self.listed.base, limit, self.listed.bytes, self.trailer.as_ref(), epoch_min);
        Survey::new(self.file.clone(), &self.path, place.id, extent)
    }
}

/// What the batches of a segment have come to.
#[derive(Debug)]
pub(super) struct Outcome {
    /// Everything below was acknowledged.
    pub(super) proven: Offset,
    /// The end of what is intact or acknowledged.
    pub(super) end: Offset,
    pub(super) end_position: u64,
    epoch: u32,
    /// Some damage reaches to the end of the file: there is nothing behind it to go on with.
    runs_out: bool,
}

impl<'a> LogCheck<'a> {
    pub(super) fn new(place: Place<'a>, audience: &'a mut dyn Audience) -> Self {
        let checked = Checked { logs: 1, ..Checked::default() };
        Self { place, audience, checked, last_append_time_us: None, last_base: None }
    }

    pub(super) fn found(&mut self, finding: Finding) {
        self.audience.found(finding);
    }

    /// Looks at the segments `live`, which hold the log from `log_start` on; everything below `proven` was acknowledged,
    /// and what lies at `limit` and above is not to be looked at.
    ///
    /// # Errors
    /// [`Halt::Stopped`] only: a segment that cannot be read is a finding, and the others are looked at all the same.
    pub(super) fn segments(
        &mut self,
        live: &[Listed],
        log_start: Offset,
        proven: Offset,
        limit: Offset,
    ) -> Result<(), Halt> {
        self.last_base = live.last().map(|last| last.base);
        let first_base = live.first().map_or(proven, |first| first.base);
        if first_base > log_start {
            self.found(Finding::new(self.place.dir, Fact::SegmentMissing).of(log_start..first_base));
        }
        for (at, listed) in live.iter().enumerate() {
            let looked = match live.get(at + 1) {
                Some(next) => self.before_another(*listed, next.base),
                None => self.last(*listed, proven, limit),
            };
            match looked {
                Ok(()) => {}
                Err(Halt::Stopped) => return Err(Halt::Stopped),
                Err(Halt::Failed(error)) => self.unreadable(*listed, error),
            }
        }
        Ok(())
    }

    fn unreadable(&mut self, listed: Listed, error: StorageError) {
        let path = self.place.dir.join(file_name(listed.base));
        let fact = match error {
            StorageError::Unsupported { what, .. } => Fact::Unsupported(what),
            error @ (StorageError::Io { .. }
            | StorageError::Full { .. }
            | StorageError::Corrupt { .. }
            | StorageError::Failed) => Fact::Unreadable(error.to_string()),
        };
        self.found(Finding::new(path, fact));
    }

    /// A segment that ends where the next one begins.
    fn before_another(&mut self, listed: Listed, next_base: Offset) -> Result<(), Halt> {
        let segment = OpenSegment::open(self.place, listed)?;
        if segment.header.is_none() {
            self.found(Finding::new(&segment.path, Fact::SegmentHeader).at(0..HEADER_BYTES));
        }
        let end = segment.trailer.map_or(next_base, |trailer| trailer.end.min(next_base));
        let outcome = self.batches(&segment, end, end)?;
        if end < next_base {
            self.found(Finding::new(&segment.path, Fact::SegmentMissing).of(end..next_base));
        } else if outcome.end < end && !outcome.runs_out {
            let order = names_as_previous(self.place, next_base, listed.base)?;
            let fact = match (segment.trailer, order) {
                (Some(_), _) | (None, Order::Adjacent) => Fact::EndsEarly,
                (None, Order::Unknown) => Fact::SegmentMissing,
            };
            let bytes = outcome.end_position..outcome.end_position;
            self.found(Finding::new(&segment.path, fact).at(bytes).of(outcome.end..end));
        } else if segment.trailer.is_none() && !outcome.runs_out {
            self.missing_trailer(&segment, next_base, &outcome)?;
        }
        Ok(())
    }

    /// A segment is sealed before the next one is begun, unless the log had failed: then the epoch was raised.
    fn missing_trailer(&mut self, segment: &OpenSegment, next_base: Offset, outcome: &Outcome) -> Result<(), Halt> {
        let position = outcome.end_position;
        let bytes = segment
            .file
            .read_at(position, BLOCK_BYTES)
            .map_err(|error| StorageError::io("read", &segment.path, error))?;
        let bytes_end = position + bytes.len() as u64;
        let next = OpenSegment::open(self.place, Listed { base: next_base, bytes: HEADER_BYTES })?;
        let never_failed = next.header.is_some_and(|next| next.epoch == outcome.epoch);
        let fills_the_file = segment.listed.bytes == position + TRAILER_BYTES;
        let resembles_one = fills_the_file && {
            let fields = Trailer {
                epoch: outcome.epoch,
                base: segment.listed.base,
                end: next_base,
                position,
                last_append_time_us: self.last_append_time_us.unwrap_or_default(),
            };
            let whole = fields.encode(self.place.id);
            // Its epoch (and so its checksum) may be a later one than that of its batches.
            whole.iter().zip(&bytes).filter(|(expected, found)| expected == found).count() >= BLOCK_BYTES - 16
        };
        if never_failed || resembles_one {
            self.found(Finding::new(&segment.path, Fact::Trailer).at(position..bytes_end));
        }
        Ok(())
    }

    /// The last segment: what was acknowledged must be there, and what follows is a tail.
    fn last(&mut self, listed: Listed, proven: Offset, limit: Offset) -> Result<(), Halt> {
        let segment = OpenSegment::open(self.place, listed)?;
        let proven = segment.trailer.map_or(proven, |trailer| proven.max(trailer.end));
        let outcome = self.batches(&segment, proven, limit)?;
        if segment.header.is_none() && outcome.end.max(outcome.proven) > listed.base {
            self.found(Finding::new(&segment.path, Fact::SegmentHeader).at(0..HEADER_BYTES));
        }
        if outcome.end < outcome.proven {
            if !outcome.runs_out {
                let bytes = outcome.end_position..outcome.end_position;
                // What a trailer has sealed is whole if it reaches that far.
                let is_whole = segment.trailer.is_some_and(|trailer| trailer.end == outcome.end);
                let fact = if is_whole { Fact::SegmentMissing } else { Fact::EndsEarly };
                let early = Finding::new(&segment.path, fact).at(bytes);
                self.found(early.of(outcome.end..outcome.proven));
            }
        } else if segment.trailer.is_none() && limit == Offset::MAX {
            self.tail(&segment, &outcome)?;
        }
        Ok(())
    }

    fn tail(&mut self, segment: &OpenSegment, outcome: &Outcome) -> Result<(), Halt> {
        let is_nothing = segment.header.is_none() && outcome.end == segment.listed.base;
        let position = if is_nothing { 0 } else { outcome.end_position };
        let content_end = self.content_end(segment, position)?;
        let kept = outcome.proven.max(segment.listed.base)..outcome.end;
        if content_end > position {
            let fact = Fact::TornTail(TornTail { cut_bytes: content_end - position });
            let torn = Finding::new(&segment.path, fact).at(position..content_end);
            self.found(if kept.is_empty() { torn } else { torn.of(kept) });
        }
        Ok(())
    }

    /// The end of the last byte above `from` that is not zero.
    fn content_end(&mut self, segment: &OpenSegment, from: u64) -> Result<u64, Halt> {
        const PIECE_BYTES: u64 = 1 << 20;
        let (mut at, mut end) = (from, from);
        while at < segment.listed.bytes {
            let wanted = usize::try_from((segment.listed.bytes - at).min(PIECE_BYTES)).unwrap_or(0);
            let piece =
                segment.file.read_at(at, wanted).map_err(|error| StorageError::io("read", &segment.path, error))?;
            if piece.is_empty() {
                break;
            }
            self.read(piece.len() as u64)?;
            if let Some(last) = piece.iter().rposition(|byte| *byte != 0) {
                end = at + last as u64 + 1;
            }
            at += piece.len() as u64;
        }
        Ok(end)
    }

    fn read(&mut self, bytes: u64) -> Result<(), Halt> {
        self.checked.bytes += bytes;
        if self.audience.read(bytes).is_break() { Err(Halt::Stopped) } else { Ok(()) }
    }

    /// Looks at every batch. What is damaged below what later batches prove is named, as soon as they do.
    fn batches(&mut self, segment: &OpenSegment, proven: Offset, limit: Offset) -> Result<Outcome, Halt> {
        let base = segment.listed.base;
        let mut survey = segment.survey(self.place, limit);
        let mut index = self.index_of(segment, limit);
        let mut open: Vec<Damage> = Vec::new();
        let epoch = segment.header.map_or(0, |header| header.epoch);
        let mut outcome = Outcome { proven, end: base, end_position: HEADER_BYTES, epoch, runs_out: false };
        self.checked.segments += 1;
        loop {
            let mut bytes = 0;
            let piece = survey.next(&mut |read| bytes += read);
            self.read(bytes)?;
            match piece? {
                Piece::Batch { position, stored } => {
                    index.pass(position, &stored);
                    self.judge(segment, position..position + stored.stored_bytes(), &stored.header);
                    outcome.epoch = outcome.epoch.max(stored.header.epoch);
                    outcome.proven = outcome.proven.max(stored.header.durable_offset.min(stored.header.base_offset));
                }
                Piece::Damage(damage) => {
                    index.pass_damage(&damage.bytes);
                    outcome.runs_out = damage.to.is_none();
                    open.push(damage);
                }
                Piece::End => break,
            }
            let is_proven = |damage: &mut Damage| damage.to.is_some_and(|to| to <= outcome.proven);
            let proven_now: Vec<Damage> = open.extract_if(.., is_proven).collect();
            proven_now.into_iter().for_each(|damage| self.damaged(segment, damage, limit));
        }
        outcome.end = survey.expected();
        outcome.end_position = survey.position();
        for damage in open {
            if damage.from < outcome.proven {
                self.damaged(segment, damage, outcome.proven.min(limit));
            } else {
                // The first one ends the tail.
                outcome.end = damage.from;
                outcome.end_position = damage.bytes.start;
                outcome.runs_out = false;
                break;
            }
        }
        let must_end = outcome.proven.min(limit);
        if outcome.end < must_end {
            index.pass_damage(&(outcome.end_position..u64::MAX));
        }
        if let Some(finding) = index.finish(base..outcome.end.max(must_end)) {
            self.found(finding);
        }
        Ok(outcome)
    }

    /// The index of a segment. One that is not sealed has none before the log is closed, and while it is written its
    /// index lies in memory; the file may appear at any moment.
    fn index_of(&self, segment: &OpenSegment, limit: Offset) -> IndexCheck {
        let path = self.place.dir.join(index_file_name(segment.listed.base));
        let disk = &**self.place.disk;
        match (self.is_last(segment), limit == Offset::MAX) {
            (true, false) => IndexCheck::none(&path),
            (true, true) if segment.trailer.is_none() => IndexCheck::load(disk, &path, self.place.id).or_none(),
            (true | false, _) => IndexCheck::load(disk, &path, self.place.id),
        }
    }

    fn is_last(&self, segment: &OpenSegment) -> bool {
        self.last_base == Some(segment.listed.base)
    }

    fn damaged(&mut self, segment: &OpenSegment, damage: Damage, end: Offset) {
        let offsets = damage.from..damage.to.unwrap_or(end).min(end).max(damage.from);
        self.found(Finding::new(&segment.path, Fact::Batches(damage.what)).at(damage.bytes).of(offsets));
    }

    /// What must hold for a batch that is intact.
    fn judge(&mut self, segment: &OpenSegment, bytes: Range<u64>, header: &BatchHeader) {
        self.checked.batches += 1;
        self.checked.records += u64::from(header.record_count);
        let offsets = header.base_offset..header.next_offset();
        let contradiction = contradiction_in(header, self.last_append_time_us);
        self.last_append_time_us = Some(header.append_time_us);
        if let Some(what) = contradiction {
            let finding = Finding::new(&segment.path, Fact::Contradiction(what));
            self.found(finding.at(bytes.clone()).of(offsets.clone()));
        }
        if header.is_lost() {
            self.found(Finding::new(&segment.path, Fact::TakenOut).at(bytes).of(offsets));
        }
    }
}

fn contradiction_in(header: &BatchHeader, last_append_time_us: Option<i64>) -> Option<&'static str> {
    let span = header.span();
    let deltas = &header.offset_deltas;
    let is_ascending = deltas.windows(2).all(|pair| pair[0] < pair[1]);
    if last_append_time_us.is_some_and(|last| header.append_time_us < last) {
        Some("it was appended before the batch in front of it")
    } else if header.durable_offset > header.base_offset {
        Some("it proves more than what lies before it")
    } else if span < header.record_count {
        Some("it spans fewer offsets than it has records")
    } else if !deltas.is_empty() && (deltas.len() != header.record_count as usize || !is_ascending) {
        Some("its offset deltas are not those of its records")
    } else if deltas.last().is_some_and(|last| *last >= span) {
        Some("its offset deltas reach beyond its span")
    } else {
        None
    }
}
