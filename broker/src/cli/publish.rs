//! `aqueduct publish`: one record a line, pipelined, each line known to be durable or named as not.
//!
//! Two loops share the work: [`feed`] turns input into tickets, [`settle`] awaits them in input order. The channel
//! between them is bounded, and so is what the producer buffers, so memory does not grow with the input.

use std::fmt;
use std::fs::File;
use std::io::{self, IsTerminal as _, Read};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use aqueduct_client::{Codec, Header, Producer, PublishError, Ticket};
use bytes::Bytes;
use clap::Args;
use indicatif::{ProgressBar, ProgressState, ProgressStyle};
use tokio::sync::{mpsc, watch};

use super::Global;
use super::backlog;
use super::exit::{CliError, Exit};
use super::input::{self, Decoder, InputError, InputFormat, Numbered, Piece};
use super::render::{self, Format};
use super::session::Session;
use super::size::{counted, grouped, human_bytes};
use super::stdout::StdoutError;
use super::time;

mod schedule;
mod settle;

use settle::{Settled, settle};

/// After an interrupt, for what is in flight.
const SETTLE_MAX: Duration = Duration::from_secs(30);
/// Lines that may wait for their receipt.
const TICKETS_MAX: usize = 16_384;

/// Publish records from standard input or a file, one a line
#[derive(Debug, Args)]
#[command(
    visible_alias = "pub",
    after_help = "\
Formats:
  lines  each line is a value
  json   each line is an object as `subscribe --output json` prints it:
           {\"key\":…, \"value\":…, \"timestamp_us\":…,
            \"headers\":[{\"name\":…, \"value\":…}]}
         with key_base64 and value_base64 for bytes that are not UTF-8. Only
         \"value\" is needed; null makes a tombstone.
         With --key-field NAME: any JSON object, kept as it is as the value
  null   values separated by NUL bytes, so that they may contain line ends

Examples:
  echo hello | aqueduct publish orders
  aqueduct publish flights -f flights.ndjson --format json --key-field tailnum
  tail -F app.log | aqueduct publish logs --key $HOSTNAME --header app=web
  aqueduct sub orders --until-end --output json |
      aqueduct pub orders-copy --format json
  echo 'call back' | aqueduct publish reminders --delay 2h

An input line is durable when its receipt is printed (--output json). If
publishing stops half way, the last durable line is named, so that the rest
can be sent with `tail -n +LINE`."
)]
pub(super) struct PublishArgs {
    /// The topic
    topic: String,
    /// Read this file instead of standard input
    #[arg(long, short, value_name = "FILE")]
    file: Option<PathBuf>,
    /// What the input is made of
    #[arg(long, value_enum, default_value = "lines")]
    format: InputFormat,
    /// The key of every record
    #[arg(long, value_name = "KEY", conflicts_with = "key_field")]
    key: Option<String>,
    /// With --format json: the field that holds the key; the whole line is the value
    #[arg(long, value_name = "NAME")]
    key_field: Option<String>,
    /// Publish to this partition only [default: by key]
    #[arg(long, value_name = "P")]
    partition: Option<u32>,
    /// Add a header to every record; may be repeated
    #[arg(long = "header", value_parser = parse_header, value_name = "NAME=VALUE")]
    headers: Vec<Header>,
    /// Compress: none, lz4 or zstd
    #[arg(long, default_value = "none", value_name = "CODEC")]
    codec: Codec,
    /// Deliver after this time: 30s, 10m, 7d; until then the records are stored and nobody sees them
    #[arg(long, value_parser = time::parse_duration, value_name = "DURATION", conflicts_with_all = ["at", "codec"])]
    delay: Option<Duration>,
    /// Deliver at this time: 2026-03-01T08:00:00Z
    #[arg(long, value_parser = time::parse_rfc3339, value_name = "TIME", conflicts_with = "codec")]
    at: Option<i64>,
}

impl PublishArgs {
    fn decoder(&self) -> Decoder {
        Decoder {
            format: self.format,
            key: self.key.clone().map(Bytes::from),
            key_field: self.key_field.clone(),
            headers: self.headers.clone(),
        }
    }
}

fn parse_header(text: &str) -> Result<Header, String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => {
            Ok(Header { name: name.to_owned().into(), value: Bytes::from(value.to_owned()) })
        }
        Some(_) | None => Err("expected NAME=VALUE".to_owned()),
    }
}

