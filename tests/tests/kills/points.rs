//! Where a broker is killed: as it enters a system call, or at some moment.

use std::{collections::BTreeMap, ffi::OsString};

/// A system call of the disk, and which ones of a thread in a round are worth dying at: the first ones of some only load
/// the program.
struct Call {
    name: &'static str,
    first: u32,
    last: u32,
}

const CALLS: [Call; 12] = [
    Call { name: "pwritev", first: 1, last: 30 },
    Call { name: "fdatasync", first: 1, last: 30 },
    Call { name: "fsync", first: 1, last: 6 },
    Call { name: "openat", first: 9, last: 24 },
    Call { name: "pread64", first: 3, last: 12 },
    Call { name: "getdents64", first: 1, last: 4 },
    Call { name: "flock", first: 1, last: 1 },
    Call { name: "ftruncate", first: 1, last: 3 },
    Call { name: "rename", first: 1, last: 3 },
    Call { name: "unlink", first: 1, last: 4 },
    Call { name: "mkdir", first: 1, last: 3 },
    Call { name: "rmdir", first: 1, last: 2 },
];

/// One way to die.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Point {
    pub(crate) call: &'static str,
    /// The how-manieth of one thread, from 1.
    number: u32,
}

impl Point {
    pub(crate) fn random(random: &mut fastrand::Rng) -> Self {
        let call = &CALLS[random.usize(..CALLS.len())];
        // Early ones more often: not every round comes as far as its last call.
        let latest = random.u32(call.first..=call.last);
        Self { call: call.name, number: random.u32(call.first..=latest) }
    }

    /// What runs the broker so that it dies there. The tracer is a grandchild (`-D`): the broker stays the child, and is
    /// traced from its first instruction on.
    pub(crate) fn wrapper(self) -> Vec<OsString> {
        let Self { call, number } = self;
        let (trace, inject) = (format!("trace={call}"), format!("inject={call}:signal=SIGKILL:when={number}"));
        let words = ["strace", "-D", "-f", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject, "--"];
        words.into_iter().map(Into::into).collect()
    }
}

/// How often brokers died where.
#[derive(Default)]
pub(crate) struct Deaths {
    at_calls: BTreeMap<&'static str, u32>,
    /// Of these, before the broker was ready.
    pub(crate) in_recovery: u32,
    at_a_moment: u32,
}

impl Deaths {
    pub(crate) fn at(&mut self, point: Point) {
        *self.at_calls.entry(point.call).or_default() += 1;
    }

    pub(crate) fn at_a_moment(&mut self) {
        self.at_a_moment += 1;
    }

    pub(crate) fn total(&self) -> u32 {
        self.at_calls.values().sum::<u32>() + self.at_a_moment
    }

    /// Calls of the table at which no broker died.
    pub(crate) fn missed(&self) -> Vec<&'static str> {
        CALLS.iter().map(|call| call.name).filter(|name| !self.at_calls.contains_key(name)).collect()
    }

    pub(crate) fn summary(&self) -> String {
        let calls: Vec<String> = self.at_calls.iter().map(|(call, deaths)| format!("{call} {deaths}")).collect();
        format!(
            "{} kills: {} ({} of them in recovery), at a moment {}",
            self.total(),
            calls.join(", "),
            self.in_recovery,
            self.at_a_moment
        )
    }
}
