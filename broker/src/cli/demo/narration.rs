//! How the demo speaks: short lines, numbers, timing, at 80 columns, with or without a terminal.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use crate::cli::render::Format;
use crate::cli::size::grouped;

/// Eighths of a cell, for bars that move smoothly.
const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
/// Cells of a bar.
const BAR_CELLS: u64 = 14;

/// Tells the story on standard output, or on standard error when standard output is for JSON.
#[derive(Debug)]
pub(super) struct Narrator {
    started: Instant,
    steps: u32,
    color: bool,
    to_stderr: bool,
}

impl Narrator {
    pub(super) fn new(format: Format) -> Self {
        let to_stderr = format == Format::Json;
        let terminal = if to_stderr { io::stderr().is_terminal() } else { io::stdout().is_terminal() };
        let color = terminal && std::env::var_os("NO_COLOR").is_none();
        Self { started: Instant::now(), steps: 0, color, to_stderr }
    }

    /// A new step of the story.
    pub(super) fn step(&mut self, title: &str) {
        self.steps += 1;
        let text = format!("{}  {title}", self.steps);
        self.write(&format!("\n{}\n", self.styled("1", &text)));
    }

    /// What happened, with the time since the beginning.
    pub(super) fn line(&self, text: &str) {
        let time = format!("{:6.2}s", self.started.elapsed().as_secs_f64());
        let text = wrapped(text).join("\n         ");
        self.write(&format!("{}  {text}\n", self.styled("2", &time)));
    }

    /// A check that held.
    pub(super) fn good(&self, text: &str) {
        self.line(&format!("{} {text}", self.styled("32", "✓")));
    }

    /// A check that did not.
    pub(super) fn bad(&self, text: &str) {
        self.line(&format!("{} {text}", self.styled("31;1", "✗")));
    }

    /// As it is.
    pub(super) fn plain(&self, text: &str) {
        self.write(&format!("{text}\n"));
    }

    /// Since the beginning.
    pub(super) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    fn styled(&self, style: &str, text: &str) -> String {
        if self.color { format!("\x1b[{style}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn write(&self, text: &str) {
        // A story that nobody listens to any more is no reason to fail.
        let _ = if self.to_stderr {
            io::stderr().lock().write_all(text.as_bytes())
        } else {
            let mut stdout = io::stdout().lock();
            stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush())
        };
    }
}

/// Lines that fit beside the time. A word that is longer than a line keeps its line to itself.
fn wrapped(text: &str) -> Vec<String> {
    const LINE_CHARS_MAX: usize = 71;
    if text.chars().count() <= LINE_CHARS_MAX {
        return vec![text.to_owned()];
    }
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.chars().count() + 1 + word.chars().count() <= LINE_CHARS_MAX => {
                line.push(' ');
                line.push_str(word);
            }
            Some(_) | None => lines.push(word.to_owned()),
        }
    }
    lines
}

/// `dashboard █████▍             12,345`
pub(super) fn bar(name: &str, value: u64, full: u64) -> String {
    let eighths = (value.saturating_mul(BAR_CELLS * 8) / full.max(1)).min(BAR_CELLS * 8);
    // Anything above nothing is seen.
    let eighths = if value > 0 { eighths.max(1) } else { 0 };
    let part = usize::try_from(eighths % 8).map_or("", |part| EIGHTHS[part]);
    let cells = usize::try_from(eighths / 8).unwrap_or(0);
    let drawn = format!("{}{part}", "█".repeat(cells));
    let width = usize::try_from(BAR_CELLS).unwrap_or(0);
    format!("{name} {drawn:width$} {:>7}", grouped(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_are_wrapped_and_aligned_text_is_left_alone() {
        assert_eq!(wrapped("a    b"), ["a    b"]);
        let long = wrapped(&"word ".repeat(20));
        assert!(long.iter().all(|line| line.len() <= 71), "{long:?}");
        assert_eq!(long.join(" ").trim(), "word ".repeat(20).trim());
    }

    #[test]
    fn bars_keep_their_width_and_show_the_smallest_lag() {
        assert_eq!(bar("a", 0, 100), format!("a {} {:>7}", " ".repeat(14), 0));
        assert_eq!(bar("a", 1, 1_000_000), format!("a ▏{} {:>7}", " ".repeat(13), 1));
        assert_eq!(bar("a", 100, 100), format!("a {} {:>7}", "█".repeat(14), 100));
        assert_eq!(bar("a", 500, 100), format!("a {} {:>7}", "█".repeat(14), 500));
    }
}
