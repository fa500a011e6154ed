//! How much of the prefetch the broker may use. Pure.

use aqueduct_proto::v1;

/// What has been granted to the broker, what waits here, and what is free add up to the prefetch. Of the free part, as much
/// is kept back as the limit is below the prefetch.
#[derive(Debug)]
pub(super) struct Room {
    prefetch: v1::Credit,
    /// How many of the prefetch's records the broker may use now.
    records_max: u64,
    /// Has come back, and was not granted again.
    free: v1::Credit,
}

impl Room {
    /// Everything that the limit allows is granted with the join.
    pub(super) fn new(prefetch: v1::Credit, records_max: u64) -> Self {
        let records_max = records_max.min(prefetch.records);
        let free = v1::Credit { bytes: 0, records: prefetch.records - records_max };
        Self { prefetch, records_max, free }
    }

    /// What the broker is granted by a join, before anything has come back.
    pub(super) fn of_join(&self) -> v1::Credit {
        v1::Credit { bytes: self.prefetch.bytes, records: self.prefetch.records.saturating_sub(self.free.records) }
    }

    /// From here on the broker may use so many records: more at once, less as they come back.
    pub(super) fn limit(&mut self, records_max: u64) {
        self.records_max = records_max.min(self.prefetch.records);
    }

    /// Room for this much has become free.
    pub(super) fn give_back(&mut self, credit: v1::Credit) {
        self.free.bytes += credit.bytes;
        self.free.records += credit.records;
    }

    /// Whether there is enough to be worth a message: half of what the broker may use.
    pub(super) fn is_due(&self) -> bool {
        let due = self.due();
        due.bytes >= self.prefetch.bytes.div_ceil(2) || due.records >= self.records_max.div_ceil(2).max(1)
    }

    /// Grants what is due.
    pub(super) fn grant(&mut self) -> v1::Credit {
        let due = self.due();
        self.free.bytes -= due.bytes;
        self.free.records -= due.records;
        due
    }

    fn due(&self) -> v1::Credit {
        let kept_back = self.prefetch.records - self.records_max;
        v1::Credit { bytes: self.free.bytes, records: self.free.records.saturating_sub(kept_back) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PREFETCH: v1::Credit = v1::Credit { bytes: 1_000, records: 100 };

    fn records(records: u64) -> v1::Credit {
        v1::Credit { bytes: 0, records }
    }

    #[test]
    fn without_a_limit_credit_goes_back_in_halves() {
        let mut room = Room::new(PREFETCH, u64::MAX);
        assert_eq!(room.of_join(), PREFETCH);
        room.give_back(records(49));
        assert!(!room.is_due());
        room.give_back(v1::Credit { bytes: 7, records: 1 });
        assert!(room.is_due());
        assert_eq!(room.grant(), v1::Credit { bytes: 7, records: 50 });
        assert!(!room.is_due());
    }

    #[test]
    fn a_lower_limit_keeps_credit_back_until_it_is_raised() {
        let mut room = Room::new(PREFETCH, u64::MAX);
        room.limit(10);
        room.give_back(records(94));
        assert!(!room.is_due());
        room.give_back(records(1));
        assert!(room.is_due());
        assert_eq!(room.grant(), records(5));
        room.limit(0);
        room.give_back(records(5));
        assert!(!room.is_due());
        room.limit(u64::MAX);
        assert_eq!((room.is_due(), room.grant()), (true, records(95)));
    }

    #[test]
    fn a_join_under_a_limit_grants_no_more_than_that() {
        let mut room = Room::new(PREFETCH, 10);
        assert_eq!(room.of_join().records, 10);
        room.limit(30);
        assert_eq!((room.is_due(), room.grant()), (true, records(20)));
        assert_eq!(Room::new(PREFETCH, 0).of_join().records, 0);
    }

    proptest! {
        /// Whatever comes back in whatever order, under whatever limits: the broker never has more than the limit that was
        /// in force when it was granted something, and gets all of it.
        #[test]
        fn what_is_granted_never_exceeds_the_limit(steps in prop::collection::vec((0_u64..=100, 0_u64..=120), 1..100)) {
            let mut room = Room::new(PREFETCH, u64::MAX);
            let mut granted = room.of_join().records;
            for (used, limit) in steps {
                let used = used.min(granted);
                granted -= used;
                room.give_back(records(used));
                room.limit(limit);
                let grant = room.grant().records;
                granted += grant;
                prop_assert!(grant == 0 || granted == limit.min(100), "{granted} of {limit}");
                prop_assert!(granted >= limit.min(100));
            }
        }
    }
}
