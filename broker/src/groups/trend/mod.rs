//! How lag moves: rates of every position, and the forecasts that rest on them.
//!
//! One task, the [sampler], looks at all positions about every second and is the only one who writes here; whoever asks
//! for lag reads. Nothing of it is stored: after a restart the rates are unknown until it has looked twice. Memory is
//! bounded by the positions that groups have.

mod forecast;
mod rate;
mod sampler;

use std::collections::{BTreeMap, BTreeSet};

use aqueduct_storage::{Offset, Window};
use parking_lot::Mutex;
use tokio::time::Instant;

pub(crate) use self::forecast::{LossCause, Pace, RetentionLoss, Risk};
use self::rate::Rate;
pub(super) use self::{
    forecast::{OldestUnread, Retention},
    sampler::sample,
};
use super::{lag::elapsed_since, state::TopicId};
use crate::engine::Shelter;

/// A position as it was found.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    pub(super) at: Instant,
    pub(super) window: Window,
    /// Stored bytes of the whole log.
    pub(super) size_bytes: u64,
    pub(super) committed: Offset,
}

impl Sample {
    /// The oldest offset that is unread and still there.
    fn oldest(&self) -> Offset {
        self.committed.max(self.window.log_start)
    }

    fn unread(&self) -> u64 {
        self.window.high_watermark.saturating_sub(self.oldest())
    }

    /// Unread records that are gone.
    fn lost(&self) -> u64 {
        self.window.log_start.saturating_sub(self.committed)
    }
}

/// When an offset was appended.
#[derive(Debug, Clone, Copy)]
struct Appended {
    offset: Offset,
    time_us: i64,
}

/// What is known of one position over time.
#[derive(Debug, Clone)]
pub(super) struct Trend {
    last: Sample,
    records_in: Rate,
    bytes_in: Rate,
    records_out: Rate,
    /// Of an offset at or before the oldest unread one, so that this is no younger: read again only when it matters.
    appended: Option<Appended>,
    risk: Risk,
}

impl Trend {
    fn begin(sample: Sample) -> Self {
        Self {
            last: sample,
            records_in: Rate::default(),
            bytes_in: Rate::default(),
            records_out: Rate::default(),
            appended: None,
            risk: Risk::None,
        }
    }

    fn observe(&mut self, sample: Sample) {
        let before = std::mem::replace(&mut self.last, sample);
        let over = sample.at.saturating_duration_since(before.at);
        let records = sample.window.high_watermark.saturating_sub(before.window.high_watermark);
        self.records_in.observe(records as f64, over);
        self.bytes_in.observe(bytes_appended(&before, &sample, records), over);
        if sample.committed >= before.committed {
            self.records_out.observe((sample.committed - before.committed) as f64, over);
        } else {
            // Somebody has reset it: what was read before says nothing of what follows.
            self.records_out = Rate::default();
            self.appended = None;
        }
    }

    pub(super) fn pace(&self) -> Pace {
        Pace {
            records_in: self.records_in.per_second(),
            bytes_in: self.bytes_in.per_second(),
            records_out: self.records_out.per_second(),
        }
    }

    pub(super) fn risk(&self) -> Risk {
        self.risk
    }

    /// When retention may remove the oldest unread record; never later than it does.
    fn loss(&self, retention: Retention, shelter: Shelter, now_us: i64) -> Option<RetentionLoss> {
        if self.last.unread() == 0 {
            return None;
        }
        let age = self.appended.map(|appended| elapsed_since(appended.time_us, now_us));
        retention.loss(OldestUnread { age, shelter }, self.bytes_in.per_second())
    }

    /// Whether `loss` has to be made again with the time at which the oldest unread record itself was appended.
    fn needs_append_time(&self, retention: Retention, loss: Option<RetentionLoss>) -> bool {
        if retention.age.is_none() || self.last.unread() == 0 {
            return false;
        }
        match self.appended {
            None => true,
            Some(known) => known.offset != self.last.oldest() && self.risk.next(0, loss, None) != Risk::None,
        }
    }

