//! Records as programs make and see them.

use std::{borrow::Cow, fmt, sync::Arc};

use bytes::Bytes;

#[cfg(feature = "json")]
use crate::error::JsonError;
use crate::types::{Offset, Timestamp};

/// One event on its way in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Records with equal keys go to one partition and keep their order.
    pub key: Option<Bytes>,
    /// `None` is a tombstone: "this key has no value any more".
    pub value: Option<Bytes>,
    /// In order; names may repeat.
    pub headers: Vec<Header>,
    /// The producer's clock; informational.
    pub timestamp: Option<Timestamp>,
}

/// A name and bytes that travel with a record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// May repeat within a record.
    pub name: Cow<'static, str>,
    /// Any bytes.
    pub value: Bytes,
}

impl Record {
    /// A record without key, headers or timestamp.
    pub fn new(value: impl Into<Bytes>) -> Self {
        Self { value: Some(value.into()), ..Self::default() }
    }

    /// "This key has no value any more."
    pub fn tombstone(key: impl Into<Bytes>) -> Self {
        Self { key: Some(key.into()), ..Self::default() }
    }

    /// Sets the key, which chooses the partition.
    #[must_use]
    pub fn key(mut self, key: impl Into<Bytes>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Adds a header after those it has.
    #[must_use]
    pub fn header(mut self, name: impl Into<Cow<'static, str>>, value: impl Into<Bytes>) -> Self {
        self.headers.push(Header { name: name.into(), value: value.into() });
        self
    }

    /// Sets the producer's time.
    #[must_use]
    pub fn timestamp(mut self, timestamp: Timestamp) -> Self {
        self.timestamp = Some(timestamp);
        self
    }

    /// A record whose value is `value` as JSON.
    ///
    /// # Errors
    /// When the value cannot be JSON (a map with keys that are not strings, for one).
    #[cfg(feature = "json")]
    pub fn json<T: serde::Serialize + ?Sized>(value: &T) -> Result<Self, JsonError> {
        Ok(Self::new(serde_json::to_vec(value)?))
    }

    /// A record whose value is `message`, encoded.
    #[cfg(feature = "proto")]
    pub fn proto<M: prost::Message>(message: &M) -> Self {
        Self::new(message.encode_to_vec())
    }

    /// Bytes that this record takes in an uncompressed batch.
    pub fn encoded_len(&self) -> usize {
        crate::codec::encode::framed_len(crate::codec::encode::record_len(self))
    }
}

/// One event as it was stored. Key, value and headers are views of the batch it came in: they keep that batch in memory.
#[derive(Clone, PartialEq)]
pub struct Event {
    /// Its topic.
    pub topic: Arc<str>,
    /// Its partition.
    pub partition: u32,
    /// Its place in the partition.
    pub offset: Offset,
    /// When the broker stored it; never goes back within a partition.
    pub append_time: Timestamp,
    /// What was published.
    pub record: Record,
}

impl Event {
    /// The record's key.
    pub fn key(&self) -> Option<&[u8]> {
        self.record.key.as_deref()
    }

    /// The record's value; `None` for a tombstone.
    pub fn value(&self) -> Option<&[u8]> {
        self.record.value.as_deref()
    }

    /// The first header of this name.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.record.headers.iter().find(|header| header.name == name).map(|header| &header.value[..])
    }

    /// The value, parsed as JSON.
    ///
    /// # Errors
    /// When there is none, or it is not a `T`.
    #[cfg(feature = "json")]
    pub fn json<T: serde::de::DeserializeOwned>(&self) -> Result<T, JsonError> {
        Ok(serde_json::from_slice(self.value().ok_or(JsonError::NoValue)?)?)
    }

    /// The value, decoded as a protobuf message; a tombstone decodes as an empty one.
    ///
    /// # Errors
    /// When the value is not an `M`.
    #[cfg(feature = "proto")]
    pub fn proto<M: prost::Message + Default>(&self) -> Result<M, prost::DecodeError> {
        M::decode(self.record.value.clone().unwrap_or_default())
    }
}

/// Where it is and how large, never what it says: payloads do not belong in logs.
impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event")
            .field("topic", &self.topic)
            .field("partition", &self.partition)
            .field("offset", &self.offset)
            .field("append_time", &self.append_time)
            .field("key_bytes", &self.record.key.as_ref().map(Bytes::len))
            .field("value_bytes", &self.record.value.as_ref().map(Bytes::len))
            .finish_non_exhaustive()
    }
}
