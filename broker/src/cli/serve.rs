//! `aqueduct serve`: the broker as a process.

use std::io;
use std::path::PathBuf;
use std::process;

use anyhow::Context as _;
use aqueduct::server::{Server, ServerError};
use aqueduct::{Broker, OpenError};
use clap::Args;
use serde::Serialize;
use tracing_subscriber::EnvFilter;

use super::exit::{CliError, Exit};
use super::render::{self, Format};
use super::settings::{self, Assignment, Layered, LogFormat, LogLevel, Origin, Settings, SettingsError};
use super::{Global, stdout, time};

/// Run a broker
#[derive(Debug, Args)]
#[command(after_help = after_help())]
pub(super) struct ServeArgs {
    /// Where clients connect [default: 127.0.0.1:7171]
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// A configuration file (TOML)
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print the settings in force, each with its origin, and end
    #[arg(long)]
    check_config: bool,
    /// Publishing to a topic that does not exist makes it
    #[arg(long)]
    auto_create_topics: bool,
    /// text or json [default: text]
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// error, warn, info, debug or trace [default: info]
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// Threads that serve connections: auto, or 1 to 256 [default: auto]
    #[arg(long, value_name = "N")]
    runtime_threads: Option<String>,
    /// Any setting by its name; may be repeated
    #[arg(long = "set", value_parser = parse_assignment, value_name = "KEY=VALUE")]
    assignments: Vec<(String, String)>,
}

fn after_help() -> String {
    format!(
        "\
Settings: defaults < configuration file < environment < flags. Sizes may be
written as 64MiB, durations as 30s.
  in the file         log_level = \"warn\"
  in the environment  AQUEDUCT_LOG_LEVEL=warn
  as a flag           --set log_level=warn

{}
Examples:
  aqueduct serve
  aqueduct serve --data /var/lib/aqueduct --listen 0.0.0.0:7171
  aqueduct serve --config aqueduct.toml --check-config > effective.toml
  AQUEDUCT_LOG_FORMAT=json aqueduct serve --set segment_bytes=64MiB

Standard output gets one line when the broker is ready; logs go to standard
error. SIGTERM and ctrl-c stop it: nothing more is accepted, what is in flight
is finished and synced, and it exits with 0.",
        settings::help()
    )
}

fn parse_assignment(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
        None => Err("expected KEY=VALUE".to_owned()),
    }
}

pub(super) fn run(global: &Global, args: ServeArgs) -> anyhow::Result<Exit> {
    let check_only = args.check_config;
    let layered = settings(global, args).map_err(|error| CliError::Usage(error.to_string()))?;
    if check_only {
        stdout::print(&layered.to_toml())?;
        render::note("the configuration is valid");
        return Ok(Exit::Done);
    }
    let settings = layered.settings;
    start_logging(&settings);
    raise_descriptor_limit();
    let mut runtime = match settings.runtime_threads.resolve() {
        1 => tokio::runtime::Builder::new_current_thread(),
        threads => {
            let mut builder = tokio::runtime::Builder::new_multi_thread();
            builder.worker_threads(threads);
            builder
        }
    };
    let runtime = runtime.enable_all().build().context("cannot start the runtime")?;
    let result = runtime.block_on(Box::pin(serve(global.output, settings)));
    runtime.shutdown_background();
    result.map(|()| Exit::Done)
}

/// All four layers.
fn settings(global: &Global, args: ServeArgs) -> Result<Layered, SettingsError> {
    let mut assignments = match &args.config {
        Some(path) => settings::from_file(path)?,
        None => Vec::new(),
    };
    assignments.extend(settings::from_environment(std::env::vars_os())?);
    let data = global.data.as_ref().map(|data| data.to_string_lossy().into_owned());
    let auto_create_topics = args.auto_create_topics.then(|| "true".to_owned());
    let named = [
        ("data", "--data", data),
        ("listen", "--listen", args.listen),
        ("auto_create_topics", "--auto-create-topics", auto_create_topics),
        ("log_format", "--log-format", args.log_format),
        ("log_level", "--log-level", args.log_level),
        ("runtime_threads", "--runtime-threads", args.runtime_threads),
    ];
    let from_flag = |key: String, flag: &str, value| Assignment { key, value, origin: Origin::Flag(flag.to_owned()) };
    assignments
        .extend(named.into_iter().filter_map(|(key, flag, value)| Some(from_flag(key.to_owned(), flag, value?))));
    assignments.extend(args.assignments.into_iter().map(|(key, value)| from_flag(key, "--set", value)));
    Layered::new(assignments)
}

