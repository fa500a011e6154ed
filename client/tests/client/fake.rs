//! The scripted broker: each stream that a client opens is handed to the test.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use aqueduct_client::{
    Client, Codec, Record,
    codec::encode_batch,
    proto::{self as v1, admin_server as admin, groups_server as groups, log_server as log, topics_server as topics},
};
use tokio::{
    sync::{Mutex, mpsc},
    time::{sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming, body::Body};
use tower_service::Service;

pub(crate) const TOPIC_ID: [u8; 16] = [7; 16];
/// Of paused time: a test that waits for something that never comes fails at once.
const PATIENCE: Duration = Duration::from_secs(300);
const HEARTBEAT: Duration = Duration::from_secs(10);

/// One open stream as the broker sees it.
pub(crate) struct Conversation<Q, A> {
    requests: Streaming<Q>,
    answers: mpsc::Sender<Result<A, Status>>,
}

pub(crate) type Publishing = Conversation<v1::PublishRequest, v1::PublishStreamResponse>;
pub(crate) type Consuming = Conversation<v1::ConsumeRequest, v1::ConsumeResponse>;

impl<Q, A> Conversation<Q, A> {
    /// The next request; `None` once the client has ended its side.
    pub(crate) async fn request(&mut self) -> Option<Q> {
        timeout(PATIENCE, self.requests.message()).await.expect("a request or the end").ok().flatten()
    }

    pub(crate) async fn answer(&self, answer: A) {
        // A client that has gone away does not mind.
        let _ = self.answers.send(Ok(answer)).await;
    }

    pub(crate) async fn fail(self, status: Status) {
        let _ = self.answers.send(Err(status)).await;
    }
}

impl Consuming {
    /// Says from time to time that it is there, for as long as the stream lives.
    pub(crate) fn send_heartbeats(&self) {
        let answers = self.answers.downgrade();
        let heartbeat = || v1::consume_response::Event::Heartbeat(v1::ConsumeHeartbeat {});
        tokio::spawn(async move {
            loop {
                sleep(HEARTBEAT).await;
                let Some(answers) = answers.upgrade() else { return };
                let _ = answers.send(Ok(v1::ConsumeResponse { event: Some(heartbeat()) })).await;
            }
        });
    }
}

/// A subscription that has been opened, and where its answers go.
pub(crate) struct Subscribing {
    pub(crate) request: v1::SubscribeRequest,
    answers: mpsc::Sender<Result<v1::SubscribeResponse, Status>>,
}

impl Subscribing {
    pub(crate) async fn answer(&self, partition: u32, event: v1::subscribe_response::Event) {
        let response = v1::SubscribeResponse { partition, event: Some(event), log_start: 0, high_watermark: 100 };
        let _ = self.answers.send(Ok(response)).await;
    }

    pub(crate) async fn fail(self, status: Status) {
        let _ = self.answers.send(Err(status)).await;
    }
}

/// The broker's side, in the hands of a test.
pub(crate) struct Broker {
    publishing: mpsc::Receiver<Publishing>,
    subscribing: mpsc::Receiver<Subscribing>,
    consuming: mpsc::Receiver<Consuming>,
}

impl Broker {
    /// A broker with one topic, `orders`, of `partitions` partitions, and a client of it.
    pub(crate) fn start(partitions: u32) -> (Self, Client) {
        let (publish, publishing) = mpsc::channel(8);
        let (subscribe, subscribing) = mpsc::channel(8);
        let (consume, consuming) = mpsc::channel(8);
        let script = Arc::new(Script { partitions, publish, subscribe, consume, info: Mutex::default() });
        (Self { publishing, subscribing, consuming }, Client::from_service(Router(script)))
    }

    pub(crate) async fn publishing(&mut self) -> Publishing {
        timeout(PATIENCE, self.publishing.recv()).await.expect("a publish stream").expect("the client lives")
    }

    pub(crate) async fn subscribing(&mut self) -> Subscribing {
        timeout(PATIENCE, self.subscribing.recv()).await.expect("a subscription").expect("the client lives")
    }

    pub(crate) async fn consuming(&mut self) -> Consuming {
        timeout(PATIENCE, self.consuming.recv()).await.expect("a consume stream").expect("the client lives")
    }
}

/// A stored batch: values are the offsets as text.
pub(crate) fn stored(base_offset: u64, records: u64) -> v1::Batch {
    let records: Vec<_> = (base_offset..base_offset + records).map(|offset| Record::new(offset.to_string())).collect();
    v1::Batch { base_offset, append_time_us: 1, ..encode_batch(&records, Codec::Lz4).expect("encodes") }
}

pub(crate) fn status(code: tonic::Code, reason: &str) -> tonic_types::Status {
    use tonic_types::{ErrorDetails, StatusExt};
    let details = ErrorDetails::with_error_info(reason, "aqueduct", [("culprit".to_owned(), "billing".to_owned())]);
    let status = Status::with_error_details(code, "no", details);
    prost::Message::decode(status.details()).expect("details are a status")
}

struct Script {
    partitions: u32,
    publish: mpsc::Sender<Publishing>,
    subscribe: mpsc::Sender<Subscribing>,
    consume: mpsc::Sender<Consuming>,
    /// Answers to `Info` that fail first.
    info: Mutex<u32>,
}

#[derive(Clone)]
struct Router(Arc<Script>);

impl Service<http::Request<Body>> for Router {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let script = Arc::clone(&self.0);
        match request.uri().path().split('/').nth(1) {
            Some("aqueduct.v1.Log") => log::LogServer::from_arc(script).call(request),
            Some("aqueduct.v1.Groups") => groups::GroupsServer::from_arc(script).call(request),
            Some("aqueduct.v1.Topics") => topics::TopicsServer::from_arc(script).call(request),
            Some("aqueduct.v1.Admin") => admin::AdminServer::from_arc(script).call(request),
            other => panic!("no such service: {other:?}"),
        }
    }
}

