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
    names,
    partition::Partition,
    to_the_end::to_the_end,
    topics::{Topic, Topics, settings::NewTopic},
};

/// Whether `group` may consume `topic`: of the broker's own topics only the dead letters of another group. What it fails at
/// there are dead letters of its own, and those no group consumes.
///
/// # Errors
/// [`GroupError::NotConsumable`] says what to do instead.
pub(super) fn check_consumable(topic: &str, group: &str) -> Result<(), GroupError> {
    let refused = |reason| Err(GroupError::NotConsumable { topic: topic.to_owned(), reason });
    let Some((of, kind)) = topic.rsplit_once('~') else { return Ok(()) };
    let (origin, owner) = of.rsplit_once('~').unwrap_or((of, ""));
    match kind {
        "dlq" if owner == group => {
            refused("it holds what this very group has failed at; `aqueduct dlq redrive` gives it back")
        }
        "dlq" if names::is_system(origin) => refused("dead letters of dead letters are for people: see `aqueduct dlq`"),
        "dlq" => Ok(()),
        "retry" => {
            refused("it holds what a group is to be given again; the members of that group get it by themselves")
        }
        _ => refused("only the broker reads it"),
    }
}

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
            REDRIVEN => self.redriven()?.partition(0)?,
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

    /// Where records lie that are tried again.
    pub(super) fn redriven(&self) -> Result<Arc<Topic>, GroupError> {
        Ok(self.topics()?.find(&self.redriven_name())?)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_the_brokers_own_topics_only_the_dead_letters_of_other_groups_are_consumed() {
        for topic in ["orders", "orders~billing~dlq"] {
            assert_eq!(check_consumable(topic, "ops"), Ok(()), "{topic}");
        }
        for (topic, group) in [
            ("orders~billing~dlq", "billing"),
            ("orders~billing~retry", "billing"),
            ("orders~billing~retry", "ops"),
            ("orders~billing~dlq~ops~dlq", "audit"),
            ("orders~billing~dlq~ops~dlq", "ops"),
            ("orders~billing~dlq~ops~retry", "audit"),
            ("orders~later", "ops"),
        ] {
            let checked = check_consumable(topic, group);
            assert!(matches!(checked, Err(GroupError::NotConsumable { .. })), "{group} on {topic}: {checked:?}");
        }
    }
}
