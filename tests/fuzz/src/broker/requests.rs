//! Calls of every method of the API, with any bytes where a message is expected.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use aqueduct::Broker;
use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::StreamExt as _;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, StreamBody};
use prost::Message as _;
use tonic::{Code, Status, body::Body};
use tower_service::Service;

use super::data::{config, directory_of, hurried, original, runtime};
use crate::input::Input;

const METHODS: [&str; 26] = [
    "Log/Publish",
    "Log/PublishStream",
    "Log/OpenProducer",
    "Log/Fetch",
    "Log/Subscribe",
    "Topics/Create",
    "Topics/Describe",
    "Topics/List",
    "Topics/Alter",
    "Topics/Delete",
    "Topics/Truncate",
    "Groups/Create",
    "Groups/Alter",
    "Groups/List",
    "Groups/Describe",
    "Groups/Consume",
    "Groups/Commit",
    "Groups/WatchLag",
    "Groups/Reset",
    "Groups/Delete",
    "Admin/Info",
    // In the order in which they came: inputs that are kept name methods by number.
    "Groups/ListDeadLetters",
    "Groups/Redrive",
    "Groups/Discard",
    "Topics/Verify",
    "Topics/Compact",
];

const CALLS_MAX: usize = 6;
const MESSAGES_MAX: u8 = 4;
/// Of a stream that does not end.
const FRAMES_MAX: usize = 24;
/// On the broker's clock, when calls are hurried: longer than anything waits.
const PATIENCE: Duration = Duration::from_secs(120);
/// Making them takes its time, and is no error.
const PARTITIONS_MAX: u32 = 64;

/// Some calls, each a method, how it is made, and messages.
///
/// Each ends with a status or is answered; topics have the names that the rules allow, and a folder each; and after a
/// restart the same topics are there.
pub fn requests(input: &[u8]) {
    let mut input = Input::new(input);
    let calls: Vec<Call> = std::iter::from_fn(|| Call::read(&mut input)).take(CALLS_MAX).collect();
    if calls.iter().any(Call::makes_many_partitions) {
        return;
    }
    let directory = directory_of(original());
    runtime().block_on(async {
        let topics = all(directory.path(), calls).await;
        if topics != BTreeSet::from(["orders".to_owned()]) {
            let again = topics_after_restart(directory.path()).await;
            assert_eq!(again, topics, "a restart has changed what topics there are");
        }
    });
}

async fn all(path: &Path, calls: Vec<Call>) -> BTreeSet<String> {
    let broker = Broker::open_with(path, config()).await.expect("a broker");
    let service = aqueduct::fuzzing::service(&broker);
    for call in calls {
        // A stream that is left alone may stay open for ever.
        let _ = hurried(answer(service.clone(), call), PATIENCE).await;
    }
    let topics = topics_of(&broker).await;
    stop(broker).await;
    assert_named_well(path, &topics);
    topics
}

async fn topics_after_restart(path: &Path) -> BTreeSet<String> {
    let broker = Broker::open_with(path, config()).await.expect("a broker that was stopped");
    let topics = topics_of(&broker).await;
    stop(broker).await;
    topics
}

async fn topics_of(broker: &Broker) -> BTreeSet<String> {
    let topics = broker.client().topics().list_all().await.expect("a list");
    topics.into_iter().map(|topic| topic.name).collect()
}

async fn stop(broker: Broker) {
    broker.shutdown(PATIENCE).await.expect("the disk works");
}

fn assert_named_well(path: &Path, topics: &BTreeSet<String>) {
    for name in topics {
        let is_first = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        let is_later = |byte: u8| is_first(byte) || byte == b'.' || byte == b'-';
        assert!(
            name.len() <= 249 && name.bytes().next().is_some_and(is_first) && name.bytes().all(is_later),
            "{name:?}"
        );
    }
    let folders = fs::read_dir(path.join("topics")).expect("a directory").count();
    assert_eq!(folders, topics.len(), "each topic has its folder");
}

