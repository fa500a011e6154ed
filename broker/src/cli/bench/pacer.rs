//! Waking up on time.
//!
//! The runtime's own timers have a resolution of a millisecond: at 5,000 records a second that would be most of the
//! latency measured. A kernel timer that the runtime waits for like for a socket is on time to some 10 µs, and costs
//! neither a thread nor a core that spins, which the broker beside it may need.

use std::io;
use std::time::Instant;

#[cfg(target_os = "linux")]
use std::os::fd::OwnedFd;

#[cfg(target_os = "linux")]
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};

/// A timer of one task.
#[derive(Debug)]
pub(super) struct Pacer {
    #[cfg(target_os = "linux")]
    timer: tokio::io::unix::AsyncFd<OwnedFd>,
}

#[cfg(target_os = "linux")]
impl Pacer {
    pub(super) fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags)?;
        // Deprecated because a type may close or replace the descriptor it is registered with; an `OwnedFd` that nobody
        // else holds does neither. Its successor is `unsafe`, which this crate does without.
        #[allow(deprecated)]
        let timer = tokio::io::unix::AsyncFd::with_interest(timer, tokio::io::Interest::READABLE)?;
        Ok(Self { timer })
    }

    /// Waits until `instant`; if that has passed, lets the other tasks run once.
    pub(super) async fn until(&self, instant: Instant) -> io::Result<()> {
        let wait = instant.saturating_duration_since(Instant::now());
        if wait.is_zero() {
            tokio::task::yield_now().await;
            return Ok(());
        }
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let once = Timespec { tv_sec: wait.as_secs().cast_signed(), tv_nsec: wait.subsec_nanos().into() };
        let setting = Itimerspec { it_interval: zero, it_value: once };
        // Setting it forgets what an earlier, cancelled wait left behind.
        rustix::time::timerfd_settime(self.timer.get_ref(), TimerfdTimerFlags::empty(), &setting)?;
        let expire = |timer: &OwnedFd| Ok(rustix::io::read(timer, &mut [0; 8])?);
        self.timer.async_io(tokio::io::Interest::READABLE, expire).await?;
        Ok(())
    }
}

/// Elsewhere latencies below a millisecond or two are those of the runtime's timer.
#[cfg(not(target_os = "linux"))]
impl Pacer {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {})
    }

    /// Waits until `instant`; if that has passed, lets the other tasks run once.
    pub(super) async fn until(&self, instant: Instant) -> io::Result<()> {
        if instant <= Instant::now() {
            tokio::task::yield_now().await;
        } else {
            tokio::time::sleep_until(instant.into()).await;
        }
        Ok(())
    }
}
