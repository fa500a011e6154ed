//! What every engine must do, as tests that each implementation runs on a log of its own.

use std::{sync::Arc, time::Duration};

use aqueduct_client::{Codec, Record, codec::encode_batch};
use aqueduct_storage::{Batch, BatchHeader, CompactionPolicy, Offset, Urgency, Window, payload_crc};
use bytes::Bytes;

use super::{AppendError, Lease, PartitionLog, ReadError};

/// An engine under test: a log that starts empty, and can be closed and opened again.
pub(crate) trait Subject {
    async fn log(&self) -> Arc<dyn PartitionLog>;
    async fn reopen(&self, log: Arc<dyn PartitionLog>) -> Arc<dyn PartitionLog>;
}

/// Runs every property, each on a subject of its own.
pub(crate) async fn run<S: Subject>(subject: impl AsyncFn() -> S) {
    what_is_acknowledged_is_inside_the_window_and_reads_back(&subject().await).await;
    pipelined_appends_are_stored_in_the_order_of_the_calls(&subject().await).await;
    an_append_at_the_wrong_offset_writes_nothing(&subject().await).await;
    a_new_lease_fences_the_old_one(&subject().await).await;
    an_unknown_outcome_can_be_resolved(&subject().await).await;
    reads_return_whole_batches_and_name_the_window(&subject().await).await;
    offsets_are_found_by_time(&subject().await).await;
    trimming_moves_the_start_and_never_the_end(&subject().await).await;
    compaction_keeps_the_latest_of_each_key_and_renumbers_nothing(&subject().await).await;
    everything_survives_reopening(&subject().await).await;
}

/// A batch of `count` records at `base_offset`, whose payload tells them apart.
fn batch(lease: Lease, base_offset: Offset, count: u32) -> Batch {
    let payload = Bytes::from(format!("{base_offset}:{count};").repeat(10));
    let header = BatchHeader {
        base_offset,
        record_count: count,
        payload_crc: payload_crc(&payload),
        append_time_us: time_of(base_offset),
        epoch: lease.epoch,
        ..BatchHeader::default()
    };
    Batch { header, payload }
}

fn time_of(offset: Offset) -> i64 {
    1_700_000_000_000_000 + i64::try_from(offset).unwrap() * 1_000
}

async fn append(log: &dyn PartitionLog, lease: Lease, base_offset: Offset, count: u32) -> Result<(), AppendError> {
    log.append(lease, base_offset, vec![batch(lease, base_offset, count)]).await
}

/// Every readable batch as base offset and payload.
async fn contents(log: &dyn PartitionLog) -> Vec<(Offset, Bytes)> {
    let window = *log.watch().borrow();
    let mut next = window.log_start;
    let mut contents = Vec::new();
    while next < window.high_watermark {
        for batch in log.read(next, 1 << 20).await.unwrap() {
            next = batch.header.next_offset();
            contents.push((batch.header.base_offset, batch.payload));
        }
    }
    contents
}

async fn what_is_acknowledged_is_inside_the_window_and_reads_back(subject: &impl Subject) {
    let log = subject.log().await;
    let mut window = log.watch();
    let lease = log.acquire().await.unwrap();
    assert_eq!(lease.tail, 0);
    append(&*log, lease, 0, 3).await.unwrap();
    assert!(window.has_changed().unwrap(), "the acknowledgement came before the window moved");
    assert_eq!(*window.borrow_and_update(), Window { log_start: 0, high_watermark: 3 });
    assert_eq!(contents(&*log).await, [(0, batch(lease, 0, 3).payload)]);
}

async fn pipelined_appends_are_stored_in_the_order_of_the_calls(subject: &impl Subject) {
    let log = subject.log().await;
    let lease = log.acquire().await.unwrap();
    let appends: Vec<_> =
        (0..100).map(|n| log.append(lease, n * 2, vec![batch(lease, n * 2, 1), batch(lease, n * 2 + 1, 1)])).collect();
    for append in futures_util::future::join_all(appends).await {
        append.unwrap();
    }
    let offsets: Vec<Offset> = contents(&*log).await.into_iter().map(|(offset, _)| offset).collect();
    assert_eq!(offsets, (0..200).collect::<Vec<_>>());
}

async fn an_append_at_the_wrong_offset_writes_nothing(subject: &impl Subject) {
    let log = subject.log().await;
    let lease = log.acquire().await.unwrap();
    append(&*log, lease, 0, 5).await.unwrap();
    for wrong in [0, 4, 6] {
        assert_eq!(append(&*log, lease, wrong, 1).await, Err(AppendError::TailMoved { tail: 5 }));
    }
    append(&*log, lease, 5, 1).await.unwrap();
    assert_eq!(contents(&*log).await.len(), 2);
}

async fn a_new_lease_fences_the_old_one(subject: &impl Subject) {
    let log = subject.log().await;
    let old = log.acquire().await.unwrap();
    append(&*log, old, 0, 1).await.unwrap();
    let new = log.acquire().await.unwrap();
    assert!(new.epoch > old.epoch);
    assert_eq!(new.tail, 1);
    assert_eq!(append(&*log, old, 1, 1).await, Err(AppendError::Fenced { epoch: new.epoch }));
    append(&*log, new, 1, 1).await.unwrap();
    assert_eq!(contents(&*log).await.len(), 2);
}

