//! Reading records that are to be moved from one log to another, and storing them there.

use std::{future::Future, ops::Range};

use aqueduct_storage::{Batch, Offset};

use super::{error::GroupError, sources::Sources};
use crate::{
    budget::Permit,
    engine::{PartitionLog, ReadError},
    partition::{Appended, Partition},
};

/// One batch comes whatever the bound.
pub(super) const ONE_BATCH: usize = 1;

/// Publishes a batch of the broker's own, and returns what resolves once they are stored.
///
/// # Errors
/// [`GroupError::NotMoved`]; they may have been stored.
pub(super) async fn append(
    partition: &Partition,
    batch: Batch,
) -> Result<impl Future<Output = Result<Appended, GroupError>> + use<>, GroupError> {
    let topic = partition.topic_name().to_owned();
    let failed = move |reason: String| GroupError::NotMoved { topic: topic.clone(), reason };
    // No budget: whoever moves records bounds them, and must not wait for publishers.
    let reply = partition.append(batch, Permit::default()).await.map_err(|error| failed(error.to_string()))?;
    Ok(async move {
        let stored = reply.await.map_err(|_| failed("the broker is shutting down".to_owned()))?;
        stored.map_err(|error| failed(error.to_string()))
    })
}

/// What there is of the first record of `range`, and about `bytes_max` of what follows, wherever the range ends.
///
/// # Errors
/// What the log says, but for what is lost.
pub(super) async fn read(
    sources: &Sources,
    partition: u32,
    range: &Range<Offset>,
    bytes_max: usize,
) -> Result<Found<Vec<Batch>>, GroupError> {
    match batches(&*sources.log(partition)?, range, bytes_max).await {
        Err(ReadError::OutOfRange { window, .. }) if range.start < window.log_start => {
            Ok(Found::Lost(range.end.min(window.log_start)))
        }
        found => {
            found.map_err(|source| GroupError::Read { topic: sources.topic.meta().name.clone(), partition, source })
        }
    }
}

/// The batch that holds the first offset of `range`.
///
/// # Errors
/// What the log says, but for damage: what is damaged is lost.
pub(super) async fn first_batch(log: &dyn PartitionLog, range: &Range<Offset>) -> Result<Found<Batch>, ReadError> {
    Ok(match batches(log, range, ONE_BATCH).await? {
        Found::There(batches) => batches.into_iter().next().map_or(Found::Lost(range.end), Found::There),
        Found::Lost(up_to) => Found::Lost(up_to),
    })
}

async fn batches(
    log: &dyn PartitionLog,
    range: &Range<Offset>,
    bytes_max: usize,
) -> Result<Found<Vec<Batch>>, ReadError> {
    match log.read(range.start, bytes_max).await {
        Ok(batches) if batches.is_empty() => Ok(Found::Lost(range.end)),
        Ok(batches) => Ok(Found::There(batches)),
        Err(ReadError::Damaged { to, .. } | ReadError::Lost { to, .. }) if to > range.start => {
            Ok(Found::Lost(range.end.min(to)))
        }
        Err(error) => Err(error),
    }
}

/// What there is of a record.
pub(super) enum Found<T> {
    There(T),
    /// Nothing, up to this offset: retention took it, or it is damaged.
    Lost(Offset),
}
