//! A process on a simulated disk, and what it does; beside it what must be found there.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::{Path, PathBuf};

use aqueduct_storage::sim::SimDisk;
use aqueduct_storage::{
    Batch, Cleanup, DataDir, DataDirError, Durability, LogReader, Offset, OpenError, PartitionLog, TopicMeta,
};
use bytes::Bytes;

use crate::coverage::Met;
use crate::known::{CommitKey, Known, LogName, SmallFile, commit_line, system_file, topic_id};
use crate::seeds::tell;
use crate::support::assert_same;
use crate::support::model::{Action, Ended};

/// A fault befalls one operation, and there are at most so many less one of them.
const ATTEMPTS: usize = 5;
/// Batches that are looked up one by one after each recovery of a log.
const LOOKUPS: usize = 6;

/// One thing done in the data directory. Logs are chosen by number among those that there are.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    CreateTopic {
        name: &'static str,
        partitions: u32,
        durability: Durability,
        cleanup: Cleanup,
    },
    AlterTopic {
        name: &'static str,
        retention_bytes: u64,
    },
    DeleteTopic {
        name: &'static str,
    },
    Log {
        pick: usize,
        action: Action,
    },
    Journal(Action),
    /// A group commits in a log, somewhere between what it has committed and the high watermark.
    Commit {
        group: u8,
        pick: usize,
        permille: u64,
    },
    /// All committed offsets are written to the journal anew, and what lies before is trimmed.
    Snapshot,
    SaveFile {
        name: &'static str,
        bytes: usize,
    },
    SaveProducers {
        pick: usize,
        bytes: usize,
    },
    /// Every log that has failed recovers.
    HealAll,
    /// So many bytes can be written before the disk is full.
    FillDisk {
        room: u64,
    },
    FreeDisk,
}

/// How a process ends.
#[derive(Debug, Clone, Copy)]
pub(crate) enum End {
    Clean,
    Kill,
    PowerLoss(u64),
}

/// The disk has no power any more.
#[derive(Debug)]
pub(crate) struct PowerLost;

/// See the module.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) disk: SimDisk,
    pub(crate) known: Known,
    process: Option<Process>,
    pub(crate) met: Met,
    pub(crate) context: String,
}

#[derive(Debug)]
struct Process {
    data: DataDir,
    logs: BTreeMap<LogName, PartitionLog>,
}

impl Process {
    fn dir_of(&self, name: LogName) -> Option<PathBuf> {
        match name {
            LogName::Journal => self.data.system_dir("groups").ok(),
            LogName::Partition { topic, partition } => {
                let meta = self.data.topics().into_iter().find(|meta| topic_id(meta) == topic)?;
                self.data.partition_dir(&meta.name, partition).ok()
            }
        }
    }

    fn path_of(&self, file: SmallFile) -> Option<PathBuf> {
        match file {
            SmallFile::System(name) => Some(system_file(name)),
            SmallFile::Producers { topic, partition } => {
                let dir = self.dir_of(LogName::Partition { topic, partition })?;
                Some(dir.strip_prefix(self.data.path()).expect("inside").join("producers.state"))
            }
        }
    }

    /// The logs of the topics that there are.
    fn partitions(&self) -> Vec<LogName> {
        let of = |meta: TopicMeta| {
            (0..meta.partitions).map(move |partition| LogName::Partition { topic: topic_id(&meta), partition })
        };
        self.data.topics().into_iter().flat_map(of).collect()
    }
}

impl World {
    /// An empty disk.
    pub(crate) fn new(context: String) -> Self {
        Self { disk: SimDisk::new(), known: Known::new(), process: None, met: Met::default(), context }
    }

    /// The world after its process has ended like this. The world itself can end again in another way.
    pub(crate) fn ended(&self, end: End) -> Self {
        let mut met = self.met;
        met.see(&self.disk);
        let disk = match end {
            End::Clean => self.disk.after_kill(),
            End::Kill => {
                met.kills += 1;
                self.disk.after_kill()
            }
            End::PowerLoss(seed) => {
                met.power_losses += 1;
                self.disk.after_power_loss(seed)
            }
        };
        let context = format!("{}, {end:?}", self.context);
        Self { disk, known: self.known.clone(), process: None, met, context }
    }

