//! Locks and threads of the engine: those of the machine, or, with the feature `shuttle`, those of a scheduler that tries
//! out interleavings. The models run the engine itself on them, not a copy of it.

#[cfg(not(feature = "shuttle"))]
mod machine {
    use std::time::{Duration, Instant};
    pub(crate) use std::{
        sync::atomic::{AtomicBool, AtomicUsize, Ordering},
        thread,
    };

    pub(crate) use parking_lot::{Condvar, Mutex, MutexGuard};
    pub(crate) use tokio::task::spawn_blocking;

    pub(crate) fn elapsed(since: Instant) -> Duration {
        since.elapsed()
    }
}

#[cfg(feature = "shuttle")]
#[path = "sync/scheduled.rs"]
mod machine;

pub(super) use machine::{
    AtomicBool, AtomicUsize, Condvar, Mutex, MutexGuard, Ordering, elapsed, spawn_blocking, thread,
};
