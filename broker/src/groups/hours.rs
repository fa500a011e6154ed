//! Within which hours a group is delivered to.
//!
//! Pure. Hours are those of the day at a fixed distance from UTC: daylight saving does not move them, and every day has all
//! of them exactly once.

use std::fmt;

use super::error::GroupError;

/// Windows of one group.
pub(crate) const WINDOWS_MAX: usize = 4;
/// Of UTC: what lies further away is no time zone.
const UTC_OFFSET_MINUTES_MAX: i32 = 14 * 60;
const MINUTES_PER_DAY: u16 = 24 * 60;
const MINUTE_US: i64 = 60_000_000;
const DAY_US: i64 = MINUTES_PER_DAY as i64 * MINUTE_US;

/// Every day from one minute of the day up to another one; over midnight if it ends before it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DailyWindow {
    /// Inclusive.
    pub(crate) from_minute: u16,
    /// Exclusive.
    pub(crate) to_minute: u16,
}

/// See the [module](self). Without windows, at all hours.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct DeliveryHours {
    /// As many as there are come first.
    windows: [Option<DailyWindow>; WINDOWS_MAX],
    utc_offset_minutes: i16,
}

impl DeliveryHours {
    /// # Errors
    /// [`GroupError::Invalid`] for too many windows, minutes that a day does not have, windows without an end, and a
    /// distance from UTC that no time zone has.
    pub(crate) fn new(given: &[DailyWindow], utc_offset_minutes: i32) -> Result<Self, GroupError> {
        let invalid = |reason: String| Err(GroupError::Invalid { field: "hours", reason });
        if given.len() > WINDOWS_MAX {
            return invalid(format!("there are {} windows; {WINDOWS_MAX} are allowed", given.len()));
        }
        for &DailyWindow { from_minute, to_minute } in given {
            if let Some(minute) = [from_minute, to_minute].into_iter().find(|minute| *minute >= MINUTES_PER_DAY) {
                return invalid(format!("a day has no minute {minute}; its last one is {}", MINUTES_PER_DAY - 1));
            }
            if from_minute == to_minute {
                return invalid("a window begins where it ends: leave it out for all day".to_owned());
            }
        }
        let within = (-UTC_OFFSET_MINUTES_MAX..=UTC_OFFSET_MINUTES_MAX).contains(&utc_offset_minutes);
        let Some(utc_offset_minutes) = i16::try_from(utc_offset_minutes).ok().filter(|_| within) else {
            return invalid(format!(
                "{utc_offset_minutes} minutes from UTC; at most {UTC_OFFSET_MINUTES_MAX} either way"
            ));
        };
        let mut windows = [None; WINDOWS_MAX];
        windows.iter_mut().zip(given).for_each(|(window, given)| *window = Some(*given));
        // Without windows there is nothing that a distance from UTC could move.
        Ok(Self { windows, utc_offset_minutes: if given.is_empty() { 0 } else { utc_offset_minutes } })
    }

    pub(crate) fn windows(&self) -> impl Iterator<Item = DailyWindow> {
        self.windows.into_iter().flatten()
    }

    /// What their clock is ahead of UTC.
    pub(crate) fn utc_offset_minutes(&self) -> i16 {
        self.utc_offset_minutes
    }

    /// Whether there are hours in which nothing is delivered.
    pub(crate) fn are_limited(&self) -> bool {
        self.windows().next().is_some()
    }

    /// Until when nothing is delivered, in microseconds since the epoch; `None` while it is.
    pub(crate) fn closed_until_us(&self, now_us: i64) -> Option<i64> {
        let local_us = now_us.saturating_add(i64::from(self.utc_offset_minutes) * MINUTE_US);
        let time_of_day = local_us.rem_euclid(DAY_US);
        let since = |minute: u16| (time_of_day - i64::from(minute) * MINUTE_US).rem_euclid(DAY_US);
        let is_open = |window: DailyWindow| {
            let minutes =
                (i64::from(window.to_minute) - i64::from(window.from_minute)).rem_euclid(MINUTES_PER_DAY.into());
            since(window.from_minute) < minutes * MINUTE_US
        };
        if self.windows().any(is_open) {
            return None;
        }
        let until_next = self.windows().map(|window| DAY_US - since(window.from_minute)).min()?;
        Some(now_us.saturating_add(until_next))
    }
}

