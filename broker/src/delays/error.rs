//! What is wrong with the store as a whole.

use crate::{engine::EngineError, error::PublishError};

/// Why the store does not work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DelaysError {
    /// What it has moved cannot be told any more: nothing is moved, lest it be moved twice.
    #[error(
        "the store of delayed records is damaged: {0}; nothing of it is delivered. To go on without what waits, stop the \
         broker and move system/delays* away"
    )]
    Damaged(String),
    /// Its journal takes no writes, or gives nothing to read.
    #[error("the journal of delayed records: {0}")]
    Journal(String),
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl From<DelaysError> for PublishError {
    fn from(error: DelaysError) -> Self {
        Self::Unavailable { topic: "system/delays".to_owned(), partition: 0, reason: error.to_string() }
    }
}
