//! Columns of the live table: which there is room for, how wide, in which colour.

use aqueduct_client::RetentionRisk;

use super::super::history::{History, curve};
use super::super::words::{self, Outlook};
use super::rows::Row;
use super::{Palette, cut};
use crate::cli::render::Align;
use crate::cli::size::{grouped, human_bytes};

/// Between two columns.
const GAP: usize = 2;
/// Names are not cut any shorter.
const NAME_CHARS_MIN: usize = 12;
const CURVE_CHARS_MIN: usize = 8;
const CURVE_CHARS_MAX: usize = 30;

/// How a text is coloured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Paint {
    None,
    Bold,
    Dim,
    Red,
    Yellow,
    Green,
}

impl Paint {
    pub(super) fn paint(self, text: &str, palette: Palette) -> String {
        let code = match (palette, self) {
            (Palette::Plain, _) | (Palette::Colour, Self::None) => return text.to_owned(),
            (Palette::Colour, Self::Bold) => 1,
            (Palette::Colour, Self::Dim) => 2,
            (Palette::Colour, Self::Red) => 31,
            (Palette::Colour, Self::Yellow) => 33,
            (Palette::Colour, Self::Green) => 32,
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Column {
    Name,
    Lag,
    Curve,
    Age,
    Bytes,
    In,
    Out,
    CatchUp,
    Loss,
    Member,
}

const COLUMNS: [Column; 10] = [
    Column::Name,
    Column::Lag,
    Column::Curve,
    Column::Bytes,
    Column::Age,
    Column::In,
    Column::Out,
    Column::CatchUp,
    Column::Loss,
    Column::Member,
];

/// What is left out first where there is no room.
const DISPENSABLE: [Column; 5] = [Column::Bytes, Column::Member, Column::Curve, Column::Age, Column::In];

impl Column {
    fn title(self) -> &'static str {
        match self {
            Self::Name => "GROUP TOPIC",
            Self::Lag => "LAG",
            Self::Curve => "TREND",
            Self::Bytes => "BYTES",
            Self::Age => "AGE",
            Self::In => "IN/s",
            Self::Out => "OUT/s",
            Self::CatchUp => "CATCH UP",
            Self::Loss => "LOSS IN",
            Self::Member => "MEMBER",
        }
    }

    fn align(self) -> Align {
        match self {
            Self::Name | Self::Curve | Self::Member => Align::Left,
            Self::Lag | Self::Bytes | Self::Age | Self::In | Self::Out | Self::CatchUp | Self::Loss => Align::Right,
        }
    }

    /// `width` is that of a curve; other cells are as wide as they are.
    fn text(self, row: &Row<'_>, history: &History, width: usize) -> String {
        match self {
            Self::Name => row.name.clone(),
            Self::Lag => grouped(row.records),
            Self::Curve => curve(&history.sum(&row.lags), width),
            Self::Bytes => human_bytes(row.bytes),
            Self::Age => words::age(row.age),
            Self::In => words::rate(row.rate_in),
            Self::Out => words::rate(row.rate_out),
            Self::CatchUp => row.outlook.text(),
            Self::Loss => words::loss(row.loss),
            Self::Member => row.member.clone(),
        }
    }

    fn paint(self, row: &Row<'_>) -> Paint {
        match self {
            Self::Lag | Self::Loss if row.risk.is_some() => Paint::Red,
            Self::CatchUp => match row.outlook {
                Outlook::FallsBehind => Paint::Yellow,
                Outlook::CatchesUp(_) => Paint::None,
                Outlook::Done | Outlook::Live => Paint::Green,
                Outlook::Unknown => Paint::Dim,
            },
            Self::Member if row.member == "nobody" && row.records > 0 => Paint::Yellow,
            Self::Curve => match row.risk {
                Some(RetentionRisk::Near | RetentionRisk::Lost) => Paint::Red,
                None => Paint::Dim,
            },
            Self::Name | Self::Lag | Self::Bytes | Self::Age | Self::In | Self::Out | Self::Loss | Self::Member => {
                Paint::None
            }
        }
    }
}

/// The head and a line for each row.
pub(super) fn table(rows: &[Row<'_>], history: &History, columns: usize, palette: Palette) -> Vec<String> {
    let widths = widths(rows, history, columns);
    let head: Vec<String> = widths.iter().map(|(column, width)| pad(column.title(), *width, column.align())).collect();
    let mut lines = vec![Paint::Dim.paint(&cut(head.join("  ").trim_end(), columns), palette)];
    for row in rows {
        let cell = |(column, width): &(Column, usize)| {
            let text = pad(&column.text(row, history, *width), *width, column.align());
            column.paint(row).paint(&text, palette)
        };
        lines.push(widths.iter().map(cell).collect::<Vec<_>>().join("  ").trim_end().to_owned());
    }
    lines
}

/// The columns for which there is room. On a wide terminal the curve gets what is left over; on a narrow one names are cut
/// before a column is left out.
fn widths(rows: &[Row<'_>], history: &History, columns: usize) -> Vec<(Column, usize)> {
    let width = |column: Column| {
        if column == Column::Curve {
            return CURVE_CHARS_MIN;
        }
        let cells = rows.iter().map(|row| column.text(row, history, 0).chars().count());
        cells.max().unwrap_or(0).max(column.title().len())
    };
    let mut widths: Vec<(Column, usize)> = COLUMNS.map(|column| (column, width(column))).into();
    let total = |widths: &[(Column, usize)]| widths.iter().map(|(_, width)| width + GAP).sum::<usize>() - GAP;
    let name = widths.first().map_or(0, |(_, width)| *width);
    let name_min = name.min(NAME_CHARS_MIN.max(columns / 4));
    for dispensable in DISPENSABLE {
        if total(&widths) - (name - name_min) <= columns {
            break;
        }
        widths.retain(|(column, _)| *column != dispensable);
    }
    let surplus = total(&widths).saturating_sub(columns);
    let spare = columns.saturating_sub(total(&widths));
    for (column, width) in &mut widths {
        if *column == Column::Name {
            *width -= surplus.min(name - name_min);
        } else if *column == Column::Curve {
            *width = (*width + spare).min(CURVE_CHARS_MAX);
        }
    }
    widths
}

fn pad(text: &str, width: usize, align: Align) -> String {
    let text = cut(text, width);
    match align {
        Align::Left => format!("{text:<width$}"),
        Align::Right => format!("{text:>width$}"),
    }
}
