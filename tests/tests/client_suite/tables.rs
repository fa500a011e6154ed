//! Topics that carry state: compacted by the broker, and seen as tables by programs.

use std::{collections::BTreeMap, time::Duration};

use aqueduct_client::{
    Cleanup, Codec, Event, GroupPolicy, Item, PublishError, Receipt, Record, Start, Table, TableError, VerifyEvent,
    VerifySeverity,
};
use aqueduct_tests::{Refusal, text, within};
use tonic::Code;

use crate::stage::{Stage, next};

/// Small enough that a few hundred records roll.
const SEGMENT_BYTES: u64 = 64 << 10;
const KEYS: usize = 20;

async fn compacted_topic(stage: &Stage, name: &str, partitions: u32) {
    let create = stage.client.topics().create(name).partitions(partitions).segment_bytes(SEGMENT_BYTES);
    create.cleanup(Cleanup::Compact).build().await.expect("a new topic");
}

/// `rounds` values of about 1 KiB for each key, in batches that hold several keys.
async fn publish_rounds(stage: &Stage, topic: &str, rounds: std::ops::Range<usize>) {
    let producer = stage.client.producer(topic).codec(Codec::Lz4).build().await.expect("a producer");
    let record = |round: usize, key: usize| {
        let noise: String = (0..1000).map(|_| fastrand::alphanumeric()).collect();
        Record::new(format!("{round} {noise}")).key(format!("key-{key}"))
    };
    for round in rounds {
        producer.publish_all((0..KEYS).map(|key| record(round, key))).await.expect("stored");
    }
}

async fn put(stage: &Stage, topic: &str, key: &str, value: &str) -> Receipt {
    stage.client.publish(topic, Record::new(value.to_owned()).key(key.to_owned())).await.expect("stored")
}

async fn table_of(stage: &Stage, topic: &str) -> Table {
    within("the table", stage.client.table(topic).build()).await.expect("a table")
}

fn value_of(table: &Table, key: &str) -> Option<String> {
    table.get(key).expect("kept up to date").map(|event| text(&event).to_owned())
}

/// Offset and value of each key.
fn contents(table: &Table) -> BTreeMap<String, (u32, u64, String)> {
    let entry = |event: &Event| {
        let key = String::from_utf8(event.record.key.clone().expect("a key").to_vec()).expect("text");
        (key, (event.partition, event.offset, text(event).to_owned()))
    };
    table.snapshot().expect("kept up to date").iter().map(|event| entry(event)).collect()
}

/// What can be read from the beginning, and whether anything is missing.
async fn everything(stage: &Stage, topic: &str) -> Vec<Event> {
    let subscription = stage.client.subscribe(topic).from(Start::Earliest).until_end().build();
    let mut subscription = subscription.await.expect("a subscription");
    let mut events = Vec::new();
    while let Some(item) = within("the next item", subscription.next_item()).await {
        match item.expect("readable") {
            Item::Event(event) => events.push(event),
            Item::Gap(gap) => panic!("{gap:?}"),
            Item::CaughtUp { .. } | Item::End { .. } | Item::Reconnected => {}
        }
    }
    events
}

pub(crate) async fn a_table_holds_the_latest_of_each_key_and_follows(stage: Stage) {
    stage.topic("prices", 3).await;
    for (key, value) in [("anvil", "10"), ("rope", "2"), ("anvil", "12"), ("rocket", "99")] {
        put(&stage, "prices", key, value).await;
    }
    let table = table_of(&stage, "prices").await;
    assert_eq!(table.len(), 3);
    assert_eq!(value_of(&table, "anvil").as_deref(), Some("12"));
    assert_eq!(value_of(&table, "piano"), None);

    let mut changes = table.changes();
    put(&stage, "prices", "anvil", "13").await;
    let gone = stage.client.publish("prices", Record::tombstone("rope")).await.expect("stored");
    let last = put(&stage, "prices", "piano", "500").await;
    for receipt in [&gone, &last] {
        within("the table", table.wait_for(receipt)).await.expect("kept up to date");
    }
    assert_eq!((value_of(&table, "rope"), value_of(&table, "piano").as_deref()), (None, Some("500")));
    let mut heard = BTreeMap::new();
    while heard.len() < 3 {
        let change = within("a change", changes.next()).await.expect("it goes on").expect("none was missed");
        let key = String::from_utf8(change.key.to_vec()).expect("text");
        let of = |event: Option<std::sync::Arc<Event>>| event.map(|event| text(&event).to_owned());
        heard.insert(key, (of(change.before), of(change.after)));
    }
    let some = |value: &str| Some(value.to_owned());
    assert_eq!(heard["anvil"], (some("12"), some("13")));
    assert_eq!(heard["rope"], (some("2"), None));
    assert_eq!(heard["piano"], (None, some("500")));
}

