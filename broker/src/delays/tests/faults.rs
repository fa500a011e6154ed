//! Targets that take nothing for a while, and a disk that is full.

use std::{io, path::Path};

use aqueduct_storage::sim::{Fault, Injection, SimDisk};

use super::*;
use crate::{BrokerConfig, clock::Clock, topics::settings::NewTopic};

async fn open(disk: &SimDisk, clock: &Clock) -> Arc<BrokerCore> {
    let core = BrokerCore::open(disk.shared(), Path::new("/data"), BrokerConfig::default(), clock.clone());
    let core = core.await.expect("it opens");
    core.topics.create(TOPIC, NewTopic { partitions: 2, ..NewTopic::default() }).await.expect("it is made");
    core
}

async fn put(core: &Arc<BrokerCore>, partition: u32, due_us: i64, value: String) {
    core.delays.put(destination(core, partition), vec![delayed(due_us, value)]).await.expect("it is stored");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_that_takes_no_writes_holds_nobody_up_and_gets_everything_once_when_it_does() {
    let (disk, clock) = (SimDisk::new(), Clock::default());
    let core = open(&disk, &clock).await;
    for _ in 0..500 {
        let (path_contains, fault) = (format!("{TOPIC}/0/"), Fault::Error(io::ErrorKind::Other));
        disk.inject(Injection { op: None, path_contains, after: 0, fault });
    }
    let start_us = clock.now_us();
    for number in 0..30_i64 {
        put(&core, 0, start_us + number, number.to_string()).await;
        put(&core, 1, start_us + number, number.to_string()).await;
        // Long enough for what waits to be given back to a tier, and to be tried again from there.
        clock.advance(Duration::from_secs(1));
    }
    wait_for(&core, 1, 30).await;
    disk.clear_injections();
    while core.delays.pending() > 0 {
        clock.advance(Duration::from_secs(10));
        let topic = core.topics.find(TOPIC).expect("the topic is there");
        let mut window = topic.partition(0).expect("a partition").log().expect("it is open").watch();
        drop(tokio::time::timeout(Duration::from_millis(20), window.changed()).await);
    }
    let mut values: Vec<i64> = delivered(&core, 0)
        .await
        .iter()
        .map(|found| std::str::from_utf8(&found.value).expect("text").parse().expect("a number"))
        .collect();
    values.sort_unstable();
    assert_eq!(values, (0..30).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_what_is_put_and_delivers_what_was_once_there_is_room() {
    let (disk, clock) = (SimDisk::new(), Clock::default());
    let core = open(&disk, &clock).await;
    let due_us = clock.now_us() + 3_600_000_000;
    put(&core, 0, due_us, "before".to_owned()).await;
    disk.set_capacity(Some(disk.used_bytes()));
    let large = vec![delayed(due_us, vec![b'x'; 1 << 20])];
    let refused = core.delays.put(destination(&core, 0), large).await.expect_err("there is no room");
    assert_eq!(refused, PublishError::DiskFull);
    clock.advance(Duration::from_secs(4000));
    disk.set_capacity(None);
    wait_for(&core, 0, 1).await;
    put(&core, 0, due_us, "after".to_owned()).await;
    wait_for(&core, 0, 2).await;
    let values: Vec<Bytes> = delivered(&core, 0).await.into_iter().map(|found| found.value).collect();
    assert_eq!(values, [&b"before"[..], b"after"]);
}
