//! Tables across the death of their broker, while it compacts what they are made of; and what the command line says of them.

use std::collections::BTreeMap;

use aqueduct_client::{Cleanup, Client, Record, Table};
use aqueduct_tests::{BrokerProcess, Launch, aqueduct, aqueduct_with_input, text, within};

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

#[tokio::test]
async fn the_command_line_makes_alters_and_compacts_topics_that_keep_the_latest_of_each_key() {
    let broker = BrokerProcess::start();
    let (client, url) = (broker.client().await, broker.url());
    let run = |words: &[&str]| aqueduct(Some(&url), words).success();
    let publish = |lines: &str| {
        aqueduct_with_input(Some(&url), &["publish", "prices", "--format", "json"], lines.as_bytes()).success()
    };
    let shown = || run(&["topic", "describe", "prices", "--output", "json"]).json_lines().remove(0);
    run(&["topic", "create", "prices", "--cleanup", "compact", "--tombstone-retention", "2h"]);
    assert_eq!((&shown()["cleanup"], &shown()["tombstone_retention_seconds"]), (&"compact".into(), &7200.0.into()));
    let described = run(&["topic", "describe", "prices"]).stdout;
    assert!(described.contains("compact, tombstones 2h"), "{described}");

    publish("{\"key\":\"anvil\",\"value\":\"10\"}\n{\"key\":\"rope\",\"value\":\"2\"}\n");
    publish("{\"key\":\"anvil\",\"value\":\"12\"}\n{\"key\":\"rope\",\"value\":null}\n");
    let table = within("the table", client.table("prices").build()).await.expect("a table");
    let compacted = run(&["topic", "compact", "prices"]);
    assert!(compacted.stderr.contains("compacted topic prices: 2 records removed"), "{}", compacted.stderr);
    let events = run(&["subscribe", "prices", "--from", "earliest", "--until-end", "--output", "json"]).json_lines();
    let left: Vec<(&str, Option<&str>, u64)> = events
        .iter()
        .map(|event| {
            (event["key"].as_str().expect("a key"), event["value"].as_str(), event["offset"].as_u64().expect("one"))
        })
        .collect();
    assert_eq!(left, [("anvil", Some("12"), 2), ("rope", None, 3)], "the tombstone stays for its time");
    let again = run(&["topic", "compact", "prices", "--output", "json"]).json_lines();
    assert_eq!((&again[0]["records_removed"], &again[0]["bytes_freed"]), (&0.into(), &0.into()));
    let anew = within("the table", client.table("prices").build()).await.expect("a table");
    for table in [&table, &anew] {
        assert_eq!(table.len(), 1);
        let anvil = table.get("anvil").expect("kept up to date").expect("it has a price");
        assert_eq!((text(&anvil), anvil.offset), ("12", 2));
    }

    run(&[
        "topic",
        "alter",
        "prices",
        "--tombstone-retention",
        "0s",
        "--cleanup",
        "both",
        "--min-compaction-lag",
        "1h",
    ]);
    assert_eq!((&shown()["cleanup"], &shown()["min_compaction_lag_seconds"]), (&"both".into(), &3600.0.into()));
    publish("{\"key\":\"anvil\",\"value\":\"13\"}\n");
    let young = run(&["topic", "compact", "prices", "--output", "json"]).json_lines();
    assert_eq!(young[0]["records_removed"], 0, "what is younger than the lag is left alone");
    run(&["topic", "alter", "prices", "--min-compaction-lag", "0s"]);
    let old = run(&["topic", "compact", "prices", "--output", "json"]).json_lines();
    assert_eq!(old[0]["records_removed"], 2, "the value before, and the tombstone");
    run(&["topic", "alter", "prices", "--cleanup", "delete"]);
    aqueduct_with_input(Some(&url), &["publish", "prices"], b"without a key\n").success();
}

#[tokio::test]
async fn what_cannot_be_compacted_is_refused_on_the_command_line_with_what_to_do() {
    let broker = BrokerProcess::start();
    let url = broker.url();
    let run = |words: &[&str]| aqueduct(Some(&url), words);
    run(&["topic", "create", "orders"]).success();
    aqueduct_with_input(Some(&url), &["publish", "orders"], b"without a key\n").success();
    run(&["topic", "compact", "orders"]).failure(2, &["orders", "cleanup", "compact or both"]);
    run(&["topic", "compact", "nothing"]).failure(4, &["nothing"]);
    run(&["topic", "compact"]).failure(2, &["<NAME>"]);
    for nonsense in ["shrink", "", "compact,delete", "COMPACT!"] {
        run(&["topic", "create", "prices", "--cleanup", nonsense]).failure(2, &["--cleanup"]);
        run(&["topic", "alter", "orders", "--cleanup", nonsense]).failure(2, &["--cleanup"]);
    }
    for nonsense in ["-1s", "soon", "1h30", "99999999999999999999d"] {
        run(&["topic", "create", "prices", &format!("--tombstone-retention={nonsense}")]).failure(2, &["--tombstone"]);
        run(&["topic", "alter", "orders", &format!("--min-compaction-lag={nonsense}")])
            .failure(2, &["--min-compaction"]);
    }
    run(&["topic", "describe", "prices"]).failure(4, &["prices"]);
    // What has no key was there before, is kept, and may not be added to.
    run(&["topic", "alter", "orders", "--cleanup", "compact"]).success();
    run(&["topic", "compact", "orders"]).success();
    assert_eq!(run(&["subscribe", "orders", "--from", "earliest", "--until-end"]).success().stdout, "without a key\n");
    let refused = aqueduct_with_input(Some(&url), &["publish", "orders"], b"without a key\n");
    refused.failure(2, &["key", "cleanup"]);
}
