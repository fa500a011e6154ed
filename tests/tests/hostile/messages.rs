//! Messages that are none, in every method there is.

use aqueduct_tests::{Refusal, call_with_bytes, raw, within};
use bytes::Bytes;
use prost::Message as _;
use tonic::{Code, Status, transport::Channel};

use crate::{SLACK_BYTES, Siege};

/// Every method, by its path.
const METHODS: &[&str] = &[
    "Log/Publish",
    "Log/PublishStream",
    "Log/OpenProducer",
    "Log/Fetch",
    "Log/Subscribe",
    "Groups/Create",
    "Groups/Alter",
    "Groups/List",
    "Groups/Describe",
    "Groups/Consume",
    "Groups/Commit",
    "Groups/WatchLag",
    "Groups/Reset",
    "Groups/Delete",
    "Groups/ListDeadLetters",
    "Groups/Redrive",
    "Groups/Discard",
    "Topics/Create",
    "Topics/Describe",
    "Topics/List",
    "Topics/Alter",
    "Topics/Delete",
    "Topics/Truncate",
    "Topics/Verify",
    "Admin/Info",
    "Topics/Compact",
];

async fn channel(siege: &Siege) -> Channel {
    Channel::from_shared(siege.broker.url()).expect("a URL").connect().await.expect("the broker listens")
}

