//! The chapter of a consumer that cannot handle some events: nobody waits for it, nothing is lost, and what it gave up
//! comes back to it, and to nobody else, once it has learnt.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use aqueduct_client::{Client, Consumer, DeadLetter, GroupMode, GroupPolicy, LetterFilter, RetryPolicy, Start};
use serde::Deserialize;

use super::flights::Airport;
use super::narration::Narrator;
use super::traffic::Lags;
use super::{LAG_INTERVAL, PARTITIONS};
use crate::cli::size::{counted, grouped};
use crate::cli::time::human;

const TOPIC: &str = "departures";
const FAILING: &str = "punctuality";
const BYSTANDER: &str = "archive";
const ATTEMPTS: u32 = 3;
const BACKOFF: Duration = Duration::from_millis(50);

/// What the chapter has counted.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Failing {
    /// Events published.
    pub(super) events: u64,
    /// Those that the first version of the handler must fail at.
    pub(super) hopeless: u64,
    pub(super) handled: u64,
    pub(super) letters: u64,
    pub(super) handled_after_redrive: u64,
    /// Events that another group of the topic was given, those that came twice included.
    pub(super) seen_by_bystander: u64,
}

/// What a departure says of its delay.
#[derive(Deserialize)]
struct Departure {
    dep_delay: Option<i32>,
}

impl Departure {
    fn of(value: Option<&[u8]>) -> anyhow::Result<Self> {
        Ok(serde_json::from_slice(value.unwrap_or_default())?)
    }
}

pub(super) async fn tell(narrator: &Narrator, client: &Client) -> anyhow::Result<Failing> {
    let mut chapter = Failing::default();
    chapter.publish(narrator, client).await?;
    let retry = RetryPolicy {
        backoff_min: Some(BACKOFF),
        backoff_max: Some(BACKOFF),
        max_attempts: Some(ATTEMPTS),
        ..RetryPolicy::default()
    };
    let policy = GroupPolicy { mode: Some(GroupMode::Shared), retry, ..GroupPolicy::default() };
    let mut consumer = client.consumer(TOPIC, FAILING).policy(policy).member_name("demo").build().await?;
    chapter.first_run(narrator, client, &mut consumer).await?;

    let letters = client.dead_letters(TOPIC, FAILING);
    let mut parked = Vec::new();
    letters.read(&LetterFilter::default(), |letter| parked.push(letter)).await?;
    chapter.letters = parked.len() as u64;
    tell_letters(narrator, &parked);

    let offsets: Vec<u64> = parked.iter().map(|letter| letter.event.offset).collect();
    let redriven = letters.redrive(&offsets, None).await?;
    narrator.line(&format!("the handler learns what a cancelled flight is; redrive: {}", counted(redriven, "event")));
    chapter.second_run(&mut consumer, &parked).await?;
    consumer.close().await?;
    narrator.line(&format!("{FAILING} has handled {} of them now", grouped(chapter.handled_after_redrive)));
    chapter.ask_bystander(client).await?;
    Ok(chapter)
}

impl Failing {
    async fn publish(&mut self, narrator: &Narrator, client: &Client) -> anyhow::Result<()> {
        client.topics().create(TOPIC).partitions(PARTITIONS).build().await?;
        let producer = client.producer(TOPIC).build().await?;
        for record in Airport::all()?.iter().flat_map(|airport| airport.records(1)) {
            self.events += 1;
            self.hopeless += u64::from(Departure::of(record.value.as_deref())?.dep_delay.is_none());
            drop(producer.enqueue(record).await?);
        }
        producer.flush().await?;
        narrator.line(&format!(
            "{} departures; {} were cancelled, and {FAILING} wants delays",
            grouped(self.events),
            grouped(self.hopeless)
        ));
        Ok(())
    }

    /// Until every event is handled, or has failed as often as the group allows and lies among the dead letters.
    async fn first_run(&mut self, narrator: &Narrator, client: &Client, consumer: &mut Consumer) -> anyhow::Result<()> {
        let started = Instant::now();
        let mut given_up = 0;
        while self.handled + given_up < self.events {
            let delivery = consumer.next().await.context("the group has ended")??;
            match Departure::of(delivery.value())?.dep_delay {
                Some(_) => {
                    self.handled += 1;
                    delivery.ack();
                }
                None => {
                    given_up += u64::from(delivery.attempt() == ATTEMPTS);
                    delivery.nack("no departure time");
                }
            }
        }
        let mut lags = Lags::new(client, LAG_INTERVAL);
        while lags.next([FAILING]).await != [0] {}
        let elapsed = human(started.elapsed());
        narrator.line(&format!("{} handled, {} failed {ATTEMPTS} times, {elapsed}", grouped(self.handled), given_up));
        Ok(())
    }

    /// Until everything that was parked has come back.
    async fn second_run(&mut self, consumer: &mut Consumer, parked: &[DeadLetter]) -> anyhow::Result<()> {
        let place = |letter: &DeadLetter| (letter.death.partition, letter.death.offset);
        let mut expected: HashSet<_> = parked.iter().map(place).collect();
        while !expected.is_empty() {
            let delivery = consumer.next().await.context("the group has ended")??;
            if delivery.redriven().is_none() || !expected.remove(&(delivery.partition, delivery.offset)) {
                bail!("{FAILING} was given {}/{} once more", delivery.partition, delivery.offset);
            }
            self.handled_after_redrive += 1;
            delivery.ack();
        }
        Ok(())
    }

    /// Another group has nothing to do with all this: it gets every event once, as it was published.
    async fn ask_bystander(&mut self, client: &Client) -> anyhow::Result<()> {
        let policy = GroupPolicy { start: Some(Start::Earliest), ..GroupPolicy::default() };
        let mut consumer = client.consumer(TOPIC, BYSTANDER).policy(policy).build().await?;
        while self.seen_by_bystander < self.events {
            let delivery = consumer.next().await.context("the group has ended")??;
            if delivery.redriven().is_some() || delivery.attempt() != 1 {
                bail!("{BYSTANDER} was given an event that {FAILING} had failed at");
            }
            self.seen_by_bystander += 1;
            delivery.ack();
        }
        consumer.close().await?;
        Ok(())
    }
}

fn tell_letters(narrator: &Narrator, parked: &[DeadLetter]) {
    let Some(DeadLetter { death, .. }) = parked.first() else { return };
    narrator.line(&format!(
        "{} in {TOPIC}~{FAILING}~dlq; the first: {}/{}@{}, {} attempts, {:?}",
        counted(parked.len() as u64, "dead letter"),
        death.topic,
        death.partition,
        death.offset,
        death.attempts,
        death.last_error
    ));
}
