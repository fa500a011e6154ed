//! A group's policy, and what a member may say about it.

use std::{fmt, time::Duration};

use aqueduct_storage::{Offset, Window};

use super::{
    error::GroupError,
    hours::DeliveryHours,
    retry::{OnExhausted, RetryOpinion, RetryPolicy},
};

/// Used when a group is made without one.
pub(crate) const ACK_TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);
/// Shorter time-outs would redeliver what is still on its way.
pub(crate) const ACK_TIMEOUT_MIN: Duration = Duration::from_millis(100);
/// Longer ones would hold a partition for ever.
pub(crate) const ACK_TIMEOUT_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// How records are spread over members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// A partition belongs to one member.
    Ordered,
    /// Records are spread over members.
    Shared,
    /// Spread, but one key is with one member at a time.
    Keyed,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ordered => "ordered",
            Self::Shared => "shared",
            Self::Keyed => "keyed",
        })
    }
}

/// A place in a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StartAt {
    /// The log start offset.
    Earliest,
    /// The high watermark.
    Latest,
    /// That one.
    Offset(Offset),
    /// The first offset appended at or after this time, in microseconds since the epoch.
    TimeUs(i64),
}

impl StartAt {
    /// The offset, if the window alone tells it.
    ///
    /// # Errors
    /// [`GroupError::OutOfRange`] for an offset outside the window.
    pub(crate) fn resolve(self, partition: u32, window: Window) -> Result<Resolved, GroupError> {
        match self {
            Self::Earliest => Ok(Resolved::Offset(window.log_start)),
            Self::Latest => Ok(Resolved::Offset(window.high_watermark)),
            Self::Offset(offset) => in_window(partition, offset, window).map(Resolved::Offset),
            Self::TimeUs(time_us) => Ok(Resolved::FirstSince(time_us)),
        }
    }
}

/// What a [`StartAt`] comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resolved {
    /// This offset.
    Offset(Offset),
    /// The log has to be asked.
    FirstSince(i64),
}

/// `offset`, if a reader may stand there.
///
/// # Errors
/// [`GroupError::OutOfRange`].
pub(crate) fn in_window(partition: u32, offset: Offset, window: Window) -> Result<Offset, GroupError> {
    let Window { log_start, high_watermark } = window;
    if (log_start..=high_watermark).contains(&offset) {
        return Ok(offset);
    }
    Err(GroupError::OutOfRange { partition, offset, log_start, high_watermark })
}

impl fmt::Display for StartAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Earliest => f.write_str("earliest"),
            Self::Latest => f.write_str("latest"),
            Self::Offset(offset) => write!(f, "offset {offset}"),
            Self::TimeUs(time_us) => write!(f, "time {time_us} us"),
        }
    }
}

/// Belongs to the group, not to a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Policy {
    pub(crate) mode: Mode,
    /// Where a partition without a committed offset begins.
    pub(crate) start: StartAt,
    /// A delivery that is not settled within this time is delivered again.
    pub(crate) ack_timeout: Duration,
    pub(crate) retry: RetryPolicy,
    /// Within which it is delivered to.
    pub(crate) hours: DeliveryHours,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            mode: Mode::Ordered,
            start: StartAt::Earliest,
            ack_timeout: ACK_TIMEOUT_DEFAULT,
            retry: RetryPolicy::default(),
            hours: DeliveryHours::default(),
        }
    }
}

/// What a request says about a policy; absent means "no opinion".
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct PolicyOpinion {
    pub(crate) mode: Option<Mode>,
    pub(crate) start: Option<StartAt>,
    pub(crate) ack_timeout: Option<Duration>,
    pub(crate) retry: RetryOpinion,
    pub(crate) hours: Option<DeliveryHours>,
}

impl PolicyOpinion {
    /// The policy of a group that is made with this opinion.
    ///
    /// # Errors
    /// [`GroupError::Invalid`].
    pub(crate) fn into_policy(self) -> Result<Policy, GroupError> {
        self.over(&Policy::default())
    }

    /// `policy`, changed to what is said here.
    ///
    /// # Errors
    /// [`GroupError::Invalid`].
    pub(crate) fn over(self, policy: &Policy) -> Result<Policy, GroupError> {
        let policy = Policy {
            mode: self.mode.unwrap_or(policy.mode),
            start: self.start.unwrap_or(policy.start),
            ack_timeout: self.ack_timeout.unwrap_or(policy.ack_timeout),
            retry: self.retry.over(policy.retry)?,
            hours: self.hours.unwrap_or(policy.hours),
        };
        let misplaced = match (policy.retry.on_exhausted, policy.mode) {
            (OnExhausted::Park, _) | (OnExhausted::Halt, Mode::Ordered) | (OnExhausted::ParkKey, Mode::Keyed) => None,
            // A record that failed would hold others up.
            (OnExhausted::Halt, Mode::Shared | Mode::Keyed) => {
                Some("halt needs mode ordered; where records are settled each by itself, they can only park")
            }
            (OnExhausted::ParkKey, Mode::Ordered | Mode::Shared) => {
                Some("park-key needs mode keyed; elsewhere a key has no order of its own to keep")
            }
        };
        if let Some(reason) = misplaced {
            return Err(GroupError::Invalid { field: "retry.on_exhausted", reason: reason.to_owned() });
        }
        if !(ACK_TIMEOUT_MIN..=ACK_TIMEOUT_MAX).contains(&policy.ack_timeout) {
            return Err(GroupError::Invalid {
                field: "ack_timeout_ms",
                reason: format!(
                    "{} is outside {} to {}",
                    policy.ack_timeout.as_millis(),
                    ACK_TIMEOUT_MIN.as_millis(),
                    ACK_TIMEOUT_MAX.as_millis()
                ),
            });
        }
        Ok(policy)
    }