/// `22:00-06:00 (+02:00)`
impl fmt::Display for DeliveryHours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.are_limited() {
            return f.write_str("always");
        }
        let clock = |minute: u16| format!("{:02}:{:02}", minute / 60, minute % 60);
        let windows: Vec<String> =
            self.windows().map(|w| format!("{}-{}", clock(w.from_minute), clock(w.to_minute))).collect();
        let sign = if self.utc_offset_minutes < 0 { '-' } else { '+' };
        write!(f, "{} ({sign}{})", windows.join(","), clock(self.utc_offset_minutes.unsigned_abs()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hours(windows: &[(u16, u16)], utc_offset_minutes: i32) -> Result<DeliveryHours, GroupError> {
        let windows: Vec<_> =
            windows.iter().map(|&(from_minute, to_minute)| DailyWindow { from_minute, to_minute }).collect();
        DeliveryHours::new(&windows, utc_offset_minutes)
    }

    /// Day 20,000 since the epoch, at that minute.
    fn at(minute: i64) -> i64 {
        20_000 * DAY_US + minute * MINUTE_US
    }

    #[test]
    fn without_windows_it_is_always_open() {
        for now_us in [i64::MIN, -1, 0, at(0), i64::MAX] {
            assert_eq!(DeliveryHours::default().closed_until_us(now_us), None);
        }
        assert_eq!(hours(&[], 120), Ok(DeliveryHours::default()));
    }

    #[test]
    fn a_window_opens_at_its_first_and_closes_at_its_last_minute_also_over_midnight() {
        let night = hours(&[(22 * 60, 6 * 60)], 0).expect("legal");
        for (minute, until) in
            [(1319, Some(1320)), (1320, None), (1439, None), (0, None), (359, None), (360, Some(1320))]
        {
            assert_eq!(night.closed_until_us(at(minute)), until.map(at), "{minute}");
        }
        assert_eq!(night.closed_until_us(at(360) - 1), None);
        assert_eq!(night.closed_until_us(at(1320) - 1), Some(at(1320)));
        let lunch_and_evening = hours(&[(18 * 60, 0), (12 * 60, 13 * 60)], 0).expect("legal");
        for (minute, until) in
            [(0, Some(720)), (720, None), (780, Some(1080)), (1080, None), (1439, None), (1440, Some(2160))]
        {
            assert_eq!(lunch_and_evening.closed_until_us(at(minute)), until.map(at), "{minute}");
        }
    }

    #[test]
    fn hours_are_those_of_a_clock_at_a_fixed_distance_from_utc() {
        let night = hours(&[(22 * 60, 6 * 60)], 120).expect("legal");
        assert_eq!(night.closed_until_us(at(19 * 60)), Some(at(20 * 60)), "21:00 there");
        assert_eq!(night.closed_until_us(at(20 * 60)), None);
        assert_eq!(night.closed_until_us(at(4 * 60)), Some(at(20 * 60)));
        let west = hours(&[(9 * 60, 17 * 60)], -8 * 60).expect("legal");
        assert_eq!(west.closed_until_us(at(60)), Some(at(17 * 60)), "17:00 of the day before");
        assert_eq!(west.closed_until_us(at(59)), None);
        assert_eq!(
            (night.to_string(), west.to_string()),
            ("22:00-06:00 (+02:00)".into(), "09:00-17:00 (-08:00)".into())
        );
    }

    #[test]
    fn it_is_open_exactly_in_the_minutes_of_its_windows_and_what_it_waits_for_is_the_next_of_them() {
        for seed in 0..200 {
            let mut random = fastrand::Rng::with_seed(seed);
            let windows: Vec<(u16, u16)> =
                (0..random.usize(1..=WINDOWS_MAX)).map(|_| (random.u16(0..1440), random.u16(0..1440))).collect();
            let offset = random.i32(-840..=840);
            let Ok(hours) = hours(&windows, offset) else { continue };
            let is_open = |minute: i64| {
                let local = u16::try_from((minute + i64::from(offset)).rem_euclid(1440)).expect("a minute of the day");
                windows.iter().any(
                    |&(from, to)| {
                        if from < to { (from..to).contains(&local) } else { local >= from || local < to }
                    },
                )
            };
            for minute in 0..1440 {
                let next = (minute..).find(|later| is_open(*later)).filter(|next| *next > minute);
                assert_eq!(hours.closed_until_us(at(minute)), next.map(at), "seed {seed}, minute {minute}");
            }
        }
    }

    #[test]
    fn what_is_no_window_of_a_day_is_refused() {
        for (windows, offset) in [
            (&[(600, 600)][..], 0),
            (&[(0, 1440)], 0),
            (&[(1440, 10)], 0),
            (&[(0, 1); WINDOWS_MAX + 1], 0),
            (&[(0, 1)], 841),
            (&[(0, 1)], i32::MIN),
        ] {
            assert!(matches!(hours(windows, offset), Err(GroupError::Invalid { field: "hours", .. })), "{windows:?}");
        }
    }

    #[test]
    fn times_at_the_edges_do_not_overflow() {
        let hours = hours(&[(1, 2)], 840).expect("legal");
        for now_us in [i64::MIN, i64::MIN + 1, i64::MAX, i64::MAX - 1] {
            let _ = hours.closed_until_us(now_us);
        }
    }
}
