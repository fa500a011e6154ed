//! How long to wait before the next attempt: exponential, bounded, with jitter.

use std::time::Duration;

/// Bounds of the delays between attempts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BackoffRange {
    /// Before the first retry, at most.
    pub(crate) min: Duration,
    /// Ever.
    pub(crate) max: Duration,
}

/// For reconnecting streams: quick at first, because most breaks are a restart of a second.
pub(crate) const RECONNECT: BackoffRange = BackoffRange { min: Duration::from_millis(50), max: Duration::from_secs(1) };

impl BackoffRange {
    /// The delay before retry number `attempt` (from 0). `jitter` in `0.0..1.0` picks a point in the upper half, so
    /// that clients that failed together do not come back together.
    pub(crate) fn delay(self, attempt: u32, jitter: f64) -> Duration {
        let full = self.min.saturating_mul(1_u32.checked_shl(attempt).unwrap_or(u32::MAX)).min(self.max);
        full.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0)
    }

    /// [`delay`](Self::delay) with jitter from the process's generator.
    pub(crate) fn jittered(self, attempt: u32) -> Duration {
        self.delay(attempt, fastrand::f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_until_they_reach_the_bound() {
        let range = BackoffRange { min: Duration::from_millis(10), max: Duration::from_millis(35) };
        let delays: Vec<_> = (0..4).map(|attempt| range.delay(attempt, 1.0).as_millis()).collect();
        assert_eq!(delays, [10, 20, 35, 35]);
        assert_eq!(range.delay(1_000, 1.0), range.max);
    }

    #[test]
    fn jitter_stays_in_the_upper_half() {
        let range = BackoffRange { min: Duration::from_millis(100), max: Duration::from_secs(1) };
        assert_eq!(range.delay(0, 0.0), Duration::from_millis(50));
        assert_eq!(range.delay(0, 2.0), Duration::from_millis(100));
    }
}
