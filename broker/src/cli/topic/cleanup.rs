//! What becomes of a topic's old events: the flags, and `aqueduct topic compact`.

use std::time::Duration;

use aqueduct_client::{AlterTopic, Cleanup, CreateTopic, Topic};
use clap::{Args, ValueEnum};
use serde::Serialize;

use super::super::Global;
use super::super::exit::Exit;
use super::super::render::{self, Format};
use super::super::session::{Session, changed};
use super::super::size::{self, human_bytes};
use super::super::time;

#[derive(Debug, Args)]
pub(super) struct CleanupArgs {
    /// What becomes of old events: retention removes them, of each key the latest stays, or both [default: delete]
    #[arg(long, value_enum)]
    cleanup: Option<CleanupArg>,
    /// How long a compaction keeps the news that a key is gone [default: 24h]
    #[arg(long, value_parser = time::parse_duration, value_name = "DURATION")]
    tombstone_retention: Option<Duration>,
    /// Events younger than this are not compacted away [default: 0s]
    #[arg(long, value_parser = time::parse_duration, value_name = "DURATION")]
    min_compaction_lag: Option<Duration>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum CleanupArg {
    Delete,
    Compact,
    Both,
}

impl From<CleanupArg> for Cleanup {
    fn from(arg: CleanupArg) -> Self {
        match arg {
            CleanupArg::Delete => Self::Delete,
            CleanupArg::Compact => Self::Compact,
            CleanupArg::Both => Self::Both,
        }
    }
}

impl CleanupArgs {
    pub(super) fn is_empty(&self) -> bool {
        self.cleanup.is_none() && self.tombstone_retention.is_none() && self.min_compaction_lag.is_none()
    }

    pub(super) fn create(&self, mut request: CreateTopic) -> CreateTopic {
        if let Some(cleanup) = self.cleanup {
            request = request.cleanup(cleanup.into());
        }
        if let Some(retention) = self.tombstone_retention {
            request = request.tombstone_retention(retention);
        }
        if let Some(lag) = self.min_compaction_lag {
            request = request.min_compaction_lag(lag);
        }
        request
    }

    pub(super) fn alter(&self, mut request: AlterTopic) -> AlterTopic {
        if let Some(cleanup) = self.cleanup {
            request = request.cleanup(cleanup.into());
        }
        if let Some(retention) = self.tombstone_retention {
            request = request.tombstone_retention(retention);
        }
        if let Some(lag) = self.min_compaction_lag {
            request = request.min_compaction_lag(lag);
        }
        request
    }
}

/// `compact, tombstones 24h, lag 5m`
pub(super) fn text(topic: &Topic) -> String {
    let mut text = topic.config.cleanup.to_string();
    if let Some(retention) = topic.config.tombstone_retention {
        text.push_str(&format!(", tombstones {}", time::exact(retention)));
    }
    if let Some(lag) = topic.config.min_compaction_lag {
        text.push_str(&format!(", lag {}", time::exact(lag)));
    }
    text
}

/// Compact a topic now; the broker does so by itself when enough is new
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  aqueduct topic alter prices --cleanup compact
  aqueduct topic compact prices")]
pub(in crate::cli) struct CompactArgs {
    /// The topic
    name: String,
}

#[derive(Serialize)]
struct CompactedJson {
    records_removed: u64,
    bytes_freed: u64,
}

pub(super) async fn compact(global: &Global, args: &CompactArgs) -> anyhow::Result<Exit> {
    let session = Session::open_server(global, "topic compact").await?;
    let result = session.client.topics().compact(&args.name).await;
    let compacted = changed(result, &format!("cannot compact topic {:?}", args.name))?;
    let (records_removed, bytes_freed) = (compacted.records_removed, compacted.bytes_freed);
    match global.output {
        Format::Json => render::print_json([CompactedJson { records_removed, bytes_freed }])?,
        Format::Text => render::note(&format!(
            "compacted topic {}: {} removed, {} freed",
            args.name,
            size::counted(records_removed, "record"),
            human_bytes(bytes_freed)
        )),
    }
    session.close().await?;
    Ok(Exit::Done)
}
