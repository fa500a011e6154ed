//! Records that are published now and delivered later.

use std::sync::Arc;

use aqueduct_client::{DUE_HEADER, Header};
use aqueduct_proto::v1;
use aqueduct_storage::{Batch, Codec};

use super::convert::unpack;
use crate::{
    BrokerCore,
    delays::{Delayed, Destination},
    error::PublishError,
    to_the_end::joined,
    topics::Topic,
    turns::ConnectionId,
};

/// The furthest that a time may lie ahead: ten years.
const AHEAD_US_MAX: i64 = 10 * 366 * 24 * 3_600_000_000;

/// When the records of a request are due, by the wall clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Schedule {
    due_us: i64,
}

impl Schedule {
    /// What the request asks for; `None` if its records are wanted at once.
    ///
    /// # Errors
    /// [`PublishError::Invalid`] for two times, and for one that no person can mean.
    pub(super) fn of(request: &v1::PublishRequest, now_us: i64) -> Result<Option<Self>, PublishError> {
        let latest_us = now_us.saturating_add(AHEAD_US_MAX);
        let invalid = |field, reason: &str| Err(PublishError::Invalid { field, reason: reason.to_owned() });
        let (field, due_us) = match (request.deliver_at_us, request.deliver_after_us) {
            (None, None) => return Ok(None),
            (Some(_), Some(_)) => return invalid("deliver_after_us", "must not be given with `deliver_at_us`"),
            (Some(at_us), None) => ("deliver_at_us", at_us),
            (None, Some(after_us)) => ("deliver_after_us", now_us.saturating_add_unsigned(after_us)),
        };
        if due_us > latest_us {
            return invalid(field, "is more than ten years ahead: give microseconds");
        }
        Ok(Some(Self { due_us }))
    }
}

/// Where records are to be delivered, and who says so.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) topic: &'a Topic,
    pub(super) partition: u32,
    pub(super) connection: ConnectionId,
}

/// Makes the records of `batch` durable, to be delivered when they are due.
///
/// # Errors
/// As for a publish, and [`PublishError::Invalid`] if the records cannot be read.
pub(super) async fn put(
    core: &BrokerCore,
    place: Place<'_>,
    batch: Batch,
    schedule: Schedule,
) -> Result<v1::Scheduled, PublishError> {
    let Schedule { due_us } = schedule;
    let Place { topic, partition, connection } = place;
    let (topic, record_count) = (topic.meta(), batch.header.record_count);
    let records = match batch.header.codec {
        Codec::None => records(&topic.name, partition, batch, due_us)?,
        Codec::Lz4 | Codec::Zstd => {
            let _turn = core.unpacking.acquire(connection, 1).await;
            let name = topic.name.clone();
            joined(tokio::task::spawn_blocking(move || records(&name, partition, batch, due_us))).await?
        }
    };
    let scheduled = core.delays.put(Destination { topic: topic.id, partition }, records).await?;
    let (topic, topic_id) = (topic.name.clone(), topic.id.to_vec().into());
    Ok(v1::Scheduled { id: scheduled.id, record_count, due_us, topic, topic_id })
}

/// The records as they will be delivered: as they were published, and marked with the time for which they were meant.
fn records(topic: &str, partition: u32, batch: Batch, due_us: i64) -> Result<Vec<Delayed>, PublishError> {
    let invalid = |error: &dyn std::fmt::Display| {
        let reason = format!("cannot be read, as must be what is delivered later: {error}");
        PublishError::Invalid { field: "records", reason }
    };
    let unpacked = unpack(&Arc::from(topic), partition, batch).map_err(|error| invalid(&error))?;
    let mark = Header { name: DUE_HEADER.into(), value: due_us.to_string().into() };
    unpacked
        .events()
        .map(|event| {
            let mut record = event.map_err(|error| invalid(&error))?.record;
            record.headers.push(mark.clone());
            Ok(Delayed::new(due_us, &record))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_absolute_or_relative_and_no_absurd_one() {
        let schedule = |at_us, after_us| {
            let request = v1::PublishRequest {
                deliver_at_us: at_us,
                deliver_after_us: after_us,
                ..v1::PublishRequest::default()
            };
            match Schedule::of(&request, 1000) {
                Ok(schedule) => Ok(schedule.map(|schedule| schedule.due_us)),
                Err(PublishError::Invalid { field, .. }) => Err(field),
                Err(other) => panic!("{other}"),
            }
        };
        assert_eq!(schedule(None, None), Ok(None));
        assert_eq!(schedule(Some(-5), None), Ok(Some(-5)));
        assert_eq!(schedule(Some(i64::MIN), None), Ok(Some(i64::MIN)));
        assert_eq!(schedule(None, Some(5)), Ok(Some(1005)));
        assert_eq!(schedule(Some(1000 + AHEAD_US_MAX), None), Ok(Some(1000 + AHEAD_US_MAX)));
        assert_eq!(schedule(Some(1001 + AHEAD_US_MAX), None), Err("deliver_at_us"));
        assert_eq!(schedule(None, Some(u64::MAX)), Err("deliver_after_us"));
        assert_eq!(schedule(Some(1), Some(1)), Err("deliver_after_us"));
    }
}
