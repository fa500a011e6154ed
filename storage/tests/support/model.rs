//! A log on the simulated disk beside a model of what it must hold, for workloads that are cut short anywhere.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aqueduct_storage::sim::SimDisk;
use aqueduct_storage::{
    AppendError, Batch, CompactionError, CompactionPolicy, Durability, Installed, LogId, LogOptions, Offset, OpenError,
    PartitionLog, RecoveryReport, Urgency,
};
use bytes::Bytes;

use super::keyed::{Keyed, next_keyed_group};
use super::lines::Lines;
use super::{ID, assert_same, log_dir, next_group, note, plain, read_all, read_from, small_options};

/// One thing done to a log.
#[derive(Debug, Clone)]
pub(crate) enum Action {
    /// A group with payloads of these sizes.
    Append(Vec<usize>),
    /// Two groups, of which the second is written before the first is synced.
    Overlap(Vec<usize>, Vec<usize>),
    /// A batch with this payload.
    Note(Bytes),
    /// Trim to this many permille of what is readable.
    Trim(u64),
    TrimTo(Offset),
    /// Retention with this many bytes.
    Retain(u64),
    RaiseEpoch,
    /// Seal the active segment, and begin an empty one.
    Roll,
    /// Close, and open again.
    Reopen,
    /// Recover in the process, if the log has failed.
    Heal,
    /// One compaction, if the log is one that is compacted.
    Compact(Pass),
}

/// A compaction, and what happens to the log meanwhile.
#[derive(Debug, Clone)]
pub(crate) struct Pass {
    /// Keys held in memory.
    pub(crate) keys_max: usize,
    /// So many µs after the last append.
    pub(crate) later_us: i64,
    /// Each happens when one more file is written and not yet put in place.
    pub(crate) meanwhile: Vec<Action>,
}

/// How long tombstones stay; each group is a µs younger than the one before.
const TOMBSTONE_RETENTION: Duration = Duration::from_micros(20);

/// What the oracle of FAULTS.md knows about a log at some moment.
#[derive(Debug, Clone)]
pub(crate) struct Model {
    pub(crate) dir: PathBuf,
    id: LogId,
    /// Acknowledged or read: must be found, byte-equal, in order, without gaps.
    pub(crate) certain: Vec<Batch>,
    /// Written and never acknowledged: may be found behind what is certain, from the front.
    pub(crate) maybe: Vec<Batch>,
    /// The log start that was acknowledged.
    pub(crate) log_start: Offset,
    /// The log start that was asked for: nothing above may be missing.
    pub(crate) log_start_max: Offset,
    /// The highest epoch that was visible.
    pub(crate) epoch: u32,
    /// Every batch that was acknowledged or read, by epoch and base offset.
    seen: HashMap<(u32, Offset), Batch>,
    /// Every batch whose outcome was not known.
    unacked: Vec<Batch>,
    /// Whether the log's creation was acknowledged.
    pub(crate) created: bool,
    pub(crate) durability: Durability,
    /// Segments that retention has removed.
    pub(crate) segments_removed: usize,
    /// The records of a log that is compacted: what is certain of them may be gone.
    pub(crate) keyed: Option<Keyed>,
    /// Files that compactions have put in place.
    pub(crate) files_installed: usize,
}

/// How often a read is tried on a disk on which single operations fail.
const READ_ATTEMPTS: usize = 4;

/// Why a workload ended.
#[derive(Debug)]
pub(crate) enum Ended {
    Done(Box<PartitionLog>),
    /// The disk refused; the log object is gone, as in a kill.
    Killed,
}

pub(crate) fn options(durability: Durability) -> LogOptions {
    LogOptions { durability, ..small_options() }
}

impl Model {
    pub(crate) fn new(durability: Durability) -> Self {
        Self::of(log_dir(), ID, durability)
    }

    /// A model of the log `id` in `dir`.
    pub(crate) fn of(dir: PathBuf, id: LogId, durability: Durability) -> Self {
        Self {
            dir,
            id,
            certain: Vec::new(),
            maybe: Vec::new(),
            log_start: 0,
            log_start_max: 0,
            epoch: 0,
            seen: HashMap::new(),
            unacked: Vec::new(),
            created: false,
            durability,
            segments_removed: 0,
            keyed: None,
            files_installed: 0,
        }
    }

