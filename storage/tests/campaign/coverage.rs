//! What a life on the simulated disk has met: a campaign that never meets a fault proves nothing about it.

use aqueduct_storage::sim::{Fault, OpKind, Operation, SimDisk};

/// What one seed has met.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Met {
    pub(crate) operations: u64,
    pub(crate) kills: u64,
    pub(crate) power_losses: u64,
    pub(crate) crashes_in_recovery: u64,
    pub(crate) failed_syncs: u64,
    pub(crate) other_errors: u64,
    pub(crate) full_disks: u64,
    pub(crate) rolls: u64,
    pub(crate) retentions: u64,
    pub(crate) compactions: u64,
    pub(crate) topics_deleted: u64,
    pub(crate) commits: u64,
    pub(crate) damaged_batches: u64,
    pub(crate) bad_indexes: u64,
}

impl Met {
    /// Takes note of what was done on `disk` before it went.
    pub(crate) fn see(&mut self, disk: &SimDisk) {
        let operations = disk.operations();
        self.operations += operations.len() as u64;
        self.rolls += operations.iter().filter(|done| begins_segment(done)).count() as u64;
        for fault in disk.faults_met() {
            match fault {
                Fault::SyncFails(_) | Fault::SyncFindsDiskFull(_) => self.failed_syncs += 1,
                Fault::Error(_) | Fault::ShortWrite | Fault::Misdirected(_) | Fault::PowerLoss | Fault::Panic => {
                    self.other_errors += 1;
                }
            }
        }
    }
}

/// Whether a segment was begun that is not the first of its log.
fn begins_segment(done: &Operation) -> bool {
    let name = done.path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    done.op == OpKind::Create && name.ends_with(".log") && !name.starts_with("00000000000000000000")
}

/// What many seeds have met.
#[derive(Debug, Default)]
pub(crate) struct Coverage {
    seeds: Vec<Met>,
}

impl Coverage {
    pub(crate) fn add(&mut self, met: Met) {
        self.seeds.push(met);
    }

    pub(crate) fn append(&mut self, mut other: Self) {
        self.seeds.append(&mut other.seeds);
    }

    /// Operations of all seeds.
    pub(crate) fn operations(&self) -> u64 {
        self.seeds.iter().map(|met| met.operations).sum()
    }

    /// Kills and power losses of all seeds.
    pub(crate) fn crashes(&self) -> u64 {
        self.seeds.iter().map(|met| met.kills + met.power_losses).sum()
    }

    pub(crate) fn seeds(&self) -> usize {
        self.seeds.len()
    }

    /// Operations of the seed in the middle.
    fn operations_median(&self) -> u64 {
        let mut operations: Vec<u64> = self.seeds.iter().map(|met| met.operations).collect();
        operations.sort_unstable();
        operations[operations.len() / 2]
    }

    /// Prints the figures, and demands that nothing that matters was missed.
    pub(crate) fn check(&self) {
        let median = self.operations_median();
        println!(
            "{} seeds, {} operations (median {median} a seed), {} crashes; met in",
            self.seeds(),
            self.operations(),
            self.crashes()
        );
        let facts: [Fact; 13] = [
            ("kills", |met| met.kills),
            ("power losses", |met| met.power_losses),
            ("crashes during recovery", |met| met.crashes_in_recovery),
            ("failed syncs", |met| met.failed_syncs),
            ("other errors of the disk", |met| met.other_errors),
            ("full disks", |met| met.full_disks),
            ("rolls", |met| met.rolls),
            ("retention", |met| met.retentions),
            ("compacted segments put in place", |met| met.compactions),
            ("topics deleted", |met| met.topics_deleted),
            ("offsets committed", |met| met.commits),
            ("damaged batches", |met| met.damaged_batches),
            ("bad indexes", |met| met.bad_indexes),
        ];
        let mut missed = Vec::new();
        for (name, count) in facts {
            let permille = self.seeds.iter().filter(|met| count(met) > 0).count() * 1000 / self.seeds();
            println!("  {:>5.1} % of the seeds: {name}", permille as f64 / 10.0);
            if permille < 10 {
                missed.push(name);
            }
        }
        assert!(missed.is_empty(), "met in less than 1 % of the seeds: {missed:?}");
        assert!(median >= 200, "{median} operations in the median seed");
    }
}

/// The name of something that can be met, and how often a seed has met it.
type Fact = (&'static str, fn(&Met) -> u64);
