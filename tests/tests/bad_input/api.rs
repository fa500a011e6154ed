//! Names, places and identities that do not exist.

use aqueduct_proto::v1;
use aqueduct_tests::{Refusal, raw};
use tonic::Code;

use crate::Victim;

/// Not names, each for another reason.
fn bad_names() -> Vec<String> {
    let bad = ["", "a/b", "/", ".", "..", "../../etc", "-a", "~", "a~b", "a\0b", "a b", "caf\u{e9}", "\u{ff21}", "a\n"];
    let long = ["n".repeat(250), "n".repeat(10 * 1024)];
    bad.into_iter().map(str::to_owned).chain(long).collect()
}

#[tokio::test]
async fn names_outside_the_rules_are_refused_for_topics_groups_and_producers() {
    let mut victim = Victim::start().await;
    for name in bad_names() {
        let config = Some(v1::TopicConfig { partitions: 1, ..v1::TopicConfig::default() });
        let topic = victim.raw.topics.create(v1::CreateTopicRequest { name: name.clone(), config }).await;
        Refusal::of(topic).expect(Code::InvalidArgument, "INVALID_NAME");
        let group = victim.raw.groups.create(v1::CreateGroupRequest { group: name.clone(), policy: None }).await;
        Refusal::of(group).expect(Code::InvalidArgument, "INVALID_NAME");
        let producer = v1::OpenProducerRequest { topic: "orders".to_owned(), name: name.clone() };
        let refused = Refusal::of(victim.raw.log.open_producer(producer).await);
        assert_eq!(refused.code, Code::InvalidArgument, "{refused:?}");
        let published = victim.raw.publish(raw::publish_records(&name, vec![raw::record("x")])).await;
        assert!(matches!(Refusal::of(published).code, Code::NotFound | Code::InvalidArgument), "{name:?}");
    }
    let client = victim.broker.client().await;
    assert_eq!(client.topics().list().await.expect("a list").len(), 1);
    assert_eq!(client.groups().list().await.expect("a list").len(), 0);
    victim.still_works().await;
}

#[tokio::test]
async fn the_longest_and_strangest_legal_names_work() {
    let victim = Victim::start().await;
    let client = victim.broker.client().await;
    for name in
        ["n".repeat(249), "_".to_owned(), "0".to_owned(), "a..b".to_owned(), "a-_.Z".to_owned(), "CON".to_owned()]
    {
        client.topics().create(&name).build().await.expect("a new topic");
        client.publish(&name, aqueduct_client::Record::new("x")).await.expect("a receipt");
        client.group(&name).create(aqueduct_client::GroupPolicy::default()).await.expect("a new group");
    }
}

#[tokio::test]
async fn an_unknown_topic_is_not_found_everywhere() {
    let mut victim = Victim::start().await;
    let name = || "nowhere".to_owned();
    let raw = &mut victim.raw;
    let start = Some(v1::Start { at: Some(v1::start::At::Earliest(v1::start::Earliest {})) });
    let refusals = [
        Refusal::of(raw.publish(raw::publish_records("nowhere", vec![raw::record("x")])).await),
        Refusal::of(raw.fetch("nowhere", 0, 0).await),
        Refusal::of(raw.log.subscribe(v1::SubscribeRequest { topic: name(), start, ..Default::default() }).await),
        Refusal::of(raw.log.open_producer(v1::OpenProducerRequest { topic: name(), name: "p".to_owned() }).await),
        Refusal::of(raw.topics.describe(v1::DescribeTopicRequest { name: name() }).await),
        Refusal::of(raw.topics.alter(v1::AlterTopicRequest { name: name(), ..Default::default() }).await),
        Refusal::of(raw.topics.delete(v1::DeleteTopicRequest { name: name(), ..Default::default() }).await),
        Refusal::of(raw.topics.truncate(v1::TruncateTopicRequest { name: name(), ..Default::default() }).await),
    ];
    for refusal in refusals {
        let refusal = refusal.expect(Code::NotFound, "TOPIC_NOT_FOUND");
        assert_eq!(refusal.fact("topic"), "nowhere");
    }
    victim.still_works().await;
}

#[tokio::test]
async fn an_unknown_partition_is_not_found_and_the_answer_says_how_many_there_are() {
    let mut victim = Victim::start().await;
    let topic = || "orders".to_owned();
    let raw = &mut victim.raw;
    let publish = raw::publish_records("orders", vec![raw::record("x")]);
    let partitions = vec![v1::PartitionStart { partition: 1, start: None, end_offset: None }];
    let refusals = [
        Refusal::of(raw.publish(v1::PublishRequest { partition: Some(1), ..publish }).await),
        Refusal::of(raw.fetch("orders", u32::MAX, 0).await),
        Refusal::of(raw.log.subscribe(v1::SubscribeRequest { topic: topic(), partitions, ..Default::default() }).await),
        Refusal::of(
            raw.topics.truncate(v1::TruncateTopicRequest { name: topic(), partition: 1, before_offset: 0 }).await,
        ),
    ];
    for refusal in refusals {
        assert_eq!(refusal.expect(Code::NotFound, "PARTITION_NOT_FOUND").fact("partitions"), "1");
    }
    victim.still_works().await;
}

