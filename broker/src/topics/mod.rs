//! The registry of topics: names to open logs. Readers take an `Arc<Topic>` and keep it; [`Topic::deleted`] tells them
//! when it has gone.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use aqueduct_storage::TopicMeta;
use futures_util::future::join_all;
use parking_lot::RwLock;
use tokio::sync::{Mutex, watch};

use self::settings::{NewTopic, TopicChange};
use crate::{
    backlog::{Backlog, Gate},
    budget::Budget,
    clock::Clock,
    delays::Destination,
    engine::{EngineError, MetaStore, PartitionLog, TopicLogs},
    error::TopicError,
    names,
    partition::{
        Partition, Place,
        failure::{Failure, FailureNotice},
    },
    producer_names::Fences,
};

pub(crate) mod compaction;
pub(crate) mod settings;

/// A topic that is open.
pub(crate) struct Topic {
    meta: RwLock<Arc<TopicMeta>>,
    partitions: RwLock<Arc<[Arc<Partition>]>>,
    gate: Arc<Gate>,
    deleted: watch::Sender<bool>,
}

impl Topic {
    /// Name, identity and configuration as of now.
    pub(crate) fn meta(&self) -> Arc<TopicMeta> {
        Arc::clone(&self.meta.read())
    }

    /// In order of their numbers.
    pub(crate) fn partitions(&self) -> Arc<[Arc<Partition>]> {
        Arc::clone(&self.partitions.read())
    }

    /// The partition of that number.
    ///
    /// # Errors
    /// [`TopicError::UnknownPartition`].
    pub(crate) fn partition(&self, index: u32) -> Result<Arc<Partition>, TopicError> {
        let partitions = self.partitions.read();
        usize::try_from(index).ok().and_then(|i| partitions.get(i)).cloned().ok_or_else(|| {
            TopicError::UnknownPartition {
                topic: self.meta().name.clone(),
                partition: index,
                partitions: partitions.len(),
            }
        })
    }

    /// Through which everything passes that is published here.
    pub(crate) fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }

    /// Becomes `true` once, when the topic is deleted.
    pub(crate) fn deleted(&self) -> watch::Receiver<bool> {
        self.deleted.subscribe()
    }

    /// Whether it has gone.
    pub(crate) fn is_deleted(&self) -> bool {
        *self.deleted.borrow()
    }

    /// Refuses a request that was meant for another topic of the same name.
    ///
    /// # Errors
    /// [`TopicError::WrongId`] unless `id` is empty or this topic's.
    pub(crate) fn check_id(&self, id: &[u8]) -> Result<(), TopicError> {
        let meta = self.meta();
        if id.is_empty() || id == meta.id {
            return Ok(());
        }
        Err(TopicError::WrongId { topic: meta.name.clone() })
    }
}

/// A partition that takes no writes.
pub(crate) struct FailedPartition {
    /// Which one.
    pub partition: Arc<Partition>,
    /// Why.
    pub failure: Failure,
}

/// All topics. Reading takes no lock for longer than a look; changes are made one at a time.
pub(crate) struct Topics {
    meta: Arc<dyn MetaStore>,
    by_name: RwLock<BTreeMap<String, Arc<Topic>>>,
    changing: Mutex<()>,
    /// One compaction at a time: it reads and writes as much as the disk can spare.
    compacting: Mutex<()>,
    closed: AtomicBool,
    budget_bytes: u64,
    fences: Arc<Fences>,
    clock: Clock,
    notice: FailureNotice,
    /// Notified when a topic may have got a backlog.
    backlogs: watch::Sender<()>,
}

impl Topics {
    /// Opens every topic that is stored. `budget_bytes` bounds what waits for the disk, for each topic; `fences` tells
    /// which producers are out of date.
    ///
    /// # Errors
    /// If the engine cannot list them; a partition that does not open is part of its topic, and says why.
    pub(crate) async fn open(
        meta: Arc<dyn MetaStore>,
        budget_bytes: u64,
        fences: Arc<Fences>,
        clock: Clock,
    ) -> Result<Arc<Self>, EngineError> {
        let stored = meta.open_topics().await?;
        let topics = Self {
            meta,
            by_name: RwLock::default(),
            changing: Mutex::default(),
            compacting: Mutex::default(),
            closed: AtomicBool::new(false),
            budget_bytes,
            fences,
            clock,
            notice: FailureNotice::default(),
            backlogs: watch::Sender::default(),
        };
        for logs in stored {
            topics.insert(logs);
        }
        Ok(Arc::new(topics))
    }

