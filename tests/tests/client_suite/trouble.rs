//! What a description says of a group that does not go on as it should, and how its policy gets it going again.

use std::time::Duration;

use aqueduct_client::{ConsumeError, Consumer, GroupMode, OnExhausted, Record, RetryPolicy, Timestamp, WaitReason};
use aqueduct_tests::{eventually, text, within};

use crate::stage::{Stage, letters, next, quick};

const HOUR_US: i64 = 3_600_000_000;
const HOUR: Duration = Duration::from_secs(3600);

async fn member(stage: &Stage, mode: GroupMode, retry: RetryPolicy) -> Consumer {
    stage.client.consumer("numbers", "billing").mode(mode).retry(retry).build().await.expect("a member")
}

fn in_about_an_hour(time: Timestamp) -> bool {
    let from_now_us = time.as_micros() - Timestamp::now().as_micros();
    (HOUR_US / 2..=HOUR_US).contains(&from_now_us)
}

pub(crate) async fn a_record_that_holds_its_partition_is_named_with_its_time(stage: Stage) {
    stage.topic("numbers", 1).await;
    stage.publish_numbers("numbers", 3).await;
    let group = stage.client.group("billing");
    let mut consumer = member(&stage, GroupMode::Ordered, quick(5)).await;
    let delivery = next(&mut consumer).await;
    assert_eq!(group.describe().await.expect("a description").waits, []);
    delivery.nack_after(HOUR, "no stock");
    let wait = eventually("it says so", async || group.describe().await.expect("a description").waits.pop()).await;
    assert_eq!((wait.topic.as_str(), wait.partition, wait.reason), ("numbers", 0, Some(WaitReason::Retry)));
    assert!(wait.offset == Some(0) && wait.until.is_some_and(in_about_an_hour), "{wait:?}");
    assert!(wait.message.contains("1 times") && wait.message.contains("no stock"), "{wait:?}");
}

pub(crate) async fn a_member_that_takes_no_more_is_named(stage: Stage) {
    stage.topic("numbers", 1).await;
    stage.publish_numbers("numbers", 3).await;
    let group = stage.client.group("billing");
    let builder = stage.client.consumer("numbers", "billing").member_name("clerk").prefetch_records(1);
    let mut consumer = builder.build().await.expect("a member");
    let held = next(&mut consumer).await;
    let control = consumer.control();
    control.pause();
    // One batch goes whole, whatever the room.
    assert_eq!(group.describe().await.expect("a description").waits, []);
    stage.publish_numbers("numbers", 3).await;
    let wait = eventually("it says so", async || group.describe().await.expect("a description").waits.pop()).await;
    assert_eq!((wait.reason, wait.member.as_deref()), (Some(WaitReason::MembersBusy), Some("clerk")), "{wait:?}");
    control.resume();
    held.ack();
    loop {
        let delivery = next(&mut consumer).await;
        let is_last = delivery.offset == 5;
        delivery.ack_durable().await.expect("durable");
        if is_last {
            break;
        }
    }
    assert_eq!(group.describe().await.expect("a description").waits, []);
}

pub(crate) async fn a_halted_partition_is_named_and_goes_on_with_its_members_once_the_policy_allows(stage: Stage) {
    stage.topic("numbers", 1).await;
    stage.publish_numbers("numbers", 3).await;
    let group = stage.client.group("billing");
    let halting = RetryPolicy { on_exhausted: Some(OnExhausted::Halt), ..quick(1) };
    let mut consumer = member(&stage, GroupMode::Ordered, halting).await;
    next(&mut consumer).await.nack("no way");
    let halted = within("the failure", consumer.next()).await.expect("the consumer goes on");
    assert!(matches!(halted, Err(ConsumeError::Partition { partition: 0, .. })), "{halted:?}");
    let wait = group.describe().await.expect("a description").waits.pop().expect("it says so");
    assert_eq!((wait.reason, wait.offset, wait.until), (Some(WaitReason::Halted), Some(0), None));
    assert!(wait.message.contains("no way") && wait.message.contains("alter the group"), "{wait:?}");

    let twice = RetryPolicy { max_attempts: Some(2), ..RetryPolicy::default() };
    group.alter().retry(twice).build().await.expect("altered");
    let again = next(&mut consumer).await;
    assert_eq!((again.offset, again.attempt()), (0, 2), "one more attempt, without joining again");
    again.nack("no way");
    let halted = within("the failure", consumer.next()).await.expect("the consumer goes on");
    assert!(matches!(halted, Err(ConsumeError::Partition { partition: 0, .. })), "{halted:?}");
    let parking = RetryPolicy { on_exhausted: Some(OnExhausted::Park), ..RetryPolicy::default() };
    group.alter().retry(parking).build().await.expect("altered");
    assert_eq!(next(&mut consumer).await.offset, 1);
    assert_eq!(letters(&stage.client, 1).await[0].death.attempts, 2);
}

