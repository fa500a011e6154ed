//! Small commands: `info` and `completions`.

use std::io::Write as _;

use aqueduct_client::{FailedPartition, Info};
use clap::{Args, CommandFactory as _};
use clap_complete::Shell;
use serde::Serialize;

use super::exit::Exit;
use super::render::{self, Format};
use super::session::Session;
use super::size::human_bytes;
use super::stdout::{self, StdoutError};
use super::{Cli, Global, lag, time};

/// What the broker is: version, abilities, limits
#[derive(Debug, Args)]
pub(super) struct InfoArgs {}

/// Print a completion script for a shell
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  source <(aqueduct completions bash)
  aqueduct completions zsh > ~/.zfunc/_aqueduct
  aqueduct completions fish > ~/.config/fish/completions/aqueduct.fish")]
pub(super) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

pub(super) fn completions(args: &CompletionsArgs) -> anyhow::Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "aqueduct", &mut script);
    std::io::stdout().lock().write_all(&script).map_err(StdoutError::from)?;
    Ok(Exit::Done)
}

pub(super) async fn info(global: &Global) -> anyhow::Result<Exit> {
    let session = Session::open(global).await?;
    let info = session.client.info().await?;
    match global.output {
        Format::Json => render::print_json([InfoJson::from(&info)])?,
        Format::Text => stdout::print(&format!(
            "{}{}{}",
            render::fields([
                ("version", info.version.clone()),
                ("API level", info.api_level.to_string()),
                ("engine", info.engine.clone()),
                ("durability", joined(&info)),
                ("features", if info.features.is_empty() { "-".to_owned() } else { info.features.join(", ") }),
                ("broker", info.broker_id.clone()),
                ("cluster", info.cluster_id.clone()),
                ("running since", time::rfc3339_seconds(info.started.as_micros())),
                ("record limit", human_bytes(info.limits.record_bytes_max)),
                ("batch limit", human_bytes(info.limits.batch_bytes_max)),
                ("partitions limit", info.limits.topic_partitions_max.to_string()),
                ("health", health(&info)),
            ]),
            failures(&info),
            lag::warnings(&info.at_risk).iter().map(|warning| format!("  {warning}\n")).collect::<String>()
        ))?,
    }
    session.close().await?;
    Ok(Exit::Done)
}

fn health(info: &Info) -> String {
    match info.failures.len() {
        0 => "every partition takes writes".to_owned(),
        failed => format!(
            "{} no writes",
            if failed == 1 { "1 partition takes".to_owned() } else { format!("{failed} partitions take") }
        ),
    }
}

/// Which partitions, and why.
fn failures(info: &Info) -> String {
    let line = |failed: &FailedPartition| {
        let state = render::failure(&failed.reason, failed.retry_in);
        format!("  {}/{}  {state}\n", failed.topic, failed.partition)
    };
    info.failures.iter().map(line).collect()
}

fn joined(info: &Info) -> String {
    info.durability_levels.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[derive(Serialize)]
struct InfoJson<'a> {
    version: &'a str,
    api_level: u32,
    features: &'a [String],
    engine: &'a str,
    durability_levels: Vec<String>,
    broker_id: &'a str,
    cluster_id: &'a str,
    started_us: i64,
    limits: LimitsJson,
    failures: Vec<FailureJson<'a>>,
    at_risk: Vec<lag::LagJson<'a>>,
}

#[derive(Serialize)]
struct FailureJson<'a> {
    topic: &'a str,
    partition: u32,
    reason: &'a str,
    retry_in_seconds: Option<f64>,
}

#[derive(Serialize)]
struct LimitsJson {
    record_bytes_max: u64,
    batch_bytes_max: u64,
    batch_decoded_bytes_max: u64,
    batch_records_max: u32,
    response_bytes_max: u64,
    topic_partitions_max: u32,
    producer_batches_in_flight_max: u32,
}

impl<'a> From<&'a FailedPartition> for FailureJson<'a> {
    fn from(failure: &'a FailedPartition) -> Self {
        Self {
            topic: &failure.topic,
            partition: failure.partition,
            reason: &failure.reason,
            retry_in_seconds: failure.retry_in.map(|pause| pause.as_secs_f64()),
        }
    }
}

impl<'a> From<&'a Info> for InfoJson<'a> {
    fn from(info: &'a Info) -> Self {
        Self {
            version: &info.version,
            api_level: info.api_level,
            features: &info.features,
            engine: &info.engine,
            durability_levels: info.durability_levels.iter().map(ToString::to_string).collect(),
            broker_id: &info.broker_id,
            cluster_id: &info.cluster_id,
            started_us: info.started.as_micros(),
            failures: info.failures.iter().map(FailureJson::from).collect(),
            at_risk: info.at_risk.iter().map(lag::LagJson::from).collect(),
            limits: LimitsJson {
                record_bytes_max: info.limits.record_bytes_max,
                batch_bytes_max: info.limits.batch_bytes_max,
                batch_decoded_bytes_max: info.limits.batch_decoded_bytes_max,
                batch_records_max: info.limits.batch_records_max,
                response_bytes_max: info.limits.response_bytes_max,
                topic_partitions_max: info.limits.topic_partitions_max,
                producer_batches_in_flight_max: info.limits.producer_batches_in_flight_max,
            },
        }
    }
}
