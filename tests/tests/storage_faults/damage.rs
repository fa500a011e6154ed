//! Files that were changed while the broker was down.

use std::{collections::BTreeSet, fs, io::Write as _, path::Path};

use aqueduct_client::{Client, Gap, GapReason, Item, Record, Start};
use aqueduct_tests::{BrokerProcess, Refusal, read_all, segments, within};
use tonic::Code;

use crate::{numbered, record};

/// What a subscription from the beginning gives: the events' offsets, and the gaps.
async fn survey(client: &Client, topic: &str) -> (Vec<u64>, Vec<Gap>) {
    let mut reader = client.subscribe(topic).from(Start::Earliest).until_end().build().await.expect("a subscription");
    let (mut offsets, mut gaps) = (Vec::new(), Vec::new());
    while let Some(item) = within("an item", reader.next_item()).await {
        match item.expect("damage is no error of the subscription") {
            Item::Event(event) => {
                assert_eq!(event.record, record(event.offset), "offset {}", event.offset);
                offsets.push(event.offset);
            }
            Item::Gap(gap) => gaps.push(gap),
            Item::CaughtUp { .. } | Item::End { .. } | Item::Reconnected => {}
        }
    }
    (offsets, gaps)
}

fn logs_and_lengths(data: &Path, topic: &str) -> Vec<(std::path::PathBuf, u64)> {
    let length = |path: &std::path::PathBuf| fs::metadata(path).expect("a file").len();
    segments::segments(data, topic, 0).into_iter().map(|path| (path.clone(), length(&path))).collect()
}

/// Damages one byte inside the payload of a batch in the middle of segment `index`, and returns the batch's offsets.
fn damage_batch(data: &Path, topic: &str, index: usize) -> std::ops::Range<u64> {
    let files = segments::segments(data, topic, 0);
    let segment = &files[index];
    let positions = segments::batch_positions(segment);
    let batch = (positions.len() - 1) / 2;
    segments::flip(segment, positions[batch + 1] - 20);
    let first = segments::base_offset(segment) + 10 * batch as u64;
    first..first + 10
}

