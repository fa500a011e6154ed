//! The journal against a log in memory whose outcomes are scripted.

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicBool, Ordering},
};

use aqueduct_storage::{CompactionPolicy, Durability, TopicMeta, Window};
use bytes::Bytes;
use futures_util::{FutureExt as _, future::ready};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc, watch};

use super::*;
use crate::{
    engine::{Compacted, EngineError, EngineLimits, PartitionStats, Shelter, TopicLogs, Verified, VerifyEvent},
    groups::{policy::PolicyOpinion, progress::Progress, state::tests::random_change},
};

/// What becomes of an append.
#[derive(Debug, Clone, Copy)]
enum Outcome {
    Done,
    Full,
    UnknownAndKept,
    UnknownAndCut,
}

struct ScriptedLog {
    batches: Mutex<Vec<Batch>>,
    window: watch::Sender<Window>,
    lease: Mutex<Lease>,
    script: Mutex<VecDeque<Outcome>>,
    /// An append needs one.
    permits: Arc<Semaphore>,
    appends: Mutex<usize>,
}

/// Clones share the log.
#[derive(Clone)]
struct Engine {
    log: Arc<ScriptedLog>,
    states: Arc<Mutex<Option<Bytes>>>,
}

impl Engine {
    fn new() -> Self {
        let log = ScriptedLog {
            batches: Mutex::default(),
            window: watch::Sender::new(Window { log_start: 0, high_watermark: 0 }),
            lease: Mutex::new(Lease { epoch: 0, tail: 0, last_append_time_us: None }),
            script: Mutex::default(),
            permits: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)),
            appends: Mutex::new(0),
        };
        Self { log: Arc::new(log), states: Arc::default() }
    }

    fn next_outcomes(&self, outcomes: impl IntoIterator<Item = Outcome>) {
        self.log.script.lock().extend(outcomes);
    }

    fn stored_bytes(&self) -> u64 {
        self.log.batches.lock().iter().map(Batch::stored_bytes).sum()
    }

    async fn open(&self, snapshot_after_bytes: u64) -> (Journal, State) {
        Journal::open(Arc::new(self.clone()), snapshot_after_bytes).await.expect("the journal opens")
    }
}

impl ScriptedLog {
    fn end(&self) -> Offset {
        self.batches.lock().last().map_or(0, |batch| batch.header.next_offset())
    }
}

