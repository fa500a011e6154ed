//! Numbers that lie: counts, offsets, times and sequences at and over their edges.

use aqueduct_proto::v1;
use aqueduct_tests::{Raw, Refusal, raw, within};
use tonic::{Code, Status};

use crate::{SLACK_BYTES, Siege};

const EDGES: [u64; 6] = [0, 1, u32::MAX as u64, 1 << 62, u64::MAX - 1, u64::MAX];

/// What anybody may be answered.
#[track_caller]
fn sensible<T>(what: &str, answer: Result<T, Status>) {
    let Err(status) = answer else { return };
    let refusal = Refusal::from(status);
    let by_design = matches!(
        refusal.code,
        Code::InvalidArgument
            | Code::NotFound
            | Code::OutOfRange
            | Code::FailedPrecondition
            | Code::ResourceExhausted
            | Code::Aborted
            | Code::AlreadyExists
            | Code::Unimplemented
    );
    assert!(by_design && !refusal.reason.is_empty(), "{what}: {refusal:?}");
}

fn start(at: v1::start::At) -> Option<v1::Start> {
    Some(v1::Start { at: Some(at) })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn offsets_and_times_at_their_edges_are_answered_or_refused() {
    let mut siege = Siege::start(&[]).await;
    let raw = &mut Raw::connect(&siege.broker.url()).await;
    let topic = || "orders".to_owned();
    for edge in EDGES {
        let narrow = u32::try_from(edge).unwrap_or(u32::MAX);
        let signed = edge.cast_signed();
        let fetch = v1::FetchRequest { topic: topic(), offset: edge, max_bytes: narrow, ..Default::default() };
        sensible("fetch", raw.log.fetch(fetch).await);
        let fetch = v1::FetchRequest { topic: topic(), partition: narrow, decode: true, ..Default::default() };
        sensible("fetch", raw.log.fetch(fetch).await);
        sensible(
            "truncate",
            raw.topics
                .truncate(v1::TruncateTopicRequest {
                    name: "nowhere".to_owned(),
                    partition: narrow,
                    before_offset: edge,
                })
                .await,
        );
        for at in [v1::start::At::Offset(edge), v1::start::At::TimeUs(signed), v1::start::At::TimeUs(i64::MIN)] {
            let subscribe = |end_offset| v1::SubscribeRequest {
                topic: topic(),
                partitions: vec![v1::PartitionStart { partition: 0, start: start(at), end_offset }; 3],
                until_end: true,
                heartbeat_ms: narrow,
                ..Default::default()
            };
            for end_offset in [None, Some(edge), Some(0)] {
                let opened = raw.log.subscribe(subscribe(end_offset)).await;
                if let Ok(opened) = opened {
                    sensible("subscribe", within("an answer", opened.into_inner().message()).await);
                } else {
                    sensible("subscribe", opened);
                }
            }
            let window = v1::DailyWindow { from_minute: narrow, to_minute: narrow.wrapping_add(1) };
            let hours = v1::DeliveryHours { windows: vec![window; 3], utc_offset_minutes: narrow.cast_signed() };
            let policy = Some(v1::GroupPolicy {
                start: start(at),
                ack_timeout_ms: narrow,
                hours: Some(hours.clone()),
                ..Default::default()
            });
            let group = format!("edge-{edge}");
            sensible("create", raw.groups.create(v1::CreateGroupRequest { group: group.clone(), policy }).await);
            let alter = v1::AlterGroupRequest { group: group.clone(), hours: Some(hours), ..Default::default() };
            sensible("alter", raw.groups.alter(alter).await);
            let offsets = vec![
                v1::PartitionOffset { partition: narrow, offset: edge },
                v1::PartitionOffset { partition: 0, offset: edge },
            ];
            let commit = v1::CommitRequest { group: group.clone(), topic: topic(), offsets, ..Default::default() };
            sensible("commit", raw.groups.commit(commit).await);
            for to in [
                v1::reset_group_request::To::Shift(signed),
                v1::reset_group_request::To::Shift(i64::MIN),
                v1::reset_group_request::To::Start(v1::Start { at: Some(at) }),
            ] {
                let reset = v1::ResetGroupRequest {
                    group: group.clone(),
                    topic: topic(),
                    to: Some(to),
                    partitions: vec![0, narrow],
                    ..Default::default()
                };
                sensible("reset", raw.groups.reset(reset.clone()).await);
                sensible("reset", raw.groups.reset(v1::ResetGroupRequest { partitions: Vec::new(), ..reset }).await);
            }
            sensible(
                "lag",
                raw.groups.watch_lag(v1::WatchLagRequest { group: group.clone(), ..Default::default() }).await,
            );
        }
    }
    siege.assert_grown_less_than(SLACK_BYTES);
    siege.publish(10).await;
    siege.over().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_of_topics_at_their_edges_are_kept_or_refused() {
    let mut siege = Siege::start(&[]).await;
    let raw = &mut Raw::connect(&siege.broker.url()).await;
    for (n, edge) in EDGES.into_iter().enumerate() {
        let name = format!("edge-{n}");
        let backlog = |mode: i32| {
            let (group, max) = (format!("edge-{edge}"), Some(edge));
            v1::Backlog { mode, group, max_records: max, max_bytes: max, max_ms: max, group_unknown: true }
        };
        let config = |partitions| v1::TopicConfig {
            partitions,
            retention_bytes: Some(edge),
            retention_age_ms: Some(edge),
            durability: 7,
            owner: Some("o".repeat(100_000)),
            segment_bytes: Some(edge),
            backlog: Some(backlog(i32::MIN)),
            cleanup: 9,
            tombstone_retention_ms: Some(edge),
            min_compaction_lag_ms: Some(edge),
        };
        for partitions in [1, u32::MAX] {
            let create = v1::CreateTopicRequest { name: name.clone(), config: Some(config(partitions)) };
            sensible("create", raw.topics.create(create).await);
        }
        let plain = v1::TopicConfig { partitions: 1, ..Default::default() };
        let plain = v1::TopicConfig {
            retention_bytes: Some(edge),
            retention_age_ms: Some(edge),
            tombstone_retention_ms: Some(edge),
            min_compaction_lag_ms: Some(edge),
            ..plain
        };
        sensible("create", raw.topics.create(v1::CreateTopicRequest { name: name.clone(), config: Some(plain) }).await);
        let alter = v1::AlterTopicRequest {
            name: name.clone(),
            retention_bytes: Some(edge),
            retention_age_ms: Some(edge),
            durability: Some(-1),
            owner: Some("\0".repeat(1000)),
            partitions: Some(1),
            backlog: Some(v1::Backlog { group: "g".repeat(100_000), ..backlog(2) }),
            cleanup: Some(-1),
            tombstone_retention_ms: Some(edge),
            min_compaction_lag_ms: Some(edge),
        };
        sensible("alter", raw.topics.alter(alter.clone()).await);
        for mode in [0, 1, 2, 3, i32::MAX] {
            let backlog = Some(backlog(mode));
            let alter = v1::AlterTopicRequest { name: name.clone(), backlog, ..Default::default() };
            sensible("alter", raw.topics.alter(alter).await);
            sensible("publish", raw.publish(raw::publish_records(&name, vec![raw::record("x")])).await);
        }
        let alter = v1::AlterTopicRequest { durability: None, owner: None, cleanup: None, ..alter };
        sensible("alter", raw.topics.alter(alter).await);
    }
    siege.publish(10).await;
    // What was taken can be read again.
    siege.broker = siege.broker.kill_and_restart();
    siege.client = siege.broker.client().await;
    siege.publish(1).await;
    assert!(!siege.broker.log().contains("panicked"), "{}", siege.broker.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counts_that_lie_are_refused_before_anything_is_allocated_for_them() {
    let mut siege = Siege::start(&[]).await;
    let mut raw = Raw::connect(&siege.broker.url()).await;
    let honest = raw::batch(vec![raw::record("x")]);
    let lies = [
        v1::Batch { record_count: u32::MAX, ..honest.clone() },
        v1::Batch { record_count: 65_536, ..honest.clone() },
        v1::Batch { offset_span: u32::MAX, ..honest.clone() },
        v1::Batch { offset_deltas: (0..500_000).collect(), ..honest.clone() },
        v1::Batch { key_hashes: vec![7; 500_000], ..honest.clone() },
        v1::Batch { attributes: u32::MAX, ..honest.clone() },
        v1::Batch { codec: i32::MIN, ..honest.clone() },
        v1::Batch { codec: v1::Codec::Zstd.into(), ..honest.clone() },
        v1::Batch { crc32: !honest.crc32, ..honest.clone() },
        v1::Batch { records: vec![0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f].into(), ..honest.clone() },
    ];
    for lie in lies {
        for _ in 0..10 {
            let refusal = Refusal::of(raw.publish(raw::publish_batch("orders", lie.clone())).await);
            assert_eq!(refusal.code, Code::InvalidArgument, "{refusal:?}");
            assert!(!refusal.reason.is_empty());
        }
    }
    siege.assert_grown_less_than(SLACK_BYTES);
    siege.publish(10).await;
    siege.over().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gaps_and_old_epochs_of_a_producer_are_refused_by_name() {
    let siege = Siege::start(&[]).await;
    siege.client.topics().create("sequenced").build().await.expect("a new topic");
    let mut raw = Raw::connect(&siege.broker.url()).await;
    let attempt = |epoch, sequence, count| v1::PublishRequest {
        producer: Some(v1::ProducerSequence { id: vec![9; 16].into(), epoch, sequence }),
        ..raw::publish_records("sequenced", vec![raw::record("x"); count])
    };
    let stored = raw.publish(attempt(3, 0, 5)).await.expect("a receipt");
    let gap = Refusal::of(raw.publish(attempt(3, 6, 1)).await).expect(Code::FailedPrecondition, "SEQUENCE_GAP");
    assert_eq!((gap.fact("expected_sequence"), gap.fact("sequence")), ("5", "6"));
    for sequence in [1 << 40, u64::MAX - 1, u64::MAX] {
        Refusal::of(raw.publish(attempt(3, sequence, 2)).await).expect(Code::FailedPrecondition, "SEQUENCE_GAP");
    }
    for epoch in [0, 2] {
        let fenced = Refusal::of(raw.publish(attempt(epoch, 5, 1)).await);
        assert_eq!(fenced.expect(Code::FailedPrecondition, "PRODUCER_FENCED").fact("epoch"), "3");
    }
    // A part of what is stored is neither a retry nor something new.
    let part = Refusal::of(raw.publish(attempt(3, 2, 5)).await);
    assert_eq!(part.code, Code::FailedPrecondition, "{part:?}");
    let again = raw.publish(attempt(3, 0, 5)).await.expect("a receipt");
    assert_eq!((again.base_offset, again.duplicate), (stored.base_offset, true));
    let newer = raw.publish(attempt(4, 0, 1)).await.expect("a newer epoch begins again");
    assert_eq!(newer.base_offset, 5);
    Refusal::of(raw.publish(attempt(3, 5, 1)).await).expect(Code::FailedPrecondition, "PRODUCER_FENCED");
    siege.client.topics().delete("sequenced").await.expect("deleted");
    siege.over().await;
}
