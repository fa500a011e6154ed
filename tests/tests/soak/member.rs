//! One member of one group: a client with a network of its own that can be cut, and a handler that fails now and then.

use std::{sync::Arc, time::Duration};

use aqueduct_client::{Client, Consumer, Delivery, GroupMode, GroupPolicy};
use aqueduct_tests::Proxy;
use fastrand::Rng;
use futures_util::FutureExt as _;
use tokio::task::JoinHandle;

use super::ledger::{Event, Handled};

/// A group, as its members know it.
#[derive(Debug, Clone)]
pub(crate) struct Group {
    pub(crate) name: &'static str,
    pub(crate) topic: &'static str,
    pub(crate) policy: GroupPolicy,
    pub(crate) handled: Arc<Handled>,
}

/// A member at work.
pub(crate) struct Member {
    proxy: Proxy,
    task: JoinHandle<()>,
}

impl Member {
    pub(crate) async fn start(group: Group, port: u16, seed: u64) -> Self {
        let proxy = Proxy::before(port).await;
        let task = tokio::spawn(work(group, proxy.url(), Rng::with_seed(seed)));
        Self { proxy, task }
    }

    /// As if its process had been killed: the broker sees connections break, and nothing more is handled.
    pub(crate) async fn kill(self) {
        self.task.abort();
        self.proxy.break_and_heal();
        assert!(self.task.await.is_err_and(|ended| ended.is_cancelled()), "a member ends only by force");
    }
}

async fn work(group: Group, url: String, mut random: Rng) {
    loop {
        // The broker may be away.
        let Ok(client) = Client::connect(url.clone()).await else { continue };
        let consumer = client.consumer(group.topic, group.name).policy(group.policy).build().await;
        let Ok(consumer) = consumer else { continue };
        handle_all(consumer, &group, &mut random).await;
    }
}

/// Until the consumer ends.
async fn handle_all(mut consumer: Consumer, group: &Group, random: &mut Rng) {
    // Where order does not count, a handler may have a few events in hand at once.
    let at_once = if group.policy.mode == Some(GroupMode::Shared) { 6 } else { 1 };
    let mut in_hand: Vec<Delivery> = Vec::new();
    while let Some(item) = consumer.next().await {
        let Ok(delivery) = item else { return };
        in_hand.push(delivery);
        while in_hand.len() < random.usize(1..=at_once)
            && let Some(Some(Ok(delivery))) = consumer.next().now_or_never()
        {
            in_hand.push(delivery);
        }
        in_hand.drain(..).for_each(|delivery| settle(delivery, group, random));
    }
}

fn settle(delivery: Delivery, group: &Group, random: &mut Rng) {
    let event = Event::parse(delivery.value().expect("a value"));
    if event.is_poison() {
        return delivery.nack("poison");
    }
    match random.u32(..100) {
        0..4 => delivery.nack("not now"),
        4 => delivery.nack_after(Duration::from_millis(random.u64(..30)), "a little later"),
        // Dropped without a word.
        5 => drop(delivery),
        _ => {
            group.handled.add(event);
            delivery.ack();
        }
    }
}
