//! Groups whose members share the records of every partition, each key with one of them at a time.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Mutex,
    time::Duration,
};

use aqueduct::testing::TestBroker;
use aqueduct_client::{
    Client, Consumer, ConsumerBuilder, DeadLetter, GroupMode, Offset, OnExhausted, Record, RetryPolicy,
};
use aqueduct_tests::{eventually, text};
use futures_util::future::join_all;
use tokio::sync::watch;

use crate::stage::{Stage, is_through, letters, next, quick};

fn billing(client: &Client) -> ConsumerBuilder {
    client.consumer("numbers", "billing").mode(GroupMode::Keyed).retry(quick(50))
}

/// `per_key` records for each key, by turns, on one partition.
async fn publish(stage: &Stage, keys: usize, per_key: usize) {
    let producer = stage.client.producer("numbers").build().await.expect("a producer");
    let number = |at: usize| Record::new((at / keys).to_string()).key(format!("key-{}", at % keys));
    producer.publish_all((0..keys * per_key).map(number)).await.expect("receipts");
}

pub(crate) async fn keys_are_spread_over_members_and_stay_in_order_whatever_fails(stage: Stage) {
    const KEYS: usize = 20;
    const PER_KEY: usize = 25;
    stage.topic("numbers", 1).await;
    let mut members = Vec::new();
    for _ in 0..3 {
        let client = stage.another_client().await;
        members.push(billing(&client).prefetch_records(16).build().await.expect("a member"));
    }
    publish(&stage, KEYS, PER_KEY).await;
    let handled: Mutex<BTreeMap<String, Vec<usize>>> = Mutex::default();
    let by_member: Mutex<BTreeSet<usize>> = Mutex::default();
    let done = watch::Sender::new(0);
    let handle = async |index: usize, member: &mut Consumer| {
        let mut random = fastrand::Rng::with_seed(7 + index as u64);
        let mut all = done.subscribe();
        loop {
            let delivery = tokio::select! {
                delivery = member.next() => delivery.expect("it goes on").expect("a delivery"),
                _ = all.wait_for(|done| *done == KEYS * PER_KEY) => return,
            };
            by_member.lock().expect("no panic").insert(index);
            match random.u8(0..10) {
                0 | 1 => delivery.nack("boom"),
                2 => drop(delivery),
                _ => {
                    let key = String::from_utf8_lossy(delivery.key().expect("a key")).into_owned();
                    let number = text(&delivery).parse().expect("a number");
                    handled.lock().expect("no panic").entry(key).or_default().push(number);
                    delivery.ack();
                    done.send_modify(|done| *done += 1);
                }
            }
        }
    };
    join_all(members.iter_mut().enumerate().map(|(index, member)| handle(index, member))).await;
    let handled = handled.into_inner().expect("no panic");
    assert_eq!(handled.len(), KEYS);
    for (key, numbers) in handled {
        assert_eq!(numbers, (0..PER_KEY).collect::<Vec<_>>(), "{key}: in order, and each once");
    }
    assert_eq!(by_member.into_inner().expect("no panic").len(), 3, "everybody had some");
}

pub(crate) async fn a_poison_record_holds_its_own_key_and_no_other(stage: Stage) {
    stage.topic("numbers", 1).await;
    publish(&stage, 2, 3).await;
    let mut member = billing(&stage.client).retry(quick(3)).build().await.expect("a member");
    let mut seen = Vec::new();
    while seen.len() < 8 {
        let delivery = next(&mut member).await;
        seen.push((delivery.offset, delivery.attempt()));
        if delivery.offset == 0 {
            delivery.nack("poison");
        } else {
            delivery.ack();
        }
    }
    let of_poisoned: Vec<_> = seen.iter().copied().filter(|(offset, _)| offset % 2 == 0).collect();
    assert_eq!(of_poisoned, [(0, 1), (0, 2), (0, 3), (2, 1), (4, 1)]);
    let of_other: Vec<_> = seen.iter().copied().filter(|(offset, _)| offset % 2 == 1).collect();
    assert_eq!(of_other, [(1, 1), (3, 1), (5, 1)]);
    is_through(&stage.client).await;
    let DeadLetter { event, death } = letters(&stage.client, 1).await.remove(0);
    assert_eq!((event.key(), death.offset, death.attempts), (Some(&b"key-0"[..]), 0, 3));
}

