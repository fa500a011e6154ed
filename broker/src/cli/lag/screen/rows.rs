//! What the rows of the live table say, and their order: whatever needs somebody first is on top.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use aqueduct_client::{PartitionLag, RetentionRisk};

use super::super::words::Outlook;
use super::Rows;
use crate::cli::render;
use crate::cli::size::counted;

/// Of a member's name.
const MEMBER_CHARS_MAX: usize = 24;

/// A group on a topic.
pub(super) struct Summary<'a> {
    /// The most urgent first.
    lags: Vec<&'a PartitionLag>,
}

/// A line of the table: a group on a topic, or one partition of it.
#[derive(Debug, Clone)]
pub(super) struct Row<'a> {
    pub(super) name: String,
    pub(super) lags: Vec<&'a PartitionLag>,
    pub(super) records: u64,
    pub(super) bytes: u64,
    /// Of the oldest unread record, in seconds.
    pub(super) age: f64,
    pub(super) rate_in: Option<f64>,
    pub(super) rate_out: Option<f64>,
    pub(super) outlook: Outlook,
    pub(super) loss: Option<Duration>,
    pub(super) risk: Option<RetentionRisk>,
    pub(super) member: String,
}

/// In descending order of what comes first.
type Urgency = (Option<Reverse<Option<Duration>>>, Outlook, u64);

fn urgency(lag: &PartitionLag) -> Urgency {
    let loss = lag.forecast.risk.map(|risk| match risk {
        RetentionRisk::Near => Reverse(lag.forecast.retention_loss),
        // Sooner than anything that is still to come.
        RetentionRisk::Lost => Reverse(None),
    });
    (loss, Outlook::of(lag), lag.lag_records)
}

/// One for each group and topic.
pub(super) fn summaries(lags: &[PartitionLag]) -> Vec<Summary<'_>> {
    let mut grouped: BTreeMap<(&str, &str), Vec<&PartitionLag>> = BTreeMap::new();
    for lag in lags {
        grouped.entry((&lag.group, &lag.topic)).or_default().push(lag);
    }
    let mut summaries: Vec<Summary<'_>> = grouped.into_values().map(|lags| Summary { lags }).collect();
    for summary in &mut summaries {
        summary.lags.sort_by_key(|lag| (Reverse(urgency(lag)), lag.partition));
    }
    // Stable: equally urgent ones stay in order of names.
    summaries.sort_by_key(|summary| Reverse(summary.urgency()));
    summaries
}

impl<'a> Summary<'a> {
    fn urgency(&self) -> (Option<Urgency>, u64) {
        (self.lags.first().map(|lag| urgency(lag)), self.lags.iter().map(|lag| lag.lag_records).sum())
    }

    /// Whether its partitions can be seen one by one.
    pub(super) fn is_split(&self) -> bool {
        self.lags.len() > 1
    }

    pub(super) fn row(&self) -> Row<'a> {
        let name = self.lags.first().map_or_else(String::new, |lag| match self.is_split() {
            true => format!("{} {}", lag.group, lag.topic),
            false => format!("{} {}/{}", lag.group, lag.topic, partition_name(lag.partition)),
        });
        row(name, self.lags.clone())
    }

    /// Of each partition, if there are several: where all of them are shown, by number, so that they stay where they are.
    pub(super) fn partitions(&self, rows: Rows) -> Vec<Row<'a>> {
        if !self.is_split() {
            return Vec::new();
        }
        let mut lags = self.lags.clone();
        match rows {
            Rows::Fitting => lags.sort_by_key(|lag| lag.partition),
            Rows::Partitions => {}
        }
        lags.into_iter().map(|lag| row(format!("  {}", partition_name(lag.partition)), vec![lag])).collect()
    }
}

/// What a group tries again, or has had redriven, stands behind the last partition that there can be.
fn partition_name(partition: u32) -> String {
    if partition == u32::MAX { "retry".to_owned() } else { partition.to_string() }
}

fn row(name: String, lags: Vec<&PartitionLag>) -> Row<'_> {
    let sum = |rate: fn(&PartitionLag) -> Option<f64>| lags.iter().filter_map(|lag| rate(lag)).reduce(|a, b| a + b);
    Row {
        name,
        records: lags.iter().map(|lag| lag.lag_records).sum(),
        bytes: lags.iter().map(|lag| lag.lag_bytes).sum(),
        age: lags.iter().map(|lag| lag.lag_seconds).fold(0.0, f64::max),
        rate_in: sum(|lag| lag.forecast.rate_in),
        rate_out: sum(|lag| lag.forecast.rate_out),
        // All of it is read when the slowest partition is.
        outlook: lags.iter().map(|lag| Outlook::of(lag)).max().unwrap_or(Outlook::Done),
        loss: lags.iter().filter_map(|lag| lag.forecast.retention_loss).min(),
        risk: lags.iter().filter_map(|lag| lag.forecast.risk).max_by_key(|risk| matches!(risk, RetentionRisk::Lost)),
        member: members(&lags),
        lags,
    }
}

fn members(lags: &[&PartitionLag]) -> String {
    let names: BTreeSet<&str> = lags.iter().filter_map(|lag| lag.member.as_deref()).collect();
    match names.len() {
        0 => "nobody".to_owned(),
        1 => names.first().map_or_else(String::new, |name| render::one_line(name, MEMBER_CHARS_MAX)),
        several => counted(several as u64, "member"),
    }
}
