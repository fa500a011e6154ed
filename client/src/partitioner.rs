//! Which partition a key belongs to: Kafka's default partitioner, so that every language agrees.

/// Kafka's seed.
const SEED: u32 = 0x9747_b28c;
const M: u32 = 0x5bd1_e995;

/// The partition of `key` among `partitions` (at least 1): murmur2, sign bit masked, modulo.
pub fn partition_for_key(key: &[u8], partitions: u32) -> u32 {
    (murmur2(key) & 0x7fff_ffff) % partitions.max(1)
}

/// `MurmurHash2` by Austin Appleby, with the seed that Kafka's clients use.
pub fn murmur2(bytes: &[u8]) -> u32 {
    // Lengths beyond 32 bits cannot occur: records are far smaller. Kafka's arithmetic wraps too.
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let mut hash = SEED ^ length;
    let (words, tail) = bytes.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !tail.is_empty() {
        for (position, byte) in tail.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * position);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From Kafka's own `UtilsTest.testMurmur2`.
    #[test]
    fn hashes_are_those_of_kafka() {
        let vectors: [(&str, i32); 6] = [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ];
        for (key, expected) in vectors {
            assert_eq!(murmur2(key.as_bytes()), expected.cast_unsigned(), "{key}");
        }
    }

    #[test]
    fn partitions_are_in_range_and_the_sign_bit_is_masked() {
        assert_eq!(partition_for_key(b"21", 16), (-973_932_308_i32).cast_unsigned() % (1 << 31) % 16);
        for partitions in 1..20 {
            assert!(partition_for_key(b"customer-7", partitions) < partitions);
        }
        assert_eq!(partition_for_key(b"", 0), 0);
    }
}
