//! The whole broker on the simulated disk, driven by its own client, while the power goes and the process is killed.
//!
//! The campaign of `storage` proves the log; this proves what the broker makes of it: an acknowledgement of a publish, of
//! a group's ack, of a topic created or deleted is given only when it is durable, and a retry is stored once. There are
//! threads in it, so that a seed names the workload and the moment of the crash, not every step between them.
//!
//! `AQUEDUCT_SEEDS=300` runs so many seeds; `AQUEDUCT_SEED=17` that one.

use std::{path::Path, sync::Arc};

use aqueduct_storage::sim::SimDisk;
use fastrand::Rng;

use self::{
    ledger::Ledger,
    life::Life,
    seeds::{in_a_process, only_seed, under_every_seed},
};
use crate::{BrokerConfig, OpenError, clock::Clock, core::BrokerCore};

mod ledger;
mod life;
pub(crate) mod seeds;

const SEEDS: u64 = 150;
const LIVES: usize = 4;
/// Operations of the disk in one life, about.
const OPERATIONS_IN_A_LIFE: u64 = 300;

async fn open(disk: &SimDisk) -> Result<Arc<BrokerCore>, OpenError> {
    let config = BrokerConfig { segment_bytes: 64 << 10, io_threads: 4, ..BrokerConfig::default() };
    BrokerCore::open(disk.shared(), Path::new("/srv/data"), config, Clock::default()).await
}

/// Some lives of one broker, each of which ends at some operation of its disk.
fn live_through(seed: u64) -> Ledger {
    let mut rng = Rng::with_seed(seed);
    let mut disk = SimDisk::new();
    let mut ledger = Ledger::new(format!("seed {seed}"));
    in_a_process(async {
        let life = Life::new(open(&disk).await.expect("a new directory opens"));
        life.make_topic(&mut ledger).await;
    });
    for life in 0..LIVES {
        let crash_at = disk.operation_count() + rng.u64(..OPERATIONS_IN_A_LIFE);
        disk.crash_at(crash_at);
        in_a_process(async {
            let Ok(core) = open(&disk).await else { return };
            let life = Life::new(core);
            while !disk.is_off() {
                life.step(&mut ledger, &mut rng).await;
            }
        });
        ledger.crashes += 1;
        disk = if rng.u32(..3) == 0 { disk.after_kill() } else { disk.after_power_loss(rng.u64(..)) };
        ledger.context = format!("seed {seed}, life {life}, crash at operation {crash_at}");
        in_a_process(async {
            let core = open(&disk).await.unwrap_or_else(|error| panic!("{}: {error}", ledger.context));
            Life::new(core).ask(&mut ledger).await;
        });
        disk = if rng.bool() { disk.after_kill() } else { disk.after_power_loss(rng.u64(..)) };
    }
    ledger
}

#[test]
fn what_the_broker_has_acknowledged_survives_kills_and_power_losses() {
    let lived = under_every_seed(SEEDS, live_through);
    let sum = |count: fn(&Ledger) -> u64| lived.iter().map(count).sum::<u64>();
    let (publishes, acks) = (sum(|ledger| ledger.publishes_acked), sum(|ledger| ledger.acks_durable));
    let (crashes, topics) = (sum(|ledger| ledger.crashes), sum(|ledger| ledger.topics_acked));
    let duplicates = sum(|ledger| ledger.duplicates);
    println!(
        "{} seeds: {crashes} crashes, {publishes} publishes, {acks} group acks, {topics} topics made or deleted, {duplicates} retries recognised",
        lived.len()
    );
    for (what, count) in [("publish", publishes), ("group ack", acks), ("topic", topics), ("retry", duplicates)] {
        assert!(only_seed().is_some() || count >= lived.len() as u64, "less than one {what} a seed");
    }
}
