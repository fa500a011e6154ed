//! Repair: a damaged log made readable again, without one offset renumbered and without one byte thrown away.
//!
//! Damaged bytes are copied into a side file beside the segment ([`crate::quarantine`]), and the segment is written anew
//! with an empty batch in their place that spans the lost offsets and says that they are lost ([`segment`]). Always
//! through a new file: written, synced, renamed. So a crash leaves the old segment or the new one, and a repair that is
//! run again goes on where the one before ended.
//!
//! What was acknowledged and what is a tail is not decided here: before anything is changed, the log is opened and closed
//! as by any start, which settles its end. What cannot be mended is refused, and then nothing of that log is touched.

mod plan;
mod segment;

use std::ops::{ControlFlow, Range};
use std::path::{Path, PathBuf};

use crate::disk::Access;
use crate::options::LogOptions;
use crate::quarantine::{self, Kept};
use crate::recovery::{Place, list_segments, split_leftovers};
use crate::segment::{index_file_name, parse_file_name};
use crate::state::{self, LastSegment, Loaded, SegmentKind, StateFile, Stop};
use crate::verify::data_dir::{FoundLog, Named, find_logs};
use crate::verify::stopped::verify_in;
use crate::{
    Audience, Checked, Fact, Finding, Inventory, LogName, Offset, OpenError, PartitionLog, StoppedDir, StorageError,
};

/// Whether a repair changes anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RepairMode {
    /// Only tells what it would do.
    DryRun,
    /// Does it.
    Repair {
        /// The wall clock, µs since the epoch.
        now_us: i64,
    },
}

/// One thing that a repair does, or would do, or will not do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepairStep {
    /// The log that it concerns; `None` for what belongs to none.
    pub log: Option<LogName>,
    /// The file.
    pub file: PathBuf,
    /// What.
    pub action: RepairAction,
}

/// See [`RepairStep`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RepairAction {
    /// Damaged bytes are kept in a side file.
    Keep {
        /// Where they lie in the file.
        bytes: Range<u64>,
        /// Where they go.
        side_file: PathBuf,
    },
    /// Offsets are given up: readers are told that they are lost.
    GiveUp {
        /// Which.
        offsets: Range<Offset>,
    },
    /// The file is written anew, with everything in it that is intact.
    Rewrite,
    /// The file is not evidence and is made again from the log.
    MakeAgain,
    /// Nothing is done about the finding.
    Refuse {
        /// The finding.
        finding: Box<Finding>,
    },
}

/// What became of a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Repaired {
    /// Logs that are, or would be, repaired.
    pub logs: u64,
    /// Findings about which nothing is done.
    pub refused: u64,
    /// Offsets that are given up.
    pub offsets: u64,
}

/// Repairs what is damaged in `dir`, or tells what it would do. `tell` hears of each step before it is taken.
///
/// # Errors
/// The disk's. Everything done until then is whole: run it again.
pub fn repair_dir(
    dir: &StoppedDir,
    inventory: &dyn Inventory,
    mode: RepairMode,
    tell: &mut dyn FnMut(&RepairStep),
) -> Result<Repaired, StorageError> {
    let mut around = Collected::default();
    let logs = find_logs(dir, inventory, &mut around)?;
    let mut repaired = Repaired::default();
    let mut tell = |step: RepairStep| {
        match &step.action {
            RepairAction::Refuse { .. } => repaired.refused += 1,
            RepairAction::GiveUp { offsets } => repaired.offsets += offsets.end - offsets.start,
            RepairAction::Keep { .. } | RepairAction::Rewrite | RepairAction::MakeAgain => {}
        }
        tell(&step);
    };
    let mut mended = std::collections::BTreeSet::new();
    for finding in around.damage {
        let log = finding.log.clone();
        if small_file(dir, mode, finding, &mut tell)? == Outcome::Mended {
            mended.extend(log);
        }
    }
    for FoundLog { name, dir: log_dir, id } in &logs {
        let Some(id) = *id else { continue };
        let place = Place { disk: &dir.disk, dir: log_dir, id };
        if (Repair { place, name: Some(name), mode, tell: &mut tell }).run()? == Outcome::Mended {
            mended.insert(name.clone());
        }
    }
    repaired.logs = mended.len() as u64;
    Ok(repaired)
}