/// Why no more input is taken.
#[derive(Debug)]
enum FeedEnd {
    /// The end of the input.
    EndOfInput,
    /// The input cannot be read, or a line of it is no record.
    Input(InputError),
    /// A record was not taken.
    Refused(LineFailure),
    /// Ctrl-c or SIGTERM.
    Interrupted,
    /// [`settle`] has stopped, and knows why.
    Settled,
}

/// A line that was not published, or may not have been.
#[derive(Debug)]
struct LineFailure {
    line: u64,
    error: PublishError,
}

/// A line on its way.
struct InFlight {
    line: u64,
    /// Of its value.
    bytes: u64,
    ticket: Ticket,
}

/// What [`feed`] saw.
#[derive(Debug)]
struct Fed {
    end: FeedEnd,
    without_key: u64,
}

pub(super) async fn run(global: &Global, args: PublishArgs) -> anyhow::Result<Exit> {
    if args.key_field.is_some() && args.format != InputFormat::Json {
        let what = "--key-field needs --format json: only JSON objects have fields".to_owned();
        return Err(CliError::Usage(what).into());
    }
    let input = open(args.file.as_ref())?;
    let session = Session::open_server(global, "publish").await?;
    if let Some(due) = schedule::due(args.delay, args.at) {
        return schedule::run(global, session, args, due, input).await;
    }
    let mut builder = session.client.producer(&args.topic).codec(args.codec).delivery_timeout(global.timeout);
    if let Some(partition) = args.partition {
        builder = builder.partition(partition);
    }
    let producer = builder.build().await.with_context(|| format!("cannot publish to {:?}", args.topic))?;
    let progress = progress(&args, global.output);
    let decoder = args.decoder();
    let started = Instant::now();
    let pieces = input::read(input, decoder);
    let (tickets, waiting) = mpsc::channel(TICKETS_MAX);
    let (durable, last_durable) = watch::channel(None);
    let publishing = async {
        tokio::join!(
            feed(pieces, &producer, tickets, last_durable),
            settle(waiting, global.output, progress.as_ref(), &durable)
        )
    };
    let (fed, settled) = tokio::select! {
        published = publishing => published,
        never = backlog::tell(&producer, &args.topic) => match never {},
    };
    if let Some(progress) = progress {
        progress.finish_and_clear();
    }
    render::note(&report(&args.topic, &fed, &settled, started.elapsed(), args.key_field.as_deref()));
    let durable_lines = durable_lines(settled.last_durable_line, settled.durable_beyond);
    let result = outcome(fed, settled);
    match &result {
        Ok(_) => session.close().await?,
        Err(_) => render::note(&durable_lines),
    }
    result
}

fn open(file: Option<&PathBuf>) -> anyhow::Result<Box<dyn Read + Send>> {
    match file {
        Some(path) => {
            let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
            // A directory opens, and only fails when it is read.
            if file.metadata()?.is_dir() {
                return Err(CliError::Failed(format!("{} is a directory", path.display())).into());
            }
            Ok(Box::new(file))
        }
        None => {
            if io::stdin().is_terminal() {
                render::note("reading records from the terminal, one a line; end with ctrl-d");
            }
            Ok(Box::new(io::stdin()))
        }
    }
}

/// Only where somebody watches, is not typing, and is not being shown receipts.
fn progress(args: &PublishArgs, format: Format) -> Option<ProgressBar> {
    let typing = args.file.is_none() && io::stdin().is_terminal();
    let receipts = format == Format::Json && io::stdout().is_terminal();
    if typing || receipts || !render::watched() {
        return None;
    }
    let style = ProgressStyle::with_template("{spinner} {human_pos} records durable, {rate}/s").ok()?;
    // A rate is never negative, and its fraction says nothing.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let style = style.with_key("rate", |state: &ProgressState, out: &mut dyn fmt::Write| {
        let _ = out.write_str(&grouped(state.per_sec() as u64));
    });
    let progress = ProgressBar::new_spinner().with_style(style);
    progress.enable_steady_tick(Duration::from_millis(100));
    Some(progress)
}

/// Turns input into tickets until it ends, fails, is interrupted, or nobody awaits them any more.
async fn feed(
    pieces: mpsc::Receiver<Piece>,
    producer: &Producer,
    tickets: mpsc::Sender<InFlight>,
    last_durable: watch::Receiver<Option<u64>>,
) -> Fed {
    let mut without_key = 0;
    let end = tokio::select! {
        biased;
        () = super::interrupted() => {
            leave_at_second_interrupt(last_durable.clone());
            FeedEnd::Interrupted
        }
        // Somebody may have to be told although the input is silent.
        () = tickets.closed() => FeedEnd::Settled,
        end = feed_pieces(pieces, producer, &tickets, &mut without_key) => end,
    };
    if !matches!(end, FeedEnd::Interrupted) {
        tokio::spawn(async move {
            super::interrupted().await;
            leave_at_second_interrupt(last_durable);
        });
    }
    Fed { end, without_key }
}

