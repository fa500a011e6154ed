//! gRPC with nothing behind it: the API's own messages, on a server that does nothing with them.
//!
//! Server and client have a thread each and the settings of the broker and its client.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use aqueduct_client::proto::{
    self, Batch, BatchSet, PublishRequest, PublishStreamResponse, SubscribeResponse, admin_client::AdminClient,
    admin_server, log_client::LogClient, log_server, publish_request::Payload, publish_stream_response,
    subscribe_response::Event,
};
use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status, Streaming};

use super::Percentiles;
use super::on_schedule::Arrived;
use crate::cli::bench::histogram::Latencies;

const FRAME_BYTES: u32 = 256 << 10;
pub(super) const MESSAGE_BYTES: usize = 256 << 10;
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const ANSWERS_MAX: usize = 1024;

/// A server on a free port, until it is dropped.
pub(super) struct BareServer {
    channel: Channel,
    _stop: oneshot::Sender<()>,
}

impl BareServer {
    /// Published requests go to `disk`, which answers them; without one they are counted.
    pub(super) async fn start(disk: Option<mpsc::Sender<Arrived>>) -> anyhow::Result<Self> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let (stop, stopped) = oneshot::channel();
        thread::spawn(move || serve(listener, disk, stopped));
        let channel = Endpoint::new(format!("http://{address}"))?
            .tcp_nodelay(true)
            .max_frame_size(FRAME_BYTES)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(STREAM_WINDOW_BYTES)
            .connect()
            .await?;
        Ok(Self { channel, _stop: stop })
    }

    pub(super) fn log(&self) -> LogClient<Channel> {
        LogClient::new(self.channel.clone())
    }

    /// One call at a time.
    pub(super) async fn call(&self, take: Duration) -> anyhow::Result<Percentiles> {
        let mut client = AdminClient::new(self.channel.clone());
        client.info(proto::InfoRequest {}).await?;
        let mut latencies = Latencies::default();
        let begun = Instant::now();
        while begun.elapsed() < take || latencies.count() == 0 {
            let called = Instant::now();
            client.info(proto::InfoRequest {}).await?;
            latencies.record(called.elapsed());
        }
        Ok(Percentiles::of(&latencies))
    }

    /// GB a second of a stream of responses.
    pub(super) async fn to_client(&self, take: Duration) -> anyhow::Result<f64> {
        let mut client = self.log();
        let mut responses = client.subscribe(proto::SubscribeRequest::default()).await?.into_inner();
        let begun = Instant::now();
        let mut messages = 0_u32;
        while begun.elapsed() < take || messages == 0 {
            anyhow::ensure!(responses.message().await?.is_some(), "the bare stream has ended");
            messages += 1;
        }
        Ok(gigabytes_per_second(messages, begun.elapsed()))
    }

    /// GB a second of a stream of requests.
    pub(super) async fn to_server(&self, take: Duration) -> anyhow::Result<f64> {
        let mut client = self.log();
        let begun = Instant::now();
        let requests = stream::unfold(message(), move |batch| async move {
            let payload = Some(Payload::Batch(batch.clone()));
            (begun.elapsed() < take).then(|| (PublishRequest { payload, ..PublishRequest::default() }, batch))
        });
        // Answered once, at the end, with the number of requests.
        let mut responses = client.publish_stream(requests).await?.into_inner();
        let count = request_of(responses.message().await?).context("the bare server did not answer")?;
        Ok(gigabytes_per_second(u32::try_from(count)?, begun.elapsed()))
    }
}

fn gigabytes_per_second(messages: u32, elapsed: Duration) -> f64 {
    f64::from(messages) * MESSAGE_BYTES as f64 / 1e9 / elapsed.as_secs_f64()
}

fn message() -> Batch {
    Batch { records: Bytes::from(vec![7; MESSAGE_BYTES]), ..Batch::default() }
}

