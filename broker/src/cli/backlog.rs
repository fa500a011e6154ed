//! Who holds whom: the flags that say so, and how it is shown by `topic`, `group`, `lag` and `publish`.

use std::convert::Infallible;
use std::time::Duration;

use aqueduct_client::{Backlog, BacklogMode, PartitionLag, Producer, PublisherHold};
use clap::{Args, ValueEnum};
use serde::Serialize;

use super::exit::CliError;
use super::size::{self, counted, human_bytes};
use super::{render, time};

/// How often a publisher that waits looks why.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// What publishers do while a group is behind.
#[derive(Debug, Args)]
pub(super) struct BacklogArgs {
    /// What happens to publishers while --backlog-group is further behind than a bound: they wait (hold) or are refused
    /// (reject), until it is back at 90 % of it
    #[arg(long, value_enum, value_name = "none|hold|reject", hide_possible_values = true)]
    backlog: Option<ModeArg>,
    /// The group that must keep up; one that does not exist holds nobody
    #[arg(long, requires = "backlog", value_name = "GROUP")]
    backlog_group: Option<String>,
    /// At most so many unread records in the topic
    #[arg(long, requires = "backlog", value_name = "N")]
    backlog_records: Option<u64>,
    /// At most so many unread bytes in the topic
    #[arg(long, requires = "backlog", value_parser = size::parse_bytes, value_name = "BYTES")]
    backlog_bytes: Option<u64>,
    /// At most so old an unread record
    #[arg(long, requires = "backlog", value_parser = time::parse_duration, value_name = "DURATION")]
    backlog_age: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ModeArg {
    None,
    Hold,
    Reject,
}

/// What is to become of a topic's backlog.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// It stays as it is.
    Unchanged,
    None,
    Some(Backlog),
}

impl BacklogArgs {
    /// # Errors
    /// [`CliError::Usage`]: flags that lack others, or contradict them.
    pub(super) fn wanted(self) -> Result<Wanted, CliError> {
        let usage = |what: &str| Err(CliError::Usage(what.to_owned()));
        let bounds =
            [self.backlog_records, self.backlog_bytes].iter().any(Option::is_some) || self.backlog_age.is_some();
        let backlog = match (self.backlog, self.backlog_group) {
            (None, _) => return Ok(Wanted::Unchanged),
            (Some(ModeArg::None), group) if group.is_some() || bounds => {
                return usage("--backlog none takes neither a group nor bounds");
            }
            (Some(ModeArg::None), _) => return Ok(Wanted::None),
            (Some(ModeArg::Hold | ModeArg::Reject), None) => {
                return usage("--backlog needs --backlog-group: the group that must keep up");
            }
            (Some(ModeArg::Hold), Some(group)) => Backlog::hold(group),
            (Some(ModeArg::Reject), Some(group)) => Backlog::reject(group),
        };
        if !bounds {
            return usage("--backlog needs a bound: --backlog-records, --backlog-bytes or --backlog-age");
        }
        let (records, bytes) = (self.backlog_records, self.backlog_bytes);
        Ok(Wanted::Some(Backlog { records, bytes, age: self.backlog_age, ..backlog }))
    }
}

/// `hold publishers while billing is 1,000,000 records or 1h behind`
pub(super) fn describe(backlog: &Backlog) -> String {
    let bounds = [
        backlog.records.map(|records| counted(records, "record")),
        backlog.bytes.map(human_bytes),
        backlog.age.map(time::exact),
    ];
    let bounds: Vec<String> = bounds.into_iter().flatten().collect();
    format!("{} publishers while {} is {} behind", backlog.mode, backlog.group, bounds.join(" or "))
}

/// One line for each: who holds whom, since when, and what helps.
pub(super) fn holds(holds: &[PublisherHold]) -> String {
    let line = |hold: &PublisherHold| {
        let since = time::rfc3339_seconds(hold.since.as_micros());
        let waiting = match hold.waiting {
            0 => String::new(),
            waiting => format!("; waiting now: {}", counted(waiting.into(), "request")),
        };
        let remedy = hold.group.as_ref().map(|_| format!("  {}\n", remedy(&hold.topic))).unwrap_or_default();
        format!("publishers of {} are held since {since} by {}{waiting}\n{remedy}", hold.topic, hold.culprit)
    };
    holds.iter().map(line).collect()
}

