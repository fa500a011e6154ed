//! Streams that are opened by the thousand and then stall: readers that do not read, requests that do not end.

use std::collections::BTreeSet;

use aqueduct_client::{Record, Start};
use aqueduct_proto::v1;
use aqueduct_tests::{
    RawHttp2, drain, eventually,
    raw_http2::{self, Frame, flag, frame, kind, setting},
    within,
};
use prost::Message as _;

use crate::{MIB, SLACK_BYTES, Siege};

const STREAMS: u32 = 1000;
const BUDGET: &str = "16MiB";
const BUDGET_BYTES: u64 = 16 * MIB;
/// What a stream costs by itself, with its task and its place in HTTP/2.
const STREAM_BYTES: u64 = 32 << 10;

/// 48 MiB in batches of a MiB, most of it no longer in the broker's memory.
async fn fill(siege: &Siege) {
    let topic = siege.client.topics().create("history").segment_bytes(8 << 20);
    topic.build().await.expect("a new topic");
    let producer = siege.client.producer("history").build().await.expect("a producer");
    for _ in 0..12 {
        let records = (0..40).map(|_| Record::new(vec![7; 100_000]));
        within("receipts", producer.publish_all(records)).await.expect("receipts");
    }
}

fn subscription() -> Vec<u8> {
    let start = Some(v1::Start { at: Some(v1::start::At::Earliest(v1::start::Earliest {})) });
    v1::SubscribeRequest { topic: "history".to_owned(), start, ..v1::SubscribeRequest::default() }.encode_to_vec()
}

fn fetch() -> Vec<u8> {
    v1::FetchRequest { topic: "history".to_owned(), ..v1::FetchRequest::default() }.encode_to_vec()
}

