//! A broker of either kind.

use aqueduct::testing::TestBroker;
use aqueduct_client::{Client, Consumer, Delivery, Record, Topic};
use aqueduct_tests::{BrokerProcess, within};

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
