//! An input as a list of changes to the files of a log.

use arbitrary::{Arbitrary, Unstructured};

use super::forge;
use super::originals::{COUNT, Files, original};

const CHANGES_MAX: usize = 8;
/// A file does not grow beyond this by one change.
const GROWTH_BYTES_MAX: usize = 8 << 10;

/// Something done to one file.
#[derive(Arbitrary, Debug)]
enum Change<'a> {
    /// Bytes are written over others.
    Overwrite {
        at: u16,
        bytes: &'a [u8],
    },
    /// A field of one of the file's structures gets a value.
    Field {
        structure: u8,
        field: u8,
        value: Value,
    },
    Cut {
        bytes: u16,
    },
    Grow {
        bytes: u16,
        fill: u8,
    },
    Replace {
        content: &'a [u8],
    },
    Lose,
    /// A part of another file is written over the file's own.
    Mix {
        other: u8,
        from: u16,
        bytes: u16,
        at: u16,
    },
    /// It gets the name of the segment with this base.
    Rename {
        base: u64,
    },
}

#[derive(Arbitrary, Debug)]
enum Value {
    Small(u8),
    Short(u32),
    Long(u64),
    /// So far from the largest there is.
    NearMax(u8),
}

/// Whether changes are disguised, which no accident does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Checksums {
    AsTheyAre,
    MadeRight,
}

/// The files that `input` describes.
pub(crate) fn files(input: &[u8]) -> arbitrary::Result<(Files, Checksums)> {
    let mut from = Unstructured::new(input);
    let mut files = original(from.int_in_range(0..=COUNT - 1)?).clone();
    let checksums = if from.arbitrary()? { Checksums::MadeRight } else { Checksums::AsTheyAre };
    for _ in 0..CHANGES_MAX {
        if from.is_empty() || files.is_empty() {
            break;
        }
        let name = chosen(&files, from.arbitrary()?);
        apply(&mut files, &name, &from.arbitrary()?);
    }
    if checksums == Checksums::MadeRight {
        files.values_mut().for_each(|file| forge::checksums(file));
    }
    Ok((files, checksums))
}

fn chosen(files: &Files, number: u8) -> String {
    files.keys().nth(usize::from(number) % files.len()).cloned().unwrap_or_default()
}

fn apply(files: &mut Files, name: &str, change: &Change<'_>) {
    let mix = match change {
        Change::Mix { other, from, bytes, .. } => {
            let source = &files[&chosen(files, *other)];
            let from = usize::from(*from).min(source.len());
            let to = (from + usize::from(*bytes)).min(source.len());
            source[from..to].to_vec()
        }
        _ => Vec::new(),
    };
    let Some(file) = files.get_mut(name) else { return };
    match change {
        Change::Overwrite { at, bytes } => write(file, usize::from(*at), bytes),
        Change::Field { structure, field, value } => set_field(file, *structure, *field, value),
        Change::Cut { bytes } => file.truncate(file.len().saturating_sub(usize::from(*bytes))),
        Change::Grow { bytes, fill } => file.resize(file.len() + usize::from(*bytes).min(GROWTH_BYTES_MAX), *fill),
        Change::Replace { content } => *file = content.to_vec(),
        Change::Lose => drop(files.remove(name)),
        Change::Mix { at, .. } => write(file, usize::from(*at), &mix),
        Change::Rename { base } => {
            let extension = name.rsplit_once('.').map_or("log", |(_, extension)| extension);
            let renamed = format!("{base:020}.{extension}");
            if let Some(file) = files.remove(name) {
                files.insert(renamed, file);
            }
        }
    }
}

fn write(file: &mut [u8], at: usize, bytes: &[u8]) {
    let at = at.min(file.len());
    let length = bytes.len().min(file.len() - at);
    file[at..at + length].copy_from_slice(&bytes[..length]);
}

fn set_field(file: &mut [u8], structure: u8, field: u8, value: &Value) {
    let structures = forge::structures(file);
    let Some(begin) = structures.get(usize::from(structure) % structures.len().max(1)) else { return };
    // Every field lies at a multiple of four, but for those in the first eight bytes.
    let at = begin + usize::from(field % 48) * 4;
    match value {
        Value::Small(byte) => write(file, at, &[*byte]),
        Value::Short(number) => write(file, at, &number.to_le_bytes()),
        Value::Long(number) => write(file, at, &number.to_le_bytes()),
        Value::NearMax(below) => write(file, at, &(u64::MAX - u64::from(*below)).to_le_bytes()),
    }
}
