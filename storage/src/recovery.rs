//! Opening a log: at once after a clean stop, by looking at its end after anything else.
//!
//! The rule: what lies below the highest `durable_offset` found in an intact header, or below the durable end in
//! `partition.state`, was acknowledged. If it is damaged, that is corruption: reported, left as it is, never cut. What
//! lies above is a tail that nobody was promised ([`tail`]).
//!
//! Order, so that a crash during recovery converges: the tail is made durable, then a fresh segment if one is needed,
//! then the directory, then `partition.state` with the raised epoch; leftovers go last.

pub(crate) mod chain;
mod tail;

use std::path::Path;
use std::sync::Arc;

use crate::age_clock::AgeClock;
use crate::batch::LogId;
use crate::disk::{Disk, EntryKind};
use crate::log::{create_segment, remove_segment};
use crate::segment::format::{HEADER_BYTES, SegmentHeader};
use crate::segment::{Segment, parse_file_name};
use crate::state::{self, LastSegment, Loaded, SegmentKind, State, StateFile, Stop};
use crate::{DamagedRange, Offset, OpenError, StorageError};
use tail::TailOutcome;

/// End of the name of a file that was not yet renamed into place.
pub(crate) const NEW_SUFFIX: &str = ".new";

/// How the log was left by whoever had it open before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LastStop {
    /// Closed: nothing had to be looked at.
    Clean,
    /// Killed, or cut off from power.
    Unclean,
}

/// What opening a log has found and done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoveryReport {
    /// How the log was left.
    pub stop: LastStop,
    /// Epoch from now on; raised unless the stop was clean.
    pub epoch: u32,
    /// First readable offset.
    pub log_start: Offset,
    /// Next offset to assign.
    pub log_end: Offset,
    /// Bytes read to find the log end.
    pub scanned_bytes: u64,
    /// Bytes above the last proof of durability that were intact, and were written again and synced.
    pub rewritten_bytes: u64,
    /// Bytes above the last proof of durability that were not intact, and were cut; zeros written ahead do not count.
    pub cut_bytes: u64,
    /// Acknowledged records that are damaged. They are left as they are; the rest is readable.
    pub damage: Vec<DamagedRange>,
    /// What else a person may want to know.
    pub notes: Vec<String>,
}

/// A log as it is to be opened.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub(crate) state_file: StateFile,
    /// The facts, with the durable end at the log end.
    pub(crate) state: State,
    pub(crate) segments: Vec<Arc<Segment>>,
}

impl Recovered {
    pub(crate) fn new_log(state_file: StateFile, state: State) -> Self {
        Self { state_file, state, segments: Vec::new() }
    }
}

/// A segment file as the directory lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) base: Offset,
    pub(crate) bytes: u64,
}

/// Where a log lies.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) disk: &'a Arc<dyn Disk>,
    pub(crate) dir: &'a Path,
    pub(crate) id: LogId,
}

/// Checksum over the base offsets of all segments.
pub(crate) fn segments_crc(bases: &[Offset]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    bases.iter().for_each(|base| hasher.update(&base.to_le_bytes()));
    hasher.finalize()
}

/// Whether there is any trace of a log in `dir`.
pub(crate) fn holds_log(disk: &dyn Disk, dir: &Path) -> Result<bool, StorageError> {
    let entries = disk.list(dir).map_err(|error| StorageError::io("list", dir, error))?;
    Ok(entries.iter().any(|entry| entry.name == state::FILE_NAME || parse_file_name(&entry.name, "log").is_some()))
}

/// Finds out where the log in `dir` begins and ends, and makes that true on disk.
pub(crate) fn recover(disk: &Arc<dyn Disk>, dir: &Path, id: LogId) -> Result<(Recovered, RecoveryReport), OpenError> {
    let place = Place { disk, dir, id };
    let listed = list_segments(place)?;
    let known = match StateFile::load(disk.clone(), dir, id)? {
        Loaded::OtherLog(found) => return Err(OpenError::WrongLog { expected: id, found }),
        Loaded::Missing if listed.is_empty() => return Err(OpenError::Missing { dir: dir.to_owned() }),
        Loaded::Damaged if listed.is_empty() => {
            let path = dir.join(state::FILE_NAME);
            let what = "no slot is intact, and there is no segment to learn from".to_owned();
            return Err(StorageError::Corrupt { path, position: 0, what }.into());
        }
        Loaded::State(file, state) => Some((file, state)),
        Loaded::Missing | Loaded::Damaged => None,
    };
    if listed.is_empty() {
        // A kill may have come between the creation of the log and the syncs that make it durable.
        for entry_in in [dir, dir.parent().unwrap_or(dir)] {
            disk.sync_dir(entry_in).map_err(|error| StorageError::io("sync", entry_in, error))?;
        }
    }
    match known {
        Some((file, state)) if is_clean(&state, &listed) => Ok(open_clean(place, &listed, file, state)),
        known => recover_unclean(place, &listed, known),
    }
}

