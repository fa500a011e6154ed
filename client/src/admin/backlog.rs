//! Publishers that wait, or are refused, while a group is too far behind.

use std::{fmt, time::Duration};

use aqueduct_proto::v1;

use crate::types::Timestamp;

/// What happens to publishers of a topic while a group has more unread than it may: from when one of the bounds is
/// reached until everything is at 90 % or less. Records and bytes are those of all partitions together.
///
/// Members of the group itself never wait: they are refused, so that a consumer may publish to the topic it reads.
///
/// ```
/// # use aqueduct_client::Backlog;
/// # use std::time::Duration;
/// let backlog = Backlog::hold("billing").records(1_000_000).age(Duration::from_secs(3600));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Backlog {
    /// Whether publishers wait.
    pub mode: BacklogMode,
    /// Need not exist: then it holds nobody.
    pub group: String,
    /// So many unread records.
    pub records: Option<u64>,
    /// So many unread bytes, as stored.
    pub bytes: Option<u64>,
    /// So old an unread record.
    pub age: Option<Duration>,
}

/// See [`Backlog`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BacklogMode {
    /// Publishers wait.
    Hold,
    /// Publishers are refused at once.
    Reject,
}

impl fmt::Display for BacklogMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Hold => "hold",
            Self::Reject => "reject",
        })
    }
}

impl Backlog {
    /// Publishers wait for `group`. Needs at least one bound.
    pub fn hold(group: impl Into<String>) -> Self {
        Self { mode: BacklogMode::Hold, group: group.into(), records: None, bytes: None, age: None }
    }

    /// Publishers are refused because of `group`. Needs at least one bound.
    pub fn reject(group: impl Into<String>) -> Self {
        Self { mode: BacklogMode::Reject, ..Self::hold(group) }
    }

    /// At least 1.
    pub fn records(mut self, records: u64) -> Self {
        self.records = Some(records);
        self
    }

    /// At least 1.
    pub fn bytes(mut self, bytes: u64) -> Self {
        self.bytes = Some(bytes);
        self
    }

    /// In whole milliseconds; at least 1 ms.
    pub fn age(mut self, age: Duration) -> Self {
        self.age = Some(age);
        self
    }

    /// `None` for a backlog that is off, or of a kind that this client does not know.
    pub(super) fn from_proto(backlog: v1::Backlog) -> Option<Self> {
        let mode = match backlog.mode() {
            v1::BacklogMode::Hold => BacklogMode::Hold,
            v1::BacklogMode::Reject => BacklogMode::Reject,
            v1::BacklogMode::Unspecified | v1::BacklogMode::None => return None,
        };
        Some(Self {
            mode,
            group: backlog.group,
            records: backlog.max_records,
            bytes: backlog.max_bytes,
            age: backlog.max_ms.map(Duration::from_millis),
        })
    }
}

impl From<Backlog> for v1::Backlog {
    fn from(backlog: Backlog) -> Self {
        let mode = match backlog.mode {
            BacklogMode::Hold => v1::BacklogMode::Hold,
            BacklogMode::Reject => v1::BacklogMode::Reject,
        };
        Self {
            mode: mode.into(),
            group: backlog.group,
            max_records: backlog.records,
            max_bytes: backlog.bytes,
            max_ms: backlog.age.map(super::topics::age_millis),
            group_unknown: false,
        }
    }
}

/// Switches a backlog off.
pub(super) fn none() -> v1::Backlog {
    v1::Backlog { mode: v1::BacklogMode::None.into(), ..v1::Backlog::default() }
}

/// What holds publishers of a topic now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublisherHold {
    /// Whose publishers.
    pub topic: String,
    /// For programs: `GROUP_BACKLOG`, `TOPIC_BUDGET`.
    pub reason: String,
    /// The limit or the group.
    pub culprit: String,
    /// Since when.
    pub since: Timestamp,
    /// Requests that wait now.
    pub waiting: u32,
    /// With `GROUP_BACKLOG`: which group, and how far it is behind.
    pub group: Option<GroupBehind>,
}

/// How far a group is behind in a whole topic, as of when the broker last looked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupBehind {
    /// The group.
    pub group: String,
    /// Unread records.
    pub records: u64,
    /// Unread bytes, as stored.
    pub bytes: u64,
    /// Age of the oldest unread record.
    pub age: Duration,
}

impl From<v1::PublisherHold> for PublisherHold {
    fn from(hold: v1::PublisherHold) -> Self {
        let age = Duration::try_from_secs_f64(hold.lag_seconds).unwrap_or_default();
        let behind = GroupBehind { group: hold.group, records: hold.lag_records, bytes: hold.lag_bytes, age };
        Self {
            topic: hold.topic,
            reason: hold.reason,
            culprit: hold.culprit,
            since: Timestamp::from_micros(hold.since_us),
            waiting: hold.waiting,
            group: Some(behind).filter(|behind| !behind.group.is_empty()),
        }
    }
}
