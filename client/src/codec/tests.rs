//! What is written by hand here must be what generated code writes and reads.

use prost::Message as _;

use super::*;
use crate::types::Timestamp;

fn samples() -> Vec<Record> {
    vec![
        Record::new("plain"),
        Record::new(vec![7_u8; 300]).key("customer-7"),
        Record::tombstone("gone"),
        Record::new("").key("").header("trace", "abc").header("", "").header("trace", vec![0_u8, 255]),
        Record::new("timed").timestamp(Timestamp::from_micros(1_700_000_000_000_000)),
        Record::new("before the epoch").timestamp(Timestamp::from_micros(-1)),
        Record::default(),
    ]
}

fn to_proto(record: &Record) -> v1::Record {
    v1::Record {
        key: record.key.clone(),
        value: record.value.clone(),
        headers: record
            .headers
            .iter()
            .map(|header| v1::Header { name: header.name.clone().into_owned(), value: header.value.clone() })
            .collect(),
        timestamp_us: record.timestamp.map(Timestamp::as_micros),
    }
}

fn topic() -> Arc<str> {
    "orders".into()
}

/// A batch as a broker sends it.
fn stored(codec: Codec, base_offset: Offset) -> v1::Batch {
    v1::Batch { base_offset, append_time_us: 5, epoch: 2, ..encode_batch(&samples(), codec).expect("encodes") }
}

#[test]
fn record_sets_are_byte_for_byte_what_generated_code_writes() {
    let generated = v1::RecordSet { records: samples().iter().map(to_proto).collect() };
    let bytes = encode_record_set(&samples());
    assert_eq!(bytes, generated.encode_to_vec());
    assert_eq!(bytes.len(), samples().iter().map(Record::encoded_len).sum::<usize>());
    assert_eq!(decode_record_set(&bytes), Ok(samples()));
}

#[test]
fn batches_come_back_whole_from_every_codec() {
    for codec in [Codec::None, Codec::Lz4, Codec::Zstd] {
        let batch = decode_batch(&topic(), 3, stored(codec, 40)).expect("decodes");
        let events: Vec<_> = batch.events().map(|event| event.expect("readable")).collect();
        assert_eq!(events.iter().map(|event| event.record.clone()).collect::<Vec<_>>(), samples(), "{codec}");
        assert_eq!(events.iter().map(|event| event.offset).collect::<Vec<_>>(), (40..47).collect::<Vec<_>>());
        assert_eq!((batch.len(), batch.next_offset(), batch.epoch()), (7, 47, 2));
    }
}

#[test]
fn values_are_views_of_the_batch_not_copies() {
    let batch = stored(Codec::None, 0);
    let bytes = batch.records.clone();
    let decoded = decode_batch(&topic(), 0, batch).expect("decodes");
    let event = decoded.events().next().expect("one").expect("readable");
    let value = event.value().expect("a value").as_ptr() as usize;
    let begin = bytes.as_ptr() as usize;
    assert!((begin..begin + bytes.len()).contains(&value));
}

#[test]
fn a_narrowed_batch_shows_only_its_part() {
    let mut batch = decode_batch(&topic(), 0, stored(Codec::None, 40)).expect("decodes");
    batch.narrow(42, 45);
    let offsets: Vec<_> = batch.records().map(|record| record.expect("readable").offset).collect();
    assert_eq!(offsets, [42, 43, 44]);
    let owned: Vec<_> = batch.events().map(|event| event.expect("readable").offset).collect();
    assert_eq!(owned, offsets);
    assert_eq!((batch.len(), batch.first_offset(), batch.next_offset()), (3, 42, 45));
}

#[test]
fn a_compacted_batch_keeps_the_offsets_of_what_is_left() {
    let records = [Record::new("a"), Record::new("b")];
    let batch = v1::Batch {
        base_offset: 100,
        offset_span: 10,
        offset_deltas: vec![2, 9],
        ..encode_batch(&records, Codec::None).expect("encodes")
    };
    let batch = decode_batch(&topic(), 0, batch).expect("decodes");
    let offsets: Vec<_> = batch.records().map(|record| record.expect("readable").offset).collect();
    assert_eq!((offsets, batch.len(), batch.next_offset()), (vec![102, 109], 2, 110));
}

