//! Settings of `aqueduct serve`: defaults < file < environment < flags.
//!
//! Every layer is a list of keys and texts, and every key is described once, in [`KEYS`]. So a key has one name, one
//! parser and one message wherever it comes from, and the origin of the winning value can be named.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aqueduct::{AutoCreateTopics, BrokerConfig, OpenError};

mod keys;

pub(crate) use keys::help;
use keys::{KEYS, Key};

/// Environment variables begin with this; the rest is the key in capitals.
const ENVIRONMENT_PREFIX: &str = "AQUEDUCT_";

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// For log collectors: one JSON object a line.
    Json,
}

/// From which severity on messages are logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// Threads that serve connections; writing to disk has its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RuntimeThreads {
    /// By the number of cores.
    Auto,
    /// 1 to 256.
    Exactly(usize),
}

impl RuntimeThreads {
    /// On small machines one thread is fastest: most of a request's time would go into waking others.
    pub(crate) fn resolve(self) -> usize {
        match self {
            Self::Exactly(threads) => threads,
            Self::Auto => {
                let cores = std::thread::available_parallelism().map_or(1, usize::from);
                if cores < 4 { 1 } else { (cores / 2).min(8) }
            }
        }
    }
}

/// Everything that `serve` needs, valid.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// Default `./data`.
    pub(crate) data: PathBuf,
    /// Default `127.0.0.1:7171`; port 0 takes any free one.
    pub(crate) listen: SocketAddr,
    /// Default text.
    pub(crate) log_format: LogFormat,
    /// Default info.
    pub(crate) log_level: LogLevel,
    /// Default auto.
    pub(crate) runtime_threads: RuntimeThreads,
    /// How long a stop may take. Default 30 s.
    pub(crate) shutdown_deadline: Duration,
    /// Whether publishing makes topics. Default off.
    pub(crate) auto_create_topics: bool,
    /// With how many partitions. Default 1.
    pub(crate) auto_create_partitions: u32,
    /// The rest, with its own defaults.
    pub(crate) broker: BrokerConfig,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            data: PathBuf::from("./data"),
            listen: SocketAddr::from(([127, 0, 0, 1], 7171)),
            log_format: LogFormat::Text,
            log_level: LogLevel::Info,
            runtime_threads: RuntimeThreads::Auto,
            shutdown_deadline: Duration::from_secs(30),
            auto_create_topics: false,
            auto_create_partitions: 1,
            broker: BrokerConfig::default(),
        }
    }
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The configuration file.
    File(PathBuf),
    /// This variable.
    Environment(String),
    /// This flag.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "in {}", path.display()),
            Self::Environment(variable) => write!(f, "in the environment as {variable}"),
            Self::Flag(flag) => write!(f, "on the command line as {flag}"),
        }
    }
}

/// One key of one layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Assignment {
    /// As in the file.
    pub(crate) key: String,
    /// As text.
    pub(crate) value: String,
    /// Where it was found.
    pub(crate) origin: Origin,
}

/// Why there are no settings. The message names the key, the value, where it was found, and what is allowed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SettingsError {
    /// No such key.
    #[error("unknown setting {key:?} {origin}; {}", .suggestion.map_or_else(
        || format!("the settings are {}", keys::names()),
        |name| format!("did you mean {name:?}? `aqueduct serve --help` lists all"),
    ))]
    Unknown {
        /// As written.
        key: String,
        /// Where.
        origin: Origin,
        /// Something similar.
        suggestion: Option<&'static str>,
    },
    /// The value makes no sense.
    #[error("{key} = {value:?} {origin}: {reason}")]
    Invalid {
        /// The key.
        key: String,
        /// As written.
        value: String,
        /// Where.
        origin: Origin,
        /// What is allowed.
        reason: String,
    },
    /// A bound that involves only defaults.
    #[error("{key}: {reason}")]
    Bounds {
        /// The key.
        key: String,
        /// What is allowed.
        reason: String,
    },
    /// The file cannot be read or is not TOML.
    #[error("configuration file {}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// Settings, and where each one that is not a default came from.
#[derive(Debug)]
pub(crate) struct Layered {
    /// Valid.
    pub(crate) settings: Settings,
    origins: BTreeMap<&'static str, Assignment>,
}

