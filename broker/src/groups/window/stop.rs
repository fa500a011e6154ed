//! Why a window delivers nothing further.

use aqueduct_storage::Offset;
use tokio::time::Instant;

use super::{Kind, Window};
use crate::groups::{assignment::MemberId, retry::Failure};

/// See the [module](self).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The cursor is [`OPEN_RECORDS_MAX`](super::OPEN_RECORDS_MAX) ahead of the committed offset.
    TooFarAhead {
        /// The committed offset.
        first: Offset,
        /// Who has that record, if somebody has.
        with: Option<MemberId>,
    },
    /// Attempts are counted for no more.
    TooManyFailed { ranges: usize },
    /// Nothing overtakes this record, which is tried again.
    Held { offset: Offset, failure: Failure, until: Instant },
    /// Nothing overtakes this record, which is not tried again.
    Halted { offset: Offset, failure: Failure },
    /// Only these wait, for earlier ones of their keys.
    Keys { records: u64, first: Offset, until: Option<Instant> },
}

impl Window {
    /// Why nothing further is delivered of it, or of some keys of it, if that is for its own sake. `owner` has what is
    /// delivered in order.
    pub(crate) fn stop(&self, owner: MemberId, now: Instant) -> Option<Stop> {
        match &self.0 {
            Kind::Ordered(window) => window.stop(owner, now),
            Kind::Free(window) if window.has_room() => None,
            Kind::Free(window) => Some(window.records.too_far_ahead()),
            Kind::Keyed(window) if window.has_room() => window.waiting_keys(),
            Kind::Keyed(window) if window.records.has_room_ahead() => {
                Some(Stop::TooManyFailed { ranges: window.records.progress.failed_ranges() })
            }
            Kind::Keyed(window) => Some(window.records.too_far_ahead()),
        }
    }
}
