//! Records that have left the way of the others and come again: how many, and when.

use std::sync::Arc;

use aqueduct_client::Retry;
use aqueduct_storage::{Batch, Offset};

use super::{
    Groups, check_name,
    error::GroupError,
    progress::Progress,
    sources::Sources,
    state::{PositionKey, REDRIVEN, TopicId},
    waits::{WaitCause, WaitView},
};
use crate::{
    delays::{Destination, Extent},
    engine::PartitionLog,
    services::unpack,
};

/// What a group tries again of one topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RetriesView {
    pub(crate) topic: TopicId,
    /// Their time has come, and they are not settled.
    pub(crate) due: u64,
    /// Their time has not come.
    pub(crate) later: u64,
    /// Whether those are all.
    pub(crate) extent: Extent,
    pub(crate) next_due_us: Option<i64>,
    /// Of the record that was put off last.
    pub(crate) last_error: Option<String>,
}

/// Where a group finds what it tries again.
struct Place {
    topic: TopicId,
    to: Destination,
    /// Where they are once they are due, or in keyed mode at once.
    log: Arc<dyn PartitionLog>,
    /// How many are there.
    unsettled: u64,
}

impl Groups {
    /// What `group`, which waits for `waits`, tries again, by topic; topics of which it tries nothing again are not among
    /// them.
    ///
    /// # Errors
    /// While shutting down.
    pub(crate) async fn retries(&self, group: String, waits: &[WaitView]) -> Result<Vec<RetriesView>, GroupError> {
        check_name(&group)?;
        let name = group.clone();
        let question = move |coordinator: &super::Coordinator| {
            let topics = coordinator.describe(&name)?.topics;
            let keys = topics.into_iter().map(|topic| PositionKey { group: name.clone(), topic, partition: REDRIVEN });
            let with_progress = keys.filter_map(|key| Some((key.topic, coordinator.progress(&key)?)));
            Ok(with_progress.collect::<Vec<_>>())
        };
        let positions = self.handle.ask(question).await?;
        let places: Vec<Place> =
            positions.iter().filter_map(|(topic, progress)| self.place_of(&group, *topic, progress)).collect();
        let destinations: Vec<Destination> = places.iter().map(|place| place.to).collect();
        let mut census = self.delays.census(&destinations).await;
        let mut views = Vec::with_capacity(places.len());
        for Place { topic, to, log, unsettled } in places {
            let waiting = census.by_destination.remove(&to).unwrap_or_default();
            // In keyed mode what waits is in the log itself.
            let (in_log, in_log_until_us) = kept_waiting(waits, topic);
            let last = match waiting.last() {
                None if unsettled > 0 => last_of(&*log).await,
                last => last,
            };
            views.push(RetriesView {
                topic,
                due: unsettled.saturating_sub(in_log),
                later: waiting.records + in_log,
                extent: census.extent,
                next_due_us: waiting.next_due_us.into_iter().chain(in_log_until_us).min(),
                last_error: last.and_then(error_of),
            });
        }
        views.retain(|view| view.due > 0 || view.later > 0 || view.extent == Extent::Part);
        Ok(views)
    }

    fn place_of(&self, group: &str, topic: TopicId, progress: &Progress) -> Option<Place> {
        let found = self.topics.find_by_id(&topic)?;
        let sources = Sources::new(&self.topics, found, group.to_owned());
        let retries = sources.redriven().ok()?;
        let log = Arc::clone(retries.partition(0).ok()?.log().ok()?);
        let window = *log.watch().borrow();
        let unread: Offset = progress.committed().max(window.log_start);
        let unsettled = progress.unacked_in(&(unread..window.high_watermark.max(unread)));
        let unsettled = unsettled.iter().map(|range| range.end - range.start).sum();
        Some(Place { topic, to: Destination { topic: retries.meta().id, partition: 0 }, log, unsettled })
    }
}

/// How many of a topic's records wait among those that are due or redriven, and until when.
fn kept_waiting(waits: &[WaitView], topic: TopicId) -> (u64, Option<i64>) {
    let in_retry = |wait: &WaitView| {
        let WaitCause::InRetry { records, until_us } = wait.cause else { return None };
        Some((records as u64, until_us))
    };
    waits.iter().filter(|wait| wait.topic == topic).find_map(in_retry).unwrap_or_default()
}

/// What came to a log last.
async fn last_of(log: &dyn PartitionLog) -> Option<Batch> {
    let last = log.watch().borrow().high_watermark.checked_sub(1)?;
    log.read(last, 1).await.ok()?.pop()
}

/// What the last attempt ended with, at the last record of `batch` that has failed.
fn error_of(batch: Batch) -> Option<String> {
    let nowhere: Arc<str> = Arc::default();
    let unpacked = unpack(&nowhere, 0, batch).ok()?;
    let retries = unpacked.events().filter_map(|event| Retry::from_event(event.ok()?));
    retries.map(|retry| retry.death.last_error).filter(|error| !error.is_empty()).last()
}
