//! On the simulated disk, while the process is killed and the power goes at any operation: what was put is delivered
//! exactly once, in order, never early.
//!
//! `AQUEDUCT_SEEDS=300` runs so many seeds; `AQUEDUCT_SEED=17` that one.

use std::path::Path;

use aqueduct_storage::sim::SimDisk;
use fastrand::Rng;

use super::*;
use crate::{
    BrokerConfig, OpenError,
    clock::Clock,
    simulated_disk::seeds::{in_a_process, only_seed, under_every_seed},
    topics::settings::NewTopic,
};

const SEEDS: u64 = 60;
const LIVES: usize = 5;
const PARTITIONS: u32 = 2;
/// Operations of the disk in one life, about.
const OPERATIONS_IN_A_LIFE: u64 = 400;
/// What has no answer within this time has none: the power is off.
const GRACE: Duration = Duration::from_millis(300);

/// What is known of one record that was put.
#[derive(Debug, Clone)]
struct Put {
    partition: u32,
    due_us: i64,
    /// Its number and the time at which it was known, if the put was answered.
    accepted: Option<(u64, i64)>,
}

#[derive(Default)]
struct Ledger {
    puts: Vec<Put>,
    crashes: u64,
    context: String,
}

impl Ledger {
    /// What a partition holds agrees with what was put, so far.
    fn check(&self, partition: u32, found: &[Delivered]) {
        let context = &self.context;
        let numbers: Vec<usize> = found.iter().map(|found| number(&found.value)).collect();
        for (position, (&number, found)) in numbers.iter().zip(found).enumerate() {
            let put = &self.puts[number];
            assert_eq!(put.partition, partition, "{context}: {number} is in the wrong partition");
            assert!(found.append_time_us >= put.due_us, "{context}: {number} came early");
            assert!(!numbers[..position].contains(&number), "{context}: {number} came twice to {partition}");
        }
        // Whatever was known before another was due comes before it, if it is due before it.
        for (position, &later) in numbers.iter().enumerate() {
            let Some((id, known_us)) = self.puts[later].accepted else { continue };
            let turn = (self.puts[later].due_us, id);
            for &before in &numbers[..position] {
                let Put { due_us, accepted, .. } = self.puts[before];
                let is_after = accepted.is_some_and(|(id, _)| (due_us, id) > turn);
                assert!(!is_after || known_us >= due_us, "{context}: {before} came before {later}");
            }
        }
    }

    fn check_complete(&self, partition: u32, found: &[Delivered]) {
        let context = &self.context;
        for (number_put, put) in self.puts.iter().enumerate() {
            if put.partition == partition && put.accepted.is_some() {
                let is_there = found.iter().any(|found| number(&found.value) == number_put);
                assert!(is_there, "{context}: {number_put} was accepted and never came");
            }
        }
    }
}

fn number(value: &[u8]) -> usize {
    let text = std::str::from_utf8(value).expect("text");
    text.split_once(' ').map_or(text, |(number, _)| number).parse().expect("a number")
}

async fn open(disk: &SimDisk, clock: &Clock) -> Result<Arc<BrokerCore>, OpenError> {
    let config = BrokerConfig { segment_bytes: 64 << 10, io_threads: 2, ..BrokerConfig::default() };
    BrokerCore::open(disk.shared(), Path::new("/srv/data"), config, clock.clone()).await
}

/// Some callers put something at once.
async fn put(core: &Arc<BrokerCore>, clock: &Clock, ledger: &mut Ledger, rng: &mut Rng) {
    let mut puts = Vec::new();
    for _ in 0..rng.usize(1..6) {
        let partition = rng.u32(..PARTITIONS);
        // Past, at once, soon, later, or one of a few times that many share.
        let delay_us = match rng.u32(..6) {
            0 => -rng.i64(0..5_000_000),
            1 => 0,
            2 => rng.i64(0..2_000_000),
            3 => rng.i64(0..40_000_000),
            4 => rng.i64(0..4_000_000_000),
            _ => (rng.i64(1..5) * 30_000_000) - clock.now_us().rem_euclid(30_000_000),
        };
        let (first, due_us) = (ledger.puts.len(), clock.now_us() + delay_us);
        let count = rng.usize(1..4);
        let padding = "x".repeat(if rng.u32(..8) == 0 { rng.usize(..20_000) } else { 5 });
        let records = (first..first + count).map(|n| delayed(due_us, format!("{n} {padding}"))).collect();
        ledger.puts.extend((0..count).map(|_| Put { partition, due_us, accepted: None }));
        let put = core.delays.put(destination(core, partition), records);
        puts.push(async move { (first, count, tokio::time::timeout(GRACE, put).await) });
    }
    for (first, count, outcome) in futures_util::future::join_all(puts).await {
        if let Ok(Ok(Scheduled { id })) = outcome {
            let known_us = clock.now_us();
            for (id, put) in (id..).zip(&mut ledger.puts[first..first + count]) {
                put.accepted = Some((id, known_us));
            }
        }
    }
}

