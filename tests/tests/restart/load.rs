//! Programs that publish and consume all the time, and write down what they are promised and what they see.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use aqueduct_client::{Client, Consumer, Event, Receipt, Record, Start, Subscription, Ticket};
use aqueduct_tests::{BrokerProcess, eventually, within};
use tokio::{sync::watch, task::JoinHandle};

pub(crate) const TOPIC: &str = "orders";
pub(crate) const GROUP: &str = "billing";
pub(crate) const PARTITIONS: u32 = 3;
const PRODUCERS: usize = 2;
/// Records of one producer that wait for their receipt.
const IN_FLIGHT: usize = 200;

/// Everything that was promised and seen, when all is over.
pub(crate) struct Witnessed {
    /// Of each producer, in the order of publishing.
    pub(crate) receipts: Vec<Vec<(Record, Receipt)>>,
    /// By the member of the group; at least once.
    pub(crate) consumed: Vec<Event>,
    /// By the subscription; exactly once.
    pub(crate) subscribed: Vec<Event>,
}

/// The committed offsets that the group was promised, by partition.
pub(crate) type Promises = BTreeMap<u32, u64>;

pub(crate) struct Load {
    stop: watch::Sender<bool>,
    stored: Arc<AtomicU64>,
    promises: Arc<Mutex<Promises>>,
    producers: Vec<JoinHandle<Vec<(Record, Receipt)>>>,
    /// Are told how many records there are, and end when they have seen so many.
    total: watch::Sender<Option<u64>>,
    consumer: JoinHandle<Vec<Event>>,
    subscriber: JoinHandle<Vec<Event>>,
}

impl Load {
    pub(crate) async fn start(broker: &BrokerProcess, seed: u64) -> Self {
        let client = broker.client().await;
        // Small segments: kills hit rolls, too.
        let topic = client.topics().create(TOPIC).partitions(PARTITIONS).segment_bytes(64 * 1024);
        topic.build().await.expect("a new topic");
        let (stop, stopped) = watch::channel(false);
        let (total, end) = watch::channel(None);
        let stored = Arc::new(AtomicU64::new(0));
        let promises = Arc::new(Mutex::new(Promises::new()));
        let mut producers = Vec::new();
        for number in 0..PRODUCERS {
            let random = fastrand::Rng::with_seed(seed ^ number as u64);
            let (stopped, stored) = (stopped.clone(), Arc::clone(&stored));
            producers.push(tokio::spawn(produce(broker.client().await, number, random, stopped, stored)));
        }
        let consumer = broker.client().await.consumer(TOPIC, GROUP).build().await.expect("a consumer");
        let subscription = broker.client().await.subscribe(TOPIC).from(Start::Earliest);
        let subscription = subscription.build().await.expect("a subscription");
        Self {
            stop,
            stored,
            producers,
            total,
            consumer: tokio::spawn(consume(consumer, Arc::clone(&promises), end.clone())),
            subscriber: tokio::spawn(subscribe(subscription, end)),
            promises,
        }
    }

    /// Waits until `records` more have been acknowledged.
    pub(crate) async fn stored_more(&self, records: u64) {
        let goal = self.stored.load(Ordering::Relaxed) + records;
        let reached = async || (self.stored.load(Ordering::Relaxed) >= goal).then_some(());
        eventually("more records are acknowledged", reached).await;
    }

    /// What the group has been promised up to now.
    pub(crate) fn promises(&self) -> Promises {
        self.promises.lock().expect("the promises").clone()
    }

    /// Stops publishing, and waits until everything has been seen.
    pub(crate) async fn finish(self) -> Witnessed {
        self.stop.send(true).expect("the producers listen");
        let mut receipts = Vec::new();
        for producer in self.producers {
            receipts.push(within("a producer ends", producer).await.expect("no producer fails"));
        }
        let total = receipts.iter().map(|of_one| of_one.len() as u64).sum();
        self.total.send(Some(total)).expect("the readers listen");
        Witnessed {
            receipts,
            consumed: within("the member has seen everything", self.consumer).await.expect("it does not fail"),
            subscribed: within("the subscription has seen everything", self.subscriber)
                .await
                .expect("it does not fail"),
        }
    }
}

async fn produce(
    client: Client,
    number: usize,
    mut random: fastrand::Rng,
    stopped: watch::Receiver<bool>,
    stored: Arc<AtomicU64>,
) -> Vec<(Record, Receipt)> {
    let producer = client.producer(TOPIC).delivery_timeout(Duration::from_secs(60)).build().await.expect("a producer");
    let mut waiting = VecDeque::<(Record, Ticket)>::new();
    let mut receipts = Vec::new();
    for sequence in 0.. {
        if *stopped.borrow() {
            break;
        }
        let padding = "x".repeat(random.usize(0..200));
        let record = Record::new(format!("{number} {sequence} {padding}")).key(random.u8(..).to_string());
        waiting.push_back((record.clone(), producer.enqueue(record).await.expect("room")));
        if waiting.len() >= IN_FLIGHT {
            settle(&mut waiting, &mut receipts, &stored).await;
        }
    }
    while !waiting.is_empty() {
        settle(&mut waiting, &mut receipts, &stored).await;
    }
    receipts
}

async fn settle(waiting: &mut VecDeque<(Record, Ticket)>, receipts: &mut Vec<(Record, Receipt)>, stored: &AtomicU64) {
    let Some((record, ticket)) = waiting.pop_front() else { return };
    let receipt = within("the outcome of a record", ticket).await;
    receipts.push((record, receipt.expect("an idempotent producer finds out, whatever happens to the broker")));
    stored.fetch_add(1, Ordering::Relaxed);
}

async fn consume(
    mut consumer: Consumer,
    promises: Arc<Mutex<Promises>>,
    mut end: watch::Receiver<Option<u64>>,
) -> Vec<Event> {
    let mut seen = Vec::new();
    let mut distinct = std::collections::BTreeSet::new();
    let mut random = fastrand::Rng::with_seed(0);
    loop {
        let reached = (*end.borrow()).is_some_and(|total| distinct.len() as u64 >= total);
        if reached {
            break;
        }
        let delivery = tokio::select! {
            delivery = consumer.next() => delivery.expect("the consumer goes on").expect("a delivery"),
            _ = end.changed() => continue,
        };
        let event = delivery.event().clone();
        distinct.insert((event.partition, event.offset));
        if random.u8(..) == 0 {
            // In ordered mode everything before it has been acked as well.
            if delivery.ack_durable().await.is_ok() {
                let mut promises = promises.lock().expect("the promises");
                let promised = promises.entry(event.partition).or_default();
                *promised = (*promised).max(event.offset + 1);
            }
        } else {
            delivery.ack();
        }
        seen.push(event);
    }
    consumer.close().await.expect("a clean end");
    seen
}

async fn subscribe(mut subscription: Subscription, mut end: watch::Receiver<Option<u64>>) -> Vec<Event> {
    let mut seen = Vec::new();
    loop {
        let reached = (*end.borrow()).is_some_and(|total| seen.len() as u64 >= total);
        if reached {
            return seen;
        }
        tokio::select! {
            event = subscription.next() => seen.push(event.expect("the subscription goes on").expect("an event")),
            _ = end.changed() => {}
        }
    }
}
