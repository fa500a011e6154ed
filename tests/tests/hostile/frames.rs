//! Floods and nonsense on the level of HTTP/2.

use aqueduct_tests::{
    RawHttp2,
    raw_http2::{self, PREFACE, flag, frame, kind, reason},
};

use crate::{SLACK_BYTES, Siege};

const PUBLISH: &str = "/aqueduct.v1.Log/Publish";
const SUBSCRIBE: &str = "/aqueduct.v1.Log/Subscribe";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rapid_resets_end_the_connection_that_makes_them() {
    let mut siege = Siege::start(&[]).await;
    let port = siege.broker.port();
    // Streams that are opened and given up at once: each costs the client nothing, and the broker a call.
    let storm = |streams: u32| -> Vec<u8> {
        let open_and_reset = |n| {
            let headers = frame(kind::HEADERS, flag::END_HEADERS, 2 * n + 1, &raw_http2::call(PUBLISH));
            [headers, frame(kind::RST_STREAM, flag::NONE, 2 * n + 1, &8u32.to_be_bytes())].concat()
        };
        (0..streams).flat_map(open_and_reset).collect()
    };
    // Few enough to be read in one go, so that nothing unread makes the system drop what the broker says.
    let mut raw = RawHttp2::begin(port, &[]).await;
    assert!(raw.answers().await);
    raw.write(&storm(100)).await.expect("taken");
    assert_eq!(raw.end().await, Some(reason::ENHANCE_YOUR_CALM));
    let storm = storm(2000);
    siege
        .work_under(async move {
            loop {
                let mut raw = RawHttp2::begin(port, &[]).await;
                let _ = raw.write(&storm).await;
            }
        })
        .await;
    siege.assert_grown_less_than(SLACK_BYTES);
    siege.over().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_streams_than_are_allowed_are_refused_and_the_connection_goes_on() {
    let mut siege = Siege::start(&["streams_max=16"]).await;
    let mut raw = RawHttp2::begin(siege.broker.port(), &[]).await;
    // A client keeps to the limit once it knows it. This one has heard of it and does not.
    assert!(raw.answers().await);
    let subscribe = subscribe_to_orders();
    for n in 0..400 {
        raw.ask(2 * n + 1, SUBSCRIBE, &subscribe).await.expect("taken");
        if n < 16 {
            continue;
        }
        let refused = raw.find(|frame| frame.stream == 2 * n + 1).await.expect("the connection is open");
        assert_eq!((refused.kind, refused.reason()), (kind::RST_STREAM, Some(reason::REFUSED_STREAM)));
    }
    assert!(raw.answers().await);
    siege.publish(50).await;
    siege.assert_grown_less_than(SLACK_BYTES);
    drop(raw);
    siege.over().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_that_never_end_end_the_connection() {
    let mut siege = Siege::start(&[]).await;
    let port = siege.broker.port();
    let flood = |port| async move {
        let mut raw = RawHttp2::begin(port, &[]).await;
        let mut block = raw_http2::call(PUBLISH);
        raw_http2::header(&mut block, "x", &"y".repeat(8000));
        raw.write(&frame(kind::HEADERS, flag::NONE, 1, &block)).await.expect("taken");
        let more = frame(kind::CONTINUATION, flag::NONE, 1, &block[..8000]);
        let mut written = 0;
        // For ever, if the broker lets it.
        while written < 256 << 20 && raw.write(&more).await.is_ok() {
            written += more.len();
        }
        (written, raw)
    };
    let (written, mut raw) = flood(port).await;
    assert!(written < 64 << 20, "{written} bytes of headers were taken");
    raw.end().await;
    siege
        .work_under(async move {
            loop {
                flood(port).await;
            }
        })
        .await;
    siege.assert_grown_less_than(SLACK_BYTES);
    siege.over().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_over_the_limit_are_refused_and_the_connection_goes_on() {
    let siege = Siege::start(&[]).await;
    let mut raw = RawHttp2::begin(siege.broker.port(), &[]).await;
    for (n, bytes) in (0..).zip([20 << 10, 100 << 10, 200 << 10]) {
        let stream = 2 * n + 1;
        let mut block = raw_http2::call(PUBLISH);
        raw_http2::header(&mut block, "x", &"y".repeat(bytes));
        let pieces: Vec<&[u8]> = block.chunks(16 << 10).collect();
        for (i, piece) in pieces.iter().enumerate() {
            let kind = if i == 0 { kind::HEADERS } else { kind::CONTINUATION };
            let flags = if i + 1 == pieces.len() { flag::END_HEADERS } else { flag::NONE };
            if raw.write(&frame(kind, flags, stream, piece)).await.is_err() {
                break;
            }
        }
        let answer = raw.find(|frame| frame.stream == stream || frame.kind == kind::GOAWAY).await;
        if bytes < 64 << 10 {
            let answer = answer.expect("the connection is open");
            assert!(matches!(answer.kind, kind::HEADERS | kind::RST_STREAM), "{answer:?}");
            assert!(raw.answers().await);
        }
    }
    siege.assert_grown_less_than(SLACK_BYTES);
    siege.over().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_that_want_answers_which_nobody_reads_cost_no_memory() {
    let mut siege = Siege::start(&[]).await;
    let ping = frame(kind::PING, flag::NONE, 0, &[7; 8]);
    let settings = frame(kind::SETTINGS, flag::NONE, 0, &[0, 4, 0, 1, 0, 0]);
    let unknown = frame(0xee, 0xff, 0, &[1; 100]);
    let priority = frame(2, flag::NONE, 1, &[0, 0, 0, 3, 9]);
    for flooding in [ping, settings, unknown, priority] {
        let mut floods = Vec::new();
        for _ in 0..4 {
            floods.push((RawHttp2::begin(siege.broker.port(), &[]).await, flooding.repeat(1000)));
        }
        let flood = async move {
            let each = floods.into_iter().map(|(mut raw, bytes)| async move {
                while raw.write(&bytes).await.is_ok() {}
                // Closed, or not read further: both are answers.
            });
            futures_util::future::join_all(each).await;
            std::future::pending().await
        };
        siege.work_under(flood).await;
        siege.assert_grown_less_than(SLACK_BYTES);
    }
    siege.over().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nonsense_ends_its_own_connection_and_nothing_else() {
    let mut siege = Siege::start(&[]).await;
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let noise: Vec<u8> = (0..4096).map(|_| rng.u8(..)).collect();
    let on_a_stream = |frame_: Vec<u8>| {
        let headers = frame(kind::HEADERS, flag::END_HEADERS, 1, &raw_http2::call(PUBLISH));
        [headers, frame_].concat()
    };
    let mut nonsense = vec![
        noise,
        // Frames where they must not be, of lengths they must not have.
        frame(kind::DATA, flag::NONE, 0, b"x"),
        frame(kind::DATA, flag::NONE, 9, b"x"),
        frame(kind::HEADERS, flag::END_HEADERS, 0, &raw_http2::call(PUBLISH)),
        frame(kind::HEADERS, flag::END_HEADERS, 2, &raw_http2::call(PUBLISH)),
        frame(kind::HEADERS, flag::END_HEADERS, 1, &[0xff; 100]),
        frame(kind::SETTINGS, flag::NONE, 0, &[0; 5]),
        frame(kind::SETTINGS, flag::NONE, 1, &[0; 6]),
        frame(kind::SETTINGS, flag::ACK, 0, &[0; 6]),
        frame(kind::SETTINGS, flag::NONE, 0, &[0, 4, 0xff, 0xff, 0xff, 0xff]),
        frame(kind::SETTINGS, flag::NONE, 0, &[0, 5, 0, 0, 0, 1]),
        frame(kind::PING, flag::NONE, 0, b"short"),
        frame(kind::WINDOW_UPDATE, flag::NONE, 0, &[0; 4]),
        frame(kind::WINDOW_UPDATE, flag::NONE, 0, &[0x7f, 0xff, 0xff, 0xff]),
        frame(kind::CONTINUATION, flag::NONE, 1, b"x"),
        frame(kind::RST_STREAM, flag::NONE, 0, &[0; 4]),
        frame(kind::RST_STREAM, flag::NONE, 77, &[0; 4]),
        frame(5, flag::END_HEADERS, 1, &[0, 0, 0, 2]),
        // More than a frame may hold, by its own word.
        [&[0xff, 0xff, 0xff, kind::DATA, 0, 0, 0, 0, 1][..], &[0; 1000]].concat(),
        on_a_stream(frame(kind::WINDOW_UPDATE, flag::NONE, 1, &[0x7f, 0xff, 0xff, 0xff])),
        on_a_stream(frame(kind::HEADERS, flag::END_HEADERS, 1, &raw_http2::call(PUBLISH))),
        // Padding longer than the frame.
        on_a_stream(frame(kind::DATA, 8, 1, &[200, 0])),
    ];
    nonsense.push(PREFACE.repeat(3));
    for bytes in nonsense {
        let mut raw = RawHttp2::begin(siege.broker.port(), &[]).await;
        let _ = raw.write(&bytes).await;
        // Whether it ends the stream, the connection or nothing: half a frame more, and the client is gone.
        let _ = raw.write(&[0, 1, 0, kind::DATA]).await;
        siege.publish(1).await;
    }
    siege.over().await;
}

fn subscribe_to_orders() -> Vec<u8> {
    use prost::Message as _;
    let request = aqueduct_proto::v1::SubscribeRequest {
        topic: "orders".to_owned(),
        ..aqueduct_proto::v1::SubscribeRequest::default()
    };
    request.encode_to_vec()
}
