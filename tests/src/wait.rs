//! Waiting for a condition instead of sleeping.

use std::{
    fmt::Debug,
    future::Future,
    time::{Duration, Instant},
};

/// Generous: it is only reached by what would never happen.
const DEADLINE: Duration = Duration::from_secs(60);

const PROBE_INTERVAL: Duration = Duration::from_millis(20);

/// Asks `probe` until it returns something.
///
/// # Panics
/// After a minute, naming `what`.
pub async fn eventually<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(started.elapsed() < DEADLINE, "{what}: not within {DEADLINE:?}");
        tokio::time::sleep(PROBE_INTERVAL).await;
    }
}

/// As [`eventually`], for tests without a runtime: asks `probe`, which is cheap, all the time.
///
/// # Panics
/// After a minute, naming `what`.
pub fn until<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(started.elapsed() < DEADLINE, "{what}: not within {DEADLINE:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Awaits `future`, but not for ever.
///
/// # Panics
/// After a minute, naming `what`.
pub async fn within<T: Debug>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(output) => output,
        Err(_) => panic!("{what}: not within {DEADLINE:?}"),
    }
}
