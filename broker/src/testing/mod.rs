//! A broker for your own tests.
//!
//! [`TestBroker`] is the real thing: the same log on the same disk, in this process, on a directory of its own. Only its
//! clock is yours. Everything that the broker waits for or measures follows it: backoffs and delays of retries, ack
//! time-outs, retention by age, lag in seconds, the times that it writes down. So what takes hours takes milliseconds:
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//!
//! use aqueduct::{
//!     client::{Failure, Job, Record},
//!     testing::TestBroker,
//! };
//!
//! let broker = TestBroker::start().await?;
//! let client = broker.client();
//! client.topics().create("orders").build().await?;
//! client.publish("orders", Record::new("one anvil")).await?;
//!
//! // The bank is closed for the first three attempts.
//! let (paid, mut payment) = tokio::sync::mpsc::channel(1);
//! let charge = move |job: Job| {
//!     let paid = paid.clone();
//!     async move {
//!         if job.attempt() <= 3 {
//!             return Err(Failure::retry_after(Duration::from_secs(600), "the bank is closed"));
//!         }
//!         paid.send(job.attempt()).await?;
//!         Ok(())
//!     }
//! };
//! let billing = client.consumer("orders", "billing").build().await?;
//! tokio::spawn(billing.run(1, charge).into_future());
//!
//! let attempt = broker.advance_until(Duration::from_secs(20), payment.recv()).await;
//! assert_eq!(attempt, Some(4));
//! # Ok(()) }
//! ```
//!
//! What is the client's follows the clock of tokio, which tests may pause (`tokio::time::pause`) in a runtime of one thread:
//! time-outs of handlers, rate limits, reconnecting. The connection between the two is never taken for dead because the
//! broker's clock was set forward.

mod disk;
#[cfg(test)]
mod tests;

use std::{io, path::PathBuf, pin::pin, sync::Arc, time::Duration};

use self::disk::AheadDisk;
use crate::{Broker, BrokerConfig, OpenError, client::Client, clock::Clock};

/// Between two looks at whether the clock may go on.
const STEP_PAUSE: Duration = Duration::from_millis(1);

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
        Self::open(directory, config, Clock::default()).await
    }

    async fn open(directory: Directory, config: BrokerConfig, clock: Clock) -> Result<Self, OpenError> {
        let disk = Arc::new(AheadDisk::new(clock.clone()));
        let broker = Broker::open_on(disk, &directory.0, config, clock.clone()).await?;
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

    /// Sets the broker's clock forward: what would happen within that time happens now, and what is open with a member
    /// for longer than its group's ack time-out expires. What begins to wait afterwards waits from then on.
    pub fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    /// Sets the broker's clock forward in steps, until `future` is ready: for retries that follow each other, when a test
    /// cannot know how often and at what moment to [`advance`](Self::advance).
    ///
    /// The clock stands still while anything is delivered to a member and not settled, so that nothing that is being
    /// handled expires, however slow the machine: `step` must be shorter than the ack time-out, and members must settle
    /// what they are given.
    pub async fn advance_until<T>(&self, step: Duration, future: impl Future<Output = T>) -> T {
        let client = self.client();
        let mut future = pin!(future);
        loop {
            let step_when_idle = async {
                tokio::time::sleep(STEP_PAUSE).await;
                if open_records(&client).await == 0 {
                    self.advance(step);
                }
            };
            tokio::select! {
                biased;
                output = &mut future => return output,
                () = step_when_idle => {}
            }
        }
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
        Self::open(directory, config, clock).await
    }

    /// Where its data lies.
    pub fn directory(&self) -> io::Result<&std::path::Path> {
        self.directory.0.metadata().map(|_| self.directory.0.as_path())
    }
}

/// What is with members. A broker that does not answer is not idle.
async fn open_records(client: &Client) -> u64 {
    let Ok(groups) = client.groups().list().await else { return u64::MAX };
    let mut open = 0;
    for group in groups {
        let Ok(group) = client.group(group.name).describe().await else { continue };
        open += group.members.iter().map(|member| member.open_records).sum::<u64>();
    }
    open
}
