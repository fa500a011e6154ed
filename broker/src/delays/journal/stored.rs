//! The bytes of the journal and of its snapshot.

use std::ops::Range;

use aqueduct_storage::{Offset, payload_crc};
use bytes::Bytes;
use prost::{Message, Oneof};

use crate::{
    delays::{
        Destination,
        state::{Intent, Settled, State, Step, Target},
        tiers::TIERS,
    },
    groups::ranges::RangeSet,
};

const CRC_BYTES: usize = 4;

/// What is saved so that the journal before it can go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Snapshot {
    pub(super) state: State,
    /// Where the journal goes on.
    pub(super) journal_from: Offset,
}

/// Steps, as the payload of a batch.
pub(super) fn encode(steps: &[Step]) -> Bytes {
    StoredSteps { steps: steps.iter().map(StoredStep::from).collect() }.encode_to_vec().into()
}

/// `None` for bytes that are something else, or of a newer version.
pub(super) fn decode(payload: Bytes) -> Option<Vec<Step>> {
    StoredSteps::decode(payload).ok()?.steps.into_iter().map(StoredStep::into_step).collect()
}

impl Snapshot {
    pub(super) fn encode(&self) -> Bytes {
        let ranges = |ranges: &Settled| ranges.above().map(|range| StoredRange::from(&range)).collect();
        let tiers = self.state.tiers().map(|(tier, settled)| StoredTier {
            tier: u32::from(tier),
            below: settled.below(),
            above: ranges(settled),
        });
        let body = StoredSnapshot {
            tiers: tiers.collect(),
            intents: self.state.intents().map(StoredIntent::from).collect(),
            next_intent: self.state.next_intent(),
            journal_from: self.journal_from,
        }
        .encode_to_vec();
        [&payload_crc(&body).to_le_bytes(), body.as_slice()].concat().into()
    }

    /// `None` if it is damaged.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (crc, body) = bytes.split_first_chunk::<CRC_BYTES>()?;
        if u32::from_le_bytes(*crc) != payload_crc(body) {
            return None;
        }
        let StoredSnapshot { tiers, intents, next_intent, journal_from } = StoredSnapshot::decode(body).ok()?;
        let tier = |StoredTier { tier, below, above }| {
            let above: RangeSet = above.into_iter().map(Range::from).collect();
            Some((tier_number(tier)?, Settled::new(below, above)))
        };
        let settled = tiers.into_iter().map(tier).collect::<Option<_>>()?;
        let intents = intents.into_iter().map(StoredIntent::into_intent).collect::<Option<_>>()?;
        Some(Self { state: State::new(settled, intents, next_intent), journal_from })
    }
}

#[derive(Clone, PartialEq, Message)]
struct StoredSnapshot {
    #[prost(message, repeated, tag = "1")]
    tiers: Vec<StoredTier>,
    #[prost(message, repeated, tag = "2")]
    intents: Vec<StoredIntent>,
    #[prost(uint64, tag = "3")]
    next_intent: u64,
    #[prost(uint64, tag = "4")]
    journal_from: u64,
}

#[derive(Clone, PartialEq, Message)]
struct StoredTier {
    #[prost(uint32, tag = "1")]
    tier: u32,
    #[prost(uint64, tag = "2")]
    below: u64,
    #[prost(message, repeated, tag = "3")]
    above: Vec<StoredRange>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct StoredRange {
    #[prost(uint64, tag = "1")]
    from: u64,
    /// Exclusive.
    #[prost(uint64, tag = "2")]
    to: u64,
}

#[derive(Clone, PartialEq, Message)]
struct StoredSteps {
    #[prost(message, repeated, tag = "1")]
    steps: Vec<StoredStep>,
}

#[derive(Clone, PartialEq, Message)]
struct StoredStep {
    #[prost(oneof = "Stored", tags = "1, 2, 3, 4, 5")]
    stored: Option<Stored>,
}

#[derive(Clone, PartialEq, Oneof)]
enum Stored {
    #[prost(message, tag = "1")]
    Opened(StoredOpened),
    #[prost(message, tag = "2")]
    Intended(StoredIntent),
    /// The id of an intent.
    #[prost(uint64, tag = "3")]
    Moved(u64),
    #[prost(message, tag = "4")]
    Lost(StoredLoss),
    /// The id of an intent.
    #[prost(uint64, tag = "5")]
    Withdrawn(u64),
}

#[derive(Clone, Copy, PartialEq, Message)]
struct StoredOpened {}

#[derive(Clone, Copy, PartialEq, Message)]
struct StoredLoss {
    #[prost(uint32, tag = "1")]
    tier: u32,
    #[prost(message, optional, tag = "2")]
    offsets: Option<StoredRange>,
}

#[derive(Clone, PartialEq, Message)]
struct StoredIntent {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(uint32, tag = "2")]
    from: u32,
    #[prost(oneof = "StoredTarget", tags = "3, 4")]
    to: Option<StoredTarget>,
    #[prost(uint32, tag = "5")]
    epoch: u32,
    #[prost(uint64, tag = "6")]
    sequence: u64,
    /// Each as its distance from the one before it, the first from 0.
    #[prost(sint64, repeated, tag = "7")]
    offsets: Vec<i64>,
}

