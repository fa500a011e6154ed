//! The exit code of every command, chosen here and only here, by the type of the error.

use std::error::Error;

use aqueduct_client::{
    BrokerError, CloseError, Code, ConnectError, ConsumeError, FlushError, Origin, ProducerError, PublishError,
    RequestError, ScheduleError, SubscribeError,
};

use super::stdout::StdoutError;

/// The reason that a broker, or the client on its behalf, gives for what is over a limit.
const TOO_LARGE: &str = "TOO_LARGE";

/// How a command ended, for scripts. Printed in `aqueduct --help`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Everything that was asked for has been done.
    Done = 0,
    /// It was tried and did not work, or a check found something.
    Failed = 1,
    /// The command line makes no sense; nothing was tried.
    Usage = 2,
    /// No broker answers at that address.
    Unreachable = 3,
    /// The topic or group does not exist.
    NotFound = 4,
    /// The broker said no: overload, a limit, a precondition.
    Refused = 5,
    /// It may have been done.
    Unknown = 6,
}

/// What the command line finds by itself; everything else arrives typed from the client or the broker.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// The arguments contradict each other or the situation.
    #[error("{0}")]
    Usage(String),
    /// A file, directory or position that was named is not there.
    #[error("{0}")]
    NotFound(String),
    /// The situation does not allow it.
    #[error("{0}")]
    Refused(String),
    /// Anything else.
    #[error("{0}")]
    Failed(String),
    /// A change was asked for, and no answer came.
    #[error("{what}: no answer within {after}; it may have been done: look before you repeat it")]
    OutcomeUnknown {
        /// The command, for people.
        what: String,
        /// The time-out.
        after: String,
    },
}

/// The first link of the chain that has an opinion decides.
pub(crate) fn of(error: &anyhow::Error) -> Exit {
    error.chain().find_map(of_link).unwrap_or(Exit::Failed)
}

/// The chain in one sentence. Some errors already quote their source: nothing is said twice.
pub(crate) fn describe(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |mut text, link| {
        if text.is_empty() {
            text = link;
        } else if !text.contains(&link) {
            text.push_str(": ");
            text.push_str(&link);
        }
        text
    })
}

/// What to try next, where the type of the error says enough to know.
pub(crate) fn hint(error: &anyhow::Error) -> Option<&'static str> {
    if error.chain().any(|link| matches!(link.downcast_ref(), Some(SubscribeError::OffsetOutOfRange(_)))) {
        return Some("`--from earliest` begins with the oldest event that is kept, `--from latest` with the next one");
    }
    if error
        .chain()
        .any(|link| matches!(link.downcast_ref(), Some(PublishError::Rejected { error, .. }) if is_backlog(error)))
    {
        return Some(
            "start more members of that group, or loosen the bound with `aqueduct topic alter TOPIC --backlog …`",
        );
    }
    match of(error) {
        Exit::Unreachable => {
            Some("start a broker with `aqueduct serve`, or name another one with --server or AQUEDUCT_SERVER")
        }
        Exit::Done | Exit::Failed | Exit::Usage | Exit::NotFound | Exit::Refused | Exit::Unknown => None,
    }
}

fn is_backlog(error: &BrokerError) -> bool {
    error.reason.as_deref() == Some("GROUP_BACKLOG")
}

