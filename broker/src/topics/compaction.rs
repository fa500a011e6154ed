//! When topics are compacted: one partition after the other, whenever enough of it is new.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use aqueduct_storage::{CompactionPolicy, Urgency};

use super::{Topic, Topics, settings::TOMBSTONE_RETENTION};
use crate::{clock::Clock, engine::Compacted, error::TopicError};

/// A partition is compacted when at least half of what can be compacted is new: so each byte is written again a bounded
/// number of times, and what is superseded takes at most about as much room as what is not.
const WHEN_HALF_IS_NEW: Urgency = Urgency::Due { new_percent_min: 50, new_bytes_min: 1 };

/// What is superseded in a segment that still grows is looked at after this long: if with that segment half of what can be
/// compacted is new, it is sealed, and compacted when the topic's lag allows it. If not, it stays; so it takes less room than
/// what is kept, and no more than one segment. A busy topic fills its segments before, a quiet one may never.
const ACTIVE_AGE_MAX: Duration = Duration::from_secs(3600);

impl Topics {
    /// Compacts what is new in `topic`, now, up to what was published last.
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
            let compacted = log.compact(self.policy(topic, Urgency::Now, Duration::ZERO)).await?;
            all.records_removed += compacted.records_removed;
            all.bytes_freed += compacted.bytes_freed;
        }
        Ok(all)
    }

    fn policy(&self, topic: &Topic, urgency: Urgency, active_age_max: Duration) -> CompactionPolicy {
        let meta = topic.meta();
        let min_lag = meta.min_compaction_lag.unwrap_or_default();
        CompactionPolicy {
            now_us: self.clock.now_us(),
            tombstone_retention: meta.tombstone_retention.unwrap_or(TOMBSTONE_RETENTION),
            min_lag,
            active_age_max: active_age_max.max(min_lag),
            keys_max: CompactionPolicy::KEYS_MAX,
            urgency,
        }
    }
}

/// Compacts every topic that asks for it, every `interval`, for as long as the registry lives.
pub(crate) async fn compact_regularly(topics: Weak<Topics>, clock: Clock, interval: Duration) {
    loop {
        let next = clock.now() + interval;
        let Some(listed) = topics.upgrade().map(|topics| topics.list()) else { return };
        for topic in listed.iter().filter(|topic| topic.meta().cleanup.compacts()) {
            let Some(topics) = topics.upgrade() else { return };
            compact_when_due(&topics, topic).await;
        }
        drop(listed);
        clock.sleep_until(next).await;
    }
}

async fn compact_when_due(topics: &Topics, topic: &Arc<Topic>) {
    for partition in topic.partitions().iter() {
        let Ok(log) = partition.log() else { continue };
        let _one_at_a_time = topics.compacting.lock().await;
        match log.compact(topics.policy(topic, WHEN_HALF_IS_NEW, ACTIVE_AGE_MAX)).await {
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
