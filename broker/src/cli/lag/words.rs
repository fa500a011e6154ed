//! How rates, forecasts and risks are put for people.

use std::collections::BTreeMap;
use std::time::Duration;

use aqueduct_client::{LossCause, PartitionLag, RetentionRisk};

use crate::cli::size::{counted, grouped};
use crate::cli::time;

/// A group whose oldest unread record is younger reads what comes in as it comes.
const LIVE_WITHIN: Duration = Duration::from_secs(2);

/// How a group does, in ascending order of concern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Outlook {
    /// Nothing is unread.
    Done,
    /// It reads what comes in as it comes.
    Live,
    /// The broker has not measured it yet.
    Unknown,
    CatchesUp(Duration),
    /// It is behind, and at its pace stays so.
    FallsBehind,
}

impl Outlook {
    pub(super) fn of(lag: &PartitionLag) -> Self {
        let age = Duration::try_from_secs_f64(lag.lag_seconds).unwrap_or_default();
        match lag.forecast.catch_up {
            _ if lag.lag_records == 0 => Self::Done,
            _ if age < LIVE_WITHIN => Self::Live,
            Some(time) => Self::CatchesUp(time),
            None if lag.forecast.falls_behind() => Self::FallsBehind,
            None => Self::Unknown,
        }
    }

    /// For a cell of a table.
    pub(super) fn text(self) -> String {
        match self {
            Self::Done => "-".to_owned(),
            Self::Live => "live".to_owned(),
            Self::Unknown => "?".to_owned(),
            Self::CatchesUp(time) => duration(time),
            Self::FallsBehind => "never".to_owned(),
        }
    }
}

/// `3m10s`, `4.2s`: narrow.
pub(super) fn duration(duration: Duration) -> String {
    time::human(duration).replace(' ', "")
}

/// Lag in seconds.
pub(super) fn age(seconds: f64) -> String {
    match Duration::try_from_secs_f64(seconds) {
        Ok(Duration::ZERO) | Err(_) => "-".to_owned(),
        Ok(age) => duration(age),
    }
}

/// When retention may remove what is unread.
pub(super) fn loss(within: Option<Duration>) -> String {
    match within {
        None => "-".to_owned(),
        Some(Duration::ZERO) => "now".to_owned(),
        Some(within) => duration(within),
    }
}

/// Per second: `0`, `3.2`, `312`, `12.3k`, `4.5M`.
pub(super) fn rate(per_second: Option<f64>) -> String {
    let Some(rate) = per_second else { return "?".to_owned() };
    match rate {
        ..0.05 => "0".to_owned(),
        ..9.95 => format!("{rate:.1}"),
        ..999.5 => format!("{rate:.0}"),
        ..999_950.0 => format!("{:.1}k", rate / 1e3),
        ..999_950_000.0 => format!("{:.1}M", rate / 1e6),
        _ => format!("{:.1}G", rate / 1e9),
    }
}

/// What to worry about and what to do, one sentence for a group on a topic; the most urgent first.
pub(in crate::cli) fn warnings(lags: &[PartitionLag]) -> Vec<String> {
    let mut at_risk: BTreeMap<(&str, &str), Vec<&PartitionLag>> = BTreeMap::new();
    for lag in lags.iter().filter(|lag| lag.forecast.risk.is_some()) {
        at_risk.entry((&lag.group, &lag.topic)).or_default().push(lag);
    }
    let mut warnings: Vec<_> =
        at_risk.into_values().flat_map(|lags| [of_lost(&lags), of_near(&lags)]).flatten().collect();
    warnings.sort();
    warnings.into_iter().map(|warning| warning.text).collect()
}

/// Ordered by urgency.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Warning {
    within: Option<Duration>,
    text: String,
}

fn with(lags: &[&PartitionLag], risk: RetentionRisk) -> Vec<PartitionLag> {
    lags.iter().filter(|lag| lag.forecast.risk == Some(risk)).map(|lag| (*lag).clone()).collect()
}

fn of_lost(lags: &[&PartitionLag]) -> Option<Warning> {
    let lost = with(lags, RetentionRisk::Lost);
    let worst = lost.iter().max_by_key(|lag| lag.lost_records())?;
    let records: u64 = lost.iter().map(PartitionLag::lost_records).sum();
    let text = format!(
        "{} has lost {} of {}: retention removed them unread",
        worst.group,
        counted(records, "event"),
        place(worst, lost.len())
    );
    Some(Warning { within: None, text })
}

