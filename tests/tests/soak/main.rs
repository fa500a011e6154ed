//! Everything at once, for a while: groups of each mode on one topic, handlers that fail, members and brokers that are
//! killed. In the end every record was handled or lies among the dead letters, in every group, and no key has ever seen
//! its records out of order.
//!
//! `AQUEDUCT_SEED=17` repeats the same decisions; `AQUEDUCT_SOAK=1` goes on until it is stopped.

mod campaign;
mod ledger;
mod member;

use campaign::Campaign;

const BROKER_KILLS: u32 = 8;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_record_is_handled_or_parked_and_keys_keep_their_order() {
    let soaks = std::env::var_os("AQUEDUCT_SOAK").is_some();
    let seed = std::env::var("AQUEDUCT_SEED").ok().and_then(|seed| seed.parse().ok());
    let mut seed = seed.unwrap_or_else(|| fastrand::u64(..1 << 32));
    loop {
        println!("seed {seed}");
        let mut campaign = Campaign::start(seed).await;
        for _ in 0..BROKER_KILLS {
            campaign.live().await;
            campaign.kill_the_broker().await;
        }
        campaign.finish().await;
        if !soaks {
            return;
        }
        seed += 1;
    }
}
