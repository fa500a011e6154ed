//! Handlers: order, outcomes, time-outs, shutdown.

use std::{sync::Arc, time::Duration};

use aqueduct_client::{
    Codec, ConsumeError, Consumer, ConsumerBuilder, Failure, GroupMode, Job, Record, Run, RunSummary,
    codec::encode_batch,
    proto::{self as v1, consume_request::Event as Said, consume_response::Event},
};
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    task::JoinHandle,
    time::{Instant, sleep},
};
use tonic::{Code, Status};

use crate::{
    consumer::{assignment, delivery, range, said, say, settle, welcome},
    fake::{Broker, Consuming, status},
    pace::{self, billing},
};

/// A member that has partitions 0 and 1.
async fn join(broker: &mut Broker, builder: ConsumerBuilder) -> (Consuming, Consumer) {
    let (stream, consumer) = pace::join(broker, builder).await;
    say(&stream, assignment(&[(1, 1)], &[])).await;
    (stream, consumer)
}

/// The next thing the member says that is more than "still working on it".
async fn said_next(stream: &mut Consuming) -> Option<Said> {
    loop {
        match said(stream).await? {
            Said::Extend(_) => {}
            said => return Some(said),
        }
    }
}

/// The broker's part of a leave: answers everything until the member has left. Gives what it said.
async fn see_off(stream: &mut Consuming) -> Vec<Said> {
    let mut heard = Vec::new();
    while let Some(event) = said(stream).await {
        let ack_id = match &event {
            Said::Ack(ack) => Some(ack.ack_id),
            Said::Nack(nack) => Some(nack.ack_id),
            Said::Park(park) => Some(park.ack_id),
            _ => None,
        };
        if let Some(ack_id) = ack_id {
            settle(stream, ack_id).await;
        }
        heard.push(event);
    }
    heard
}

type Running = JoinHandle<Result<RunSummary, ConsumeError>>;

fn start<H>(run: Run<H>) -> Running
where
    Run<H>: IntoFuture<Output = Result<RunSummary, ConsumeError>, IntoFuture: Send + 'static>,
{
    tokio::spawn(run.into_future())
}

/// Handlers that say what they have begun, and end one by one as the test lets them.
struct Gate {
    begun: mpsc::UnboundedReceiver<(u32, u64)>,
    ends: Arc<Semaphore>,
}

impl Gate {
    fn handlers() -> (Self, impl Fn(Job) -> futures_util::future::BoxFuture<'static, Result<(), Failure>> + Send + Sync)
    {
        let (begin, begun) = mpsc::unbounded_channel();
        let ends = Arc::new(Semaphore::new(0));
        let gate = Self { begun, ends: Arc::clone(&ends) };
        let handler = move |job: Job| -> futures_util::future::BoxFuture<'static, Result<(), Failure>> {
            let (begin, ends) = (begin.clone(), Arc::clone(&ends));
            Box::pin(async move {
                begin.send((job.partition, job.offset))?;
                ends.acquire().await?.forget();
                Ok(())
            })
        };
        (gate, handler)
    }

    async fn begun(&mut self, count: usize) -> Vec<(u32, u64)> {
        let mut begun = Vec::new();
        for _ in 0..count {
            begun.push(self.begun.recv().await.expect("a handler"));
        }
        begun.sort_unstable();
        begun
    }

    /// Time passes, and nothing more begins.
    async fn nothing_begins(&mut self) {
        sleep(Duration::from_secs(5)).await;
        assert!(self.begun.try_recv().is_err());
    }
}

#[tokio::test(start_paused = true)]
async fn an_ordered_group_handles_each_partition_in_order_and_partitions_beside_each_other() {
    let (mut broker, client) = Broker::start(2);
    let (stream, inbox) = join(&mut broker, billing(&client)).await;
    let (mut gate, handler) = Gate::handlers();
    let _running = start(inbox.run(16, handler));
    say(&stream, delivery(0, 1, 0, 3)).await;
    say(&stream, delivery(1, 1, 10, 12)).await;
    assert_eq!(gate.begun(2).await, [(0, 0), (1, 10)]);
    gate.nothing_begins().await;
    gate.ends.add_permits(2);
    assert_eq!(gate.begun(2).await, [(0, 1), (1, 11)]);
    gate.nothing_begins().await;
    gate.ends.add_permits(2);
    assert_eq!(gate.begun(1).await, [(0, 2)]);
}

