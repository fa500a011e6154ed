//! Which tier a record waits in, and for how long. Pure.
//!
//! A tier is a log. Tier `k` holds records for a time of its own, its *dwell*, which doubles from tier to tier, and then
//! hands them to the tier of what remains, always some seconds before they are due. So a tier is left in the
//! order in which it was entered, and its head alone tells when it must be looked at. Tier 0 holds what is due next.
//!
//! All of this goes by the wall clock as the logs know it: append times never go back. When the clock does, a record
//! goes into the highest tier that still lets go of it in time, if need be tier 0.

/// How many there are. The last one holds for about a year, and what is due later than that goes in again.
pub(super) const TIERS: u8 = 24;

/// Tier 1 holds records for this long.
const FIRST_DWELL_US: i64 = 8_000_000;

/// A tier is chosen so that it lets go of a record this long before it is due, and the record is put there so that it is
/// half of that at least: time to carry it into tier 0.
const SLACK_US: i64 = 4_000_000;

/// How long a tier holds records, in microseconds.
pub(super) fn dwell_us(tier: u8) -> i64 {
    if tier == 0 { 0 } else { FIRST_DWELL_US << (tier.min(TIERS) - 1) }
}

/// The tier for a record that is due at `due_us`. `last_append_us` tells when something was last put into a tier.
pub(super) fn tier_for(due_us: i64, now_us: i64, last_append_us: impl Fn(u8) -> i64) -> u8 {
    let lets_go_in_time = |tier: &u8| {
        let entry_us = now_us.max(last_append_us(*tier));
        entry_us.saturating_add(dwell_us(*tier) + SLACK_US) <= due_us
    };
    (1..TIERS).rev().find(lets_go_in_time).unwrap_or(0)
}

/// The latest time at which a record that is due at `due_us` may be put into a tier. None is too late for tier 0.
pub(super) fn latest_entry_us(tier: u8, due_us: i64) -> i64 {
    if tier == 0 { i64::MAX } else { due_us.saturating_sub(dwell_us(tier) + SLACK_US / 2) }
}

/// Before this time nothing is due of what a tier lets go of at `let_go_us`.
pub(super) fn nothing_due_before_us(let_go_us: i64) -> i64 {
    let_go_us.saturating_add(SLACK_US / 2)
}

/// The engine's name for the log of a tier.
pub(super) fn log_name(tier: u8) -> &'static str {
    const NAMES: [&str; TIERS as usize] = [
        "delays-00",
        "delays-01",
        "delays-02",
        "delays-03",
        "delays-04",
        "delays-05",
        "delays-06",
        "delays-07",
        "delays-08",
        "delays-09",
        "delays-10",
        "delays-11",
        "delays-12",
        "delays-13",
        "delays-14",
        "delays-15",
        "delays-16",
        "delays-17",
        "delays-18",
        "delays-19",
        "delays-20",
        "delays-21",
        "delays-22",
        "delays-23",
    ];
    NAMES[usize::from(tier.min(TIERS - 1))]
}

#[cfg(test)]
mod tests {
    use fastrand::Rng;

    use super::*;

    const NEVER: fn(u8) -> i64 = |_| i64::MIN;
    const DAY_US: i64 = 24 * 3_600_000_000;

    #[test]
    fn what_is_due_soon_or_was_due_is_in_tier_0_and_far_times_go_up() {
        for (delay_us, tier) in
            [(i64::MIN, 0), (-1, 0), (0, 0), (11_999_999, 0), (12_000_000, 1), (20_000_000, 2), (i64::MAX, 23)]
        {
            assert_eq!(tier_for(delay_us, 0, NEVER), tier, "{delay_us}");
        }
        assert!(dwell_us(TIERS - 1) > 365 * DAY_US);
        assert_eq!(log_name(TIERS - 1), "delays-23");
    }

    #[test]
    fn a_record_steps_down_to_tier_0_before_it_is_due_in_few_steps() {
        let mut rng = Rng::with_seed(7);
        for _ in 0..10_000 {
            let due_us = rng.i64(0..3650 * DAY_US) >> rng.u32(..40);
            let (mut now_us, mut last, mut steps) = (0, TIERS, 0);
            loop {
                let tier = tier_for(due_us, now_us, NEVER);
                assert!(tier < last || tier == TIERS - 1, "due at {due_us}: from tier {last} to {tier}");
                if tier == 0 {
                    break;
                }
                (now_us, last, steps) = (now_us + dwell_us(tier), tier, steps + 1);
                assert!(now_us + SLACK_US <= due_us, "due at {due_us}: tier {tier} holds it until {now_us}");
            }
            assert!(steps <= 36, "{steps} steps to {due_us}");
        }
    }

    #[test]
    fn after_the_clock_went_back_no_tier_is_entered_that_lets_go_too_late() {
        let mut rng = Rng::with_seed(8);
        for _ in 0..10_000 {
            let (now_us, due_us) = (rng.i64(..DAY_US), rng.i64(..DAY_US));
            let last: Vec<i64> = (0..TIERS).map(|_| rng.i64(..DAY_US)).collect();
            let last_append_us = |tier: u8| last[usize::from(tier)];
            let tier = tier_for(due_us, now_us, last_append_us);
            let until_us = now_us.max(last_append_us(tier)) + dwell_us(tier);
            assert!(tier == 0 || until_us + SLACK_US <= due_us);
        }
    }
}
