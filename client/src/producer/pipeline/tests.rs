//! Batching, numbering, rewinding and giving up, without a clock or a network.

use std::time::Duration;

use super::*;
use crate::{
    codec::encode::record_len,
    types::{Durability, Timestamp, TopicId},
};

const TIMEOUT: Duration = Duration::from_secs(30);

fn config() -> LaneConfig {
    LaneConfig {
        batch_bytes_max: 1024,
        batch_records_max: 4,
        in_flight_max: 3,
        linger: Duration::ZERO,
        delivery_timeout: TIMEOUT,
        idempotence: Idempotence::Enabled,
    }
}

/// A pipeline, a clock that stands still unless told otherwise, and what has ended.
struct Rig {
    pipeline: Pipeline,
    now: Instant,
    settled: Vec<Settled>,
}

/// One attempt, as the broker sees it.
#[derive(Clone, Debug, PartialEq)]
struct Sent {
    request_id: u64,
    partition: u32,
    records: u32,
    id: Option<Bytes>,
    sequence: Option<u64>,
}

impl Rig {
    fn new(config: LaneConfig, partitions: u32) -> Self {
        let topic = TopicRef { name: "orders".into(), id: TopicId([1; 16]), unseen: Default::default() };
        let mut pipeline = Pipeline::new(config, Routing::ByKey, Identity::Anonymous, Arc::new(topic), partitions);
        pipeline.connecting();
        Self { pipeline, now: Instant::now(), settled: Vec::new() }
    }

    fn push(&mut self, records: usize) {
        for _ in 0..records {
            let record = Record::new("x");
            self.pipeline.push(&record, record_len(&record), self.now);
        }
    }

    fn send(&mut self) -> Option<Sent> {
        match self.pipeline.next(self.now) {
            Next::Send(dispatch) => Some(Sent {
                request_id: dispatch.request_id,
                partition: dispatch.partition,
                records: dispatch.payload.records,
                id: dispatch.producer.as_ref().map(|producer| producer.id.clone()),
                sequence: dispatch.producer.map(|producer| producer.sequence),
            }),
            Next::Wait | Next::WaitUntil(_) | Next::End => None,
        }
    }

    fn send_all(&mut self) -> Vec<Sent> {
        std::iter::from_fn(|| self.send()).collect()
    }

    /// Three batches of four records on their way.
    fn three_sent(&mut self) -> Vec<Sent> {
        self.push(12);
        let sent = self.send_all();
        assert_eq!(sent.iter().map(|sent| sent.sequence).collect::<Vec<_>>(), [Some(0), Some(4), Some(8)]);
        sent
    }

    fn ack(&mut self, sent: &Sent, base_offset: u64) {
        let ack = BatchAck {
            base_offset,
            append_time: Timestamp::from_micros(1),
            durability: Durability::Fsync,
            duplicate: false,
            epoch: 0,
        };
        self.pipeline.answered(sent.request_id, Ok(ack), self.now, &mut self.settled);
    }

    fn fail(&mut self, sent: &Sent, code: Code, reason: &str) {
        self.pipeline.answered(sent.request_id, Err(error(code, reason)), self.now, &mut self.settled);
    }

    fn disconnect(&mut self) {
        self.pipeline.disconnected(None, self.now, &mut self.settled);
        self.pipeline.connecting();
    }

    fn later(&mut self, by: Duration) {
        self.now += by;
    }

    fn expire(&mut self) {
        self.pipeline.expire(self.now, &mut self.settled);
    }

    /// What has ended since the last look: `stored`, `rejected` or `unknown`.
    fn ended(&mut self) -> Vec<&'static str> {
        let name = |settled: Settled| match settled.outcome {
            Outcome::Stored(_) => "stored",
            Outcome::Rejected { .. } => "rejected",
            Outcome::Unknown { .. } => "unknown",
        };
        self.settled.drain(..).map(name).collect()
    }
}

fn error(code: Code, reason: &str) -> BrokerError {
    BrokerError::local(code, reason, "no")
}

