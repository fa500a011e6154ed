//! Latencies: recorded to three digits, drawn so that a person sees their shape.

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::cli::size::grouped;

/// Bucket edges within a decade, finest first. The first that gives few enough rows is taken.
const STEPS: [&[u64]; 4] =
    [&[10, 12, 15, 18, 22, 27, 33, 39, 47, 56, 68, 82], &[10, 15, 20, 30, 50, 70], &[10, 20, 50], &[10]];
const ROWS_MAX: usize = 18;
const BAR_CELLS: u64 = 40;
/// Eighths of a cell, for bars of exact length.
const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];

/// What something took, many times.
#[derive(Debug, Clone)]
pub(super) struct Latencies {
    nanos: Histogram<u64>,
}

/// How many latencies were at least `from` and below `to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bucket {
    pub(super) from: Duration,
    pub(super) to: Duration,
    pub(super) count: u64,
}

impl Default for Latencies {
    fn default() -> Self {
        // The one way to fail is a number of digits over 5.
        let nanos = Histogram::new(3).unwrap_or_else(|_| unreachable!("3 significant digits are allowed"));
        Self { nanos }
    }
}

impl Latencies {
    pub(super) fn record(&mut self, latency: Duration) {
        self.record_many(latency, 1);
    }

    pub(super) fn record_many(&mut self, latency: Duration, count: u64) {
        // It grows as needed, up to 2^64 ns: nothing is ever too large.
        let _ = self.nanos.record_n(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX), count);
    }

    pub(super) fn count(&self) -> u64 {
        self.nanos.len()
    }

    /// `quantile` is from 0 to 1.
    pub(super) fn at(&self, quantile: f64) -> Duration {
        Duration::from_nanos(self.nanos.value_at_quantile(quantile))
    }

    pub(super) fn max(&self) -> Duration {
        Duration::from_nanos(self.nanos.max())
    }

    /// Buckets of equal width on a logarithmic scale, without gaps, from the first that is not empty to the last.
    pub(super) fn buckets(&self) -> Vec<Bucket> {
        let mut buckets = Vec::new();
        for steps in STEPS {
            buckets = self.buckets_of(steps);
            if buckets.len() <= ROWS_MAX {
                break;
            }
        }
        buckets
    }

    fn buckets_of(&self, steps: &[u64]) -> Vec<Bucket> {
        let mut buckets: Vec<Bucket> = Vec::new();
        let mut edges = edges(steps);
        let (mut from, mut to) = (0, edges.next().unwrap_or(u64::MAX));
        for value in self.nanos.iter_recorded() {
            let nanos = value.value_iterated_to();
            while nanos >= to {
                (from, to) = (to, edges.next().unwrap_or(u64::MAX));
                if !buckets.is_empty() {
                    buckets.push(Bucket::empty(from, to));
                }
            }
            match buckets.last_mut() {
                Some(bucket) => bucket.count += value.count_at_value(),
                None => buckets.push(Bucket { count: value.count_at_value(), ..Bucket::empty(from, to) }),
            }
        }
        buckets
    }

    /// `p50 … max` in one line, and a bar for each bucket.
    pub(super) fn draw(&self) -> String {
        if self.count() == 0 {
            return "  nothing was measured\n".to_owned();
        }
        let percentiles = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)];
        let mut text = String::from("  ");
        for (name, quantile) in percentiles {
            text.push_str(&format!("{name} {}   ", human(self.at(quantile))));
        }
        text.push_str(&format!("max {}\n\n", human(self.max())));
        text.push_str(&draw(&self.buckets()));
        text
    }
}

impl Bucket {
    fn empty(from_nanos: u64, to_nanos: u64) -> Self {
        Self { from: Duration::from_nanos(from_nanos), to: Duration::from_nanos(to_nanos), count: 0 }
    }
}

/// From 100 ns up, for ever.
fn edges(steps: &[u64]) -> impl Iterator<Item = u64> {
    let decades = (0..).map_while(|decade| 10_u64.checked_pow(decade + 1));
    decades.flat_map(|decade| steps.iter().filter_map(move |step| step.checked_mul(decade)))
}

/// Aligned bars, as long as their counts.
fn draw(buckets: &[Bucket]) -> String {
    let total: u64 = buckets.iter().map(|bucket| bucket.count).sum();
    let full = buckets.iter().map(|bucket| bucket.count).max().unwrap_or(0);
    let mut text = String::new();
    for bucket in buckets {
        let bar = bar(bucket.count, full);
        let share = 100.0 * bucket.count as f64 / total.max(1) as f64;
        let width = usize::try_from(BAR_CELLS).unwrap_or(0);
        let from = human(bucket.from);
        let line = format!("  {from:>8} ┤{bar:<width$} {:>11} {share:>7.3} %", grouped(bucket.count));
        text.push_str(&line);
        text.push('\n');
    }
    text
}

