//! Where a subscription begins and ends.

use std::future::poll_fn;

use aqueduct_proto::v1;
use tokio::time::timeout;

use super::{Subscription, stream::Source};
use crate::{
    client::Client,
    error::{RequestError, SubscribeError},
    types::{Offset, Start},
};

/// Builds a [`Subscription`].
#[derive(Clone, Debug)]
#[must_use]
pub struct SubscriptionBuilder {
    client: Client,
    request: v1::SubscribeRequest,
}

impl SubscriptionBuilder {
    pub(crate) fn new(client: Client, topic: String) -> Self {
        Self { client, request: v1::SubscribeRequest { topic, ..v1::SubscribeRequest::default() } }
    }

    /// Where to begin in every partition that has no start of its own. Default: [`Start::Latest`].
    pub fn from(mut self, start: Start) -> Self {
        self.request.start = Some(start.into());
        self
    }

    /// Read this partition. Default: all of them.
    pub fn partition(mut self, partition: u32) -> Self {
        self.entry(partition);
        self
    }

    /// Read these partitions.
    pub fn partitions(self, partitions: impl IntoIterator<Item = u32>) -> Self {
        partitions.into_iter().fold(self, Self::partition)
    }

    /// Read this partition, from a start of its own.
    pub fn partition_from(mut self, partition: u32, start: Start) -> Self {
        self.entry(partition).start = Some(start.into());
        self
    }

    /// Read this partition, and stop before `end_offset`.
    pub fn until(mut self, partition: u32, end_offset: Offset) -> Self {
        self.entry(partition).end_offset = Some(end_offset);
        self
    }

    /// Stop in each partition at the high watermark it has when the subscription begins.
    pub fn until_end(mut self) -> Self {
        self.request.until_end = true;
        self
    }

    fn entry(&mut self, partition: u32) -> &mut v1::PartitionStart {
        let partitions = &mut self.request.partitions;
        let index = partitions.iter().position(|entry| entry.partition == partition).unwrap_or_else(|| {
            partitions.push(v1::PartitionStart { partition, start: None, end_offset: None });
            partitions.len() - 1
        });
        &mut partitions[index]
    }

    /// Opens the subscription; the starts are offsets from here on.
    ///
    /// # Errors
    /// [`SubscribeError`]: unknown topic, a start out of range, or no answer.
    pub async fn build(mut self) -> Result<Subscription, SubscribeError> {
        let lifecycle = self.client.lifecycle().clone();
        if lifecycle.is_closing() {
            return Err(RequestError::Closed.into());
        }
        let start = self.request.start.unwrap_or_else(|| Start::Latest.into());
        for partition in &mut self.request.partitions {
            partition.start.get_or_insert(start);
        }
        let link = self.client.read_link().clone();
        let after = link.request_timeout();
        let mut source = Source::new(link, lifecycle, self.request);
        match timeout(after, poll_fn(|cx| source.poll_started(cx))).await {
            Ok(started) => started?,
            Err(_) => return Err(RequestError::TimedOut { after }.into()),
        }
        Ok(Subscription::new(source))
    }
}
