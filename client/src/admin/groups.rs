//! Consumer groups, from outside.

use std::time::Duration;

use aqueduct_proto::v1;

use super::{
    backlog::PublisherHold,
    hours::DeliveryHours,
    lag::{LagWatch, PartitionLag},
    letters::{self, DeadLettersInfo},
    policy::{GroupPolicy, RetryPolicy},
    trouble::{PartitionWait, TakenOutMember, WaitingRetries},
};
use crate::{
    error::RequestError,
    transport::link::Link,
    types::{Offset, Start, Timestamp, millis},
};

/// A group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupInfo {
    /// Its name.
    pub name: String,
    /// Its rules.
    pub policy: GroupPolicy,
    /// Since when it exists.
    pub created: Timestamp,
    /// Topics in which it has a position or a member.
    pub topics: Vec<String>,
    /// Active members.
    pub members: u32,
}

/// A group, its members and its lag.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupDescription {
    /// The group.
    pub group: GroupInfo,
    /// Its members.
    pub members: Vec<Member>,
    /// Per topic and partition.
    pub lag: Vec<PartitionLag>,
    /// Records that have failed and are not handled yet.
    pub failed: Vec<FailedRecords>,
    /// Until when nothing is delivered, because of the group's hours; `None`: they are now.
    pub closed_until: Option<Timestamp>,
    /// Publishers that it holds, because it is too far behind in their topics.
    pub holds: Vec<PublisherHold>,
    /// Partitions that are not delivered further for now, and why.
    pub waits: Vec<PartitionWait>,
    /// Records that have left the way of the others, and that it tries again.
    pub retries: Vec<WaitingRetries>,
    /// Members whose streams the broker has ended because of what they did: the last few since it started, the oldest first.
    pub taken_out: Vec<TakenOutMember>,
}

/// Neighbouring records that have failed together and are not handled yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedRecords {
    /// Where they are.
    pub topic: String,
    /// Their partition.
    pub partition: u32,
    /// The first one.
    pub from: Offset,
    /// One past the last one.
    pub to: Offset,
    /// How often each was tried.
    pub attempts: u32,
    /// What the first attempt ended with; at most 256 bytes.
    pub first_error: String,
    /// What the last attempt ended with; at most 256 bytes.
    pub last_error: String,
    /// When the first attempt ended, by the broker's clock.
    pub first_failed: Timestamp,
    /// When the last attempt ended, by the broker's clock.
    pub last_failed: Timestamp,
}

/// A member of a group: it is there, or its partitions wait for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Given by the broker.
    pub id: u64,
    /// Given by the client; may be empty.
    pub name: String,
    /// The topic that it consumes.
    pub topic: String,
    /// What it has.
    pub partitions: Vec<u32>,
    /// Revoked, but with deliveries still open.
    pub leaving_partitions: Vec<u32>,
    /// Delivered to it and not settled.
    pub open_records: u64,
    /// Since when it is a member.
    pub joined: Timestamp,
    /// Its deliveries that ran into the ack time-out.
    pub timeouts: u64,
    /// Records that have moved to the dead letters while it had them.
    pub parked: u64,
    /// When it settled something last.
    pub last_settled: Option<Timestamp>,
    /// Since when it settles nothing, although deliveries have run into the ack time-out.
    pub stalled_since: Option<Timestamp>,
    /// How long its partitions wait for it when it has gone.
    pub keep: Duration,
    /// It has gone, and its partitions wait until then; `None`: it is there.
    pub away_until: Option<Timestamp>,
}

/// What a reset does to one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionReset {
    /// Which partition.
    pub partition: u32,
    /// The committed offset before.
    pub from_offset: Offset,
    /// The committed offset after.
    pub to_offset: Offset,
}

fn read_group(group: Option<v1::Group>) -> Result<GroupInfo, RequestError> {
    let group = group.ok_or_else(|| RequestError::malformed("an answer without its group"))?;
    Ok(GroupInfo {
        name: group.name,
        policy: group.policy.unwrap_or_default().into(),
        created: Timestamp::from_micros(group.created_us),
        topics: group.topics,
        members: group.members,
    })
}

fn read_member(member: v1::Member) -> Member {
    let time = |time_us: i64| (time_us != 0).then(|| Timestamp::from_micros(time_us));
    Member {
        id: member.id,
        name: member.name,
        topic: member.topic,
        partitions: member.partitions,
        leaving_partitions: member.leaving_partitions,
        open_records: member.open_records,
        joined: Timestamp::from_micros(member.joined_us),
        timeouts: member.timeouts,
        parked: member.parked,
        last_settled: time(member.last_settled_us),
        stalled_since: time(member.stalled_since_us),
        keep: Duration::from_millis(member.keep_ms.into()),
        away_until: time(member.away_until_us),
    }
}

