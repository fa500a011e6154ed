//! How much the client has room for.

use crate::groups::member::message::Credit;

/// What one partition delivers before it is another one's turn, in bytes.
const TURN_BYTES: usize = 256 * 1024;
/// Read for every record of credit, so that a member with little room does not have much read in vain.
const TURN_BYTES_PER_RECORD: u64 = 1024;
/// Credit left. Below zero when a batch has overdrawn it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    bytes: i64,
    records: i64,
}

impl Room {
    pub(super) fn add(&mut self, credit: Credit) {
        self.bytes = self.bytes.saturating_add_unsigned(credit.bytes);
        self.records = self.records.saturating_add_unsigned(credit.records);
    }

    pub(super) fn take(&mut self, bytes: usize, records: u64) {
        self.bytes = self.bytes.saturating_sub_unsigned(bytes as u64);
        self.records = self.records.saturating_sub_unsigned(records);
    }

    pub(super) fn is_left(self) -> bool {
        self.bytes > 0 && self.records > 0
    }

    /// Records that may be sent.
    pub(super) fn records(self) -> u64 {
        u64::try_from(self.records).unwrap_or(0)
    }

    /// How much to read, at most. At least one batch comes whatever the bound.
    pub(super) fn read_bytes(self) -> usize {
        let by_records = self.records.unsigned_abs().saturating_mul(TURN_BYTES_PER_RECORD);
        usize::try_from(self.bytes.unsigned_abs().min(by_records)).map_or(TURN_BYTES, |bytes| bytes.min(TURN_BYTES))
    }
}

impl From<Credit> for Room {
    fn from(credit: Credit) -> Self {
        let mut room = Self { bytes: 0, records: 0 };
        room.add(credit);
        room
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(bytes: u64, records: u64) -> Room {
        Room::from(Credit { bytes, records })
    }

    #[test]
    fn a_batch_may_overdraw_credit_once_and_is_paid_back_first() {
        let mut room = room(10, 10);
        room.take(100, 3);
        assert!(!room.is_left());
        room.add(Credit { bytes: 90, records: 0 });
        assert!(!room.is_left());
        room.add(Credit { bytes: 1, records: 0 });
        assert!(room.is_left());
    }

    #[test]
    fn without_records_there_is_no_room_however_many_bytes() {
        assert!(!room(1000, 0).is_left());
        assert!(room(1000, 1).is_left());
    }

    #[test]
    fn credit_without_limit_does_not_overflow() {
        let mut room = room(u64::MAX, u64::MAX);
        room.add(Credit { bytes: u64::MAX, records: u64::MAX });
        assert!(room.is_left());
        assert_eq!(room.read_bytes(), TURN_BYTES);
    }

    #[test]
    fn little_credit_reads_little() {
        assert_eq!(room(100, u64::MAX).read_bytes(), 100);
        assert_eq!(room(u64::MAX, 2).read_bytes(), 2048);
    }
}
