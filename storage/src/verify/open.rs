//! A log that is in use: what its readers can see, while it is written and trimmed.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::finding::{Fact, Finding};
use super::log::{Halt, LogCheck};
use super::{Audience, Checked};
use crate::recovery::{Listed, Place};
use crate::segment::{Segment, parse_file_name};
use crate::shared::{SegmentList, Shared};
use crate::{LogReader, StorageError, state};

/// `partition.state` may be written while it is read: what is torn once is whole the next time.
const STATE_READS_MAX: u32 = 5;

impl LogReader {
    /// Verifies the log from its start to the high watermark of now, on the disk and not in memory, and its state file.
    /// The writer is not held up; what retention removes meanwhile is left out. Blocks on the disk for as long as it takes
    /// to read everything: [`Audience::read`] can end it.
    ///
    /// # Errors
    /// If the state file cannot be read; what else cannot is a finding.
    pub fn verify(&self, audience: &mut dyn Audience) -> Result<Checked, StorageError> {
        let shared = self.shared();
        let window = shared.window();
        let list = shared.segments();
        let live: Vec<Listed> =
            list.iter().map(|segment| Listed { base: segment.base, bytes: segment.bytes() }).collect();
        let place = Place { disk: &shared.disk, dir: &shared.dir, id: shared.id };
        let mut audience = WhileKept { shared, list: list.clone(), audience };
        state_file(place, &mut audience)?;
        let mut check = LogCheck::new(place, &mut audience);
        let limit = window.high_watermark;
        match check.segments(&live, window.log_start, limit, limit) {
            Ok(()) | Err(Halt::Stopped) => Ok(check.checked),
            Err(Halt::Failed(error)) => Err(error),
        }
    }
}

fn state_file(place: Place<'_>, audience: &mut dyn Audience) -> Result<(), StorageError> {
    let path = place.dir.join(state::FILE_NAME);
    for attempt in 1..=STATE_READS_MAX {
        let Some(slots) = state::read_slots(&**place.disk, place.dir)? else {
            audience.found(Finding::new(path, Fact::StateLost));
            return Ok(());
        };
        let damaged: Vec<usize> = (0..slots.len()).filter(|slot| slots[*slot].is_err()).collect();
        if damaged.is_empty() {
            return Ok(());
        }
        if attempt == STATE_READS_MAX {
            let fact = if damaged.len() == slots.len() { Fact::StateLost } else { Fact::StateSlot };
            for slot in damaged {
                audience.found(Finding::new(&path, fact.clone()).at(state::slot_bytes(slot)));
            }
        }
    }
    Ok(())
}

/// Drops what is found in segments that have been removed since, or written anew.
struct WhileKept<'a> {
    shared: &'a Shared,
    /// The segments that are looked at.
    list: SegmentList,
    audience: &'a mut dyn Audience,
}

impl Audience for WhileKept<'_> {
    fn found(&mut self, finding: Finding) {
        let name = finding.file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let base = parse_file_name(name, "log").or_else(|| parse_file_name(name, "index"));
        let current = self.shared.segments();
        let is_current = |of: &Arc<Segment>| !of.is_retired() && current.iter().any(|one| Arc::ptr_eq(one, of));
        let is_kept = |base| self.list.iter().any(|segment| segment.base == base && is_current(segment));
        if base.is_none_or(is_kept) {
            self.audience.found(finding);
        }
    }

    fn read(&mut self, bytes: u64) -> ControlFlow<()> {
        self.audience.read(bytes)
    }
}
