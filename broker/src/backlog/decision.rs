//! When a lag holds publishers, and when it lets them go. Pure.

use std::time::Duration;

use super::setting::Bounds;

/// How far a group is behind in a whole topic.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Lag {
    /// Unread records of all partitions.
    pub(crate) records: u64,
    /// Unread bytes of all partitions, as stored.
    pub(crate) bytes: u64,
    /// Of the oldest unread record.
    pub(crate) age: Duration,
}

/// Whether publishers may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    Open,
    Held,
}

/// What may still be published before a bound is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Room {
    pub(super) records: u64,
    pub(super) bytes: u64,
}

impl Room {
    pub(super) const NONE: Self = Self { records: 0, bytes: 0 };
    pub(super) const UNBOUNDED: Self = Self { records: u64::MAX, bytes: u64::MAX };
}

/// Held from when a bound is reached until everything is at 90 % of its bound or less, so that publishers neither stop and
/// go with every record nor wait for the group to read everything.
pub(super) fn decide(before: Standing, lag: &Lag, bounds: &Bounds) -> Standing {
    let holds = match before {
        Standing::Open => is_reached(lag, bounds),
        Standing::Held => !is_left(lag, bounds),
    };
    if holds { Standing::Held } else { Standing::Open }
}

fn is_reached(lag: &Lag, bounds: &Bounds) -> bool {
    bounds.records.is_some_and(|bound| lag.records >= bound)
        || bounds.bytes.is_some_and(|bound| lag.bytes >= bound)
        || bounds.age.is_some_and(|bound| lag.age >= bound)
}

fn is_left(lag: &Lag, bounds: &Bounds) -> bool {
    bounds.records.is_none_or(|bound| lag.records <= most_of(bound))
        && bounds.bytes.is_none_or(|bound| lag.bytes <= most_of(bound))
        && bounds.age.is_none_or(|bound| lag.age <= bound - bound / 10)
}

/// 90 %, without overflow.
fn most_of(bound: u64) -> u64 {
    bound - bound.div_ceil(10)
}

/// See [`Room`].
pub(super) fn room(lag: &Lag, bounds: &Bounds) -> Room {
    let left = |bound: Option<u64>, lag: u64| bound.map_or(u64::MAX, |bound| bound.saturating_sub(lag));
    Room { records: left(bounds.records, lag.records), bytes: left(bounds.bytes, lag.bytes) }
}

/// In how long the oldest unread record reaches the bound, if it stays unread.
pub(super) fn reached_in(lag: &Lag, bounds: &Bounds) -> Option<Duration> {
    bounds.age.filter(|_| lag.records > 0).map(|bound| bound.saturating_sub(lag.age))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(bound: u64) -> Bounds {
        Bounds { records: Some(bound), ..Bounds::default() }
    }

    fn behind(records: u64) -> Lag {
        Lag { records, ..Lag::default() }
    }

    #[test]
    fn a_bound_holds_when_it_is_reached_and_lets_go_at_nine_tenths() {
        for (before, lag, after) in [
            (Standing::Open, 999, Standing::Open),
            (Standing::Open, 1000, Standing::Held),
            (Standing::Held, 901, Standing::Held),
            (Standing::Held, 900, Standing::Open),
            (Standing::Open, 950, Standing::Open),
            (Standing::Open, u64::MAX, Standing::Held),
        ] {
            assert_eq!(decide(before, &behind(lag), &records(1000)), after, "{before:?} at {lag}");
        }
    }

    #[test]
    fn the_smallest_and_the_largest_bounds_hold_and_let_go() {
        for bound in [1, 2, 9, 10, u64::MAX - 1, u64::MAX] {
            assert_eq!(decide(Standing::Open, &behind(bound), &records(bound)), Standing::Held, "{bound}");
            assert_eq!(decide(Standing::Open, &behind(bound - 1), &records(bound)), Standing::Open, "{bound}");
            assert_eq!(decide(Standing::Held, &behind(0), &records(bound)), Standing::Open, "{bound}");
        }
        let age = Bounds { age: Some(Duration::from_millis(u64::MAX)), ..Bounds::default() };
        assert_eq!(decide(Standing::Open, &Lag { age: Duration::MAX, ..behind(1) }, &age), Standing::Held);
        assert!(reached_in(&behind(1), &age).is_some());
    }

    #[test]
    fn the_first_of_several_bounds_counts_and_all_must_be_left() {
        let age = Duration::from_secs(10);
        let bounds = Bounds { records: Some(100), bytes: Some(1000), age: Some(age) };
        let lags = [
            Lag { records: 100, ..Lag::default() },
            Lag { bytes: 1000, ..Lag::default() },
            Lag { age, ..Lag::default() },
        ];
        for lag in lags {
            assert_eq!(decide(Standing::Open, &lag, &bounds), Standing::Held, "{lag:?}");
            assert_eq!(decide(Standing::Held, &lag, &bounds), Standing::Held, "{lag:?}");
        }
        assert_eq!(
            decide(Standing::Held, &Lag { records: 90, bytes: 900, age: age * 9 / 10 }, &bounds),
            Standing::Open
        );
    }

    /// Whatever a group and its publishers do: held means that a bound was reached since it was last open, open that it is
    /// not reached now, and between the two something has moved by a tenth of the bound.
    #[test]
    fn a_random_walk_never_flaps() {
        for seed in 0..200 {
            let mut random = fastrand::Rng::with_seed(seed);
            let bound = random.u64(1..500);
            let (mut standing, mut lag, mut turned_at) = (Standing::Open, 0_u64, None);
            for _ in 0..2000 {
                lag = if random.bool() { lag + random.u64(0..20) } else { lag.saturating_sub(random.u64(0..20)) };
                let after = decide(standing, &behind(lag), &records(bound));
                if after != standing {
                    let moved = turned_at.map_or(bound, |before: u64| before.abs_diff(lag));
                    assert!(moved >= bound / 10, "seed {seed}: turned after {moved} of {bound}");
                    turned_at = Some(lag);
                }
                standing = after;
                let room = room(&behind(lag), &records(bound)).records;
                assert!(standing == Standing::Held || room > 0, "seed {seed}: open without room");
            }
        }
    }

    #[test]
    fn an_age_is_reached_only_where_something_is_unread() {
        let bounds = Bounds { age: Some(Duration::from_secs(10)), ..Bounds::default() };
        let lag = Lag { records: 1, bytes: 1, age: Duration::from_secs(4) };
        assert_eq!(reached_in(&lag, &bounds), Some(Duration::from_secs(6)));
        assert_eq!(reached_in(&Lag::default(), &bounds), None);
        assert_eq!(reached_in(&lag, &records(5)), None);
    }
}
