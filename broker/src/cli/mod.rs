//! The command line: what there is to type, and who answers it.
//!
//! Every command returns `anyhow::Result<Exit>`; [`exit`] turns errors into exit codes. Data goes to stdout, everything
//! else to stderr.

mod admin;
mod backlog;
mod bench;
mod broker_process;
mod demo;
mod dlq;
mod exit;
mod group;
mod hours;
mod input;
mod lag;
mod publish;
mod record_json;
mod render;
mod repair;
mod serve;
mod session;
mod settings;
mod size;
mod start;
mod stdout;
mod subscribe;
mod template;
mod time;
mod topic;
mod verify;

use std::path::PathBuf;
use std::time::Duration;

use clap::parser::ValueSource;
use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use exit::{CliError, Exit};
use render::Format;

const AFTER_HELP: &str = "\
Try it:
  aqueduct demo                               the whole story, in seconds
  aqueduct serve                              a broker on ./data
  aqueduct topic create orders --partitions 4
  echo hello | aqueduct publish orders
  aqueduct subscribe orders --from earliest
  aqueduct lag                                who reads, and how far behind
  aqueduct verify ./data                      is everything still as it was written?

Exit codes: 0 done, 1 failed, 2 usage, 3 cannot reach the broker, 4 not found,
5 refused (overload, limits), 6 outcome unknown";

/// An event log whose ack means: it is on disk.
#[derive(Debug, Parser)]
#[command(name = "aqueduct", bin_name = "aqueduct", version, about, after_help = AFTER_HELP, max_term_width = 80, disable_help_subcommand = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Flags of every command.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
struct Global {
    /// The broker to talk to
    #[arg(
        long,
        global = true,
        env = "AQUEDUCT_SERVER",
        hide_env_values = true,
        default_value = "http://127.0.0.1:7171",
        value_name = "URL"
    )]
    server: String,
    /// The data directory: of the broker for `serve`; elsewhere, read the log of a stopped broker
    #[arg(long, global = true, value_name = "DIR")]
    data: Option<PathBuf>,
    /// How results are printed; json is one object a line
    #[arg(long, global = true, value_enum, default_value = "text", value_name = "FORMAT")]
    output: Format,
    /// How long to wait for the broker before giving up
    #[arg(long, global = true, value_parser = time::parse_duration, default_value = "30s", value_name = "DURATION")]
    timeout: Duration,
    /// Filled in after parsing.
    #[arg(skip)]
    server_origin: ServerOrigin,
}

/// Whether somebody chose the broker to talk to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum ServerOrigin {
    /// It is the default address.
    #[default]
    Default,
    /// By `--server` or `AQUEDUCT_SERVER`.
    Named,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(Box<serve::ServeArgs>),
    #[command(subcommand)]
    Topic(topic::TopicCommand),
    Publish(publish::PublishArgs),
    Subscribe(subscribe::SubscribeArgs),
    Lag(lag::LagArgs),
    #[command(subcommand)]
    Group(group::GroupCommand),
    #[command(subcommand)]
    Dlq(dlq::DlqCommand),
    Demo(demo::DemoArgs),
    #[command(subcommand)]
    Bench(bench::BenchCommand),
    Verify(verify::VerifyArgs),
    Repair(repair::RepairArgs),
    Info(admin::InfoArgs),
    Completions(admin::CompletionsArgs),
}

/// Parses, runs, reports. Everything the process prints and returns passes through here.
pub(crate) fn main() -> ! {
    let matches = Cli::command().get_matches();
    let mut cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    if matches!(global_source(&matches, "server"), Some(ValueSource::CommandLine | ValueSource::EnvVariable)) {
        cli.global.server_origin = ServerOrigin::Named;
    }
    let typed = |id| global_source(&matches, id) == Some(ValueSource::CommandLine);
    let result = if typed("server") && typed("data") {
        let what = "--server and --data exclude each other: one asks a running broker, the other reads a stopped one";
        Err(CliError::Usage(what.to_owned()).into())
    } else {
        run(cli)
    };
    let exit = result.unwrap_or_else(|error| {
        let exit = exit::of(&error);
        if exit != Exit::Done {
            render::note(&format!("error: {}", exit::describe(&error)));
            if let Some(hint) = exit::hint(&error) {
                render::note(&format!("  hint: {hint}"));
            }
        }
        exit
    });
    // Not a return: a thread may still be blocked in reading standard input, and nothing is waiting for it any more.
    std::process::exit(exit as i32)
}

/// Where a global flag came from, whichever side of the subcommand it was typed on.
fn global_source(matches: &clap::ArgMatches, id: &str) -> Option<ValueSource> {
    let own = matches.value_source(id);
    match matches.subcommand() {
        Some((_, deeper)) if own != Some(ValueSource::CommandLine) => global_source(deeper, id).or(own),
        _ => own,
    }
}

fn run(cli: Cli) -> anyhow::Result<Exit> {
    let global = cli.global;
    match cli.command {
        // The broker chooses its own runtime.
        Command::Serve(args) => serve::run(&global, *args),
        Command::Completions(args) => admin::completions(&args),
        Command::Topic(command) => block_on(topic::run(&global, command)),
        Command::Publish(args) => block_on(publish::run(&global, args)),
        Command::Subscribe(args) => block_on(subscribe::run(&global, args)),
        Command::Lag(args) => block_on(lag::run(&global, args)),
        Command::Group(command) => block_on(group::run(&global, command)),
        Command::Dlq(command) => block_on(dlq::run(&global, command)),
        Command::Demo(args) => block_on(demo::run(&global, args)),
        Command::Bench(command) => block_on(bench::run(&global, command)),
        Command::Repair(args) => repair::run(&global, args),
        Command::Verify(args) => verify::run(&global, args),
        Command::Info(_) => block_on(admin::info(&global)),
    }
}

/// A client is one connection: one thread is enough for it, and faster.
fn block_on(command: impl Future<Output = anyhow::Result<Exit>>) -> anyhow::Result<Exit> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(Box::pin(command));
    // A blocked write to standard output must not keep the process alive.
    runtime.shutdown_background();
    result
}

/// Resolves at ctrl-c or SIGTERM.
async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        return std::future::pending().await;
    };
    tokio::select! {
        // Without a handler ctrl-c simply ends the process, which is what was wanted.
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_tree_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_flags_are_found_on_both_sides_of_the_command() {
        let source = |line: &str| {
            let matches = Cli::command().try_get_matches_from(line.split(' ')).unwrap();
            global_source(&matches, "server")
        };
        assert_eq!(source("aqueduct --server http://a info"), Some(ValueSource::CommandLine));
        assert_eq!(source("aqueduct topic list --server http://a"), Some(ValueSource::CommandLine));
        assert_ne!(source("aqueduct topic list"), Some(ValueSource::CommandLine));
    }
}