    /// Decides whether it is at risk, and gives the risk if that is news.
    fn judge(&mut self, loss: Option<RetentionLoss>) -> Option<NewRisk> {
        let before = self.risk;
        let pace = self.pace();
        // Whether a group is in time can be said once its pace is known.
        let known = loss.filter(|_| before != Risk::None || pace.records_out.is_some());
        let lost_records = self.last.lost();
        self.risk = before.next(lost_records, known, pace.catch_up(self.last.unread()));
        let is_news = self.risk != before && self.risk != Risk::None;
        is_news.then_some(NewRisk { partition: 0, risk: self.risk, lost_records, loss })
    }
}

/// A risk that was not there the last time.
#[derive(Debug)]
struct NewRisk {
    partition: u32,
    risk: Risk,
    lost_records: u64,
    loss: Option<RetentionLoss>,
}

/// The size tells, unless something was removed as well: then records count as large as those that are there.
fn bytes_appended(before: &Sample, now: &Sample, records: u64) -> f64 {
    if now.window.log_start == before.window.log_start && now.size_bytes >= before.size_bytes {
        return (now.size_bytes - before.size_bytes) as f64;
    }
    let held = now.window.high_watermark.saturating_sub(now.window.log_start).max(1);
    records as f64 * now.size_bytes as f64 / held as f64
}

/// A group on a topic.
type Consumption = (String, TopicId);

/// The trends of one group on one topic, by partition.
type OfConsumption = BTreeMap<u32, Trend>;

/// The trends of all positions.
#[derive(Default)]
pub(super) struct Trends(Mutex<BTreeMap<Consumption, OfConsumption>>);

impl Trends {
    /// What is known of one position; `None` as long as nothing is.
    pub(super) fn of(&self, group: &str, topic: TopicId, partition: u32) -> Option<Trend> {
        self.0.lock().get(&(group.to_owned(), topic))?.get(&partition).cloned()
    }

    /// The partitions at risk, by group and topic.
    pub(super) fn at_risk(&self) -> BTreeMap<Consumption, BTreeSet<u32>> {
        let trends = self.0.lock();
        let at_risk = trends.iter().map(|(of, trends)| {
            let partitions = trends.iter().filter(|(_, trend)| trend.risk != Risk::None);
            (of.clone(), partitions.map(|(partition, _)| *partition).collect::<BTreeSet<u32>>())
        });
        at_risk.filter(|(_, partitions)| !partitions.is_empty()).collect()
    }

    /// Changes the trends of one group on one topic. Without I/O: readers wait meanwhile.
    fn update<T>(&self, of: &Consumption, change: impl FnOnce(&mut OfConsumption) -> T) -> T {
        let mut trends = self.0.lock();
        match trends.get_mut(of) {
            Some(known) => change(known),
            None => change(trends.entry(of.clone()).or_default()),
        }
    }

