//! Running a workload under many seeds, each life of it on a runtime of its own.

use std::sync::atomic::{AtomicU64, Ordering};

/// Threads that take one seed after the other.
const WORKERS: usize = 3;

/// The seed that is asked for by `AQUEDUCT_SEED`, if one is.
pub(crate) fn only_seed() -> Option<u64> {
    number("AQUEDUCT_SEED")
}

/// What `live_through` says of each seed: of [the one](only_seed) that is asked for, or else of as many as `AQUEDUCT_SEEDS`
/// says, or `seeds`.
pub(crate) fn under_every_seed<T: Send>(seeds: u64, live_through: impl Fn(u64) -> T + Sync) -> Vec<T> {
    let one = only_seed();
    let next = AtomicU64::new(one.unwrap_or(0));
    let end = one.map_or_else(|| number("AQUEDUCT_SEEDS").unwrap_or(seeds), |seed| seed + 1);
    let work = || {
        let mut lived = Vec::new();
        while let seed = next.fetch_add(1, Ordering::Relaxed)
            && seed < end
        {
            lived.push(live_through(seed));
        }
        lived
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS).map(|_| scope.spawn(work)).collect();
        let joined = workers.into_iter().map(|worker| worker.join());
        joined.flat_map(|lived| lived.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    })
}

/// Runs `work` on a runtime that dies with it, as a process does.
pub(crate) fn in_a_process<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(work)
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|value| value.parse().expect("a number"))
}