/// What to do about a group that is too far behind.
fn remedy(topic: &str) -> String {
    format!("start more members of the group, or loosen it with `aqueduct topic alter {topic} --backlog …`")
}

/// Below a table of lag: one line for each group and topic.
pub(super) fn holders(lag: &[PartitionLag]) -> String {
    let mut lines: Vec<String> = lag
        .iter()
        .filter_map(|lag| {
            let since = time::rfc3339_seconds(lag.holds_publishers_since?.as_micros());
            Some(format!("{} holds the publishers of {} since {since}\n", lag.group, lag.topic))
        })
        .collect();
    lines.dedup();
    lines.concat()
}

/// Says on stderr who holds a producer, whenever that changes.
pub(super) async fn tell(producer: &Producer, topic: &str) -> Infallible {
    let mut told = None;
    loop {
        tokio::time::sleep(LOOK_INTERVAL).await;
        let hold = producer.hold();
        let reason = hold.as_ref().map(|hold| hold.reason.clone());
        if let Some(hold) = hold.filter(|_| reason != told) {
            let what = if hold.reason == "GROUP_BACKLOG" { format!(": {}", remedy(topic)) } else { String::new() };
            render::note(&format!("waiting: held by {}{what}", hold.culprit));
        }
        told = reason;
    }
}

#[derive(Serialize)]
pub(super) struct BacklogJson<'a> {
    mode: String,
    group: &'a str,
    max_records: Option<u64>,
    max_bytes: Option<u64>,
    max_seconds: Option<f64>,
}

impl<'a> From<&'a Backlog> for BacklogJson<'a> {
    fn from(backlog: &'a Backlog) -> Self {
        Self {
            mode: BacklogMode::to_string(&backlog.mode),
            group: &backlog.group,
            max_records: backlog.records,
            max_bytes: backlog.bytes,
            max_seconds: backlog.age.map(|age| age.as_secs_f64()),
        }
    }
}

#[derive(Serialize)]
pub(super) struct HoldJson<'a> {
    topic: &'a str,
    reason: &'a str,
    culprit: &'a str,
    since_us: i64,
    waiting: u32,
    group: Option<&'a str>,
    lag_records: Option<u64>,
    lag_bytes: Option<u64>,
    lag_seconds: Option<f64>,
}

impl<'a> From<&'a PublisherHold> for HoldJson<'a> {
    fn from(hold: &'a PublisherHold) -> Self {
        let group = hold.group.as_ref();
        Self {
            topic: &hold.topic,
            reason: &hold.reason,
            culprit: &hold.culprit,
            since_us: hold.since.as_micros(),
            waiting: hold.waiting,
            group: group.map(|behind| behind.group.as_str()),
            lag_records: group.map(|behind| behind.records),
            lag_bytes: group.map(|behind| behind.bytes),
            lag_seconds: group.map(|behind| behind.age.as_secs_f64()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(backlog: Option<ModeArg>, group: Option<&str>, records: Option<u64>) -> BacklogArgs {
        BacklogArgs {
            backlog,
            backlog_group: group.map(str::to_owned),
            backlog_records: records,
            backlog_bytes: None,
            backlog_age: None,
        }
    }

    #[test]
    fn a_backlog_needs_a_group_and_a_bound() {
        let hold = Backlog::hold("billing").records(7);
        assert_eq!(args(Some(ModeArg::Hold), Some("billing"), Some(7)).wanted().ok(), Some(Wanted::Some(hold)));
        assert_eq!(args(None, None, None).wanted().ok(), Some(Wanted::Unchanged));
        assert_eq!(args(Some(ModeArg::None), None, None).wanted().ok(), Some(Wanted::None));
        assert!(args(Some(ModeArg::Reject), None, Some(7)).wanted().is_err());
        assert!(args(Some(ModeArg::Reject), Some("billing"), None).wanted().is_err());
        assert!(args(Some(ModeArg::None), Some("billing"), None).wanted().is_err());
    }

    #[test]
    fn a_backlog_reads_as_a_sentence() {
        let backlog = Backlog::reject("billing").records(1_000_000).age(Duration::from_secs(3600));
        assert_eq!(describe(&backlog), "reject publishers while billing is 1,000,000 records or 1h behind");
    }
}
