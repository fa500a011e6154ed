//! What must be true of a batch before it is stored: its checksum, its sizes, and that it holds as many records as it
//! says. Records are not interpreted: the scan hops from one to the next by their lengths.

use std::io::{self, BufRead, BufReader};

use aqueduct_storage::{Batch, BatchHeader, Codec, ProducerSequence, payload_crc};

use crate::{config::Limits, error::PublishError};

/// Tag and wire type of `RecordSet.records`, the only field there is.
const RECORDS_TAG: u8 = 1 << 3 | 2;

/// Attributes that a reader must understand, and that this version does not.
const MANDATORY_ATTRIBUTES: u32 = 0xffff;

/// Checks a batch that a client has encoded.
///
/// # Errors
/// [`PublishError::Invalid`] and [`PublishError::TooLarge`] name what is wrong; nothing may be written.
pub(crate) fn check(batch: Batch, limits: &Limits) -> Result<Batch, PublishError> {
    check_header(&batch.header)?;
    let bytes = batch.payload.len() as u64;
    check_limit("the encoded batch", bytes, limits.batch_bytes_max, "bytes")?;
    let records = u64::from(batch.header.record_count);
    check_limit("the batch", records, u64::from(limits.batch_records_max), "records")?;
    let crc = payload_crc(&batch.payload);
    if crc != batch.header.payload_crc {
        let reason =
            format!("does not match `records`: their CRC-32 is {crc:#010x}, not {:#010x}", batch.header.payload_crc);
        return Err(PublishError::Invalid { field: "batch.crc32", reason });
    }
    let count = count_records(&batch.payload, batch.header.codec, limits)?;
    if count != records {
        let reason = format!("says {records}, but `records` holds {count}");
        return Err(PublishError::Invalid { field: "batch.record_count", reason });
    }
    Ok(batch)
}

fn check_header(header: &BatchHeader) -> Result<(), PublishError> {
    let invalid = |field, reason: &str| Err(PublishError::Invalid { field, reason: reason.to_owned() });
    if header.record_count == 0 {
        return invalid("batch.record_count", "must be at least 1");
    }
    if header.attributes & MANDATORY_ATTRIBUTES != 0 {
        return invalid("batch.attributes", "a bit among 0 to 15 is set that this broker does not know");
    }
    if !header.offset_deltas.is_empty() || (header.offset_span != 0 && header.offset_span != header.record_count) {
        return invalid(
            "batch.offset_deltas",
            "a published batch must be dense: offset_span and offset_deltas stay unset",
        );
    }
    if !header.key_hashes.is_empty() && header.key_hashes.len() != header.record_count as usize {
        return invalid("batch.key_hashes", "must be empty or have one entry per record");
    }
    Ok(())
}

/// A producer sequence as it came over the wire.
///
/// # Errors
/// [`PublishError::Invalid`] unless the id has 16 bytes.
pub(crate) fn producer_sequence(id: &[u8], epoch: u32, sequence: u64) -> Result<ProducerSequence, PublishError> {
    let id = id.try_into().map_err(|_| PublishError::Invalid {
        field: "producer.id",
        reason: format!("must have 16 bytes, not {}", id.len()),
    })?;
    Ok(ProducerSequence { id, epoch, sequence })
}

/// Fails if `actual` is over `limit`.
///
/// # Errors
/// [`PublishError::TooLarge`].
pub(crate) fn check_limit(what: &'static str, actual: u64, limit: u64, unit: &'static str) -> Result<(), PublishError> {
    if actual <= limit { Ok(()) } else { Err(PublishError::TooLarge { what, actual, limit, unit }) }
}

