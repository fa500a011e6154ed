//! Members of groups.

use std::{collections::BTreeSet, time::Duration};

use aqueduct_client::{AckError, ConsumerItem, GapReason, Record};
use aqueduct_tests::{Refusal, eventually, text, within};
use tonic::Code;

use crate::stage::{Stage, next};

pub(crate) async fn what_was_acked_is_not_delivered_again(stage: Stage) {
    stage.topic("numbers", 1).await;
    stage.publish_numbers("numbers", 20).await;
    let mut consumer = stage.client.consumer("numbers", "billing").build().await.expect("a consumer");
    for expected in 0..12 {
        let delivery = next(&mut consumer).await;
        assert_eq!((delivery.offset, delivery.attempt()), (expected, 1));
        delivery.ack();
    }
    consumer.close().await.expect("a clean end");
    let lag = stage.client.group("billing").lag("numbers").await.expect("a report");
    assert_eq!((lag[0].committed_offset, lag[0].lag_records), (12, 8));

    let mut consumer = stage.another_client().await.consumer("numbers", "billing").build().await.expect("a consumer");
    let delivery = next(&mut consumer).await;
    assert_eq!(delivery.offset, 12);
    delivery.ack_durable().await.expect("durable");
    let lag = stage.client.group("billing").lag("numbers").await.expect("a report");
    assert_eq!(lag[0].committed_offset, 13);
}

pub(crate) async fn what_was_nacked_is_delivered_again(stage: Stage) {
    stage.topic("numbers", 1).await;
    stage.publish_numbers("numbers", 3).await;
    let mut consumer = stage.client.consumer("numbers", "billing").build().await.expect("a consumer");
    let (mut acked, mut refused) = (BTreeSet::new(), Vec::new());
    while acked.len() < 3 {
        let delivery = next(&mut consumer).await;
        match (delivery.offset, delivery.attempt()) {
            (1, 1) => {
                refused.push(1);
                delivery.nack("the first time");
            }
            (1, 2) => {
                refused.push(2);
                delivery.nack_after(Duration::from_millis(5), "the second time");
            }
            (offset, _) => {
                acked.insert(offset);
                delivery.ack();
            }
        }
    }
    assert_eq!(refused, [1, 2]);
    consumer.close().await.expect("a clean end");
    assert_eq!(stage.client.group("billing").lag("numbers").await.expect("a report")[0].lag_records, 0);
}

pub(crate) async fn a_delivery_dropped_without_a_word_is_delivered_again(stage: Stage) {
    stage.topic("numbers", 1).await;
    stage.publish_numbers("numbers", 1).await;
    let mut consumer = stage.client.consumer("numbers", "billing").build().await.expect("a consumer");
    drop(next(&mut consumer).await);
    let again = next(&mut consumer).await;
    assert_eq!((again.offset, again.attempt()), (0, 2));
    // A panic in whoever handles it is no answer either.
    let panicked = tokio::spawn(async move {
        let _delivery = again;
        panic!("the handler fails on purpose");
    });
    assert!(panicked.await.expect_err("it panics").is_panic());
    let again = next(&mut consumer).await;
    assert_eq!((again.offset, again.attempt()), (0, 3));
    again.ack_durable().await.expect("durable");
}

pub(crate) async fn an_answer_that_does_not_come_in_time_is_given_up(stage: Stage) {
    stage.topic("numbers", 1).await;
    stage.publish_numbers("numbers", 1).await;
    let consumer = stage.client.consumer("numbers", "billing").ack_timeout(Duration::from_millis(100));
    let mut consumer = consumer.build().await.expect("a consumer");
    let slow = next(&mut consumer).await;
    let again = next(&mut consumer).await;
    assert_eq!((slow.offset, again.offset, again.attempt()), (0, 0, 2));
    again.ack_durable().await.expect("durable");
    // The late ack is of a record that is settled: it changes nothing, and the consumer goes on.
    let late = slow.ack_durable().await;
    assert!(matches!(late, Ok(()) | Err(AckError::Aborted { .. } | AckError::Rejected(_))), "{late:?}");
    let lag = stage.client.group("billing").lag("numbers").await.expect("a report");
    assert_eq!(lag[0].committed_offset, 1);
    stage.client.publish("numbers", Record::new("more")).await.expect("a receipt");
    assert_eq!(next(&mut consumer).await.offset, 1);
}

pub(crate) async fn two_members_share_the_partitions(stage: Stage) {
    stage.topic("orders", 4).await;
    let other = stage.another_client().await;
    let mut first = stage.client.consumer("orders", "billing").member_name("first").build().await.expect("a member");
    assert_eq!(assigned(&mut first, 4).await.len(), 4);
    let mut second = other.consumer("orders", "billing").member_name("second").build().await.expect("a member");
    let of_second = assigned(&mut second, 2).await;
    let of_first = assigned(&mut first, 2).await;
    assert!(of_first.is_disjoint(&of_second), "{of_first:?} and {of_second:?}");
    let described = stage.client.group("billing").describe().await.expect("a description");
    let names: BTreeSet<&str> = described.members.iter().map(|member| member.name.as_str()).collect();
    assert_eq!(names, BTreeSet::from(["first", "second"]));

    let producer = stage.client.producer("orders").build().await.expect("a producer");
    producer.publish_all((0..200).map(|n: u32| Record::new(n.to_string()).key(n.to_string()))).await.expect("receipts");
    let mut seen = BTreeSet::new();
    while seen.len() < 200 {
        let (member, delivery) = tokio::select! {
            delivery = next(&mut first) => (&of_first, delivery),
            delivery = next(&mut second) => (&of_second, delivery),
        };
        assert!(member.contains(&delivery.partition), "partition {} came to the wrong member", delivery.partition);
        assert!(seen.insert(text(&delivery).to_owned()), "{} came twice", text(&delivery));
        delivery.ack();
    }
}