    /// Forgets the groups and topics for which `is_there` is false.
    fn retain(&self, is_there: impl Fn(&Consumption) -> bool) {
        self.0.lock().retain(|of, _| is_there(of));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn sample(at: Instant, window: [Offset; 2], size_bytes: u64, committed: Offset) -> Sample {
        let [log_start, high_watermark] = window;
        Sample { at, window: Window { log_start, high_watermark }, size_bytes, committed }
    }

    #[test]
    fn rates_are_unknown_until_it_was_looked_twice() {
        let begun = Instant::now();
        let after = |seconds| begun + Duration::from_secs(seconds);
        let mut trend = Trend::begin(sample(begun, [0, 100], 1000, 40));
        assert_eq!(trend.pace(), Pace::default());
        trend.observe(sample(after(2), [0, 120], 1500, 90));
        let pace = trend.pace();
        let about = |rate: Option<f64>, expected: f64| rate.is_some_and(|rate| (rate - expected).abs() < 1e-6);
        assert!(
            about(pace.records_in, 10.0) && about(pace.bytes_in, 250.0) && about(pace.records_out, 25.0),
            "{pace:?}"
        );
        assert!(about(pace.catch_up(30).map(|time| time.as_secs_f64()), 2.0), "{pace:?}");
    }

    #[test]
    fn a_reset_backwards_is_no_negative_rate_but_a_new_beginning() {
        let begun = Instant::now();
        let after = |seconds| begun + Duration::from_secs(seconds);
        let mut trend = Trend::begin(sample(begun, [0, 100], 1000, 40));
        trend.observe(sample(after(1), [0, 100], 1000, 50));
        trend.observe(sample(after(2), [0, 100], 1000, 0));
        assert_eq!(trend.pace(), Pace { records_in: Some(0.0), bytes_in: Some(0.0), records_out: None });
        trend.observe(sample(after(3), [0, 100], 1000, 7));
        assert!(trend.pace().records_out.is_some_and(|rate| (rate - 7.0).abs() < 1e-6), "{trend:?}");
    }

    #[test]
    fn the_disk_is_asked_only_when_what_is_known_says_that_it_may_be_near() {
        const HOUR_US: i64 = 3_600_000_000;
        let retention = Retention { age: Some(Duration::from_secs(3600)), bytes: None };
        let begun = Instant::now();
        let mut trend = Trend::begin(sample(begun, [0, 100], 1000, 40));
        let asks = |trend: &Trend, now_us| {
            let loss = trend.loss(retention, Shelter::default(), now_us);
            trend.needs_append_time(retention, loss)
        };
        assert!(asks(&trend, 0), "nothing is known");
        trend.appended = Some(Appended { offset: 40, time_us: 0 });
        assert!(!asks(&trend, HOUR_US), "it is that of the oldest unread record, however old");
        trend.observe(sample(begun + Duration::from_secs(1), [0, 200], 2000, 90));
        assert!(!asks(&trend, HOUR_US / 2), "the oldest unread record is no older than the one that is known");
        assert!(asks(&trend, HOUR_US - HOUR_US / 10), "it may be younger");
        trend.observe(sample(begun + Duration::from_secs(2), [0, 200], 2000, 200));
        assert!(!asks(&trend, HOUR_US), "nothing is unread");
    }

    #[test]
    fn a_risk_is_news_once_and_not_before_the_pace_is_known() {
        let loss = Some(RetentionLoss { within: Duration::from_secs(60), cause: LossCause::Age, left: 0.1 });
        let begun = Instant::now();
        let after = |seconds| begun + Duration::from_secs(seconds);
        let mut trend = Trend::begin(sample(begun, [0, 100], 1000, 40));
        assert!(trend.judge(loss).is_none(), "the group may be about to read it all");
        trend.observe(sample(after(1), [0, 100], 1000, 40));
        assert!(trend.judge(loss).is_some());
        assert!(trend.judge(loss).is_none() && trend.risk() == Risk::Near);
        trend.observe(sample(after(2), [50, 100], 1000, 40));
        assert_eq!(trend.judge(loss).map(|risk| risk.lost_records), Some(10), "worse is news");
        assert!(trend.judge(loss).is_none() && trend.risk() == Risk::Lost);
        trend.observe(sample(after(3), [50, 100], 1000, 100));
        assert!(trend.judge(None).is_none() && trend.risk() == Risk::None);
    }

    #[test]
    fn bytes_in_are_told_through_a_removal() {
        let begun = Instant::now();
        let after = |seconds| begun + Duration::from_secs(seconds);
        let mut trend = Trend::begin(sample(begun, [0, 1000], 100_000, 0));
        // 500 records of 100 bytes come while 800 of them go.
        trend.observe(sample(after(1), [800, 1500], 70_000, 0));
        assert!(trend.pace().bytes_in.is_some_and(|rate| (rate - 50_000.0).abs() < 1e-3), "{trend:?}");
    }
}
