//! A semaphore for which connections wait by turns: whoever has hundreds of requests waiting is served no more often than
//! one that has a single request.
//!
//! Requests of one connection stand in a line of their own, and only the first of them stands in the common line, which
//! is the semaphore's: first come, first served. So a request that is the first of its connection is preceded by one
//! request of each other connection at most, however many those have.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::sync::{Mutex as Line, OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};

/// Names a connection for as long as the process runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ConnectionId(u64);

impl ConnectionId {
    /// One that nobody has had.
    pub(crate) fn next() -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        Self(LAST.fetch_add(1, Ordering::Relaxed))
    }
}

/// See the [module](self). Without anybody waiting it costs what a semaphore does.
#[derive(Debug)]
pub(crate) struct FairSemaphore {
    semaphore: Arc<Semaphore>,
    turns: Turns,
}

impl FairSemaphore {
    pub(crate) fn new(permits: usize) -> Self {
        Self { semaphore: Arc::new(Semaphore::new(permits)), turns: Turns::default() }
    }

    /// `permits` now, if there are so many and nobody waits.
    pub(crate) fn try_acquire(&self, permits: u32) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.semaphore).try_acquire_many_owned(permits).ok()
    }

    /// `permits`, when it is this connection's turn and there are so many. Cancel-safe.
    pub(crate) async fn acquire(&self, connection: ConnectionId, permits: u32) -> Option<OwnedSemaphorePermit> {
        if let Some(acquired) = self.try_acquire(permits) {
            return Some(acquired);
        }
        let _turn = self.turns.take(connection).await;
        // Fails only if it is closed, which it never is.
        Arc::clone(&self.semaphore).acquire_many_owned(permits).await.ok()
    }
}

/// The lines of connections that wait for one thing.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    lines: Mutex<HashMap<ConnectionId, Arc<Line<()>>>>,
}

/// The first place in the line of a connection. Fields go in this order: the line is left before it is looked at.
pub(crate) struct Turn<'a> {
    _first: OwnedMutexGuard<()>,
    _place: Place<'a>,
}

/// A place in a line. The last one who leaves takes the line away.
struct Place<'a> {
    turns: &'a Turns,
    connection: ConnectionId,
    line: Arc<Line<()>>,
}

impl Turns {
    /// Resolves when nobody of this connection is before the caller. Cancel-safe.
    pub(crate) async fn take(&self, connection: ConnectionId) -> Turn<'_> {
        let line = Arc::clone(self.lines.lock().entry(connection).or_default());
        let place = Place { turns: self, connection, line };
        Turn { _first: Arc::clone(&place.line).lock_owned().await, _place: place }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut lines = self.turns.lines.lock();
        // Places are made under this lock: nobody else can come by the line meanwhile.
        if Arc::strong_count(&self.line) == 2 {
            lines.remove(&self.connection);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt as _, StreamExt as _, stream::FuturesUnordered};

    use super::*;

    /// Everybody gives back what was granted as soon as it is; the order of grants.
    async fn order_of_grants(semaphore: &FairSemaphore, requests: &[(ConnectionId, u32)]) -> Vec<ConnectionId> {
        let taken = semaphore.try_acquire(10).expect("all of it");
        let granted = Mutex::new(Vec::new());
        let mut waiting: FuturesUnordered<_> = requests
            .iter()
            .map(|&(connection, permits)| {
                let granted = &granted;
                async move {
                    let permit = semaphore.acquire(connection, permits).await.expect("never closed");
                    granted.lock().push(connection);
                    // Somebody else may be next, whoever is polled first.
                    tokio::task::yield_now().await;
                    drop(permit);
                }
            })
            .collect();
        assert!(waiting.next().now_or_never().is_none(), "everybody stands in line");
        drop(taken);
        while waiting.next().await.is_some() {}
        drop(waiting);
        assert!(semaphore.turns.lines.lock().is_empty(), "no line is left behind");
        granted.into_inner()
    }

    #[tokio::test]
    async fn one_request_is_served_after_one_of_each_other_connection() {
        let semaphore = FairSemaphore::new(10);
        let [runaway, another, modest] = [(); 3].map(|()| ConnectionId::next());
        let mut requests = vec![(runaway, 10); 300];
        requests.extend(vec![(another, 10); 50]);
        requests.push((modest, 10));
        let order = order_of_grants(&semaphore, &requests).await;
        assert_eq!(order.len(), requests.len());
        let place = order.iter().position(|connection| *connection == modest).expect("it is served");
        assert!(place <= 2, "served as number {place}");
        let of_another = order.iter().take(99).filter(|connection| **connection == another).count();
        assert!(of_another >= 49, "two that want all they can get share it: {of_another}");
    }

    #[tokio::test]
    async fn one_that_needs_much_is_not_passed_by_those_that_need_little() {
        let semaphore = FairSemaphore::new(10);
        let [small, large] = [(); 2].map(|()| ConnectionId::next());
        let mut requests = vec![(small, 1); 100];
        requests.insert(50, (large, 10));
        let order = order_of_grants(&semaphore, &requests).await;
        let place = order.iter().position(|connection| *connection == large).expect("it is served");
        assert!(place <= 1, "served as number {place}");
    }

    #[tokio::test]
    async fn whoever_gives_up_leaves_the_line_to_those_behind() {
        let semaphore = FairSemaphore::new(1);
        let connection = ConnectionId::next();
        let taken = semaphore.try_acquire(1).expect("free");
        let mut first = Box::pin(semaphore.acquire(connection, 1));
        let mut second = Box::pin(semaphore.acquire(connection, 1));
        assert!((&mut first).now_or_never().is_none() && (&mut second).now_or_never().is_none());
        drop(first);
        drop(taken);
        assert!(second.await.is_some());
        assert!(semaphore.turns.lines.lock().is_empty());
    }
}