#[test]
fn events_at_some_offsets_are_those_among_all_that_lie_there() {
    for seed in 0..200 {
        let mut random = fastrand::Rng::with_seed(seed);
        let offset_deltas: Vec<u32> = (0..40).filter(|_| random.u8(0..3) > 0).collect();
        let records = vec![Record::new("value").key("key"); offset_deltas.len()];
        let encoded = encode_batch(&records, Codec::None).expect("encodes");
        let batch = v1::Batch { base_offset: 100, offset_span: 40, offset_deltas, ..encoded };
        let batch = decode_batch(&topic(), 0, batch).expect("decodes");

        let (mut wanted, mut next) = (Vec::new(), 95);
        while next < 150 {
            let from = next + random.u64(0..4);
            next = from + random.u64(0..6);
            wanted.push(from..next);
        }
        let all: Vec<_> = batch.events().map(|event| event.expect("readable").offset).collect();
        let expected = all.iter().copied().filter(|offset| wanted.iter().any(|range| range.contains(offset)));
        let expected: Vec<_> = expected.collect();
        random.shuffle(&mut wanted);
        let mut events = batch.events_at(wanted.clone());
        for offset in expected {
            assert!(events.rest().any(|range| range.contains(&offset)), "seed {seed}: {offset} is still to come");
            assert_eq!(
                events.next().map(|event| event.expect("readable").offset),
                Some(offset),
                "seed {seed}: {wanted:?}"
            );
            assert!(events.rest().all(|range| range.start > offset && !range.is_empty()), "seed {seed}");
        }
        assert_eq!(events.next(), None, "seed {seed}: {wanted:?}");
    }
}

#[test]
fn a_wrong_checksum_names_the_offsets() {
    let mut batch = stored(Codec::None, 40);
    batch.crc32 ^= 1;
    let error = decode_batch(&topic(), 0, batch).expect_err("damaged");
    assert!(matches!(error, DecodeError::Checksum { from: 40, to: 47, .. }), "{error}");
}

#[test]
fn a_batch_that_would_explode_is_refused() {
    let bomb = vec![0_u8; DECODED_BYTES_MAX + 1];
    for codec in [Codec::Lz4, Codec::Zstd] {
        let batch = compress(bomb.clone().into(), codec).into_batch(1, 0);
        assert!(batch.records.len() < 1024 * 1024);
        let error = decode_batch(&topic(), 0, batch).expect_err("too large");
        assert_eq!(error, DecodeError::TooLarge { offset: 0, bytes_max: DECODED_BYTES_MAX }, "{codec}");
    }
}

#[test]
fn lying_counts_are_noticed() {
    for lie in [0, 6, 8] {
        let batch = v1::Batch { record_count: lie, ..stored(Codec::None, 0) };
        let batch = decode_batch(&topic(), 0, batch).expect("the walk finds out");
        let last = batch.records().last().expect("an item");
        assert_eq!(last.map(|record| record.offset), Err(DecodeError::CountMismatch { offset: 0, expected: lie }));
    }
}

#[test]
fn unknown_attributes_and_codecs_are_refused() {
    let batch = v1::Batch { attributes: 1, ..stored(Codec::None, 0) };
    assert!(matches!(decode_batch(&topic(), 0, batch), Err(DecodeError::UnknownAttributes { attributes: 1, .. })));
    let ignorable = v1::Batch { attributes: 1 << 16, ..stored(Codec::None, 0) };
    assert!(decode_batch(&topic(), 0, ignorable).is_ok());
    let batch = v1::Batch { codec: 99, ..stored(Codec::None, 0) };
    assert!(matches!(decode_batch(&topic(), 0, batch), Err(DecodeError::UnknownCodec { codec: 99, .. })));
}

#[test]
fn a_record_that_cannot_be_read_does_not_hide_the_next_one() {
    // Three records; the one in the middle is a key that claims more bytes than there are.
    let mut set = encode_record_set([&Record::new("a")]).to_vec();
    set.extend([0x0a, 2, 0x0a, 9]);
    set.extend(encode_record_set([&Record::new("c")]));
    let batch = compress(set.into(), Codec::None).into_batch(3, 0);
    let batch = decode_batch(&topic(), 0, batch).expect("decodes");
    let items: Vec<_> = batch.events().collect();
    assert!(items[0].is_ok() && items[2].is_ok() && items.len() == 3, "{items:?}");
    assert!(matches!(items[1], Err(DecodeError::Malformed { offset: 1, .. })));
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_decoded_without_panic_and_in_bounded_steps(bytes: Vec<u8>, record_count in 0_u32..10, codec in 0_i32..4) {
        let batch = v1::Batch { crc32: crc32fast::hash(&bytes), records: bytes.into(), record_count, codec, ..Default::default() };
        if let Ok(batch) = decode_batch(&topic(), 0, batch) {
            proptest::prop_assert!(batch.events().count() <= record_count as usize + 1);
            proptest::prop_assert!(batch.records().count() <= record_count as usize + 1);
        }
    }
}
