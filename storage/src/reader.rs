//! Reading a log, beside its writer and without ever making it wait.
//!
//! Batches at the tail come from memory. Older ones are read positionally, in large pieces, sealed segments included:
//! a read that fails is an error and never a signal, the bytes are the reader's own and so cannot be unlinked or cut
//! under it, and a piece is read once for its checksum and for sending it. What a read returns shares one allocation.

use std::sync::Arc;

use bytes::Bytes;

use crate::batch::encoding::{self, StoredHeader};
use crate::batch::payload_crc;
use crate::disk::DiskFile;
use crate::segment::Segment;
use crate::segment::format::{HEADER_BYTES, damage};
use crate::segment::index::{IndexEntry, around};
use crate::segment::scan::HeaderScan;
use crate::segment::walk::{End, Step, Walk};
use crate::shared::{BoundedSegment, Shared, Window};
use crate::sync::Mutex;
use crate::{Batch, BatchHeader, DamagedRange, Offset, ReadError, StorageError};

/// Read at least at once: smaller reads cost more than their bytes.
const PIECE_BYTES_MIN: u64 = 64 << 10;

/// A reader of one log. Clones are cheap and independent; any number may be used at once, on any thread.
#[derive(Debug)]
pub struct LogReader {
    shared: Arc<Shared>,
    /// Where the last read of this reader ended, so that the next one needs no lookup. Never evidence.
    cursor: Mutex<Option<Cursor>>,
}

/// A batch boundary in a segment.
#[derive(Debug, Clone, Copy)]
struct Cursor {
    segment: Offset,
    offset: Offset,
    position: u64,
}

/// A batch found on disk, and the way to those after it.
struct Located {
    walk: Walk,
    position: u64,
    stored: StoredHeader,
}

impl Clone for LogReader {
    fn clone(&self) -> Self {
        Self::new(self.shared.clone())
    }
}

