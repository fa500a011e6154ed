//! What a group does as time passes. The broker's clock is set forward by hand.

use std::time::Duration;

use aqueduct::testing::TestBroker;
use aqueduct_client::{
    Cleanup, Client, Consumer, ConsumerBuilder, DeliveryHours, Member, Record, RetryPolicy, Timestamp, WaitReason,
};
use aqueduct_tests::{eventually, read_all, text};

use crate::stage::next;

const ACK_TIMEOUT: Duration = Duration::from_secs(30);

async fn start(partitions: u32) -> (TestBroker, Client) {
    let broker = TestBroker::start().await.expect("an embedded broker");
    let client = broker.client();
    client.topics().create("orders").partitions(partitions).build().await.expect("a new topic");
    (broker, client)
}

fn billing(client: &Client, name: &str) -> ConsumerBuilder {
    let backoff = Some(Duration::from_millis(1));
    let retry = RetryPolicy { backoff_min: backoff, backoff_max: backoff, ..RetryPolicy::default() };
    client.consumer("orders", "billing").member_name(name).ack_timeout(ACK_TIMEOUT).retry(retry)
}

/// Acks everything up to `value`.
async fn handle_up_to(consumer: &mut Consumer, value: &str) {
    loop {
        let delivery = next(consumer).await;
        let is_last = text(&delivery) == value;
        delivery.ack();
        if is_last {
            return;
        }
    }
}

async fn members(client: &Client) -> Vec<Member> {
    client.group("billing").describe().await.expect("a description").members
}

/// Hours that begin so many minutes from now and last for an hour.
fn an_hour_in(minutes: i64) -> DeliveryHours {
    let now = Timestamp::now().as_micros().div_euclid(60_000_000);
    let clock = |at: i64| format!("{:02}:{:02}", at.rem_euclid(1440) / 60, at.rem_euclid(60));
    format!("{}-{}", clock(now + minutes), clock(now + minutes + 60)).parse().expect("hours")
}

#[tokio::test]
async fn a_member_that_settles_nothing_is_named_then_taken_out_and_comes_back_when_its_program_goes_on() {
    let (broker, client) = start(1).await;
    for value in ["a", "b"] {
        client.publish("orders", Record::new(value)).await.expect("a receipt");
    }
    let mut stuck = billing(&client, "stuck").build().await.expect("a member");
    let held = next(&mut stuck).await;
    let mut idle = billing(&broker.client(), "idle").build().await.expect("a member");
    for timeouts in 1..=2 {
        broker.advance(ACK_TIMEOUT + Duration::from_secs(1));
        let named = eventually("it is named", async || {
            let found = members(&client).await.into_iter().find(|member| member.stalled_since.is_some())?;
            // Delivered again: the next time-out has begun.
            (found.timeouts == timeouts && found.open_records == 2).then_some(found)
        });
        let named = named.await;
        assert_eq!((named.name.as_str(), named.partitions, named.last_settled), ("stuck", vec![0], None));
    }
    broker.advance(ACK_TIMEOUT + Duration::from_secs(1));
    let taken_over = next(&mut idle).await;
    assert_eq!((text(&taken_over), taken_over.attempt()), ("a", 4), "its attempts are not used up");
    taken_over.ack();
    next(&mut idle).await.ack_durable().await.expect("durable");
    assert_eq!(members(&client).await.iter().map(|member| member.name.as_str()).collect::<Vec<_>>(), ["idle"]);
    assert!(members(&client).await[0].last_settled.is_some());
    let taken_out = client.group("billing").describe().await.expect("a description").taken_out;
    let [taken_out] = &taken_out[..] else { panic!("{taken_out:?}") };
    assert_eq!((taken_out.name.as_str(), taken_out.topic.as_str()), ("stuck", "orders"));
    assert!(taken_out.reason == "MEMBER_STUCK" && taken_out.message.contains("join again"), "{taken_out:?}");
    assert_eq!(client.groups().dead_letters().await.expect("a list").len(), 0, "no healthy record is parked");

    held.ack();
    eventually("it is back", async || (members(&client).await.len() == 2).then_some(())).await;
    idle.close().await.expect("a clean end");
    client.publish("orders", Record::new("c")).await.expect("a receipt");
    let next = next(&mut stuck).await;
    assert_eq!(text(&next), "c");
    next.ack();
}