/// Repairs the log `id` in `dir`, which nobody has open. See [`repair_dir`].
///
/// # Errors
/// The disk's.
pub fn repair_log(
    disk: &std::sync::Arc<dyn crate::Disk>,
    dir: &Path,
    id: crate::LogId,
    mode: RepairMode,
    tell: &mut dyn FnMut(&RepairStep),
) -> Result<(), StorageError> {
    let place = Place { disk, dir, id };
    Repair { place, name: None, mode, tell: &mut |step| tell(&step) }.run().map(|_| ())
}

/// A small file that is not a log's own. What the broker completes from the log is set aside; the rest holds facts that
/// are nowhere else.
fn small_file(
    dir: &StoppedDir,
    mode: RepairMode,
    finding: Finding,
    tell: &mut dyn FnMut(RepairStep),
) -> Result<Outcome, StorageError> {
    let file = finding.file.clone();
    let is_checkpoint = matches!((&finding.fact, &finding.log), (Fact::SmallFile(_), Some(LogName::Partition { .. })));
    if !is_checkpoint {
        let action = RepairAction::Refuse { finding: Box::new(finding) };
        tell(RepairStep { log: None, file, action });
        return Ok(Outcome::Refused);
    }
    let opened = dir.disk.open(&file, Access::Read).map_err(|error| StorageError::io("open", &file, error))?;
    let bytes = 0..opened.len().map_err(|error| StorageError::io("stat", &file, error))?;
    let side_file = quarantine::side_path(&file, 0, 1);
    let log = finding.log;
    tell(RepairStep {
        log: log.clone(),
        file: file.clone(),
        action: RepairAction::Keep { bytes: bytes.clone(), side_file },
    });
    tell(RepairStep { log, file: file.clone(), action: RepairAction::MakeAgain });
    if mode != RepairMode::DryRun {
        quarantine::keep(&*dir.disk, &file, &Kept { bytes, offsets: 0..0, what: "checksum" })?;
        dir.disk.remove_file(&file).map_err(|error| StorageError::io("remove", &file, error))?;
        crate::rewrite::sync_dir_of(&*dir.disk, &file)?;
    }
    Ok(Outcome::Mended)
}

/// Keeps what is damage.
#[derive(Default)]
struct Collected {
    damage: Vec<Finding>,
}

impl Audience for Collected {
    fn found(&mut self, finding: Finding) {
        if finding.is_damage() {
            self.damage.push(finding);
        }
    }

    fn read(&mut self, _bytes: u64) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Nothing,
    Refused,
    Mended,
}

/// The repair of one log.
struct Repair<'a> {
    place: Place<'a>,
    name: Option<&'a LogName>,
    mode: RepairMode,
    tell: &'a mut dyn FnMut(RepairStep),
}

