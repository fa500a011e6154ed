//! Replacing a file by a new one: written under another name, synced, renamed, and the directory synced.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::StorageError;
use crate::disk::{Disk, DiskFile};
use crate::recovery::NEW_SUFFIX;

/// The name under which a file is written before it is renamed to `path`.
pub(crate) fn new_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(NEW_SUFFIX);
    PathBuf::from(name)
}

/// Creates the file at `path`, in place of what an attempt before may have left.
pub(crate) fn create_anew(disk: &dyn Disk, path: &Path) -> Result<Arc<dyn DiskFile>, StorageError> {
    match disk.remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(StorageError::io("remove", path, error)),
    }
    disk.create(path).map_err(|error| StorageError::io("create", path, error))
}

/// Makes `file`, written at `new_path`, durable at `path`.
pub(crate) fn put_in_place(
    disk: &dyn Disk,
    file: &dyn DiskFile,
    new_path: &Path,
    path: &Path,
) -> Result<(), StorageError> {
    file.sync_data().map_err(|error| StorageError::io("sync", new_path, error))?;
    disk.rename(new_path, path).map_err(|error| StorageError::io("rename", new_path, error))?;
    sync_dir_of(disk, path)
}

/// Makes the entry of `path` durable.
pub(crate) fn sync_dir_of(disk: &dyn Disk, path: &Path) -> Result<(), StorageError> {
    let dir = path.parent().unwrap_or(path);
    disk.sync_dir(dir).map_err(|error| StorageError::io("sync", dir, error))
}
