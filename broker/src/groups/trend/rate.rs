//! How fast a counter rises. Pure.

use std::time::Duration;

/// What lies this far back counts 1/e of what is now.
const MEMORY: Duration = Duration::from_secs(20);

/// The mean rise of a counter per second, in which the past counts less the longer ago it is.
///
/// Until [`MEMORY`] has passed a few times it is the mean over what there has been: nothing is taken for zero that was
/// never looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Rate {
    /// Of the rises, each with what it still counts.
    weighted: f64,
    /// What all of them together count: 0 at first, towards 1.
    weight: f64,
}

impl Rate {
    /// The counter has risen by `rise` within `over`.
    pub(crate) fn observe(&mut self, rise: f64, over: Duration) {
        let seconds = over.as_secs_f64();
        if seconds <= 0.0 {
            return;
        }
        let kept = (-seconds / MEMORY.as_secs_f64()).exp();
        self.weighted = self.weighted * kept + rise / seconds * (1.0 - kept);
        self.weight = self.weight * kept + (1.0 - kept);
    }

    /// Per second; `None` before the first observation.
    pub(crate) fn per_second(&self) -> Option<f64> {
        (self.weight > 0.0).then(|| self.weighted / self.weight)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn per_second(rate: Rate) -> f64 {
        rate.per_second().expect("it was observed")
    }

    #[test]
    fn nothing_is_known_before_the_first_observation() {
        let mut rate = Rate::default();
        assert_eq!(rate.per_second(), None);
        rate.observe(100.0, Duration::ZERO);
        assert_eq!(rate.per_second(), None, "no time has passed");
        rate.observe(0.0, Duration::from_secs(1));
        assert_eq!(rate.per_second(), Some(0.0));
    }

    #[test]
    fn a_steady_rise_is_told_from_the_first_moment_on_however_it_is_cut() {
        for seed in 0..200 {
            let mut random = fastrand::Rng::with_seed(seed);
            let steady = random.f64() * 1e6;
            let mut rate = Rate::default();
            for _ in 0..50 {
                let over = Duration::from_micros(random.u64(1..5_000_000));
                rate.observe(steady * over.as_secs_f64(), over);
                assert!((per_second(rate) - steady).abs() <= steady * 1e-9, "seed {seed}: {rate:?}");
            }
        }
    }

    #[test]
    fn it_is_the_mean_of_the_past_with_weights_that_fade() {
        for seed in 0..200 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut rate = Rate::default();
            let steps: Vec<(f64, f64)> =
                (0..random.usize(1..40)).map(|_| (random.f64() * 1000.0, random.f64() * 10.0 + 0.001)).collect();
            for (rise, seconds) in &steps {
                rate.observe(*rise, Duration::from_secs_f64(*seconds));
            }
            // The integral of rise(t)·e^(−age/20), divided by that of e^(−age/20).
            let (mut weighted, mut weights, mut ago) = (0.0, 0.0, 0.0);
            for (rise, seconds) in steps.iter().rev() {
                let weight = (-ago / 20.0_f64).exp() - (-(ago + seconds) / 20.0).exp();
                weighted += rise / seconds * weight;
                weights += weight;
                ago += seconds;
            }
            let expected = weighted / weights;
            assert!((per_second(rate) - expected).abs() <= expected * 1e-4, "seed {seed}: {rate:?}, not {expected}");
        }
    }

    #[test]
    fn what_has_stopped_fades_and_what_has_changed_is_followed_within_a_minute() {
        let mut rate = Rate::default();
        (0..300).for_each(|_| rate.observe(1000.0, Duration::from_secs(1)));
        (0..60).for_each(|_| rate.observe(0.0, Duration::from_secs(1)));
        assert!(per_second(rate) < 60.0, "{rate:?}");
        (0..60).for_each(|_| rate.observe(5000.0, Duration::from_secs(1)));
        assert!(per_second(rate) > 4700.0, "{rate:?}");
        rate.observe(3_600_000.0, Duration::from_secs(3600));
        assert!((per_second(rate) - 1000.0).abs() < 0.001, "an hour outweighs whatever was before it: {rate:?}");
    }
}
