//! Small values that every part of the API shares.

use std::{
    fmt,
    str::FromStr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aqueduct_proto::v1;
use bytes::Bytes;

/// The position of a record in its partition.
pub type Offset = u64;

/// A point in time: microseconds since the Unix epoch, as on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// From microseconds since the Unix epoch.
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// Microseconds since the Unix epoch.
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// The wall clock of this machine.
    pub fn now() -> Self {
        Self::from_system_time(SystemTime::now())
    }

    /// Saturates at the ends of what 64 bits of microseconds hold.
    pub fn from_system_time(time: SystemTime) -> Self {
        match time.duration_since(UNIX_EPOCH) {
            Ok(after) => Self(i64::try_from(after.as_micros()).unwrap_or(i64::MAX)),
            Err(before) => Self(i64::try_from(before.duration().as_micros()).map_or(i64::MIN, |micros| -micros)),
        }
    }

    /// The same point in time for the standard library.
    pub fn to_system_time(self) -> SystemTime {
        let distance = Duration::from_micros(self.0.unsigned_abs());
        if self.0 < 0 { UNIX_EPOCH - distance } else { UNIX_EPOCH + distance }
    }
}

/// What a topic *is*: deleted and made again under the same name, it has another id.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicId(pub [u8; 16]);

impl TopicId {
    /// `None` unless there are exactly 16 bytes.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    pub(crate) fn to_bytes(self) -> Bytes {
        Bytes::copy_from_slice(&self.0)
    }
}

impl fmt::Display for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Where to begin reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// At the log start offset: everything that is still there.
    Earliest,
    /// At the high watermark: only what comes from now on.
    Latest,
    /// At this offset.
    Offset(Offset),
    /// At the first record appended at or after this time.
    Time(Timestamp),
}

impl From<Start> for v1::Start {
    fn from(start: Start) -> Self {
        use v1::start::{At, Earliest, Latest};
        let at = match start {
            Start::Earliest => At::Earliest(Earliest {}),
            Start::Latest => At::Latest(Latest {}),
            Start::Offset(offset) => At::Offset(offset),
            Start::Time(time) => At::TimeUs(time.as_micros()),
        };
        Self { at: Some(at) }
    }
}

impl Start {
    /// `None`: the message says nothing.
    pub(crate) fn from_proto(start: &v1::Start) -> Option<Self> {
        use v1::start::At;
        Some(match start.at.as_ref()? {
            At::Earliest(_) => Self::Earliest,
            At::Latest(_) => Self::Latest,
            At::Offset(offset) => Self::Offset(*offset),
            At::TimeUs(time) => Self::Time(Timestamp::from_micros(*time)),
        })
    }
}

/// How a batch is compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Codec {
    /// Not at all.
    #[default]
    None,
    /// LZ4 frame format: cheap.
    Lz4,
    /// Zstandard frame format: smaller.
    Zstd,
}

impl From<Codec> for v1::Codec {
    fn from(codec: Codec) -> Self {
        match codec {
            Codec::None => Self::None,
            Codec::Lz4 => Self::Lz4,
            Codec::Zstd => Self::Zstd,
        }
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        })
    }
}

impl FromStr for Codec {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Self, UnknownName> {
        match name {
            "none" => Ok(Self::None),
            "lz4" => Ok(Self::Lz4),
            "zstd" => Ok(Self::Zstd),
            other => Err(UnknownName { name: other.into(), expected: "none, lz4 or zstd" }),
        }
    }
}

/// How far an acknowledged event has got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// Written and synced to disk.
    #[default]
    Fsync,
    /// In the operating system's page cache: a power cut may lose it.
    Os,
}

impl Durability {
    /// `None`: a value that this client does not know.
    pub(crate) fn from_proto(value: i32) -> Option<Self> {
        match v1::Durability::try_from(value).ok()? {
            v1::Durability::Unspecified => None,
            v1::Durability::Fsync => Some(Self::Fsync),
            v1::Durability::Os => Some(Self::Os),
        }
    }
}

impl From<Durability> for v1::Durability {
    fn from(durability: Durability) -> Self {
        match durability {
            Durability::Fsync => Self::Fsync,
            Durability::Os => Self::Os,
        }
    }
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fsync => "fsync",
            Self::Os => "os",
        })
    }
}

impl FromStr for Durability {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Self, UnknownName> {
        match name {
            "fsync" => Ok(Self::Fsync),
            "os" => Ok(Self::Os),
            other => Err(UnknownName { name: other.into(), expected: "fsync or os" }),
        }
    }
}

/// A name that stands for nothing here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown name {name:?}: expected {expected}")]
pub struct UnknownName {
    /// What was given.
    pub name: String,
    /// What is understood.
    pub expected: &'static str,
}

/// Offsets that could not be read, and never will be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The partition that has the gap.
    pub partition: u32,
    /// First missing offset (inclusive).
    pub from: Offset,
    /// First offset that is there again (exclusive end of the gap).
    pub to: Offset,
    /// Why they are missing.
    pub reason: GapReason,
}

/// Why offsets are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GapReason {
    /// The broker did not say, or gave a reason newer than this client.
    Unspecified,
    /// Removed by retention or truncation.
    Retention,
    /// The bytes on disk fail their checksum.
    Damaged,
}

impl Gap {
    pub(crate) fn from_proto(partition: u32, gap: &v1::Gap) -> Self {
        let reason = match gap.reason() {
            v1::gap::Reason::Unspecified => GapReason::Unspecified,
            v1::gap::Reason::Retention => GapReason::Retention,
            v1::gap::Reason::Damaged => GapReason::Damaged,
        };
        Self { partition, from: gap.from, to: gap.to, reason }
    }

    /// How many offsets are missing.
    pub fn records(&self) -> u64 {
        self.to.saturating_sub(self.from)
    }
}

/// Milliseconds for the wire; saturates.
pub(crate) fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_survive_the_way_through_the_standard_library() {
        for micros in [0, 1, -1, 1_700_000_000_123_456, -5_000_001] {
            let time = Timestamp::from_micros(micros);
            assert_eq!(Timestamp::from_system_time(time.to_system_time()), time);
        }
    }

    #[test]
    fn names_of_codecs_and_durabilities_parse_back() {
        for codec in [Codec::None, Codec::Lz4, Codec::Zstd] {
            assert_eq!(codec.to_string().parse(), Ok(codec));
        }
        for durability in [Durability::Fsync, Durability::Os] {
            assert_eq!(durability.to_string().parse(), Ok(durability));
        }
        assert!("gzip".parse::<Codec>().is_err());
    }
}
