//! What verification says: facts, which whoever shows them puts into words.

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;

use crate::{LogId, Offset};

/// Something that was found, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The log that it concerns; `None` for what belongs to none.
    pub log: Option<LogName>,
    /// The file, or the directory where one is missing.
    pub file: PathBuf,
    /// Byte positions in the file.
    pub bytes: Option<Range<u64>>,
    /// Offsets whose records are concerned.
    pub offsets: Option<Range<Offset>>,
    /// What it is.
    pub fact: Fact,
}

/// Whose log it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogName {
    /// A partition of a topic.
    Partition {
        /// The topic's name.
        topic: String,
        /// Which one.
        partition: u32,
    },
    /// One of the broker's own.
    System(String),
}

impl fmt::Display for LogName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Partition { topic, partition } => write!(f, "{topic}/{partition}"),
            Self::System(name) => write!(f, "system/{name}"),
        }
    }
}

/// Whether something is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Nothing is: what a kill leaves, or what a repair has done.
    Note,
    /// Stored bytes are not what was written, or are gone.
    Damage,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    /// Bytes that should be batches of the log are none; says what does not hold.
    Batches(&'static str),
    /// The batches end before the offset at which they must.
    EndsEarly,
    /// Offsets are missing between two segments, or at either end of the log: a file is gone.
    SegmentMissing,
    /// The first bytes of a segment are not what was written. Its batches are judged by themselves.
    SegmentHeader,
    /// The last bytes of a sealed segment are not what was written. Its batches are judged by themselves.
    Trailer,
    /// A batch is intact and contradicts the log; says how.
    Contradiction(&'static str),
    /// An index is not what was written, or does not fit its segment. It is never evidence: it is built again.
    Index(&'static str),
    /// A slot of `partition.state` is not what was written, or was torn by a power loss. The other one counts.
    StateSlot,
    /// No slot of `partition.state` is intact, or the file is gone: the log start is forgotten.
    StateLost,
    /// The directory holds another log.
    OtherLog(LogId),
    /// A small file is not what was written; says how.
    SmallFile(String),
    /// It cannot be read by this version; says why.
    Unsupported(String),
    /// The system refuses to read it; says why.
    Unreadable(String),
    /// There are logs of a topic with higher numbers, and none of this one.
    PartitionMissing,

    /// The log was killed and ends in what nobody was promised. The next start settles it.
    TornTail(TornTail),
    /// The log was not closed: the next start looks at its end.
    NotClosed,
    /// Left behind by a removal or a creation that was interrupted; the next start removes it.
    Leftover,
    /// There is no index where one would be; it is built when it is needed.
    IndexMissing,
    /// No log was made here yet.
    NotMade,
    /// Records that were damaged: a repair has taken them out, and readers are told of the gap.
    TakenOut,
    /// Damaged bytes that a repair has kept.
    Quarantined,
}

/// The end of a log that was killed: what is intact of it, the offsets of the finding, is kept by the next start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TornTail {
    /// Bytes that are not intact and will be cut; zeros written ahead do not count.
    pub cut_bytes: u64,
}

impl Fact {
    /// Whether it is damage.
    #[must_use]
    pub fn severity(&self) -> Severity {
        match self {
            Self::Batches(_)
            | Self::EndsEarly
            | Self::SegmentMissing
            | Self::SegmentHeader
            | Self::Trailer
            | Self::Contradiction(_)
            | Self::Index(_)
            | Self::StateSlot
            | Self::StateLost
            | Self::OtherLog(_)
            | Self::SmallFile(_)
            | Self::Unsupported(_)
            | Self::Unreadable(_)
            | Self::PartitionMissing => Severity::Damage,
            Self::TornTail(_)
            | Self::NotClosed
            | Self::Leftover
            | Self::IndexMissing
            | Self::NotMade
            | Self::TakenOut
            | Self::Quarantined => Severity::Note,
        }
    }

    /// One word for programs, the same in every version.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Batches(_) => "batches",
            Self::EndsEarly => "ends_early",
            Self::SegmentMissing => "segment_missing",
            Self::SegmentHeader => "segment_header",
            Self::Trailer => "trailer",
            Self::Contradiction(_) => "contradiction",
            Self::Index(_) => "index",
            Self::StateSlot => "state_slot",
            Self::StateLost => "state_lost",
            Self::OtherLog(_) => "other_log",
            Self::SmallFile(_) => "small_file",
            Self::Unsupported(_) => "unsupported",
            Self::Unreadable(_) => "unreadable",
            Self::PartitionMissing => "partition_missing",
            Self::TornTail(_) => "torn_tail",
            Self::NotClosed => "not_closed",
            Self::Leftover => "leftover",
            Self::IndexMissing => "index_missing",
            Self::NotMade => "not_made",
            Self::TakenOut => "taken_out",
            Self::Quarantined => "quarantined",
        }
    }
}

impl Finding {
    /// Of a whole file.
    pub(crate) fn new(file: impl Into<PathBuf>, fact: Fact) -> Self {
        Self { log: None, file: file.into(), bytes: None, offsets: None, fact }
    }

    pub(crate) fn at(mut self, bytes: Range<u64>) -> Self {
        self.bytes = Some(bytes);
        self
    }

    pub(crate) fn of(mut self, offsets: Range<Offset>) -> Self {
        self.offsets = Some(offsets);
        self
    }

    /// Whether it is damage.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        self.fact.severity() == Severity::Damage
    }
}
