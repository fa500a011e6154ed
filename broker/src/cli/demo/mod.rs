//! `aqueduct demo`: the whole story on a temporary directory, told while it happens and checked at the end.
//!
//! The demo believes nobody: the broker is a real process that is really killed, every receipt is kept, and in the end
//! everything is read back and compared, byte for byte. It exits with 0 only if all of it agreed.

mod damage;
mod failing;
mod flights;
mod ledger;
mod narration;
mod traffic;
mod verdict;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use aqueduct_client::Client;
use clap::Args;

use super::Global;
use super::broker_process::{BrokerProcess, Home};
use super::exit::{CliError, Exit};
use super::size::{counted, grouped};
use super::time::human;
use flights::Airport;
use ledger::Ledger;
use narration::{Narrator, bar};
use traffic::{Lags, Pace, Published, Publishing, Reading};
use verdict::Verdict;

const TOPIC: &str = "flights";
const PARTITIONS: u32 = 4;
const FAST: &str = "dashboard";
const SLOW: &str = "billing";
/// Small files, so that the demo has sealed ones.
const SETTINGS: [&str; 1] = ["segment_bytes=1MiB"];
/// The slow group needs this long for all events.
const SLOW_TAKES: u32 = 5;
/// How often the broker reports lag.
const LAG_INTERVAL: Duration = Duration::from_millis(200);
/// How often that is told.
const LAG_LINES_EVERY: Duration = Duration::from_millis(750);
/// Something that takes longer has failed.
const GIVE_UP_AFTER: Duration = Duration::from_secs(180);

/// See it work: publish, kill -9, restart, and every receipt checked, in seconds
#[derive(Debug, Args)]
#[command(after_help = "\
The demo starts a broker of its own on a free port and a temporary directory,
publishes real flight events from three producers, lets a fast and a slow group
read them, kills the broker with SIGKILL in the middle of publishing, starts it
again, and then checks every receipt against what is on disk. At last a group
meets events that it cannot handle: they are retried, parked, and redriven. It
exits with 0 only if everything agreed.

Examples:
  aqueduct demo
  aqueduct demo --keep         keep the data, to look around afterwards")]
pub(super) struct DemoArgs {
    /// Keep the data directory
    #[arg(long)]
    keep: bool,
    /// How often the 5,000 events are published
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u32).range(10..=1000), value_name = "N")]
    rounds: u32,
    /// Damage one byte of a sealed file while the broker is down: the demo must notice and fail
    #[arg(long, hide = true)]
    flip_byte: bool,
}

pub(super) async fn run(global: &Global, args: DemoArgs) -> anyhow::Result<Exit> {
    let directory = tempfile::Builder::new().prefix("aqueduct-demo-").tempdir().context("cannot make a directory")?;
    let mut narrator = Narrator::new(global.output);
    let story = Story { home: Home::new(directory.path(), &SETTINGS), args: &args };
    let verdict = tokio::select! {
        verdict = Box::pin(story.tell(&mut narrator)) => verdict?,
        () = super::interrupted() => return Err(CliError::Failed("interrupted".to_owned()).into()),
        () = tokio::time::sleep(GIVE_UP_AFTER) => {
            let what = format!("the demo did not end within {}", human(GIVE_UP_AFTER));
            return Err(CliError::Failed(what).into());
        }
    };
    let kept = args.keep.then(|| directory.keep().join("data"));
    verdict.tell(&mut narrator, global.output, kept.as_deref())?;
    Ok(if verdict.is_good() { Exit::Done } else { Exit::Failed })
}

struct Story<'a> {
    home: Home,
    args: &'a DemoArgs,
}

