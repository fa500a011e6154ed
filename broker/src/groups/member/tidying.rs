//! Lets the space of settled retries go: nobody reads them any more, and no retention is set for their log.

use std::time::Duration;

use aqueduct_storage::Offset;
use futures_util::{FutureExt as _, future::BoxFuture};
use tokio::time::Instant;

use crate::groups::leaving::Carrier;

/// Between two times.
const INTERVAL: Duration = Duration::from_secs(5);

/// See the [module](self).
pub(super) struct Tidying {
    next: Instant,
    /// Settled durably up to here, and not let go.
    settled: Option<Offset>,
    under_way: Option<BoxFuture<'static, ()>>,
}

impl Tidying {
    pub(super) fn new(now: Instant) -> Self {
        Self { next: now + INTERVAL, settled: None, under_way: None }
    }

    /// Retries below `committed` are settled, and that is durable.
    pub(super) fn settled(&mut self, committed: Offset, carrier: &Carrier, now: Instant) {
        self.settled = Some(committed);
        if self.under_way.is_some() || self.next > now {
            return;
        }
        self.next = now + INTERVAL;
        if let Some(settled) = self.settled.take() {
            let carrier = carrier.clone();
            self.under_way = Some(async move { carrier.let_go(settled).await }.boxed());
        }
    }

    /// Resolves when what is under way has ended; never without anything. Cancel-safe.
    pub(super) async fn ended(&mut self) {
        match &mut self.under_way {
            Some(tidying) => tidying.await,
            None => std::future::pending().await,
        }
        self.under_way = None;
    }
}
