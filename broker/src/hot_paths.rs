//! Private code that runs for every batch or every member, made reachable for the budgets of instructions in
//! `benches/budgets`.
//!
//! They are a program of their own, because callgrind counts one process, and they must count what users run, so they
//! cannot be unit tests. Behind the feature `budgets`, which nothing else enables: not part of the API.
#![allow(missing_docs, reason = "not part of the API")]

use aqueduct_storage::Batch;

use crate::{Limits, batch_check, groups};

/// `batch` as it came, if it may be stored.
pub fn check_batch(batch: Batch) -> Option<Batch> {
    batch_check::check(batch, &Limits::default()).ok()
}

/// The members of a group on one topic; what changes is counted in steps.
#[derive(Default)]
pub struct Roster {
    roster: groups::Roster,
    generation: u64,
}

impl Roster {
    pub fn join(&mut self, member: u64, partitions: u32) -> usize {
        let Self { roster, generation } = self;
        roster.join(member, partitions, || next(generation)).len()
    }

    pub fn leave(&mut self, member: u64) -> usize {
        let Self { roster, generation } = self;
        roster.leave(member, || next(generation)).len()
    }
}

fn next(generation: &mut u64) -> u64 {
    *generation += 1;
    *generation
}