impl LogReader {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, cursor: Mutex::new(None) }
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    pub(crate) fn shared_arc(&self) -> Arc<Shared> {
        self.shared.clone()
    }

    /// What can be read at this moment.
    #[must_use]
    pub fn window(&self) -> Window {
        self.shared.window()
    }

    /// Batches from memory, from the one that holds `from` on; `None` if that one must be read from the disk. Never
    /// touches the disk. Empty only at the high watermark.
    ///
    /// # Errors
    /// [`ReadError::OffsetOutOfRange`].
    pub fn read_cached(&self, from: Offset, max_bytes: usize) -> Result<Option<Vec<Batch>>, ReadError> {
        let window = self.window();
        check_range(from, window)?;
        if from == window.high_watermark {
            return Ok(Some(Vec::new()));
        }
        Ok(self.shared.cache.read(from, window.high_watermark, max_bytes as u64))
    }

    /// Batches from the one that holds `from` on, whole, below the high watermark, within `max_bytes` of disk space but
    /// at least one. Empty only at the high watermark. Blocks on the disk; the payload's checksums are verified.
    ///
    /// # Errors
    /// [`ReadError::OffsetOutOfRange`]; [`ReadError::Corrupt`] if the batch that holds `from` is damaged: what comes
    /// before damage is returned first, and reading goes on behind it; [`ReadError::Lost`] in the same way for what a
    /// repair has taken out; the disk's.
    pub fn read(&self, from: Offset, max_bytes: usize) -> Result<Vec<Batch>, ReadError> {
        if let Some(batches) = self.read_cached(from, max_bytes)? {
            return Ok(batches);
        }
        self.in_window(from, |bounded| self.read_from_disk(bounded, from, max_bytes as u64))
    }

    /// Headers of up to `max` batches, from the one that holds `from` on. Blocks on the disk, but hops over large
    /// payloads, whose checksums are not verified. Stops at the end of a segment: at least one unless `from` is the
    /// high watermark.
    ///
    /// # Errors
    /// As [`LogReader::read`].
    pub fn headers(&self, from: Offset, max: usize) -> Result<Vec<BatchHeader>, ReadError> {
        let mut headers = self.all_headers(from, max)?;
        match headers.iter().position(BatchHeader::is_lost) {
            Some(0) => return Err(lost(&headers[0])),
            Some(first) => headers.truncate(first),
            None => {}
        }
        Ok(headers)
    }

    /// As [`LogReader::headers`], with those that stand for lost records.
    fn all_headers(&self, from: Offset, max: usize) -> Result<Vec<BatchHeader>, ReadError> {
        let window = self.window();
        check_range(from, window)?;
        if from == window.high_watermark {
            return Ok(Vec::new());
        }
        self.in_window(from, |bounded| {
            let file = bounded.segment.open(&*self.shared.disk)?;
            let located = self.locate(&file, bounded, from)?;
            let mut headers = vec![located.stored.header];
            let mut walk = located.walk;
            while headers.len() < max {
                let Step::Batch { stored, .. } = walk.step()? else { break };
                headers.push(stored.header);
            }
            Ok(headers)
        })
    }

    /// The first offset whose append time is `time_us` or later; `None` if there is none yet. Blocks on the disk: one
    /// header for each step of a binary search over the segments, and one index interval.
    ///
    /// # Errors
    /// [`ReadError::Corrupt`] if a header on the way is damaged; the disk's.
    pub fn offset_for_time(&self, time_us: i64) -> Result<Option<Offset>, ReadError> {
        loop {
            let window = self.window();
            match self.search_time(time_us, window) {
                // Retention has taken what was looked at: again, in what is left.
                Err(_) if self.window().log_start > window.log_start => {}
                outcome => return outcome,
            }
        }
    }

    fn search_time(&self, time_us: i64, window: Window) -> Result<Option<Offset>, ReadError> {
        let list = self.shared.segments();
        // The last segment whose first batch is earlier holds the border, or ends at it.
        let (mut low, mut high) = (0, list.len());
        while low < high {
            let middle = low + (high - low) / 2;
            let base = list[middle].base.max(window.log_start);
            let is_earlier = match self.append_time_at(base)? {
                Some(append_time_us) => append_time_us < time_us,
                None => false,
            };
            if is_earlier {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        let Some(segment) = low.checked_sub(1).map(|last| &list[last]) else {
            return Ok(Some(window.log_start).filter(|start| *start < window.high_watermark));
        };
        let hint = self.index_floor_by_time(segment.base, time_us)?;
        // What the hint points to must prove itself: then all that lies before it is as early, and need not be looked at.
        let proven = hint.filter(|offset| matches!(self.append_time_at(*offset), Ok(Some(at_us)) if at_us < time_us));
        let mut from = proven.unwrap_or(segment.base).max(window.log_start);
        while from < window.high_watermark {
            for header in self.all_headers(from, 1024)? {
                if header.append_time_us >= time_us {
                    return Ok(Some(header.base_offset.max(window.log_start)));
                }
                from = header.next_offset();
            }
        }
        Ok(None)
    }

    /// Append time of the batch that holds `offset`, µs since the epoch; `None` at the high watermark. Blocks on the
    /// disk unless the batch is in memory.
    ///
    /// # Errors
    /// As [`LogReader::read`].
    pub fn append_time_at(&self, offset: Offset) -> Result<Option<i64>, ReadError> {
        if let Some(batches) = self.read_cached(offset, 1)? {
            return Ok(batches.first().map(|batch| batch.header.append_time_us));
        }
        Ok(self.all_headers(offset, 1)?.first().map(|header| header.append_time_us))
    }

    /// Bytes on disk of the batches in `[from, to)`, estimated between the entries of the index. Blocks on the disk if
    /// the index of an old segment has to be read.
    ///
    /// # Errors
    /// [`ReadError::OffsetOutOfRange`], the disk's.
    pub fn bytes_between(&self, from: Offset, to: Offset) -> Result<u64, ReadError> {
        let window = self.window();
        check_range(from, window)?;
        check_range(to, window)?;
        if from >= to {
            return Ok(0);
        }
        self.estimate_bytes(from, to).or_else(|error| self.unless_removed(from, error))
    }

    fn estimate_bytes(&self, from: Offset, to: Offset) -> Result<u64, ReadError> {
        let (Some(first), Some(last)) = (self.shared.segment_at(from), self.shared.segment_at(to - 1)) else {
            return Err(out_of_range(from, self.window()));
        };
        let before_from = self.position_of(&first, from)?;
        let before_to = self.position_of(&last, to)?;
        if first.segment.base == last.segment.base {
            return Ok(before_to.saturating_sub(before_from));
        }
        // The last segment may be growing: it counts only up to `to`.
        let list = self.shared.segments();
        let is_between = |segment: &Segment| segment.base > first.segment.base && segment.base < last.segment.base;
        let between: u64 = list.iter().filter(|segment| is_between(segment)).map(|segment| segment.bytes()).sum();
        Ok(first.segment.bytes().saturating_sub(before_from) + between + before_to)
    }

    /// Bytes of the segments after the one that holds `offset`: what retention leaves when it removes that one. Without
    /// I/O. What lies before the log counts as held by nothing.
    #[must_use]
    pub fn bytes_after_segment_of(&self, offset: Offset) -> u64 {
        let list = self.shared.segments();
        let after = list.partition_point(|segment| segment.base <= offset);
        list[after..].iter().map(|segment| segment.bytes()).sum()
    }

    /// Bytes of the last segment if it holds `offset`: until it is sealed, retention leaves it. Without I/O.
    #[must_use]
    pub fn last_segment_bytes_with(&self, offset: Offset) -> Option<u64> {
        let list = self.shared.segments();
        list.last().filter(|last| last.base <= offset).map(|last| last.bytes())
    }

    /// Bytes of all segments on disk.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.shared.segments().iter().map(|segment| segment.bytes()).sum()
    }

    /// Number of segments on disk.
    #[must_use]
    pub fn segment_count(&self) -> usize {
        self.shared.segments().len()
    }

    /// Runs `work` on the segment that holds `from`.
    fn in_window<T>(
        &self,
        from: Offset,
        work: impl FnOnce(&BoundedSegment) -> Result<T, ReadError>,
    ) -> Result<T, ReadError> {
        let Some(bounded) = self.shared.segment_at(from) else {
            return Err(out_of_range(from, self.window()));
        };
        work(&bounded).or_else(|error| self.unless_removed(from, error))
    }

    /// If retention has removed `from` meanwhile, that is out of range and not a missing file.
    fn unless_removed<T>(&self, from: Offset, error: ReadError) -> Result<T, ReadError> {
        check_range(from, self.window())?;
        Err(error)
    }

    fn read_from_disk(&self, bounded: &BoundedSegment, from: Offset, max_bytes: u64) -> Result<Vec<Batch>, ReadError> {
        let file = bounded.segment.open(&*self.shared.disk)?;
        let located = self.locate(&file, bounded, from)?;
        if located.stored.header.is_lost() {
            return Err(lost(&located.stored.header));
        }
        let first_bytes = located.stored.stored_bytes();
        let piece_bytes = usize::try_from(max_bytes.max(PIECE_BYTES_MIN).max(first_bytes)).unwrap_or(usize::MAX);
        let rest = usize::try_from(bounded.segment.bytes().saturating_sub(located.position)).unwrap_or(usize::MAX);
        let path = &bounded.segment.path;
        let piece = file
            .read_at(located.position, piece_bytes.min(rest))
            .map_err(|error| StorageError::io("read", path, error))?;
        let piece = Bytes::from(piece);
        let mut batches = Vec::new();
        let mut at: usize = 0;
        let mut offset = located.stored.header.base_offset;
        while offset < bounded.end {
            let Ok(stored) = encoding::decode(&piece[at..], self.shared.id) else { break };
            let end = (at as u64).saturating_add(stored.stored_bytes());
            let fits = end <= max_bytes || batches.is_empty();
            let follows = stored.header.base_offset == offset && stored.header.next_offset() <= bounded.end;
            if !follows || stored.header.is_lost() || !fits || end > piece.len() as u64 {
                break;
            }
            let end = usize::try_from(end).unwrap_or(usize::MAX);
            let payload = piece.slice(at + stored.header_bytes as usize..end);
            if payload_crc(&payload) != stored.header.payload_crc {
                break;
            }
            at = end;
            offset = stored.header.next_offset();
            batches.push(Batch { header: stored.header, payload });
        }
        if batches.is_empty() {
            let header = &located.stored.header;
            let offsets = header.base_offset..header.next_offset();
            return Err(damage(offsets, path, located.position, "payload checksum").into());
        }
        let position = located.position + at as u64;
        *self.cursor.lock() = Some(Cursor { segment: bounded.segment.base, offset, position });
        Ok(batches)
    }

    /// Finds the batch that holds `from`: by the cursor, by the index, or, when these mislead, from the beginning.
    fn locate(&self, file: &Arc<dyn DiskFile>, bounded: &BoundedSegment, from: Offset) -> Result<Located, ReadError> {
        let segment = &bounded.segment;
        let cursor = *self.cursor.lock();
        let hint = match cursor {
            Some(cursor) if cursor.segment == segment.base && cursor.offset == from => {
                Some((cursor.offset, cursor.position))
            }
            Some(_) | None => self.index_floor(bounded, from)?.map(|entry| (entry.offset, entry.position)),
        };
        let walk_from = |offset, position| {
            let id = self.shared.id;
            let scan = HeaderScan::new(file.clone(), &segment.path, id, position, segment.bytes());
            Walk::new(scan, offset, bounded.end, 0)
        };
        if let Some((offset, position)) = hint
            && let Ok(found) = find(walk_from(offset, position), bounded, from)?
        {
            return Ok(found);
        }
        Ok(find(walk_from(segment.base, HEADER_BYTES), bounded, from)??)
    }

    fn index_floor(&self, bounded: &BoundedSegment, offset: Offset) -> Result<Option<IndexEntry>, ReadError> {
        if offset >= bounded.segment.recent_from {
            return Ok(bounded.segment.recent_around(offset).0);
        }
        let entries = self.shared.older_index(bounded)?;
        Ok(around(&entries, |entry| entry.offset <= offset).0)
    }

    fn index_floor_by_time(&self, base: Offset, time_us: i64) -> Result<Option<Offset>, ReadError> {
        let Some(bounded) = self.shared.segment_at(base) else { return Ok(None) };
        let is_before = |entry: &IndexEntry| entry.append_time_us < time_us;
        if let (Some(entry), _) = around(&bounded.segment.recent(), is_before) {
            return Ok(Some(entry.offset));
        }
        if bounded.segment.recent_from <= bounded.segment.base {
            return Ok(None);
        }
        Ok(around(&self.shared.older_index(&bounded)?, is_before).0.map(|entry| entry.offset))
    }

    /// The position of `offset` in its segment, interpolated between the entries of the index.
    fn position_of(&self, bounded: &BoundedSegment, offset: Offset) -> Result<u64, ReadError> {
        let segment = &bounded.segment;
        if offset >= bounded.end {
            return Ok(segment.bytes());
        }
        let (before, after) = if offset >= segment.recent_from {
            segment.recent_around(offset)
        } else {
            around(&self.shared.older_index(bounded)?, |entry| entry.offset <= offset)
        };
        // An index may say anything: what it says of other offsets, or beyond the segment, does not count.
        let bytes_max = segment.bytes();
        let (low_offset, low) = before
            .filter(|entry| entry.offset <= offset)
            .map_or((segment.base, HEADER_BYTES), |entry| (entry.offset, entry.position.min(bytes_max)));
        let (high_offset, high) = after
            .filter(|entry| entry.offset > offset && entry.offset < bounded.end)
            .map_or((bounded.end, bytes_max), |entry| (entry.offset, entry.position.min(bytes_max)));
        let (part, whole) = (offset - low_offset, (high_offset - low_offset).max(1));
        let bytes = u128::from(high.saturating_sub(low)) * u128::from(part) / u128::from(whole);
        Ok(low + u64::try_from(bytes).unwrap_or(0))
    }
}

