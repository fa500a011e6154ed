//! A handler whose effect happens once, although its event may come more than once.
//!
//! Delivery is at least once: an event comes again when its handler has done its work and died before the ack, or was too
//! slow. So the effect and "this event is done" must be written together, in one transaction of whatever holds the
//! effect; then a second delivery finds the note and does nothing. The note is the event's identity in the log (topic,
//! partition, offset), or better one that the business gives it, like the number of a payment: that one also catches an
//! event that was published twice.
//!
//! ```console
//! $ cargo run -p aqueduct-client --example idempotent_handler
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    sync::{Arc, Mutex},
    time::Duration,
};

use aqueduct::testing::TestBroker;
use aqueduct_client::{Client, Failure, Job, Record, RequestError, RunSummary};
use serde::{Deserialize, Serialize};

const TOPIC: &str = "payments";

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Payment {
    /// Given by whoever pays: the same for the same payment, however often it is sent.
    number: u64,
    customer: String,
    cents: i64,
}

/// Accounts, and which payments are in them: in a real service two tables of one database.
#[derive(Debug, Default)]
struct Ledger {
    balances: BTreeMap<String, i64>,
    done: BTreeSet<u64>,
}

/// Whether a payment has changed anything.
#[derive(Debug, PartialEq)]
enum Booked {
    Now,
    Before,
}

impl Ledger {
    /// One transaction: both or neither.
    fn book(&mut self, payment: &Payment) -> Booked {
        if !self.done.insert(payment.number) {
            return Booked::Before;
        }
        *self.balances.entry(payment.customer.clone()).or_default() += payment.cents;
        Booked::Now
    }
}

type SharedLedger = Arc<Mutex<Ledger>>;

async fn book(ledger: SharedLedger, job: Job) -> Result<(), Failure> {
    // What is no payment today is none tomorrow: to the dead letters, where somebody can look at it.
    let payment: Payment = job.json().map_err(Failure::park)?;
    let booked = ledger.lock().map_err(|_| "the ledger is broken")?.book(&payment);
    if job.attempt() == 1 && payment.customer == "customer-8" {
        // As if the process had died here: the effect is there, the ack is not.
        panic!("power failure after payment {} was booked", payment.number);
    }
    if booked == Booked::Before {
        println!("payment {} came again, as attempt {}", payment.number, job.attempt());
    }
    Ok(())
}

/// Books payments until `stop` resolves.
async fn run(
    client: &Client,
    ledger: SharedLedger,
    stop: impl Future + Send + 'static,
) -> Result<RunSummary, Box<dyn Error>> {
    let inbox = client.consumer(TOPIC, "ledger").build().await?;
    Ok(inbox.run(8, move |job| book(Arc::clone(&ledger), job)).until(stop).await?)
}

async fn publish(client: &Client, payments: &[Payment]) -> Result<(), Box<dyn Error>> {
    for payment in payments {
        client.publish(TOPIC, Record::json(payment)?.key(payment.customer.clone())).await?;
    }
    Ok(())
}

/// Three payments, one of them sent twice.
fn payments() -> [Payment; 4] {
    let payment = |number, customer: &str, cents| Payment { number, customer: customer.to_owned(), cents };
    let first = payment(1, "customer-7", 500);
    [first.clone(), first, payment(2, "customer-8", 800), payment(3, "customer-7", -100)]
}

/// Resolves when the group has handled everything.
async fn caught_up(client: Client) -> Result<(), RequestError> {
    let mut lag = client.group("ledger").watch_lag(Some(TOPIC), Duration::from_millis(20)).await?;
    while let Some(report) = lag.next().await {
        if report?.iter().all(|partition| partition.lag_records == 0) {
            break;
        }
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // In your service: `Client::connect("http://127.0.0.1:7171")`.
    let broker = TestBroker::start().await?;
    let client = broker.client();
    client.topics().create(TOPIC).partitions(2).build().await?;
    publish(&client, &payments()).await?;
    let ledger = SharedLedger::default();
    let summary = run(&client, Arc::clone(&ledger), caught_up(client.clone())).await?;
    println!("{summary}");
    println!("{:?}", ledger.lock().map_err(|_| "the ledger is broken")?.balances);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_sent_twice_and_what_comes_again_is_booked_once() {
        let broker = TestBroker::start().await.unwrap();
        let client = broker.client();
        client.topics().create(TOPIC).partitions(2).build().await.unwrap();
        publish(&client, &payments()).await.unwrap();
        let ledger = SharedLedger::default();
        let handling = run(&client, Arc::clone(&ledger), caught_up(client.clone()));
        let summary = broker.advance_until(Duration::from_secs(1), handling).await.unwrap();
        assert_eq!((summary.handled, summary.panicked), (4, 1));
        let expected = BTreeMap::from([("customer-7".to_owned(), 400), ("customer-8".to_owned(), 800)]);
        assert_eq!(ledger.lock().unwrap().balances, expected);
    }

    #[tokio::test]
    async fn what_is_no_payment_becomes_a_dead_letter() {
        let broker = TestBroker::start().await.unwrap();
        let client = broker.client();
        client.topics().create(TOPIC).build().await.unwrap();
        client.publish(TOPIC, Record::new("hello")).await.unwrap();
        let summary = run(&client, SharedLedger::default(), caught_up(client.clone())).await.unwrap();
        assert_eq!((summary.handled, summary.parked), (0, 1));
        assert_eq!(client.groups().dead_letters().await.unwrap()[0].count, 1);
    }
}
