//! `aqueduct lag`: how far behind each group is, in records, bytes and seconds.

use std::io::{self, IsTerminal as _};
use std::time::Duration;

use aqueduct_client::PartitionLag;
use clap::Args;
use serde::Serialize;

use super::Global;
use super::exit::{CliError, Exit};
use super::render::{self, Align, Format};
use super::session::Session;
use super::size::{grouped, human_bytes};
use super::{backlog, stdout, time};

/// How far behind each group is, in records, bytes and seconds
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  aqueduct lag                              every group, topic and partition
  aqueduct lag billing --watch
  aqueduct lag billing --fail-over 60s      exit 1 if an event waits longer
  aqueduct lag --output json | jq 'select(.lag_records > 1000)'

Lag in seconds is the age of the oldest unread record.")]
pub(super) struct LagArgs {
    /// Only this group
    group: Option<String>,
    /// Only this topic
    #[arg(long, value_name = "TOPIC")]
    topic: Option<String>,
    /// Report again and again, until ctrl-c
    #[arg(long)]
    watch: bool,
    /// How often --watch reports
    #[arg(long, requires = "watch", value_parser = time::parse_duration, default_value = "1s", value_name = "DURATION")]
    interval: Duration,
    /// Exit 1 if any partition lags more than this many records, or longer than this
    #[arg(long, conflicts_with = "watch", value_parser = parse_limit, value_name = "RECORDS|DURATION")]
    fail_over: Option<Limit>,
}

/// How much lag is too much.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Limit {
    Records(u64),
    Age(Duration),
}

fn parse_limit(text: &str) -> Result<Limit, String> {
    if let Ok(records) = text.parse() {
        return Ok(Limit::Records(records));
    }
    time::parse_duration(text)
        .map(Limit::Age)
        .map_err(|_| "expected a number of records such as 1000, or a duration such as 60s".to_owned())
}

impl Limit {
    fn exceeded_by(self, lag: &PartitionLag) -> bool {
        match self {
            Self::Records(records) => lag.lag_records > records,
            Self::Age(age) => lag.lag_seconds > age.as_secs_f64(),
        }
    }
}

pub(super) async fn run(global: &Global, args: LagArgs) -> anyhow::Result<Exit> {
    let session = Session::open(global).await?;
    if args.watch {
        if session.is_stopped_log() {
            let what = "--watch needs a running broker: the lag of a stopped one does not change".to_owned();
            return Err(CliError::Usage(what).into());
        }
        watch(global, &args, &session).await?;
        session.close().await?;
        return Ok(Exit::Done);
    }
    let mut lag = match &args.group {
        // Says so if there is no such group.
        Some(group) => session.client.group(group).describe().await?.lag,
        None => session.client.groups().lag().await?,
    };
    retain_topic(&mut lag, args.topic.as_deref());
    match global.output {
        Format::Json => render::print_json(lag.iter().map(LagJson::from))?,
        Format::Text if lag.is_empty() => render::note(&nothing(&args)),
        Format::Text => stdout::print(&(table(&lag) + &backlog::holders(&lag)))?,
    }
    session.close().await?;
    Ok(judge(&lag, args.fail_over))
}

/// Says on stderr who is beyond the limit.
fn judge(lag: &[PartitionLag], limit: Option<Limit>) -> Exit {
    let Some(limit) = limit else { return Exit::Done };
    let mut exit = Exit::Done;
    for lag in lag.iter().filter(|lag| limit.exceeded_by(lag)) {
        let allowed = match limit {
            Limit::Records(records) => format!("{} records", grouped(records)),
            Limit::Age(age) => time::exact(age),
        };
        render::note(&format!(
            "{} on {}/{} is {} records and {} behind; the limit is {allowed}",
            lag.group,
            lag.topic,
            lag.partition,
            grouped(lag.lag_records),
            age(lag.lag_seconds)
        ));
        exit = Exit::Failed;
    }
    exit
}

async fn watch(global: &Global, args: &LagArgs, session: &Session) -> anyhow::Result<()> {
    let mut reports = match &args.group {
        Some(group) => {
            let group = session.client.group(group);
            // Says so if there is no such group.
            group.describe().await?;
            group.watch_lag(args.topic.as_deref(), args.interval).await?
        }
        None => session.client.groups().watch_lag(args.interval).await?,
    };
    let mut interrupted = std::pin::pin!(super::interrupted());
    let in_place = io::stdout().is_terminal();
    loop {
        let report = tokio::select! {
            () = &mut interrupted => return Ok(()),
            report = reports.next() => report,
        };
        let Some(report) = report else { return Ok(()) };
        let mut lag = report?;
        retain_topic(&mut lag, args.topic.as_deref());
        match global.output {
            Format::Json => render::print_json(lag.iter().map(LagJson::from))?,
            Format::Text => {
                let text =
                    if lag.is_empty() { format!("{}\n", nothing(args)) } else { table(&lag) + &backlog::holders(&lag) };
                // Home and clear, on a terminal; elsewhere reports follow each other.
                let before = if in_place { "\x1b[H\x1b[2J" } else { "" };
                stdout::print(&format!("{before}{}\n\n{text}\n", time::rfc3339_seconds(time::now_us())))?;
            }
        }
    }
}

