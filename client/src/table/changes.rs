//! What changes in a table, as it changes.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::broadcast::{Receiver, error::RecvError};

use super::TableError;
use crate::record::Event;

/// One key has another value, or none.
#[derive(Clone, Debug)]
pub struct Change {
    /// Which key.
    pub key: Bytes,
    /// What it had.
    pub before: Option<Arc<Event>>,
    /// What it has; `None`: it is gone.
    pub after: Option<Arc<Event>>,
}

/// So many changes were made while nobody took them that the oldest were dropped: look at the table itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{count} changes were missed: what the keys have now is in the table")]
pub struct ChangesMissed {
    /// How many.
    pub count: u64,
}

/// The changes of a table from some moment on. The stream ends with `None` when the table is not kept up to date any
/// more; [`Table::check`](super::Table::check) says why.
#[derive(Debug)]
pub struct Changes {
    /// `None` if the table had ended before.
    receiver: Option<Receiver<Change>>,
}

impl Changes {
    pub(super) fn new(receiver: Receiver<Change>, ended: Option<TableError>) -> Self {
        Self { receiver: Some(receiver).filter(|_| ended.is_none()) }
    }

    /// The next change. Cancel-safe.
    ///
    /// # Errors
    /// [`ChangesMissed`], and the next call goes on with the oldest that is left.
    pub async fn next(&mut self) -> Option<Result<Change, ChangesMissed>> {
        match self.receiver.as_mut()?.recv().await {
            Ok(change) => Some(Ok(change)),
            Err(RecvError::Lagged(count)) => Some(Err(ChangesMissed { count })),
            Err(RecvError::Closed) => None,
        }
    }

    /// The next change, if there is one now.
    #[cfg(test)]
    pub(super) fn take_now(&mut self) -> Option<Result<Change, ChangesMissed>> {
        use tokio::sync::broadcast::error::TryRecvError;
        match self.receiver.as_mut()?.try_recv() {
            Ok(change) => Some(Ok(change)),
            Err(TryRecvError::Lagged(count)) => Some(Err(ChangesMissed { count })),
            Err(TryRecvError::Empty | TryRecvError::Closed) => None,
        }
    }
}
