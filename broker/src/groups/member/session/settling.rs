//! From what a client has settled to what the journal keeps: one settlement at a time is on its way to the coordinator,
//! and what is settled meanwhile goes into the next.

use std::{collections::BTreeSet, num::NonZeroU64, time::Duration};

use aqueduct_storage::Offset;
use tokio::time::Instant;

use super::Session;
use crate::groups::{
    assignment::MemberId,
    coordinator::{PartitionGeneration, PartitionProgress, Settlement},
    error::GroupError,
};

/// Until a settlement that failed is tried again.
const SETTLE_RETRY: Duration = Duration::from_secs(1);

/// What is on its way to the journal.
#[derive(Default)]
pub(super) struct Settling {
    /// Have moved since they were last committed.
    pub(super) moved: BTreeSet<u32>,
    /// Revoked, and nothing is open any more.
    pub(super) to_give_up: BTreeSet<u32>,
    /// Given back without ever having been started.
    pub(super) to_give_back: Vec<PartitionGeneration>,
    /// Wait for the next settlement.
    pub(super) next: Vec<Awaiting>,
    /// Wait for the one under way.
    under_way: Option<Vec<Awaiting>>,
    pub(super) retry_at: Option<Instant>,
    /// Settlements that have begun.
    begun: u64,
}

/// A request whose sender wants to know.
#[derive(Debug, Clone, Copy)]
pub(super) struct Awaiting {
    pub(super) seat: MemberId,
    pub(super) ack_id: NonZeroU64,
    pub(super) partition: u32,
    /// As the client knows it.
    pub(super) generation: u64,
    pub(super) committed: Offset,
}

impl Awaiting {
    pub(super) fn stale(&self) -> GroupError {
        GroupError::StaleGeneration { partition: self.partition, generation: self.generation }
    }
}

impl Settling {
    /// Whether there is nothing for a settlement to carry.
    fn is_empty(&self) -> bool {
        self.moved.is_empty() && self.to_give_up.is_empty() && self.to_give_back.is_empty() && self.next.is_empty()
    }

    /// Whether everything that was settled is durable, or could not be made so.
    pub(super) fn is_over(&self) -> bool {
        self.is_empty() && self.under_way.is_none()
    }

    /// The settlement that carries what is settled now.
    pub(super) fn coming(&self) -> u64 {
        self.begun + 1
    }

    /// Whether that settlement has ended.
    pub(super) fn has_ended(&self, settlement: u64) -> bool {
        self.is_over() || settlement < self.begun || (settlement == self.begun && self.under_way.is_none())
    }
}

impl Session {
    /// What to commit now, unless a settlement is under way.
    pub(in crate::groups::member) fn next_settlement(&mut self, now: Instant) -> Option<Settlement> {
        let settling = &mut self.settling;
        if settling.under_way.is_some() || settling.retry_at.is_some_and(|at| at > now) || settling.is_empty() {
            return None;
        }
        let committed = |partition| Some(self.held.get(&partition)?.window.progress().committed());
        self.copies.forget_settled(committed);
        settling.retry_at = None;
        settling.begun += 1;
        let moved = std::mem::take(&mut settling.moved);
        let to_give_up = std::mem::take(&mut settling.to_give_up);
        let mut given_up = std::mem::take(&mut settling.to_give_back);
        settling.under_way = Some(std::mem::take(&mut settling.next));
        let held = moved.iter().filter_map(|partition| Some((*partition, self.held.get(partition)?)));
        let advanced = held
            .map(|(partition, held)| PartitionProgress {
                at: PartitionGeneration { partition, generation: held.generation },
                progress: held.window.progress().clone(),
            })
            .collect();
        for partition in to_give_up {
            if let Some(held) = self.forget(partition) {
                self.given_up.insert(held.generation);
                given_up.push(PartitionGeneration { partition, generation: held.generation });
            }
        }
        Some(Settlement { member: self.id, advanced, given_up })
    }

    /// The settlement has ended. `Ok` lists partitions that were not the session's any more.
    pub(in crate::groups::member) fn settled(
        &mut self,
        advanced: &[PartitionGeneration],
        outcome: Result<Vec<u32>, GroupError>,
        now: Instant,
    ) {
        let awaiting = self.settling.under_way.take().unwrap_or_default();
        let error = outcome.as_ref().err().cloned();
        let stale = outcome.unwrap_or_default();
        if error.is_some() && self.goes_on() {
            let still = advanced.iter().filter(|at| self.generation(at.partition) == Some(at.generation));
            let still: Vec<u32> = still.map(|at| at.partition).collect();
            self.settling.moved.extend(still);
            self.settling.retry_at = Some(now + SETTLE_RETRY);
            self.timer = self.timer.min(now + SETTLE_RETRY);
        }
        for awaiting in awaiting {
            let is_stale = stale.contains(&awaiting.partition);
            let error = error.clone().or_else(|| is_stale.then(|| awaiting.stale()));
            self.seats.answer(awaiting, error);
        }
    }
}
