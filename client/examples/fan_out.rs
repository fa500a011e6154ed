//! One call that three services had to answer, taken apart: A answers at once, B and C follow by events.
//!
//! Before, `place_order` called billing, waited, called shipping, waited, and failed when either was down. Now it stores
//! one event and answers: durable, so nothing is lost, and both follow in their own time. Each is a group: it has its own
//! place in the log, its own retries and its own dead letters. Here shipping is down for a while. Nobody but shipping
//! notices, and one order that it can never ship does not hold up the others.
//!
//! ```console
//! $ cargo run -p aqueduct-client --example fan_out
//! ```

use std::{
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use aqueduct::testing::TestBroker;
use aqueduct_client::{
    Client, ConsumeError, Failure, Job, LetterFilter, Producer, Receipt, Record, RequestError, RetryPolicy, RunSummary,
};
use serde::{Deserialize, Serialize};
use tokio::{sync::watch, task::JoinHandle};

const TOPIC: &str = "orders";

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Order {
    customer: String,
    item: String,
}

impl Order {
    fn new(customer: &str, item: &str) -> Self {
        Self { customer: customer.to_owned(), item: item.to_owned() }
    }
}

/// A: answers once the order is on disk, whatever becomes of B and C.
async fn place_order(orders: &Producer, order: &Order) -> Result<Receipt, Box<dyn Error>> {
    Ok(orders.publish(Record::json(order)?.key(order.customer.clone())).await?)
}

/// B.
async fn bill(job: Job) -> Result<(), Failure> {
    let order: Order = job.json().map_err(Failure::park)?;
    println!("billed {} to {}", order.item, order.customer);
    Ok(())
}

/// C, which depends on a warehouse.
async fn ship(is_open: Arc<AtomicBool>, job: Job) -> Result<(), Failure> {
    let order: Order = job.json().map_err(Failure::park)?;
    if !is_open.load(Ordering::Relaxed) {
        return Err(Failure::retry("the warehouse does not answer"));
    }
    if order.item == "a black hole" {
        return Err(Failure::park("we do not ship those"));
    }
    println!("shipped {} to {} after {} attempts", order.item, order.customer, job.attempt());
    Ok(())
}

type Running = JoinHandle<Result<RunSummary, ConsumeError>>;

/// Everything behind `place_order`, until told to stop.
struct Services {
    billing: Running,
    shipping: Running,
    stop: watch::Sender<()>,
}

impl Services {
    async fn start(client: &Client, warehouse: Arc<AtomicBool>) -> Result<Self, ConsumeError> {
        let stop = watch::Sender::new(());
        let stopped = || {
            let mut stop = stop.subscribe();
            async move { stop.changed().await }
        };
        let patient = RetryPolicy { max_attempts: Some(100), ..RetryPolicy::default() };
        let billing = client.consumer(TOPIC, "billing").build().await?.run(8, bill).until(stopped());
        let shipping = client.consumer(TOPIC, "shipping").retry(patient).build().await?;
        let shipping = shipping.run(8, move |job| ship(Arc::clone(&warehouse), job)).until(stopped());
        Ok(Self { billing: tokio::spawn(billing.into_future()), shipping: tokio::spawn(shipping.into_future()), stop })
    }

    /// Finishes what is being handled. Gives what billing and shipping have done.
    async fn stop(self) -> Result<[RunSummary; 2], Box<dyn Error>> {
        self.stop.send_replace(());
        Ok([self.billing.await??, self.shipping.await??])
    }
}

/// Resolves when `group` has nothing left to do.
async fn caught_up(client: &Client, group: &str) -> Result<(), RequestError> {
    let mut lag = client.group(group).watch_lag(Some(TOPIC), Duration::from_millis(20)).await?;
    while let Some(report) = lag.next().await {
        if report?.iter().all(|partition| partition.lag_records == 0) {
            break;
        }
    }
    Ok(())
}

/// The story of the head of this file. Gives what billing and shipping have done.
async fn story(broker: &TestBroker) -> Result<[RunSummary; 2], Box<dyn Error>> {
    // In your service: `Client::connect("http://127.0.0.1:7171")`.
    let client = broker.client();
    client.topics().create(TOPIC).partitions(2).build().await?;
    let warehouse = Arc::new(AtomicBool::new(false));
    let services = Services::start(&client, Arc::clone(&warehouse)).await?;

    let orders = client.producer(TOPIC).build().await?;
    for (customer, item) in [("customer-7", "an anvil"), ("customer-8", "a black hole"), ("customer-8", "a rocket")] {
        println!("order stored as {}", place_order(&orders, &Order::new(customer, item)).await?);
    }
    caught_up(&client, "billing").await?;
    println!("billing is through; shipping has yet to begin");

    warehouse.store(true, Ordering::Relaxed);
    // A second passes in a few milliseconds here; in your service it is a second.
    broker.advance_until(Duration::from_secs(1), caught_up(&client, "shipping")).await?;
    let summaries = services.stop().await?;

    let letters = client.dead_letters(TOPIC, "shipping");
    letters
        .read(&LetterFilter::default(), |letter| {
            println!("never shipped: {}/{}: {}", letter.death.partition, letter.death.offset, letter.death.last_error);
        })
        .await?;
    Ok(summaries)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let broker = TestBroker::start().await?;
    let [billing, shipping] = story(&broker).await?;
    println!("billing:  {billing}\nshipping: {shipping}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whoever_is_down_follows_later_and_holds_up_nobody_else() {
        let broker = TestBroker::start().await.unwrap();
        let [billing, shipping] = story(&broker).await.unwrap();
        assert_eq!((billing.handled, billing.retried), (3, 0));
        assert_eq!((shipping.handled, shipping.parked), (2, 1));
        let letters = broker.client().groups().dead_letters().await.unwrap();
        assert_eq!((letters.len(), letters[0].group.as_str(), letters[0].count), (1, "shipping", 1));
    }
}
