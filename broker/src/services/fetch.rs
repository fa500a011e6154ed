//! Reading once: a few batches from an offset, waiting for the first if there is none yet.

use std::{sync::Arc, time::Duration};

use aqueduct_client::codec::DecodeError;
use aqueduct_proto::v1;
use aqueduct_storage::{Batch, BatchHeader, Offset, Window};
use prost::Message as _;
use tokio::time::{Instant, timeout_at};

use super::convert;
use crate::{
    BrokerCore,
    engine::{PartitionLog, ReadError},
    error::{FetchError, TopicError},
    outgoing::Outgoing,
    partition::Partition,
    topics::Topic,
};

/// The longest that a fetch waits at the end of the log.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// Answers one fetch.
pub(super) async fn fetch(
    core: &BrokerCore,
    outgoing: &Outgoing,
    request: v1::FetchRequest,
) -> Result<v1::FetchResponse, FetchError> {
    let topic = core.topics.find(&request.topic)?;
    topic.check_id(&request.topic_id)?;
    let partition = topic.partition(request.partition)?;
    let log = partition.log()?;
    let response_bytes_max = core.config.limits.response_bytes_max;
    let bytes_max = match u64::from(request.max_bytes) {
        0 => response_bytes_max,
        bytes => bytes.min(response_bytes_max),
    };
    let wait = Duration::from_millis(request.max_wait_ms.into()).min(WAIT_MAX);
    let bytes_max = usize::try_from(bytes_max).unwrap_or(usize::MAX);
    let batches = tokio::select! {
        batches = read_or_wait(&topic, &partition, &**log, Wanted { offset: request.offset, bytes_max, wait }, outgoing) => batches?,
        // A broker that stops does not wait for events to come.
        () = core.drained() => Vec::new(),
    };
    let window = *log.watch().borrow();
    let response = v1::FetchResponse {
        log_start: window.log_start,
        high_watermark: window.high_watermark,
        next_offset: batches.last().map_or(request.offset, |batch| batch.header.next_offset()),
        topic_id: topic.meta().id.to_vec().into(),
        ..v1::FetchResponse::default()
    };
    if request.decode {
        decoded(&partition, request.offset, batches, response)
    } else {
        let batches = batches.into_iter().map(convert::batch_to_wire).collect();
        Ok(v1::FetchResponse { batches, ..response })
    }
}

/// What a fetch asks for.
struct Wanted {
    offset: Offset,
    bytes_max: usize,
    /// How long it waits for the first batch.
    wait: Duration,
}

async fn read_or_wait(
    topic: &Arc<Topic>,
    partition: &Partition,
    log: &dyn PartitionLog,
    Wanted { offset, bytes_max, wait }: Wanted,
    outgoing: &Outgoing,
) -> Result<Vec<Batch>, FetchError> {
    let deadline = Instant::now() + wait;
    let mut window = log.watch();
    let mut deleted = topic.deleted();
    loop {
        window.mark_unchanged();
        let allowance = outgoing.allowance(bytes_max, partition.batch_bytes()).await;
        let batches = match log.read(offset, allowance.bytes()).await {
            Err(ReadError::Lost { from, to }) => vec![lost(from, to)],
            read => read.map_err(|source| read_error(partition, source))?,
        };
        outgoing.send(allowance, partition.bytes_of(&batches));
        if !batches.is_empty() {
            return Ok(batches);
        }
        let changed = async {
            tokio::select! {
                _ = window.wait_for(|Window { high_watermark, .. }| *high_watermark > offset) => true,
                _ = deleted.wait_for(|deleted| *deleted) => false,
            }
        };
        match timeout_at(deadline, changed).await {
            Ok(true) => {}
            Ok(false) => return Err(TopicError::Unknown(partition.topic_name().to_owned()).into()),
            Err(_) => return Ok(batches),
        }
    }
}

/// What stands for records that a repair has taken out: nothing to read, and where to go on.
fn lost(from: Offset, to: Offset) -> Batch {
    let header = BatchHeader {
        base_offset: from,
        offset_span: u32::try_from(to - from).unwrap_or(u32::MAX),
        attributes: BatchHeader::LOST,
        ..BatchHeader::default()
    };
    Batch { header, payload: bytes::Bytes::new() }
}

pub(super) fn read_error(partition: &Partition, source: crate::engine::ReadError) -> FetchError {
    FetchError::Read { topic: partition.topic_name().to_owned(), partition: partition.index(), source }
}

/// Unpacks batches into records, as many as fit the response limit; `next_offset` follows the last one.
fn decoded(
    partition: &Partition,
    from: Offset,
    batches: Vec<Batch>,
    mut response: v1::FetchResponse,
) -> Result<v1::FetchResponse, FetchError> {
    let topic: Arc<str> = partition.topic_name().into();
    let mut response_bytes = 0;
    for batch in batches {
        let undecodable = |offset: Offset, error: &DecodeError| FetchError::Undecodable {
            topic: topic.to_string(),
            partition: partition.index(),
            offset,
            reason: error.to_string(),
        };
        let base_offset = batch.header.base_offset;
        let unpacked =
            convert::unpack(&topic, partition.index(), batch).map_err(|error| undecodable(base_offset, &error))?;
        for event in unpacked.events() {
            let event = event.map_err(|error| undecodable(base_offset, &error))?;
            if event.offset < from {
                continue;
            }
            let record = convert::record_to_wire(event.record);
            response_bytes += record.encoded_len() + 24;
            if response_bytes > DECODED_RESPONSE_BYTES_MAX && !response.records.is_empty() {
                response.next_offset = event.offset;
                return Ok(response);
            }
            let (offset, append_time_us) = (event.offset, event.append_time.as_micros());
            response.records.push(v1::OffsetRecord { offset, append_time_us, record: Some(record) });
        }
    }
    Ok(response)
}

/// Unpacked records of one response, in bytes: below the 4 MiB that stock gRPC clients accept.
const DECODED_RESPONSE_BYTES_MAX: usize = 7 << 19;
