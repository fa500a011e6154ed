//! Tables: what is taken in, what is bounded, what ends them.

use std::time::Duration;

use aqueduct_client::{
    ChangesMissed, Client, Codec, DecodeError, Record, SubscribeError, Table, TableBuilder, TableError,
    codec::encode_batch,
    proto::{self as v1, subscribe_response::Event},
};
use tokio::time::timeout;

use crate::fake::{Broker, Subscribing, TOPIC_ID};

/// Of paused time.
const PATIENCE: Duration = Duration::from_secs(300);

/// `key=value`, or `key` for a tombstone.
fn record(text: &str) -> Record {
    match text.split_once('=') {
        Some((key, value)) => Record::new(value.to_owned()).key(key.to_owned()),
        None => Record::tombstone(text.to_owned()),
    }
}

fn batch(base_offset: u64, codec: Codec, texts: &[&str]) -> v1::Batch {
    let records: Vec<Record> = texts.iter().map(|text| record(text)).collect();
    v1::Batch { base_offset, append_time_us: 1, ..encode_batch(&records, codec).expect("encodes") }
}

async fn send(stream: &Subscribing, partition: u32, batches: Vec<v1::Batch>) {
    stream.answer(partition, Event::Batches(v1::BatchSet { batches })).await;
}

async fn send_gap(stream: &Subscribing, from: u64, to: u64, reason: v1::gap::Reason) {
    stream.answer(0, Event::Gap(v1::Gap { from, to, reason: reason.into() })).await;
}

/// A table of `orders`, which is empty when it is opened.
async fn open(
    broker: &mut Broker,
    client: &Client,
    of: impl FnOnce(TableBuilder) -> TableBuilder,
) -> (Subscribing, Table) {
    let building = tokio::spawn(of(client.table("orders")).build());
    let stream = broker.subscribing().await;
    let position =
        |start: &v1::PartitionStart| v1::PartitionPosition { partition: start.partition, ..Default::default() };
    let positions = stream.request.partitions.iter().map(position).collect();
    stream.answer(0, Event::Started(v1::SubscriptionStarted { topic_id: TOPIC_ID.to_vec().into(), positions })).await;
    let table = timeout(PATIENCE, building).await.expect("in time").expect("no panic").expect("a table");
    (stream, table)
}

async fn reached(table: &Table, partition: u32, offset: u64) -> Result<(), TableError> {
    timeout(PATIENCE, table.wait_for_offset(partition, offset)).await.expect("it is taken in, or the table ends")
}

/// `key=value` of every key, in order.
fn contents(table: &Table) -> Vec<String> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
    let events = table.snapshot().expect("kept up to date");
    let mut all: Vec<String> = events
        .iter()
        .map(|event| {
            let key = event.record.key.as_deref().expect("a key");
            format!("{}={}", text(key), text(event.value().expect("a value")))
        })
        .collect();
    all.sort_unstable();
    all
}

#[tokio::test(start_paused = true)]
async fn batches_of_every_codec_and_what_a_compaction_has_left_of_them_are_taken_in() {
    let (mut broker, client) = Broker::start(2);
    let (stream, table) = open(&mut broker, &client, |table| table).await;
    for (at, codec) in [(0, Codec::None), (3, Codec::Lz4), (6, Codec::Zstd)] {
        let long = format!("long={}", at.to_string().repeat(2000));
        send(&stream, 0, vec![batch(at, codec, &["a=1", &format!("b{at}=2"), &long])]).await;
    }
    // Offsets 9, 12 and 14 of what was 9 to 15, and then nothing but offsets up to 20.
    let left =
        v1::Batch { offset_span: 7, offset_deltas: vec![0, 3, 5], ..batch(9, Codec::Lz4, &["a=5", "b0", "c=6"]) };
    let empty = v1::Batch { base_offset: 16, offset_span: 5, append_time_us: 1, ..Default::default() };
    send(&stream, 0, vec![left, empty]).await;
    send(&stream, 1, vec![batch(0, Codec::None, &["other=1", "long"])]).await;
    reached(&table, 0, 20).await.expect("read");
    reached(&table, 1, 1).await.expect("read");
    assert_eq!(contents(&table), ["a=5", "b3=2", "b6=2", "c=6", "other=1"]);
    assert_eq!(table.get("c").expect("kept up to date").expect("there").offset, 14);
    assert!(table.get("b0").expect("kept up to date").is_none(), "a tombstone took it");
    let unknown = table.wait_for_offset(2, 0).await;
    assert!(matches!(unknown, Err(TableError::UnknownPartition { partition: 2 })), "{unknown:?}");
}

