//! The one seam between the log and the world: a small file system and a clock that cannot be set.
//!
//! [`RealDisk`] is the operating system's; `sim::SimDisk` (feature `sim`) keeps what is durable apart from
//! what is not, and loses it on request. Every rule about durability is written against this trait:
//! - bytes are durable after [`DiskFile::sync_data`] (which covers the file's length),
//! - a directory entry is durable after [`Disk::sync_dir`] of its directory,
//! - after a failed sync, nothing is known about what it covered.

mod real;

#[cfg(feature = "sim")]
pub(crate) mod sim;

use std::fmt::Debug;
use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;

pub use real::RealDisk;

/// A file system, as much of it as the log needs. Blocking; costs are those of the system calls of the same names.
pub trait Disk: Send + Sync + Debug {
    /// Creates a file that must not exist, readable and writable. Durable only after [`Disk::sync_dir`].
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// Opens a file that must exist.
    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn DiskFile>>;
    /// Moves a file or directory, atomically, over a file that may exist at `to`.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes the entry of a file; whoever has it open can still read it.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Makes a directory whose parent exists. Durable only after [`Disk::sync_dir`] of the parent.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// Removes an empty directory.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
    /// The entries of a directory, in no order.
    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>>;
    /// Makes the entries of a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Takes an exclusive lock that the system releases when the process ends, and writes `holder` into the file.
    fn lock(&self, path: &Path, holder: &str) -> Result<Box<dyn DiskLock>, LockError>;
    /// Takes the same lock and writes nothing, for whoever only looks; `None` if there is no such file, and so no lock.
    fn lock_untouched(&self, path: &Path) -> Result<Option<Box<dyn DiskLock>>, LockError>;
    /// Bytes that an unprivileged process may still write.
    fn free_bytes(&self, path: &Path) -> io::Result<u64>;
    /// Time that nobody can set; see [`BootTime`].
    fn boot_time(&self) -> BootTime;
}

/// An open file. Shared by its writer and any number of readers; positions are explicit.
pub trait DiskFile: Send + Sync + Debug {
    /// Reads up to `bytes` at `position`; fewer only at the end of the file.
    fn read_at(&self, position: u64, bytes: usize) -> io::Result<Vec<u8>>;
    /// Writes all of `buffers`, one after the other, at `position`; on an error any part may have been written.
    fn write_at(&self, position: u64, buffers: &mut [IoSlice<'_>]) -> io::Result<()>;
    /// Makes the content and the length of the file durable.
    fn sync_data(&self) -> io::Result<()>;
    /// Cuts or extends (with zeros) the file.
    fn truncate(&self, bytes: u64) -> io::Result<()>;
    /// Length of the file in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Whether the file has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}

/// What an opened file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reading only.
    Read,
    /// Reading and writing.
    ReadWrite,
}

/// One entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// Its name in the directory.
    pub name: String,
    /// What it is.
    pub kind: EntryKind,
}

/// What a directory entry names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A file of this many bytes.
    File {
        /// Its length.
        bytes: u64,
    },
    /// A directory.
    Directory,
}

/// Holds a lock until it is dropped.
pub trait DiskLock: Send + Sync + Debug {}

/// Why a lock was not taken.
#[derive(Debug)]
pub enum LockError {
    /// Somebody holds it: what they wrote into the file.
    Held {
        /// The content of the lock file, trimmed.
        holder: String,
    },
    /// The lock could not be tried.
    Io(io::Error),
}

/// A reading of a clock that only ever goes forward, at one second a second, also while no process runs; it starts
/// anew with every boot. Two readings can be compared only within one boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BootTime {
    /// Random identity of this boot.
    pub boot_id: [u8; 16],
    /// Microseconds since that boot.
    pub since_boot_us: u64,
}

/// Writes all of `buffers` through `write_some`, which may write less than it was given or be interrupted.
///
/// Both disks use it, so that the simulated one tests the loop of the real one.
fn write_fully(
    mut position: u64,
    mut buffers: &mut [IoSlice<'_>],
    mut write_some: impl FnMut(u64, &[IoSlice<'_>]) -> io::Result<usize>,
) -> io::Result<()> {
    IoSlice::advance_slices(&mut buffers, 0); // drops empty ones: a call with nothing in it would return 0
    while !buffers.is_empty() {
        match write_some(position, buffers) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                position += written as u64;
                IoSlice::advance_slices(&mut buffers, written);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
