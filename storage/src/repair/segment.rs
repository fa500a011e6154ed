//! Writing a segment anew, with empty batches in place of what is lost.

use std::io::IoSlice;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::plan::{Before, SegmentPlan};
use crate::batch::BatchHeader;
use crate::batch::encoding;
use crate::disk::DiskFile;
use crate::recovery::{Listed, Place, list_segments};
use crate::rewrite::{create_anew, new_path, put_in_place};
use crate::segment::format::{HEADER_BYTES, TRAILER_BYTES, Trailer};
use crate::segment::index::{self, IndexEntry, IndexSampler};
use crate::segment::index_file_name;
use crate::segment::survey::{Damage, Piece};
use crate::verify::log::OpenSegment;
use crate::{LogOptions, Offset, StorageError};

/// Bytes copied at once.
const PIECE_BYTES: u64 = 1 << 20;

/// Writes the segment of `plan` anew, sealed, and makes it durable in place of the old one; then its index. Gives its
/// length.
pub(super) fn rewrite(place: Place<'_>, plan: &SegmentPlan) -> Result<u64, StorageError> {
    let source = OpenSegment::open(place, plan.listed)?;
    let path = &plan.path;
    let new_path = new_path(path);
    let mut copy = Copy {
        place,
        source: &source,
        file: create_anew(&**place.disk, &new_path)?,
        new_path: &new_path,
        position: 0,
        before: Before { epoch: plan.header.epoch.max(plan.before.epoch), ..plan.before },
        sampler: IndexSampler::new(LogOptions::default().index_interval_bytes),
        entries: Vec::new(),
    };
    copy.write(&plan.header.encode(place.id))?;
    copy.batches(plan)?;
    let trailer = Trailer {
        epoch: source.trailer.map_or(copy.before.epoch, |trailer| trailer.epoch),
        base: plan.listed.base,
        end: plan.end,
        position: copy.position,
        last_append_time_us: copy.before.append_time_us.unwrap_or_default(),
    };
    copy.write(&trailer.encode(place.id))?;
    let index_path = place.dir.join(index_file_name(plan.listed.base));
    // An old index would name places that are others now. It is not believed, but it would be found out.
    match place.disk.remove_file(&index_path) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(StorageError::io("remove", &index_path, error)),
    }
    put_in_place(&**place.disk, &*copy.file, &new_path, path)?;
    index::save(&**place.disk, &index_path, place.id, plan.listed.base..plan.end, &copy.entries)?;
    Ok(trailer.position + TRAILER_BYTES)
}

struct Copy<'a> {
    place: Place<'a>,
    source: &'a OpenSegment,
    file: Arc<dyn DiskFile>,
    new_path: &'a Path,
    position: u64,
    before: Before,
    sampler: IndexSampler,
    entries: Vec<IndexEntry>,
}

impl Copy<'_> {
    fn batches(&mut self, plan: &SegmentPlan) -> Result<(), StorageError> {
        let mut survey = self.source.survey(self.place, plan.end);
        let mut reached = plan.listed.base;
        loop {
            match survey.next(&mut |_| {})? {
                Piece::Batch { position, stored } => {
                    self.index(&stored.header);
                    self.copy(position..position + stored.stored_bytes())?;
                    self.before.pass(&stored.header);
                    reached = stored.header.next_offset();
                }
                Piece::Damage(Damage { from, to, .. }) => {
                    reached = to.unwrap_or(plan.end).min(plan.end);
                    self.lose(from..reached)?;
                }
                Piece::End => break,
            }
        }
        self.lose(reached..plan.end)
    }

    /// An empty batch for the offsets; as many as it takes to span them.
    fn lose(&mut self, offsets: Range<Offset>) -> Result<(), StorageError> {
        let mut from = offsets.start;
        while from < offsets.end {
            let span = u32::try_from(offsets.end - from).unwrap_or(u32::MAX);
            let append_time_us = self.before.append_time_us.unwrap_or_default();
            let header = BatchHeader {
                base_offset: from,
                offset_span: span,
                payload_crc: crate::payload_crc(&[]),
                append_time_us,
                max_timestamp_us: append_time_us,
                attributes: BatchHeader::LOST,
                epoch: self.before.epoch,
                ..BatchHeader::default()
            };
            self.index(&header);
            let mut bytes = Vec::new();
            // They were acknowledged, so whatever lies before them was.
            encoding::encode(&header, from, 0, self.place.id, &mut bytes);
            self.write(&bytes)?;
            from = header.next_offset();
        }
        Ok(())
    }

    fn index(&mut self, header: &BatchHeader) {
        if self.sampler.takes(self.position) {
            let (offset, append_time_us) = (header.base_offset, header.append_time_us);
            self.entries.push(IndexEntry { offset, position: self.position, append_time_us });
        }
    }

    fn copy(&mut self, bytes: Range<u64>) -> Result<(), StorageError> {
        let mut at = bytes.start;
        while at < bytes.end {
            let wanted = usize::try_from((bytes.end - at).min(PIECE_BYTES)).unwrap_or(0);
            let piece = self
                .source
                .file
                .read_at(at, wanted)
                .map_err(|error| StorageError::io("read", &self.source.path, error))?;
            if piece.is_empty() {
                let what = "it was cut while it was read".to_owned();
                return Err(StorageError::Corrupt { path: self.source.path.clone(), position: at, what });
            }
            at += piece.len() as u64;
            self.write(&piece)?;
        }
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), StorageError> {
        self.file
            .write_at(self.position, &mut [IoSlice::new(bytes)])
            .map_err(|error| StorageError::io("write", self.new_path, error))?;
        self.position += bytes.len() as u64;
        Ok(())
    }
}

/// Makes the index at `path`, of the segment at `base`, again; that of a segment which is not sealed comes with the next
/// start.
pub(super) fn make_index(place: Place<'_>, base: Offset, path: &Path) -> Result<(), StorageError> {
    match place.disk.remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(StorageError::io("remove", path, error)),
    }
    let listed: Vec<Listed> = list_segments(place).map_err(super::opening)?;
    let Some(segment) = listed.iter().find(|segment| segment.base == base) else { return Ok(()) };
    let segment = OpenSegment::open(place, *segment)?;
    let next = listed.iter().map(|segment| segment.base).find(|next| *next > base);
    let Some(end) = next.or(segment.trailer.map(|trailer| trailer.end)) else { return Ok(()) };
    let mut survey = segment.survey(place, end);
    let mut sampler = IndexSampler::new(LogOptions::default().index_interval_bytes);
    let mut entries = Vec::new();
    loop {
        match survey.next(&mut |_| {})? {
            Piece::Batch { position, stored } if sampler.takes(position) => entries.push(IndexEntry {
                offset: stored.header.base_offset,
                position,
                append_time_us: stored.header.append_time_us,
            }),
            Piece::Batch { .. } | Piece::Damage(_) => {}
            Piece::End => break,
        }
    }
    debug_assert!(entries.iter().all(|entry| entry.position >= HEADER_BYTES));
    index::save(&**place.disk, path, place.id, base..end, &entries)
}
