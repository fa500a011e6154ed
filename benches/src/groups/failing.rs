//! What others notice of records that fail: one in a hundred does, and does not come again while this runs.
//!
//! Two loads, on shared and on keyed groups. *Steady*: a group in which nothing fails and one with failures follow the same
//! publisher, at a rate that both can take. It shows whether anything waits for what has failed. *Backlog*: the two take
//! turns on a long backlog, as fast as the machine can. It shows what a failure costs, where nothing is left to pay for it.
//! Counted are, in both groups, the records that are not to fail.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use aqueduct_client::{Client, Delivery, GroupMode, GroupPolicy, Offset, RetryPolicy};
use aqueduct_tests::BrokerProcess;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::{
    MEMBERS,
    members::{Conduct, Group, Handled, PARTITIONS, consume, key, publish, record},
};
use crate::report::figure;

/// One record in so many fails.
const FAILS_ONE_IN: u64 = 100;
/// Half of it is random.
const BACKOFF: Duration = Duration::from_secs(600);
/// What must be left of the throughput of the others.
const LEFT_MIN: f64 = 0.9;
/// A group with failures is waited for so many times as long as one without, and a little longer.
const PATIENCE: f64 = 4.0;
const PATIENCE_MIN: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_millis(5);

/// How much is measured, in each mode.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) backlog: u64,
    /// Half of it for each load.
    pub(crate) time: Duration,
    /// Published in the steady load.
    pub(crate) records_per_second: u64,
    pub(crate) limit: Limit,
}

/// What becomes of a run in which too little was left for the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Limit {
    /// It is an error.
    Kept,
    /// It was too short to say anything.
    Shown,
}

/// # Errors
/// Too little was left for the others in the steady load, where that is to be kept.
pub(crate) async fn measure(plan: Plan) -> anyhow::Result<()> {
    let mut missed = Vec::new();
    for mode in [GroupMode::Shared, GroupMode::Keyed] {
        let outcome = steady(plan, mode).await?;
        outcome.print(&format!("{mode}, steady"));
        if !outcome.is_enough() {
            missed.push(mode.to_string());
        }
        let outcome = Outcome::median(backlog(plan, mode).await?).context("nothing was measured")?;
        outcome.print(&format!("{mode}, backlog"));
    }
    let is_kept = missed.is_empty() || plan.limit == Limit::Shown;
    ensure!(is_kept, "less than {:.0} % were left for the others: {}", LEFT_MIN * 100.0, missed.join(", "));
    Ok(())
}

/// Throughput of the records that are not to fail, in records a second.
#[derive(Debug, Clone, Copy)]
struct Outcome {
    nothing_fails: f64,
    some_fail: f64,
    /// What comes in of them; 0 where everything is there before.
    published: f64,
    /// How far the group with failures has come when its others are handled, from 0 to 1.
    committed: f64,
}

impl Outcome {
    /// The one with the median of what is left.
    fn median(mut outcomes: Vec<Self>) -> Option<Self> {
        outcomes.sort_by(|a, b| a.left().total_cmp(&b.left()));
        outcomes.get(outcomes.len() / 2).copied()
    }

    /// Also with failures that slow both groups down.
    fn is_enough(&self) -> bool {
        self.left() >= LEFT_MIN && self.nothing_fails >= LEFT_MIN * self.published
    }

    fn left(&self) -> f64 {
        self.some_fail / self.nothing_fails
    }

    fn print(&self, load: &str) {
        figure(&format!("{load}: nothing fails"), self.nothing_fails / 1e3, "k records/s");
        figure(&format!("{load}: 1 in {FAILS_ONE_IN} fails"), self.some_fail / 1e3, "k records/s");
        figure(&format!("{load}: left for the others"), self.left() * 100.0, "%");
        figure(&format!("{load}: committed by then"), self.committed * 100.0, "%");
    }
}

/// Whether members of a group give back what is to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failures {
    None,
    Some,
}

/// One of the two groups that are compared.
struct Side {
    group: Group,
    mode: GroupMode,
    failures: Failures,
}

impl Side {
    fn new(topic: &'static str, mode: GroupMode, failures: Failures, round: usize) -> Self {
        let retry = RetryPolicy { backoff_min: Some(BACKOFF), backoff_max: Some(BACKOFF), ..RetryPolicy::default() };
        let policy = GroupPolicy { mode: Some(mode), retry, ..GroupPolicy::default() };
        let name = format!("{mode}-{failures:?}-{round}").to_lowercase();
        Self { group: Group { topic, name, policy }, mode, failures }
    }

    async fn consume(&self, broker: &BrokerProcess) -> anyhow::Result<Handled> {
        let members = self.group.join(broker, MEMBERS).await?;
        let (mode, failures) = (self.mode, self.failures);
        Ok(consume(members, move |delivery| match failures {
            _ if !is_to_fail(mode, delivery) => Conduct::Ack,
            Failures::None => Conduct::AckUncounted,
            Failures::Some => Conduct::Nack,
        }))
    }

    /// Which part of the topic lies below the committed offsets.
    async fn committed(&self, client: &Client) -> anyhow::Result<f64> {
        let lags = client.group(&self.group.name).lag(self.group.topic).await?;
        let of_topic = lags.iter().filter(|lag| lag.partition < PARTITIONS);
        let (committed, published) = of_topic.fold((0, 0), |(committed, published), lag| {
            (committed + lag.committed_offset, published + lag.high_watermark)
        });
        Ok(committed as f64 / published as f64)
    }
}