fn of_near(lags: &[&PartitionLag]) -> Option<Warning> {
    let near = with(lags, RetentionRisk::Near);
    let soonest = near.iter().min_by_key(|lag| lag.forecast.retention_loss)?;
    let within = soonest.forecast.retention_loss;
    let when = match within {
        Some(within) if !within.is_zero() => format!("in {}", time::human(within)),
        Some(_) | None => "at any moment".to_owned(),
    };
    let setting = match soonest.forecast.retention_loss_cause {
        Some(LossCause::Bytes) => "--retention-bytes",
        Some(LossCause::Age) | None => "--retention-age",
    };
    let text = format!(
        "retention removes events of {} that {} has not read {when}; add members, or: aqueduct topic alter {} {setting} …",
        place(soonest, near.len()),
        soonest.group,
        soonest.topic,
    );
    Some(Warning { within, text })
}

fn place(lag: &PartitionLag, partitions: usize) -> String {
    match partitions {
        0 | 1 => format!("{}/{}", lag.topic, lag.partition),
        several => format!("{}/{} and {} more", lag.topic, lag.partition, grouped(several as u64 - 1)),
    }
}

#[cfg(test)]
mod tests {
    use aqueduct_client::LagForecast;

    use super::super::sample;
    use super::*;

    fn forecast(rate_in: f64, rate_out: f64, catch_up: Option<u64>) -> LagForecast {
        let (rate_in, rate_out) = (Some(rate_in), Some(rate_out));
        LagForecast { rate_in, rate_out, catch_up: catch_up.map(Duration::from_secs), ..LagForecast::default() }
    }

    #[test]
    fn rates_have_three_digits() {
        let shown = |rate| super::rate(Some(rate));
        for (rate, text) in [
            (0.0, "0"),
            (0.04, "0"),
            (0.05, "0.1"),
            (9.94, "9.9"),
            (9.96, "10"),
            (999.4, "999"),
            (999.6, "1.0k"),
            (12_345.0, "12.3k"),
            (999_960.0, "1.0M"),
            (4.5e9, "4.5G"),
        ] {
            assert_eq!(shown(rate), text, "{rate}");
        }
        assert_eq!(super::rate(None), "?");
    }

    #[test]
    fn the_outlook_tells_a_live_group_from_one_that_falls_behind() {
        let outlook = |records, seconds, forecast| {
            let mut lag = sample(records, seconds);
            lag.forecast = forecast;
            Outlook::of(&lag).text()
        };
        assert_eq!(outlook(0, 0.0, LagForecast::default()), "-");
        assert_eq!(outlook(7, 1.9, forecast(5.0, 5.0, None)), "live");
        assert_eq!(outlook(7, 2.0, forecast(5.0, 5.0, None)), "never");
        assert_eq!(outlook(7, 2.0, forecast(5.0, 6.0, Some(190))), "3m10s");
        assert_eq!(outlook(7, 2.0, LagForecast::default()), "?");
    }

    #[test]
    fn warnings_are_one_for_a_group_on_a_topic_with_the_most_urgent_first() {
        let at_risk = |topic: &str, partition, seconds| {
            let mut lag = sample(100, 50.0);
            (lag.topic, lag.partition) = (topic.to_owned(), partition);
            lag.forecast.risk = Some(RetentionRisk::Near);
            lag.forecast.retention_loss = Some(Duration::from_secs(seconds));
            lag.forecast.retention_loss_cause = Some(LossCause::Age);
            lag
        };
        let mut lost = sample(100, 50.0);
        (lost.topic, lost.log_start_offset) = ("views".to_owned(), 15);
        lost.forecast.risk = Some(RetentionRisk::Lost);
        let mut by_bytes = at_risk("clicks", 0, 0);
        by_bytes.forecast.retention_loss_cause = Some(LossCause::Bytes);
        let lags = [sample(9, 1.0), at_risk("orders", 1, 480), at_risk("orders", 2, 70), lost, by_bytes];
        assert_eq!(
            warnings(&lags),
            [
                "billing has lost 5 events of views/3: retention removed them unread",
                "retention removes events of clicks/0 that billing has not read at any moment; add members, or: \
                 aqueduct topic alter clicks --retention-bytes …",
                "retention removes events of orders/2 and 1 more that billing has not read in 1m 10s; add members, or: \
                 aqueduct topic alter orders --retention-age …",
            ]
        );
    }
}