/// Reads what the broker answers, up to the status.
async fn answer<S>(mut service: S, call: Call)
where
    S: Service<Request<Body>, Response = Response<Body>, Error = std::convert::Infallible>,
{
    let method = call.method;
    let Ok(response) = service.call(call.into_request()).await;
    let (head, mut body) = response.into_parts();
    if let Some(status) = Status::from_header_map(&head.headers) {
        return assert_status(method, &status);
    }
    let mut trailers = HeaderMap::new();
    for _ in 0..FRAMES_MAX {
        match body.frame().await {
            Some(Ok(frame)) => trailers.extend(frame.into_trailers().unwrap_or_default()),
            Some(Err(status)) => return assert_status(method, &status),
            None => {
                let status = Status::from_header_map(&trailers);
                return assert_status(method, &status.unwrap_or_else(|| panic!("{method} ended without a status")));
            }
        }
    }
}

/// The disk works: whatever goes wrong is the caller's doing.
fn assert_status(method: &str, status: &Status) {
    match status.code() {
        Code::Unknown | Code::DataLoss | Code::Unauthenticated | Code::PermissionDenied => {
            panic!("{method}: {status:?}")
        }
        // What tonic makes of messages that do not decode.
        Code::Internal => assert!(is_from_tonic(status), "{method}: {status:?}"),
        _ => {}
    }
}

fn is_from_tonic(status: &Status) -> bool {
    let texts = ["failed to decode Protobuf message", "protocol error", "Missing request message", "Unexpected EOF"];
    texts.iter().any(|text| status.message().contains(text))
}

/// One call.
struct Call {
    method: &'static str,
    /// Whether the stream of requests ends behind its last message.
    stays_open: bool,
    timeout: Option<String>,
    messages: Vec<Bytes>,
    /// Message frames, as they go over the network.
    frames: Bytes,
}

impl Call {
    fn read(input: &mut Input<'_>) -> Option<Self> {
        let method = METHODS[usize::from(input.byte()?) % METHODS.len()];
        let how = input.byte()?;
        let timeout = (how & 8 != 0).then(|| String::from_utf8_lossy(input.bytes(9)).into_owned());
        let (mut messages, mut frames) = (Vec::new(), BytesMut::new());
        for _ in 0..=how >> 4 & (MESSAGES_MAX - 1) {
            let length = input.short().unwrap_or(0);
            let message = Bytes::copy_from_slice(input.bytes(length.into()));
            frames.put_u8(how >> 1 & 1);
            // A length that lies says more than comes.
            let lie = if how & 4 == 0 { 0 } else { u32::MAX >> (how & 31) };
            frames.put_u32(u32::try_from(message.len()).unwrap_or(0) | lie);
            frames.put(&message[..]);
            messages.push(message);
        }
        Some(Self { method, stays_open: how & 1 != 0, timeout, messages, frames: frames.freeze() })
    }

    fn makes_many_partitions(&self) -> bool {
        let partitions = |message: &Bytes| match self.method {
            "Topics/Create" => {
                let request = aqueduct_proto::v1::CreateTopicRequest::decode(&message[..]).ok()?;
                Some(request.config?.partitions)
            }
            "Topics/Alter" => aqueduct_proto::v1::AlterTopicRequest::decode(&message[..]).ok()?.partitions,
            _ => None,
        };
        self.messages.iter().filter_map(partitions).any(|partitions| partitions > PARTITIONS_MAX)
    }

    fn into_request(self) -> Request<Body> {
        let frames = futures_util::stream::iter([Ok::<_, Status>(http_body::Frame::data(self.frames))]);
        let body = if self.stays_open {
            Body::new(StreamBody::new(frames.chain(futures_util::stream::pending())))
        } else {
            Body::new(StreamBody::new(frames))
        };
        let mut request = Request::builder()
            .method("POST")
            .uri(format!("/aqueduct.v1.{}", self.method))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        if let Some(value) = self.timeout.and_then(|text| http::HeaderValue::try_from(text).ok()) {
            request = request.header("grpc-timeout", value);
        }
        request.body(body).expect("a request")
    }
}