/// Opens as many streams as there may be, with this window for each, and reads nothing that comes on them.
async fn stall(port: u16, window: u32, path: &str, request: &[u8]) -> RawHttp2 {
    let mut raw = RawHttp2::begin(port, &[(setting::INITIAL_WINDOW_SIZE, window)]).await;
    // As much as HTTP/2 allows for the connection: each stream is held by its own window.
    raw.write(&frame(kind::WINDOW_UPDATE, flag::NONE, 0, &0x7000_0000u32.to_be_bytes())).await.expect("taken");
    for n in 0..STREAMS {
        raw.ask(2 * n + 1, path, request).await.expect("taken");
    }
    assert!(raw.answers().await);
    raw
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_with_no_window_cost_their_share_of_memory_and_hold_nobody_up() {
    let mut siege = Siege::start(&[&format!("outgoing_budget_bytes={BUDGET}"), "tail_cache_bytes=4MiB"]).await;
    fill(&siege).await;
    let port = siege.broker.port();
    for window in [0, 1] {
        for (path, request) in [("/aqueduct.v1.Log/Subscribe", subscription()), ("/aqueduct.v1.Log/Fetch", fetch())] {
            let mut stalled = Vec::new();
            for _ in 0..2 {
                stalled.push(stall(port, window, path, &request).await);
            }
            siege.publish(20).await;
            // Whoever reads gets everything.
            let honest = siege.client.subscribe("history").from(Start::Earliest).until_end().build();
            assert_eq!(drain(honest.await.expect("a subscription")).await.len(), 12 * 40);
            siege.assert_grown_less_than(BUDGET_BYTES + 2 * u64::from(STREAMS) * STREAM_BYTES + 2 * SLACK_BYTES);
            for raw in &mut stalled {
                assert!(raw.answers().await, "a slow reader is no reason to close");
            }
        }
    }
    siege.client.topics().delete("history").await.expect("deleted");
    siege.over().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn group_members_that_do_not_read_cost_their_share_of_memory() {
    let mut siege = Siege::start(&[&format!("outgoing_budget_bytes={BUDGET}"), "tail_cache_bytes=4MiB"]).await;
    fill(&siege).await;
    let mut raw = RawHttp2::begin(siege.broker.port(), &[(setting::INITIAL_WINDOW_SIZE, 0)]).await;
    for n in 0..200 {
        let credit = Some(v1::Credit { bytes: u64::MAX, records: u64::MAX });
        let start = Some(v1::Start { at: Some(v1::start::At::Earliest(v1::start::Earliest {})) });
        let policy = Some(v1::GroupPolicy { start, ..v1::GroupPolicy::default() });
        let group = format!("group-{n}");
        let join = v1::Join { group, topic: "history".to_owned(), credit, policy, ..v1::Join::default() };
        let join = v1::ConsumeRequest { event: Some(v1::consume_request::Event::Join(join)) };
        raw.open(2 * n + 1, "/aqueduct.v1.Groups/Consume", &join.encode_to_vec()).await.expect("taken");
    }
    assert!(raw.answers().await);
    eventually("they are members", async || {
        let groups = siege.client.groups().list().await.expect("a list");
        (groups.len() == 200).then_some(())
    })
    .await;
    siege.publish(50).await;
    siege.assert_grown_less_than(BUDGET_BYTES + SLACK_BYTES);
    let mut honest = siege.client.consumer("history", "honest").start(Start::Earliest).build().await.expect("a member");
    for _ in 0..12 * 40 {
        within("a delivery", honest.next()).await.expect("no end").expect("a delivery").ack();
    }
    drop(honest);
    drop(raw);
    siege.over().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_do_not_end_cost_their_share_of_memory_and_end_in_time() {
    const STREAMS: usize = 40;
    let sets = [&format!("incoming_budget_bytes={BUDGET}"), "request_timeout=8s"];
    let mut siege = Siege::start(&sets).await;
    // All but the last byte of a request that is just small enough.
    let mut unfinished = raw_http2::message(&vec![0; 2_900_000]);
    unfinished.pop();
    let mut connections = Vec::new();
    for _ in 0..4 {
        let mut raw = RawHttp2::begin(siege.broker.port(), &[]).await;
        // From here on its windows are known.
        assert!(raw.answers().await);
        let mut senders = Senders { raw, ended: BTreeSet::new() };
        for n in 0..STREAMS {
            senders.send(2 * u32::try_from(n).expect("few") + 1, &unfinished).await;
        }
        assert!(senders.ended.len() > 30, "{} of {STREAMS} were refused", senders.ended.len());
        siege.assert_grown_less_than(BUDGET_BYTES + SLACK_BYTES);
        connections.push(senders);
    }
    siege.publish(50).await;
    siege.assert_grown_less_than(BUDGET_BYTES + SLACK_BYTES);
    for senders in &mut connections {
        // Those that were let in are told that their time is over, and the connection goes on.
        while senders.ended.len() < STREAMS {
            senders.hear(|_| true).await.expect("the connection is open");
        }
        assert!(senders.raw.answers().await);
    }
    siege.over().await;
}

/// A connection on which many requests are sent, each as far as the broker makes room.
struct Senders {
    raw: RawHttp2,
    /// Streams that the broker has answered.
    ended: BTreeSet<u32>,
}

impl Senders {
    async fn send(&mut self, stream: u32, bytes: &[u8]) {
        // Half of the window that a stream has before settings are acknowledged: when it has read so much, the broker makes
        // room again.
        const PIECE_BYTES: usize = 32 << 10;
        let headers = frame(kind::HEADERS, flag::END_HEADERS, stream, &raw_http2::call("/aqueduct.v1.Log/Publish"));
        self.raw.write(&headers).await.expect("taken");
        for piece in bytes.chunks(PIECE_BYTES) {
            if self.ended.contains(&stream) {
                return;
            }
            self.raw.write(&frame(kind::DATA, flag::NONE, stream, piece)).await.expect("taken");
            if piece.len() == PIECE_BYTES {
                self.hear(|frame| frame.stream == stream && frame.kind != kind::DATA).await.expect("an answer");
            }
        }
    }

    async fn hear(&mut self, mut wanted: impl FnMut(&Frame) -> bool) -> Option<Frame> {
        let Self { raw, ended } = self;
        raw.find(|frame| {
            if matches!(frame.kind, kind::HEADERS | kind::RST_STREAM) {
                ended.insert(frame.stream);
            }
            wanted(frame)
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lengths_that_promise_more_than_comes_cost_nothing() {
    let mut siege = Siege::start(&["request_timeout=1s"]).await;
    let claims = [u32::MAX, 1 << 31, 100 << 20, 3 << 20, 2 << 20, 1 << 20];
    let mut connections = Vec::new();
    for n in 0..1000 {
        if n % 50 == 0 {
            connections.push(RawHttp2::begin(siege.broker.port(), &[]).await);
        }
        let raw = connections.last_mut().expect("one");
        let claim = claims[n as usize % claims.len()].to_be_bytes();
        let stream = 2 * n + 1;
        let headers =
            frame(kind::HEADERS, flag::END_HEADERS, stream, &raw_http2::call("/aqueduct.v1.Log/PublishStream"));
        let data = frame(kind::DATA, flag::NONE, stream, &[&[0][..], &claim, b"only this"].concat());
        raw.write(&[headers, data].concat()).await.expect("taken");
    }
    for raw in &mut connections {
        assert!(raw.answers().await);
    }
    siege.publish(50).await;
    siege.assert_grown_less_than(1000 * STREAM_BYTES + SLACK_BYTES);
    siege.over().await;
}