async fn send(channel: &Channel, method: &str, message: impl Into<Bytes>) -> Result<usize, Status> {
    let path = format!("/aqueduct.v1.{method}");
    within(method, call_with_bytes(channel, &path, vec![message.into()])).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_method_of_the_api_is_attacked() {
    let in_the_api: usize = {
        let set = prost_types::FileDescriptorSet::decode(aqueduct_proto::FILE_DESCRIPTOR_SET).expect("a description");
        let ours = set.file.iter().filter(|file| file.package() == "aqueduct.v1");
        ours.flat_map(|file| &file.service).map(|service| service.method.len()).sum()
    };
    assert_eq!(METHODS.len(), in_the_api, "a method is missing in METHODS");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_are_no_protobuf_are_refused_with_a_reason_by_every_method() {
    let mut siege = Siege::start(&[]).await;
    let channel = channel(&siege).await;
    // Whatever the fields of a message are, these are none.
    let malformed: &[(&str, &[u8])] = &[
        ("a length that is longer than the message", &[0x0a, 0x7f]),
        ("a length of 2^64 - 1", &[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]),
        ("a number without an end", &[0xff; 32]),
        ("field 0", &[0x00, 0x01]),
        ("wire type 7", &[0xff, 0x07]),
        ("a group that does not end", &[0xfb, 0x07]),
        ("a group that did not begin", &[0xfc, 0x07]),
        ("half a number of four bytes", &[0xfd, 0x07, 0, 0]),
        ("half a number of eight bytes", &[0xf9, 0x07, 0, 0]),
    ];
    for method in METHODS {
        for (what, message) in malformed {
            let refusal = Refusal::of(send(&channel, method, message.to_vec()).await);
            assert_eq!(refusal.code, Code::InvalidArgument, "{method}, {what}: {refusal:?}");
            assert!(!refusal.reason.is_empty(), "{method}, {what}: {refusal:?}");
        }
    }
    // Deeper than any message is.
    let deep = [0xfb, 0x07].repeat(100_000);
    for method in METHODS {
        assert_eq!(Refusal::of(send(&channel, method, deep.clone()).await).code, Code::InvalidArgument, "{method}");
    }
    siege.publish(10).await;
    siege.over().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_that_are_no_text_are_refused() {
    let mut siege = Siege::start(&[]).await;
    let channel = channel(&siege).await;
    // Field 1 is a name in these.
    for method in METHODS
        .iter()
        .filter(|method| !matches!(**method, "Groups/List" | "Groups/Consume" | "Topics/List" | "Admin/Info"))
    {
        let refusal = Refusal::of(send(&channel, method, vec![0x0a, 2, 0xc3, 0x28]).await);
        refusal.expect(Code::InvalidArgument, "MALFORMED_REQUEST");
    }
    siege.publish(10).await;
    siege.over().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_messages_harm_nobody() {
    let siege = Siege::start(&[]).await;
    let channel = channel(&siege).await;
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let honest = raw::publish_records("orders", vec![raw::record("x")]);
    for round in 0..10 {
        for method in METHODS {
            // Half of them almost a request.
            let mut message = if round % 2 == 0 { honest.encode_to_vec() } else { Vec::new() };
            for _ in 0..rng.usize(1..20) {
                let at = rng.usize(..=message.len());
                message.insert(at, rng.u8(..));
            }
            let path = format!("/aqueduct.v1.{method}");
            // Some are requests by accident, and some of those wait for events.
            let call = call_with_bytes(&channel, &path, vec![message.into()]);
            if let Ok(Err(status)) = tokio::time::timeout(std::time::Duration::from_millis(100), call).await {
                let refusal = Refusal::from(status);
                assert!(!matches!(refusal.code, Code::Internal | Code::Unknown), "{method}: {refusal:?}");
                assert!(!refusal.reason.is_empty(), "{method}: {refusal:?}");
            }
        }
    }
    let log = siege.broker.log();
    assert!(!log.contains("panicked"), "{log}");
    // Some may have been publishes; what the honest client gets from here on is counted on another topic.
    siege.client.topics().create("after").build().await.expect("a new topic");
    siege.client.publish("after", aqueduct_client::Record::new("x")).await.expect("a receipt");
    siege.assert_grown_less_than(SLACK_BYTES);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_over_the_limit_are_refused_with_the_limit_by_every_method() {
    let mut siege = Siege::start(&[]).await;
    let channel = channel(&siege).await;
    let large = Bytes::from(vec![0xff; 5 << 20]);
    for method in METHODS {
        let refusal = Refusal::of(send(&channel, method, large.clone()).await);
        if *method == "Groups/Consume" {
            assert_eq!(refusal.code, Code::InvalidArgument, "{refusal:?}");
        } else {
            let refusal = refusal.expect(Code::ResourceExhausted, "TOO_LARGE");
            assert!(refusal.fact("limit").parse::<u64>().is_ok_and(|limit| limit < 5 << 20), "{method}: {refusal:?}");
        }
    }
    siege.assert_grown_less_than(SLACK_BYTES);
    siege.publish(10).await;
    siege.over().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn methods_that_do_not_exist_and_messages_in_other_encodings_are_refused_with_a_reason() {
    let mut siege = Siege::start(&[]).await;
    let channel = channel(&siege).await;
    for method in ["Log/Drop", "Nothing/Publish", "Log/", "Log/Publish/Again", "Log/%00"] {
        Refusal::of(send(&channel, method, Vec::new()).await).expect(Code::Unimplemented, "UNSUPPORTED");
    }
    // A bomb of gRPC's own compression, which this broker does not speak: batches have their codecs.
    let mut bomb = aqueduct_tests::RawHttp2::begin(siege.broker.port(), &[]).await;
    use aqueduct_tests::raw_http2::{self, flag, frame, kind};
    for (n, encoding) in (0..).zip(["gzip", "deflate", "zstd", "identity", "nonsense", ""]) {
        let mut block = raw_http2::call("/aqueduct.v1.Log/Publish");
        raw_http2::header(&mut block, "grpc-encoding", encoding);
        let mut message = raw_http2::message(&zstd::encode_all(&vec![0; 64 << 20][..], 3).expect("memory"));
        message[0] = 1;
        bomb.write(&frame(kind::HEADERS, flag::END_HEADERS, 2 * n + 1, &block)).await.expect("taken");
        bomb.write(&frame(kind::DATA, flag::END_STREAM, 2 * n + 1, &message)).await.expect("taken");
        let refused = bomb.find(|frame| frame.stream == 2 * n + 1).await.expect("the connection is open");
        assert!(matches!(refused.kind, kind::HEADERS | kind::RST_STREAM), "{refused:?}");
        siege.assert_grown_less_than(32 << 20);
    }
    assert!(bomb.answers().await);
    siege.publish(10).await;
    siege.over().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bombs_in_batches_cost_no_memory_and_honest_clients_go_on() {
    use std::io::Write as _;

    use aqueduct_proto::v1;
    let mut siege = Siege::start(&[]).await;
    // 200 MiB of zeros in records of a MiB.
    let unpacked = v1::RecordSet { records: vec![raw::record(vec![0; (1 << 20) - 16]); 200] }.encode_to_vec();
    let mut lz4 = lz4_flex::frame::FrameEncoder::new(Vec::new());
    lz4.write_all(&unpacked).expect("memory");
    let bombs = [
        raw::sealed(zstd::encode_all(&unpacked[..], 3).expect("memory"), 200, v1::Codec::Zstd),
        raw::sealed(lz4.finish().expect("memory"), 200, v1::Codec::Lz4),
    ];
    drop(unpacked);
    let url = siege.broker.url();
    let attack = async move {
        let bombers = (0..8).map(|n| {
            let (bomb, url) = (bombs[n % 2].clone(), url.clone());
            async move {
                let mut raw = aqueduct_tests::Raw::connect(&url).await;
                loop {
                    let refusal = Refusal::of(raw.publish(raw::publish_batch("orders", bomb.clone())).await);
                    assert_eq!(refusal.code, Code::InvalidArgument, "{refusal:?}");
                }
            }
        });
        futures_util::future::join_all(bombers).await;
    };
    siege.work_under(attack).await;
    siege.assert_grown_less_than(SLACK_BYTES);
    siege.over().await;
}