/// The partitions of a member, once there are `count`.
async fn assigned(consumer: &mut aqueduct_client::Consumer, count: usize) -> BTreeSet<u32> {
    eventually("the partitions are assigned", async || {
        Some(consumer.assignment()).filter(|partitions| partitions.len() == count)
    })
    .await
    .into_iter()
    .collect()
}

pub(crate) async fn partitions_of_a_member_that_leaves_move_to_the_other(stage: Stage) {
    stage.topic("orders", 4).await;
    let other = stage.another_client().await;
    let mut staying = stage.client.consumer("orders", "billing").build().await.expect("a member");
    let mut leaving = other.consumer("orders", "billing").build().await.expect("a member");
    assigned(&mut staying, 2).await;
    let moving = assigned(&mut leaving, 2).await;
    let partition = *moving.first().expect("two partitions");
    let producer = stage.client.producer("orders").partition(partition).build().await.expect("a producer");
    producer.publish_all((0..10).map(|n: u32| Record::new(n.to_string()))).await.expect("receipts");
    for expected in 0..4 {
        let delivery = next(&mut leaving).await;
        assert_eq!((delivery.partition, delivery.offset), (partition, expected));
        delivery.ack();
    }
    leaving.close().await.expect("a clean end");
    assert_eq!(assigned(&mut staying, 4).await.len(), 4);
    for expected in 4..10 {
        let delivery = next(&mut staying).await;
        assert_eq!((delivery.partition, delivery.offset), (partition, expected), "goes on after what was acked");
        delivery.ack();
    }
}

pub(crate) async fn open_deliveries_of_a_member_that_dies_go_to_the_other(stage: Stage) {
    stage.topic("numbers", 1).await;
    stage.publish_numbers("numbers", 5).await;
    let mut doomed = stage.client.consumer("numbers", "billing").build().await.expect("a member");
    let (first, second) = (next(&mut doomed).await, next(&mut doomed).await);
    assert_eq!((first.offset, second.offset), (0, 1));
    second.ack();
    let mut heir = stage.another_client().await.consumer("numbers", "billing").build().await.expect("a member");
    drop(doomed);
    drop(first);
    let mut offsets = BTreeSet::new();
    while offsets.len() < 4 {
        let delivery = next(&mut heir).await;
        offsets.insert(delivery.offset);
        delivery.ack();
    }
    assert!(offsets.is_superset(&BTreeSet::from([0, 2, 3, 4])), "{offsets:?}");
}

pub(crate) async fn each_group_sees_everything(stage: Stage) {
    stage.topic("numbers", 1).await;
    stage.publish_numbers("numbers", 30).await;
    for group in ["billing", "shipping", "audit"] {
        let mut consumer = stage.client.consumer("numbers", group).build().await.expect("a consumer");
        for expected in 0..30 {
            let delivery = next(&mut consumer).await;
            assert_eq!(delivery.offset, expected);
            delivery.ack();
        }
    }
    let topic = stage.client.topics().describe("numbers").await.expect("a description");
    assert_eq!(topic.groups.into_iter().collect::<BTreeSet<_>>().len(), 3);
}

pub(crate) async fn what_is_truncated_under_a_group_is_a_gap(stage: Stage) {
    stage.topic("numbers", 1).await;
    stage.publish_numbers("numbers", 10).await;
    let mut consumer = stage.client.consumer("numbers", "billing").build().await.expect("a consumer");
    next(&mut consumer).await.ack_durable().await.expect("durable");
    consumer.close().await.expect("a clean end");
    stage.client.topics().truncate("numbers", 0, 6).await.expect("truncated");

    let mut consumer = stage.client.consumer("numbers", "billing").build().await.expect("a consumer");
    let gap = loop {
        match within("an item", consumer.next_item()).await.expect("no end").expect("an item") {
            ConsumerItem::Gap(gap) => break gap,
            ConsumerItem::Assignment { .. } => {}
            ConsumerItem::Delivery(delivery) => panic!("{delivery:?} came without a word about what is missing"),
        }
    };
    assert_eq!((gap.from, gap.to, gap.reason), (1, 6, GapReason::Retention));
    let delivery = next(&mut consumer).await;
    assert_eq!(delivery.offset, 6);
    delivery.ack();
    assert_eq!(consumer.stats().gap_records, 5);
}

pub(crate) async fn a_topic_in_use_is_not_deleted_unless_forced(stage: Stage) {
    stage.topic("numbers", 1).await;
    stage.publish_numbers("numbers", 1).await;
    let mut consumer = stage.client.consumer("numbers", "billing").build().await.expect("a consumer");
    next(&mut consumer).await.ack();
    let topics = stage.client.topics();
    let refusal = Refusal::of(topics.delete("numbers").await).expect(Code::FailedPrecondition, "TOPIC_IN_USE");
    assert!(refusal.message.contains("billing"), "{}", refusal.message);
    topics.delete_forced("numbers").await.expect("deleted");
    let end = within("the end", consumer.next()).await.expect("an error comes before the end");
    Refusal::of(end).expect(Code::NotFound, "TOPIC_NOT_FOUND");
}
