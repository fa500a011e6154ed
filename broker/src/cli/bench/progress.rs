//! What is going on, for people who watch.

use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use parking_lot::Mutex;

use crate::cli::render;

/// One line on standard error that changes; nothing where nobody watches.
#[derive(Debug)]
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    phase: Mutex<Phase>,
}

#[derive(Debug, Default)]
struct Phase {
    name: String,
    span: Option<(Instant, Duration)>,
}

impl Progress {
    pub(super) fn new() -> Self {
        // Drawn when the load has a moment: a ticker of its own would take time from what is measured.
        let bar = render::watched().then(ProgressBar::new_spinner);
        Self { bar, phase: Mutex::default() }
    }

    /// Something else is going on, for a known time or not.
    pub(super) fn phase(&self, name: &str, span: Option<(Instant, Duration)>) {
        *self.phase.lock() = Phase { name: name.to_owned(), span };
        self.tick();
    }

    pub(super) fn tick(&self) {
        let Some(bar) = &self.bar else { return };
        let phase = self.phase.lock();
        let time = phase.span.map_or_else(String::new, |(begun, takes)| {
            format!(" {:.0} of {:.0} s", begun.elapsed().min(takes).as_secs_f64(), takes.as_secs_f64())
        });
        bar.set_message(format!("{}{time}", phase.name));
        bar.tick();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
