//! The batches of a sealed segment, one after the other, with everything about them checked.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use super::{CompactionError, Pace};
use crate::batch::encoding::StoredHeader;
use crate::batch::payload_crc;
use crate::disk::DiskFile;
use crate::segment::Segment;
use crate::segment::format::{BLOCK_BYTES, HEADER_BYTES, SegmentHeader, damage};
use crate::segment::scan::HeaderScan;
use crate::segment::walk::{End, Step, Walk};
use crate::shared::Shared;
use crate::{Batch, Offset, StorageError};

/// A segment being read.
pub(super) struct Source {
    pub(super) header: SegmentHeader,
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    walk: Walk,
    bytes_read: u64,
    end: Offset,
}

/// A batch with the bytes it was read from.
pub(super) struct Found {
    pub(super) batch: Batch,
    /// Header and payload as stored.
    pub(super) bytes: Bytes,
}

impl Source {
    /// Reads the batches of `offsets`, which begin and end between two batches.
    pub(super) fn open(shared: &Shared, segment: &Segment, offsets: Range<Offset>) -> Result<Self, CompactionError> {
        let (path, file) = (segment.path.clone(), segment.open(&*shared.disk)?);
        let bytes = file.read_at(0, BLOCK_BYTES).map_err(|error| StorageError::io("read", &path, error))?;
        let Ok(header) = SegmentHeader::decode(&bytes, shared.id) else {
            return Err(damage(segment.base..offsets.end, &path, 0, "segment header").into());
        };
        let scan = HeaderScan::new(file.clone(), &path, shared.id, HEADER_BYTES, segment.bytes());
        let walk = Walk::new(scan, segment.base, offsets.end, header.epoch);
        let mut source = Self { header, file, path, walk, bytes_read: 0, end: offsets.end };
        while source.walk.expected() < offsets.start {
            source.step()?;
        }
        Ok(source)
    }

    /// The next header, hopping over the payload.
    pub(super) fn next_header(&mut self, pace: Pace<'_>) -> Result<Option<StoredHeader>, CompactionError> {
        let stored = self.step()?.map(|(_, stored)| stored);
        let bytes_read = self.walk.bytes_read();
        tell(pace, bytes_read - self.bytes_read)?;
        self.bytes_read = bytes_read;
        Ok(stored)
    }

    /// The next batch; `None` at the end.
    pub(super) fn next(&mut self, pace: Pace<'_>) -> Result<Option<Found>, CompactionError> {
        let Some((position, stored)) = self.step()? else { return Ok(None) };
        let offsets = stored.header.base_offset..stored.header.next_offset();
        let wanted = usize::try_from(stored.stored_bytes()).unwrap_or(usize::MAX);
        let bytes = self.file.read_at(position, wanted).map_err(|error| StorageError::io("read", &self.path, error))?;
        tell(pace, bytes.len() as u64)?;
        let bytes = Bytes::from(bytes);
        let is_whole = bytes.len() == wanted;
        let payload = if is_whole { bytes.slice(stored.header_bytes as usize..) } else { Bytes::new() };
        if !is_whole || payload_crc(&payload) != stored.header.payload_crc {
            return Err(damage(offsets, &self.path, position, "payload checksum").into());
        }
        Ok(Some(Found { batch: Batch { header: stored.header, payload }, bytes }))
    }

    fn step(&mut self) -> Result<Option<(u64, StoredHeader)>, CompactionError> {
        match self.walk.step()? {
            Step::Batch { position, stored } => Ok(Some((position, stored))),
            Step::Damage { position, from, to, what } => {
                Err(damage(from..to.unwrap_or(self.end), &self.path, position, what).into())
            }
            Step::End(End::Limit) => Ok(None),
            Step::End(End::File | End::Trailer(_)) => {
                let offsets = self.walk.expected()..self.end;
                Err(damage(offsets, &self.path, self.walk.position(), "the batches end early").into())
            }
        }
    }
}

/// Tells of `bytes` read or written.
pub(super) fn tell(pace: Pace<'_>, bytes: u64) -> Result<(), CompactionError> {
    if pace(bytes).is_break() { Err(CompactionError::Stopped) } else { Ok(()) }
}
