//! Is what a topic holds still what was written?

use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll},
};

use aqueduct_proto::v1::{self, verify_topic_response::Event};
use futures_core::Stream;
use tonic::Streaming;

use crate::{
    error::{BrokerError, RequestError},
    transport::link::Link,
    types::Offset,
};

/// Verifies a topic, once it is complete.
#[derive(Clone, Debug)]
#[must_use]
pub struct VerifyTopic {
    link: Link,
    request: v1::VerifyTopicRequest,
}

/// A verification in progress. A lost connection is an error and the end, and ends it at the broker as well.
#[derive(Debug)]
pub struct Verification {
    link: Link,
    events: Option<Streaming<v1::VerifyTopicResponse>>,
}

/// What a verification tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VerifyEvent {
    /// Something that is not as it was written, or worth a note.
    Finding(VerifyFinding),
    /// How far it has come.
    Progress {
        /// So far.
        bytes_read: u64,
        /// Of so many, as of the beginning.
        bytes_total: u64,
    },
    /// It has gone to its end; nothing follows.
    Summary(VerifySummary),
}

/// Whether something is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerifySeverity {
    /// Nothing is.
    Note,
    /// Stored bytes are not what was written, or are gone.
    Damage,
}

/// Something that a verification has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyFinding {
    /// Whether it is damage.
    pub severity: VerifySeverity,
    /// The partition.
    pub partition: u32,
    /// One word, e.g. `batches`, `index`, `segment_missing`.
    pub kind: String,
    /// In the broker's data directory.
    pub file: String,
    /// First byte (inclusive).
    pub byte_from: Option<u64>,
    /// After the last byte (exclusive).
    pub byte_to: Option<u64>,
    /// First offset concerned (inclusive).
    pub offset_from: Option<Offset>,
    /// After the last offset concerned (exclusive).
    pub offset_to: Option<Offset>,
    /// For people.
    pub message: String,
}

/// What was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerifySummary {
    /// Findings that are damage.
    pub damage: u64,
    /// The others.
    pub notes: u64,
    /// Partitions.
    pub partitions: u64,
    /// Files of batches.
    pub segments: u64,
    /// Intact batches.
    pub batches: u64,
    /// Records in them.
    pub records: u64,
    /// From the disk.
    pub bytes_read: u64,
}

impl VerifyTopic {
    pub(super) fn new(link: Link, name: String) -> Self {
        Self { link, request: v1::VerifyTopicRequest { name, ..v1::VerifyTopicRequest::default() } }
    }

    /// Only this one. Default: all of them.
    pub fn partition(mut self, partition: u32) -> Self {
        self.request.partition = Some(partition);
        self
    }

    /// Begins. The broker verifies one topic at a time: the first event may take a while.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn build(self) -> Result<Verification, RequestError> {
        let mut topics = self.link.topics();
        let request = self.request;
        let events = self.link.unary(async move { topics.verify(request).await }).await?;
        Ok(Verification { link: self.link, events: Some(events) })
    }
}

impl Verification {
    /// The next event. Cancel-safe.
    pub async fn next(&mut self) -> Option<Result<VerifyEvent, RequestError>> {
        poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }
}

impl Stream for Verification {
    type Item = Result<VerifyEvent, RequestError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let Some(events) = &mut self.events else { return Poll::Ready(None) };
            match Pin::new(events).poll_next(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => {
                    self.events = None;
                    return Poll::Ready(None);
                }
                Poll::Ready(Some(Ok(response))) => {
                    // Without one it is of a newer broker, and nothing that this client could tell.
                    if let Some(event) = response.event {
                        return Poll::Ready(Some(Ok(event.into())));
                    }
                }
                Poll::Ready(Some(Err(status))) => {
                    self.events = None;
                    let error: BrokerError = self.link.judge(status);
                    return Poll::Ready(Some(Err(error.into())));
                }
            }
        }
    }
}

impl From<Event> for VerifyEvent {
    fn from(event: Event) -> Self {
        match event {
            Event::Finding(finding) => Self::Finding(finding.into()),
            Event::Progress(v1::VerifyProgress { bytes_read, bytes_total }) => {
                Self::Progress { bytes_read, bytes_total }
            }
            Event::Summary(summary) => Self::Summary(VerifySummary {
                damage: summary.damage,
                notes: summary.notes,
                partitions: summary.partitions,
                segments: summary.segments,
                batches: summary.batches,
                records: summary.records,
                bytes_read: summary.bytes_read,
            }),
        }
    }
}

impl From<v1::VerifyFinding> for VerifyFinding {
    fn from(finding: v1::VerifyFinding) -> Self {
        Self {
            severity: match finding.severity() {
                v1::verify_finding::Severity::Note => VerifySeverity::Note,
                // What this client does not know may be bad.
                v1::verify_finding::Severity::Damage | v1::verify_finding::Severity::Unspecified => {
                    VerifySeverity::Damage
                }
            },
            partition: finding.partition,
            kind: finding.kind,
            file: finding.file,
            byte_from: finding.byte_from,
            byte_to: finding.byte_to,
            offset_from: finding.offset_from,
            offset_to: finding.offset_to,
            message: finding.message,
        }
    }
}
