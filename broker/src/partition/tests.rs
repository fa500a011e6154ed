//! Partitions on the simulated disk: what their publishers are told across kills and panics.

use std::path::Path;

use aqueduct_storage::{
    BatchHeader, Durability, ProducerSequence, TopicMeta, payload_crc,
    sim::{Fault, Injection, OpKind, SimDisk},
};

use super::*;
use crate::engine::{
    MetaStore as _,
    embedded::{EmbeddedEngine, EmbeddedOptions},
};

fn engine_on(disk: &SimDisk) -> Arc<EmbeddedEngine> {
    let options = EmbeddedOptions { io_threads: 2, segment_bytes: 64 << 10, tail_cache_bytes: 1 << 20 };
    Arc::new(EmbeddedEngine::open(disk.shared(), Path::new("/data"), options).expect("it opens"))
}

/// An engine, and the partitions of its topic.
struct Stage {
    _engine: Arc<EmbeddedEngine>,
    partitions: Vec<Partition>,
}

/// With the topic `t`, which is made if there is none.
async fn stage_on(disk: &SimDisk) -> Stage {
    let engine = engine_on(disk);
    let meta = TopicMeta {
        name: "t".to_owned(),
        id: [5; 16],
        partitions: 2,
        retention_bytes: None,
        retention_age: None,
        durability: Durability::Fsync,
        segment_bytes: None,
        owner: None,
        created_us: 0,
        ..TopicMeta::default()
    };
    let logs = match engine.open_topics().await.expect("topics").pop() {
        Some(topic) => topic,
        None => engine.create_topic(meta).await.expect("it is made"),
    };
    let budget = Arc::new(Budget::new("TOPIC_BUDGET", "t", 1 << 20));
    let partition = |(index, log)| {
        Partition::new(
            Place { topic: "t".to_owned(), index, own_producer: [9; 16] },
            log,
            Arc::clone(&budget),
            Arc::default(),
            Clock::default(),
            FailureNotice::default(),
        )
    };
    let partitions = (0..).zip(logs.partitions).map(partition).collect();
    Stage { _engine: engine, partitions }
}

/// Two records, the first of which has this `sequence` of its producer.
async fn publish(partition: &Partition, epoch: u32, sequence: u64) -> Result<Appended, PublishError> {
    let payload = vec![7; 20];
    let header = BatchHeader {
        record_count: 2,
        payload_crc: payload_crc(&payload),
        producer: Some(ProducerSequence { id: [1; 16], epoch, sequence }),
        ..BatchHeader::default()
    };
    let batch = Batch { header, payload: payload.into() };
    partition.append(batch, Permit::default()).await?.await.expect("the owner answers")
}

#[tokio::test]
async fn a_retry_is_answered_with_the_first_offset_across_kills_and_clean_stops() {
    let mut disk = SimDisk::new();
    let stage = stage_on(&disk).await;
    let first = publish(&stage.partitions[0], 3, 0).await.expect("it is stored");
    assert_eq!((first.base_offset, first.duplicate), (0, false));
    for ends_cleanly in [false, true, false] {
        disk = disk.after_kill();
        let stage = stage_on(&disk).await;
        let partition = &stage.partitions[0];
        let again = publish(partition, 3, 0).await.expect("it is stored already");
        assert_eq!((again.base_offset, again.duplicate, again.epoch), (0, true, first.epoch));
        let gap = publish(partition, 3, 10).await;
        assert!(matches!(gap, Err(PublishError::SequenceGap { expected: 2, actual: 10 })), "{gap:?}");
        let old = publish(partition, 2, 2).await;
        assert!(matches!(old, Err(PublishError::ProducerFenced { actual: 2, current: 3 })), "{old:?}");
        if ends_cleanly {
            partition.close().await.expect("it closes");
        }
    }
}

#[tokio::test]
async fn a_writer_that_panics_acknowledges_nothing_more_and_the_other_partitions_go_on() {
    let disk = SimDisk::new();
    let stage = stage_on(&disk).await;
    let [failing, other] = &stage.partitions[..] else { panic!("two partitions") };
    for partition in [failing, other] {
        publish(partition, 0, 0).await.expect("it is stored");
    }
    let path_contains = "/t/0/".to_owned();
    disk.inject(Injection { op: Some(OpKind::Write), path_contains, after: 0, fault: Fault::Panic });
    let answer = publish(failing, 0, 2).await;
    assert!(matches!(answer, Err(PublishError::Unknown(_))), "{answer:?}");
    for _ in 0..2 {
        let refused = publish(failing, 0, 2).await;
        assert!(matches!(refused, Err(PublishError::Unavailable { .. })), "{refused:?}");
        assert!(failing.failure().is_some(), "whoever looks is told");
    }
    let window = *failing.log().expect("its log can be read").watch().borrow();
    assert_eq!(window.high_watermark, 2, "nothing of it is visible");
    assert_eq!(publish(other, 0, 2).await.expect("another partition").base_offset, 2);

    let reopened = stage_on(&disk.after_kill()).await;
    let retried = publish(&reopened.partitions[0], 0, 2).await.expect("a restart makes it well again");
    assert_eq!(retried.base_offset, 2);
}
