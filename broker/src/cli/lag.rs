//! `aqueduct lag`: how far behind each group is, in records, bytes and seconds, and where that leads.

mod history;
mod json;
mod screen;
mod terminal;
mod watch;
mod words;

use std::time::Duration;

use aqueduct_client::PartitionLag;
use clap::Args;

pub(super) use self::json::LagJson;
use self::words::Outlook;
pub(super) use self::words::warnings;
use super::Global;
use super::exit::{CliError, Exit};
use super::hours;
use super::render::{self, Align, Format};
use super::session::Session;
use super::size::{grouped, human_bytes};
use super::{backlog, stdout, time};

/// How far behind each group is, in records, bytes and seconds
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  aqueduct lag                              every group, topic and partition
  aqueduct lag billing --watch
  aqueduct lag billing --fail-over 60s      exit 1 if an event waits longer
  aqueduct lag --output json | jq 'select(.lag_records > 1000)'

Lag in seconds is the age of the oldest unread record. Rates are those of the
last seconds; a broker that has just started does not know them yet. LOSS IN is
the time after which retention may remove the oldest unread record.")]
pub(super) struct LagArgs {
    /// Only this group
    group: Option<String>,
    /// Only this topic
    #[arg(long, value_name = "TOPIC")]
    topic: Option<String>,
    /// Report again and again, until ctrl-c; on a terminal, a live table
    #[arg(long)]
    watch: bool,
    /// In the live table, a row for every partition
    #[arg(long, requires = "watch")]
    partitions: bool,
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
        watch::watch(global, &args, &session).await?;
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
        Format::Text => {
            stdout::print(&(table(&lag) + &backlog::holders(&lag)))?;
            warnings(&lag).iter().for_each(|warning| render::note(&format!("warning: {warning}")));
        }
    }
    for waits in hours::closed(&session, &lag).await? {
        render::note(&waits);
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
            words::age(lag.lag_seconds)
        ));
        exit = Exit::Failed;
    }
    exit
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
            ("IN/s", Align::Right),
            ("OUT/s", Align::Right),
            ("CATCH UP", Align::Right),
            ("LOSS IN", Align::Right),
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
                words::age(lag.lag_seconds),
                words::rate(lag.forecast.rate_in),
                words::rate(lag.forecast.rate_out),
                Outlook::of(lag).text(),
                words::loss(lag.forecast.retention_loss),
                render::or_dash(lag.member.clone()),
            ]
        }),
    )
}

#[cfg(test)]
fn sample(lag_records: u64, lag_seconds: f64) -> PartitionLag {
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
        forecast: aqueduct_client::LagForecast::default(),
        holds_publishers_since: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_records_or_durations() {
        assert_eq!(parse_limit("1000"), Ok(Limit::Records(1000)));
        assert_eq!(parse_limit("60s"), Ok(Limit::Age(Duration::from_secs(60))));
        assert!(parse_limit("many").is_err());
        assert!(parse_limit("-1").is_err());
    }

    #[test]
    fn only_lag_beyond_the_limit_fails() {
        let lags = [sample(1000, 59.0)];
        assert_eq!(judge(&lags, None), Exit::Done);
        assert_eq!(judge(&lags, Some(Limit::Records(1000))), Exit::Done);
        assert_eq!(judge(&lags, Some(Limit::Records(999))), Exit::Failed);
        assert_eq!(judge(&lags, Some(Limit::Age(Duration::from_secs(60)))), Exit::Done);
        assert_eq!(judge(&lags, Some(Limit::Age(Duration::from_secs(58)))), Exit::Failed);
    }
}
