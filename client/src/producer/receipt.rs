//! What a producer gets for events that are stored.

use std::{fmt, sync::Arc, time::Duration};

use aqueduct_proto::v1;

use crate::types::{Durability, Offset, Timestamp, TopicId};

/// Proof that one event is stored: where, since when, and how safely. Displays as `orders/3@1042`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The topic's name.
    pub topic: Arc<str>,
    /// The topic's identity.
    pub topic_id: TopicId,
    /// The partition that the event went to.
    pub partition: u32,
    /// Its offset there.
    pub offset: Offset,
    /// When the broker stored it.
    pub append_time: Timestamp,
    /// How far it had got when this receipt was written.
    pub durability: Durability,
    /// An earlier attempt had stored it already; the offset is the original one.
    pub duplicate: bool,
    /// The log's epoch: together with the offset, the identity of the record.
    pub epoch: u32,
}

impl fmt::Display for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}@{}", self.topic, self.partition, self.offset)
    }
}

/// The receipt of several events with adjacent offsets. Displays as `orders/3@1042+10`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeReceipt {
    /// Of the first event.
    pub receipt: Receipt,
    /// How many events, at least 1.
    pub records: u32,
}

impl RangeReceipt {
    /// The receipts of the single events, in order.
    pub fn receipts(&self) -> impl Iterator<Item = Receipt> + '_ {
        (0..u64::from(self.records))
            .map(|index| Receipt { offset: self.receipt.offset + index, ..self.receipt.clone() })
    }
}

impl fmt::Display for RangeReceipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.receipt, self.records)
    }
}

/// Who or what holds a producer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// For programs: `BROKER_BUDGET`, `TOPIC_BUDGET`, `GROUP_BACKLOG`, …
    pub reason: String,
    /// The limit or the group.
    pub culprit: String,
    /// When it may be over.
    pub retry_after: Duration,
}

impl From<v1::Hold> for Hold {
    fn from(hold: v1::Hold) -> Self {
        let retry_after = Duration::from_millis(hold.retry_after_ms.into());
        Self { reason: hold.reason, culprit: hold.culprit, retry_after }
    }
}

/// What the broker says of one stored batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BatchAck {
    pub(crate) base_offset: Offset,
    pub(crate) append_time: Timestamp,
    pub(crate) durability: Durability,
    pub(crate) duplicate: bool,
    pub(crate) epoch: u32,
}

impl BatchAck {
    pub(crate) fn from_proto(ack: &v1::PublishAck) -> Option<Self> {
        Some(Self {
            base_offset: ack.base_offset,
            append_time: Timestamp::from_micros(ack.append_time_us),
            durability: Durability::from_proto(ack.durability)?,
            duplicate: ack.duplicate,
            epoch: ack.epoch,
        })
    }
}
