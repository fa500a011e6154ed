//! Clients that want to do harm, against a real broker: it does not panic, its memory stays bounded, honest clients get
//! their answers while the attack goes on, and when it is over everything is as it was.

mod connections;
mod descriptors;
mod frames;
mod messages;
mod names;
mod numbers;
mod streams;

use std::future::Future;

use aqueduct_client::{Client, Record};
use aqueduct_tests::{BrokerProcess, Launch, descriptors, eventually, read_all, resident_anonymous_bytes, within};

const MIB: u64 = 1 << 20;

/// Beside what is held back for clients and by the kernel: allocators keep some of what they were given.
const SLACK_BYTES: u64 = 64 * MIB;

/// A broker under attack, with an honest client that was there before.
struct Siege {
    broker: BrokerProcess,
    client: Client,
    acked: u64,
    descriptors_before: usize,
    memory_before: u64,
}

impl Siege {
    async fn start(sets: &[&str]) -> Self {
        let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
        Self::launch(Launch::with_args(&sets)).await
    }

    async fn launch(launch: Launch) -> Self {
        let broker = BrokerProcess::launch(launch);
        let client = broker.client().await;
        client.topics().create("orders").build().await.expect("a new topic");
        let mut siege = Self { broker, client, acked: 0, descriptors_before: 0, memory_before: 0 };
        siege.publish(100).await;
        siege.descriptors_before = descriptors(siege.broker.pid());
        siege.memory_before = resident_anonymous_bytes(siege.broker.pid());
        siege
    }

    /// The honest client gets a receipt for each of these, one after another.
    async fn publish(&mut self, records: u64) {
        for _ in 0..records {
            let receipt = within("a receipt", self.client.publish("orders", Record::new("honest"))).await;
            assert_eq!(receipt.expect("a receipt").offset, self.acked);
            self.acked += 1;
        }
    }

    /// The honest client works while `attack` goes on, which must not end by itself.
    async fn work_under(&mut self, attack: impl Future<Output = ()> + Send + 'static) {
        let attack = tokio::spawn(attack);
        self.publish(200).await;
        assert!(!attack.is_finished(), "the attack has ended before");
        attack.abort();
        // A panic in it would have said more.
        assert!(attack.await.is_err_and(|error| error.is_cancelled()), "the attack has failed");
    }

    /// Anonymous memory on top of what there was, in bytes.
    fn grown(&self) -> u64 {
        resident_anonymous_bytes(self.broker.pid()).saturating_sub(self.memory_before)
    }

    #[track_caller]
    fn assert_grown_less_than(&self, bytes: u64) {
        let grown = self.grown();
        println!("{:.1} MiB more", grown as f64 / MIB as f64);
        assert!(grown < bytes, "{grown} bytes more, {bytes} are allowed");
    }

    /// The attackers have gone: nothing acknowledged is lost, everybody is served, and nothing is left of them.
    async fn over(mut self) {
        self.publish(10).await;
        // What is left of a storm is worked off first.
        let newcomer = eventually("newcomers get in", async || Client::connect(self.broker.url()).await.ok()).await;
        assert_eq!(read_all(&newcomer, "orders").await.len() as u64, self.acked);
        newcomer.close(std::time::Duration::from_secs(5)).await.expect("closed");
        let (pid, descriptors_before) = (self.broker.pid(), self.descriptors_before);
        // A segment, its index and a file made ahead may have come.
        eventually("descriptors are given back", async || (descriptors(pid) <= descriptors_before + 6).then_some(()))
            .await;
        eventually("memory is given back", async || {
            self.publish(1).await;
            (self.grown() < SLACK_BYTES).then_some(())
        })
        .await;
        let log = self.broker.log();
        assert!(!log.contains("panicked"), "{log}");
    }
}
