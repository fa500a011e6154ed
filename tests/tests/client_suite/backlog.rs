//! Publishers that wait for a group, or are refused because of it.

use std::time::Duration;

use aqueduct_client::{Backlog, Client, Consumer, GroupPolicy, Hold, Producer, PublishError, Record, Ticket};
use aqueduct_tests::{Refusal, eventually, within};
use tonic::Code;

use crate::stage::{Stage, next};

/// A topic of one partition whose publishers are bound to the group `billing`, which exists.
async fn topic(stage: &Stage, name: &str, backlog: Backlog) {
    stage.client.group("billing").create(GroupPolicy::default()).await.expect("a new group");
    bound(stage, name, backlog).await;
}

async fn bound(stage: &Stage, name: &str, backlog: Backlog) {
    stage.client.topics().create(name).backlog(backlog).build().await.expect("a new topic");
}

async fn publish(client: &Client, topic: &str, count: usize) {
    for number in 0..count {
        within("a receipt", client.publish(topic, Record::new(number.to_string()))).await.expect("a receipt");
    }
}

async fn billing(client: &Client, topic: &str) -> Consumer {
    client.consumer(topic, "billing").build().await.expect("a consumer")
}

async fn handle(consumer: &mut Consumer, count: usize) {
    for _ in 0..count {
        next(consumer).await.ack_durable().await.expect("durable");
    }
}

async fn held(producer: &Producer) -> Hold {
    eventually("the producer is held", async || producer.hold()).await
}

/// A producer with one record on its way that is held.
async fn held_producer(client: &Client, topic: &str) -> (Producer, Ticket) {
    let producer = client.producer(topic).build().await.expect("a producer");
    let ticket = producer.enqueue(Record::new("late")).await.expect("room");
    held(&producer).await;
    (producer, ticket)
}

pub(crate) async fn publishers_wait_for_a_group_and_everybody_is_told(stage: Stage) {
    topic(&stage, "orders", Backlog::hold("billing").records(10)).await;
    let worker = stage.another_client().await;
    let mut consumer = billing(&worker, "orders").await;
    publish(&stage.client, "orders", 10).await;
    let (producer, ticket) = held_producer(&stage.client, "orders").await;
    let hold = held(&producer).await;
    assert_eq!(hold.reason, "GROUP_BACKLOG");
    let who = "group \"billing\", which is behind in topic \"orders\" by 10 records (bound 10)";
    assert_eq!(hold.culprit, who);
    assert!(hold.retry_after > Duration::ZERO);

    let described = stage.client.topics().describe("orders").await.expect("a description");
    assert_eq!(described.topic.config.backlog, Some(Backlog::hold("billing").records(10)));
    let [of_topic] = described.holds.as_slice() else { panic!("{:?}", described.holds) };
    let group = of_topic.group.as_ref().expect("it is a group");
    assert_eq!((of_topic.reason.as_str(), of_topic.culprit.as_str(), of_topic.waiting), ("GROUP_BACKLOG", who, 1));
    assert_eq!((group.group.as_str(), group.records), ("billing", 10));
    assert!(of_topic.since > described.topic.created && !described.backlog_group_unknown);
    let group = stage.client.group("billing");
    assert_eq!(group.describe().await.expect("a description").holds, described.holds);
    let lag = group.lag("orders").await.expect("a report");
    assert_eq!(lag[0].holds_publishers_since, Some(of_topic.since));

    // Nine tenths of the bound let it go.
    handle(&mut consumer, 1).await;
    let receipt = within("the receipt", ticket).await.expect("a receipt");
    assert_eq!(receipt.offset, 10);
    eventually("nobody is held", async || producer.hold().is_none().then_some(())).await;
    handle(&mut consumer, 10).await;
    publish(&stage.client, "orders", 9).await;
    assert_eq!(stage.client.topics().describe("orders").await.expect("a description").holds, []);
    assert_eq!(group.lag("orders").await.expect("a report")[0].holds_publishers_since, None);
}

pub(crate) async fn publishers_are_refused_with_all_the_facts_and_then_not_any_more(stage: Stage) {
    let backlog = Backlog::reject("billing").records(3).bytes(1 << 30).age(Duration::from_secs(86_400));
    topic(&stage, "orders", backlog.clone()).await;
    let worker = stage.another_client().await;
    let mut consumer = billing(&worker, "orders").await;
    publish(&stage.client, "orders", 3).await;
    let error =
        within("an answer", stage.client.publish("orders", Record::new("too much"))).await.expect_err("refused");
    assert!(error.retry_after().is_some() && error.record().is_some(), "{error}");
    assert!(error.culprit().is_some_and(|culprit| culprit.contains("billing")), "{error}");
    let text = error.to_string();
    assert!(text.contains("by 3 records (bound 3)") && text.contains("GROUP_BACKLOG"), "{text}");
    let refusal = Refusal::from(error).expect(Code::ResourceExhausted, "GROUP_BACKLOG");
    for (key, value) in [
        ("group", "billing"),
        ("topic", "orders"),
        ("lag_records", "3"),
        ("bound_records", "3"),
        ("bound_bytes", "1073741824"),
        ("bound_seconds", "86400.000"),
    ] {
        assert_eq!(refusal.fact(key), value, "{key}");
    }
    assert!(refusal.fact("lag_bytes").parse::<u64>().is_ok_and(|bytes| bytes > 0));
    assert!(refusal.fact("lag_seconds").parse::<f64>().is_ok_and(|seconds| seconds >= 0.0));

    handle(&mut consumer, 3).await;
    let again = async || stage.client.publish("orders", Record::new("again")).await.ok();
    assert_eq!(eventually("there is room again", again).await.offset, 3);
}

