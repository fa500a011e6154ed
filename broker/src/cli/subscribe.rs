//! `aqueduct subscribe`: events to standard output, as values, JSON or a template.

use std::time::Duration;

use anyhow::Context as _;
use aqueduct_client::{Event, Gap, GapReason, Item, Start, SubscribeError, Subscription, Timestamp};
use clap::Args;
use futures_util::FutureExt as _;

use super::exit::{CliError, Exit};
use super::render::{self, Format};
use super::session::Session;
use super::stdout::{Stdout, StdoutError};
use super::template::Template;
use super::{Global, record_json, start, time};

mod group;
mod last;

/// Print events: history first, then live
#[derive(Debug, Args)]
#[command(
    visible_alias = "sub",
    after_help = "\
Without --from, --since or --last only new events are printed; with --until-end
or --data, everything there is.

Text output is the value and a line end. JSON output is one object a line,
which `publish --format json` takes back. Template fields: %t topic,
%p partition, %o offset, %k key, %v value, %h headers, %T producer's time,
%A append time, %% a percent sign; escapes: \\n \\t \\r \\0 \\\\

Examples:
  aqueduct subscribe orders                     what comes from now on
  aqueduct subscribe orders --last 10
  aqueduct subscribe orders --since 15m --until-end --template '%o %k: %v'
  aqueduct subscribe orders --from earliest --output json | head -3
  aqueduct subscribe orders --group audit       go on where this group left off
  aqueduct subscribe orders --group audit --member pod-3 --keep 30s
  aqueduct subscribe orders --data ./data       from the log of a stopped broker"
)]
pub(super) struct SubscribeArgs {
    /// The topic
    topic: String,
    /// Only this partition; may be repeated [default: all]
    #[arg(long = "partition", value_name = "P", conflicts_with = "group")]
    partitions: Vec<u32>,
    /// earliest, latest, an offset, or a time such as 2026-03-01T08:00:00Z
    #[arg(long, value_parser = start::parse, value_name = "WHERE", conflicts_with_all = ["since", "last", "group"])]
    from: Option<Start>,
    /// Events appended this long ago or later
    #[arg(long, value_parser = time::parse_duration, value_name = "DURATION", conflicts_with_all = ["last", "group"])]
    since: Option<Duration>,
    /// The newest N events of all partitions together
    #[arg(long, value_name = "N", conflicts_with = "group")]
    last: Option<usize>,
    /// Stop at the end that the topic had at the start
    #[arg(long)]
    until_end: bool,
    /// Stop after N events
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// Read as a member of this group, and acknowledge what standard output has taken
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,
    /// The member's name, as `group describe` shows it
    #[arg(long, value_name = "NAME", requires = "group")]
    member: Option<String>,
    /// Keep the member's partitions for it over a restart: they wait so long for a member of the same name
    #[arg(long, value_parser = time::parse_duration, requires = "member", value_name = "DURATION")]
    keep: Option<Duration>,
    /// How to print an event; see below
    #[arg(long, value_parser = Template::parse, value_name = "TEMPLATE")]
    template: Option<Template>,
}

/// How events look.
#[derive(Debug)]
enum Look {
    Value,
    Json,
    Template(Template),
}

/// Events on their way to standard output, with what `--count` leaves.
#[derive(Debug)]
struct Printer {
    look: Look,
    stdout: Stdout,
    remaining: Option<u64>,
}

impl Printer {
    fn print(&mut self, event: &Event) {
        let buffer = self.stdout.buffer();
        match &self.look {
            Look::Value => {
                buffer.extend_from_slice(event.value().unwrap_or_default());
                buffer.push(b'\n');
            }
            Look::Json => record_json::render(event, buffer),
            Look::Template(template) => template.render(event, buffer),
        }
        if let Some(remaining) = &mut self.remaining {
            *remaining = remaining.saturating_sub(1);
        }
    }

    fn is_done(&self) -> bool {
        self.remaining == Some(0)
    }

    /// Gives up waiting for a reader that does not read when `interrupted` resolves; `false` then.
    async fn flush(&mut self, interrupted: impl Future<Output = ()>) -> Result<bool, StdoutError> {
        tokio::select! {
            biased;
            flushed = self.stdout.flush() => flushed.map(|()| true),
            () = interrupted => Ok(false),
        }
    }
}

pub(super) async fn run(global: &Global, args: SubscribeArgs) -> anyhow::Result<Exit> {
    let look = match (&args.template, global.output) {
        (Some(_), Format::Json) => {
            let what = "--template and --output json exclude each other".to_owned();
            return Err(CliError::Usage(what).into());
        }
        (Some(template), Format::Text) => Look::Template(template.clone()),
        (None, Format::Json) => Look::Json,
        (None, Format::Text) => Look::Value,
    };
    if args.group.is_some() && global.data.is_some() {
        let what = "--group needs a running broker: reading a stopped one with --data changes nothing".to_owned();
        return Err(CliError::Usage(what).into());
    }
    let session = Session::open(global).await?;
    let mut printer = Printer { look, stdout: Stdout::default(), remaining: args.count };
    let result = if printer.is_done() {
        Ok(())
    } else if let Some(group) = &args.group {
        group::consume(&session, &args, group, &mut printer).await
    } else {
        read(&session, &args, &mut printer).await
    };
    let closed = session.close().await;
    result?;
    closed?;
    Ok(Exit::Done)
}

