//! A broker of either kind, and what tests of groups share.

use std::time::Duration;

use aqueduct::testing::TestBroker;
use aqueduct_client::{Client, Consumer, DeadLetter, Delivery, Record, RetryPolicy, Start, Topic, dead_letter_topic};
use aqueduct_tests::{BrokerProcess, eventually, within};

/// A broker for one test, and a client of it. Goes when it is dropped.
pub(crate) struct Stage {
    pub(crate) client: Client,
    broker: Broker,
}

/// See [`Stage::connector`].
pub(crate) enum Connector {
    Embedded(Client),
    Networked(String),
}

impl Connector {
    pub(crate) async fn client(self) -> Client {
        match self {
            Self::Embedded(client) => client,
            Self::Networked(url) => Client::connect(url).await.expect("a client"),
        }
    }
}

enum Broker {
    Embedded(TestBroker),
    Networked(BrokerProcess),
}

impl Stage {
    pub(crate) async fn embedded() -> Self {
        let broker = TestBroker::start().await.expect("an embedded broker");
        Self { client: broker.client(), broker: Broker::Embedded(broker) }
    }

    pub(crate) async fn networked() -> Self {
        let broker = BrokerProcess::start();
        Self { client: broker.client().await, broker: Broker::Networked(broker) }
    }

    /// A client of its own, as of another program.
    pub(crate) async fn another_client(&self) -> Client {
        self.connector().client().await
    }

    /// What makes clients elsewhere, on a runtime of their own.
    pub(crate) fn connector(&self) -> Connector {
        match &self.broker {
            Broker::Embedded(broker) => Connector::Embedded(broker.client()),
            Broker::Networked(broker) => Connector::Networked(broker.url()),
        }
    }

    /// Makes a topic.
    pub(crate) async fn topic(&self, name: &str, partitions: u32) -> Topic {
        self.client.topics().create(name).partitions(partitions).build().await.expect("a new topic")
    }

    /// Publishes `count` records, with their numbers as values, to partition 0.
    pub(crate) async fn publish_numbers(&self, topic: &str, count: usize) {
        let producer = self.client.producer(topic).partition(0).build().await.expect("a producer");
        let stored = producer.publish_all((0..count).map(|number| Record::new(number.to_string()))).await;
        assert_eq!(stored.expect("receipts").iter().map(|range| range.records as usize).sum::<usize>(), count);
    }
}

/// What comes next.
pub(crate) async fn next(consumer: &mut Consumer) -> Delivery {
    within("the next delivery", consumer.next()).await.expect("the consumer goes on").expect("a delivery")
}

/// Retries at once, nearly.
pub(crate) fn quick(max_attempts: u32) -> RetryPolicy {
    RetryPolicy {
        backoff_min: Some(Duration::from_millis(1)),
        backoff_max: Some(Duration::from_millis(5)),
        max_attempts: Some(max_attempts),
        on_exhausted: None,
    }
}

/// Until the group `billing` has nothing left in `numbers`.
pub(crate) async fn is_through(client: &Client) {
    let group = client.group("billing");
    let lag =
        async || (group.lag("numbers").await.expect("a report").iter().all(|lag| lag.lag_records == 0)).then_some(());
    eventually("the group is through", lag).await;
}

/// The first dead letters of `billing` on `numbers`, once there are so many.
pub(crate) async fn letters(client: &Client, count: usize) -> Vec<DeadLetter> {
    let name = dead_letter_topic("numbers", "billing");
    within("the dead letters", async {
        let mut events = loop {
            // The topic is made when the first one comes.
            match client.subscribe(&name).from(Start::Earliest).build().await {
                Ok(events) => break events,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        let mut letters = Vec::new();
        while letters.len() < count {
            let event = events.next().await.expect("it goes on").expect("an event");
            letters.push(DeadLetter::from_event(event).expect("it tells how it failed"));
        }
        letters
    })
    .await
}
