//! Rounds: every server does the work once, in turn, and again.

use std::{collections::BTreeMap, time::Duration};

use aqueduct_tests::{cpu_time, resident_anonymous_bytes};
use tokio::runtime::{Builder, Runtime};

use crate::{
    contestants::{Contestant, Programs, Server},
    workload::{self, Sample, Workload},
};

/// What is measured, and on what.
pub(crate) struct Plan {
    pub(crate) programs: Programs,
    pub(crate) contestants: Vec<Contestant>,
    pub(crate) skipped: Vec<Contestant>,
    pub(crate) load: Duration,
    pub(crate) rounds: usize,
    pub(crate) log_records: u64,
}

/// One run of one workload on one server.
#[derive(Debug, Clone)]
pub(crate) struct Measured {
    pub(crate) sample: Sample,
    pub(crate) cpu: Duration,
    pub(crate) anonymous_bytes: u64,
}

/// What became of one workload.
#[derive(Default)]
pub(crate) struct Outcome {
    /// The runs of each server, in the order of the rounds.
    pub(crate) results: BTreeMap<Contestant, Vec<Measured>>,
    /// Runs of peers that failed: named, and no reason to lose the others.
    pub(crate) failures: Vec<String>,
}

impl Plan {
    /// Measures `workload` in every round.
    ///
    /// # Errors
    /// The first failure of Aqueduct; those of the peers are part of the outcome.
    pub(crate) fn measure(&self, workload: Workload) -> anyhow::Result<Outcome> {
        println!("{}", workload.title());
        match workload {
            Workload::Replay => self.measure_prepared(workload),
            Workload::PublishOne
            | Workload::PublishEight
            | Workload::PublishLarge
            | Workload::Tasks
            | Workload::Synchronous
            | Workload::EndToEnd => self.measure_fresh(workload),
        }
    }

    /// A new server on an empty directory for each run: no run pays for the one before.
    fn measure_fresh(&self, workload: Workload) -> anyhow::Result<Outcome> {
        let mut outcome = Outcome::default();
        for _ in 0..self.rounds {
            for &contestant in &self.contestants {
                let run = contestant
                    .start(&self.programs)
                    .and_then(|server| self.run(workload, contestant, &server, &mut outcome));
                outcome.note(contestant, run)?;
            }
        }
        Ok(outcome)
    }

    /// Servers that keep what they were given once.
    fn measure_prepared(&self, workload: Workload) -> anyhow::Result<Outcome> {
        let mut outcome = Outcome::default();
        let mut servers = Vec::new();
        for &contestant in self.contestants.iter().filter(|contestant| contestant.has_other_reads_than_others()) {
            let prepared = self.prepare(contestant).map(|server| servers.push((contestant, server)));
            outcome.note(contestant, prepared)?;
        }
        for _ in 0..self.rounds {
            for (contestant, server) in &servers {
                let run = self.run(workload, *contestant, server, &mut outcome);
                outcome.note(*contestant, run)?;
            }
        }
        Ok(outcome)
    }

    fn prepare(&self, contestant: Contestant) -> anyhow::Result<Server> {
        let server = contestant.start(&self.programs)?;
        runtime()?.block_on(async { workload::prepare(&*server.connect().await?, self.log_records).await })?;
        Ok(server)
    }

    /// One run, with a runtime of its own: nothing that a client leaves behind lives on.
    fn run(
        &self,
        workload: Workload,
        contestant: Contestant,
        server: &Server,
        outcome: &mut Outcome,
    ) -> anyhow::Result<()> {
        let measured = runtime()?.block_on(async {
            let peer = server.connect().await?;
            let before = cpu_time(peer.pid())?;
            let sample = workload::run(workload, &*peer, self.load, self.log_records).await?;
            let cpu = cpu_time(peer.pid())? - before;
            anyhow::Ok(Measured { sample, cpu, anonymous_bytes: resident_anonymous_bytes(peer.pid()) })
        })?;
        let figures = measured.sample.figures.iter().map(|figure| format!("{figure:>12.0}")).collect::<String>();
        println!("  {:<28}{figures}", contestant.name());
        outcome.results.entry(contestant).or_default().push(measured);
        Ok(())
    }
}

impl Outcome {
    fn note(&mut self, contestant: Contestant, run: anyhow::Result<()>) -> anyhow::Result<()> {
        match run {
            Err(error) if contestant != Contestant::Aqueduct => {
                let failure = format!("{}: {error:#}", contestant.name());
                println!("  failed: {failure}");
                self.failures.push(failure);
                Ok(())
            }
            run => run,
        }
    }
}

/// One thread for the client: with the server on the same two cores, a second one only takes turns with it.
fn runtime() -> anyhow::Result<Runtime> {
    Ok(Builder::new_current_thread().enable_all().build()?)
}
