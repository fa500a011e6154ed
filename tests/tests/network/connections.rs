//! Connections whose other end has vanished.

use aqueduct_client::Record;
use aqueduct_proto::v1;
use aqueduct_tests::{BrokerProcess, Flow, Proxy, Raw, eventually, resident_anonymous_bytes, within};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_open_connections_are_closed_by_keepalive_and_cost_no_memory() {
    const CONNECTIONS: usize = 100;
    const MIB: u64 = 1 << 20;
    /// What a hundred streams may hold on their way, and never all that was published.
    const GROWTH_MAX: u64 = 64 * MIB;
    let broker = BrokerProcess::start();
    let client = broker.client().await;
    client.topics().create("orders").build().await.expect("a new topic");
    let proxy = Proxy::before(broker.port()).await;
    let mut gone = Vec::new();
    for _ in 0..CONNECTIONS {
        // Without keepalive of its own: only the broker can find out.
        let mut raw = Raw::connect(&proxy.url()).await;
        let request = v1::SubscribeRequest { topic: "orders".to_owned(), ..v1::SubscribeRequest::default() };
        gone.push(raw.log.subscribe(request).await.expect("a subscription").into_inner());
    }
    assert_eq!(proxy.connections(), CONNECTIONS);
    // Nothing comes from them any more, no answer to a ping either. What is sent to them is taken by the network.
    proxy.to_broker(Flow::Lost);
    let before = resident_anonymous_bytes(broker.pid());
    let mut most = before;
    let all_closed = async || {
        // There is something to send to them all the time.
        client.publish("orders", Record::new(vec![7; 100_000])).await.expect("publishing goes on");
        most = most.max(resident_anonymous_bytes(broker.pid()));
        (proxy.connections() == 0).then_some(())
    };
    eventually("the broker closes them", all_closed).await;
    println!("{} MiB more while they were open", (most - before) / MIB);
    assert!(most - before < GROWTH_MAX, "{} bytes more for connections that are gone", most - before);
    for mut stream in gone {
        // What had arrived may still be read; then it ends.
        while let Ok(Some(_)) = within("the end", stream.message()).await {}
    }
    let receipt = client.publish("orders", Record::new("x")).await.expect("a receipt");
    assert!(receipt.offset > 0);
}
