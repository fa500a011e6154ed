//! Named producers: each opening of a name gets the next epoch, durably, so that older instances are fenced.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use parking_lot::RwLock;

use prost::Message as _;
use tokio::sync::Mutex;

use crate::{
    clock,
    engine::{EngineError, MetaStore},
    error::{NameError, TopicError},
    names,
};

/// Under this name the table is kept in the [`MetaStore`].
const STATE: &str = "producers";

/// Names that are remembered; the one that was opened longest ago is forgotten first.
const NAMES_MAX: usize = 10_000;

/// Who publishes under a name now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OpenedProducer {
    /// The same at each opening.
    pub id: [u8; 16],
    /// Higher at each opening.
    pub epoch: u32,
}

/// The epoch in force of every named producer. Whoever opens a name fences older instances in every partition at once,
/// also where the new instance has not published yet.
#[derive(Debug, Default)]
pub(crate) struct Fences {
    epochs: RwLock<HashMap<[u8; 16], u32>>,
}

impl Fences {
    /// The epoch in force, if it is newer than `epoch`.
    pub(crate) fn newer_than(&self, id: &[u8; 16], epoch: u32) -> Option<u32> {
        self.epochs.read().get(id).copied().filter(|current| *current > epoch)
    }

    fn raise(&self, producer: OpenedProducer) {
        self.epochs.write().insert(producer.id, producer.epoch);
    }

    fn forget(&self, producer: OpenedProducer) {
        self.epochs.write().remove(&producer.id);
    }
}

/// See the [module](self).
pub(crate) struct ProducerNames {
    meta: Arc<dyn MetaStore>,
    fences: Arc<Fences>,
    /// Held while the table is saved: openings are rare, and one at a time.
    table: Mutex<BTreeMap<Key, Entry>>,
}

type Key = (Vec<u8>, String);

struct Entry {
    producer: OpenedProducer,
    opened_us: i64,
}

impl ProducerNames {
    /// Loads the table.
    ///
    /// # Errors
    /// If it cannot be read, or is damaged.
    pub(crate) async fn open(meta: Arc<dyn MetaStore>) -> Result<Self, EngineError> {
        let table = match meta.load(STATE).await? {
            Some(bytes) => decode(&bytes).ok_or_else(|| {
                EngineError(
                    "the table of named producers is damaged: restore system/producers.state from a backup".into(),
                )
            })?,
            None => BTreeMap::new(),
        };
        let fences = Arc::<Fences>::default();
        table.values().for_each(|entry: &Entry| fences.raise(entry.producer));
        Ok(Self { meta, fences, table: Mutex::new(table) })
    }

    /// The epochs in force, for those who append.
    pub(crate) fn fences(&self) -> Arc<Fences> {
        Arc::clone(&self.fences)
    }

    /// Gives the name its id and its next epoch, durable before this returns.
    ///
    /// # Errors
    /// A name that breaks the rules, or what the engine says.
    pub(crate) async fn open_name(&self, topic_id: [u8; 16], name: &str) -> Result<OpenedProducer, TopicError> {
        names::check(name)
            .map_err(|source: NameError| TopicError::Config { field: "name", reason: source.to_string() })?;
        let mut table = self.table.lock().await;
        let key = (topic_id.to_vec(), name.to_owned());
        let producer = match table.get(&key) {
            Some(entry) => OpenedProducer { epoch: entry.producer.epoch + 1, ..entry.producer },
            None => OpenedProducer { id: *uuid::Uuid::new_v4().as_bytes(), epoch: 0 },
        };
        if table.len() >= NAMES_MAX
            && !table.contains_key(&key)
            && let Some(oldest) = table.iter().min_by_key(|(_, entry)| entry.opened_us).map(|(key, _)| key.clone())
        {
            table.remove(&oldest).into_iter().for_each(|entry| self.fences.forget(entry.producer));
        }
        table.insert(key, Entry { producer, opened_us: clock::now_us() });
        // If saving fails the epoch is used up all the same, which fences one instance more than needed.
        self.meta.save(STATE, encode(&table).into()).await?;
        self.fences.raise(producer);
        Ok(producer)
    }
}

/// Whether the saved table is what was written.
pub(crate) fn is_intact(bytes: &[u8]) -> bool {
    decode(bytes).is_some()
}

fn encode(table: &BTreeMap<Key, Entry>) -> Vec<u8> {
    let names = table
        .iter()
        .map(|((topic_id, name), entry)| NameState {
            topic_id: topic_id.clone(),
            name: name.clone(),
            id: entry.producer.id.to_vec(),
            epoch: entry.producer.epoch,
            opened_us: entry.opened_us,
        })
        .collect();
    let mut bytes = NamesState { version: 1, names }.encode_to_vec();
    let checksum = aqueduct_storage::payload_crc(&bytes);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Option<BTreeMap<Key, Entry>> {
    let (state, checksum) = bytes.split_last_chunk::<4>()?;
    if aqueduct_storage::payload_crc(state) != u32::from_le_bytes(*checksum) {
        return None;
    }
    let state = NamesState::decode(state).ok().filter(|state| state.version == 1)?;
    state
        .names
        .into_iter()
        .map(|name| {
            let producer = OpenedProducer { id: name.id.try_into().ok()?, epoch: name.epoch };
            Some(((name.topic_id, name.name), Entry { producer, opened_us: name.opened_us }))
        })
        .collect()
}

#[derive(Clone, PartialEq, prost::Message)]
struct NamesState {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(message, repeated, tag = "2")]
    names: Vec<NameState>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct NameState {
    #[prost(bytes = "vec", tag = "1")]
    topic_id: Vec<u8>,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(bytes = "vec", tag = "3")]
    id: Vec<u8>,
    #[prost(uint32, tag = "4")]
    epoch: u32,
    #[prost(int64, tag = "5")]
    opened_us: i64,
}
