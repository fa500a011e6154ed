//! `aqueduct repair DIR`: what is damaged in the data of a stopped broker is kept aside, and the rest made readable.

use std::path::{Path, PathBuf};

use aqueduct::stopped::{self, LogName, RepairAction, RepairStep, Repaired};
use clap::Args;
use serde::Serialize;

use super::Global;
use super::exit::Exit;
use super::render::{self, Format};
use super::size::counted;
use super::stdout::{self, StdoutError};
use super::verify::{directory_of, open, range};

/// Make damaged logs of a stopped broker readable again; only says how unless told --yes
#[derive(Debug, Args)]
#[command(after_help = "\
Damaged bytes are copied into a side file beside the segment, durable before
anything else is touched. Then the segment is written anew: what is intact as
it was, and in place of the damage an empty batch that spans its offsets. No
offset is renumbered; readers are told of the gap. It can be interrupted at
any point and run again.

Refused, and left untouched: logs of which a segment file is missing (bring it
back from a backup), what the disk cannot read (copy the directory to a good
disk), and small files whose facts are nowhere else (restore them).

Exit codes: 0 nothing is damaged any more, 1 damage is left (a dry run always
leaves it), 4 no data there, 5 a broker has it open.

Examples:
  aqueduct repair ./data              # what would be done
  aqueduct repair ./data --yes && aqueduct verify ./data")]
pub(super) struct RepairArgs {
    /// The data directory
    #[arg(value_name = "DIR", required_unless_present = "data")]
    directory: Option<PathBuf>,
    /// Do it
    #[arg(long, short)]
    yes: bool,
}

pub(super) fn run(global: &Global, args: RepairArgs) -> anyhow::Result<Exit> {
    let directory = directory_of(global, args.directory)?;
    let data = open(&directory)?;
    let mut teller = Teller { directory: &directory, format: global.output, last_file: None, failed: None };
    let mut tell = |step: &RepairStep| teller.tell(step);
    let repaired = if args.yes { data.repair(&mut tell)? } else { data.plan_repair(&mut tell)? };
    if let Some(error) = teller.failed {
        return Err(error.into());
    }
    print_summary(global, &repaired, args.yes)?;
    let is_pending = repaired.logs > 0 && !args.yes;
    if is_pending {
        render::note(&format!("nothing was changed; to do this: aqueduct repair {} --yes", directory.display()));
    }
    Ok(if is_pending || repaired.refused > 0 { Exit::Failed } else { Exit::Done })
}

struct Teller<'a> {
    directory: &'a Path,
    format: Format,
    /// What the heading that was printed last is about.
    last_file: Option<PathBuf>,
    /// Standard output takes no more. A repair that was begun goes on all the same.
    failed: Option<StdoutError>,
}

#[derive(Serialize)]
struct StepJson<'a> {
    #[serde(rename = "type")]
    kind_of_line: &'static str,
    action: &'static str,
    log: Option<String>,
    file: String,
    byte_from: Option<u64>,
    byte_to: Option<u64>,
    offset_from: Option<u64>,
    offset_to: Option<u64>,
    side_file: Option<String>,
    message: Option<&'a str>,
}

impl Teller<'_> {
    fn tell(&mut self, step: &RepairStep) {
        let text = match self.format {
            Format::Text => self.text(step),
            Format::Json => self.json(step),
        };
        if self.failed.is_none() {
            self.failed = stdout::print(&text).err();
        }
    }

    fn text(&mut self, step: &RepairStep) -> String {
        let mut text = String::new();
        if self.last_file.as_ref() != Some(&step.file) {
            let log = step.log.as_ref().map_or_else(String::new, |log| format!("{log}  "));
            text.push_str(&format!("{log}{}\n", self.relative(&step.file)));
            self.last_file = Some(step.file.clone());
        }
        let line = match &step.action {
            RepairAction::Keep { bytes, side_file } => {
                format!("keep     {} in {}", range("byte", bytes.start, bytes.end), self.relative(side_file))
            }
            RepairAction::GiveUp { offsets } => {
                let offsets = range("offset", offsets.start, offsets.end);
                format!("give up  {offsets}: readers are told of the gap")
            }
            RepairAction::Rewrite => "rewrite  it with everything that is intact".to_owned(),
            RepairAction::MakeAgain => "remake   it from the log".to_owned(),
            RepairAction::Refuse { finding } => {
                let offsets = finding.offsets.as_ref();
                let offsets = offsets
                    .map_or_else(String::new, |offsets| format!("{}: ", range("offset", offsets.start, offsets.end)));
                format!("REFUSED  {offsets}{}", stopped::describe(&finding.fact))
            }
        };
        text.push_str(&format!("  {line}\n"));
        text
    }

    fn json(&self, step: &RepairStep) -> String {
        let mut json = StepJson {
            kind_of_line: "step",
            action: "",
            log: step.log.as_ref().map(LogName::to_string),
            file: self.relative(&step.file),
            byte_from: None,
            byte_to: None,
            offset_from: None,
            offset_to: None,
            side_file: None,
            message: None,
        };
        let message;
        let (mut bytes, mut lost) = (None, None);
        json.action = match &step.action {
            RepairAction::Keep { bytes: kept, side_file } => {
                bytes = Some(kept);
                json.side_file = Some(self.relative(side_file));
                "keep"
            }
            RepairAction::GiveUp { offsets } => {
                lost = Some(offsets);
                "give_up"
            }
            RepairAction::Rewrite => "rewrite",
            RepairAction::MakeAgain => "make_again",
            RepairAction::Refuse { finding } => {
                (bytes, lost) = (finding.bytes.as_ref(), finding.offsets.as_ref());
                message = stopped::describe(&finding.fact);
                json.message = Some(&message);
                "refuse"
            }
        };
        (json.byte_from, json.byte_to) = (bytes.map(|bytes| bytes.start), bytes.map(|bytes| bytes.end));
        (json.offset_from, json.offset_to) = (lost.map(|lost| lost.start), lost.map(|lost| lost.end));
        render::json_line(&json)
    }

    fn relative(&self, file: &Path) -> String {
        file.strip_prefix(self.directory).unwrap_or(file).display().to_string()
    }
}

#[derive(Serialize)]
struct SummaryJson {
    #[serde(rename = "type")]
    kind_of_line: &'static str,
    done: bool,
    logs: u64,
    offsets_given_up: u64,
    refused: u64,
}

fn print_summary(global: &Global, repaired: &Repaired, done: bool) -> Result<(), StdoutError> {
    let Repaired { logs, refused, offsets } = *repaired;
    if let Format::Json = global.output {
        let summary = SummaryJson { kind_of_line: "summary", done, logs, offsets_given_up: offsets, refused };
        return stdout::print(&render::json_line(&summary));
    }
    let mut text = match (logs, done) {
        (0, _) if refused == 0 => "nothing is damaged: nothing to repair\n".to_owned(),
        (0, _) => String::new(),
        (logs, true) => format!("\nrepaired {}, {} given up\n", counted(logs, "log"), counted(offsets, "offset")),
        (logs, false) => {
            format!("\nwould repair {}, {} given up\n", counted(logs, "log"), counted(offsets, "offset"))
        }
    };
    if refused > 0 {
        text.push_str(&format!("{} left as it is: see REFUSED above\n", counted(refused, "damage")));
    }
    stdout::print(&text)
}
