//! Handlers that the client runs, and consumers that are slowed down.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use aqueduct_client::{ConsumerBuilder, Delivery, Event, Failure, Job, LetterFilter, Record, RunSummary};
use aqueduct_tests::{eventually, text, within};
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    time::sleep,
};

use crate::stage::{Stage, next, quick};

const ACK_TIMEOUT: Duration = Duration::from_secs(1);

fn billing(stage: &Stage) -> ConsumerBuilder {
    stage.client.consumer("numbers", "billing").retry(quick(2)).ack_timeout(ACK_TIMEOUT)
}

async fn lag_records(stage: &Stage) -> u64 {
    let lag = stage.client.group("billing").lag("numbers").await.expect("a report");
    lag.iter().map(|partition| partition.lag_records).sum()
}

async fn timeouts(stage: &Stage) -> u64 {
    let members = stage.client.group("billing").describe().await.expect("a description").members;
    members.iter().map(|member| member.timeouts).sum()
}

pub(crate) async fn each_event_is_handled_in_its_partitions_order_and_durably_acked(stage: Stage) {
    const EVENTS: usize = 400;
    stage.topic("numbers", 4).await;
    let producer = stage.client.producer("numbers").build().await.expect("a producer");
    let keyed = (0..EVENTS).map(|number| Record::new(number.to_string()).key(format!("customer-{}", number % 37)));
    producer.publish_all(keyed).await.expect("receipts");

    let handled = Arc::new(Mutex::new(BTreeMap::<u32, Vec<u64>>::new()));
    let (enough, all) = mpsc::channel(1);
    let handler = {
        let handled = Arc::clone(&handled);
        move |job: Job| {
            let (handled, enough) = (Arc::clone(&handled), enough.clone());
            async move {
                // Whoever comes later may well end earlier.
                for _ in 0..job.offset % 5 {
                    tokio::task::yield_now().await;
                }
                let mut handled = handled.lock().expect("no panic");
                handled.entry(job.partition).or_default().push(job.offset);
                if handled.values().map(Vec::len).sum::<usize>() == EVENTS {
                    enough.try_send(())?;
                }
                Ok::<_, Failure>(())
            }
        }
    };
    let mut all = all;
    let consumer = billing(&stage).build().await.expect("a consumer");
    let run = consumer.run(16, handler).until(async move { all.recv().await });
    let summary = within("the run", run.into_future()).await.expect("a clean end");
    assert_eq!(summary, RunSummary { handled: EVENTS as u64, ..RunSummary::default() });
    for (partition, offsets) in handled.lock().expect("no panic").iter() {
        assert!(offsets.iter().copied().eq(0..offsets.len() as u64), "partition {partition}: {offsets:?}");
    }
    assert_eq!(lag_records(&stage).await, 0);
}

pub(crate) async fn what_handlers_fail_at_is_tried_again_and_becomes_a_dead_letter_that_says_why(stage: Stage) {
    stage.topic("numbers", 1).await;
    stage.publish_numbers("numbers", 8).await;
    let (tell, mut attempts) = mpsc::unbounded_channel();
    let handler = move |job: Job| {
        let tell = tell.clone();
        async move {
            tell.send((job.offset, job.attempt()))?;
            match job.offset {
                1 => Err(Failure::retry("the ledger is locked")),
                2 => panic!("no such customer"),
                3 => std::future::pending().await,
                4 => Err(Failure::park("not an order")),
                5 if job.attempt() == 1 => Err(Failure::retry_after(Duration::from_millis(3), "not yet")),
                _ => Ok(()),
            }
        }
    };
    let (stop, stopped) = oneshot::channel::<()>();
    let consumer = billing(&stage).build().await.expect("a consumer");
    let run = consumer.run(4, handler).timeout(Duration::from_millis(50)).until(stopped);
    let running = tokio::spawn(run.into_future());
    eventually("the group is through", async || (lag_records(&stage).await == 0).then_some(())).await;
    stop.send(()).expect("it runs");
    let summary = running.await.expect("no panic").expect("a clean end");
    let expected = RunSummary { handled: 4, retried: 7, timed_out: 2, panicked: 2, parked: 1, ..RunSummary::default() };
    assert_eq!(summary, expected);
    let mut seen = Vec::new();
    while let Some(attempt) = attempts.recv().await {
        seen.push(attempt);
    }
    let expected = [(0, 1), (1, 1), (1, 2), (2, 1), (2, 2), (3, 1), (3, 2), (4, 1), (5, 1), (5, 2), (6, 1), (7, 1)];
    assert_eq!(seen, expected, "in order");

    let mut errors = Vec::new();
    let letters = stage.client.dead_letters("numbers", "billing");
    letters
        .read(&LetterFilter::default(), |letter| errors.push((letter.death.offset, letter.death.last_error)))
        .await
        .expect("letters");
    let expected = [
        (1, "the ledger is locked"),
        (2, "the handler panicked: no such customer"),
        (3, "the handler did not end within its time-out of 50ms"),
        (4, "not an order"),
    ];
    assert_eq!(errors, expected.map(|(offset, error)| (offset, error.to_owned())));
}

pub(crate) async fn a_handler_slower_than_the_ack_time_out_keeps_its_event_and_those_behind_it(stage: Stage) {
    stage.topic("numbers", 1).await;
    stage.publish_numbers("numbers", 3).await;
    let (tell, mut attempts) = mpsc::unbounded_channel();
    let handler = move |job: Job| {
        let tell = tell.clone();
        async move {
            if job.offset == 0 {
                sleep(ACK_TIMEOUT * 5 / 2).await;
            }
            tell.send((job.offset, job.attempt()))
        }
    };
    let consumer = billing(&stage).build().await.expect("a consumer");
    let (stop, stopped) = oneshot::channel::<()>();
    let run = consumer.run(4, handler).timeout(ACK_TIMEOUT * 20).until(stopped);
    let running = tokio::spawn(run.into_future());
    for offset in 0..3 {
        assert_eq!(within("a handler", attempts.recv()).await, Some((offset, 1)));
    }
    assert_eq!(timeouts(&stage).await, 0);
    stop.send(()).expect("it runs");
    assert_eq!(running.await.expect("no panic").expect("a clean end").handled, 3);
    assert_eq!(lag_records(&stage).await, 0);
}

