//! The locks and atomics of the log: those of the machine, or, with the feature `shuttle`, those of a scheduler that
//! tries out interleavings. The models in tests/models.rs run the code itself on them, not a copy of it.

#[cfg(not(feature = "shuttle"))]
mod machine {
    pub(crate) use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    pub(crate) use parking_lot::{Mutex, RwLock};
}

#[cfg(feature = "shuttle")]
mod machine {
    pub(crate) use shuttle::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    pub(crate) use shuttle_parking_lot::{Mutex, RwLock};
}

pub(crate) use machine::{AtomicBool, AtomicU64, Mutex, Ordering, RwLock};