/// Counts the records of a payload. A compressed one is unpacked in pieces that are dropped at once, and only up to the
/// decoded limit, so that a decompression bomb costs no memory and bounded time.
fn count_records(payload: &[u8], codec: Codec, limits: &Limits) -> Result<u64, PublishError> {
    match codec {
        Codec::None => Scan::of(payload, limits).count(),
        Codec::Lz4 => {
            let mut rest = payload;
            let count = Scan::of(BufReader::new(lz4_flex::frame::FrameDecoder::new(&mut rest)), limits).count()?;
            // Some readers would go on with another frame there, others would not: they must not differ.
            if rest.is_empty() { Ok(count) } else { Err(malformed(&"bytes follow its LZ4 frame")) }
        }
        Codec::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(payload).map_err(|error| malformed(&error))?;
            // A larger window would make the decoder allocate what the frame claims.
            let window_log = limits.batch_decoded_bytes_max.max(1024).ilog2().clamp(10, 27);
            decoder.window_log_max(window_log).map_err(|error| malformed(&error))?;
            Scan::of(BufReader::new(decoder), limits).count()
        }
    }
}

fn malformed(detail: &dyn std::fmt::Display) -> PublishError {
    let reason = format!("is not an encoded RecordSet in the codec of the batch: {detail}");
    PublishError::Invalid { field: "batch.records", reason }
}

/// Hops over the records of an unpacked payload.
struct Scan<R> {
    input: R,
    bytes_left: u64,
    bytes_max: u64,
    record_bytes_max: u64,
}

impl<R: BufRead> Scan<R> {
    fn of(input: R, limits: &Limits) -> Self {
        let bytes_max = limits.batch_decoded_bytes_max;
        Self { input, bytes_left: bytes_max, bytes_max, record_bytes_max: limits.record_bytes_max }
    }

    fn count(mut self) -> Result<u64, PublishError> {
        let mut count = 0;
        while let Some(tag) = self.byte()? {
            if tag != RECORDS_TAG {
                return Err(malformed(&format_args!("record {count} is followed by an unknown field")));
            }
            let record_bytes = self.varint()?;
            check_limit("a record", record_bytes, self.record_bytes_max, "bytes")?;
            self.skip(record_bytes)?;
            count += 1;
        }
        Ok(count)
    }

    /// The next byte; `None` at the end.
    fn byte(&mut self) -> Result<Option<u8>, PublishError> {
        let Some(&byte) = self.fill()?.first() else { return Ok(None) };
        self.consume(1)?;
        Ok(Some(byte))
    }

