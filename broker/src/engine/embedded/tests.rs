use std::path::PathBuf;

use super::*;
use crate::engine::conformance::{self, Subject};

fn options() -> EmbeddedOptions {
    EmbeddedOptions { io_threads: 2, segment_bytes: 64 << 10, tail_cache_bytes: 1 << 20 }
}

fn meta(name: &str, partitions: u32) -> TopicMeta {
    TopicMeta {
        name: name.to_owned(),
        id: *uuid::Uuid::new_v4().as_bytes(),
        partitions,
        retention_bytes: None,
        retention_age: None,
        durability: storage::Durability::Fsync,
        segment_bytes: None,
        owner: None,
        created_us: 0,
        ..TopicMeta::default()
    }
}

fn real_disk() -> Arc<dyn storage::Disk> {
    Arc::new(storage::RealDisk::new())
}

struct EmbeddedSubject {
    _directory: tempfile::TempDir,
    path: PathBuf,
    engine: Mutex<Option<Arc<EmbeddedEngine>>>,
}

impl EmbeddedSubject {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("data");
        let engine = Arc::new(EmbeddedEngine::open(real_disk(), &path, options()).unwrap());
        Self { _directory: directory, path, engine: Mutex::new(Some(engine)) }
    }

    fn engine(&self) -> Arc<EmbeddedEngine> {
        self.engine.lock().clone().unwrap()
    }
}

fn first(logs: TopicLogs) -> Arc<dyn PartitionLog> {
    logs.partitions.into_iter().next().unwrap().unwrap()
}

impl Subject for EmbeddedSubject {
    async fn log(&self) -> Arc<dyn PartitionLog> {
        first(self.engine().create_topic(meta("t", 1)).await.unwrap())
    }

    async fn reopen(&self, log: Arc<dyn PartitionLog>) -> Arc<dyn PartitionLog> {
        drop(log);
        *self.engine.lock() = None;
        let engine = Arc::new(EmbeddedEngine::open(real_disk(), &self.path, options()).unwrap());
        *self.engine.lock() = Some(Arc::clone(&engine));
        first(engine.open_topics().await.unwrap().pop().unwrap())
    }
}

#[tokio::test]
async fn the_embedded_engine_conforms() {
    conformance::run(async || EmbeddedSubject::new()).await;
}

#[tokio::test]
async fn a_second_engine_on_the_same_directory_is_refused_with_the_holder() {
    let subject = EmbeddedSubject::new();
    let Err(error) = EmbeddedEngine::open(real_disk(), &subject.path, options()) else { panic!("opened twice") };
    assert!(matches!(error, OpenError::Locked { pid: Some(pid), .. } if pid == std::process::id()), "{error}");
}

#[tokio::test]
async fn partitions_can_be_added_and_topics_deleted() {
    let subject = EmbeddedSubject::new();
    let engine = subject.engine();
    let logs = engine.create_topic(meta("t", 1)).await.unwrap();
    let added = engine.update_topic(TopicMeta { partitions: 3, ..logs.meta.clone() }).await.unwrap();
    assert_eq!(added.len(), 2);
    for log in added.iter().chain(logs.partitions.iter().flatten()) {
        log.close().await.unwrap();
    }
    engine.delete_topic(logs.meta).await.unwrap();
    assert!(engine.open_topics().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_append_that_follows_an_answer_at_once_is_always_taken() {
    let subject = EmbeddedSubject::new();
    let meta = TopicMeta { durability: storage::Durability::Os, ..meta("t", 1) };
    let log = first(subject.engine().create_topic(meta).await.unwrap());
    let lease = log.acquire().await.unwrap();
    for offset in 0..20_000 {
        let batch = storage::Batch {
            header: storage::BatchHeader {
                base_offset: offset,
                record_count: 1,
                epoch: lease.epoch,
                ..Default::default()
            },
            payload: Bytes::new(),
        };
        assert_eq!(log.append(lease, offset, vec![batch]).await, Ok(()), "offset {offset}");
    }
}

#[tokio::test]
async fn a_log_that_outlives_its_engine_answers_instead_of_waiting_for_ever() {
    let subject = EmbeddedSubject::new();
    let log = subject.log().await;
    let lease = log.acquire().await.unwrap();
    *subject.engine.lock() = None;
    let batch = storage::Batch {
        header: storage::BatchHeader { record_count: 1, epoch: lease.epoch, ..Default::default() },
        payload: Bytes::new(),
    };
    assert!(log.append(lease, 0, vec![batch]).await.is_err());
    drop(log);
    EmbeddedEngine::open(real_disk(), &subject.path, options()).expect("the directory is free again");
}

#[tokio::test]
async fn a_busy_log_keeps_to_its_bytes_without_a_round_of_retention() {
    let subject = EmbeddedSubject::new();
    let bytes_max = 2 * options().segment_bytes;
    let meta = TopicMeta { retention_bytes: Some(bytes_max), ..meta("t", 1) };
    let log = first(subject.engine().create_topic(meta).await.unwrap());
    let lease = log.acquire().await.unwrap();
    for base_offset in 0..40 {
        let batch = storage::Batch {
            header: storage::BatchHeader { base_offset, record_count: 1, epoch: lease.epoch, ..Default::default() },
            payload: Bytes::from(vec![0; 20_000]),
        };
        assert_eq!(log.append(lease, base_offset, vec![batch]).await, Ok(()));
    }
    // After the append that it follows.
    let log_start = log.trim(0).await.unwrap();
    let size_bytes = log.stats().size_bytes;
    assert!(log_start > 0 && log_start < 40, "{log_start}");
    assert!((bytes_max..bytes_max + 2 * options().segment_bytes).contains(&size_bytes), "{size_bytes}");
    assert_eq!(log.watch().borrow().log_start, log_start, "everybody knows");
}
