//! What lies on the disk: the files of a log, changed in any way.

mod forge;
mod originals;
mod reading;
mod script;

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use aqueduct_storage::sim::SimDisk;
use aqueduct_storage::{LastStop, OpenError, PartitionLog, RecoveryReport};
use arbitrary::Unstructured;

use self::originals::{COUNT, Files, ID, batch, disk_of, files_on, log_dir, options, original};
use self::reading::{Found, assert_sound, everything, lookups};
use self::script::Checksums;

/// Changes to the files of a log, checksums made right or not.
///
/// The log opens or names what is wrong and changes nothing; and what it holds is read or named as damage. Unless checksums
/// were made right, opening it again, after a kill or a power loss, gives the same; and what is appended then is there with it.
pub fn recovery(input: &[u8]) {
    let Ok((files, checksums)) = script::files(input) else { return };
    let disk = disk_of(&files);
    match open(&disk) {
        // No accident makes checksums right. What was forged is refused or read soundly; what it does to later opens is not
        // asked.
        Err(_) if checksums == Checksums::MadeRight => {}
        Ok((log, _)) if checksums == Checksums::MadeRight => assert_sound(&everything(&log), log.window()),
        Err(error) => {
            assert_eq!(files_on(&disk), files, "refused, and changed: {error}");
            let again = open(&disk).expect_err("refused once, refused always");
            assert_eq!(again.to_string(), error.to_string());
        }
        Ok((log, report)) => recovered(&disk, log, &report),
    }
}

fn recovered(disk: &SimDisk, mut log: PartitionLog, report: &RecoveryReport) {
    let window = log.window();
    assert_eq!((report.log_start, report.log_end), (window.log_start, window.high_watermark));
    assert_eq!(log.log_end(), window.high_watermark);
    let mut found = everything(&log);
    assert_sound(&found, window);
    same_after(report.stop, &disk.after_kill(), &found, "a kill");
    same_after(report.stop, &disk.after_power_loss(1), &found, "a power loss");
    let time_us = log.last_append_time_us().unwrap_or(0);
    let next = batch(log.log_end(), log.epoch(), time_us, 100);
    if log.append_group(std::slice::from_ref(&next)).is_err() {
        return;
    }
    // Behind what a newer version wrote nothing is read.
    if !matches!(found.last(), Some(Found::Refused(_))) {
        found.push(Found::of(&next));
    }
    assert_eq!(everything(&log), found, "what is appended is there");
    same_after(report.stop, &disk.after_power_loss(2), &found, "an append and a power loss");
    if log.close().is_ok() {
        same_after(report.stop, &disk.after_power_loss(3), &found, "a clean stop");
    }
}

/// After a clean stop an open looks at nothing, so that what hinders it may be noticed by the next one only.
fn same_after(first: LastStop, disk: &SimDisk, found: &[Found], what: &str) {
    match open(disk) {
        Ok((log, _)) => assert_eq!(everything(&log), found, "after {what}"),
        Err(error) => assert_eq!(first, LastStop::Clean, "after {what}: {error}"),
    }
}

/// The content of an index file: as it comes, or as entries under a header and a checksum that are right.
///
/// Whatever it says, what is read and looked up is what is read and looked up without it.
pub fn index(input: &[u8]) {
    let Ok((which, name, content)) = index_file(input) else { return };
    let files = original(which);
    let with = answers_of(files, &name, Some(content));
    static WITHOUT: Mutex<BTreeMap<(usize, String), Answers>> = Mutex::new(BTreeMap::new());
    let mut known = WITHOUT.lock().unwrap_or_else(PoisonError::into_inner);
    let without = known.entry((which, name)).or_insert_with_key(|(_, name)| answers_of(files, name, None));
    assert_eq!(with.found, without.found, "read by way of the index");
    for (with, without) in with.lookups.iter().zip(&without.lookups) {
        assert_eq!(with, without, "looked up in the index");
    }
}

/// What a log says.
struct Answers {
    found: Vec<Found>,
    lookups: Vec<String>,
}

/// What the log says that has `index` as its file `name`, or none.
fn answers_of(files: &Files, name: &str, index: Option<Vec<u8>>) -> Answers {
    let mut files = files.clone();
    files.remove(name);
    files.extend(index.map(|content| (name.to_owned(), content)));
    let (log, _) = open(&disk_of(&files)).expect("an index hinders nobody, and is not needed");
    Answers { found: everything(&log), lookups: lookups(&log) }
}

fn index_file(input: &[u8]) -> arbitrary::Result<(usize, String, Vec<u8>)> {
    let mut from = Unstructured::new(input);
    let which = from.int_in_range(0..=COUNT - 1)?;
    let segments: Vec<&String> = original(which).keys().filter(|name| name.ends_with(".log")).collect();
    let segment = from.choose_index(segments.len())?;
    let name = segments[segment].replace(".log", ".index");
    if from.arbitrary()? {
        return Ok((which, name, from.take_rest().to_vec()));
    }
    let base = |name: &&String| name.trim_end_matches(".log").parse::<u64>().unwrap_or(0);
    let (log, _) = open(&disk_of(original(which))).expect("an original");
    let end = segments.get(segment + 1).map_or(log.window().high_watermark, base);
    let entries = from.take_rest();
    let mut content = b"AQIX\x01\0\x40\0\0\0\0\0\0\0\0\0".to_vec();
    content.extend(base(&segments[segment]).to_le_bytes());
    content.extend(end.to_le_bytes());
    content.extend((entries.len() as u64 / 24).to_le_bytes());
    content.resize(64, 0);
    content.extend(&entries[..entries.len() / 24 * 24]);
    forge::checksums(&mut content);
    Ok((which, name, content))
}

fn open(disk: &SimDisk) -> Result<(PartitionLog, RecoveryReport), OpenError> {
    PartitionLog::open(disk.shared(), &log_dir(), ID, options(), 0)
}
