//! The version of everything in the directory, in its file FORMAT.

use std::io;
use std::path::Path;

use super::{DataDirError, TOPICS, files};
use crate::StorageError;
use crate::disk::Disk;

const FORMAT: &str = "FORMAT";
const VERSION: u32 = 1;

/// Refuses a directory that is none of ours, or of a format that is not known.
pub(crate) fn check_existing(disk: &dyn Disk, path: &Path) -> Result<(), DataDirError> {
    match files::read(disk, &path.join(FORMAT))? {
        Some(_) => check(disk, path),
        None => Err(DataDirError::UnsupportedFormat { found: "(none)".to_owned(), supported: VERSION }),
    }
}

/// Refuses a format that is not known, before anything is touched.
pub(super) fn check(disk: &dyn Disk, path: &Path) -> Result<(), DataDirError> {
    let unsupported = |found: String| DataDirError::UnsupportedFormat { found, supported: VERSION };
    let Some(bytes) = files::read(disk, &path.join(FORMAT))? else {
        let is_used = match disk.list(path) {
            Ok(entries) => entries.iter().any(|entry| entry.name == TOPICS),
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => return Err(StorageError::io("list", path, error).into()),
        };
        // Whoever wrote topics wrote FORMAT before them.
        return if is_used { Err(unsupported("(none)".to_owned())) } else { Ok(()) };
    };
    let text = String::from_utf8_lossy(&bytes);
    match text.trim().parse::<u32>() {
        Ok(1..=VERSION) => Ok(()),
        Ok(_) | Err(_) => Err(unsupported(text.trim().chars().take(64).collect())),
    }
}

/// Writes the format of a new directory.
pub(super) fn begin(disk: &dyn Disk, path: &Path) -> Result<(), DataDirError> {
    let file = path.join(FORMAT);
    if files::read(disk, &file)?.is_none() {
        files::write_atomic(disk, &file, format!("{VERSION}\n").as_bytes())?;
    }
    Ok(())
}