pub(crate) fn list_segments(place: Place<'_>) -> Result<Vec<Listed>, OpenError> {
    let entries = match place.disk.list(place.dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(OpenError::Missing { dir: place.dir.to_owned() });
        }
        Err(error) => return Err(StorageError::io("list", place.dir, error).into()),
    };
    let segment = |entry: &crate::disk::DirEntry| match entry.kind {
        EntryKind::File { bytes } => parse_file_name(&entry.name, "log").map(|base| Listed { base, bytes }),
        EntryKind::Directory => None,
    };
    let mut listed: Vec<Listed> = entries.iter().filter_map(segment).collect();
    listed.sort_unstable_by_key(|segment| segment.base);
    Ok(listed)
}

/// Whether the files are exactly what a clean stop has left.
pub(crate) fn is_clean(state: &State, listed: &[Listed]) -> bool {
    let bases: Vec<Offset> = listed.iter().map(|segment| segment.base).collect();
    let is_last_as_left = match (state.last_segment, listed.last()) {
        (Some(left), Some(found)) => left.base == found.base && left.position == found.bytes,
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    };
    state.stop == Stop::Clean && is_last_as_left && state.segments_crc == segments_crc(&bases)
}

fn open_clean(place: Place<'_>, listed: &[Listed], state_file: StateFile, state: State) -> (Recovered, RecoveryReport) {
    let mut segments = sealed(place, listed);
    if let Some(LastSegment { base, position, kind: SegmentKind::Active }) = state.last_segment {
        segments.pop();
        segments.push(Arc::new(Segment::new(place.dir, base, state.durable_end, position)));
    }
    let report = RecoveryReport {
        stop: LastStop::Clean,
        epoch: state.epoch,
        log_start: state.log_start,
        log_end: state.durable_end,
        scanned_bytes: 0,
        rewritten_bytes: 0,
        cut_bytes: 0,
        damage: Vec::new(),
        notes: Vec::new(),
    };
    (Recovered { state_file, state, segments }, report)
}

fn sealed(place: Place<'_>, listed: &[Listed]) -> Vec<Arc<Segment>> {
    let segment = |listed: &Listed| Arc::new(Segment::sealed(place.dir, listed.base, listed.bytes));
    listed.iter().map(segment).collect()
}

fn recover_unclean(
    place: Place<'_>,
    listed: &[Listed],
    known: Option<(StateFile, State)>,
) -> Result<(Recovered, RecoveryReport), OpenError> {
    let state = known.as_ref().map(|(_, state)| *state);
    let log_start = state.map_or_else(|| listed.first().map_or(0, |first| first.base), |state| state.log_start);
    let mut notes = Vec::new();
    if state.is_none() {
        notes.push(format!("{} was lost and is made anew: trimmed records may be back", state::FILE_NAME));
    }
    let (leftovers, live) = split_leftovers(listed, log_start);
    let links = chain::check(place, live, log_start, state.as_ref())?;
    let mut damage = links.damage;
    let outcome = match live.last() {
        Some(last) => tail::recover(place, *last, state.as_ref())?,
        None => TailOutcome::empty(log_start),
    };
    damage.extend(outcome.damage.iter().cloned());
    notes.extend(outcome.notes.iter().cloned());
    let highest = state.map_or(0, |state| state.epoch).max(links.epoch).max(outcome.epoch);
    let epoch = highest.checked_add(1).ok_or_else(|| StorageError::Corrupt {
        path: place.dir.join(state::FILE_NAME),
        position: 0,
        what: format!("no epoch is above {highest}"),
    })?;
    let age = state.map_or_else(|| AgeClock::new(place.disk.boot_time()), |state| state.age);
    let (segments, last_segment) = settle(place, live, &outcome, epoch, age.age_us)?;
    // A segment, the last or one that a compaction has put in place, may have its name in memory alone; what it stands for
    // must not go before it is there to stay.
    place.disk.sync_dir(place.dir).map_err(|error| StorageError::io("sync", place.dir, error))?;
    let bases: Vec<Offset> = segments.iter().map(|segment| segment.base).collect();
    // The last segment may hold nothing, and what was saved be older than the one before it.
    let saved_time_us = state.and_then(|state| state.last_append_time_us);
    let last_append_time_us = outcome.last_append_time_us.max(links.last_append_time_us).max(saved_time_us);
    let new_state = State {
        epoch,
        log_start,
        durable_end: outcome.end,
        last_segment,
        segments_crc: segments_crc(&bases),
        stop: Stop::Running,
        last_append_time_us,
        age,
    };
    let state_file = save(place, known.map(|(file, _)| file), &new_state)?;
    let dropped = live.iter().filter(|listed| !bases.contains(&listed.base));
    for leftover in leftovers.iter().chain(dropped) {
        remove_segment(&**place.disk, &Segment::sealed(place.dir, leftover.base, leftover.bytes))?;
    }
    remove_strays(place, &bases)?;
    let report = RecoveryReport {
        stop: LastStop::Unclean,
        epoch,
        log_start: new_state.log_start,
        log_end: outcome.end,
        scanned_bytes: outcome.scanned_bytes + links.scanned_bytes,
        rewritten_bytes: outcome.rewritten_bytes,
        cut_bytes: outcome.cut_bytes,
        damage,
        notes,
    };
    Ok((Recovered { state_file, state: new_state, segments }, report))
}

