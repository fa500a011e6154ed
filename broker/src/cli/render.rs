//! How results look: tables for people, one JSON object a line for programs.

use std::io::IsTerminal as _;
use std::time::Duration;

use comfy_table::{Cell, CellAlignment, LineStyle, Table, TableStyle};
use serde::Serialize;

use super::stdout::{self, StdoutError};
use super::time;

/// `--output`: for people, or one JSON object a line for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    // Doc comments here would be printed at every command.
    Text,
    Json,
}

/// Where a column's cells stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

/// A table without borders: easy on the eyes, on `grep` and on `awk`.
pub(crate) fn table<const N: usize>(
    columns: [(&str, Align); N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let aligned = |text: String, align: Align| {
        Cell::new(text).set_alignment(match align {
            Align::Left => CellAlignment::Left,
            Align::Right => CellAlignment::Right,
        })
    };
    let mut table = Table::new();
    table.load_style(TableStyle::new().header_separator(LineStyle::none().fill('─').junction('─')));
    table.set_header(columns.map(|(name, align)| aligned(name.to_owned(), align)));
    for row in rows {
        let cells = row.into_iter().zip(columns).map(|(text, (_, align))| aligned(text, align));
        table.add_row(cells.collect::<Vec<_>>());
    }
    for column in table.column_iter_mut() {
        // The space between columns is this and the column separator.
        column.set_padding((0, 1));
    }
    let mut text = table.trim_fmt();
    text.push('\n');
    text
}

/// `name: value` lines with the values under each other.
pub(crate) fn fields<const N: usize>(fields: [(&str, String); N]) -> String {
    let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    fields.iter().map(|(name, value)| format!("{name:width$}  {value}\n")).collect()
}

/// Prints each item as one line of JSON.
///
/// # Errors
/// [`StdoutError`]
pub(crate) fn print_json<T: Serialize>(items: impl IntoIterator<Item = T>) -> Result<(), StdoutError> {
    let mut lines = String::new();
    for item in items {
        lines.push_str(&json_line(&item));
    }
    stdout::print(&lines)
}

/// One line of JSON, with its line end.
pub(crate) fn json_line<T: Serialize>(item: &T) -> String {
    // The types printed are plain structs of strings and numbers, which always serialise.
    let mut line = serde_json::to_string(item).unwrap_or_default();
    line.push('\n');
    line
}

/// A message for people. It must not fail the command when nobody listens any more.
pub(crate) fn note(text: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Progress bars are for people who watch.
pub(crate) fn watched() -> bool {
    std::io::stderr().is_terminal()
}

/// `failed: …; next try in 1.6 s`: what is wrong with a partition, and whether waiting helps.
pub(crate) fn failure(reason: &str, retry_in: Option<Duration>) -> String {
    match retry_in {
        Some(pause) if pause.is_zero() => format!("failed: {reason}; trying again now"),
        Some(pause) => format!("failed: {reason}; next try in {}", time::human(pause)),
        None => format!("failed: {reason}"),
    }
}

/// `1` as `1`, nothing as `-`.
pub(crate) fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// Text that somebody else wrote, as one cell of a table: without line ends and control characters, and cut.
pub(crate) fn one_line(text: &str, chars_max: usize) -> String {
    let mut shown: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(chars_max).collect();
    if text.chars().nth(chars_max).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_align_numbers_right_and_end_without_spaces() {
        let text = table(
            [("TOPIC", Align::Left), ("RECORDS", Align::Right)],
            [["orders".to_owned(), "1,042".to_owned()], ["a".to_owned(), "7".to_owned()]],
        );
        assert_eq!(text, "TOPIC   RECORDS\n────────────────\norders    1,042\na             7\n");
    }

    #[test]
    fn fields_stand_under_each_other() {
        assert_eq!(
            fields([("name", "x".to_owned()), ("partitions", "3".to_owned())]),
            "name        x\npartitions  3\n"
        );
    }
}