async fn read(session: &Session, args: &SubscribeArgs, printer: &mut Printer) -> anyhow::Result<()> {
    // A stopped log gets no new events: its end is the end.
    let until_end = args.until_end || session.is_stopped_log();
    let mut subscription =
        open(session, args, until_end).await.with_context(|| format!("cannot subscribe to {:?}", args.topic))?;
    let mut trouble = Trouble::new(&subscription);
    let mut interrupted = std::pin::pin!(super::interrupted().fuse());
    while !printer.is_done() && !trouble.is_everywhere() {
        let item = tokio::select! {
            biased;
            () = &mut interrupted => break,
            item = subscription.next_item() => item,
            // Nothing more is ready: nobody should wait for what is.
            () = std::future::ready(()), if printer.stdout.is_dirty() => {
                if printer.flush(&mut interrupted).await? { continue } else { break }
            }
        };
        match item {
            None => break,
            Some(Ok(Item::Event(event))) => printer.print(&event),
            Some(Ok(Item::Gap(gap))) => trouble.gap(&args.topic, &gap),
            Some(Ok(Item::Reconnected)) => render::note("reconnected: going on exactly where it stopped"),
            Some(Ok(Item::CaughtUp { .. } | Item::End { .. })) => {}
            Some(Err(error)) => trouble.error(error)?,
        }
        if printer.stdout.is_full() && !printer.flush(&mut interrupted).await? {
            break;
        }
    }
    printer.flush(interrupted).await?;
    trouble.outcome()
}

async fn open(session: &Session, args: &SubscribeArgs, until_end: bool) -> anyhow::Result<Subscription> {
    let mut builder = session.client.subscribe(&args.topic);
    if let Some(count) = args.last {
        for (partition, offset) in last::starts(session, &args.topic, &args.partitions, count).await? {
            builder = builder.partition_from(partition, Start::Offset(offset));
        }
    } else {
        let since = args.since.map(|since| {
            let since_us = i64::try_from(since.as_micros()).unwrap_or(i64::MAX);
            Start::Time(Timestamp::from_micros(time::now_us().saturating_sub(since_us)))
        });
        let start = args.from.or(since).unwrap_or(if until_end { Start::Earliest } else { Start::Latest });
        builder = builder.from(start);
        if !args.partitions.is_empty() {
            builder = builder.partitions(args.partitions.iter().copied());
        }
    }
    if until_end {
        builder = builder.until_end();
    }
    Ok(builder.build().await?)
}

/// What could not be read. The other partitions go on; in the end the command fails.
#[derive(Debug)]
struct Trouble {
    partitions: usize,
    failed: usize,
    first: Option<anyhow::Error>,
}

impl Trouble {
    fn new(subscription: &Subscription) -> Self {
        Self { partitions: subscription.positions().len(), failed: 0, first: None }
    }

    /// No partition is left to read.
    fn is_everywhere(&self) -> bool {
        self.failed > 0 && self.failed >= self.partitions
    }

    fn gap(&mut self, topic: &str, gap: &Gap) {
        let what = describe_gap(topic, gap);
        render::note(&what);
        if gap.reason == GapReason::Damaged {
            self.first.get_or_insert_with(|| CliError::Failed(what).into());
        }
    }

    /// An error of the whole subscription ends it.
    fn error(&mut self, error: SubscribeError) -> anyhow::Result<()> {
        match &error {
            SubscribeError::Request(_) => return Err(error.into()),
            SubscribeError::OffsetOutOfRange(_)
            | SubscribeError::Partition { .. }
            | SubscribeError::Damaged { .. }
            | SubscribeError::Decode(_) => {}
        }
        render::note(&format!("{error}"));
        self.failed += 1;
        self.first.get_or_insert_with(|| error.into());
        Ok(())
    }

    fn outcome(self) -> anyhow::Result<()> {
        self.first.map_or(Ok(()), |first| Err(first.context("not everything could be read")))
    }
}

/// `orders/3: offsets 10 to 19 were removed by retention`
fn describe_gap(topic: &str, gap: &Gap) -> String {
    let what = match gap.reason {
        GapReason::Retention => "were removed by retention before they were read",
        GapReason::Damaged => "are damaged on disk: their checksum does not match",
        GapReason::Unspecified => "cannot be read any more",
    };
    format!("{topic}/{}: offsets {} to {} {what}", gap.partition, gap.from, gap.to.saturating_sub(1))
}