#[tokio::test]
async fn a_group_with_hours_is_delivered_to_when_they_begin_and_not_when_they_are_over() {
    let (broker, client) = start(1).await;
    client.publish("orders", Record::new("early")).await.expect("a receipt");
    let group = client.group("billing");
    let mut consumer = billing(&client, "night").build().await.expect("a member");
    let early = next(&mut consumer).await;
    group.alter().hours(an_hour_in(120)).build().await.expect("altered");
    early.ack_durable().await.expect("acks are taken at any hour");
    client.publish("orders", Record::new("one")).await.expect("a receipt");
    // Another group gets it, so that this one would have, too.
    let mut audit = client.consumer("orders", "audit").build().await.expect("a member");
    handle_up_to(&mut audit, "one").await;
    let described = eventually("it says for what it waits", async || {
        Some(group.describe().await.expect("a description")).filter(|description| !description.waits.is_empty())
    });
    let described = described.await;
    assert_eq!(described.waits[0].reason, Some(WaitReason::Hours), "{:?}", described.waits);
    assert!(described.closed_until.is_some() && described.waits[0].until == described.closed_until);
    assert_eq!(consumer.stats().delivered, 1);

    broker.advance(Duration::from_secs(130 * 60));
    let one = next(&mut consumer).await;
    assert_eq!((text(&one), one.attempt()), ("one", 1));
    assert_eq!(group.describe().await.expect("a description").closed_until, None);
    one.ack_durable().await.expect("durable");
    broker.advance(Duration::from_secs(3600));
    client.publish("orders", Record::new("two")).await.expect("a receipt");
    handle_up_to(&mut audit, "two").await;
    assert!(group.describe().await.expect("a description").closed_until.is_some());
    assert_eq!(consumer.stats().delivered, 2);
    group.alter().hours(DeliveryHours::ALWAYS).build().await.expect("altered");
    // The change is in force at once.
    handle_up_to(&mut consumer, "two").await;
}

#[tokio::test]
async fn a_nack_for_ten_years_comes_again_after_a_day() {
    let (broker, client) = start(1).await;
    client.publish("orders", Record::new("later")).await.expect("a receipt");
    let mut consumer = billing(&client, "a").build().await.expect("a member");
    next(&mut consumer).await.nack_after(Duration::from_secs(10 * 365 * 86_400), "in ten years");
    let refused = async || (consumer.stats().nacked == 1).then_some(());
    eventually("it is stored", refused).await;
    broker.advance(Duration::from_secs(86_400));
    let again = next(&mut consumer).await;
    assert_eq!((text(&again), again.attempt()), ("later", 2));
    again.ack_durable().await.expect("durable");
}

#[tokio::test]
async fn a_quiet_topic_is_compacted_an_hour_after_what_is_superseded_was_published() {
    let broker = TestBroker::start().await.expect("an embedded broker");
    let client = broker.client();
    client.topics().create("prices").partitions(1).cleanup(Cleanup::Compact).build().await.expect("a new topic");
    for value in 0..50 {
        client.publish("prices", Record::new(value.to_string()).key("anvil")).await.expect("a receipt");
    }
    broker.advance(Duration::from_secs(61 * 60));
    let left = eventually("it is compacted", async || {
        let events = read_all(&client, "prices").await;
        (events.len() < 50).then_some(events)
    });
    let left: Vec<(u64, String)> = left.await.iter().map(|event| (event.offset, text(event).to_owned())).collect();
    assert_eq!(left, [(49, "49".to_owned())]);
}