impl Story<'_> {
    async fn tell(&self, narrator: &mut Narrator) -> anyhow::Result<Verdict> {
        narrator.plain("Aqueduct: an event log whose ack means: it is on disk. Let us try to break that.");
        narrator.step("A broker, as a process of its own");
        let broker = self.home.start("127.0.0.1:0").await?;
        let address = broker.address.clone();
        narrator.line(&format!("process {} is ready on {address} after {}", broker.pid, human(broker.ready_after)));
        let client = Client::builder(format!("http://{address}")).connect().await?;
        client.topics().create(TOPIC).partitions(PARTITIONS).build().await?;
        narrator.line(&format!("topic {TOPIC} with {PARTITIONS} partitions; every ack waits for the disk"));

        let (broker, mut verdict) = self.traffic(narrator, &client, broker).await?;
        // Idle connections end at once; an error here would only repeat what the receipts say.
        let _ = client.close(Duration::from_secs(5)).await;

        narrator.step("Stop, start, and read everything back");
        let stopped_after = broker.stop().await?;
        narrator.line(&format!("SIGTERM: finished what was in flight, exit code 0, {}", human(stopped_after)));
        if self.args.flip_byte {
            let flipped = damage::flip_byte(&self.home.data, TOPIC)?;
            narrator.line(&format!("flipped one bit of {} at byte {}", flipped.file.display(), flipped.position));
            narrator.line(&format!("0x{:02x} became 0x{:02x}; the checks must find it", flipped.before, flipped.after));
        }
        let broker = self.home.start(&address).await?;
        narrator.line(&format!("process {} is ready after {}", broker.pid, human(broker.ready_after)));
        let client = Client::builder(format!("http://{address}")).connect().await?;
        verdict.audit(narrator, &client).await?;

        narrator.step("Replay from the middle, twice");
        verdict.replay(narrator, &client).await?;

        narrator.step("A consumer that fails, and what becomes of its events");
        verdict.failing = failing::tell(narrator, &client).await?;
        let _ = client.close(Duration::from_secs(5)).await;
        broker.stop().await?;
        verdict.elapsed = narrator.elapsed();
        Ok(verdict)
    }

    /// Publishing and reading, with a sudden death in the middle; ends when nobody lags.
    async fn traffic(
        &self,
        narrator: &mut Narrator,
        client: &Client,
        broker: BrokerProcess,
    ) -> anyhow::Result<(BrokerProcess, Verdict)> {
        let airports = Airport::all().context("the events in this program are damaged")?;
        let rounds = self.args.rounds;
        let total = airports.iter().map(Airport::len).sum::<usize>() as u64 * u64::from(rounds);
        narrator.step("Three airports publish, two groups read");
        narrator.line(&format!("5,000 departures from New York, {rounds} times: {} events", grouped(total)));
        narrator.line(&format!("{FAST} reads as fast as it can, {SLOW} takes its time; their lag:"));
        let rate = u32::try_from(total).unwrap_or(u32::MAX) / SLOW_TAKES;
        let partitions = usize::try_from(PARTITIONS)?;
        let fast = Reading::start(client, TOPIC, partitions, FAST, Pace::Fast).await?;
        let slow = Reading::start(client, TOPIC, partitions, SLOW, Pace::PerSecond(rate)).await?;
        let mut publishing = Publishing::start(client, TOPIC, partitions, airports, rounds).await?;
        let mut lags = Lags::new(client, LAG_INTERVAL);
        let mut lag_lines = LagLines { total, last: None };

        // Well in the middle: the producers are at full speed and have most of their events before them.
        let broker = loop {
            let kill_at = total * 2 / 5;
            let mut acked = publishing.acked.clone();
            tokio::select! {
                reached = acked.wait_for(|acked| *acked >= kill_at) => {
                    drop(reached.context("the producers ended too early")?);
                    break self.die(narrator, broker, &publishing, total).await?;
                }
                lag = lags.next([FAST, SLOW]) => lag_lines.tell(narrator, lag),
            }
        };
        let published = loop {
            tokio::select! {
                published = publishing.finish() => break published?,
                lag = lags.next([FAST, SLOW]) => lag_lines.tell(narrator, lag),
            }
        };
        let ledger = publishing.into_ledger();
        tell_published(narrator, &ledger, published);
        loop {
            let lag = lags.next([FAST, SLOW]).await;
            lag_lines.tell(narrator, lag);
            if lag == [0, 0] {
                break;
            }
        }
        let seen = [(FAST, fast.finish().await?), (SLOW, slow.finish().await?)];
        Ok((broker, Verdict::new(total, ledger, published, seen)))
    }

    /// SIGKILL, and a new process on the same data and port. The clients are told nothing.
    async fn die(
        &self,
        narrator: &mut Narrator,
        broker: BrokerProcess,
        publishing: &Publishing,
        total: u64,
    ) -> anyhow::Result<BrokerProcess> {
        let (pid, address) = (broker.pid, broker.address.clone());
        let died = Instant::now();
        broker.kill().await?;
        let acked = *publishing.acked.borrow();
        narrator.step(&format!("kill -9 {pid}, in the middle of it"));
        narrator.line(&format!("{} of {} have their receipt; more are on the way", grouped(acked), grouped(total)));
        let broker = self.home.start(&address).await?;
        narrator.line(&format!("process {} is ready again {} after the kill", broker.pid, human(died.elapsed())));
        Ok(broker)
    }
}

/// A line of bars now and then; zero is always shown.
struct LagLines {
    total: u64,
    last: Option<Instant>,
}

impl LagLines {
    fn tell(&mut self, narrator: &Narrator, lag: [u64; 2]) {
        // Before the first events arrive there is nothing to see; afterwards, zero is the best line of all.
        let due = self.last.map_or(lag != [0, 0], |last| lag == [0, 0] || last.elapsed() >= LAG_LINES_EVERY);
        if due {
            self.last = Some(Instant::now());
            let [fast, slow] = lag;
            narrator.line(&format!("{}   {}", bar(FAST, fast, self.total), bar(SLOW, slow, self.total)));
        }
    }
}

fn tell_published(narrator: &Narrator, ledger: &Ledger, published: Published) {
    narrator.line(&format!("all {} receipts have come", grouped(ledger.receipts())));
    narrator.line("the producers reconnected by themselves and resent what had no receipt");
    if published.duplicates > 0 {
        let duplicates = counted(published.duplicates, "event");
        narrator.line(&format!("{duplicates} had reached the disk already: recognised, not stored twice"));
    }
}

/// What to type next, in place of the demo's own directory.
fn next_commands(kept: Option<&Path>) -> String {
    let mut text = "\
Now yours:
  aqueduct serve                                     a broker on ./data
  aqueduct topic create orders --partitions 4
  echo '{\"id\":7}' | aqueduct publish orders --format json --key-field id
  aqueduct subscribe orders --from earliest --output json
  aqueduct lag"
        .to_owned();
    if let Some(data) = kept {
        let data = data.display();
        text.push_str(&format!("\nThe data of this demo:\n  aqueduct subscribe {TOPIC} --last 3 --data {data}"));
    }
    text
}