async fn damage_is_named(segment_of: fn(usize) -> usize) {
    const RECORDS: u64 = 1000;
    let broker = BrokerProcess::start();
    numbered(&broker.client().await, "numbers", RECORDS).await;
    let (status, stopped) = broker.terminate();
    assert_eq!(status.code(), Some(0));
    let files = logs_and_lengths(&stopped.data(), "numbers");
    assert!(files.len() > 4, "{files:?}");
    let damaged = damage_batch(&stopped.data(), "numbers", segment_of(files.len()));
    let broker = stopped.restart();
    let client = broker.client().await;

    let refusal = Refusal::of(client.fetch("numbers", 0, damaged.start).build().await);
    let refusal = refusal.expect(Code::DataLoss, "OFFSETS_DAMAGED");
    let named: (u64, u64) = (refusal.fact("from").parse().expect("one"), refusal.fact("to").parse().expect("one"));
    assert!(named.0 <= damaged.start && named.1 >= damaged.end, "{damaged:?} is damaged, {named:?} is named");
    assert!(named.1 - named.0 <= 200, "no more than the neighbourhood: {named:?}");

    let (offsets, gaps) = survey(&client, "numbers").await;
    assert!(gaps.iter().all(|gap| gap.reason == GapReason::Damaged), "{gaps:?}");
    let mut covered: BTreeSet<u64> = offsets.iter().copied().collect();
    assert_eq!(covered.len(), offsets.len(), "an offset came twice");
    assert!(damaged.clone().all(|offset| !covered.contains(&offset)), "damaged records were delivered");
    covered.extend(gaps.iter().flat_map(|gap| gap.from..gap.to));
    assert_eq!(covered, (0..RECORDS).collect(), "every offset is delivered or named");
    assert!(gaps.iter().map(|gap| gap.to - gap.from).sum::<u64>() <= 200, "{gaps:?}");

    for (path, bytes) in &files {
        let now = fs::metadata(path).unwrap_or_else(|error| panic!("{} was deleted: {error}", path.display())).len();
        assert!(now >= *bytes, "{} was cut from {bytes} to {now}", path.display());
    }
    assert_eq!(client.publish("numbers", record(RECORDS)).await.expect("a receipt").offset, RECORDS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_byte_in_a_sealed_segment_is_named_and_the_rest_stays_readable() {
    damage_is_named(|segments| segments / 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_byte_in_the_first_segment_is_named_and_the_rest_stays_readable() {
    damage_is_named(|_| 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_byte_in_the_last_segment_below_the_durable_end_is_no_tail() {
    damage_is_named(|segments| segments - 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_goes_on_behind_damaged_offsets_and_is_told() {
    let broker = BrokerProcess::start();
    numbered(&broker.client().await, "numbers", 300).await;
    let stopped = broker.terminate().1;
    let damaged = damage_batch(&stopped.data(), "numbers", 1);
    let broker = stopped.restart();
    let client = broker.client().await;
    let mut consumer = client.consumer("numbers", "billing").build().await.expect("a consumer");
    let mut seen = BTreeSet::new();
    while !seen.contains(&299) {
        match within("an item", consumer.next_item()).await.expect("no end").expect("damage does not stop a group") {
            aqueduct_client::ConsumerItem::Delivery(delivery) => {
                assert!(!damaged.contains(&delivery.offset));
                seen.insert(delivery.offset);
                delivery.ack();
            }
            aqueduct_client::ConsumerItem::Gap(gap) => {
                assert_eq!(gap.reason, GapReason::Damaged);
                seen.extend(gap.from..gap.to);
            }
            aqueduct_client::ConsumerItem::Assignment { .. } => {}
        }
    }
    assert_eq!(seen, (0..300).collect());
    consumer.close().await.expect("a clean end");
    assert_eq!(client.group("billing").lag("numbers").await.expect("a report")[0].lag_records, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn torn_tails_after_a_kill_are_cut_and_appends_go_on() {
    let broker = BrokerProcess::start();
    numbered(&broker.client().await, "numbers", 95).await;
    let mut stopped = broker.kill();
    let half_a_batch = {
        let last = segments::segments(&stopped.data(), "numbers", 0).pop().expect("a segment");
        let start = segments::batch_positions(&last)[0];
        fs::read(&last).expect("the segment")[start..start + 200].to_vec()
    };
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let noise: Vec<u8> = (0..5000).map(|_| random.u8(..)).collect();
    let tails: [&[u8]; 5] = [&half_a_batch, &half_a_batch[..10], &noise, &[0; 5000], b"AQBT"];
    for (records, tail) in (95..).zip(tails) {
        let last = segments::segments(&stopped.data(), "numbers", 0).pop().expect("a segment");
        let end = *segments::batch_positions(&last).last().expect("a position");
        let mut bytes = fs::read(&last).expect("the segment");
        bytes.truncate(end);
        bytes.extend_from_slice(tail);
        fs::File::create(&last).and_then(|mut file| file.write_all(&bytes)).expect("written");

        let broker = stopped.restart();
        let client = broker.client().await;
        let events = read_all(&client, "numbers").await;
        assert_eq!(events.len() as u64, records);
        assert!(events.iter().all(|event| event.record == record(event.offset)), "after {} rounds", records - 95);
        assert_eq!(client.publish("numbers", record(records)).await.expect("a receipt").offset, records);
        stopped = broker.kill();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn indexes_that_are_missing_or_nonsense_are_made_again() {
    let broker = BrokerProcess::start();
    let client = broker.client().await;
    numbered(&client, "numbers", 1000).await;
    let time = read_all(&client, "numbers").await[500].append_time;
    let mut stopped = broker.terminate().1;
    for round in 0..3 {
        for segment in segments::segments(&stopped.data(), "numbers", 0) {
            let index = segment.with_extension("index");
            match round {
                0 => fs::remove_file(&index).expect("an index of every segment"),
                1 => fs::write(&index, []).expect("written"),
                _ => {
                    let bytes = fs::read(&index).expect("an index");
                    fs::write(&index, vec![0xff; bytes.len()]).expect("written");
                }
            }
        }
        let broker = stopped.restart();
        let client = broker.client().await;
        assert_eq!(survey(&client, "numbers").await, ((0..1000).collect(), Vec::new()), "round {round}");
        let from_time = client.subscribe("numbers").from(Start::Time(time)).until_end().build().await;
        let first = within("an event", from_time.expect("a subscription").next()).await.expect("no end");
        let first = first.expect("an event");
        assert!(first.append_time >= time && first.offset <= 500, "round {round}: {first:?}");
        stopped = broker.terminate().1;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_segment_is_named_and_other_partitions_are_served() {
    let broker = BrokerProcess::start();
    let client = broker.client().await;
    numbered(&client, "numbers", 600).await;
    client.topics().create("other").build().await.expect("a new topic");
    client.publish("other", Record::new("x")).await.expect("a receipt");
    let stopped = broker.terminate().1;
    let files = segments::segments(&stopped.data(), "numbers", 0);
    let (gone, next) = (&files[2], &files[3]);
    fs::remove_file(gone).expect("removed");
    let _ = fs::remove_file(gone.with_extension("index"));
    let broker = stopped.restart();
    let client = broker.client().await;
    let described = client.topics().describe("numbers").await;
    let said = match &described {
        Ok(description) => description.partitions[0].failure.clone().unwrap_or_default(),
        Err(error) => error.to_string(),
    };
    let missing = segments::base_offset(gone);
    let refusal = Refusal::of(client.fetch("numbers", 0, missing).build().await);
    let named = format!("{said} {}", refusal.message);
    assert!(named.contains(&missing.to_string()), "{missing}..{} is gone: {named}", segments::base_offset(next));
    assert_eq!(read_all(&client, "other").await.len(), 1);
    client.publish("other", Record::new("y")).await.expect("a receipt");
}
