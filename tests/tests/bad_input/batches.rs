//! Batches that are too large, broken, or not what they say.

use std::io::Write as _;

use aqueduct_proto::v1::{self, publish_request::Payload};
use aqueduct_tests::{Raw, Refusal, eventually, raw, resident_anonymous_bytes};
use prost::Message as _;
use tonic::Code;

use crate::Victim;

const MIB: usize = 1 << 20;

fn lz4(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 3).expect("memory")
}

fn record_set(count: usize, value_bytes: usize) -> Vec<u8> {
    v1::RecordSet { records: vec![raw::record(vec![0; value_bytes]); count] }.encode_to_vec()
}

#[tokio::test]
async fn records_and_batches_over_the_limits_are_refused_with_the_limit() {
    let mut victim = Victim::start().await;
    let large_record = raw::publish_records("orders", vec![raw::record(vec![0; MIB + 1])]);
    let large_batch = raw::publish_records("orders", vec![raw::record(vec![0; MIB / 2]); 5]);
    let many_records = raw::publish_records("orders", vec![raw::record(""); 65_537]);
    let encoded_record = raw::publish_batch("orders", raw::batch(vec![raw::record(vec![0; MIB + 1])]));
    let encoded_batch = raw::publish_batch("orders", raw::batch(vec![raw::record(vec![0; MIB / 2]); 5]));
    for (request, limit) in [
        (large_record, "1048576"),
        (large_batch, "2097152"),
        (many_records, "65536"),
        (encoded_record, "1048576"),
        (encoded_batch, "2097152"),
    ] {
        let refusal = Refusal::of(victim.raw.publish(request).await).expect(Code::InvalidArgument, "TOO_LARGE");
        assert_eq!(refusal.fact("limit"), limit);
        victim.still_works().await;
    }
}

#[tokio::test]
async fn a_message_far_over_the_limit_is_refused_and_the_connection_survives() {
    let mut victim = Victim::start().await;
    let request = raw::publish_records("orders", vec![raw::record(vec![0; 40 * MIB])]);
    let refusal = Refusal::from(victim.raw.log.publish(request).await.expect_err("too large"));
    assert!(matches!(refusal.code, Code::ResourceExhausted | Code::OutOfRange | Code::InvalidArgument), "{refusal:?}");
    victim.still_works().await;
}

#[tokio::test]
async fn a_batch_that_is_not_what_it_says_is_refused_by_field() {
    let mut victim = Victim::start().await;
    let honest = raw::batch(vec![raw::record("a"), raw::record("b")]);
    let with = |change: &dyn Fn(&mut v1::Batch)| {
        let mut batch = honest.clone();
        change(&mut batch);
        batch
    };
    let plain = honest.records.to_vec();
    let truncated = plain[..plain.len() - 1].to_vec();
    for (field, batch) in [
        ("batch.record_count", with(&|batch| batch.record_count = 1)),
        ("batch.record_count", with(&|batch| batch.record_count = 3)),
        ("batch.record_count", with(&|batch| batch.record_count = 0)),
        ("batch.record_count", raw::sealed(Vec::new(), 1, v1::Codec::None)),
        ("batch.crc32", with(&|batch| batch.crc32 ^= 1)),
        ("batch.crc32", with(&|batch| batch.records = [&plain[..], &[0]].concat().into())),
        ("batch.records", raw::sealed(truncated, 2, v1::Codec::None)),
        ("batch.records", raw::sealed(b"this is no protobuf".to_vec(), 2, v1::Codec::None)),
        // A length of 2^64 - 1.
        ("batch.records", raw::sealed([&[10][..], &[0xff; 9], &[1]].concat(), 1, v1::Codec::None)),
        ("batch.records", raw::sealed(plain.clone(), 2, v1::Codec::Lz4)),
        ("batch.records", raw::sealed(plain.clone(), 2, v1::Codec::Zstd)),
        ("batch.records", raw::sealed(lz4(&plain), 2, v1::Codec::Zstd)),
        ("batch.records", raw::sealed(lz4(&plain)[..12].to_vec(), 2, v1::Codec::Lz4)),
        ("batch.records", raw::sealed(zstd(&plain)[..8].to_vec(), 2, v1::Codec::Zstd)),
        ("batch.record_count", raw::sealed(zstd(&plain), 9, v1::Codec::Zstd)),
        ("batch.codec", with(&|batch| batch.codec = 99)),
        ("batch.attributes", with(&|batch| batch.attributes = 1)),
        ("batch.offset_deltas", with(&|batch| batch.offset_deltas = vec![0, 1])),
        ("batch.key_hashes", with(&|batch| batch.key_hashes = vec![1])),
    ] {
        let refusal = Refusal::of(victim.raw.publish(raw::publish_batch("orders", batch)).await);
        assert_eq!(refusal.code, Code::InvalidArgument, "{field}: {refusal:?}");
        let named = refusal.message.contains(field) || refusal.reason == "TOO_LARGE";
        assert!(named, "{field} is not named: {}", refusal.message);
    }
    victim.still_works().await;
    victim.raw.publish(raw::publish_batch("orders", honest)).await.expect("the honest one is taken");
}