/// Walks to the batch that holds `from`; the inner error says that it is damaged.
fn find(mut walk: Walk, bounded: &BoundedSegment, from: Offset) -> Result<Result<Located, DamagedRange>, StorageError> {
    let path = &bounded.segment.path;
    loop {
        match walk.step()? {
            Step::Batch { position, stored } if stored.header.next_offset() > from => {
                return Ok(Ok(Located { walk, position, stored }));
            }
            Step::Batch { .. } => {}
            Step::Damage { position, from: start, to, what } => {
                let end = to.unwrap_or(bounded.end);
                if from < end {
                    return Ok(Err(damage(start..end, path, position, what)));
                }
            }
            Step::End(End::Limit | End::File | End::Trailer(_)) => {
                let offsets = walk.expected()..bounded.end;
                return Ok(Err(damage(offsets, path, walk.position(), "the batches end early")));
            }
        }
    }
}

fn lost(header: &BatchHeader) -> ReadError {
    ReadError::Lost { from: header.base_offset, to: header.next_offset() }
}

fn check_range(requested: Offset, window: Window) -> Result<(), ReadError> {
    if requested < window.log_start || requested > window.high_watermark {
        return Err(out_of_range(requested, window));
    }
    Ok(())
}

fn out_of_range(requested: Offset, window: Window) -> ReadError {
    let Window { log_start, high_watermark } = window;
    ReadError::OffsetOutOfRange { requested, log_start, high_watermark }
}
