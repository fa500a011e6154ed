//! A broker for your own tests.

use std::{io, path::PathBuf, time::Duration};

use crate::{Broker, BrokerConfig, OpenError, client::Client, clock::Clock};

/// A broker on a temporary directory that goes when this is dropped.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use aqueduct::{client::Record, testing::TestBroker};
///
/// let broker = TestBroker::start().await?;
/// let client = broker.client();
/// client.topics().create("orders").build().await?;
/// let receipt = client.publish("orders", Record::new("one anvil")).await?;
/// assert_eq!(receipt.to_string(), "orders/0@0");
/// # Ok(()) }
/// ```
///
/// A topic that carries state, seen as a table:
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use aqueduct::{client::{Cleanup, Record}, testing::TestBroker};
///
/// let broker = TestBroker::start().await?;
/// let client = broker.client();
/// client.topics().create("prices").cleanup(Cleanup::Compact).build().await?;
/// client.publish("prices", Record::new("10").key("anvil")).await?;
///
/// let prices = client.table("prices").build().await?;
/// let receipt = client.publish("prices", Record::new("12").key("anvil")).await?;
/// prices.wait_for(&receipt).await?;
/// let anvil = prices.get("anvil")?.expect("it has a price");
/// assert_eq!(anvil.record.value.as_deref(), Some(&b"12"[..]));
/// # Ok(()) }
/// ```
pub struct TestBroker {
    broker: Broker,
    clock: Clock,
    directory: Directory,
}

/// Removed when it is dropped.
struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        // A directory left behind under the system's temporary one harms nobody.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl TestBroker {
    /// Starts a broker with the default settings.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn start() -> Result<Self, OpenError> {
        Self::start_with(BrokerConfig::default()).await
    }

    /// Starts a broker with settings of your own.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn start_with(config: BrokerConfig) -> Result<Self, OpenError> {
        let path = std::env::temp_dir().join(format!("aqueduct-test-{}", uuid::Uuid::new_v4().simple()));
        let directory = Directory(path);
        let clock = Clock::default();
        let broker = Broker::open_at(&directory.0, config, clock.clone()).await?;
        Ok(Self { broker, clock, directory })
    }

    /// A client of it.
    pub fn client(&self) -> Client {
        self.broker.client()
    }

    /// The broker itself.
    pub fn broker(&self) -> &Broker {
        &self.broker
    }

    /// Sets the broker's clock forward: what would happen within that time happens now. Time-outs, backoffs and delays
    /// need no waiting in a test.
    pub fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    /// Stops it and starts it again on the same data. Clients of before find it gone: make new ones.
    ///
    /// # Errors
    /// See [`OpenError`], and what stopping says.
    pub async fn restart(self) -> Result<Self, OpenError> {
        let config = self.broker.core.config.clone();
        self.broker.shutdown(Duration::from_secs(10)).await?;
        let Self { broker, clock, directory } = self;
        drop(broker);
        let broker = Broker::open_at(&directory.0, config, clock.clone()).await?;
        Ok(Self { broker, clock, directory })
    }

    /// Where its data lies.
    pub fn directory(&self) -> io::Result<&std::path::Path> {
        self.directory.0.metadata().map(|_| self.directory.0.as_path())
    }
}