    /// What time it is for whatever concerns topics.
    pub(crate) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// The topic of that name.
    ///
    /// # Errors
    /// [`TopicError::Unknown`], or [`TopicError::Name`] if there cannot be one.
    pub(crate) fn find(&self, name: &str) -> Result<Arc<Topic>, TopicError> {
        if let Some(topic) = self.by_name.read().get(name) {
            return Ok(Arc::clone(topic));
        }
        check_name(name)?;
        self.check_open()?;
        Err(TopicError::Unknown(name.to_owned()))
    }

    /// The topic with that identity.
    pub(crate) fn find_by_id(&self, id: &[u8; 16]) -> Option<Arc<Topic>> {
        self.by_name.read().values().find(|topic| topic.meta().id == *id).cloned()
    }

    /// Every topic, in order of names.
    pub(crate) fn list(&self) -> Vec<Arc<Topic>> {
        self.by_name.read().values().cloned().collect()
    }

    /// The partitions that take no writes, and why.
    pub(crate) fn failures(&self) -> Vec<FailedPartition> {
        let partitions = self.list().into_iter().flat_map(|topic| topic.partitions().to_vec());
        let failed =
            |partition: Arc<Partition>| partition.failure().map(|failure| FailedPartition { partition, failure });
        partitions.filter_map(failed).collect()
    }

    /// Notified whenever [`failures`](Self::failures) may have changed.
    #[cfg(feature = "server")]
    pub(crate) fn failures_changed(&self) -> watch::Receiver<()> {
        self.notice.subscribe()
    }

    /// Notified when a topic may have got a backlog.
    pub(crate) fn backlogs_changed(&self) -> watch::Receiver<()> {
        self.backlogs.subscribe()
    }

    /// Creates a topic.
    ///
    /// # Errors
    /// [`TopicError::Exists`], [`TopicError::Name`], [`TopicError::Config`], or what the engine says.
    pub(crate) async fn create(&self, name: &str, new: NewTopic) -> Result<Arc<Topic>, TopicError> {
        check_name(name)?;
        let new = new.checked()?;
        let _changing = self.changing.lock().await;
        if self.by_name.read().contains_key(name) {
            return Err(TopicError::Exists(name.to_owned()));
        }
        self.make(name, new).await
    }

    /// The broker's own topic of that name, made if there is none.
    ///
    /// # Errors
    /// While shutting down, or what the engine says.
    pub(crate) async fn system_topic(&self, name: &str, new: NewTopic) -> Result<Arc<Topic>, TopicError> {
        let _changing = self.changing.lock().await;
        if let Some(topic) = self.by_name.read().get(name) {
            return Ok(Arc::clone(topic));
        }
        self.make(name, new).await
    }

    /// For a caller that changes topics, and knows that there is none of that name.
    async fn make(&self, name: &str, new: NewTopic) -> Result<Arc<Topic>, TopicError> {
        self.check_open()?;
        let id = *uuid::Uuid::new_v4().as_bytes();
        let logs = self.meta.create_topic(new.into_meta(name, id, self.clock.now_us())).await?;
        let topic = self.insert(logs);
        // The age of its events counts from the first look at the clock.
        apply_retention(&topic, self.clock.now_us()).await;
        Ok(topic)
    }

    /// Changes settings; what is absent stays.
    ///
    /// # Errors
    /// [`TopicError::Unknown`], [`TopicError::Config`], or what the engine says.
    pub(crate) async fn alter(&self, name: &str, change: TopicChange) -> Result<Arc<Topic>, TopicError> {
        let _changing = self.changing.lock().await;
        let topic = self.find(name)?;
        let meta = change.apply(&topic.meta())?;
        let added = self.meta.update_topic(meta.clone()).await?;
        let mut partitions = topic.partitions().to_vec();
        let budget = topic_budget(name, self.budget_bytes);
        let budget = partitions.first().map_or(budget, |first| Arc::clone(first.budget()));
        for log in added {
            partitions.push(self.partition_of(&meta, partitions.len(), Ok(log), &budget));
        }
        *topic.partitions.write() = partitions.into();
        topic.gate.set(backlog_of(&meta));
        *topic.meta.write() = Arc::new(meta);
        self.backlogs.send_replace(());
        Ok(topic)
    }

