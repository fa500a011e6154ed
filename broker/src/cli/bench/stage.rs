//! What a load runs on: a broker, a topic of its own, a directory; and how all of it goes away again.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use aqueduct_client::{Client, Info, TopicConfig};
use tempfile::TempDir;

use super::plan::Shape;
use crate::cli::broker_process::{BrokerProcess, Home};
use crate::cli::exit::CliError;
use crate::cli::size::human_bytes;
use crate::cli::{Global, ServerOrigin};

/// What a load may leave on the disk while it runs: older segments go.
const TOPIC_BYTES_MAX: u64 = 4 << 30;
/// Cleaning up must not hang where the broker does.
const CLEAN_UP_WITHIN: Duration = Duration::from_secs(5);

/// Everything that exists only for one run.
pub(super) struct Stage {
    /// For topics and groups; each producer and subscriber has a connection of its own.
    pub(super) client: Client,
    pub(super) info: Info,
    /// Also the name of the group.
    pub(super) topic: String,
    url: String,
    request_timeout: Duration,
    broker: Option<BrokerProcess>,
}

/// How much a topic may grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Retention {
    /// Nothing reads it back: the disk of whoever tries this must not fill up.
    Bounded,
    /// It is read from its beginning.
    Everything,
}

/// A directory that is removed with everything in it.
pub(super) fn directory(parent: Option<&Path>) -> anyhow::Result<TempDir> {
    let mut builder = tempfile::Builder::new();
    builder.prefix("aqueduct-bench-");
    match parent {
        Some(parent) => builder.tempdir_in(parent).map_err(|error| {
            CliError::NotFound(format!("cannot make a directory in {}: {error}", parent.display())).into()
        }),
        None => builder.tempdir().context("cannot make a temporary directory"),
    }
}

impl Stage {
    /// The broker that was named, or a new process on `directory`.
    pub(super) async fn set(global: &Global, directory: &Path) -> anyhow::Result<Self> {
        let broker = match global.server_origin {
            ServerOrigin::Named => None,
            ServerOrigin::Default => Some(Home::new(directory, &[]).start("127.0.0.1:0").await?),
        };
        let url = broker.as_ref().map_or_else(|| global.server.clone(), |broker| format!("http://{}", broker.address));
        let client = connect(&url, global.timeout).await?;
        let info = client.info().await?;
        let topic = format!("aqueduct-bench-{:016x}", fastrand::u64(..));
        Ok(Self { client, info, topic, url, request_timeout: global.timeout, broker })
    }

    /// The process of the broker, if it is ours to look into.
    pub(super) fn broker_pid(&self) -> Option<u32> {
        self.broker.as_ref().map(|broker| broker.pid)
    }

    /// Refuses what the broker would refuse, before anything is measured.
    pub(super) fn check(&self, shape: &Shape) -> anyhow::Result<()> {
        let limits = &self.info.limits;
        // A key, a time and the framing of a record.
        let encoded = shape.record_bytes + 64;
        if encoded > limits.record_bytes_max {
            let limit = human_bytes(limits.record_bytes_max);
            let asked = human_bytes(shape.record_bytes);
            let what = format!(
                "records of {asked} are over the broker's limit of {limit} (with key and framing): choose a smaller \
                 --record-bytes, or a broker with a larger record_bytes_max"
            );
            return Err(CliError::Usage(what).into());
        }
        if shape.partitions > limits.topic_partitions_max {
            let what = format!(
                "{} partitions are over the broker's limit of {}: choose fewer with --partitions",
                shape.partitions, limits.topic_partitions_max
            );
            return Err(CliError::Usage(what).into());
        }
        Ok(())
    }

    pub(super) async fn make_topic(&self, shape: &Shape, retention: Retention) -> anyhow::Result<()> {
        let config = TopicConfig {
            partitions: shape.partitions,
            retention_bytes: match retention {
                Retention::Bounded => Some(TOPIC_BYTES_MAX / u64::from(shape.partitions)),
                Retention::Everything => None,
            },
            durability: shape.durability,
            owner: Some("aqueduct bench".to_owned()),
            ..TopicConfig::default()
        };
        self.client.topics().create(&self.topic).config(config).build().await.context("cannot make the topic")?;
        Ok(())
    }

    /// A connection of its own, as a program of its own would have.
    pub(super) async fn connect(&self) -> anyhow::Result<Client> {
        connect(&self.url, self.request_timeout).await
    }

    /// Removes the topic and the group from a broker that goes on; a broker of our own is killed, for its directory
    /// goes as well.
    pub(super) async fn clear(self) -> anyhow::Result<()> {
        if let Some(broker) = self.broker {
            return broker.kill().await;
        }
        let topic = &self.topic;
        let remove = async {
            let exists = self.client.topics().list().await?.iter().any(|listed| listed.name == *topic);
            if exists {
                self.client.topics().delete_forced(topic).await?;
            }
            if self.client.groups().list().await?.iter().any(|group| group.name == *topic) {
                self.client.group(topic).delete().await?;
            }
            anyhow::Ok(())
        };
        let left = || format!("topic {topic} may be left on the broker: `aqueduct topic delete {topic} --yes --force`");
        tokio::time::timeout(CLEAN_UP_WITHIN, remove).await.with_context(left)?.with_context(left)
    }
}

async fn connect(url: &str, timeout: Duration) -> anyhow::Result<Client> {
    let connect_timeout = timeout.min(Duration::from_secs(5));
    Ok(Client::builder(url).connect_timeout(connect_timeout).request_timeout(timeout).connect().await?)
}
