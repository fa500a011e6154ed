//! When is measured, and what the broker used meanwhile.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::histogram::Latencies;
use super::progress::Progress;
use super::schedule::Schedule;
use super::usage;

/// How often memory is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Of a load: first it warms up, then it is measured, then it ends.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    pub(super) start: Instant,
    warm_up: Duration,
    duration: Duration,
}

impl Window {
    /// Begins now.
    pub(super) fn open(warm_up: Duration, duration: Duration) -> Self {
        Self { start: Instant::now(), warm_up, duration }
    }

    pub(super) fn measuring_from(&self) -> Instant {
        self.start + self.warm_up
    }

    pub(super) fn end(&self) -> Instant {
        self.start + self.warm_up + self.duration
    }

    /// From the first record to the last that is due.
    pub(super) fn length(&self) -> Duration {
        self.warm_up + self.duration
    }

    pub(super) fn is_over(&self) -> bool {
        Instant::now() >= self.end()
    }

    /// Whether something that began, or was due, then is to be measured.
    pub(super) fn measures(&self, instant: Instant) -> bool {
        (self.measuring_from()..self.end()).contains(&instant)
    }

    /// Notes how long ago each of `records` that is to be measured was due.
    pub(super) fn note_since_due(&self, latencies: &mut Latencies, schedule: Schedule, records: Range<u64>) {
        let now = Instant::now();
        for due in records.map(|index| self.start + schedule.due_at(index)).filter(|due| self.measures(*due)) {
            latencies.record(now.saturating_duration_since(due));
        }
    }
}

/// Records counted as they are finished.
#[derive(Debug, Default)]
pub(super) struct Counters {
    /// Acknowledged.
    pub(super) published: AtomicU64,
    /// Read by subscribers, each for itself.
    pub(super) delivered: AtomicU64,
    /// Read by the members of the group, all together.
    pub(super) consumed: AtomicU64,
}

/// The counters at one moment, or their growth.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counts {
    pub(super) published: u64,
    pub(super) delivered: u64,
    pub(super) consumed: u64,
}

impl Counters {
    pub(super) fn now(&self) -> Counts {
        Counts {
            published: self.published.load(Ordering::Relaxed),
            delivered: self.delivered.load(Ordering::Relaxed),
            consumed: self.consumed.load(Ordering::Relaxed),
        }
    }
}

/// What happened while it was measured.
#[derive(Debug, Clone, Copy)]
pub(super) struct Metered {
    /// Between the two looks at the counters: rates are exact even if the looks came late.
    pub(super) elapsed: Duration,
    pub(super) counts: Counts,
    /// Of the broker, if it is ours.
    pub(super) broker_cpu: Option<Duration>,
    pub(super) broker_anonymous_bytes_peak: Option<u64>,
    pub(super) client_cpu: Option<Duration>,
}

struct Look {
    at: Instant,
    counts: Counts,
    broker_cpu: Option<Duration>,
    client_cpu: Option<Duration>,
}

impl Look {
    fn take(counts: Counts, broker: Option<u32>) -> Self {
        let broker_cpu = broker.and_then(usage::cpu_time);
        Self { at: Instant::now(), counts, broker_cpu, client_cpu: usage::cpu_time(std::process::id()) }
    }
}

/// Looks at the beginning and at the end of the window, and at memory in between.
pub(super) async fn meter(
    window: Window,
    broker: Option<u32>,
    counts: impl Fn() -> Counts,
    progress: &Progress,
) -> Metered {
    progress.phase("warming up", Some((window.start, window.warm_up)));
    while Instant::now() < window.measuring_from() {
        pause_before(window.measuring_from()).await;
        progress.tick();
    }
    let first = Look::take(counts(), broker);
    let mut peak = broker.and_then(usage::anonymous_bytes);
    progress.phase("measuring", Some((window.measuring_from(), window.duration)));
    while !window.is_over() {
        pause_before(window.end()).await;
        peak = peak.max(broker.and_then(usage::anonymous_bytes));
        progress.tick();
    }
    let last = Look::take(counts(), broker);
    progress.phase("finishing", None);
    let between = |before: Option<Duration>, after: Option<Duration>| Some(after?.saturating_sub(before?));
    Metered {
        elapsed: last.at - first.at,
        counts: Counts {
            published: last.counts.published - first.counts.published,
            delivered: last.counts.delivered - first.counts.delivered,
            consumed: last.counts.consumed - first.counts.consumed,
        },
        broker_cpu: between(first.broker_cpu, last.broker_cpu),
        broker_anonymous_bytes_peak: peak,
        client_cpu: between(first.client_cpu, last.client_cpu),
    }
}

async fn pause_before(instant: Instant) {
    tokio::time::sleep_until(instant.min(Instant::now() + LOOK_EVERY).into()).await;
}