type Answer<T> = Result<Response<T>, Status>;

fn unscripted<T>() -> Answer<T> {
    Err(Status::unimplemented("not in this script"))
}

#[tonic::async_trait]
impl log::Log for Script {
    type PublishStreamStream = ReceiverStream<Result<v1::PublishStreamResponse, Status>>;
    type SubscribeStream = ReceiverStream<Result<v1::SubscribeResponse, Status>>;

    async fn publish(&self, _: Request<v1::PublishRequest>) -> Answer<v1::PublishResponse> {
        unscripted()
    }

    async fn publish_stream(
        &self,
        request: Request<Streaming<v1::PublishRequest>>,
    ) -> Answer<Self::PublishStreamStream> {
        let (answers, stream) = mpsc::channel(128);
        let _ = self.publish.send(Conversation { requests: request.into_inner(), answers }).await;
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn open_producer(&self, _: Request<v1::OpenProducerRequest>) -> Answer<v1::OpenProducerResponse> {
        unscripted()
    }

    async fn fetch(&self, request: Request<v1::FetchRequest>) -> Answer<v1::FetchResponse> {
        let offset = request.into_inner().offset;
        Ok(Response::new(v1::FetchResponse {
            batches: vec![stored(offset.saturating_sub(2), 5)],
            log_start: 0,
            high_watermark: 100,
            next_offset: offset + 3,
            topic_id: TOPIC_ID.to_vec().into(),
            ..Default::default()
        }))
    }

    async fn subscribe(&self, request: Request<v1::SubscribeRequest>) -> Answer<Self::SubscribeStream> {
        let (answers, stream) = mpsc::channel(128);
        let _ = self.subscribe.send(Subscribing { request: request.into_inner(), answers }).await;
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

#[tonic::async_trait]
impl topics::Topics for Script {
    type VerifyStream = ReceiverStream<Result<v1::VerifyTopicResponse, Status>>;

    async fn create(&self, _: Request<v1::CreateTopicRequest>) -> Answer<v1::CreateTopicResponse> {
        unscripted()
    }

    async fn describe(&self, request: Request<v1::DescribeTopicRequest>) -> Answer<v1::DescribeTopicResponse> {
        let name = request.into_inner().name;
        if name != "orders" {
            return Err(Status::not_found(format!("no topic {name}")));
        }
        let config = v1::TopicConfig { partitions: self.partitions, ..Default::default() };
        let topic = v1::Topic { name, id: TOPIC_ID.to_vec().into(), config: Some(config), created_us: 1 };
        let partition = |partition| v1::PartitionInfo { partition, ..Default::default() };
        let partitions = (0..self.partitions).map(partition).collect();
        Ok(Response::new(v1::DescribeTopicResponse { topic: Some(topic), partitions, ..Default::default() }))
    }

    async fn list(&self, _: Request<v1::ListTopicsRequest>) -> Answer<v1::ListTopicsResponse> {
        unscripted()
    }

    async fn alter(&self, _: Request<v1::AlterTopicRequest>) -> Answer<v1::AlterTopicResponse> {
        unscripted()
    }

    async fn delete(&self, _: Request<v1::DeleteTopicRequest>) -> Answer<v1::DeleteTopicResponse> {
        unscripted()
    }

    async fn truncate(&self, _: Request<v1::TruncateTopicRequest>) -> Answer<v1::TruncateTopicResponse> {
        unscripted()
    }

    async fn compact(&self, _: Request<v1::CompactTopicRequest>) -> Answer<v1::CompactTopicResponse> {
        unscripted()
    }

    async fn verify(&self, _: Request<v1::VerifyTopicRequest>) -> Answer<Self::VerifyStream> {
        unscripted()
    }
}

#[tonic::async_trait]
impl groups::Groups for Script {
    type ConsumeStream = ReceiverStream<Result<v1::ConsumeResponse, Status>>;
    type WatchLagStream = ReceiverStream<Result<v1::WatchLagResponse, Status>>;

    async fn create(&self, _: Request<v1::CreateGroupRequest>) -> Answer<v1::CreateGroupResponse> {
        unscripted()
    }

    async fn alter(&self, _: Request<v1::AlterGroupRequest>) -> Answer<v1::AlterGroupResponse> {
        unscripted()
    }

    async fn list(&self, _: Request<v1::ListGroupsRequest>) -> Answer<v1::ListGroupsResponse> {
        unscripted()
    }

    async fn describe(&self, _: Request<v1::DescribeGroupRequest>) -> Answer<v1::DescribeGroupResponse> {
        unscripted()
    }

    async fn consume(&self, request: Request<Streaming<v1::ConsumeRequest>>) -> Answer<Self::ConsumeStream> {
        let (answers, stream) = mpsc::channel(128);
        let _ = self.consume.send(Conversation { requests: request.into_inner(), answers }).await;
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn commit(&self, _: Request<v1::CommitRequest>) -> Answer<v1::CommitResponse> {
        unscripted()
    }

    async fn watch_lag(&self, request: Request<v1::WatchLagRequest>) -> Answer<Self::WatchLagStream> {
        let request = request.into_inner();
        let (answers, stream) = mpsc::channel(1);
        let lag = v1::PartitionLag { group: request.group, topic: request.topic, lag_records: 5, ..Default::default() };
        let _ = answers.send(Ok(v1::WatchLagResponse { partitions: vec![lag] })).await;
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn reset(&self, _: Request<v1::ResetGroupRequest>) -> Answer<v1::ResetGroupResponse> {
        unscripted()
    }

    async fn delete(&self, _: Request<v1::DeleteGroupRequest>) -> Answer<v1::DeleteGroupResponse> {
        unscripted()
    }

    async fn list_dead_letters(&self, _: Request<v1::ListDeadLettersRequest>) -> Answer<v1::ListDeadLettersResponse> {
        unscripted()
    }

    async fn redrive(&self, _: Request<v1::RedriveRequest>) -> Answer<v1::RedriveResponse> {
        unscripted()
    }

    async fn discard(&self, _: Request<v1::DiscardRequest>) -> Answer<v1::DiscardResponse> {
        unscripted()
    }
}

#[tonic::async_trait]
impl admin::Admin for Script {
    /// Unavailable at first, so that whoever asks must try again.
    async fn info(&self, _: Request<v1::InfoRequest>) -> Answer<v1::InfoResponse> {
        let mut asked = self.info.lock().await;
        *asked += 1;
        if *asked < 3 {
            return Err(Status::unavailable("starting"));
        }
        let limits = v1::Limits { record_bytes_max: 1 << 20, ..Default::default() };
        Ok(Response::new(v1::InfoResponse { version: "1".into(), limits: Some(limits), ..Default::default() }))
    }
}
