//! A whole data directory that no broker has open.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::finding::{Fact, Finding, LogName};
use super::stopped::{Reached, verify_in};
use super::{Audience, Checked};
use crate::batch::LogId;
use crate::data_dir::{self, DELETED_PREFIX, NEW_PREFIX, SYSTEM, TOPIC_FILE, TOPICS, files, topic_meta};
use crate::disk::{DirEntry, Disk, DiskLock, EntryKind};
use crate::recovery::{NEW_SUFFIX, Place};
use crate::segment::parse_file_name;
use crate::{DataDirError, StorageError, quarantine, state};

/// What the owner of a data directory knows of it and the storage does not.
pub trait Inventory {
    /// Identity of the log of a partition.
    fn partition_log(&self, topic_id: [u8; 16], partition: u32) -> LogId;
    /// Identity of one of the broker's own logs; `None` if it cannot be told.
    fn system_log(&self, name: &str) -> Option<LogId>;
    /// Checks a small file that is not the storage's; `path` is relative to the directory.
    ///
    /// # Errors
    /// What is wrong with it, for people. A file that is not known is not wrong.
    fn check_file(&self, path: &Path, bytes: &[u8]) -> Result<(), String>;
}

/// A data directory that is not in use, and will not be while this lives. Opening it changes nothing.
#[derive(Debug)]
pub struct StoppedDir {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) path: PathBuf,
    _lock: Option<Box<dyn DiskLock>>,
}

/// One log of a directory.
#[derive(Debug, Clone)]
pub(crate) struct FoundLog {
    pub(crate) name: LogName,
    pub(crate) dir: PathBuf,
    pub(crate) id: Option<LogId>,
}

impl StoppedDir {
    /// Takes the lock of the directory at `path` and checks its format.
    ///
    /// # Errors
    /// [`DataDirError::Locked`] with the pid of the process that has it open; [`DataDirError::UnsupportedFormat`], also
    /// if there is none.
    pub fn open(disk: Arc<dyn Disk>, path: &Path) -> Result<Self, DataDirError> {
        data_dir::format::check_existing(&*disk, path)?;
        let lock = data_dir::take_lock(path, disk.lock_untouched(&path.join(data_dir::LOCK)))?;
        Ok(Self { disk, path: path.to_owned(), _lock: lock })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Content of a small file, whose path is taken relative to the directory; `None` if it is not there.
    ///
    /// # Errors
    /// The disk's.
    pub fn read_file(&self, path: &Path) -> Result<Option<Vec<u8>>, StorageError> {
        files::read(&*self.disk, &self.path.join(path))
    }

    /// Bytes of all segments, for progress.
    ///
    /// # Errors
    /// The disk's.
    pub fn segment_bytes(&self) -> Result<u64, StorageError> {
        let mut bytes = 0;
        for log in self.logs_in_place()? {
            bytes += segment_bytes_in(&self.list(&log)?);
        }
        Ok(bytes)
    }

    /// The directories in which logs may lie.
    fn logs_in_place(&self) -> Result<Vec<PathBuf>, StorageError> {
        let mut dirs = self.subdirs(&self.path.join(SYSTEM))?;
        for topic in self.subdirs(&self.path.join(TOPICS))? {
            dirs.extend(self.subdirs(&topic)?);
        }
        Ok(dirs)
    }

    fn subdirs(&self, dir: &Path) -> Result<Vec<PathBuf>, StorageError> {
        let entries = self.list(dir)?.into_iter();
        Ok(entries.filter(|entry| entry.kind == EntryKind::Directory).map(|entry| dir.join(entry.name)).collect())
    }

    /// The entries of a directory, in order of their names; none if it is not there.
    fn list(&self, dir: &Path) -> Result<Vec<DirEntry>, StorageError> {
        match self.disk.list(dir) {
            Ok(mut entries) => {
                entries.sort_unstable_by(|one, other| one.name.cmp(&other.name));
                Ok(entries)
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(StorageError::io("list", dir, error)),
        }
    }
}

fn segment_bytes_in(entries: &[DirEntry]) -> u64 {
    let bytes = |entry: &DirEntry| match entry.kind {
        EntryKind::File { bytes } if parse_file_name(&entry.name, "log").is_some() => bytes,
        EntryKind::File { .. } | EntryKind::Directory => 0,
    };
    entries.iter().map(bytes).sum()
}

/// Verifies everything in `dir`. Changes nothing.
///
/// # Errors
/// What the disk refuses beyond single files of logs, which are findings.
pub fn verify_dir(
    dir: &StoppedDir,
    inventory: &dyn Inventory,
    audience: &mut dyn Audience,
) -> Result<Checked, StorageError> {
    let mut checked = Checked::default();
    for log in find_logs(dir, inventory, audience)? {
        let mut named = Named { log: &log.name, audience: &mut *audience };
        let Some(id) = log.id else {
            // Neither its owner nor its state can tell whose it is: that was found before.
            named.found(Finding::new(&log.dir, Fact::Unreadable("its identity is lost".to_owned())));
            continue;
        };
        let place = Place { disk: &dir.disk, dir: &log.dir, id };
        match verify_in(place, &mut named, &mut checked)? {
            Reached::End => {}
            Reached::Stopped => break,
        }
    }
    Ok(checked)
}

/// Puts the name of the log on what is found in it.
pub(crate) struct Named<'a> {
    pub(crate) log: &'a LogName,
    pub(crate) audience: &'a mut dyn Audience,
}

impl Audience for Named<'_> {
    fn found(&mut self, finding: Finding) {
        self.audience.found(Finding { log: Some(self.log.clone()), ..finding });
    }