impl PartitionLog for Arc<ScriptedLog> {
    fn acquire(&self) -> BoxFuture<'static, Result<Lease, EngineError>> {
        let mut lease = self.lease.lock();
        *lease = Lease { epoch: lease.epoch + 1, tail: self.end(), last_append_time_us: None };
        self.window.send_modify(|window| window.high_watermark = lease.tail);
        ready(Ok(*lease)).boxed()
    }

    fn append(
        &self,
        lease: Lease,
        expected_offset: Offset,
        batches: Vec<Batch>,
    ) -> BoxFuture<'static, Result<(), AppendError>> {
        if batches.is_empty() {
            return ready(Ok(())).boxed();
        }
        *self.appends.lock() += 1;
        let current = self.lease.lock().epoch;
        let tail = self.end();
        let outcome = self.script.lock().pop_front().unwrap_or(Outcome::Done);
        let outcome = match outcome {
            _ if lease.epoch != current => Err(AppendError::Fenced { epoch: current }),
            _ if expected_offset != tail => Err(AppendError::TailMoved { tail }),
            Outcome::Full => Err(AppendError::Full),
            Outcome::UnknownAndCut => Err(AppendError::Unknown("scripted".to_owned())),
            Outcome::UnknownAndKept => {
                self.batches.lock().extend(batches);
                Err(AppendError::Unknown("scripted".to_owned()))
            }
            Outcome::Done => {
                assert_eq!(batches[0].header.base_offset, tail);
                self.batches.lock().extend(batches);
                Ok(())
            }
        };
        let log = Arc::clone(self);
        async move {
            let permit = log.permits.acquire().await.expect("the semaphore stays open");
            permit.forget();
            log.window.send_modify(|window| window.high_watermark = log.end());
            outcome
        }
        .boxed()
    }

    fn read(&self, from: Offset, bytes_max: usize) -> BoxFuture<'static, Result<Vec<Batch>, ReadError>> {
        let window = *self.window.borrow();
        if from < window.log_start || from > window.high_watermark {
            return ready(Err(ReadError::OutOfRange { requested: from, window })).boxed();
        }
        let mut bytes = 0;
        let batches = self.batches.lock();
        let wanted = batches.iter().filter(|batch| batch.header.next_offset() > from).take_while(|batch| {
            let first = bytes == 0;
            bytes += batch.payload.len();
            first || bytes <= bytes_max
        });
        ready(Ok(wanted.cloned().collect())).boxed()
    }

    fn trim(&self, before: Offset) -> BoxFuture<'static, Result<Offset, EngineError>> {
        self.batches.lock().retain(|batch| batch.header.next_offset() > before);
        let log_start = self.batches.lock().first().map_or(before, |batch| batch.header.base_offset);
        self.window.send_modify(|window| window.log_start = log_start);
        ready(Ok(log_start)).boxed()
    }

    fn watch(&self) -> watch::Receiver<Window> {
        self.window.subscribe()
    }

    fn limits(&self) -> EngineLimits {
        EngineLimits { batch_bytes_max: 4096, append_batches_max: 3 }
    }

    fn close(&self) -> BoxFuture<'static, Result<(), EngineError>> {
        ready(Ok(())).boxed()
    }

    fn resolve_unknown(&self, _: Lease, _: Offset, _: u32) -> BoxFuture<'static, Result<Option<Offset>, EngineError>> {
        unneeded()
    }

    fn read_now(&self, _: Offset, _: usize) -> Option<Result<Vec<Batch>, ReadError>> {
        None
    }

    fn headers(&self, _: Offset, _: usize) -> BoxFuture<'static, Result<Vec<BatchHeader>, ReadError>> {
        ready(Err(ReadError::Failed("unneeded".to_owned()))).boxed()
    }

    fn offset_for_time(&self, _: i64) -> BoxFuture<'static, Result<Option<Offset>, ReadError>> {
        ready(Err(ReadError::Failed("unneeded".to_owned()))).boxed()
    }

    fn append_time_at(&self, _: Offset) -> BoxFuture<'static, Result<Option<i64>, ReadError>> {
        ready(Err(ReadError::Failed("unneeded".to_owned()))).boxed()
    }

    fn shelter(&self, _: Offset) -> Shelter {
        Shelter::default()
    }

    fn bytes_between(&self, _: Offset, _: Offset) -> BoxFuture<'static, Result<u64, ReadError>> {
        ready(Err(ReadError::Failed("unneeded".to_owned()))).boxed()
    }

    fn enforce_retention(&self, _: i64) -> BoxFuture<'static, Result<(), EngineError>> {
        unneeded()
    }

    fn compact(&self, _: CompactionPolicy) -> BoxFuture<'static, Result<Compacted, EngineError>> {
        unneeded()
    }

    fn load_checkpoint(&self) -> BoxFuture<'static, Result<Option<Bytes>, EngineError>> {
        unneeded()
    }

    fn save_checkpoint(&self, _: Bytes) -> BoxFuture<'static, Result<(), EngineError>> {
        unneeded()
    }

    fn verify(&self, _: mpsc::Sender<VerifyEvent>) -> BoxFuture<'static, Result<Verified, EngineError>> {
        ready(Ok(Verified::default())).boxed()
    }

    fn stats(&self) -> PartitionStats {
        PartitionStats { size_bytes: 0, segments: 1, epoch: self.lease.lock().epoch }
    }

    fn durability(&self) -> Durability {
        Durability::Fsync
    }
}

impl MetaStore for Engine {
    fn system_log(&self, _: &'static str) -> BoxFuture<'static, Result<Arc<dyn PartitionLog>, EngineError>> {
        ready(Ok(Arc::new(Arc::clone(&self.log)) as Arc<dyn PartitionLog>)).boxed()
    }

    fn load(&self, _: &'static str) -> BoxFuture<'static, Result<Option<Bytes>, EngineError>> {
        ready(Ok(self.states.lock().clone())).boxed()
    }

    fn save(&self, _: &'static str, state: Bytes) -> BoxFuture<'static, Result<(), EngineError>> {
        *self.states.lock() = Some(state);
        ready(Ok(())).boxed()
    }

    fn open_topics(&self) -> BoxFuture<'static, Result<Vec<TopicLogs>, EngineError>> {
        unneeded()
    }

    fn create_topic(&self, _: TopicMeta) -> BoxFuture<'static, Result<TopicLogs, EngineError>> {
        unneeded()
    }

    fn update_topic(&self, _: TopicMeta) -> BoxFuture<'static, Result<Vec<Arc<dyn PartitionLog>>, EngineError>> {
        unneeded()
    }

