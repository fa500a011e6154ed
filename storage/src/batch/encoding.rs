//! How a batch header lies on disk. Every byte is described in FORMAT.md, "Batch".
//!
//! Invariant: a header is valid only in the log that it was written to, because the log id goes into its CRC. The
//! place of magic, version, length and CRC is the same in all versions, so that a newer header is told from damage.

use super::{BatchHeader, Codec, LogId, Offset, ProducerSequence};
use crate::wire::{Fields, put};

/// `AQBT`, the first bytes of every batch.
pub(crate) const BATCH_MAGIC: [u8; 4] = *b"AQBT";
/// Bytes of a header without extensions.
pub(crate) const FIXED_BYTES: usize = 72;
/// Bound of a header with extensions: 65,536 records with deltas and hashes take half a MiB.
pub(crate) const HEADER_BYTES_MAX: usize = 1 << 20;

const VERSION: u8 = 1;
const CRC_AT: usize = 12;
/// Bytes of an extension before its content: tag and length.
const EXTENSION_HEAD_BYTES: usize = 8;
/// Extensions whose tag has this bit must be understood; others may be skipped.
const MANDATORY: u32 = 1 << 31;
const TAG_PRODUCER: u32 = MANDATORY | 1;
const TAG_OFFSET_DELTAS: u32 = MANDATORY | 2;
const TAG_KEY_HASHES: u32 = 3;
const PRODUCER_BYTES: usize = 28;

/// A header as found on disk, with the size of its payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredHeader {
    pub(crate) header: BatchHeader,
    pub(crate) header_bytes: u32,
    pub(crate) payload_bytes: u32,
}

impl StoredHeader {
    /// Bytes of the whole batch on disk.
    pub(crate) fn stored_bytes(&self) -> u64 {
        u64::from(self.header_bytes) + u64::from(self.payload_bytes)
    }
}

/// Why bytes are not a batch header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum HeaderFault {
    /// More bytes are needed: the header takes this many.
    Short(usize),
    /// Not what was written.
    Damaged(&'static str),
    /// Intact, but written by a newer version.
    Unsupported(String),
}

/// Bytes that `header` takes on disk.
pub(crate) fn header_bytes(header: &BatchHeader) -> usize {
    let mut bytes = FIXED_BYTES;
    if header.producer.is_some() {
        bytes += EXTENSION_HEAD_BYTES + PRODUCER_BYTES;
    }
    for list in [&header.offset_deltas, &header.key_hashes] {
        if !list.is_empty() {
            bytes += EXTENSION_HEAD_BYTES + 4 * list.len();
        }
    }
    bytes
}

/// Appends `header` to `out`, stamped with `durable_offset` in place of its own. The caller has bounded its size by
/// [`HEADER_BYTES_MAX`].
pub(crate) fn encode(header: &BatchHeader, durable_offset: Offset, payload_bytes: u32, id: LogId, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&BATCH_MAGIC);
    out.push(VERSION);
    out.push(codec_byte(header.codec));
    put(out, 0_u16.to_le_bytes());
    put(out, length_u32(header_bytes(header)).to_le_bytes());
    put(out, [0; 4]); // the CRC, below
    put(out, payload_bytes.to_le_bytes());
    put(out, header.payload_crc.to_le_bytes());
    put(out, header.base_offset.to_le_bytes());
    put(out, header.record_count.to_le_bytes());
    put(out, header.offset_span.to_le_bytes());
    put(out, header.append_time_us.to_le_bytes());
    put(out, header.max_timestamp_us.to_le_bytes());
    put(out, header.attributes.to_le_bytes());
    put(out, header.epoch.to_le_bytes());
    put(out, durable_offset.to_le_bytes());
    if let Some(producer) = &header.producer {
        put(out, TAG_PRODUCER.to_le_bytes());
        put(out, length_u32(PRODUCER_BYTES).to_le_bytes());
        put(out, producer.id);
        put(out, producer.epoch.to_le_bytes());
        put(out, producer.sequence.to_le_bytes());
    }
    for (tag, list) in [(TAG_OFFSET_DELTAS, &header.offset_deltas), (TAG_KEY_HASHES, &header.key_hashes)] {
        if !list.is_empty() {
            put(out, tag.to_le_bytes());
            put(out, length_u32(4 * list.len()).to_le_bytes());
            list.iter().for_each(|value| put(out, value.to_le_bytes()));
        }
    }
    let crc = crc_of(&out[start..], id);
    out[start + CRC_AT..start + CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
}

