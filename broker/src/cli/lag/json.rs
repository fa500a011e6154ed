//! Lag as programs read it.

use aqueduct_client::{LagForecast, PartitionLag, RetentionRisk};
use serde::Serialize;

/// Programs rely on these names.
#[derive(Serialize)]
pub(in crate::cli) struct LagJson<'a> {
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
    #[serde(flatten)]
    forecast: ForecastJson,
}

/// `null` is what is not known, and what will not happen.
#[derive(Serialize)]
struct ForecastJson {
    rate_in: Option<f64>,
    rate_out: Option<f64>,
    bytes_in: Option<f64>,
    catch_up_seconds: Option<f64>,
    retention_loss_seconds: Option<f64>,
    retention_risk: Option<&'static str>,
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
            forecast: ForecastJson::from(&lag.forecast),
        }
    }
}

impl From<&LagForecast> for ForecastJson {
    fn from(forecast: &LagForecast) -> Self {
        Self {
            rate_in: forecast.rate_in,
            rate_out: forecast.rate_out,
            bytes_in: forecast.bytes_in,
            catch_up_seconds: forecast.catch_up.map(|time| time.as_secs_f64()),
            retention_loss_seconds: forecast.retention_loss.map(|time| time.as_secs_f64()),
            retention_risk: forecast.risk.map(|risk| match risk {
                RetentionRisk::Near => "near",
                RetentionRisk::Lost => "lost",
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::sample;
    use super::*;
    use crate::cli::render;

    #[test]
    fn json_has_the_fields_that_programs_rely_on() {
        assert_eq!(
            render::json_line(&LagJson::from(&sample(7, 1.5))),
            concat!(
                r#"{"group":"billing","topic":"orders","partition":3,"log_start_offset":0,"committed_offset":10,"#,
                r#""high_watermark":17,"lag_records":7,"lag_bytes":2048,"lag_seconds":1.5,"member":null,"holds_publishers_since_us":null,"#,
                r#""rate_in":null,"rate_out":null,"bytes_in":null,"catch_up_seconds":null,"#,
                r#""retention_loss_seconds":null,"retention_risk":null}"#,
                "\n"
            )
        );
        let mut lag = sample(7, 1.5);
        lag.forecast = LagForecast {
            rate_in: Some(1.5),
            rate_out: Some(5.0),
            bytes_in: Some(150.0),
            catch_up: Some(Duration::from_secs(2)),
            retention_loss: Some(Duration::from_millis(1500)),
            retention_loss_cause: None,
            risk: Some(RetentionRisk::Near),
        };
        let line = render::json_line(&LagJson::from(&lag));
        let end = concat!(
            r#""rate_in":1.5,"rate_out":5.0,"bytes_in":150.0,"catch_up_seconds":2.0,"#,
            r#""retention_loss_seconds":1.5,"retention_risk":"near"}"#,
            "\n"
        );
        assert!(line.ends_with(end), "{line}");
    }
}
