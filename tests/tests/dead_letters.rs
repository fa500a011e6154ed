//! Dead letters on real broker processes: from the command line, and across kills.

use std::{collections::BTreeSet, time::Duration};

use aqueduct_client::{Client, DeadLetter, LetterFilter, Record, RetryPolicy};
use aqueduct_tests::{BrokerProcess, aqueduct, text, within};

/// Publishes numbered records, each with its number as key, to partition 0 of a new topic `orders`.
async fn orders(client: &Client, count: u64) {
    client.topics().create("orders").build().await.expect("a new topic");
    let producer = client.producer("orders").build().await.expect("a producer");
    let records = (0..count).map(|number| Record::new(number.to_string()).key(number.to_string()));
    producer.publish_all(records).await.expect("receipts");
}

#[tokio::test]
async fn the_command_line_shows_redrives_and_purges_dead_letters() {
    let broker = BrokerProcess::start();
    let (client, url) = (broker.client().await, broker.url());
    let run = |words: &[&str]| aqueduct(Some(&url), words).success();
    assert!(run(&["dlq", "list"]).stderr.contains("no group has dead letters"));
    orders(&client, 4).await;
    let mut consumer = client.consumer("orders", "billing").build().await.expect("a consumer");
    for _ in 0..4 {
        let delivery = within("a delivery", consumer.next()).await.expect("it goes on").expect("a delivery");
        let reason = format!("no route to bank {}\nsecond line", delivery.offset % 2);
        delivery.park_durable(reason).await.expect("parked");
    }
    consumer.close().await.expect("a clean end");

    let listed = run(&["dlq", "list"]).stdout;
    assert!(listed.contains("orders~billing~dlq") && listed.contains('4'), "{listed}");
    let shown = run(&["dlq", "show", "orders", "billing", "--error", "bank 1"]).stdout;
    assert_eq!(shown.lines().count(), 4, "two letters below a header, line ends made harmless:\n{shown}");
    assert!(shown.contains("orders/0@1") && shown.contains("orders/0@3"), "{shown}");
    let json = run(&["dlq", "show", "orders", "billing", "--key", "2", "--output", "json"]).json_lines();
    assert_eq!((json.len(), &json[0]["offset"], &json[0]["value"]), (1, &2.into(), &"2".into()));
    assert_eq!((&json[0]["attempts"], &json[0]["dead_letter_offset"]), (&1.into(), &2.into()));

    let dry = run(&["dlq", "redrive", "orders", "billing", "--key", "2", "--dry-run"]);
    assert!(dry.stderr.contains("1 dead letter of billing on orders would be redriven"), "{}", dry.stderr);
    let redriven = run(&["dlq", "redrive", "orders", "billing", "--key", "2", "--rate", "1000"]);
    assert!(redriven.stderr.contains("1 dead letter of billing on orders redriven"), "{}", redriven.stderr);
    let back = run(&["subscribe", "orders", "--group", "billing", "--count", "1"]).stdout;
    assert_eq!(back, "2\n");

    aqueduct(Some(&url), &["dlq", "purge", "orders", "billing"]).failure(2, &["--yes", "--dry-run"]);
    let purged = run(&["dlq", "purge", "orders", "billing", "--error", "bank 1", "--yes"]);
    assert!(purged.stderr.contains("2 dead letters of billing on orders discarded"), "{}", purged.stderr);
    let left = run(&["dlq", "show", "orders", "billing", "--output", "json"]).json_lines();
    assert_eq!((left.len(), &left[0]["key"]), (1, &"0".into()));
    let nothing = run(&["dlq", "show", "orders", "billing", "--key", "no one's"]);
    assert!(nothing.stderr.contains("no such dead letters"), "{}", nothing.stderr);
    aqueduct(Some(&url), &["dlq", "show", "orders", "nobody"]).failure(4, &["nobody"]);
    aqueduct(Some(&url), &["dlq", "redrive", "nonsense", "billing"]).failure(4, &["nonsense"]);
}

#[tokio::test]
async fn a_broker_killed_while_records_fail_and_are_parked_loses_none_of_them() {
    const RECORDS: u64 = 300;
    let mut broker = BrokerProcess::start();
    let client = broker.client().await;
    orders(&client, RECORDS).await;
    let retry = RetryPolicy {
        backoff_min: Some(Duration::from_millis(1)),
        backoff_max: Some(Duration::from_millis(2)),
        max_attempts: Some(2),
        on_exhausted: None,
    };
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut acked = BTreeSet::new();
    for kill in 0..6 {
        let client = broker.client().await;
        let mut consumer = client.consumer("orders", "billing").retry(retry).build().await.expect("a consumer");
        let mut left = random.u32(1..80);
        while left > 0 {
            let delivery = within("a delivery", consumer.next()).await.expect("it goes on");
            let Ok(delivery) = delivery else { continue };
            left -= 1;
            match delivery.offset % 7 {
                3 => delivery.nack("boom"),
                5 => delivery.park("never"),
                _ => {
                    let offset = delivery.offset;
                    if delivery.ack_durable().await.is_ok() {
                        acked.insert(offset);
                    }
                }
            }
        }
        drop(consumer);
        broker = broker.kill_and_restart();
        println!("kill {kill}: {} acked", acked.len());
    }
    let client = broker.client().await;
    let mut consumer = client.consumer("orders", "billing").build().await.expect("a consumer");
    let group = client.group("billing");
    let the_rest = async {
        while group.lag("orders").await.expect("a report")[0].lag_records > 0 {
            let Ok(item) = tokio::time::timeout(Duration::from_millis(200), consumer.next()).await else { continue };
            let Ok(delivery) = item.expect("it goes on") else { continue };
            match delivery.offset % 7 {
                3 => delivery.nack_after(Duration::ZERO, "boom"),
                5 => delivery.park("never"),
                _ => {
                    acked.insert(delivery.offset);
                    delivery.ack();
                }
            }
        }
    };
    within("the rest", the_rest).await;
    let mut parked = BTreeSet::new();
    let see = |letter: DeadLetter| {
        assert_eq!(text(&letter.event), letter.death.offset.to_string());
        parked.insert(letter.death.offset);
    };
    client.dead_letters("orders", "billing").read(&LetterFilter::default(), see).await.expect("letters");
    let everything: BTreeSet<u64> = acked.union(&parked).copied().collect();
    assert_eq!(everything, (0..RECORDS).collect(), "seed {seed}");
    assert!(acked.is_disjoint(&parked), "seed {seed}");
}
