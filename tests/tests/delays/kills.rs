//! A broker that is killed again and again while it takes and delivers: what it has answered comes exactly once.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aqueduct_client::{Client, Due, Event, Record, Scheduled, Timestamp};
use aqueduct_tests::{BrokerProcess, by_partition, eventually, read_all, text};
use futures_util::future::join_all;

const KILLS: u32 = 15;
const PARTITIONS: u32 = 3;
const CALLERS: u64 = 8;

/// What a caller knows.
#[derive(Debug)]
struct Answered {
    scheduled: Scheduled,
    at: Timestamp,
}

/// Each schedules one record after the other until the broker is gone.
async fn schedule_until_it_dies(client: Client, seed: u64, names: String) -> BTreeMap<String, Answered> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut accepted = BTreeMap::new();
    for number in 0.. {
        let name = format!("{names}-{number}");
        let due = Due::In(Duration::from_millis(random.u64(..3000) >> random.u32(..4)));
        let record = Record::new(name.clone()).key(random.u8(..).to_string());
        match client.schedule("reminders", record, due).await {
            Ok(scheduled) => drop(accepted.insert(name, Answered { scheduled, at: now() })),
            Err(_) => break,
        }
    }
    accepted
}

fn check(accepted: &BTreeMap<String, Answered>, events: Vec<Event>) {
    let mut seen = BTreeSet::new();
    for (partition, events) in by_partition(events) {
        let mut latest: Option<&Scheduled> = None;
        for event in &events {
            assert!(seen.insert(text(event).to_owned()), "{} was delivered twice", text(event));
            // One that was not answered may have been stored all the same.
            let Some(Answered { scheduled, at }) = accepted.get(text(event)) else { continue };
            assert_eq!(scheduled.partition, partition);
            assert!(event.append_time >= scheduled.due, "{scheduled} came early");
            if let Some(before) = latest.filter(|before| (before.due, before.id) > (scheduled.due, scheduled.id)) {
                // It was not known yet when the other became due.
                assert!(*at >= before.due, "{scheduled}, due earlier, came after {before}");
            } else {
                latest = Some(scheduled);
            }
        }
    }
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock");
    Timestamp::from_micros(i64::try_from(since.as_micros()).expect("a time"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_scheduled_is_delivered_once_however_often_the_broker_is_killed() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut broker = BrokerProcess::start();
    let client = broker.client().await;
    client.topics().create("reminders").partitions(PARTITIONS).build().await.expect("a topic");
    let mut accepted = BTreeMap::new();
    for kill in 0..KILLS {
        let mut callers = Vec::new();
        for caller in 0..CALLERS {
            let client = broker.client().await;
            let names = format!("{kill}-{caller}");
            callers.push(tokio::spawn(schedule_until_it_dies(client, random.u64(..), names)));
        }
        // Some moment, while it takes and delivers.
        tokio::time::sleep(Duration::from_millis(random.u64(50..700))).await;
        broker = broker.kill_and_restart();
        for answered in join_all(callers).await {
            accepted.extend(answered.expect("no panic"));
        }
        check(&accepted, read_all(&broker.client().await, "reminders").await);
    }
    println!("{} records answered, {KILLS} kills", accepted.len());
    assert!(accepted.len() > KILLS as usize, "hardly anything was scheduled");
    let client = broker.client().await;
    eventually("everything is delivered", async || {
        let waiting = client.info().await.expect("what it is").delayed_records;
        (waiting == 0).then_some(())
    })
    .await;
    let events = read_all(&client, "reminders").await;
    let there: BTreeSet<&str> = events.iter().map(text).collect();
    let lost: Vec<&String> = accepted.keys().filter(|name| !there.contains(name.as_str())).collect();
    assert!(lost.is_empty(), "answered and never delivered: {lost:?}");
    check(&accepted, events);
}
