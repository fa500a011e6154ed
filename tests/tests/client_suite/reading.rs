//! Subscriptions and fetches.

use std::time::Duration;

use aqueduct_client::{Codec, Event, FetchError, GapReason, Item, Record, Start, SubscribeError, Timestamp};
use aqueduct_tests::{Refusal, drain, read_all, text, within};
use tonic::Code;

use crate::stage::Stage;

/// Keys and values that are absent, empty, binary and large, headers that repeat, times before and after the epoch.
fn awkward_records() -> Vec<Record> {
    let every_byte: Vec<u8> = (0..=255).collect();
    vec![
        Record::default(),
        Record::new(""),
        Record::new(every_byte.clone()).key(every_byte.clone()),
        Record::tombstone("gone"),
        Record::tombstone(""),
        Record::new("h")
            .header("a", "1")
            .header("b", every_byte)
            .header("a", "2")
            .header("a", "")
            .header("", "nameless"),
        Record::new("past").timestamp(Timestamp::from_micros(-1)),
        Record::new("epoch").timestamp(Timestamp::from_micros(0)),
        Record::new("future").timestamp(Timestamp::from_micros(i64::MAX)).key("clé ключ 鍵"),
        Record::new(vec![7; 600_000]),
    ]
}

pub(crate) async fn every_part_of_a_record_comes_back(stage: Stage) {
    stage.topic("awkward", 1).await;
    let records = awkward_records();
    let receipts = stage.client.publish_many("awkward", records.clone()).await.expect("receipts");
    assert_eq!(receipts.iter().map(|receipt| receipt.offset).collect::<Vec<_>>(), (0..10).collect::<Vec<_>>());

    let subscribed = read_all(&stage.client, "awkward").await;
    assert_eq!(subscribed.iter().map(|event| event.record.clone()).collect::<Vec<_>>(), records);
    for (event, receipt) in subscribed.iter().zip(&receipts) {
        assert_eq!((event.offset, event.append_time), (receipt.offset, receipt.append_time));
    }

    let mut fetched = Vec::<Event>::new();
    while fetched.len() < records.len() {
        let answer =
            stage.client.fetch("awkward", 0, fetched.len() as u64).max_bytes(1).build().await.expect("a batch");
        assert_eq!((answer.log_start, answer.high_watermark), (0, 10));
        fetched.extend(answer.events().map(|event| event.expect("an event")));
    }
    assert_eq!(fetched, subscribed);
}

pub(crate) async fn batches_of_every_codec_come_back(stage: Stage) {
    stage.topic("codecs", 1).await;
    let mut expected = Vec::new();
    for codec in [Codec::None, Codec::Lz4, Codec::Zstd] {
        let records: Vec<Record> = (0..500_u32)
            .map(|number| {
                Record::new(format!("{codec} {number} {}", "abc".repeat(40))).key(vec![
                    0xff,
                    0,
                    number.to_le_bytes()[0],
                ])
            })
            .collect();
        let producer = stage.client.producer("codecs").codec(codec).build().await.expect("a producer");
        producer.publish_all(records.clone()).await.expect("receipts");
        expected.extend(records);
    }
    let events = read_all(&stage.client, "codecs").await;
    assert_eq!(events.into_iter().map(|event| event.record).collect::<Vec<_>>(), expected);
    let size = stage.client.topics().describe("codecs").await.expect("a description").partitions[0].size_bytes;
    let plain: usize = expected.iter().map(Record::encoded_len).sum();
    assert!(size < plain as u64, "{size} bytes on disk: nothing was compressed, {plain} went in");
}

pub(crate) async fn history_is_replayed_from_an_offset(stage: Stage) {
    stage.topic("numbers", 2).await;
    stage.publish_numbers("numbers", 1000).await;
    for from in [0, 1, 499, 999, 1000] {
        let from_offset = stage.client.subscribe("numbers").partition_from(0, Start::Offset(from)).until_end();
        let events = drain(from_offset.build().await.expect("a subscription")).await;
        let expected: Vec<String> = (from..1000).map(|number| number.to_string()).collect();
        assert_eq!(events.iter().map(text).collect::<Vec<_>>(), expected, "from {from}");
    }
    let piece = stage.client.subscribe("numbers").partition_from(0, Start::Offset(10)).until(0, 15);
    let events = drain(piece.build().await.expect("a subscription")).await;
    assert_eq!(events.iter().map(|event| event.offset).collect::<Vec<_>>(), [10, 11, 12, 13, 14]);
}

