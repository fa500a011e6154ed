//! `aqueduct group …`: consumer groups and their positions.

mod json;
mod trouble;

use std::time::Duration;

use aqueduct_client::{
    DeliveryHours, GroupDescription, GroupInfo, GroupMode, GroupPolicy, OnExhausted, RetryPolicy, Start,
};
use clap::{Args, Subcommand, ValueEnum};

use super::Global;
use super::backlog;
use super::exit::{CliError, Exit};
use super::hours::{self, HoursArgs};
use super::lag;
use super::render::{self, Align, Format};
use super::session::{Session, changed};
use super::{size, start, stdout, time};
use json::{DescriptionJson, GroupJson, ResetJson};

/// Consumer groups: who reads, how far they have got, and moving them
#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:
  aqueduct group list
  aqueduct group describe billing
  aqueduct group reset billing orders --to earliest --dry-run
  aqueduct group reset billing orders --to 2026-03-01T08:00:00Z")]
pub(super) enum GroupCommand {
    /// Every group, its mode and its topics
    List,
    /// A group's policy, members, lag, and what is failing
    Describe(NameArgs),
    Create(CreateArgs),
    Alter(AlterArgs),
    Reset(ResetArgs),
    /// Remove a group and its positions
    Delete(NameArgs),
}

#[derive(Debug, Args)]
pub(super) struct NameArgs {
    /// The group
    group: String,
}

/// Make a group before its first member does
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  aqueduct group create billing --mode keyed --ack-timeout 2m
  aqueduct group create audit --start latest
  aqueduct group create ledger --max-attempts 20 --on-exhausted halt
  aqueduct group create accounts --mode keyed --on-exhausted park-key
  aqueduct group create reports --hours 22:00-06:00 --utc-offset +02:00")]
pub(super) struct CreateArgs {
    /// 1 to 249 of letters, digits, '.', '_' and '-'
    group: String,
    /// ordered: a partition belongs to one member; shared: records are spread over members; keyed: spread, but one key is
    /// with one member at a time
    #[arg(long, value_enum, default_value = "ordered")]
    mode: ModeArg,
    /// Where a topic without a committed offset begins: earliest, latest, an offset or a time
    #[arg(long, value_parser = start::parse, default_value = "earliest", value_name = "WHERE")]
    start: Start,
    /// A record that is not settled within this time is delivered again [default: 30s]
    #[arg(long, value_parser = time::parse_duration, value_name = "DURATION")]
    ack_timeout: Option<Duration>,
    #[command(flatten)]
    retry: RetryArgs,
    #[command(flatten)]
    hours: HoursArgs,
}

/// What happens to a record that its handler has refused
#[derive(Debug, Args)]
struct RetryArgs {
    /// The pause after the first failure; it doubles with every further one [default: 1s]
    #[arg(long, value_parser = time::parse_duration, value_name = "DURATION")]
    backoff_min: Option<Duration>,
    /// The longest pause [default: 10m]
    #[arg(long, value_parser = time::parse_duration, value_name = "DURATION")]
    backoff_max: Option<Duration>,
    /// After so many failed attempts a record is not delivered again [default: 5]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..), value_name = "N")]
    max_attempts: Option<u32>,
    /// park: it moves to the dead letters, see `aqueduct dlq`; halt: its partition waits for you; park-key: what follows of
    /// its key is parked behind it [default: park]
    #[arg(long, value_enum)]
    on_exhausted: Option<OnExhaustedArg>,
}

impl RetryArgs {
    fn policy(&self) -> RetryPolicy {
        RetryPolicy {
            backoff_min: self.backoff_min,
            backoff_max: self.backoff_max,
            max_attempts: self.max_attempts,
            on_exhausted: self.on_exhausted.map(|arg| match arg {
                OnExhaustedArg::Park => OnExhausted::Park,
                OnExhaustedArg::Halt => OnExhausted::Halt,
                OnExhaustedArg::ParkKey => OnExhausted::ParkKey,
            }),
        }
    }
}

