//! `aqueduct repair`: what is lost is named for ever, and nothing else is.

use std::{collections::BTreeSet, fs};

use aqueduct_client::{Client, ConsumerItem, Gap, GapReason, Item, Start};
use aqueduct_tests::{BrokerProcess, Raw, segments, within};

use crate::{damage_batch, numbered, record, run, snapshot};

/// Offsets that are delivered, and gaps.
async fn survey(client: &Client) -> (Vec<u64>, Vec<Gap>) {
    let mut reader = client.subscribe("numbers").from(Start::Earliest).until_end().build().await.expect("begun");
    let (mut offsets, mut gaps) = (Vec::new(), Vec::new());
    while let Some(item) = within("an item", reader.next_item()).await {
        match item.expect("a gap is no error") {
            Item::Event(event) => {
                assert_eq!(event.record, record(event.offset));
                offsets.push(event.offset);
            }
            Item::Gap(gap) => gaps.push(gap),
            Item::CaughtUp { .. } | Item::End { .. } | Item::Reconnected => {}
        }
    }
    (offsets, gaps)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_changes_nothing_and_a_repair_makes_the_rest_readable_under_the_same_offsets() {
    let broker = BrokerProcess::start();
    numbered(&broker.client().await, "numbers", 300).await;
    let mut stopped = broker.terminate().1;
    let damaged = damage_batch(&stopped.data(), "numbers", 1);
    let segment = segments::segments(&stopped.data(), "numbers", 0)[1].clone();
    let spoilt = fs::read(&segment).expect("the segment");
    let before = snapshot(&stopped.data());
    let output = run("repair", &stopped.data(), &[]).failure(1, &["nothing was changed", "--yes"]);
    let offsets = format!("offsets {} to {}", damaged.start, damaged.end - 1);
    assert!(output.stdout.contains(&offsets) && output.stdout.contains("would repair 1 log"), "{}", output.stdout);
    assert_eq!(snapshot(&stopped.data()), before, "a dry run changes nothing");

    let output = run("repair", &stopped.data(), &["--yes"]).success();
    assert!(output.stdout.contains("repaired 1 log, 10 offsets given up"), "{}", output.stdout);
    let text = run("verify", &stopped.data(), &[]).success().stdout;
    assert!(text.contains("taken out") && text.contains(&offsets), "{text}");
    let side_file = snapshot(&stopped.data()).into_iter().find(|(name, _)| name.contains(".damaged-"));
    let kept = side_file.and_then(|(_, entry)| entry.content).expect("a side file");
    let positions = segments::batch_positions(&segment);
    let batch = &spoilt[positions[(positions.len() - 1) / 2]..][..kept.len().min(64)];
    assert!(kept.windows(40).any(|window| window == &batch[..40]), "the damaged bytes are kept");
    assert!(kept.starts_with(b"Aqueduct: damaged bytes"), "and say where they are from");
    run("repair", &stopped.data(), &["--yes"]).success();

    for round in 0..2 {
        let broker = stopped.restart();
        let client = broker.client().await;
        let (offsets, gaps) = survey(&client).await;
        let expected: Vec<u64> = (0..300 + round).filter(|offset| !damaged.contains(offset)).collect();
        assert_eq!(offsets, expected);
        assert_eq!(gaps.len(), 1, "{gaps:?}");
        assert_eq!((gaps[0].from, gaps[0].to, gaps[0].reason), (damaged.start, damaged.end, GapReason::Damaged));
        // A single fetch is no error either: it answers with nothing, and with where to go on.
        let mut raw = Raw::connect(&broker.url()).await;
        let answer = raw.fetch("numbers", 0, damaged.start + 3).await.expect("no DATA_LOSS");
        assert_eq!((answer.records.len(), answer.next_offset), (0, damaged.end));
        let fetched = client.fetch("numbers", 0, damaged.start).build().await.expect("no DATA_LOSS");
        assert_eq!((fetched.events().count(), fetched.next_offset), (0, damaged.end));
        let receipt = client.publish("numbers", record(300 + round)).await.expect("a receipt");
        assert_eq!(receipt.offset, 300 + round);
        stopped = broker.kill();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_is_told_of_what_a_repair_has_taken_out() {
    let broker = BrokerProcess::start();
    numbered(&broker.client().await, "numbers", 200).await;
    let stopped = broker.kill();
    let damaged = damage_batch(&stopped.data(), "numbers", 0);
    run("repair", &stopped.data(), &["--yes"]).success();
    let broker = stopped.restart();
    let client = broker.client().await;
    let mut consumer = client.consumer("numbers", "billing").build().await.expect("a consumer");
    let (mut seen, mut gaps) = (BTreeSet::new(), Vec::new());
    while !seen.contains(&199) {
        match within("an item", consumer.next_item()).await.expect("no end").expect("no error") {
            ConsumerItem::Delivery(delivery) => {
                seen.insert(delivery.offset);
                delivery.ack();
            }
            ConsumerItem::Gap(gap) => {
                seen.extend(gap.from..gap.to);
                gaps.push(gap);
            }
            ConsumerItem::Assignment { .. } => {}
        }
    }
    assert_eq!(seen, (0..200).collect());
    assert!(gaps.len() == 1 && gaps[0].reason == GapReason::Damaged && gaps[0].from == damaged.start, "{gaps:?}");
    consumer.close().await.expect("a clean end");
    assert_eq!(client.group("billing").lag("numbers").await.expect("a report")[0].lag_records, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_mended_is_refused_and_not_touched() {
    let broker = BrokerProcess::start();
    let client = broker.client().await;
    numbered(&client, "numbers", 300).await;
    let (_, stopped) = broker.terminate();
    let lost = segments::segments(&stopped.data(), "numbers", 0)[1].clone();
    fs::remove_file(&lost).expect("removed");
    segments::flip(&stopped.data().join("topics/numbers/topic.toml"), 0);
    let before = snapshot(&stopped.data());
    let output = run("repair", &stopped.data(), &["--yes"]).failure(1, &[]);
    for words in ["REFUSED", "missing", "topic.toml"] {
        assert!(output.stdout.contains(words), "no {words:?} in\n{}", output.stdout);
    }
    assert_eq!(snapshot(&stopped.data()), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_table_of_producers_is_set_aside_and_retries_are_still_recognised() {
    let broker = BrokerProcess::start();
    let client = broker.client().await;
    numbered(&client, "numbers", 50).await;
    let mut stopped = broker.terminate().1;
    let path = stopped.data().join("topics/numbers/0/producers.state");
    segments::flip(&path, 3);
    run("verify", &stopped.data(), &[]).failure(1, &[]);
    run("repair", &stopped.data(), &["--yes"]).success();
    run("verify", &stopped.data(), &[]).success();
    let broker = stopped.restart();
    let client = broker.client().await;
    assert_eq!(client.publish("numbers", record(50)).await.expect("a receipt").offset, 50);
    stopped = broker.terminate().1;
    assert!(path.exists(), "made again");
    run("verify", &stopped.data(), &[]).success();
}
