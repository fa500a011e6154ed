//! `aqueduct bench`: a load, the latency it meets, and what this machine would allow at best, all in one run.
//!
//! Figures of different machines say little about a program; what part of its machine it uses says much. So the limits
//! are measured first ([`limits`]), then the load runs ([`plan::Load`]), and the report sets one beside the other.
//!
//! The loads run on the one thread that every command of the client runs on (`cli::block_on`), so that the figures are
//! those of the commands. Two worker threads on two cores, measured in one run each: replay 1.2 times and pipelined
//! publishing 1.1 times as fast, the same p50 end to end, but 1.6 times its p99 and 1.25 times the CPU of this program,
//! which the broker on the same machine then lacks.

mod args;
mod fractions;
mod histogram;
mod limits;
mod live;
mod one_at_a_time;
mod outcome;
mod pacer;
mod payload;
mod pipelined;
mod plan;
mod progress;
mod replay;
mod report;
mod schedule;
mod stage;
mod usage;
mod window;

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;

use super::exit::{CliError, Exit};
use super::render::{self, Format};
use super::{Global, ServerOrigin, stdout};
pub(super) use args::BenchCommand;
use args::Request;
use limits::{Due, Limits};
use outcome::Outcome;
use plan::{Load, MeasureLimits, Plan};
use progress::Progress;
use report::{BrokerFacts, BrokerOrigin, Report};
use stage::Stage;

pub(super) async fn run(global: &Global, command: BenchCommand) -> anyhow::Result<Exit> {
    if global.data.is_some() {
        let what = "`bench` never touches a log that is there: it makes its own. Choose the disk with --dir DIR";
        return Err(CliError::Usage(what.to_owned()).into());
    }
    match command.request()? {
        Request::Load(plan) => run_load(global, &plan).await,
        Request::Limits { parent_directory, duration } => {
            run_limits(global.output, parent_directory.as_deref(), duration).await
        }
    }
}

async fn run_limits(format: Format, parent: Option<&Path>, duration: Duration) -> anyhow::Result<Exit> {
    let directory = stage::directory(parent)?;
    let progress = Progress::new();
    let limits = tokio::select! {
        limits = Box::pin(Limits::measure(directory.path(), duration, &progress)) => limits?,
        () = super::interrupted() => return Err(interrupted().into()),
    };
    drop(progress);
    limits::warning(directory.path()).iter().for_each(|warning| render::note(&format!("warning: {warning}")));
    match format {
        Format::Text => stdout::print(&report::limits_text(&limits))?,
        Format::Json => render::print_json([report::limits_json(&limits)])?,
    }
    Ok(Exit::Done)
}

async fn run_load(global: &Global, plan: &Plan) -> anyhow::Result<Exit> {
    let directory = stage::directory(plan.parent_directory.as_deref())?;
    let progress = Progress::new();
    progress.phase("starting", None);
    let stage = tokio::select! {
        stage = Box::pin(Stage::set(global, directory.path())) => stage?,
        () = super::interrupted() => return Err(interrupted().into()),
    };
    let performed = tokio::select! {
        performed = Box::pin(perform(&stage, plan, directory.path(), &progress)) => performed,
        () = super::interrupted() => Err(interrupted().into()),
    };
    let broker = BrokerFacts {
        version: stage.info.version.clone(),
        engine: stage.info.engine.clone(),
        origin: match global.server_origin {
            ServerOrigin::Default => BrokerOrigin::Own,
            ServerOrigin::Named => BrokerOrigin::Named,
        },
    };
    // Whatever happened.
    let cleared = stage.clear().await;
    drop(progress);
    let Performed { outcome, limits } = performed?;
    let fractions = limits.map_or_else(Vec::new, |limits| fractions::of(plan, &outcome, &limits));
    let report = Report { plan, broker, outcome: &outcome, limits, fractions };
    match global.output {
        Format::Text => stdout::print(&report.text())?,
        Format::Json => render::print_json([report.json()])?,
    }
    cleared?;
    Ok(Exit::Done)
}

struct Performed {
    outcome: Outcome,
    limits: Option<Limits>,
}

async fn perform(stage: &Stage, plan: &Plan, directory: &Path, progress: &Progress) -> anyhow::Result<Performed> {
    stage.check(&plan.shape)?;
    let in_vain = || {
        let directory = directory.display();
        format!(
            "cannot measure the limits of this machine in {directory} (--dir names another disk, --no-limits goes without)"
        )
    };
    let limits = match plan.limits {
        MeasureLimits::Yes => Some(Box::pin(measure_limits(plan, directory, progress)).await.with_context(in_vain)?),
        MeasureLimits::No => None,
    };
    let shape = &plan.shape;
    let mut outcome = match &plan.load {
        Load::Pipelined(load) => Box::pin(pipelined::run(stage, load, shape, progress)).await?,
        Load::OneAtATime(load) => Box::pin(one_at_a_time::run(stage, load, shape, progress)).await?,
        Load::Replay(load) => Box::pin(replay::run(stage, load, shape, progress)).await?,
        Load::Live(load) => Box::pin(live::run(stage, load, shape, progress)).await?,
    };
    outcome::audit(stage, &mut outcome).await?;
    outcome.notes.extend(limits::warning(directory));
    if stage.broker_pid().is_none() && limits.is_some() {
        outcome.notes.push("the limits are those of this machine; the broker may be on another one".to_owned());
    }
    Ok(Performed { outcome, limits })
}

/// Never longer than the load itself.
async fn measure_limits(plan: &Plan, directory: &Path, progress: &Progress) -> anyhow::Result<Limits> {
    let shape = &plan.shape;
    let mut limits = Limits::measure(directory, limits::TAKE.min(shape.duration), progress).await?;
    if let Load::Live(load) = &plan.load {
        let due = Due {
            rate: load.rate,
            record_bytes: shape.value_bytes(),
            batch: load.batch.into(),
            durability: shape.durability,
        };
        let take = limits::TAKE_ON_SCHEDULE.min(shape.duration);
        limits.measure_on_schedule(directory, due, take, progress).await?;
    }
    Ok(limits)
}

fn interrupted() -> CliError {
    CliError::Failed("interrupted".to_owned())
}
