//! What waits for a place, counted when somebody asks: on disk, where it is. No count is kept, so none can be wrong after a
//! crash, and none takes memory.

use std::{collections::BTreeMap, time::Duration};

use aqueduct_storage::{Batch, ProducerSequence};
use tokio::sync::{mpsc, oneshot};

use super::{
    Delays, Destination, Shared,
    entry::{self, Entry, delivery},
    shelf::Tier,
    state::Settled,
};
use crate::{clock::Clock, engine::ReadError};

/// Looked at for one answer, in bytes as stored; what lies behind is not counted.
const BYTES_MAX: usize = 32 << 20;
/// Read at once.
const READ_BYTES: usize = 512 << 10;
/// The mover answers between two rounds, of which each may wait for the disk.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Questions that wait for the mover: one, but for those that nobody waits for any more.
pub(super) const QUESTIONS: usize = 4;

/// Asks the mover how far each tier has been emptied.
pub(super) type SettledReply = oneshot::Sender<BTreeMap<u8, Settled>>;

/// What waits for one place.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    /// One that is being moved from tier to tier meanwhile may count twice, or not.
    pub(crate) records: u64,
    pub(crate) next_due_us: Option<i64>,
    /// The number of the one that was put last.
    last_put: u64,
    last: Option<Entry>,
}

impl Waiting {
    fn add(&mut self, entry: Entry) {
        self.records += 1;
        self.next_due_us = self.next_due_us.into_iter().chain([entry.due_us]).min();
        if self.last.is_none() || entry.put > self.last_put {
            (self.last_put, self.last) = (entry.put, Some(entry));
        }
    }

    /// The record that was put last, by itself.
    pub(crate) fn last(&self) -> Option<Batch> {
        let nobody = ProducerSequence { id: [0; 16], epoch: 0, sequence: 0 };
        self.last.as_ref().map(|entry| delivery([entry].into_iter(), nobody))
    }
}

/// What waits for some places.
#[derive(Debug)]
pub(crate) struct Census {
    pub(crate) by_destination: BTreeMap<Destination, Waiting>,
    pub(crate) extent: Extent,
}

/// How much of what waits was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    All,
    /// What comes first, of each tier. There may be more.
    Part,
}

impl Delays {
    /// Counts what waits for each of `places`. Reads what is stored of everything that waits, up to 32 MiB; one such count
    /// is made at a time.
    pub(crate) async fn census(&self, places: &[Destination]) -> Census {
        let mut census = Census {
            by_destination: places.iter().map(|place| (*place, Waiting::default())).collect(),
            extent: Extent::All,
        };
        let running = match self.running.get().filter(|_| !places.is_empty()) {
            None => return census,
            // What is stored cannot be read.
            Some(Err(_)) => {
                census.extent = Extent::Part;
                return census;
            }
            Some(Ok(running)) => running,
        };
        let _one_at_a_time = running.counting.lock().await;
        let Some(settled) = ask(&running.questions, running.shared.topics.clock()).await else {
            census.extent = Extent::Part;
            return census;
        };
        census.take(&running.shared, &settled, BYTES_MAX).await;
        census
    }
}

async fn ask(questions: &mpsc::Sender<SettledReply>, clock: &Clock) -> Option<BTreeMap<u8, Settled>> {
    let (reply, answer) = oneshot::channel();
    let answered = async { questions.send(reply).await.ok().and(answer.await.ok()) };
    tokio::select! {
        settled = answered => settled,
        () = clock.sleep_until(clock.now() + ANSWER_TIMEOUT) => None,
    }
}

impl Census {
    pub(super) async fn take(&mut self, shared: &Shared, settled: &BTreeMap<u8, Settled>, bytes_max: usize) {
        let mut bytes_left = bytes_max;
        for (number, tier) in shared.shelf.list() {
            self.count(&tier, settled.get(&number), &mut bytes_left).await;
        }
    }

    /// Counts what one tier holds.
    async fn count(&mut self, tier: &Tier, settled: Option<&Settled>, bytes_left: &mut usize) {
        let mut next = settled.map_or(0, Settled::below);
        let end = tier.log.window().high_watermark;
        while next < end {
            if *bytes_left == 0 {
                self.extent = Extent::Part;
                return;
            }
            let batches = match tier.log.read(next, READ_BYTES.min(*bytes_left)).await {
                Ok(batches) => batches,
                // The mover says so, and what becomes of it.
                Err(ReadError::Damaged { to, .. } | ReadError::Lost { to, .. }) if to > next => {
                    next = to;
                    continue;
                }
                // It has been emptied further meanwhile.
                Err(ReadError::OutOfRange { window, .. }) if window.log_start > next => {
                    next = window.log_start;
                    continue;
                }
                Err(
                    ReadError::Damaged { .. }
                    | ReadError::Lost { .. }
                    | ReadError::OutOfRange { .. }
                    | ReadError::Failed(_),
                ) => Vec::new(),
            };
            let Some(last) = batches.last() else {
                self.extent = Extent::Part;
                return;
            };
            let from = std::mem::replace(&mut next, last.header.next_offset());
            for batch in &batches {
                *bytes_left = bytes_left.saturating_sub(batch.payload.len());
                let entries = entry::decode(batch).unwrap_or_default().into_iter();
                let waiting = entries.filter(|placed| {
                    placed.offset >= from && !settled.is_some_and(|settled| settled.contains(placed.offset))
                });
                waiting.for_each(|placed| self.add(placed.entry));
            }
        }
    }

    fn add(&mut self, entry: Entry) {
        if let Some(waiting) = self.by_destination.get_mut(&entry.to) {
            waiting.add(entry);
        }
    }
}
