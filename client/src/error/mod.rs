//! Errors: one small enum per operation, and [`BrokerError`], the facts of a refusal, shared by all of them.

mod broker_error;

use std::time::Duration;

pub use broker_error::{BrokerError, Origin};
pub use tonic::Code;

use crate::{codec::DecodeError, types::Offset};

/// Why a client could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The URL cannot work.
    #[error("{url:?} is not a broker's URL: {detail}")]
    InvalidUrl {
        /// As given.
        url: String,
        /// What is wrong with it.
        detail: String,
    },
    /// Nothing answers there.
    #[error("cannot reach a broker at {url}: {source}; is it running?")]
    Unreachable {
        /// As given.
        url: String,
        /// What the transport said.
        source: Box<BrokerError>,
    },
    /// Nothing answered in time.
    #[error("the broker at {url} did not answer within {after:?}")]
    TimedOut {
        /// As given.
        url: String,
        /// How long was waited.
        after: Duration,
    },
    /// A broker is there, and refuses.
    #[error("the broker at {url} refuses this client: {source}")]
    Refused {
        /// As given.
        url: String,
        /// Its reasons.
        source: Box<BrokerError>,
    },
    /// Something else answers there.
    #[error("what answers at {url} is not a broker that this client understands: {detail}")]
    NotABroker {
        /// As given.
        url: String,
        /// What was strange.
        detail: String,
    },
}

/// Why a single request (administration, look-ups) failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RequestError {
    /// The broker said no.
    #[error("{0}")]
    Rejected(Box<BrokerError>),
    /// The broker could not be reached. Without a source, it is known to be away and was not tried.
    #[error("the broker cannot be reached{}", .source.as_ref().map(|error| format!(": {error}")).unwrap_or_default())]
    Unreachable {
        /// What the transport said.
        source: Option<Box<BrokerError>>,
        /// When the next request will be let through.
        retry_after: Option<Duration>,
    },
    /// No answer in time. A change may have been made all the same.
    #[error("the broker did not answer within {after:?}")]
    TimedOut {
        /// How long was waited.
        after: Duration,
    },
    /// This client has been closed.
    #[error("the client is closed")]
    Closed,
    /// The answer cannot be right.
    #[error("the broker's answer makes no sense: {detail}")]
    Malformed {
        /// What was strange.
        detail: String,
    },
}

impl RequestError {
    /// The broker's answer, if there was one.
    pub fn broker(&self) -> Option<&BrokerError> {
        match self {
            Self::Rejected(error) => Some(error),
            Self::Unreachable { .. } | Self::TimedOut { .. } | Self::Closed | Self::Malformed { .. } => None,
        }
    }

    /// The code of the broker's answer, if there was one.
    pub fn code(&self) -> Option<Code> {
        self.broker().map(|error| error.code)
    }

    /// The topic, group or partition does not exist.
    pub fn is_not_found(&self) -> bool {
        self.code() == Some(Code::NotFound)
    }

    pub(crate) fn malformed(detail: impl Into<String>) -> Self {
        Self::Malformed { detail: detail.into() }
    }
}

/// An answer of a stream that ended: the broker's, or the transport's.
impl From<BrokerError> for RequestError {
    fn from(error: BrokerError) -> Self {
        match error.origin {
            Origin::Broker => Self::Rejected(Box::new(error)),
            Origin::Transport => Self::Unreachable { source: Some(Box::new(error)), retry_after: None },
        }
    }
}

/// Why a producer could not be built.
#[derive(Debug, thiserror::Error)]
pub enum ProducerError {
    /// The broker was asked for the topic or the producer's name.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// A setting cannot work.
    #[error("producer setting {key}: {detail}")]
    InvalidConfig {
        /// The builder's method.
        key: &'static str,
        /// What is wrong, and the bounds.
        detail: String,
    },
}

/// Why a read failed.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The offset does not exist (any more, or yet).
    #[error(transparent)]
    OffsetOutOfRange(#[from] OffsetOutOfRange),
    /// The broker could not be asked, or refused.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// What came cannot be used.
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

impl FetchError {
    pub(crate) fn new(partition: u32, requested: Option<Offset>, error: RequestError) -> Self {
        match error.broker().and_then(|broker| OffsetOutOfRange::parse(partition, requested, broker)) {
            Some(error) => Self::OffsetOutOfRange(error),
            None => Self::Request(error),
        }
    }
}

/// An offset outside the readable window of its partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("partition {partition}: offset{} is outside [{log_start}, {high_watermark}]",
        .requested.map(|offset| format!(" {offset}")).unwrap_or_default())]
