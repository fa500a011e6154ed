//! Records that leave a window without having been handled: which, why, and where to.

use std::ops::Range;

use aqueduct_storage::Offset;

use super::{Pause, records::Records};
use crate::groups::{ranges::RangeSet, retry::Failure};

/// Where records are that have left; what is in neither was lost.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Whereabouts {
    /// They wait, in the order of their keys, where they are tried again.
    pub(crate) in_retry: RangeSet,
    /// They are dead letters.
    pub(crate) in_letters: RangeSet,
}

/// A record, or neighbours with one history, to be moved to the dead letters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Parking {
    pub(super) range: Range<Offset>,
    pub(super) failure: Failure,
}

/// A record, or neighbours with one history, that leave the window without having been handled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Exit {
    pub(crate) range: Range<Offset>,
    /// Without an attempt for one that only follows.
    pub(crate) failure: Failure,
    pub(crate) way: Way,
}

/// Why a record leaves, and where to.
#[derive(Debug, Clone)]
pub(super) struct Leaving {
    pub(super) failure: Failure,
    pub(super) way: Way,
}

/// Where a record goes that leaves the window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// To the dead letters.
    Park,
    /// It comes again after this pause, unless it is exhausted.
    Retry(Pause),
    /// The same, and what follows of its key comes after it.
    RetryInOrder(Pause),
    /// It has not failed, but an earlier one of its key: it comes after that.
    Follow,
    /// It has not failed, but an earlier one of its key was parked: it goes to the dead letters, too.
    ParkBehind,
}

/// The first of what leaves.
pub(super) fn next_exits<L: Clone>(
    records: &Records<L>,
    records_max: u64,
    leaving: impl Fn(&L) -> &Leaving,
) -> Vec<Exit> {
    let mut room = records_max;
    let mut exits = Vec::new();
    for (range, known) in records.leaving.iter() {
        if room == 0 {
            break;
        }
        room = room.saturating_sub(range.end - range.start);
        let Leaving { failure, way } = leaving(known).clone();
        exits.push(Exit { range, failure, way });
    }
    exits
}
