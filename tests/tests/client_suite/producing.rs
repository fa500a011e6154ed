//! Producers.

use std::{collections::BTreeMap, time::Duration};

use aqueduct_client::{FlushError, PublishError, Record, partition_for_key};
use aqueduct_tests::{Refusal, by_partition, read_all, text, within};
use tonic::Code;

use crate::stage::Stage;

pub(crate) async fn tickets_come_back_in_order_with_adjacent_offsets(stage: Stage) {
    stage.topic("orders", 1).await;
    let producer = stage.client.producer("orders").build().await.expect("a producer");
    let mut tickets = Vec::new();
    for number in 0..5000 {
        tickets.push(producer.enqueue(Record::new(number.to_string())).await.expect("room"));
    }
    producer.flush().await.expect("all stored");
    for (offset, ticket) in (0..).zip(tickets) {
        let receipt = within("a receipt", ticket).await.expect("a receipt");
        assert_eq!((receipt.offset, receipt.partition, receipt.duplicate), (offset, 0, false));
        assert_eq!(receipt.to_string(), format!("orders/0@{offset}"));
    }
    let stats = producer.stats();
    assert_eq!((stats.records_stored, stats.records_failed, stats.duplicates), (5000, 0, 0));
    let expected: Vec<String> = (0..5000).map(|number| number.to_string()).collect();
    assert_eq!(read_all(&stage.client, "orders").await.iter().map(text).collect::<Vec<_>>(), expected);
}

pub(crate) async fn equal_keys_share_a_partition_and_keep_their_order(stage: Stage) {
    stage.topic("orders", 5).await;
    let producer = stage.client.producer("orders").batch_records_max(7).build().await.expect("a producer");
    let key = |number: usize| format!("customer-{}", number % 31);
    let records = (0..2000).map(|number| Record::new(number.to_string()).key(key(number)));
    producer.publish_all(records).await.expect("receipts");
    let mut last = BTreeMap::<Vec<u8>, usize>::new();
    let partitions = by_partition(read_all(&stage.client, "orders").await);
    assert_eq!(partitions.len(), 5);
    assert_eq!(partitions.values().map(Vec::len).sum::<usize>(), 2000);
    for (partition, events) in partitions {
        for event in events {
            let (key, number) = (event.key().expect("a key").to_vec(), text(&event).parse().expect("a number"));
            assert_eq!(partition, partition_for_key(&key, 5));
            let before = last.insert(key, number);
            assert!(before < Some(number), "{number} came after {before:?}");
        }
    }
}

pub(crate) async fn many_records_get_one_receipt_per_run(stage: Stage) {
    stage.topic("orders", 3).await;
    let producer = stage.client.producer("orders").build().await.expect("a producer");
    let records: Vec<Record> =
        (0..1000).map(|number| Record::new(number.to_string()).key((number % 10).to_string())).collect();
    let ranges = producer.publish_all(records).await.expect("receipts");
    let mut promised: Vec<(u32, u64)> =
        ranges.iter().flat_map(|range| range.receipts()).map(|receipt| (receipt.partition, receipt.offset)).collect();
    let mut stored: Vec<(u32, u64)> =
        read_all(&stage.client, "orders").await.iter().map(|event| (event.partition, event.offset)).collect();
    promised.sort_unstable();
    stored.sort_unstable();
    assert_eq!(promised, stored);
    assert!(ranges.len() < 1000);
}

pub(crate) async fn a_full_buffer_gives_the_record_back(stage: Stage) {
    stage.topic("orders", 1).await;
    let producer = stage.client.producer("orders").buffer_bytes_max(64 * 1024).linger(Duration::from_secs(3600));
    let producer = producer.build().await.expect("a producer");
    let mut tickets = Vec::new();
    let refused = loop {
        match producer.try_enqueue(Record::new(vec![b'x'; 10_000]).key("k")) {
            Ok(ticket) => tickets.push(ticket),
            Err(error) => break error,
        }
        assert!(tickets.len() < 1000, "a buffer of 64 KiB takes everything");
    };
    assert!(matches!(&refused, PublishError::Full { buffer_bytes_max: 65_536, .. }), "{refused}");
    let record = refused.into_record().expect("the record comes back");
    assert_eq!((record.key.as_deref(), record.value.map(|value| value.len())), (Some(&b"k"[..]), Some(10_000)));
    producer.flush().await.expect("all stored");
    producer.try_enqueue(Record::new("small")).expect("there is room again").await_with(&producer).await;
    assert_eq!(read_all(&stage.client, "orders").await.len(), tickets.len() + 1);
}

/// A ticket of a producer that lingers for an hour.
trait AwaitWith {
    async fn await_with(self, producer: &aqueduct_client::Producer);
}

impl AwaitWith for aqueduct_client::Ticket {
    async fn await_with(self, producer: &aqueduct_client::Producer) {
        producer.flush().await.expect("all stored");
        within("a receipt", self).await.expect("a receipt");
    }
}

