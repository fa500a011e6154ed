//! Counts what passes a gate, so that a bound holds although whoever looks at the lag is always a little late.
//!
//! What has passed is on its way until it has landed, and only what has landed is sure to be part of the lag that a look
//! finds. So a look reads what had landed before it began, and what may pass altogether is that and the room it has
//! found: whatever passes meanwhile counts, and what lands meanwhile counts twice until the next look, never not at all.

use std::sync::atomic::{AtomicU64, Ordering};

/// See the [module](self). Everything is counted from the beginning.
#[derive(Debug, Default)]
pub(super) struct Meter {
    passed: AtomicU64,
    landed: AtomicU64,
    limit: AtomicU64,
}

impl Meter {
    /// Whether `amount` may pass. As long as there is any room, it may overdraw it: a batch is not cut.
    pub(super) fn pass(&self, amount: u64) -> bool {
        let passes = self.passed.fetch_add(amount, Ordering::AcqRel) < self.limit.load(Ordering::Acquire);
        if !passes {
            self.passed.fetch_sub(amount, Ordering::AcqRel);
        }
        passes
    }

    /// What passed is not used after all.
    pub(super) fn take_back(&self, amount: u64) {
        self.passed.fetch_sub(amount, Ordering::AcqRel);
    }

    /// What passed is stored, or never will be.
    pub(super) fn land(&self, amount: u64) {
        self.landed.fetch_add(amount, Ordering::AcqRel);
    }

    /// What has landed: to be read before a look begins.
    pub(super) fn landed(&self) -> u64 {
        self.landed.load(Ordering::Acquire)
    }

    /// Takes over the room that a look has found.
    pub(super) fn allow(&self, landed_before: u64, room: u64) {
        self.limit.store(landed_before.saturating_add(room), Ordering::Release);
    }

    /// Whether nothing can pass before another look.
    pub(super) fn is_used_up(&self) -> bool {
        self.passed.load(Ordering::Acquire) >= self.limit.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_look_never_makes_room_twice_for_the_same_records() {
        for seed in 0..300 {
            let mut random = fastrand::Rng::with_seed(seed);
            let (bound, batch_max) = (random.u64(1..50), random.u64(1..5));
            let meter = Meter::default();
            // Stored records are the lag: nobody reads. Landing follows storing, sooner or later.
            let (mut on_the_way, mut unlanded, mut stored) = (Vec::new(), Vec::new(), 0);
            let mut look = None;
            for _ in 0..500 {
                match random.u8(0..5) {
                    0 => {
                        let batch = random.u64(1..=batch_max);
                        on_the_way.extend(meter.pass(batch).then_some(batch));
                    }
                    1 => {
                        let batch = on_the_way.pop().unwrap_or_default();
                        stored += batch;
                        unlanded.push(batch);
                    }
                    2 => meter.land(unlanded.pop().unwrap_or_default()),
                    // A look takes a while: it reads what had landed, then the lag, and tells much later.
                    3 if look.is_none() => look = Some((meter.landed(), bound.saturating_sub(stored))),
                    _ => {
                        if let Some((landed, room)) = look.take() {
                            meter.allow(landed, room);
                        }
                    }
                }
                let most = stored + on_the_way.iter().sum::<u64>();
                assert!(most < bound + batch_max, "seed {seed}: {most} of {bound}");
            }
        }
    }

    #[test]
    fn an_unbounded_room_is_never_used_up() {
        let meter = Meter::default();
        assert!(meter.is_used_up() && !meter.pass(1));
        meter.land(7);
        meter.allow(meter.landed(), u64::MAX);
        assert!(meter.pass(u64::MAX / 4) && meter.pass(u64::MAX / 4) && !meter.is_used_up());
    }
}
