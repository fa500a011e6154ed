//! Publishing: pipelining, broken streams, duplicates, gaps, holds.

use std::time::Duration;

use aqueduct_client::{
    Codec, FlushError, Idempotence, PublishError, Record,
    proto::{self as v1, outcome, publish_request::Payload, publish_result, publish_stream_response::Event},
};
use tonic::{Code, Status};

use crate::fake::{Broker, Publishing, TOPIC_ID, status};

/// What a request says: its id, its sequence and how many records it has.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    request_id: u64,
    sequence: u64,
    records: u32,
}

async fn seen(stream: &mut Publishing) -> Seen {
    let request = stream.request().await.expect("a request");
    let Some(Payload::Batch(batch)) = request.payload else { panic!("a batch") };
    assert_eq!(batch.crc32, crc32fast::hash(&batch.records));
    let sequence = request.producer.map_or(u64::MAX, |producer| producer.sequence);
    Seen { request_id: request.request_id, sequence, records: batch.record_count }
}

fn outcome(request_id: u64, outcome: publish_result::Outcome) -> v1::PublishStreamResponse {
    let result = v1::PublishResult { partition: 0, record_indexes: Vec::new(), outcome: Some(outcome) };
    let response = outcome::Outcome::Response(v1::PublishResponse { results: vec![result] });
    v1::PublishStreamResponse { event: Some(Event::Outcome(v1::Outcome { request_id, outcome: Some(response) })) }
}

fn ack(seen: &Seen, duplicate: bool) -> v1::PublishStreamResponse {
    let ack = v1::PublishAck {
        topic: "orders".into(),
        topic_id: TOPIC_ID.to_vec().into(),
        base_offset: 1_000 + seen.sequence,
        record_count: seen.records,
        append_time_us: 5,
        durability: v1::Durability::Fsync.into(),
        duplicate,
        ..Default::default()
    };
    outcome(seen.request_id, publish_result::Outcome::Ack(ack))
}

fn refusal(seen: &Seen, code: Code, reason: &str) -> v1::PublishStreamResponse {
    outcome(seen.request_id, publish_result::Outcome::Error(status(code, reason)))
}

#[tokio::test(start_paused = true)]
async fn one_await_gives_a_receipt_that_says_where() {
    let (mut broker, client) = Broker::start(1);
    let publish = tokio::spawn({
        let client = client.clone();
        async move { client.publish("orders", Record::new("x").key("customer-7")).await }
    });
    let mut stream = broker.publishing().await;
    let first = stream.request().await.expect("a request");
    assert_eq!((first.topic.as_str(), &first.topic_id[..]), ("orders", &TOPIC_ID[..]));
    stream.answer(ack(&Seen { request_id: first.request_id, sequence: 0, records: 1 }, false)).await;
    let receipt = publish.await.expect("no panic").expect("stored");
    assert_eq!(receipt.to_string(), "orders/0@1000");
    client.close(Duration::from_secs(5)).await.expect("closes");
    assert!(matches!(client.publish("orders", Record::new("y")).await, Err(PublishError::Closed { .. })));
}

#[tokio::test(start_paused = true)]
async fn batches_are_pipelined_and_answers_find_their_tickets() {
    let (mut broker, client) = Broker::start(1);
    let producer = client.producer("orders").batch_records_max(2).codec(Codec::Zstd).build().await.expect("builds");
    let mut tickets = Vec::new();
    for index in 0..6 {
        tickets.push(producer.enqueue(Record::new(format!("{index}"))).await.expect("admitted"));
    }
    let mut stream = broker.publishing().await;
    let batches = [seen(&mut stream).await, seen(&mut stream).await, seen(&mut stream).await];
    assert_eq!(batches.each_ref().map(|batch| (batch.sequence, batch.records)), [(0, 2), (2, 2), (4, 2)]);
    for batch in &batches {
        stream.answer(ack(batch, false)).await;
    }
    for (offset, ticket) in (1_000..).zip(tickets) {
        assert_eq!(ticket.await.expect("stored").offset, offset);
    }
    assert_eq!((producer.stats().records_stored, producer.stats().buffered_bytes), (6, 0));
}