#[derive(Clone, PartialEq, Oneof)]
enum StoredTarget {
    #[prost(message, tag = "3")]
    Partition(StoredDestination),
    #[prost(uint32, tag = "4")]
    Tier(u32),
}

#[derive(Clone, PartialEq, Message)]
struct StoredDestination {
    #[prost(bytes = "vec", tag = "1")]
    topic: Vec<u8>,
    #[prost(uint32, tag = "2")]
    partition: u32,
}

/// `None` for a tier that there cannot be.
fn tier_number(number: u32) -> Option<u8> {
    u8::try_from(number).ok().filter(|number| *number < TIERS)
}

impl From<&Range<Offset>> for StoredRange {
    fn from(range: &Range<Offset>) -> Self {
        Self { from: range.start, to: range.end }
    }
}

impl From<StoredRange> for Range<Offset> {
    fn from(range: StoredRange) -> Self {
        range.from..range.to
    }
}

impl From<&Step> for StoredStep {
    fn from(step: &Step) -> Self {
        let stored = match step {
            Step::Opened => Stored::Opened(StoredOpened {}),
            Step::Intended(intent) => Stored::Intended(intent.into()),
            Step::Moved { intent } => Stored::Moved(*intent),
            Step::Withdrawn { intent } => Stored::Withdrawn(*intent),
            Step::Lost { tier, offsets } => {
                Stored::Lost(StoredLoss { tier: u32::from(*tier), offsets: Some(offsets.into()) })
            }
        };
        Self { stored: Some(stored) }
    }
}

impl StoredStep {
    fn into_step(self) -> Option<Step> {
        Some(match self.stored? {
            Stored::Opened(StoredOpened {}) => Step::Opened,
            Stored::Intended(intent) => Step::Intended(intent.into_intent()?),
            Stored::Moved(intent) => Step::Moved { intent },
            Stored::Withdrawn(intent) => Step::Withdrawn { intent },
            Stored::Lost(StoredLoss { tier, offsets }) => {
                Step::Lost { tier: tier_number(tier)?, offsets: offsets?.into() }
            }
        })
    }
}

impl From<&Intent> for StoredIntent {
    fn from(intent: &Intent) -> Self {
        let Intent { id, from, to, epoch, sequence, offsets } = intent;
        let to = match to {
            Target::Partition(Destination { topic, partition }) => {
                StoredTarget::Partition(StoredDestination { topic: topic.to_vec(), partition: *partition })
            }
            Target::Tier(tier) => StoredTarget::Tier(u32::from(*tier)),
        };
        let mut before = 0;
        let distance = |&offset: &Offset| offset.wrapping_sub(std::mem::replace(&mut before, offset)).cast_signed();
        let offsets = offsets.iter().map(distance).collect();
        Self { id: *id, from: u32::from(*from), to: Some(to), epoch: *epoch, sequence: *sequence, offsets }
    }
}

impl StoredIntent {
    fn into_intent(self) -> Option<Intent> {
        let Self { id, from, to, epoch, sequence, offsets } = self;
        let to = match to? {
            StoredTarget::Partition(StoredDestination { topic, partition }) => {
                Target::Partition(Destination { topic: topic.try_into().ok()?, partition })
            }
            StoredTarget::Tier(tier) => Target::Tier(tier_number(tier)?),
        };
        let mut at: Offset = 0;
        let offset = |distance: i64| {
            at = at.wrapping_add(distance.cast_unsigned());
            at
        };
        let offsets = offsets.into_iter().map(offset).collect();
        Some(Intent { id, from: tier_number(from)?, to, epoch, sequence, offsets })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps() -> Vec<Step> {
        let to = Target::Partition(Destination { topic: [7; 16], partition: 3 });
        let offsets = vec![9, 4, u64::MAX - 1, 0];
        let intent = Intent { id: 5, from: 0, to, epoch: 3, sequence: 1 << 40, offsets };
        let hop = Intent { id: 6, from: 4, to: Target::Tier(2), offsets: vec![1, 2], ..intent.clone() };
        vec![
            Step::Opened,
            Step::Intended(intent),
            Step::Intended(hop),
            Step::Moved { intent: 6 },
            Step::Withdrawn { intent: 8 },
            Step::Lost { tier: 4, offsets: 5..8 },
        ]
    }

    #[test]
    fn steps_are_read_as_they_were_written() {
        assert_eq!(decode(encode(&steps())), Some(steps()));
        assert_eq!(decode(Bytes::from_static(b"\x0a\x00")), None, "a step of a newer version is an error");
    }

    #[test]
    fn a_snapshot_is_read_as_it_was_saved_or_not_at_all() {
        let mut snapshot = Snapshot { journal_from: 77, ..Snapshot::default() };
        steps().into_iter().for_each(|step| snapshot.state.apply(step));
        let bytes = snapshot.encode();
        assert_eq!(Snapshot::decode(&bytes), Some(snapshot));
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Snapshot::decode(&damaged), None, "bit {bit}");
        }
    }
}
