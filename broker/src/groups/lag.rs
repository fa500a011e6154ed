//! How far groups are behind, in records, in bytes and in seconds, and where that leads.

use std::{cmp::Reverse, sync::Arc, time::Duration};

use aqueduct_storage::Offset;

use super::{
    Groups, check_name,
    coordinator::PositionView,
    error::GroupError,
    sources::Sources,
    state::TopicId,
    trend::{OldestUnread, Pace, Retention, RetentionLoss, Risk, Trend},
};
use crate::topics::Topic;

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
    pub(crate) forecast: Forecast,
    /// Since when publishers of the topic are held because of this group, if they are.
    pub(crate) holds_since_us: Option<i64>,
}

/// How the lag of one group in one partition moves, as far as it is known.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Forecast {
    pub(crate) pace: Pace,
    /// Until nothing is unread; `None` if that is not known, or never.
    pub(crate) catch_up: Option<Duration>,
    /// When retention may remove the oldest unread record; `None` if it will not.
    pub(crate) loss: Option<RetentionLoss>,
    pub(crate) risk: Risk,
}

impl PartitionLag {
    /// High watermark minus committed offset.
    pub(crate) fn records(&self) -> u64 {
        self.high_watermark.saturating_sub(self.committed)
    }

    /// The next of these to be looked at by whoever can act comes first.
    fn urgency(&self) -> (Risk, Reverse<Option<Duration>>) {
        (self.forecast.risk, Reverse(self.forecast.loss.map(|loss| loss.within)))
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
        let mut lags = self.lag_at_all(positions).await?;
        lags.sort_by(|a, b| (&a.group, &a.topic, a.partition).cmp(&(&b.group, &b.topic, b.partition)));
        Ok(lags)
    }

    /// Where retention is about to remove what a group has not read, or has done so: the most urgent `count_max`.
    ///
    /// # Errors
    /// What reading says.
    pub(crate) async fn at_risk(&self, count_max: usize) -> Result<Vec<PartitionLag>, GroupError> {
        let risky = self.trends.at_risk();
        if risky.is_empty() {
            return Ok(Vec::new());
        }
        let is_risky = move |position: &PositionView| {
            risky.get(&(position.group.clone(), position.topic)).is_some_and(|of| of.contains(&position.partition))
        };
        let positions = self
            .handle
            .ask_durably(move |coordinator| {
                let mut positions = coordinator.positions(None, None);
                positions.retain(is_risky);
                Ok(positions)
            })
            .await?;
        let mut lags = self.lag_at_all(positions).await?;
        lags.retain(|lag| lag.forecast.risk != Risk::None);
        lags.sort_by_key(|lag| Reverse(lag.urgency()));
        lags.truncate(count_max);
        Ok(lags)
    }

    async fn lag_at_all(&self, positions: Vec<PositionView>) -> Result<Vec<PartitionLag>, GroupError> {
        let mut lags = Vec::with_capacity(positions.len());
        let mut topic: Option<(TopicId, Arc<Topic>)> = None;
        for position in positions {
            // Positions come by topic, so the last one looked up is nearly always the right one.
            if topic.as_ref().is_none_or(|(id, _)| *id != position.topic) {
                topic = self.topics.find_by_id(&position.topic).map(|topic| (position.topic, topic));
            }
            if let Some((_, topic)) = &topic {
                let sources = Sources::new(&self.topics, Arc::clone(topic), position.group.clone());
                lags.extend(self.lag_at(&sources, position).await?);
            }
        }
        Ok(lags)
    }

    /// `None` for a partition that is out of service: what is in it cannot be told.
    async fn lag_at(&self, sources: &Sources, position: PositionView) -> Result<Option<PartitionLag>, GroupError> {
        let trend = self.trends.of(&position.group, position.topic, position.partition);
        let holds_since_us = sources.topic.gate().held_since_us(&position.group);
        let PositionView { group, topic: topic_id, partition, committed, member } = position;
        let Ok(log) = sources.log(partition) else { return Ok(None) };
        let meta = sources.topic.meta();
        let window = *log.watch().borrow();
        let oldest = committed.max(window.log_start);
        let unread = window.high_watermark.saturating_sub(oldest);
        let (mut bytes, mut behind, mut loss) = (0, Duration::ZERO, None);
        let pace = trend.as_ref().map(Trend::pace).unwrap_or_default();
        if unread > 0 {
            // Retention may be faster than we are; then what it took counts for nothing.
            bytes = log.bytes_between(oldest, window.high_watermark).await.unwrap_or_default();
            let appended_us = log.append_time_at(oldest).await.ok().flatten();
            let age = appended_us.map(|time_us| elapsed_since(time_us, self.topics.clock().now_us()));
            behind = age.unwrap_or_default();
            loss =
                Retention::of(&meta, partition).loss(OldestUnread { age, shelter: log.shelter(oldest) }, pace.bytes_in);
        }
        let catch_up = pace.catch_up(unread);
        let known_risk = trend.as_ref().map(Trend::risk).unwrap_or_default();
        let risk = known_risk.next(window.log_start.saturating_sub(committed), loss, catch_up);
        Ok(Some(PartitionLag {
            group,
            topic: meta.name.clone(),
            topic_id,
            partition,
            log_start: window.log_start,
            committed,
            high_watermark: window.high_watermark,
            bytes,
            behind,
            member,
            forecast: Forecast { pace, catch_up, loss, risk },
            holds_since_us,
        }))
    }
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
