//! What every service shares: the parts of one running broker.

use std::{num::NonZeroUsize, path::Path, sync::Arc, time::Duration};

use aqueduct_storage::{Disk, Durability};
use tokio::sync::{Semaphore, watch};

use crate::{
    backlog,
    budget::Budget,
    clock::Clock,
    config::{AutoCreateTopics, BrokerConfig},
    delays::Delays,
    engine::{EngineError, MetaStore, embedded::EmbeddedEngine},
    error::{OpenError, TopicError},
    groups::Groups,
    names,
    producer_names::ProducerNames,
    to_the_end::to_the_end,
    topics::{self, Topic, Topics, settings::NewTopic},
    turns::FairSemaphore,
};

/// The parts of one running broker. Data flows from services to topics to the engine, never back.
pub(crate) struct BrokerCore {
    pub(crate) config: BrokerConfig,
    pub(crate) meta: Arc<dyn MetaStore>,
    pub(crate) topics: Arc<Topics>,
    pub(crate) delays: Arc<Delays>,
    pub(crate) groups: Arc<Groups>,
    pub(crate) producer_names: ProducerNames,
    pub(crate) budget: Arc<Budget>,
    pub(crate) broker_id: String,
    pub(crate) started_us: i64,
    /// One verification at a time: it reads as fast as the disk gives.
    pub(crate) verifying: Arc<Semaphore>,
    /// Compressed batches that are unpacked at the same time for a look at their records, each with a decoder's memory.
    pub(crate) unpacking: Arc<FairSemaphore>,
    draining: watch::Sender<bool>,
}

impl BrokerCore {
    /// Opens the data directory at `path` of `disk`.
    pub(crate) async fn open(
        disk: Arc<dyn Disk>,
        path: &Path,
        config: BrokerConfig,
        clock: Clock,
    ) -> Result<Arc<Self>, OpenError> {
        config.validate()?;
        let (path, options) = (path.to_owned(), config.embedded());
        let engine = tokio::task::spawn_blocking(move || EmbeddedEngine::open(disk, &path, options))
            .await
            .map_err(|panic| EngineError(panic.to_string()))??;
        let broker_id = uuid::Uuid::from_bytes(engine.broker_id()).to_string();
        let meta: Arc<dyn MetaStore> = Arc::new(Arc::new(engine));
        let producer_names = ProducerNames::open(Arc::clone(&meta)).await?;
        let topics =
            Topics::open(Arc::clone(&meta), config.topic_budget_bytes, producer_names.fences(), clock.clone()).await?;
        warn_of_os_durability(&topics);
        let delays = Delays::open(Arc::clone(&meta), Arc::clone(&topics)).await?;
        let unpacking = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let unpacking = Arc::new(FairSemaphore::new(unpacking));
        let groups =
            Groups::open(Arc::clone(&meta), Arc::clone(&topics), Arc::clone(&delays), Arc::clone(&unpacking)).await?;
        tokio::spawn(backlog::oversee(Arc::downgrade(&topics), Arc::downgrade(&groups)));
        tokio::spawn(topics::enforce_retention(Arc::downgrade(&topics), clock.clone(), config.retention_interval));
        tokio::spawn(topics::compaction::compact_regularly(
            Arc::downgrade(&topics),
            clock.clone(),
            config.retention_interval,
        ));
        let budget = Arc::new(Budget::new("BROKER_BUDGET", "the broker's disk", config.budget_bytes));
        let started_us = clock.now_us();
        let draining = watch::Sender::new(false);
        let verifying = Arc::new(Semaphore::new(1));
        Ok(Arc::new(Self {
            config,
            meta,
            topics,
            delays,
            groups,
            producer_names,
            budget,
            broker_id,
            started_us,
            verifying,
            unpacking,
            draining,
        }))
    }

    /// The topic to publish to; made now if the broker is set so.
    pub(crate) async fn find_or_create(self: &Arc<Self>, name: &str) -> Result<Arc<Topic>, TopicError> {
        let AutoCreateTopics::WithPartitions(partitions) = self.config.auto_create_topics else {
            return self.topics.find(name).and_then(not_of_the_broker);
        };
        match self.topics.find(name) {
            Err(TopicError::Unknown(_)) => {}
            found => return found.and_then(not_of_the_broker),
        }
        let (core, new_name) = (Arc::clone(self), name.to_owned());
        let new = NewTopic { partitions, ..NewTopic::default() };
        match to_the_end(async move { core.topics.create(&new_name, new).await }).await {
            // Somebody else was first.
            Err(TopicError::Exists(_)) => self.topics.find(name),
            created => created,
        }
    }

    /// Becomes `true` when streams must finish what they have and end.
    pub(crate) fn draining(&self) -> watch::Receiver<bool> {
        self.draining.subscribe()
    }

    /// Resolves when streams must end.
    pub(crate) async fn drained(&self) {
        // The sender is a field of this very core.
        let _ = self.draining.subscribe().wait_for(|draining| *draining).await;
    }

    /// Asks every stream to end, and waits until group members have: what they have settled is durable then.
    pub(crate) async fn drain(&self, deadline: Duration) {
        self.draining.send_replace(true);
        self.groups.shutdown(deadline).await;
    }

    /// Finishes what is queued, syncs, and marks a clean stop.
    pub(crate) async fn close(&self, deadline: Duration) -> Result<(), EngineError> {
        let close = async {
            self.drain(deadline).await;
            self.delays.shutdown(deadline).await;
            self.topics.close().await;
            self.meta.close(deadline).await
        };
        tokio::time::timeout(deadline, close).await.unwrap_or_else(|_| {
            Err(EngineError(format!("not everything was closed within {deadline:?}; the next start recovers it")))
        })
    }
}

/// Whoever runs the broker should know which acknowledgements do not mean "on disk".
fn warn_of_os_durability(topics: &Topics) {
    let is_os = |topic: &Arc<Topic>| topic.meta().durability == Durability::Os;
    let names: Vec<String> =
        topics.list().iter().filter(|&topic| is_os(topic)).map(|topic| topic.meta().name.clone()).collect();
    if !names.is_empty() {
        tracing::warn!(
            topics = names.join(", "),
            "durability = os: acknowledged events of these topics may be lost on a power cut"
        );
    }
}

/// Nobody publishes by hand what only a group's failures put there.
fn not_of_the_broker(topic: Arc<Topic>) -> Result<Arc<Topic>, TopicError> {
    let name = &topic.meta().name;
    if names::is_system(name) { Err(TopicError::System(name.clone())) } else { Ok(topic) }
}