pub(crate) async fn a_shutdown_finishes_what_runs_and_leaves_the_rest_to_others_as_it_was(stage: Stage) {
    stage.topic("numbers", 1).await;
    stage.publish_numbers("numbers", 100).await;
    let ends = Arc::new(Semaphore::new(0));
    let (begin, mut begun) = mpsc::unbounded_channel();
    let handler = {
        let ends = Arc::clone(&ends);
        move |job: Job| {
            let (begin, ends) = (begin.clone(), Arc::clone(&ends));
            async move {
                begin.send(job.offset)?;
                ends.acquire().await?.forget();
                Ok::<_, Failure>(())
            }
        }
    };
    for (first, grace, handled) in [(0, Duration::from_secs(60), 1), (1, Duration::ZERO, 0)] {
        let consumer = billing(&stage).build().await.expect("a consumer");
        let (stop, stopped) = oneshot::channel::<()>();
        let run = consumer.run(4, handler.clone()).timeout(Duration::from_secs(300)).grace(grace).until(stopped);
        let running = tokio::spawn(run.into_future());
        assert_eq!(within("a handler", begun.recv()).await, Some(first));
        stop.send(()).expect("it runs");
        ends.add_permits(handled);
        let summary = within("the end", running).await.expect("no panic").expect("a clean end");
        let handled = handled as u64;
        assert_eq!(summary, RunSummary { handled, interrupted: 1 - handled, ..RunSummary::default() });
        assert_eq!(lag_records(&stage).await, 99);
    }
    let mut other = billing(&stage).build().await.expect("a consumer");
    for offset in 1..100 {
        let delivery = next(&mut other).await;
        assert_eq!((delivery.offset, delivery.attempt()), (offset, 1), "no attempt is counted");
        delivery.ack();
    }
}

pub(crate) async fn a_paused_member_keeps_its_partition_and_what_waits_beyond_the_ack_time_out(stage: Stage) {
    stage.topic("numbers", 1).await;
    stage.publish_numbers("numbers", 10).await;
    let mut consumer = billing(&stage).build().await.expect("a consumer");
    next(&mut consumer).await.ack_durable().await.expect("durable");
    consumer.pause();
    tokio::select! {
        delivery = consumer.next() => panic!("{delivery:?} in a pause"),
        () = sleep(ACK_TIMEOUT * 5 / 2) => {}
    }
    stage.publish_numbers("numbers", 10).await;
    consumer.resume();
    for offset in 1..20 {
        let delivery = next(&mut consumer).await;
        assert_eq!((delivery.offset, delivery.attempt()), (offset, 1));
        delivery.ack();
    }
    assert_eq!((timeouts(&stage).await, consumer.stats().delivered), (0, 20));
}

pub(crate) async fn a_slow_rate_does_not_run_what_waits_into_the_ack_time_out(stage: Stage) {
    stage.topic("numbers", 1).await;
    // One batch, which comes whole: twice as much as is handed out within the ack time-out.
    stage.publish_numbers("numbers", 200).await;
    let mut consumer = billing(&stage).rate_limit(100.0).build().await.expect("a consumer");
    for offset in 0..200 {
        let delivery = next(&mut consumer).await;
        assert_eq!((delivery.offset, delivery.attempt()), (offset, 1));
        delivery.ack();
        if offset == 150 {
            consumer.rate_limit(None);
        }
    }
    assert_eq!(timeouts(&stage).await, 0);
    consumer.close().await.expect("a clean end");
    assert_eq!(lag_records(&stage).await, 0);
}

pub(crate) async fn an_ack_after_the_partition_has_gone_is_counted_and_disturbs_nobody(stage: Stage) {
    stage.topic("numbers", 2).await;
    let client = stage.another_client().await;
    for partition in 0..2 {
        let producer = stage.client.producer("numbers").partition(partition).build().await.expect("a producer");
        producer.publish(Record::new(partition.to_string())).await.expect("a receipt");
    }
    let mut first =
        stage.client.consumer("numbers", "billing").ack_timeout(ACK_TIMEOUT).build().await.expect("a consumer");
    let held = [next(&mut first).await, next(&mut first).await];
    let builder = client.consumer("numbers", "billing");
    let mut second = within("the second member", builder.build()).await.expect("a consumer");
    // What is open of the partition that moves runs into the ack time-out, and is then another member's.
    let moved = next(&mut second).await;
    assert_eq!(moved.attempt(), 2);
    let late = held.into_iter().find(|delivery| delivery.partition == moved.partition).expect("it was here before");
    let aborted = first.stats().aborted;
    late.ack();
    eventually("the late ack is counted", async || (first.stats().aborted > aborted).then_some(())).await;
    moved.ack_durable().await.expect("durable");
    // Nothing of this is an error of the consumer.
    let producer = stage.client.producer("numbers").build().await.expect("a producer");
    for number in 0..20 {
        producer.publish(Record::new("more").key(number.to_string())).await.expect("a receipt");
    }
    let more = async {
        loop {
            let delivery: Delivery = next(&mut first).await;
            let event: &Event = delivery.event();
            if text(event) == "more" {
                return delivery;
            }
            delivery.ack();
        }
    };
    within("more", more).await.ack();
}
