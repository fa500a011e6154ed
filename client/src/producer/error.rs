//! The outcomes of publishing other than a receipt.

use std::time::Duration;

use super::receipt::Hold;
use crate::{
    error::{BrokerError, ProducerError, RequestError},
    record::Record,
};

/// Why an event has no receipt. What is neither stored nor on its way comes back in the error where that is possible.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PublishError {
    /// No room in the producer's buffer, and the caller did not want to wait. Nothing was sent.
    #[error("the buffer of {buffer_bytes_max} bytes is full{}",
            .hold.as_ref().map(|hold| format!(": held by {} ({})", hold.culprit, hold.reason)).unwrap_or_default())]
    Full {
        /// What was to be published.
        record: Option<Box<Record>>,
        /// Who holds the producer, if the broker has said so.
        hold: Option<Hold>,
        /// The bound.
        buffer_bytes_max: usize,
    },
    /// Surely not stored.
    #[error("not stored: {error}")]
    Rejected {
        /// What was to be published.
        record: Option<Box<Record>>,
        /// Who says so, and why.
        error: Box<BrokerError>,
    },
    /// It may be stored, and nobody could find out within the delivery time-out.
    #[error("unknown whether it was stored, after {after:?}{}",
            .error.as_ref().map(|error| format!(": {error}")).unwrap_or_default())]
    Unknown {
        /// Where it would be.
        partition: u32,
        /// The last thing that was heard.
        error: Option<Box<BrokerError>>,
        /// Since the event was admitted.
        after: Duration,
    },
    /// The producer or the client is closed. Nothing was sent.
    #[error("the producer is closed")]
    Closed {
        /// What was to be published.
        record: Option<Box<Record>>,
    },
}

impl PublishError {
    /// The record, if it is surely not stored and could be kept.
    pub fn record(&self) -> Option<&Record> {
        match self {
            Self::Full { record, .. } | Self::Rejected { record, .. } | Self::Closed { record } => record.as_deref(),
            Self::Unknown { .. } => None,
        }
    }

    /// As [`record`](Self::record), to be published again.
    pub fn into_record(self) -> Option<Record> {
        match self {
            Self::Full { record, .. } | Self::Rejected { record, .. } | Self::Closed { record } => {
                record.map(|record| *record)
            }
            Self::Unknown { .. } => None,
        }
    }

    /// When another attempt may succeed, if anybody has said so.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Full { hold, .. } => hold.as_ref().map(|hold| hold.retry_after),
            Self::Rejected { .. } | Self::Unknown { .. } | Self::Closed { .. } => self.broker()?.retry_after,
        }
    }

    /// The limit or the group that stands in the way, if known.
    pub fn culprit(&self) -> Option<&str> {
        match self {
            Self::Full { hold, .. } => hold.as_ref().map(|hold| hold.culprit.as_str()),
            Self::Rejected { .. } | Self::Unknown { .. } | Self::Closed { .. } => self.broker()?.culprit(),
        }
    }

    /// What the broker said.
    pub fn broker(&self) -> Option<&BrokerError> {
        match self {
            Self::Rejected { error, .. } => Some(error),
            Self::Unknown { error, .. } => error.as_deref(),
            Self::Full { .. } | Self::Closed { .. } => None,
        }
    }

    pub(crate) fn rejected(record: Record, error: BrokerError) -> Self {
        Self::Rejected { record: Some(Box::new(record)), error: Box::new(error) }
    }

    pub(crate) fn closed(record: Record) -> Self {
        Self::Closed { record: Some(Box::new(record)) }
    }

    /// The producer for `record` could not be built: nothing was sent.
    pub(crate) fn not_built(record: Option<Record>, error: ProducerError) -> Self {
        let record = record.map(Box::new);
        let error = match error {
            ProducerError::Request(RequestError::Closed) => return Self::Closed { record },
            ProducerError::Request(RequestError::Rejected(error)) => error,
            ProducerError::Request(RequestError::Unreachable { source: Some(error), .. }) => error,
            ProducerError::Request(RequestError::Unreachable { source: None, retry_after }) => {
                Box::new(BrokerError { retry_after, ..BrokerError::unreachable() })
            }
            ProducerError::Request(error @ (RequestError::TimedOut { .. } | RequestError::Malformed { .. })) => {
                Box::new(BrokerError::transport(error.to_string()))
            }
            ProducerError::InvalidConfig { key, detail } => Box::new(BrokerError::local(
                tonic::Code::InvalidArgument,
                "INVALID_CONFIG",
                format!("producer setting {key}: {detail}"),
            )),
        };
        Self::Rejected { record, error }
    }
}

/// What became of events whose tickets nobody kept.
#[derive(Debug, thiserror::Error)]
pub enum FlushError {
    /// Some were not stored, or may not be.
    #[error("{records} events whose tickets were dropped have no receipt; the first: {first}")]
    Failed {
        /// How many, since the last flush.
        records: u64,
        /// What happened to the first of them.
        first: Box<PublishError>,
    },
}
