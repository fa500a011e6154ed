//! `aqueduct topic …`: make, look at, change and delete topics.

mod cleanup;

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::time::Duration;

use aqueduct_client::{Durability, PartitionInfo, Topic, TopicDescription};
use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;

use super::Global;
use super::backlog::{self, BacklogArgs, BacklogJson, HoldJson, Wanted};
use super::exit::{CliError, Exit};
use super::render::{self, Align, Format};
use super::session::{Session, changed};
use super::size::{self, grouped, human_bytes};
use super::{stdout, time, verify};
use cleanup::CleanupArgs;

/// Make, look at, change and delete topics
#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:
  aqueduct topic create orders --partitions 4 --retention-age 7d
  aqueduct topic describe orders
  aqueduct topic alter orders --retention-bytes 10GiB
  aqueduct topic list --output json | jq -r .name
  aqueduct topic verify orders                       # still as it was written?
  aqueduct topic delete orders --yes")]
pub(super) enum TopicCommand {
    Create(CreateArgs),
    List(ListArgs),
    Describe(DescribeArgs),
    Alter(AlterArgs),
    Delete(DeleteArgs),
    Compact(cleanup::CompactArgs),
    Verify(verify::topic::VerifyTopicArgs),
}

/// Make a topic
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  aqueduct topic create orders
  aqueduct topic create clicks --partitions 8 --retention-age 30d
  aqueduct topic create traces --retention-bytes 50GiB --durability os
  aqueduct topic create orders --backlog hold --backlog-group billing --backlog-records 1000000
  aqueduct topic create prices --cleanup compact     # of each key the latest")]
pub(super) struct CreateArgs {
    /// 1 to 249 of letters, digits, '.', '_' and '-'
    name: String,
    /// Records with equal keys share a partition and keep their order. Can be raised later, never lowered
    #[arg(long, default_value_t = 1, value_name = "N")]
    partitions: u32,
    /// Per partition: the oldest events go when there are more bytes [default: unlimited]
    #[arg(long, value_parser = size::parse_bytes, value_name = "BYTES")]
    retention_bytes: Option<u64>,
    /// Events older than this go [default: kept for ever]
    #[arg(long, value_parser = time::parse_duration, value_name = "DURATION")]
    retention_age: Option<Duration>,
    /// What an ack means: on disk, or (os) in the page cache, which a power cut empties
    #[arg(long, value_enum, default_value = "fsync")]
    durability: DurabilityArg,
    #[command(flatten)]
    cleanup: CleanupArgs,
    /// Who answers for this topic; informational
    #[arg(long, value_name = "NAME")]
    owner: Option<String>,
    #[command(flatten)]
    backlog: BacklogArgs,
}

/// List topics
#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// Also the broker's own topics, whose names contain '~'
    #[arg(long)]
    all: bool,
}

/// Show a topic and its partitions
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  aqueduct topic describe orders
  aqueduct topic describe orders --data ./data       # of a stopped broker")]
pub(super) struct DescribeArgs {
    /// The topic
    name: String,
}

/// Change a topic; what is not named stays as it is
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  aqueduct topic alter orders --partitions 8
  aqueduct topic alter orders --retention-age 30d --retention-bytes unlimited
  aqueduct topic alter orders --backlog reject --backlog-group billing --backlog-age 15m
  aqueduct topic alter orders --backlog none         # nobody holds publishers any more")]
pub(super) struct AlterArgs {
    /// The topic
    name: String,
    /// Can only grow; from then on, keys may go to other partitions than before
    #[arg(long, value_name = "N")]
    partitions: Option<u32>,
    /// Per partition; a number of bytes or 'unlimited'
    #[arg(long, value_parser = bytes_or_unlimited, value_name = "BYTES")]
    retention_bytes: Option<Bound<u64>>,
    /// A duration or 'unlimited'
    #[arg(long, value_parser = age_or_unlimited, value_name = "DURATION")]
    retention_age: Option<Bound<Duration>>,
    /// What an ack means
    #[arg(long, value_enum)]
    durability: Option<DurabilityArg>,
    #[command(flatten)]
    cleanup: CleanupArgs,
    /// Who answers for this topic
    #[arg(long, value_name = "NAME")]
    owner: Option<String>,
    #[command(flatten)]
    backlog: BacklogArgs,
}

/// Delete a topic and all its events; asks first
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  aqueduct topic delete orders
  aqueduct topic delete orders --yes --force         # in scripts; also while groups consume it")]
