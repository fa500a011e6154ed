//! What has to be done about each segment of a log.

use std::ops::Range;
use std::path::PathBuf;

use crate::batch::BatchHeader;
use crate::quarantine::Kept;
use crate::recovery::{Listed, Place};
use crate::segment::format::{HEADER_BYTES, SegmentHeader};
use crate::segment::survey::{Damage, Piece};
use crate::state::State;
use crate::verify::log::OpenSegment;
use crate::{Fact, Finding, Offset, StorageError};

/// Offsets that are lost, and the bytes in their place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hole {
    pub(crate) offsets: Range<Offset>,
    pub(crate) bytes: Range<u64>,
    what: &'static str,
}

/// A segment as it is, and what must become of it.
#[derive(Debug)]
pub(crate) struct SegmentPlan {
    pub(crate) path: PathBuf,
    pub(crate) listed: Listed,
    /// The offset at which it must end.
    pub(crate) end: Offset,
    /// In order.
    pub(crate) holes: Vec<Hole>,
    /// What its header must say.
    pub(crate) header: SegmentHeader,
    /// What stands in front of its first batch, for an empty one that may have to go there.
    pub(crate) before: Before,
    lost_header: Option<Range<u64>>,
    lost_trailer: Option<Range<u64>>,
}

/// The time and the epoch that the next batch may not go back behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Before {
    pub(crate) append_time_us: Option<i64>,
    pub(crate) epoch: u32,
}

impl Before {
    pub(crate) fn pass(&mut self, header: &BatchHeader) {
        self.append_time_us = Some(header.append_time_us);
        self.epoch = header.epoch;
    }
}

impl SegmentPlan {
    /// Whether there is anything to do.
    pub(crate) fn is_needed(&self) -> bool {
        !self.holes.is_empty() || self.lost_header.is_some() || self.lost_trailer.is_some()
    }

    /// The bytes that must be kept before the segment is written anew.
    pub(crate) fn kept(&self) -> Vec<Kept> {
        let block = |bytes: &Option<Range<u64>>, what| {
            bytes.clone().map(|bytes| Kept { bytes, offsets: 0..0, what }).into_iter()
        };
        let holes = self.holes.iter();
        let holes =
            holes.map(|hole| Kept { bytes: hole.bytes.clone(), offsets: hole.offsets.clone(), what: hole.what });
        block(&self.lost_header, "segment header")
            .chain(holes)
            .chain(block(&self.lost_trailer, "trailer"))
            .filter(|kept| !kept.bytes.is_empty())
            .collect()
    }
}

/// Plans for the segments `live`, none of which is missing, of a log that was settled; `damage` is what verification has
/// found in them.
pub(super) fn segments(
    place: Place<'_>,
    live: &[Listed],
    state: &State,
    damage: &[Finding],
) -> Result<Vec<SegmentPlan>, StorageError> {
    let mut before = Before::default();
    let mut plans = Vec::new();
    for (at, listed) in live.iter().enumerate() {
        let segment = OpenSegment::open(place, *listed)?;
        let end = live.get(at + 1).map_or(state.durable_end, |next| next.base);
        let mut plan = plan(place, &segment, end, &mut before)?;
        if segment.header.is_none() {
            plan.header.previous = at.checked_sub(1).map(|before| live[before].base);
        }
        let is_trailer = |finding: &&Finding| finding.fact == Fact::Trailer && finding.file == plan.path;
        plan.lost_trailer = damage.iter().find(is_trailer).and_then(|finding| finding.bytes.clone());
        plans.push(plan);
    }
    // A header that is lost had the reading of the age clock when it was written. A later one makes records younger.
    let mut age_us = state.age.age_us;
    for plan in plans.iter_mut().rev() {
        if plan.lost_header.is_some() {
            plan.header.age_us = age_us;
        }
        age_us = plan.header.age_us;
    }
    Ok(plans)
}

fn plan(
    place: Place<'_>,
    segment: &OpenSegment,
    end: Offset,
    before: &mut Before,
) -> Result<SegmentPlan, StorageError> {
    let listed = segment.listed;
    let at_first = *before;
    let mut survey = segment.survey(place, end);
    let (mut holes, mut first_epoch, mut reached) = (Vec::new(), None, listed.base);
    loop {
        match survey.next(&mut |_| {})? {
            Piece::Batch { stored, .. } => {
                first_epoch.get_or_insert(stored.header.epoch);
                before.pass(&stored.header);
                reached = stored.header.next_offset();
            }
            Piece::Damage(Damage { bytes, from, to, what }) => {
                reached = to.unwrap_or(end).min(end);
                holes.push(Hole { offsets: from..reached, bytes, what });
            }
            Piece::End => break,
        }
    }
    if reached < end {
        let bytes = survey.position()..survey.position();
        holes.push(Hole { offsets: reached..end, bytes, what: "the batches end early" });
    }
    let epoch = first_epoch.unwrap_or(at_first.epoch);
    let header = SegmentHeader { epoch, base: listed.base, age_us: 0, previous: None, compacted_span: None };
    Ok(SegmentPlan {
        path: segment.path.clone(),
        listed,
        end,
        holes,
        header: segment.header.unwrap_or(header),
        before: at_first,
        lost_header: segment.header.is_none().then_some(0..HEADER_BYTES.min(listed.bytes)),
        lost_trailer: None,
    })
}
