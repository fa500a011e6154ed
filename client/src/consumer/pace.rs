//! How fast events are handed out. Pure: it is told the time.

use std::time::Duration;

use tokio::time::Instant;

use crate::admin::GroupMode;

/// What a consumer may run ahead of its rate after it has had nothing to do.
const BURST: Duration = Duration::from_millis(100);
/// A lower rate is taken for this one.
const RECORDS_PER_HOUR_MIN: f64 = 1.0;
const SECONDS_PER_HOUR: f64 = 3600.0;

/// Whether the next event may be handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    Now,
    /// Not before this time.
    At(Instant),
    /// Not before somebody says so.
    Paused,
}

/// Whether anything is handed out at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Flow {
    #[default]
    Running,
    Paused,
}

/// Who handles what is handed out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Reader {
    /// The program, at times of its own: what it does not take in time may go to others.
    #[default]
    Program,
    /// Handlers with time-outs of their own, behind which the rest waits for its turn.
    Handlers,
}

/// See the [module](self).
#[derive(Clone, Debug, Default)]
pub(super) struct Pace {
    flow: Flow,
    rate: Option<Rate>,
    reader: Reader,
}

impl Pace {
    /// Sets whether anything is handed out.
    pub(super) fn set_flow(&mut self, flow: Flow) {
        self.flow = flow;
    }

    /// Sets how many records a second are handed out; `None` for as many as there are.
    pub(super) fn set_rate(&mut self, records_per_second: Option<f64>, now: Instant) {
        self.rate = records_per_second.and_then(|rate| Rate::new(rate, now));
    }

    /// Handlers take what is handed out.
    pub(super) fn set_reader(&mut self, reader: Reader) {
        self.reader = reader;
    }

    pub(super) fn flow(&self) -> Flow {
        self.flow
    }

    pub(super) fn reader(&self) -> Reader {
        self.reader
    }

    /// Whether an event may be handed out. `now` is only asked when there is a rate.
    pub(super) fn admission(&self, now: impl FnOnce() -> Instant) -> Admission {
        match (self.flow, &self.rate) {
            (Flow::Paused, _) => Admission::Paused,
            (Flow::Running, None) => Admission::Now,
            (Flow::Running, Some(rate)) => rate.admission(now()),
        }
    }

    /// An event has been handed out.
    pub(super) fn handed_out(&mut self, now: impl FnOnce() -> Instant) {
        if let Some(rate) = &mut self.rate {
            rate.handed_out(now());
        }
    }

    /// How many records the broker may send ahead: no more than are handed out in a quarter of the ack time-out.
    pub(super) fn prefetch_records(&self, ack_timeout: Duration) -> u64 {
        match (self.flow, &self.rate) {
            (Flow::Paused, _) => 0,
            (Flow::Running, None) => u64::MAX,
            (Flow::Running, Some(rate)) => rate.records_in(ack_timeout / 4).max(1),
        }
    }

    /// What becomes of events that wait here to be handed out.
    pub(super) fn waiting(&self, mode: Option<GroupMode>) -> Waiting {
        match (self.flow, mode) {
            // Nobody else can have them: the partition is this member's.
            (Flow::Paused, None | Some(GroupMode::Ordered)) => Waiting::Kept,
            (Flow::Paused, Some(GroupMode::Shared | GroupMode::Keyed)) => Waiting::GivenBack,
            (Flow::Running, _) if self.rate.is_some() || self.reader == Reader::Handlers => Waiting::Kept,
            (Flow::Running, _) => Waiting::Timed,
        }
    }
}

/// What becomes of events that wait to be handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waiting {
    /// They go to others when the group's ack time-out has passed.
    Timed,
    /// They stay with this member, which tells the broker so.
    Kept,
    /// They go to others at once.
    GivenBack,
}

/// A token bucket, kept as the time at which the next event is exactly on schedule.
#[derive(Clone, Debug)]
struct Rate {
    /// Between two events.
    interval: Duration,
    next: Instant,
}

impl Rate {
    /// `None` if the rate limits nothing.
    fn new(records_per_second: f64, now: Instant) -> Option<Self> {
        // What is not a number is below everything.
        let rate = records_per_second.max(RECORDS_PER_HOUR_MIN / SECONDS_PER_HOUR);
        let interval = Duration::from_secs_f64(1.0 / rate);
        (!interval.is_zero()).then_some(Self { interval, next: now })
    }

    fn admission(&self, now: Instant) -> Admission {
        if self.next <= now + BURST { Admission::Now } else { Admission::At(self.next - BURST) }
    }

    fn handed_out(&mut self, now: Instant) {
        self.next = self.next.max(now) + self.interval;
    }

