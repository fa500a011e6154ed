//! Why a window delivers nothing further.

use aqueduct_storage::Offset;
use tokio::time::Instant;

use super::{Keys, Kind, Window};
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
    /// No more can be put where records are tried again.
    TooManyInRetry { records: usize },
    /// Nothing overtakes this record, which is tried again.
    Held { offset: Offset, failure: Failure, until: Instant },
    /// Nothing overtakes this record, which is not tried again.
    Halted { offset: Offset, failure: Failure },
    /// Only these wait, for earlier ones of their keys.
    Keys { records: u64, first: Offset },
    /// Only these wait, for their time or for earlier ones of their keys. `until` the first of them is due.
    InRetry { records: usize, until: Option<Instant> },
}

impl Window {
    /// Why nothing further is delivered of it, or of some keys of it, if that is for its own sake. `owner` has what is
    /// delivered in order.
    pub(crate) fn stop(&self, owner: MemberId, keys: &Keys, now: Instant) -> Option<Stop> {
        match &self.0 {
            Kind::Ordered(window) => window.stop(owner, now),
            Kind::Free(window) if window.has_room() => None,
            Kind::Free(window) => Some(window.records.too_far_ahead()),
            Kind::Keyed(window) => window.stop(keys),
            Kind::Retried(_) => keys.waiting_in_retry(),
        }
    }
}
