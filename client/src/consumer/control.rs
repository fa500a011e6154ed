//! Slowing a consumer down, and stopping it for a while, from anywhere.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
    task::Waker,
    time::Duration,
};

use tokio::time::{Instant, sleep};

use super::{
    ConsumerStats,
    pace::{Flow, Pace, Reader, Waiting},
    shared::{ACK_TIMEOUT_DEFAULT, Shared, State, wake},
};

/// A handle to a [`Consumer`](super::Consumer), also while it runs handlers: it tells what has happened, and how fast
/// events are handed out. Clones are handles to the same consumer. It does not keep the consumer alive.
#[derive(Clone)]
pub struct ConsumerControl {
    shared: Arc<Shared>,
}

impl ConsumerControl {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Hands nothing more out, and asks the broker for nothing more, until [`resume`](Self::resume). What was handed out
    /// before can still be settled, and what is no event (gaps, changes of the assignment, failures) is told all the same.
    ///
    /// The member stays in its group. In an `ordered` group it keeps its partitions, and the events that wait here, however
    /// long the pause: nobody else could have them. In `shared` and `keyed` groups these go back to the others at once, and
    /// no attempt is counted.
    pub fn pause(&self) {
        self.shared.change_pace(|pace| pace.set_flow(Flow::Paused));
    }

    /// Ends a [`pause`](Self::pause).
    pub fn resume(&self) {
        self.shared.change_pace(|pace| pace.set_flow(Flow::Running));
    }

    /// Whether it is paused.
    pub fn is_paused(&self) -> bool {
        self.shared.state.lock().pace.flow() == Flow::Paused
    }

    /// Hands out so many records a second from now on, evenly: after a time without work at most a tenth of a second's
    /// worth comes at once. `None` for as many as there are; a rate below one record an hour, or that is no number, counts
    /// as one an hour.
    ///
    /// The broker then sends no more ahead than is handed out in a quarter of the group's ack time-out. A batch that is
    /// larger than that comes whole all the same: it waits here and does not expire.
    pub fn rate_limit(&self, records_per_second: impl Into<Option<f64>>) {
        let rate = records_per_second.into();
        self.shared.change_pace(|pace| pace.set_rate(rate, Instant::now()));
    }

    /// What the consumer has done so far.
    pub fn stats(&self) -> ConsumerStats {
        self.shared.stats()
    }
}

impl fmt::Debug for ConsumerControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConsumerControl")
            .field("topic", &self.shared.topic)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

impl Shared {
    /// Changes how fast events are handed out, and everything that follows from it.
    fn change_pace(&self, change: impl FnOnce(&mut Pace)) {
        let (requests, reader) = {
            let mut state = self.state.lock();
            change(&mut state.pace);
            self.follow_pace(&mut state);
            (state.wake_requests(), state.reader.take())
        };
        self.paced.notify_one();
        wake(requests);
        wake(reader);
    }

    /// Handlers take what is handed out from here on.
    pub(super) fn read_by_handlers(&self) {
        self.change_pace(|pace| pace.set_reader(Reader::Handlers));
    }

    /// What the broker may send ahead, and what becomes of what it has sent, follows the pace.
    pub(super) fn follow_pace(&self, state: &mut State) {
        let ack_timeout = self.ack_timeout(state);
        state.settlements.room().limit(state.pace.prefetch_records(ack_timeout));
        self.give_back_waiting(state);
    }

    /// Gives back what waits here, if others may have it.
    pub(super) fn give_back_waiting(&self, state: &mut State) {
        if state.pace.waiting(state.policy.mode) == Waiting::GivenBack {
            self.release(state, |_| true);
        }
    }

    /// Keeps what waits here from going to others, for as long as it is meant to stay. Never ends.
    pub(super) async fn keep_waiting(&self) {
        loop {
            let ack_timeout = self.ack_timeout(&self.state.lock());
            tokio::select! {
                () = sleep(ack_timeout / 3) => {}
                () = self.paced.notified() => {}
            }
            wake(self.extend_waiting());
        }
    }

    fn extend_waiting(&self) -> Option<Waker> {
        let mut state = self.state.lock();
        if state.pace.waiting(state.policy.mode) != Waiting::Kept {
            return None;
        }
        let State { inbox, settlements, .. } = &mut *state;
        for (claim, ranges) in inbox.waiting() {
            ranges.iter().for_each(|range| settlements.extend_range(claim, range.from, range.to));
        }
        state.wake_requests()
    }

    /// The group's, as far as it is known.
    pub(super) fn ack_timeout(&self, state: &State) -> Duration {
        state.policy.ack_timeout.unwrap_or(ACK_TIMEOUT_DEFAULT)
    }

    pub(super) fn stats(&self) -> ConsumerStats {
        // Whoever has heard how an ack was answered finds it counted.
        let _state = self.state.lock();
        let counters = &self.counters;
        ConsumerStats {
            delivered: counters.delivered.load(Ordering::Relaxed),
            acked: counters.acked.load(Ordering::Relaxed),
            nacked: counters.nacked.load(Ordering::Relaxed),
            parked: counters.parked.load(Ordering::Relaxed),
            released: counters.released.load(Ordering::Relaxed),
            aborted: counters.aborted.load(Ordering::Relaxed),
            lost: counters.lost.load(Ordering::Relaxed),
            rejoins: counters.rejoins.load(Ordering::Relaxed),
            gap_records: counters.gap_records.load(Ordering::Relaxed),
        }
    }
}
