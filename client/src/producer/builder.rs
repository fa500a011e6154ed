//! Settings of a producer.

use std::{
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use aqueduct_proto::v1;
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore};
use tonic::Code;

use super::{
    BATCHES_IN_FLIGHT_MAX, Handle, Producer,
    driver::{Driver, open_producer},
    lane::{Idempotence, LaneConfig},
    pipeline::{Identity, Pipeline, Routing, in_flight_bound},
    shared::{Counters, Shared, State},
    ticket::TopicRef,
};
use crate::{
    client::Client,
    error::{ProducerError, RequestError},
    types::{Codec, TopicId},
};

/// Builds a [`Producer`].
#[derive(Clone, Debug)]
#[must_use]
pub struct ProducerBuilder {
    client: Client,
    topic: String,
    name: Option<String>,
    codec: Codec,
    partition: Option<u32>,
    buffer_bytes_max: usize,
    lane: LaneConfig,
}

impl ProducerBuilder {
    pub(crate) fn new(client: Client, topic: String) -> Self {
        let lane = LaneConfig {
            batch_bytes_max: 256 * 1024,
            batch_records_max: 65_536,
            in_flight_max: BATCHES_IN_FLIGHT_MAX,
            linger: Duration::ZERO,
            delivery_timeout: Duration::from_secs(30),
            idempotence: Idempotence::Enabled,
        };
        Self {
            client,
            topic,
            name: None,
            codec: Codec::None,
            partition: None,
            buffer_bytes_max: 32 * 1024 * 1024,
            lane,
        }
    }

    /// A name by the rules of topic names. A named producer keeps its numbering across restarts of the program, and fences
    /// older instances of the same name. Default: an id of its own.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// How batches are compressed; one that does not shrink is sent as it is. Default: not at all.
    pub fn codec(mut self, codec: Codec) -> Self {
        self.codec = codec;
        self
    }

    /// How long a batch may wait for more records. Default: zero; batches still fill while earlier ones are on their way.
    pub fn linger(mut self, linger: Duration) -> Self {
        self.lane.linger = linger;
        self
    }

    /// A batch is full at this many bytes, uncompressed. A larger record goes alone. Default: 256 KiB; 1 KiB to 16 MiB,
    /// and the broker takes no more than its `batch_bytes_max`.
    pub fn batch_bytes_max(mut self, bytes: usize) -> Self {
        self.lane.batch_bytes_max = bytes;
        self
    }

    /// A batch is full at this many records. Default: 65,536; at least 1.
    pub fn batch_records_max(mut self, records: u32) -> Self {
        self.lane.batch_records_max = records;
        self
    }

    /// Encoded bytes of all records without an outcome; beyond it, `enqueue` waits. Default: 32 MiB; at least 64 KiB.
    pub fn buffer_bytes_max(mut self, bytes: usize) -> Self {
        self.buffer_bytes_max = bytes;
        self
    }

    /// How long the producer tries before it gives an event up. Default: 30 s; at least 10 ms.
    pub fn delivery_timeout(mut self, timeout: Duration) -> Self {
        self.lane.delivery_timeout = timeout;
        self
    }

    /// Whether batches are numbered, so that retries are stored once. Default: enabled.
    pub fn idempotence(mut self, idempotence: Idempotence) -> Self {
        self.lane.idempotence = idempotence;
        self
    }

    /// All records to this partition, whatever their keys.
    pub fn partition(mut self, partition: u32) -> Self {
        self.partition = Some(partition);
        self
    }

    /// Batches of a partition that may be on their way at once. Default and bound: 64, as many as the broker remembers.
    pub fn batches_in_flight_max(mut self, batches: usize) -> Self {
        self.lane.in_flight_max = batches;
        self
    }

