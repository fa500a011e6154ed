//! Records that cannot be handled.

use std::time::Duration;

use aqueduct_client::{ConsumeError, Consumer, ConsumerBuilder, LetterFilter, OnExhausted, RetryPolicy};
use aqueduct_tests::{Refusal, eventually, text, within};
use tonic::Code;

use crate::stage::{Stage, letters, next, quick};

fn billing(stage: &Stage) -> ConsumerBuilder {
    stage.client.consumer("numbers", "billing")
}

/// Acks everything up to offset `last`, except for offset 2, which fails every time. Returns how often it came.
async fn handle_all_but_2(consumer: &mut Consumer, last: u64) -> u32 {
    let mut attempts = 0;
    loop {
        let delivery = next(consumer).await;
        if delivery.offset == 2 {
            attempts += 1;
            assert_eq!(delivery.attempt(), attempts);
            delivery.nack(format!("boom {attempts}"));
        } else if delivery.offset == last {
            delivery.ack_durable().await.expect("durable");
            return attempts;
        } else {
            delivery.ack();
        }
    }
}

pub(crate) async fn what_fails_too_often_becomes_a_dead_letter_and_the_rest_goes_on(stage: Stage) {
    stage.topic("numbers", 1).await;
    stage.publish_numbers("numbers", 10).await;
    let mut consumer = billing(&stage).retry(quick(3)).build().await.expect("a consumer");
    assert_eq!(handle_all_but_2(&mut consumer, 9).await, 3);
    let letter = letters(&stage.client, 1).await.remove(0);
    assert_eq!(text(&letter.event), "2");
    assert!(letter.event.record.headers.is_empty(), "it is what was published");
    let death = letter.death;
    assert_eq!((death.topic.as_str(), death.partition, death.offset), ("numbers", 0, 2));
    assert_eq!((death.group.as_str(), death.attempts), ("billing", 3));
    assert_eq!((death.first_error.as_str(), death.last_error.as_str()), ("boom 1", "boom 3"));
    assert!(death.first_failed <= death.last_failed);
    let group = stage.client.group("billing");
    let is_through = async || (group.lag("numbers").await.expect("a report")[0].lag_records == 0).then_some(());
    eventually("the group is through", is_through).await;
    let description = group.describe().await.expect("a description");
    assert_eq!((description.failed.len(), description.members[0].parked), (0, 1));
}

pub(crate) async fn attempts_are_counted_across_members_and_told_by_describe(stage: Stage) {
    stage.topic("numbers", 1).await;
    stage.publish_numbers("numbers", 3).await;
    for attempt in 1..=2 {
        let mut consumer = billing(&stage).retry(quick(5)).build().await.expect("a consumer");
        let delivery = next(&mut consumer).await;
        assert_eq!((delivery.offset, delivery.attempt()), (0, attempt));
        delivery.nack_after(Duration::from_secs(3600), format!("boom {attempt}"));
        consumer.close().await.expect("a clean end");
        let description = stage.client.group("billing").describe().await.expect("a description");
        let [failed] = &description.failed[..] else { panic!("{:?}", description.failed) };
        assert_eq!((failed.topic.as_str(), failed.partition, failed.from, failed.to), ("numbers", 0, 0, 1));
        assert_eq!((failed.attempts, failed.last_error.clone()), (attempt, format!("boom {attempt}")));
    }
}

pub(crate) async fn a_record_can_be_parked_at_once_and_that_can_be_waited_for(stage: Stage) {
    stage.topic("numbers", 1).await;
    stage.publish_numbers("numbers", 4).await;
    let mut consumer = billing(&stage).build().await.expect("a consumer");
    next(&mut consumer).await.park_durable("not for us").await.expect("parked");
    let lag = stage.client.group("billing").lag("numbers").await.expect("a report");
    assert_eq!(lag[0].committed_offset, 1);
    let letter = letters(&stage.client, 1).await.remove(0);
    assert_eq!((letter.death.offset, letter.death.attempts), (0, 1));
    assert_eq!(letter.death.last_error, "not for us");
    // Nothing is taken along: what had been delivered stays where it is.
    let second = next(&mut consumer).await;
    assert_eq!((second.offset, second.attempt()), (1, 1));
    second.park("nor this");
    assert_eq!(next(&mut consumer).await.offset, 2);
    assert_eq!(letters(&stage.client, 2).await[1].death.offset, 1);
}