    fn delete_topic(&self, _: TopicMeta) -> BoxFuture<'static, Result<(), EngineError>> {
        unneeded()
    }

    fn name(&self) -> &'static str {
        "scripted"
    }

    fn close(&self, _: Duration) -> BoxFuture<'static, Result<(), EngineError>> {
        unneeded()
    }
}

fn unneeded<T: Send + 'static>() -> BoxFuture<'static, Result<T, EngineError>> {
    ready(Err(EngineError("unneeded".to_owned()))).boxed()
}

fn key(partition: u32) -> PositionKey {
    PositionKey { group: "g".to_owned(), topic: [1; 16], partition }
}

/// The group `g`, stored.
async fn make_group(journal: &mut Journal, state: &mut State) {
    let policy = PolicyOpinion::default().into_policy().expect("the defaults are legal");
    let change = Change::GroupSet { group: "g".to_owned(), policy, created_us: 1 };
    journal.write(std::slice::from_ref(&change)).await.expect("it is stored");
    state.apply(change);
}

type Answer = tokio::sync::oneshot::Receiver<Result<(), JournalError>>;

fn commit(journal: &mut Journal, state: &mut State, partition: u32, offset: Offset) -> Answer {
    state.advance(&key(partition), Progress::at(offset));
    journal.moved(key(partition));
    let (told, answer) = tokio::sync::oneshot::channel();
    journal.when_durable(Box::new(move |outcome| drop(told.send(outcome))));
    answer
}

#[tokio::test]
async fn what_comes_during_an_append_shares_the_next_one() {
    let engine = Engine::new();
    let (mut journal, mut state) = engine.open(u64::MAX).await;
    make_group(&mut journal, &mut state).await;
    let before = *engine.log.appends.lock();
    let all = engine.log.permits.available_permits();
    engine.log.permits.forget_permits(all);

    let mut answers = vec![commit(&mut journal, &mut state, 0, 1)];
    journal.flush(&state);
    for offset in 2..1000 {
        answers.push(commit(&mut journal, &mut state, u32::try_from(offset % 3).expect("small"), offset));
        journal.flush(&state);
    }
    assert!(answers.iter_mut().all(|answer| answer.try_recv().is_err()), "nobody is told before it is durable");
    engine.log.permits.add_permits(2);
    for _ in 0..2 {
        journal.appended().await;
        journal.flush(&state);
    }
    for answer in answers {
        assert_eq!(answer.await, Ok(Ok(())));
    }
    assert_eq!(*engine.log.appends.lock() - before, 2);
    engine.log.permits.add_permits(100);
    let (_, replayed) = engine.open(u64::MAX).await;
    assert_eq!(replayed, state);
}

#[tokio::test]
async fn after_an_unknown_outcome_the_log_tells_the_truth() {
    for (outcome, expected) in [(Outcome::UnknownAndKept, 8), (Outcome::UnknownAndCut, 5)] {
        let engine = Engine::new();
        let (mut journal, mut state) = engine.open(u64::MAX).await;
        make_group(&mut journal, &mut state).await;
        let first = commit(&mut journal, &mut state, 0, 5);
        journal.flush(&state);
        journal.appended().await;
        assert_eq!(first.await, Ok(Ok(())));

        engine.next_outcomes([outcome]);
        let epoch = journal.epoch();
        let second = commit(&mut journal, &mut state, 0, 8);
        journal.flush(&state);
        journal.appended().await;
        assert!(matches!(second.await, Ok(Err(JournalError::Unknown(_)))));
        let recovered = journal.recover_if_lost().await.expect("it is taken over again");
        assert_eq!(recovered.position(&key(0)).map(Progress::committed), Some(expected), "{outcome:?}");
        assert!(journal.epoch() > epoch);

        let mut state = recovered;
        let third = commit(&mut journal, &mut state, 0, 9);
        journal.flush(&state);
        journal.appended().await;
        assert_eq!(third.await, Ok(Ok(())));
    }
}

