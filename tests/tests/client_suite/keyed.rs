//! Groups whose members share the records of every partition, each key with one of them at a time.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Mutex,
};

use aqueduct_client::{Client, Consumer, ConsumerBuilder, DeadLetter, GroupMode, Record};
use aqueduct_tests::text;
use futures_util::future::join_all;

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
    let handle = async |index: usize, member: &mut Consumer| {
        let mut random = fastrand::Rng::with_seed(7 + index as u64);
        let mut is_through = std::pin::pin!(is_through(&stage.client));
        loop {
            let delivery = tokio::select! {
                delivery = member.next() => delivery.expect("it goes on").expect("a delivery"),
                () = &mut is_through => return,
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
