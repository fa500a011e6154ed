//! Packing and unpacking record sets, with a bound on what unpacking may produce.

use std::io::{Read, Write as _};

use aqueduct_proto::v1;
use bytes::Bytes;

use super::{DECODED_BYTES_MAX, DecodeError};
use crate::types::{Codec, Offset};

/// Zstandard's own default; higher levels cost more than they save on batches of this size.
const ZSTD_LEVEL: i32 = 3;

/// A record set as it travels.
#[derive(Clone, Debug)]
pub(crate) struct Compressed {
    pub(crate) codec: Codec,
    pub(crate) bytes: Bytes,
    pub(crate) crc32: u32,
}

impl Compressed {
    /// Without offsets: those are the broker's.
    pub(crate) fn into_batch(self, record_count: u32, max_timestamp_us: i64) -> v1::Batch {
        v1::Batch {
            record_count,
            codec: v1::Codec::from(self.codec).into(),
            crc32: self.crc32,
            records: self.bytes,
            max_timestamp_us,
            ..v1::Batch::default()
        }
    }
}

/// Packs and checksums. What does not shrink is carried as it is.
pub(crate) fn compress(record_set: Bytes, codec: Codec) -> Compressed {
    let packed = match codec {
        Codec::None => None,
        Codec::Lz4 => lz4(&record_set),
        Codec::Zstd => zstd::bulk::compress(&record_set, ZSTD_LEVEL).ok(),
    };
    let (codec, bytes) = match packed {
        Some(packed) if packed.len() < record_set.len() => (codec, packed.into()),
        Some(_) | None => (Codec::None, record_set),
    };
    Compressed { codec, crc32: crc32fast::hash(&bytes), bytes }
}

fn lz4(record_set: &[u8]) -> Option<Vec<u8>> {
    let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
    encoder.write_all(record_set).ok()?;
    encoder.finish().ok()
}

/// Unpacks `bytes` of the batch at `offset`. Never produces more than [`DECODED_BYTES_MAX`].
pub(super) fn decompress(bytes: Bytes, codec: i32, offset: Offset) -> Result<Bytes, DecodeError> {
    let malformed = |detail| DecodeError::Malformed { offset, detail };
    match v1::Codec::try_from(codec) {
        Ok(v1::Codec::Unspecified | v1::Codec::None) if bytes.len() > DECODED_BYTES_MAX => {
            Err(DecodeError::TooLarge { offset, bytes_max: DECODED_BYTES_MAX })
        }
        Ok(v1::Codec::Unspecified | v1::Codec::None) => Ok(bytes),
        Ok(v1::Codec::Lz4) => read_bounded(
            lz4_flex::frame::FrameDecoder::new(&bytes[..]),
            bytes.len(),
            offset,
            "its LZ4 frame is damaged",
        ),
        Ok(v1::Codec::Zstd) => {
            let damaged = "its Zstandard frame is damaged";
            let mut decoder = zstd::stream::read::Decoder::new(&bytes[..]).map_err(|_| malformed(damaged))?;
            // The window is allocated on the frame's word alone: 16 MiB is what the batch limit can need.
            decoder.window_log_max(DECODED_BYTES_MAX.ilog2()).map_err(|_| malformed(damaged))?;
            read_bounded(decoder, bytes.len(), offset, damaged)
        }
        Err(_) => Err(DecodeError::UnknownCodec { offset, codec }),
    }
}

fn read_bounded(
    reader: impl Read,
    packed_len: usize,
    offset: Offset,
    damaged: &'static str,
) -> Result<Bytes, DecodeError> {
    // One byte more than allowed shows that there would be more.
    let mut bounded = reader.take(DECODED_BYTES_MAX as u64 + 1);
    let mut out = Vec::with_capacity(packed_len.saturating_mul(3).min(DECODED_BYTES_MAX));
    bounded.read_to_end(&mut out).map_err(|_| DecodeError::Malformed { offset, detail: damaged })?;
    if out.len() > DECODED_BYTES_MAX {
        return Err(DecodeError::TooLarge { offset, bytes_max: DECODED_BYTES_MAX });
    }
    Ok(out.into())
}
