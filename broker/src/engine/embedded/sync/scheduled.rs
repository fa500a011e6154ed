//! The locks of `shuttle`, which are those of the standard library, with the signatures of `parking_lot`.

use std::ops::{Deref, DerefMut};
use std::time::{Duration, Instant};

pub(crate) use shuttle::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
pub(crate) use shuttle::thread;
use shuttle::{future::JoinHandle, rand::Rng as _};

#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(shuttle::sync::Mutex<T>);

/// `None` only while a [`Condvar`] waits.
pub(crate) struct MutexGuard<'a, T>(Option<shuttle::sync::MutexGuard<'a, T>>);

#[derive(Debug, Default)]
pub(crate) struct Condvar(shuttle::sync::Condvar);

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(shuttle::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard(Some(self.0.lock().expect("a panic ends the schedule")))
    }
}

impl Condvar {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        let locked = guard.0.take().expect("it is locked");
        guard.0 = Some(self.0.wait(locked).expect("a panic ends the schedule"));
    }

    pub(crate) fn notify_one(&self) {
        self.0.notify_one();
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_ref().expect("it is locked")
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.as_mut().expect("it is locked")
    }
}

/// A thread that may block is one more task of the scheduler.
pub(crate) fn spawn_blocking<T: Send + 'static>(job: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    shuttle::future::spawn(async move { job() })
}

/// No time at all, or more than anybody waits: the scheduler decides.
pub(crate) fn elapsed(_since: Instant) -> Duration {
    if shuttle::rand::thread_rng().r#gen() { Duration::ZERO } else { Duration::MAX }
}
