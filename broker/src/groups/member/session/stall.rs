//! Whether a member still settles what it is delivered.
//!
//! Pure. In an ordered group everything behind a record waits for it. A member that runs into one ack time-out after the
//! other and settles nothing would have its records counted as failed, one by one, up to the dead letters, although nothing
//! is wrong with them. So it is taken out before it has used up the attempts of any, and its partitions go to others.

use std::time::Duration;

use tokio::time::Instant;

/// Ack time-outs in a row after which a member is taken out, if its group has that many attempts to spare.
const TIMEOUTS_MAX: u32 = 3;

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Stall {
    last: Option<Instant>,
    /// The first one is at least this long after whatever was settled last.
    timeouts: u32,
}

impl Stall {
    /// The member has settled something, or works on it.
    pub(super) fn settled(&mut self) {
        *self = Self::default();
    }

    /// Deliveries have run into the ack time-out. Partitions that were delivered to together run out together: that counts
    /// once.
    pub(super) fn timed_out(&mut self, now: Instant, ack_timeout: Duration) {
        if self.last.is_none_or(|last| now >= last + ack_timeout) {
            self.timeouts += 1;
            self.last = Some(now);
        }
    }

    /// Time-outs in a row.
    pub(super) fn timeouts(&self) -> u32 {
        self.timeouts
    }

    /// Whether it is to be taken out, where a record has `max_attempts`: before the last of them.
    pub(super) fn is_stuck(&self, max_attempts: u32) -> bool {
        self.timeouts >= max_attempts.saturating_sub(1).clamp(1, TIMEOUTS_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACK_TIMEOUT: Duration = Duration::from_secs(30);

    #[test]
    fn a_member_is_stuck_after_three_time_outs_in_a_row() {
        let (mut stall, mut now) = (Stall::default(), Instant::now());
        for round in 1..=3 {
            now += ACK_TIMEOUT;
            stall.timed_out(now, ACK_TIMEOUT);
            stall.timed_out(now + Duration::from_secs(1), ACK_TIMEOUT);
            assert_eq!((stall.timeouts(), stall.is_stuck(5)), (round, round == 3));
        }
    }

    #[test]
    fn whatever_it_settles_begins_the_count_again() {
        let (mut stall, now) = (Stall::default(), Instant::now());
        for round in 0..10 {
            stall.timed_out(now + ACK_TIMEOUT * round, ACK_TIMEOUT);
            assert!(!stall.is_stuck(5));
            if round % 2 == 1 {
                stall.settled();
            }
        }
    }

    #[test]
    fn it_leaves_the_last_attempt_to_another_member() {
        for (max_attempts, timeouts) in [(1, 1), (2, 1), (3, 2), (4, 3), (5, 3), (u32::MAX, 3)] {
            let (mut stall, now) = (Stall::default(), Instant::now());
            for round in 1..=timeouts {
                assert!(!stall.is_stuck(max_attempts), "{round} of {max_attempts}");
                stall.timed_out(now + ACK_TIMEOUT * round, ACK_TIMEOUT);
            }
            assert!(stall.is_stuck(max_attempts), "{max_attempts}");
        }
    }
}
