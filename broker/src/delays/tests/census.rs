//! What waits is counted where it lies.

use std::path::Path;

use aqueduct_storage::RealDisk;

use super::*;
use crate::{
    BrokerConfig,
    clock::Clock,
    delays::census::{Census, Extent},
    topics::settings::NewTopic,
};

const HOUR_US: i64 = 3_600_000_000;

async fn open(directory: &Path, clock: &Clock) -> Arc<BrokerCore> {
    BrokerCore::open(Arc::new(RealDisk::new()), directory, BrokerConfig::default(), clock.clone())
        .await
        .expect("it opens")
}

async fn put(core: &BrokerCore, partition: u32, due_us: i64, value: &str) {
    let put = core.delays.put(destination(core, partition), vec![delayed(due_us, value.to_owned())]).await;
    put.expect("it is stored");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_a_place_is_counted_across_tiers_moves_and_restarts() {
    let directory = tempfile::tempdir().expect("a directory");
    let clock = Clock::default();
    let mut core = open(directory.path(), &clock).await;
    core.topics.create(TOPIC, NewTopic { partitions: 2, ..NewTopic::default() }).await.expect("it is made");
    let (asked, other) = (destination(&core, 0), destination(&core, 1));
    let nothing = core.delays.census(&[asked]).await;
    assert_eq!((nothing.by_destination[&asked].records, nothing.extent), (0, Extent::All));

    let start_us = clock.now_us();
    let first_due_us = start_us + 60_000_000;
    for number in 0..30 {
        put(&core, 0, first_due_us + number * HOUR_US, "asked for").await;
        put(&core, 1, start_us + HOUR_US, "of another place").await;
    }
    put(&core, 0, start_us + 5 * HOUR_US, "last").await;
    for round in 0..3 {
        let census = core.delays.census(&[asked]).await;
        let waiting = &census.by_destination[&asked];
        assert_eq!((waiting.records, waiting.next_due_us), (31, Some(first_due_us)), "round {round}");
        assert!(!census.by_destination.contains_key(&other), "only what was asked for");
        let last = waiting.last().expect("the one that was put last");
        assert!(last.payload.windows(4).any(|bytes| bytes == b"last"), "{last:?}");
        core.close(PATIENCE).await.expect("it closes");
        core = open(directory.path(), &clock).await;
    }
    // The first ten, and what is due with them, move on; the others change their tiers.
    clock.advance(Duration::from_secs(10 * 3600));
    wait_for(&core, 0, 11).await;
    wait_for(&core, 1, 30).await;
    // One on its way counts twice until it is there.
    let all_are_there = async {
        loop {
            let both = core.delays.census(&[asked, other]).await;
            if both.by_destination.values().map(|waiting| waiting.records).eq([20, 0]) {
                return both;
            }
        }
    };
    let both = tokio::time::timeout(PATIENCE, all_are_there).await.expect("they change their tiers");
    assert_eq!(both.by_destination[&asked].next_due_us, Some(first_due_us + 10 * HOUR_US));
    core.close(PATIENCE).await.expect("it closes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_than_is_looked_at_is_a_lower_bound_and_said_to_be_one() {
    let directory = tempfile::tempdir().expect("a directory");
    let core = open(directory.path(), &Clock::default()).await;
    core.topics.create(TOPIC, NewTopic::default()).await.expect("it is made");
    let asked = destination(&core, 0);
    for _ in 0..20 {
        put(&core, 0, i64::MAX, &"x".repeat(100)).await;
    }
    let Some(Ok(running)) = core.delays.running.get() else { panic!("it has been put to") };
    let mut census = Census { by_destination: BTreeMap::from([(asked, Default::default())]), extent: Extent::All };
    census.take(&running.shared, &BTreeMap::new(), 1000).await;
    let counted = census.by_destination[&asked].records;
    assert!(census.extent == Extent::Part && (1..20).contains(&counted), "{census:?}");
    core.close(PATIENCE).await.expect("it closes");
}
