//! When a group will have read everything, and when retention will remove what it has not read. Pure.
//!
//! A forecast of loss is never later than what happens, as long as no more comes in than now. Retention removes whole
//! segments: by age once the *youngest* record of a segment is too old, so no earlier than the oldest unread record in it
//! is; by bytes once what lies behind the segment is enough without it, and that is counted exactly; the segment that is being
//! written is counted as sealed when one more group of appends might not fit. The wall clock may make a record look younger than it is only after it was set back; then it counts as appended now.

use std::time::Duration;

use aqueduct_storage::TopicMeta;

use crate::{engine::Shelter, groups::state::REDRIVEN};

/// Less than this share of the retention left is too little to leave the group to itself: an operator needs time as well.
const NEAR_SHARE: f64 = 0.2;
/// What is further away than this can be seen to tomorrow.
const NEAR_WITHIN: Duration = Duration::from_secs(24 * 3600);
/// So much is left again when the danger has passed. More than [`NEAR_SHARE`], so that nothing is said twice of a group
/// that stays about there.
const PASSED_SHARE: f64 = 0.3;

/// How fast records come into a partition, and how fast the group reads them. `None` until it was measured.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Pace {
    /// Records per second.
    pub(crate) records_in: Option<f64>,
    /// Stored bytes per second.
    pub(crate) bytes_in: Option<f64>,
    /// Records per second.
    pub(crate) records_out: Option<f64>,
}

impl Pace {
    /// Until none of `unread` records, nor of those that come meanwhile, is left; `None` if it is not known, or never.
    pub(crate) fn catch_up(&self, unread: u64) -> Option<Duration> {
        if unread == 0 {
            return Some(Duration::ZERO);
        }
        let gained = self.records_out? - self.records_in?;
        // Precise enough for any log that fits on a disk.
        (gained > 0.0).then(|| Duration::try_from_secs_f64(unread as f64 / gained).ok())?
    }
}

/// What a topic keeps of each partition.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Retention {
    pub(crate) age: Option<Duration>,
    pub(crate) bytes: Option<u64>,
}

/// The oldest record that a group has not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OldestUnread {
    /// Since it was appended; `None` if that could not be read.
    pub(crate) age: Option<Duration>,
    pub(crate) shelter: Shelter,
}

/// The limit that removes records first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LossCause {
    Age,
    Bytes,
}

/// Unread records that retention may remove.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct RetentionLoss {
    /// From now on; zero: at any moment.
    pub(crate) within: Duration,
    pub(crate) cause: LossCause,
    /// The share of the limit that is left; more than 1 as long as something else protects the record as well.
    pub(crate) left: f64,
}

impl Retention {
    /// What a group's partition of a topic is kept by: what is tried again is kept until it is settled.
    pub(crate) fn of(topic: &TopicMeta, partition: u32) -> Self {
        match partition {
            REDRIVEN => Self::default(),
            _ => Self { age: topic.retention_age, bytes: topic.retention_bytes },
        }
    }

    /// When the oldest unread record may be removed, by whichever limit is sooner; `None` if neither does it.
    pub(crate) fn loss(&self, oldest: OldestUnread, bytes_in: Option<f64>) -> Option<RetentionLoss> {
        let by_age = self.age.zip(oldest.age).map(|(limit, age)| {
            let within = limit.saturating_sub(age);
            RetentionLoss { within, cause: LossCause::Age, left: within.as_secs_f64() / limit.as_secs_f64() }
        });
        let by_bytes = self.bytes.and_then(|limit| {
            // What is old enough is sealed early.
            let until_sealed = if self.age.is_none() { oldest.shelter.bytes_until_sealed } else { 0 };
            let room = limit.saturating_sub(oldest.shelter.bytes_after).saturating_add(until_sealed);
            let within = match room {
                0 => Duration::ZERO,
                _ => Duration::try_from_secs_f64(room as f64 / bytes_in.filter(|rate| *rate > 0.0)?).ok()?,
            };
            Some(RetentionLoss { within, cause: LossCause::Bytes, left: room as f64 / limit as f64 })
        });
        by_age.into_iter().chain(by_bytes).min_by_key(|loss| loss.within)
    }
}

/// Whether somebody should act.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Risk {
    #[default]
    None,
    /// Retention will remove unread records soon, and at its pace the group will not have read them by then.
    Near,
    /// It has removed some.
    Lost,
}