pub(super) struct DeleteArgs {
    /// The topic
    name: String,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    /// Delete even while group members consume it
    #[arg(long)]
    force: bool,
}

/// Without doc comments at the values: they would spread the help over two screens.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum DurabilityArg {
    Fsync,
    Os,
}

impl From<DurabilityArg> for Durability {
    fn from(arg: DurabilityArg) -> Self {
        match arg {
            DurabilityArg::Fsync => Self::Fsync,
            DurabilityArg::Os => Self::Os,
        }
    }
}

/// A limit, or the wish for none.
#[derive(Debug, Clone, Copy)]
enum Bound<T> {
    At(T),
    Unlimited,
}

impl<T> From<Bound<T>> for Option<T> {
    fn from(bound: Bound<T>) -> Self {
        match bound {
            Bound::At(limit) => Some(limit),
            Bound::Unlimited => None,
        }
    }
}

fn bytes_or_unlimited(text: &str) -> Result<Bound<u64>, String> {
    if text == "unlimited" { Ok(Bound::Unlimited) } else { size::parse_bytes(text).map(Bound::At) }
}

fn age_or_unlimited(text: &str) -> Result<Bound<Duration>, String> {
    if text == "unlimited" { Ok(Bound::Unlimited) } else { time::parse_duration(text).map(Bound::At) }
}

pub(super) async fn run(global: &Global, command: TopicCommand) -> anyhow::Result<Exit> {
    match command {
        TopicCommand::Create(args) => create(global, args).await,
        TopicCommand::List(args) => list(global, &args).await,
        TopicCommand::Describe(args) => describe(global, &args).await,
        TopicCommand::Alter(args) => alter(global, args).await,
        TopicCommand::Delete(args) => delete(global, args).await,
        TopicCommand::Compact(args) => cleanup::compact(global, &args).await,
        TopicCommand::Verify(args) => verify::topic::run(global, args).await,
    }
}

async fn create(global: &Global, args: CreateArgs) -> anyhow::Result<Exit> {
    let backlog = args.backlog.wanted()?;
    let session = Session::open_server(global, "topic create").await?;
    let mut request = session.client.topics().create(&args.name).partitions(args.partitions);
    request = args.cleanup.create(request.durability(args.durability.into()));
    if let Some(bytes) = args.retention_bytes {
        request = request.retention_bytes(bytes);
    }
    if let Some(age) = args.retention_age {
        request = request.retention_age(age);
    }
    if let Some(owner) = args.owner {
        request = request.owner(owner);
    }
    if let Wanted::Some(backlog) = backlog {
        request = request.backlog(backlog);
    }
    let topic = changed(request.build().await, &format!("cannot create topic {:?}", args.name))?;
    print_changed(global, "created", &topic)?;
    session.close().await?;
    Ok(Exit::Done)
}

async fn list(global: &Global, args: &ListArgs) -> anyhow::Result<Exit> {
    let session = Session::open(global).await?;
    let topics = session.client.topics();
    let topics = if args.all { topics.list_all().await? } else { topics.list().await? };
    match global.output {
        Format::Json => render::print_json(topics.iter().map(TopicJson::from))?,
        Format::Text if topics.is_empty() => {
            render::note("there are no topics; make one with `aqueduct topic create NAME`");
        }
        Format::Text => stdout::print(&render::table(
            [
                ("TOPIC", Align::Left),
                ("PARTITIONS", Align::Right),
                ("RETENTION", Align::Left),
                ("DURABILITY", Align::Left),
                ("OWNER", Align::Left),
            ],
            topics.iter().map(|topic| {
                [
                    topic.name.clone(),
                    topic.config.partitions.to_string(),
                    retention(topic),
                    topic.config.durability.to_string(),
                    render::or_dash(topic.config.owner.clone()),
                ]
            }),
        ))?,
    }
    session.close().await?;
    Ok(Exit::Done)
}

async fn describe(global: &Global, args: &DescribeArgs) -> anyhow::Result<Exit> {
    let session = Session::open(global).await?;
    let description = session.client.topics().describe(&args.name).await?;
    match global.output {
        Format::Json => render::print_json([DescriptionJson::from(&description)])?,
        Format::Text => stdout::print(&describe_text(&description))?,
    }
    session.close().await?;
    Ok(Exit::Done)
}