/// Reads the header at the beginning of `bytes`, which may go on beyond it.
pub(crate) fn decode(bytes: &[u8], id: LogId) -> Result<StoredHeader, HeaderFault> {
    if bytes.len() >= BATCH_MAGIC.len() && !bytes.starts_with(&BATCH_MAGIC) {
        return Err(HeaderFault::Damaged("no batch magic"));
    }
    if bytes.len() < FIXED_BYTES {
        return Err(HeaderFault::Short(FIXED_BYTES));
    }
    let mut fields = Fields::new(&bytes[4..]);
    let (version, codec, reserved) = (fields.u8(), fields.u8(), fields.u16());
    let header_bytes = fields.u32();
    let crc = fields.u32();
    let length = header_bytes as usize;
    if !(FIXED_BYTES..=HEADER_BYTES_MAX).contains(&length) {
        return Err(HeaderFault::Damaged("impossible header length"));
    }
    if bytes.len() < length {
        return Err(HeaderFault::Short(length));
    }
    if crc_of(&bytes[..length], id) != crc {
        return Err(HeaderFault::Damaged("header checksum"));
    }
    if version != VERSION || reserved != 0 {
        return Err(HeaderFault::Unsupported(format!("batch version {version}")));
    }
    let payload_bytes = fields.u32();
    let mut header = BatchHeader {
        codec: codec_of(codec)?,
        payload_crc: fields.u32(),
        base_offset: fields.u64(),
        record_count: fields.u32(),
        offset_span: fields.u32(),
        append_time_us: fields.i64(),
        max_timestamp_us: fields.i64(),
        attributes: fields.u32(),
        epoch: fields.u32(),
        durable_offset: fields.u64(),
        ..BatchHeader::default()
    };
    decode_extensions(&bytes[FIXED_BYTES..length], &mut header)?;
    Ok(StoredHeader { header, header_bytes, payload_bytes })
}

fn decode_extensions(mut bytes: &[u8], header: &mut BatchHeader) -> Result<(), HeaderFault> {
    while !bytes.is_empty() {
        if bytes.len() < EXTENSION_HEAD_BYTES {
            return Err(HeaderFault::Damaged("extension cut short"));
        }
        let mut head = Fields::new(bytes);
        let (tag, length) = (head.u32(), head.u32() as usize);
        let rest = &bytes[EXTENSION_HEAD_BYTES..];
        if rest.len() < length {
            return Err(HeaderFault::Damaged("extension longer than the header"));
        }
        let (content, after) = rest.split_at(length);
        match tag {
            TAG_PRODUCER if length == PRODUCER_BYTES => {
                let mut fields = Fields::new(content);
                header.producer =
                    Some(ProducerSequence { id: fields.bytes(), epoch: fields.u32(), sequence: fields.u64() });
            }
            TAG_OFFSET_DELTAS => header.offset_deltas = decode_list(content)?,
            TAG_KEY_HASHES => header.key_hashes = decode_list(content)?,
            unknown if unknown & MANDATORY != 0 => {
                return Err(HeaderFault::Unsupported(format!("mandatory batch extension {unknown:#x}")));
            }
            _optional => {}
        }
        bytes = after;
    }
    Ok(())
}

