//! `aqueduct verify DIR`: is everything that a stopped broker has stored still what was written?

mod report;
pub(super) mod topic;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use aqueduct::stopped::{Audience, DataDirError, Fact, Finding, StoppedData};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

pub(super) use report::{Report, Shown, Totals, range};

use super::Global;
use super::exit::{CliError, Exit};
use super::render;

/// Check everything that a stopped broker has stored, and change nothing
#[derive(Debug, Args)]
#[command(after_help = "\
Reads every byte: checksums, links between segments, indexes, small files.
What a kill leaves behind is a note, not damage: the next start settles it.

Exit codes: 0 no damage, 1 damage, 4 no data there, 5 a broker has it open
(ask that one with `aqueduct topic verify TOPIC`).

Examples:
  aqueduct verify ./data
  aqueduct verify ./data --output json | jq 'select(.severity == \"damage\")'
  aqueduct verify /mnt/restored && echo \"the backup is good\"")]
pub(super) struct VerifyArgs {
    /// The data directory
    #[arg(value_name = "DIR", required_unless_present = "data")]
    directory: Option<PathBuf>,
}

pub(super) fn run(global: &Global, args: VerifyArgs) -> anyhow::Result<Exit> {
    let directory = directory_of(global, args.directory)?;
    let data = open(&directory)?;
    let begun = Instant::now();
    let mut listener = Listener::new(&directory, global, data.segment_bytes()?);
    let checked = data.verify(&mut listener)?;
    let Listener { mut report, progress, .. } = listener;
    progress.finish_and_clear();
    report.finish(Totals { checked, took: begun.elapsed() })?;
    if report.damage() == 0 {
        return Ok(Exit::Done);
    }
    render::note(&format!(
        "hint: `aqueduct repair {}` says what can be done, and does nothing yet",
        directory.display()
    ));
    Ok(Exit::Failed)
}

/// The directory that was named, once.
pub(super) fn directory_of(global: &Global, named: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    match (named, &global.data) {
        (Some(_), Some(_)) => Err(CliError::Usage("the directory is named twice: DIR and --data".to_owned()).into()),
        (Some(directory), None) => Ok(directory),
        (None, Some(directory)) => Ok(directory.clone()),
        (None, None) => Err(CliError::Usage("name the data directory".to_owned()).into()),
    }
}

/// Opens the directory of a stopped broker, untouched.
pub(super) fn open(directory: &Path) -> anyhow::Result<StoppedData> {
    if !directory.join("FORMAT").is_file() {
        let what = format!("{} holds no Aqueduct data (it has no file FORMAT)", directory.display());
        return Err(CliError::NotFound(what).into());
    }
    StoppedData::open(directory).map_err(|error| match error {
        DataDirError::Locked { .. } => {
            let what = format!("{error}: stop it, or ask it with `aqueduct topic verify TOPIC`; nothing was read");
            CliError::Refused(what).into()
        }
        other => other.into(),
    })
}

/// Prints what is found, as it is found.
pub(super) struct Listener {
    pub(super) report: Report,
    pub(super) progress: ProgressBar,
    directory: PathBuf,
    failed: bool,
}

impl Listener {
    pub(super) fn new(directory: &Path, global: &Global, bytes: u64) -> Self {
        let report = Report::new(global.output);
        Self { report, progress: progress_bar(bytes), directory: directory.to_owned(), failed: false }
    }
}

impl Audience for Listener {
    fn found(&mut self, finding: Finding) {
        let shown = Shown::of(&finding, &self.directory);
        let report = &mut self.report;
        let printed = self.progress.suspend(|| match finding.fact {
            // As many as there are partitions: one line for all of them is enough.
            Fact::NotClosed => report.count_not_closed(&shown),
            _ => report.print(&shown),
        });
        self.failed |= printed.is_err();
    }

    fn read(&mut self, bytes: u64) -> ControlFlow<()> {
        self.progress.inc(bytes);
        if self.failed { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

/// Bytes read of those that there are, for people who watch.
pub(super) fn progress_bar(bytes: u64) -> ProgressBar {
    if !render::watched() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:30} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left");
    ProgressBar::new(bytes).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
