//! Findings as people and programs see them, of a directory or from a broker.

use std::path::Path;
use std::time::Duration;

use aqueduct::stopped::{self, Checked, Finding, LogName, Severity};
use serde::Serialize;

use crate::cli::render::{self, Format};
use crate::cli::size::{counted, grouped, human_bytes};
use crate::cli::stdout::{self, StdoutError};
use crate::cli::time;

/// One finding. Positions and offsets are `from` inclusive, `to` exclusive.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Shown {
    #[serde(rename = "type")]
    pub(crate) kind_of_line: &'static str,
    pub(crate) severity: &'static str,
    pub(crate) finding: String,
    pub(crate) topic: Option<String>,
    pub(crate) partition: Option<u32>,
    pub(crate) system_log: Option<String>,
    pub(crate) file: String,
    pub(crate) byte_from: Option<u64>,
    pub(crate) byte_to: Option<u64>,
    pub(crate) offset_from: Option<u64>,
    pub(crate) offset_to: Option<u64>,
    pub(crate) message: String,
}

pub(crate) const FINDING: &str = "finding";
pub(crate) const DAMAGE: &str = "damage";
pub(crate) const NOTE: &str = "note";

impl Shown {
    /// With the file named relative to `directory`.
    pub(crate) fn of(finding: &Finding, directory: &Path) -> Self {
        let file = finding.file.strip_prefix(directory).unwrap_or(&finding.file);
        let mut shown = Self {
            kind_of_line: FINDING,
            severity: match finding.fact.severity() {
                Severity::Damage => DAMAGE,
                Severity::Note => NOTE,
            },
            finding: finding.fact.name().to_owned(),
            file: file.display().to_string(),
            byte_from: finding.bytes.as_ref().map(|bytes| bytes.start),
            byte_to: finding.bytes.as_ref().map(|bytes| bytes.end),
            offset_from: finding.offsets.as_ref().map(|offsets| offsets.start),
            offset_to: finding.offsets.as_ref().map(|offsets| offsets.end),
            message: stopped::describe(&finding.fact),
            ..Self::default()
        };
        match &finding.log {
            Some(LogName::Partition { topic, partition }) => {
                shown.topic = Some(topic.clone());
                shown.partition = Some(*partition);
            }
            Some(LogName::System(name)) => shown.system_log = Some(name.clone()),
            None => {}
        }
        shown
    }

    fn is_damage(&self) -> bool {
        self.severity == DAMAGE
    }

    /// `orders/3`, as receipts name it.
    fn log(&self) -> Option<String> {
        match (&self.topic, self.partition, &self.system_log) {
            (Some(topic), Some(partition), _) => Some(format!("{topic}/{partition}")),
            (Some(topic), None, _) => Some(topic.clone()),
            (None, _, Some(name)) => Some(format!("system/{name}")),
            (None, _, None) => None,
        }
    }

    /// Three lines: what it concerns, where it lies, what it means.
    pub(crate) fn text(&self) -> String {
        let label = if self.is_damage() { "DAMAGE" } else { "note" };
        let mut heading: Vec<String> = self.log().into_iter().collect();
        if let (Some(from), Some(to)) = (self.offset_from, self.offset_to) {
            heading.push(range("offset", from, to));
        }
        let mut place = self.file.clone();
        if let (Some(from), Some(to)) = (self.byte_from, self.byte_to) {
            place.push_str(&format!(", {}", range("byte", from, to)));
        }
        if heading.is_empty() {
            heading.push(std::mem::take(&mut place));
        }
        let mut text = format!("{label:6}  {}\n", heading.join(", "));
        if !place.is_empty() {
            text.push_str(&format!("        {place}\n"));
        }
        text.push_str(&format!("        {}\n", self.message));
        text
    }
}

/// `offset 7`, `offsets 10 to 19`: both ends inclusive, as people read them.
pub(crate) fn range(noun: &str, from: u64, to: u64) -> String {
    match to.saturating_sub(from) {
        0 | 1 => format!("{noun} {from}"),
        _ => format!("{noun}s {from} to {}", to - 1),
    }
}

/// What was looked at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Totals {
    pub(crate) checked: Checked,
    pub(crate) took: Duration,
}

/// Prints findings and counts them.
#[derive(Debug)]
pub(crate) struct Report {
    format: Format,
    damage: u64,
    damaged_offsets: u64,
    notes: u64,
    not_closed: u64,
}

#[derive(Serialize)]
struct SummaryJson {
    #[serde(rename = "type")]
    kind_of_line: &'static str,
    damage: u64,
    damaged_offsets: u64,
    notes: u64,
    logs: u64,
    segments: u64,
    batches: u64,
    records: u64,
    bytes_read: u64,
    seconds: f64,
}