/// Change a group's policy
#[derive(Debug, Args)]
pub(super) struct AlterArgs {
    /// The group
    group: String,
    /// Where a topic without a committed offset begins
    #[arg(long, value_parser = start::parse, value_name = "WHERE")]
    start: Option<Start>,
    /// A record that is not settled within this time is delivered again
    #[arg(long, value_parser = time::parse_duration, value_name = "DURATION")]
    ack_timeout: Option<Duration>,
    #[command(flatten)]
    retry: RetryArgs,
    #[command(flatten)]
    hours: HoursArgs,
}

/// Move a group's committed offsets; refused while members are active
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  aqueduct group reset billing orders --to earliest --dry-run
  aqueduct group reset billing orders --to 1042 --partition 3
  aqueduct group reset billing orders --shift -100     read 100 again")]
#[command(group = clap::ArgGroup::new("target").required(true))]
pub(super) struct ResetArgs {
    /// The group
    group: String,
    /// The topic; may be left out if the group reads only one
    topic: Option<String>,
    /// earliest, latest, an offset or a time such as 2026-03-01T08:00:00Z
    #[arg(long, group = "target", value_parser = start::parse, value_name = "WHERE")]
    to: Option<Start>,
    /// Relative to the committed offset, kept within the log
    #[arg(long, group = "target", allow_negative_numbers = true, value_name = "RECORDS")]
    shift: Option<i64>,
    /// Only this partition; may be repeated [default: all]
    #[arg(long = "partition", value_name = "P")]
    partitions: Vec<u32>,
    /// Say what would change, and change nothing
    #[arg(long)]
    dry_run: bool,
}

/// Without doc comments at the values: they would spread the help over two screens.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum ModeArg {
    Ordered,
    Shared,
    Keyed,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum OnExhaustedArg {
    Park,
    Halt,
    ParkKey,
}

impl From<ModeArg> for GroupMode {
    fn from(arg: ModeArg) -> Self {
        match arg {
            ModeArg::Ordered => Self::Ordered,
            ModeArg::Shared => Self::Shared,
            ModeArg::Keyed => Self::Keyed,
        }
    }
}

pub(super) async fn run(global: &Global, command: GroupCommand) -> anyhow::Result<Exit> {
    match command {
        GroupCommand::List => list(global).await,
        GroupCommand::Describe(args) => describe(global, &args).await,
        GroupCommand::Create(args) => create(global, args).await,
        GroupCommand::Alter(args) => alter(global, args).await,
        GroupCommand::Reset(args) => reset(global, args).await,
        GroupCommand::Delete(args) => delete(global, &args).await,
    }
}

async fn list(global: &Global) -> anyhow::Result<Exit> {
    let session = Session::open(global).await?;
    let groups = session.client.groups().list().await?;
    match global.output {
        Format::Json => render::print_json(groups.iter().map(GroupJson::from))?,
        Format::Text if groups.is_empty() => {
            render::note("there are no groups; `aqueduct subscribe TOPIC --group NAME` makes one");
        }
        Format::Text => stdout::print(&render::table(
            [
                ("GROUP", Align::Left),
                ("MODE", Align::Left),
                ("MEMBERS", Align::Right),
                ("ACK TIMEOUT", Align::Right),
                ("TOPICS", Align::Left),
            ],
            groups.iter().map(|group| {
                [
                    group.name.clone(),
                    render::or_dash(group.policy.mode),
                    group.members.to_string(),
                    render::or_dash(group.policy.ack_timeout.map(time::exact)),
                    if group.topics.is_empty() { "-".to_owned() } else { group.topics.join(", ") },
                ]
            }),
        ))?,
    }
    session.close().await?;
    Ok(Exit::Done)
}

async fn describe(global: &Global, args: &NameArgs) -> anyhow::Result<Exit> {
    let session = Session::open(global).await?;
    let description = session.client.group(&args.group).describe().await?;
    match global.output {
        Format::Json => render::print_json([DescriptionJson::from(&description)])?,
        Format::Text => stdout::print(&describe_text(&description))?,
    }
    session.close().await?;
    Ok(Exit::Done)
}

