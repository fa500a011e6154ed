//! Running many seeds on all cores, each for itself on one thread, so that a seed is replayed exactly.
//!
//! - `AQUEDUCT_SEEDS=300` runs so many seeds instead of 10,000.
//! - `AQUEDUCT_SEED=17` runs that one, and tells every step.
//! - `AQUEDUCT_SOAK=1` runs until it is stopped, beginning at a seed of its own, and tells every ten seconds how far it is.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex};
use std::time::{Duration, Instant};

use crate::coverage::{Coverage, Met};

const SEEDS: u64 = 10_000;
const SOAK_REPORT_EVERY: Duration = Duration::from_secs(10);

/// Which seeds are to be run.
#[derive(Debug, Clone, Copy)]
enum Plan {
    One(u64),
    Below(u64),
    Soak { first: u64 },
}

fn number(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{variable}={value} is not a number")))
}

/// Prints what happens where one seed is replayed.
pub(crate) fn tell(what: impl FnOnce() -> String) {
    static IS_REPLAY: LazyLock<bool> = LazyLock::new(|| std::env::var_os("AQUEDUCT_SEED").is_some());
    if *IS_REPLAY {
        println!("{}", what());
    }
}

fn plan() -> Plan {
    if let Some(seed) = number("AQUEDUCT_SEED") {
        return Plan::One(seed);
    }
    match number("AQUEDUCT_SOAK") {
        Some(_) => Plan::Soak { first: fastrand::u64(..) >> 20 << 10 },
        None => Plan::Below(number("AQUEDUCT_SEEDS").unwrap_or(SEEDS)),
    }
}

/// Lives through the seeds that the environment asks for.
pub(crate) fn run(live: impl Fn(u64) -> Met + Sync) {
    let (first, end) = match plan() {
        Plan::One(seed) => {
            println!("seed {seed}: {:#?}", live(seed));
            return;
        }
        Plan::Below(seeds) => (0, seeds),
        Plan::Soak { first } => (first, u64::MAX),
    };
    let next = AtomicU64::new(first);
    let has_failed = AtomicBool::new(false);
    let soak = Mutex::new(Soak::new());
    let work = || {
        let mut coverage = Coverage::default();
        while !has_failed.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end {
                break;
            }
            match catch_unwind(AssertUnwindSafe(|| live(seed))) {
                Ok(met) if end == u64::MAX => soak.lock().expect("not poisoned").add(met),
                Ok(met) => coverage.add(met),
                Err(_) => {
                    has_failed.store(true, Ordering::Relaxed);
                    println!("seed {seed} failed; this replays it:\n{}", replay(seed));
                }
            }
        }
        coverage
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let started = Instant::now();
    let mut all = Coverage::default();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            all.append(worker.join().expect("a panic is caught where it happens"));
        }
    });
    assert!(!has_failed.load(Ordering::Relaxed), "a seed has failed: see above");
    all.check();
    println!("in {:.1?}", started.elapsed());
}

/// The command that lives through `seed` alone.
fn replay(seed: u64) -> String {
    format!("AQUEDUCT_SEED={seed} cargo test -p aqueduct-storage --test campaign random_lives -- --nocapture")
}

/// How far a run without an end has got.
struct Soak {
    coverage: Coverage,
    started: Instant,
    reported: Instant,
}

impl Soak {
    fn new() -> Self {
        Self { coverage: Coverage::default(), started: Instant::now(), reported: Instant::now() }
    }

    fn add(&mut self, met: Met) {
        self.coverage.add(met);
        if self.reported.elapsed() < SOAK_REPORT_EVERY {
            return;
        }
        let coverage = std::mem::take(&mut self.coverage);
        let seconds = self.reported.elapsed().as_secs_f64();
        let per_second = |count: u64| count as f64 / seconds;
        println!(
            "{:>6.0?}: {:.0} operations, {:.0} crashes, {:.1} seeds a second",
            self.started.elapsed(),
            per_second(coverage.operations()),
            per_second(coverage.crashes()),
            per_second(coverage.seeds() as u64),
        );
        self.reported = Instant::now();
    }
}
