//! Moves records that a group could not handle to its dead letters.
//!
//! A record is there before the group's progress says that it needs no delivery any more. A crash in between parks it
//! once more: at least once, like everything that is delivered.

use std::{
    ops::Range,
    sync::{Arc, Weak},
};

use aqueduct_client::{Death, Record, Timestamp, dead_letter_topic};
use aqueduct_storage::{Batch, Offset};

use super::{error::GroupError, window::Parking};
use crate::{
    budget::Permit,
    engine::ReadError,
    partition::Partition,
    services::{pack, unpack},
    to_the_end::to_the_end,
    topics::{Topic, Topics, settings::NewTopic},
};

/// Read at once of the records to be moved, and so about the most of one append.
const READ_BYTES: usize = 256 * 1024;

/// The dead letters of one group on one topic.
#[derive(Clone)]
pub(super) struct DeadLetters {
    /// Not kept alive: streams outlive a broker that nobody has a handle of any more.
    topics: Weak<Topics>,
    topic: Arc<Topic>,
    group: String,
}

impl DeadLetters {
    pub(super) fn new(topics: &Arc<Topics>, topic: Arc<Topic>, group: String) -> Self {
        Self { topics: Arc::downgrade(topics), topic, group }
    }

    /// Makes a copy of the first of these records durable among the dead letters; returns how far it has got, which is
    /// beyond their beginning.
    ///
    /// # Errors
    /// Reading, or storing. Nothing has been moved that anybody counts on.
    pub(super) async fn park(self, partition: u32, parking: Parking) -> Result<Offset, GroupError> {
        let batch = match self.read(partition, &parking.range).await? {
            Found::Batch(batch) => batch,
            // There is nothing left of it that could be kept.
            Found::Lost(up_to) => return Ok(up_to),
        };
        let moved = parking.range.start..parking.range.end.min(batch.header.next_offset());
        let records = self.records(partition, &batch, &moved, &parking);
        if records.is_empty() {
            return Ok(moved.end);
        }
        let letters = self.partition().await?;
        let packed = pack(&records).map_err(|error| self.not_stored(error.to_string()))?;
        // No budget: a member moves one batch at a time, and must not wait for publishers to do so.
        let stored = letters.append(packed, Permit::default()).await;
        let stored = match stored {
            Ok(reply) => reply.await.map_err(|_| self.not_stored("the broker is shutting down".to_owned()))?,
            Err(error) => Err(error),
        };
        let stored = stored.map_err(|error| self.not_stored(error.to_string()))?;
        tracing::warn!(
            topic = self.topic.meta().name,
            partition,
            from = moved.start,
            to = moved.end,
            group = self.group,
            attempts = parking.failure.attempts,
            error = &*parking.failure.last_error,
            dead_letter = stored.base_offset,
            "parked: not delivered any more"
        );
        Ok(moved.end)
    }

    async fn read(&self, partition: u32, range: &Range<Offset>) -> Result<Found, GroupError> {
        let of_partition = self.topic.partition(partition)?;
        match of_partition.log()?.read(range.start, READ_BYTES).await {
            Ok(batches) => Ok(batches.into_iter().next().map_or(Found::Lost(range.end), Found::Batch)),
            Err(ReadError::OutOfRange { window, .. }) if range.start < window.log_start => {
                Ok(Found::Lost(range.end.min(window.log_start)))
            }
            Err(ReadError::Damaged { to, .. }) if to > range.start => Ok(Found::Lost(range.end.min(to))),
            Err(source) => {
                Err(GroupError::Read { topic: self.topic.meta().name.clone(), partition, source })
            }
        }
    }

    /// The records of `moved`, marked with how they have failed. One that cannot be read is kept as the bytes of its
    /// whole batch.
    fn records(&self, partition: u32, batch: &Batch, moved: &Range<Offset>, parking: &Parking) -> Vec<Record> {
        let meta = self.topic.meta();
        let name: Arc<str> = meta.name.as_str().into();
        let failure = &parking.failure;
        let death = |offset| Death {
            topic: meta.name.clone(),
            partition,
            offset,
            group: self.group.clone(),
            attempts: failure.attempts,
            first_error: failure.first_error.to_string(),
            last_error: failure.last_error.to_string(),
            first_failed: Timestamp::from_micros(failure.first_failed_us),
            last_failed: Timestamp::from_micros(failure.last_failed_us),
        };
        let Ok(unpacked) = unpack(&name, partition, batch.clone()) else {
            return vec![death(moved.start).mark(Record::new(batch.payload.clone()))];
        };
        let mut records = Vec::new();
        for event in unpacked.events() {
            match event {
                Ok(event) if moved.contains(&event.offset) => records.push(death(event.offset).mark(event.record)),
                Ok(_) => {}
                Err(_) => {
                    records.push(death(moved.start).mark(Record::new(batch.payload.clone())));
                    break;
                }
            }
        }
        records
    }

    /// Where they go; made when the first one comes.
    async fn partition(&self) -> Result<Arc<Partition>, GroupError> {
        let topics = self.topics.upgrade().ok_or(GroupError::ShuttingDown)?;
        let name = dead_letter_topic(&self.topic.meta().name, &self.group);
        let topic = to_the_end(async move { topics.system_topic(&name, NewTopic::default()).await }).await?;
        Ok(topic.partition(0)?)
    }

    fn not_stored(&self, reason: String) -> GroupError {
        let topic = dead_letter_topic(&self.topic.meta().name, &self.group);
        GroupError::NotParked { topic, reason }
    }
}

/// What there is of a record.
enum Found {
    Batch(Batch),
    /// Nothing, up to this offset: retention took it, or it is damaged.
    Lost(Offset),
}
