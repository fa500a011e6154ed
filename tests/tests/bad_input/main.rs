//! Bad input gets a clear error, and nothing is lost: by any gRPC client, and on the command line.

mod api;
mod batches;
mod command_line;
mod groups;
mod member;
mod silent;
mod start_up;

use aqueduct_tests::{BrokerProcess, Raw, raw};

/// A broker with a topic `orders`, and a connection that bad requests come by.
struct Victim {
    broker: BrokerProcess,
    raw: Raw,
    stored: u64,
}

impl Victim {
    async fn start() -> Self {
        let broker = BrokerProcess::start();
        broker.client().await.topics().create("orders").build().await.expect("a new topic");
        let raw = Raw::connect(&broker.url()).await;
        Self { broker, raw, stored: 0 }
    }

    /// The same connection goes on working, and nothing was stored but what should have been.
    async fn still_works(&mut self) {
        let ack = self.raw.publish(raw::publish_records("orders", vec![raw::record("good")])).await;
        assert_eq!(ack.expect("a receipt").base_offset, self.stored);
        let fetched = self.raw.fetch("orders", 0, self.stored).await.expect("an answer");
        assert_eq!(fetched.records.len(), 1);
        assert_eq!(fetched.records[0].record.as_ref().and_then(|record| record.value.as_deref()), Some(&b"good"[..]));
        self.stored += 1;
        assert_eq!(fetched.high_watermark, self.stored);
    }
}
