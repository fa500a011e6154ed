//! A disk in memory that loses what a real one may lose.
//!
//! - Bytes are durable after a sync of their file. A crash keeps *any* subset of the dirty 512-byte sectors, some of them
//!   torn, and any of the lengths that a file had since its last sync, independently of each other. A sector that the
//!   file has by its length alone shows zeros, or what its block held in another life: what was cut from this file, or
//!   the bytes of one that was removed.
//! - Directory entries are durable after a sync of their directory. A crash keeps any subset of the changes since then.
//! - A sync can fail, and the next one succeeds: either the dirty sectors were dropped and old bytes are read again, or
//!   they stay readable but never reach the disk ([`SyncLoss`]).
//! - Any operation can fail with any error, writes can be short, interrupted or go astray, the disk can be full, bits
//!   can flip, and the power can go at any operation ([`Fault`]).
//!
//! Nothing here is random but by a seed.

mod tree;

use std::collections::HashMap;
use std::fmt;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Access, BootTime, DirEntry, Disk, DiskFile, DiskLock, LockError, write_fully};
use crate::sync::Mutex;
use tree::{Node, NodeId, Tree, not_found};

/// Bytes that reach the disk together or not at all; or, now and then, torn in two.
pub const SECTOR_BYTES: usize = 512;

/// One kind of operation; each call of it counts as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OpKind {
    /// [`Disk::create`].
    Create,
    /// [`Disk::open`].
    Open,
    /// [`Disk::rename`].
    Rename,
    /// [`Disk::remove_file`] and [`Disk::remove_dir`].
    Remove,
    /// [`Disk::create_dir`].
    CreateDir,
    /// [`Disk::list`].
    List,
    /// [`Disk::sync_dir`].
    SyncDir,
    /// [`DiskFile::read_at`].
    Read,
    /// One call of the system below [`DiskFile::write_at`].
    Write,
    /// [`DiskFile::sync_data`].
    SyncData,
    /// [`DiskFile::truncate`].
    Truncate,
}

/// What becomes of the dirty sectors of a file whose sync fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncLoss {
    /// They are dropped: reads see the old bytes.
    Dropped,
    /// They stay in the cache, marked clean: reads see the new bytes until the power goes.
    CachedOnly,
}

/// What goes wrong with one operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The power goes before it; every later operation fails.
    PowerLoss,
    /// It fails with this error and does nothing.
    Error(io::ErrorKind),
    /// A sync fails with an I/O error.
    SyncFails(SyncLoss),
    /// A sync fails because the disk is full.
    SyncFindsDiskFull(SyncLoss),
    /// A write writes half of what it should and says so.
    ShortWrite,
    /// A write goes to a place this many bytes behind the right one, and claims success.
    Misdirected(u64),
    /// Whoever calls it panics.
    Panic,
}

/// A fault and the operation that it befalls.
#[derive(Debug, Clone)]
pub struct Injection {
    /// The kind of operation; `None` for any.
    pub op: Option<OpKind>,
    /// Only on paths that contain this.
    pub path_contains: String,
    /// So many matching operations go well first.
    pub after: u64,
    /// Then this befalls the next one, once.
    pub fault: Fault,
}

/// One operation that was done or refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// What it was.
    pub op: OpKind,
    /// What it was done to.
    pub path: PathBuf,
}

/// See the module. A clone is the same disk.
#[derive(Clone)]
pub struct SimDisk {
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    tree: Tree,
    locks: HashMap<PathBuf, String>,
    operations: Vec<Operation>,
    injections: Vec<Injection>,
    faults_met: Vec<Fault>,
    crash_at: Option<u64>,
    is_off: bool,
    bytes_max: Option<u64>,
    boot: BootTime,
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimDisk").field("operations", &self.operation_count()).finish_non_exhaustive()
    }
}

impl Default for SimDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl SimDisk {
    /// An empty disk that works.
    #[must_use]
    pub fn new() -> Self {
        Self::with(Tree::default(), BootTime { boot_id: [1; 16], since_boot_us: 1_000_000 })
    }