impl Layered {
    /// Applies the assignments in order, so that later ones win, and checks the whole.
    ///
    /// # Errors
    /// See [`SettingsError`].
    pub(crate) fn new(assignments: impl IntoIterator<Item = Assignment>) -> Result<Self, SettingsError> {
        let mut settings = Settings::default();
        let mut origins = BTreeMap::new();
        for assignment in assignments {
            let key = Key::find(&assignment.key).ok_or_else(|| SettingsError::Unknown {
                suggestion: keys::similar(&assignment.key),
                key: assignment.key.clone(),
                origin: assignment.origin.clone(),
            })?;
            key.set(&mut settings, &assignment.value).map_err(|reason| invalid(&assignment, reason))?;
            origins.insert(key.name, assignment);
        }
        if settings.auto_create_topics {
            settings.broker.auto_create_topics = AutoCreateTopics::WithPartitions(settings.auto_create_partitions);
        }
        match settings.broker.validate() {
            Ok(()) => Ok(Self { settings, origins }),
            Err(OpenError::Config { key, reason }) => Err(match origins.get(key) {
                Some(assignment) => invalid(assignment, reason),
                None => SettingsError::Bounds { key: key.to_owned(), reason },
            }),
            Err(other) => Err(SettingsError::Bounds { key: "configuration".to_owned(), reason: other.to_string() }),
        }
    }

    /// The settings in force as a configuration file, each with its origin.
    pub(crate) fn to_toml(&self) -> String {
        let mut settings = self.settings.clone();
        KEYS.iter()
            .map(|key| {
                let line = format!("{} = {}", key.name, key.show(&mut settings));
                match self.origins.get(key.name) {
                    Some(assignment) => format!("{line:<40} # {}\n", assignment.origin),
                    None => format!("{line:<40} # default\n"),
                }
            })
            .collect()
    }
}

fn invalid(assignment: &Assignment, reason: String) -> SettingsError {
    SettingsError::Invalid {
        key: assignment.key.clone(),
        value: assignment.value.clone(),
        origin: assignment.origin.clone(),
        reason,
    }
}

/// The layer of the file.
///
/// # Errors
/// [`SettingsError::File`], or a value that no setting can have.
pub(crate) fn from_file(path: &Path) -> Result<Vec<Assignment>, SettingsError> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| SettingsError::File { path: path.to_owned(), reason: error.to_string() })?;
    from_text(&text, path)
}

/// The layer of the file at `path`, which says `text`.
///
/// # Errors
/// As [`from_file`].
pub(crate) fn from_text(text: &str, path: &Path) -> Result<Vec<Assignment>, SettingsError> {
    let table: toml::Table = text
        .parse()
        .map_err(|error: toml::de::Error| SettingsError::File { path: path.to_owned(), reason: error.to_string() })?;
    let mut assignments = Vec::new();
    for (key, value) in table {
        let origin = Origin::File(path.to_owned());
        let value = match value {
            toml::Value::String(text) => text,
            toml::Value::Integer(number) => number.to_string(),
            toml::Value::Boolean(flag) => flag.to_string(),
            other @ (toml::Value::Float(_)
            | toml::Value::Datetime(_)
            | toml::Value::Array(_)
            | toml::Value::Table(_)) => {
                if Key::find(&key).is_none() {
                    return Err(SettingsError::Unknown { suggestion: keys::similar(&key), key, origin });
                }
                let reason = "expected a text, a whole number, true or false".to_owned();
                return Err(SettingsError::Invalid { key, value: other.to_string(), origin, reason });
            }
        };
        assignments.push(Assignment { key, value, origin });
    }
    Ok(assignments)
}

/// The layer of the environment, from pairs of names and values.
///
/// # Errors
/// A value that is not text.
pub(crate) fn from_environment(
    variables: impl IntoIterator<Item = (std::ffi::OsString, std::ffi::OsString)>,
) -> Result<Vec<Assignment>, SettingsError> {
    let mut assignments = Vec::new();
    for (variable, value) in variables {
        let Some(variable) = variable.to_str() else { continue };
        let Some(name) = variable.strip_prefix(ENVIRONMENT_PREFIX) else { continue };
        if is_foreign(name) {
            continue;
        }
        let key = name.to_ascii_lowercase();
        let origin = Origin::Environment(variable.to_owned());
        match value.into_string() {
            Ok(value) => assignments.push(Assignment { key, value, origin }),
            Err(value) => {
                let value = value.to_string_lossy().into_owned();
                return Err(SettingsError::Invalid { key, value, origin, reason: "expected UTF-8".to_owned() });
            }
        }
    }
    Ok(assignments)
}

/// Variables that are not settings of the broker: the client's, and those that Kubernetes gives to every container for a
/// service named `aqueduct`.
fn is_foreign(name: &str) -> bool {
    name == "SERVER" || name == "PORT" || name.starts_with("PORT_") || name.starts_with("SERVICE_")
}

#[cfg(test)]
#[path = "settings/tests.rs"]
mod tests;