#[tokio::test(start_paused = true)]
async fn a_topic_that_outgrows_a_table_ends_it_and_says_which_limit() {
    let (mut broker, client) = Broker::start(1);
    let (stream, table) = open(&mut broker, &client, |table| table.max_entries(2)).await;
    let mut changes = table.changes();
    send(&stream, 0, vec![batch(0, Codec::Lz4, &["a=1", "b=1", "a", "c=1"])]).await;
    reached(&table, 0, 3).await.expect("a key that is gone makes room");
    send(&stream, 0, vec![batch(4, Codec::None, &["d=1"])]).await;
    let ended = reached(&table, 0, 4).await;
    assert!(matches!(ended, Err(TableError::TooManyEntries { entries_max: 2 })), "{ended:?}");
    assert!(table.get("b").is_err() && table.snapshot().is_err() && table.check().is_err());
    for _ in 0..4 {
        changes.next().await.expect("what was taken in is told").expect("none was missed");
    }
    assert!(changes.next().await.is_none(), "and nothing more");

    let (stream, table) = open(&mut broker, &client, |table| table.max_bytes(2000)).await;
    send(&stream, 0, vec![batch(0, Codec::Lz4, &["a=1", "b=1"])]).await;
    reached(&table, 0, 1).await.expect("it fits");
    send(&stream, 0, vec![batch(2, Codec::Lz4, &[&format!("a={}", "x".repeat(2000))])]).await;
    let ended = reached(&table, 0, 2).await;
    assert!(matches!(ended, Err(TableError::TooManyBytes { bytes_max: 2000 })), "{ended:?}");
}

#[tokio::test(start_paused = true)]
async fn a_listener_that_is_slow_is_told_how_much_it_has_missed() {
    let (mut broker, client) = Broker::start(1);
    let (stream, table) = open(&mut broker, &client, |table| table.max_changes(4)).await;
    let mut changes = table.changes();
    let texts: Vec<String> = (0..10).map(|value| format!("a={value}")).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    send(&stream, 0, vec![batch(0, Codec::None, &texts)]).await;
    reached(&table, 0, 9).await.expect("read");
    assert_eq!(changes.next().await.expect("it goes on").expect_err("some were missed"), ChangesMissed { count: 6 });
    for offset in 6..10 {
        let change = changes.next().await.expect("it goes on").expect("a change");
        assert_eq!(change.after.map(|event| event.offset), Some(offset));
    }
}

#[tokio::test(start_paused = true)]
async fn events_that_cannot_be_read_end_a_table_unless_it_accepts_gaps() {
    use v1::gap::Reason;
    let (mut broker, client) = Broker::start(1);
    for reason in [Reason::Retention, Reason::Damaged] {
        let (stream, table) = open(&mut broker, &client, |table| table).await;
        send_gap(&stream, 0, 10, reason).await;
        let ended = reached(&table, 0, 9).await.expect_err("values are not known");
        let text = ended.to_string();
        assert!(text.contains("10") && text.contains("partition 0"), "{text}");

        let (stream, table) = open(&mut broker, &client, TableBuilder::accept_gaps).await;
        send(&stream, 0, vec![batch(0, Codec::None, &["a=1", "b=1"])]).await;
        send_gap(&stream, 2, 10, reason).await;
        reached(&table, 0, 9).await.expect("it goes on behind it");
        send(&stream, 0, vec![batch(10, Codec::None, &["b=2"])]).await;
        reached(&table, 0, 10).await.expect("kept up to date");
        assert_eq!(contents(&table), ["a=1", "b=2"]);
        assert_eq!(table.stats().gaps, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_is_not_what_it_says_ends_a_table_and_is_named() {
    let (mut broker, client) = Broker::start(1);
    let flipped = v1::Batch { crc32: 1, ..batch(2, Codec::Lz4, &["a=2", "b=2"]) };
    let (stream, table) = open(&mut broker, &client, TableBuilder::accept_gaps).await;
    send(&stream, 0, vec![batch(0, Codec::Lz4, &["a=1", "b=1"]), flipped]).await;
    let Err(TableError::Subscribe(error)) = reached(&table, 0, 3).await else { panic!("damaged") };
    assert!(matches!(*error, SubscribeError::Decode(DecodeError::Checksum { from: 2, to: 4, .. })), "{error}");
    assert!(table.get("a").is_err(), "it may have another value now");

    let records = bytes::Bytes::from_static(b"\xff\xff\xff no records");
    let nonsense = v1::Batch { crc32: crc32fast::hash(&records), records, ..batch(0, Codec::None, &["a=1"]) };
    let (stream, table) = open(&mut broker, &client, |table| table).await;
    send(&stream, 0, vec![nonsense]).await;
    let ended = reached(&table, 0, 0).await;
    assert!(matches!(ended, Err(TableError::Subscribe(_))), "{ended:?}");
}
