//! When topics are compacted: one partition after the other, whenever enough of it is new.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use aqueduct_storage::{CompactionPolicy, Urgency};

use super::{Topic, Topics, settings::TOMBSTONE_RETENTION};
use crate::{engine::Compacted, error::TopicError};

/// A partition is compacted when at least half of what can be compacted is new: so each byte is written again a bounded
/// number of times, and what is superseded takes at most about as much room as what is not.
const WHEN_HALF_IS_NEW: Urgency = Urgency::Due { new_percent_min: 50, new_bytes_min: 1 };

impl Topics {
    /// Compacts what is new in `topic`, now.
    ///
    /// # Errors
    /// [`TopicError::Config`] unless its `cleanup` says so; what the engine says.
    pub(crate) async fn compact(&self, topic: &Topic) -> Result<Compacted, TopicError> {
        if !topic.meta().cleanup.compacts() {
            let reason = "is delete: set it to compact or both first".to_owned();
            return Err(TopicError::Config { field: "cleanup", reason });
        }
        let mut all = Compacted::default();
        for partition in topic.partitions().iter() {
            let log = partition.log()?;
            let _one_at_a_time = self.compacting.lock().await;
            let compacted = log.compact(self.policy(topic, Urgency::Now)).await?;
            all.records_removed += compacted.records_removed;
            all.bytes_freed += compacted.bytes_freed;
        }
        Ok(all)
    }

    fn policy(&self, topic: &Topic, urgency: Urgency) -> CompactionPolicy {
        let meta = topic.meta();
        CompactionPolicy {
            now_us: self.clock.now_us(),
            tombstone_retention: meta.tombstone_retention.unwrap_or(TOMBSTONE_RETENTION),
            min_lag: meta.min_compaction_lag.unwrap_or_default(),
            keys_max: CompactionPolicy::KEYS_MAX,
            urgency,
        }
    }
}

/// Compacts every topic that asks for it, every `interval`, for as long as the registry lives.
pub(crate) async fn compact_regularly(topics: Weak<Topics>, interval: Duration) {
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(listed) = topics.upgrade().map(|topics| topics.list()) else { return };
        for topic in listed.iter().filter(|topic| topic.meta().cleanup.compacts()) {
            let Some(topics) = topics.upgrade() else { return };
            compact_when_due(&topics, topic).await;
        }
    }
}

async fn compact_when_due(topics: &Topics, topic: &Arc<Topic>) {
    for partition in topic.partitions().iter() {
        let Ok(log) = partition.log() else { continue };
        let _one_at_a_time = topics.compacting.lock().await;
        match log.compact(topics.policy(topic, WHEN_HALF_IS_NEW)).await {
            Ok(Compacted { records_removed: 0, bytes_freed: 0 }) => {}
            Ok(Compacted { records_removed, bytes_freed }) => tracing::info!(
                topic = partition.topic_name(),
                partition = partition.index(),
                records_removed,
                bytes_freed,
                "compacted"
            ),
            Err(_) if topic.is_deleted() => return,
            Err(error) => tracing::error!(
                topic = partition.topic_name(),
                partition = partition.index(),
                "compaction failed, and is tried again: {error}"
            ),
        }
    }
}