#[tokio::test]
async fn a_topic_needs_sensible_settings() {
    let mut victim = Victim::start().await;
    for partitions in [0, u32::MAX] {
        let config = Some(v1::TopicConfig { partitions, ..v1::TopicConfig::default() });
        let refused = victim.raw.topics.create(v1::CreateTopicRequest { name: "t".to_owned(), config }).await;
        let refusal = Refusal::of(refused).expect(Code::InvalidArgument, "INVALID_CONFIG");
        assert!(refusal.message.contains("partitions"), "{}", refusal.message);
        let alter =
            v1::AlterTopicRequest { name: "orders".to_owned(), partitions: Some(partitions), ..Default::default() };
        Refusal::of(victim.raw.topics.alter(alter).await).expect(Code::InvalidArgument, "INVALID_CONFIG");
    }
    for (mode, group) in [(0, "billing"), (77, "billing"), (-1, "billing"), (1, "billing"), (2, "")] {
        let backlog = v1::Backlog { mode, group: group.to_owned(), max_records: Some(7), ..v1::Backlog::default() };
        let config = v1::TopicConfig { partitions: 1, backlog: Some(backlog.clone()), ..v1::TopicConfig::default() };
        let create = v1::CreateTopicRequest { name: "t".to_owned(), config: Some(config) };
        let refusal =
            Refusal::of(victim.raw.topics.create(create).await).expect(Code::InvalidArgument, "INVALID_CONFIG");
        assert!(refusal.message.contains("backlog"), "{}", refusal.message);
        let name = "orders".to_owned();
        let alter = v1::AlterTopicRequest { name, backlog: Some(backlog), ..v1::AlterTopicRequest::default() };
        Refusal::of(victim.raw.topics.alter(alter).await).expect(Code::InvalidArgument, "INVALID_CONFIG");
    }
    for segment_bytes in [0, 1, u64::MAX] {
        let config =
            v1::TopicConfig { partitions: 1, segment_bytes: Some(segment_bytes), ..v1::TopicConfig::default() };
        let refused =
            victim.raw.topics.create(v1::CreateTopicRequest { name: "t".to_owned(), config: Some(config) }).await;
        Refusal::of(refused).expect(Code::InvalidArgument, "INVALID_CONFIG");
    }
    assert_eq!(victim.broker.client().await.topics().list().await.expect("a list").len(), 1);
    victim.still_works().await;
}

#[tokio::test]
async fn an_offset_out_of_range_is_answered_with_the_valid_one() {
    let mut victim = Victim::start().await;
    for _ in 0..3 {
        victim.still_works().await;
    }
    let truncate = v1::TruncateTopicRequest { name: "orders".to_owned(), partition: 0, before_offset: 2 };
    victim.raw.topics.truncate(truncate).await.expect("truncated");
    for offset in [0, 1, 4, u64::MAX] {
        let refusal = Refusal::of(victim.raw.fetch("orders", 0, offset).await);
        let refusal = refusal.expect(Code::OutOfRange, "OFFSET_OUT_OF_RANGE");
        assert_eq!((refusal.fact("log_start"), refusal.fact("high_watermark")), ("2", "3"));
        assert_eq!(refusal.fact("requested"), offset.to_string());
        assert!(refusal.message.contains("[2, 3"), "people are told as well: {}", refusal.message);
    }
    victim.still_works().await;
}

#[tokio::test]
async fn the_id_of_another_topic_is_refused_everywhere() {
    let mut victim = Victim::start().await;
    let topic = || "orders".to_owned();
    let raw = &mut victim.raw;
    for id in [vec![7; 16], vec![7; 3]] {
        let topic_id: bytes::Bytes = id.into();
        let publish = raw::publish_records("orders", vec![raw::record("x")]);
        let offsets = vec![v1::PartitionOffset { partition: 0, offset: 0 }];
        let group = || "billing".to_owned();
        let join = v1::Join { group: group(), topic: topic(), topic_id: topic_id.clone(), ..v1::Join::default() };
        let join = v1::ConsumeRequest { event: Some(v1::consume_request::Event::Join(join)) };
        let fetch = v1::FetchRequest { topic: topic(), topic_id: topic_id.clone(), ..Default::default() };
        let subscribe = v1::SubscribeRequest { topic: topic(), topic_id: topic_id.clone(), ..Default::default() };
        let delete = v1::DeleteTopicRequest { name: topic(), topic_id: topic_id.clone(), force: true };
        // The group exists, so that only the topic's id is wrong.
        let _ = raw.groups.create(v1::CreateGroupRequest { group: group(), policy: None }).await;
        let commit = v1::CommitRequest { group: group(), topic: topic(), topic_id: topic_id.clone(), offsets };
        let consumed = match raw.groups.consume(futures_util::stream::iter([join])).await {
            Ok(stream) => stream.into_inner().message().await.map(drop),
            Err(status) => Err(status),
        };
        let refusals = [
            Refusal::of(raw.publish(v1::PublishRequest { topic_id: topic_id.clone(), ..publish }).await),
            Refusal::of(raw.log.fetch(fetch).await),
            Refusal::of(raw.log.subscribe(subscribe).await),
            Refusal::of(raw.topics.delete(delete).await),
            Refusal::of(raw.groups.commit(commit).await),
            Refusal::of(consumed),
        ];
        for refusal in refusals {
            refusal.expect(Code::FailedPrecondition, "TOPIC_ID_MISMATCH");
        }
    }
    victim.still_works().await;
}