/// The answer to a request.
pub(super) fn outcome(request_id: u64) -> PublishStreamResponse {
    let outcome = proto::Outcome { request_id, outcome: None };
    PublishStreamResponse { event: Some(publish_stream_response::Event::Outcome(outcome)) }
}

/// The request that is answered.
pub(super) fn request_of(response: Option<PublishStreamResponse>) -> Option<u64> {
    match response?.event {
        Some(publish_stream_response::Event::Outcome(outcome)) => Some(outcome.request_id),
        Some(publish_stream_response::Event::Hold(_) | publish_stream_response::Event::Resume(_)) | None => None,
    }
}

fn serve(
    listener: std::net::TcpListener,
    disk: Option<mpsc::Sender<Arrived>>,
    stopped: oneshot::Receiver<()>,
) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let incoming = stream::unfold(TcpListener::from_std(listener)?, |listener| async {
            let accepted = listener.accept().await.and_then(|(stream, _)| {
                stream.set_nodelay(true)?;
                Ok(stream)
            });
            Some((accepted, listener))
        });
        let serving = tonic::transport::Server::builder()
            .max_frame_size(FRAME_BYTES)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(STREAM_WINDOW_BYTES)
            .add_service(admin_server::AdminServer::new(Nothing))
            .add_service(log_server::LogServer::new(BareLog { disk }).max_decoding_message_size(usize::MAX))
            .serve_with_incoming(incoming);
        tokio::select! {
            served = serving => Ok(served?),
            _ = stopped => Ok(()),
        }
    })
}

struct Nothing;

struct BareLog {
    disk: Option<mpsc::Sender<Arrived>>,
}

#[tonic::async_trait]
impl admin_server::Admin for Nothing {
    async fn info(&self, _: Request<proto::InfoRequest>) -> Result<Response<proto::InfoResponse>, Status> {
        Ok(Response::new(proto::InfoResponse::default()))
    }
}

#[tonic::async_trait]
impl log_server::Log for BareLog {
    type PublishStreamStream = BoxStream<'static, Result<PublishStreamResponse, Status>>;
    type SubscribeStream = BoxStream<'static, Result<SubscribeResponse, Status>>;

    async fn subscribe(&self, _: Request<proto::SubscribeRequest>) -> Result<Response<Self::SubscribeStream>, Status> {
        let batches = BatchSet { batches: vec![message()] };
        let response = SubscribeResponse { event: Some(Event::Batches(batches)), ..SubscribeResponse::default() };
        Ok(Response::new(stream::repeat_with(move || Ok(response.clone())).boxed()))
    }

    async fn publish_stream(
        &self,
        requests: Request<Streaming<PublishRequest>>,
    ) -> Result<Response<Self::PublishStreamStream>, Status> {
        let mut requests = requests.into_inner();
        if let Some(disk) = self.disk.clone() {
            let (answers, mut answered) = mpsc::channel(ANSWERS_MAX);
            tokio::spawn(async move {
                while let Ok(Some(request)) = requests.message().await {
                    if disk.send(Arrived { request, answers: answers.clone() }).await.is_err() {
                        break;
                    }
                }
            });
            return Ok(Response::new(stream::poll_fn(move |context| answered.poll_recv(context)).boxed()));
        }
        let answer = async move {
            let mut count = 0;
            while requests.message().await?.is_some() {
                count += 1;
            }
            Ok(outcome(count))
        };
        Ok(Response::new(stream::once(answer).boxed()))
    }

    async fn publish(&self, _: Request<PublishRequest>) -> Result<Response<proto::PublishResponse>, Status> {
        Err(Status::unimplemented("nothing here"))
    }

    async fn open_producer(
        &self,
        _: Request<proto::OpenProducerRequest>,
    ) -> Result<Response<proto::OpenProducerResponse>, Status> {
        Err(Status::unimplemented("nothing here"))
    }

    async fn fetch(&self, _: Request<proto::FetchRequest>) -> Result<Response<proto::FetchResponse>, Status> {
        Err(Status::unimplemented("nothing here"))
    }
}
