//! Walking over the batch headers of a segment, without reading the payloads of large batches.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::batch::LogId;
use crate::batch::encoding::{self, BATCH_MAGIC, HeaderFault, StoredHeader};
use crate::disk::DiskFile;
use crate::segment::format::{BLOCK_BYTES, BlockFault, TRAILER_MAGIC, Trailer};
use crate::{Offset, StorageError};

/// Read at once when walking: many headers of small batches, or one header of a large one and little else.
const PIECE_BYTES: usize = 16 << 10;
/// Read at once when searching through damage.
const SEARCH_BYTES: usize = 1 << 20;

/// What lies at a position of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Found {
    /// A batch whose header is intact and whose payload lies within the file. The payload was not looked at.
    Batch(StoredHeader),
    /// The trailer: the batches end here.
    Trailer(Trailer),
    /// The end of the file, exactly after a batch.
    End,
    /// Neither.
    Damage(&'static str),
}

/// A position in a segment, and a buffer around it.
#[derive(Debug)]
pub(crate) struct HeaderScan {
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    id: LogId,
    position: u64,
    file_bytes: u64,
    buffer: Vec<u8>,
    buffer_at: u64,
    bytes_read: u64,
}

impl HeaderScan {
    /// Begins at `position` of a file that is taken to have `file_bytes` bytes.
    pub(crate) fn new(file: Arc<dyn DiskFile>, path: &Path, id: LogId, position: u64, file_bytes: u64) -> Self {
        let path = path.to_owned();
        Self { file, path, id, position, file_bytes, buffer: Vec::new(), buffer_at: 0, bytes_read: 0 }
    }

    /// Where [`HeaderScan::look`] looks.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// Bytes read from the disk so far.
    pub(crate) fn bytes_read(&self) -> u64 {
        self.bytes_read
    }

    /// Goes over the batch that [`HeaderScan::look`] found.
    pub(crate) fn skip(&mut self, batch: &StoredHeader) {
        self.position += batch.stored_bytes();
    }

    /// What lies at the position, which does not move.
    ///
    /// # Errors
    /// The disk's, and [`StorageError::Unsupported`] for what a newer version wrote.
    pub(crate) fn look(&mut self) -> Result<Found, StorageError> {
        let rest = self.file_bytes.saturating_sub(self.position);
        if rest == 0 {
            return Ok(Found::End);
        }
        let mut wanted = encoding::FIXED_BYTES;
        loop {
            let id = self.id;
            let bytes = self.window(wanted)?;
            if bytes.starts_with(&TRAILER_MAGIC) {
                return self.look_at_trailer();
            }
            match encoding::decode(bytes, id) {
                Ok(stored) if stored.stored_bytes() <= rest => return Ok(Found::Batch(stored)),
                Ok(_) => return Ok(Found::Damage("payload cut short")),
                Err(HeaderFault::Short(bytes)) if bytes > wanted && bytes as u64 <= rest => wanted = bytes,
                Err(HeaderFault::Short(_)) => return Ok(Found::Damage("header cut short")),
                Err(HeaderFault::Damaged(what)) => return Ok(Found::Damage(what)),
                Err(HeaderFault::Unsupported(what)) => {
                    return Err(StorageError::Unsupported { path: self.path.clone(), what });
                }
            }
        }
    }

    fn look_at_trailer(&mut self) -> Result<Found, StorageError> {
        let (id, position) = (self.id, self.position);
        let bytes = self.window(BLOCK_BYTES)?;
        match Trailer::decode(bytes, id) {
            Ok(trailer) if trailer.position == position => Ok(Found::Trailer(trailer)),
            Ok(_) | Err(BlockFault::Damaged) => Ok(Found::Damage("damaged trailer")),
            Err(BlockFault::Unsupported(version)) => {
                let what = format!("trailer version {version}");
                Err(StorageError::Unsupported { path: self.path.clone(), what })
            }
        }
    }

    /// After damage: moves to the next intact header whose base offset is `offset_min` or more, and returns it; without
    /// one, moves to the end of the file. Reads all bytes on the way.
    pub(crate) fn resync(&mut self, offset_min: Offset) -> Result<Option<StoredHeader>, StorageError> {
        let mut from = self.position + 1;
        while from < self.file_bytes {
            let piece = self.read(from, SEARCH_BYTES)?;
            if piece.len() < BATCH_MAGIC.len() {
                break;
            }
            for at in magic_positions(&piece) {
                self.position = from + at as u64;
                // A version that is unknown must not hide in damage: it may as well be damage.
                if let Ok(Found::Batch(stored)) = self.look()
                    && stored.header.base_offset >= offset_min
                {
                    return Ok(Some(stored));
                }
            }
            from += (piece.len() - (BATCH_MAGIC.len() - 1)) as u64;
        }
        self.position = self.file_bytes;
        Ok(None)
    }

    /// At least `wanted` bytes at the position, or fewer at the end of the file.
    fn window(&mut self, wanted: usize) -> Result<&[u8], StorageError> {
        let buffered = self
            .position
            .checked_sub(self.buffer_at)
            .and_then(|skipped| usize::try_from(skipped).ok())
            .filter(|skipped| skipped + wanted <= self.buffer.len());
        let start = match buffered {
            Some(start) => start,
            None => {
                self.buffer = self.read(self.position, wanted.max(PIECE_BYTES))?;
                self.buffer_at = self.position;
                0
            }
        };
        Ok(&self.buffer[start..])
    }

    fn read(&mut self, position: u64, bytes: usize) -> Result<Vec<u8>, StorageError> {
        let rest = usize::try_from(self.file_bytes.saturating_sub(position)).unwrap_or(usize::MAX);
        let piece =
            self.file.read_at(position, bytes.min(rest)).map_err(|e| StorageError::io("read", &self.path, e))?;
        self.bytes_read += piece.len() as u64;
        Ok(piece)
    }
}

fn magic_positions(bytes: &[u8]) -> impl Iterator<Item = usize> + '_ {
    let last = bytes.len() - (BATCH_MAGIC.len() - 1);
    let mut from = 0;
    std::iter::from_fn(move || {
        // One byte first: a whole window at every position is slow in long runs of zeros.
        while let Some(found) = bytes[from..last].iter().position(|byte| *byte == BATCH_MAGIC[0]) {
            let at = from + found;
            from = at + 1;
            if bytes[at..].starts_with(&BATCH_MAGIC) {
                return Some(at);
            }
        }
        None
    })
}
