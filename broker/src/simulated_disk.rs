//! The whole broker on the simulated disk, driven by its own client, while the power goes and the process is killed.
//!
//! The campaign of `storage` proves the log; this proves what the broker makes of it: an acknowledgement of a publish, of
//! a group's ack, of a topic created or deleted is given only when it is durable, and a retry is stored once. There are
//! threads in it, so that a seed names the workload and the moment of the crash, not every step between them.
//!
//! `AQUEDUCT_SEEDS=300` runs so many seeds; `AQUEDUCT_SEED=17` that one.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use aqueduct_storage::sim::SimDisk;
use fastrand::Rng;

use self::{ledger::Ledger, life::Life};
use crate::{BrokerConfig, OpenError, clock::Clock, core::BrokerCore};

mod ledger;
mod life;

const SEEDS: u64 = 150;
const LIVES: usize = 4;
/// Operations of the disk in one life, about.
const OPERATIONS_IN_A_LIFE: u64 = 300;

async fn open(disk: &SimDisk) -> Result<Arc<BrokerCore>, OpenError> {
    let config = BrokerConfig { segment_bytes: 64 << 10, io_threads: 4, ..BrokerConfig::default() };
    BrokerCore::open(disk.shared(), Path::new("/srv/data"), config, Clock::default()).await
}

/// Runs `work` on a runtime that dies with it, as a process does.
fn in_a_process<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(work)
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

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|value| value.parse().expect("a number"))
}

#[test]
fn what_the_broker_has_acknowledged_survives_kills_and_power_losses() {
    let one = number("AQUEDUCT_SEED");
    let first = one.unwrap_or(0);
    let end = one.map_or_else(|| number("AQUEDUCT_SEEDS").unwrap_or(SEEDS), |seed| seed + 1);
    let next = AtomicU64::new(first);
    let work = || {
        let mut lived = Vec::new();
        while let seed = next.fetch_add(1, Ordering::Relaxed)
            && seed < end
        {
            lived.push(live_through(seed));
        }
        lived
    };
    let lived: Vec<Ledger> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..3).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    let sum = |count: fn(&Ledger) -> u64| lived.iter().map(count).sum::<u64>();
    let (publishes, acks) = (sum(|ledger| ledger.publishes_acked), sum(|ledger| ledger.acks_durable));
    let (crashes, topics) = (sum(|ledger| ledger.crashes), sum(|ledger| ledger.topics_acked));
    let duplicates = sum(|ledger| ledger.duplicates);
    println!(
        "{} seeds: {crashes} crashes, {publishes} publishes, {acks} group acks, {topics} topics made or deleted, {duplicates} retries recognised",
        lived.len()
    );
    for (what, count) in [("publish", publishes), ("group ack", acks), ("topic", topics), ("retry", duplicates)] {
        assert!(one.is_some() || count >= lived.len() as u64, "less than one {what} a seed");
    }
}