impl Report {
    pub(crate) fn new(format: Format) -> Self {
        Self { format, damage: 0, damaged_offsets: 0, notes: 0, not_closed: 0 }
    }

    /// Number of findings that are damage.
    pub(crate) fn damage(&self) -> u64 {
        self.damage
    }

    pub(crate) fn print(&mut self, shown: &Shown) -> Result<(), StdoutError> {
        if shown.is_damage() {
            self.damage += 1;
            let offsets = shown.offset_to.zip(shown.offset_from).map_or(0, |(to, from)| to.saturating_sub(from));
            self.damaged_offsets += offsets;
        } else {
            self.notes += 1;
        }
        match self.format {
            Format::Text => stdout::print(&shown.text()),
            Format::Json => stdout::print(&render::json_line(shown)),
        }
    }

    /// A log that was not closed.
    pub(crate) fn count_not_closed(&mut self, shown: &Shown) -> Result<(), StdoutError> {
        self.not_closed += 1;
        self.notes += 1;
        match self.format {
            Format::Text => Ok(()),
            Format::Json => stdout::print(&render::json_line(shown)),
        }
    }

    /// The summary.
    pub(crate) fn finish(&mut self, totals: Totals) -> Result<(), StdoutError> {
        let Totals { checked, took } = totals;
        let Checked { logs, segments, batches, records, bytes } = checked;
        match self.format {
            Format::Json => stdout::print(&render::json_line(&SummaryJson {
                kind_of_line: "summary",
                damage: self.damage,
                damaged_offsets: self.damaged_offsets,
                notes: self.notes,
                logs,
                segments,
                batches,
                records,
                bytes_read: bytes,
                seconds: took.as_secs_f64(),
            })),
            Format::Text => stdout::print(&format!(
                "{}{}verified {} in {}: {}, {}, {} ({}) are as they were written\n{}\n",
                self.not_closed_line(),
                if self.damage + self.notes > 0 { "\n" } else { "" },
                human_bytes(bytes),
                time::human(took),
                counted(logs, "log"),
                counted(segments, "segment"),
                counted(records, "record"),
                if batches == 1 { "1 batch".to_owned() } else { format!("{} batches", grouped(batches)) },
                self.verdict(),
            )),
        }
    }

    fn not_closed_line(&self) -> String {
        match self.not_closed {
            0 => String::new(),
            1 => "note    1 log was not closed: the next start looks at its end\n".to_owned(),
            many => format!("note    {} logs were not closed: the next start looks at their ends\n", grouped(many)),
        }
    }

    fn verdict(&self) -> String {
        let notes = match self.notes {
            0 => String::new(),
            notes => format!(", {}", counted(notes, "note")),
        };
        match (self.damage, self.damaged_offsets) {
            (0, _) => format!("no damage{notes}"),
            (damage, 0) => format!("DAMAGED in {}{notes}", counted(damage, "place")),
            (damage, offsets) => {
                format!("DAMAGED in {}: {} cannot be read{notes}", counted(damage, "place"), counted(offsets, "offset"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use aqueduct::stopped::Fact;

    use super::*;

    fn finding() -> Finding {
        Finding {
            log: Some(LogName::Partition { topic: "orders".to_owned(), partition: 3 }),
            file: "/data/topics/orders/3/00000000000000001000.log".into(),
            bytes: Some(45_120..46_020),
            offsets: Some(1_200..1_210),
            fact: Fact::Batches("payload checksum"),
        }
    }

    #[test]
    fn a_finding_is_three_lines_that_name_offsets_file_and_bytes() {
        let shown = Shown::of(&finding(), Path::new("/data"));
        assert_eq!(
            shown.text(),
            "DAMAGE  orders/3, offsets 1200 to 1209\n        \
             topics/orders/3/00000000000000001000.log, bytes 45120 to 46019\n        \
             the checksum of the payload does not hold: reading these offsets answers DATA_LOSS\n"
        );
    }

    #[test]
    fn what_belongs_to_no_log_is_named_by_its_file() {
        let file = "/data/system/producers.state".into();
        let fact = Fact::SmallFile("its checksum does not hold".to_owned());
        let shown = Shown::of(&Finding { log: None, file, bytes: None, offsets: None, fact }, Path::new("/data"));
        assert_eq!(shown.text(), "DAMAGE  system/producers.state\n        its checksum does not hold\n");
    }

    #[test]
    fn json_has_the_same_facts() {
        let line = render::json_line(&Shown::of(&finding(), Path::new("/data")));
        for fact in ["\"offset_from\":1200", "\"offset_to\":1210", "\"byte_from\":45120", "\"finding\":\"batches\""] {
            assert!(line.contains(fact), "{line}");
        }
    }
}
