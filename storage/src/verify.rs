//! Verification: every checksum, every link and every index of what is stored, and not one byte changed.
//!
//! What is damage is judged where recovery and readers have it judged ([`crate::segment::walk`],
//! [`crate::recovery::chain`]); here it is named. What a kill or a power loss may leave behind is no damage but a
//! [`Severity::Note`]: a torn tail, files half made, half removed. Memory is bounded by one piece of a payload, the index
//! of one segment, and what lies open in an unproven tail.

pub(crate) mod data_dir;
mod finding;
mod index;
pub(crate) mod log;
mod open;
pub(crate) mod stopped;

use std::ops::ControlFlow;

pub use data_dir::{Inventory, StoppedDir, verify_dir};
pub use finding::{Fact, Finding, LogName, Severity, TornTail};
pub use stopped::verify_log;

/// Who listens to a verification.
pub trait Audience {
    /// Something was found.
    fn found(&mut self, finding: Finding);
    /// So many more bytes were read; [`ControlFlow::Break`] ends the verification early.
    fn read(&mut self, bytes: u64) -> ControlFlow<()>;
}

/// What a verification has looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Checked {
    /// Logs: partitions, and those of the broker's own.
    pub logs: u64,
    /// Segment files.
    pub segments: u64,
    /// Intact batches.
    pub batches: u64,
    /// Records in them.
    pub records: u64,
    /// Bytes read.
    pub bytes: u64,
}

impl std::ops::AddAssign for Checked {
    fn add_assign(&mut self, other: Self) {
        self.logs += other.logs;
        self.segments += other.segments;
        self.batches += other.batches;
        self.records += other.records;
        self.bytes += other.bytes;
    }
}