    /// Ends the process in place.
    pub(crate) fn end(&mut self, end: End) {
        if let (End::Clean, Some(process)) = (end, self.process.take()) {
            process.logs.into_values().for_each(|log| drop(log.close()));
        }
        tell(|| format!("{}: {end:?}", self.context));
        let context = std::mem::take(&mut self.context);
        *self = Self { context: context.clone(), ..self.ended(end) };
    }

    /// Starts a process: opens the directory and every log in it, and asks the oracle about all of it.
    pub(crate) fn start(&mut self) -> Result<(), PowerLost> {
        let disk = self.disk.clone();
        let data = self.until_spared(|| DataDir::open(disk.shared(), Path::new("/srv/data")))?;
        self.known.find_topics(&data.topics(), &self.context);
        let process = Process { data, logs: BTreeMap::new() };
        for name in self.known.files.keys().copied().collect::<Vec<_>>() {
            let Some(path) = process.path_of(name) else { continue };
            let found = self.until_spared(|| process.data.read_file(&path))?;
            self.known.find_file(name, found, &self.context);
        }
        let partitions = process.partitions();
        self.process = Some(process);
        for name in std::iter::once(LogName::Journal).chain(partitions) {
            self.open_log(name)?;
        }
        self.ask_about_offsets();
        Ok(())
    }

    fn until_spared<T, E: Debug>(&self, mut attempt: impl FnMut() -> Result<T, E>) -> Result<T, PowerLost> {
        for spared in 1.. {
            match attempt() {
                Ok(done) => return Ok(done),
                Err(_) if self.disk.is_off() => return Err(PowerLost),
                Err(error) if spared == ATTEMPTS => panic!("{}: {error:?}", self.context),
                Err(_) => {}
            }
        }
        unreachable!("it ends at the last attempt")
    }

    fn open_log(&mut self, name: LogName) -> Result<(), PowerLost> {
        for attempt in 1.. {
            match self.try_open_log(name) {
                Ok(()) | Err(_) if self.disk.is_off() => return Err(PowerLost),
                Ok(()) => return Ok(()),
                Err(error) if attempt == ATTEMPTS => panic!("{}: {name:?}: {error:?}", self.context),
                Err(_) => {}
            }
        }
        unreachable!("it ends at the last attempt")
    }

    /// Opens a log, or makes it if it is not there and may be missing, and asks the oracle about it.
    fn try_open_log(&mut self, name: LogName) -> Result<(), OpenError> {
        let Some(process) = &mut self.process else { return Ok(()) };
        let Some(dir) = process.dir_of(name) else { return Ok(()) };
        let model = self.known.logs.get_mut(&name).expect("every log has a model");
        model.dir = dir;
        let log = match model.open(&self.disk) {
            Ok((log, report)) => {
                let context = format!("{}, {name:?}", self.context);
                tell(|| format!("  {context}: {report:?}"));
                assert!(report.damage.is_empty(), "{context}: {report:?}");
                if let Some(found) = model.check_while_on(&self.disk, &log, &context) {
                    look_up(&self.disk, &log.reader(), &found, &context);
                }
                log
            }
            Err(OpenError::Missing { .. }) if !model.created => model.create(&self.disk)?,
            Err(error) => return Err(error),
        };
        model.created = true;
        process.logs.insert(name, log);
        Ok(())
    }

    fn ask_about_offsets(&mut self) {
        let Some(process) = &self.process else { return };
        let end_of = |name: LogName| process.logs.get(&name).map(PartitionLog::log_end);
        self.known.find_offsets(end_of, &self.context);
    }

