//! On a directory, with a clock that is set forward.

use std::path::Path;

use aqueduct_storage::RealDisk;

use super::*;
use crate::{BrokerConfig, clock::Clock, topics::settings::NewTopic};

const HOUR: Duration = Duration::from_secs(3600);

async fn open(directory: &Path, clock: &Clock) -> Arc<BrokerCore> {
    BrokerCore::open(Arc::new(RealDisk::new()), directory, BrokerConfig::default(), clock.clone())
        .await
        .expect("it opens")
}

async fn open_with_topic(directory: &Path, clock: &Clock) -> Arc<BrokerCore> {
    let core = open(directory, clock).await;
    core.topics.create(TOPIC, NewTopic { partitions: 2, ..NewTopic::default() }).await.expect("it is made");
    core
}

async fn close(core: Arc<BrokerCore>) {
    core.close(PATIENCE).await.expect("it closes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_months_comes_in_order_of_its_time_however_the_clock_moves() {
    let directory = tempfile::tempdir().expect("a directory");
    let clock = Clock::default();
    let mut core = open_with_topic(directory.path(), &clock).await;
    let mut rng = fastrand::Rng::with_seed(3);
    let start_us = clock.now_us();
    let mut due = BTreeMap::new();
    for number in 0..500_u64 {
        let due_us = start_us + 30_000_000 + (rng.i64(0..2000 * 3_600_000_000) >> rng.u32(..30));
        let put = core.delays.put(destination(&core, 0), vec![delayed(due_us, number.to_string())]).await;
        due.insert((due_us, put.expect("it is stored").id), number);
    }
    assert!(core.delays.pending() > 100);
    for step in 0..5 {
        clock.advance(if step == 4 { 2000 * HOUR } else { Duration::from_secs(1 << (5 * step)) });
        let now_us = clock.now_us();
        let expected = due.keys().filter(|(due_us, _)| *due_us <= now_us).count();
        wait_for(&core, 0, expected as u64).await;
        if step % 2 == 0 {
            close(core).await;
            core = open(directory.path(), &clock).await;
        }
    }
    let found = delivered(&core, 0).await;
    assert_eq!(found.len(), 500);
    let in_order = due.iter().zip(&found).all(|((_, number), found)| number.to_string().as_bytes() == found.value);
    assert!(in_order, "in order of (due, put)");
    assert!(due.keys().zip(&found).all(|((due_us, _), found)| found.append_time_us >= *due_us), "none comes early");
    close(core).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_was_deleted_and_made_again_gets_nothing_and_holds_nobody_up() {
    let directory = tempfile::tempdir().expect("a directory");
    let clock = Clock::default();
    let core = open_with_topic(directory.path(), &clock).await;
    let due_us = clock.now_us() + 60_000_000;
    core.delays.put(destination(&core, 1), vec![delayed(due_us, "old")]).await.expect("it is stored");
    core.topics.delete(TOPIC, &[]).await.expect("it is deleted");
    core.topics.create(TOPIC, NewTopic { partitions: 2, ..NewTopic::default() }).await.expect("it is made again");
    core.delays.put(destination(&core, 1), vec![delayed(due_us, "new")]).await.expect("it is stored");
    clock.advance(HOUR);
    wait_for(&core, 1, 1).await;
    let found = delivered(&core, 1).await;
    assert_eq!(found.iter().map(|found| &found.value[..]).collect::<Vec<_>>(), [b"new"]);
    close(core).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_due_before_it_was_put_is_delivered_at_once() {
    let directory = tempfile::tempdir().expect("a directory");
    let core = open_with_topic(directory.path(), &Clock::default()).await;
    let records = vec![delayed(5, "b"), delayed(i64::MIN, "a")];
    core.delays.put(destination(&core, 0), records).await.expect("it is stored");
    wait_for(&core, 0, 2).await;
    let found = delivered(&core, 0).await;
    assert_eq!(found.iter().map(|found| &found.value[..]).collect::<Vec<_>>(), [b"a", b"b"]);
    let nothing = core.delays.put(destination(&core, 0), Vec::new()).await;
    assert!(matches!(nothing, Err(PublishError::Invalid { field: "records", .. })));
    close(core).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_whose_snapshot_is_damaged_says_so_and_moves_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let clock = Clock::default();
    let core = open_with_topic(directory.path(), &clock).await;
    core.delays.put(destination(&core, 0), vec![delayed(0, "a")]).await.expect("it is stored");
    wait_for(&core, 0, 1).await;
    close(core).await;
    let snapshot = directory.path().join("system/delays-settled.state");
    let mut bytes = std::fs::read(&snapshot).expect("it was saved");
    bytes[7] ^= 1;
    std::fs::write(&snapshot, bytes).expect("it is written");
    let core = open(directory.path(), &clock).await;
    let refused = core.delays.put(destination(&core, 0), vec![delayed(0, "b")]).await.expect_err("it is damaged");
    assert!(refused.to_string().contains("delays-settled.state is not readable"), "{refused}");
    assert_eq!(delivered(&core, 0).await.len(), 1);
    close(core).await;
}
