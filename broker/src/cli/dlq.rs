//! `aqueduct dlq …`: records that a group could not handle.

use std::time::Duration;

use aqueduct_client::{DeadLetter, DeadLettersInfo, Event, LetterFilter, Offset, Timestamp};
use clap::{Args, Subcommand};
use serde::Serialize;

use super::Global;
use super::exit::{CliError, Exit};
use super::render::{self, Align, Format};
use super::session::{Session, changed};
use super::{record_json, size, stdout, time};

/// What a table shows of a key, and of an error.
const KEY_SHOWN_CHARS: usize = 24;
const ERROR_SHOWN_CHARS: usize = 60;

/// Dead letters: records that a group could not handle
#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:
  aqueduct dlq list
  aqueduct dlq show orders billing --error 'no route'
  aqueduct dlq redrive orders billing --since 1h --dry-run
  aqueduct dlq redrive orders billing --since 1h --rate 100
  aqueduct dlq purge orders billing --key customer-7 --yes")]
pub(super) enum DlqCommand {
    /// Which groups have dead letters, and how many
    List,
    Show(ShowArgs),
    Redrive(RedriveArgs),
    Purge(PurgeArgs),
}

#[derive(Debug, Args)]
struct FilterArgs {
    /// The topic that they were published to
    topic: String,
    /// The group that could not handle them
    group: String,
    /// Only those whose first or last error contains this
    #[arg(long, value_name = "TEXT")]
    error: Option<String>,
    /// Only those with this key
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Only those that failed within this time
    #[arg(long, value_parser = time::parse_duration, value_name = "DURATION")]
    since: Option<Duration>,
    /// Only those that failed longer ago than this
    #[arg(long, value_parser = time::parse_duration, value_name = "DURATION")]
    before: Option<Duration>,
    /// Only this letter, by its offset as `show` prints it; may be repeated
    #[arg(long = "offset", value_name = "OFFSET")]
    offsets: Vec<Offset>,
}

impl FilterArgs {
    fn filter(&self) -> LetterFilter {
        let ago = |age: Duration| {
            let age_us = i64::try_from(age.as_micros()).unwrap_or(i64::MAX);
            Timestamp::from_micros(time::now_us().saturating_sub(age_us))
        };
        LetterFilter {
            error: self.error.clone(),
            key: self.key.as_ref().map(|key| key.clone().into_bytes()),
            since: self.since.map(ago),
            until: self.before.map(ago),
        }
    }

    /// Gives every letter that is meant to `see`.
    async fn read(&self, session: &Session, mut see: impl FnMut(DeadLetter)) -> anyhow::Result<()> {
        let letters = session.client.dead_letters(&self.topic, &self.group);
        let chosen = |letter: &DeadLetter| self.offsets.is_empty() || self.offsets.contains(&letter.event.offset);
        letters
            .read(&self.filter(), |letter| {
                if chosen(&letter) {
                    see(letter)
                }
            })
            .await?;
        Ok(())
    }
}

/// Print dead letters and how they came there
#[derive(Debug, Args)]
pub(super) struct ShowArgs {
    #[command(flatten)]
    filter: FilterArgs,
    /// At most so many
    #[arg(long, value_name = "N", default_value = "1000")]
    limit: usize,
}

/// Send dead letters back to the group that could not handle them, and to no other
#[derive(Debug, Args)]
pub(super) struct RedriveArgs {
    #[command(flatten)]
    filter: FilterArgs,
    /// At most so many a second [default: as fast as they go]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// Leave alone what was redriven so often already
    #[arg(long, value_name = "N", default_value = "10")]
    max_redrives: u32,
    /// Say what would be redriven, and change nothing
    #[arg(long)]
    dry_run: bool,
}