impl Risk {
    /// What it becomes as things stand now. Once there, it stays until the danger has clearly passed.
    pub(crate) fn next(self, lost_records: u64, loss: Option<RetentionLoss>, catch_up: Option<Duration>) -> Self {
        if lost_records > 0 {
            return Self::Lost;
        }
        let Some(loss) = loss else { return Self::None };
        let is_near = match self {
            Self::None => {
                loss.left < NEAR_SHARE && loss.within < NEAR_WITHIN && catch_up.is_none_or(|time| time >= loss.within)
            }
            Self::Near | Self::Lost => loss.left < PASSED_SHARE && catch_up.is_none_or(|time| time >= loss.within / 2),
        };
        if is_near { Self::Near } else { Self::None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);
    const HOUR: Duration = Duration::from_secs(3600);

    fn pace(records_in: f64, records_out: f64) -> Pace {
        Pace { records_in: Some(records_in), bytes_in: None, records_out: Some(records_out) }
    }

    fn oldest(age: Option<Duration>, bytes_after: u64) -> OldestUnread {
        OldestUnread { age, shelter: Shelter { bytes_after, bytes_until_sealed: 0 } }
    }

    fn by_age(left: Duration, of: Duration) -> Option<RetentionLoss> {
        Retention { age: Some(of), bytes: None }.loss(oldest(Some(of - left), 0), None)
    }

    #[test]
    fn catching_up_takes_what_is_gained_on_the_publishers() {
        assert_eq!(pace(100.0, 300.0).catch_up(1000), Some(Duration::from_secs(5)));
        assert_eq!(pace(0.0, 0.5).catch_up(1), Some(Duration::from_secs(2)));
        assert_eq!(pace(100.0, 100.0).catch_up(1), None, "never");
        assert_eq!(pace(100.0, 0.0).catch_up(1), None, "never");
        assert_eq!(pace(100.0, 0.0).catch_up(0), Some(Duration::ZERO), "there is nothing to catch up with");
        assert_eq!(Pace::default().catch_up(1), None, "not known");
        assert_eq!(pace(1.0, 1.0 + f64::EPSILON).catch_up(u64::MAX), None, "longer than there are words for");
    }

    #[test]
    fn retention_by_age_takes_a_record_no_earlier_than_its_age_allows() {
        let loss = by_age(10 * MINUTE, HOUR).expect("a forecast");
        assert_eq!((loss.within, loss.cause), (10 * MINUTE, LossCause::Age));
        assert!((loss.left - 1.0 / 6.0).abs() < 1e-9);
        assert_eq!(by_age(Duration::ZERO, HOUR).map(|loss| loss.within), Some(Duration::ZERO));
        let retention = Retention { age: Some(HOUR), bytes: None };
        let overdue = retention.loss(oldest(Some(3 * HOUR), 0), None).expect("a forecast");
        assert_eq!((overdue.within, overdue.left), (Duration::ZERO, 0.0));
        assert_eq!(retention.loss(oldest(None, 0), Some(1.0)), None, "its age is not known");
    }

    #[test]
    fn retention_by_bytes_takes_a_record_once_enough_lies_behind_it() {
        let retention = Retention { age: None, bytes: Some(1000) };
        let loss = |bytes_after, bytes_in| retention.loss(oldest(Some(HOUR), bytes_after), bytes_in);
        let told = loss(400, Some(10.0)).expect("a forecast");
        assert_eq!((told.within, told.cause, told.left), (MINUTE, LossCause::Bytes, 0.6));
        assert_eq!(loss(1000, None).map(|loss| loss.within), Some(Duration::ZERO));
        assert_eq!(loss(2000, Some(10.0)).map(|loss| loss.left), Some(0.0));
        assert_eq!(loss(400, Some(0.0)), None, "nothing comes in");
        assert_eq!(loss(400, None), None, "not known yet");
    }

    #[test]
    fn what_is_still_written_to_is_kept_until_it_is_sealed_unless_age_may_seal_it() {
        let shelter = Shelter { bytes_after: 0, bytes_until_sealed: 500 };
        let loss = |age| Retention { age, bytes: Some(1000) }.loss(OldestUnread { age: None, shelter }, Some(10.0));
        assert_eq!(loss(None).map(|loss| (loss.within, loss.left)), Some((Duration::from_secs(150), 1.5)));
        assert_eq!(loss(Some(HOUR)).map(|loss| (loss.within, loss.left)), Some((Duration::from_secs(100), 1.0)));
    }

    #[test]
    fn the_sooner_limit_counts() {
        let retention = Retention { age: Some(HOUR), bytes: Some(1000) };
        let oldest = oldest(Some(30 * MINUTE), 400);
        let cause = |bytes_in| retention.loss(oldest, bytes_in).map(|loss| loss.cause);
        assert_eq!(
            [cause(None), cause(Some(0.1)), cause(Some(10.0))],
            [Some(LossCause::Age), Some(LossCause::Age), Some(LossCause::Bytes)]
        );
        assert_eq!(Retention::default().loss(oldest, Some(10.0)), None);
    }

    /// Segments are filled with random batches and removed by the rule of `storage`; the forecast that was made for the
    /// oldest unread record at any time before must not have been later.
    #[test]
    fn a_forecast_by_bytes_is_not_later_than_the_removal_at_a_steady_rate() {
        for seed in 0..300 {
            let mut random = fastrand::Rng::with_seed(seed);
            let (segment_max, limit) = (random.u64(100..1000), random.u64(1..5000));
            let retention = Retention { age: None, bytes: Some(limit) };
            let mut segments = vec![0_u64];
            let mut forecast_at = f64::INFINITY;
            let rate = random.u64(1..50);
            for second in 0_u64.. {
                let later: u64 = segments[1..].iter().sum();
                if segments.len() > 1 && later >= limit {
                    assert!(forecast_at <= second as f64 + 1e-6, "seed {seed}: {forecast_at}, but it went at {second}");
                    break;
                }
                let active = segments.last().copied().unwrap_or(0);
                let until_sealed = if segments.len() == 1 { segment_max.saturating_sub(active + rate) } else { 0 };
                let shelter = Shelter { bytes_after: later, bytes_until_sealed: until_sealed };
                let loss = retention.loss(OldestUnread { age: None, shelter }, Some(rate as f64)).expect("a forecast");
                forecast_at = second as f64 + loss.within.as_secs_f64();
                if segments.last().is_some_and(|last| last + rate > segment_max && *last > 0) {
                    segments.push(0);
                }
                *segments.last_mut().expect("a segment") += rate;
            }
        }
    }

    #[test]
    fn only_what_is_near_and_not_caught_up_with_in_time_is_a_risk() {
        let begins = |loss, catch_up| Risk::None.next(0, loss, catch_up);
        assert_eq!(begins(by_age(11 * MINUTE, HOUR), None), Risk::Near);
        assert_eq!(begins(by_age(13 * MINUTE, HOUR), None), Risk::None, "more than a fifth is left");
        assert_eq!(begins(by_age(11 * MINUTE, HOUR), Some(10 * MINUTE)), Risk::None, "in time");
        assert_eq!(begins(by_age(11 * MINUTE, HOUR), Some(12 * MINUTE)), Risk::Near, "too late");
        assert_eq!(begins(by_age(25 * HOUR, 30 * 24 * HOUR), None), Risk::None, "more than a day is left");
        assert_eq!(begins(by_age(23 * HOUR, 30 * 24 * HOUR), None), Risk::Near);
        assert_eq!(begins(None, None), Risk::None);
        assert_eq!(Risk::None.next(1, None, Some(Duration::ZERO)), Risk::Lost);
    }

    #[test]
    fn a_risk_stays_until_it_has_clearly_passed() {
        let goes_on = |loss, catch_up| Risk::Near.next(0, loss, catch_up);
        assert_eq!(goes_on(by_age(13 * MINUTE, HOUR), None), Risk::Near);
        assert_eq!(goes_on(by_age(19 * MINUTE, HOUR), None), Risk::None);
        assert_eq!(goes_on(by_age(10 * MINUTE, HOUR), Some(9 * MINUTE)), Risk::Near, "only just");
        assert_eq!(goes_on(by_age(10 * MINUTE, HOUR), Some(4 * MINUTE)), Risk::None);
        assert_eq!(goes_on(None, None), Risk::None);
        assert_eq!(Risk::Lost.next(0, by_age(50 * MINUTE, HOUR), None), Risk::None);
    }
}
