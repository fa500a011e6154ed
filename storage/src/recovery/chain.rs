//! The segments before the last: is any of them missing?
//!
//! A sealed segment says in its trailer where it ends, and the next one must begin there. A segment without a trailer
//! was superseded, or its trailer is damaged: then its batches must reach the next segment, or that one must name it as
//! the segment before it, and what lies between is damage.

use super::{Listed, Place};
use crate::disk::Access;
use crate::segment::file_name;
use crate::segment::format::{BLOCK_BYTES, BlockFault, HEADER_BYTES, SegmentHeader, TRAILER_BYTES, Trailer, damage};
use crate::segment::scan::HeaderScan;
use crate::segment::walk::{End, Step, Walk};
use crate::state::State;
use crate::{DamagedRange, Offset, OpenError, StorageError};

/// What the check has found.
#[derive(Debug, Default)]
pub(super) struct Links {
    pub(super) damage: Vec<DamagedRange>,
    /// The highest epoch seen.
    pub(super) epoch: u32,
    /// Append time of the last batch in them: all that knows it, if the last segment holds none.
    pub(super) last_append_time_us: Option<i64>,
    pub(super) scanned_bytes: u64,
}

impl Links {
    fn see(&mut self, epoch: u32, append_time_us: Option<i64>) {
        self.epoch = self.epoch.max(epoch);
        self.last_append_time_us = self.last_append_time_us.max(append_time_us);
    }
}

/// Checks that the segments in `live` follow each other without a gap, from the one that holds `log_start` on. One
/// small read for each sealed segment.
pub(super) fn check(
    place: Place<'_>,
    live: &[Listed],
    log_start: Offset,
    state: Option<&State>,
) -> Result<Links, OpenError> {
    let mut links = Links::default();
    let missing = |from, to, after| Err(OpenError::MissingSegment { from, to, after });
    match live.first() {
        Some(first) if first.base > log_start => return missing(log_start, first.base, place.dir.to_owned()),
        None if state.is_some_and(|state| state.durable_end > log_start) => {
            let end = state.map_or(log_start, |state| state.durable_end);
            return missing(log_start, end, place.dir.to_owned());
        }
        Some(_) | None => {}
    }
    for pair in live.windows(2) {
        check_link(place, pair[0], pair[1].base, &mut links)?;
    }
    if let (Some(last), Some(known)) = (live.last(), state.and_then(|state| state.last_segment))
        && known.base > last.base
    {
        let end = state.map_or(known.base, |state| state.durable_end);
        return missing(known.base, end.max(known.base + 1), place.dir.join(file_name(last.base)));
    }
    Ok(links)
}

fn check_link(place: Place<'_>, segment: Listed, next_base: Offset, links: &mut Links) -> Result<(), OpenError> {
    let path = place.dir.join(file_name(segment.base));
    match read_trailer(place, segment)? {
        Some(trailer) if trailer.end >= next_base => {
            links.see(trailer.epoch, trailer.append_time_us());
            Ok(())
        }
        Some(trailer) => Err(OpenError::MissingSegment { from: trailer.end, to: next_base, after: path }),
        None => walk_to(place, segment, next_base, names_as_previous(place, next_base, segment.base)?, links),
    }
}

/// The trailer of a segment; `None` if it has none, or a damaged one.
pub(crate) fn read_trailer(place: Place<'_>, segment: Listed) -> Result<Option<Trailer>, StorageError> {
    let Some(position) = segment.bytes.checked_sub(TRAILER_BYTES).filter(|position| *position >= HEADER_BYTES) else {
        return Ok(None);
    };
    let path = place.dir.join(file_name(segment.base));
    let file = place.disk.open(&path, Access::Read).map_err(|error| StorageError::io("open", &path, error))?;
    let bytes = file.read_at(position, BLOCK_BYTES).map_err(|error| StorageError::io("read", &path, error))?;
    match Trailer::decode(&bytes, place.id) {
        Ok(trailer) => Ok(Some(trailer).filter(|found| found.base == segment.base && found.position == position)),
        Err(BlockFault::Damaged) => Ok(None),
        Err(BlockFault::Unsupported(version)) => {
            Err(StorageError::Unsupported { path, what: format!("trailer version {version}") })
        }
    }
}

/// Whether the header of the segment at `base` says that the one at `previous` comes before it, or the header of that one
/// that a compaction has made it stand for everything up to `base`.
pub(crate) fn names_as_previous(place: Place<'_>, base: Offset, previous: Offset) -> Result<Order, StorageError> {
    let named = read_header(place, base)?.and_then(|header| header.previous);
    let covered = read_header(place, previous)?.and_then(|header| header.covered());
    let is_adjacent = named == Some(previous) || covered.is_some_and(|covered| covered.end == base);
    Ok(if is_adjacent { Order::Adjacent } else { Order::Unknown })
}

/// The header of the segment at `base`; `None` if it is damaged.
fn read_header(place: Place<'_>, base: Offset) -> Result<Option<SegmentHeader>, StorageError> {
    let path = place.dir.join(file_name(base));
    let file = place.disk.open(&path, Access::Read).map_err(|error| StorageError::io("open", &path, error))?;
    let bytes = file.read_at(0, BLOCK_BYTES).map_err(|error| StorageError::io("read", &path, error))?;
    Ok(SegmentHeader::decode(&bytes, place.id).ok())
}

/// What is known of two segments that follow each other in the directory.
///
/// Where the batches of the first end before the second begins, this tells damage from a lost file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// None was ever between them.
    Adjacent,
    Unknown,
}

fn walk_to(
    place: Place<'_>,
    segment: Listed,
    next_base: Offset,
    order: Order,
    links: &mut Links,
) -> Result<(), OpenError> {
    let path = place.dir.join(file_name(segment.base));
    let file = place.disk.open(&path, Access::Read).map_err(|error| StorageError::io("open", &path, error))?;
    let scan = HeaderScan::new(file, &path, place.id, HEADER_BYTES, segment.bytes);
    let mut walk = Walk::new(scan, segment.base, next_base, 0);
    let mut end_of_damage = None;
    loop {
        match walk.step()? {
            Step::Batch { stored, .. } => links.see(stored.header.epoch, Some(stored.header.append_time_us)),
            Step::Damage { position, from, to, what } => {
                end_of_damage = Some(to.unwrap_or(next_base));
                links.damage.push(damage(from..to.unwrap_or(next_base), &path, position, what));
            }
            Step::End(End::File | End::Trailer(_)) if end_of_damage != Some(next_base) => {
                let from = walk.expected();
                if order == Order::Unknown {
                    return Err(OpenError::MissingSegment { from, to: next_base, after: path });
                }
                links.damage.push(damage(from..next_base, &path, walk.position(), "the batches end early"));
                break;
            }
            Step::End(End::Limit | End::File | End::Trailer(_)) => break,
        }
    }
    links.scanned_bytes += walk.bytes_read();
    Ok(())
}