pub(crate) async fn history_is_replayed_from_a_time(stage: Stage) {
    stage.topic("times", 1).await;
    let mut receipts = Vec::new();
    for number in 0..40 {
        receipts.push(stage.client.publish("times", Record::new(number.to_string())).await.expect("a receipt"));
    }
    let (first, last) = (receipts[0].append_time, receipts[39].append_time);
    assert!(receipts.is_sorted_by_key(|receipt| receipt.append_time));
    let just_after = |time: Timestamp| Timestamp::from_micros(time.as_micros() + 1);
    for time in [Timestamp::from_micros(0), first, receipts[20].append_time, last, just_after(last)] {
        let expected: Vec<u64> =
            receipts.iter().filter(|receipt| receipt.append_time >= time).map(|receipt| receipt.offset).collect();
        let from_time = stage.client.subscribe("times").from(Start::Time(time)).until_end();
        let events = drain(from_time.build().await.expect("a subscription")).await;
        assert_eq!(events.iter().map(|event| event.offset).collect::<Vec<_>>(), expected, "from {time:?}");
    }
}

pub(crate) async fn until_end_stops_at_what_was_there(stage: Stage) {
    stage.topic("numbers", 3).await;
    assert_eq!(read_all(&stage.client, "numbers").await.len(), 0);
    stage.publish_numbers("numbers", 100).await;
    let bounded = stage.client.subscribe("numbers").from(Start::Earliest).until_end();
    let bounded = bounded.build().await.expect("a subscription");
    stage.publish_numbers("numbers", 100).await;
    assert_eq!(drain(bounded).await.len(), 100);
    assert_eq!(read_all(&stage.client, "numbers").await.len(), 200);
}

pub(crate) async fn latest_sees_only_what_comes_afterwards(stage: Stage) {
    stage.topic("news", 1).await;
    stage.publish_numbers("news", 10).await;
    let mut live = stage.client.subscribe("news").build().await.expect("a subscription");
    stage.client.publish("news", Record::new("new")).await.expect("a receipt");
    let event = within("the new event", live.next()).await.expect("no end").expect("an event");
    assert_eq!((event.offset, text(&event)), (10, "new"));
}

pub(crate) async fn a_fetch_waits_for_the_first_record(stage: Stage) {
    stage.topic("quiet", 1).await;
    let at_once = stage.client.fetch("quiet", 0, 0).build().await.expect("an answer");
    assert_eq!((at_once.batches.len(), at_once.high_watermark), (0, 0));
    let waiting = stage.client.fetch("quiet", 0, 0).max_wait(Duration::from_secs(60)).build();
    let (fetched, receipt) =
        tokio::join!(within("the answer", waiting), stage.client.publish("quiet", Record::new("hush")));
    let fetched = fetched.expect("an answer");
    let events: Vec<Event> = fetched.events().map(|event| event.expect("an event")).collect();
    assert_eq!(events.iter().map(text).collect::<Vec<_>>(), ["hush"]);
    assert_eq!(fetched.next_offset, receipt.expect("a receipt").offset + 1);
}

pub(crate) async fn an_offset_outside_the_log_is_answered_with_the_valid_range(stage: Stage) {
    stage.topic("numbers", 1).await;
    for round in 0..10 {
        stage.publish_numbers("numbers", round + 1).await;
    }
    let log_start = stage.client.topics().truncate("numbers", 0, 20).await.expect("truncated");
    assert_eq!(log_start, 20);
    for outside in [0, 19, 56, u64::MAX] {
        match stage.client.fetch("numbers", 0, outside).build().await.expect_err("an offset outside") {
            FetchError::OffsetOutOfRange(range) => {
                assert_eq!((range.requested, range.log_start, range.high_watermark), (Some(outside), 20, 55));
            }
            other => panic!("fetching at {outside}: {other}"),
        }
        let subscription = stage.client.subscribe("numbers").from(Start::Offset(outside)).build().await;
        match subscription {
            Err(SubscribeError::OffsetOutOfRange(range)) if outside > 55 => {
                assert_eq!((range.requested, range.log_start, range.high_watermark), (Some(outside), 20, 55));
            }
            // What is gone is a gap: a reader that comes back resumes exactly, and is told what it has missed.
            Ok(mut started) if outside < 20 => {
                match within("the first item", started.next_item()).await.expect("no end").expect("a gap") {
                    Item::Gap(gap) => assert_eq!((gap.from, gap.to, gap.reason), (outside, 20, GapReason::Retention)),
                    other => panic!("subscribing at {outside}: {other:?}"),
                }
            }
            other => panic!("subscribing at {outside}: {other:?}"),
        }
    }
    assert_eq!(read_all(&stage.client, "numbers").await.len(), 35);
}

