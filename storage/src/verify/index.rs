//! An index against its segment: does every entry name a batch that is there?

use std::collections::VecDeque;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::finding::{Fact, Finding};
use crate::Offset;
use crate::batch::LogId;
use crate::batch::encoding::StoredHeader;
use crate::disk::Disk;
use crate::segment::index::{self, IndexEntry, StoredIndex};

/// A reader of a log that is in use may be building the index anew: what is torn once is whole the next time.
const READS_MAX: u32 = 5;

/// The index of one segment, consumed as the batches pass by.
#[derive(Debug)]
pub(super) struct IndexCheck {
    path: PathBuf,
    entries: VecDeque<IndexEntry>,
    /// `None` if there is nothing to check.
    covers: Option<Range<Offset>>,
    verdict: Option<Fact>,
}

impl IndexCheck {
    /// Checks nothing.
    pub(super) fn none(path: &Path) -> Self {
        Self { path: path.to_owned(), entries: VecDeque::new(), covers: None, verdict: None }
    }

    /// Itself, if there is an index.
    pub(super) fn or_none(self) -> Self {
        if self.verdict == Some(Fact::IndexMissing) { Self::none(&self.path) } else { self }
    }

    /// Reads the index file at `path`. One that is empty was being made when the process was killed.
    pub(super) fn load(disk: &dyn Disk, path: &Path, id: LogId) -> Self {
        let mut check = Self::none(path);
        let mut loaded = index::load_any(disk, path, id);
        for _ in 1..READS_MAX {
            if !matches!(loaded, Ok(StoredIndex::Damaged)) {
                break;
            }
            loaded = index::load_any(disk, path, id);
        }
        match loaded {
            Ok(StoredIndex::Intact { covers, entries }) => {
                check.covers = Some(covers);
                check.entries = entries.into();
            }
            Ok(StoredIndex::Missing | StoredIndex::Empty) => check.verdict = Some(Fact::IndexMissing),
            Ok(StoredIndex::Damaged) => check.verdict = Some(Fact::Index("checksum")),
            Err(error) => check.verdict = Some(Fact::Unreadable(error.to_string())),
        }
        check
    }

    /// A batch that is intact passes by.
    pub(super) fn pass(&mut self, position: u64, batch: &StoredHeader) {
        while let Some(entry) = self.entries.front().copied() {
            if entry.position > position {
                return;
            }
            self.entries.pop_front();
            let names_it = entry.position == position
                && entry.offset == batch.header.base_offset
                && self.covers.as_ref().is_some_and(|covers| covers.contains(&entry.offset))
                && entry.append_time_us == batch.header.append_time_us;
            if !names_it {
                self.lies("an entry names a batch that is not there");
            }
        }
    }

    /// Entries of damaged bytes cannot be judged.
    pub(super) fn pass_damage(&mut self, bytes: &Range<u64>) {
        self.entries.retain(|entry| entry.position >= bytes.end || entry.position < bytes.start);
    }

    /// What there is to say of it, once the batches of `base..end` have passed.
    pub(super) fn finish(mut self, segment: Range<Offset>) -> Option<Finding> {
        if let (None, Some(covers)) = (&self.verdict, self.covers.clone()) {
            if !self.entries.is_empty() || covers.end > segment.end {
                self.lies("it reaches beyond the batches");
            } else if covers.start != segment.start {
                self.lies("it is of another segment");
            }
        }
        self.verdict.map(|fact| Finding::new(self.path, fact))
    }

    fn lies(&mut self, what: &'static str) {
        self.verdict.get_or_insert(Fact::Index(what));
        self.entries.clear();
    }
}
