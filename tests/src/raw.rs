//! The API without the client: what programs in other languages do, and what no client would.

use aqueduct_proto::v1::{
    self, groups_client::GroupsClient, log_client::LogClient, publish_request::Payload, publish_result::Outcome,
    topics_client::TopicsClient,
};
use bytes::Bytes;
use prost::Message as _;
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};

/// Generated clients on one connection.
#[derive(Clone)]
pub struct Raw {
    /// Publishing and reading.
    pub log: LogClient<Channel>,
    /// Topics.
    pub topics: TopicsClient<Channel>,
    /// Groups.
    pub groups: GroupsClient<Channel>,
}

impl Raw {
    /// On a connection of its own.
    ///
    /// # Panics
    /// If nobody listens at `url`.
    pub async fn connect(url: &str) -> Self {
        Self::on(Channel::from_shared(url.to_owned()).expect("a URL")).await
    }

    /// As [`connect`](Self::connect), with room for so few bytes of each answer, and of all of them.
    ///
    /// # Panics
    /// If nobody listens at `url`.
    pub async fn connect_with_window(url: &str, bytes: u32) -> Self {
        let endpoint = Channel::from_shared(url.to_owned()).expect("a URL");
        Self::on(endpoint.initial_stream_window_size(bytes).initial_connection_window_size(bytes)).await
    }

    async fn on(endpoint: Endpoint) -> Self {
        let channel = endpoint.connect().await.expect("the broker listens");
        Self {
            log: LogClient::new(channel.clone()),
            topics: TopicsClient::new(channel.clone()),
            groups: GroupsClient::new(channel),
        }
    }

    /// Publishes and returns the only receipt.
    ///
    /// # Errors
    /// The broker's.
    ///
    /// # Panics
    /// If it touched several partitions.
    pub async fn publish(&mut self, request: v1::PublishRequest) -> Result<v1::PublishAck, Status> {
        let mut results = self.log.publish(request).await?.into_inner().results;
        assert_eq!(results.len(), 1, "{results:?}");
        match results.remove(0).outcome {
            Some(Outcome::Ack(ack)) => Ok(ack),
            other => panic!("a call that touches one partition fails as a whole: {other:?}"),
        }
    }

    /// All records of a partition from `offset` on, in one answer.
    ///
    /// # Errors
    /// The broker's.
    pub async fn fetch(&mut self, topic: &str, partition: u32, offset: u64) -> Result<v1::FetchResponse, Status> {
        let request = v1::FetchRequest {
            topic: topic.to_owned(),
            partition,
            offset,
            decode: true,
            ..v1::FetchRequest::default()
        };
        self.log.fetch(request).await.map(tonic::Response::into_inner)
    }
}

/// A record with a value and nothing else.
pub fn record(value: impl Into<Bytes>) -> v1::Record {
    v1::Record { value: Some(value.into()), ..v1::Record::default() }
}

/// A request to publish plain records to partition 0.
pub fn publish_records(topic: &str, records: Vec<v1::Record>) -> v1::PublishRequest {
    v1::PublishRequest {
        topic: topic.to_owned(),
        partition: Some(0),
        payload: Some(Payload::Records(v1::RecordSet { records })),
        ..v1::PublishRequest::default()
    }
}

/// A request to publish a batch to partition 0.
pub fn publish_batch(topic: &str, batch: v1::Batch) -> v1::PublishRequest {
    v1::PublishRequest {
        topic: topic.to_owned(),
        partition: Some(0),
        payload: Some(Payload::Batch(batch)),
        ..v1::PublishRequest::default()
    }
}

/// An honest batch without compression.
pub fn batch(records: Vec<v1::Record>) -> v1::Batch {
    let record_count = u32::try_from(records.len()).unwrap_or(u32::MAX);
    sealed(v1::RecordSet { records }.encode_to_vec(), record_count, v1::Codec::None)
}

/// A batch that claims `record_count` and has the right checksum.
pub fn sealed(payload: Vec<u8>, record_count: u32, codec: v1::Codec) -> v1::Batch {
    v1::Batch {
        record_count,
        codec: codec.into(),
        crc32: crc32fast::hash(&payload),
        records: payload.into(),
        ..v1::Batch::default()
    }
}
