//! How far groups are behind.

use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use aqueduct_proto::v1;
use futures_core::Stream;
use tonic::Streaming;

use crate::{
    error::{BrokerError, RequestError},
    transport::link::Link,
    types::{Offset, Timestamp, TopicId},
};

/// How far one group is behind in one partition.
#[derive(Clone, Debug, PartialEq)]
pub struct PartitionLag {
    /// The group.
    pub group: String,
    /// The topic's name.
    pub topic: String,
    /// The topic's identity, if the broker says it.
    pub topic_id: Option<TopicId>,
    /// The partition.
    pub partition: u32,
    /// First readable offset (inclusive).
    pub log_start_offset: Offset,
    /// The next offset that the group will be given.
    pub committed_offset: Offset,
    /// First offset readers may not see (exclusive).
    pub high_watermark: Offset,
    /// Unread records.
    pub lag_records: u64,
    /// Unread bytes as stored, to the granularity of the offset index.
    pub lag_bytes: u64,
    /// Age of the oldest unread record by the broker's clock; 0 without lag.
    pub lag_seconds: f64,
    /// The member that has this partition.
    pub member: Option<String>,
    /// Since when publishers of the topic are held because this group is too far behind; `None`: they are not.
    pub holds_publishers_since: Option<Timestamp>,
    /// Where that leads.
    pub forecast: LagForecast,
}

impl PartitionLag {
    /// Records that are gone before the group has read them. They count as lag until the group goes on behind them.
    pub fn lost_records(&self) -> u64 {
        self.log_start_offset.saturating_sub(self.committed_offset)
    }
}

/// How lag moves, as the broker measures it about every second; the last 20 seconds count most. A broker that has just
/// started does not know it yet.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LagForecast {
    /// Records per second that are appended to the partition.
    pub rate_in: Option<f64>,
    /// Records per second by which the committed offset moves on.
    pub rate_out: Option<f64>,
    /// Stored bytes per second that are appended to the partition.
    pub bytes_in: Option<f64>,
    /// Until nothing is unread, at these rates; zero if nothing is. `None` if it is not known, or
    /// [never](Self::falls_behind).
    pub catch_up: Option<Duration>,
    /// Until retention may remove the oldest unread record: never later than it does, and up to a segment earlier. By
    /// bytes it supposes that as much goes on coming in. `None` if it leaves it, or nothing is unread.
    pub retention_loss: Option<Duration>,
    /// Which limit of the topic that is.
    pub retention_loss_cause: Option<LossCause>,
    /// Whether somebody should act: `None` if not.
    pub risk: Option<RetentionRisk>,
}

impl LagForecast {
    /// At these rates the group never catches up.
    pub fn falls_behind(&self) -> bool {
        self.rate_in.is_some() && self.rate_out.is_some() && self.catch_up.is_none()
    }
}

/// Which limit of a topic's retention removes records first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LossCause {
    /// They are too old.
    Age,
    /// There are too many bytes after them.
    Bytes,
}

/// Whether somebody should act so that a group reads its records before retention removes them: with more members, or by
/// keeping events longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetentionRisk {
    /// Less than a fifth of the retention is left, and less than a day, and the group will not be in time.
    Near,
    /// Records were removed that the group had not read.
    Lost,
}

impl From<v1::PartitionLag> for PartitionLag {
    fn from(lag: v1::PartitionLag) -> Self {
        Self {
            group: lag.group,
            topic: lag.topic,
            topic_id: TopicId::parse(&lag.topic_id),
            partition: lag.partition,
            log_start_offset: lag.log_start_offset,
            committed_offset: lag.committed_offset,
            high_watermark: lag.high_watermark,
            lag_records: lag.lag_records,
            lag_bytes: lag.lag_bytes,
            lag_seconds: lag.lag_seconds,
            member: Some(lag.member).filter(|member| !member.is_empty()),
            forecast: LagForecast {
                rate_in: lag.rate_in,
                rate_out: lag.rate_out,
                bytes_in: lag.bytes_in,
                catch_up: duration(lag.catch_up_seconds),
                retention_loss: duration(lag.retention_loss_seconds),
                retention_loss_cause: match v1::LossCause::try_from(lag.retention_loss_cause) {
                    Ok(v1::LossCause::Age) => Some(LossCause::Age),
                    Ok(v1::LossCause::Bytes) => Some(LossCause::Bytes),
                    Ok(v1::LossCause::Unspecified) | Err(_) => None,
                },
                risk: match v1::RetentionRisk::try_from(lag.retention_risk) {
                    Ok(v1::RetentionRisk::Near) => Some(RetentionRisk::Near),
                    Ok(v1::RetentionRisk::Lost) => Some(RetentionRisk::Lost),
                    Ok(v1::RetentionRisk::Unspecified) | Err(_) => None,
                },
            },
            holds_publishers_since: lag.holds_publishers_since_us.map(Timestamp::from_micros),
        }
    }
}

/// What is no duration says nothing.
fn duration(seconds: Option<f64>) -> Option<Duration> {
    Duration::try_from_secs_f64(seconds?).ok()
}

/// Reports of lag, at once and then at every interval. A lost connection is an error and the end: watch again.
#[derive(Debug)]
pub struct LagWatch {
    link: Link,
    reports: Option<Streaming<v1::WatchLagResponse>>,
}

impl LagWatch {
    pub(super) async fn open(link: &Link, request: v1::WatchLagRequest) -> Result<Self, RequestError> {
        let mut groups = link.groups();
        let reports = link.unary(async move { groups.watch_lag(request).await }).await?;
        Ok(Self { link: link.clone(), reports: Some(reports) })
    }

    /// One report, then the end.
    pub(super) async fn once(link: &Link, request: v1::WatchLagRequest) -> Result<Vec<PartitionLag>, RequestError> {
        let mut watch = Self::open(link, request).await?;
        let after = link.request_timeout();
        match tokio::time::timeout(after, watch.next()).await {
            Ok(Some(report)) => report,
            Ok(None) => Ok(Vec::new()),
            Err(_) => Err(RequestError::TimedOut { after }),
        }
    }

    /// The next report. Cancel-safe.
    pub async fn next(&mut self) -> Option<Result<Vec<PartitionLag>, RequestError>> {
        poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }
}

impl Stream for LagWatch {
    type Item = Result<Vec<PartitionLag>, RequestError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(reports) = &mut self.reports else { return Poll::Ready(None) };
        match Pin::new(reports).poll_next(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(None) => {
                self.reports = None;
                Poll::Ready(None)
            }
            Poll::Ready(Some(Ok(report))) => {
                Poll::Ready(Some(Ok(report.partitions.into_iter().map(PartitionLag::from).collect())))
            }
            Poll::Ready(Some(Err(status))) => {
                self.reports = None;
                let error: BrokerError = self.link.judge(status);
                Poll::Ready(Some(Err(error.into())))
            }
        }
    }
}