pub(crate) async fn a_consumer_that_publishes_to_the_topic_it_reads_never_waits_for_itself(stage: Stage) {
    topic(&stage, "orders", Backlog::hold("billing").records(5)).await;
    let worker = stage.another_client().await;
    let mut consumer = billing(&worker, "orders").await;
    publish(&stage.client, "orders", 5).await;
    let (_producer, ticket) = held_producer(&stage.client, "orders").await;

    let delivery = next(&mut consumer).await;
    let error =
        within("an answer at once", worker.publish("orders", Record::new("follow-up"))).await.expect_err("full");
    Refusal::from(error).expect(Code::ResourceExhausted, "GROUP_BACKLOG");
    delivery.ack_durable().await.expect("durable");
    handle(&mut consumer, 4).await;
    within("the other publisher's receipt", ticket).await.expect("a receipt");
    let follow_up = async || worker.publish("orders", Record::new("follow-up")).await.ok();
    assert_eq!(eventually("the consumer publishes", follow_up).await.offset, 6);
}

pub(crate) async fn a_publisher_that_becomes_a_member_while_it_waits_is_let_go(stage: Stage) {
    topic(&stage, "orders", Backlog::hold("billing").records(5)).await;
    publish(&stage.client, "orders", 5).await;
    let (_producer, ticket) = held_producer(&stage.client, "orders").await;
    // The same client: only its handler can make room.
    let mut consumer = billing(&stage.client, "orders").await;
    let error = within("an answer", ticket).await.expect_err("refused");
    assert!(matches!(error, PublishError::Rejected { .. }), "{error}");
    Refusal::from(error).expect(Code::ResourceExhausted, "GROUP_BACKLOG");
    handle(&mut consumer, 5).await;
    consumer.close().await.expect("a clean end");
}

pub(crate) async fn a_group_that_does_not_exist_holds_nobody_and_that_is_told(stage: Stage) {
    bound(&stage, "orders", Backlog::hold("billing").records(2)).await;
    publish(&stage.client, "orders", 5).await;
    let described = stage.client.topics().describe("orders").await.expect("a description");
    assert!(described.backlog_group_unknown && described.holds.is_empty(), "{described:?}");

    // From when it is made, what it would be given is kept for it.
    let group = stage.client.group("billing");
    group.create(GroupPolicy::default()).await.expect("a new group");
    let held = async || stage.client.topics().describe("orders").await.expect("a description").holds.pop();
    let hold = eventually("it holds", held).await;
    assert_eq!(hold.group.map(|group| group.records), Some(5));
    let (_producer, ticket) = held_producer(&stage.client, "orders").await;
    group.delete().await.expect("deleted");
    within("the receipt", ticket).await.expect("a receipt");
    assert!(stage.client.topics().describe("orders").await.expect("a description").backlog_group_unknown);
}

pub(crate) async fn a_group_that_begins_at_the_end_has_nothing_unread(stage: Stage) {
    stage.client.topics().create("orders").build().await.expect("a new topic");
    publish(&stage.client, "orders", 5).await;
    let policy = GroupPolicy { start: Some(aqueduct_client::Start::Latest), ..GroupPolicy::default() };
    stage.client.group("billing").create(policy).await.expect("a new group");
    let backlog = Backlog::reject("billing").records(2);
    stage.client.topics().alter("orders").backlog(Some(backlog)).build().await.expect("altered");
    publish(&stage.client, "orders", 5).await;
}

