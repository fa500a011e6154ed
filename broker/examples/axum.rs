//! An HTTP service that answers at once and does the rest by events, with the log inside its own process.
//!
//! `POST /orders` stores the order, durably, and returns its place in the log; billing follows in its own time, and goes
//! on where it left off after a restart. Run it, and try:
//!
//! ```console
//! $ cargo run --example axum
//! $ curl -d '{"customer": "customer-7", "item": "anvil"}' -H 'content-type: application/json' localhost:3000/orders
//! $ curl localhost:3000/lag
//! ```

use std::{error::Error, time::Duration};

use aqueduct::{
    Broker,
    client::{Client, Producer, Record},
};
use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    routing::{get, post},
};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

const TOPIC: &str = "orders";
const GROUP: &str = "billing";

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Order {
    customer: String,
    item: String,
}

#[derive(Clone)]
struct App {
    client: Client,
    orders: Producer,
}

/// The routes, with everything they need.
async fn router(client: Client) -> Result<Router, Box<dyn Error>> {
    let orders = client.producer(TOPIC).build().await?;
    let app = App { client, orders };
    Ok(Router::new().route("/orders", post(order)).route("/lag", get(lag)).with_state(app))
}

/// Answers once the order is on disk.
async fn order(State(app): State<App>, Json(order): Json<Order>) -> Result<String, (StatusCode, String)> {
    let unavailable = |error: &dyn Error| (StatusCode::SERVICE_UNAVAILABLE, error.to_string());
    let value = serde_json::to_vec(&order).map_err(|error| unavailable(&error))?;
    let record = Record::new(value).key(order.customer);
    let receipt = app.orders.publish(record).await.map_err(|error| unavailable(&error))?;
    Ok(receipt.to_string())
}

async fn lag(State(app): State<App>) -> Result<String, (StatusCode, String)> {
    let lag = app.client.group(GROUP).lag(TOPIC).await;
    let lag = lag.map_err(|error| (StatusCode::SERVICE_UNAVAILABLE, error.to_string()))?;
    Ok(lag.iter().map(|partition| partition.lag_records).sum::<u64>().to_string())
}

/// Bills every order once it has been handled; what fails is delivered again.
async fn bill(client: Client, billed: mpsc::Sender<Order>) -> Result<(), Box<dyn Error + Send + Sync>> {
    let mut inbox = client.consumer(TOPIC, GROUP).build().await?;
    while let Some(delivery) = inbox.next().await {
        let delivery = delivery?;
        match serde_json::from_slice(delivery.event().value().unwrap_or_default()) {
            Ok(order) => {
                billed.send(order).await?;
                delivery.ack();
            }
            Err(error) => {
                eprintln!("{}/{}: not an order: {error}", delivery.event().partition, delivery.event().offset);
                delivery.ack();
            }
        }
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let broker = Broker::open("./orders-data").await?;
    let client = broker.client();
    if client.topics().describe(TOPIC).await.is_err() {
        client.topics().create(TOPIC).partitions(4).build().await?;
    }
    let (billed, mut bills) = mpsc::channel(16);
    tokio::spawn(bill(client.clone(), billed));
    tokio::spawn(async move {
        while let Some(order) = bills.recv().await {
            println!("billed {} to {}", order.item, order.customer);
        }
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, router(client).await?).await?;
    broker.shutdown(Duration::from_secs(5)).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use aqueduct::testing::TestBroker;
    use axum::{body::Body, http::Request};
    use tower::ServiceExt as _;

    use super::*;

    #[tokio::test]
    async fn an_order_is_answered_with_its_receipt_and_billed_by_the_event() {
        let broker = TestBroker::start().await.unwrap();
        let client = broker.client();
        client.topics().create(TOPIC).build().await.unwrap();
        let (billed, mut bills) = mpsc::channel(16);
        tokio::spawn(bill(client.clone(), billed));

        let order = Order { customer: "customer-7".into(), item: "anvil".into() };
        let request = Request::post("/orders")
            .header("content-type", "application/json")
            .body(Body::from(serde_json::to_vec(&order).unwrap()))
            .unwrap();
        let response = router(client).await.unwrap().oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let receipt = axum::body::to_bytes(response.into_body(), 1024).await.unwrap();
        assert_eq!(receipt, "orders/0@0");
        assert_eq!(bills.recv().await, Some(order));
    }
}
