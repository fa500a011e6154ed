//! Carries one intent out.

use std::sync::Arc;

use aqueduct_storage::{Offset, ProducerSequence};

use super::{
    Shared,
    entry::{Entry, delivery, tier_batch},
    own_log::{Unfetched, append},
    shelf,
    state::{Intent, Target},
    tiers::latest_entry_us,
};
use crate::{error::PublishError, partition::Partition};

/// A transfer that has ended.
pub(super) struct Finished {
    pub(super) to: Target,
    pub(super) outcome: Outcome,
}

/// How it has ended.
pub(super) enum Outcome {
    /// The records are there, by this attempt or an earlier one.
    Made,
    /// The target waits for another number: nothing of it is there.
    Renumber { expected: u64 },
    /// The target knows a later life of the store.
    Fenced { current: u32 },
    /// The tier would let go of them too late. Nothing of it is there.
    NotInTime,
    /// Some records cannot be read.
    Lost(Vec<Offset>),
    /// Not now; perhaps it has been made.
    Failed(String),
}

/// Where the records go.
pub(super) enum Place {
    Partition(Arc<Partition>),
    Tier(u8),
}

/// Appends the records of `intent`; `cached` has them if they are in memory.
pub(super) async fn transfer(
    shared: Arc<Shared>,
    intent: Intent,
    place: Place,
    cached: Option<Vec<Entry>>,
) -> Finished {
    let to = intent.to;
    let outcome = carry_out(&shared, intent, place, cached).await.unwrap_or_else(|ended| ended);
    Finished { to, outcome }
}

async fn carry_out(
    shared: &Shared,
    intent: Intent,
    place: Place,
    cached: Option<Vec<Entry>>,
) -> Result<Outcome, Outcome> {
    let entries = match cached {
        Some(entries) => entries,
        None => fetch(shared, &intent).await?,
    };
    if entries.is_empty() {
        return Ok(Outcome::Made);
    }
    let Intent { to, from: intent_from, epoch, sequence, .. } = intent;
    let producer = |id| ProducerSequence { id, epoch, sequence };
    let outcome = match (place, to) {
        (Place::Partition(partition), Target::Partition(to)) => {
            append(&partition, delivery(entries.iter(), producer(to.producer()))).await.map(drop)
        }
        (Place::Tier(number), _) | (Place::Partition(_), Target::Tier(number)) => {
            let tier = shared.shelf.get_or_make(number).await.map_err(|error| Outcome::Failed(error.to_string()))?;
            let batch = tier_batch(entries.iter(), Some(producer(shelf::producer(number))));
            tier.append_by(batch, latest_us(intent_from, number, &entries)).await
        }
    };
    match outcome {
        Ok(()) => Ok(Outcome::Made),
        Err(PublishError::SequenceGap { expected, .. }) => Ok(Outcome::Renumber { expected }),
        Err(PublishError::NotInTime { .. }) => Ok(Outcome::NotInTime),
        Err(PublishError::ProducerFenced { current, .. }) => Ok(Outcome::Fenced { current }),
        // The target has gone beyond it: an attempt that had more records to it was made.
        Err(PublishError::SequenceTooOld { .. }) => Ok(Outcome::Made),
        Err(error) => Ok(Outcome::Failed(error.to_string())),
    }
}

/// Until when entries may be put into a tier. What comes out of tier 0 is overdue, and merely waits there.
fn latest_us(from: u8, to: u8, entries: &[Entry]) -> i64 {
    let first_due_us = entries.iter().map(|entry| entry.due_us).min();
    match (from, first_due_us) {
        (0, _) | (_, None) => i64::MAX,
        (_, Some(first_due_us)) => latest_entry_us(to, first_due_us),
    }
}

async fn fetch(shared: &Shared, intent: &Intent) -> Result<Vec<Entry>, Outcome> {
    let Some(tier) = shared.shelf.get(intent.from) else { return Err(Outcome::Lost(intent.offsets.clone())) };
    tier.log.fetch(&intent.offsets).await.map_err(|unfetched| match unfetched {
        Unfetched::Lost(offsets) => Outcome::Lost(offsets),
        Unfetched::Failed(what) => Outcome::Failed(what),
    })
}
