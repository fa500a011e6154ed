//! Every setting of `serve`, once: its name, what it is, and where its value lives.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;

use super::{LogFormat, LogLevel, RuntimeThreads, Settings};
use crate::cli::{size, time};

/// One setting.
pub(crate) struct Key {
    /// In the file; in capitals with a prefix in the environment.
    pub(crate) name: &'static str,
    /// For `serve --help`.
    pub(crate) help: &'static str,
    slot: Slot,
}

/// Where the value lives and how it is written.
enum Slot {
    Bytes(fn(&mut Settings) -> &mut u64),
    Count(fn(&mut Settings) -> &mut u32),
    Threads(fn(&mut Settings) -> &mut usize),
    Duration(fn(&mut Settings) -> &mut Duration),
    Switch(fn(&mut Settings) -> &mut bool),
    Path(fn(&mut Settings) -> &mut PathBuf),
    Address(fn(&mut Settings) -> &mut SocketAddr),
    RuntimeThreads(fn(&mut Settings) -> &mut RuntimeThreads),
    LogFormat(fn(&mut Settings) -> &mut LogFormat),
    LogLevel(fn(&mut Settings) -> &mut LogLevel),
}

/// In the order in which `--check-config` prints them.
pub(crate) const KEYS: &[Key] = &[
    Key { name: "data", help: "the data directory", slot: Slot::Path(|s| &mut s.data) },
    Key { name: "listen", help: "address of the gRPC server", slot: Slot::Address(|s| &mut s.listen) },
    Key { name: "log_format", help: "text or json", slot: Slot::LogFormat(|s| &mut s.log_format) },
    Key { name: "log_level", help: "error, warn, info, debug or trace", slot: Slot::LogLevel(|s| &mut s.log_level) },
    Key {
        name: "runtime_threads",
        help: "threads for connections: auto, or 1 to 256",
        slot: Slot::RuntimeThreads(|s| &mut s.runtime_threads),
    },
    Key {
        name: "io_threads",
        help: "threads that write and sync: 1 to 256",
        slot: Slot::Threads(|s| &mut s.broker.io_threads),
    },
    Key {
        name: "shutdown_deadline",
        help: "how long a stop may take",
        slot: Slot::Duration(|s| &mut s.shutdown_deadline),
    },
    Key {
        name: "auto_create_topics",
        help: "publishing makes missing topics",
        slot: Slot::Switch(|s| &mut s.auto_create_topics),
    },
    Key {
        name: "auto_create_partitions",
        help: "with how many partitions",
        slot: Slot::Count(|s| &mut s.auto_create_partitions),
    },
    Key {
        name: "budget_bytes",
        help: "memory for what waits for the disk",
        slot: Slot::Bytes(|s| &mut s.broker.budget_bytes),
    },
    Key {
        name: "topic_budget_bytes",
        help: "of these, for one topic",
        slot: Slot::Bytes(|s| &mut s.broker.topic_budget_bytes),
    },
    Key {
        name: "connection_budget_bytes",
        help: "of these, for one connection",
        slot: Slot::Bytes(|s| &mut s.broker.connection_budget_bytes),
    },
    Key {
        name: "tail_cache_bytes",
        help: "memory for the newest events",
        slot: Slot::Bytes(|s| &mut s.broker.tail_cache_bytes),
    },
    Key {
        name: "segment_bytes",
        help: "size at which a log file is sealed",
        slot: Slot::Bytes(|s| &mut s.broker.segment_bytes),
    },
    Key {
        name: "publish_wait_max",
        help: "how long a publish waits for room",
        slot: Slot::Duration(|s| &mut s.broker.publish_wait_max),
    },
    Key {
        name: "retention_interval",
        help: "how often retention is applied",
        slot: Slot::Duration(|s| &mut s.broker.retention_interval),
    },
    Key {
        name: "record_bytes_max",
        help: "largest record",
        slot: Slot::Bytes(|s| &mut s.broker.limits.record_bytes_max),
    },
    Key {
        name: "batch_bytes_max",
        help: "largest batch as sent",
        slot: Slot::Bytes(|s| &mut s.broker.limits.batch_bytes_max),
    },
    Key {
        name: "batch_decoded_bytes_max",
        help: "largest batch unpacked",
        slot: Slot::Bytes(|s| &mut s.broker.limits.batch_decoded_bytes_max),
    },
    Key {
        name: "batch_records_max",
        help: "most records in a batch",
        slot: Slot::Count(|s| &mut s.broker.limits.batch_records_max),
    },
    Key {
        name: "response_bytes_max",
        help: "largest response",
        slot: Slot::Bytes(|s| &mut s.broker.limits.response_bytes_max),
    },
    Key {
        name: "connections_max",
        help: "most connections at a time",
        slot: Slot::Count(|s| &mut s.broker.connections.connections_max),
    },
    Key {
        name: "streams_max",
        help: "most calls at a time on one connection",
        slot: Slot::Count(|s| &mut s.broker.connections.streams_max),
    },
    Key {
        name: "header_list_bytes_max",
        help: "largest headers of a call",
        slot: Slot::Bytes(|s| &mut s.broker.connections.header_list_bytes_max),
    },
    Key {
        name: "resets_pending_max",
        help: "streams that may be reset before they are taken up",
        slot: Slot::Count(|s| &mut s.broker.connections.resets_pending_max),
    },
    Key {
        name: "preface_timeout",
        help: "how long a connection may take to begin",
        slot: Slot::Duration(|s| &mut s.broker.connections.preface_timeout),
    },
    Key {
        name: "keepalive_interval",
        help: "silence after which a connection is probed",
        slot: Slot::Duration(|s| &mut s.broker.connections.keepalive_interval),
    },
    Key {
        name: "keepalive_timeout",
        help: "how long the answer to that may take",
        slot: Slot::Duration(|s| &mut s.broker.connections.keepalive_timeout),
    },
    Key {
        name: "request_timeout",
        help: "how long a request may take to come in",
        slot: Slot::Duration(|s| &mut s.broker.connections.request_timeout),
    },
    Key {
        name: "incoming_budget_bytes",
        help: "memory for requests that are incomplete",
        slot: Slot::Bytes(|s| &mut s.broker.connections.incoming_budget_bytes),
    },
    Key {
        name: "outgoing_budget_bytes",
        help: "memory for what clients have not taken",
        slot: Slot::Bytes(|s| &mut s.broker.connections.outgoing_budget_bytes),
    },
];