async fn alter(global: &Global, args: AlterArgs) -> anyhow::Result<Exit> {
    let backlog = args.backlog.wanted()?;
    let nothing = args.partitions.is_none()
        && args.retention_bytes.is_none()
        && args.retention_age.is_none()
        && args.durability.is_none()
        && args.cleanup.is_empty()
        && args.owner.is_none()
        && backlog == Wanted::Unchanged;
    if nothing {
        let what = "nothing to change: name at least one of --partitions, --retention-bytes, --retention-age, \
                    --durability, --cleanup, --tombstone-retention, --min-compaction-lag, --owner, --backlog";
        return Err(CliError::Usage(what.to_owned()).into());
    }
    let session = Session::open_server(global, "topic alter").await?;
    let mut request = session.client.topics().alter(&args.name);
    if let Some(partitions) = args.partitions {
        request = request.partitions(partitions);
    }
    if let Some(bytes) = args.retention_bytes {
        request = request.retention_bytes(bytes.into());
    }
    if let Some(age) = args.retention_age {
        request = request.retention_age(age.into());
    }
    if let Some(durability) = args.durability {
        request = request.durability(durability.into());
    }
    request = args.cleanup.alter(request);
    if let Some(owner) = args.owner {
        request = request.owner(owner);
    }
    match backlog {
        Wanted::Unchanged => {}
        Wanted::None => request = request.backlog(None),
        Wanted::Some(backlog) => request = request.backlog(Some(backlog)),
    }
    let topic = changed(request.build().await, &format!("cannot alter topic {:?}", args.name))?;
    print_changed(global, "altered", &topic)?;
    session.close().await?;
    Ok(Exit::Done)
}

async fn delete(global: &Global, args: DeleteArgs) -> anyhow::Result<Exit> {
    let session = Session::open_server(global, "topic delete").await?;
    if !args.yes && !confirmed(&session, &args.name).await? {
        render::note("nothing was deleted");
        session.close().await?;
        return Ok(Exit::Failed);
    }
    let topics = session.client.topics();
    let result = if args.force { topics.delete_forced(&args.name).await } else { topics.delete(&args.name).await };
    changed(result, &format!("cannot delete topic {:?}", args.name))?;
    render::note(&format!("deleted topic {}", args.name));
    session.close().await?;
    Ok(Exit::Done)
}

/// Says what would be lost and asks for the topic's name.
async fn confirmed(session: &Session, name: &str) -> anyhow::Result<bool> {
    if !io::stdin().is_terminal() {
        let what = format!("deleting topic {name:?} needs --yes, because there is nobody to ask");
        return Err(CliError::Usage(what).into());
    }
    let description = session.client.topics().describe(name).await?;
    let records: u64 = description.partitions.iter().map(|p| p.high_watermark.saturating_sub(p.log_start)).sum();
    let bytes: u64 = description.partitions.iter().map(|p| p.size_bytes).sum();
    let mut question = format!("Topic {name} holds {} ({}).", size::counted(records, "record"), human_bytes(bytes));
    if !description.groups.is_empty() {
        question.push_str(&format!(" Read by {}.", description.groups.join(", ")));
    }
    let mut stderr = io::stderr().lock();
    write!(stderr, "{question}\nThis cannot be undone. Type the topic's name to delete it: ")?;
    stderr.flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(answer.trim() == name)
}

fn print_changed(global: &Global, verb: &str, topic: &Topic) -> anyhow::Result<()> {
    match global.output {
        Format::Json => render::print_json([TopicJson::from(topic)])?,
        Format::Text => render::note(&format!(
            "{verb} topic {}: {}, retention {}, durability {}{}",
            topic.name,
            size::counted(u64::from(topic.config.partitions), "partition"),
            retention(topic),
            topic.config.durability,
            topic.config.backlog.as_ref().map(|of| format!(", {}", backlog::describe(of))).unwrap_or_default(),
        )),
    }
    Ok(())
}

/// `10 GiB, 7d`
fn retention(topic: &Topic) -> String {
    let bytes = topic.config.retention_bytes.map(human_bytes);
    let age = topic.config.retention_age.map(time::exact);
    match (bytes, age) {
        (None, None) => "unlimited".to_owned(),
        (Some(one), None) | (None, Some(one)) => one,
        (Some(bytes), Some(age)) => format!("{bytes}, {age}"),
    }
}