/// A record of `key`, on the only partition.
async fn publish_one(client: &Client, key: &str) {
    client.publish("numbers", Record::new("more").key(key.to_owned())).await.expect("a receipt");
}

/// Until the group has committed all that was published, whatever is in retry.
async fn has_passed(client: &Client) {
    let group = client.group("billing");
    let committed = async || (group.lag("numbers").await.expect("a report")[0].lag_records == 0).then_some(());
    eventually("the group has passed everything", committed).await;
}

/// Offsets 0, 2 and 4 of one key, and 1, 3 and 5 of another; the first one has failed, and comes again in an hour.
async fn put_off_the_first_of_a_key() -> (TestBroker, Client, Consumer) {
    let broker = TestBroker::start().await.expect("a broker");
    let client = broker.client();
    client.topics().create("numbers").partitions(1).build().await.expect("a new topic");
    for number in 0..6 {
        publish_one(&client, ["a", "b"][number % 2]).await;
    }
    let mut member = billing(&client).build().await.expect("a member");
    let mut others = 0;
    while others < 3 {
        let delivery = next(&mut member).await;
        match delivery.offset {
            0 => delivery.nack_after(Duration::from_secs(3600), "not now"),
            1 | 3 | 5 => {
                others += 1;
                delivery.ack();
            }
            offset => panic!("{offset} has overtaken 0"),
        }
    }
    has_passed(&client).await;
    (broker, client, member)
}

/// Acks what comes next; says what it was.
async fn ack_next(member: &mut Consumer) -> (Offset, u32) {
    let delivery = next(member).await;
    let seen = (delivery.offset, delivery.attempt());
    delivery.ack_durable().await.expect("durable");
    seen
}

#[tokio::test]
async fn a_key_that_is_put_off_lets_the_group_go_on_and_comes_back_in_order() {
    let (broker, client, mut member) = put_off_the_first_of_a_key().await;
    broker.advance(Duration::from_secs(3500));
    publish_one(&client, "a").await;
    publish_one(&client, "b").await;
    assert_eq!(ack_next(&mut member).await, (7, 1), "the key that failed waits, the other goes on");
    has_passed(&client).await;
    broker.advance(Duration::from_secs(200));
    for seen in [(0, 2), (2, 1), (4, 1), (6, 1)] {
        assert_eq!(ack_next(&mut member).await, seen);
    }
    publish_one(&client, "a").await;
    assert_eq!(ack_next(&mut member).await, (8, 1));
}

#[tokio::test]
async fn a_key_in_retry_and_what_follows_survive_a_restart() {
    let (broker, client, member) = put_off_the_first_of_a_key().await;
    drop((member, client));
    let broker = broker.restart().await.expect("it starts again");
    let client = broker.client();
    publish_one(&client, "a").await;
    publish_one(&client, "b").await;
    let mut member = billing(&client).build().await.expect("a member");
    assert_eq!(ack_next(&mut member).await, (7, 1), "nobody forgot that the other key waits");
    broker.advance(Duration::from_secs(3700));
    let delivery = next(&mut member).await;
    assert_eq!((delivery.offset, delivery.attempt()), (0, 2));
    delivery.nack_after(Duration::from_secs(3600), "not yet");
    has_passed(&client).await;
    drop((member, client));
    let broker = broker.restart().await.expect("it starts again");
    let mut member = billing(&broker.client()).build().await.expect("a member");
    broker.advance(Duration::from_secs(3700));
    for seen in [(0, 3), (2, 1), (4, 1), (6, 1)] {
        assert_eq!(ack_next(&mut member).await, seen, "what moved to the end of the retries keeps its place");
    }
}

