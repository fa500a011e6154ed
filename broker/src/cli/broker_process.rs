//! A broker of one's own for commands that need one: a real process, so that it can be killed and measured.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

/// A broker that is not ready by then has failed.
const READY_WITHIN: Duration = Duration::from_secs(15);
/// A stop that takes longer has failed.
const STOP_WITHIN: Duration = Duration::from_secs(15);
/// Where the broker lives, across its deaths.
#[derive(Debug)]
pub(crate) struct Home {
    /// Its data directory.
    pub(crate) data: PathBuf,
    log: PathBuf,
    settings: &'static [&'static str],
}

/// A running broker. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct BrokerProcess {
    child: Child,
    /// For people.
    pub(crate) pid: u32,
    /// `127.0.0.1:port`
    pub(crate) address: String,
    /// From the start of the process to its line on standard output.
    pub(crate) ready_after: Duration,
}

#[derive(Deserialize)]
struct Ready {
    listen: String,
}

impl Home {
    /// In `directory`, with `settings` (`key=value`) in place of the defaults.
    pub(crate) fn new(directory: &Path, settings: &'static [&'static str]) -> Self {
        Self { data: directory.join("data"), log: directory.join("broker.log"), settings }
    }

    /// Runs this very binary again, on `address` (port 0: any free one).
    pub(crate) async fn start(&self, address: &str) -> anyhow::Result<BrokerProcess> {
        let started = Instant::now();
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        let log = std::fs::File::options().create(true).append(true).open(&self.log)?;
        let mut command = Command::new(program);
        command.args(["serve", "--output", "json", "--log-level", "info", "--listen", address]);
        command.args(self.settings.iter().flat_map(|setting| ["--set", setting]));
        command.arg("--data").arg(&self.data);
        // It is the same everywhere, whatever the environment sets for other brokers.
        let ours =
            std::env::vars_os().map(|(name, _)| name).filter(|name| name.to_string_lossy().starts_with("AQUEDUCT_"));
        ours.for_each(|name| {
            command.env_remove(name);
        });
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).kill_on_drop(true);
        let mut child = command.spawn().context("cannot start the broker process")?;
        let stdout = child.stdout.take().context("the broker has no standard output")?;
        let mut lines = BufReader::new(stdout).lines();
        let line = match tokio::time::timeout(READY_WITHIN, lines.next_line()).await {
            Ok(Ok(Some(line))) => line,
            Ok(Ok(None) | Err(_)) => bail!("the broker ended before it was ready; {}", self.last_words()),
            Err(_) => bail!("the broker was not ready within {READY_WITHIN:?}; {}", self.last_words()),
        };
        let ready: Ready = serde_json::from_str(&line).with_context(|| format!("the broker said {line:?}"))?;
        let pid = child.id().context("the broker has no process id")?;
        Ok(BrokerProcess { child, pid, address: ready.listen, ready_after: started.elapsed() })
    }

    fn last_words(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        log.lines().last().map_or_else(|| "it said nothing".to_owned(), |line| format!("it said: {line}"))
    }
}

impl BrokerProcess {
    /// SIGKILL: the process gets no chance to do anything.
    pub(crate) async fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill().await.context("cannot kill the broker")
    }

    /// SIGTERM; a broker that does not end with 0 has failed.
    pub(crate) async fn stop(mut self) -> anyhow::Result<Duration> {
        let started = Instant::now();
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw).context("the broker has no process id")?;
        kill_process(pid, Signal::TERM).context("cannot signal the broker")?;
        match tokio::time::timeout(STOP_WITHIN, self.child.wait()).await {
            Ok(status) => match status? {
                status if status.success() => Ok(started.elapsed()),
                status => Err(anyhow!("the broker stopped with {status} instead of 0")),
            },
            Err(_) => Err(anyhow!("the broker did not stop within {STOP_WITHIN:?}")),
        }
    }
}