/// As far as the system lets it: what a process gets without asking, often 1024, is meant for programs that use `select`.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limits = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limits.maximum, ..limits }) {
        tracing::debug!("the limit on open files stays at {:?}: {error}", limits.current);
    }
}

fn start_logging(settings: &Settings) {
    let level = match settings.log_level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
        LogLevel::Trace => "trace",
    };
    // Libraries speak of their own matters: only their warnings concern whoever runs a broker.
    let others = if settings.log_level == LogLevel::Error { "error" } else { "warn" };
    let filter = EnvFilter::new(format!("{others},aqueduct={level}"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    match settings.log_format {
        LogFormat::Text => {
            use io::IsTerminal as _;
            builder.with_ansi(io::stderr().is_terminal()).with_target(false).init();
        }
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
}

async fn serve(format: Format, settings: Settings) -> anyhow::Result<()> {
    let data = settings.data.display().to_string();
    let deadline = settings.shutdown_deadline;
    // From the first moment on: whoever stops a broker that is still recovering gets the same clean end.
    let mut stopping = std::pin::pin!(super::interrupted());
    let opening = Broker::open_with(&settings.data, settings.broker);
    let broker = tokio::select! {
        opened = opening => opened.map_err(|error| open_failed(error, &data))?,
        () = &mut stopping => {
            tracing::info!("stopped while opening {data}");
            return Ok(());
        }
    };
    let served = async {
        let server = Server::bind(broker.clone(), settings.listen).map_err(bind_failed)?;
        let address = server.local_addr();
        let directory = std::fs::canonicalize(&settings.data).unwrap_or(settings.data);
        announce(format, &address.to_string(), &directory.display().to_string())?;
        let (stopped, stop) = tokio::sync::oneshot::channel::<()>();
        let mut running = std::pin::pin!(server.run(async {
            // An error means that the sender is gone, which is a stop as well.
            let _ = stop.await;
        }));
        tokio::select! {
            result = &mut running => return Ok(result?),
            () = stopping => {}
        }
        tracing::info!("stopping: finishing what is in flight, for at most {}", time::human(deadline));
        leave_at_second_signal();
        let _ = stopped.send(());
        if tokio::time::timeout(deadline, running).await.map(|result| result.map_err(anyhow::Error::from)).is_err() {
            tracing::warn!("some clients were still connected after {}: closed", time::human(deadline));
        }
        anyhow::Ok(())
    }
    .await;
    let closed = broker.shutdown(deadline).await.with_context(|| format!("cannot close {data} cleanly"));
    served?;
    closed?;
    tracing::info!("stopped");
    Ok(())
}

/// The one line on standard output.
fn announce(format: Format, address: &str, data: &str) -> anyhow::Result<()> {
    #[derive(Serialize)]
    struct Ready<'a> {
        event: &'a str,
        version: &'a str,
        listen: &'a str,
        data: &'a str,
        pid: u32,
    }
    let version = env!("CARGO_PKG_VERSION");
    let pid = process::id();
    match format {
        Format::Json => render::print_json([Ready { event: "ready", version, listen: address, data, pid }])?,
        Format::Text => stdout::print(&format!(
            "aqueduct {version} is ready: gRPC on http://{address}, data in {data}, process {pid}\n"
        ))?,
    }
    Ok(())
}

fn open_failed(error: OpenError, data: &str) -> anyhow::Error {
    match error {
        OpenError::Config { .. } => CliError::Usage(error.to_string()).into(),
        // Its message already says what to do.
        OpenError::Locked { .. } => error.into(),
        OpenError::Engine(_) => anyhow::Error::from(error).context(format!("cannot open the data directory {data}")),
    }
}

fn bind_failed(error: ServerError) -> anyhow::Error {
    match &error {
        ServerError::Bind { address, source } if source.kind() == io::ErrorKind::AddrInUse => {
            let what = format!(
                "{address} is in use, perhaps by another broker; stop it, or choose another address with --listen"
            );
            CliError::Failed(what).into()
        }
        ServerError::Bind { .. } | ServerError::Reflection(_) | ServerError::Transport(_) => error.into(),
    }
}

/// Whoever cannot wait for the drain asks twice; the next start then recovers, as after a kill.
fn leave_at_second_signal() {
    tokio::spawn(async {
        super::interrupted().await;
        tracing::warn!("stopped at once by a second signal");
        process::exit(Exit::Failed as i32);
    });
}
