//! Groups: acks, nacks, revocation, lost sessions, leaving.

use std::time::Duration;

use aqueduct_client::{
    AckError, ConsumeError, Consumer, Delivery, GroupMode,
    proto::{self as v1, consume_request::Event as Said, consume_response::Event},
};
use tonic::{Code, Status};

use crate::fake::{Broker, Consuming, TOPIC_ID, status, stored};

pub(crate) async fn say(stream: &Consuming, event: Event) {
    stream.answer(v1::ConsumeResponse { event: Some(event) }).await;
}

/// The next thing the member says that is not a heartbeat.
pub(crate) async fn said(stream: &mut Consuming) -> Option<Said> {
    loop {
        match stream.request().await?.event {
            Some(Said::Heartbeat(_)) => {}
            other => return other,
        }
    }
}

pub(crate) fn assignment(assigned: &[(u32, u64)], revoked: &[u32]) -> Event {
    let assigned = assigned.iter().map(|(partition, generation)| v1::AssignedPartition {
        partition: *partition,
        generation: *generation,
        committed_offset: 0,
    });
    Event::Assignment(v1::Assignment { assigned: assigned.collect(), revoked: revoked.to_vec() })
}

pub(crate) fn delivery(partition: u32, generation: u64, from: u64, to: u64) -> Event {
    Event::Delivery(v1::Delivery {
        partition,
        generation,
        batch: Some(stored(from, to - from)),
        ranges: vec![v1::OffsetRange { from, to }],
        attempt: 1,
        high_watermark: 100,
    })
}

/// Answers a join and assigns partition 0 in `generation`.
pub(crate) async fn welcome(stream: &mut Consuming, generation: u64) {
    let Some(Said::Join(join)) = said(stream).await else { panic!("joins first") };
    assert_eq!((join.group.as_str(), join.topic.as_str()), ("billing", "orders"));
    let joined = v1::Joined { topic_id: TOPIC_ID.to_vec().into(), member_id: 9, policy: join.policy, partitions: 2 };
    say(stream, Event::Joined(joined)).await;
    say(stream, assignment(&[(0, generation)], &[])).await;
}

pub(crate) async fn join(broker: &mut Broker, client: &aqueduct_client::Client) -> (Consuming, Consumer) {
    let building = tokio::spawn(client.consumer("orders", "billing").mode(GroupMode::Ordered).build());
    let mut stream = broker.consuming().await;
    welcome(&mut stream, 1).await;
    (stream, building.await.expect("no panic").expect("joined"))
}

pub(crate) async fn take(inbox: &mut Consumer, count: usize) -> Vec<Delivery> {
    let mut taken = Vec::new();
    for _ in 0..count {
        taken.push(inbox.next().await.expect("not over").expect("a delivery"));
    }
    taken
}

pub(crate) async fn settle(stream: &Consuming, ack_id: u64) {
    say(stream, Event::Settled(v1::Settled { ack_id, committed_offset: 0, error: None })).await;
}

pub(crate) fn range(from: u64, to: u64) -> Vec<v1::OffsetRange> {
    vec![v1::OffsetRange { from, to }]
}

#[tokio::test(start_paused = true)]
async fn acks_travel_as_ranges() {
    let (mut broker, client) = Broker::start(1);
    let (mut stream, mut inbox) = join(&mut broker, &client).await;
    assert_eq!(inbox.policy().mode, Some(GroupMode::Ordered));
    say(&stream, delivery(0, 1, 10, 20)).await;
    let deliveries = take(&mut inbox, 10).await;
    assert_eq!((deliveries[0].offset, deliveries[0].attempt(), deliveries[0].generation()), (10, 1, 1));
    deliveries.into_iter().for_each(Delivery::ack);
    let Some(Said::Ack(ack)) = said(&mut stream).await else { panic!("an ack") };
    assert_eq!((ack.partition, ack.generation, ack.ranges), (0, 1, range(10, 20)));
    settle(&stream, ack.ack_id).await;
    let closing = tokio::spawn(inbox.close());
    assert_eq!(said(&mut stream).await, Some(Said::Leave(v1::consume_request::Leave { for_good: false })));
    drop(stream);
    closing.await.expect("no panic").expect("left");
}

#[tokio::test(start_paused = true)]
async fn nacks_say_why_and_when_and_a_drop_is_a_nack() {
    let (mut broker, client) = Broker::start(1);
    let (mut stream, mut inbox) = join(&mut broker, &client).await;
    say(&stream, delivery(0, 1, 0, 3)).await;
    let mut deliveries = take(&mut inbox, 3).await.into_iter();
    deliveries.next().expect("first").nack_after(Duration::from_millis(1_500), "later");
    deliveries.next().expect("second").nack("boom");
    drop(deliveries);
    let mut nacks = Vec::new();
    for _ in 0..3 {
        let Some(Said::Nack(nack)) = said(&mut stream).await else { panic!("a nack") };
        nacks.push((nack.ranges[0].from, nack.delay_ms, nack.error));
    }
    let dropped = (2, None, "dropped without an answer".to_owned());
    assert_eq!(nacks, [(0, Some(1_500), "later".to_owned()), (1, None, "boom".to_owned()), dropped]);
}

