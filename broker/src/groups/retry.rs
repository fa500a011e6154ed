//! What a group does with records that could not be handled: how long it pauses, how often it tries, and what then.
//!
//! Pure. The jitter comes from the offset, so that the same failure always gives the same pause.

use std::{fmt, sync::Arc, time::Duration};

use aqueduct_storage::Offset;

use super::error::GroupError;

/// Pauses are at least this long.
pub(crate) const BACKOFF_MIN: Duration = Duration::from_millis(1);
/// Pauses are at most this long.
pub(crate) const BACKOFF_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// More attempts than this are no policy but a loop.
pub(crate) const MAX_ATTEMPTS_MAX: u32 = 1_000_000;
/// What is kept of an error's text, in bytes.
pub(crate) const ERROR_BYTES_MAX: usize = 256;

/// Belongs to the group's policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RetryPolicy {
    /// The pause after the first failure; it doubles with every further one.
    pub(crate) backoff_min: Duration,
    /// The longest pause.
    pub(crate) backoff_max: Duration,
    /// After so many failed attempts a record is exhausted.
    pub(crate) max_attempts: u32,
    pub(crate) on_exhausted: OnExhausted,
}

/// What becomes of a record that has failed too often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnExhausted {
    /// It moves to the dead letters, and the group goes on behind it.
    Park,
    /// Its partition is not delivered further.
    Halt,
    /// It moves to the dead letters, and so does everything of its key, until none of that is there any more.
    ParkKey,
}

impl fmt::Display for OnExhausted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Park => "park",
            Self::Halt => "halt",
            Self::ParkKey => "park-key",
        })
    }
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            backoff_min: Duration::from_secs(1),
            backoff_max: Duration::from_secs(10 * 60),
            max_attempts: 5,
            on_exhausted: OnExhausted::Park,
        }
    }
}

impl RetryPolicy {
    /// How long a record pauses after so many failed attempts: between half and all of a time that doubles.
    pub(crate) fn backoff(&self, attempts: u32, offset: Offset) -> Duration {
        let doublings = attempts.saturating_sub(1).min(31);
        let whole = self.backoff_min.saturating_mul(1 << doublings).min(self.backoff_max);
        let scattered = (offset ^ (u64::from(attempts) << 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48;
        let share = u32::try_from(scattered).unwrap_or(0);
        whole / 2 + (whole / 2).saturating_mul(share) / (1 << 16)
    }

    /// Whether a record is delivered again after so many failed attempts.
    pub(crate) fn is_exhausted(&self, attempts: u32) -> bool {
        attempts >= self.max_attempts
    }

    /// Itself, if every field is within its bounds.
    ///
    /// # Errors
    /// [`GroupError::Invalid`].
    pub(crate) fn checked(self) -> Result<Self, GroupError> {
        let invalid = |field, reason| Err(GroupError::Invalid { field, reason });
        let bounds = BACKOFF_MIN..=BACKOFF_MAX;
        for (field, pause) in [("retry.backoff_min_ms", self.backoff_min), ("retry.backoff_max_ms", self.backoff_max)] {
            if !bounds.contains(&pause) {
                let (min, max) = (BACKOFF_MIN.as_millis(), BACKOFF_MAX.as_millis());
                return invalid(field, format!("{} is outside {min} to {max}", pause.as_millis()));
            }
        }
        if self.backoff_min > self.backoff_max {
            let (min, max) = (self.backoff_min.as_millis(), self.backoff_max.as_millis());
            return invalid("retry.backoff_min_ms", format!("{min} is above the longest pause, {max}"));
        }
        if !(1..=MAX_ATTEMPTS_MAX).contains(&self.max_attempts) {
            return invalid("retry.max_attempts", format!("{} is outside 1 to {MAX_ATTEMPTS_MAX}", self.max_attempts));
        }
        Ok(self)
    }
}

/// What a request says about retries; absent means "no opinion".
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct RetryOpinion {
    pub(crate) backoff_min: Option<Duration>,
    pub(crate) backoff_max: Option<Duration>,
    pub(crate) max_attempts: Option<u32>,
    pub(crate) on_exhausted: Option<OnExhausted>,
}

impl RetryOpinion {
    /// `policy`, changed to what is said here.
    ///
    /// # Errors
    /// [`GroupError::Invalid`].
    pub(crate) fn over(self, policy: RetryPolicy) -> Result<RetryPolicy, GroupError> {
        let backoff_min = self.backoff_min.unwrap_or(policy.backoff_min);
        RetryPolicy {
            backoff_min,
            // A shortest pause above the longest there was would otherwise need both to be named.
            backoff_max: self.backoff_max.unwrap_or(policy.backoff_max.max(backoff_min)),
            max_attempts: self.max_attempts.unwrap_or(policy.max_attempts),
            on_exhausted: self.on_exhausted.unwrap_or(policy.on_exhausted),
        }
        .checked()
    }
}

/// How often records have failed, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// At least 1.
    pub(crate) attempts: u32,
    pub(crate) first_error: Arc<str>,
    pub(crate) last_error: Arc<str>,
    /// Microseconds since the epoch.
    pub(crate) first_failed_us: i64,
    pub(crate) last_failed_us: i64,
}

impl Failure {
    /// After one attempt.
    pub(crate) fn first(error: &Arc<str>, now_us: i64) -> Self {
        Self {
            attempts: 1,
            first_error: Arc::clone(error),
            last_error: Arc::clone(error),
            first_failed_us: now_us,
            last_failed_us: now_us,
        }
    }

