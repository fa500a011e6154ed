//! A log of the store's own: a partition that no topic has.

use std::{collections::BTreeMap, sync::Arc};

use aqueduct_storage::{Batch, Offset, Window};

use super::entry::{self, Entry};
use crate::{
    budget::{Budget, Permit},
    clock::Clock,
    engine::{EngineError, MetaStore, PartitionLog, ReadError},
    error::PublishError,
    partition::{AppendReply, Appended, Partition, Place, failure::FailureNotice},
};

/// Read at once where single records are wanted.
const FETCH_BYTES: usize = 64 << 10;

/// See the [module](self).
pub(super) struct OwnLog {
    partition: Partition,
    log: Arc<dyn PartitionLog>,
}

/// Why records could not be taken out of a tier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Unfetched {
    /// These offsets hold nothing that can be read.
    Lost(Vec<Offset>),
    /// Not now.
    Failed(String),
}

impl OwnLog {
    /// Opens the log of that name. Batches of `producer` are never taken twice.
    pub(super) async fn open(
        meta: &dyn MetaStore,
        name: &'static str,
        producer: [u8; 16],
        clock: &Clock,
    ) -> Result<Self, EngineError> {
        let log = meta.system_log(name).await?;
        // Nobody waits for room in it: its bytes are admitted before, or bounded by who moves them.
        let budget = Arc::new(Budget::new("BROKER_BUDGET", name, u64::MAX));
        let partition = Partition::new(
            Place { topic: name.to_owned(), index: 0, own_producer: producer },
            Ok(Arc::clone(&log)),
            budget,
            Arc::default(),
            clock.clone(),
            FailureNotice::default(),
        );
        Ok(Self { partition, log })
    }

    /// Appends a batch; returns once it is durable.
    pub(super) async fn append(&self, batch: Batch) -> Result<Appended, PublishError> {
        append(&self.partition, batch).await
    }

    /// Appends a batch with an append time of at most `latest_us`, or not at all.
    pub(super) async fn append_by(&self, batch: Batch, latest_us: i64) -> Result<Appended, PublishError> {
        answer(self.partition.append_by(batch, Permit::default(), latest_us).await?).await
    }

    pub(super) fn window(&self) -> Window {
        *self.log.watch().borrow()
    }

    pub(super) async fn read(&self, from: Offset, bytes_max: usize) -> Result<Vec<Batch>, ReadError> {
        self.log.read(from, bytes_max).await
    }

    /// When something was last appended.
    pub(super) async fn last_append_us(&self) -> Option<i64> {
        let last = self.window().high_watermark.checked_sub(1)?;
        self.log.append_time_at(last).await.ok().flatten()
    }

    /// The entries at `offsets`, in that order.
    pub(super) async fn fetch(&self, offsets: &[Offset]) -> Result<Vec<Entry>, Unfetched> {
        let mut wanted: Vec<Offset> = offsets.to_vec();
        wanted.sort_unstable();
        let mut found = BTreeMap::new();
        let mut lost = Vec::new();
        for offset in wanted.iter().copied() {
            if found.contains_key(&offset) {
                continue;
            }
            let batches = match self.read(offset, FETCH_BYTES).await {
                Ok(batches) => batches,
                Err(ReadError::Failed(what)) => return Err(Unfetched::Failed(what)),
                Err(ReadError::Damaged { .. } | ReadError::Lost { .. } | ReadError::OutOfRange { .. }) => Vec::new(),
            };
            let placed = batches.iter().filter_map(entry::decode).flatten();
            let is_wanted = |offset: &Offset| wanted.binary_search(offset).is_ok();
            found.extend(placed.filter(|p| is_wanted(&p.offset)).map(|p| (p.offset, p.entry)));
            if !found.contains_key(&offset) {
                lost.push(offset);
            }
        }
        if !lost.is_empty() {
            return Err(Unfetched::Lost(lost));
        }
        Ok(offsets.iter().filter_map(|offset| found.remove(offset)).collect())
    }

    /// Lets go of what lies before `before`.
    pub(super) async fn trim(&self, before: Offset) -> Result<(), EngineError> {
        self.log.trim(before).await.map(drop)
    }

    /// Answers what is queued, and marks a clean stop.
    pub(super) async fn close(&self) -> Result<(), EngineError> {
        self.partition.close().await
    }
}

/// Appends a batch of the broker's own; returns once it is durable.
pub(super) async fn append(partition: &Partition, batch: Batch) -> Result<Appended, PublishError> {
    answer(partition.append(batch, Permit::default()).await?).await
}

async fn answer(reply: AppendReply) -> Result<Appended, PublishError> {
    // The owner answers everything it has taken, unless it panics.
    reply.await.unwrap_or_else(|_| Err(PublishError::Unknown("the owner of the partition has stopped".to_owned())))
}
