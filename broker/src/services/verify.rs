//! Verifying the partitions of a topic, one after the other, while they are in use.

use std::sync::Arc;

use aqueduct_proto::v1::{self, verify_finding, verify_topic_response::Event};
use aqueduct_storage::Severity;
use futures_util::{StreamExt as _, stream::BoxStream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::draining_status;
use crate::{
    BrokerCore,
    engine::{EngineError, Flaw, Verified, VerifyEvent},
    error::TopicError,
    partition::Partition,
};

/// Responses that may wait for the connection; the verification waits for them.
const RESPONSES_MAX: usize = 16;

type Response = Result<v1::VerifyTopicResponse, Status>;

/// Verifies `partitions`. It ends when the caller goes away.
pub(super) fn verify(core: Arc<BrokerCore>, partitions: Vec<Arc<Partition>>) -> BoxStream<'static, Response> {
    let (responses, received) = mpsc::channel(RESPONSES_MAX);
    tokio::spawn(async move {
        let mut verification = Verification {
            responses: responses.clone(),
            progress: progress_of(&partitions),
            summary: v1::VerifySummary::default(),
        };
        let ended = tokio::select! {
            ended = verification.run(&core, &partitions) => ended,
            // Nobody listens any more: what reads the disk is told so by the channel.
            () = responses.closed() => return,
            () = core.drained() => Err(draining_status()),
        };
        if let Err(status) = ended {
            let _ = responses.send(Err(status)).await;
        }
    });
    ReceiverStream::new(received).boxed()
}

fn progress_of(partitions: &[Arc<Partition>]) -> v1::VerifyProgress {
    let bytes = partitions.iter().filter_map(|partition| Some(partition.log().ok()?.stats().size_bytes));
    v1::VerifyProgress { bytes_read: 0, bytes_total: bytes.sum() }
}

struct Verification {
    responses: mpsc::Sender<Response>,
    progress: v1::VerifyProgress,
    summary: v1::VerifySummary,
}

impl Verification {
    async fn run(&mut self, core: &BrokerCore, partitions: &[Arc<Partition>]) -> Result<(), Status> {
        let _turn = Arc::clone(&core.verifying).acquire_owned().await.map_err(|_| draining_status())?;
        for partition in partitions {
            self.partition(partition).await?;
        }
        self.send(Event::Summary(self.summary)).await;
        Ok(())
    }

    async fn partition(&mut self, partition: &Partition) -> Result<(), Status> {
        self.summary.partitions += 1;
        let log = match partition.log() {
            Ok(log) => log,
            Err(error) => {
                self.found(partition, not_open(&error)).await;
                return Ok(());
            }
        };
        let (events, mut received) = mpsc::channel(RESPONSES_MAX);
        let mut outcome = log.verify(events);
        let mut ended: Option<Result<Verified, EngineError>> = None;
        loop {
            tokio::select! {
                biased;
                event = received.recv() => match event {
                    Some(VerifyEvent::Found(flaw)) => self.found(partition, flaw).await,
                    Some(VerifyEvent::Read(bytes)) => {
                        self.progress.bytes_read += bytes;
                        self.send(Event::Progress(self.progress)).await;
                    }
                    None => break,
                },
                verified = &mut outcome, if ended.is_none() => ended = Some(verified),
            }
        }
        let verified = match ended {
            Some(verified) => verified,
            None => outcome.await,
        };
        let Verified { segments, batches, records, bytes } = verified?;
        self.summary.segments += segments;
        self.summary.batches += batches;
        self.summary.records += records;
        self.summary.bytes_read += bytes;
        Ok(())
    }

    async fn found(&mut self, partition: &Partition, flaw: Flaw) {
        let severity = match flaw.severity {
            Severity::Damage => {
                self.summary.damage += 1;
                verify_finding::Severity::Damage
            }
            Severity::Note => {
                self.summary.notes += 1;
                verify_finding::Severity::Note
            }
        };
        let finding = v1::VerifyFinding {
            severity: severity.into(),
            partition: partition.index(),
            kind: flaw.kind.to_owned(),
            file: flaw.file,
            byte_from: flaw.bytes.as_ref().map(|bytes| bytes.start),
            byte_to: flaw.bytes.as_ref().map(|bytes| bytes.end),
            offset_from: flaw.offsets.as_ref().map(|offsets| offsets.start),
            offset_to: flaw.offsets.as_ref().map(|offsets| offsets.end),
            message: flaw.message,
        };
        self.send(Event::Finding(finding)).await;
    }

    async fn send(&self, event: Event) {
        // Whether anybody listens is looked at elsewhere.
        let _ = self.responses.send(Ok(v1::VerifyTopicResponse { event: Some(event) })).await;
    }
}

/// A partition whose log the broker could not open.
fn not_open(error: &TopicError) -> Flaw {
    let message = error.to_string();
    Flaw { severity: Severity::Damage, kind: "not_open", file: String::new(), bytes: None, offsets: None, message }
}
