//! What lag was lately, for the curves of the live table.

use std::collections::{HashMap, VecDeque};

use aqueduct_client::PartitionLag;

/// Reports that are remembered of each partition: a minute, at one a second.
const REPORTS_MAX: usize = 60;

const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Lag in records of each partition of the last report, oldest first.
#[derive(Debug, Default)]
pub(super) struct History {
    positions: HashMap<Position, VecDeque<u64>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Position {
    group: String,
    topic: String,
    partition: u32,
}

impl Position {
    fn of(lag: &PartitionLag) -> Self {
        Self { group: lag.group.clone(), topic: lag.topic.clone(), partition: lag.partition }
    }
}

impl History {
    /// Takes a report; what is not in it any more is forgotten.
    pub(super) fn push(&mut self, report: &[PartitionLag]) {
        let mut before = std::mem::take(&mut self.positions);
        for lag in report {
            let position = Position::of(lag);
            let mut records = before.remove(&position).unwrap_or_default();
            if records.len() == REPORTS_MAX {
                records.pop_front();
            }
            records.push_back(lag.lag_records);
            self.positions.insert(position, records);
        }
    }

    /// The lag of all these partitions together, oldest first.
    pub(super) fn sum(&self, lags: &[&PartitionLag]) -> Vec<u64> {
        let mut sum = Vec::new();
        for records in lags.iter().filter_map(|lag| self.positions.get(&Position::of(lag))) {
            if sum.len() < records.len() {
                let missing = records.len() - sum.len();
                sum.splice(0..0, std::iter::repeat_n(0, missing));
            }
            // The newest ones belong together.
            sum.iter_mut().rev().zip(records.iter().rev()).for_each(|(sum, records)| *sum += records);
        }
        sum
    }
}

/// A curve of `width` characters; the newest value is at its right end, the highest fills its character.
pub(super) fn curve(values: &[u64], width: usize) -> String {
    let per_char = REPORTS_MAX.div_ceil(width.max(1));
    let mut chars: Vec<char> = Vec::with_capacity(width);
    let highest = values.iter().max().copied().unwrap_or(0).max(1);
    for bucket in values.rchunks(per_char).take(width) {
        let value = bucket.iter().max().copied().unwrap_or(0);
        // Whatever is not zero is seen.
        let level = (u128::from(value) * 7).div_ceil(u128::from(highest));
        chars.push(LEVELS[usize::try_from(level).unwrap_or(0).min(7)]);
    }
    chars.resize(width, ' ');
    chars.into_iter().rev().collect()
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    fn report(lags: &[(u32, u64)]) -> Vec<PartitionLag> {
        let of = |&(partition, records)| {
            let mut lag = sample(records, 0.0);
            lag.partition = partition;
            lag
        };
        lags.iter().map(of).collect()
    }

    #[test]
    fn partitions_add_up_by_their_newest_values() {
        let mut history = History::default();
        history.push(&report(&[(0, 1)]));
        history.push(&report(&[(0, 2), (1, 10)]));
        let last = report(&[(0, 3), (1, 20)]);
        history.push(&last);
        assert_eq!(history.sum(&last.iter().collect::<Vec<_>>()), [1, 12, 23]);
        assert_eq!(history.sum(&[&last[1]]), [10, 20]);
        history.push(&report(&[(1, 5)]));
        assert_eq!(history.sum(&last.iter().collect::<Vec<_>>()), [10, 20, 5], "what is gone is forgotten");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut history = History::default();
        (0..200).for_each(|records| history.push(&report(&[(0, records)])));
        let kept = history.sum(&[&report(&[(0, 0)])[0]]);
        assert_eq!((kept.len(), kept[0], kept[59]), (60, 140, 199));
    }

    #[test]
    fn curves_stand_on_the_right_and_show_what_is_not_zero() {
        assert_eq!(curve(&[], 5), "     ");
        assert_eq!(curve(&[0, 0], 30), format!("{}▁", " ".repeat(29)));
        assert_eq!(curve(&[0, 0, 1, 1, 700, 700], 30).trim_start(), "▁▂█");
        let rising: Vec<u64> = (0..60).collect();
        assert_eq!(curve(&rising, 10), "▂▃▄▄▅▆▆▇██");
        assert_eq!(curve(&rising, 1), "█");
        assert_eq!(curve(&[u64::MAX, 0], 60).trim_start(), "█▁");
    }
}