    fn records_in(&self, time: Duration) -> u64 {
        u64::try_from(time.as_nanos() / self.interval.as_nanos()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn limited(records_per_second: f64, now: Instant) -> Pace {
        let mut pace = Pace::default();
        pace.set_rate(Some(records_per_second), now);
        pace
    }

    /// Hands out as much as it may, as soon as it may, until `end`.
    fn hand_out(pace: &mut Pace, mut now: Instant, end: Instant) -> u64 {
        let mut handed_out = 0;
        loop {
            match pace.admission(|| now) {
                Admission::Now => {
                    pace.handed_out(|| now);
                    handed_out += 1;
                }
                Admission::At(at) if at < end => now = at,
                Admission::At(_) | Admission::Paused => return handed_out,
            }
        }
    }

    #[test]
    fn over_time_the_rate_is_kept_and_a_burst_is_a_tenth_of_a_second() {
        let start = Instant::now();
        for (rate, seconds, expected) in
            [(10.0, 10, 101), (1_000.0, 10, 10_100), (0.5, 20, 10), (250_000.0, 1, 275_000)]
        {
            let mut pace = limited(rate, start);
            let handed_out = hand_out(&mut pace, start, start + SECOND * seconds);
            assert!(handed_out.abs_diff(expected) <= 1, "{handed_out} at {rate} in {seconds} s");
        }
    }

    #[test]
    fn idle_time_is_not_saved_up() {
        let start = Instant::now();
        let mut pace = limited(100.0, start);
        let later = start + 3600 * SECOND;
        let handed_out = hand_out(&mut pace, later, later + SECOND);
        assert!((109..=111).contains(&handed_out), "{handed_out}");
    }

    #[test]
    fn what_is_no_rate_is_the_lowest_one_and_infinity_is_none() {
        let now = Instant::now();
        for rate in [0.0, -1.0, f64::NAN, f64::NEG_INFINITY, f64::MIN_POSITIVE] {
            let mut pace = limited(rate, now);
            assert_eq!(pace.admission(|| now), Admission::Now, "{rate}");
            pace.handed_out(|| now);
            assert_eq!(pace.admission(|| now), Admission::At(now + 3600 * SECOND - BURST), "{rate}");
        }
        let pace = limited(f64::INFINITY, now);
        assert_eq!(pace.admission(|| panic!("without a rate there is no clock")), Admission::Now);
    }

    #[test]
    fn paused_wins_over_any_rate_and_a_rate_may_change() {
        let now = Instant::now();
        let mut pace = limited(1.0, now);
        pace.handed_out(|| now);
        assert!(matches!(pace.admission(|| now), Admission::At(_)));
        pace.set_flow(Flow::Paused);
        pace.set_rate(Some(1_000.0), now);
        assert_eq!((pace.admission(|| now), pace.prefetch_records(SECOND)), (Admission::Paused, 0));
        pace.set_flow(Flow::Running);
        assert_eq!(pace.admission(|| now), Admission::Now);
        pace.set_rate(None, now);
        assert_eq!(pace.prefetch_records(SECOND), u64::MAX);
    }

    #[test]
    fn the_prefetch_is_what_a_quarter_of_the_ack_time_out_takes() {
        let now = Instant::now();
        assert_eq!(limited(10.0, now).prefetch_records(30 * SECOND), 75);
        assert_eq!(limited(0.01, now).prefetch_records(30 * SECOND), 1);
        assert_eq!(limited(1e6, now).prefetch_records(30 * SECOND), 7_500_000);
    }

    #[test]
    fn what_waits_is_kept_where_it_cannot_go_elsewhere_and_given_back_where_it_can() {
        let now = Instant::now();
        let [ordered, shared, keyed] = [GroupMode::Ordered, GroupMode::Shared, GroupMode::Keyed].map(Some);
        let mut pace = Pace::default();
        assert_eq!([ordered, shared, keyed, None].map(|mode| pace.waiting(mode)), [Waiting::Timed; 4]);
        pace.set_rate(Some(1.0), now);
        assert_eq!([ordered, shared, keyed, None].map(|mode| pace.waiting(mode)), [Waiting::Kept; 4]);
        pace.set_flow(Flow::Paused);
        let kept_or_not = [Waiting::Kept, Waiting::GivenBack, Waiting::GivenBack, Waiting::Kept];
        assert_eq!([ordered, shared, keyed, None].map(|mode| pace.waiting(mode)), kept_or_not);
        let mut pace = Pace::default();
        pace.set_reader(Reader::Handlers);
        assert_eq!(pace.waiting(shared), Waiting::Kept);
    }
}