/// Discard dead letters for good
#[derive(Debug, Args)]
pub(super) struct PurgeArgs {
    #[command(flatten)]
    filter: FilterArgs,
    /// Say what would be discarded, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

pub(super) async fn run(global: &Global, command: DlqCommand) -> anyhow::Result<Exit> {
    match command {
        DlqCommand::List => list(global).await,
        DlqCommand::Show(args) => show(global, &args).await,
        DlqCommand::Redrive(args) => redrive(global, &args).await,
        DlqCommand::Purge(args) => purge(global, &args).await,
    }
}

async fn list(global: &Global) -> anyhow::Result<Exit> {
    let session = Session::open(global).await?;
    let letters = session.client.groups().dead_letters().await?;
    match global.output {
        Format::Json => render::print_json(letters.iter().map(ListedJson::from))?,
        Format::Text if letters.is_empty() => render::note("no group has dead letters"),
        Format::Text => stdout::print(&render::table(
            [
                ("TOPIC", Align::Left),
                ("GROUP", Align::Left),
                ("LETTERS", Align::Right),
                ("OLDEST", Align::Left),
                ("LIE IN", Align::Left),
            ],
            letters.iter().map(|letters| {
                [
                    letters.topic.clone(),
                    letters.group.clone(),
                    size::grouped(letters.count),
                    render::or_dash(letters.oldest.map(|oldest| time::rfc3339_seconds(oldest.as_micros()))),
                    letters.dead_letter_topic.clone(),
                ]
            }),
        ))?,
    }
    session.close().await?;
    Ok(Exit::Done)
}

async fn show(global: &Global, args: &ShowArgs) -> anyhow::Result<Exit> {
    let session = Session::open(global).await?;
    let mut letters = Vec::new();
    let mut left_out = 0_u64;
    let see = |letter| if letters.len() < args.limit { letters.push(letter) } else { left_out += 1 };
    args.filter.read(&session, see).await?;
    match global.output {
        Format::Json => render::print_json(letters.iter().map(letter_json))?,
        Format::Text if letters.is_empty() => render::note(&nothing(&args.filter)),
        Format::Text => stdout::print(&table(&letters))?,
    }
    if left_out > 0 {
        render::note(&format!("and {} more; see --limit", size::grouped(left_out)));
    }
    session.close().await?;
    Ok(Exit::Done)
}

async fn redrive(global: &Global, args: &RedriveArgs) -> anyhow::Result<Exit> {
    let session = Session::open_server(global, "dlq redrive").await?;
    let (mut offsets, mut tired) = (Vec::new(), 0_u64);
    let see = |letter: DeadLetter| {
        if letter.death.redriven < args.max_redrives {
            offsets.push(letter.event.offset);
        } else {
            tired += 1;
        }
    };
    args.filter.read(&session, see).await?;
    if tired > 0 {
        let what = size::counted(tired, "letter");
        render::note(&format!("left alone: {what} redriven {} times already (see --max-redrives)", args.max_redrives));
    }
    let letters = session.client.dead_letters(&args.filter.topic, &args.filter.group);
    let (count, verb) = if args.dry_run {
        (offsets.len() as u64, "would be redriven")
    } else {
        (changed(letters.redrive(&offsets, args.rate).await, "cannot redrive")?, "redriven")
    };
    print_outcome(global, &args.filter, verb, count)?;
    session.close().await?;
    Ok(Exit::Done)
}

async fn purge(global: &Global, args: &PurgeArgs) -> anyhow::Result<Exit> {
    if !args.yes && !args.dry_run {
        let what = "purging is for good: say --yes, or --dry-run to see what would go";
        return Err(CliError::Usage(what.to_owned()).into());
    }
    let session = Session::open_server(global, "dlq purge").await?;
    let mut offsets = Vec::new();
    args.filter.read(&session, |letter| offsets.push(letter.event.offset)).await?;
    let letters = session.client.dead_letters(&args.filter.topic, &args.filter.group);
    let (count, verb) = if args.dry_run {
        (offsets.len() as u64, "would be discarded")
    } else {
        (changed(letters.discard(&offsets).await, "cannot purge")?, "discarded")
    };
    print_outcome(global, &args.filter, verb, count)?;
    session.close().await?;
    Ok(Exit::Done)
}

fn print_outcome(global: &Global, filter: &FilterArgs, verb: &str, letters: u64) -> anyhow::Result<()> {
    match global.output {
        Format::Json => {
            let outcome = OutcomeJson { topic: &filter.topic, group: &filter.group, outcome: verb, letters };
            render::print_json([outcome])?;
        }
        Format::Text => {
            let counted = size::counted(letters, "dead letter");
            render::note(&format!("{counted} of {} on {} {verb}", filter.group, filter.topic));
        }
    }
    Ok(())
}

fn nothing(filter: &FilterArgs) -> String {
    format!("group {} has no such dead letters on {}; `aqueduct dlq list` shows who has", filter.group, filter.topic)
}

fn table(letters: &[DeadLetter]) -> String {
    render::table(
        [
            ("OFFSET", Align::Right),
            ("RECORD", Align::Left),
            ("KEY", Align::Left),
            ("ATTEMPTS", Align::Right),
            ("REDRIVEN", Align::Right),
            ("FAILED", Align::Left),
            ("LAST ERROR", Align::Left),
        ],
        letters.iter().map(|DeadLetter { event, death }| {
            let key = event.key().map(|key| render::one_line(&String::from_utf8_lossy(key), KEY_SHOWN_CHARS));
            [
                event.offset.to_string(),
                format!("{}/{}@{}", death.topic, death.partition, death.offset),
                render::or_dash(key),
                death.attempts.to_string(),
                death.redriven.to_string(),
                time::rfc3339_seconds(death.last_failed.as_micros()),
                render::one_line(&death.last_error, ERROR_SHOWN_CHARS),
            ]
        }),
    )
}

/// The record as `subscribe` prints it, from where it was published, and how it died.
fn letter_json(letter: &DeadLetter) -> serde_json::Value {
    let DeadLetter { event, death } = letter;
    let published =
        Event { topic: death.topic.as_str().into(), partition: death.partition, offset: death.offset, ..event.clone() };
    let mut line = Vec::new();
    record_json::render(&published, &mut line);
    let death = DeathJson {
        dead_letter_offset: event.offset,
        group: &death.group,
        attempts: death.attempts,
        redriven: death.redriven,
        first_error: &death.first_error,
        last_error: &death.last_error,
        first_failed_us: death.first_failed.as_micros(),
        last_failed_us: death.last_failed.as_micros(),
    };
    // Both are plain structs, which are objects.
    let mut printed: serde_json::Value = serde_json::from_slice(&line).unwrap_or_default();
    if let (Some(printed), Ok(serde_json::Value::Object(death))) =
        (printed.as_object_mut(), serde_json::to_value(&death))
    {
        printed.extend(death);
    }
    printed
}

#[derive(Serialize)]
struct DeathJson<'a> {
    dead_letter_offset: u64,
    group: &'a str,
    attempts: u32,
    redriven: u32,
    first_error: &'a str,
    last_error: &'a str,
    first_failed_us: i64,
    last_failed_us: i64,
}

#[derive(Serialize)]
struct ListedJson<'a> {
    topic: &'a str,
    group: &'a str,
    dead_letters: u64,
    oldest_us: Option<i64>,
    dead_letter_topic: &'a str,
}

impl<'a> From<&'a DeadLettersInfo> for ListedJson<'a> {
    fn from(letters: &'a DeadLettersInfo) -> Self {
        Self {
            topic: &letters.topic,
            group: &letters.group,
            dead_letters: letters.count,
            oldest_us: letters.oldest.map(Timestamp::as_micros),
            dead_letter_topic: &letters.dead_letter_topic,
        }
    }
}

#[derive(Serialize)]
struct OutcomeJson<'a> {
    topic: &'a str,
    group: &'a str,
    outcome: &'a str,
    letters: u64,
}
