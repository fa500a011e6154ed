//! How far a group is behind in a whole topic, for whoever holds publishers because of it.

use std::{sync::Arc, time::Duration};

use aqueduct_storage::Offset;

use super::{Groups, error::GroupError, lag::elapsed_since, policy::StartAt, positions::resolve};
use crate::{backlog::Lag, partition::Partition, topics::Topic};

impl Groups {
    /// The unread part of `topic`, all partitions together; `None` if there is no such group. What retention has taken
    /// does not count, nor does what the group has had redriven. Where the group has no position yet, it has everything
    /// unread from where it will begin.
    ///
    /// # Errors
    /// While shutting down, or while groups are out of service.
    pub(crate) async fn behind(&self, group: &str, topic: &Arc<Topic>) -> Result<Option<Lag>, GroupError> {
        let (group, id) = (group.to_owned(), topic.meta().id);
        let Some(reading) = self.handle.ask_durably(move |coordinator| Ok(coordinator.reading(&group, id))).await?
        else {
            return Ok(None);
        };
        // As when a member joins: a partition that is added to a topic which the group reads holds nothing but news.
        let start = if reading.committed.is_empty() { reading.start } else { StartAt::Earliest };
        let mut committed = reading.committed.into_iter().peekable();
        let mut total = Lag::default();
        for partition in topic.partitions().iter() {
            let position = committed.next_if(|(index, _)| *index == partition.index()).map(|(_, offset)| offset);
            let lag = self.unread(partition, position, start).await;
            total.records = total.records.saturating_add(lag.records);
            total.bytes = total.bytes.saturating_add(lag.bytes);
            total.age = total.age.max(lag.age);
        }
        Ok(Some(total))
    }

    /// Nothing for a partition that is out of service: nobody can publish to it either.
    async fn unread(&self, partition: &Partition, position: Option<Offset>, start: StartAt) -> Lag {
        let Ok(log) = partition.log() else { return Lag::default() };
        let from = match position {
            Some(committed) => committed,
            // A start that the partition does not have is as good as the oldest one that it has.
            None => resolve(partition, start).await.unwrap_or_default(),
        };
        let window = *log.watch().borrow();
        let oldest = from.max(window.log_start);
        if oldest >= window.high_watermark {
            return Lag::default();
        }
        let appended_us = log.append_time_at(oldest).await.ok().flatten();
        let now_us = self.topics.clock().now_us();
        Lag {
            records: window.high_watermark - oldest,
            bytes: log.bytes_between(oldest, window.high_watermark).await.unwrap_or_default(),
            age: appended_us.map_or(Duration::ZERO, |time_us| elapsed_since(time_us, now_us)),
        }
    }
}