/// What a removal has left behind, wholly below the log start, and the segments of the log; the last is never removed.
pub(crate) fn split_leftovers(listed: &[Listed], log_start: Offset) -> (&[Listed], &[Listed]) {
    listed.split_at(listed.windows(2).take_while(|pair| pair[1].base <= log_start).count())
}

/// Removes files that were never renamed into place, and indexes whose segment is gone.
fn remove_strays(place: Place<'_>, bases: &[Offset]) -> Result<(), StorageError> {
    let entries = place.disk.list(place.dir).map_err(|error| StorageError::io("list", place.dir, error))?;
    for entry in entries {
        let is_orphan = parse_file_name(&entry.name, "index").is_some_and(|base| !bases.contains(&base));
        if is_orphan || entry.name.ends_with(NEW_SUFFIX) {
            let path = place.dir.join(&entry.name);
            place.disk.remove_file(&path).map_err(|error| StorageError::io("remove", &path, error))?;
        }
    }
    Ok(())
}

/// The segments as the log goes on with them, after a fresh one was begun where the old one must not be touched. One that is
/// not among them is to be removed.
fn settle(
    place: Place<'_>,
    live: &[Listed],
    outcome: &TailOutcome,
    epoch: u32,
    age_us: u64,
) -> Result<(Vec<Arc<Segment>>, Option<LastSegment>), OpenError> {
    let mut segments = sealed(place, live);
    let last = live.last().map(|last| last.base);
    let active = |base, position| LastSegment { base, position, kind: SegmentKind::Active };
    let last_segment = match (outcome.ending, last) {
        (_, None) => None,
        (tail::Ending::GoesOn { position, recent_from }, Some(base)) => {
            segments.pop();
            segments.push(Arc::new(Segment::new(place.dir, base, recent_from, position)));
            Some(active(base, position))
        }
        (tail::Ending::Sealed { bytes }, Some(base)) => {
            Some(LastSegment { base, position: bytes, kind: SegmentKind::Sealed })
        }
        (tail::Ending::Superseded, previous @ Some(_)) => {
            let header = SegmentHeader { epoch, base: outcome.end, age_us, previous, compacted_span: None };
            create_segment(&**place.disk, place.dir, place.id, header)?;
            segments.push(Arc::new(Segment::new(place.dir, outcome.end, outcome.end, HEADER_BYTES)));
            Some(active(outcome.end, HEADER_BYTES))
        }
        (tail::Ending::Removed, Some(base)) => {
            segments.pop();
            match live.iter().rev().nth(1) {
                // Without a trailer it ends where the next one begins: if there were none, what a failed sync has left
                // behind its end would be taken for a tail.
                Some(before) if chain::read_trailer(place, *before)?.is_none() => {
                    let previous = Some(before.base);
                    let header = SegmentHeader { epoch, base, age_us, previous, compacted_span: None };
                    create_segment(&**place.disk, place.dir, place.id, header)?;
                    segments.push(Arc::new(Segment::new(place.dir, base, base, HEADER_BYTES)));
                    Some(active(base, HEADER_BYTES))
                }
                before => before.map(|before| LastSegment {
                    base: before.base,
                    position: before.bytes,
                    kind: SegmentKind::Sealed,
                }),
            }
        }
    };
    Ok((segments, last_segment))
}

fn save(place: Place<'_>, known: Option<StateFile>, state: &State) -> Result<StateFile, OpenError> {
    match known {
        Some(mut file) => {
            file.write_synced(state)?;
            Ok(file)
        }
        None => {
            let file = StateFile::create(place.disk.clone(), place.dir, place.id, state)?;
            place.disk.sync_dir(place.dir).map_err(|error| StorageError::io("sync", place.dir, error))?;
            Ok(file)
        }
    }
}
