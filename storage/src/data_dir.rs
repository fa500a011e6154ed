//! The data directory: who may use it, which topics it holds, and where their logs lie.
//!
//! Topics come, change and go atomically: whatever a crash interrupts has either happened or not. Names of folders are
//! for people; the truth about a topic is in its `topic.toml` ([`topic_meta`]).

pub(crate) mod files;
pub(crate) mod format;
mod names;
pub(crate) mod topic_meta;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::StorageError;
use crate::disk::{Disk, DiskLock, EntryKind, LockError};
use crate::sync::Mutex;
use names::{FOLDER_BYTES_MAX, check_name, choose_folder, hex};
pub use topic_meta::{Cleanup, TopicMeta};

pub(crate) const LOCK: &str = "LOCK";
pub(crate) const TOPICS: &str = "topics";
pub(crate) const SYSTEM: &str = "system";
pub(crate) const TOPIC_FILE: &str = "topic.toml";
/// Folders that begin so are half made or half deleted.
pub(crate) const NEW_PREFIX: &str = ".new-";
pub(crate) const DELETED_PREFIX: &str = ".deleted-";

/// Why the data directory refused.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// Another process has it open.
    #[error("{} is in use by {}", path.display(), holder(*pid))]
    Locked {
        /// The process that holds the lock, if it had time to say so.
        pid: Option<u32>,
        /// The directory.
        path: PathBuf,
    },
    /// It was written by a version that this one does not know. Nothing was changed.
    #[error("data of format {found}, of which this version knows only {supported}")]
    UnsupportedFormat {
        /// What the file FORMAT says.
        found: String,
        /// The newest version known.
        supported: u32,
    },
    /// It cannot be written.
    #[error("{} cannot be written: {source}", path.display())]
    NotWritable {
        /// The directory.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The name cannot be a topic or a system directory.
    #[error("{name:?} is not a possible name")]
    InvalidName {
        /// The name.
        name: String,
    },
    /// There is no such topic.
    #[error("there is no topic {name:?}")]
    UnknownTopic {
        /// The name.
        name: String,
    },
    /// There is a topic of that name.
    #[error("there is a topic {name:?} already")]
    TopicExists {
        /// The name.
        name: String,
    },
    /// What a topic says about itself cannot be understood.
    #[error("{}: {what}", path.display())]
    DamagedTopic {
        /// Its `topic.toml`.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// Anything else.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

/// An open data directory. It belongs to this process until it is dropped or [unlocked](DataDir::unlock).
#[derive(Debug)]
pub struct DataDir {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    topics: Mutex<BTreeMap<String, Topic>>,
    lock: Mutex<Option<Box<dyn DiskLock>>>,
}

#[derive(Debug, Clone)]
struct Topic {
    meta: TopicMeta,
    folder: String,
    presence: Presence,
}

/// Whether a topic is there for others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Presence {
    /// Its name and folder are taken, its files are not there yet or are going away.
    Reserved,
    /// Its creation or deletion has failed half way: nobody sees it, and a crash may leave it or not. Its folder must be
    /// gone for good before there is another topic of this name.
    Doubtful,
    Ready,
}

impl DataDir {
    /// Opens the directory at `path`, makes it if it is not there, locks it, checks its format, removes what a crash has
    /// left half done, and reads what topics there are.
    ///
    /// # Errors
    /// [`DataDirError`]. Nothing is changed in a directory that is in use or of a newer format.
    pub fn open(disk: Arc<dyn Disk>, path: &Path) -> Result<Self, DataDirError> {
        format::check(&*disk, path)?;
        make_dirs(&*disk, path).map_err(|error| not_writable(path, error))?;
        let lock = take_lock(path, disk.lock(&path.join(LOCK), &format!("{}\n", std::process::id())))?;
        format::begin(&*disk, path)?;
        for sub in [TOPICS, SYSTEM] {
            make_dir(&*disk, &path.join(sub)).map_err(|error| not_writable(path, error))?;
        }
        sync_dir(&*disk, path)?;
        // A small file that a kill has left renamed only in memory must not be lost once it was read.
        sync_dir(&*disk, &path.join(SYSTEM))?;
        let topics = load_topics(&*disk, &path.join(TOPICS))?;
        Ok(Self { disk, path: path.to_owned(), topics: Mutex::new(topics), lock: Mutex::new(Some(lock)) })
    }

    /// Gives the directory free for another opener, although readers of it are left. Every log must have been closed.
    pub fn unlock(&self) {
        *self.lock.lock() = None;
    }

    /// The disk it is on.
    #[must_use]
    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes that may still be written.
    ///
    /// # Errors
    /// The disk's.
    pub fn free_bytes(&self) -> Result<u64, StorageError> {
        self.disk.free_bytes(&self.path).map_err(|error| StorageError::io("stat", &self.path, error))
    }

    /// All topics by name. From memory.
    #[must_use]
    pub fn topics(&self) -> Vec<TopicMeta> {
        let topics = self.topics.lock();
        topics.values().filter(|topic| topic.presence == Presence::Ready).map(|topic| topic.meta.clone()).collect()
    }

    /// Makes a topic, without its logs. Durable when it returns.
    ///
    /// # Errors
    /// [`DataDirError::TopicExists`], [`DataDirError::InvalidName`], the disk's.
    pub fn create_topic(&self, meta: &TopicMeta) -> Result<(), DataDirError> {
        check_name(&meta.name)?;
        self.settle_doubt(&meta.name)?;
        let folder = self.reserve(meta)?;
        let made = self.make_topic(meta, &folder);
        match made {
            Ok(()) => self.set_presence(&meta.name, Presence::Ready),
            Err(_) => {
                self.set_presence(&meta.name, Presence::Doubtful);
                // What cannot be settled now is settled before the name is used again.
                drop(self.settle_doubt(&meta.name));
            }
        }
        made
    }

    /// Replaces what is known of a topic; name and id stay. Durable when it returns.
    ///
    /// # Errors
    /// [`DataDirError::UnknownTopic`], also for another id under this name; the disk's.
    pub fn update_topic(&self, meta: &TopicMeta) -> Result<(), DataDirError> {
        let known = self.topic(&meta.name)?;
        if known.meta.id != meta.id {
            return Err(DataDirError::UnknownTopic { name: meta.name.clone() });
        }
        let dir = self.path.join(TOPICS).join(&known.folder);
        files::write_atomic(&*self.disk, &dir.join(TOPIC_FILE), topic_meta::to_toml(meta).as_bytes())?;
        if let Some(topic) = self.topics.lock().get_mut(&meta.name) {
            topic.meta = meta.clone();
        }
        Ok(())
    }

    /// Deletes a topic with its logs, which must be closed. It is gone for good when it returns; files that a crash has
    /// left are removed at the next open.
    ///
    /// # Errors
    /// [`DataDirError::UnknownTopic`], the disk's.
    pub fn delete_topic(&self, name: &str) -> Result<(), DataDirError> {
        let known = self.topic(name)?;
        let (from, to) = self.way_out(&known);
        self.set_presence(name, Presence::Reserved);
        let renamed = self.disk.rename(&from, &to).map_err(|error| StorageError::io("rename", &from, error));
        if let Err(error) = renamed {
            self.set_presence(name, Presence::Ready);
            return Err(error.into());
        }
        // From here on it is gone for this process, whatever the disk says; durably so once the directory is synced.
        self.set_presence(name, Presence::Doubtful);
        sync_dir(&*self.disk, &self.path.join(TOPICS))?;
        self.topics.lock().remove(name);
        files::remove_tree(&*self.disk, &to)?;
        Ok(())
    }

    /// Directory of the log of one partition. It is the caller's to create.
    ///
    /// # Errors
    /// [`DataDirError::UnknownTopic`].
    pub fn partition_dir(&self, topic: &str, partition: u32) -> Result<PathBuf, DataDirError> {
        let known = self.topic(topic)?;
        Ok(self.path.join(TOPICS).join(known.folder).join(partition.to_string()))
    }

    /// Directory of an internal log. It is the caller's to create.
    ///
    /// # Errors
    /// [`DataDirError::InvalidName`].
    pub fn system_dir(&self, name: &str) -> Result<PathBuf, DataDirError> {
        check_name(name)?;
        if name.len() > FOLDER_BYTES_MAX {
            return Err(DataDirError::InvalidName { name: name.to_owned() });
        }
        Ok(self.path.join(SYSTEM).join(name))
    }

    /// Replaces a small file, whose path is taken relative to the directory, by `bytes`: a crash leaves the old or the
    /// new content. Durable when it returns.
    ///
    /// # Errors
    /// The disk's.
    pub fn write_file_atomic(&self, path: &Path, bytes: &[u8]) -> Result<(), StorageError> {
        files::write_atomic(&*self.disk, &self.path.join(path), bytes)
    }

    /// Content of a small file, whose path is taken relative to the directory; `None` if it is not there.
    ///
    /// # Errors
    /// The disk's.
    pub fn read_file(&self, path: &Path) -> Result<Option<Vec<u8>>, StorageError> {
        files::read(&*self.disk, &self.path.join(path))
    }

    fn topic(&self, name: &str) -> Result<Topic, DataDirError> {
        let topics = self.topics.lock();
        let ready = topics.get(name).filter(|topic| topic.presence == Presence::Ready);
        ready.cloned().ok_or_else(|| DataDirError::UnknownTopic { name: name.to_owned() })
    }

    /// Where the folder of a topic lies, and what it is renamed to when the topic goes.
    fn way_out(&self, topic: &Topic) -> (PathBuf, PathBuf) {
        let topics_dir = self.path.join(TOPICS);
        (topics_dir.join(&topic.folder), topics_dir.join(format!("{DELETED_PREFIX}{}", hex(&topic.meta.id))))
    }

    /// Makes sure that a topic whose creation or deletion has failed half way is gone for good: two folders of one name
    /// would make the directory unreadable.
    fn settle_doubt(&self, name: &str) -> Result<(), DataDirError> {
        let is_doubtful = |topic: &&Topic| topic.presence == Presence::Doubtful;
        let Some(topic) = self.topics.lock().get(name).filter(is_doubtful).cloned() else { return Ok(()) };
        let (from, to) = self.way_out(&topic);
        match self.disk.rename(&from, &to) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(StorageError::io("rename", &from, error).into());
            }
            Ok(()) | Err(_) => {}
        }
        sync_dir(&*self.disk, &self.path.join(TOPICS))?;
        self.topics.lock().remove(name);
        // Removed at the next open at the latest.
        drop(files::remove_tree(&*self.disk, &to));
        Ok(())
    }

    fn set_presence(&self, name: &str, presence: Presence) {
        if let Some(topic) = self.topics.lock().get_mut(name) {
            topic.presence = presence;
        }
    }

    /// Takes the name and a folder for `meta`, so that files can be made without holding the lock.
    fn reserve(&self, meta: &TopicMeta) -> Result<String, DataDirError> {
        let mut topics = self.topics.lock();
        if topics.contains_key(&meta.name) {
            return Err(DataDirError::TopicExists { name: meta.name.clone() });
        }
        let folder =
            choose_folder(meta, |folder| topics.values().any(|topic| topic.folder.eq_ignore_ascii_case(folder)));
        let topic = Topic { meta: meta.clone(), folder: folder.clone(), presence: Presence::Reserved };
        topics.insert(meta.name.clone(), topic);
        Ok(folder)
    }

    fn make_topic(&self, meta: &TopicMeta, folder: &str) -> Result<(), DataDirError> {
        let topics_dir = self.path.join(TOPICS);
        let new_dir = topics_dir.join(format!("{NEW_PREFIX}{}", hex(&meta.id)));
        files::remove_tree(&*self.disk, &new_dir)?;
        self.disk.create_dir(&new_dir).map_err(|error| StorageError::io("create", &new_dir, error))?;
        files::write_atomic(&*self.disk, &new_dir.join(TOPIC_FILE), topic_meta::to_toml(meta).as_bytes())?;
        let dir = topics_dir.join(folder);
        self.disk.rename(&new_dir, &dir).map_err(|error| StorageError::io("rename", &new_dir, error))?;
        sync_dir(&*self.disk, &topics_dir)?;
        Ok(())
    }
}