    /// The log is one that is compacted.
    pub(crate) fn compacted(self) -> Self {
        Self { keyed: Some(Keyed::default()), ..self }
    }

    /// Makes the log and does `actions`, until the end or the first failure that is not healed.
    pub(crate) fn run(&mut self, disk: &SimDisk, actions: &[Action]) -> Ended {
        let shared = disk.shared();
        if shared.create_dir(Path::new("/log")).is_err() || shared.sync_dir(Path::new("/")).is_err() {
            return Ended::Killed;
        }
        match self.create(disk) {
            Ok(log) => self.go_on(disk, log, actions),
            Err(_) => Ended::Killed,
        }
    }

    pub(crate) fn create(&mut self, disk: &SimDisk) -> Result<PartitionLog, OpenError> {
        let log = PartitionLog::create(disk.shared(), &self.dir, self.id, options(self.durability))?;
        self.created = true;
        Ok(log)
    }

    /// Does `actions` with `log`.
    pub(crate) fn go_on(&mut self, disk: &SimDisk, mut log: PartitionLog, actions: &[Action]) -> Ended {
        for action in actions {
            self.epoch = self.epoch.max(log.epoch());
            log = match self.act(disk, log, action) {
                Some(log) => log,
                None => return Ended::Killed,
            };
        }
        Ended::Done(Box::new(log))
    }

    fn act(&mut self, disk: &SimDisk, mut log: PartitionLog, action: &Action) -> Option<PartitionLog> {
        match action {
            Action::Append(sizes) => {
                let group = self.next_group(&log, sizes);
                let outcome = log.append_group(&group);
                self.appended(group, outcome);
            }
            Action::Note(payload) => {
                let group = vec![note(&log, payload.clone())];
                let outcome = log.append_group(&group);
                self.appended(group, outcome);
            }
            Action::Overlap(first, second) => self.overlap(&mut log, first, second),
            Action::Trim(permille) => {
                let window = log.window();
                let readable = window.high_watermark - window.log_start;
                self.trim(&mut log, window.log_start + readable * permille / 1000);
            }
            Action::TrimTo(before) => self.trim(&mut log, *before),
            Action::Retain(bytes) => {
                let asked_before = self.log_start_max;
                self.log_start_max = self.log_start_max.max(log.window().high_watermark);
                log.set_options(LogOptions { retention_bytes: Some(*bytes), ..options(self.durability) });
                if let Ok(outcome) = log.enforce_retention(0) {
                    self.log_start = outcome.log_start;
                    self.log_start_max = asked_before.max(outcome.log_start);
                    self.segments_removed += outcome.segments_removed;
                }
            }
            Action::RaiseEpoch => drop(log.raise_epoch()),
            Action::Roll => drop(log.roll()),
            Action::Reopen => {
                let is_failed = log.is_failed();
                let closed = log.close();
                assert!(!(is_failed && closed.is_ok()), "a failed log cannot be closed cleanly");
                log = match self.open(disk) {
                    Ok((log, report)) => {
                        assert!(report.damage.is_empty(), "{report:?}");
                        self.check_while_on(disk, &log, "reopened")?;
                        log
                    }
                    Err(_) => return None,
                };
            }
            Action::Heal => {
                let was_failed = log.is_failed();
                if log.recover_from_failure().is_ok() && was_failed {
                    self.maybe.clear();
                    self.keyed.iter_mut().for_each(Keyed::give_up_unknown);
                    self.check_while_on(disk, &log, "healed")?;
                }
            }
            Action::Compact(pass) => log = self.compact(disk, log, pass)?,
        }
        self.epoch = self.epoch.max(if log.is_failed() { 0 } else { log.epoch() });
        Some(log)
    }

    /// What is certain and was not removed.
    pub(crate) fn readable(&self) -> &[Batch] {
        &self.certain[self.certain.partition_point(|batch| batch.header.next_offset() <= self.log_start)..]
    }

    fn next_group(&self, log: &PartitionLog, sizes: &[usize]) -> Vec<Batch> {
        if self.keyed.is_some() { next_keyed_group(log, sizes) } else { next_group(log, sizes) }
    }

