//! Looking at every byte of a segment: what is intact, and what is not.
//!
//! Verification names what this finds and repair takes it out, so that both mean the same by damage. What makes a batch
//! part of the log is judged by [`Walk`], for recovery and readers as well; here the payloads are checked, too.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::batch::LogId;
use crate::batch::encoding::StoredHeader;
use crate::disk::DiskFile;
use crate::segment::format::{HEADER_BYTES, Trailer};
use crate::segment::scan::HeaderScan;
use crate::segment::walk::{End, Step, Walk};
use crate::{Offset, StorageError};

/// Bytes of a payload that are read at once.
const PIECE_BYTES: u64 = 1 << 20;

/// What comes next in a segment.
#[derive(Debug)]
pub(crate) enum Piece {
    /// A batch of the log, intact to its last byte.
    Batch { position: u64, stored: StoredHeader },
    /// Bytes that are none.
    Damage(Damage),
    /// The end of the batches.
    End,
}

/// Bytes that should be batches of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Damage {
    pub(crate) bytes: Range<u64>,
    pub(crate) from: Offset,
    /// Where the next intact batch begins; `None` if there is none.
    pub(crate) to: Option<Offset>,
    pub(crate) what: &'static str,
}

/// A survey in progress.
#[derive(Debug)]
pub(crate) struct Survey {
    file: Arc<dyn DiskFile>,
    path: std::path::PathBuf,
    walk: Walk,
    bytes_read: u64,
}

/// The batches to look at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Extent {
    /// Offset of the first batch of the file.
    pub(crate) base: Offset,
    /// What lies at this offset and above was superseded, or is not to be looked at.
    pub(crate) limit: Offset,
    /// The batches end here at the latest: the trailer, or the end of the file.
    pub(crate) end_position: u64,
    /// No batch has a lower epoch.
    pub(crate) epoch_min: u32,
}

impl Extent {
    /// Of a segment whose trailer and header are known as far as they are intact.
    pub(crate) fn new(base: Offset, limit: Offset, file_bytes: u64, trailer: Option<&Trailer>, epoch_min: u32) -> Self {
        let limit = trailer.map_or(limit, |trailer| limit.min(trailer.end));
        let end_position = trailer.map_or(file_bytes, |trailer| trailer.position);
        Self { base, limit, end_position, epoch_min }
    }
}

impl Survey {
    pub(crate) fn new(file: Arc<dyn DiskFile>, path: &Path, id: LogId, extent: Extent) -> Self {
        let Extent { base, limit, end_position, epoch_min } = extent;
        let scan = HeaderScan::new(file.clone(), path, id, HEADER_BYTES, end_position);
        Self { file, path: path.to_owned(), walk: Walk::new(scan, base, limit, epoch_min), bytes_read: 0 }
    }

    /// The offset that comes next.
    pub(crate) fn expected(&self) -> Offset {
        self.walk.expected()
    }

    /// The position that comes next.
    pub(crate) fn position(&self) -> u64 {
        self.walk.position()
    }

    /// The next piece. `read` is told how many bytes it took, as they are read.
    ///
    /// # Errors
    /// The disk's, and [`StorageError::Unsupported`] for what a newer version wrote.
    pub(crate) fn next(&mut self, read: &mut dyn FnMut(u64)) -> Result<Piece, StorageError> {
        let step = self.walk.step()?;
        read(self.walk.bytes_read() - self.bytes_read);
        self.bytes_read = self.walk.bytes_read();
        match step {
            Step::Batch { position, stored } => {
                if self.payload_crc(position, &stored, read)? == stored.header.payload_crc {
                    return Ok(Piece::Batch { position, stored });
                }
                let (from, to) = (stored.header.base_offset, Some(stored.header.next_offset()));
                let bytes = position..position + stored.stored_bytes();
                Ok(Piece::Damage(Damage { bytes, from, to, what: "payload checksum" }))
            }
            Step::Damage { position, from, to, what } => {
                Ok(Piece::Damage(Damage { bytes: position..self.walk.position(), from, to, what }))
            }
            Step::End(End::Limit | End::File | End::Trailer(_)) => Ok(Piece::End),
        }
    }

    fn payload_crc(
        &self,
        position: u64,
        stored: &StoredHeader,
        read: &mut dyn FnMut(u64),
    ) -> Result<u32, StorageError> {
        let mut hasher = crc32fast::Hasher::new();
        let (mut at, end) = (position + u64::from(stored.header_bytes), position + stored.stored_bytes());
        while at < end {
            let wanted = usize::try_from((end - at).min(PIECE_BYTES)).unwrap_or(0);
            let piece = self.file.read_at(at, wanted).map_err(|error| StorageError::io("read", &self.path, error))?;
            if piece.is_empty() {
                break; // cut meanwhile: the checksum says so
            }
            hasher.update(&piece);
            at += piece.len() as u64;
            read(piece.len() as u64);
        }
        Ok(hasher.finalize())
    }
}
