//! Topics.

use std::time::Duration;

use aqueduct_client::{Durability, Record};
use aqueduct_tests::{Refusal, read_all};
use tonic::Code;

use crate::stage::Stage;

pub(crate) async fn a_topic_is_made_described_altered_listed_and_deleted(stage: Stage) {
    let topics = stage.client.topics();
    let made = topics
        .create("orders.eu-west_1")
        .partitions(3)
        .retention_bytes(1 << 30)
        .retention_age(Duration::from_secs(86_400))
        .durability(Durability::Os)
        .segment_bytes(1 << 20)
        .owner("checkout")
        .build()
        .await
        .expect("a new topic");
    let described = topics.describe("orders.eu-west_1").await.expect("a description");
    assert_eq!(described.topic, made);
    assert_eq!(described.topic.config.owner.as_deref(), Some("checkout"));
    assert_eq!(described.partitions.len(), 3);
    assert!(described.partitions.iter().all(|partition| partition.failure.is_none() && partition.high_watermark == 0));

    let os = stage.client.publish("orders.eu-west_1", Record::new("a")).await.expect("a receipt");
    assert_eq!(os.durability, Durability::Os);
    let altered = topics.alter("orders.eu-west_1").retention_bytes(None).durability(Durability::Fsync).owner("billing");
    let altered = altered.build().await.expect("altered");
    assert_eq!((altered.config.retention_bytes, altered.config.owner.as_deref()), (None, Some("billing")));
    assert_eq!((altered.id, altered.config.retention_age), (made.id, Some(Duration::from_secs(86_400))));
    let fsync = stage.client.publish("orders.eu-west_1", Record::new("b")).await.expect("a receipt");
    assert_eq!(fsync.durability, Durability::Fsync);

    stage.topic("other", 1).await;
    let listed = topics.list().await.expect("a list");
    assert_eq!(listed.iter().map(|topic| topic.name.as_str()).collect::<Vec<_>>(), ["orders.eu-west_1", "other"]);
    topics.delete("orders.eu-west_1").await.expect("deleted");
    assert_eq!(topics.list().await.expect("a list").len(), 1);
    Refusal::of(topics.describe("orders.eu-west_1").await).expect(Code::NotFound, "TOPIC_NOT_FOUND");
}

pub(crate) async fn partitions_are_added_and_never_taken_away(stage: Stage) {
    stage.topic("orders", 2).await;
    stage.client.publish("orders", Record::new("a").key("k")).await.expect("a receipt");
    let topics = stage.client.topics();
    let grown = topics.alter("orders").partitions(4).build().await.expect("two more");
    assert_eq!(grown.config.partitions, 4);
    Refusal::of(topics.alter("orders").partitions(3).build().await).expect(Code::InvalidArgument, "INVALID_CONFIG");
    let producer = stage.client.producer("orders").partition(3).build().await.expect("a producer");
    assert_eq!(producer.publish(Record::new("b")).await.expect("a receipt").partition, 3);
    assert_eq!(read_all(&stage.client, "orders").await.len(), 2);
}

pub(crate) async fn a_name_is_taken_once(stage: Stage) {
    stage.topic("orders", 1).await;
    let topics = stage.client.topics();
    Refusal::of(topics.create("orders").build().await).expect(Code::AlreadyExists, "TOPIC_EXISTS");
    // Names that differ only in case are different names, on every file system.
    let upper = stage.topic("ORDERS", 1).await;
    stage.client.publish("ORDERS", Record::new("A")).await.expect("a receipt");
    assert_eq!(read_all(&stage.client, "orders").await.len(), 0);
    assert_eq!(topics.describe("ORDERS").await.expect("a description").topic, upper);
}

pub(crate) async fn truncation_goes_forward_and_not_beyond_the_end(stage: Stage) {
    stage.topic("numbers", 1).await;
    stage.publish_numbers("numbers", 50).await;
    let topics = stage.client.topics();
    assert_eq!(topics.truncate("numbers", 0, 30).await.expect("truncated"), 30);
    assert_eq!(topics.truncate("numbers", 0, 10).await.expect("nothing to do"), 30);
    let beyond = Refusal::of(topics.truncate("numbers", 0, 51).await).expect(Code::OutOfRange, "OFFSET_OUT_OF_RANGE");
    assert_eq!((beyond.fact("log_start"), beyond.fact("high_watermark")), ("30", "50"));
    let left: Vec<u64> = read_all(&stage.client, "numbers").await.iter().map(|event| event.offset).collect();
    assert_eq!(left, (30..50).collect::<Vec<_>>());
    assert_eq!(topics.truncate("numbers", 0, 50).await.expect("all of it"), 50);
    assert_eq!(stage.client.publish("numbers", Record::new("next")).await.expect("a receipt").offset, 50);
}

pub(crate) async fn the_broker_says_what_it_is(stage: Stage) {
    let info = stage.client.info().await.expect("an answer");
    assert_eq!(info.version, env!("CARGO_PKG_VERSION"));
    assert_eq!(info.engine, "embedded");
    assert!(info.durability_levels.contains(&Durability::Fsync) && info.durability_levels.contains(&Durability::Os));
    assert!(info.limits.record_bytes_max <= info.limits.batch_bytes_max);
    assert!(info.limits.batch_bytes_max <= info.limits.batch_decoded_bytes_max);
}