    /// One pass; what the disk refuses costs nothing but the rest of it.
    fn compact(&mut self, disk: &SimDisk, mut log: PartitionLog, pass: &Pass) -> Option<PartitionLog> {
        let Some(keyed) = &mut self.keyed else { return Some(log) };
        let policy = CompactionPolicy {
            now_us: log.last_append_time_us().unwrap_or(0) + pass.later_us,
            tombstone_retention: TOMBSTONE_RETENTION,
            min_lag: Duration::ZERO,
            active_age_max: Duration::MAX,
            keys_max: pass.keys_max,
            urgency: Urgency::Now,
        };
        keyed.compact(&policy);
        let go_on = &mut |_| ControlFlow::Continue(());
        let refused = |error: CompactionError| assert!(matches!(error, CompactionError::Storage(_)), "{error}");
        let begun = log.reader().compact(policy, log.options().segment_bytes, &Lines, go_on).map_err(refused);
        let Ok(Some(mut compaction)) = begun else { return Some(log) };
        let mut meanwhile = pass.meanwhile.iter();
        while let Ok(Some(rewritten)) = compaction.next(&Lines, go_on).map_err(refused) {
            if let Some(action) = meanwhile.next() {
                log = self.act(disk, log, action)?;
            }
            let Ok(Installed::InPlace { .. }) = log.install(rewritten) else { break };
            self.files_installed += 1;
            self.keyed.iter_mut().for_each(|keyed| keyed.note_gone(&log));
        }
        Some(log)
    }

    fn appended(&mut self, group: Vec<Batch>, outcome: Result<(), AppendError>) {
        match outcome {
            Ok(()) => {
                self.keyed.iter_mut().for_each(|keyed| group.iter().for_each(|batch| keyed.acknowledge(batch)));
                group.iter().for_each(|batch| self.see(batch, "acknowledged"));
                self.certain.extend(group);
            }
            Err(AppendError::OutcomeUnknown(_)) => {
                self.keyed.iter_mut().for_each(|keyed| group.iter().for_each(|batch| keyed.suspect(batch)));
                self.unacked.extend(group.iter().map(plain));
                self.maybe.extend(group);
            }
            // Refused; but blocks that held it may be shown where the power took what a page cache has acknowledged.
            Err(AppendError::Full) => self.unacked.extend(group.iter().map(plain)),
            Err(AppendError::Failed) => {}
            Err(error @ AppendError::Rejected(_)) => panic!("{error}"),
        }
    }

    fn overlap(&mut self, log: &mut PartitionLog, first: &[usize], second: &[usize]) {
        let mut groups = Vec::new();
        for sizes in [first, second] {
            let group = self.next_group(log, sizes);
            match log.write_group(&group) {
                Ok(written) => groups.push((group, written)),
                Err(error) => {
                    // It lies above the group before it, whose outcome is not known yet.
                    for (group, written) in groups.drain(..) {
                        let outcome = log.publish(written.sync());
                        self.appended(group, outcome);
                    }
                    self.appended(group, Err(error));
                    return;
                }
            }
        }
        for (group, written) in groups {
            let outcome = log.publish(written.sync());
            self.appended(group, outcome);
        }
    }

    fn trim(&mut self, log: &mut PartitionLog, before: Offset) {
        self.log_start_max = self.log_start_max.max(before);
        if let Ok(log_start) = log.trim(before) {
            self.log_start = log_start;
        }
    }

    /// An epoch and an offset never name two different records.
    fn see(&mut self, batch: &Batch, context: &str) {
        let batch = plain(batch);
        let identity = (batch.header.epoch, batch.header.base_offset);
        let before = self.seen.entry(identity).or_insert_with(|| batch.clone());
        assert!(*before == batch, "{context}: {identity:?} names two batches");
    }

    pub(crate) fn open(&self, disk: &SimDisk) -> Result<(PartitionLog, RecoveryReport), OpenError> {
        PartitionLog::open(disk.shared(), &self.dir, self.id, options(self.durability), 0)
    }

    /// Opens the log on `disk`, which nothing hinders, and checks it; from then on all that is found is certain.
    pub(crate) fn reopen(&mut self, disk: &SimDisk, context: &str) -> Option<PartitionLog> {
        match self.open(disk) {
            Ok((log, report)) => {
                self.check(&log, &report, context);
                Some(log)
            }
            Err(OpenError::Missing { .. }) if !self.created => None,
            Err(error) => panic!("{context}: {error}"),
        }
    }

