//! The operating system's file system. Linux first; what only Linux has falls back on other Unix systems.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice, Read, Write};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::FlockOperation;

use super::{Access, BootTime, DirEntry, Disk, DiskFile, DiskLock, EntryKind, LockError, write_fully};

/// Buffers that one vectored call may carry (`IOV_MAX` on Linux and macOS).
const BUFFERS_MAX: usize = 1024;

/// Bytes of one call. The kernel makes the folios of the page cache as large as the call: measured on ext4 with groups of
/// 1 MiB and more, 64 to 256 KiB copy at 3.3 to 3.9 GB/s, 16 KiB at 2.1, and 1 MiB at 0.6 to 3.7, whichever memory it got.
const WRITE_BYTES_MAX: usize = 128 << 10;

/// The file system of this machine.
#[derive(Debug)]
pub struct RealDisk {
    boot_id: [u8; 16],
}

impl RealDisk {
    /// The file system of this machine. Reads the identity of the current boot once.
    #[must_use]
    pub fn new() -> Self {
        Self { boot_id: boot_id() }
    }
}

impl Default for RealDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl Disk for RealDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        Ok(Arc::new(RealFile { file }))
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(access == Access::ReadWrite).open(path)?;
        Ok(Arc::new(RealFile { file }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            let kind = match metadata.is_dir() {
                true => EntryKind::Directory,
                false => EntryKind::File { bytes: metadata.len() },
            };
            // A name that is not UTF-8 is none of ours.
            if let Ok(name) = entry.file_name().into_string() {
                entries.push(DirEntry { name, kind });
            }
        }
        Ok(entries)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn lock(&self, path: &Path, holder: &str) -> Result<Box<dyn DiskLock>, LockError> {
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(LockError::Io)?;
        take_lock(&mut file)?;
        file.set_len(0).map_err(LockError::Io)?;
        file.write_all(holder.as_bytes()).map_err(LockError::Io)?;
        Ok(Box::new(RealLock { _file: file }))
    }

    fn lock_untouched(&self, path: &Path) -> Result<Option<Box<dyn DiskLock>>, LockError> {
        let mut file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(LockError::Io(error)),
        };
        take_lock(&mut file)?;
        Ok(Some(Box::new(RealLock { _file: file })))
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(path)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn boot_time(&self) -> BootTime {
        BootTime { boot_id: self.boot_id, since_boot_us: since_boot_us() }
    }
}

fn take_lock(file: &mut File) -> Result<(), LockError> {
    match rustix::fs::flock(&*file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut held_by = String::new();
            // The holder may be between locking and writing its name: then the name is empty.
            file.read_to_string(&mut held_by).map_err(LockError::Io)?;
            Err(LockError::Held { holder: held_by.trim().to_owned() })
        }
        Err(error) => Err(LockError::Io(error.into())),
    }
}

/// Keeps the descriptor whose lock it is.
#[derive(Debug)]
struct RealLock {
    _file: File,
}

impl DiskLock for RealLock {}

#[derive(Debug)]
struct RealFile {
    file: File,
}

impl DiskFile for RealFile {
    fn read_at(&self, position: u64, bytes: usize) -> io::Result<Vec<u8>> {
        let mut out = Vec::with_capacity(bytes);
        while out.len() < bytes {
            let at = position + out.len() as u64;
            // Into the spare capacity: no zeroing of memory that the read fills anyway.
            match rustix::io::pread(&self.file, rustix::buffer::spare_capacity(&mut out), at) {
                Ok(0) => break,
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        out.truncate(bytes); // the allocation may be larger than what was asked for
        Ok(out)
    }

    fn write_at(&self, position: u64, buffers: &mut [IoSlice<'_>]) -> io::Result<()> {
        write_fully(position, buffers, |at, rest| Ok(rustix::io::pwritev(&self.file, &front(rest), at)?))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        self.file.set_len(bytes)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }
}

/// The buffers that one call writes: [`BUFFERS_MAX`] and [`WRITE_BYTES_MAX`] at most.
fn front<'a>(buffers: &'a [IoSlice<'_>]) -> Vec<IoSlice<'a>> {
    let mut room = WRITE_BYTES_MAX;
    let mut front = Vec::with_capacity(buffers.len().min(BUFFERS_MAX));
    for buffer in buffers.iter().take(BUFFERS_MAX) {
        if room == 0 {
            break;
        }
        let part = &buffer[..buffer.len().min(room)];
        room -= part.len();
        front.push(IoSlice::new(part));
    }
    front
}

/// Linux names every boot; elsewhere each process counts as a boot of its own, which only makes retention later.
fn boot_id() -> [u8; 16] {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let mut id = [0; 16];
    if digits.len() == 32 {
        for (byte, pair) in id.iter_mut().zip(digits.chunks_exact(2)) {
            let text = std::str::from_utf8(pair).unwrap_or_default();
            *byte = u8::from_str_radix(text, 16).unwrap_or_default();
        }
    } else {
        id[..4].copy_from_slice(&std::process::id().to_le_bytes());
    }
    id
}

/// Includes the time in which the machine slept, where the system can tell.
fn since_boot_us() -> u64 {
    #[cfg(target_os = "linux")]
    let clock = rustix::time::ClockId::Boottime;
    #[cfg(not(target_os = "linux"))]
    let clock = rustix::time::ClockId::Monotonic;
    let now = rustix::time::clock_gettime(clock);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    let nanoseconds = u64::try_from(now.tv_nsec).unwrap_or_default();
    seconds * 1_000_000 + nanoseconds / 1_000
}
