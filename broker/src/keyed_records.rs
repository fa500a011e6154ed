//! Looking into batches for the keys of their records: for compaction, and for topics that ask for them.

use aqueduct_client::codec::{self, KeyedRecord};
use aqueduct_storage::{Batch, Codec, Packed, RecordFormat, Unpacked, ValueKind};

use crate::{error::PublishError, services};

/// How records lie in a payload: as an encoded `RecordSet`.
pub(crate) struct RecordSets;

impl RecordFormat for RecordSets {
    fn unpack(&self, batch: &Batch) -> Option<Vec<Unpacked>> {
        let records = keyed(batch)?;
        let unpacked = |KeyedRecord { key, has_value, body }| Unpacked {
            key,
            value: if has_value { ValueKind::Present } else { ValueKind::Absent },
            encoded: body,
        };
        Some(records.into_iter().map(unpacked).collect())
    }

    fn pack(&self, codec: Codec, records: &[Unpacked]) -> Option<Packed> {
        let bodies = records.iter().map(|record| &record.encoded[..]);
        let (codec, payload) = codec::encode_bodies(bodies, services::client_codec(codec));
        Some(Packed { codec: services::stored_codec(codec), payload })
    }
}

/// Refuses a batch with a record that has no key, as a topic must of which only the latest record of each key stays.
///
/// # Errors
/// [`PublishError::Invalid`].
pub(crate) fn check_keys(batch: &Batch) -> Result<(), PublishError> {
    let keyless = keyed(batch).and_then(|records| records.iter().position(|record| record.key.is_none()));
    match keyless {
        None => Ok(()),
        Some(index) => Err(PublishError::Invalid {
            field: "records",
            reason: format!(
                "record {index} has no key: of the topic's records only the latest of each key stays \
                 (its `cleanup` is compact or both)"
            ),
        }),
    }
}

/// `None` if the records cannot be told apart.
fn keyed(batch: &Batch) -> Option<Vec<KeyedRecord>> {
    codec::keyed_records(batch.payload.clone(), services::client_codec(batch.header.codec)).ok()
}