pub(crate) async fn a_halted_partition_says_why_and_goes_on_once_the_policy_allows(stage: Stage) {
    stage.topic("numbers", 1).await;
    stage.publish_numbers("numbers", 4).await;
    let halting = RetryPolicy { on_exhausted: Some(OnExhausted::Halt), ..quick(1) };
    let mut consumer = billing(&stage).retry(halting).build().await.expect("a consumer");
    next(&mut consumer).await.nack("no way");
    let halted = within("the failure", consumer.next()).await.expect("the consumer goes on");
    let Err(ConsumeError::Partition { partition: 0, error }) = halted else { panic!("{halted:?}") };
    let refusal = Refusal::from(*error).expect(Code::FailedPrecondition, "PARTITION_HALTED");
    assert_eq!((refusal.fact("offset"), refusal.fact("attempts")), ("0", "1"));
    assert!(refusal.message.contains("no way") && refusal.message.contains("alter the group"), "{refusal:?}");
    consumer.close().await.expect("a clean end");

    let parking = RetryPolicy { on_exhausted: Some(OnExhausted::Park), ..RetryPolicy::default() };
    stage.client.group("billing").alter().retry(parking).build().await.expect("altered");
    let mut consumer = billing(&stage).build().await.expect("a consumer");
    assert_eq!(next(&mut consumer).await.offset, 1);
    assert_eq!(letters(&stage.client, 1).await[0].death.offset, 0);
}

pub(crate) async fn a_handler_that_extends_keeps_its_delivery(stage: Stage) {
    stage.topic("numbers", 1).await;
    stage.publish_numbers("numbers", 1).await;
    let time_out = Duration::from_secs(1);
    let mut consumer = billing(&stage).ack_timeout(time_out).build().await.expect("a consumer");
    let delivery = next(&mut consumer).await;
    let working = async {
        let mut ticks = tokio::time::interval(time_out / 5);
        for _ in 0..8 {
            ticks.tick().await;
            delivery.extend();
        }
    };
    within("the work", working).await;
    delivery.ack_durable().await.expect("it is still ours");
    let members = stage.client.group("billing").describe().await.expect("a description").members;
    assert_eq!(members[0].timeouts, 0);
}

pub(crate) async fn redriven_letters_go_back_to_their_group_alone(stage: Stage) {
    stage.topic("numbers", 2).await;
    stage.publish_numbers("numbers", 4).await;
    let mut consumer = billing(&stage).build().await.expect("a consumer");
    for offset in 0..4 {
        next(&mut consumer).await.park_durable(format!("reason {offset}")).await.expect("parked");
    }
    let mut audit = stage.client.consumer("numbers", "audit").build().await.expect("a consumer");
    for offset in 0..4 {
        let delivery = next(&mut audit).await;
        assert_eq!(delivery.offset, offset);
        delivery.ack_durable().await.expect("durable");
    }
    let dead = stage.client.dead_letters("numbers", "billing");
    let only = LetterFilter { error: Some("reason 2".into()), ..LetterFilter::default() };
    let mut chosen = Vec::new();
    dead.read(&only, |letter| chosen.push(letter.event.offset)).await.expect("letters");
    assert_eq!(dead.redrive(&chosen, None).await.expect("redriven"), 1);
    assert_eq!(dead.redrive(&chosen, None).await.expect("nothing left of it"), 0);

    let again = next(&mut consumer).await;
    assert_eq!((&*again.topic, again.partition, again.offset, again.attempt()), ("numbers", 0, 2, 1));
    assert_eq!((text(again.event()), again.redriven().map(|death| death.redriven)), ("2", Some(1)));
    assert!(again.event().record.headers.is_empty());
    again.park_durable("still not").await.expect("parked");
    let mut left = Vec::new();
    dead.read(&LetterFilter::default(), |letter| left.push(letter.death)).await.expect("letters");
    let offsets: Vec<_> = left.iter().map(|death| death.offset).collect();
    assert_eq!(offsets, [0, 1, 3, 2], "the one that was redriven has died again");
    let twice = &left[3];
    assert_eq!((twice.attempts, twice.redriven), (2, 1));
    assert_eq!((twice.first_error.as_str(), twice.last_error.as_str()), ("reason 2", "still not"));

    let info = stage.client.groups().dead_letters().await.expect("a list");
    assert_eq!((info.len(), info[0].count, info[0].group.as_str()), (1, 4, "billing"));
    assert_eq!(dead.discard(&[0, 1, 3, 4]).await.expect("discarded"), 4);
    assert_eq!(stage.client.groups().dead_letters().await.expect("a list")[0].count, 0);
    // The other group has seen each once, and sees nothing of all this.
    stage.publish_numbers("numbers", 1).await;
    assert_eq!(next(&mut audit).await.offset, 4);
}

pub(crate) async fn redriven_letters_wait_for_a_member_and_keep_their_order(stage: Stage) {
    stage.topic("numbers", 1).await;
    stage.publish_numbers("numbers", 5).await;
    let mut consumer = billing(&stage).build().await.expect("a consumer");
    for _ in 0..5 {
        next(&mut consumer).await.park_durable("not now").await.expect("parked");
    }
    consumer.close().await.expect("a clean end");
    let dead = stage.client.dead_letters("numbers", "billing");
    assert_eq!(dead.redrive(&[0, 1, 2, 3, 4], None).await.expect("redriven"), 5);
    for session in [0..2, 2..5] {
        let mut consumer = billing(&stage).build().await.expect("a consumer");
        for offset in session {
            let delivery = next(&mut consumer).await;
            assert_eq!((delivery.offset, delivery.redriven().is_some()), (offset, true));
            delivery.ack_durable().await.expect("durable");
        }
        consumer.close().await.expect("a clean end");
    }
}
