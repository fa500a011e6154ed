//! How far groups are behind: in records, in bytes, and in seconds.

use std::{sync::Arc, time::Duration};

use aqueduct_storage::Offset;

use super::{Groups, check_name, coordinator::PositionView, error::GroupError, sources::Sources, state::TopicId};
use crate::{clock::Clock, topics::Topic};

/// The lag of one group in one partition.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PartitionLag {
    pub(crate) group: String,
    pub(crate) topic: String,
    pub(crate) topic_id: TopicId,
    pub(crate) partition: u32,
    pub(crate) log_start: Offset,
    pub(crate) committed: Offset,
    pub(crate) high_watermark: Offset,
    pub(crate) bytes: u64,
    /// Since the oldest unread record was appended; zero without lag.
    pub(crate) behind: Duration,
    /// Who has the partition.
    pub(crate) member: Option<String>,
    /// Since when publishers of the topic are held because of this group, if they are.
    pub(crate) holds_since_us: Option<i64>,
}

impl PartitionLag {
    /// High watermark minus committed offset.
    pub(crate) fn records(&self) -> u64 {
        self.high_watermark.saturating_sub(self.committed)
    }
}

impl Groups {
    /// The lag of one group, or of all, in one topic, or in all.
    ///
    /// # Errors
    /// [`GroupError::Unknown`], an unknown topic, and what reading says.
    pub(crate) async fn lag(&self, group: Option<&str>, topic: Option<&str>) -> Result<Vec<PartitionLag>, GroupError> {
        group.map(check_name).transpose()?;
        let topic = topic.map(|name| self.find(name, &[])).transpose()?;
        let (group, id) = (group.map(str::to_owned), topic.map(|topic| topic.meta().id));
        let positions = self
            .handle
            .ask_durably(move |coordinator| {
                group.as_deref().map(|group| coordinator.describe(group)).transpose()?;
                Ok(coordinator.positions(group.as_deref(), id))
            })
            .await?;
        let mut lags = Vec::with_capacity(positions.len());
        let mut topic: Option<(TopicId, Arc<Topic>)> = None;
        for position in positions {
            // Positions come by topic, so the last one looked up is nearly always the right one.
            if topic.as_ref().is_none_or(|(id, _)| *id != position.topic) {
                topic = self.topics.find_by_id(&position.topic).map(|topic| (position.topic, topic));
            }
            if let Some((_, topic)) = &topic {
                let sources = Sources::new(&self.topics, Arc::clone(topic), position.group.clone());
                lags.extend(lag_at(&sources, position, self.topics.clock()).await?);
            }
        }
        lags.sort_by(|a, b| (&a.group, &a.topic, a.partition).cmp(&(&b.group, &b.topic, b.partition)));
        Ok(lags)
    }
}

/// `None` for a partition that is out of service: what is in it cannot be told.
async fn lag_at(sources: &Sources, position: PositionView, clock: &Clock) -> Result<Option<PartitionLag>, GroupError> {
    let holds_since_us = sources.topic.gate().held_since_us(&position.group);
    let PositionView { group, topic: topic_id, partition, committed, member } = position;
    let Ok(log) = sources.log(partition) else { return Ok(None) };
    let window = *log.watch().borrow();
    let oldest = committed.max(window.log_start);
    let (mut bytes, mut behind) = (0, Duration::ZERO);
    if oldest < window.high_watermark {
        // Retention may be faster than we are; then what it took counts for nothing.
        bytes = log.bytes_between(oldest, window.high_watermark).await.unwrap_or_default();
        let appended_us = log.append_time_at(oldest).await.ok().flatten();
        behind = appended_us.map_or(Duration::ZERO, |time_us| elapsed_since(time_us, clock.now_us()));
    }
    Ok(Some(PartitionLag {
        group,
        topic: sources.topic.meta().name.clone(),
        topic_id,
        partition,
        log_start: window.log_start,
        committed,
        high_watermark: window.high_watermark,
        bytes,
        behind,
        member,
        holds_since_us,
    }))
}

/// A clock that was set back makes nothing younger than now.
pub(super) fn elapsed_since(time_us: i64, now_us: i64) -> Duration {
    Duration::from_micros(u64::try_from(now_us.saturating_sub(time_us)).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_behind_is_never_negative() {
        assert_eq!(elapsed_since(1_000, 2_500), Duration::from_micros(1_500));
        assert_eq!(elapsed_since(2_500, 1_000), Duration::ZERO);
    }
}