impl Key {
    /// By its exact name.
    pub(crate) fn find(name: &str) -> Option<&'static Self> {
        KEYS.iter().find(|key| key.name == name)
    }

    /// Bounds that the broker checks itself are left to it.
    pub(crate) fn set(&self, settings: &mut Settings, text: &str) -> Result<(), String> {
        match self.slot {
            Slot::Bytes(slot) => *slot(settings) = size::parse_bytes(text)?,
            Slot::Count(slot) => *slot(settings) = number(text)?,
            Slot::Threads(slot) => *slot(settings) = number(text)?,
            Slot::Duration(slot) => *slot(settings) = time::parse_duration(text)?,
            Slot::Switch(slot) => {
                *slot(settings) = text.parse().map_err(|_| "expected true or false".to_owned())?;
            }
            Slot::Path(_) if text.is_empty() => return Err("expected a path".to_owned()),
            Slot::Path(slot) => *slot(settings) = PathBuf::from(text),
            Slot::Address(slot) => *slot(settings) = address(text)?,
            Slot::RuntimeThreads(slot) => *slot(settings) = runtime_threads(text)?,
            Slot::LogFormat(slot) => *slot(settings) = choice(text)?,
            Slot::LogLevel(slot) => *slot(settings) = choice(text)?,
        }
        Ok(())
    }

    /// The value as TOML. Takes the settings mutably because a slot is one function for both directions.
    pub(crate) fn show(&self, settings: &mut Settings) -> String {
        match self.slot {
            Slot::Bytes(slot) => slot(settings).to_string(),
            Slot::Count(slot) => slot(settings).to_string(),
            Slot::Threads(slot) => slot(settings).to_string(),
            Slot::Switch(slot) => slot(settings).to_string(),
            Slot::Duration(slot) => quoted(&time::exact(*slot(settings))),
            Slot::Path(slot) => quoted(&slot(settings).to_string_lossy()),
            Slot::Address(slot) => quoted(&slot(settings).to_string()),
            Slot::LogFormat(slot) => quoted(&name_of(slot(settings))),
            Slot::LogLevel(slot) => quoted(&name_of(slot(settings))),
            Slot::RuntimeThreads(slot) => match *slot(settings) {
                RuntimeThreads::Auto => quoted("auto"),
                RuntimeThreads::Exactly(threads) => threads.to_string(),
            },
        }
    }
}

/// All names, for messages.
pub(crate) fn names() -> String {
    KEYS.iter().map(|key| key.name).collect::<Vec<_>>().join(", ")
}

/// The table of settings in `serve --help`.
pub(crate) fn help() -> String {
    let mut settings = Settings::default();
    let width = KEYS.iter().map(|key| key.name.len()).max().unwrap_or(0);
    KEYS.iter()
        .map(|key| {
            let default = key.show(&mut settings);
            format!("  {:width$}  {} [{}]\n", key.name, key.help, default.trim_matches('"'))
        })
        .collect()
}

/// The closest name, if it is close.
pub(crate) fn similar(name: &str) -> Option<&'static str> {
    let name = name.to_ascii_lowercase().replace('-', "_");
    KEYS.iter()
        .map(|key| (distance(&name, key.name), key.name))
        .min()
        .filter(|(distance, key)| *distance <= key.len() / 3)
        .map(|(_, key)| key)
}

/// Levenshtein's: how many letters to insert, remove or replace.
fn distance(left: &str, right: &str) -> usize {
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, l) in left.bytes().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, r) in right.bytes().enumerate() {
            let replaced = diagonal + usize::from(l != r);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| "expected a whole number".to_owned())
}

fn address(text: &str) -> Result<SocketAddr, String> {
    let numeric = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
    let expected = "expected an address and a port, such as 127.0.0.1:7171, 0.0.0.0:7171 or [::1]:7171";
    numeric.as_deref().unwrap_or(text).parse().map_err(|_| expected.to_owned())
}

fn runtime_threads(text: &str) -> Result<RuntimeThreads, String> {
    match text.parse() {
        Ok(threads @ 1..=256) => Ok(RuntimeThreads::Exactly(threads)),
        Err(_) if text == "auto" => Ok(RuntimeThreads::Auto),
        Ok(_) | Err(_) => Err("expected auto, or a number from 1 to 256".to_owned()),
    }
}

fn choice<T: ValueEnum>(text: &str) -> Result<T, String> {
    T::from_str(text, true).map_err(|_| {
        let names: Vec<String> = T::value_variants().iter().map(name_of).collect();
        format!("expected one of {}", names.join(", "))
    })
}

fn name_of<T: ValueEnum>(value: &T) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}
