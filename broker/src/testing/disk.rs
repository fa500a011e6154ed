//! The machine's disk, with a clock that tests set forward: the age of events follows it, and so does retention.

use std::{io, path::Path, sync::Arc};

use aqueduct_storage::{Access, BootTime, DirEntry, Disk, DiskFile, DiskLock, LockError, RealDisk};

use crate::clock::Clock;

#[derive(Debug)]
pub(super) struct AheadDisk {
    real: RealDisk,
    clock: Clock,
}

impl AheadDisk {
    pub(super) fn new(clock: Clock) -> Self {
        Self { real: RealDisk::new(), clock }
    }
}

impl Disk for AheadDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.real.create(path)
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn DiskFile>> {
        self.real.open(path, access)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.real.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.real.remove_file(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.real.create_dir(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.real.remove_dir(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        self.real.list(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.real.sync_dir(dir)
    }

    fn lock(&self, path: &Path, holder: &str) -> Result<Box<dyn DiskLock>, LockError> {
        self.real.lock(path, holder)
    }

    fn lock_untouched(&self, path: &Path) -> Result<Option<Box<dyn DiskLock>>, LockError> {
        self.real.lock_untouched(path)
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        self.real.free_bytes(path)
    }

    fn boot_time(&self) -> BootTime {
        let real = self.real.boot_time();
        let ahead_us = u64::try_from(self.clock.ahead().as_micros()).unwrap_or(u64::MAX);
        BootTime { since_boot_us: real.since_boot_us.saturating_add(ahead_us), ..real }
    }
}