/// The lock of the directory at `path`, if it could be taken.
pub(crate) fn take_lock<L>(path: &Path, lock: Result<L, LockError>) -> Result<L, DataDirError> {
    lock.map_err(|error| match error {
        LockError::Held { holder } => DataDirError::Locked { pid: holder.parse().ok(), path: path.to_owned() },
        LockError::Io(error) => not_writable(path, error),
    })
}

fn load_topics(disk: &dyn Disk, dir: &Path) -> Result<BTreeMap<String, Topic>, DataDirError> {
    let mut topics: BTreeMap<String, Topic> = BTreeMap::new();
    sync_dir(disk, dir)?;
    let entries = disk.list(dir).map_err(|error| StorageError::io("list", dir, error))?;
    for entry in entries {
        if entry.kind != EntryKind::Directory {
            continue;
        }
        let folder = entry.name;
        if folder.starts_with(NEW_PREFIX) || folder.starts_with(DELETED_PREFIX) {
            files::remove_tree(disk, &dir.join(&folder))?;
            continue;
        }
        // What a kill has left only in memory must not be lost once it was seen.
        sync_dir(disk, &dir.join(&folder))?;
        let path = dir.join(&folder).join(TOPIC_FILE);
        let damaged = |what: String| DataDirError::DamagedTopic { path: path.clone(), what };
        let bytes = files::read(disk, &path)?.ok_or_else(|| damaged("missing".to_owned()))?;
        let meta = topic_meta::from_toml(&bytes).map_err(damaged)?;
        check_name(&meta.name)?;
        if let Some(other) = topics.get(&meta.name) {
            return Err(damaged(format!("a second topic {:?}, besides the one in {}", meta.name, other.folder)));
        }
        topics.insert(meta.name.clone(), Topic { meta, folder, presence: Presence::Ready });
    }
    Ok(topics)
}

/// Makes `path` and the directories above it that are missing, from the top, each entry durable before the next: so at
/// most the lowest one that exists may have been left un-synced by a kill, and is synced here.
fn make_dirs(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    match disk.create_dir(path) {
        Ok(()) => {
            sync_entry(disk, parent_of(path))?;
            disk.sync_dir(parent_of(path))
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => sync_entry(disk, path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            path.parent().ok_or(error)?;
            make_dirs(disk, parent_of(path))?;
            disk.create_dir(path)?;
            disk.sync_dir(parent_of(path))
        }
        Err(error) => Err(error),
    }
}

/// Makes the entry of a directory durable that was there before, unless somebody else made it, in a place that we may
/// pass through but not read.
fn sync_entry(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    match disk.sync_dir(parent_of(path)) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        synced => synced,
    }
}

/// The directory that holds the entry of `path`; of a root, itself.
fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => path,
    }
}

fn make_dir(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    match disk.create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

fn sync_dir(disk: &dyn Disk, path: &Path) -> Result<(), StorageError> {
    disk.sync_dir(path).map_err(|error| StorageError::io("sync", path, error))
}

fn not_writable(path: &Path, source: io::Error) -> DataDirError {
    DataDirError::NotWritable { path: path.to_owned(), source }
}