pub(crate) async fn an_altered_policy_reaches_ordered_members_at_once(stage: Stage) {
    an_altered_policy_is_in_force(stage, GroupMode::Ordered).await;
}

pub(crate) async fn an_altered_policy_reaches_shared_members_at_once(stage: Stage) {
    an_altered_policy_is_in_force(stage, GroupMode::Shared).await;
}

pub(crate) async fn an_altered_policy_reaches_keyed_members_at_once(stage: Stage) {
    an_altered_policy_is_in_force(stage, GroupMode::Keyed).await;
}

async fn an_altered_policy_is_in_force(stage: Stage, mode: GroupMode) {
    stage.topic("numbers", 1).await;
    stage.publish_numbers("numbers", 1).await;
    let mut consumer = member(&stage, mode, quick(1_000_000)).await;
    let group = stage.client.group("billing");
    for _ in 0..3 {
        next(&mut consumer).await.nack("boom");
    }
    let failing = async {
        loop {
            next(&mut consumer).await.nack("boom");
        }
    };
    let altering = async {
        group.alter().retry(quick(1)).build().await.expect("altered");
        letters(&stage.client, 1).await
    };
    let letters = tokio::select! {
        letters = altering => letters,
        () = failing => unreachable!("it fails for ever"),
    };
    assert!((3..1_000_000).contains(&letters[0].death.attempts), "{letters:?}");
    assert_eq!(text(&letters[0].event), "0");
}

pub(crate) async fn what_is_tried_again_is_counted_and_its_time_told(stage: Stage) {
    stage.topic("numbers", 1).await;
    stage.publish_numbers("numbers", 5).await;
    let group = stage.client.group("billing");
    let mut consumer = member(&stage, GroupMode::Shared, quick(5)).await;
    for _ in 0..3 {
        let delivery = next(&mut consumer).await;
        let offset = delivery.offset;
        delivery.nack_after(HOUR, format!("boom {offset}"));
    }
    let retries = eventually("all of them wait", async || {
        let retries = group.describe().await.expect("a description").retries;
        retries.into_iter().find(|of| of.later == 3)
    })
    .await;
    assert_eq!((retries.topic.as_str(), retries.due, retries.later_is_at_least), ("numbers", 0, false));
    assert_eq!(retries.last_error.as_deref(), Some("boom 2"));
    assert!(retries.next_due.is_some_and(in_about_an_hour), "{retries:?}");

    next(&mut consumer).await.nack_after(Duration::ZERO, "at once");
    let again = loop {
        let delivery = next(&mut consumer).await;
        if delivery.attempt() == 2 {
            break delivery;
        }
        delivery.ack();
    };
    let retries = group.describe().await.expect("a description").retries;
    assert_eq!(retries.iter().map(|of| (of.due, of.later)).collect::<Vec<_>>(), [(1, 3)], "the one in hand is due");
    again.ack_durable().await.expect("durable");
    let retries = group.describe().await.expect("a description").retries;
    assert_eq!(retries.iter().map(|of| (of.due, of.later)).collect::<Vec<_>>(), [(0, 3)]);
}

pub(crate) async fn a_keyed_group_says_what_waits_behind_a_failure_and_until_when(stage: Stage) {
    stage.topic("numbers", 1).await;
    for value in ["0", "1"] {
        stage.client.publish("numbers", Record::new(value).key("a")).await.expect("stored");
    }
    let group = stage.client.group("billing");
    let mut consumer = member(&stage, GroupMode::Keyed, quick(5)).await;
    next(&mut consumer).await.nack_after(HOUR, "no stock");
    let waiting = eventually("both wait", async || {
        let description = group.describe().await.expect("a description");
        // It is held once it was looked at where it waits.
        let wait = description.waits.into_iter().find(|wait| wait.partition == u32::MAX && wait.until.is_some())?;
        let retries = description.retries.into_iter().find(|of| of.later == 2)?;
        Some((wait, retries))
    });
    let (wait, retries) = waiting.await;
    assert_eq!((wait.topic.as_str(), wait.reason), ("numbers", Some(WaitReason::Keys)));
    assert!(wait.until.is_some_and(in_about_an_hour) && wait.message.contains("other keys go on"), "{wait:?}");
    assert_eq!((retries.topic.as_str(), retries.due, retries.later_is_at_least), ("numbers", 0, false));
    assert_eq!(retries.last_error.as_deref(), Some("no stock"));
    assert!(retries.next_due.is_some_and(in_about_an_hour), "{retries:?}");
}