pub(crate) async fn a_backlog_is_altered_and_switched_off_while_it_holds(stage: Stage) {
    topic(&stage, "orders", Backlog::hold("billing").records(2)).await;
    publish(&stage.client, "orders", 2).await;
    let alter = |backlog| stage.client.topics().alter("orders").backlog(backlog).build();

    let (_producer, ticket) = held_producer(&stage.client, "orders").await;
    let altered = alter(Some(Backlog::hold("billing").records(4))).await.expect("altered");
    assert_eq!(altered.config.backlog, Some(Backlog::hold("billing").records(4)));
    within("the receipt", ticket).await.expect("a receipt");
    publish(&stage.client, "orders", 1).await;

    let (_producer, ticket) = held_producer(&stage.client, "orders").await;
    assert_eq!(alter(None).await.expect("altered").config.backlog, None);
    within("the receipt", ticket).await.expect("a receipt");
    publish(&stage.client, "orders", 10).await;

    // From now on for those who are not held yet, and refused instead of held.
    alter(Some(Backlog::reject("billing").records(4))).await.expect("altered");
    let refused = within("an answer", stage.client.publish("orders", Record::new("x"))).await;
    Refusal::of(refused).expect(Code::ResourceExhausted, "GROUP_BACKLOG");
    stage.client.topics().alter("orders").owner("team").build().await.expect("altered");
    let kept = stage.client.topics().describe("orders").await.expect("a description").topic.config.backlog;
    assert_eq!(kept, Some(Backlog::reject("billing").records(4)), "what is not named stays");
}

pub(crate) async fn bytes_and_ages_bind_as_records_do(stage: Stage) {
    topic(&stage, "large", Backlog::reject("billing").bytes(100_000)).await;
    bound(&stage, "old", Backlog::reject("billing").age(Duration::from_millis(1))).await;
    let large = || Record::new(vec![b'x'; 60_000]);
    for _ in 0..2 {
        within("a receipt", stage.client.publish("large", large())).await.expect("a receipt");
    }
    let refusal = Refusal::of(within("an answer", stage.client.publish("large", large())).await);
    let bytes = refusal.expect(Code::ResourceExhausted, "GROUP_BACKLOG").fact("lag_bytes").parse::<u64>();
    assert!(bytes.is_ok_and(|bytes| bytes > 120_000));

    publish(&stage.client, "old", 1).await;
    let held = async || stage.client.topics().describe("old").await.expect("a description").holds.pop();
    let hold = eventually("the record is a millisecond old", held).await;
    assert!(hold.group.is_some_and(|group| group.age >= Duration::from_millis(1)));
    Refusal::of(stage.client.publish("old", Record::new("x")).await).expect(Code::ResourceExhausted, "GROUP_BACKLOG");
    let worker = stage.another_client().await;
    handle(&mut billing(&worker, "old").await, 1).await;
    eventually("it is handled", async || stage.client.publish("old", Record::new("x")).await.ok()).await;
}

pub(crate) async fn the_lag_of_all_partitions_counts_together(stage: Stage) {
    stage.client.group("billing").create(GroupPolicy::default()).await.expect("a new group");
    let topics = stage.client.topics();
    topics
        .create("orders")
        .partitions(4)
        .backlog(Backlog::reject("billing").records(8))
        .build()
        .await
        .expect("a topic");
    let worker = stage.another_client().await;
    let mut consumer = billing(&worker, "orders").await;
    for partition in [0, 1, 2, 3, 0, 1, 2, 3] {
        let producer = stage.client.producer("orders").partition(partition).build().await.expect("a producer");
        within("a receipt", producer.publish(Record::new("x"))).await.expect("a receipt");
    }
    let refused = within("an answer", stage.client.publish("orders", Record::new("x"))).await;
    Refusal::of(refused).expect(Code::ResourceExhausted, "GROUP_BACKLOG");
    handle(&mut consumer, 1).await;
    eventually("one less is enough", async || stage.client.publish("orders", Record::new("x")).await.ok()).await;
}

pub(crate) async fn what_makes_no_sense_as_a_backlog_is_refused_by_name(stage: Stage) {
    let create = |backlog| stage.client.topics().create("orders").backlog(backlog).build();
    for (backlog, word) in [
        (Backlog::hold("billing"), "bound"),
        (Backlog::hold("billing").records(0), "max_records"),
        (Backlog::hold("billing").bytes(0), "max_bytes"),
        (Backlog::hold("billing").age(Duration::ZERO), "max_ms"),
        (Backlog::hold("").records(1), "backlog.group"),
        (Backlog::hold("orders~x").records(1), "backlog.group"),
        (Backlog::hold("g".repeat(300)).records(1), "backlog.group"),
    ] {
        let refusal = Refusal::of(create(backlog).await).expect(Code::InvalidArgument, "INVALID_CONFIG");
        assert!(refusal.message.contains(word), "{refusal:?}");
    }
    let absurd = Backlog::hold("billing").records(u64::MAX).bytes(u64::MAX).age(Duration::from_millis(u64::MAX));
    stage.client.group("billing").create(GroupPolicy::default()).await.expect("a new group");
    create(absurd).await.expect("never reached, but possible");
    publish(&stage.client, "orders", 3).await;
    let alter = stage.client.topics().alter("orders").backlog(Some(Backlog::hold("billing"))).build().await;
    Refusal::of(alter).expect(Code::InvalidArgument, "INVALID_CONFIG");
}
