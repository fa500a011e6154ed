//! The clock that retention by age reads: how long the log has provably existed.
//!
//! A wall clock can jump, a monotonic one forgets everything at a reboot. The age clock advances, at each tick, by the
//! *smaller* of what the wall clock and the boot clock say has passed since the tick before; across a reboot, where
//! the boot clock says nothing, it stands still. It is kept in `partition.state`. So it is never ahead of the time that
//! really passed, and nothing expires early; time in which the machine was off does not count, and data stays longer
//! by that much.

use crate::disk::BootTime;

/// The age clock with the readings of its last tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AgeClock {
    /// The clock itself, µs since the log was created.
    pub(crate) age_us: u64,
    /// The boot clock at the last tick.
    pub(crate) boot: BootTime,
    /// The wall clock at the last tick, µs since the epoch; `None` until it was first told.
    pub(crate) wall_us: Option<i64>,
}

impl AgeClock {
    /// The clock of a new log.
    pub(crate) fn new(boot: BootTime) -> Self {
        Self { age_us: 0, boot, wall_us: None }
    }

    /// Advances the clock.
    pub(crate) fn tick(&mut self, boot: BootTime, wall_us: i64) {
        let by_wall = self.wall_us.map(|before| wall_us.saturating_sub(before).max(0).unsigned_abs());
        self.age_us += self.since_tick_us(boot).min(by_wall.unwrap_or(0));
        self.boot = boot;
        self.wall_us = Some(wall_us);
    }

    /// What the clock shows by now at the latest: an upper bound, to stamp appends with.
    pub(crate) fn at_latest_us(&self, boot: BootTime) -> u64 {
        self.age_us + self.since_tick_us(boot)
    }

    fn since_tick_us(&self, boot: BootTime) -> u64 {
        if boot.boot_id == self.boot.boot_id { boot.since_boot_us.saturating_sub(self.boot.since_boot_us) } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boot(id: u8, since_boot_us: u64) -> BootTime {
        BootTime { boot_id: [id; 16], since_boot_us }
    }

    fn clock() -> AgeClock {
        AgeClock { age_us: 100, boot: boot(1, 1_000), wall_us: Some(50_000) }
    }

    #[test]
    fn a_wall_clock_that_jumps_forward_does_not_age_the_log() {
        let mut clock = clock();
        clock.tick(boot(1, 1_010), 50_000_000_000);
        assert_eq!(clock.age_us, 110);
    }

    #[test]
    fn a_wall_clock_that_jumps_back_costs_one_tick() {
        let mut clock = clock();
        clock.tick(boot(1, 1_010), 7);
        clock.tick(boot(1, 1_030), 27);
        assert_eq!(clock.age_us, 120);
    }

    #[test]
    fn a_reboot_does_not_age_the_log_whatever_the_wall_clock_says() {
        let mut clock = clock();
        clock.tick(boot(2, 99_000_000), 99_000_000);
        assert_eq!(clock.age_us, 100);
        clock.tick(boot(2, 99_000_005), 99_000_005);
        assert_eq!(clock.age_us, 105);
    }

    #[test]
    fn appends_are_stamped_no_earlier_than_they_happened() {
        assert_eq!(clock().at_latest_us(boot(1, 1_040)), 140);
    }
}