fn is_to_fail(mode: GroupMode, delivery: &Delivery) -> bool {
    match mode {
        GroupMode::Keyed => delivery.record.key.as_deref().is_some_and(key_fails),
        GroupMode::Ordered | GroupMode::Shared => offset_fails(delivery.partition, delivery.offset),
    }
}

fn key_fails(key: &[u8]) -> bool {
    key.try_into().is_ok_and(|number| scattered(u64::from_le_bytes(number)).is_multiple_of(FAILS_ONE_IN))
}

fn offset_fails(partition: u32, offset: Offset) -> bool {
    scattered(offset ^ (u64::from(partition) << 48)).is_multiple_of(FAILS_ONE_IN)
}

/// Without any pattern: the finaliser of MurmurHash3.
fn scattered(number: u64) -> u64 {
    let number = (number ^ (number >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let number = (number ^ (number >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    number ^ (number >> 33)
}

/// Both groups follow a publisher.
async fn steady(plan: Plan, mode: GroupMode) -> anyhow::Result<Outcome> {
    let broker = BrokerProcess::start();
    let client = broker.client().await;
    client.topics().create("steady").partitions(PARTITIONS).build().await?;
    let [whole, failing] = [Failures::None, Failures::Some].map(|failures| Side::new("steady", mode, failures, 0));
    let (mut of_whole, mut of_failing) = (whole.consume(&broker).await?, failing.consume(&broker).await?);
    let begin = Instant::now();
    tokio::select! {
        published = publish_at(&client, plan) => published?,
        ended = of_whole.reach(u64::MAX) => ended?,
        ended = of_failing.reach(u64::MAX) => ended?,
    }
    let seconds = begin.elapsed().as_secs_f64();
    let outcome = Outcome {
        nothing_fails: of_whole.acked() as f64 / seconds,
        some_fail: of_failing.acked() as f64 / seconds,
        published: plan.records_per_second as f64 * (FAILS_ONE_IN - 1) as f64 / FAILS_ONE_IN as f64,
        committed: failing.committed(&client).await?,
    };
    of_whole.stop().await?;
    of_failing.stop().await?;
    Ok(outcome)
}

async fn publish_at(client: &Client, plan: Plan) -> anyhow::Result<()> {
    let producer = client.producer("steady").build().await?;
    let (begin, time) = (Instant::now(), plan.time / 2);
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut published = 0;
    while begin.elapsed() < time {
        tick.tick().await;
        let due = u64::try_from(begin.elapsed().as_micros())? * plan.records_per_second / 1_000_000;
        let _ticket = producer.enqueue_all((published..due).map(record)).await?;
        published = due;
    }
    producer.flush().await?;
    Ok(())
}

/// The groups take turns; for each turn there are new ones.
async fn backlog(plan: Plan, mode: GroupMode) -> anyhow::Result<Vec<Outcome>> {
    let broker = BrokerProcess::start();
    let client = broker.client().await;
    client.topics().create("backlog").partitions(PARTITIONS).build().await?;
    publish(&client, "backlog", plan.backlog).await?;
    let others = plan.backlog - failing_in(&client, mode, plan.backlog).await?;

    let end = Instant::now() + plan.time / 2;
    let mut outcomes = Vec::new();
    while outcomes.is_empty() || Instant::now() < end {
        let [whole, failing] =
            [Failures::None, Failures::Some].map(|failures| Side::new("backlog", mode, failures, outcomes.len()));
        let nothing_fails = drain(&broker, &whole, others, Duration::MAX).await?;
        let patience = PATIENCE_MIN + Duration::from_secs_f64(others as f64 / nothing_fails * PATIENCE);
        let some_fail = drain(&broker, &failing, others, patience).await?;
        outcomes.push(Outcome {
            nothing_fails,
            some_fail,
            published: 0.0,
            committed: failing.committed(&client).await?,
        });
    }
    Ok(outcomes)
}

/// How many records of the backlog are to fail.
async fn failing_in(client: &Client, mode: GroupMode, backlog: u64) -> anyhow::Result<u64> {
    let failing = match mode {
        GroupMode::Keyed => (0..backlog).filter(|number| key_fails(&key(*number))).count(),
        GroupMode::Ordered | GroupMode::Shared => {
            let partitions = client.topics().describe("backlog").await?.partitions;
            let failing = |partition: u32, end: Offset| (0..end).filter(move |at| offset_fails(partition, *at)).count();
            partitions.into_iter().map(|of| failing(of.partition, of.high_watermark)).sum()
        }
    };
    Ok(failing as u64)
}

/// How many of `others` are acked a second. Gives up when `patience` ends.
async fn drain(broker: &BrokerProcess, side: &Side, others: u64, patience: Duration) -> anyhow::Result<f64> {
    let mut handled = side.consume(broker).await?;
    let begin = Instant::now();
    if let Ok(ended) = timeout(patience, handled.reach(others)).await {
        ended?;
    }
    let rate = handled.acked() as f64 / begin.elapsed().as_secs_f64();
    handled.stop().await?;
    Ok(rate)
}
