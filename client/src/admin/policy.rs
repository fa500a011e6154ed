//! The rules of a consumer group.

use std::{fmt, str::FromStr, time::Duration};

use aqueduct_proto::v1;

use super::hours::DeliveryHours;
use crate::types::{Start, UnknownName, millis};

/// How a group shares its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupMode {
    /// A partition belongs to one member.
    Ordered,
    /// Records are spread over members.
    Shared,
    /// Spread, but one key is with one member at a time and in order.
    Keyed,
}

impl GroupMode {
    fn from_proto(mode: v1::GroupMode) -> Option<Self> {
        match mode {
            v1::GroupMode::Unspecified => None,
            v1::GroupMode::Ordered => Some(Self::Ordered),
            v1::GroupMode::Shared => Some(Self::Shared),
            v1::GroupMode::Keyed => Some(Self::Keyed),
        }
    }
}

impl From<GroupMode> for v1::GroupMode {
    fn from(mode: GroupMode) -> Self {
        match mode {
            GroupMode::Ordered => Self::Ordered,
            GroupMode::Shared => Self::Shared,
            GroupMode::Keyed => Self::Keyed,
        }
    }
}

impl fmt::Display for GroupMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ordered => "ordered",
            Self::Shared => "shared",
            Self::Keyed => "keyed",
        })
    }
}

impl FromStr for GroupMode {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Self, UnknownName> {
        match name {
            "ordered" => Ok(Self::Ordered),
            "shared" => Ok(Self::Shared),
            "keyed" => Ok(Self::Keyed),
            other => Err(UnknownName { name: other.into(), expected: "ordered, shared or keyed" }),
        }
    }
}

/// The rules of a group. `None` is "no opinion": the broker's default when a group is made, what is in force when a
/// member joins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupPolicy {
    /// How its members share the work. Default: ordered.
    pub mode: Option<GroupMode>,
    /// Where a partition without a committed offset begins. Default: earliest.
    pub start: Option<Start>,
    /// A delivery that is not settled within this time is delivered again. Default: 30 s.
    pub ack_timeout: Option<Duration>,
    /// What happens to a record that could not be handled.
    pub retry: RetryPolicy,
    /// Within which hours it is delivered to. Default: always.
    pub hours: Option<DeliveryHours>,
}

/// What a group does with a record that could not be handled. `None` is "no opinion".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetryPolicy {
    /// The pause after the first failure; it doubles with every further one, and half of it is random. Default: 1 s.
    pub backoff_min: Option<Duration>,
    /// The longest pause. Default: 10 min.
    pub backoff_max: Option<Duration>,
    /// After so many failed attempts a record is not delivered again. Default: 5.
    pub max_attempts: Option<u32>,
    /// What becomes of it then. Default: it is parked.
    pub on_exhausted: Option<OnExhausted>,
}

/// What becomes of a record that has failed too often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnExhausted {
    /// It moves to the group's dead letters, and the group goes on behind it.
    Park,
    /// Its partition is not delivered further, so that nothing overtakes it.
    Halt,
    /// It moves to the group's dead letters, and so does everything of its key, in order, until all of that is redriven or
    /// discarded. For keyed groups.
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

impl From<RetryPolicy> for v1::RetryPolicy {
    fn from(retry: RetryPolicy) -> Self {
        let on_exhausted = match retry.on_exhausted {
            None => v1::OnExhausted::Unspecified,
            Some(OnExhausted::Park) => v1::OnExhausted::Park,
            Some(OnExhausted::Halt) => v1::OnExhausted::Halt,
            Some(OnExhausted::ParkKey) => v1::OnExhausted::ParkKey,
        };
        Self {
            // 0 would be "no opinion".
            backoff_min_ms: retry.backoff_min.map_or(0, |pause| millis(pause).max(1)),
            backoff_max_ms: retry.backoff_max.map_or(0, |pause| millis(pause).max(1)),
            max_attempts: retry.max_attempts.unwrap_or(0),
            on_exhausted: on_exhausted.into(),
        }
    }
}

impl From<v1::RetryPolicy> for RetryPolicy {
    fn from(retry: v1::RetryPolicy) -> Self {
        let pause = |ms: u32| (ms > 0).then(|| Duration::from_millis(ms.into()));
        Self {
            backoff_min: pause(retry.backoff_min_ms),
            backoff_max: pause(retry.backoff_max_ms),
            max_attempts: Some(retry.max_attempts).filter(|attempts| *attempts > 0),
            on_exhausted: match retry.on_exhausted() {
                v1::OnExhausted::Unspecified => None,
                v1::OnExhausted::Park => Some(OnExhausted::Park),
                v1::OnExhausted::Halt => Some(OnExhausted::Halt),
                v1::OnExhausted::ParkKey => Some(OnExhausted::ParkKey),
            },
        }
    }
}

impl From<GroupPolicy> for v1::GroupPolicy {
    fn from(policy: GroupPolicy) -> Self {
        Self {
            mode: policy.mode.map_or(v1::GroupMode::Unspecified, Into::into).into(),
            start: policy.start.map(Into::into),
            ack_timeout_ms: policy.ack_timeout.map_or(0, millis),
            retry: Some(policy.retry.into()),
            hours: policy.hours.map(Into::into),
        }
    }
}

impl From<v1::GroupPolicy> for GroupPolicy {
    fn from(policy: v1::GroupPolicy) -> Self {
        let ack_timeout = Some(policy.ack_timeout_ms).filter(|timeout| *timeout != 0);
        Self {
            mode: GroupMode::from_proto(policy.mode()),
            hours: policy.hours.as_ref().map(DeliveryHours::from_proto),
            start: policy.start.as_ref().and_then(Start::from_proto),
            ack_timeout: ack_timeout.map(|timeout| Duration::from_millis(timeout.into())),
            retry: policy.retry.map(RetryPolicy::from).unwrap_or_default(),
        }
    }
}
