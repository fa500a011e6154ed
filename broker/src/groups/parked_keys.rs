//! Which keys of a group have dead letters that are neither redriven nor discarded, and where the first of them was published.

use std::{collections::HashMap, ops::Range, sync::Arc};

use aqueduct_client::{DeadLetter, murmur2};
use aqueduct_storage::{Batch, Offset};

use super::{
    Handle,
    dead_letters::{Found, first_batch},
    error::GroupError,
    sources::Sources,
    state::PositionKey,
    window::KeyId,
};
use crate::services::unpack;

/// Reads every dead letter of the group that is not settled.
///
/// # Errors
/// What reading says.
pub(super) async fn parked_keys(handle: &Handle, sources: &Sources) -> Result<HashMap<KeyId, Offset>, GroupError> {
    let mut keys: HashMap<KeyId, Offset> = HashMap::new();
    let Some(lie_in) = sources.dead_letters()? else { return Ok(keys) };
    let log = Arc::clone(lie_in.partition(0)?.log()?);
    let position = PositionKey { group: sources.group.clone(), topic: lie_in.meta().id, partition: 0 };
    let progress = handle.ask(move |coordinator| Ok(coordinator.progress(&position).unwrap_or_default())).await?;
    let window = *log.watch().borrow();
    let since_us = sources.topic.meta().created_us;
    for mut unsettled in progress.unacked_in(&(window.log_start..window.high_watermark)) {
        while !unsettled.is_empty() {
            let found = first_batch(&*log, &unsettled).await.map_err(|source| GroupError::Read {
                topic: lie_in.meta().name.clone(),
                partition: 0,
                source,
            })?;
            unsettled.start = match found {
                Found::Lost(up_to) => up_to,
                Found::There(batch) => {
                    let next = batch.header.next_offset();
                    for (id, origin) in keys_of(batch, &unsettled, since_us) {
                        keys.entry(id).and_modify(|first| *first = origin.min(*first)).or_insert(origin);
                    }
                    next
                }
            };
        }
    }
    Ok(keys)
}

/// Those of the letters in `range`. One that cannot be read, has no key, or failed before `since_us`, when there was another
/// topic of that name, parks nothing.
fn keys_of(batch: Batch, range: &Range<Offset>, since_us: i64) -> Vec<(KeyId, Offset)> {
    let Ok(unpacked) = unpack(&Arc::default(), 0, batch) else { return Vec::new() };
    let events = unpacked.events().map_while(Result::ok).filter(|event| range.contains(&event.offset));
    let letters = events.filter_map(DeadLetter::from_event);
    let letters = letters.filter(|letter| letter.death.first_failed.as_micros() >= since_us);
    let key = |letter: DeadLetter| {
        let hash = murmur2(letter.event.record.key.as_ref()?);
        Some((KeyId { partition: letter.death.partition, hash }, letter.death.offset))
    };
    letters.filter_map(key).collect()
}
