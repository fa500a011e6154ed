//! Consumers that are paused, or slowed down.

use std::time::Duration;

use aqueduct_client::{
    Client, Consumer, ConsumerBuilder, ConsumerItem, Delivery, GroupMode,
    proto::{self as v1, consume_request::Event as Said},
};
use tokio::time::{Instant, timeout};

use crate::{
    consumer::{assignment, delivery, range, said, say, take, welcome},
    fake::{Broker, Consuming},
};

const ACK_TIMEOUT: Duration = Duration::from_secs(30);
const LONG: Duration = Duration::from_secs(100);

pub(crate) fn billing(client: &Client) -> ConsumerBuilder {
    client.consumer("orders", "billing").ack_timeout(ACK_TIMEOUT)
}

pub(crate) async fn join(broker: &mut Broker, builder: ConsumerBuilder) -> (Consuming, Consumer) {
    let building = tokio::spawn(builder.build());
    let mut stream = broker.consuming().await;
    stream.send_heartbeats();
    welcome(&mut stream, 1).await;
    (stream, building.await.expect("no panic").expect("joined"))
}

/// What the member says within `time`, heartbeats apart.
async fn said_within(stream: &mut Consuming, time: Duration) -> Vec<Said> {
    let end = Instant::now() + time;
    let mut heard = Vec::new();
    while let Ok(Some(event)) = tokio::time::timeout_at(end, said(stream)).await {
        heard.push(event);
    }
    heard
}

fn extended(from: u64, to: u64) -> Said {
    Said::Extend(v1::Extend { partition: 0, generation: 1, ranges: range(from, to) })
}

fn released(from: u64, to: u64) -> Said {
    Said::Release(v1::Release { partition: 0, generation: 1, ranges: range(from, to) })
}

#[tokio::test(start_paused = true)]
async fn a_paused_member_of_an_ordered_group_keeps_what_waits_and_asks_for_nothing_more() {
    let (mut broker, client) = Broker::start(1);
    let (mut stream, mut inbox) = join(&mut broker, billing(&client).prefetch_records(4)).await;
    say(&stream, delivery(0, 1, 0, 2)).await;
    say(&stream, delivery(0, 1, 2, 4)).await;
    let first = take(&mut inbox, 2).await;
    inbox.pause();
    assert!(inbox.control().is_paused());
    assert!(timeout(LONG, inbox.next()).await.is_err(), "nothing is handed out");
    first.into_iter().for_each(Delivery::ack);
    let mut heard = said_within(&mut stream, Duration::from_secs(1)).await;
    assert!(matches!(heard.pop(), Some(Said::Ack(ack)) if ack.ranges == range(0, 2)), "what is open can be settled");
    assert!(!heard.is_empty() && heard.iter().all(|said| *said == extended(2, 4)), "{heard:?}");
    assert_eq!(said_within(&mut stream, ACK_TIMEOUT).await.len(), 3, "three times within the ack time-out");
    say(&stream, assignment(&[(1, 2)], &[])).await;
    let item = timeout(LONG, async {
        loop {
            let item = inbox.next_item().await.expect("not over").expect("no error");
            if matches!(&item, ConsumerItem::Assignment { assigned, .. } if assigned == &[1]) {
                return item;
            }
        }
    });
    item.await.expect("what is no event is told all the same");

    inbox.resume();
    let rest = take(&mut inbox, 2).await;
    assert_eq!(rest.iter().map(|delivery| delivery.offset).collect::<Vec<_>>(), [2, 3]);
    let heard = said_within(&mut stream, LONG).await;
    assert!(matches!(heard[..], [Said::Credit(v1::Credit { records: 2.., .. }), ..]), "{heard:?}");
    assert!(!heard.iter().any(|said| matches!(said, Said::Extend(_))), "{heard:?}");
}

