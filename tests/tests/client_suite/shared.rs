//! Groups whose members share the records of every partition.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use aqueduct::testing::TestBroker;
use aqueduct_client::{Client, Codec, Consumer, ConsumerBuilder, DeadLetter, Delivery, GroupMode, Record};
use aqueduct_tests::text;
use futures_util::future::join_all;

use crate::stage::{Stage, is_through, letters, next, quick};

fn billing(client: &Client) -> ConsumerBuilder {
    client.consumer("numbers", "billing").mode(GroupMode::Shared)
}

/// Acks what comes until nothing is left for anybody; returns its offsets.
async fn ack_until_through(client: &Client, member: &mut Consumer) -> Vec<u64> {
    let mut seen = Vec::new();
    let mut is_through = std::pin::pin!(is_through(client));
    loop {
        tokio::select! {
            delivery = member.next() => {
                let delivery = delivery.expect("it goes on").expect("a delivery");
                seen.push(delivery.offset);
                delivery.ack();
            }
            () = &mut is_through => return seen,
        }
    }
}

pub(crate) async fn records_are_spread_over_members_and_settled_each_by_itself(stage: Stage) {
    stage.topic("numbers", 1).await;
    let mut members = Vec::new();
    for _ in 0..4 {
        let client = stage.another_client().await;
        members.push(billing(&client).prefetch_records(10).build().await.expect("a member"));
    }
    stage.publish_numbers("numbers", 400).await;
    // Everybody takes some before anybody settles: one partition is with all of them.
    let mut taken: Vec<Delivery> = Vec::new();
    for member in &mut members {
        taken.push(next(member).await);
    }
    let mut seen: BTreeMap<u64, u32> = BTreeMap::new();
    for delivery in taken {
        assert_eq!((delivery.attempt(), delivery.redriven()), (1, None));
        *seen.entry(delivery.offset).or_default() += 1;
        delivery.ack();
    }
    let rest = join_all(members.iter_mut().map(|member| ack_until_through(&stage.client, member))).await;
    rest.into_iter().flatten().for_each(|offset| *seen.entry(offset).or_default() += 1);
    assert_eq!(seen, (0..400).map(|offset| (offset, 1)).collect());
}

pub(crate) async fn a_slow_member_does_not_hold_the_others(stage: Stage) {
    stage.topic("numbers", 1).await;
    stage.publish_numbers("numbers", 200).await;
    let mut slow = billing(&stage.client).prefetch_records(5).build().await.expect("a member");
    let held = next(&mut slow).await;
    let client = stage.another_client().await;
    let mut quick = billing(&client).build().await.expect("another member");
    // All but what the slow one has room for.
    let mut handled = 0;
    while handled < 180 {
        next(&mut quick).await.ack_durable().await.expect("durable");
        handled += 1;
    }
    let lag = stage.client.group("billing").lag("numbers").await.expect("a report");
    assert_eq!(lag[0].committed_offset, held.offset, "what is open holds the committed offset, and nothing else");
    held.ack();
    tokio::join!(ack_until_through(&stage.client, &mut slow), ack_until_through(&stage.client, &mut quick));
}

pub(crate) async fn a_record_that_fails_every_time_is_parked_and_nothing_waits_for_it(stage: Stage) {
    stage.topic("numbers", 1).await;
    stage.publish_numbers("numbers", 10).await;
    let mut member = billing(&stage.client).retry(quick(3)).build().await.expect("a member");
    let mut attempts = 0;
    let mut others = 0;
    while attempts < 3 || others < 9 {
        let delivery = next(&mut member).await;
        if delivery.offset == 2 {
            attempts += 1;
            assert_eq!((delivery.attempt(), delivery.partition), (attempts, 0));
            assert_eq!((text(&delivery), delivery.redriven()), ("2", None));
            assert!(delivery.record.headers.is_empty(), "it is what was published");
            delivery.nack(format!("boom {attempts}"));
        } else {
            assert_eq!(delivery.attempt(), 1);
            others += 1;
            delivery.ack();
        }
    }
    let DeadLetter { event, death } = letters(&stage.client, 1).await.remove(0);
    assert_eq!(text(&event), "2");
    assert!(event.record.headers.is_empty());
    assert_eq!((death.topic.as_str(), death.partition, death.offset), ("numbers", 0, 2));
    assert_eq!((death.group.as_str(), death.attempts, death.redriven), ("billing", 3, 0));
    assert_eq!((death.first_error.as_str(), death.last_error.as_str()), ("boom 1", "boom 3"));
    is_through(&stage.client).await;
}

/// What its value begins with.
fn name(delivery: &Delivery) -> String {
    text(delivery).split(' ').next().unwrap_or_default().to_owned()
}

