//! Reading: exact resumption, gaps, ends, damage.

use aqueduct_client::{
    DecodeError, GapReason, Item, Start, SubscribeError, Subscription,
    proto::{self as v1, subscribe_response::Event},
};
use tonic::{Code, Status};

use crate::fake::{Broker, Subscribing, TOPIC_ID, status, stored};

fn started(positions: &[(u32, u64, Option<u64>)]) -> Event {
    let position = |(partition, offset, end_offset): &(u32, u64, Option<u64>)| v1::PartitionPosition {
        partition: *partition,
        offset: *offset,
        end_offset: *end_offset,
    };
    let positions = positions.iter().map(position).collect();
    Event::Started(v1::SubscriptionStarted { topic_id: TOPIC_ID.to_vec().into(), positions })
}

fn batches(batches: Vec<v1::Batch>) -> Event {
    Event::Batches(v1::BatchSet { batches })
}

async fn open(
    broker: &mut Broker,
    client: &aqueduct_client::Client,
    from: Start,
    positions: &[(u32, u64, Option<u64>)],
) -> (Subscribing, Subscription) {
    let building = tokio::spawn(client.subscribe("orders").from(from).build());
    let stream = broker.subscribing().await;
    stream.answer(0, started(positions)).await;
    (stream, building.await.expect("no panic").expect("subscribed"))
}

async fn offsets(events: &mut Subscription, count: usize) -> Vec<(u32, u64)> {
    let mut seen = Vec::new();
    for _ in 0..count {
        let event = events.next().await.expect("not over").expect("an event");
        assert_eq!(event.value(), Some(event.offset.to_string().as_bytes()));
        seen.push((event.partition, event.offset));
    }
    seen
}

#[tokio::test(start_paused = true)]
async fn a_reconnect_resumes_exactly_in_every_partition() {
    let (mut broker, client) = Broker::start(2);
    let (stream, mut events) = open(&mut broker, &client, Start::Earliest, &[(0, 3, None), (1, 0, None)]).await;
    stream.answer(0, batches(vec![stored(0, 5), stored(5, 2)])).await;
    stream.answer(1, batches(vec![stored(0, 1)])).await;
    assert_eq!(offsets(&mut events, 5).await, [(0, 3), (0, 4), (0, 5), (0, 6), (1, 0)]);
    stream.fail(Status::unavailable("restarting")).await;

    let next = tokio::spawn(async move { offsets(&mut events, 3).await });
    let stream = broker.subscribing().await;
    let resumed: Vec<_> = stream.request.partitions.iter().map(|start| (start.partition, start.start)).collect();
    assert_eq!(resumed, [(0, Some(Start::Offset(7).into())), (1, Some(Start::Offset(1).into()))]);
    assert_eq!(&stream.request.topic_id[..], &TOPIC_ID[..]);
    stream.answer(0, started(&[])).await;
    // The broker sends the batch that holds offset 7 whole.
    stream.answer(0, batches(vec![stored(5, 4)])).await;
    stream.answer(1, batches(vec![stored(1, 1)])).await;
    assert_eq!(next.await.expect("no panic"), [(0, 7), (0, 8), (1, 1)]);
}