pub(crate) async fn a_table_that_would_hold_too_much_says_which_limit(stage: Stage) {
    stage.topic("prices", 1).await;
    for key in ["a", "b", "c"] {
        put(&stage, "prices", key, "1").await;
    }
    let small = within("the table", stage.client.table("prices").max_entries(2).build()).await;
    assert!(matches!(small, Err(TableError::TooManyEntries { entries_max: 2 })), "{small:?}");
    let table = stage.client.table("prices").max_entries(3).max_bytes(10_000).build().await.expect("it fits");
    let receipt = put(&stage, "prices", "a", &"x".repeat(10_000)).await;
    let refused = within("the table", table.wait_for(&receipt)).await;
    assert!(matches!(refused, Err(TableError::TooManyBytes { bytes_max: 10_000 })), "{refused:?}");
    assert!(table.get("b").is_err(), "it is not kept up to date any more");
    let unknown = within("the table", stage.client.table("nothing").build()).await;
    assert!(matches!(&unknown, Err(TableError::Request(_))), "{unknown:?}");
}

pub(crate) async fn a_topic_deleted_under_a_table_ends_it_with_an_error(stage: Stage) {
    stage.topic("prices", 1).await;
    put(&stage, "prices", "a", "1").await;
    let table = table_of(&stage, "prices").await;
    let mut changes = table.changes();
    stage.client.topics().delete("prices").await.expect("deleted");
    let ended = within("the end", table.wait_for_offset(0, 100)).await;
    assert!(matches!(ended, Err(TableError::Subscribe(_))), "{ended:?}");
    assert!(table.get("a").is_err());
    assert!(within("the end", changes.next()).await.is_none());
}

pub(crate) async fn a_compacted_topic_keeps_the_latest_of_each_key_and_its_readers_notice_nothing(stage: Stage) {
    compacted_topic(&stage, "prices", 1).await;
    publish_rounds(&stage, "prices", 0..20).await;
    let before = contents(&table_of(&stage, "prices").await);
    let following = table_of(&stage, "prices").await;
    let size = async || stage.client.topics().describe("prices").await.expect("described").partitions[0].size_bytes;
    let size_before = size().await;
    let group = stage.client.group("reader");
    group.create(GroupPolicy::default()).await.expect("a group");
    group.commit("prices", [(0, 30)]).await.expect("an offset that compaction will take");

    // The broker may have begun by itself: what is asked for does the rest.
    stage.client.topics().compact("prices").await.expect("compacted");
    assert!(size().await < size_before / 2, "{} of {size_before}", size().await);
    let events = everything(&stage, "prices").await;
    assert!(events.len() < 20 * KEYS / 2, "{}", events.len());
    assert!(events.is_sorted_by_key(|event| event.offset));
    assert_eq!(contents(&table_of(&stage, "prices").await), before);
    assert_eq!(contents(&following), before);

    let mut consumer = stage.client.consumer("prices", "reader").build().await.expect("a consumer");
    for expected in events.iter().filter(|event| event.offset >= 30) {
        let delivery = next(&mut consumer).await;
        assert_eq!(delivery.offset, expected.offset);
        delivery.ack_durable().await.expect("durable");
    }
    assert_eq!(group.lag("prices").await.expect("a report")[0].lag_records, 0);

    publish_rounds(&stage, "prices", 20..30).await;
    stage.client.topics().compact("prices").await.expect("compacted");
    let last = put(&stage, "prices", "key-0", "the last").await;
    within("the table", following.wait_for(&last)).await.expect("kept up to date");
    assert_eq!(contents(&following), contents(&table_of(&stage, "prices").await));
    let mut verification = stage.client.topics().verify("prices").build().await.expect("a verification");
    while let Some(event) = within("the verification", verification.next()).await {
        if let VerifyEvent::Finding(finding) = event.expect("it goes on") {
            assert_ne!(finding.severity, VerifySeverity::Damage, "{finding:?}");
        }
    }
}