fn read_failed(failed: v1::FailedRecords) -> FailedRecords {
    let offsets = failed.offsets.unwrap_or_default();
    FailedRecords {
        topic: failed.topic,
        partition: failed.partition,
        from: offsets.from,
        to: offsets.to,
        attempts: failed.attempts,
        first_error: failed.first_error,
        last_error: failed.last_error,
        first_failed: Timestamp::from_micros(failed.first_failed_us),
        last_failed: Timestamp::from_micros(failed.last_failed_us),
    }
}

/// The groups of a broker.
#[derive(Clone, Debug)]
pub struct Groups {
    link: Link,
}

impl Groups {
    pub(crate) fn new(link: Link) -> Self {
        Self { link }
    }

    /// All groups.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn list(&self) -> Result<Vec<GroupInfo>, RequestError> {
        let ask = || {
            let mut groups = self.link.groups();
            async move { groups.list(v1::ListGroupsRequest {}).await }
        };
        self.link.read(ask).await?.groups.into_iter().map(|group| read_group(Some(group))).collect()
    }

    /// The dead letters of all groups on all topics.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn dead_letters(&self) -> Result<Vec<DeadLettersInfo>, RequestError> {
        Ok(letters::list(&self.link, "", "").await?.into_iter().map(letters::info).collect())
    }

    /// The lag of all groups in all topics.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn lag(&self) -> Result<Vec<PartitionLag>, RequestError> {
        LagWatch::once(&self.link, v1::WatchLagRequest::default()).await
    }

    /// The lag of all groups in all topics, now and at every `interval`.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn watch_lag(&self, interval: Duration) -> Result<LagWatch, RequestError> {
        let request = v1::WatchLagRequest { interval_ms: millis(interval).max(1), ..v1::WatchLagRequest::default() };
        LagWatch::open(&self.link, request).await
    }
}

/// One group, whether it exists or not.
#[derive(Clone, Debug)]
pub struct Group {
    link: Link,
    name: String,
}

impl Group {
    pub(crate) fn new(link: Link, name: String) -> Self {
        Self { link, name }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Makes it.
    ///
    /// # Errors
    /// [`RequestError`]; `ALREADY_EXISTS` if there is one.
    pub async fn create(&self, policy: GroupPolicy) -> Result<GroupInfo, RequestError> {
        let mut groups = self.link.groups();
        let request = v1::CreateGroupRequest { group: self.name.clone(), policy: Some(policy.into()) };
        read_group(self.link.unary(async move { groups.create(request).await }).await?.group)
    }

    /// Changes its rules, once the changes are complete; members that are there follow them at once.
    pub fn alter(&self) -> AlterGroup {
        let request = v1::AlterGroupRequest { group: self.name.clone(), ..v1::AlterGroupRequest::default() };
        AlterGroup { link: self.link.clone(), request }
    }

    /// Its rules, members and lag.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn describe(&self) -> Result<GroupDescription, RequestError> {
        let ask = || {
            let (mut groups, group) = (self.link.groups(), self.name.clone());
            async move { groups.describe(v1::DescribeGroupRequest { group }).await }
        };
        let answer = self.link.read(ask).await?;
        Ok(GroupDescription {
            group: read_group(answer.group)?,
            members: answer.members.into_iter().map(read_member).collect(),
            lag: answer.lag.into_iter().map(PartitionLag::from).collect(),
            failed: answer.failed.into_iter().map(read_failed).collect(),
            closed_until: (answer.closed_until_us != 0).then(|| Timestamp::from_micros(answer.closed_until_us)),
            holds: answer.holds.into_iter().map(PublisherHold::from).collect(),
            waits: answer.waits.into_iter().map(PartitionWait::from).collect(),
            retries: answer.retries.into_iter().map(WaitingRetries::from).collect(),
            taken_out: answer.taken_out.into_iter().map(TakenOutMember::from).collect(),
        })
    }

