//! The client a command talks through: to a running broker, or to the log of a stopped one opened in this process.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use aqueduct::{Broker, BrokerConfig};
use aqueduct_client::{Client, RequestError};

use super::Global;
use super::exit::CliError;
use super::time;

/// How long an end may take.
const CLOSE_DEADLINE: Duration = Duration::from_secs(5);

/// A client, and what must be closed with it.
pub(crate) struct Session {
    /// To the broker or the directory.
    pub(crate) client: Client,
    embedded: Option<Broker>,
}

impl Session {
    /// For commands that only read: a running broker, or with `--data` the log of a stopped one.
    pub(crate) async fn open(global: &Global) -> anyhow::Result<Self> {
        match &global.data {
            Some(directory) => Self::open_directory(directory).await,
            None => Self::connect(global).await,
        }
    }

    /// For commands that need a running broker.
    pub(crate) async fn open_server(global: &Global, command: &str) -> anyhow::Result<Self> {
        if global.data.is_some() {
            let what = format!(
                "`{command}` needs a running broker: --data only reads a stopped one. Start it with `aqueduct serve`"
            );
            return Err(CliError::Usage(what).into());
        }
        Self::connect(global).await
    }

    /// The log belongs to this process; nobody else can change it.
    pub(crate) fn is_stopped_log(&self) -> bool {
        self.embedded.is_some()
    }

    /// Waits for what is in flight, within bounds.
    pub(crate) async fn close(self) -> anyhow::Result<()> {
        let closed = self.client.close(CLOSE_DEADLINE).await;
        if let Some(broker) = self.embedded {
            broker.shutdown(CLOSE_DEADLINE).await.context("cannot close the data directory cleanly")?;
        }
        Ok(closed?)
    }

    async fn connect(global: &Global) -> anyhow::Result<Self> {
        let client = Client::builder(&global.server)
            .connect_timeout(global.timeout.min(Duration::from_secs(5)))
            .request_timeout(global.timeout)
            .connect()
            .await?;
        Ok(Self { client, embedded: None })
    }

    async fn open_directory(directory: &Path) -> anyhow::Result<Self> {
        // Opening would make a new, empty log there.
        if !directory.join("FORMAT").is_file() {
            let what = format!("{} holds no Aqueduct data (it has no file FORMAT)", directory.display());
            return Err(CliError::NotFound(what).into());
        }
        let broker = Broker::open_with(directory, BrokerConfig::default())
            .await
            .with_context(|| format!("cannot read {}", directory.display()))?;
        Ok(Self { client: broker.client(), embedded: Some(broker) })
    }
}

/// A change that was not answered in time may have been made.
pub(crate) fn changed<T>(result: Result<T, RequestError>, what: &str) -> anyhow::Result<T> {
    match result {
        Err(RequestError::TimedOut { after }) => {
            Err(CliError::OutcomeUnknown { what: what.to_owned(), after: time::human(after) }.into())
        }
        other => other.with_context(|| what.to_owned()),
    }
}