#[tokio::test(start_paused = true)]
async fn after_a_broken_stream_the_same_sequences_come_again_and_duplicates_are_flagged() {
    let (mut broker, client) = Broker::start(1);
    let producer = client.producer("orders").batch_records_max(2).build().await.expect("builds");
    let ticket = producer.enqueue_all((0..4).map(|_| Record::new("x"))).await.expect("admitted");
    let mut stream = broker.publishing().await;
    assert_eq!([seen(&mut stream).await.sequence, seen(&mut stream).await.sequence], [0, 2]);
    // The first batch is stored, but its answer is lost.
    drop(stream);
    let mut stream = broker.publishing().await;
    let again = [seen(&mut stream).await, seen(&mut stream).await];
    assert_eq!(again.each_ref().map(|batch| batch.sequence), [0, 2]);
    stream.answer(ack(&again[0], true)).await;
    stream.answer(ack(&again[1], false)).await;
    let receipts = ticket.await.expect("stored");
    assert_eq!(receipts.iter().map(|range| range.receipt.duplicate).collect::<Vec<_>>(), [true, false]);
    assert_eq!(receipts.iter().map(ToString::to_string).collect::<Vec<_>>(), ["orders/0@1000+2", "orders/0@1002+2"]);
    assert_eq!((producer.stats().duplicates, producer.stats().reconnects), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn a_gap_rewinds_to_the_batch_that_failed() {
    let (mut broker, client) = Broker::start(1);
    let producer = client.producer("orders").batch_records_max(1).build().await.expect("builds");
    let ticket = producer.enqueue_all((0..3).map(|_| Record::new("x"))).await.expect("admitted");
    let mut stream = broker.publishing().await;
    let sent = [seen(&mut stream).await, seen(&mut stream).await, seen(&mut stream).await];
    stream.answer(refusal(&sent[0], Code::Unavailable, "PARTITION_UNAVAILABLE")).await;
    stream.answer(refusal(&sent[1], Code::FailedPrecondition, "SEQUENCE_GAP")).await;
    stream.answer(refusal(&sent[2], Code::FailedPrecondition, "SEQUENCE_GAP")).await;
    for sequence in 0..3 {
        let batch = seen(&mut stream).await;
        assert_eq!(batch.sequence, sequence);
        stream.answer(ack(&batch, false)).await;
    }
    assert_eq!(ticket.await.expect("stored").len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_refused_record_comes_back_and_the_next_ones_are_stored() {
    let (mut broker, client) = Broker::start(1);
    let producer = client.producer("orders").batch_records_max(1).build().await.expect("builds");
    let refused = producer.enqueue(Record::new("too large").key("k")).await.expect("admitted");
    let stored = producer.enqueue(Record::new("fine")).await.expect("admitted");
    let mut stream = broker.publishing().await;
    let sent = [seen(&mut stream).await, seen(&mut stream).await];
    stream.answer(refusal(&sent[0], Code::InvalidArgument, "TOO_LARGE")).await;
    stream.answer(refusal(&sent[1], Code::FailedPrecondition, "SEQUENCE_GAP")).await;
    let error = refused.await.expect_err("refused");
    assert_eq!(error.culprit(), Some("billing"));
    assert_eq!(error.into_record(), Some(Record::new("too large").key("k")));
    let again = seen(&mut stream).await;
    assert_eq!(again.sequence, 0);
    stream.answer(ack(&again, false)).await;
    assert!(stored.await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_held_producer_says_who_holds_it_and_goes_on_when_resumed() {
    let (mut broker, client) = Broker::start(1);
    let producer = client.producer("orders").buffer_bytes_max(64 * 1024).build().await.expect("builds");
    let first = producer.enqueue(Record::new("x")).await.expect("admitted");
    let mut stream = broker.publishing().await;
    let sent = seen(&mut stream).await;
    let hold = v1::Hold { reason: "GROUP_BACKLOG".into(), culprit: "billing".into(), retry_after_ms: 250 };
    stream.answer(v1::PublishStreamResponse { event: Some(Event::Hold(hold)) }).await;
    stream.answer(ack(&sent, false)).await;
    first.await.expect("stored");
    assert_eq!(producer.hold().map(|hold| hold.culprit), Some("billing".into()));

    let big = || Record::new(vec![0_u8; 40_000]);
    let second = producer.try_enqueue(big()).expect("room for one");
    let full = producer.try_enqueue(big()).expect_err("no room for two");
    assert_eq!((full.culprit(), full.retry_after()), (Some("billing"), Some(Duration::from_millis(250))));
    assert_eq!(full.into_record(), Some(big()));
    let third = tokio::spawn({
        let producer = producer.clone();
        async move { producer.publish(big()).await }
    });
    stream.answer(v1::PublishStreamResponse { event: Some(Event::Resume(v1::Resume {})) }).await;
    for _ in 0..2 {
        let sent = seen(&mut stream).await;
        stream.answer(ack(&sent, false)).await;
    }
    second.await.expect("stored");
    third.await.expect("no panic").expect("it had only waited");
    assert_eq!(producer.hold(), None);
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_never_answers_is_unknown_after_the_delivery_timeout_only() {
    let (mut broker, client) = Broker::start(1);
    let producer = client.producer("orders").build().await.expect("builds");
    let ticket = producer.enqueue(Record::new("x")).await.expect("admitted");
    let begun = tokio::time::Instant::now();
    let mut stream = broker.publishing().await;
    seen(&mut stream).await;
    let error = ticket.await.expect_err("nobody knows");
    assert!(matches!(error, PublishError::Unknown { after, .. } if after >= Duration::from_secs(30)), "{error}");
    assert!(begun.elapsed() >= Duration::from_secs(30));
    // Somebody else may be there by now.
    let next = producer.enqueue(Record::new("y")).await.expect("admitted");
    let mut stream = broker.publishing().await;
    let sent = seen(&mut stream).await;
    stream.answer(ack(&sent, false)).await;
    next.await.expect("stored");
}

#[tokio::test(start_paused = true)]
async fn flush_reports_what_dropped_tickets_would_have_said() {
    let (mut broker, client) = Broker::start(1);
    let producer = client.producer("orders").idempotence(Idempotence::Disabled).build().await.expect("builds");
    drop(producer.enqueue(Record::new("x")).await.expect("admitted"));
    let mut stream = broker.publishing().await;
    let sent = seen(&mut stream).await;
    assert_eq!(sent.sequence, u64::MAX, "no sequence");
    stream.answer(refusal(&sent, Code::ResourceExhausted, "DISK_FULL")).await;
    let FlushError::Failed { records, first } = producer.flush().await.expect_err("not stored");
    assert!(matches!(*first, PublishError::Rejected { .. }));
    assert_eq!(records, 1);
    producer.flush().await.expect("said once");
}

#[tokio::test(start_paused = true)]
async fn a_dropped_producer_still_sends_what_it_has_admitted() {
    let (mut broker, client) = Broker::start(1);
    let producer = client.producer("orders").linger(Duration::from_secs(3600)).build().await.expect("builds");
    let ticket = producer.enqueue(Record::new("x")).await.expect("admitted");
    drop(producer);
    let mut stream = broker.publishing().await;
    let sent = seen(&mut stream).await;
    stream.answer(ack(&sent, false)).await;
    ticket.await.expect("stored");
    assert!(stream.request().await.is_none(), "and ends its stream");
}

#[tokio::test(start_paused = true)]
async fn a_topic_that_does_not_exist_gives_the_record_back() {
    let (_broker, client) = Broker::start(1);
    let error = client.publish("invoices", Record::new("x")).await.expect_err("unknown");
    assert_eq!(error.broker().map(|broker| broker.code), Some(Code::NotFound));
    assert_eq!(error.into_record(), Some(Record::new("x")));
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_refused_as_a_whole_ends_everything() {
    let (mut broker, client) = Broker::start(1);
    let producer = client.producer("orders").build().await.expect("builds");
    let ticket = producer.enqueue(Record::new("x")).await.expect("admitted");
    broker.publishing().await.fail(Status::failed_precondition("another topic of that name")).await;
    assert!(matches!(ticket.await, Err(PublishError::Rejected { .. } | PublishError::Unknown { .. })));
}

#[tokio::test(start_paused = true)]
async fn requests_that_change_nothing_are_tried_again() {
    let (_broker, client) = Broker::start(1);
    assert_eq!(client.info().await.expect("the third attempt").version, "1");
    let lag = client.group("billing").lag("orders").await.expect("lag");
    assert_eq!((lag.len(), lag[0].lag_records), (1, 5));
}
