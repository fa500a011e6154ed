//! Tables across the death of their broker, while it compacts what they are made of.

use std::collections::BTreeMap;

use aqueduct_client::{Cleanup, Client, Record, Table};
use aqueduct_tests::{BrokerProcess, Launch, text, within};

const KEYS: u64 = 40;

async fn topic(client: &Client) {
    let create = client.topics().create("prices").partitions(2).segment_bytes(64 << 10).cleanup(Cleanup::Compact);
    create.build().await.expect("a new topic");
}

/// Publishes `count` records over few keys, one in ten of them a tombstone, and does the same to `model`. Gives the last.
async fn publish(client: &Client, model: &mut BTreeMap<String, String>, random: &mut fastrand::Rng, count: usize) {
    let producer = client.producer("prices").build().await.expect("a producer");
    let mut tickets = Vec::new();
    for _ in 0..count {
        let key = format!("key-{}", random.u64(0..KEYS));
        let record = if random.u8(0..10) == 0 {
            model.remove(&key);
            Record::tombstone(key)
        } else {
            let value: String = (0..1000).map(|_| random.alphanumeric()).collect();
            model.insert(key.clone(), value.clone());
            Record::new(value).key(key)
        };
        tickets.push(producer.enqueue(record).await.expect("room"));
    }
    for ticket in tickets {
        within("an acknowledgement", ticket).await.expect("stored");
    }
}

/// The table holds what `model` does, once it has read all that there is.
async fn check(client: &Client, table: &Table, model: &BTreeMap<String, String>, context: &str) {
    let description = client.topics().describe("prices").await.expect("described");
    for partition in description.partitions {
        if let Some(last) = partition.high_watermark.checked_sub(1) {
            within("the table", table.wait_for_offset(partition.partition, last)).await.expect("kept up to date");
        }
    }
    let events = table.snapshot().expect("kept up to date");
    let key = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
    let found: BTreeMap<String, String> = events
        .iter()
        .map(|event| (key(event.record.key.as_deref().unwrap_or_default()), text(event).to_owned()))
        .collect();
    assert!(found == *model, "{context}: {} keys instead of {}", found.len(), model.len());
}

async fn kill_while_compacting(seed: u64, rounds: u64) {
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut broker = BrokerProcess::launch(Launch::default());
    let client = broker.client().await;
    topic(&client).await;
    let mut model = BTreeMap::new();
    publish(&client, &mut model, &mut random, 400).await;
    let following = within("the table", client.table("prices").build()).await.expect("a table");
    for round in 0..rounds {
        publish(&client, &mut model, &mut random, 400).await;
        let compacting = {
            let client = client.clone();
            tokio::spawn(async move { client.topics().compact("prices").await })
        };
        // Somewhere in the middle: how far it comes is the machine's business.
        for _ in 0..random.u32(0..2000) {
            tokio::task::yield_now().await;
        }
        let stopped = broker.kill();
        drop(compacting.await);
        broker = stopped.restart();
        let anew = broker.client().await;
        let table = within("the table", anew.table("prices").build()).await.expect("a table");
        check(&anew, &table, &model, &format!("seed {seed}, round {round}, read anew")).await;
        check(&anew, &following, &model, &format!("seed {seed}, round {round}, resumed")).await;
    }
    let client = broker.client().await;
    client.topics().compact("prices").await.expect("compacted");
    let table = within("the table", client.table("prices").build()).await.expect("a table");
    check(&client, &table, &model, "at the end").await;
    let description = client.topics().describe("prices").await.expect("described");
    let stored: u64 = description.partitions.iter().map(|partition| partition.size_bytes).sum();
    assert!(stored < 1 << 20, "{stored} bytes are left of {rounds} rounds");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_killed_while_it_compacts_loses_no_key() {
    kill_while_compacting(1, 5).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_killed_at_other_moments_loses_no_key() {
    kill_while_compacting(fastrand::u64(..), 5).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_compacts_by_itself_what_is_new() {
    let broker = BrokerProcess::start();
    let client = broker.client().await;
    topic(&client).await;
    let mut model = BTreeMap::new();
    publish(&client, &mut model, &mut fastrand::Rng::with_seed(7), 1000).await;
    let is_small = async || {
        let description = client.topics().describe("prices").await.expect("described");
        let stored: u64 = description.partitions.iter().map(|partition| partition.size_bytes).sum();
        (stored < 600 << 10).then_some(())
    };
    aqueduct_tests::eventually("the topic is compacted", is_small).await;
    let table = within("the table", client.table("prices").build()).await.expect("a table");
    check(&client, &table, &model, "compacted by itself").await;
}
