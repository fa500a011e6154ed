//! Knows what a client has started, so that closing it can wait for the end of everything.

use std::sync::Arc;

use tokio::sync::watch;

/// Shared by a client, its streams and its background tasks.
#[derive(Clone, Debug)]
pub(crate) struct Lifecycle {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    closing: watch::Sender<bool>,
    running: watch::Sender<usize>,
}

/// Held by a background task for its life.
#[derive(Debug)]
pub(crate) struct Running {
    shared: Arc<Shared>,
}

impl Lifecycle {
    pub(crate) fn new() -> Self {
        Self { shared: Arc::new(Shared { closing: watch::Sender::new(false), running: watch::Sender::new(0) }) }
    }

    /// From here on nothing new begins, and what runs comes to its end.
    pub(crate) fn close(&self) {
        self.shared.closing.send_replace(true);
    }

    pub(crate) fn is_closing(&self) -> bool {
        *self.shared.closing.borrow()
    }

    pub(crate) fn running(&self) -> Running {
        self.shared.running.send_modify(|count| *count += 1);
        Running { shared: Arc::clone(&self.shared) }
    }

    /// Completes once [`close`](Self::close) has been called. Cancel-safe.
    pub(crate) async fn closed(&self) {
        // The sender lives as long as `self`: no error is possible.
        let _ = self.shared.closing.subscribe().wait_for(|closing| *closing).await;
    }

    /// Completes once no background task is left. Cancel-safe.
    pub(crate) async fn idle(&self) {
        let _ = self.shared.running.subscribe().wait_for(|count| *count == 0).await;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shared.running.send_modify(|count| *count -= 1);
    }
}