#[tokio::test]
async fn a_full_disk_refuses_and_the_next_append_carries_what_was_refused() {
    let engine = Engine::new();
    let (mut journal, mut state) = engine.open(u64::MAX).await;
    make_group(&mut journal, &mut state).await;
    engine.next_outcomes([Outcome::Full]);
    let refused = commit(&mut journal, &mut state, 0, 5);
    journal.flush(&state);
    journal.appended().await;
    assert_eq!(refused.await, Ok(Err(JournalError::Full)));
    assert!(journal.recover_if_lost().await.is_none(), "the lease is still good");
    journal.flush(&state);
    assert!(journal.in_flight.is_none(), "a full disk is not tried without end");
    let later = commit(&mut journal, &mut state, 1, 1);
    journal.flush(&state);
    journal.appended().await;
    assert_eq!(later.await, Ok(Ok(())));
    let (_, replayed) = engine.open(u64::MAX).await;
    assert_eq!(replayed.position(&key(0)).map(Progress::committed), Some(5));
}

#[tokio::test]
async fn a_journal_taken_over_by_another_broker_is_fenced_for_good() {
    let engine = Engine::new();
    let (mut journal, mut state) = engine.open(u64::MAX).await;
    make_group(&mut journal, &mut state).await;
    let (_other, _) = engine.open(u64::MAX).await;
    let late = commit(&mut journal, &mut state, 0, 5);
    journal.flush(&state);
    journal.appended().await;
    assert!(matches!(late.await, Ok(Err(JournalError::Fenced { .. }))));
    assert!(journal.recover_if_lost().await.is_none());
    assert!(matches!(journal.write(&[]).await, Err(JournalError::Fenced { .. })));
}

#[tokio::test]
async fn snapshots_bound_the_log_and_lose_nothing() {
    let engine = Engine::new();
    let (mut journal, mut state) = engine.open(20_000).await;
    make_group(&mut journal, &mut state).await;
    let mut largest = 0;
    for offset in 0..5_000 {
        let partition = u32::try_from(offset % 50).expect("small");
        let answer = commit(&mut journal, &mut state, partition, offset);
        journal.flush(&state);
        journal.appended().await;
        assert_eq!(answer.await, Ok(Ok(())));
        journal.snapshot_if_due(&state).await;
        largest = largest.max(engine.stored_bytes());
    }
    assert!(largest < 40_000, "{largest}");
    let (_, replayed) = engine.open(20_000).await;
    assert_eq!(replayed, state);
}

/// Whatever becomes of appends, snapshots and brokers: a state that was answered "durable" is there, and nothing is
/// there that was never wanted.
#[tokio::test]
async fn random_lives_keep_what_was_durable() {
    for seed in 0..150 {
        let mut random = fastrand::Rng::with_seed(seed);
        let engine = Engine::new();
        let (mut journal, mut state) = engine.open(2_000).await;
        for step in 0..150 {
            let at = format!("seed {seed}, step {step}");
            if random.u8(0..10) == 0 {
                let outcomes = [Outcome::Full, Outcome::UnknownAndCut, Outcome::UnknownAndKept, Outcome::Done];
                engine.next_outcomes([outcomes[random.usize(0..4)]]);
            }
            match random.u8(0..20) {
                0 => {
                    engine.log.script.lock().clear();
                    let (reopened, replayed) = engine.open(2_000).await;
                    assert_eq!(replayed, state, "{at}");
                    journal = reopened;
                }
                1 => journal.snapshot_if_due(&state).await,
                2..=9 => {
                    let change = random_change(&mut random);
                    if journal.write(std::slice::from_ref(&change)).await.is_ok() {
                        state.apply(change);
                    }
                }
                _ => {
                    let Change::Advanced { key, progress } = random_change(&mut random) else { continue };
                    let durable = Arc::new(AtomicBool::new(false));
                    let told = Arc::clone(&durable);
                    let mut wanted = state.clone();
                    wanted.advance(&key, progress);
                    journal.moved(key);
                    journal.when_durable(Box::new(move |outcome| told.store(outcome.is_ok(), Ordering::Relaxed)));
                    journal.flush(&wanted);
                    if journal.in_flight.is_some() {
                        journal.appended().await;
                    }
                    if durable.load(Ordering::Relaxed) {
                        state = wanted;
                    } else {
                        // A broker would keep what was acked; here only what is durable counts.
                        journal.moved.clear();
                    }
                }
            }
            if let Some(recovered) = journal.recover_if_lost().await {
                state = recovered;
            }
        }
    }
}