    /// Does one thing.
    pub(crate) fn perform(&mut self, step: &Step) -> Result<(), PowerLost> {
        tell(|| format!("{}: {step:?}", self.context));
        match step {
            Step::CreateTopic { name, partitions, durability, cleanup } => {
                let settings = TopicMeta {
                    partitions: *partitions,
                    durability: *durability,
                    cleanup: *cleanup,
                    ..TopicMeta::default()
                };
                self.create_topic(name, settings);
            }
            Step::AlterTopic { name, retention_bytes } => self.alter_topic(name, *retention_bytes),
            Step::DeleteTopic { name } => self.delete_topic(name),
            Step::Log { pick, action } => {
                if let Some(name) = self.pick(*pick) {
                    self.act(name, action);
                }
            }
            Step::Journal(action) => self.act(LogName::Journal, action),
            Step::Commit { group, pick, permille } => self.commit(*group, *pick, *permille),
            Step::Snapshot => self.snapshot(),
            Step::SaveFile { name, bytes } => self.save_file(SmallFile::System(name), *bytes),
            Step::SaveProducers { pick, bytes } => {
                if let Some(name @ LogName::Partition { topic, partition }) = self.pick(*pick)
                    && self.process().logs.contains_key(&name)
                {
                    self.save_file(SmallFile::Producers { topic, partition }, *bytes);
                }
            }
            Step::HealAll => {
                for name in self.all_logs() {
                    self.act(name, &Action::Heal);
                }
            }
            Step::FillDisk { room } => {
                self.met.full_disks += 1;
                self.disk.set_capacity(Some(self.disk.used_bytes() + room));
            }
            Step::FreeDisk => self.disk.set_capacity(None),
        }
        if self.disk.is_off() { Err(PowerLost) } else { Ok(()) }
    }

    fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("a process is running")
    }

    /// The number `pick` of the partitions that there are.
    fn pick(&mut self, pick: usize) -> Option<LogName> {
        let partitions = self.process().partitions();
        partitions.get(pick % partitions.len().max(1)).copied()
    }

    fn all_logs(&mut self) -> Vec<LogName> {
        let mut names = self.process().partitions();
        names.push(LogName::Journal);
        names
    }

    fn create_topic(&mut self, name: &'static str, settings: TopicMeta) {
        let process = self.process.as_mut().expect("a process is running");
        if process.data.topics().iter().any(|meta| meta.name == name) {
            return;
        }
        let meta = self.known.new_topic(name, settings);
        match process.data.create_topic(&meta) {
            Ok(()) => self.known.set_topic(name, Some(meta.clone())),
            Err(error @ (DataDirError::TopicExists { .. } | DataDirError::InvalidName { .. })) => panic!("{error}"),
            Err(_) => self.known.suspect_topic(name, Some(meta.clone())),
        }
        for partition in 0..meta.partitions {
            drop(self.try_open_log(LogName::Partition { topic: topic_id(&meta), partition }));
        }
    }

    fn alter_topic(&mut self, name: &'static str, retention_bytes: u64) {
        let Some(mut meta) = self.process().data.topics().into_iter().find(|meta| meta.name == name) else { return };
        meta.retention_bytes = Some(retention_bytes);
        match self.process().data.update_topic(&meta) {
            Ok(()) => self.known.set_topic(name, Some(meta)),
            Err(_) => self.known.suspect_topic(name, Some(meta)),
        }
    }

    fn delete_topic(&mut self, name: &'static str) {
        let is_there = |process: &Process| process.data.topics().into_iter().find(|meta| meta.name == name);
        let Some(meta) = is_there(self.process()) else { return };
        let topic = topic_id(&meta);
        let is_of_topic = |log: &LogName| matches!(log, LogName::Partition { topic: of, .. } if *of == topic);
        self.process().logs.retain(|log, _| !is_of_topic(log));
        match self.process().data.delete_topic(name) {
            Ok(()) => {
                self.met.topics_deleted += 1;
                self.known.set_topic(name, None);
            }
            // The rename itself was refused: nothing has happened.
            Err(_) if is_there(self.process()).is_some() => {}
            Err(_) => self.known.suspect_topic(name, None),
        }
    }

    /// Lets a log do something; one that was given up before is opened first.
    fn act(&mut self, name: LogName, action: &Action) {
        let Some(log) = self.process().logs.remove(&name) else {
            drop(self.try_open_log(name));
            return;
        };
        tell(|| format!("  {name:?}: {action:?}"));
        let model = self.known.logs.get_mut(&name).expect("every log has a model");
        let (removed_before, installed_before) = (model.segments_removed, model.files_installed);
        let ended = model.go_on(&self.disk, log, std::slice::from_ref(action));
        self.met.retentions += (model.segments_removed - removed_before) as u64;
        self.met.compactions += (model.files_installed - installed_before) as u64;
        if let Ended::Done(log) = ended {
            tell(|| format!("  {name:?}: {:?}, {:?}", log.window(), if log.is_failed() { "failed" } else { "well" }));
            self.process().logs.insert(name, *log);
        }
    }

    /// Notes `text` in the journal; whether that was acknowledged.
    fn note(&mut self, text: String) -> bool {
        let acked = |world: &Self| world.known.logs[&LogName::Journal].certain.len();
        if !self.process().logs.contains_key(&LogName::Journal) {
            drop(self.try_open_log(LogName::Journal));
        }
        if !self.process().logs.contains_key(&LogName::Journal) {
            return false;
        }
        let before = acked(self);
        self.act(LogName::Journal, &Action::Note(Bytes::from(text)));
        acked(self) > before
    }

    fn commit(&mut self, group: u8, pick: usize, permille: u64) {
        let Some(name @ LogName::Partition { topic, partition }) = self.pick(pick) else { return };
        let Some(log) = self.process().logs.get(&name) else { return };
        let end = log.window().high_watermark;
        let durability = log.options().durability;
        let key = CommitKey { group, topic, partition };
        let highest = self.known.offsets.get(&key).map_or(0, |committed| committed.highest());
        if durability == Durability::Os || highest > end {
            return;
        }
        let offset = highest + (end - highest) * permille / 1000;
        let is_acked = self.note(commit_line(key, offset));
        let committed = self.known.offsets.entry(key).or_default();
        if is_acked {
            committed.acked = Some(offset);
            self.met.commits += 1;
        } else {
            committed.maybe.push(offset);
        }
    }

    fn snapshot(&mut self) {
        let acked =
            |(key, committed): (&CommitKey, &crate::known::Committed)| Some(commit_line(*key, committed.acked?));
        let text: String = self.known.offsets.iter().filter_map(acked).collect();
        if self.note(text) {
            let journal = &self.known.logs[&LogName::Journal];
            let snapshot = journal.certain.last().expect("just acknowledged").header.base_offset;
            self.act(LogName::Journal, &Action::TrimTo(snapshot));
        }
    }

    fn save_file(&mut self, name: SmallFile, bytes: usize) {
        let Some(path) = self.process().path_of(name) else { return };
        let versions = self.disk.operation_count();
        let mut content = format!("{name:?} {} {versions}", self.context).into_bytes();
        content.resize(content.len() + bytes, 7);
        let possible = self.known.files.entry(name).or_insert_with(|| vec![None]);
        possible.push(Some(content.clone()));
        let process = self.process.as_ref().expect("a process is running");
        if process.data.write_file_atomic(&path, &content).is_ok() {
            *possible = vec![Some(content)];
        }
    }

    /// After any recovery every log takes appends, and all of it is there once more after a power loss.
    pub(crate) fn prove_usable(&mut self) {
        for name in self.all_logs() {
            self.append_one(name, 700);
        }
        self.end(End::PowerLoss(self.disk.operation_count()));
        self.start().expect("nothing hinders it");
    }

    /// A group of one batch, which must be acknowledged.
    pub(crate) fn append_one(&mut self, name: LogName, bytes: usize) {
        let action = match name {
            LogName::Journal => Action::Note(Bytes::new()),
            LogName::Partition { .. } => Action::Append(vec![bytes]),
        };
        let acked = |world: &Self| world.known.logs[&name].certain.len();
        let before = acked(self);
        self.act(name, &action);
        assert!(acked(self) > before, "{}: {name:?} takes no appends", self.context);
    }

    /// The logs of which something can be read.
    pub(crate) fn logs_with_batches(&self) -> Vec<LogName> {
        let has_batches = |name: &&LogName| !self.known.logs[name].readable().is_empty();
        let process = self.process.as_ref().expect("a process is running");
        process.logs.keys().filter(has_batches).copied().collect()
    }
}

/// Looks some batches up by an offset in their middle, as a reader does that begins anywhere.
fn look_up(disk: &SimDisk, reader: &LogReader, batches: &[Batch], context: &str) {
    for batch in batches.iter().step_by(batches.len() / LOOKUPS + 1) {
        let offset: Offset = batch.header.next_offset() - 1;
        let read = || reader.clone().read(offset, 1);
        let found = (1..ATTEMPTS).find_map(|_| read().ok()).map_or_else(read, Ok);
        match found {
            Ok(found) => assert_same(&found, std::slice::from_ref(batch), &format!("{context}, offset {offset}")),
            Err(_) if disk.is_off() => return,
            Err(error) => panic!("{context}, offset {offset}: {error}"),
        }
    }
}