/// Some of what is due is delivered, or nothing.
async fn wait_a_little(core: &Arc<BrokerCore>, rng: &mut Rng) {
    let topic = core.topics.find(TOPIC).expect("the topic is there");
    let partition = topic.partition(rng.u32(..PARTITIONS)).expect("a partition");
    let mut window = partition.log().expect("it is open").watch();
    let patience = Duration::from_millis(rng.u64(..8));
    drop(tokio::time::timeout(patience, window.changed()).await);
}

fn live_through(seed: u64) -> Ledger {
    let mut rng = Rng::with_seed(seed);
    let clock = Clock::default();
    let mut disk = SimDisk::new();
    let mut ledger = Ledger { context: format!("seed {seed}"), ..Ledger::default() };
    in_a_process(async {
        let core = open(&disk, &clock).await.expect("a new directory opens");
        let new = NewTopic { partitions: PARTITIONS, ..NewTopic::default() };
        core.topics.create(TOPIC, new).await.expect("it is made");
    });
    for life in 0..LIVES {
        let crash_at = disk.operation_count() + rng.u64(..OPERATIONS_IN_A_LIFE);
        disk.crash_at(crash_at);
        ledger.context = format!("seed {seed}, life {life}, crash at operation {crash_at}");
        in_a_process(async {
            let Ok(core) = open(&disk, &clock).await else { return };
            while !disk.is_off() {
                match rng.u32(..5) {
                    0 | 1 => put(&core, &clock, &mut ledger, &mut rng).await,
                    2 | 3 => wait_a_little(&core, &mut rng).await,
                    _ => clock.advance(Duration::from_millis(1 << rng.u32(..20))),
                }
            }
        });
        ledger.crashes += 1;
        disk = if rng.u32(..3) == 0 { disk.after_kill() } else { disk.after_power_loss(rng.u64(..)) };
        in_a_process(async {
            let core = open(&disk, &clock).await.unwrap_or_else(|error| panic!("{}: {error}", ledger.context));
            for partition in 0..PARTITIONS {
                ledger.check(partition, &delivered(&core, partition).await);
            }
        });
        disk = if rng.bool() { disk.after_kill() } else { disk.after_power_loss(rng.u64(..)) };
    }
    in_a_process(async {
        let core = open(&disk, &clock).await.unwrap_or_else(|error| panic!("{}: {error}", ledger.context));
        clock.advance(Duration::from_secs(24 * 3600));
        let deadline = std::time::Instant::now() + PATIENCE;
        while core.delays.pending() > 0 {
            assert!(std::time::Instant::now() < deadline, "{}: {} wait", ledger.context, core.delays.pending());
            wait_a_little(&core, &mut rng).await;
        }
        for partition in 0..PARTITIONS {
            let found = delivered(&core, partition).await;
            ledger.check(partition, &found);
            ledger.check_complete(partition, &found);
        }
        core.close(PATIENCE).await.expect("it closes");
    });
    ledger
}

#[test]
fn what_was_put_is_delivered_once_and_in_order_whatever_crashes() {
    let lived = under_every_seed(SEEDS, live_through);
    let crashes: u64 = lived.iter().map(|ledger| ledger.crashes).sum();
    let puts: usize = lived.iter().map(|ledger| ledger.puts.len()).sum();
    let accepted = lived.iter().flat_map(|ledger| &ledger.puts).filter(|put| put.accepted.is_some()).count();
    println!("{} seeds: {crashes} crashes, {accepted} of {puts} records accepted", lived.len());
    assert!(only_seed().is_some() || accepted >= lived.len() * 20, "hardly anything was put");
}