    /// Looks the topic up and starts the producer. Its number of partitions is fixed from here on.
    ///
    /// # Errors
    /// [`ProducerError`]: a setting out of bounds, an unknown topic or partition, or no answer.
    pub async fn build(mut self) -> Result<Producer, ProducerError> {
        self.check()?;
        if self.client.lifecycle().is_closing() {
            return Err(RequestError::Closed.into());
        }
        let topic = self.look_up().await?;
        let id = TopicId::parse(&topic.id).ok_or_else(|| RequestError::malformed("a topic's id is not 16 bytes"))?;
        let partitions = topic.config.map_or(1, |config| config.partitions).max(1);
        if let Some(partition) = self.partition.filter(|partition| *partition >= partitions) {
            let detail = format!("{partition} does not exist: topic {:?} has {partitions} partitions", self.topic);
            return Err(ProducerError::InvalidConfig { key: "partition", detail });
        }
        self.lane.in_flight_max = in_flight_bound(self.lane.idempotence, self.lane.in_flight_max);

        let link = self.client.publish_link().clone();
        let opened = match &self.name {
            Some(name) => Some(open_producer(&link, self.topic.clone(), name.clone()).await?),
            None => None,
        };
        let topic = Arc::new(TopicRef { name: self.topic.as_str().into(), id, unseen: Mutex::default() });
        let pipeline = self.pipeline(&topic, partitions, opened);
        let shared = Arc::new(Shared {
            state: Mutex::new(State { pipeline, waker: None, session: 0 }),
            work: Notify::new(),
            interrupt: Notify::new(),
            budget: Semaphore::new(self.buffer_bytes_max),
            short_of_room: AtomicUsize::new(0),
            buffer_bytes_max: self.buffer_bytes_max,
            codec: self.codec,
            topic,
            counters: Counters::default(),
        });
        let driver = Driver {
            shared: Arc::clone(&shared),
            link,
            lifecycle: self.client.lifecycle().clone(),
            name: self.name,
            delivery_timeout: self.lane.delivery_timeout,
        };
        tokio::spawn(driver.run(self.client.lifecycle().running()));
        Ok(Producer { handle: Arc::new(Handle { shared, partitions }) })
    }

    fn pipeline(&self, topic: &Arc<TopicRef>, partitions: u32, opened: Option<v1::OpenProducerResponse>) -> Pipeline {
        let routing = self.partition.map_or(Routing::ByKey, Routing::To);
        let mut config = self.lane;
        let Some(opened) = opened else {
            return Pipeline::new(config, routing, Identity::Anonymous, Arc::clone(topic), partitions);
        };
        if opened.batches_in_flight_max != 0 {
            config.in_flight_max = config.in_flight_max.min(opened.batches_in_flight_max as usize);
        }
        let identity = Identity::Named { id: opened.producer_id, epoch: opened.epoch };
        let mut pipeline = Pipeline::new(config, routing, identity, Arc::clone(topic), partitions);
        for position in &opened.positions {
            pipeline.start_at(position.partition, position.next_sequence);
        }
        pipeline
    }

    fn check(&self) -> Result<(), ProducerError> {
        let invalid = |key, detail: &str| Err(ProducerError::InvalidConfig { key, detail: detail.to_owned() });
        if !(1024..=16 * 1024 * 1024).contains(&self.lane.batch_bytes_max) {
            return invalid("batch_bytes_max", "must be from 1 KiB to 16 MiB");
        }
        if self.lane.batch_records_max == 0 {
            return invalid("batch_records_max", "must be at least 1");
        }
        if self.buffer_bytes_max < 64 * 1024 || self.buffer_bytes_max > u32::MAX as usize {
            return invalid("buffer_bytes_max", "must be from 64 KiB to 4 GiB");
        }
        if self.lane.delivery_timeout < Duration::from_millis(10) {
            return invalid("delivery_timeout", "must be at least 10 ms");
        }
        if self.name.is_some() && self.lane.idempotence == Idempotence::Disabled {
            return invalid("idempotence", "a named producer is always idempotent");
        }
        Ok(())
    }

    async fn look_up(&self) -> Result<v1::Topic, RequestError> {
        let link = self.client.read_link();
        let describe = || {
            let (mut topics, name) = (link.topics(), self.topic.clone());
            async move { topics.describe(v1::DescribeTopicRequest { name }).await }
        };
        match link.read(describe).await {
            Ok(response) => response.topic.ok_or_else(|| RequestError::malformed("a description without its topic")),
            Err(error) if error.is_not_found() => self.create_or(error).await,
            Err(error) => Err(error),
        }
    }

    /// Makes the topic if the broker wants that, else gives `not_found` back.
    async fn create_or(&self, not_found: RequestError) -> Result<v1::Topic, RequestError> {
        let info = self.client.info().await?;
        if !info.features.iter().any(|feature| feature == "auto_create_topics") {
            return Err(not_found);
        }
        let link = self.client.read_link();
        let mut topics = link.topics();
        let request = v1::CreateTopicRequest { name: self.topic.clone(), config: None };
        match link.unary(async move { topics.create(request).await }).await {
            Ok(response) => response.topic.ok_or_else(|| RequestError::malformed("a creation without its topic")),
            // Somebody else was faster.
            Err(error) if error.code() == Some(Code::AlreadyExists) => {
                let (mut topics, name) = (link.topics(), self.topic.clone());
                let response =
                    link.unary(async move { topics.describe(v1::DescribeTopicRequest { name }).await }).await?;
                response.topic.ok_or_else(|| RequestError::malformed("a description without its topic"))
            }
            Err(error) => Err(error),
        }
    }
}
