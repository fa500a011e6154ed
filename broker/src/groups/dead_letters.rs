//! Moves records that a group could not handle to its dead letters.
//!
//! A record is there before the group's progress says that it needs no delivery any more. A crash in between parks it
//! once more: at least once, like everything that is delivered.

use std::{ops::Range, sync::Arc};

use aqueduct_client::{DeadLetter, Death, Record, Timestamp};
use aqueduct_storage::{Batch, Offset};

use super::{error::GroupError, sources::Sources, state::REDRIVEN, window::Parking};
use crate::{
    budget::Permit,
    engine::{PartitionLog, ReadError},
    partition::{Appended, Partition},
    services::{pack, unpack},
};

/// Read at once of the records to be moved, and so about the most of one append.
const READ_BYTES: usize = 256 * 1024;

/// Makes a copy of the first of these records durable among the dead letters; returns how far it has got, which is beyond
/// their beginning.
///
/// # Errors
/// Reading, or storing. Nothing has been moved that anybody counts on.
pub(super) async fn park(sources: Sources, partition: u32, parking: Parking) -> Result<Offset, GroupError> {
    let batch = match read(&sources, partition, &parking.range).await? {
        Found::Batch(batch) => batch,
        // There is nothing left of it that could be kept.
        Found::Lost(up_to) => return Ok(up_to),
    };
    let moved = parking.range.start..parking.range.end.min(batch.header.next_offset());
    let records = marked(&sources, partition, &batch, &moved, &parking);
    if records.is_empty() {
        return Ok(moved.end);
    }
    let letters = sources.make_dead_letters().await?;
    let stored = append(&letters, &records).await?;
    tracing::warn!(
        topic = sources.topic.meta().name,
        partition,
        from = moved.start,
        to = moved.end,
        group = sources.group,
        attempts = parking.failure.attempts,
        error = &*parking.failure.last_error,
        dead_letter = stored.base_offset,
        "parked: not delivered any more"
    );
    Ok(moved.end)
}

/// Publishes records of the broker's own.
///
/// # Errors
/// [`GroupError::NotMoved`]; they may have been stored.
pub(super) async fn append(partition: &Partition, records: &[Record]) -> Result<Appended, GroupError> {
    let failed = |reason: String| GroupError::NotMoved { topic: partition.topic_name().to_owned(), reason };
    let packed = pack(records).map_err(|error| failed(error.to_string()))?;
    // No budget: whoever moves records does so one batch at a time, and must not wait for publishers.
    let reply = partition.append(packed, Permit::default()).await.map_err(|error| failed(error.to_string()))?;
    let stored = reply.await.map_err(|_| failed("the broker is shutting down".to_owned()))?;
    stored.map_err(|error| failed(error.to_string()))
}

async fn read(sources: &Sources, partition: u32, range: &Range<Offset>) -> Result<Found, GroupError> {
    match first_batch(&*sources.log(partition)?, range).await {
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
pub(super) async fn first_batch(log: &dyn PartitionLog, range: &Range<Offset>) -> Result<Found, ReadError> {
    match log.read(range.start, READ_BYTES).await {
        Ok(batches) => Ok(batches.into_iter().next().map_or(Found::Lost(range.end), Found::Batch)),
        Err(ReadError::Damaged { to, .. } | ReadError::Lost { to, .. }) if to > range.start => {
            Ok(Found::Lost(range.end.min(to)))
        }
        Err(error) => Err(error),
    }
}

/// The records of `moved`, marked with how they have failed. One that cannot be read is kept as the bytes of its whole
/// batch.
fn marked(sources: &Sources, partition: u32, batch: &Batch, moved: &Range<Offset>, parking: &Parking) -> Vec<Record> {
    let name: Arc<str> = sources.topic.meta().name.as_str().into();
    let failure = &parking.failure;
    let death = |offset| Death {
        topic: name.to_string(),
        partition,
        offset,
        group: sources.group.clone(),
        attempts: failure.attempts,
        redriven: 0,
        first_error: failure.first_error.to_string(),
        last_error: failure.last_error.to_string(),
        first_failed: Timestamp::from_micros(failure.first_failed_us),
        last_failed: Timestamp::from_micros(failure.last_failed_us),
    };
    let unreadable = || vec![death(moved.start).mark(Record::new(batch.payload.clone()))];
    let Ok(unpacked) = unpack(&name, partition, batch.clone()) else { return unreadable() };
    let mut records = Vec::new();
    for event in unpacked.events() {
        let Ok(event) = event else { return unreadable() };
        if !moved.contains(&event.offset) {
            continue;
        }
        let death = death(event.offset);
        let letter = (partition == REDRIVEN).then(|| DeadLetter::from_event(event.clone())).flatten();
        records.push(match letter {
            Some(letter) => letter.death.again(death).mark(letter.event.record),
            None => death.mark(event.record),
        });
    }
    records
}

/// What there is of a record.
pub(super) enum Found {
    Batch(Batch),
    /// Nothing, up to this offset: retention took it, or it is damaged.
    Lost(Offset),
}