pub(crate) async fn compaction_that_is_asked_for_takes_what_was_published_last(stage: Stage) {
    compacted_topic(&stage, "prices", 1).await;
    let following = table_of(&stage, "prices").await;
    for round in 0..3 {
        for value in 0..10 {
            put(&stage, "prices", "anvil", &format!("{round}.{value}")).await;
        }
        stage.client.topics().compact("prices").await.expect("compacted");
        let left: Vec<(u64, String)> =
            everything(&stage, "prices").await.iter().map(|event| (event.offset, text(event).to_owned())).collect();
        assert_eq!(left, [(round * 10 + 9, format!("{round}.9"))]);
    }
    let nothing = stage.client.topics().compact("prices").await.expect("nothing to do");
    assert_eq!((nothing.records_removed, nothing.bytes_freed), (0, 0));
    let last = put(&stage, "prices", "anvil", "last").await;
    assert_eq!(last.offset, 30);
    within("the table", following.wait_for(&last)).await.expect("kept up to date");
    assert_eq!(value_of(&following, "anvil").as_deref(), Some("last"));
}

pub(crate) async fn tombstones_go_when_their_time_is_over(stage: Stage) {
    compacted_topic(&stage, "prices", 1).await;
    put(&stage, "prices", "gone", "1").await;
    stage.client.publish("prices", Record::tombstone("gone")).await.expect("stored");
    publish_rounds(&stage, "prices", 0..10).await;
    let topics = stage.client.topics();
    topics.compact("prices").await.expect("compacted");
    let of_it = async || {
        let events = everything(&stage, "prices").await;
        events.iter().filter(|event| event.record.key.as_deref() == Some(b"gone")).map(|event| event.offset).collect()
    };
    let offsets: Vec<u64> = of_it().await;
    assert_eq!(offsets, [1], "the tombstone is kept, and what is older is not");
    topics.alter("prices").tombstone_retention(Duration::ZERO).build().await.expect("altered");
    publish_rounds(&stage, "prices", 10..20).await;
    topics.compact("prices").await.expect("compacted");
    assert_eq!(of_it().await, Vec::<u64>::new());
    assert_eq!(value_of(&table_of(&stage, "prices").await, "gone"), None);
}

pub(crate) async fn a_compacted_topic_takes_no_record_without_a_key(stage: Stage) {
    compacted_topic(&stage, "prices", 1).await;
    for codec in [Codec::None, Codec::Zstd] {
        let producer = stage.client.producer("prices").codec(codec).build().await.expect("a producer");
        match producer.publish(Record::new("x".repeat(1000))).await {
            Err(PublishError::Rejected { error, .. }) => {
                assert_eq!(error.code, Code::InvalidArgument);
                assert!(error.message.contains("cleanup"), "{}", error.message);
            }
            other => panic!("{other:?}"),
        }
        producer.publish(Record::new("x".repeat(1000)).key("k")).await.expect("with a key it is taken");
    }
}

pub(crate) async fn cleanup_is_set_shown_and_altered(stage: Stage) {
    stage.topic("prices", 1).await;
    let topics = stage.client.topics();
    let refused = Refusal::of(topics.compact("prices").await);
    assert_eq!(refused.code, Code::InvalidArgument);
    assert!(refused.message.contains("cleanup"), "{}", refused.message);
    let altered = topics.alter("prices").cleanup(Cleanup::Both).min_compaction_lag(Duration::from_secs(5));
    altered.tombstone_retention(Duration::from_secs(60)).build().await.expect("altered");
    let config = topics.describe("prices").await.expect("described").topic.config;
    assert_eq!(config.cleanup, Cleanup::Both);
    assert_eq!(config.min_compaction_lag, Some(Duration::from_secs(5)));
    assert_eq!(config.tombstone_retention, Some(Duration::from_secs(60)));
    topics.compact("prices").await.expect("nothing to do yet");
}