    /// Before any: of a record that waits for another one.
    pub(crate) fn none() -> Self {
        let error: Arc<str> = Arc::default();
        Self { attempts: 0, first_error: Arc::clone(&error), last_error: error, first_failed_us: 0, last_failed_us: 0 }
    }

    /// As [`none`](Self::none), since then.
    pub(crate) fn waiting(since_us: i64) -> Self {
        Self { first_failed_us: since_us, last_failed_us: since_us, ..Self::none() }
    }

    /// As [`none`](Self::none), where that one is not waited for any more.
    pub(crate) fn behind(now_us: i64) -> Self {
        let error: Arc<str> = "it was not tried: an earlier record of its key is a dead letter".into();
        Self { attempts: 0, ..Self::first(&error, now_us) }
    }

    /// After one more.
    pub(crate) fn again(&self, error: &Arc<str>, now_us: i64) -> Self {
        Self {
            attempts: self.attempts.saturating_add(1),
            last_error: Arc::clone(error),
            last_failed_us: now_us,
            ..self.clone()
        }
    }
}

/// What is kept of an error's text.
pub(crate) fn error_text(error: &str) -> Arc<str> {
    let mut end = error.len().min(ERROR_BYTES_MAX);
    while !error.is_char_boundary(end) {
        end -= 1;
    }
    error[..end].into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_are_scattered_over_their_upper_half() {
        let policy = RetryPolicy { backoff_max: Duration::from_secs(20), ..RetryPolicy::default() };
        for (attempts, whole) in [(1, 1), (2, 2), (3, 4), (4, 8), (5, 16), (6, 20), (40, 20), (u32::MAX, 20)] {
            let whole = Duration::from_secs(whole);
            let pauses: Vec<Duration> = (0..1000).map(|offset| policy.backoff(attempts, offset)).collect();
            assert!(pauses.iter().all(|pause| (whole / 2..=whole).contains(pause)), "{attempts}");
            let mean = pauses.iter().sum::<Duration>() / 1000;
            assert!((whole * 70 / 100..=whole * 80 / 100).contains(&mean), "{attempts}: {mean:?}");
        }
    }

    #[test]
    fn an_opinion_changes_only_what_it_names_and_is_checked_as_a_whole() {
        let policy = RetryPolicy::default();
        let raised = RetryOpinion { backoff_min: Some(Duration::from_secs(900)), ..RetryOpinion::default() };
        let raised = raised.over(policy).expect("the longest pause goes along");
        assert_eq!(raised.backoff_max, Duration::from_secs(900));
        let lowered = RetryOpinion { backoff_max: Some(Duration::from_millis(10)), ..RetryOpinion::default() };
        assert!(matches!(lowered.over(policy), Err(GroupError::Invalid { field: "retry.backoff_min_ms", .. })));
        let none = RetryOpinion { max_attempts: Some(0), ..RetryOpinion::default() };
        assert!(matches!(none.over(policy), Err(GroupError::Invalid { field: "retry.max_attempts", .. })));
    }

    #[test]
    fn an_error_text_is_cut_between_characters() {
        assert_eq!(error_text(&"é".repeat(200)).len(), 256);
        assert_eq!(error_text(&format!("x{}", "é".repeat(200))).len(), 255);
    }
}
