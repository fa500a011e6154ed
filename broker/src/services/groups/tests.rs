//! The service through the client, inside the process.

use std::{collections::BTreeSet, time::Duration};

use aqueduct_client::{Client, Consumer, Delivery, GroupMode, GroupPolicy, OnExhausted, Record, RetryPolicy, Start};
use tokio::time::timeout;
use tonic::Code;

use crate::testing::TestBroker;

const PATIENCE: Duration = Duration::from_secs(20);

async fn with_events(count: u32) -> (TestBroker, Client) {
    let broker = TestBroker::start().await.expect("the broker starts");
    let client = broker.client();
    client.topics().create("orders").partitions(3).build().await.expect("the topic is made");
    let producer = client.producer("orders").build().await.expect("a producer");
    for number in 0..count {
        let record = Record::new(number.to_string()).key(format!("key-{number}"));
        drop(producer.enqueue(record).await.expect("there is room"));
    }
    producer.flush().await.expect("all are durable");
    (broker, client)
}

async fn next(consumer: &mut Consumer) -> Delivery {
    let delivery = timeout(PATIENCE, consumer.next()).await.expect("something comes in time");
    delivery.expect("the stream goes on").expect("a delivery")
}

fn number(delivery: &Delivery) -> u32 {
    let value = delivery.event().record.value.as_deref().expect("a value");
    std::str::from_utf8(value).expect("a number").parse().expect("a number")
}

#[tokio::test]
async fn a_group_reads_every_event_once_across_a_restart_of_the_broker() {
    let (broker, client) = with_events(300).await;
    let mut seen = BTreeSet::new();
    let mut consumer = client.consumer("orders", "billing").build().await.expect("it joins");
    while seen.len() < 100 {
        let delivery = next(&mut consumer).await;
        assert!(seen.insert(number(&delivery)));
        delivery.ack_durable().await.expect("the ack is durable");
    }
    drop(consumer);

    let broker = broker.restart().await.expect("the broker starts again");
    let client = broker.client();
    let mut consumer = client.consumer("orders", "billing").build().await.expect("it joins");
    while seen.len() < 300 {
        let delivery = next(&mut consumer).await;
        assert!(seen.insert(number(&delivery)), "{} was acked before the restart", number(&delivery));
        delivery.ack();
    }
    consumer.close().await.expect("what was acked is settled");
    let lag = client.group("billing").lag("orders").await.expect("the lag is told");
    assert_eq!(lag.len(), 3);
    assert!(lag.iter().all(|lag| lag.lag_records == 0 && lag.committed_offset == lag.high_watermark), "{lag:?}");
    let description = client.topics().describe("orders").await.expect("the topic is described");
    assert_eq!(description.groups, ["billing"]);
}

#[tokio::test]
async fn refusals_carry_a_code_and_a_reason() {
    let (_broker, client) = with_events(10).await;
    let group = client.group("billing");
    let reason = |error: aqueduct_client::RequestError| {
        let broker = error.broker().expect("the broker refused it");
        (broker.code, broker.reason.clone().unwrap_or_default())
    };
    let is = |code, expected: &str| (code, expected.to_owned());

    let unknown = group.describe().await.expect_err("it does not exist");
    assert_eq!(reason(unknown), is(Code::NotFound, "GROUP_NOT_FOUND"));
    let retry = RetryPolicy { on_exhausted: Some(OnExhausted::Halt), ..RetryPolicy::default() };
    let halting = GroupPolicy { mode: Some(GroupMode::Shared), retry, ..GroupPolicy::default() };
    let contradicts_itself = group.create(halting).await.expect_err("others would wait");
    assert_eq!(reason(contradicts_itself), is(Code::InvalidArgument, "INVALID_REQUEST"));
    let named = client.group("a/b").create(GroupPolicy::default()).await.expect_err("not a name");
    assert_eq!(reason(named), is(Code::InvalidArgument, "INVALID_NAME"));

    group.create(GroupPolicy::default()).await.expect("it is made");
    let again = group.create(GroupPolicy::default()).await.expect_err("it exists");
    assert_eq!(reason(again), is(Code::AlreadyExists, "GROUP_EXISTS"));
    let beyond = group.commit("orders", [(0, 1_000_000)]).await.expect_err("beyond the log");
    assert_eq!(reason(beyond), is(Code::OutOfRange, "OFFSET_OUT_OF_RANGE"));
    group.commit("orders", [(0, 1)]).await.expect("it is committed");
    let back = group.commit("orders", [(0, 0)]).await.expect_err("backwards");
    assert_eq!(reason(back), is(Code::FailedPrecondition, "COMMIT_BACKWARDS"));

    let mut consumer = client.consumer("orders", "billing").build().await.expect("it joins");
    next(&mut consumer).await.ack();
    let active = group.reset("orders").to(Start::Earliest).build().await.expect_err("a member is active");
    assert_eq!(reason(active), is(Code::FailedPrecondition, "MEMBERS_ACTIVE"));
    let used = client.topics().delete("orders").await.expect_err("a group consumes it");
    assert_eq!(reason(used), is(Code::FailedPrecondition, "TOPIC_IN_USE"));
}

#[tokio::test]
async fn lag_is_reported_at_once_and_then_at_intervals() {
    let (_broker, client) = with_events(30).await;
    client.group("billing").create(GroupPolicy::default()).await.expect("it is made");
    let reset = client.group("billing").reset("orders").to(Start::Earliest).build().await.expect("it is reset");
    assert_eq!(reset.len(), 3);
    let mut watch = client.groups().watch_lag(Duration::from_millis(100)).await.expect("lag is watched");
    for _ in 0..2 {
        let report = timeout(PATIENCE, watch.next()).await.expect("a report comes in time");
        let report = report.expect("the stream goes on").expect("a report");
        assert_eq!(report.iter().map(|lag| lag.lag_records).sum::<u64>(), 30);
        assert!(report.iter().all(|lag| lag.lag_records == 0 || (lag.lag_seconds > 0.0 && lag.lag_bytes > 0)));
    }
}