#[tokio::test(start_paused = true)]
async fn gaps_ends_and_reconnects_are_items() {
    let (mut broker, client) = Broker::start(1);
    let (stream, mut events) = open(&mut broker, &client, Start::Offset(0), &[(0, 0, Some(12))]).await;
    let gap = v1::Gap { from: 0, to: 10, reason: v1::gap::Reason::Retention.into() };
    stream.answer(0, Event::Gap(gap)).await;
    let Some(Ok(Item::Gap(gap))) = events.next_item().await else { panic!("a gap") };
    assert_eq!((gap.from, gap.to, gap.reason), (0, 10, GapReason::Retention));
    drop(stream);
    let reader = tokio::spawn(async move {
        let mut items = Vec::new();
        while let Some(item) = events.next_item().await {
            items.push(format!("{:?}", item.expect("no error")).split([' ', '(']).next().map(str::to_owned));
        }
        (items, events.stats())
    });
    let stream = broker.subscribing().await;
    assert_eq!(stream.request.partitions[0].end_offset, Some(12));
    assert_eq!(stream.request.partitions[0].start, Some(Start::Offset(10).into()));
    stream.answer(0, started(&[])).await;
    stream.answer(0, batches(vec![stored(10, 5)])).await;
    stream.answer(0, Event::End(v1::End {})).await;
    let (items, stats) = reader.await.expect("no panic");
    let items: Vec<_> = items.iter().map(|item| item.as_deref().expect("a name")).collect();
    assert_eq!(items, ["Reconnected", "Event", "Event", "End"]);
    assert_eq!((stats.reconnects, stats.gaps, stats.gap_records), (1, 1, 10));
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_next_loses_nothing() {
    let (mut broker, client) = Broker::start(1);
    let (stream, mut events) = open(&mut broker, &client, Start::Earliest, &[(0, 0, None)]).await;
    for offset in 0..20 {
        let cancelled = tokio::time::timeout(std::time::Duration::from_millis(1), events.next()).await;
        assert!(cancelled.is_err());
        stream.answer(0, batches(vec![stored(offset, 1)])).await;
        assert_eq!(offsets(&mut events, 1).await, [(0, offset)]);
    }
}

#[tokio::test(start_paused = true)]
async fn damage_names_its_offsets_and_stops_only_its_partition() {
    let (mut broker, client) = Broker::start(2);
    let (stream, mut events) = open(&mut broker, &client, Start::Earliest, &[(0, 0, None), (1, 0, None)]).await;
    let damaged = v1::Batch { crc32: 1, ..stored(0, 4) };
    stream.answer(0, batches(vec![damaged])).await;
    stream.answer(1, batches(vec![stored(0, 1)])).await;
    let error = events.next().await.expect("not over").expect_err("damaged");
    assert!(matches!(error, SubscribeError::Decode(DecodeError::Checksum { from: 0, to: 4, .. })), "{error}");
    assert_eq!(offsets(&mut events, 1).await, [(1, 0)]);
    assert_eq!(events.positions()[0].offset, 0, "the position stays before the damage");
}

#[tokio::test(start_paused = true)]
async fn damage_that_the_broker_steps_over_is_an_error_and_reading_goes_on_behind_it() {
    let (mut broker, client) = Broker::start(1);
    let (stream, mut events) = open(&mut broker, &client, Start::Earliest, &[(0, 0, None)]).await;
    let gap = v1::Gap { from: 0, to: 10, reason: v1::gap::Reason::Damaged.into() };
    stream.answer(0, Event::Gap(gap)).await;
    stream.answer(0, batches(vec![stored(10, 1)])).await;
    let error = events.next().await.expect("not over").expect_err("damaged");
    assert!(matches!(error, SubscribeError::Damaged { partition: 0, from: 0, to: 10 }), "{error}");
    assert_eq!(offsets(&mut events, 1).await, [(0, 10)]);
}

#[tokio::test(start_paused = true)]
async fn a_partition_that_fails_for_good_is_an_error_and_the_others_go_on() {
    let (mut broker, client) = Broker::start(2);
    let (stream, mut events) = open(&mut broker, &client, Start::Earliest, &[(0, 0, None), (1, 0, None)]).await;
    stream.answer(0, Event::Error(status(Code::DataLoss, "OFFSETS_DAMAGED"))).await;
    stream.answer(1, batches(vec![stored(0, 1)])).await;
    let error = events.next().await.expect("not over").expect_err("damaged");
    assert!(matches!(error, SubscribeError::Partition { partition: 0, .. }), "{error}");
    assert_eq!(offsets(&mut events, 1).await, [(1, 0)]);
}

#[tokio::test(start_paused = true)]
async fn a_subscription_that_is_refused_says_why_and_ends() {
    let (mut broker, client) = Broker::start(1);
    let building = tokio::spawn(client.subscribe("orders").build());
    broker.subscribing().await.fail(Status::not_found("no such topic")).await;
    let error = building.await.expect("no panic").expect_err("refused");
    assert!(matches!(error, SubscribeError::Request(error) if error.is_not_found()));
}

#[tokio::test(start_paused = true)]
async fn closing_the_client_ends_the_stream() {
    let (mut broker, client) = Broker::start(1);
    let (_stream, mut events) = open(&mut broker, &client, Start::Latest, &[(0, 0, None)]).await;
    let reader = tokio::spawn(async move { events.next().await.is_none() });
    client.close(std::time::Duration::from_secs(1)).await.expect("closes");
    assert!(reader.await.expect("no panic"));
}

#[tokio::test(start_paused = true)]
async fn a_fetch_begins_at_the_offset_that_was_asked_for() {
    let (_broker, client) = Broker::start(1);
    let fetched = client.fetch("orders", 0, 40).build().await.expect("fetched");
    let offsets: Vec<_> = fetched.events().map(|event| event.expect("readable").offset).collect();
    assert_eq!((offsets, fetched.next_offset), (vec![40, 41, 42], 43));
}
