//! The one place that takes a gRPC status apart.

use std::{collections::BTreeMap, error::Error, fmt, time::Duration};

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, RpcStatusExt, StatusExt};

/// A refusal: what a caller can act on, taken from a gRPC status and its details.
#[derive(Clone, Debug, PartialEq)]
pub struct BrokerError {
    /// The canonical code.
    pub code: Code,
    /// For people.
    pub message: String,
    /// For programs, from `ErrorInfo`: `SEQUENCE_GAP`, `GROUP_BACKLOG`, …
    pub reason: Option<String>,
    /// The facts that go with the reason: `culprit`, `log_start`, …
    pub metadata: BTreeMap<String, String>,
    /// When a retry may help, from `RetryInfo`.
    pub retry_after: Option<Duration>,
    /// Whether the broker said this, or the way to it.
    pub origin: Origin,
}

/// Who reports an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The broker, in an answer.
    Broker,
    /// The transport: the broker did not answer, and what it did is unknown.
    Transport,
}

impl BrokerError {
    /// The limit or the group that stands in the way.
    pub fn culprit(&self) -> Option<&str> {
        self.metadata.get("culprit").map(String::as_str)
    }

    pub(crate) fn has_reason(&self, reason: &str) -> bool {
        self.reason.as_deref() == Some(reason)
    }

    /// Known to be away, and not even tried.
    pub(crate) fn unreachable() -> Self {
        Self::transport("the broker does not answer")
    }

    pub(crate) fn transport(message: impl Into<String>) -> Self {
        Self {
            code: Code::Unavailable,
            message: message.into(),
            reason: None,
            metadata: BTreeMap::new(),
            retry_after: None,
            origin: Origin::Transport,
        }
    }

    /// A refusal that this client pronounces itself, before anything is sent.
    pub(crate) fn local(code: Code, reason: &str, message: impl Into<String>) -> Self {
        Self { code, reason: Some(reason.into()), origin: Origin::Broker, ..Self::transport(message) }
    }

    fn new(code: Code, message: &str, details: &ErrorDetails, origin: Origin) -> Self {
        let info = details.error_info();
        Self {
            code,
            message: message.to_owned(),
            reason: info.map(|info| info.reason.clone()).filter(|reason| !reason.is_empty()),
            metadata: info.map(|info| info.metadata.clone().into_iter().collect()).unwrap_or_default(),
            retry_after: details.retry_info().and_then(|retry| retry.retry_delay),
            origin,
        }
    }

    /// From a status inside a message: always the broker's.
    pub(crate) fn from_proto(status: &tonic_types::Status) -> Self {
        let code = Code::from_i32(status.code);
        Self::new(code, &status.message, &status.get_error_details(), Origin::Broker)
    }
}

impl From<Status> for BrokerError {
    fn from(status: Status) -> Self {
        // Statuses that arrive as an answer have no source; those made of a broken connection carry its error.
        let origin = if status.source().is_some() { Origin::Transport } else { Origin::Broker };
        let mut error = Self::new(status.code(), status.message(), &status.get_error_details(), origin);
        let mut cause = status.source();
        while let Some(source) = cause {
            // The outer layers only say "transport error"; the innermost one says which.
            if source.source().is_none() {
                let innermost = source.to_string();
                if !error.message.contains(&innermost) {
                    error.message = format!("{}: {innermost}", error.message);
                }
            }
            cause = source.source();
        }
        error
    }
}

impl fmt::Display for BrokerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.message.is_empty() {
            write!(f, "{}", self.code)?;
        } else {
            f.write_str(&self.message)?;
        }
        if let Some(reason) = &self.reason {
            write!(f, " [{reason}]")?;
        }
        if let Some(after) = self.retry_after {
            write!(f, "; try again in {after:?}")?;
        }
        Ok(())
    }
}

impl Error for BrokerError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn details() -> ErrorDetails {
        let mut details = ErrorDetails::new();
        details.set_error_info("GROUP_BACKLOG", "aqueduct", [("culprit".to_owned(), "billing".to_owned())]);
        details.set_retry_info(Some(Duration::from_millis(250)));
        details
    }

    #[test]
    fn a_status_with_details_gives_reason_culprit_and_retry_time() {
        let status = Status::with_error_details(Code::ResourceExhausted, "held", details());
        let error = BrokerError::from(status);
        assert_eq!(error.code, Code::ResourceExhausted);
        assert!(error.has_reason("GROUP_BACKLOG"));
        assert_eq!(error.culprit(), Some("billing"));
        assert_eq!(error.retry_after, Some(Duration::from_millis(250)));
        assert_eq!(error.origin, Origin::Broker);
        assert_eq!(error.to_string(), "held [GROUP_BACKLOG]; try again in 250ms");
    }

    #[test]
    fn a_status_inside_a_message_is_read_the_same_way() {
        let status = Status::with_error_details(Code::Aborted, "moved", details());
        let proto = tonic_types::Status {
            code: status.code().into(),
            message: status.message().into(),
            details: prost::Message::decode(status.details())
                .map(|status: tonic_types::Status| status.details)
                .expect("details decode"),
        };
        let error = BrokerError::from_proto(&proto);
        assert_eq!((error.code, error.culprit()), (Code::Aborted, Some("billing")));
    }

    #[test]
    fn a_broken_connection_is_not_the_brokers_answer() {
        let io = std::io::Error::new(std::io::ErrorKind::ConnectionReset, "connection reset");
        let error = BrokerError::from(Status::from_error(Box::new(io)));
        assert_eq!(error.origin, Origin::Transport);
        assert!(error.message.contains("connection reset"), "{error}");
    }
}
