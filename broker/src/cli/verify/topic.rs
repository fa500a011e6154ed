//! `aqueduct topic verify TOPIC`: is everything that a running broker has stored of a topic still what was written?

use std::time::Instant;

use anyhow::Context as _;
use aqueduct::stopped::Checked;
use aqueduct_client::{VerifyEvent, VerifyFinding, VerifySeverity};
use clap::Args;

use super::report::{DAMAGE, FINDING, NOTE};
use super::{Report, Shown, Totals, progress_bar};
use crate::cli::Global;
use crate::cli::exit::{CliError, Exit};
use crate::cli::render;
use crate::cli::session::Session;

/// Check everything that a running broker has stored of a topic
#[derive(Debug, Args)]
#[command(after_help = "\
The broker reads every byte below the high watermark, while it goes on with its
work. Nothing is changed. Of a stopped broker: `aqueduct verify DIR`.

Exit codes: 0 no damage, 1 damage.

Examples:
  aqueduct topic verify orders
  aqueduct topic verify orders --partition 3 --output json")]
pub(in crate::cli) struct VerifyTopicArgs {
    /// The topic
    name: String,
    /// Only this partition
    #[arg(long, short, value_name = "P")]
    partition: Option<u32>,
}

pub(in crate::cli) async fn run(global: &Global, args: VerifyTopicArgs) -> anyhow::Result<Exit> {
    if global.data.is_some() {
        let what = "`topic verify` asks a running broker; of a stopped one: `aqueduct verify DIR`";
        return Err(CliError::Usage(what.to_owned()).into());
    }
    let session = Session::open(global).await?;
    let begun = Instant::now();
    let mut request = session.client.topics().verify(&args.name);
    if let Some(partition) = args.partition {
        request = request.partition(partition);
    }
    let mut verification = request.build().await?;
    let mut report = Report::new(global.output);
    let progress = progress_bar(0);
    let summary = loop {
        let event = verification.next().await.context("the broker has ended the verification before its end")??;
        match event {
            VerifyEvent::Finding(finding) => {
                let shown = shown(&args.name, finding);
                progress.suspend(|| report.print(&shown))?;
            }
            VerifyEvent::Progress { bytes_read, bytes_total } => {
                progress.set_length(bytes_total);
                progress.set_position(bytes_read);
            }
            VerifyEvent::Summary(summary) => break summary,
        }
    };
    progress.finish_and_clear();
    let checked = Checked {
        logs: summary.partitions,
        segments: summary.segments,
        batches: summary.batches,
        records: summary.records,
        bytes: summary.bytes_read,
    };
    report.finish(Totals { checked, took: begun.elapsed() })?;
    session.close().await?;
    if report.damage() == 0 {
        return Ok(Exit::Done);
    }
    render::note("hint: stop the broker, and `aqueduct repair DIR` says what can be done");
    Ok(Exit::Failed)
}

fn shown(topic: &str, finding: VerifyFinding) -> Shown {
    Shown {
        kind_of_line: FINDING,
        severity: match finding.severity {
            VerifySeverity::Note => NOTE,
            VerifySeverity::Damage => DAMAGE,
        },
        finding: finding.kind,
        topic: Some(topic.to_owned()),
        partition: Some(finding.partition),
        system_log: None,
        file: finding.file,
        byte_from: finding.byte_from,
        byte_to: finding.byte_to,
        offset_from: finding.offset_from,
        offset_to: finding.offset_to,
        message: finding.message,
    }
}
