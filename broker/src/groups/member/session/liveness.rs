//! Whether there is somebody behind the stream: a client that reads it, and a program that settles what it gets.

use tokio::time::Instant;

use super::{Phase, SILENT_HEARTBEATS, Session};
use crate::groups::error::GroupError;

impl Session {
    /// A process that was stopped for a while, or whose clock was set forward, has heard nothing meanwhile: that is not the
    /// member's silence.
    pub(super) fn forgive_what_passed_unseen(&mut self, now: Instant) {
        let unseen = now.saturating_duration_since(self.last_looked);
        if unseen > self.heartbeat * 2 {
            self.last_heard = now.min(self.last_heard + unseen);
            self.last_sent = now.min(self.last_sent + unseen);
        }
        self.last_looked = now;
    }

    /// Deliveries have run into the ack time-out.
    pub(super) fn timed_out(&mut self, now: Instant) {
        self.stall.timed_out(now, self.policy.ack_timeout);
        if self.stall.timeouts() == 1 {
            self.stats.set_stalled_since(Some(self.wall_clock.at_us(now)));
        }
        if self.stall.is_stuck(self.policy.retry.max_attempts) && self.phase == Phase::Active {
            self.stats.set_gone_for_good();
            let ack_timeout_ms = self.policy.ack_timeout.as_millis();
            self.end(GroupError::MemberStuck { timeouts: self.stall.timeouts(), ack_timeout_ms });
        }
    }

    /// Ends the stream of a client that takes nothing from it. Nobody has looked at what it has: no attempt is counted.
    pub(super) fn end_if_unread(&mut self, now: Instant) {
        let unread = now.saturating_duration_since(self.last_sent);
        if !self.outbox.is_empty() && unread >= self.heartbeat * SILENT_HEARTBEATS {
            self.end(GroupError::MemberNotReading { unread_ms: unread.as_millis() });
        }
    }
}
