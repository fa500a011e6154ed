//! The task that looks at every position about once a second, and warns before retention removes what was not read.
//!
//! What does not move costs some comparisons: the disk is read only where retention by age may matter within the time for
//! which the last reading holds.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Weak},
    time::Duration,
};

use aqueduct_storage::{Offset, TopicMeta};

use super::{Appended, Consumption, LossCause, NewRisk, Retention, Risk, Sample, Trend};
use crate::{
    engine::{PartitionLog, Shelter},
    groups::{Groups, coordinator::Standings, error::GroupError, sources::Sources, state::TopicId},
    topics::Topic,
};

/// How often it looks.
const INTERVAL: Duration = Duration::from_secs(1);

/// Runs until the groups end.
pub(in crate::groups) async fn sample(groups: Weak<Groups>) {
    loop {
        let Some(groups) = groups.upgrade() else { return };
        let clock = groups.topics.clock().clone();
        let next = clock.now() + INTERVAL;
        if groups.sample_all().await.is_err() {
            return;
        }
        drop(groups);
        clock.sleep_until(next).await;
    }
}

/// One partition of a group on a topic, as it was found.
struct Found {
    partition: u32,
    sample: Sample,
    /// Nothing where it does not matter.
    shelter: Shelter,
    log: Arc<dyn PartitionLog>,
}

impl Groups {
    /// Looks at all positions once.
    async fn sample_all(self: &Arc<Self>) -> Result<(), GroupError> {
        let standings = self.handle.ask(|coordinator| Ok(coordinator.standings())).await?;
        let topics: HashMap<TopicId, Arc<Topic>> =
            self.topics.list().into_iter().map(|topic| (topic.meta().id, topic)).collect();
        let mut seen = BTreeSet::new();
        for Standings { group, topic: id, committed } in standings {
            let Some(topic) = topics.get(&id) else { continue };
            let sources = Sources::new(&self.topics, Arc::clone(topic), group.clone());
            let found = self.look_at(&sources, &committed);
            let consumption = (group, id);
            let news = self.judge(&consumption, &topic.meta(), &found).await;
            warn(&consumption.0, &topic.meta(), &news);
            seen.insert(consumption);
        }
        self.trends.retain(|of| seen.contains(of));
        Ok(())
    }

    /// By partition; those that are out of service are left out.
    fn look_at(&self, sources: &Sources, committed: &[(u32, Offset)]) -> Vec<Found> {
        let at = self.topics.clock().now();
        let is_bounded = sources.topic.meta().retention_bytes.is_some();
        let found = committed.iter().filter_map(|&(partition, committed)| {
            let log = sources.log(partition).ok()?;
            let window = *log.watch().borrow();
            let sample = Sample { at, window, size_bytes: log.stats().size_bytes, committed };
            let matters = is_bounded && sample.unread() > 0;
            let shelter = if matters { log.shelter(sample.oldest()) } else { Shelter::default() };
            Some(Found { partition, sample, shelter, log })
        });
        found.collect()
    }

    /// Takes what was found into the trends, and gives the risks that are news: worse than any that the group ran on this
    /// topic, so that partitions which follow one another are not told one by one.
    async fn judge(&self, of: &Consumption, topic: &TopicMeta, found: &[Found]) -> Vec<NewRisk> {
        let now_us = self.topics.clock().now_us();
        let mut news = Vec::new();
        let mut known = Risk::None;
        let undecided: Vec<&Found> = self.trends.update(of, |trends| {
            trends.retain(|partition, _| found.binary_search_by_key(partition, |found| found.partition).is_ok());
            known = trends.values().map(Trend::risk).max().unwrap_or_default();
            let undecided = found.iter().filter(|found| {
                let trend = trends
                    .entry(found.partition)
                    .and_modify(|trend| trend.observe(found.sample))
                    .or_insert_with(|| Trend::begin(found.sample));
                let retention = Retention::of(topic, found.partition);
                let loss = trend.loss(retention, found.shelter, now_us);
                if trend.needs_append_time(retention, loss) {
                    return true;
                }
                news.extend(trend.judge(loss).map(|risk| NewRisk { partition: found.partition, ..risk }));
                false
            });
            undecided.collect()
        });
        for found in undecided {
            let offset = found.sample.oldest();
            // Retention may have been faster than we are.
            let time_us = found.log.append_time_at(offset).await.ok().flatten();
            news.extend(self.trends.update(of, |trends| {
                let trend = trends.get_mut(&found.partition)?;
                trend.appended = time_us.map(|time_us| Appended { offset, time_us });
                let risk = trend.judge(trend.loss(Retention::of(topic, found.partition), found.shelter, now_us))?;
                Some(NewRisk { partition: found.partition, ..risk })
            }));
        }
        news.retain(|risk| risk.risk > known);
        news
    }
}

/// Once for each risk that has begun; one line for a group on a topic, however many partitions it concerns.
fn warn(group: &str, topic: &TopicMeta, risks: &[NewRisk]) {
    let topic_name = topic.name.as_str();
    let lost: Vec<_> = risks.iter().filter(|risk| risk.lost_records > 0).collect();
    if let Some(worst) = lost.iter().max_by_key(|risk| risk.lost_records) {
        tracing::warn!(
            group,
            topic = topic_name,
            partition = worst.partition,
            partitions = lost.len(),
            records = worst.lost_records,
            "events were removed before the group had read them; it goes on with the oldest that is left"
        );
    }
    let near: Vec<_> = risks.iter().filter(|risk| risk.lost_records == 0).collect();
    let soonest = near.iter().filter_map(|risk| Some((risk.partition, risk.loss?))).min_by_key(|(_, loss)| loss.within);
    if let Some((partition, loss)) = soonest {
        tracing::warn!(
            group,
            topic = topic_name,
            partition,
            partitions = near.len(),
            within_seconds = loss.within.as_secs(),
            "retention will begin to remove events that the group has not read; add members to the group, or keep events \
             longer: `{}`",
            longer(topic, loss.cause)
        );
    }
}

/// The command that doubles what the topic keeps.
fn longer(topic: &TopicMeta, cause: LossCause) -> String {
    let setting = match cause {
        LossCause::Age => {
            format!("--retention-age {:?}", topic.retention_age.unwrap_or_default().saturating_mul(2))
        }
        LossCause::Bytes => format!("--retention-bytes {}", topic.retention_bytes.unwrap_or(0).saturating_mul(2)),
    };
    format!("aqueduct topic alter {} {setting}", topic.name)
}
