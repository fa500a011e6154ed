use std::path::{Path, PathBuf};

use aqueduct_client::{Codec, Record, codec::encode_batch};
use aqueduct_storage::{Batch, BatchHeader, LogId, LogOptions, PartitionLog, Urgency, payload_crc, sim::SimDisk};
use futures_util::FutureExt;
use parking_lot::Mutex;

use super::*;

const SEGMENT_BYTES: u64 = 1 << 20;

/// A log on the simulated disk, and its turn.
struct Subject {
    disk: SimDisk,
    log: Arc<Mutex<PartitionLog>>,
    turn: Turn,
    rolls: usize,
}

fn dir() -> PathBuf {
    Path::new("/log").to_owned()
}

impl Subject {
    fn new() -> Self {
        let disk = SimDisk::new();
        let options = LogOptions { segment_bytes: SEGMENT_BYTES, tail_cache_bytes: 0, ..LogOptions::default() };
        let log = PartitionLog::create(disk.shared(), &dir(), LogId([7; 16]), options).unwrap();
        Self { disk, log: Arc::new(Mutex::new(log)), turn: Turn::default(), rolls: 0 }
    }

    /// Another value of the same key.
    fn append(&self) {
        let mut log = self.log.lock();
        let base_offset = log.log_end();
        let payload = encode_batch(&[Record::new(base_offset.to_string()).key("key")], Codec::None).unwrap().records;
        let header = BatchHeader {
            base_offset,
            record_count: 1,
            payload_crc: payload_crc(&payload),
            append_time_us: 1,
            epoch: log.epoch(),
            ..BatchHeader::default()
        };
        log.append_group(&[Batch { header, payload }]).unwrap();
    }

    fn segments(&self) -> usize {
        self.log.lock().reader().segment_count()
    }

    fn job(&self) -> Job {
        let policy = CompactionPolicy {
            now_us: 1_000_000_000,
            tombstone_retention: Duration::ZERO,
            min_lag: Duration::ZERO,
            active_age_max: Duration::ZERO,
            keys_max: 100,
            urgency: Urgency::Due { new_percent_min: 1, new_bytes_min: 1 },
        };
        let reader = self.log.lock().reader();
        Job { reader, policy, segment_bytes: SEGMENT_BYTES, turn: self.turn.clone() }
    }

    /// What the engine does every so often.
    async fn compact(&mut self) -> Result<Compacted, EngineError> {
        let job = self.job();
        let refused = |error: aqueduct_storage::StorageError| EngineError(error.to_string());
        let (log, rolls) = (Arc::clone(&self.log), &mut self.rolls);
        let roll = move || {
            *rolls += 1;
            async move { log.lock().roll().map_err(refused) }.boxed()
        };
        let log = Arc::clone(&self.log);
        let install = move |rewritten| {
            let log = Arc::clone(&log);
            async move { log.lock().install(rewritten).map_err(refused) }.boxed()
        };
        job.run(roll, install).await
    }
}

#[tokio::test]
async fn a_log_whose_passes_fail_is_not_cut_into_ever_more_segments() {
    let mut subject = Subject::new();
    for _ in 0..2 {
        subject.append();
        subject.compact().await.unwrap();
    }
    assert_eq!((subject.rolls, subject.segments()), (2, 2), "sealed each time, and merged");
    subject.append();
    subject.log.lock().roll().unwrap();
    let sealed = dir().join(format!("{:020}.log", 2));
    subject.disk.flip_bit(&sealed, 70, 1).unwrap();
    for _ in 0..5 {
        subject.append();
        assert!(subject.compact().await.is_err(), "a segment is damaged");
    }
    assert_eq!((subject.rolls, subject.segments()), (3, 4), "sealed once, before it was known");

    subject.disk.flip_bit(&sealed, 70, 1).unwrap();
    let compacted = subject.compact().await.unwrap();
    assert_eq!((subject.rolls, subject.segments()), (4, 2), "a pass has got through");
    assert_eq!(compacted.records_removed, 6);
    subject.append();
    subject.compact().await.unwrap();
    assert_eq!((subject.rolls, subject.segments()), (5, 2), "as before");
}

#[test]
fn a_turn_is_not_over_while_a_thread_whose_caller_has_gone_away_is_to_look_at_the_log() {
    let threads = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).build().unwrap();
    threads.block_on(async {
        let (release, held) = std::sync::mpsc::channel::<()>();
        let busy = tokio::task::spawn_blocking(move || held.recv());
        let mut subject = Subject::new();
        subject.append();
        let turn = subject.turn.clone();
        assert!(subject.compact().now_or_never().is_none(), "no thread is free: dropped");
        let mut end = Box::pin(turn.end());
        assert!((&mut end).now_or_never().is_none(), "something is still to come");
        release.send(()).unwrap();
        busy.await.unwrap().unwrap();
        let reads_before = subject.disk.operation_count();
        end.await;
        assert_eq!(subject.disk.operation_count(), reads_before, "and then it looks at nothing");
        assert!(subject.compact().await.is_err(), "nor does another one");
        assert_eq!(subject.rolls, 0);
    });
}