    fn read(&mut self, bytes: u64) -> ControlFlow<()> {
        self.audience.read(bytes)
    }
}

/// All logs of the directory, and what there is to say of the files around them.
pub(crate) fn find_logs(
    dir: &StoppedDir,
    inventory: &dyn Inventory,
    audience: &mut dyn Audience,
) -> Result<Vec<FoundLog>, StorageError> {
    let mut search = Search { dir, inventory, audience, logs: Vec::new() };
    search.topics()?;
    search.system()?;
    Ok(search.logs)
}

struct Search<'a> {
    dir: &'a StoppedDir,
    inventory: &'a dyn Inventory,
    audience: &'a mut dyn Audience,
    logs: Vec<FoundLog>,
}

impl Search<'_> {
    fn topics(&mut self) -> Result<(), StorageError> {
        let topics_dir = self.dir.path.join(TOPICS);
        let mut names: BTreeMap<String, PathBuf> = BTreeMap::new();
        for entry in self.dir.list(&topics_dir)? {
            let folder = topics_dir.join(&entry.name);
            if entry.kind != EntryKind::Directory {
                continue;
            }
            if entry.name.starts_with(NEW_PREFIX) || entry.name.starts_with(DELETED_PREFIX) {
                self.audience.found(Finding::new(folder, Fact::Leftover));
                continue;
            }
            let path = folder.join(TOPIC_FILE);
            let read = files::read(&*self.dir.disk, &path)?.ok_or_else(|| "it is missing".to_owned());
            match read.and_then(|bytes| topic_meta::from_toml(&bytes)) {
                Ok(meta) => {
                    if let Some(other) = names.insert(meta.name.clone(), folder.clone()) {
                        let what = format!("it is a second topic {:?}, besides {}", meta.name, other.display());
                        self.audience.found(Finding::new(path, Fact::SmallFile(what)));
                    }
                    self.partitions(&meta.name, &folder, meta.partitions, Some(meta.id))?;
                }
                Err(what) => {
                    self.audience.found(Finding::new(path, Fact::SmallFile(what)));
                    // Each log also says itself which one it is.
                    self.partitions(&entry.name, &folder, 0, None)?;
                }
            }
        }
        Ok(())
    }

    /// The logs of a topic of `expected` partitions, or as many as there are.
    fn partitions(
        &mut self,
        topic: &str,
        folder: &Path,
        expected: u32,
        topic_id: Option<[u8; 16]>,
    ) -> Result<(), StorageError> {
        let mut present: Vec<u32> = Vec::new();
        for entry in self.dir.list(folder)? {
            match (entry.kind, entry.name.parse::<u32>()) {
                (EntryKind::Directory, Ok(partition)) => present.push(partition),
                (EntryKind::File { .. }, _) if entry.name.ends_with(NEW_SUFFIX) => {
                    self.audience.found(Finding::new(folder.join(entry.name), Fact::Leftover));
                }
                (EntryKind::Directory | EntryKind::File { .. }, _) => {}
            }
        }
        present.sort_unstable();
        for partition in (0..expected).filter(|partition| present.binary_search(partition).is_err()) {
            // Partitions are made in no order, when the topic is made or grows; what was appended to came later.
            let is_in_use = |dir: PathBuf| self.dir.list(&dir).is_ok_and(|entries| segment_bytes_in(&entries) > 0);
            let was_made = present.iter().any(|one| *one > partition && is_in_use(folder.join(one.to_string())));
            let fact = if was_made { Fact::PartitionMissing } else { Fact::NotMade };
            let finding = Finding::new(folder.join(partition.to_string()), fact);
            let log = LogName::Partition { topic: topic.to_owned(), partition };
            self.audience.found(Finding { log: Some(log), ..finding });
        }
        for partition in present {
            let dir = folder.join(partition.to_string());
            let id = match topic_id {
                Some(id) => Some(self.inventory.partition_log(id, partition)),
                None => self.own_id(&dir)?,
            };
            let name = LogName::Partition { topic: topic.to_owned(), partition };
            self.small_files(&dir, Some(&name))?;
            self.logs.push(FoundLog { name, dir, id });
        }
        Ok(())
    }

    fn system(&mut self) -> Result<(), StorageError> {
        let system_dir = self.dir.path.join(SYSTEM);
        self.small_files(&system_dir, None)?;
        for entry in self.dir.list(&system_dir)? {
            if entry.kind != EntryKind::Directory {
                continue;
            }
            let dir = system_dir.join(&entry.name);
            let id = match self.inventory.system_log(&entry.name) {
                Some(id) => Some(id),
                None => self.own_id(&dir)?,
            };
            let name = LogName::System(entry.name);
            self.small_files(&dir, Some(&name))?;
            self.logs.push(FoundLog { name, dir, id });
        }
        Ok(())
    }

    /// What the log in `dir` says it is.
    fn own_id(&self, dir: &Path) -> Result<Option<LogId>, StorageError> {
        let slots = state::read_slots(&*self.dir.disk, dir)?;
        Ok(slots.and_then(|slots| slots.into_iter().flatten().next()).map(|slot| slot.id))
    }

    /// Files that are not the storage's.
    fn small_files(&mut self, dir: &Path, log: Option<&LogName>) -> Result<(), StorageError> {
        for entry in self.dir.list(dir)? {
            let name = &entry.name;
            let is_ours = name == state::FILE_NAME
                || parse_file_name(name, "log").is_some()
                || parse_file_name(name, "index").is_some()
                || name.ends_with(NEW_SUFFIX)
                || quarantine::is_side_file(name);
            if entry.kind == EntryKind::Directory || is_ours {
                if log.is_none() && entry.kind != EntryKind::Directory {
                    let is_kept = quarantine::is_side_file(name);
                    let fact = if is_kept { Fact::Quarantined } else { Fact::Leftover };
                    self.audience.found(Finding::new(dir.join(name), fact));
                }
                continue;
            }
            let path = dir.join(name);
            let relative = path.strip_prefix(&self.dir.path).unwrap_or(&path);
            let bytes = files::read(&*self.dir.disk, &path)?.unwrap_or_default();
            if let Err(what) = self.inventory.check_file(relative, &bytes) {
                let finding = Finding::new(&path, Fact::SmallFile(what));
                self.audience.found(Finding { log: log.cloned(), ..finding });
            }
        }
        Ok(())
    }
}
