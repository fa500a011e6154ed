//! Figures as they are measured, one a line.

use std::{collections::BTreeMap, time::Duration};

/// What has been measured so far, so that later figures can be given as ratios.
pub(crate) struct Report {
    figures: BTreeMap<&'static str, f64>,
}

impl Report {
    pub(crate) fn new() -> Self {
        Self { figures: BTreeMap::new() }
    }

    /// Prints and keeps a figure.
    pub(crate) fn figure(&mut self, name: &'static str, value: f64, unit: &str) {
        println!("{name:<44} {value:>14.1} {unit}");
        self.figures.insert(name, value);
    }

    /// Prints and keeps a duration, in microseconds.
    pub(crate) fn duration(&mut self, name: &'static str, value: Duration) {
        self.figure(name, value.as_secs_f64() * 1e6, "µs");
    }

    /// A figure of before.
    pub(crate) fn known(&self, name: &str) -> Option<f64> {
        self.figures.get(name).copied()
    }
}
