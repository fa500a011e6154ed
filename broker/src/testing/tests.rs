//! What takes hours takes milliseconds, and nothing else is different: seen through the client, as a user would.

use std::time::Duration;

use tokio::sync::mpsc;

use super::*;
use crate::client::{Consumer, Delivery, Failure, Job, LetterFilter, Offset, Record};

const HOUR: Duration = Duration::from_secs(3600);
/// Shorter than any ack time-out here.
const STEP: Duration = Duration::from_secs(10);
/// Of real time: it is only reached by what would never happen.
const PATIENCE: Duration = Duration::from_secs(60);

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it does not take a minute of real time")
}

/// A broker with the topic `orders` and so many records in it.
async fn with_orders(count: usize) -> (TestBroker, Client) {
    let broker = TestBroker::start().await.expect("the broker starts");
    let client = broker.client();
    client.topics().create("orders").build().await.expect("a new topic");
    for number in 0..count {
        client.publish("orders", Record::new(number.to_string())).await.expect("a receipt");
    }
    (broker, client)
}

async fn next(consumer: &mut Consumer) -> Delivery {
    within(consumer.next()).await.expect("it goes on").expect("a delivery")
}

fn seen(delivery: &Delivery) -> (Offset, u32) {
    (delivery.offset, delivery.attempt())
}

#[tokio::test]
async fn a_delay_of_hours_is_over_when_the_clock_says_so() {
    let (broker, client) = with_orders(1).await;
    let mut inbox = client.consumer("orders", "billing").build().await.expect("a consumer");
    next(&mut inbox).await.nack_after(9 * HOUR, "the bank opens at nine");
    let group = client.group("billing");
    while group.describe().await.expect("a description").failed.is_empty() {}
    broker.advance(8 * HOUR);
    assert!(group.lag("orders").await.expect("a report")[0].lag_records == 1);
    assert_eq!(group.describe().await.expect("a description").members[0].open_records, 0, "not yet");
    broker.advance(HOUR);
    let again = next(&mut inbox).await;
    assert_eq!(seen(&again), (0, 2));
    again.ack_durable().await.expect("durable");
    assert_eq!(inbox.stats().rejoins, 0, "its member was never taken for gone");
}

#[tokio::test]
async fn what_is_not_settled_within_the_ack_time_out_comes_again() {
    let (broker, client) = with_orders(1).await;
    let mut inbox = client.consumer("orders", "billing").ack_timeout(HOUR).build().await.expect("a consumer");
    let held = next(&mut inbox).await;
    broker.advance(HOUR + STEP);
    let again = within(broker.advance_until(STEP, inbox.next())).await.expect("it goes on").expect("a delivery");
    assert_eq!((seen(&held), seen(&again)), ((0, 1), (0, 2)));
    again.ack_durable().await.expect("durable");
    let members = client.group("billing").describe().await.expect("a description").members;
    assert_eq!((members.len(), members[0].timeouts, inbox.stats().rejoins), (1, 1, 0));
}

#[tokio::test]
async fn five_attempts_with_backoffs_of_minutes_end_among_the_dead_letters() {
    let (broker, client) = with_orders(3).await;
    let (tell, mut attempts) = mpsc::unbounded_channel();
    let handler = move |job: Job| {
        let tell = tell.clone();
        async move {
            tell.send((job.offset, job.attempt()))?;
            if job.offset == 1 { Err(Failure::retry("boom")) } else { Ok(()) }
        }
    };
    let retry = crate::client::RetryPolicy { backoff_min: Some(Duration::from_secs(60)), ..Default::default() };
    let inbox = client.consumer("orders", "billing").retry(retry).build().await.expect("a consumer");
    let control = inbox.control();
    let running = tokio::spawn(inbox.run(1, handler).into_future());
    let mut seen = Vec::new();
    while seen.last() != Some(&(2, 1)) {
        seen.extend(within(broker.advance_until(STEP, attempts.recv())).await);
    }
    assert_eq!(seen, [(0, 1), (1, 1), (1, 2), (1, 3), (1, 4), (1, 5), (2, 1)]);
    client.close(Duration::from_secs(10)).await.expect("a clean end");
    let summary = running.await.expect("no panic").expect("a clean end");
    assert_eq!((summary.handled, summary.retried), (2, 5));
    assert_eq!(control.stats().rejoins, 0);

    let client = broker.client();
    let mut deaths = Vec::new();
    let letters = client.dead_letters("orders", "billing");
    letters.read(&LetterFilter::default(), |letter| deaths.push(letter.death)).await.expect("letters");
    let [death] = &deaths[..] else { panic!("{deaths:?}") };
    assert_eq!((death.offset, death.attempts, death.last_error.as_str()), (1, 5, "boom"));
    let took_us = death.last_failed.as_micros() - death.first_failed.as_micros();
    assert!(took_us >= 60_000_000 * (1 + 2 + 4 + 8) / 2, "half of each backoff at least: {took_us} µs");
}

#[tokio::test]
async fn events_grow_old_with_the_clock_and_retention_takes_them() {
    let (broker, client) = with_orders(0).await;
    client.topics().create("ticks").retention_age(24 * HOUR).build().await.expect("a new topic");
    client.publish("ticks", Record::new("yesterday")).await.expect("a receipt");
    let log_start = async || {
        let described = client.topics().describe("ticks").await.expect("a description");
        described.partitions[0].log_start
    };
    broker.advance(25 * HOUR);
    let passes = async {
        while log_start().await == 0 {
            tokio::task::yield_now().await;
        }
    };
    within(passes).await;
    assert_eq!(log_start().await, 1);
    let broker = broker.restart().await.expect("it starts again");
    let receipt = broker.client().publish("ticks", Record::new("tomorrow")).await.expect("a receipt");
    assert_eq!(receipt.offset, 1);
    let (before, now) = (receipt.append_time.as_micros(), crate::clock::now_us());
    assert!(before >= now + 24 * 3_600_000_000, "the clock is not set back by a restart");
}
