//! The data directory of a broker that is not running: verified, repaired, and told in words.

use std::{path::Path, sync::Arc};

pub use aqueduct_storage::{
    Audience, Checked, DataDirError, Fact, Finding, LogName, RepairAction, RepairStep, Repaired, Severity,
    StorageError, TornTail,
};
use aqueduct_storage::{RealDisk, RepairMode, StoppedDir};

use crate::{clock, engine::embedded::inventory::BrokerInventory};

/// A data directory that no broker has open, and that none can open while this lives. Opening it changes nothing.
#[derive(Debug)]
pub struct StoppedData {
    dir: StoppedDir,
}

impl StoppedData {
    /// Takes the lock of the directory at `path`. Blocking, as everything here.
    ///
    /// # Errors
    /// [`DataDirError::Locked`] with the pid of the broker that has it open; a directory that is none of ours, or of a
    /// newer format.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, DataDirError> {
        Ok(Self { dir: StoppedDir::open(Arc::new(RealDisk::new()), path.as_ref())? })
    }

    /// Bytes of all events, for progress.
    ///
    /// # Errors
    /// The disk's.
    pub fn segment_bytes(&self) -> Result<u64, StorageError> {
        self.dir.segment_bytes()
    }

    /// Reads everything in the directory and tells `audience` what is wrong with it. Changes nothing.
    ///
    /// # Errors
    /// What the disk refuses beyond single files of logs, which are findings.
    pub fn verify(&self, audience: &mut dyn Audience) -> Result<Checked, StorageError> {
        aqueduct_storage::verify_dir(&self.dir, &BrokerInventory::of(&self.dir)?, audience)
    }
}

impl StoppedData {
    /// Tells what [`repair`](Self::repair) would do. Changes nothing.
    ///
    /// # Errors
    /// The disk's.
    pub fn plan_repair(&self, tell: &mut dyn FnMut(&RepairStep)) -> Result<Repaired, StorageError> {
        aqueduct_storage::repair_dir(&self.dir, &BrokerInventory::of(&self.dir)?, RepairMode::DryRun, tell)
    }

    /// Makes damaged logs readable again: damaged bytes are kept in side files, their offsets are given up by name, and
    /// everything else stays as it was. `tell` hears of each step before it is taken.
    ///
    /// # Errors
    /// The disk's. What was done until then is whole: run it again.
    pub fn repair(&self, tell: &mut dyn FnMut(&RepairStep)) -> Result<Repaired, StorageError> {
        let mode = RepairMode::Repair { now_us: clock::now_us() };
        aqueduct_storage::repair_dir(&self.dir, &BrokerInventory::of(&self.dir)?, mode, tell)
    }
}

/// What a finding means, in words: what is wrong, and what that costs.
pub fn describe(fact: &Fact) -> String {
    match fact {
        Fact::Batches("payload checksum") => {
            "the checksum of the payload does not hold: reading these offsets answers DATA_LOSS".to_owned()
        }
        Fact::Batches(what) => format!("no batches of this log ({what}): reading these offsets answers DATA_LOSS"),
        Fact::EndsEarly => "the batches end early: reading these offsets answers DATA_LOSS".to_owned(),
        Fact::SegmentMissing => "a segment file is missing: the partition is refused until it is back".to_owned(),
        Fact::SegmentHeader => "the header of the segment is damaged; its batches are readable".to_owned(),
        Fact::Trailer => "the trailer of the segment is damaged; its batches are readable".to_owned(),
        Fact::Contradiction(what) => format!("an intact batch contradicts the log: {what}"),
        Fact::Index(what) => format!("the index is wrong ({what}); it is never evidence, and is built again"),
        Fact::StateSlot => {
            "one of its two slots is damaged, or was torn by a power loss; the other one counts".to_owned()
        }
        Fact::StateLost => {
            "no slot is intact: where the log begins is forgotten, and trimmed records may come back".to_owned()
        }
        Fact::OtherLog(id) => format!("it belongs to another log ({id})"),
        Fact::SmallFile(what) => what.clone(),
        Fact::Unsupported(what) => format!("this version cannot read it: {what}"),
        Fact::Unreadable(why) => format!("it cannot be read: {why}"),
        Fact::PartitionMissing => "there is no log of this partition, but of those after it".to_owned(),
        Fact::TornTail(TornTail { cut_bytes }) => {
            format!("a torn tail, which was promised to nobody: the next start cuts {cut_bytes} bytes")
        }
        Fact::NotClosed => "it was not closed: the next start looks at its end".to_owned(),
        Fact::Leftover => "left behind by a kill: the next start removes it".to_owned(),
        Fact::IndexMissing => "there is no index; it is built when it is needed".to_owned(),
        Fact::NotMade => "nothing was ever stored here, or the directory is lost".to_owned(),
        Fact::TakenOut => "damaged records that a repair has taken out: readers are told of the gap".to_owned(),
        Fact::Quarantined => "damaged bytes that a repair has kept".to_owned(),
    }
}
