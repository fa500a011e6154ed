//! What retention removes: a pure decision over sizes and ages.
//!
//! Ages are read on the log's *age clock* ([`crate::age_clock`]), not on the wall clock, so that a wall clock that
//! jumps forward expires nothing early. A segment's records are at most as young as the age clock at the last append
//! before the next segment; that reading is in the next segment's header.

use std::time::Duration;

use crate::Offset;

/// A sealed segment as retention sees it, oldest first.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SealedSegment {
    /// Offset after its last record.
    pub(crate) end: Offset,
    /// Length of its file.
    pub(crate) bytes: u64,
    /// The age clock by which its last record had been appended.
    pub(crate) appended_by_us: u64,
}

/// What a log may keep.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Bytes of all segments, the active one included.
    pub(crate) bytes: Option<u64>,
    /// Age of the youngest record of a segment.
    pub(crate) age: Option<Duration>,
}

/// The new log start if something is to be removed: the end of the last of the oldest segments that, one by one, are
/// too old, or without which the log still is at least as large as it may be.
pub(crate) fn new_log_start(
    sealed: &[SealedSegment],
    active_bytes: u64,
    limits: Limits,
    age_now_us: u64,
) -> Option<Offset> {
    let mut bytes = sealed.iter().map(|segment| segment.bytes).sum::<u64>() + active_bytes;
    let mut log_start = None;
    for segment in sealed {
        let age = Duration::from_micros(age_now_us.saturating_sub(segment.appended_by_us));
        let is_too_old = limits.age.is_some_and(|age_max| age > age_max);
        let is_surplus = limits.bytes.is_some_and(|bytes_max| bytes - segment.bytes >= bytes_max);
        if !is_too_old && !is_surplus {
            break;
        }
        bytes -= segment.bytes;
        log_start = Some(segment.end);
    }
    log_start
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;
    const SEALED: [SealedSegment; 3] = [
        SealedSegment { end: 10, bytes: 100, appended_by_us: 10 * SECOND },
        SealedSegment { end: 20, bytes: 100, appended_by_us: 20 * SECOND },
        SealedSegment { end: 30, bytes: 100, appended_by_us: 30 * SECOND },
    ];

    fn decide(bytes: Option<u64>, age_seconds: Option<u64>, now_seconds: u64) -> Option<Offset> {
        let limits = Limits { bytes, age: age_seconds.map(Duration::from_secs) };
        new_log_start(&SEALED, 50, limits, now_seconds * SECOND)
    }

    #[test]
    fn without_limits_nothing_is_removed() {
        assert_eq!(decide(None, None, 1_000_000), None);
    }

    #[test]
    fn bytes_remove_the_oldest_segments_as_long_as_enough_remain() {
        assert_eq!(decide(Some(351), None, 0), None);
        assert_eq!(decide(Some(250), None, 0), Some(10));
        assert_eq!(decide(Some(249), None, 0), Some(10));
        assert_eq!(decide(Some(50), None, 0), Some(30));
        assert_eq!(decide(Some(0), None, 0), Some(30));
    }

    #[test]
    fn age_removes_segments_whose_youngest_record_is_too_old() {
        assert_eq!(decide(None, Some(5), 15), None);
        assert_eq!(decide(None, Some(5), 16), Some(10));
        assert_eq!(decide(None, Some(5), 100), Some(30));
    }

    #[test]
    fn an_age_clock_that_is_behind_expires_nothing() {
        assert_eq!(decide(None, Some(0), 0), None);
    }

    #[test]
    fn a_younger_segment_shields_the_older_ones_behind_it_from_nothing() {
        assert_eq!(decide(Some(300), Some(5), 27), Some(20), "one for its bytes or age, the next for its age");
    }
}