fn decode_list(content: &[u8]) -> Result<Vec<u32>, HeaderFault> {
    if !content.len().is_multiple_of(4) {
        return Err(HeaderFault::Damaged("extension of numbers cut short"));
    }
    Ok(content.chunks_exact(4).map(|number| Fields::new(number).u32()).collect())
}

/// CRC of a header, bound to its log: the id first, then the header without the CRC itself.
fn crc_of(header: &[u8], id: LogId) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&id.0);
    hasher.update(&header[..CRC_AT]);
    hasher.update(&header[CRC_AT + 4..]);
    hasher.finalize()
}

fn codec_byte(codec: Codec) -> u8 {
    match codec {
        Codec::None => 0,
        Codec::Lz4 => 1,
        Codec::Zstd => 2,
    }
}

fn codec_of(byte: u8) -> Result<Codec, HeaderFault> {
    match byte {
        0 => Ok(Codec::None),
        1 => Ok(Codec::Lz4),
        2 => Ok(Codec::Zstd),
        unknown => Err(HeaderFault::Unsupported(format!("codec {unknown}"))),
    }
}

/// A length that is bounded by [`HEADER_BYTES_MAX`], and so fits.
fn length_u32(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: LogId = LogId([7; 16]);

    fn sample() -> BatchHeader {
        BatchHeader {
            base_offset: 1_000,
            record_count: 3,
            codec: Codec::Zstd,
            payload_crc: 0xdead_beef,
            append_time_us: 1_700_000_000_000_000,
            max_timestamp_us: -5,
            offset_span: 9,
            offset_deltas: vec![0, 4, 8],
            attributes: 1 << 16,
            epoch: 4,
            producer: Some(ProducerSequence { id: [9; 16], epoch: 2, sequence: 77 }),
            key_hashes: vec![1, 2, 3],
            durable_offset: 990,
        }
    }

    fn encoded(header: &BatchHeader) -> Vec<u8> {
        let mut out = Vec::new();
        encode(header, header.durable_offset, 123, ID, &mut out);
        out
    }

    fn resealed(mut bytes: Vec<u8>) -> Vec<u8> {
        let crc = crc_of(&bytes, ID);
        bytes[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    #[test]
    fn a_header_is_read_as_it_was_written() {
        for header in [sample(), BatchHeader::default()] {
            let bytes = encoded(&header);
            assert_eq!(bytes.len(), header_bytes(&header));
            let stored = decode(&bytes, ID).expect("valid");
            assert_eq!((stored.header, stored.payload_bytes), (header, 123));
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let bytes = encoded(&sample());
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&damaged, ID).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_header_of_another_log_is_damage() {
        assert_eq!(decode(&encoded(&sample()), LogId([8; 16])), Err(HeaderFault::Damaged("header checksum")));
    }

    #[test]
    fn a_header_cut_short_asks_for_the_rest() {
        let bytes = encoded(&sample());
        for length in 0..bytes.len() {
            assert!(matches!(decode(&bytes[..length], ID), Err(HeaderFault::Short(_))), "length {length}");
        }
    }

    #[test]
    fn a_newer_version_and_a_mandatory_extension_are_refused_by_name_and_an_optional_one_is_skipped() {
        let mut newer = encoded(&sample());
        newer[4] = 2;
        assert_eq!(decode(&resealed(newer), ID), Err(HeaderFault::Unsupported("batch version 2".into())));
        for (tag, readable) in [(MANDATORY | 99, false), (99, true)] {
            let mut bytes = encoded(&sample());
            put(&mut bytes, tag.to_le_bytes());
            put(&mut bytes, 2_u32.to_le_bytes());
            bytes.extend_from_slice(b"hi");
            let length = u32::try_from(bytes.len()).expect("small");
            bytes[8..12].copy_from_slice(&length.to_le_bytes());
            assert_eq!(decode(&resealed(bytes), ID).is_ok(), readable, "tag {tag:#x}");
        }
    }
}
