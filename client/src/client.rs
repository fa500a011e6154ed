//! The handle that everything else is made from.

use std::{collections::HashMap, error::Error, fmt, sync::Arc, time::Duration};

use aqueduct_proto::v1;
use http::HeaderValue;
use parking_lot::Mutex;
use tokio::{sync::OnceCell, time::timeout};
use tonic::{Code, body::Body};
use tower_service::Service;

use crate::{
    admin::{DeadLetters, Group, Groups, Info, Topics},
    consumer::ConsumerBuilder,
    error::{CloseError, RequestError},
    lifecycle::Lifecycle,
    producer::{FlushError, Producer, ProducerBuilder, PublishError, Receipt},
    record::Record,
    schedule::{Due, ScheduleError, Scheduled, Scheduler},
    subscription::{FetchBuilder, SubscriptionBuilder},
    table::TableBuilder,
    transport::{Channel, link::Link},
    types::Offset,
};
#[cfg(feature = "grpc")]
use crate::{error::ConnectError, transport::connect::ClientBuilder};

/// Topics whose producers [`Client::publish`] keeps; beyond it, all of them are let go and made again as needed.
const KEPT_PRODUCERS_MAX: usize = 1024;

/// A broker, as seen by a program. Cheap to clone; clones share connections and producers.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

/// Bounds for every request.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// For one request and its answer. Default: 10 s.
    pub request_timeout: Duration,
    /// Largest message in either direction. Default: 64 MiB; must hold the broker's largest batch.
    pub message_bytes_max: usize,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self { request_timeout: Duration::from_secs(10), message_bytes_max: 64 * 1024 * 1024 }
    }
}

struct Shared {
    publish: Link,
    read: Link,
    lifecycle: Lifecycle,
    /// For [`Client::publish`], by topic.
    producers: Mutex<HashMap<String, Arc<OnceCell<Producer>>>>,
}

impl Client {
    /// Connects to `http://HOST:PORT` and asks the broker who it is.
    ///
    /// # Errors
    /// [`ConnectError`].
    #[cfg(feature = "grpc")]
    pub async fn connect(url: impl Into<String>) -> Result<Self, ConnectError> {
        Self::builder(url).connect().await
    }

    /// Settings for a connection.
    #[cfg(feature = "grpc")]
    pub fn builder(url: impl Into<String>) -> ClientBuilder {
        ClientBuilder::new(url.into())
    }

    /// A client of a broker in the same process: `service` is called directly.
    pub fn from_service<S>(service: S) -> Self
    where
        S: Service<http::Request<Body>, Response = http::Response<Body>> + Clone + Send + Sync + 'static,
        S::Error: Into<Box<dyn Error + Send + Sync>>,
        S::Future: Send,
    {
        let channel = Channel::from_service(service);
        Self::from_channels(channel.clone(), channel, ClientOptions::default())
    }

