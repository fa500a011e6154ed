//! Brokers killed hundreds of times on one data directory: as they enter system calls of appending, rolling, retention,
//! committing, topic creation and deletion and recovery, and at moments that nobody chose. What the command line had
//! printed decides: receipts, events and committed offsets hold for ever after.

mod campaign;
mod ledger;
mod points;

use campaign::Campaign;

/// Enough for every call of the table many times; a campaign takes less than a minute on two cores.
const KILLS: u32 = 220;

fn campaign(seed: u64) {
    println!("seed {seed}");
    let mut campaign = Campaign::start(seed);
    while campaign.deaths.total() < KILLS {
        campaign.die_at_a_call();
        campaign.die_at_a_call();
        campaign.check_and_die_at_a_moment();
    }
    campaign.finish();
}

#[test]
fn what_was_printed_outlives_two_hundred_kills() {
    campaign(fastrand::u64(..));
}
