//! Settings of a consumer.

use std::{sync::Arc, time::Duration};

use aqueduct_proto::v1;
use tokio::{
    sync::oneshot,
    time::{Instant, timeout},
};

use super::{Consumer, driver::Driver, pace::Pace, shared::Shared};
use crate::{
    admin::{GroupMode, GroupPolicy, RetryPolicy},
    client::Client,
    error::{ConsumeError, RequestError},
    types::{Start, millis},
};

/// Builds a [`Consumer`].
#[derive(Clone, Debug)]
#[must_use]
pub struct ConsumerBuilder {
    client: Client,
    topic: String,
    group: String,
    member_name: String,
    keep: Duration,
    policy: GroupPolicy,
    prefetch: v1::Credit,
    rate: Option<f64>,
}

impl ConsumerBuilder {
    pub(crate) fn new(client: Client, topic: String, group: String) -> Self {
        let prefetch = v1::Credit { bytes: 4 * 1024 * 1024, records: 4096 };
        let (member_name, policy) = (String::new(), GroupPolicy::default());
        Self { client, topic, group, member_name, keep: Duration::ZERO, policy, prefetch, rate: None }
    }

    /// Shown by `describe` and `lag`. Default: none.
    pub fn member_name(mut self, name: impl Into<String>) -> Self {
        self.member_name = name.into();
        self
    }

    /// A name that stands for the same member over restarts: when this one has gone, however it did, its partitions wait so
    /// long for a member of the same name, and no others move. At most 10 minutes; zero makes it a name like any other.
    ///
    /// Of two members with the same static name the newer one takes over, and the other one ends with an error.
    pub fn static_member(mut self, name: impl Into<String>, keep: Duration) -> Self {
        self.member_name = name.into();
        self.keep = keep;
        self
    }

    /// The group's rules, if this member makes the group; else they must agree with what is in force. Default: no opinion.
    pub fn policy(mut self, policy: GroupPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// How the members share the work. Default: no opinion, which makes an ordered group.
    pub fn mode(mut self, mode: GroupMode) -> Self {
        self.policy.mode = Some(mode);
        self
    }

    /// Where a partition without a committed offset begins. Default: no opinion, which makes it earliest.
    pub fn start(mut self, start: Start) -> Self {
        self.policy.start = Some(start);
        self
    }

    /// A delivery that is not settled within this time is delivered again. Default: no opinion, which makes it 30 s.
    pub fn ack_timeout(mut self, timeout: Duration) -> Self {
        self.policy.ack_timeout = Some(timeout);
        self
    }

    /// What happens to a record that could not be handled. Default: no opinion, which makes it five attempts with pauses
    /// from 1 s to 10 min, and then the dead letters.
    pub fn retry(mut self, retry: RetryPolicy) -> Self {
        self.policy.retry = retry;
        self
    }

    /// Bytes that may wait here to be handed out; a single batch may be larger. Default: 4 MiB; at least 1.
    pub fn prefetch_bytes(mut self, bytes: u64) -> Self {
        self.prefetch.bytes = bytes.max(1);
        self
    }

    /// Records that may wait here to be handed out. Default: 4,096; at least 1.
    pub fn prefetch_records(mut self, records: u64) -> Self {
        self.prefetch.records = records.max(1);
        self
    }

    /// How many records a second are handed out; see [`ConsumerControl::rate_limit`](super::ConsumerControl::rate_limit).
    /// Default: as many as there are.
    pub fn rate_limit(mut self, records_per_second: impl Into<Option<f64>>) -> Self {
        self.rate = records_per_second.into();
        self
    }

    /// Joins the group.
    ///
    /// # Errors
    /// [`ConsumeError`]: unknown topic, rules that disagree with the group's, or no answer.
    pub async fn build(self) -> Result<Consumer, ConsumeError> {
        let lifecycle = self.client.lifecycle().clone();
        if lifecycle.is_closing() {
            return Err(RequestError::Closed.into());
        }
        let join = v1::Join {
            group: self.group,
            topic: self.topic.clone(),
            member_name: self.member_name,
            // 0 would be a name like any other.
            keep_ms: if self.keep.is_zero() { 0 } else { millis(self.keep).max(1) },
            policy: Some(self.policy.into()),
            credit: Some(self.prefetch),
            ..v1::Join::default()
        };
        let link = self.client.read_link().clone();
        let after = link.request_timeout();
        let mut pace = Pace::default();
        pace.set_rate(self.rate, Instant::now());
        let shared = Arc::new(Shared::new(self.topic.as_str().into(), join, pace));
        let (first_join, joined) = oneshot::channel();
        let running = lifecycle.running();
        let driver = Driver { shared: Arc::clone(&shared), link, lifecycle, first_join: Some(first_join) };
        tokio::spawn(driver.run(running));
        // Dropped on the way, the consumer takes the driver with it.
        let consumer = Consumer::new(shared);
        match timeout(after, joined).await {
            Ok(Ok(Ok(()))) => Ok(consumer),
            Ok(Ok(Err(error))) => Err(error.into()),
            Ok(Err(_)) => Err(RequestError::Closed.into()),
            Err(_) => Err(RequestError::TimedOut { after }.into()),
        }
    }
}