    /// A client that publishes through one channel and does everything else through another.
    pub fn from_channels(publish: Channel, read: Channel, options: ClientOptions) -> Self {
        let id = fresh_id();
        let shared = Shared {
            publish: Link::new(publish.identified(&id), options.clone()),
            read: Link::new(read.identified(&id), options),
            lifecycle: Lifecycle::new(),
            producers: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Publishes one record and waits until it is durable. The topic's producer is kept for the next one, so that
    /// concurrent calls share batches.
    ///
    /// # Errors
    /// [`PublishError`]. Cancelled before admission, nothing is sent; after it, the record is still sent.
    pub async fn publish(&self, topic: &str, record: Record) -> Result<Receipt, PublishError> {
        let producer = match self.kept_producer(topic).await {
            Ok(producer) => producer,
            Err(error) => return Err(PublishError::not_built(Some(record), error)),
        };
        let result = producer.publish(record).await;
        self.forget_stale(topic, result.as_ref().err());
        result
    }

    /// As [`publish`](Self::publish), but never waits for room.
    ///
    /// # Errors
    /// [`PublishError::Full`] gives the record back and names who holds the publisher.
    pub async fn try_publish(&self, topic: &str, record: Record) -> Result<Receipt, PublishError> {
        let producer = match self.kept_producer(topic).await {
            Ok(producer) => producer,
            Err(error) => return Err(PublishError::not_built(Some(record), error)),
        };
        let result = producer.try_publish(record).await;
        self.forget_stale(topic, result.as_ref().err());
        result
    }

    /// Publishes records and waits until all of them are durable; their receipts are in the order of the records.
    ///
    /// # Errors
    /// That of the first record that failed; others may be stored.
    pub async fn publish_many(
        &self,
        topic: &str,
        records: impl IntoIterator<Item = Record>,
    ) -> Result<Vec<Receipt>, PublishError> {
        let producer = match self.kept_producer(topic).await {
            Ok(producer) => producer,
            Err(error) => return Err(PublishError::not_built(None, error)),
        };
        let result = publish_each(&producer, records).await;
        self.forget_stale(topic, result.as_ref().err());
        result
    }

    async fn kept_producer(&self, topic: &str) -> Result<Producer, crate::error::ProducerError> {
        let cell = {
            let mut producers = self.shared.producers.lock();
            match producers.get(topic) {
                Some(cell) => Arc::clone(cell),
                None => {
                    if producers.len() >= KEPT_PRODUCERS_MAX {
                        producers.clear();
                    }
                    Arc::clone(producers.entry(topic.to_owned()).or_default())
                }
            }
        };
        // Whoever comes first looks the topic up, the others wait for that; a failure is not kept.
        cell.get_or_try_init(|| Box::pin(self.producer(topic).build())).await.cloned()
    }

    /// A topic that was deleted, and perhaps made again, needs another producer.
    fn forget_stale(&self, topic: &str, error: Option<&PublishError>) {
        let stale = match error {
            Some(PublishError::Closed { .. }) => true,
            Some(PublishError::Rejected { error, .. }) => {
                matches!(error.code, Code::NotFound | Code::FailedPrecondition)
            }
            Some(PublishError::Full { .. } | PublishError::Unknown { .. }) | None => false,
        };
        if stale {
            self.shared.producers.lock().remove(topic);
        }
    }

    /// A producer of its own, with settings.
    pub fn producer(&self, topic: impl Into<String>) -> ProducerBuilder {
        ProducerBuilder::new(self.clone(), topic.into())
    }

    /// Publishes one event that is delivered later; returns once that is durable.
    ///
    /// # Errors
    /// [`ScheduleError`].
    pub async fn schedule(&self, topic: &str, record: Record, due: Due) -> Result<Scheduled, ScheduleError> {
        self.scheduler(topic, due).publish(record).await
    }

    /// Publishes events that are delivered later, with settings.
    pub fn scheduler(&self, topic: impl Into<String>, due: Due) -> Scheduler {
        Scheduler::new(self.clone(), topic.into(), due)
    }

    /// Reads a topic without a group: history first, then live.
    pub fn subscribe(&self, topic: impl Into<String>) -> SubscriptionBuilder {
        SubscriptionBuilder::new(self.clone(), topic.into())
    }

    /// A topic as a table: the latest event of each key, kept up to date.
    ///
    /// ```no_run
    /// # async fn demo(client: aqueduct_client::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// let prices = client.table("prices").build().await?;          // everything that is there
    /// if let Some(event) = prices.get("anvil")? {
    ///     println!("{:?}", event.record.value);
    /// }
    /// let mut changes = prices.changes();                          // and what comes
    /// while let Some(change) = changes.next().await {
    ///     println!("{:?}", change?.key);
    /// }
    /// # Ok(()) }
    /// ```
    pub fn table(&self, topic: impl Into<String>) -> TableBuilder {
        TableBuilder::new(self.clone(), topic.into())
    }

    /// Reads one piece of one partition.
    pub fn fetch(&self, topic: impl Into<String>, partition: u32, offset: Offset) -> FetchBuilder {
        FetchBuilder::new(self.clone(), topic.into(), partition, offset)
    }

    /// Reads a topic as a member of a group.
    pub fn consumer(&self, topic: impl Into<String>, group: impl Into<String>) -> ConsumerBuilder {
        ConsumerBuilder::new(self.clone(), topic.into(), group.into())
    }

    /// Makes, describes and changes topics.
    pub fn topics(&self) -> Topics {
        Topics::new(self.shared.read.clone())
    }

    /// Lists groups.
    pub fn groups(&self) -> Groups {
        Groups::new(self.shared.read.clone())
    }

    /// Makes, describes and changes one group.
    pub fn group(&self, name: impl Into<String>) -> Group {
        Group::new(self.shared.read.clone(), name.into())
    }

    /// What `group` could not handle of `topic`.
    pub fn dead_letters(&self, topic: impl Into<String>, group: impl Into<String>) -> DeadLetters {
        DeadLetters::new(self.clone(), self.shared.read.clone(), topic.into(), group.into())
    }

    /// What the broker is, and its limits.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn info(&self) -> Result<Info, RequestError> {
        let link = &self.shared.read;
        let ask = || {
            let mut admin = link.admin();
            async move { admin.info(v1::InfoRequest {}).await }
        };
        link.read(ask).await?.try_into()
    }

    /// Takes nothing new, waits until producers have sent what they admitted and consumers have settled and left, and
    /// ends subscriptions. For all clones.
    ///
    /// # Errors
    /// [`CloseError`]: the deadline has passed, or events whose tickets were dropped were not stored.
    pub async fn close(&self, deadline: Duration) -> Result<(), CloseError> {
        let kept: Vec<_> = self.shared.producers.lock().drain().filter_map(|(_, cell)| cell.get().cloned()).collect();
        self.shared.lifecycle.close();
        let finish = async {
            let mut failed = None;
            for producer in kept {
                failed = failed.or(producer.close().await.err());
            }
            self.shared.lifecycle.idle().await;
            failed
        };
        match timeout(deadline, finish).await {
            Err(_) => Err(CloseError::TimedOut { after: deadline }),
            Ok(Some(error @ FlushError::Failed { .. })) => Err(error.into()),
            Ok(None) => Ok(()),
        }
    }

    pub(crate) fn publish_link(&self) -> &Link {
        &self.shared.publish
    }

    pub(crate) fn read_link(&self) -> &Link {
        &self.shared.read
    }

    pub(crate) fn lifecycle(&self) -> &Lifecycle {
        &self.shared.lifecycle
    }
}

/// By which the broker knows what comes from one client.
fn fresh_id() -> HeaderValue {
    // Hexadecimal digits are a header's value.
    HeaderValue::try_from(uuid::Uuid::new_v4().simple().to_string()).unwrap_or(HeaderValue::from_static(""))
}

/// Admits everything before it waits for the first receipt.
async fn publish_each(
    producer: &Producer,
    records: impl IntoIterator<Item = Record>,
) -> Result<Vec<Receipt>, PublishError> {
    let mut tickets = Vec::new();
    for record in records {
        tickets.push(producer.enqueue(record).await?);
    }
    let mut receipts = Vec::with_capacity(tickets.len());
    for ticket in tickets {
        receipts.push(ticket.await?);
    }
    Ok(receipts)
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}