    /// Deletes a topic and its events: new requests no longer find it, what is queued is finished, its readers are
    /// told, and then its files go.
    ///
    /// # Errors
    /// [`TopicError::Unknown`], [`TopicError::WrongId`], or what the engine says.
    pub(crate) async fn delete(&self, name: &str, id: &[u8]) -> Result<(), TopicError> {
        let _changing = self.changing.lock().await;
        let topic = self.find(name)?;
        topic.check_id(id)?;
        self.by_name.write().remove(name);
        topic.deleted.send_replace(true);
        close_all([Arc::clone(&topic)]).await;
        self.notice.give();
        self.meta.delete_topic(topic.meta().as_ref().clone()).await?;
        Ok(())
    }

    /// Finishes what is queued and closes every log with the mark of a clean stop.
    pub(crate) async fn close(&self) {
        let _changing = self.changing.lock().await;
        self.closed.store(true, Ordering::Release);
        let topics = std::mem::take(&mut *self.by_name.write());
        close_all(topics.into_values()).await;
    }

    fn check_open(&self) -> Result<(), TopicError> {
        if self.closed.load(Ordering::Acquire) { Err(TopicError::ShuttingDown) } else { Ok(()) }
    }

    fn insert(&self, logs: TopicLogs) -> Arc<Topic> {
        let (name, meta) = (logs.meta.name.clone(), &logs.meta);
        let budget = topic_budget(&name, self.budget_bytes);
        let partitions =
            logs.partitions.into_iter().enumerate().map(|(i, log)| self.partition_of(meta, i, log, &budget)).collect();
        let gate = Arc::new(Gate::new(backlog_of(&logs.meta)));
        let topic = Arc::new(Topic {
            gate,
            meta: RwLock::new(Arc::new(logs.meta)),
            partitions: RwLock::new(partitions),
            deleted: watch::Sender::new(false),
        });
        self.by_name.write().insert(name, Arc::clone(&topic));
        self.notice.give();
        self.backlogs.send_replace(());
        topic
    }

    fn partition_of(
        &self,
        topic: &TopicMeta,
        index: usize,
        log: Result<Arc<dyn PartitionLog>, EngineError>,
        budget: &Arc<Budget>,
    ) -> Arc<Partition> {
        let index = u32::try_from(index).unwrap_or(u32::MAX);
        let fences = Arc::clone(&self.fences);
        let own_producer = Destination { topic: topic.id, partition: index }.producer();
        Arc::new(Partition::new(
            Place { topic: topic.name.clone(), index, own_producer },
            log,
            Arc::clone(budget),
            fences,
            self.clock.clone(),
            self.notice.clone(),
        ))
    }
}

/// Applies the retention of every topic that has one, every `interval` of `clock`, for as long as the registry lives.
pub(crate) async fn enforce_retention(topics: Weak<Topics>, clock: Clock, interval: std::time::Duration) {
    loop {
        let Some(topics) = topics.upgrade() else { return };
        let next = clock.now() + interval;
        for topic in topics.list() {
            apply_retention(&topic, topics.clock.now_us()).await;
        }
        drop(topics);
        clock.sleep_until(next).await;
    }
}

/// Removes what the topic does not keep, if it does not keep everything.
async fn apply_retention(topic: &Topic, now_us: i64) {
    let meta = topic.meta();
    if meta.retention_bytes.is_none() && meta.retention_age.is_none() {
        return;
    }
    for partition in topic.partitions().iter() {
        let Ok(log) = partition.log() else { continue };
        if let Err(error) = log.enforce_retention(now_us).await {
            tracing::error!(topic = %meta.name, partition = partition.index(), "retention failed: {error}");
        }
    }
}

fn check_name(name: &str) -> Result<(), TopicError> {
    names::check(name).map_err(|source| TopicError::Name { name: name.chars().take(260).collect(), source })
}

/// One that makes no sense holds nobody: somebody has edited the file.
fn backlog_of(meta: &TopicMeta) -> Option<Backlog> {
    Backlog::from_settings(&meta.settings).unwrap_or_else(|what| {
        tracing::error!(topic = meta.name, "the backlog of the topic is not understood and holds nobody: {what}");
        None
    })
}

fn topic_budget(name: &str, bytes: u64) -> Arc<Budget> {
    Arc::new(Budget::new("TOPIC_BUDGET", &format!("topic {name:?}"), bytes))
}

async fn close_all(topics: impl IntoIterator<Item = Arc<Topic>>) {
    let partitions: Vec<_> = topics.into_iter().flat_map(|topic| topic.partitions().to_vec()).collect();
    let closing = partitions.iter().map(|partition| async move {
        if let Err(error) = partition.close().await {
            tracing::error!(
                topic = partition.topic_name(),
                partition = partition.index(),
                "not closed cleanly, so the next start recovers it: {error}"
            );
        }
    });
    join_all(closing).await;
}