async fn create(global: &Global, args: CreateArgs) -> anyhow::Result<Exit> {
    let session = Session::open_server(global, "group create").await?;
    let policy = GroupPolicy {
        mode: Some(args.mode.into()),
        start: Some(args.start),
        ack_timeout: args.ack_timeout,
        retry: args.retry.policy(),
        hours: args.hours.hours(),
    };
    let created = session.client.group(&args.group).create(policy).await;
    let group = changed(created, &format!("cannot create group {:?}", args.group))?;
    print_changed(global, "created", &group)?;
    session.close().await?;
    Ok(Exit::Done)
}

async fn alter(global: &Global, args: AlterArgs) -> anyhow::Result<Exit> {
    let retry = args.retry.policy();
    let hours = args.hours.hours();
    let has_plain_change = args.start.is_some() || args.ack_timeout.is_some() || hours.is_some();
    if !has_plain_change && retry == RetryPolicy::default() {
        let what = "nothing to change: name --start, --ack-timeout, --backoff-min, --backoff-max, --max-attempts, \
                    --on-exhausted or --hours (the mode of a group cannot change)";
        return Err(CliError::Usage(what.to_owned()).into());
    }
    let session = Session::open_server(global, "group alter").await?;
    let mut request = session.client.group(&args.group).alter().retry(retry);
    if let Some(start) = args.start {
        request = request.start(start);
    }
    if let Some(timeout) = args.ack_timeout {
        request = request.ack_timeout(timeout);
    }
    if let Some(hours) = hours {
        request = request.hours(hours);
    }
    let group = changed(request.build().await, &format!("cannot alter group {:?}", args.group))?;
    print_changed(global, "altered", &group)?;
    session.close().await?;
    Ok(Exit::Done)
}

async fn reset(global: &Global, args: ResetArgs) -> anyhow::Result<Exit> {
    let session = Session::open_server(global, "group reset").await?;
    let group = session.client.group(&args.group);
    let topic = match args.topic {
        Some(topic) => topic,
        None => only_topic(&group.describe().await?.group)?,
    };
    let mut request = group.reset(&topic).partitions(args.partitions);
    if let Some(to) = args.to {
        request = request.to(to);
    }
    if let Some(shift) = args.shift {
        request = request.shift(shift);
    }
    if args.dry_run {
        request = request.dry_run();
    }
    let resets = changed(request.build().await, &format!("cannot reset group {:?} on {topic:?}", args.group))?;
    match global.output {
        Format::Json => render::print_json(resets.iter().map(|reset| ResetJson {
            group: &args.group,
            topic: &topic,
            partition: reset.partition,
            from_offset: reset.from_offset,
            to_offset: reset.to_offset,
            dry_run: args.dry_run,
        }))?,
        Format::Text => stdout::print(&render::table(
            [("PARTITION", Align::Right), ("FROM", Align::Right), ("TO", Align::Right), ("MOVE", Align::Right)],
            resets.iter().map(|reset| {
                let change = i128::from(reset.to_offset) - i128::from(reset.from_offset);
                [
                    reset.partition.to_string(),
                    reset.from_offset.to_string(),
                    reset.to_offset.to_string(),
                    if change == 0 { "-".to_owned() } else { format!("{change:+}") },
                ]
            }),
        ))?,
    }
    if args.dry_run {
        render::note("dry run: nothing was changed");
    }
    session.close().await?;
    Ok(Exit::Done)
}

async fn delete(global: &Global, args: &NameArgs) -> anyhow::Result<Exit> {
    let session = Session::open_server(global, "group delete").await?;
    let deleted = session.client.group(&args.group).delete().await;
    changed(deleted, &format!("cannot delete group {:?}", args.group))?;
    render::note(&format!("deleted group {} and its positions", args.group));
    session.close().await?;
    Ok(Exit::Done)
}

