//! Locks and threads of the engine: those of the machine, or, with the feature `shuttle`, those of a scheduler that tries
//! out interleavings. The models run the engine itself on them, not a copy of it.

#[cfg(not(feature = "shuttle"))]
mod machine {
    pub(crate) use std::thread;

    pub(crate) use parking_lot::{Condvar, Mutex, MutexGuard};
    pub(crate) use tokio::task::spawn_blocking;
}

#[cfg(feature = "shuttle")]
#[path = "sync/scheduled.rs"]
mod machine;

pub(super) use machine::{Condvar, Mutex, MutexGuard, spawn_blocking, thread};
