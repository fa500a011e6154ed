//! How far groups are behind.

use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll},
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
            holds_publishers_since: lag.holds_publishers_since_us.map(Timestamp::from_micros),
        }
    }
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