#[tokio::test]
async fn a_redriven_record_comes_before_what_waits_of_its_key() {
    let (broker, client, mut member) = put_off_the_first_of_a_key().await;
    broker.advance(Duration::from_secs(3700));
    next(&mut member).await.park_durable("poison").await.expect("durable");
    let delivery = next(&mut member).await;
    assert_eq!(delivery.offset, 2);
    delivery.nack_after(Duration::from_secs(3600), "not now");
    letters(&client, 1).await;
    let dead = client.dead_letters("numbers", "billing");
    assert_eq!(dead.redrive(&[0], None).await.expect("redriven"), 1);
    assert_eq!(ack_next(&mut member).await.0, 0);
    broker.advance(Duration::from_secs(3700));
    assert_eq!(ack_next(&mut member).await, (2, 2));
    assert_eq!(ack_next(&mut member).await, (4, 1));
}

/// Acks what comes of key `b`, and refuses what comes of key `a`, until `count` of `b` are handled.
async fn refuse_a(member: &mut Consumer, count: usize) {
    let mut handled = 0;
    while handled < count {
        let delivery = next(member).await;
        match delivery.key() {
            Some(b"a") => delivery.nack("poison"),
            _ => {
                handled += 1;
                delivery.ack();
            }
        }
    }
}

#[tokio::test]
async fn a_key_is_parked_as_a_whole_until_its_letters_are_redriven() {
    let broker = TestBroker::start().await.expect("a broker");
    let client = broker.client();
    client.topics().create("numbers").partitions(1).build().await.expect("a new topic");
    for number in 0..6 {
        publish_one(&client, ["a", "b"][number % 2]).await;
    }
    let whole_keys = RetryPolicy { on_exhausted: Some(OnExhausted::ParkKey), ..quick(1) };
    let mut member = billing(&client).retry(whole_keys).build().await.expect("a member");
    refuse_a(&mut member, 3).await;
    let offsets = |letters: Vec<DeadLetter>| letters.iter().map(|letter| letter.death.offset).collect::<Vec<_>>();
    assert_eq!(offsets(letters(&client, 3).await), [0, 2, 4], "what follows was parked without being tried");
    is_through(&client).await;
    drop((member, client));

    let broker = broker.restart().await.expect("it starts again");
    let client = broker.client();
    publish_one(&client, "a").await;
    publish_one(&client, "b").await;
    let mut member = billing(&client).retry(whole_keys).build().await.expect("a member");
    assert_eq!(ack_next(&mut member).await, (7, 1));
    let parked = letters(&client, 4).await;
    assert_eq!(parked[3].death.attempts, 0);
    assert_eq!(offsets(parked), [0, 2, 4, 6], "nobody forgot that the key is parked");

    let dead = client.dead_letters("numbers", "billing");
    assert_eq!(dead.redrive(&[0, 1, 2, 3], None).await.expect("redriven"), 4);
    for seen in [(0, 1), (2, 1), (4, 1), (6, 1)] {
        assert_eq!(ack_next(&mut member).await, seen);
    }
    publish_one(&client, "a").await;
    assert_eq!(ack_next(&mut member).await, (8, 1), "the key is as any other");
}

#[tokio::test]
async fn a_parked_key_is_free_once_its_letters_are_discarded() {
    let broker = TestBroker::start().await.expect("a broker");
    let client = broker.client();
    client.topics().create("numbers").partitions(1).build().await.expect("a new topic");
    let whole_keys = RetryPolicy { on_exhausted: Some(OnExhausted::ParkKey), ..quick(1) };
    let mut member = billing(&client).retry(whole_keys).build().await.expect("a member");
    publish_one(&client, "a").await;
    publish_one(&client, "b").await;
    refuse_a(&mut member, 1).await;
    letters(&client, 1).await;
    let dead = client.dead_letters("numbers", "billing");
    assert_eq!(dead.discard(&[0]).await.expect("discarded"), 1);
    publish_one(&client, "a").await;
    assert_eq!(ack_next(&mut member).await, (2, 1));
}
