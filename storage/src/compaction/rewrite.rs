//! Writing segments anew, beside the log, without the records that are to go.
//!
//! Every batch that keeps a record keeps its offsets, time, epoch and producer. Where none is left, an empty batch spans the
//! offsets, one for as many neighbours as possible, but never across the end of a segment as it was: a crash may leave
//! the next one in its place, and then this one is read only up to there.

use std::io::IoSlice;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use super::keys::{self, Emptied, Horizon, Keys};
use super::plan::Group;
use super::source::{Found, Source, tell};
use super::{CompactionError, Pace, Packed, RecordFormat, Unpacked};
use crate::batch::encoding::{self, HEADER_BYTES_MAX};
use crate::disk::{Disk, DiskFile};
use crate::rewrite::{create_anew, new_path};
use crate::segment::format::{SegmentHeader, TRAILER_BYTES, Trailer};
use crate::segment::index::{IndexEntry, IndexSampler};
use crate::segment::{Segment, file_name};
use crate::shared::Shared;
use crate::{Batch, BatchHeader, LogId, LogOptions, Offset, StorageError, payload_crc};

/// Written at once.
const PIECE_BYTES: usize = 1 << 20;

/// A segment that was written anew, durable under another name. Dropped, it is removed.
#[derive(Debug)]
pub struct Rewritten {
    pub(crate) new_file: NewFile,
    /// Where it goes.
    pub(crate) path: PathBuf,
    pub(crate) offsets: Range<Offset>,
    pub(crate) bytes: u64,
    pub(crate) entries: Vec<IndexEntry>,
    /// What it takes the place of, in order; nothing if it goes between two segments.
    pub(crate) replaces: Vec<Arc<Segment>>,
    /// Segments that change by it, those among them that it takes the place of.
    pub(crate) changes: Vec<Arc<Segment>>,
    /// Records taken out.
    pub(crate) records_removed: u64,
}

/// A file that was not renamed into place yet.
#[derive(Debug)]
pub(crate) struct NewFile {
    disk: Arc<dyn Disk>,
    pub(crate) path: PathBuf,
}

impl Drop for NewFile {
    fn drop(&mut self) {
        // After the rename there is none of that name; what cannot be removed now is removed by the next start.
        drop(self.disk.remove_file(&self.path));
    }
}

/// The records of `group` that stay; `None` if there is nothing to change.
pub(super) fn group(
    shared: &Shared,
    group: &Group,
    keys: &Keys,
    horizon: &Horizon,
    records: &dyn RecordFormat,
    pace: Pace<'_>,
) -> Result<Option<Rewritten>, CompactionError> {
    let (Some(first), Some(last)) = (group.sealed.first(), group.sealed.last()) else { return Ok(None) };
    let offsets = first.base()..last.end;
    let mut is_changed = group.sealed.len() > 1 || !first.is_compacted;
    let mut output: Option<Output> = None;
    for sealed in &group.sealed {
        let mut source = Source::open(shared, &sealed.segment, sealed.base()..sealed.end)?;
        let output = match &mut output {
            Some(output) => output,
            None => {
                let compacted_span = u32::try_from(offsets.end - offsets.start).ok();
                output.insert(Output::new(shared, SegmentHeader { compacted_span, ..source.header }, pace)?)
            }
        };
        while let Some(found) = source.next(pace)? {
            match judge(&found, keys, horizon, records) {
                Fate::Stays => output.batch(&found.batch.header, &found.bytes, pace)?,
                Fate::Shrinks(batch) => {
                    is_changed = true;
                    output.records_removed += u64::from(found.batch.header.record_count - batch.header.record_count);
                    output.encode(&batch, pace)?;
                }
                Fate::Goes => {
                    is_changed |= found.batch.header.record_count > 0 || output.gap.is_some();
                    output.records_removed += u64::from(found.batch.header.record_count);
                    output.leave_out(&found.batch.header, pace)?;
                }
            }
        }
        output.end_gap(pace)?;
    }
    let Some(output) = output.filter(|_| is_changed) else { return Ok(None) };
    let replaces: Vec<Arc<Segment>> = group.sealed.iter().map(|sealed| sealed.segment.clone()).collect();
    output.finish(offsets, replaces.clone(), replaces, pace).map(Some)
}

