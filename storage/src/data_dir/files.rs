//! Small files and whole trees of them.

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};

use crate::StorageError;
use crate::disk::{Access, Disk, EntryKind};

/// Replaces the file at `path`: a crash leaves the old or the new content. Durable when it returns: two syncs.
pub(crate) fn write_atomic(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> Result<(), StorageError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let new_path = PathBuf::from(name);
    remove_file(disk, &new_path)?;
    let io = |operation, error| StorageError::io(operation, &new_path, error);
    let file = disk.create(&new_path).map_err(|error| io("create", error))?;
    file.write_at(0, &mut [IoSlice::new(bytes)]).map_err(|error| io("write", error))?;
    file.sync_data().map_err(|error| io("sync", error))?;
    disk.rename(&new_path, path).map_err(|error| io("rename", error))?;
    let dir = path.parent().unwrap_or(path);
    disk.sync_dir(dir).map_err(|error| StorageError::io("sync", dir, error))
}

/// Content of the file at `path`; `None` if it is not there.
pub(crate) fn read(disk: &dyn Disk, path: &Path) -> Result<Option<Vec<u8>>, StorageError> {
    let io = |operation, error| StorageError::io(operation, path, error);
    let file = match disk.open(path, Access::Read) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io("open", error)),
    };
    let bytes = file.len().map_err(|error| io("stat", error))?;
    file.read_at(0, usize::try_from(bytes).unwrap_or(usize::MAX)).map(Some).map_err(|error| io("read", error))
}

/// Removes the directory at `path` with all it holds; nothing if it is not there. A crash leaves a part of it.
pub(crate) fn remove_tree(disk: &dyn Disk, path: &Path) -> Result<(), StorageError> {
    let entries = match disk.list(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(StorageError::io("list", path, error)),
    };
    for entry in entries {
        let child = path.join(entry.name);
        match entry.kind {
            EntryKind::Directory => remove_tree(disk, &child)?,
            EntryKind::File { .. } => remove_file(disk, &child)?,
        }
    }
    disk.remove_dir(path).map_err(|error| StorageError::io("remove", path, error))
}

fn remove_file(disk: &dyn Disk, path: &Path) -> Result<(), StorageError> {
    match disk.remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StorageError::io("remove", path, error)),
        Ok(()) | Err(_) => Ok(()),
    }
}