pub struct OffsetOutOfRange {
    /// Which partition.
    pub partition: u32,
    /// What was asked for, if it was an offset.
    pub requested: Option<Offset>,
    /// First readable offset (inclusive).
    pub log_start: Offset,
    /// First offset readers may not see (exclusive).
    pub high_watermark: Offset,
}

impl OffsetOutOfRange {
    /// `None`: the error is about something else, or does not say what would be valid.
    pub(crate) fn parse(partition: u32, requested: Option<Offset>, error: &BrokerError) -> Option<Self> {
        if error.code != Code::OutOfRange {
            return None;
        }
        let number = |key: &str| -> Option<u64> { error.metadata.get(key)?.parse().ok() };
        Some(Self {
            partition: number("partition").and_then(|number| u32::try_from(number).ok()).unwrap_or(partition),
            requested: number("requested").or(requested),
            log_start: number("log_start")?,
            high_watermark: number("high_watermark")?,
        })
    }
}

/// Why a subscription has no event to give.
#[derive(Debug, thiserror::Error)]
pub enum SubscribeError {
    /// The start does not exist (any more, or yet).
    #[error(transparent)]
    OffsetOutOfRange(#[from] OffsetOutOfRange),
    /// The broker refused the subscription. It has ended.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// This partition cannot be read further; the others go on.
    #[error("partition {partition} cannot be read further: {error}")]
    Partition {
        /// Which partition.
        partition: u32,
        /// The broker's reasons.
        error: Box<BrokerError>,
    },
    /// The bytes of these offsets fail their checksum on the broker's disk. Reading goes on behind them with the next call.
    #[error("partition {partition}: offsets {from} to {to} (exclusive) are damaged on the broker's disk")]
    Damaged {
        /// Which partition.
        partition: u32,
        /// First damaged offset.
        from: Offset,
        /// First offset after the damage.
        to: Offset,
    },
    /// What came from this partition cannot be used; the others go on.
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

impl SubscribeError {
    pub(crate) fn partition(partition: u32, error: BrokerError) -> Self {
        match OffsetOutOfRange::parse(partition, None, &error) {
            Some(error) => Self::OffsetOutOfRange(error),
            None => Self::Partition { partition, error: Box::new(error) },
        }
    }
}

/// Why a consumer has no delivery to give.
#[derive(Debug, thiserror::Error)]
pub enum ConsumeError {
    /// The broker refused this member. The consumer has ended.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// This partition cannot be delivered further; the others go on.
    #[error("partition {partition} cannot be delivered further: {error}")]
    Partition {
        /// Which partition.
        partition: u32,
        /// The broker's reasons.
        error: Box<BrokerError>,
    },
    /// The bytes of these offsets fail their checksum on the broker's disk. The group goes on behind them.
    #[error("partition {partition}: offsets {from} to {to} (exclusive) are damaged on the broker's disk")]
    Damaged {
        /// Which partition.
        partition: u32,
        /// First damaged offset.
        from: Offset,
        /// First offset after the damage.
        to: Offset,
    },
    /// A delivery cannot be read: its records stay open until the ack time-out.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The consumer was closed when the broker had gone. It may have stored these acks; what it has not is delivered again.
    #[error(
        "the broker went away before it had stored the acks of {records} records, or said so: these may be delivered again"
    )]
    Unsettled {
        /// How many records.
        records: u64,
    },
}

/// Why a delivery is not known to be settled. It will be delivered again.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AckError {
    /// The partition has moved to another member, or the ack time-out has passed.
    #[error("partition {partition} has moved on, offset {offset} will be delivered again: {error}")]
    Aborted {
        /// Which partition.
        partition: u32,
        /// Of the delivery.
        offset: Offset,
        /// The broker's words.
        error: Box<BrokerError>,
    },
    /// The connection broke before the answer came; the ack may have been stored.
    #[error("the session with the broker ended before the ack was answered")]
    SessionLost,
    /// The broker could not store it.
    #[error(transparent)]
    Rejected(Box<BrokerError>),
}

/// Why a client did not close cleanly.
#[derive(Debug, thiserror::Error)]
pub enum CloseError {
    /// Something was still in flight at the deadline; it is given up.
    #[error("not everything was finished within {after:?}")]
    TimedOut {
        /// The deadline.
        after: Duration,
    },
    /// Everything has ended, but some events were not stored.
    #[error(transparent)]
    Flush(#[from] crate::producer::FlushError),
}

/// A payload is not the JSON that was expected, or a value cannot be JSON.
#[cfg(feature = "json")]
#[derive(Debug, thiserror::Error)]
pub enum JsonError {
    /// The record is a tombstone.
    #[error("the record has no value")]
    NoValue,
    /// What the parser said.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
}
