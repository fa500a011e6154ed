//! From records that leave the window to where they go: some are on their way at a time, and what waits for them is nobody
//! but the committed offset.

use std::{
    collections::HashMap,
    ops::{Bound, Range},
    time::Duration,
};

use aqueduct_storage::Offset;
use tokio::time::Instant;

use super::{Awaiting, Session, Settle, copies::Copied};
use crate::groups::{
    assignment::MemberId,
    coordinator::PartitionGeneration,
    error::GroupError,
    policy::Mode,
    state::REDRIVEN,
    window::{Exit, Failed, Fault, KeyId, Whereabouts, Window},
};

/// Until records that could not be moved are tried again.
const MOVE_RETRY: Duration = Duration::from_secs(1);
/// Between the beginnings of two moves: what fails meanwhile goes with the second. A lone failure waits for nothing.
const MOVE_INTERVAL: Duration = Duration::from_millis(5);
/// Records that are moved at once.
const MOVED_RECORDS: u64 = 4096;
/// About the most that is held of them.
pub(in crate::groups) const MOVED_BYTES: usize = 1 << 20;

/// Whether it is known which keys are parked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Surveying {
    /// As far as that matters.
    #[default]
    Done,
    Due,
    UnderWay,
}

/// Whether to find out now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::groups::member) enum Survey {
    Now,
    NotNow,
}

/// What is on its way out.
#[derive(Default)]
pub(super) struct Leavings {
    under_way: bool,
    /// The next move does not begin before.
    next_at: Option<Instant>,
    /// Of which partition the last ones were that have left: the others come first.
    moved_last: u32,
    pub(super) retry_at: Option<Instant>,
    /// Clients that want to know when theirs have left.
    awaiting: Vec<AwaitingExit>,
}

/// A request to let records go that is to be answered.
struct AwaitingExit {
    request: Awaiting,
    ranges: Vec<Range<Offset>>,
}

impl Session {
    /// The client gives records up for good.
    pub(super) fn park(&mut self, seat: MemberId, settle: Settle, fault: &Fault) {
        let parked = self.applied(seat, &settle, |window, ranges, keys| window.park(seat, ranges, fault, keys));
        self.copy_leaving(&settle);
        parked.into_iter().for_each(|committed| self.answer_when_left(seat, &settle, committed));
    }

    /// The client could not handle records. In order they come again from the window; otherwise they leave it.
    pub(super) fn nack(&mut self, seat: MemberId, settle: Settle, failed: &Failed) {
        let nacked = self.applied(seat, &settle, |window, ranges, keys| window.nack(seat, ranges, failed, keys));
        self.copy_leaving(&settle);
        match (self.policy.mode, nacked) {
            (Mode::Shared, Some(committed)) => self.answer_when_left(seat, &settle, committed),
            (Mode::Ordered, Some(committed)) => {
                self.answer_when_durable(seat, &settle, committed);
                self.rewound(seat, &settle, failed.fault.at);
            }
            (Mode::Keyed, nacked) => {
                nacked.into_iter().for_each(|committed| self.answer_when_left(seat, &settle, committed));
                // The client waits for it before it takes records of that key, even of a nack that does not count.
                self.rewound(seat, &settle, failed.fault.at);
            }
            (Mode::Ordered | Mode::Shared, None) => {}
        }
    }

    /// While it is known what they are.
    fn copy_leaving(&mut self, settle: &Settle) {
        let Some(held) = self.held.get(&settle.partition) else { return };
        let leaving: Vec<_> = settle.ranges.iter().flat_map(|range| held.window.leaving_in(range)).collect();
        self.copies.make(settle.partition, &leaving);
    }

    fn answer_when_left(&mut self, seat: MemberId, settle: &Settle, committed: Offset) {
        let &Settle { ack_id, partition, generation, .. } = settle;
        if let (Some(ack_id), Some(with_seat)) = (ack_id, self.seats.get_mut(seat)) {
            with_seat.awaiting += 1;
            let request = Awaiting { seat, ack_id, partition, generation, committed };
            let held = self.held.get(&partition);
            if held.is_some_and(|held| settle.ranges.iter().any(|range| held.window.is_leaving(range))) {
                self.leaving.awaiting.push(AwaitingExit { request, ranges: settle.ranges.clone() });
            } else {
                self.settling.next.push(request);
            }
        }
    }

    /// The next records to be moved, of all partitions, unless some are on their way.
    pub(in crate::groups::member) fn next_exits(&mut self, now: Instant) -> Vec<Exits> {
        let is_over = self.ending.is_some() || !(self.goes_on() || self.moves_to_the_end());
        if self.leaving.under_way || is_over || self.leaving.retry_at.is_some_and(|at| at > now) {
            return Vec::new();
        }
        if let Some(at) = self.leaving.next_at.filter(|at| *at > now) {
            if self.held.values().any(|held| held.window.has_exits()) {
                self.timer = self.timer.min(at);
            }
            return Vec::new();
        }
        self.leaving.retry_at = None;
        self.leaving.next_at = None;
        let next = self.take_exits();
        if !next.is_empty() {
            self.leaving.under_way = true;
            self.leaving.next_at = Some(now + MOVE_INTERVAL);
        }
        next
    }

    /// As many as are moved at once, by turns.
    fn take_exits(&mut self) -> Vec<Exits> {
        let last = self.leaving.moved_last;
        let in_turn = self.held.range((Bound::Excluded(last), Bound::Unbounded)).chain(self.held.range(..=last));
        let (mut records, mut bytes) = (MOVED_RECORDS, MOVED_BYTES);
        let mut taken = Vec::new();
        for (&partition, held) in in_turn {
            if records == 0 || bytes == 0 {
                break;
            }
            let mut exits = held.window.next_exits(records);
            if exits.is_empty() {
                continue;
            }
            let copies = self.copies.take(partition, &mut exits, bytes);
            let leaving = exits.iter().map(|exit| exit.range.end - exit.range.start).sum();
            records = records.saturating_sub(leaving);
            bytes = bytes.saturating_sub(copies.iter().map(Copied::bytes).sum());
            let at = PartitionGeneration { partition, generation: held.generation };
            taken.push(Exits { at, exits, copies });
        }
        taken
    }