pub(crate) async fn whoever_waits_for_room_makes_a_lingering_batch_go(stage: Stage) {
    stage.topic("orders", 1).await;
    let producer = stage.client.producer("orders").buffer_bytes_max(64 * 1024).linger(Duration::from_secs(3600));
    let producer = producer.build().await.expect("a producer");
    let enqueue_twenty = async {
        for number in 0..20 {
            drop(producer.enqueue(Record::new(vec![number; 10_000])).await.expect("room, in time"));
        }
    };
    within("200 KB through a buffer of 64 KiB", enqueue_twenty).await;
    producer.flush().await.expect("all stored");
    assert_eq!(read_all(&stage.client, "orders").await.len(), 20);
}

pub(crate) async fn flush_reports_failures_of_dropped_tickets(stage: Stage) {
    stage.topic("doomed", 1).await;
    let producer = stage.client.producer("doomed").build().await.expect("a producer");
    producer.publish(Record::new("a")).await.expect("a receipt");
    stage.client.topics().delete("doomed").await.expect("deleted");
    drop(producer.enqueue(Record::new("b")).await.expect("room"));
    let FlushError::Failed { records, first } =
        producer.flush().await.expect_err("the ticket was dropped, not the event");
    assert_eq!(records, 1);
    Refusal::of::<(), _>(Err(*first)).expect(Code::NotFound, "TOPIC_NOT_FOUND");
    producer.flush().await.expect("it is told once");
}

pub(crate) async fn a_named_producer_fences_its_predecessor(stage: Stage) {
    stage.topic("orders", 1).await;
    let other = stage.another_client().await;
    let old = stage.client.producer("orders").name("importer").build().await.expect("a producer");
    old.publish(Record::new("old")).await.expect("a receipt");
    let new = other.producer("orders").name("importer").build().await.expect("a producer");
    // The opening alone fences: nobody has published in the new epoch yet.
    Refusal::of(old.publish(Record::new("zombie")).await).expect(Code::FailedPrecondition, "PRODUCER_FENCED");
    new.publish(Record::new("new")).await.expect("a receipt");
    Refusal::of(old.publish(Record::new("zombie")).await).expect(Code::FailedPrecondition, "PRODUCER_FENCED");
    new.publish(Record::new("newer")).await.expect("a receipt");
    let events = read_all(&stage.client, "orders").await;
    assert_eq!(events.iter().map(text).collect::<Vec<_>>(), ["old", "new", "newer"]);
}

pub(crate) async fn a_named_producer_goes_on_where_it_left_off(stage: Stage) {
    stage.topic("orders", 2).await;
    for round in 0..5 {
        let producer = stage.client.producer("orders").name("importer").build().await.expect("a producer");
        for number in 0..10 {
            let record = Record::new(format!("{round} {number}")).key(number.to_string());
            assert!(!producer.publish(record).await.expect("a receipt").duplicate);
        }
        producer.close().await.expect("a clean end");
    }
    assert_eq!(read_all(&stage.client, "orders").await.len(), 50);
}

pub(crate) async fn a_record_over_the_limit_comes_back_and_the_producer_goes_on(stage: Stage) {
    stage.topic("orders", 1).await;
    let producer = stage.client.producer("orders").build().await.expect("a producer");
    let limit = usize::try_from(stage.client.info().await.expect("an answer").limits.record_bytes_max).expect("a size");
    let error = producer.publish(Record::new(vec![0; limit + 1])).await.expect_err("too large");
    assert_eq!(error.record().and_then(|record| record.value.as_ref()).map(|value| value.len()), Some(limit + 1));
    Refusal::of::<(), _>(Err(error)).expect(Code::InvalidArgument, "TOO_LARGE");
    assert_eq!(producer.publish(Record::new("small")).await.expect("a receipt").offset, 0);
    // As large as the limit allows: the framing of a record counts.
    producer.publish(Record::new(vec![0; limit - 16])).await.expect("a receipt");
}

pub(crate) async fn an_unknown_topic_is_refused_with_a_hint(stage: Stage) {
    let error = stage.client.publish("nowhere", Record::new("x")).await.expect_err("no such topic");
    assert!(error.record().is_some(), "the record comes back");
    let refusal = Refusal::of::<(), _>(Err(error)).expect(Code::NotFound, "TOPIC_NOT_FOUND");
    assert!(refusal.message.contains("aqueduct topic create nowhere"), "{}", refusal.message);
    stage.topic("nowhere", 1).await;
    stage.client.publish("nowhere", Record::new("x")).await.expect("now there is one");
}

pub(crate) async fn a_closed_client_sends_nothing_more(stage: Stage) {
    stage.topic("orders", 1).await;
    let client = stage.another_client().await;
    let producer = client.producer("orders").linger(Duration::from_secs(3600)).build().await.expect("a producer");
    let ticket = producer.enqueue(Record::new("admitted")).await.expect("room");
    client.close(Duration::from_secs(10)).await.expect("a clean end");
    within("what was admitted is sent", ticket).await.expect("a receipt");
    let error = producer.publish(Record::new("late")).await.expect_err("the client is closed");
    assert!(matches!(&error, PublishError::Closed { record: Some(_) }), "{error}");
    assert!(matches!(client.publish("orders", Record::new("late")).await, Err(PublishError::Closed { .. })));
    assert_eq!(read_all(&stage.client, "orders").await.len(), 1);
}
