//! From records that will not be delivered again to the dead letters: one is on its way at a time, and what waits for it
//! is nobody but the committed offset.

use std::{num::NonZeroU64, ops::Range, time::Duration};

use aqueduct_storage::Offset;
use tokio::time::Instant;

use super::{Awaiting, Phase, Session, Settle};
use crate::groups::{
    coordinator::PartitionGeneration,
    error::GroupError,
    window::{Fault, Parking},
};

/// Until a record that could not be moved is tried again.
const PARK_RETRY: Duration = Duration::from_secs(1);

/// What is on its way to the dead letters.
#[derive(Default)]
pub(super) struct Parkings {
    under_way: bool,
    pub(super) retry_at: Option<Instant>,
    /// Clients that want to know when theirs are there.
    pub(super) awaiting: Vec<AwaitingPark>,
}

/// A request to park that is to be answered.
pub(super) struct AwaitingPark {
    ack_id: NonZeroU64,
    at: PartitionGeneration,
    ranges: Vec<Range<Offset>>,
}

impl Session {
    /// The client gives records up for good.
    pub(super) fn park(&mut self, settle: Settle, fault: &Fault) {
        if self.applied(&settle, |window, ranges| window.park(ranges, fault)).is_some() {
            let Settle { ack_id, partition, generation, ranges } = settle;
            let at = PartitionGeneration { partition, generation };
            self.parking.awaiting.extend(ack_id.map(|ack_id| AwaitingPark { ack_id, at, ranges }));
            self.answer_parked(at);
        }
    }

    /// The next records to be moved to the dead letters, unless some are on their way.
    pub(in crate::groups::member) fn next_parking(&mut self, now: Instant) -> Option<(PartitionGeneration, Parking)> {
        let is_over = matches!(self.phase, Phase::Ending(_) | Phase::Gone);
        if self.parking.under_way || is_over || self.parking.retry_at.is_some_and(|at| at > now) {
            return None;
        }
        self.parking.retry_at = None;
        let mut held = self.held.iter();
        let next = held.find_map(|(partition, held)| {
            let at = PartitionGeneration { partition: *partition, generation: held.generation };
            Some((at, held.window.next_parking()?))
        });
        self.parking.under_way = next.is_some();
        next
    }

    /// The records of `range` are among the dead letters, or could not be moved there.
    pub(in crate::groups::member) fn parked(
        &mut self,
        at: PartitionGeneration,
        outcome: Result<Range<Offset>, GroupError>,
        now: Instant,
    ) {
        self.parking.under_way = false;
        match outcome {
            Ok(range) => {
                let Some(held) = self.held.get_mut(&at.partition).filter(|held| held.generation == at.generation)
                else {
                    return;
                };
                held.window.parked(&range);
                self.stats.count_parked(range.end - range.start);
                self.settling.moved.insert(at.partition);
                self.answer_parked(at);
                self.less_is_open(at.partition);
            }
            Err(error) => {
                tracing::error!(%error, partition = at.partition, "a record is not parked yet");
                self.parking.retry_at = Some(now + PARK_RETRY);
                self.timer = self.timer.min(now + PARK_RETRY);
            }
        }
    }

    /// Answers requests of which nothing is on its way any more, once the journal knows.
    fn answer_parked(&mut self, at: PartitionGeneration) {
        let Some(held) = self.held.get(&at.partition) else { return };
        let committed = held.window.progress().committed();
        let done = |awaiting: &mut AwaitingPark| {
            awaiting.at == at && awaiting.ranges.iter().all(|range| !held.window.is_parking(range))
        };
        let answered = self.parking.awaiting.extract_if(.., done);
        let PartitionGeneration { partition, generation } = at;
        let next = answered.map(|AwaitingPark { ack_id, .. }| Awaiting { ack_id, partition, generation, committed });
        self.settling.next.extend(next);
    }

    /// Nobody will learn of these any more: the partition has moved on.
    pub(super) fn forget_parking(&mut self, partition: u32) {
        for AwaitingPark { ack_id, at, .. } in self.parking.awaiting.extract_if(.., |a| a.at.partition == partition) {
            let error = Some(GroupError::StaleGeneration { partition, generation: at.generation });
            self.outbox.push_back(super::Event::Settled { ack_id, committed: 0, error });
        }
    }
}