fn only_topic(group: &GroupInfo) -> Result<String, CliError> {
    match group.topics.as_slice() {
        [topic] => Ok(topic.clone()),
        [] => Err(CliError::NotFound(format!("group {:?} reads no topic yet; name one", group.name))),
        several => Err(CliError::Usage(format!(
            "group {:?} reads several topics; name one of {}",
            group.name,
            several.join(", ")
        ))),
    }
}

fn print_changed(global: &Global, verb: &str, group: &GroupInfo) -> anyhow::Result<()> {
    match global.output {
        Format::Json => render::print_json([GroupJson::from(group)])?,
        Format::Text => render::note(&format!(
            "{verb} group {}: mode {}, new topics from {}, ack time-out {}, {}, delivered to {}",
            group.name,
            render::or_dash(group.policy.mode),
            render::or_dash(group.policy.start.map(start::describe)),
            render::or_dash(group.policy.ack_timeout.map(time::exact)),
            retries(&group.policy.retry),
            shown_hours(&group.policy),
        )),
    }
    Ok(())
}

fn shown_hours(policy: &GroupPolicy) -> String {
    policy.hours.unwrap_or(DeliveryHours::ALWAYS).to_string()
}

/// `5 attempts, 1s to 10m apart, then park`
fn retries(retry: &RetryPolicy) -> String {
    let pause = |pause: Option<Duration>| render::or_dash(pause.map(time::exact));
    format!(
        "{} attempts, {} to {} apart, then {}",
        render::or_dash(retry.max_attempts),
        pause(retry.backoff_min),
        pause(retry.backoff_max),
        render::or_dash(retry.on_exhausted)
    )
}

fn describe_text(description: &GroupDescription) -> String {
    let group = &description.group;
    let mut text = render::fields([
        ("group", group.name.clone()),
        ("mode", render::or_dash(group.policy.mode)),
        ("new topics from", render::or_dash(group.policy.start.map(start::describe))),
        ("ack time-out", render::or_dash(group.policy.ack_timeout.map(time::exact))),
        ("retries", retries(&group.policy.retry)),
        ("delivered to", shown_hours(&group.policy)),
        ("created", time::rfc3339_seconds(group.created.as_micros())),
    ]);
    if let Some(waits) = hours::waits(description) {
        text.push_str(&format!("{waits}\n"));
    }
    text.push('\n');
    if description.members.is_empty() {
        text.push_str("no members\n");
    } else {
        text.push_str(&render::table(
            [
                ("MEMBER", Align::Left),
                ("TOPIC", Align::Left),
                ("PARTITIONS", Align::Left),
                ("OPEN", Align::Right),
                ("TIME-OUTS", Align::Right),
                ("PARKED", Align::Right),
                ("SINCE", Align::Left),
            ],
            description.members.iter().map(|member| {
                [
                    if member.name.is_empty() { member.id.to_string() } else { member.name.clone() },
                    member.topic.clone(),
                    joined(&member.partitions),
                    size::grouped(member.open_records),
                    member.timeouts.to_string(),
                    size::grouped(member.parked),
                    time::rfc3339_seconds(member.joined.as_micros()),
                ]
            }),
        ));
        description.members.iter().filter_map(trouble::of_member).for_each(|line| text.push_str(&line));
    }
    description.taken_out.iter().for_each(|member| text.push_str(&trouble::taken_out(member)));
    if !description.lag.is_empty() {
        text.push('\n');
        text.push_str(&lag::table(&description.lag));
    }
    text.push_str(&trouble::waits(&description.waits));
    if !description.retries.is_empty() {
        text.push('\n');
        text.push_str(&trouble::retries_table(&description.retries));
    }
    if !description.holds.is_empty() {
        text.push('\n');
        text.push_str(&backlog::holds(&description.holds));
    }
    if !description.failed.is_empty() {
        text.push('\n');
        text.push_str(&trouble::failed_table(&description.failed));
    }
    text
}

fn joined(partitions: &[u32]) -> String {
    if partitions.is_empty() {
        return "-".to_owned();
    }
    partitions.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}