/// Some are at hand when they fail, and the others are read again, in whatever mixture.
pub(crate) async fn all_that_fails_together_comes_again_however_it_is_stored(stage: Stage) {
    stage.topic("numbers", 1).await;
    let mut random = fastrand::Rng::with_seed(7);
    for number in 0..120 {
        let codec = if random.u8(0..30) == 0 { Codec::None } else { Codec::Lz4 };
        let producer = stage.client.producer("numbers").codec(codec).build().await.expect("a producer");
        let mut value = |part: u32| {
            let filling: String = (0..3000).map(|_| random.alphanumeric()).collect();
            format!("{number}.{part} {}{filling}", "abc".repeat(100))
        };
        let records: Vec<Record> = (0..1 + number % 3).map(|part| Record::new(value(part))).collect();
        producer.enqueue_all(records).await.expect("room").await.expect("stored");
    }
    let published = stage.client.topics().describe("numbers").await.expect("described").partitions[0].high_watermark;
    let mut member = billing(&stage.client).retry(quick(3)).build().await.expect("a member");
    let mut first = Vec::new();
    while first.len() < usize::try_from(published).expect("few") {
        first.push(next(&mut member).await);
    }
    let mut failed = BTreeSet::new();
    for delivery in first {
        if random.u8(0..3) == 0 {
            delivery.ack();
        } else {
            failed.insert(name(&delivery));
            delivery.nack("boom");
        }
    }
    let mut again = BTreeSet::new();
    while again.len() < failed.len() {
        let delivery = next(&mut member).await;
        assert_eq!(delivery.attempt(), 2);
        assert!(again.insert(name(&delivery)), "{} comes twice", name(&delivery));
        delivery.ack();
    }
    assert_eq!(again, failed);
    is_through(&stage.client).await;
}

pub(crate) async fn a_redriven_record_begins_anew_and_tells_how_it_had_failed(stage: Stage) {
    stage.topic("numbers", 1).await;
    stage.publish_numbers("numbers", 1).await;
    let mut member = billing(&stage.client).retry(quick(2)).build().await.expect("a member");
    for attempt in 1..=2 {
        let delivery = next(&mut member).await;
        assert_eq!(delivery.attempt(), attempt);
        delivery.nack("boom");
    }
    letters(&stage.client, 1).await;
    let dead = stage.client.dead_letters("numbers", "billing");
    assert_eq!(dead.redrive(&[0], None).await.expect("redriven"), 1);
    for attempt in 1..=2 {
        let delivery = next(&mut member).await;
        assert_eq!((delivery.attempt(), delivery.offset), (attempt, 0));
        let death = delivery.redriven().expect("it was a dead letter");
        assert_eq!((death.redriven, death.attempts), (1, 1 + attempt));
        if attempt == 1 {
            delivery.nack("again");
        } else {
            delivery.ack_durable().await.expect("durable");
        }
    }
    is_through(&stage.client).await;
}

pub(crate) async fn what_a_member_had_open_goes_to_the_others_when_it_leaves(stage: Stage) {
    stage.topic("numbers", 1).await;
    stage.publish_numbers("numbers", 10).await;
    let client = stage.another_client().await;
    let mut first = billing(&client).retry(quick(5)).build().await.expect("a member");
    let held = next(&mut first).await;
    assert_eq!(held.offset, 0);
    let mut second = billing(&stage.client).build().await.expect("another member");
    first.close().await.expect("a clean end");
    let mut seen = BTreeMap::new();
    while seen.len() < 10 {
        let delivery = next(&mut second).await;
        seen.insert(delivery.offset, delivery.attempt());
        delivery.ack();
    }
    drop(held);
    is_through(&stage.client).await;
}

async fn embedded() -> (TestBroker, Client) {
    let broker = TestBroker::start().await.expect("a broker");
    let client = broker.client();
    client.topics().create("numbers").partitions(1).build().await.expect("a new topic");
    let producer = client.producer("numbers").build().await.expect("a producer");
    producer.publish_all((0..5).map(|number| Record::new(number.to_string()))).await.expect("receipts");
    (broker, client)
}

/// Handles everything but offset 1, which is to come again after an hour.
async fn put_off(member: &mut Consumer) {
    for _ in 0..5 {
        let delivery = next(member).await;
        if delivery.offset == 1 {
            delivery.nack_after(Duration::from_secs(3600), "not now");
        } else {
            delivery.ack();
        }
    }
}

#[tokio::test]
async fn a_record_that_is_put_off_lets_the_group_go_on_and_comes_back_when_it_is_due() {
    let (broker, client) = embedded().await;
    let mut member = billing(&client).build().await.expect("a member");
    put_off(&mut member).await;
    is_through(&client).await;
    broker.advance(Duration::from_secs(3590));
    client.publish("numbers", Record::new("5")).await.expect("a receipt");
    let delivery = next(&mut member).await;
    assert_eq!(delivery.offset, 5, "it is not due yet");
    delivery.ack();
    broker.advance(Duration::from_secs(20));
    let delivery = next(&mut member).await;
    assert_eq!((delivery.offset, delivery.attempt(), delivery.redriven()), (1, 2, None));
    delivery.ack_durable().await.expect("durable");
}

#[tokio::test]
async fn records_in_retry_and_their_attempts_survive_a_restart() {
    let (broker, client) = embedded().await;
    let mut member = billing(&client).build().await.expect("a member");
    put_off(&mut member).await;
    is_through(&client).await;
    drop((member, client));
    let broker = broker.restart().await.expect("it starts again");
    let client = broker.client();
    let mut member = billing(&client).build().await.expect("a member");
    for attempt in 2..=4 {
        broker.advance(Duration::from_secs(3700));
        let delivery = next(&mut member).await;
        assert_eq!((delivery.offset, delivery.attempt()), (1, attempt));
        delivery.nack_after(Duration::from_secs(3600), "not yet");
        is_through(&client).await;
    }
    broker.advance(Duration::from_secs(3700));
    let last = next(&mut member).await;
    assert_eq!((last.offset, last.attempt()), (1, 5));
    last.nack("never");
    assert_eq!(letters(&client, 1).await.remove(0).death.attempts, 5);
}