#[tokio::test(start_paused = true)]
async fn a_shared_group_handles_as_many_at_once_as_it_may() {
    let (mut broker, client) = Broker::start(2);
    let (stream, inbox) = join(&mut broker, billing(&client).mode(GroupMode::Shared)).await;
    let (mut gate, handler) = Gate::handlers();
    let _running = start(inbox.run(3, handler));
    say(&stream, delivery(0, 1, 0, 5)).await;
    assert_eq!(gate.begun(3).await, [(0, 0), (0, 1), (0, 2)]);
    gate.nothing_begins().await;
    gate.ends.add_permits(1);
    assert_eq!(gate.begun(1).await, [(0, 3)]);
}

fn keyed_delivery(keys: &[&'static str]) -> Event {
    let records: Vec<_> = keys.iter().map(|key| Record::new("value").key(*key)).collect();
    let batch = encode_batch(&records, Codec::None).expect("encodes");
    Event::Delivery(v1::Delivery {
        partition: 0,
        generation: 1,
        batch: Some(batch),
        ranges: range(0, keys.len() as u64),
        attempt: 1,
        high_watermark: 100,
    })
}

#[tokio::test(start_paused = true)]
async fn a_keyed_group_handles_each_key_in_order_and_keys_beside_each_other() {
    let (mut broker, client) = Broker::start(1);
    let (mut stream, inbox) = join(&mut broker, billing(&client).mode(GroupMode::Keyed)).await;
    let (mut gate, handler) = Gate::handlers();
    let running = start(inbox.run(16, handler).until(sleep(Duration::from_secs(20))).grace(Duration::ZERO));
    say(&stream, keyed_delivery(&["a", "b", "a", "c", "b", "a"])).await;
    assert_eq!(gate.begun(3).await, [(0, 0), (0, 1), (0, 3)]);
    gate.nothing_begins().await;
    gate.ends.add_permits(1);
    assert_eq!(gate.begun(1).await.len(), 1);
    gate.nothing_begins().await;
    // At its end it gives back what runs and what waits, all but the one that was handled.
    let heard = see_off(&mut stream).await;
    let released =
        heard.iter().filter_map(|said| if let Said::Release(release) = said { Some(&release.ranges) } else { None });
    let released: u64 = released.flatten().map(|range| range.to - range.from).sum();
    assert_eq!(released, 5, "{heard:?}");
    drop(stream);
    let summary = running.await.expect("no panic").expect("a summary");
    assert_eq!((summary.handled, summary.interrupted), (1, 3));
}

#[tokio::test(start_paused = true)]
async fn what_a_handler_says_settles_its_event() {
    let (mut broker, client) = Broker::start(2);
    let (mut stream, inbox) = join(&mut broker, billing(&client).mode(GroupMode::Shared)).await;
    let handler = async |job: Job| match job.offset {
        0 => Ok(()),
        1 => Err(std::io::Error::other("boom").into()),
        2 => Err(Failure::retry_after(Duration::from_secs(60), "closed")),
        3 => Err(Failure::park("nonsense")),
        4 => panic!("no such thing: {}", job.offset),
        _ => std::future::pending().await,
    };
    let running = start(inbox.run(16, handler).timeout(Duration::from_secs(2)).until(sleep(Duration::from_secs(20))));
    say(&stream, delivery(0, 1, 0, 6)).await;
    let mut heard: Vec<_> = see_off(&mut stream).await.into_iter().filter_map(verdict).collect();
    heard.sort();
    let expected = [
        (0, "ack".to_owned(), None),
        (1, "boom".to_owned(), None),
        (2, "closed".to_owned(), Some(60_000)),
        (3, "park: nonsense".to_owned(), None),
        (4, "the handler panicked: no such thing: 4".to_owned(), None),
        (5, "the handler did not end within its time-out of 2s".to_owned(), None),
    ];
    assert_eq!(heard, expected);
    drop(stream);
    let summary = running.await.expect("no panic").expect("a summary");
    let expected =
        RunSummary { handled: 1, retried: 4, timed_out: 1, panicked: 1, parked: 1, interrupted: 0, passed_over: 0 };
    assert_eq!(summary, expected);
    assert_eq!(summary.to_string(), "1 handled, 4 retried (1 timed out, 1 panicked), 1 parked, 0 interrupted");
}

/// Of which offset, what was said, and how long to wait.
fn verdict(said: Said) -> Option<(u64, String, Option<u32>)> {
    match said {
        Said::Ack(ack) => Some((ack.ranges[0].from, "ack".to_owned(), None)),
        Said::Nack(nack) => Some((nack.ranges[0].from, nack.error, nack.delay_ms)),
        Said::Park(park) => Some((park.ranges[0].from, format!("park: {}", park.reason), None)),
        _ => None,
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_handler_and_what_waits_behind_it_are_kept_alive() {
    let (mut broker, client) = Broker::start(2);
    let (mut stream, inbox) = join(&mut broker, billing(&client)).await;
    let handler = async |_: Job| {
        sleep(Duration::from_secs(100)).await;
        Ok::<_, Failure>(())
    };
    let _running = start(inbox.run(1, handler).timeout(Duration::from_secs(200)));
    say(&stream, delivery(0, 1, 0, 5)).await;
    let begun = Instant::now();
    let mut kept = Vec::new();
    let acked = loop {
        match said(&mut stream).await.expect("a request") {
            Said::Extend(extend) => kept.push((begun.elapsed().as_secs(), extend.ranges[0])),
            Said::Ack(ack) => break ack,
            other => panic!("unexpected: {other:?}"),
        }
    };
    assert_eq!(acked.ranges, range(0, 1));
    let last_time = |offset: u64| {
        let times: Vec<_> =
            kept.iter().filter(|(_, range)| (range.from..range.to).contains(&offset)).map(|kept| kept.0).collect();
        let gaps = times.windows(2).map(|pair| pair[1] - pair[0]).chain([times[0], 100 - times[times.len() - 1]]);
        gaps.max().expect("it is kept")
    };
    for offset in 0..5 {
        assert!(last_time(offset) <= 10, "offset {offset} is not told of every third of the ack time-out: {kept:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_extends_begins_its_time_out_anew() {
    let (mut broker, client) = Broker::start(2);
    let (mut stream, inbox) = join(&mut broker, billing(&client).mode(GroupMode::Shared)).await;
    let handler = async |job: Job| {
        for _ in 0..job.offset {
            sleep(Duration::from_secs(7)).await;
            job.extend();
        }
        sleep(Duration::from_secs(if job.offset == 0 { 11 } else { 9 })).await;
        Ok::<_, Failure>(())
    };
    let _running = start(inbox.run(2, handler).timeout(Duration::from_secs(10)));
    say(&stream, delivery(0, 1, 0, 2)).await;
    let mut verdicts = Vec::new();
    while verdicts.len() < 2 {
        verdicts.extend(said(&mut stream).await.and_then(verdict));
    }
    verdicts.sort();
    assert_eq!(verdicts[0].1, "the handler did not end within its time-out of 10s");
    assert_eq!(verdicts[1], (1, "ack".to_owned(), None), "16 s in all");
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_gives_back_what_nobody_has_begun_and_waits_for_the_rest() {
    let (mut broker, client) = Broker::start(2);
    let (mut stream, inbox) = join(&mut broker, billing(&client)).await;
    let (mut gate, handler) = Gate::handlers();
    let (stop, stopped) = oneshot::channel::<()>();
    let running = start(inbox.run(2, handler).until(stopped).grace(Duration::from_secs(20)));
    say(&stream, delivery(0, 1, 0, 5)).await;
    say(&stream, delivery(1, 1, 10, 15)).await;
    gate.begun(2).await;
    stop.send(()).expect("it runs");
    let mut given_back = Vec::new();
    for _ in 0..2 {
        let Some(Said::Release(release)) = said_next(&mut stream).await else { panic!("a release") };
        given_back.push((release.partition, release.ranges));
    }
    assert_eq!(given_back, [(0, range(1, 5)), (1, range(11, 15))]);
    assert_eq!(
        said_next(&mut stream).await,
        Some(Said::Leave(v1::consume_request::Leave { for_good: false })),
        "it says that it goes"
    );
    // What was on its way goes straight back.
    say(&stream, delivery(0, 1, 5, 7)).await;
    let Some(Said::Release(release)) = said_next(&mut stream).await else { panic!("a release") };
    assert_eq!(release.ranges, range(5, 7));

    gate.ends.add_permits(1);
    let Some(Said::Ack(ack)) = said_next(&mut stream).await else { panic!("an ack") };
    settle(&stream, ack.ack_id).await;
    gate.nothing_begins().await;
    assert!(!running.is_finished());
    let other = 1 - ack.partition;
    let Some(Said::Extend(extend)) = said(&mut stream).await else { panic!("it is kept alive") };
    assert_eq!(extend.partition, other);
    // The other one does not end within the grace.
    let released = said_next(&mut stream).await;
    let Some(Said::Release(release)) = released else { panic!("a release: {released:?}") };
    assert_eq!((release.partition, release.ranges), (other, range(10 * u64::from(other), 10 * u64::from(other) + 1)));
    drop(stream);
    let summary = running.await.expect("no panic").expect("a summary");
    assert_eq!(summary, RunSummary { handled: 1, interrupted: 1, ..RunSummary::default() });
}

#[tokio::test(start_paused = true)]
async fn closing_the_client_lets_handlers_end() {
    let (mut broker, client) = Broker::start(2);
    let (mut stream, inbox) = join(&mut broker, billing(&client)).await;
    let (mut gate, handler) = Gate::handlers();
    let running = start(inbox.run(2, handler));
    say(&stream, delivery(0, 1, 0, 1)).await;
    gate.begun(1).await;
    let closing = tokio::spawn(async move { client.close(Duration::from_secs(30)).await });
    assert_eq!(said_next(&mut stream).await, Some(Said::Leave(v1::consume_request::Leave { for_good: false })));
    gate.nothing_begins().await;
    gate.ends.add_permits(1);
    let Some(Said::Ack(ack)) = said_next(&mut stream).await else { panic!("an ack") };
    settle(&stream, ack.ack_id).await;
    drop(stream);
    assert_eq!(running.await.expect("no panic").expect("a summary").handled, 1);
    closing.await.expect("no panic").expect("closed");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_ends_the_run_and_a_partition_that_fails_does_not() {
    let (mut broker, client) = Broker::start(2);
    let (stream, inbox) = join(&mut broker, billing(&client)).await;
    let (mut gate, handler) = Gate::handlers();
    gate.ends.add_permits(10);
    let control = inbox.control();
    let running = start(inbox.run(2, handler));
    let error = Some(status(Code::FailedPrecondition, "PARTITION_HALTED"));
    say(&stream, Event::Failure(v1::PartitionFailure { partition: 0, error })).await;
    say(&stream, delivery(1, 1, 0, 1)).await;
    assert_eq!(gate.begun(1).await, [(1, 0)]);
    stream.fail(Status::not_found("the group was deleted")).await;
    let error = running.await.expect("no panic").expect_err("it was refused");
    assert!(matches!(&error, ConsumeError::Request(error) if error.code() == Some(Code::NotFound)), "{error}");
    assert_eq!(control.stats().delivered, 1);
}

#[tokio::test(start_paused = true)]
async fn handlers_of_a_lost_session_finish_and_what_comes_again_waits_for_them() {
    let (mut broker, client) = Broker::start(2);
    let (stream, inbox) = join(&mut broker, billing(&client)).await;
    let (mut gate, handler) = Gate::handlers();
    let _running = start(inbox.run(2, handler));
    say(&stream, delivery(0, 1, 0, 2)).await;
    assert_eq!(gate.begun(1).await, [(0, 0)]);
    stream.fail(Status::unavailable("restarting")).await;
    let mut stream = broker.consuming().await;
    stream.send_heartbeats();
    welcome(&mut stream, 2).await;
    say(&stream, delivery(0, 2, 0, 2)).await;
    gate.nothing_begins().await;
    gate.ends.add_permits(2);
    assert_eq!(gate.begun(1).await, [(0, 0)], "again, after the first has ended");
    let Some(Said::Ack(ack)) = said_next(&mut stream).await else { panic!("an ack") };
    assert_eq!((ack.generation, ack.ranges), (2, range(0, 1)));
}

#[tokio::test(start_paused = true)]
async fn an_ack_that_is_too_late_is_counted_and_told_to_nobody() {
    let (mut broker, client) = Broker::start(2);
    let (mut stream, inbox) = join(&mut broker, billing(&client)).await;
    let control = inbox.control();
    let (mut gate, handler) = Gate::handlers();
    gate.ends.add_permits(2);
    let running = start(inbox.run(2, handler));
    for offset in 0..2 {
        say(&stream, delivery(0, 1, offset, offset + 1)).await;
        gate.begun(1).await;
        let Some(Said::Ack(ack)) = said_next(&mut stream).await else { panic!("an ack") };
        let error = (offset == 0).then(|| status(Code::Aborted, "STALE_GENERATION"));
        say(&stream, Event::Settled(v1::Settled { ack_id: ack.ack_id, committed_offset: 0, error })).await;
    }
    sleep(Duration::from_secs(1)).await;
    assert_eq!((control.stats().aborted, control.stats().acked), (1, 1));
    assert!(!running.is_finished());
}

#[tokio::test(start_paused = true)]
async fn handlers_can_be_paused_and_slowed_down_while_they_run() {
    let (mut broker, client) = Broker::start(2);
    let (stream, inbox) = join(&mut broker, billing(&client).mode(GroupMode::Shared)).await;
    let control = inbox.control();
    let (mut gate, handler) = Gate::handlers();
    gate.ends.add_permits(1_000);
    let _running = start(inbox.run(4, handler));
    control.pause();
    say(&stream, delivery(0, 1, 0, 100)).await;
    gate.nothing_begins().await;
    // What was given back in the pause comes again.
    control.resume();
    control.rate_limit(10.0);
    let begun = Instant::now();
    say(&stream, delivery(0, 1, 0, 100)).await;
    gate.begun(52).await;
    assert!(begun.elapsed().abs_diff(Duration::from_secs(5)) < Duration::from_millis(50), "{:?}", begun.elapsed());
}
