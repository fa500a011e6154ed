//! Why a partition takes no writes, and who is told.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{sync::watch, time::Instant};

/// Why a partition takes no writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// For people.
    pub reason: String,
    /// When its owner tries next to go on; `None` if it does not, or is trying now.
    pub retry_at: Option<Instant>,
}

impl Failure {
    /// Until its owner tries next, as of now.
    pub(crate) fn retry_in(&self) -> Option<Duration> {
        self.retry_at.map(|at| at.saturating_duration_since(Instant::now()))
    }
}

/// Told whenever a partition fails, goes on, comes or goes. What has changed is looked up.
#[derive(Debug, Clone, Default)]
pub(crate) struct FailureNotice(Arc<watch::Sender<()>>);

impl FailureNotice {
    pub(crate) fn give(&self) {
        self.0.send_replace(());
    }

    #[cfg(feature = "server")]
    pub(crate) fn subscribe(&self) -> watch::Receiver<()> {
        self.0.subscribe()
    }
}

/// The failure of one partition.
#[derive(Debug)]
pub(super) struct FailureState {
    current: Mutex<Option<Failure>>,
    notice: FailureNotice,
}

impl FailureState {
    pub(super) fn new(reason: Option<String>, notice: FailureNotice) -> Self {
        let current = reason.map(|reason| Failure { reason, retry_at: None });
        Self { current: Mutex::new(current), notice }
    }

    pub(super) fn get(&self) -> Option<Failure> {
        self.current.lock().clone()
    }

    /// It takes no writes from here on.
    pub(super) fn set(&self, reason: String) {
        *self.current.lock() = Some(Failure { reason, retry_at: None });
        self.notice.give();
    }

    /// Its owner rests, and then tries to go on.
    pub(super) fn retry_after(&self, pause: Duration) {
        if let Some(failure) = &mut *self.current.lock() {
            failure.retry_at = Some(Instant::now() + pause);
        }
    }

    /// It takes writes again.
    pub(super) fn clear(&self) {
        if self.current.lock().take().is_some() {
            self.notice.give();
        }
    }
}
