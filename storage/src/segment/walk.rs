//! Walking over a segment batch by batch, with the rules that make a batch part of the log.
//!
//! A header that is intact is not enough: it must begin at the offset where the batch before it ended and end no later
//! than the segment does, and its epoch must not go back. Otherwise it is a misdirected write, or a leftover of another life of these blocks.

use crate::batch::encoding::StoredHeader;
use crate::segment::format::Trailer;
use crate::segment::scan::{Found, HeaderScan};
use crate::{Offset, StorageError};

/// One step of a walk.
#[derive(Debug)]
pub(crate) enum Step {
    /// The next batch of the log.
    Batch {
        /// Where its header lies.
        position: u64,
        stored: StoredHeader,
    },
    /// Damage, from the expected offset to the next batch that is intact, or to nobody knows where.
    Damage {
        /// Where it begins.
        position: u64,
        from: Offset,
        to: Option<Offset>,
        what: &'static str,
    },
    /// The walk is over.
    End(End),
}

/// Where a walk ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// At the offset that it was limited to.
    Limit,
    /// At the end of the file.
    File,
    /// At the trailer.
    Trailer(Trailer),
}

/// A walk in progress.
#[derive(Debug)]
pub(crate) struct Walk {
    scan: HeaderScan,
    expected: Offset,
    limit: Offset,
    epoch_min: u32,
}

impl Walk {
    /// Walks on from the position of `scan`, where the batch at `expected` should lie, to the offset `limit`.
    pub(crate) fn new(scan: HeaderScan, expected: Offset, limit: Offset, epoch_min: u32) -> Self {
        Self { scan, expected, limit, epoch_min }
    }

    /// The offset that comes next.
    pub(crate) fn expected(&self) -> Offset {
        self.expected
    }

    /// The position that comes next.
    pub(crate) fn position(&self) -> u64 {
        self.scan.position()
    }

    /// Bytes read from the disk so far.
    pub(crate) fn bytes_read(&self) -> u64 {
        self.scan.bytes_read()
    }

    /// The next batch, or what there is in its place.
    pub(crate) fn step(&mut self) -> Result<Step, StorageError> {
        if self.expected >= self.limit {
            return Ok(Step::End(End::Limit));
        }
        let what = match self.scan.look()? {
            Found::Batch(stored) if self.belongs(&stored) => {
                let position = self.scan.position();
                self.scan.skip(&stored);
                self.expected = stored.header.next_offset();
                self.epoch_min = stored.header.epoch;
                return Ok(Step::Batch { position, stored });
            }
            Found::Batch(_) => "a batch of another place or time",
            Found::Trailer(trailer) => return Ok(Step::End(End::Trailer(trailer))),
            Found::End => return Ok(Step::End(End::File)),
            Found::Damage(what) => what,
        };
        let (position, from) = (self.scan.position(), self.expected);
        let to = self.next_intact()?;
        self.expected = to.unwrap_or(from);
        Ok(Step::Damage { position, from, to, what })
    }

    fn belongs(&self, stored: &StoredHeader) -> bool {
        let header = &stored.header;
        header.base_offset == self.expected
            && header.epoch >= self.epoch_min
            && header.span() > 0
            && header.next_offset() <= self.limit
    }

    fn next_intact(&mut self) -> Result<Option<Offset>, StorageError> {
        while let Some(stored) = self.scan.resync(self.expected)? {
            if stored.header.epoch >= self.epoch_min && stored.header.base_offset < self.limit {
                return Ok(Some(stored.header.base_offset));
            }
        }
        Ok(None)
    }
}
