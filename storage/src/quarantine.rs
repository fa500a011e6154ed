//! Side files: the bytes that a repair has taken out of a log, kept beside it for whoever can make something of them.
//!
//! A side file begins with a few lines for people, ended by an empty one; then come the bytes as they were. It is durable,
//! under its name, before the file that the bytes are from is touched.

use std::io::IoSlice;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::disk::{Access, Disk, DiskFile};
use crate::{Offset, StorageError};

/// What the name of a side file has behind the name of the file that the bytes are from.
const MARK: &str = ".damaged-";
/// Bytes copied or compared at once.
const PIECE_BYTES: u64 = 1 << 20;
/// Side files of one place: as many repairs as may have failed half way in different states of the file.
const SIDE_FILES_MAX: u32 = 1000;

/// Whether this is the name of a side file.
pub(crate) fn is_side_file(name: &str) -> bool {
    name.contains(MARK)
}

/// Bytes to keep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) bytes: Range<u64>,
    /// The records that should have been there, if any.
    pub(crate) offsets: Range<Offset>,
    pub(crate) what: &'static str,
}

/// Copies `kept` out of the file at `path` into a side file, durable when it returns; one that a repair before has left is
/// taken as it is. Gives its path.
pub(crate) fn keep(disk: &dyn Disk, path: &Path, kept: &Kept) -> Result<PathBuf, StorageError> {
    let source = disk.open(path, Access::Read).map_err(|error| StorageError::io("open", path, error))?;
    let head = head(path, kept);
    for number in 1..=SIDE_FILES_MAX {
        let side = side_path(path, kept.bytes.start, number);
        if holds(disk, &side, &head, &*source, &kept.bytes)? {
            return Ok(side);
        }
        if disk.open(&side, Access::Read).is_err() {
            write(disk, &side, &head, &*source, &kept.bytes)?;
            return Ok(side);
        }
    }
    let source = std::io::ErrorKind::AlreadyExists.into();
    Err(StorageError::io("create", &side_path(path, kept.bytes.start, SIDE_FILES_MAX), source))
}

/// Where the bytes at `position` of the file at `path` go, unless another damage of that place lies there.
pub(crate) fn side_path(path: &Path, position: u64, number: u32) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!("{MARK}{position}"));
    if number > 1 {
        name.push(format!("-{number}"));
    }
    path.with_file_name(name)
}

fn head(path: &Path, kept: &Kept) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let Range { start, end } = kept.bytes;
    let offsets = match kept.offsets.is_empty() {
        true => "none".to_owned(),
        false => format!("{} to {}", kept.offsets.start, kept.offsets.end - 1),
    };
    format!(
        "Aqueduct: damaged bytes, taken out by a repair\nfile     {name}\nbytes    {start} to {}\noffsets  {offsets}\nwhat     {}\n\n",
        end.saturating_sub(1),
        kept.what,
    )
}

fn write(
    disk: &dyn Disk,
    side: &Path,
    head: &str,
    source: &dyn DiskFile,
    bytes: &Range<u64>,
) -> Result<(), StorageError> {
    let new_path = crate::rewrite::new_path(side);
    let file = crate::rewrite::create_anew(disk, &new_path)?;
    let io = |operation, error| StorageError::io(operation, &new_path, error);
    file.write_at(0, &mut [IoSlice::new(head.as_bytes())]).map_err(|error| io("write", error))?;
    let mut at = bytes.start;
    while at < bytes.end {
        let piece = read(source, side, at, bytes.end)?;
        if piece.is_empty() {
            break;
        }
        let position = head.len() as u64 + (at - bytes.start);
        file.write_at(position, &mut [IoSlice::new(&piece)]).map_err(|error| io("write", error))?;
        at += piece.len() as u64;
    }
    crate::rewrite::put_in_place(disk, &*file, &new_path, side)
}

/// Whether the file at `side` is what [`write`] would write.
fn holds(
    disk: &dyn Disk,
    side: &Path,
    head: &str,
    source: &dyn DiskFile,
    bytes: &Range<u64>,
) -> Result<bool, StorageError> {
    let Ok(file) = disk.open(side, Access::Read) else { return Ok(false) };
    let length = file.len().map_err(|error| StorageError::io("stat", side, error))?;
    let found = file.read_at(0, head.len()).map_err(|error| StorageError::io("read", side, error))?;
    if length != head.len() as u64 + (bytes.end - bytes.start) || found != head.as_bytes() {
        return Ok(false);
    }
    let mut at = bytes.start;
    while at < bytes.end {
        let expected = read(source, side, at, bytes.end)?;
        let position = head.len() as u64 + (at - bytes.start);
        let found = file.read_at(position, expected.len()).map_err(|error| StorageError::io("read", side, error))?;
        if expected.is_empty() || found != expected {
            return Ok(false);
        }
        at += expected.len() as u64;
    }
    // It may lie only in the page cache, and under its name only there.
    file.sync_data().map_err(|error| StorageError::io("sync", side, error))?;
    crate::rewrite::sync_dir_of(disk, side)?;
    Ok(true)
}

fn read(source: &dyn DiskFile, path: &Path, at: u64, end: u64) -> Result<Vec<u8>, StorageError> {
    let wanted = usize::try_from((end - at).min(PIECE_BYTES)).unwrap_or(0);
    source.read_at(at, wanted).map_err(|error| StorageError::io("read", path, error))
}