pub(crate) async fn what_is_truncated_under_a_reader_is_a_gap(stage: Stage) {
    const RECORDS: u64 = 20_000;
    let topic = stage.client.topics().create("numbers").segment_bytes(64 * 1024);
    topic.build().await.expect("a new topic");
    let producer = stage.client.producer("numbers").batch_bytes_max(32 * 1024).build().await.expect("a producer");
    let stored = producer.publish_all((0..RECORDS).map(|_| Record::new(vec![b'x'; 1000]))).await;
    stored.expect("receipts");

    let mut reader =
        stage.client.subscribe("numbers").from(Start::Earliest).until_end().build().await.expect("a reader");
    let first = within("the first event", reader.next()).await.expect("no end").expect("an event");
    assert_eq!(first.offset, 0);
    stage.client.topics().truncate("numbers", 0, RECORDS - 10).await.expect("truncated");
    let (mut expected, mut gaps) = (1, 0);
    while let Some(item) = within("the next item", reader.next_item()).await {
        match item.expect("an item") {
            Item::Event(event) => {
                assert_eq!(event.offset, expected);
                expected += 1;
            }
            Item::Gap(gap) => {
                assert_eq!((gap.from, gap.to, gap.reason), (expected, RECORDS - 10, GapReason::Retention));
                gaps += 1;
                expected = gap.to;
            }
            Item::CaughtUp { .. } | Item::End { .. } | Item::Reconnected => {}
        }
    }
    assert_eq!((expected, gaps), (RECORDS, 1), "every record, or the gap that says which are gone");
    assert_eq!(reader.stats().gaps, 1);
}

pub(crate) async fn a_topic_made_again_is_another_topic(stage: Stage) {
    let first = stage.topic("phoenix", 1).await;
    stage.publish_numbers("phoenix", 5).await;
    let producer = stage.client.producer("phoenix").build().await.expect("a producer");
    producer.publish(Record::new("before")).await.expect("a receipt");
    stage.client.topics().delete("phoenix").await.expect("deleted");
    let second = stage.topic("phoenix", 1).await;
    assert_ne!(first.id, second.id);

    let stale = stage.client.fetch("phoenix", 0, 0).topic_id(first.id).build().await;
    Refusal::of(stale).expect(Code::FailedPrecondition, "TOPIC_ID_MISMATCH");
    let stale = producer.publish(Record::new("after")).await;
    Refusal::of(stale).expect(Code::FailedPrecondition, "TOPIC_ID_MISMATCH");
    let fresh = stage.client.publish("phoenix", Record::new("new")).await.expect("a receipt");
    assert_eq!((fresh.topic_id, fresh.offset), (second.id, 0));
    assert_eq!(read_all(&stage.client, "phoenix").await.len(), 1);
}

pub(crate) async fn a_topic_deleted_under_a_subscription_ends_it_with_an_error(stage: Stage) {
    stage.topic("doomed", 2).await;
    stage.publish_numbers("doomed", 3).await;
    let mut reader = stage.client.subscribe("doomed").from(Start::Earliest).build().await.expect("a subscription");
    for _ in 0..3 {
        within("an event", reader.next()).await.expect("no end").expect("an event");
    }
    stage.client.topics().delete_forced("doomed").await.expect("deleted");
    let error = within("the end", reader.next()).await.expect("an error comes before the end");
    Refusal::of(error).expect(Code::NotFound, "TOPIC_NOT_FOUND");
}

pub(crate) async fn closing_the_client_ends_streams_with_none(stage: Stage) {
    stage.topic("orders", 1).await;
    let client = stage.another_client().await;
    let mut reader = client.subscribe("orders").from(Start::Earliest).build().await.expect("a subscription");
    let mut consumer = client.consumer("orders", "billing").build().await.expect("a consumer");
    client.close(Duration::from_secs(10)).await.expect("a clean end");
    assert!(within("the end of the subscription", reader.next()).await.is_none());
    assert!(within("the end of the consumer", consumer.next()).await.is_none());
    let members = async || stage.client.group("billing").describe().await.expect("a description").members.len();
    aqueduct_tests::eventually("the member has left", async || (members().await == 0).then_some(())).await;
}
