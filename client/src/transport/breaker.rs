//! A circuit breaker: while the broker is known to be away, requests fail at once instead of waiting for a time-out.
//!
//! A pure state machine: the caller brings the clock and the jitter.

use std::time::Duration;

use tokio::time::Instant;

use super::backoff::BackoffRange;

/// Failures in a row before the breaker opens: one lost connection is not an outage.
const FAILURES_TO_OPEN: u32 = 3;
/// How long an open breaker refuses before it lets a probe through.
const OPEN: BackoffRange = BackoffRange { min: Duration::from_millis(100), max: Duration::from_secs(1) };
/// A probe that has said nothing for this long was cancelled; another one may go.
const PROBE_LOST_AFTER: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Requests go. Counts failures in a row.
    Closed { failures: u32 },
    /// Requests fail at once. `openings` in a row make the pauses longer.
    Open { until: Instant, openings: u32 },
    /// One probe is on its way; everything else still fails at once.
    HalfOpen { since: Instant, openings: u32 },
}

/// May this request go?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    Go,
    /// The broker is away; ask again after this time.
    Refused {
        retry_after: Duration,
    },
}

#[derive(Debug)]
pub(crate) struct Breaker {
    state: State,
}

impl Breaker {
    pub(crate) fn new() -> Self {
        Self { state: State::Closed { failures: 0 } }
    }

    /// Whoever gets [`Admission::Go`] reports [`success`](Self::success) or [`failure`](Self::failure).
    pub(crate) fn admit(&mut self, now: Instant) -> Admission {
        match self.state {
            State::Closed { .. } => Admission::Go,
            State::Open { until, .. } if now < until => Admission::Refused { retry_after: until - now },
            State::HalfOpen { since, .. } if now < since + PROBE_LOST_AFTER => {
                Admission::Refused { retry_after: OPEN.min }
            }
            State::Open { openings, .. } | State::HalfOpen { openings, .. } => {
                self.state = State::HalfOpen { since: now, openings };
                Admission::Go
            }
        }
    }

    /// The broker answered, whatever it said.
    pub(crate) fn success(&mut self) {
        self.state = State::Closed { failures: 0 };
    }

    /// The broker could not be reached.
    pub(crate) fn failure(&mut self, now: Instant, jitter: f64) {
        let openings = match self.state {
            State::Closed { failures } if failures + 1 < FAILURES_TO_OPEN => {
                self.state = State::Closed { failures: failures + 1 };
                return;
            }
            State::Closed { .. } => 0,
            // Somebody who was admitted earlier; the pause that is running already accounts for it.
            State::Open { .. } => return,
            State::HalfOpen { openings, .. } => openings.saturating_add(1),
        };
        self.state = State::Open { until: now + OPEN.delay(openings, jitter), openings };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(now: Instant) -> Breaker {
        let mut breaker = Breaker::new();
        for _ in 0..FAILURES_TO_OPEN {
            assert_eq!(breaker.admit(now), Admission::Go);
            breaker.failure(now, 1.0);
        }
        breaker
    }

    #[test]
    fn opens_after_failures_in_a_row_only() {
        let now = Instant::now();
        let mut breaker = Breaker::new();
        for _ in 0..10 {
            breaker.failure(now, 1.0);
            breaker.failure(now, 1.0);
            breaker.success();
        }
        assert_eq!(breaker.admit(now), Admission::Go);
        assert_eq!(opened(now).admit(now), Admission::Refused { retry_after: OPEN.min });
    }

    #[test]
    fn lets_one_probe_through_and_closes_when_it_succeeds() {
        let now = Instant::now();
        let mut breaker = opened(now);
        let later = now + OPEN.min;
        assert_eq!(breaker.admit(later), Admission::Go);
        assert!(matches!(breaker.admit(later), Admission::Refused { .. }));
        breaker.success();
        assert_eq!(breaker.admit(later), Admission::Go);
    }

    #[test]
    fn pauses_grow_while_probes_fail() {
        let now = Instant::now();
        let mut breaker = opened(now);
        let second = now + OPEN.min;
        assert_eq!(breaker.admit(second), Admission::Go);
        breaker.failure(second, 1.0);
        assert_eq!(breaker.admit(second), Admission::Refused { retry_after: OPEN.min * 2 });
    }

    #[test]
    fn a_cancelled_probe_does_not_block_for_ever() {
        let now = Instant::now();
        let mut breaker = opened(now);
        let later = now + OPEN.min;
        assert_eq!(breaker.admit(later), Admission::Go);
        assert_eq!(breaker.admit(later + PROBE_LOST_AFTER), Admission::Go);
    }
}