    fn with(tree: Tree, boot: BootTime) -> Self {
        let inner = Inner {
            tree,
            locks: HashMap::new(),
            operations: Vec::new(),
            injections: Vec::new(),
            faults_met: Vec::new(),
            crash_at: None,
            is_off: false,
            bytes_max: None,
            boot,
        };
        Self { inner: Arc::new(Mutex::new(inner)) }
    }

    /// As the trait object that the log wants.
    #[must_use]
    pub fn shared(&self) -> Arc<dyn Disk> {
        Arc::new(self.clone())
    }

    /// Number of operations so far.
    #[must_use]
    pub fn operation_count(&self) -> u64 {
        self.inner.lock().operations.len() as u64
    }

    /// All operations so far.
    #[must_use]
    pub fn operations(&self) -> Vec<Operation> {
        self.inner.lock().operations.clone()
    }

    /// The power goes before the operation with this number, counted from 0 over the life of the disk.
    pub fn crash_at(&self, operation: u64) {
        self.inner.lock().crash_at = Some(operation);
    }

    /// Whether the power has gone.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.inner.lock().is_off
    }

    /// Lets `injection` befall a later operation.
    pub fn inject(&self, injection: Injection) {
        self.inner.lock().injections.push(injection);
    }

    /// Forgets the injections that have not happened.
    pub fn clear_injections(&self) {
        self.inner.lock().injections.clear();
    }

    /// The injected faults that have happened so far.
    #[must_use]
    pub fn faults_met(&self) -> Vec<Fault> {
        self.inner.lock().faults_met.clone()
    }

    /// Limits the bytes in all files together; `None` for no limit.
    pub fn set_capacity(&self, bytes_max: Option<u64>) {
        self.inner.lock().bytes_max = bytes_max;
    }

    /// Bytes in all files together.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.inner.lock().tree.used_bytes()
    }

    /// Lets the boot clock advance.
    pub fn advance_clock(&self, by: std::time::Duration) {
        let by_us = u64::try_from(by.as_micros()).unwrap_or(u64::MAX);
        self.inner.lock().boot.since_boot_us += by_us;
    }

    /// The disk as it is found after the power went now: any subset of what was not synced is lost.
    #[must_use]
    pub fn after_power_loss(&self, seed: u64) -> Self {
        let inner = self.inner.lock();
        let tree = inner.tree.after_power_loss(&mut fastrand::Rng::with_seed(seed));
        let mut boot_id = [0; 16];
        boot_id[..8].copy_from_slice(&seed.wrapping_add(2).to_le_bytes());
        boot_id[8..].copy_from_slice(&inner.boot.boot_id[..8]);
        Self::with(tree, BootTime { boot_id, since_boot_us: 0 })
    }

    /// The disk as it is found after the process was killed now: the page cache is still there, dirty as it was.
    #[must_use]
    pub fn after_kill(&self) -> Self {
        let inner = self.inner.lock();
        Self::with(inner.tree.clone(), inner.boot)
    }

    /// Content of a file as a reader sees it.
    ///
    /// # Errors
    /// If there is no such file.
    pub fn contents(&self, path: &Path) -> io::Result<Vec<u8>> {
        let inner = self.inner.lock();
        let id = inner.tree.find(path)?;
        Ok(inner.tree.file(id)?.read(0, usize::MAX))
    }

    /// Replaces the content of a file, durably, behind everybody's back.
    ///
    /// # Errors
    /// If there is no such file.
    pub fn overwrite(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let mut inner = self.inner.lock();
        let id = inner.tree.find(path)?;
        inner.tree.file_mut(id)?.replace(content);
        Ok(())
    }

    /// Flips one bit of a file, durably.
    ///
    /// # Errors
    /// If there is no such file or byte.
    pub fn flip_bit(&self, path: &Path, byte: u64, bit: u8) -> io::Result<()> {
        let mut content = self.contents(path)?;
        let at = usize::try_from(byte).map_err(|_| not_found())?;
        *content.get_mut(at).ok_or_else(not_found)? ^= 1 << (bit % 8);
        self.overwrite(path, &content)
    }

    /// Removes a file, durably, behind everybody's back.
    ///
    /// # Errors
    /// If there is no such file.
    pub fn lose(&self, path: &Path) -> io::Result<()> {
        let mut inner = self.inner.lock();
        inner.tree.unlink(path)?;
        inner.tree.sync_dir(path.parent().unwrap_or(path))
    }
}

