//! Delayed events: how long after their time they reach whoever reads the topic.
//!
//! Callers schedule one event after the other, for times that lie seconds ahead: near ones wait in memory, the others come
//! out of a log of longer delays first. The reader sits on the same machine, so that both go by one clock.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use aqueduct_client::{Client, DUE_HEADER, Due, Event, Record, Start, Subscription};
use aqueduct_tests::BrokerProcess;
use futures_util::future::try_join_all;
use hdrhistogram::Histogram;
use tokio::{sync::oneshot, time::timeout};

use crate::report::figure;

const CALLERS: u64 = 16;
const PARTITIONS: u32 = 2;
const VALUE_BYTES: usize = 100;
/// The shortest delay.
const DELAY_MIN: Duration = Duration::from_secs(1);
/// The longest: beyond 12 s, events wait in more than one log.
const DELAY_MAX: Duration = Duration::from_secs(15);
/// What is promised at ordinary load.
const LATE_MAX: Duration = Duration::from_millis(50);
/// What has not come by then is lost.
const GIVE_UP_AFTER: Duration = Duration::from_secs(60);

/// Measures with callers that schedule for as long as `load`.
pub(crate) async fn measure(load: Duration) -> anyhow::Result<()> {
    let broker = BrokerProcess::start();
    let client = broker.client().await;
    client.topics().create("reminders").partitions(PARTITIONS).build().await?;
    let events = client.subscribe("reminders").from(Start::Earliest).build().await?;
    let begin = Instant::now();
    let delay_max = DELAY_MAX.min(DELAY_MIN + 2 * load);
    let callers = (0..CALLERS).map(|seed| {
        let task = tokio::spawn(schedule(client.clone(), seed, begin + load, delay_max));
        async { task.await? }
    });
    let (all, counted) = oneshot::channel();
    let reading = tokio::spawn(read(events, counted));
    let scheduled: u64 = try_join_all(callers).await?.into_iter().sum();
    figure("delays: scheduled", scheduled as f64 / begin.elapsed().as_secs_f64(), "records/s");
    // If it has ended, it says why itself.
    let _ = all.send(scheduled);
    let late = timeout(delay_max + GIVE_UP_AFTER, reading).await.context("not everything has come")???;
    let ms_at = |quantile| late.value_at_quantile(quantile) as f64 / 1e3;
    figure("delays: late p50", ms_at(0.5), "ms");
    figure("delays: late p99", ms_at(0.99), "ms");
    figure("delays: late at most", ms_at(1.0), "ms");
    figure("delays: late p99, of the 50 ms promised", ms_at(0.99) / LATE_MAX.as_secs_f64() / 10.0, "%");
    Ok(())
}

/// Schedules one event after the other until `end`; returns how many.
async fn schedule(client: Client, seed: u64, end: Instant, delay_max: Duration) -> anyhow::Result<u64> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut scheduled = 0;
    while Instant::now() < end {
        let delay = DELAY_MIN + (delay_max - DELAY_MIN).mul_f64(random.f64());
        let record = Record::new(vec![b'x'; VALUE_BYTES]).key(scheduled.to_string());
        client.schedule("reminders", record, Due::In(delay)).await?;
        scheduled += 1;
    }
    Ok(scheduled)
}

/// By how many µs events are late, until as many have come as were `scheduled`.
async fn read(mut events: Subscription, mut scheduled: oneshot::Receiver<u64>) -> anyhow::Result<Histogram<u64>> {
    let mut late = Histogram::new(3)?;
    let mut expected = None;
    while expected.is_none_or(|expected| late.len() < expected) {
        tokio::select! {
            event = events.next() => late.record(late_us(&event.context("the subscription has ended")??)?)?,
            count = &mut scheduled, if expected.is_none() => expected = Some(count?),
        }
    }
    Ok(late)
}

fn late_us(event: &Event) -> anyhow::Result<u64> {
    let due: u128 = std::str::from_utf8(event.header(DUE_HEADER).context("no due time")?)?.parse()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros();
    let late = now.checked_sub(due).with_context(|| format!("an event came {} µs early", due - now))?;
    Ok(u64::try_from(late)?)
}