#[tokio::test(start_paused = true)]
async fn a_durable_ack_waits_for_the_brokers_answer() {
    let (mut broker, client) = Broker::start(1);
    let (mut stream, mut inbox) = join(&mut broker, &client).await;
    say(&stream, delivery(0, 1, 0, 2)).await;
    let mut deliveries = take(&mut inbox, 2).await.into_iter();
    let acking = tokio::spawn(deliveries.next().expect("first").ack_durable());
    let Some(Said::Ack(ack)) = said(&mut stream).await else { panic!("an ack") };
    assert!(!acking.is_finished());
    settle(&stream, ack.ack_id).await;
    acking.await.expect("no panic").expect("durable");

    let stale = tokio::spawn(deliveries.next().expect("second").ack_durable());
    let Some(Said::Ack(ack)) = said(&mut stream).await else { panic!("an ack") };
    let error = Some(status(Code::Aborted, "STALE_GENERATION"));
    say(&stream, Event::Settled(v1::Settled { ack_id: ack.ack_id, committed_offset: 0, error })).await;
    let error = stale.await.expect("no panic").expect_err("moved on");
    assert!(matches!(error, AckError::Aborted { partition: 0, offset: 1, .. }), "{error}");
    assert_eq!((inbox.stats().acked, inbox.stats().aborted), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_revocation_releases_what_nobody_has_seen_and_lets_the_rest_be_acked() {
    let (mut broker, client) = Broker::start(2);
    let (mut stream, mut inbox) = join(&mut broker, &client).await;
    say(&stream, delivery(0, 1, 0, 10)).await;
    let deliveries = take(&mut inbox, 4).await;
    say(&stream, assignment(&[(1, 2)], &[0])).await;
    let Some(Said::Release(release)) = said(&mut stream).await else { panic!("a release") };
    assert_eq!((release.partition, release.generation, release.ranges), (0, 1, range(4, 10)));
    deliveries.into_iter().for_each(Delivery::ack);
    let Some(Said::Ack(ack)) = said(&mut stream).await else { panic!("an ack") };
    assert_eq!((ack.generation, ack.ranges), (1, range(0, 4)));
    // What was on its way when the partition went goes straight back.
    say(&stream, delivery(0, 1, 10, 12)).await;
    let Some(Said::Release(release)) = said(&mut stream).await else { panic!("a release") };
    assert_eq!(release.ranges, range(10, 12));
    say(&stream, delivery(1, 2, 0, 1)).await;
    assert_eq!(take(&mut inbox, 1).await[0].partition, 1);
    assert_eq!((inbox.assignment(), inbox.stats().released), (vec![1], 8));
}

#[tokio::test(start_paused = true)]
async fn after_a_lost_session_it_joins_again_and_old_acks_are_counted() {
    let (mut broker, client) = Broker::start(1);
    let (stream, mut inbox) = join(&mut broker, &client).await;
    say(&stream, delivery(0, 1, 0, 5)).await;
    let old = take(&mut inbox, 2).await;
    stream.fail(Status::unavailable("restarting")).await;
    let mut stream = broker.consuming().await;
    welcome(&mut stream, 2).await;
    say(&stream, delivery(0, 2, 0, 5)).await;
    let again = take(&mut inbox, 5).await;
    assert_eq!(again.iter().map(|delivery| delivery.offset).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    old.into_iter().for_each(Delivery::ack);
    again.into_iter().for_each(Delivery::ack);
    let Some(Said::Ack(ack)) = said(&mut stream).await else { panic!("an ack") };
    assert_eq!((ack.generation, ack.ranges), (2, range(0, 5)));
    assert_eq!((inbox.stats().lost, inbox.stats().rejoins), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn credit_comes_back_as_deliveries_are_handed_out() {
    let (mut broker, client) = Broker::start(1);
    let building = tokio::spawn(client.consumer("orders", "billing").prefetch_records(4).build());
    let mut stream = broker.consuming().await;
    welcome(&mut stream, 1).await;
    let mut inbox = building.await.expect("no panic").expect("joined");
    say(&stream, delivery(0, 1, 0, 2)).await;
    let deliveries = take(&mut inbox, 2).await;
    // The batch is known to be used up when the next one is asked for.
    say(&stream, delivery(0, 1, 2, 3)).await;
    let more = take(&mut inbox, 1).await;
    let Some(Said::Credit(credit)) = said(&mut stream).await else { panic!("credit") };
    assert_eq!(credit.records, 2);
    deliveries.into_iter().chain(more).for_each(Delivery::ack);
}

#[tokio::test(start_paused = true)]
async fn a_member_that_is_refused_is_told_and_ends() {
    let (mut broker, client) = Broker::start(1);
    let building = tokio::spawn(client.consumer("orders", "billing").build());
    broker.consuming().await.fail(Status::failed_precondition("another policy")).await;
    let error = building.await.expect("no panic").expect_err("refused");
    assert!(
        matches!(&error, ConsumeError::Request(error) if error.code() == Some(Code::FailedPrecondition)),
        "{error}"
    );

    let (stream, mut inbox) = join(&mut broker, &client).await;
    stream.fail(Status::not_found("the group was deleted")).await;
    assert!(inbox.next().await.expect("said once").is_err());
    assert!(inbox.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn closing_the_client_settles_and_leaves() {
    let (mut broker, client) = Broker::start(1);
    let (mut stream, mut inbox) = join(&mut broker, &client).await;
    say(&stream, delivery(0, 1, 0, 3)).await;
    take(&mut inbox, 1).await.into_iter().for_each(Delivery::ack);
    let closing = tokio::spawn(async move { client.close(Duration::from_secs(5)).await });
    let mut heard = Vec::new();
    while let Some(event) = said(&mut stream).await {
        match event {
            Said::Ack(ack) => {
                settle(&stream, ack.ack_id).await;
                heard.push("ack");
            }
            Said::Release(release) => {
                assert_eq!(release.ranges, range(1, 3));
                heard.push("release");
            }
            Said::Leave(_) => {
                heard.push("leave");
                break;
            }
            other => panic!("unexpected: {other:?}"),
        }
    }
    heard.sort_unstable();
    assert_eq!(heard, ["ack", "leave", "release"]);
    drop(stream);
    closing.await.expect("no panic").expect("closed");
    assert!(inbox.next().await.is_none());
}