async fn an_unknown_outcome_can_be_resolved(subject: &impl Subject) {
    let log = subject.log().await;
    let lease = log.acquire().await.unwrap();
    append(&*log, lease, 0, 4).await.unwrap();
    let lease = log.acquire().await.unwrap();
    let crc = batch(lease, 0, 4).header.payload_crc;
    assert_eq!(log.resolve_unknown(lease, 0, crc).await, Ok(Some(0)));
    assert_eq!(log.resolve_unknown(lease, 0, crc ^ 1).await, Ok(None));
    assert_eq!(log.resolve_unknown(lease, 4, crc).await, Ok(None));
}

async fn reads_return_whole_batches_and_name_the_window(subject: &impl Subject) {
    let log = subject.log().await;
    let lease = log.acquire().await.unwrap();
    append(&*log, lease, 0, 10).await.unwrap();
    append(&*log, lease, 10, 10).await.unwrap();
    let middle = log.read(15, 1).await.unwrap();
    assert_eq!((middle.len(), middle[0].header.base_offset), (1, 10));
    assert_eq!(log.read(20, 1).await.unwrap(), []);
    let window = Window { log_start: 0, high_watermark: 20 };
    assert_eq!(log.read(21, 1).await, Err(ReadError::OutOfRange { requested: 21, window }));
    if let Some(now) = log.read_now(0, 1 << 20) {
        assert_eq!(now, log.read(0, 1 << 20).await);
    }
    let headers = log.headers(5, 100).await.unwrap();
    assert_eq!(headers.iter().map(|header| header.base_offset).collect::<Vec<_>>(), [0, 10]);
}

async fn offsets_are_found_by_time(subject: &impl Subject) {
    let log = subject.log().await;
    let lease = log.acquire().await.unwrap();
    for base in (0..50).step_by(5) {
        append(&*log, lease, base, 5).await.unwrap();
    }
    assert_eq!(log.offset_for_time(0).await, Ok(Some(0)));
    assert_eq!(log.offset_for_time(time_of(20)).await, Ok(Some(20)));
    assert_eq!(log.offset_for_time(time_of(20) + 1).await, Ok(Some(25)));
    assert_eq!(log.offset_for_time(time_of(45) + 1).await, Ok(None));
    assert_eq!(log.append_time_at(23).await, Ok(Some(time_of(20))));
    assert_eq!(log.append_time_at(50).await, Ok(None));
}

async fn trimming_moves_the_start_and_never_the_end(subject: &impl Subject) {
    let log = subject.log().await;
    let lease = log.acquire().await.unwrap();
    for base in 0..20 {
        append(&*log, lease, base, 1).await.unwrap();
    }
    let start = log.trim(12).await.unwrap();
    assert!(start <= 12);
    let window = *log.watch().borrow();
    assert_eq!(window, Window { log_start: start, high_watermark: 20 });
    assert_eq!(log.trim(3).await, Ok(start), "the start never goes back");
    append(&*log, lease, 20, 1).await.unwrap();
    let behind: Vec<u64> = (start..=20).map(|offset| log.shelter(offset).bytes_after).collect();
    assert!(behind.is_sorted_by(|older, newer| older >= newer), "less lies behind what is newer: {behind:?}");
    assert!(behind[0] <= log.stats().size_bytes);
    assert_eq!(behind.last(), Some(&0));
}

async fn compaction_keeps_the_latest_of_each_key_and_renumbers_nothing(subject: &impl Subject) {
    let log = subject.log().await;
    let lease = log.acquire().await.unwrap();
    let keyed = |base: Offset| {
        let record = Record::new(base.to_string()).key(format!("key-{}", base % 3));
        let payload = encode_batch(&[record], Codec::None).unwrap().records;
        let header = BatchHeader { payload_crc: payload_crc(&payload), ..batch(lease, base, 1).header };
        Batch { header, payload }
    };
    for base in 0..20 {
        log.append(lease, base, vec![keyed(base)]).await.unwrap();
    }
    let policy = CompactionPolicy {
        now_us: time_of(20),
        tombstone_retention: Duration::from_secs(3600),
        min_lag: Duration::ZERO,
        active_age_max: Duration::ZERO,
        keys_max: 100,
        urgency: Urgency::Now,
    };
    assert_eq!(log.compact(policy.clone()).await.unwrap().records_removed, 17);
    assert_eq!(*log.watch().borrow(), Window { log_start: 0, high_watermark: 20 });
    let mut left = contents(&*log).await;
    left.retain(|(_, payload)| !payload.is_empty());
    let latest: Vec<(Offset, Bytes)> = (17..20).map(|base| (base, keyed(base).payload)).collect();
    assert_eq!(left, latest);
    assert_eq!(log.compact(policy).await.unwrap().records_removed, 0, "there is nothing new");
    log.append(lease, 20, vec![keyed(20)]).await.unwrap();
}

async fn everything_survives_reopening(subject: &impl Subject) {
    let log = subject.log().await;
    let lease = log.acquire().await.unwrap();
    for base in 0..30 {
        append(&*log, lease, base, 1).await.unwrap();
    }
    log.save_checkpoint(Bytes::from_static(b"state")).await.unwrap();
    let before = contents(&*log).await;
    log.close().await.unwrap();
    assert!(append(&*log, lease, 30, 1).await.is_err(), "a closed log takes nothing");

    let log = subject.reopen(log).await;
    assert_eq!(contents(&*log).await, before);
    assert_eq!(log.load_checkpoint().await, Ok(Some(Bytes::from_static(b"state"))));
    let again = log.acquire().await.unwrap();
    assert!(again.epoch > lease.epoch);
    assert_eq!(again.tail, 30);
}