fn sequences(sent: &[Sent]) -> Vec<u64> {
    sent.iter().filter_map(|sent| sent.sequence).collect()
}

#[test]
fn alone_a_record_goes_at_once() {
    let mut rig = Rig::new(config(), 1);
    rig.push(1);
    assert_eq!(rig.send().map(|sent| sent.records), Some(1));
}

#[test]
fn under_load_records_collect_while_earlier_batches_are_on_their_way() {
    let mut rig = Rig::new(LaneConfig { in_flight_max: 64, ..config() }, 1);
    let alone = std::iter::repeat_with(|| {
        rig.push(1);
        rig.send().expect("it goes at once")
    });
    let on_their_way: Vec<Sent> = alone.take(8).collect();
    rig.push(3);
    assert_eq!(rig.send(), None);
    rig.ack(&on_their_way[0], 0);
    assert_eq!(rig.send().map(|sent| sent.records), Some(3));
}

#[test]
fn full_batches_do_not_wait_but_the_window_bounds_them() {
    let mut rig = Rig::new(config(), 1);
    rig.push(40);
    let sent = rig.send_all();
    assert_eq!(sent.iter().map(|sent| sent.records).collect::<Vec<_>>(), [4, 4, 4]);
    rig.ack(&sent[0], 0);
    assert_eq!(rig.send_all().len(), 1);
}

#[test]
fn a_batch_is_full_by_bytes_too() {
    let mut rig = Rig::new(LaneConfig { batch_records_max: 1_000, ..config() }, 1);
    let record = Record::new(vec![0; 600]);
    for _ in 0..2 {
        rig.pipeline.push(&record, record_len(&record), rig.now);
    }
    assert_eq!(rig.send().map(|sent| sent.records), Some(1));
}

#[test]
fn lingering_waits_unless_somebody_flushes() {
    let mut rig = Rig::new(LaneConfig { linger: Duration::from_millis(5), ..config() }, 1);
    rig.push(1);
    let Next::WaitUntil(at) = rig.pipeline.next(rig.now) else { panic!("it waits") };
    assert_eq!(at, rig.now + Duration::from_millis(5));
    assert_eq!(rig.pipeline.hurry().len(), 1);
    assert!(rig.send().is_some());
    rig.push(1);
    assert_eq!(rig.send(), None);
    rig.later(Duration::from_millis(5));
    assert!(rig.send().is_some());
}

#[test]
fn records_without_a_key_stick_to_one_partition_per_batch() {
    let mut rig = Rig::new(config(), 3);
    rig.push(12);
    let sent = rig.send_all();
    assert_eq!(sent.iter().map(|sent| sent.records).collect::<Vec<_>>(), [4, 4, 4]);
    let mut partitions: Vec<_> = sent.iter().map(|sent| sent.partition).collect();
    partitions.sort_unstable();
    assert_eq!(partitions, [0, 1, 2]);
}

#[test]
fn a_broken_stream_is_resent_in_order_with_the_same_sequences() {
    let mut rig = Rig::new(config(), 1);
    let before = rig.three_sent();
    rig.ack(&before[0], 0);
    rig.disconnect();
    let after = rig.send_all();
    assert_eq!(sequences(&after), [4, 8]);
    assert_eq!(after[0].id, before[1].id);
    assert!(after.iter().all(|sent| before.iter().all(|old| old.request_id != sent.request_id)));
    // A late answer to an attempt of the old stream means nothing.
    rig.fail(&before[1], Code::NotFound, "TOPIC_NOT_FOUND");
    rig.ack(&after[0], 4);
    rig.ack(&after[1], 8);
    assert_eq!(rig.ended(), ["stored"; 3]);
}

