//! Verifying a partition while it is in use, on a thread that may block.

use std::{ops::ControlFlow, path::Path};

use aqueduct_storage::{Audience, Checked, DataDir, Fact, Finding, LogReader, Severity, StorageError};
use tokio::sync::mpsc;

use crate::{
    engine::{Flaw, Verified, VerifyEvent},
    partition::producers::Producers,
    stopped::describe,
};

/// Bytes read between two looks at whether anybody still listens.
const PIECE_BYTES: u64 = 4 << 20;

/// Reads the log behind `reader` and the checkpoint of its producers. Blocking.
///
/// # Errors
/// The disk's, beyond what is a finding.
pub(super) fn verify(
    reader: &LogReader,
    data: &DataDir,
    checkpoint: &Path,
    events: mpsc::Sender<VerifyEvent>,
) -> Result<Verified, StorageError> {
    let mut sender = Sender { events, data: data.path(), unsent: 0 };
    let Checked { segments, batches, records, bytes, .. } = reader.verify(&mut sender)?;
    let saved = data.read_file(checkpoint)?;
    if saved.is_some_and(|bytes| Producers::from_checkpoint(&bytes).is_none()) {
        let file = checkpoint.display().to_string();
        let fact = Fact::SmallFile("its checksum does not hold; it is completed from the log".to_owned());
        sender.send(VerifyEvent::Found(flaw(&fact, file)));
    }
    sender.flush();
    Ok(Verified { segments, batches, records, bytes })
}

/// Waits where the other side is slow: nothing piles up.
struct Sender<'a> {
    events: mpsc::Sender<VerifyEvent>,
    data: &'a Path,
    unsent: u64,
}

impl Sender<'_> {
    fn send(&self, event: VerifyEvent) {
        // Whether anybody listens is looked at after each piece.
        let _ = self.events.blocking_send(event);
    }

    fn flush(&mut self) {
        let unsent = std::mem::take(&mut self.unsent);
        self.send(VerifyEvent::Read(unsent));
    }
}

impl Audience for Sender<'_> {
    fn found(&mut self, finding: Finding) {
        let file = finding.file.strip_prefix(self.data).unwrap_or(&finding.file).display().to_string();
        let flaw = Flaw { bytes: finding.bytes, offsets: finding.offsets, ..flaw(&finding.fact, file) };
        self.send(VerifyEvent::Found(flaw));
    }

    fn read(&mut self, bytes: u64) -> ControlFlow<()> {
        self.unsent += bytes;
        if self.unsent >= PIECE_BYTES {
            self.flush();
        }
        if self.events.is_closed() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

fn flaw(fact: &Fact, file: String) -> Flaw {
    let severity: Severity = fact.severity();
    Flaw { severity, kind: fact.name(), file, bytes: None, offsets: None, message: describe(fact) }
}
