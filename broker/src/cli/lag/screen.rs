//! The live table of `lag --watch`: from what is known to the lines of a terminal. Pure.

mod layout;
mod rows;

use std::collections::BTreeMap;
use std::time::Duration;

use aqueduct_client::PartitionLag;

use self::layout::Paint;
use self::rows::{Row, Summary};
use super::history::History;
use super::terminal::Size;
use super::words;
use crate::cli::size::{counted, grouped, human_bytes};
use crate::cli::{render, time};

/// Warnings that are shown; the most urgent come first.
const WARNINGS_MAX: usize = 3;

/// Whether colours may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Palette {
    Colour,
    Plain,
}

impl Palette {
    /// Only for a terminal. See <https://no-color.org>.
    pub(super) fn of_environment() -> Self {
        match std::env::var_os("NO_COLOR") {
            Some(value) if !value.is_empty() => Self::Plain,
            Some(_) | None => Self::Colour,
        }
    }
}

/// Which rows there are beside one for each group and topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rows {
    /// Those of partitions as far as there is room for all of a topic.
    Fitting,
    /// Those of all partitions, the most urgent first.
    Partitions,
}

impl Rows {
    pub(super) fn other(self) -> Self {
        match self {
            Self::Fitting => Self::Partitions,
            Self::Partitions => Self::Fitting,
        }
    }
}

/// The broker does not answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Away<'a> {
    pub(super) for_: Duration,
    pub(super) error: &'a str,
}

/// Everything that the table depends on.
pub(super) struct Screen<'a> {
    pub(super) server: &'a str,
    /// When the last report came, if there has been one.
    pub(super) reported_us: Option<i64>,
    pub(super) lags: &'a [PartitionLag],
    pub(super) history: &'a History,
    pub(super) away: Option<Away<'a>>,
    /// What to say if nobody reads anything.
    pub(super) nothing: &'a str,
    pub(super) rows: Rows,
    pub(super) palette: Palette,
    pub(super) size: Size,
}

/// As many lines as the terminal has, at most, none wider than it is.
pub(super) fn draw(screen: &Screen<'_>) -> Vec<String> {
    let Size { columns, rows } = screen.size;
    let paint = |text: &str, style: Paint| style.paint(&cut(text, columns), screen.palette);
    let mut lines = vec![paint(&title(screen), Paint::Bold)];
    if screen.reported_us.is_some() {
        lines.push(paint(&totals(screen.lags), Paint::None));
    }
    if let Some(away) = screen.away {
        lines.push(paint(&away_text(away), Paint::Red));
    }
    let warnings = words::warnings(screen.lags);
    for warning in warnings.iter().take(WARNINGS_MAX) {
        lines.extend(wrapped(&format!("! {warning}"), columns).iter().map(|line| paint(line, Paint::Red)));
    }
    if warnings.len() > WARNINGS_MAX {
        lines.push(paint(&format!("! and {} warnings more", warnings.len() - WARNINGS_MAX), Paint::Red));
    }
    lines.push(String::new());
    if screen.lags.is_empty() {
        if screen.reported_us.is_some() {
            lines.push(paint(screen.nothing, Paint::None));
        }
    } else {
        let summaries = rows::summaries(screen.lags);
        // The head of the table, and the line at the bottom.
        let room = rows.saturating_sub(lines.len() + 2).max(1);
        let (shown, left_out) = chosen(&summaries, screen.rows, room);
        lines.extend(layout::table(&shown, screen.history, columns, screen.palette));
        lines.push(paint(&bottom(screen.rows, left_out, summaries.iter().any(Summary::is_split)), Paint::Dim));
    }
    lines.truncate(rows);
    lines
}

/// The rows for which there is room, and how many there would be more.
fn chosen<'a>(summaries: &'a [Summary<'a>], rows: Rows, room: usize) -> (Vec<Row<'a>>, usize) {
    let mut chosen = Vec::new();
    let mut left_out = 0;
    let mut to_come = summaries.len();
    for summary in summaries {
        to_come -= 1;
        let partitions = summary.partitions(rows);
        let fits = chosen.len() + 1 + partitions.len() + to_come <= room;
        chosen.push(summary.row());
        match rows {
            Rows::Partitions => chosen.extend(partitions),
            Rows::Fitting if fits => chosen.extend(partitions),
            Rows::Fitting => {}
        }
    }
    if chosen.len() > room {
        left_out = chosen.len() - room;
        chosen.truncate(room);
    }
    (chosen, left_out)
}

fn title(screen: &Screen<'_>) -> String {
    let time = screen.reported_us.map(time::rfc3339_seconds);
    format!("aqueduct lag  {}  {}", screen.server, time.unwrap_or_else(|| "waiting for the first report".to_owned()))
}

fn totals(lags: &[PartitionLag]) -> String {
    let count = |name: fn(&PartitionLag) -> &str| {
        let mut names: Vec<&str> = lags.iter().map(name).collect();
        names.sort_unstable();
        names.dedup();
        names.len() as u64
    };
    let records: u64 = lags.iter().map(|lag| lag.lag_records).sum();
    let bytes: u64 = lags.iter().map(|lag| lag.lag_bytes).sum();
    // What comes in comes in once, however many groups read it.
    let known = lags.iter().filter_map(|lag| Some(((lag.topic.as_str(), lag.partition), lag.forecast.rate_in?)));
    let rate_in = known.collect::<BTreeMap<_, f64>>().into_values().reduce(|a, b| a + b);
    let rate_out = lags.iter().filter_map(|lag| lag.forecast.rate_out).reduce(|a, b| a + b);
    format!(
        "{} on {}: {} behind ({}), {}/s in, {}/s out",
        counted(count(|lag| &lag.group), "group"),
        counted(count(|lag| &lag.topic), "topic"),
        counted(records, "record"),
        human_bytes(bytes),
        words::rate(rate_in),
        words::rate(rate_out),
    )
}

fn away_text(away: Away<'_>) -> String {
    let since = Duration::from_secs(away.for_.as_secs());
    let error = render::one_line(away.error, 200);
    format!("no report for {}: {error}; trying again", words::duration(since.max(Duration::from_secs(1))))
}

fn bottom(rows: Rows, left_out: usize, is_split: bool) -> String {
    let more = match left_out {
        0 => String::new(),
        _ => format!("… {} more, less urgent  ", grouped(left_out as u64)),
    };
    let keys = match (is_split, rows) {
        (false, _) => "",
        (true, Rows::Fitting) => "p: all partitions  ",
        (true, Rows::Partitions) => "p: fewer partitions  ",
    };
    format!("{more}{keys}q: quit")
}

/// Broken between words; what follows is indented.
fn wrapped(text: &str, columns: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().map_or(0, |line| line.chars().count());
        if line > 2 && line + 1 + word.chars().count() > columns {
            lines.push(format!("  {word}"));
        } else if let Some(last) = lines.last_mut() {
            if !last.is_empty() {
                last.push(' ');
            }
            last.push_str(word);
        }
    }
    lines
}

/// The first `columns` characters.
fn cut(text: &str, columns: usize) -> String {
    if text.chars().count() <= columns {
        return text.to_owned();
    }
    text.chars().take(columns.saturating_sub(1)).chain(['…']).collect()
}

#[cfg(test)]
mod tests;