/// The batches of `segment` in `offsets`, as they are, as a segment of their own.
pub(super) fn split(
    shared: &Shared,
    segment: &Arc<Segment>,
    offsets: Range<Offset>,
    pace: Pace<'_>,
) -> Result<Rewritten, CompactionError> {
    let mut source = Source::open(shared, segment, offsets.clone())?;
    // What was appended before it was at most as young as what was appended before the segment behind it.
    let next = shared.segments().iter().find(|next| next.base == offsets.end).cloned();
    let age_us = match next {
        Some(next) => Source::open(shared, &next, next.base..next.base)?.header.age_us,
        None => source.header.age_us,
    };
    let previous = Some(segment.base);
    let header = SegmentHeader { base: offsets.start, age_us, previous, compacted_span: None, ..source.header };
    let mut output = Output::new(shared, header, pace)?;
    while let Some(found) = source.next(pace)? {
        output.batch(&found.batch.header, &found.bytes, pace)?;
    }
    output.finish(offsets, Vec::new(), vec![segment.clone()], pace)
}

/// What becomes of a batch.
enum Fate {
    /// As it is.
    Stays,
    /// With fewer records, or none.
    Shrinks(Batch),
    /// But for its offsets.
    Goes,
}

fn judge(found: &Found, keys: &Keys, horizon: &Horizon, records: &dyn RecordFormat) -> Fate {
    let header = &found.batch.header;
    if header.is_lost() || header.attributes & 0xffff != 0 {
        return Fate::Stays;
    }
    if header.record_count == 0 {
        return match keys.emptied(header, horizon) {
            Emptied::TellsOfProducer => Fate::Stays,
            Emptied::Offsets => Fate::Goes,
        };
    }
    let Some(unpacked) = keys::unpack(&found.batch, records) else { return Fate::Stays };
    let stays = |(record, offset): (&Unpacked, Offset)| keys.keeps(record, offset, header.append_time_us, horizon);
    let kept: Vec<bool> = unpacked.iter().zip(keys::offsets(header)).map(stays).collect();
    if kept.iter().all(|kept| *kept) {
        return Fate::Stays;
    }
    if kept.iter().any(|kept| *kept) {
        return shrunk(header, unpacked, &kept, records).map_or(Fate::Stays, Fate::Shrinks);
    }
    match keys.emptied(header, horizon) {
        Emptied::TellsOfProducer => {
            let empty = BatchHeader { producer: header.producer, ..empty(header) };
            Fate::Shrinks(Batch { header: empty, payload: bytes::Bytes::new() })
        }
        Emptied::Offsets => Fate::Goes,
    }
}

/// The batch with only the records that are `kept`; `None` if it cannot be packed again.
fn shrunk(header: &BatchHeader, unpacked: Vec<Unpacked>, kept: &[bool], records: &dyn RecordFormat) -> Option<Batch> {
    let offset_deltas: Vec<u32> = only(keys::deltas(header), kept).collect();
    let key_hashes = match header.key_hashes.len() == kept.len() {
        true => only(header.key_hashes.iter().copied(), kept).collect(),
        false => Vec::new(),
    };
    let unpacked: Vec<Unpacked> = only(unpacked.into_iter(), kept).collect();
    let Packed { codec, payload } = records.pack(header.codec, &unpacked)?;
    let header = BatchHeader {
        record_count: u32::try_from(unpacked.len()).ok()?,
        codec,
        payload_crc: payload_crc(&payload),
        offset_span: header.span(),
        offset_deltas,
        key_hashes,
        ..header.clone()
    };
    let fits = encoding::header_bytes(&header) <= HEADER_BYTES_MAX && u32::try_from(payload.len()).is_ok();
    fits.then_some(Batch { header, payload })
}

fn only<T>(all: impl Iterator<Item = T>, kept: &[bool]) -> impl Iterator<Item = T> {
    all.zip(kept).filter_map(|(item, kept)| kept.then_some(item))
}

/// A batch without records in the place of one, or of the first of several.
fn empty(header: &BatchHeader) -> BatchHeader {
    BatchHeader {
        base_offset: header.base_offset,
        offset_span: header.span(),
        payload_crc: payload_crc(&[]),
        append_time_us: header.append_time_us,
        max_timestamp_us: header.max_timestamp_us,
        epoch: header.epoch,
        durable_offset: header.durable_offset,
        ..BatchHeader::default()
    }
}

/// A new segment that is being written.
struct Output {
    new_file: NewFile,
    file: Arc<dyn DiskFile>,
    id: LogId,
    header: SegmentHeader,
    /// What is not written yet.
    buffer: Vec<u8>,
    /// Where the buffer goes.
    position: u64,
    /// Offsets without a batch, which end where the next one begins.
    gap: Option<BatchHeader>,
    last: Option<LastBatch>,
    sampler: IndexSampler,
    entries: Vec<IndexEntry>,
    records_removed: u64,
}

/// What a trailer tells of the last batch.
#[derive(Debug, Clone, Copy)]
struct LastBatch {
    append_time_us: i64,
    epoch: u32,
}