#[tokio::test]
async fn decompression_bombs_are_refused_at_the_decoded_limit_without_costing_memory() {
    let mut victim = Victim::start().await;
    let before = resident_anonymous_bytes(victim.broker.pid());
    // 900 MiB in one go: zeros compress to next to nothing.
    let bomb = record_set(900, MIB - 16);
    let bombs = [raw::sealed(lz4(&bomb), 900, v1::Codec::Lz4), raw::sealed(zstd(&bomb), 900, v1::Codec::Zstd)];
    let huge_window = {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3).expect("memory");
        encoder.window_log(31).expect("a window of 2 GiB");
        encoder.long_distance_matching(true).expect("supported");
        encoder.write_all(&record_set(100, MIB - 16)).expect("memory");
        raw::sealed(encoder.finish().expect("memory"), 100, v1::Codec::Zstd)
    };
    drop(bomb);
    for batch in bombs.into_iter().chain([huge_window]).filter(|batch| batch.records.len() < 2 * MIB) {
        for _ in 0..3 {
            let refusal = Refusal::of(victim.raw.publish(raw::publish_batch("orders", batch.clone())).await);
            assert_eq!(refusal.code, Code::InvalidArgument, "{refusal:?}");
        }
        let grown = resident_anonymous_bytes(victim.broker.pid()).saturating_sub(before);
        assert!(grown < 64 * MIB as u64, "{grown} bytes for a bomb of {} bytes", batch.records.len());
    }
    victim.still_works().await;
}

#[tokio::test]
async fn requests_that_lack_something_are_refused_by_field() {
    let mut victim = Victim::start().await;
    let good = || raw::publish_records("orders", vec![raw::record("x")]);
    let sequence = v1::ProducerSequence { id: vec![1; 16].into(), ..v1::ProducerSequence::default() };
    let short_id = v1::ProducerSequence { id: vec![1; 15].into(), ..sequence.clone() };
    let batch = Some(Payload::Batch(raw::batch(vec![raw::record("x")])));
    for (field, request) in [
        ("payload", v1::PublishRequest { payload: None, ..good() }),
        ("records", raw::publish_records("orders", Vec::new())),
        ("partition", v1::PublishRequest { payload: batch, partition: None, ..good() }),
        ("partition", v1::PublishRequest { producer: Some(sequence.clone()), partition: None, ..good() }),
        ("producer.id", v1::PublishRequest { producer: Some(short_id), ..good() }),
        ("producer", v1::PublishRequest { producer: Some(sequence), deliver_at_us: Some(1), ..good() }),
        ("deliver_at_us", v1::PublishRequest { deliver_at_us: Some(i64::MAX), ..good() }),
        ("deliver_after_us", v1::PublishRequest { deliver_after_us: Some(u64::MAX), ..good() }),
        ("deliver_after_us", v1::PublishRequest { deliver_at_us: Some(1), deliver_after_us: Some(1), ..good() }),
    ] {
        let refusal = Refusal::of(victim.raw.publish(request).await).expect(Code::InvalidArgument, "INVALID_REQUEST");
        assert!(refusal.message.contains(field), "{field} is not named: {}", refusal.message);
    }
    victim.still_works().await;
}

#[tokio::test]
async fn one_bad_request_of_a_stream_does_not_end_it() {
    let mut victim = Victim::start().await;
    let good = raw::publish_records("orders", vec![raw::record("good")]);
    let mut lying = raw::publish_batch("orders", raw::batch(vec![raw::record("bad")]));
    if let Some(Payload::Batch(batch)) = &mut lying.payload {
        batch.record_count = 2;
    }
    let elsewhere = raw::publish_records("elsewhere", vec![raw::record("bad")]);
    let unknown_partition = v1::PublishRequest { partition: Some(9), ..good.clone() };
    let requests =
        [good.clone(), lying, elsewhere, unknown_partition, v1::PublishRequest { topic: String::new(), ..good }];
    let requests = (1..).zip(requests).map(|(request_id, request)| v1::PublishRequest { request_id, ..request });
    let requests: Vec<_> = requests.collect();
    let stream = victim.raw.log.publish_stream(futures_util::stream::iter(requests)).await.expect("a stream");
    let mut stream = stream.into_inner();
    let mut outcomes = std::collections::BTreeMap::new();
    while let Some(answer) = stream.message().await.expect("the stream goes on") {
        if let Some(v1::publish_stream_response::Event::Outcome(outcome)) = answer.event {
            let code = match outcome.outcome {
                Some(v1::outcome::Outcome::Response(_)) => Code::Ok,
                Some(v1::outcome::Outcome::Error(error)) => Refusal::from(error).code,
                None => panic!("an outcome that says nothing"),
            };
            outcomes.insert(outcome.request_id, code);
        }
    }
    let codes: Vec<Code> = outcomes.into_values().collect();
    assert_eq!(codes, [Code::Ok, Code::InvalidArgument, Code::InvalidArgument, Code::NotFound, Code::Ok]);
    victim.stored = 2;
    victim.still_works().await;
}

#[tokio::test]
async fn a_publisher_that_disconnects_in_the_middle_leaves_whole_batches_or_nothing() {
    let victim = Victim::start().await;
    for round in 0..5 {
        let mut raw = Raw::connect(&victim.broker.url()).await;
        let batch = || raw::publish_batch("orders", raw::batch(vec![raw::record(vec![round; 1000]); 7]));
        let requests = (1..200).map(move |request_id| v1::PublishRequest { request_id, ..batch() });
        let requests = requests.collect::<Vec<_>>();
        let stream = raw.log.publish_stream(futures_util::stream::iter(requests)).await.expect("a stream");
        let first = stream.into_inner().message().await.expect("an answer");
        assert!(first.is_some());
        drop(raw);
    }
    let client = victim.broker.client().await;
    let window = async || client.topics().describe("orders").await.expect("a description").partitions[0].high_watermark;
    let mut last = u64::MAX;
    let settled = eventually("what was taken in is stored", async || {
        let now = window().await;
        (std::mem::replace(&mut last, now) == now).then_some(now)
    });
    assert_eq!(settled.await % 7, 0);
    assert_eq!(aqueduct_tests::read_all(&client, "orders").await.len() as u64 % 7, 0);
}
