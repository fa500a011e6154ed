//! Aqueduct: an append-only, segmented, checksummed event log with partitions and consumer groups. An ack means that
//! the event is on disk.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use aqueduct::{Broker, client::Record};
//!
//! let broker = Broker::open("./data").await?;
//! let client = broker.client();
//! client.topics().create("orders").partitions(4).build().await?;
//! let receipt = client.publish("orders", Record::new("one anvil").key("customer-7")).await?;
//! println!("{receipt}"); // orders/3@0
//! # Ok(()) }
//! ```
//!
//! With `default-features = false` this is all there is: no server, no socket, no command line. Nothing here installs a
//! signal handler, a tracing subscriber or an allocator.

#![forbid(unsafe_code)]

use std::{path::Path, sync::Arc, time::Duration};

pub use aqueduct_client as client;
use aqueduct_storage::{Disk, RealDisk};

use crate::{clock::Clock, core::BrokerCore, in_process::InProcess};
pub use crate::{
    config::{AutoCreateTopics, BrokerConfig, ConnectionLimits, Limits},
    engine::EngineError,
    error::OpenError,
};

mod backlog;
mod batch_check;
mod budget;
mod clock;
mod config;
mod connection;
mod core;
mod delays;
mod engine;
mod error;
mod fair_pool;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod groups;
#[cfg(feature = "budgets")]
#[doc(hidden)]
pub mod hot_paths;
mod in_process;
mod keyed_records;
mod names;
mod outgoing;
mod partition;
mod producer_names;
#[cfg(feature = "server")]
pub mod server;
mod services;
#[cfg(test)]
mod simulated_disk;
mod status;
pub mod stopped;
pub mod testing;
mod to_the_end;
mod topics;
mod turns;

/// A running broker on a data directory.
///
/// Clones are handles of the same broker. It stops with [`shutdown`](Self::shutdown); dropping every handle and client
/// without it is safe and means that the next start recovers, as after a kill.
#[derive(Clone)]
pub struct Broker {
    core: Arc<BrokerCore>,
}

impl Broker {
    /// Opens the data directory with the default settings, and makes it if there is none.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open(data: impl AsRef<Path>) -> Result<Self, OpenError> {
        Self::open_with(data, BrokerConfig::default()).await
    }

    /// Opens the data directory with settings of your own.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open_with(data: impl AsRef<Path>, config: BrokerConfig) -> Result<Self, OpenError> {
        Self::open_on(Arc::new(RealDisk::new()), data.as_ref(), config, Clock::default()).await
    }

    async fn open_on(disk: Arc<dyn Disk>, data: &Path, config: BrokerConfig, clock: Clock) -> Result<Self, OpenError> {
        Ok(Self { core: BrokerCore::open(disk, data, config, clock).await? })
    }

    /// A client that calls the broker directly: the same as over the network, but for the network.
    pub fn client(&self) -> client::Client {
        client::Client::from_service(InProcess::new(&self.core))
    }

    /// Ends every stream, finishes what is queued, syncs, and marks a clean stop, so that the next start need not
    /// recover.
    ///
    /// # Errors
    /// If that takes longer than `deadline`, or the disk fails. Nothing that was acknowledged is at risk.
    pub async fn shutdown(&self, deadline: Duration) -> Result<(), EngineError> {
        self.core.close(deadline).await
    }
}