    /// The move has ended.
    pub(in crate::groups::member) fn moved(&mut self, moved: Vec<Moved>, now: Instant) {
        self.leaving.under_way = false;
        for Moved { at, outcome } in moved {
            // There was no room for those behind it.
            if outcome.as_ref().is_ok_and(|departed| !departed.ranges.is_empty()) {
                self.leaving.moved_last = at.partition;
            }
            self.left(at, outcome, now);
        }
    }

    /// These records are where they were to go, or could not be moved there.
    fn left(&mut self, at: PartitionGeneration, outcome: Result<Departed, GroupError>, now: Instant) {
        match outcome {
            Ok(Departed { ranges, whereabouts, parked }) => {
                let Some(held) = self.held.get_mut(&at.partition).filter(|held| held.generation == at.generation)
                else {
                    return;
                };
                for range in &ranges {
                    held.window.left(range, &whereabouts, &mut self.keys);
                    // Some may have been made meanwhile.
                    self.copies.drop_made(at.partition, range.clone());
                }
                // Nobody is to blame in particular: whoever is there first has seen it.
                self.seats.iter().take(1).for_each(|(_, seat)| seat.stats.count_parked(parked));
                self.settling.moved.insert(at.partition);
                self.answer_left(at.partition);
                self.less_is_open(at.partition);
            }
            Err(error) => {
                tracing::error!(%error, partition = at.partition, "records that have failed are not moved yet");
                self.leaving.retry_at = Some(now + MOVE_RETRY);
                self.timer = self.timer.min(now + MOVE_RETRY);
            }
        }
    }

    /// Whether it is to be found out which keys are parked. Nothing is on its way to the dead letters meanwhile.
    pub(in crate::groups::member) fn begin_survey(&mut self, now: Instant) -> Survey {
        let is_due = self.surveying == Surveying::Due && self.ending.is_none();
        if !is_due || self.leaving.under_way || self.leaving.retry_at.is_some_and(|at| at > now) {
            return Survey::NotNow;
        }
        self.leaving.retry_at = None;
        self.leaving.under_way = true;
        self.surveying = Surveying::UnderWay;
        Survey::Now
    }

    /// These keys are parked, and no others.
    pub(in crate::groups::member) fn surveyed(
        &mut self,
        outcome: Result<HashMap<KeyId, Offset>, GroupError>,
        now: Instant,
    ) {
        self.leaving.under_way = false;
        match outcome {
            Ok(parked) => {
                self.keys.set_parked(parked);
                self.queue(REDRIVEN);
                // Unless letters were settled meanwhile.
                if self.surveying == Surveying::UnderWay {
                    self.surveying = Surveying::Done;
                }
                self.know_more();
            }
            Err(error) => {
                tracing::error!(%error, "it is not known which keys have dead letters: nothing is delivered until it is");
                self.surveying = Surveying::Due;
                self.leaving.retry_at = Some(now + MOVE_RETRY);
                self.timer = self.timer.min(now + MOVE_RETRY);
            }
        }
    }

    /// Answers requests of which nothing is on its way any more, once the journal knows.
    pub(super) fn answer_left(&mut self, partition: u32) {
        let Some(held) = self.held.get(&partition) else { return };
        let committed = held.window.progress().committed();
        let done = |awaiting: &mut AwaitingExit| {
            awaiting.request.partition == partition
                && awaiting.ranges.iter().all(|range| !held.window.is_leaving(range))
        };
        let answered = self.leaving.awaiting.extract_if(.., done);
        self.settling.next.extend(answered.map(|awaiting| Awaiting { committed, ..awaiting.request }));
    }

    /// Nobody will learn of these any more: the partition has moved on.
    pub(super) fn forget_exits(&mut self, partition: u32) {
        for awaiting in self.leaving.awaiting.extract_if(.., |a| a.request.partition == partition) {
            let error = Some(awaiting.request.stale());
            self.seats.answer(awaiting.request, error);
        }
    }

    /// What has failed is not in the progress, but on its way to where it will be: that is not left half done.
    fn moves_to_the_end(&self) -> bool {
        self.policy.mode != Mode::Ordered && self.leaving.retry_at.is_none()
    }

    /// Whether something is still to be moved.
    pub(super) fn is_moving(&self) -> bool {
        let mut windows = self.held.values().map(|held| &held.window);
        self.ending.is_none() && self.moves_to_the_end() && (self.leaving.under_way || windows.any(Window::has_exits))
    }
}

/// Records of one partition that are to leave.
pub(in crate::groups) struct Exits {
    pub(in crate::groups) at: PartitionGeneration,
    /// In order of offsets.
    pub(in crate::groups) exits: Vec<Exit>,
    /// Of as many of them as were at hand, in order of offsets.
    pub(in crate::groups) copies: Vec<Copied>,
}

/// What has come of [`Exits`].
pub(in crate::groups) struct Moved {
    pub(in crate::groups) at: PartitionGeneration,
    pub(in crate::groups) outcome: Result<Departed, GroupError>,
}

/// Records of one partition that have left.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::groups) struct Departed {
    pub(in crate::groups) ranges: Vec<Range<Offset>>,
    pub(in crate::groups) whereabouts: Whereabouts,
    /// How many of them are dead letters now.
    pub(in crate::groups) parked: u64,
}
