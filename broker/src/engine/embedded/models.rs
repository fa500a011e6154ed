//! Interleavings of group commit, tried out by the scheduler `shuttle`: the engine itself, on the simulated disk.
//!
//! A failure prints the schedule that led to it; `shuttle::replay` repeats it. Whatever is never answered is a deadlock,
//! which fails as well.

use std::path::Path;

use aqueduct_storage::{Batch, BatchHeader, Offset, payload_crc, sim::SimDisk};
use shuttle::{
    Config, Runner,
    future::block_on,
    scheduler::{PctScheduler, RandomScheduler},
    thread,
};

use super::*;
use crate::engine::Lease;

/// Schedules that a model is tried with, of each of two kinds: threads are held back at few points, or all take turns.
const SCHEDULES: usize = 150;

/// Where the data lie on the simulated disk.
pub(crate) const DIRECTORY: &str = "/data";

pub(crate) fn explore(model: impl Fn() + Send + Sync + 'static) {
    let model = Arc::new(model);
    let again = Arc::clone(&model);
    let mut config = Config::new();
    // Unoptimised futures are large, and its own stacks have 60 KiB.
    config.stack_size = 1 << 20;
    Runner::new(PctScheduler::new(3, SCHEDULES), config.clone()).run(move || model());
    Runner::new(RandomScheduler::new(SCHEDULES), config).run(move || again());
}

pub(crate) fn engine_on(disk: &SimDisk) -> Arc<EmbeddedEngine> {
    let options = EmbeddedOptions { io_threads: 2, segment_bytes: 64 << 10, tail_cache_bytes: 1 << 20 };
    Arc::new(EmbeddedEngine::open(disk.shared(), Path::new(DIRECTORY), options).expect("it opens"))
}

fn log_on(engine: &Arc<EmbeddedEngine>) -> Arc<dyn PartitionLog> {
    block_on(engine.system_log("model")).expect("it opens")
}

/// What the log holds when it is opened on what `disk` has kept.
fn kept_by(disk: &SimDisk) -> Vec<Offset> {
    let engine = engine_on(disk);
    let log = log_on(&engine);
    let end = log.watch().borrow().high_watermark;
    let mut bases = Vec::new();
    let mut from = 0;
    while from < end {
        let batches = block_on(log.read(from, 1 << 20)).expect("it is readable");
        from = batches.last().expect("below the high watermark").header.next_offset();
        bases.extend(batches.iter().map(|batch| batch.header.base_offset));
    }
    bases
}

/// Appends one batch after the other without waiting, as the owner of a partition does it.
struct Owner {
    log: Arc<dyn PartitionLog>,
    lease: Lease,
    next: Mutex<Offset>,
}

impl Owner {
    fn of(log: &Arc<dyn PartitionLog>) -> Self {
        let lease = block_on(log.acquire()).expect("it is acquired");
        Self { log: Arc::clone(log), lease, next: Mutex::new(lease.tail) }
    }

    /// Gives the offset of the batch, and its answer to wait for.
    fn append(&self) -> (Offset, BoxFuture<'static, Result<(), AppendError>>) {
        let mut next = self.next.lock();
        let base_offset = *next;
        let payload = format!("the batch at {base_offset}").into_bytes();
        let header = BatchHeader {
            base_offset,
            record_count: 2,
            payload_crc: payload_crc(&payload),
            epoch: self.lease.epoch,
            ..BatchHeader::default()
        };
        *next = header.next_offset();
        let batch = Batch { header, payload: payload.into() };
        (base_offset, self.log.append(self.lease, base_offset, vec![batch]))
    }
}

#[test]
fn whoever_holds_an_ack_can_fetch_the_record_and_no_power_loss_takes_it() {
    explore(|| {
        let disk = SimDisk::new();
        let engine = engine_on(&disk);
        let log = log_on(&engine);
        let owner = Arc::new(Owner::of(&log));
        let publish = |seed| {
            let (owner, log, disk) = (Arc::clone(&owner), Arc::clone(&log), disk.clone());
            move || {
                for _ in 0..2 {
                    let (base, answer) = owner.append();
                    block_on(answer).expect("it is acknowledged");
                    let window = *log.watch().borrow();
                    assert!(window.high_watermark > base, "the batch at {base} is acknowledged before {window:?}");
                    let kept = kept_by(&disk.after_power_loss(seed));
                    assert!(kept.contains(&base), "the batch at {base} is acknowledged, and {kept:?} are kept");
                }
            }
        };
        let publishers: Vec<_> = (0..3).map(|seed| thread::spawn(publish(seed))).collect();
        publishers.into_iter().for_each(|publisher| publisher.join().expect("the publisher is content"));
    });
}

#[test]
fn everybody_is_answered_although_the_log_is_closed_meanwhile() {
    explore(|| {
        let disk = SimDisk::new();
        let engine = engine_on(&disk);
        let log = log_on(&engine);
        let owner = Arc::new(Owner::of(&log));
        let publish = || {
            let owner = Arc::clone(&owner);
            move || {
                let (base, answer) = owner.append();
                block_on(answer).is_ok().then_some(base)
            }
        };
        let publishers: Vec<_> = (0..3).map(|_| thread::spawn(publish())).collect();
        block_on(log.close()).expect("it closes");
        let acked: Vec<Offset> =
            publishers.into_iter().filter_map(|publisher| publisher.join().expect("it is answered")).collect();
        let kept = kept_by(&disk.after_power_loss(0));
        assert!(acked.iter().all(|base| kept.contains(base)), "{acked:?} were acknowledged, {kept:?} are kept");
    });
}
