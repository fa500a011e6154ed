//! The second half of `publish`: receipts, in input order.

use aqueduct_client::{Durability, Receipt};
use futures_util::FutureExt as _;
use indicatif::ProgressBar;
use serde::Serialize;
use tokio::sync::{mpsc, watch};

use super::{InFlight, LineFailure};
use crate::cli::render::{self, Format};
use crate::cli::stdout::{Stdout, StdoutError};

/// What became of the lines.
#[derive(Debug, Default)]
pub(super) struct Settled {
    /// Lines with a receipt.
    pub(super) durable: u64,
    /// Bytes of their values.
    pub(super) bytes: u64,
    /// All of them up to this one are durable.
    pub(super) last_durable_line: Option<u64>,
    /// After a failure: lines beyond it that are durable all the same.
    pub(super) durable_beyond: u64,
    /// Of these, stored by an earlier attempt.
    pub(super) duplicates: u64,
    /// What the receipts say.
    pub(super) durability: Option<Durability>,
    /// The first line without a receipt.
    pub(super) failure: Option<LineFailure>,
    /// Receipts could not be printed.
    pub(super) stdout: Option<StdoutError>,
}

/// Awaits every ticket in input order. After a failure no new line is taken, but those already sent are still settled,
/// because the user must know which of them are stored.
pub(super) async fn settle(
    mut tickets: mpsc::Receiver<InFlight>,
    format: Format,
    progress: Option<&ProgressBar>,
    last_durable: &watch::Sender<Option<u64>>,
) -> Settled {
    let mut settled = Settled::default();
    let mut stdout = Stdout::default();
    loop {
        let next = match tickets.try_recv() {
            Ok(next) => Some(next),
            Err(_) => {
                settled.flush(&mut stdout, &mut tickets).await;
                tickets.recv().await
            }
        };
        let Some(InFlight { line, bytes, mut ticket }) = next else { break };
        let outcome = match (&mut ticket).now_or_never() {
            Some(outcome) => outcome,
            None => {
                // Nobody should wait for a receipt that is already there.
                settled.flush(&mut stdout, &mut tickets).await;
                ticket.await
            }
        };
        match outcome {
            Ok(receipt) => {
                settled.bytes += bytes;
                settled.durable(line, &receipt, format, &mut stdout);
                last_durable.send_replace(settled.last_durable_line);
            }
            Err(error) if settled.failure.is_none() => {
                settled.failure = Some(LineFailure { line, error });
                tickets.close();
            }
            Err(_) => {}
        }
        if stdout.is_full() {
            settled.flush(&mut stdout, &mut tickets).await;
        }
        if let Some(progress) = progress {
            progress.set_position(settled.durable);
        }
    }
    settled.flush(&mut stdout, &mut tickets).await;
    settled
}

impl Settled {
    fn durable(&mut self, line: u64, receipt: &Receipt, format: Format, stdout: &mut Stdout) {
        self.durable += 1;
        self.durability = Some(receipt.durability);
        self.duplicates += u64::from(receipt.duplicate);
        if self.failure.is_none() {
            self.last_durable_line = Some(line);
        } else {
            self.durable_beyond += 1;
        }
        match format {
            Format::Json if self.stdout.is_none() => {
                stdout.buffer().extend_from_slice(render::json_line(&ReceiptJson::new(line, receipt)).as_bytes());
            }
            Format::Json | Format::Text => {}
        }
    }

    /// When receipts are not wanted any more, neither is publishing.
    async fn flush(&mut self, stdout: &mut Stdout, tickets: &mut mpsc::Receiver<InFlight>) {
        if let Err(error) = stdout.flush().await {
            self.stdout.get_or_insert(error);
            tickets.close();
        }
    }
}

/// One line on stdout for one line of input.
#[derive(Serialize)]
struct ReceiptJson<'a> {
    line: u64,
    topic: &'a str,
    partition: u32,
    offset: u64,
    append_time_us: i64,
    durability: String,
    duplicate: bool,
    epoch: u32,
}

impl<'a> ReceiptJson<'a> {
    fn new(line: u64, receipt: &'a Receipt) -> Self {
        Self {
            line,
            topic: &receipt.topic,
            partition: receipt.partition,
            offset: receipt.offset,
            append_time_us: receipt.append_time.as_micros(),
            durability: receipt.durability.to_string(),
            duplicate: receipt.duplicate,
            epoch: receipt.epoch,
        }
    }
}