fn describe_text(description: &TopicDescription) -> String {
    let topic = &description.topic;
    let groups = if description.groups.is_empty() { "-".to_owned() } else { description.groups.join(", ") };
    let mut text = render::fields([
        ("topic", topic.name.clone()),
        ("id", topic.id.to_string()),
        ("created", time::rfc3339_seconds(topic.created.as_micros())),
        ("retention", retention(topic)),
        ("cleanup", cleanup::text(topic)),
        ("durability", topic.config.durability.to_string()),
        ("owner", render::or_dash(topic.config.owner.clone())),
        ("groups", groups),
        ("backlog", backlog_text(description)),
    ]);
    text.push_str(&backlog::holds(&description.holds));
    text.push('\n');
    text.push_str(&render::table(
        [
            ("PARTITION", Align::Right),
            ("LOG START", Align::Right),
            ("HIGH WATERMARK", Align::Right),
            ("RECORDS", Align::Right),
            ("SIZE", Align::Right),
            ("SEGMENTS", Align::Right),
            ("STATE", Align::Left),
        ],
        description.partitions.iter().map(|partition| {
            [
                partition.partition.to_string(),
                partition.log_start.to_string(),
                partition.high_watermark.to_string(),
                grouped(partition.high_watermark.saturating_sub(partition.log_start)),
                human_bytes(partition.size_bytes),
                partition.segments.to_string(),
                match &partition.failure {
                    Some(reason) => render::failure(reason, partition.retry_in),
                    None => "ok".to_owned(),
                },
            ]
        }),
    ));
    text
}

fn backlog_text(description: &TopicDescription) -> String {
    let Some(backlog) = &description.topic.config.backlog else { return "-".to_owned() };
    let unknown = if description.backlog_group_unknown { " (there is no such group now: nobody is held)" } else { "" };
    backlog::describe(backlog) + unknown
}

#[derive(Serialize)]
struct TopicJson<'a> {
    name: &'a str,
    id: String,
    partitions: u32,
    retention_bytes: Option<u64>,
    retention_age_seconds: Option<f64>,
    durability: String,
    cleanup: String,
    tombstone_retention_seconds: Option<f64>,
    min_compaction_lag_seconds: Option<f64>,
    owner: Option<&'a str>,
    backlog: Option<BacklogJson<'a>>,
    created_us: i64,
}

impl<'a> From<&'a Topic> for TopicJson<'a> {
    fn from(topic: &'a Topic) -> Self {
        Self {
            name: &topic.name,
            id: topic.id.to_string(),
            partitions: topic.config.partitions,
            retention_bytes: topic.config.retention_bytes,
            retention_age_seconds: topic.config.retention_age.map(|age| age.as_secs_f64()),
            durability: topic.config.durability.to_string(),
            cleanup: topic.config.cleanup.to_string(),
            tombstone_retention_seconds: topic.config.tombstone_retention.map(|retention| retention.as_secs_f64()),
            min_compaction_lag_seconds: topic.config.min_compaction_lag.map(|lag| lag.as_secs_f64()),
            owner: topic.config.owner.as_deref(),
            backlog: topic.config.backlog.as_ref().map(BacklogJson::from),
            created_us: topic.created.as_micros(),
        }
    }
}

#[derive(Serialize)]
struct DescriptionJson<'a> {
    #[serde(flatten)]
    topic: TopicJson<'a>,
    groups: &'a [String],
    backlog_group_unknown: bool,
    holds: Vec<HoldJson<'a>>,
    partition_details: Vec<PartitionJson<'a>>,
}

#[derive(Serialize)]
struct PartitionJson<'a> {
    partition: u32,
    log_start_offset: u64,
    high_watermark: u64,
    size_bytes: u64,
    segments: u32,
    epoch: u32,
    failure: Option<&'a str>,
    retry_in_seconds: Option<f64>,
}

impl<'a> From<&'a TopicDescription> for DescriptionJson<'a> {
    fn from(description: &'a TopicDescription) -> Self {
        Self {
            topic: TopicJson::from(&description.topic),
            groups: &description.groups,
            backlog_group_unknown: description.backlog_group_unknown,
            holds: description.holds.iter().map(HoldJson::from).collect(),
            partition_details: description.partitions.iter().map(PartitionJson::from).collect(),
        }
    }
}

impl<'a> From<&'a PartitionInfo> for PartitionJson<'a> {
    fn from(partition: &'a PartitionInfo) -> Self {
        Self {
            partition: partition.partition,
            log_start_offset: partition.log_start,
            high_watermark: partition.high_watermark,
            size_bytes: partition.size_bytes,
            segments: partition.segments,
            epoch: partition.epoch,
            failure: partition.failure.as_deref(),
            retry_in_seconds: partition.retry_in.map(|pause| pause.as_secs_f64()),
        }
    }
}
