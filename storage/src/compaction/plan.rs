//! Which segments a compaction takes, and which of them become one: pure decisions over sizes.
//!
//! A segment says in its header whether a compaction has written it. Those that one has written come first, and hold each
//! key once; what follows is new. Nothing else is kept about how far compaction has come.

use std::sync::Arc;

use super::CompactionError;
use crate::Offset;
use crate::recovery::chain::read_trailer;
use crate::recovery::{Listed, Place};
use crate::segment::Segment;
use crate::segment::format::{HEADER_BYTES, damage};
use crate::shared::Shared;
use crate::verify::log::OpenSegment;

/// When there is enough to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Urgency {
    /// As soon as so much was not compacted yet.
    Due {
        /// Of the bytes that can be compacted, so many in a hundred are new.
        new_percent_min: u64,
        /// And at least so many bytes.
        new_bytes_min: u64,
    },
    /// Whenever anything is new.
    Now,
}

/// A segment to which nothing is appended any more.
#[derive(Debug, Clone)]
pub(super) struct Sealed {
    pub(super) segment: Arc<Segment>,
    /// First offset after it.
    pub(super) end: Offset,
    pub(super) bytes: u64,
    pub(super) is_compacted: bool,
    /// Append time of its last batch; `None` if that is not known.
    pub(super) last_append_time_us: Option<i64>,
}

impl Sealed {
    pub(super) fn base(&self) -> Offset {
        self.segment.base
    }
}

/// Neighbours that become one segment.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) sealed: Vec<Sealed>,
}

/// All segments but the last, which may be growing and names the end of the log. Two small reads for each.
pub(super) fn sealed(shared: &Shared) -> Result<Vec<Sealed>, CompactionError> {
    let high_watermark = shared.window().high_watermark;
    let place = Place { disk: &shared.disk, dir: &shared.dir, id: shared.id };
    let mut sealed = Vec::new();
    for pair in shared.segments().windows(2) {
        let (segment, end) = (&pair[0], pair[1].base);
        if end > high_watermark {
            break;
        }
        let listed = Listed { base: segment.base, bytes: segment.bytes() };
        let opened = OpenSegment::open(place, listed)?;
        let Some(header) = opened.header else {
            let offsets = segment.base..end;
            return Err(damage(offsets, &segment.path, 0, "segment header").into());
        };
        let trailer = read_trailer(place, listed)?;
        sealed.push(Sealed {
            segment: segment.clone(),
            end,
            bytes: segment.bytes(),
            is_compacted: header.covered().is_some(),
            last_append_time_us: trailer.map(|trailer| trailer.last_append_time_us),
        });
    }
    Ok(sealed)
}

/// How many of the segments, from the first on, a compaction takes; `None` if there is not enough to do. Those whose last
/// record is not older than `before_us` are left alone, and so is what follows them.
pub(super) fn range(sealed: &[Sealed], before_us: i64, urgency: Urgency) -> Option<usize> {
    let is_old = |sealed: &&Sealed| sealed.last_append_time_us.is_none_or(|last| last <= before_us);
    let old = sealed.iter().take_while(is_old).count();
    let last_new = sealed[..old].iter().rposition(|sealed| !sealed.is_compacted)?;
    let taken = &sealed[..=last_new];
    let bytes_of = |which: fn(&&Sealed) -> bool| taken.iter().filter(which).map(|sealed| sealed.bytes).sum::<u64>();
    let new_bytes = bytes_of(|sealed| !sealed.is_compacted);
    let all_bytes = bytes_of(|_| true);
    let is_due = match urgency {
        Urgency::Now => true,
        Urgency::Due { new_percent_min, new_bytes_min } => {
            new_bytes >= new_bytes_min && new_bytes.saturating_mul(100) >= all_bytes.saturating_mul(new_percent_min)
        }
    };
    is_due.then_some(taken.len())
}

/// Neighbours together as long as they are no larger than a segment may be, as they are now: what they shrink by, the
/// next pass uses.
pub(super) fn groups(sealed: &[Sealed], segment_bytes: u64) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    let mut bytes = 0;
    for next in sealed {
        let content_bytes = next.bytes.saturating_sub(HEADER_BYTES);
        let fits = |group: &Group| {
            let base = group.sealed.first().map_or(next.base(), Sealed::base);
            bytes + content_bytes <= segment_bytes && u32::try_from(next.end - base).is_ok()
        };
        match groups.last_mut().filter(|group| fits(group)) {
            Some(group) => {
                bytes += content_bytes;
                group.sealed.push(next.clone());
            }
            None => {
                bytes = next.bytes;
                groups.push(Group { sealed: vec![next.clone()] });
            }
        }
    }
    groups
}
