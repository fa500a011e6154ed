//! What time it is, for everything that waits, expires or is written down. Tests move it forward by hand.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::{
    sync::Notify,
    time::{self, Instant},
};

/// Two clocks that a test can set forward together: the monotonic one, for time-outs and leases, and the one of the wall,
/// for what people and retention see. Clones are the same clock.
#[derive(Debug, Clone, Default)]
pub(crate) struct Clock(Arc<Ahead>);

/// How far the clock is ahead of the machine's.
#[derive(Debug, Default)]
struct Ahead {
    micros: Arc<AtomicU64>,
    moved: Notify,
}

impl Clock {
    /// On the monotonic clock.
    pub(crate) fn now(&self) -> Instant {
        Instant::now() + self.ahead()
    }

    /// Microseconds since the Unix epoch.
    pub(crate) fn now_us(&self) -> i64 {
        now_us().saturating_add_unsigned(self.0.micros.load(Ordering::Acquire))
    }

    /// Resolves at `deadline`. Cancel-safe.
    pub(crate) async fn sleep_until(&self, deadline: Instant) {
        loop {
            let moved = self.0.moved.notified();
            // Before the origin of the machine's clock there is nothing to wait for.
            let Some(at) = deadline.checked_sub(self.ahead()) else { return };
            tokio::select! {
                () = time::sleep_until(at) => return,
                () = moved => {}
            }
        }
    }

    /// Sets the clock forward, and wakes what waits for a time that has come with it.
    pub(crate) fn advance(&self, by: Duration) {
        let by = u64::try_from(by.as_micros()).unwrap_or(u64::MAX);
        self.0.micros.fetch_add(by, Ordering::AcqRel);
        self.0.moved.notify_waiters();
    }

    /// How far it has been set forward in all.
    pub(crate) fn ahead(&self) -> Duration {
        Duration::from_micros(self.0.micros.load(Ordering::Acquire))
    }
}

/// The machine's wall clock, in microseconds since the Unix epoch.
pub(crate) fn now_us() -> i64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(elapsed.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn setting_the_clock_forward_wakes_whoever_waits_for_a_time_that_has_come() {
        let clock = Clock::default();
        let hour = Duration::from_secs(3600);
        let before_us = clock.now_us();
        let mut short = std::pin::pin!(clock.sleep_until(clock.now() + hour));
        let mut long = std::pin::pin!(clock.sleep_until(clock.now() + 3 * hour));
        assert_eq!(short.as_mut().now_or_never(), None);
        assert_eq!(long.as_mut().now_or_never(), None);
        clock.advance(2 * hour);
        short.await;
        assert_eq!(long.as_mut().now_or_never(), None);
        assert!(clock.now_us() >= before_us + 2 * 3_600_000_000);
        clock.advance(2 * hour);
        long.await;
        clock.sleep_until(clock.now()).await;
    }
}