#[test]
fn after_a_gap_everything_from_there_on_goes_again() {
    let mut rig = Rig::new(config(), 1);
    let sent = rig.three_sent();
    rig.fail(&sent[0], Code::Unavailable, "PARTITION_UNAVAILABLE");
    rig.fail(&sent[1], Code::FailedPrecondition, "SEQUENCE_GAP");
    rig.fail(&sent[2], Code::FailedPrecondition, "SEQUENCE_GAP");
    assert_eq!(rig.send(), None, "after a pause");
    rig.later(Duration::from_secs(1));
    assert_eq!(sequences(&rig.send_all()), [0, 4, 8]);
    assert!(rig.ended().is_empty());
}

#[test]
fn an_unknown_outcome_is_tried_again_with_the_same_sequence() {
    let mut rig = Rig::new(config(), 1);
    let sent = rig.three_sent();
    rig.fail(&sent[0], Code::Unknown, "OUTCOME_UNKNOWN");
    rig.later(Duration::from_secs(1));
    let again = rig.send_all();
    assert_eq!(sequences(&again), [0, 4, 8]);
    rig.ack(&again[0], 0);
    assert_eq!(rig.ended(), ["stored"]);
}

#[test]
fn after_a_refused_batch_the_next_ones_take_its_sequences() {
    let mut rig = Rig::new(config(), 1);
    let sent = rig.three_sent();
    rig.fail(&sent[0], Code::InvalidArgument, "TOO_LARGE");
    rig.fail(&sent[1], Code::FailedPrecondition, "SEQUENCE_GAP");
    assert_eq!(rig.ended(), ["rejected"]);
    let again = rig.send_all();
    assert_eq!((sequences(&again), &again[0].id), (vec![0, 4], &sent[0].id));
}

#[test]
fn a_broker_that_has_forgotten_the_producer_gets_a_new_numbering() {
    let mut rig = Rig::new(config(), 1);
    let sent = rig.three_sent();
    rig.ack(&sent[0], 0);
    rig.fail(&sent[1], Code::FailedPrecondition, "SEQUENCE_GAP");
    let again = rig.send_all();
    assert_eq!(sequences(&again), [0, 4]);
    assert_ne!(again[0].id, sent[0].id);
}

#[test]
fn what_may_be_stored_is_never_sent_under_a_new_numbering() {
    let mut rig = Rig::new(config(), 1);
    let sent = rig.three_sent();
    rig.disconnect();
    let again = rig.send_all();
    rig.fail(&again[0], Code::FailedPrecondition, "SEQUENCE_GAP");
    assert_eq!(rig.ended(), ["unknown"; 3]);
    rig.push(1);
    let next = rig.send().expect("goes on");
    assert_eq!(next.sequence, Some(0));
    assert_ne!(next.id, sent[0].id);
}

#[test]
fn a_refusal_of_what_may_be_stored_is_unknown() {
    let mut rig = Rig::new(config(), 1);
    rig.push(1);
    rig.send();
    rig.disconnect();
    let again = rig.send().expect("goes again");
    rig.fail(&again, Code::NotFound, "TOPIC_NOT_FOUND");
    assert_eq!(rig.ended(), ["unknown"]);
}

#[test]
fn at_the_delivery_timeout_sent_is_unknown_and_unsent_is_rejected() {
    let mut rig = Rig::new(config(), 1);
    rig.three_sent();
    rig.push(1);
    rig.later(TIMEOUT - Duration::from_millis(1));
    rig.expire();
    assert!(rig.ended().is_empty());
    rig.later(Duration::from_millis(1));
    rig.expire();
    assert_eq!(rig.ended(), ["unknown", "unknown", "unknown", "rejected"]);
    assert!(rig.pipeline.needs_restart());
}

#[test]
fn while_held_nothing_is_sent_and_what_was_sent_is_not_late() {
    let mut rig = Rig::new(config(), 1);
    let sent = rig.three_sent();
    rig.pipeline.held(Hold { reason: "GROUP_BACKLOG".into(), culprit: "billing".into(), retry_after: TIMEOUT });
    rig.push(1);
    assert_eq!(rig.send(), None);
    rig.later(TIMEOUT);
    rig.expire();
    let held = rig.settled.pop().expect("the unsent one");
    assert!(matches!(&held.outcome, Outcome::Rejected { error, .. } if error.culprit() == Some("billing")));
    assert!(rig.ended().is_empty());
    rig.pipeline.resumed();
    rig.push(1);
    rig.ack(&sent[0], 0);
    rig.ack(&sent[1], 4);
    assert_eq!(rig.ended(), ["stored"; 2]);
    assert_eq!(sequences(&rig.send_all()), [12], "the rejected one has left no gap");
}

