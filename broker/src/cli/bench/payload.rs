//! What is published, and what user code does with it.

use aqueduct_client::RecordRef;
use bytes::Bytes;
use twox_hash::XxHash3_64;

/// Enough that no codec finds a repetition within a batch.
const POOL_BYTES: usize = 4 << 20;
const POOL_VALUES_MIN: usize = 16;

/// Random values of one size, again and again.
#[derive(Debug, Clone)]
pub(super) struct Payloads {
    pool: Bytes,
    record_bytes: usize,
    position: usize,
}

impl Payloads {
    pub(super) fn new(record_bytes: usize) -> Self {
        let mut pool = vec![0; POOL_BYTES.max(POOL_VALUES_MIN * record_bytes)];
        fastrand::fill(&mut pool);
        Self { pool: pool.into(), record_bytes, position: 0 }
    }
}

/// Views of one buffer: making a value costs no allocation and no copy.
impl Iterator for Payloads {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if self.position + self.record_bytes > self.pool.len() {
            self.position = 0;
        }
        let value = self.pool.slice(self.position..self.position + self.record_bytes);
        self.position += self.record_bytes;
        Some(value)
    }
}

/// Stands for user code: a record counts as read when this has gone over its key and value with XXH3, which reads memory
/// about as fast as it comes. The sum of all digests does not depend on their order.
#[inline]
pub(super) fn digest(record: &RecordRef<'_>) -> u64 {
    digest_of(record.key, record.value)
}

/// As [`digest`], of a record that has not been published yet.
#[inline]
pub(super) fn digest_of(key: Option<&[u8]>, value: Option<&[u8]>) -> u64 {
    let hash = |bytes: Option<&[u8]>| XxHash3_64::oneshot(bytes.unwrap_or_default());
    hash(key).rotate_left(1).wrapping_add(hash(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_their_size_and_do_not_repeat_soon() {
        for record_bytes in [1, 100, 1 << 20] {
            let values: Vec<Bytes> = Payloads::new(record_bytes).take(POOL_VALUES_MIN).collect();
            assert!(values.iter().all(|value| value.len() == record_bytes));
            assert!(record_bytes == 1 || values.windows(2).all(|pair| pair[0] != pair[1]));
        }
        assert_eq!(Payloads::new(0).next(), Some(Bytes::new()));
    }

    #[test]
    fn a_digest_tells_keys_from_values() {
        let (a, b): (Option<&[u8]>, Option<&[u8]>) = (Some(b"a"), Some(b"b"));
        assert_ne!(digest_of(a, b), digest_of(b, a));
        assert_eq!(digest_of(a, b), digest_of(a, b));
    }
}
