//! An outbox: a service changes its database and publishes the event of it, and never does only one of the two.
//!
//! The order and a row that says "publish this" are written in one transaction. A relay publishes the rows and marks them as
//! sent. It may be killed at any moment, between the two as well, and still publishes each row once:
//! - every event carries the number of its row, so that a relay that starts sees in the last event what is there already;
//! - its producer has a name, which shuts out the relay that had it before: one that was only thought to be dead cannot
//!   publish behind the back of the new one.
//!
//! ```console
//! $ cargo run -p aqueduct-client --example outbox
//! ```
//!
//! The database is a file with one line for each row, appended and synced: as much of a database as the pattern needs.

use std::{
    error::Error,
    fs::{File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use aqueduct::testing::TestBroker;
use aqueduct_client::{Client, Event, Record, Start};

const TOPIC: &str = "orders";
/// The row that a record was made from.
const ROW: &str = "outbox-row";

/// Something to be published.
#[derive(Debug, Clone, PartialEq)]
struct Row {
    number: u64,
    customer: String,
    order: String,
}

/// The service's database: orders, and what is to be published of them.
struct Database {
    path: PathBuf,
    file: File,
}

impl Database {
    fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// One transaction: the order is placed, and will be published.
    fn place_order(&mut self, customer: &str, order: &str) -> io::Result<()> {
        self.append(&format!("order\t{customer}\t{order}\n"))
    }

    /// Every row below `number` is published.
    fn mark_sent(&mut self, number: u64) -> io::Result<()> {
        self.append(&format!("sent\t{number}\n"))
    }

    fn append(&mut self, line: &str) -> io::Result<()> {
        self.file.write_all(line.as_bytes())?;
        self.file.sync_data()
    }

    /// The rows that are not marked as sent, oldest first.
    fn unsent(&self) -> io::Result<Vec<Row>> {
        let (mut rows, mut sent) = (Vec::new(), 0);
        for line in std::fs::read_to_string(&self.path)?.lines() {
            match line.split('\t').collect::<Vec<_>>()[..] {
                ["order", customer, order] => rows.push((customer.to_owned(), order.to_owned())),
                ["sent", number] => sent = number.parse().map_err(io::Error::other)?,
                _ => return Err(io::Error::other(format!("not a row: {line}"))),
            }
        }
        let rows = (0..).zip(rows).map(|(number, (customer, order))| Row { number, customer, order });
        Ok(rows.filter(|row| row.number >= sent).collect())
    }
}

/// The number of the row that `event` was made from.
fn row_of(event: &Event) -> Option<u64> {
    let header = event.record.headers.iter().find(|header| header.name == ROW)?;
    std::str::from_utf8(&header.value).ok()?.parse().ok()
}

/// The first row that is not in the topic: the relay publishes rows in order, to one partition, so the last event says it.
async fn first_missing(client: &Client) -> Result<u64, Box<dyn Error>> {
    let topic = client.topics().describe(TOPIC).await?;
    let log = &topic.partitions[0];
    if log.log_start == log.high_watermark {
        return Ok(0);
    }
    let mut last = client.subscribe(TOPIC).partition_from(0, Start::Offset(log.high_watermark - 1)).build().await?;
    let event = last.next().await.ok_or("the log ended")??;
    Ok(row_of(&event).map_or(0, |row| row + 1))
}

/// Publishes what waits in the outbox, in order, once each. Returns how many it published.
async fn relay(client: &Client, database: &mut Database) -> Result<u64, Box<dyn Error>> {
    // First: from here on nobody else publishes under this name, and what is in the topic stays as it is.
    let producer = client.producer(TOPIC).name("outbox-relay").partition(0).build().await?;
    let missing = first_missing(client).await?;
    let mut published = 0;
    for row in database.unsent()? {
        if row.number >= missing {
            let record = Record::new(row.order).key(row.customer).header(ROW, row.number.to_string());
            // Durable when it returns; tried again, without storing it twice, when the connection breaks on the way.
            producer.publish(record).await?;
            published += 1;
        }
        database.mark_sent(row.number + 1)?;
    }
    producer.close().await?;
    Ok(published)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // In your service: `Client::connect("http://127.0.0.1:7171")`.
    let broker = TestBroker::start().await?;
    let client = broker.client();
    client.topics().create(TOPIC).build().await?;

    let path = broker.directory()?.join("outbox");
    let mut database = Database::open(&path)?;
    for order in ["one anvil", "two anvils", "a rocket"] {
        database.place_order("customer-7", order)?;
    }
    println!("published {} events", relay(&client, &mut database).await?);
    database.place_order("customer-8", "a magnet")?;
    println!("published {} more", relay(&client, &mut Database::open(&path)?).await?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn published(client: &Client) -> Vec<String> {
        let mut events = client.subscribe(TOPIC).from(Start::Earliest).until_end().build().await.unwrap();
        let mut orders = Vec::new();
        while let Some(event) = events.next().await {
            orders.push(String::from_utf8(event.unwrap().value().unwrap().to_vec()).unwrap());
        }
        orders
    }

    #[tokio::test]
    async fn each_order_is_published_once_wherever_the_relay_is_killed() {
        let broker = TestBroker::start().await.unwrap();
        let client = broker.client();
        client.topics().create(TOPIC).build().await.unwrap();
        let path = broker.directory().unwrap().join("outbox");
        let mut database = Database::open(&path).unwrap();
        let mut orders = Vec::new();
        for number in 0..5 {
            let order = format!("order {number}");
            database.place_order("customer-7", &order).unwrap();
            orders.push(order);
            let before = std::fs::metadata(&path).unwrap().len();
            assert_eq!(relay(&client, &mut database).await.unwrap(), 1);
            // Killed after it was published and before it was marked: the mark is gone.
            OpenOptions::new().write(true).open(&path).unwrap().set_len(before).unwrap();
            database = Database::open(&path).unwrap();
            let unsent: Vec<u64> = database.unsent().unwrap().iter().map(|row| row.number).collect();
            assert_eq!(unsent.last(), Some(&number));
            assert_eq!(relay(&client, &mut database).await.unwrap(), 0, "it is there already");
            assert_eq!(published(&client).await, orders);
        }
        assert!(database.unsent().unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_relay_that_was_replaced_publishes_nothing_more() {
        let broker = TestBroker::start().await.unwrap();
        let client = broker.client();
        client.topics().create(TOPIC).build().await.unwrap();
        let mut database = Database::open(&broker.directory().unwrap().join("outbox")).unwrap();
        let old = client.producer(TOPIC).name("outbox-relay").partition(0).build().await.unwrap();
        database.place_order("customer-7", "one anvil").unwrap();
        relay(&client, &mut database).await.unwrap();
        assert!(old.publish(Record::new("one anvil")).await.is_err());
        assert_eq!(published(&client).await, ["one anvil"]);
    }
}
