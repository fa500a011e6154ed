//! `aqueduct publish --delay` and `--at`: records that are stored now and delivered later.

use std::io::Read;
use std::time::{Duration, Instant};

use aqueduct_client::{Due, Scheduled, Scheduler, Timestamp};
use serde::Serialize;
use tokio::sync::mpsc;

use super::{PublishArgs, durable_lines};
use crate::cli::Global;
use crate::cli::exit::{CliError, Exit};
use crate::cli::input::{self, Numbered, Piece};
use crate::cli::render::{self, Format};
use crate::cli::session::Session;
use crate::cli::size::counted;
use crate::cli::stdout::{Stdout, StdoutError};
use crate::cli::time;

/// Records of one request.
const RECORDS_MAX: usize = 1000;
/// Bytes of its records, unless a single one is larger.
const BYTES_MAX: usize = 256 << 10;

/// When the records are to be delivered, if not at once. clap sees to it that only one is given.
pub(super) fn due(delay: Option<Duration>, at_us: Option<i64>) -> Option<Due> {
    delay.map(Due::In).or(at_us.map(|at_us| Due::At(Timestamp::from_micros(at_us))))
}

/// What has become durable.
#[derive(Default)]
struct Done {
    records: u64,
    last_line: Option<u64>,
    last_due: Option<Timestamp>,
}

pub(super) async fn run(
    global: &Global,
    session: Session,
    args: PublishArgs,
    due: Due,
    input: Box<dyn Read + Send>,
) -> anyhow::Result<Exit> {
    let mut scheduler = session.client.scheduler(&args.topic, due);
    if let Some(partition) = args.partition {
        scheduler = scheduler.partition(partition);
    }
    let started = Instant::now();
    let pieces = input::read(input, args.decoder());
    let mut done = Done::default();
    let result = tokio::select! {
        biased;
        () = crate::cli::interrupted() => {
            Err(CliError::Failed("interrupted: the last request may be stored".to_owned()).into())
        }
        result = schedule(pieces, &scheduler, global.output, &mut done) => result,
    };
    render::note(&report(&args.topic, &done, started.elapsed()));
    match result {
        Ok(()) => {
            session.close().await?;
            Ok(Exit::Done)
        }
        Err(error) => {
            render::note(&durable_lines(done.last_line, 0));
            Err(error)
        }
    }
}

/// Request by request, in input order.
async fn schedule(
    mut pieces: mpsc::Receiver<Piece>,
    scheduler: &Scheduler,
    format: Format,
    done: &mut Done,
) -> anyhow::Result<()> {
    let mut stdout = Stdout::default();
    while let Some(Piece { records, failure }) = pieces.recv().await {
        let mut rest = records.into_iter().peekable();
        while rest.peek().is_some() {
            let (mut lines, mut request, mut bytes) = (Vec::new(), Vec::new(), 0);
            while let Some(next) = rest.next_if(|next| {
                request.is_empty() || (request.len() < RECORDS_MAX && bytes + next.record.encoded_len() <= BYTES_MAX)
            }) {
                let Numbered { line, record } = next;
                bytes += record.encoded_len();
                lines.push(line);
                request.push(record);
            }
            let first = lines.first().copied().unwrap_or_default();
            let scheduled = scheduler.publish_many(request).await;
            let scheduled = scheduled.map_err(|error| anyhow::Error::from(error).context(format!("line {first}")))?;
            done.take(&lines, &scheduled, format, &mut stdout);
            match stdout.flush().await {
                Ok(()) => {}
                Err(StdoutError::Closed) => {
                    let what = "standard output was closed before every receipt was taken".to_owned();
                    return Err(CliError::Failed(what).into());
                }
                Err(error @ StdoutError::Failed(_)) => return Err(error.into()),
            }
        }
        if let Some(failure) = failure {
            return Err(failure.into());
        }
    }
    Ok(())
}

impl Done {
    fn take(&mut self, lines: &[u64], scheduled: &[Scheduled], format: Format, stdout: &mut Stdout) {
        for (line, scheduled) in lines.iter().zip(scheduled) {
            self.records += 1;
            self.last_line = Some(*line);
            self.last_due = Some(scheduled.due);
            match format {
                Format::Json => {
                    stdout
                        .buffer()
                        .extend_from_slice(render::json_line(&ScheduledJson::new(*line, scheduled)).as_bytes());
                }
                Format::Text => {}
            }
        }
    }
}

fn report(topic: &str, done: &Done, elapsed: Duration) -> String {
    let due = done.last_due.map(|due| format!(", due at {}", time::rfc3339(due.as_micros()))).unwrap_or_default();
    let records = counted(done.records, "record");
    format!("scheduled {records} to {topic} in {}{due}", time::human(elapsed))
}

/// One line on stdout for one line of input.
#[derive(Serialize)]
struct ScheduledJson<'a> {
    line: u64,
    topic: &'a str,
    partition: u32,
    id: u64,
    due_us: i64,
}

impl<'a> ScheduledJson<'a> {
    fn new(line: u64, scheduled: &'a Scheduled) -> Self {
        let Scheduled { topic, partition, id, due, .. } = scheduled;
        Self { line, topic, partition: *partition, id: *id, due_us: due.as_micros() }
    }
}