    /// Its lag in `topic`: records, bytes and seconds, per partition.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn lag(&self, topic: &str) -> Result<Vec<PartitionLag>, RequestError> {
        LagWatch::once(&self.link, self.lag_request(Some(topic), 0)).await
    }

    /// Its lag, now and at every `interval`; in one topic, or in all of them.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn watch_lag(&self, topic: Option<&str>, interval: Duration) -> Result<LagWatch, RequestError> {
        LagWatch::open(&self.link, self.lag_request(topic, millis(interval).max(1))).await
    }

    fn lag_request(&self, topic: Option<&str>, interval_ms: u32) -> v1::WatchLagRequest {
        v1::WatchLagRequest { group: self.name.clone(), topic: topic.unwrap_or_default().to_owned(), interval_ms }
    }

    /// Moves committed offsets forward; refused while members are active.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn commit(
        &self,
        topic: &str,
        offsets: impl IntoIterator<Item = (u32, Offset)>,
    ) -> Result<(), RequestError> {
        let offsets = offsets.into_iter().map(|(partition, offset)| v1::PartitionOffset { partition, offset });
        let request = v1::CommitRequest {
            group: self.name.clone(),
            topic: topic.to_owned(),
            topic_id: bytes::Bytes::new(),
            offsets: offsets.collect(),
        };
        let mut groups = self.link.groups();
        self.link.unary(async move { groups.commit(request).await }).await.map(drop)
    }

    /// Moves committed offsets anywhere, once it is said where to; refused while members are active.
    pub fn reset(&self, topic: impl Into<String>) -> ResetGroup {
        let request = v1::ResetGroupRequest {
            group: self.name.clone(),
            topic: topic.into(),
            to: Some(v1::reset_group_request::To::Start(Start::Earliest.into())),
            ..v1::ResetGroupRequest::default()
        };
        ResetGroup { link: self.link.clone(), request }
    }

    /// Removes it and its offsets; refused while members are active.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn delete(&self) -> Result<(), RequestError> {
        let mut groups = self.link.groups();
        let request = v1::DeleteGroupRequest { group: self.name.clone() };
        self.link.unary(async move { groups.delete(request).await }).await.map(drop)
    }
}

/// Changes a group; what is not mentioned stays.
#[derive(Clone, Debug)]
#[must_use]
pub struct AlterGroup {
    link: Link,
    request: v1::AlterGroupRequest,
}

impl AlterGroup {
    /// A delivery that is not settled within this time is delivered again.
    pub fn ack_timeout(mut self, timeout: Duration) -> Self {
        self.request.ack_timeout_ms = Some(millis(timeout));
        self
    }

    /// Where a partition without a committed offset begins.
    pub fn start(mut self, start: Start) -> Self {
        self.request.start = Some(start.into());
        self
    }

    /// What happens to a record that could not be handled, as far as it has an opinion.
    pub fn retry(mut self, retry: RetryPolicy) -> Self {
        self.request.retry = Some(retry.into());
        self
    }

    /// Within which hours it is delivered to; in force at once, for members that are there, too.
    pub fn hours(mut self, hours: DeliveryHours) -> Self {
        self.request.hours = Some(hours.into());
        self
    }

    /// Changes the group.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn build(self) -> Result<GroupInfo, RequestError> {
        let mut groups = self.link.groups();
        let request = self.request;
        read_group(self.link.unary(async move { groups.alter(request).await }).await?.group)
    }
}

/// Moves the committed offsets of a group. Default: to the earliest offset, in all partitions.
#[derive(Clone, Debug)]
#[must_use]
pub struct ResetGroup {
    link: Link,
    request: v1::ResetGroupRequest,
}

impl ResetGroup {
    /// To this place.
    pub fn to(mut self, start: Start) -> Self {
        self.request.to = Some(v1::reset_group_request::To::Start(start.into()));
        self
    }

    /// By this many offsets, kept within the log.
    pub fn shift(mut self, offsets: i64) -> Self {
        self.request.to = Some(v1::reset_group_request::To::Shift(offsets));
        self
    }

    /// Only these partitions.
    pub fn partitions(mut self, partitions: impl IntoIterator<Item = u32>) -> Self {
        self.request.partitions = partitions.into_iter().collect();
        self
    }

    /// Say what would change, and change nothing.
    pub fn dry_run(mut self) -> Self {
        self.request.dry_run = true;
        self
    }

    /// Moves them.
    ///
    /// # Errors
    /// [`RequestError`]; `FAILED_PRECONDITION` while members are active.
    pub async fn build(self) -> Result<Vec<PartitionReset>, RequestError> {
        let mut groups = self.link.groups();
        let request = self.request;
        let answer = self.link.unary(async move { groups.reset(request).await }).await?;
        let reset = |reset: v1::PartitionReset| PartitionReset {
            partition: reset.partition,
            from_offset: reset.from_offset,
            to_offset: reset.to_offset,
        };
        Ok(answer.partitions.into_iter().map(reset).collect())
    }
}