#[test]
fn without_idempotence_nothing_is_tried_again() {
    let mut rig = Rig::new(LaneConfig { idempotence: Idempotence::Disabled, ..config() }, 1);
    rig.push(12);
    let sent = rig.send_all();
    assert!(sent.iter().all(|sent| sent.sequence.is_none()));
    rig.fail(&sent[0], Code::Unavailable, "PARTITION_UNAVAILABLE");
    assert_eq!(rig.ended(), ["rejected"]);
    rig.disconnect();
    assert_eq!(rig.ended(), ["unknown"; 2]);
    assert_eq!(rig.send(), None);
}

#[test]
fn a_named_producer_is_opened_again_and_goes_on_where_the_broker_says() {
    let topic = Arc::new(TopicRef { name: "orders".into(), id: TopicId([1; 16]), unseen: Default::default() });
    let identity = Identity::Named { id: Bytes::from_static(&[9; 16]), epoch: 1 };
    let mut rig = Rig::new(config(), 1);
    rig.pipeline = Pipeline::new(config(), Routing::ByKey, identity, topic, 1);
    rig.pipeline.connecting();
    rig.pipeline.start_at(0, 100);
    rig.push(4);
    let sent = rig.send().expect("goes");
    assert_eq!(sent.sequence, Some(100));
    rig.fail(&sent, Code::FailedPrecondition, "SEQUENCE_GAP");
    assert!(rig.pipeline.needs_reopening());
    rig.disconnect();
    assert_eq!(rig.send(), None);
    rig.pipeline.reopened(Bytes::from_static(&[9; 16]), 2, |_| 40, rig.now, &mut Vec::new());
    assert_eq!(rig.send().and_then(|sent| sent.sequence), Some(40));
}

#[test]
fn what_may_be_stored_under_an_old_epoch_is_unknown_and_never_sent_under_a_new_one() {
    let topic = Arc::new(TopicRef { name: "orders".into(), id: TopicId([1; 16]), unseen: Default::default() });
    let identity = Identity::Named { id: Bytes::from_static(&[9; 16]), epoch: 1 };
    let mut rig = Rig::new(config(), 1);
    rig.pipeline = Pipeline::new(config(), Routing::ByKey, identity, topic, 1);
    rig.pipeline.connecting();
    rig.pipeline.start_at(0, 0);
    rig.push(4);
    rig.send().expect("goes");
    rig.disconnect();
    let mut settled = Vec::new();
    rig.pipeline.reopened(Bytes::from_static(&[9; 16]), 2, |_| 0, rig.now, &mut settled);
    assert!(matches!(settled.as_slice(), [Settled { outcome: Outcome::Unknown { .. }, .. }]));
    assert_eq!(rig.send(), None);
}

#[test]
fn nobody_is_woken_twice_for_one_sleep() {
    let mut rig = Rig::new(config(), 1);
    assert_eq!(rig.send(), None);
    rig.push(1);
    assert!(rig.pipeline.take_wake(rig.now));
    rig.push(1);
    assert!(!rig.pipeline.take_wake(rig.now));
}

#[test]
fn a_draining_pipeline_ends_once_everything_is_answered() {
    let mut rig = Rig::new(LaneConfig { linger: TIMEOUT, ..config() }, 1);
    rig.push(1);
    rig.pipeline.drain();
    let sent = rig.send().expect("no lingering");
    assert!(!rig.pipeline.is_finished());
    rig.ack(&sent, 0);
    assert!(rig.pipeline.is_finished());
    assert!(matches!(rig.pipeline.next(rig.now), Next::End));
}