impl Inner {
    /// Counts an operation and tells what goes wrong with it.
    fn begin(&mut self, op: OpKind, path: &Path) -> io::Result<Option<Fault>> {
        let number = self.operations.len() as u64;
        self.is_off |= self.crash_at.is_some_and(|crash_at| number >= crash_at);
        if self.is_off {
            return Err(power_is_off());
        }
        self.operations.push(Operation { op, path: path.to_owned() });
        let name = path.to_string_lossy();
        let mut due = None;
        for (at, injection) in self.injections.iter_mut().enumerate() {
            if injection.op.is_some_and(|only| only != op) || !name.contains(&injection.path_contains) {
                continue;
            }
            match injection.after.checked_sub(1) {
                Some(after) => injection.after = after,
                None => due = due.or(Some(at)),
            }
        }
        let fault = due.map(|at| self.injections.remove(at).fault);
        self.faults_met.extend(fault);
        match fault {
            Some(Fault::PowerLoss) => {
                self.is_off = true;
                Err(power_is_off())
            }
            Some(Fault::Error(kind)) => Err(kind.into()),
            Some(Fault::Panic) => {
                // The lock is given back: the disk itself is well.
                panic!("injected, in {op:?} of {}", path.display())
            }
            other => Ok(other),
        }
    }

    fn room(&self) -> u64 {
        self.bytes_max.map_or(u64::MAX, |bytes_max| bytes_max.saturating_sub(self.tree.used_bytes()))
    }

    /// One call of the system: all, a part, or an error.
    fn write_some(&mut self, id: NodeId, path: &Path, position: u64, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        let fault = self.begin(OpKind::Write, path)?;
        let mut bytes = Vec::with_capacity(buffers.iter().map(|buffer| buffer.len()).sum());
        buffers.iter().for_each(|buffer| bytes.extend_from_slice(buffer));
        if fault == Some(Fault::ShortWrite) {
            bytes.truncate(bytes.len().div_ceil(2));
        }
        let end = self.tree.file(id)?.len();
        let grows_by = (position + bytes.len() as u64).saturating_sub(end);
        let room = self.room();
        if grows_by > room {
            let surplus = usize::try_from(grows_by - room).unwrap_or(usize::MAX);
            bytes.truncate(bytes.len().saturating_sub(surplus));
            if bytes.is_empty() {
                return Err(io::ErrorKind::StorageFull.into());
            }
        }
        let astray = if let Some(Fault::Misdirected(by)) = fault { by } else { 0 };
        self.tree.file_mut(id)?.write(position + astray, &bytes);
        Ok(bytes.len())
    }

    fn sync_data(&mut self, id: NodeId, path: &Path) -> io::Result<()> {
        let (loss, kind) = match self.begin(OpKind::SyncData, path)? {
            Some(Fault::SyncFails(loss)) => (loss, io::ErrorKind::Other),
            Some(Fault::SyncFindsDiskFull(loss)) => (loss, io::ErrorKind::StorageFull),
            Some(Fault::PowerLoss | Fault::Error(_) | Fault::ShortWrite | Fault::Misdirected(_) | Fault::Panic)
            | None => {
                self.tree.file_mut(id)?.sync();
                return Ok(());
            }
        };
        self.tree.file_mut(id)?.fail_sync(loss);
        Err(kind.into())
    }
}