fn of_link(link: &(dyn Error + 'static)) -> Option<Exit> {
    if let Some(error) = link.downcast_ref::<CliError>() {
        return Some(match error {
            CliError::Usage(_) => Exit::Usage,
            CliError::NotFound(_) => Exit::NotFound,
            CliError::Refused(_) => Exit::Refused,
            CliError::Failed(_) => Exit::Failed,
            CliError::OutcomeUnknown { .. } => Exit::Unknown,
        });
    }
    if let Some(error) = link.downcast_ref::<StdoutError>() {
        // Whoever read our output has seen enough: `subscribe | head` is no failure.
        return Some(match error {
            StdoutError::Closed => Exit::Done,
            StdoutError::Failed(_) => Exit::Failed,
        });
    }
    if let Some(error) = link.downcast_ref::<ConnectError>() {
        return Some(of_connect(error));
    }
    if let Some(error) = link.downcast_ref::<PublishError>() {
        return Some(of_publish(error));
    }
    if let Some(error) = link.downcast_ref::<ScheduleError>() {
        return Some(match error {
            ScheduleError::Rejected(error) => of_broker(error),
            ScheduleError::Unknown(_) => Exit::Unknown,
        });
    }
    link.downcast_ref::<RequestError>()
        .map(of_request)
        .or_else(|| link.downcast_ref::<ProducerError>().map(of_producer))
        .or_else(|| link.downcast_ref::<SubscribeError>().map(of_subscribe))
        .or_else(|| link.downcast_ref::<ConsumeError>().map(of_consume))
        .or_else(|| link.downcast_ref::<FlushError>().map(of_flush))
        .or_else(|| link.downcast_ref::<CloseError>().map(of_close))
        .or_else(|| link.downcast_ref::<BrokerError>().map(of_broker))
}

fn of_connect(error: &ConnectError) -> Exit {
    match error {
        ConnectError::InvalidUrl { .. } => Exit::Usage,
        ConnectError::Unreachable { .. } | ConnectError::TimedOut { .. } | ConnectError::NotABroker { .. } => {
            Exit::Unreachable
        }
        ConnectError::Refused { source, .. } => of_broker(source),
    }
}

fn of_request(error: &RequestError) -> Exit {
    match error {
        RequestError::Rejected(error) => of_broker(error),
        RequestError::Unreachable { .. } | RequestError::TimedOut { .. } => Exit::Unreachable,
        RequestError::Closed | RequestError::Malformed { .. } => Exit::Failed,
    }
}

fn of_publish(error: &PublishError) -> Exit {
    match error {
        PublishError::Full { .. } => Exit::Refused,
        PublishError::Rejected { error, .. } => of_broker(error),
        PublishError::Unknown { .. } => Exit::Unknown,
        PublishError::Closed { .. } => Exit::Failed,
    }
}

fn of_producer(error: &ProducerError) -> Exit {
    match error {
        ProducerError::Request(error) => of_request(error),
        ProducerError::InvalidConfig { key: "partition", .. } => Exit::NotFound,
        ProducerError::InvalidConfig { .. } => Exit::Usage,
    }
}

fn of_subscribe(error: &SubscribeError) -> Exit {
    match error {
        SubscribeError::Request(error) => of_request(error),
        SubscribeError::Partition { error, .. } => of_broker(error),
        SubscribeError::OffsetOutOfRange(_) | SubscribeError::Damaged { .. } | SubscribeError::Decode(_) => {
            Exit::Failed
        }
    }
}

fn of_consume(error: &ConsumeError) -> Exit {
    match error {
        ConsumeError::Request(error) => of_request(error),
        ConsumeError::Partition { error, .. } => of_broker(error),
        ConsumeError::Damaged { .. } | ConsumeError::Decode(_) => Exit::Failed,
        ConsumeError::Unsettled { .. } => Exit::Unknown,
    }
}

fn of_flush(error: &FlushError) -> Exit {
    match error {
        FlushError::Failed { first, .. } => of_publish(first),
    }
}

fn of_close(error: &CloseError) -> Exit {
    match error {
        CloseError::TimedOut { .. } => Exit::Unknown,
        CloseError::Flush(error) => of_flush(error),
    }
}

fn of_broker(error: &BrokerError) -> Exit {
    match (error.code, error.origin) {
        (_, Origin::Transport) => Exit::Unreachable,
        (Code::NotFound, Origin::Broker) => Exit::NotFound,
        (Code::InvalidArgument, Origin::Broker) if error.reason.as_deref() == Some(TOO_LARGE) => Exit::Refused,
        (Code::InvalidArgument, Origin::Broker) => Exit::Usage,
        (Code::Unknown, Origin::Broker) => Exit::Unknown,
        (
            Code::ResourceExhausted
            | Code::FailedPrecondition
            | Code::Unavailable
            | Code::Aborted
            | Code::PermissionDenied
            | Code::Unauthenticated,
            Origin::Broker,
        ) => Exit::Refused,
        (
            Code::Ok
            | Code::Cancelled
            | Code::DeadlineExceeded
            | Code::AlreadyExists
            | Code::OutOfRange
            | Code::Unimplemented
            | Code::Internal
            | Code::DataLoss,
            Origin::Broker,
        ) => Exit::Failed,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use anyhow::Context as _;

    use super::*;

    fn broker(code: Code, origin: Origin) -> BrokerError {
        BrokerError {
            code,
            message: "no".to_owned(),
            reason: None,
            metadata: BTreeMap::new(),
            retry_after: None,
            origin,
        }
    }

    fn of_wrapped<E: Error + Send + Sync + 'static>(error: E) -> Exit {
        of(&Err::<(), E>(error).context("while testing").context("and again").unwrap_err())
    }

    #[test]
    fn the_type_of_the_error_decides_through_any_context() {
        assert_eq!(of_wrapped(CliError::Usage("x".to_owned())), Exit::Usage);
        assert_eq!(of_wrapped(CliError::NotFound("x".to_owned())), Exit::NotFound);
        assert_eq!(of_wrapped(StdoutError::Closed), Exit::Done);
        assert_eq!(of_wrapped(std::io::Error::other("disk")), Exit::Failed);
        assert_eq!(of_wrapped(RequestError::TimedOut { after: Duration::from_secs(1) }), Exit::Unreachable);
        assert_eq!(
            of_wrapped(PublishError::Unknown { partition: 0, error: None, after: Duration::ZERO }),
            Exit::Unknown
        );
    }

    #[test]
    fn answers_of_the_broker_are_told_from_a_broken_way_to_it() {
        for (code, exit) in [
            (Code::NotFound, Exit::NotFound),
            (Code::ResourceExhausted, Exit::Refused),
            (Code::FailedPrecondition, Exit::Refused),
            (Code::InvalidArgument, Exit::Usage),
            (Code::Unknown, Exit::Unknown),
            (Code::DataLoss, Exit::Failed),
        ] {
            assert_eq!(of_wrapped(RequestError::Rejected(Box::new(broker(code, Origin::Broker)))), exit, "{code:?}");
            assert_eq!(of_wrapped(broker(code, Origin::Transport)), Exit::Unreachable, "{code:?}");
        }
    }
}
