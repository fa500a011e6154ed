//! When records are due: an open loop, as pure arithmetic.
//!
//! The load does not wait for the system under test: record `n` is due at `n / rate`, whether or not the ones before it
//! have been answered, and its latency counts from then. So a pause of the broker shows in every record that fell due
//! meanwhile, not only in the one that was on its way (*coordinated omission*).

use std::time::Duration;

const NANOS: u128 = 1_000_000_000;

/// The share of one producer: of all records, every `producers`th one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Schedule {
    rate: u32,
    producers: u32,
    producer: u32,
}

impl Schedule {
    /// `rate` is records a second over all `producers`; `producer` counts from 0. None of the first two may be 0.
    pub(super) fn new(rate: u32, producers: u32, producer: u32) -> Self {
        Self { rate, producers, producer }
    }

    /// When this producer's record number `index` is due, since the beginning.
    pub(super) fn due_at(self, index: u64) -> Duration {
        let slot = u128::from(index) * u128::from(self.producers) + u128::from(self.producer);
        let nanos = slot * NANOS / u128::from(self.rate);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// How many of this producer's records are due before `end`.
    pub(super) fn due_before(self, end: Duration) -> u64 {
        end.checked_sub(Duration::from_nanos(1)).map_or(0, |last| self.due(last))
    }

    /// How many of this producer's records are due when `elapsed` has passed: the index of the first that is not.
    pub(super) fn due(self, elapsed: Duration) -> u64 {
        // A slot is due if floor(slot · 10⁹ / rate) ≤ elapsed, so the last one is the largest below (elapsed + 1) · rate.
        let last_slot = ((elapsed.as_nanos() + 1) * u128::from(self.rate) - 1) / NANOS;
        match last_slot.checked_sub(u128::from(self.producer)) {
            Some(slots) => u64::try_from(slots / u128::from(self.producers) + 1).unwrap_or(u64::MAX),
            None => 0,
        }
    }
}

/// A load that is late by more than this when its time is over has not kept its rate.
pub(super) const GRACE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_due_from_its_time_on_and_not_before() {
        for (rate, producers) in [(1, 1), (3, 1), (5_000, 1), (999_983, 7), (10_000_000, 64)] {
            for producer in 0..producers {
                let schedule = Schedule::new(rate, producers, producer);
                for index in [0, 1, 2, 3, 10, 99, 12_345] {
                    let at = schedule.due_at(index);
                    assert_eq!(schedule.due(at), index + 1, "{schedule:?} at its time");
                    if let Some(before) = at.checked_sub(Duration::from_nanos(1)) {
                        assert_eq!(schedule.due(before), index, "{schedule:?} a moment before");
                    }
                }
            }
        }
    }

    #[test]
    fn producers_share_the_rate_and_leave_nothing_out() {
        for (rate, producers) in [(1_000, 1), (1_000, 3), (7, 5), (2, 8)] {
            let due = |seconds| -> u64 {
                (0..producers).map(|p| Schedule::new(rate, producers, p).due(Duration::from_secs(seconds))).sum()
            };
            // The first record is due at once.
            assert_eq!(due(0), 1);
            assert_eq!(due(10), u64::from(rate) * 10 + 1, "{rate}/s by {producers}");
        }
    }

    #[test]
    fn records_of_several_producers_take_turns() {
        let at = |producer, index| Schedule::new(1_000, 4, producer).due_at(index).as_micros();
        assert_eq!([at(0, 0), at(1, 0), at(2, 0), at(3, 0), at(0, 1)], [0, 1_000, 2_000, 3_000, 4_000]);
    }

    #[test]
    fn what_is_due_at_the_end_is_not_due_before_it() {
        let schedule = Schedule::new(1_000, 1, 0);
        assert_eq!(schedule.due_before(Duration::from_secs(1)), 1_000);
        assert_eq!(schedule.due_before(Duration::from_micros(1_000_001)), 1_001);
        assert_eq!(schedule.due_before(Duration::ZERO), 0);
    }

    #[test]
    fn a_long_run_does_not_drift() {
        let schedule = Schedule::new(3, 1, 0);
        assert_eq!(schedule.due_at(3 * 3600 * 24), Duration::from_secs(3600 * 24));
    }
}