    fn check(&mut self, log: &PartitionLog, report: &RecoveryReport, context: &str) {
        assert!(report.damage.is_empty(), "{context}: {report:?}");
        self.check_content(log, context);
    }

    pub(crate) fn check_content(&mut self, log: &PartitionLog, context: &str) {
        self.check_found(log, read_all(&log.reader()), context);
    }

    /// As [`Model::check_content`], on a disk whose power may go meanwhile; what was found.
    pub(crate) fn check_while_on(&mut self, disk: &SimDisk, log: &PartitionLog, context: &str) -> Option<Vec<Batch>> {
        let read = || read_from(&log.reader(), log.window().log_start);
        // A fault befalls one operation: a later attempt is spared.
        match (1..READ_ATTEMPTS).find_map(|_| read().ok()).map_or_else(read, Ok) {
            Ok(found) => {
                self.check_found(log, found.clone(), context);
                Some(found)
            }
            Err(_) if disk.is_off() => None,
            Err(error) => panic!("{context}: {error}"),
        }
    }

    pub(crate) fn check_found(&mut self, log: &PartitionLog, found: Vec<Batch>, context: &str) {
        let window = log.window();
        assert!(log.epoch() >= self.epoch, "{context}: epoch {} after {}", log.epoch(), self.epoch);
        assert!(
            (self.log_start..=self.log_start_max.max(self.log_start)).contains(&window.log_start),
            "{context}: log start {} is not in [{}, {}]",
            window.log_start,
            self.log_start,
            self.log_start_max
        );
        if let Some(keyed) = &mut self.keyed {
            keyed.check(window, &found, context);
            let mut all: Vec<Batch> = self.certain.drain(..).chain(self.maybe.drain(..)).collect();
            all.retain(|batch| batch.header.base_offset < window.high_watermark);
            self.accept(log, all, context);
            return;
        }
        let all: Vec<Batch> = self.certain.iter().chain(&self.maybe).cloned().collect();
        let first = all.partition_point(|batch| batch.header.next_offset() <= window.log_start);
        let expected = &all[first..];
        let certain = self.certain.len().saturating_sub(first);
        match self.durability {
            Durability::Fsync => {
                assert!(found.len() >= certain, "{context}: {} of {certain}", found.len());
                assert!(found.len() <= expected.len(), "{context}: {} batches out of nowhere", found.len());
                assert_same(&found, &expected[..found.len()], context);
            }
            // Where the power took what was acknowledged, old blocks may show what an earlier life wrote there, under
            // its own epoch.
            Durability::Os => {
                let is_same = |(found, expected): &(&Batch, &Batch)| plain(found) == plain(expected);
                let same = found.iter().zip(expected).take_while(is_same).count();
                let was_written = |batch: &Batch| {
                    self.seen.contains_key(&(batch.header.epoch, batch.header.base_offset))
                        || self.unacked.contains(&plain(batch))
                };
                assert!(found[same..].iter().all(was_written), "{context}: batches out of nowhere");
            }
        }
        found.iter().for_each(|batch| self.see(batch, context));
        self.accept(log, all[..first].iter().cloned().chain(found).collect(), context);
    }

    /// What the log shows is certain from now on.
    fn accept(&mut self, log: &PartitionLog, certain: Vec<Batch>, context: &str) {
        let window = log.window();
        let last_us = certain.last().map(|last| last.header.append_time_us);
        let known_us = log.last_append_time_us();
        assert!(known_us >= last_us, "{context}: {known_us:?} is taken for the last append time, {last_us:?} is");
        self.certain = certain;
        self.maybe.clear();
        self.log_start = window.log_start;
        self.log_start_max = window.log_start;
        self.epoch = log.epoch();
    }
}

/// After any recovery the log must be good for more: appends, a clean stop, and all of it again.
pub(crate) fn prove_usable(model: &mut Model, disk: &SimDisk, log: PartitionLog, context: &str) {
    let actions = [Action::Append(vec![50, 700]), Action::Append(vec![10]), Action::Reopen, Action::Append(vec![20])];
    let before = model.certain.len();
    let Ended::Done(log) = model.go_on(disk, log, &actions) else { panic!("{context}: unusable") };
    assert_eq!(model.certain.len(), before + 4, "{context}: appends succeed");
    model.check_content(&log, context);
}
