//! Reading one piece of one partition.

use std::{sync::Arc, time::Duration};

use aqueduct_proto::v1;

use crate::{
    client::Client,
    codec::{DecodeError, EventBatch},
    error::{FetchError, RequestError},
    record::Event,
    types::{Offset, TopicId, millis},
};

/// Builds a single read.
#[derive(Clone, Debug)]
#[must_use]
pub struct FetchBuilder {
    client: Client,
    request: v1::FetchRequest,
    max_wait: Duration,
}

/// What a single read has found.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// In order; the first one begins at the requested offset.
    pub batches: Vec<EventBatch>,
    /// First readable offset (inclusive).
    pub log_start: Offset,
    /// First offset readers may not see (exclusive).
    pub high_watermark: Offset,
    /// Where the next read goes on.
    pub next_offset: Offset,
    /// The topic's identity.
    pub topic_id: TopicId,
}

impl Fetched {
    /// All events, in order.
    pub fn events(&self) -> impl Iterator<Item = Result<Event, DecodeError>> {
        self.batches.iter().flat_map(EventBatch::events)
    }
}

impl FetchBuilder {
    pub(crate) fn new(client: Client, topic: String, partition: u32, offset: Offset) -> Self {
        let request = v1::FetchRequest { topic, partition, offset, ..v1::FetchRequest::default() };
        Self { client, request, max_wait: Duration::ZERO }
    }

    /// Stop after about this much; one batch is sent even if it is larger. Default: the broker's response limit.
    pub fn max_bytes(mut self, bytes: u32) -> Self {
        self.request.max_bytes = bytes;
        self
    }

    /// Wait this long for the first event at the end of the log. Default: not at all.
    pub fn max_wait(mut self, wait: Duration) -> Self {
        self.max_wait = wait;
        self
    }

    /// Refuse to read a topic that was made again under this name.
    pub fn topic_id(mut self, id: TopicId) -> Self {
        self.request.topic_id = id.to_bytes();
        self
    }

    /// Reads.
    ///
    /// # Errors
    /// [`FetchError`]; an offset out of range carries the valid one.
    pub async fn build(mut self) -> Result<Fetched, FetchError> {
        self.request.max_wait_ms = millis(self.max_wait);
        let v1::FetchRequest { partition, offset, .. } = self.request;
        let topic: Arc<str> = self.request.topic.as_str().into();
        let link = self.client.read_link();
        let mut log = link.log();
        let request = self.request;
        let answer = link
            .unary_within(link.request_timeout() + self.max_wait, async move { log.fetch(request).await })
            .await
            .map_err(|error| FetchError::new(partition, Some(offset), error))?;
        let mut batches = Vec::with_capacity(answer.batches.len());
        for batch in answer.batches {
            let mut batch = EventBatch::new(&topic, partition, batch)?;
            batch.narrow(offset, Offset::MAX);
            batches.push(batch);
        }
        let topic_id = TopicId::parse(&answer.topic_id);
        Ok(Fetched {
            batches,
            log_start: answer.log_start,
            high_watermark: answer.high_watermark,
            next_offset: answer.next_offset,
            topic_id: topic_id.ok_or_else(|| RequestError::malformed("a topic's id is not 16 bytes"))?,
        })
    }
}