impl Repair<'_> {
    fn run(mut self) -> Result<Outcome, StorageError> {
        let damage = self.verify()?;
        if damage.is_empty() {
            return Ok(Outcome::Nothing);
        }
        let refused: Vec<&Finding> = damage.iter().filter(|finding| !can_mend(&finding.fact)).collect();
        if !refused.is_empty() {
            for finding in refused {
                let action = RepairAction::Refuse { finding: Box::new(finding.clone()) };
                self.step(&finding.file, action);
            }
            return Ok(Outcome::Refused);
        }
        let is_state = |finding: &&Finding| matches!(finding.fact, Fact::StateSlot | Fact::StateLost);
        let states: Vec<&Finding> = damage.iter().filter(is_state).collect();
        let is_in_segments = damage.iter().any(|finding| is_of_segment(&finding.fact));
        if let Some(state) = states.first() {
            self.step(&state.file, RepairAction::Rewrite);
        }
        if let RepairMode::Repair { now_us } = self.mode
            && (is_in_segments || !states.is_empty())
        {
            self.settle(now_us)?;
        }
        if is_in_segments {
            self.announce(&damage);
        }
        if is_in_segments && self.mode != RepairMode::DryRun {
            self.segments(&damage)?;
        }
        for finding in damage.iter().filter(|finding| matches!(finding.fact, Fact::Index(_))) {
            self.index(&finding.file)?;
        }
        Ok(Outcome::Mended)
    }

    fn verify(&self) -> Result<Vec<Finding>, StorageError> {
        let mut collected = Collected::default();
        match self.name {
            Some(log) => {
                let mut named = Named { log, audience: &mut collected };
                verify_in(self.place, &mut named, &mut Checked::default())?
            }
            None => verify_in(self.place, &mut collected, &mut Checked::default())?,
        };
        Ok(collected.damage)
    }

    fn step(&mut self, file: &Path, action: RepairAction) {
        (self.tell)(RepairStep { log: self.name.cloned(), file: file.to_owned(), action });
    }

    /// As any start would: recovers the end of the log, and closes it. Both slots of the state are written.
    fn settle(&self, now_us: i64) -> Result<(), StorageError> {
        let Place { disk, dir, id } = self.place;
        let (log, _) = PartitionLog::open(disk.clone(), dir, id, LogOptions::default(), now_us).map_err(opening)?;
        log.close()
    }

    /// What is done about the segments follows from what verification has found in them.
    fn announce(&mut self, damage: &[Finding]) {
        let mut found: Vec<&Finding> = damage.iter().filter(|finding| is_of_segment(&finding.fact)).collect();
        found.sort_by(|one, other| one.file.cmp(&other.file));
        for of_file in found.chunk_by(|one, other| one.file == other.file) {
            for finding in of_file {
                if let Some(bytes) = finding.bytes.clone().filter(|bytes| !bytes.is_empty()) {
                    let side_file = quarantine::side_path(&finding.file, bytes.start, 1);
                    self.step(&finding.file, RepairAction::Keep { bytes, side_file });
                }
                if let Some(offsets) = finding.offsets.clone() {
                    self.step(&finding.file, RepairAction::GiveUp { offsets });
                }
            }
            self.step(&of_file[0].file, RepairAction::Rewrite);
        }
    }

    /// Writes the damaged segments of a log that was settled anew.
    fn segments(&self, damage: &[Finding]) -> Result<(), StorageError> {
        let listed = list_segments(self.place).map_err(opening)?;
        let Place { disk, dir, id } = self.place;
        let Loaded::State(mut file, state) = StateFile::load(disk.clone(), dir, id)? else {
            let what = "it was lost again".to_owned();
            return Err(StorageError::Corrupt { path: dir.join(state::FILE_NAME), position: 0, what });
        };
        let (_, live) = split_leftovers(&listed, state.log_start);
        let plans = plan::segments(self.place, live, &state, damage)?;
        let last_base = live.last().map(|last| last.base);
        for plan in plans.iter().filter(|plan| plan.is_needed()) {
            for kept in plan.kept() {
                quarantine::keep(&**disk, &plan.path, &kept)?;
            }
            let position = segment::rewrite(self.place, plan)?;
            let base = plan.listed.base;
            if Some(base) == last_base {
                // A start in between is one after a kill, and believes the trailer.
                let last = LastSegment { base, position, kind: SegmentKind::Sealed };
                file.write_synced(&state::State { last_segment: Some(last), stop: Stop::Clean, ..state })?;
            }
        }
        Ok(())
    }

    fn index(&mut self, path: &Path) -> Result<(), StorageError> {
        self.step(path, RepairAction::MakeAgain);
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if let (RepairMode::Repair { .. }, Some(base)) = (self.mode, parse_file_name(name, "index")) {
            segment::make_index(self.place, base, &self.place.dir.join(index_file_name(base)))?;
        }
        Ok(())
    }
}

/// What a start refuses although verification did not.
fn opening(error: OpenError) -> StorageError {
    match error {
        OpenError::Storage(error) => error,
        OpenError::Unsupported { path, what } => StorageError::Unsupported { path, what },
        OpenError::Missing { dir } | OpenError::AlreadyExists { dir } => {
            StorageError::Corrupt { path: dir, position: 0, what: "the log has gone meanwhile".to_owned() }
        }
        error @ (OpenError::WrongLog { .. } | OpenError::MissingSegment { .. }) => {
            StorageError::Corrupt { path: PathBuf::new(), position: 0, what: error.to_string() }
        }
    }
}

fn is_of_segment(fact: &Fact) -> bool {
    matches!(fact, Fact::Batches(_) | Fact::EndsEarly | Fact::SegmentHeader | Fact::Trailer)
}

/// Missing files may still be in a backup, intact contradictions hide a mistake, what cannot be read may be readable on
/// another disk: making the log look whole would be worse.
fn can_mend(fact: &Fact) -> bool {
    is_of_segment(fact) || matches!(fact, Fact::Index(_) | Fact::StateSlot | Fact::StateLost)
}
