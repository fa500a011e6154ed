//! A log that nobody has open: its state file, its leftovers, and then its segments.

use std::path::Path;
use std::sync::Arc;

use super::finding::{Fact, Finding};
use super::log::{Halt, LogCheck};
use super::{Audience, Checked};
use crate::batch::LogId;
use crate::disk::{Disk, EntryKind};
use crate::quarantine;
use crate::recovery::chain::read_trailer;
use crate::recovery::{self, NEW_SUFFIX, Place, list_segments, split_leftovers};
use crate::segment::format::TRAILER_BYTES;
use crate::segment::{file_name, parse_file_name};
use crate::state::{self, SegmentKind, Slot, SlotFault, State};
use crate::{Offset, OpenError, StorageError};

/// Whether a verification went to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reached {
    End,
    /// The audience has heard enough.
    Stopped,
}

/// Verifies the log `id` in `dir`, which nobody has open. Changes nothing.
///
/// # Errors
/// If the directory or `partition.state` cannot be read; a file of the log that cannot is a finding.
pub fn verify_log(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    id: LogId,
    audience: &mut dyn Audience,
) -> Result<Checked, StorageError> {
    let mut checked = Checked::default();
    verify_in(Place { disk, dir, id }, audience, &mut checked).map(|_| checked)
}

/// Verifies the log in `place`, and adds what it looked at to `checked`.
pub(crate) fn verify_in(
    place: Place<'_>,
    audience: &mut dyn Audience,
    checked: &mut Checked,
) -> Result<Reached, StorageError> {
    let mut check = LogCheck::new(place, audience);
    let looked = verify(&mut check);
    *checked += check.checked;
    match looked {
        Ok(()) => Ok(Reached::End),
        Err(Halt::Stopped) => Ok(Reached::Stopped),
        Err(Halt::Failed(error)) => Err(error),
    }
}

fn verify(check: &mut LogCheck<'_>) -> Result<(), Halt> {
    let place = check.place;
    let listed = match list_segments(place) {
        Ok(listed) => listed,
        Err(OpenError::Missing { dir }) => {
            check.found(Finding::new(dir, Fact::NotMade));
            return Ok(());
        }
        Err(OpenError::Storage(error)) => return Err(error.into()),
        Err(error) => {
            check.found(Finding::new(place.dir, Fact::Unreadable(error.to_string())));
            return Ok(());
        }
    };
    let state = match read_state(check)? {
        Known::State(state) => Some(state),
        Known::Missing if listed.is_empty() => {
            check.found(Finding::new(place.dir, Fact::NotMade));
            return Ok(());
        }
        Known::Missing | Known::Lost => {
            check.found(Finding::new(place.dir.join(state::FILE_NAME), Fact::StateLost));
            None
        }
        Known::NotOurs => return Ok(()),
    };
    let log_start = state.map_or_else(|| listed.first().map_or(0, |first| first.base), |state| state.log_start);
    let (leftovers, live) = split_leftovers(&listed, log_start);
    for leftover in leftovers {
        check.found(Finding::new(place.dir.join(file_name(leftover.base)), Fact::Leftover));
    }
    other_files(check, &listed)?;
    if state.is_some_and(|state| !recovery::is_clean(&state, &listed)) {
        check.found(Finding::new(place.dir, Fact::NotClosed));
    }
    let proven = state.map_or(0, |state| last_segment(check, &state, live));
    check.segments(live, log_start, proven, Offset::MAX)
}

/// What `partition.state` tells.
enum Known {
    State(State),
    /// No slot is intact.
    Lost,
    Missing,
    /// It is another log's, or of a newer version.
    NotOurs,
}

fn read_state(check: &mut LogCheck<'_>) -> Result<Known, Halt> {
    let place = check.place;
    let path = place.dir.join(state::FILE_NAME);
    let Some(slots) = state::read_slots(&**place.disk, place.dir)? else { return Ok(Known::Missing) };
    let mut newest: Option<Slot> = None;
    for slot in &slots {
        match slot {
            Ok(slot) if slot.id != place.id => {
                check.found(Finding::new(&path, Fact::OtherLog(slot.id)));
                return Ok(Known::NotOurs);
            }
            Ok(slot) if newest.is_none_or(|known| slot.generation > known.generation) => newest = Some(*slot),
            Ok(_) | Err(SlotFault::Damaged) => {}
            Err(SlotFault::Unsupported(version)) => {
                check.found(Finding::new(&path, Fact::Unsupported(format!("state version {version}"))));
                return Ok(Known::NotOurs);
            }
        }
    }
    let Some(newest) = newest else { return Ok(Known::Lost) };
    for (at, _) in slots.iter().enumerate().filter(|(_, slot)| slot.is_err()) {
        // A power loss in the middle of its sector may have torn it as well: nothing is lost by either.
        check.found(Finding::new(&path, Fact::StateSlot).at(state::slot_bytes(at)));
    }
    Ok(Known::State(newest.state))
}

/// What a kill has left, and what a repair has kept.
fn other_files(check: &mut LogCheck<'_>, listed: &[recovery::Listed]) -> Result<(), Halt> {
    let place = check.place;
    let mut entries = place.disk.list(place.dir).map_err(|error| StorageError::io("list", place.dir, error))?;
    entries.sort_unstable_by(|one, other| one.name.cmp(&other.name));
    for entry in entries {
        let is_orphan =
            parse_file_name(&entry.name, "index").is_some_and(|base| listed.iter().all(|segment| segment.base != base));
        let path = place.dir.join(&entry.name);
        if is_orphan || entry.name.ends_with(NEW_SUFFIX) {
            check.found(Finding::new(path, Fact::Leftover));
        } else if quarantine::is_side_file(&entry.name) {
            let bytes = match entry.kind {
                EntryKind::File { bytes } => bytes,
                EntryKind::Directory => 0,
            };
            check.found(Finding::new(path, Fact::Quarantined).at(0..bytes));
        }
    }
    Ok(())
}

/// The last segment that the state knows of must be there, with its trailer if it was sealed. Gives the offset to which
/// those that are there must reach.
fn last_segment(check: &mut LogCheck<'_>, state: &State, live: &[recovery::Listed]) -> Offset {
    let (Some(known), Some(last)) = (state.last_segment, live.last()) else { return state.durable_end };
    let place = check.place;
    let path = place.dir.join(file_name(last.base));
    if known.base > last.base {
        let offsets = known.base..state.durable_end.max(known.base + 1);
        check.found(Finding::new(path, Fact::SegmentMissing).of(offsets));
        return known.base;
    }
    let is_sealed = known.base == last.base && known.kind == SegmentKind::Sealed;
    if is_sealed && matches!(read_trailer(place, *last), Ok(None)) {
        let begin = known.position.saturating_sub(TRAILER_BYTES);
        check.found(Finding::new(path, Fact::Trailer).at(begin..last.bytes.max(begin)));
    }
    state.durable_end
}
