//! Who is in a group, for how long, and when it is delivered to.

use std::{collections::BTreeSet, time::Duration};

use aqueduct_client::{
    AckError, Consumer, DeliveryHours, GroupPolicy, LetterFilter, Member, Record, dead_letter_topic,
};
use aqueduct_tests::{Refusal, eventually, text, within};
use tonic::Code;

use crate::stage::{Stage, next};

const KEEP: Duration = Duration::from_secs(600);

async fn worker(stage: &Stage, name: &str) -> Consumer {
    let builder = stage.another_client().await.consumer("orders", "billing").static_member(name, KEEP);
    builder.build().await.expect("a member")
}

/// The partitions of a member, once there are `count`.
async fn assigned(consumer: &Consumer, count: usize) -> BTreeSet<u32> {
    let assigned = eventually("the partitions are assigned", async || {
        Some(consumer.assignment()).filter(|partitions| partitions.len() == count)
    });
    assigned.await.into_iter().collect()
}

async fn member(stage: &Stage, name: &str) -> Option<Member> {
    let description = stage.client.group("billing").describe().await.expect("a description");
    description.members.into_iter().find(|member| member.name == name)
}

pub(crate) async fn partitions_wait_for_a_static_member_and_move_once_it_has_gone_for_good(stage: Stage) {
    stage.topic("orders", 4).await;
    let (staying, leaving) = (worker(&stage, "a").await, worker(&stage, "b").await);
    let (of_staying, of_leaving) = (assigned(&staying, 2).await, assigned(&leaving, 2).await);
    leaving.close().await.expect("a clean end");
    let away = eventually("it is away", async || member(&stage, "b").await.filter(|b| b.away_until.is_some())).await;
    assert_eq!(away.partitions.iter().copied().collect::<BTreeSet<_>>(), of_leaving);
    assert_eq!(stage.client.groups().list().await.expect("a list")[0].members, 1, "who is away does not count");

    // Whoever comes meanwhile shares what the others have.
    let newcomer = worker(&stage, "c").await;
    assert_eq!(&assigned(&newcomer, 1).await | &assigned(&staying, 1).await, of_staying);
    newcomer.close_for_good().await.expect("a clean end");
    assert_eq!(assigned(&staying, 2).await, of_staying);

    let back = worker(&stage, "b").await;
    assert_eq!(assigned(&back, 2).await, of_leaving);
    assert_eq!(assigned(&staying, 2).await, of_staying);
    assert_eq!(member(&stage, "b").await.map(|b| (b.keep, b.away_until)), Some((KEEP, None)));
    back.close_for_good().await.expect("a clean end");
    assigned(&staying, 4).await;
    assert!(member(&stage, "b").await.is_none());

    let names = [("", KEEP), ("b", KEEP + Duration::from_millis(1))];
    for (name, keep) in names {
        let refused = stage.client.consumer("orders", "billing").static_member(name, keep).build().await;
        Refusal::of(refused).expect(Code::InvalidArgument, "INVALID_REQUEST");
    }
}

pub(crate) async fn a_newer_member_of_a_static_name_takes_over(stage: Stage) {
    stage.topic("orders", 2).await;
    stage.client.publish("orders", Record::new("one").key("k")).await.expect("a receipt");
    let mut older = worker(&stage, "a").await;
    let held = next(&mut older).await;
    let mut newer = worker(&stage, "a").await;
    let end = within("the end", older.next()).await.expect("an error comes before the end");
    let refusal = Refusal::of(end).expect(Code::FailedPrecondition, "MEMBER_REPLACED");
    assert_eq!(refusal.fact("member_name"), "a");
    assert!(older.next().await.is_none(), "it does not come back by itself");
    let again = next(&mut newer).await;
    assert_eq!((text(&again), again.partition, again.attempt()), ("one", held.partition, 1));
    drop(held);
    again.ack_durable().await.expect("durable");
    assert_eq!(assigned(&newer, 2).await.len(), 2);
}

pub(crate) async fn an_ack_after_the_revocation_is_counted_and_changes_nothing(stage: Stage) {
    stage.topic("orders", 2).await;
    for partition in 0..2 {
        let producer = stage.client.producer("orders").partition(partition).build().await.expect("a producer");
        producer.publish(Record::new(partition.to_string())).await.expect("a receipt");
    }
    let builder = stage.client.consumer("orders", "billing").ack_timeout(Duration::from_millis(300));
    let mut slow = builder.build().await.expect("a member");
    let held = [next(&mut slow).await, next(&mut slow).await];
    let mut heir = stage.another_client().await.consumer("orders", "billing").build().await.expect("a member");
    let moved = next(&mut heir).await;
    let late = held.into_iter().find(|delivery| delivery.partition == moved.partition).expect("it had both");
    let late = late.ack_durable().await;
    assert!(matches!(late, Err(AckError::Aborted { .. })), "{late:?}");
    assert_eq!(slow.stats().aborted, 1);
    moved.ack_durable().await.expect("it is the heir's");
}

