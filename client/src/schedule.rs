//! Events that are published now and delivered later.

use std::{fmt, sync::Arc, time::Duration};

use aqueduct_proto::v1::{self, publish_request::Payload, publish_result::Outcome};

use crate::{
    client::Client,
    codec::encode_record_set,
    error::{BrokerError, Code, Origin, RequestError},
    record::Record,
    types::{Timestamp, TopicId},
};

/// The header that tells for when a delivered event was meant: microseconds since the epoch, as text.
pub const DUE_HEADER: &str = "aqueduct-due-us";

/// When an event is to be delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// At this time of the broker's clock; at once if it has passed.
    At(Timestamp),
    /// So long after the broker has taken it.
    In(Duration),
}

/// Proof that one event is stored, and will be delivered once it is due. Displays as `reminders/3#4398046511104`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scheduled {
    /// The topic's name.
    pub topic: Arc<str>,
    /// The topic's identity: one that is made again under its name gets nothing.
    pub topic_id: TopicId,
    /// The partition that the event will go to.
    pub partition: u32,
    /// Unique in the broker.
    pub id: u64,
    /// When it is due.
    pub due: Timestamp,
}

impl fmt::Display for Scheduled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}#{}", self.topic, self.partition, self.id)
    }
}

/// Why an event is not known to be scheduled.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ScheduleError {
    /// Surely not scheduled: it can be published again.
    #[error("not scheduled: {0}")]
    Rejected(Box<BrokerError>),
    /// It may be scheduled. Trying again may deliver it twice.
    #[error("unknown whether it was scheduled: {0}")]
    Unknown(Box<RequestError>),
}

impl ScheduleError {
    /// What the broker said.
    pub fn broker(&self) -> Option<&BrokerError> {
        match self {
            Self::Rejected(error) => Some(error),
            Self::Unknown(error) => error.broker(),
        }
    }
}

impl From<RequestError> for ScheduleError {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::Rejected(error) if error.code != Code::Unknown => Self::Rejected(error),
            // It is known to be away, and was not even asked.
            RequestError::Unreachable { source: None, retry_after } => {
                Self::Rejected(Box::new(BrokerError { retry_after, ..BrokerError::unreachable() }))
            }
            RequestError::Closed => Self::Rejected(Box::new(BrokerError {
                origin: Origin::Transport,
                ..BrokerError::local(Code::Cancelled, "CLOSED", "the client is closed")
            })),
            error @ (RequestError::Rejected(_)
            | RequestError::Unreachable { source: Some(_), .. }
            | RequestError::TimedOut { .. }
            | RequestError::Malformed { .. }) => Self::Unknown(Box::new(error)),
        }
    }
}

/// Publishes events that are delivered later.
#[derive(Clone, Debug)]
#[must_use]
pub struct Scheduler {
    client: Client,
    topic: String,
    due: Due,
    partition: Option<u32>,
}

impl Scheduler {
    pub(crate) fn new(client: Client, topic: String, due: Due) -> Self {
        Self { client, topic, due, partition: None }
    }

    /// To this partition only. Default: by key.
    pub fn partition(mut self, partition: u32) -> Self {
        self.partition = Some(partition);
        self
    }

    /// Schedules one event; returns once that is durable.
    ///
    /// # Errors
    /// [`ScheduleError`]. Nothing is tried again: only the caller knows whether twice is better than never.
    pub async fn publish(&self, record: Record) -> Result<Scheduled, ScheduleError> {
        let scheduled = self.publish_many([record]).await?.into_iter().next();
        scheduled.ok_or_else(|| RequestError::malformed("no answer for the event").into())
    }

    /// Schedules events with one request; the answers are in their order. A request has the limits of a batch.
    ///
    /// # Errors
    /// That of the first partition that refused; events of others may be scheduled.
    pub async fn publish_many(
        &self,
        records: impl IntoIterator<Item = Record>,
    ) -> Result<Vec<Scheduled>, ScheduleError> {
        let records: Vec<Record> = records.into_iter().collect();
        let (deliver_at_us, deliver_after_us) = match self.due {
            Due::At(time) => (Some(time.as_micros()), None),
            Due::In(delay) => (None, Some(u64::try_from(delay.as_micros()).unwrap_or(u64::MAX))),
        };
        let set = prost::Message::decode(encode_record_set(&records))
            .map_err(|_| RequestError::malformed("the records do not encode"))?;
        let request = v1::PublishRequest {
            topic: self.topic.clone(),
            partition: self.partition,
            payload: Some(Payload::Records(set)),
            deliver_at_us,
            deliver_after_us,
            ..v1::PublishRequest::default()
        };
        let link = self.client.publish_link();
        let mut log = link.log();
        let response = link.unary(async move { log.publish(request).await }).await?;
        in_order(response, records.len())
    }
}

/// One answer for each record of the request.
fn in_order(response: v1::PublishResponse, count: usize) -> Result<Vec<Scheduled>, ScheduleError> {
    let malformed = |detail: &str| RequestError::malformed(detail);
    let mut scheduled: Vec<Option<Scheduled>> = vec![None; count];
    for v1::PublishResult { partition, record_indexes, outcome } in response.results {
        let answer = match outcome {
            Some(Outcome::Scheduled(answer)) => answer,
            Some(Outcome::Error(error)) => {
                return Err(RequestError::from(BrokerError::from_proto(&error)).into());
            }
            Some(Outcome::Ack(_)) | None => return Err(malformed("an event was not scheduled").into()),
        };
        let first = Scheduled {
            topic: answer.topic.as_str().into(),
            topic_id: TopicId::parse(&answer.topic_id).ok_or_else(|| malformed("a topic's id is not 16 bytes"))?,
            partition,
            id: answer.id,
            due: Timestamp::from_micros(answer.due_us),
        };
        let indexes: Vec<usize> = match record_indexes.is_empty() {
            true => (0..count).collect(),
            false => record_indexes.into_iter().map(|index| index as usize).collect(),
        };
        for (id, index) in (first.id..).zip(indexes) {
            let place = scheduled.get_mut(index).ok_or_else(|| malformed("an answer for no event"))?;
            *place = Some(Scheduled { id, ..first.clone() });
        }
    }
    let all: Option<Vec<Scheduled>> = scheduled.into_iter().collect();
    Ok(all.ok_or_else(|| malformed("an event has no answer"))?)
}
