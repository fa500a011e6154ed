//! Whether the group is delivered to at this time of day.

use std::time::Duration;

use tokio::time::Instant;

use crate::groups::hours::DeliveryHours;

/// The wall clock may be set meanwhile: it is looked at this often.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// Pure: it is told what time it is.
#[derive(Debug, Default)]
pub(super) struct Opening {
    pub(super) hours: DeliveryHours,
    is_closed: bool,
}

impl Opening {
    /// Looks at both clocks; returns when to look again, if nothing else happens.
    pub(super) fn look(&mut self, now: Instant, now_us: impl FnOnce() -> i64) -> Option<Instant> {
        let closed_for = if self.hours.are_limited() { self.closed_for(now_us()) } else { None };
        self.is_closed = closed_for.is_some();
        closed_for.map(|closed_for| now + closed_for.min(LOOK_AGAIN))
    }

    pub(super) fn is_closed(&self) -> bool {
        self.is_closed
    }

    fn closed_for(&self, now_us: i64) -> Option<Duration> {
        let left_us = self.hours.closed_until_us(now_us)?.saturating_sub(now_us);
        Some(Duration::from_micros(u64::try_from(left_us).unwrap_or(0)))
    }
}