fn retain_topic(lag: &mut Vec<PartitionLag>, topic: Option<&str>) {
    if let Some(topic) = topic {
        lag.retain(|lag| lag.topic == topic);
    }
}

fn nothing(args: &LagArgs) -> String {
    match (&args.group, &args.topic) {
        (None, None) => "no group reads anything yet; try `aqueduct subscribe TOPIC --group NAME`".to_owned(),
        (Some(group), None) => format!("group {group} reads no topic yet"),
        (None, Some(topic)) => format!("no group reads {topic}"),
        (Some(group), Some(topic)) => format!("group {group} does not read {topic}"),
    }
}

/// The table of `lag` and of `group describe`.
pub(super) fn table(lag: &[PartitionLag]) -> String {
    render::table(
        [
            ("GROUP", Align::Left),
            ("TOPIC", Align::Left),
            ("PART", Align::Right),
            ("COMMITTED", Align::Right),
            ("HIGH WATERMARK", Align::Right),
            ("LAG", Align::Right),
            ("BYTES", Align::Right),
            ("AGE", Align::Right),
            ("MEMBER", Align::Left),
        ],
        lag.iter().map(|lag| {
            [
                lag.group.clone(),
                lag.topic.clone(),
                lag.partition.to_string(),
                lag.committed_offset.to_string(),
                lag.high_watermark.to_string(),
                grouped(lag.lag_records),
                human_bytes(lag.lag_bytes),
                age(lag.lag_seconds),
                render::or_dash(lag.member.clone()),
            ]
        }),
    )
}

fn age(seconds: f64) -> String {
    match Duration::try_from_secs_f64(seconds) {
        Ok(Duration::ZERO) | Err(_) => "-".to_owned(),
        Ok(duration) => time::human(duration),
    }
}

/// DESIGN names these fields; programs rely on them.
#[derive(Serialize)]
pub(super) struct LagJson<'a> {
    group: &'a str,
    topic: &'a str,
    partition: u32,
    log_start_offset: u64,
    committed_offset: u64,
    high_watermark: u64,
    lag_records: u64,
    lag_bytes: u64,
    lag_seconds: f64,
    member: Option<&'a str>,
    holds_publishers_since_us: Option<i64>,
}

impl<'a> From<&'a PartitionLag> for LagJson<'a> {
    fn from(lag: &'a PartitionLag) -> Self {
        Self {
            group: &lag.group,
            topic: &lag.topic,
            partition: lag.partition,
            log_start_offset: lag.log_start_offset,
            committed_offset: lag.committed_offset,
            high_watermark: lag.high_watermark,
            lag_records: lag.lag_records,
            lag_bytes: lag.lag_bytes,
            lag_seconds: lag.lag_seconds,
            member: lag.member.as_deref(),
            holds_publishers_since_us: lag.holds_publishers_since.map(|since| since.as_micros()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lag(lag_records: u64, lag_seconds: f64) -> PartitionLag {
        PartitionLag {
            group: "billing".to_owned(),
            topic: "orders".to_owned(),
            topic_id: None,
            partition: 3,
            log_start_offset: 0,
            committed_offset: 10,
            high_watermark: 10 + lag_records,
            lag_records,
            lag_bytes: 2048,
            lag_seconds,
            member: None,
            holds_publishers_since: None,
        }
    }

    #[test]
    fn limits_are_records_or_durations() {
        assert_eq!(parse_limit("1000"), Ok(Limit::Records(1000)));
        assert_eq!(parse_limit("60s"), Ok(Limit::Age(Duration::from_secs(60))));
        assert!(parse_limit("many").is_err());
        assert!(parse_limit("-1").is_err());
    }

    #[test]
    fn only_lag_beyond_the_limit_fails() {
        let lags = [lag(1000, 59.0)];
        assert_eq!(judge(&lags, None), Exit::Done);
        assert_eq!(judge(&lags, Some(Limit::Records(1000))), Exit::Done);
        assert_eq!(judge(&lags, Some(Limit::Records(999))), Exit::Failed);
        assert_eq!(judge(&lags, Some(Limit::Age(Duration::from_secs(60)))), Exit::Done);
        assert_eq!(judge(&lags, Some(Limit::Age(Duration::from_secs(58)))), Exit::Failed);
    }

    #[test]
    fn json_has_the_fields_that_programs_rely_on() {
        assert_eq!(
            render::json_line(&LagJson::from(&lag(7, 1.5))),
            concat!(
                r#"{"group":"billing","topic":"orders","partition":3,"log_start_offset":0,"committed_offset":10,"#,
                r#""high_watermark":17,"lag_records":7,"lag_bytes":2048,"lag_seconds":1.5,"member":null,"#,
                r#""holds_publishers_since_us":null}"#,
                "\n"
            )
        );
    }
}
