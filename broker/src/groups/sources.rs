//! What a member of a group on a topic reads: the topic's partitions, and the log of what the group tries
//! again or has had redriven.

use std::sync::{Arc, Weak};

use super::{
    error::GroupError,
    state::{REDRIVEN, TopicId},
};
use crate::{
    engine::PartitionLog,
    error::TopicError,
    partition::Partition,
    to_the_end::to_the_end,
    topics::{Topic, Topics, settings::NewTopic},
};

/// The logs of one group on one topic.
#[derive(Clone)]
pub(super) struct Sources {
    /// Not kept alive: streams outlive a broker that nobody has a handle of any more.
    topics: Weak<Topics>,
    pub(super) topic: Arc<Topic>,
    pub(super) group: String,
}

impl Sources {
    pub(super) fn new(topics: &Arc<Topics>, topic: Arc<Topic>, group: String) -> Self {
        Self { topics: Arc::downgrade(topics), topic, group }
    }

    /// What the group calls `partition`.
    pub(super) fn partition(&self, partition: u32) -> Result<Arc<Partition>, GroupError> {
        Ok(match partition {
            REDRIVEN => self.topics()?.find(&self.redriven_name())?.partition(0)?,
            _ => self.topic.partition(partition)?,
        })
    }

    /// Where the records of `partition` are.
    pub(super) fn log(&self, partition: u32) -> Result<Arc<dyn PartitionLog>, GroupError> {
        Ok(Arc::clone(self.partition(partition)?.log()?))
    }

    /// The topic of the group's dead letters, if there has been one.
    pub(super) fn dead_letters(&self) -> Result<Option<Arc<Topic>>, GroupError> {
        match self.topics()?.find(&self.dead_letters_name()) {
            Ok(topic) => Ok(Some(topic)),
            // A system name is one that the rules for users refuse.
            Err(TopicError::Unknown(_) | TopicError::Name { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Where dead letters go; made when the first one comes.
    pub(super) async fn make_dead_letters(&self) -> Result<Arc<Partition>, GroupError> {
        Ok(self.system_topic(self.dead_letters_name()).await?.partition(0)?)
    }

    /// Where records go that are tried again; made when the first one comes.
    pub(super) async fn make_redriven(&self) -> Result<Arc<Topic>, GroupError> {
        self.system_topic(self.redriven_name()).await
    }

    pub(super) fn dead_letters_name(&self) -> String {
        aqueduct_client::dead_letter_topic(&self.topic.meta().name, &self.group)
    }

    pub(super) fn topic_id(&self) -> TopicId {
        self.topic.meta().id
    }

    fn redriven_name(&self) -> String {
        format!("{}~{}~retry", self.topic.meta().name, self.group)
    }

    async fn system_topic(&self, name: String) -> Result<Arc<Topic>, GroupError> {
        let topics = self.topics()?;
        Ok(to_the_end(async move { topics.system_topic(&name, NewTopic::default()).await }).await?)
    }

    fn topics(&self) -> Result<Arc<Topics>, GroupError> {
        self.topics.upgrade().ok_or(GroupError::ShuttingDown)
    }
}