async fn feed_pieces(
    mut pieces: mpsc::Receiver<Piece>,
    producer: &Producer,
    tickets: &mpsc::Sender<InFlight>,
    without_key: &mut u64,
) -> FeedEnd {
    while let Some(piece) = pieces.recv().await {
        for Numbered { line, record } in piece.records {
            let bytes = record.value.as_ref().map_or(0, Bytes::len) as u64;
            let keyless = record.key.is_none();
            // Room for the ticket first: an interruption must not come between a record and its ticket.
            let Ok(room) = tickets.reserve().await else { return FeedEnd::Settled };
            match producer.enqueue(record).await {
                Ok(ticket) => room.send(InFlight { line, bytes, ticket }),
                Err(error) => return FeedEnd::Refused(LineFailure { line, error }),
            }
            *without_key += u64::from(keyless);
        }
        if let Some(failure) = piece.failure {
            return FeedEnd::Input(failure);
        }
    }
    FeedEnd::EndOfInput
}

/// What is in flight settles within the time-out, unless publishers are held; who cannot wait for that asks twice.
fn leave_at_second_interrupt(last_durable: watch::Receiver<Option<u64>>) {
    render::note("interrupted: waiting for what is in flight (once more to leave at once)");
    tokio::spawn(async move {
        // In time or not, it has been asked to leave.
        let _ = tokio::time::timeout(SETTLE_MAX, super::interrupted()).await;
        render::note(&durable_lines(*last_durable.borrow(), 0));
        render::note("error: left before every receipt had come: what is in flight may be stored");
        std::process::exit(Exit::Unknown as i32);
    });
}

/// The summary on stderr.
fn report(topic: &str, fed: &Fed, settled: &Settled, elapsed: Duration, key_field: Option<&str>) -> String {
    let rate = settled.durable as f64 / elapsed.as_secs_f64().max(1e-6);
    // Rounded to whole records, and a rate is never negative.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let rate = rate as u64;
    let mut text = format!(
        "published {} ({}) to {topic} in {}: {} records/s{}",
        counted(settled.durable, "record"),
        human_bytes(settled.bytes),
        time::human(elapsed),
        grouped(rate),
        settled.durability.map(|durability| format!(", acked after {durability}")).unwrap_or_default(),
    );
    if settled.duplicates > 0 {
        text.push_str(&format!("; {} had been stored by an earlier attempt", grouped(settled.duplicates)));
    }
    if let Some(field) = key_field
        && fed.without_key > 0
    {
        text.push_str(&format!("\n{} had no field {field:?} and got no key", counted(fed.without_key, "record")));
    }
    text
}

/// The first thing that went wrong.
fn outcome(fed: Fed, settled: Settled) -> anyhow::Result<Exit> {
    let of_line = |LineFailure { line, error }| Err(anyhow::Error::from(error).context(format!("line {line}")));
    if let Some(failure) = settled.failure {
        return of_line(failure);
    }
    match fed.end {
        FeedEnd::EndOfInput | FeedEnd::Settled => match settled.stdout {
            None => Ok(Exit::Done),
            // Unlike `subscribe | head`: lines were left unpublished, or nobody knows which were.
            Some(StdoutError::Closed) => {
                Err(CliError::Failed("standard output was closed before every receipt was taken".to_owned()).into())
            }
            Some(error @ StdoutError::Failed(_)) => Err(error.into()),
        },
        FeedEnd::Input(error) => Err(error.into()),
        FeedEnd::Refused(failure) => of_line(failure),
        FeedEnd::Interrupted => Err(CliError::Failed("interrupted before the end of the input".to_owned()).into()),
    }
}

/// `last durable input line: 41`, for whoever must send the rest.
fn durable_lines(last: Option<u64>, beyond: u64) -> String {
    let mut text = match last {
        Some(line) => format!("last durable input line: {line}; go on with line {}", line + 1),
        None => "last durable input line: none; start again with line 1".to_owned(),
    };
    if beyond > 0 {
        let beyond = counted(beyond, "later line");
        text.push_str(&format!(" ({beyond} had been sent already and would be stored again)"));
    }
    text
}