    /// Whether a member with this opinion fits into `group`.
    ///
    /// # Errors
    /// [`GroupError::PolicyDisagrees`] names the first field that differs.
    pub(crate) fn check(self, group: &str, policy: &Policy) -> Result<(), GroupError> {
        let disagrees = |field, has: String, wanted: String| {
            Err(GroupError::PolicyDisagrees { group: group.to_owned(), field, has, wanted })
        };
        if let Some(mode) = self.mode.filter(|mode| *mode != policy.mode) {
            return disagrees("mode", policy.mode.to_string(), mode.to_string());
        }
        if let Some(start) = self.start.filter(|start| *start != policy.start) {
            return disagrees("start", policy.start.to_string(), start.to_string());
        }
        let in_ms = |time: Duration| format!("{} ms", time.as_millis());
        if let Some(timeout) = self.ack_timeout.filter(|timeout| *timeout != policy.ack_timeout) {
            return disagrees("ack_timeout_ms", in_ms(policy.ack_timeout), in_ms(timeout));
        }
        let has = policy.retry;
        let wants = self.retry;
        let pauses = [
            ("retry.backoff_min_ms", wants.backoff_min, has.backoff_min),
            ("retry.backoff_max_ms", wants.backoff_max, has.backoff_max),
        ];
        for (field, wanted, has) in pauses {
            if let Some(wanted) = wanted.filter(|wanted| *wanted != has) {
                return disagrees(field, in_ms(has), in_ms(wanted));
            }
        }
        if let Some(attempts) = wants.max_attempts.filter(|attempts| *attempts != has.max_attempts) {
            return disagrees("retry.max_attempts", has.max_attempts.to_string(), attempts.to_string());
        }
        if let Some(hours) = self.hours.filter(|hours| *hours != policy.hours) {
            return disagrees("hours", policy.hours.to_string(), hours.to_string());
        }
        if let Some(then) = wants.on_exhausted.filter(|then| *then != has.on_exhausted) {
            return disagrees("retry.on_exhausted", has.on_exhausted.to_string(), then.to_string());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_starts_ordered_at_earliest_unless_told_otherwise() {
        let policy = PolicyOpinion::default().into_policy();
        let expected = Policy {
            mode: Mode::Ordered,
            start: StartAt::Earliest,
            ack_timeout: ACK_TIMEOUT_DEFAULT,
            ..Policy::default()
        };
        assert_eq!(policy, Ok(expected));
    }

    #[test]
    fn partitions_halt_only_where_they_are_in_order_and_keys_are_parked_only_where_they_are() {
        for (mode, then, is_legal) in [
            (Mode::Ordered, OnExhausted::Halt, true),
            (Mode::Shared, OnExhausted::Halt, false),
            (Mode::Keyed, OnExhausted::Halt, false),
            (Mode::Ordered, OnExhausted::ParkKey, false),
            (Mode::Shared, OnExhausted::ParkKey, false),
            (Mode::Keyed, OnExhausted::ParkKey, true),
        ] {
            let retry = RetryOpinion { on_exhausted: Some(then), ..RetryOpinion::default() };
            let opinion = PolicyOpinion { mode: Some(mode), retry, ..PolicyOpinion::default() };
            match opinion.into_policy() {
                Ok(_) => assert!(is_legal, "{mode}, {then}"),
                Err(error) => {
                    assert!(!is_legal, "{mode}, {then}");
                    assert!(matches!(error, GroupError::Invalid { field: "retry.on_exhausted", .. }));
                }
            }
        }
    }

    #[test]
    fn a_member_may_be_silent_or_agree_but_not_differ() {
        let policy = PolicyOpinion::default().into_policy().expect("the defaults are legal");
        let agreeing = PolicyOpinion { start: Some(StartAt::Earliest), ..PolicyOpinion::default() };
        let differing = PolicyOpinion { ack_timeout: Some(Duration::from_secs(1)), ..PolicyOpinion::default() };
        assert_eq!(PolicyOpinion::default().check("g", &policy), Ok(()));
        assert_eq!(agreeing.check("g", &policy), Ok(()));
        let refused = differing.check("g", &policy);
        assert!(matches!(refused, Err(GroupError::PolicyDisagrees { field: "ack_timeout_ms", .. })), "{refused:?}");
    }
}
