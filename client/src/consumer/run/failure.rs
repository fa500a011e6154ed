//! What a handler says about an event that it could not handle.

use std::{fmt, time::Duration};

/// Why an event could not be handled, and what is to become of it.
///
/// Whatever can be displayed becomes one with `?` or `into()`: then the event is delivered again after the group's backoff.
/// To say more:
///
/// ```
/// use std::time::Duration;
///
/// use aqueduct_client::{Failure, Job};
///
/// async fn bill(job: Job) -> Result<(), Failure> {
///     let text = std::str::from_utf8(job.value().unwrap_or_default()).map_err(Failure::park)?; // will never be better
///     let amount: u32 = text.parse()?;                                                         // again, with backoff
///     if amount > 10_000 {
///         return Err(Failure::retry_after(Duration::from_secs(3600), "the bank is closed"));
///     }
///     Ok(())
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub(super) remedy: Remedy,
    pub(super) error: String,
}

/// What becomes of an event that could not be handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Remedy {
    /// It comes again after the group's backoff.
    Retry,
    /// It comes again, but not before this time has passed.
    RetryAfter(Duration),
    /// It goes to the dead letters.
    Park,
}

impl Failure {
    /// Delivered again after the group's backoff, or parked once it has failed as often as the group allows.
    pub fn retry(error: impl fmt::Display) -> Self {
        Self::new(Remedy::Retry, &error)
    }

    /// Delivered again, but not before `delay` has passed.
    pub fn retry_after(delay: Duration, error: impl fmt::Display) -> Self {
        Self::new(Remedy::RetryAfter(delay), &error)
    }

    /// It will never be handled: it moves to the group's dead letters now, and nothing waits for it.
    pub fn park(error: impl fmt::Display) -> Self {
        Self::new(Remedy::Park, &error)
    }

    fn new(remedy: Remedy, error: &dyn fmt::Display) -> Self {
        // Error types that can show what they were caused by do so in this form.
        Self { remedy, error: format!("{error:#}") }
    }
}

// It is no error itself, or this would be ambiguous.
impl<E: fmt::Display> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::retry(error)
    }
}