    fn varint(&mut self) -> Result<u64, PublishError> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?.ok_or_else(|| malformed(&"it ends inside a length"))?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(malformed(&"a length has more than 64 bits"))
    }

    fn skip(&mut self, mut bytes: u64) -> Result<(), PublishError> {
        while bytes > 0 {
            let available = self.fill()?.len() as u64;
            if available == 0 {
                return Err(malformed(&"it ends inside a record"));
            }
            let step = available.min(bytes);
            self.consume(step)?;
            bytes -= step;
        }
        Ok(())
    }

    fn fill(&mut self) -> Result<&[u8], PublishError> {
        match self.input.fill_buf() {
            // Not asked again: a decoder would begin the next frame.
            Ok([]) => return Ok(&[]),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(malformed(&error)),
        }
        self.input.fill_buf().map_err(|error| malformed(&error))
    }

    fn consume(&mut self, bytes: u64) -> Result<(), PublishError> {
        let left = self.bytes_left.checked_sub(bytes);
        self.bytes_left = left.ok_or(PublishError::TooLarge {
            what: "the unpacked batch",
            actual: self.bytes_max + 1,
            limit: self.bytes_max,
            unit: "bytes or more",
        })?;
        self.input.consume(usize::try_from(bytes).unwrap_or(usize::MAX));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use bytes::Bytes;

    use super::*;

    fn records(count: usize, bytes: usize) -> Vec<u8> {
        let mut payload = Vec::new();
        for _ in 0..count {
            payload.push(RECORDS_TAG);
            prost::encoding::encode_varint(bytes as u64, &mut payload);
            payload.resize(payload.len() + bytes, 0);
        }
        payload
    }

    fn batch(payload: Vec<u8>, record_count: u32, codec: Codec) -> Batch {
        let header = BatchHeader { record_count, codec, payload_crc: payload_crc(&payload), ..BatchHeader::default() };
        Batch { header, payload: Bytes::from(payload) }
    }

    fn lz4(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn field_of(error: PublishError) -> &'static str {
        match error {
            PublishError::Invalid { field, .. } => field,
            PublishError::TooLarge { what, .. } => what,
            other => panic!("{other}"),
        }
    }

    #[test]
    fn honest_batches_of_every_codec_pass() {
        let plain = records(1000, 300);
        let zstd = zstd::encode_all(plain.as_slice(), 1).unwrap();
        for (payload, codec) in [(lz4(&plain), Codec::Lz4), (zstd, Codec::Zstd), (plain, Codec::None)] {
            assert!(check(batch(payload, 1000, codec), &Limits::default()).is_ok(), "{codec:?}");
        }
    }

    #[test]
    fn a_lying_count_is_refused() {
        for claimed in [999, 1001] {
            let error = check(batch(records(1000, 3), claimed, Codec::None), &Limits::default()).unwrap_err();
            assert_eq!(field_of(error), "batch.record_count");
        }
    }

    #[test]
    fn a_wrong_checksum_is_refused() {
        let mut batch = batch(records(2, 10), 2, Codec::None);
        batch.header.payload_crc ^= 1;
        assert_eq!(field_of(check(batch, &Limits::default()).unwrap_err()), "batch.crc32");
    }

    #[test]
    fn truncated_and_foreign_payloads_are_refused() {
        let mut truncated = records(2, 10);
        truncated.pop();
        let endless_length = vec![RECORDS_TAG, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        for payload in [truncated, endless_length, b"hello".to_vec(), vec![RECORDS_TAG]] {
            let error = check(batch(payload, 2, Codec::None), &Limits::default()).unwrap_err();
            assert!(matches!(field_of(error), "batch.records" | "a record"));
        }
        for codec in [Codec::Lz4, Codec::Zstd] {
            let error = check(batch(records(2, 10), 2, codec), &Limits::default()).unwrap_err();
            assert_eq!(field_of(error), "batch.records");
        }
    }

    #[test]
    fn an_lz4_payload_is_one_frame_and_nothing_else() {
        let frame = lz4(&records(20, 30));
        assert!(check(batch(frame.clone(), 20, Codec::Lz4), &Limits::default()).is_ok());
        for (behind, count) in [(frame.as_slice(), 40), (frame.as_slice(), 20), (&[0], 20)] {
            let error = check(batch([&frame, behind].concat(), count, Codec::Lz4), &Limits::default()).unwrap_err();
            assert_eq!(field_of(error), "batch.records");
        }
    }

    #[test]
    fn a_decompression_bomb_is_refused_at_the_decoded_limit() {
        let bomb = records(100, 1 << 20);
        let zstd = zstd::encode_all(bomb.as_slice(), 3).unwrap();
        for (payload, codec) in [(lz4(&bomb), Codec::Lz4), (zstd, Codec::Zstd)] {
            assert!(payload.len() < 2 << 20);
            assert_eq!(
                field_of(check(batch(payload, 100, codec), &Limits::default()).unwrap_err()),
                "the unpacked batch"
            );
        }
    }

    #[test]
    fn sizes_over_the_limits_are_refused() {
        let limits = Limits::default();
        assert_eq!(field_of(check(batch(records(1, (1 << 20) + 1), 1, Codec::None), &limits).unwrap_err()), "a record");
        assert_eq!(field_of(check(batch(records(65_537, 1), 65_537, Codec::None), &limits).unwrap_err()), "the batch");
        let three = batch(records(3, 1 << 20), 3, Codec::None);
        assert_eq!(field_of(check(three, &limits).unwrap_err()), "the encoded batch");
    }
}
