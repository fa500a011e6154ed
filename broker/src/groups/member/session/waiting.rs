//! Why partitions are not delivered further, for whoever asks.

use tokio::time::Instant;

use super::{Flow, Held, Session};
use crate::groups::{
    state::REDRIVEN,
    waits::{PartitionWait, WaitCause},
    window::Stop,
};

impl Session {
    /// By partition. One that goes on is not among them; what may be delivered of the others is not known here.
    pub(in crate::groups::member) fn waits(&self, now: Instant) -> Vec<PartitionWait> {
        let wait = |(&partition, held): (&u32, &Held)| {
            Some(PartitionWait { partition, cause: self.wait_of(partition, held, now)?, next: held.window.cursor() })
        };
        self.held.iter().filter_map(wait).collect()
    }

    fn wait_of(&self, partition: u32, held: &Held, now: Instant) -> Option<WaitCause> {
        match held.flow {
            Flow::Running => {}
            Flow::Failed => return Some(WaitCause::OutOfService),
            // It is said of the member.
            Flow::Leaving => return None,
        }
        let at_us = |until| self.wall_clock.at_us(until);
        let of_window = held.window.stop(self.id, &self.keys, now).map(|stop| match stop {
            Stop::TooFarAhead { first, with } => WaitCause::TooFarAhead { first, with },
            Stop::TooManyInRetry { records } => WaitCause::TooManyInRetry { records },
            Stop::Held { offset, failure, until } => WaitCause::Retry { offset, failure, until_us: at_us(until) },
            Stop::Halted { offset, failure } => WaitCause::Halted { offset, failure },
            Stop::Keys { records, first } => WaitCause::Keys { records, first },
            Stop::InRetry { records, until } => WaitCause::InRetry { records, until_us: until.map(at_us) },
        });
        let of_session = || {
            if self.opening.is_closed() {
                return Some(WaitCause::OutsideHours);
            }
            if partition != REDRIVEN && !self.keys.know_all() {
                return Some(WaitCause::LookingThrough);
            }
            // What is queued may have something to deliver.
            (held.queued && self.seats.next_in_turn().is_none()).then_some(WaitCause::MembersBusy)
        };
        match of_window {
            // These do not stop the others.
            Some(keys @ WaitCause::Keys { .. }) => of_session().or(Some(keys)),
            Some(cause) => Some(cause),
            None => of_session(),
        }
    }
}