impl Disk for SimDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut inner = self.inner.lock();
        inner.begin(OpKind::Create, path)?;
        if inner.room() == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let id = inner.tree.create(path, Node::new_file())?;
        Ok(Arc::new(SimFile { disk: self.clone(), id, path: path.to_owned() }))
    }

    fn open(&self, path: &Path, _access: Access) -> io::Result<Arc<dyn DiskFile>> {
        let mut inner = self.inner.lock();
        inner.begin(OpKind::Open, path)?;
        let id = inner.tree.find(path)?;
        inner.tree.file(id)?;
        Ok(Arc::new(SimFile { disk: self.clone(), id, path: path.to_owned() }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut inner = self.inner.lock();
        inner.begin(OpKind::Rename, from)?;
        inner.tree.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut inner = self.inner.lock();
        inner.begin(OpKind::Remove, path)?;
        inner.tree.unlink(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut inner = self.inner.lock();
        inner.begin(OpKind::CreateDir, path)?;
        inner.tree.create(path, Node::new_dir()).map(drop)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        let mut inner = self.inner.lock();
        inner.begin(OpKind::Remove, path)?;
        if !inner.tree.list(path)?.is_empty() {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        inner.tree.unlink(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let mut inner = self.inner.lock();
        inner.begin(OpKind::List, dir)?;
        inner.tree.list(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut inner = self.inner.lock();
        match inner.begin(OpKind::SyncDir, dir)? {
            Some(Fault::SyncFails(_) | Fault::SyncFindsDiskFull(_)) => Err(io::ErrorKind::Other.into()),
            Some(Fault::PowerLoss | Fault::Error(_) | Fault::ShortWrite | Fault::Misdirected(_) | Fault::Panic)
            | None => inner.tree.sync_dir(dir),
        }
    }

    fn lock(&self, path: &Path, holder: &str) -> Result<Box<dyn DiskLock>, LockError> {
        let mut inner = self.inner.lock();
        if inner.is_off {
            return Err(LockError::Io(power_is_off()));
        }
        if let Some(held_by) = inner.locks.get(path) {
            return Err(LockError::Held { holder: held_by.trim().to_owned() });
        }
        inner.locks.insert(path.to_owned(), holder.to_owned());
        Ok(Box::new(SimLock { disk: self.clone(), path: path.to_owned() }))
    }

    fn lock_untouched(&self, path: &Path) -> Result<Option<Box<dyn DiskLock>>, LockError> {
        self.lock(path, "").map(Some)
    }

    fn free_bytes(&self, _path: &Path) -> io::Result<u64> {
        Ok(self.inner.lock().room())
    }

    fn boot_time(&self) -> BootTime {
        self.inner.lock().boot
    }
}

#[derive(Debug)]
struct SimLock {
    disk: SimDisk,
    path: PathBuf,
}

impl DiskLock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        self.disk.inner.lock().locks.remove(&self.path);
    }
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    id: NodeId,
    path: PathBuf,
}

impl DiskFile for SimFile {
    fn read_at(&self, position: u64, bytes: usize) -> io::Result<Vec<u8>> {
        let mut inner = self.disk.inner.lock();
        inner.begin(OpKind::Read, &self.path)?;
        Ok(inner.tree.file(self.id)?.read(position, bytes))
    }

    fn write_at(&self, position: u64, buffers: &mut [IoSlice<'_>]) -> io::Result<()> {
        let mut inner = self.disk.inner.lock();
        write_fully(position, buffers, |at, rest| inner.write_some(self.id, &self.path, at, rest))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.inner.lock().sync_data(self.id, &self.path)
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        let mut inner = self.disk.inner.lock();
        inner.begin(OpKind::Truncate, &self.path)?;
        inner.tree.file_mut(self.id)?.truncate(bytes);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        let inner = self.disk.inner.lock();
        if inner.is_off {
            return Err(power_is_off());
        }
        Ok(inner.tree.file(self.id)?.len())
    }
}

fn power_is_off() -> io::Error {
    io::Error::other("the power is off")
}