#[tokio::test(start_paused = true)]
async fn a_paused_member_of_a_shared_or_keyed_group_gives_back_what_waits_and_what_still_comes() {
    for mode in [GroupMode::Shared, GroupMode::Keyed] {
        let (mut broker, client) = Broker::start(1);
        let (mut stream, mut inbox) = join(&mut broker, billing(&client).mode(mode).prefetch_records(100)).await;
        say(&stream, delivery(0, 1, 0, 10)).await;
        let _open = take(&mut inbox, 4).await;
        inbox.pause();
        assert_eq!(said_within(&mut stream, LONG).await, [released(4, 10)], "{mode}");
        say(&stream, delivery(0, 1, 20, 80)).await;
        assert_eq!(said_within(&mut stream, LONG).await, [released(20, 80)], "and no credit: {mode}");
        assert_eq!(inbox.stats().released, 66);
        inbox.resume();
        let Some(Said::Credit(credit)) = said(&mut stream).await else { panic!("credit") };
        assert_eq!(credit.records, 70);
    }
}

#[tokio::test(start_paused = true)]
async fn a_rate_is_kept_and_the_prefetch_follows_it() {
    let (mut broker, client) = Broker::start(1);
    let building = tokio::spawn(billing(&client).rate_limit(10.0).build());
    let mut stream = broker.consuming().await;
    stream.send_heartbeats();
    let Some(Said::Join(join)) = said(&mut stream).await else { panic!("joins first") };
    assert_eq!(join.credit.expect("credit").records, 75, "what a quarter of the ack time-out takes");
    let joined = v1::Joined { member_id: 9, policy: join.policy, partitions: 1, ..Default::default() };
    say(&stream, v1::consume_response::Event::Joined(joined)).await;
    say(&stream, assignment(&[(0, 1)], &[])).await;
    let mut inbox = building.await.expect("no panic").expect("joined");

    say(&stream, delivery(0, 1, 0, 1_000)).await;
    let begun = Instant::now();
    take(&mut inbox, 102).await.into_iter().for_each(Delivery::ack);
    assert!(begun.elapsed().abs_diff(Duration::from_secs(10)) < Duration::from_millis(50), "{:?}", begun.elapsed());
    let heard = said_within(&mut stream, Duration::from_secs(25)).await;
    assert!(heard.contains(&extended(102, 1_000)), "a batch that came whole does not expire: {heard:?}");
    assert!(!heard.iter().any(|said| matches!(said, Said::Credit(_))));

    inbox.rate_limit(1_000.0);
    let begun = Instant::now();
    take(&mut inbox, 100).await.into_iter().for_each(Delivery::ack);
    assert!(begun.elapsed() < Duration::from_millis(100), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_waits_for_its_turn_notices_a_new_rate() {
    let (mut broker, client) = Broker::start(1);
    let (stream, mut inbox) = join(&mut broker, billing(&client).rate_limit(0.001)).await;
    say(&stream, delivery(0, 1, 0, 3)).await;
    let control = inbox.control();
    let reading = tokio::spawn(async move { take(&mut inbox, 3).await.len() });
    assert!(
        timeout(LONG, async {
            while !reading.is_finished() {
                tokio::time::sleep(LONG / 4).await
            }
        })
        .await
        .is_err()
    );
    let begun = Instant::now();
    control.rate_limit(None);
    assert_eq!(reading.await.expect("no panic"), 3);
    assert!(begun.elapsed() < Duration::from_millis(1), "{:?}", begun.elapsed());
    assert_eq!(control.stats().delivered, 3);
}

#[tokio::test(start_paused = true)]
async fn a_rejoin_of_a_paused_member_asks_for_nothing() {
    let (mut broker, client) = Broker::start(1);
    let (stream, inbox) = join(&mut broker, billing(&client)).await;
    inbox.pause();
    stream.fail(tonic::Status::unavailable("restarting")).await;
    let mut stream = broker.consuming().await;
    let Some(Said::Join(join)) = said(&mut stream).await else { panic!("joins first") };
    assert_eq!(join.credit.expect("credit").records, 0);
    inbox.resume();
    let Some(Said::Credit(credit)) = said(&mut stream).await else { panic!("credit") };
    assert_eq!(credit.records, 4096);
}