/// What is there at all is seen.
fn bar(count: u64, full: u64) -> String {
    let eighths = u128::from(count) * u128::from(BAR_CELLS * 8) / u128::from(full.max(1));
    let eighths = usize::try_from(eighths).unwrap_or(0);
    let eighths = if count > 0 { eighths.max(1) } else { 0 };
    format!("{}{}", "█".repeat(eighths / 8), EIGHTHS[eighths % 8])
}

/// Three digits: `0.95 µs`, `87.3 µs`, `212 µs`, `1.24 ms`, `3.50 s`.
pub(super) fn human(duration: Duration) -> String {
    let nanos = duration.as_nanos() as f64;
    let (number, unit) = match nanos {
        ..999_500.0 => (nanos / 1e3, "µs"),
        ..999_500_000.0 => (nanos / 1e6, "ms"),
        _ => (nanos / 1e9, "s"),
    };
    format!("{} {unit}", three_digits(number))
}

/// `0.95`, `8.73`, `87.3`, `873`, `8,730`.
pub(super) fn three_digits(number: f64) -> String {
    match number {
        ..9.995 => format!("{number:.2}"),
        ..99.95 => format!("{number:.1}"),
        ..999.5 => format!("{number:.0}"),
        // It is not negative, and its fraction says nothing.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        _ => grouped(number.round() as u64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(micros: &[u64]) -> Latencies {
        let mut latencies = Latencies::default();
        micros.iter().for_each(|us| latencies.record(Duration::from_micros(*us)));
        latencies
    }

    #[test]
    fn every_latency_is_in_the_one_bucket_it_belongs_to() {
        let latencies = of(&[125, 149, 151, 179, 181, 340, 340, 340]);
        let counts: Vec<_> = latencies.buckets().iter().map(|b| (b.from.as_micros(), b.count)).collect();
        assert_eq!(counts, [(120, 2), (150, 2), (180, 1), (220, 0), (270, 0), (330, 3)]);
    }

    #[test]
    fn buckets_have_no_gaps_and_lose_nothing() {
        let seed = fastrand::u64(..);
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..100 {
            let latencies = of(&(0..random.usize(1..500)).map(|_| 1 << random.u64(0..25)).collect::<Vec<_>>());
            let buckets = latencies.buckets();
            assert_eq!(buckets.iter().map(|b| b.count).sum::<u64>(), latencies.count(), "seed {seed}");
            assert!(buckets.windows(2).all(|pair| pair[0].to == pair[1].from), "seed {seed}: {buckets:?}");
            assert!(buckets.len() <= ROWS_MAX, "seed {seed}: {buckets:?}");
            assert!(buckets[0].count > 0 && buckets[buckets.len() - 1].count > 0, "seed {seed}: {buckets:?}");
        }
    }

    #[test]
    fn the_drawing_is_aligned_and_shows_the_smallest_bucket() {
        let mut latencies = of(&[157, 340]);
        latencies.record_many(Duration::from_micros(125), 79_998);
        let text = latencies.draw();
        let lines: Vec<&str> = text.lines().skip(2).collect();
        assert_eq!(lines[0], format!("    120 µs ┤{}      79,998  99.998 %", "█".repeat(40)));
        assert_eq!(lines[1], format!("    150 µs ┤▏{}           1   0.001 %", " ".repeat(39)));
        assert!(lines.iter().all(|line| line.chars().count() == lines[0].chars().count()), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        assert_eq!(Latencies::default().draw(), "  nothing was measured\n");
    }

    #[test]
    fn numbers_have_three_digits() {
        for (nanos, text) in [
            (950, "0.95 µs"),
            (87_340, "87.3 µs"),
            (212_000, "212 µs"),
            (999_400, "999 µs"),
            (999_600, "1.00 ms"),
            (1_240_000, "1.24 ms"),
            (3_500_000_000, "3.50 s"),
        ] {
            assert_eq!(human(Duration::from_nanos(nanos)), text);
        }
        assert_eq!(three_digits(8_730.4), "8,730");
    }

    #[test]
    fn percentiles_are_those_of_what_was_recorded() {
        let latencies = of(&(1..=1_000).collect::<Vec<_>>());
        assert_eq!(latencies.count(), 1_000);
        let near = |quantile: f64, us: u64| latencies.at(quantile).as_micros().abs_diff(u128::from(us)) <= 1;
        assert!(near(0.5, 500) && near(0.99, 990) && latencies.max().as_micros().abs_diff(1_000) <= 1);
    }
}
