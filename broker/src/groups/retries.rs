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
};
use crate::{
    delays::{Destination, Extent},
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
    due: u64,
}

impl Groups {
    /// What `group` tries again, by topic; topics of which it tries nothing again are not among them.
    ///
    /// # Errors
    /// While shutting down.
    pub(crate) async fn retries(&self, group: String) -> Result<Vec<RetriesView>, GroupError> {
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
        let views = places.into_iter().map(|Place { topic, to, due }| {
            let waiting = census.by_destination.remove(&to).unwrap_or_default();
            RetriesView {
                topic,
                due,
                later: waiting.records,
                extent: census.extent,
                next_due_us: waiting.next_due_us,
                last_error: waiting.last().and_then(error_of),
            }
        });
        Ok(views.filter(|view| view.due > 0 || view.later > 0 || view.extent == Extent::Part).collect())
    }

    fn place_of(&self, group: &str, topic: TopicId, progress: &Progress) -> Option<Place> {
        let found = self.topics.find_by_id(&topic)?;
        let sources = Sources::new(&self.topics, found, group.to_owned());
        let retries = sources.redriven().ok()?;
        let log = Arc::clone(retries.partition(0).ok()?.log().ok()?);
        let window = *log.watch().borrow();
        let unread: Offset = progress.committed().max(window.log_start);
        let unsettled = progress.unacked_in(&(unread..window.high_watermark.max(unread)));
        let due = unsettled.iter().map(|range| range.end - range.start).sum();
        Some(Place { topic, to: Destination { topic: retries.meta().id, partition: 0 }, due })
    }
}

/// What the last attempt at the one record of `batch` ended with.
fn error_of(batch: Batch) -> Option<String> {
    let nowhere: Arc<str> = Arc::default();
    let event = unpack(&nowhere, 0, batch).ok()?.events().next()?.ok()?;
    Some(Retry::from_event(event)?.death.last_error)
}