pub(crate) async fn dead_letters_are_consumed_by_another_group_and_those_of_that_one_by_none(stage: Stage) {
    stage.topic("orders", 1).await;
    stage.client.publish("orders", Record::new("bad")).await.expect("a receipt");
    let mut billing = stage.client.consumer("orders", "billing").build().await.expect("a member");
    next(&mut billing).await.park_durable("not for us").await.expect("parked");

    let letters = dead_letter_topic("orders", "billing");
    let own = stage.client.consumer(&letters, "billing").build().await;
    let own = Refusal::of(own).expect(Code::FailedPrecondition, "NOT_CONSUMABLE");
    assert!(own.message.contains("redrive"), "{own:?}");
    let mut ops = stage.client.consumer(&letters, "ops").build().await.expect("a member");
    let letter = next(&mut ops).await;
    assert_eq!(text(&letter), "bad");
    letter.park_durable("nor for us").await.expect("parked");

    let second = dead_letter_topic(&letters, "ops");
    let dead = stage.client.dead_letters(&letters, "ops");
    let mut deaths = Vec::new();
    dead.read(&LetterFilter::default(), |letter| deaths.push((letter.death.topic, letter.death.last_error)))
        .await
        .expect("letters");
    assert_eq!(deaths, [(letters.clone(), "nor for us".to_owned())]);
    let third = stage.client.consumer(&second, "audit").build().await;
    Refusal::of(third).expect(Code::FailedPrecondition, "NOT_CONSUMABLE");
    assert_eq!(dead.redrive(&[0], None).await.expect("redriven"), 1);
    let again = next(&mut ops).await;
    assert_eq!((text(&again), again.redriven().map(|death| death.redriven)), ("bad", Some(1)));
    again.ack_durable().await.expect("durable");
    let retries = stage.client.consumer(format!("{letters}~ops~retry"), "ops").build().await;
    Refusal::of(retries).expect(Code::FailedPrecondition, "NOT_CONSUMABLE");
    let counts = stage.client.groups().dead_letters().await.expect("a list");
    let counts: BTreeSet<_> = counts.into_iter().map(|info| (info.topic, info.group, info.count)).collect();
    let of = |topic: &str, group: &str, count| (topic.to_owned(), group.to_owned(), count);
    assert_eq!(counts, BTreeSet::from([of("orders", "billing", 1), of(&letters, "ops", 0)]));
}

pub(crate) async fn nobody_publishes_to_what_belongs_to_the_broker(stage: Stage) {
    stage.topic("orders", 1).await;
    stage.publish_numbers("orders", 2).await;
    let mut billing = stage.client.consumer("orders", "billing").build().await.expect("a member");
    next(&mut billing).await.park_durable("not for us").await.expect("parked");
    assert_eq!(stage.client.dead_letters("orders", "billing").redrive(&[0], None).await.expect("redriven"), 1);
    for topic in [dead_letter_topic("orders", "billing"), "orders~billing~retry".to_owned()] {
        let refused = stage.client.publish(&topic, Record::new("by hand")).await;
        Refusal::of(refused).expect(Code::FailedPrecondition, "SYSTEM_TOPIC");
        let producer = stage.client.producer(&topic).name("by hand").build().await;
        Refusal::of(producer).expect(Code::FailedPrecondition, "SYSTEM_TOPIC");
    }
}

pub(crate) async fn hours_are_shown_and_changed_and_hours_that_are_none_are_refused(stage: Stage) {
    let group = stage.client.group("billing");
    let nights = "22:00-06:00".parse::<DeliveryHours>().expect("hours").at_utc_offset(120);
    let policy = GroupPolicy { hours: Some(nights), ..GroupPolicy::default() };
    assert_eq!(group.create(policy).await.expect("a new group").policy.hours, Some(nights));
    stage.topic("orders", 1).await;
    let agreeing = stage.client.consumer("orders", "billing").policy(policy).build().await;
    agreeing.expect("a member that agrees");
    let days = GroupPolicy { hours: Some("06:00-22:00".parse().expect("hours")), ..GroupPolicy::default() };
    let disagreeing = stage.client.consumer("orders", "billing").policy(days).build().await;
    let refusal = Refusal::of(disagreeing).expect(Code::FailedPrecondition, "POLICY_DISAGREES");
    assert_eq!(refusal.fact("field"), "hours");
    let far = group.alter().hours(nights.at_utc_offset(15 * 60)).build().await;
    Refusal::of(far).expect(Code::InvalidArgument, "INVALID_REQUEST");
    let other = group.alter().ack_timeout(Duration::from_secs(7)).build().await.expect("altered");
    assert_eq!(other.policy.hours, Some(nights), "what is not named stays");
    let always = group.alter().hours(DeliveryHours::ALWAYS).build().await.expect("altered");
    assert_eq!(always.policy.hours, None);
    assert_eq!(group.describe().await.expect("a description").closed_until, None);
}