impl Output {
    fn new(shared: &Shared, header: SegmentHeader, pace: Pace<'_>) -> Result<Self, CompactionError> {
        let path = new_path(&shared.dir.join(file_name(header.base)));
        let file = create_anew(&*shared.disk, &path)?;
        let mut output = Self {
            new_file: NewFile { disk: shared.disk.clone(), path },
            file,
            id: shared.id,
            header,
            buffer: Vec::new(),
            position: 0,
            gap: None,
            last: None,
            sampler: IndexSampler::new(LogOptions::default().index_interval_bytes),
            entries: Vec::new(),
            records_removed: 0,
        };
        output.write(&header.encode(shared.id), pace)?;
        Ok(output)
    }

    /// A batch with the bytes it had.
    fn batch(&mut self, header: &BatchHeader, bytes: &[u8], pace: Pace<'_>) -> Result<(), CompactionError> {
        self.end_gap(pace)?;
        self.note(header);
        self.write(bytes, pace)
    }

    fn encode(&mut self, batch: &Batch, pace: Pace<'_>) -> Result<(), CompactionError> {
        self.end_gap(pace)?;
        self.note(&batch.header);
        self.write(&self.stored(batch), pace)
    }

    /// Only the offsets of a batch.
    fn leave_out(&mut self, header: &BatchHeader, pace: Pace<'_>) -> Result<(), CompactionError> {
        if let Some(gap) = &mut self.gap
            && let Some(offset_span) = gap.offset_span.checked_add(header.span())
        {
            // Nothing in it is as old as this, and nothing behind it is older.
            let (append_time_us, max_timestamp_us) = (header.append_time_us, header.max_timestamp_us);
            let epoch = header.epoch;
            *gap = BatchHeader { offset_span, append_time_us, max_timestamp_us, epoch, ..gap.clone() };
            return Ok(());
        }
        self.end_gap(pace)?;
        self.gap = Some(empty(header));
        Ok(())
    }

    fn end_gap(&mut self, pace: Pace<'_>) -> Result<(), CompactionError> {
        let Some(header) = self.gap.take() else { return Ok(()) };
        self.note(&header);
        self.write(&self.stored(&Batch { header, payload: bytes::Bytes::new() }), pace)
    }

    fn stored(&self, batch: &Batch) -> Vec<u8> {
        let mut bytes = Vec::new();
        // The payload was checked to fit.
        let payload_bytes = u32::try_from(batch.payload.len()).unwrap_or(u32::MAX);
        encoding::encode(&batch.header, batch.header.durable_offset, payload_bytes, self.id, &mut bytes);
        bytes.extend_from_slice(&batch.payload);
        bytes
    }

    fn note(&mut self, header: &BatchHeader) {
        let position = self.position + self.buffer.len() as u64;
        let (offset, append_time_us) = (header.base_offset, header.append_time_us);
        if self.sampler.takes(position) {
            self.entries.push(IndexEntry { offset, position, append_time_us });
        }
        self.last = Some(LastBatch { append_time_us, epoch: header.epoch });
    }

    fn write(&mut self, bytes: &[u8], pace: Pace<'_>) -> Result<(), CompactionError> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= PIECE_BYTES { self.flush(pace) } else { Ok(()) }
    }

    fn flush(&mut self, pace: Pace<'_>) -> Result<(), CompactionError> {
        let path = &self.new_file.path;
        self.file
            .write_at(self.position, &mut [IoSlice::new(&self.buffer)])
            .map_err(|error| StorageError::io("write", path, error))?;
        self.position += self.buffer.len() as u64;
        tell(pace, self.buffer.len() as u64)?;
        self.buffer.clear();
        Ok(())
    }

    /// Seals it and makes it durable.
    fn finish(
        mut self,
        offsets: Range<Offset>,
        replaces: Vec<Arc<Segment>>,
        changes: Vec<Arc<Segment>>,
        pace: Pace<'_>,
    ) -> Result<Rewritten, CompactionError> {
        let position = self.position + self.buffer.len() as u64;
        let trailer = Trailer {
            epoch: self.last.map_or(self.header.epoch, |last| last.epoch),
            base: offsets.start,
            end: offsets.end,
            position,
            last_append_time_us: self.last.map_or(0, |last| last.append_time_us),
        };
        self.buffer.extend_from_slice(&trailer.encode(self.id));
        self.flush(pace)?;
        let path = &self.new_file.path;
        self.file.sync_data().map_err(|error| StorageError::io("sync", path, error))?;
        Ok(Rewritten {
            path: path.with_file_name(file_name(offsets.start)),
            new_file: self.new_file,
            offsets,
            bytes: position + TRAILER_BYTES,
            entries: self.entries,
            replaces,
            changes,
            records_removed: self.records_removed,
        })
    }
}
