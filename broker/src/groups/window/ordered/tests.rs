#![expect(clippy::single_range_in_vec_init, reason = "a list of one range is what is meant")]

use std::{collections::BTreeMap, time::Duration};

use super::{OrderedWindow as Window, *};

const ACK_TIMEOUT: Duration = Duration::from_secs(30);

fn dense(base_offset: Offset, record_count: u32) -> BatchHeader {
    BatchHeader { base_offset, record_count, ..BatchHeader::default() }
}

fn portion(ranges: &[Range<Offset>], attempt: u32) -> Portion {
    Portion { ranges: ranges.to_vec(), attempt }
}

fn in_1s(now: Instant) -> Instant {
    now + Duration::from_secs(1)
}

fn window(progress: Progress) -> Window {
    Window::new(progress, RetryPolicy::default())
}

fn three_attempts(on_exhausted: OnExhausted) -> Window {
    Window::new(Progress::at(0), RetryPolicy { max_attempts: 3, on_exhausted, ..RetryPolicy::default() })
}

fn fault(at: Instant) -> Fault {
    Fault { error: "boom".into(), at, at_us: 7 }
}

const AT_ONCE: Pause = Pause::Fixed(Duration::ZERO);

#[test]
fn records_below_the_committed_offset_or_acked_are_left_out() {
    let mut progress = Progress::at(3);
    progress.ack(5..7);
    let mut window = super::tests::window(progress);
    assert_eq!(window.cursor(), 3);
    let portions = window.deliver(&dense(0, 10), Instant::now());
    assert_eq!(portions, [portion(&[3..5, 7..10], 1)]);
    assert_eq!(window.cursor(), 10);
    assert_eq!(window.open_records(), 5);
}

#[test]
fn a_nacked_record_comes_again_first_and_takes_what_follows_along() {
    let now = Instant::now();
    let mut window = super::tests::window(Progress::at(0));
    window.deliver(&dense(0, 10), now + ACK_TIMEOUT);
    assert_eq!(window.ack(&[0..4, 6..7]), Ok(()));
    assert_eq!(window.nack(&[4..5], &fault(now), Pause::Fixed(Duration::from_secs(1))), Ok(()));
    assert_eq!(window.cursor(), 4);
    assert_eq!(window.held_until(now), Some(in_1s(now)));
    assert_eq!(window.held_until(in_1s(now)), None);
    let again = window.deliver(&dense(0, 10), in_1s(now) + ACK_TIMEOUT);
    assert_eq!(again, [portion(&[4..5], 2), portion(&[5..6, 7..10], 1)]);
}

#[test]
fn several_nacks_of_one_delivery_count_one_attempt_each() {
    let now = Instant::now();
    let mut window = super::tests::window(Progress::at(0));
    window.deliver(&dense(0, 4), now + ACK_TIMEOUT);
    for _ in 0..2 {
        assert_eq!(window.nack(&[0..1, 2..3], &fault(now), AT_ONCE), Ok(()));
    }
    let again = window.deliver(&dense(0, 4), now + ACK_TIMEOUT);
    assert_eq!(again, [portion(&[0..1], 2), portion(&[1..2], 1), portion(&[2..3], 2), portion(&[3..4], 1)]);
}

#[test]
fn a_late_ack_of_what_was_taken_along_counts() {
    let now = Instant::now();
    let mut window = super::tests::window(Progress::at(0));
    window.deliver(&dense(0, 3), now + ACK_TIMEOUT);
    assert_eq!(window.nack(&[0..1], &fault(now), AT_ONCE), Ok(()));
    assert_eq!(window.ack(&[1..3]), Ok(()));
    assert_eq!(window.deliver(&dense(0, 3), now + ACK_TIMEOUT), [portion(&[0..1], 2)]);
}

#[test]
fn released_records_come_again_as_the_same_attempt() {
    let now = Instant::now();
    let mut window = super::tests::window(Progress::at(0));
    window.deliver(&dense(0, 5), now + ACK_TIMEOUT);
    assert_eq!(window.release(&[2..5]), Ok(()));
    assert_eq!(window.held_until(now), None);
    assert_eq!(window.deliver(&dense(0, 5), now + ACK_TIMEOUT), [portion(&[2..5], 1)]);
}

#[test]
fn what_is_not_settled_in_time_comes_again_as_the_next_attempt() {
    let now = Instant::now();
    let mut window = super::tests::window(Progress::at(0));
    window.deliver(&dense(0, 5), now + ACK_TIMEOUT);
    window.deliver(&dense(5, 5), in_1s(now) + ACK_TIMEOUT);
    assert_eq!(window.ack(&[0..2, 3..5]), Ok(()));
    assert_eq!(window.expire(&fault(now)), Expired::None);
    assert_eq!(window.next_deadline(), Some(now + ACK_TIMEOUT));
    assert_eq!(window.expire(&fault(now + ACK_TIMEOUT)), Expired::Some);
    assert_eq!(window.cursor(), 2);
    assert!(window.is_settled(), "what followed was taken along");
    assert_eq!(window.deliver(&dense(0, 5), in_1s(now) + ACK_TIMEOUT), [portion(&[2..3], 2)]);
    assert_eq!(window.deliver(&dense(5, 5), in_1s(now) + ACK_TIMEOUT), [portion(&[5..10], 1)]);
}

#[test]
fn settled_deliveries_leave_no_deadline_behind() {
    let now = Instant::now();
    let mut window = super::tests::window(Progress::at(0));
    for base in 0..100 {
        window.deliver(&dense(base, 1), now + ACK_TIMEOUT);
    }
    assert_eq!(window.ack(&[0..100]), Ok(()));
    assert_eq!(window.expire(&fault(now)), Expired::None);
    assert_eq!(window.next_deadline(), None);
}

#[test]
fn settlements_of_what_was_never_delivered_are_refused_whole() {
    let mut window = super::tests::window(Progress::at(0));
    window.deliver(&dense(0, 5), Instant::now());
    assert_eq!(window.ack(&[0..1, 4..6]), Err(NotDelivered));
    assert_eq!(window.ack(&[Range { start: 3, end: 3 }]), Err(NotDelivered));
    assert_eq!(window.progress().committed(), 0);
}

#[test]
fn delivery_waits_while_too_much_is_ahead_of_the_committed_offset() {
    let mut window = super::tests::window(Progress::at(0));
    let half = u32::try_from(OPEN_RECORDS_MAX / 2).expect("it is small");
    window.deliver(&dense(0, half), Instant::now());
    assert!(window.has_room());
    window.deliver(&dense(OPEN_RECORDS_MAX / 2, half), Instant::now());
    assert!(!window.has_room());
    assert_eq!(window.ack(&[1..OPEN_RECORDS_MAX]), Ok(()));
    assert!(!window.has_room(), "the first record is still open");
    assert_eq!(window.ack(&[0..1]), Ok(()));
    assert!(window.has_room());
}

#[test]
fn offsets_that_compaction_emptied_do_not_hold_the_committed_offset() {
    let mut window = super::tests::window(Progress::at(0));
    let header = BatchHeader {
        base_offset: 0,
        record_count: 2,
        offset_span: 6,
        offset_deltas: vec![1, 4],
        ..BatchHeader::default()
    };
    assert_eq!(window.deliver(&header, Instant::now()), [portion(&[1..2, 4..5], 1)]);
    assert_eq!(window.ack(&[1..2, 4..5]), Ok(()));
    assert_eq!(window.progress().committed(), 6);
}

#[test]
fn what_retention_took_is_skipped_and_open_records_can_still_be_acked() {
    let mut window = super::tests::window(Progress::at(0));
    window.deliver(&dense(0, 5), Instant::now());
    assert_eq!(window.skip_to(20), 5..20);
    assert_eq!(window.progress().committed(), 0);
    assert_eq!(window.ack(&[0..5]), Ok(()));
    assert_eq!(window.progress().committed(), 20);
    assert_eq!(window.cursor(), 20);
}

#[test]
fn a_record_that_has_failed_too_often_is_parked_and_the_rest_goes_on_without_it() {
    let now = Instant::now();
    let mut window = three_attempts(OnExhausted::Park);
    for attempt in 1..=3 {
        let due = window.deliver(&dense(0, 3), now + ACK_TIMEOUT);
        assert_eq!((due[0].ranges[0].start, due[0].attempt), (0, attempt));
        assert_eq!(window.nack(&[0..1], &fault(now), AT_ONCE), Ok(()));
    }
    assert_eq!(window.deliver(&dense(0, 3), now + ACK_TIMEOUT), [portion(&[1..3], 1)]);
    let parking = window.next_parking().expect("it is to be parked");
    assert_eq!((parking.range.clone(), parking.failure.attempts), (0..1, 3));
    assert_eq!(window.ack(&[1..3]), Ok(()));
    assert_eq!(window.progress().committed(), 0, "not before it is among the dead letters");
    assert!(!window.is_settled());
    window.parked(&parking.range);
    assert_eq!(window.progress().committed(), 3);
    assert!(window.is_settled() && window.next_parking().is_none());
}

#[test]
fn an_exhausted_record_stops_its_partition_if_nothing_may_overtake_it() {
    let now = Instant::now();
    let mut window = three_attempts(OnExhausted::Halt);
    for _ in 0..3 {
        window.deliver(&dense(0, 5), now + ACK_TIMEOUT);
        assert_eq!(window.nack(&[2..3], &fault(now), AT_ONCE), Ok(()));
    }
    assert_eq!(window.ack(&[0..2]), Ok(()), "late, but they were delivered");
    assert_eq!(window.deliver(&dense(0, 5), now + ACK_TIMEOUT), []);
    assert_eq!(window.halted().map(|(offset, failure)| (offset, failure.attempts)), Some((2, 3)));
    assert!(!window.has_room());
    assert_eq!(window.progress().committed(), 2);
}

#[test]
fn failures_are_part_of_the_progress_and_count_for_the_next_owner() {
    let now = Instant::now();
    let mut first = three_attempts(OnExhausted::Park);
    first.deliver(&dense(0, 3), now + ACK_TIMEOUT);
    assert_eq!(first.nack(&[1..2], &fault(now), AT_ONCE), Ok(()));
    let mut second = super::tests::window(first.progress().clone());
    let due = second.deliver(&dense(0, 3), now + ACK_TIMEOUT);
    assert_eq!(due, [portion(&[0..1], 1), portion(&[1..2], 2), portion(&[2..3], 1)]);
}

#[test]
fn a_record_that_is_given_up_takes_nothing_along() {
    let now = Instant::now();
    let mut window = super::tests::window(Progress::at(0));
    window.deliver(&dense(0, 5), now + ACK_TIMEOUT);
    assert_eq!(window.park(&[1..2], &fault(now)), Ok(()));
    assert_eq!((window.cursor(), window.open_records()), (5, 4));
    assert_eq!(window.ack(&[0..1, 2..5]), Ok(()));
    assert_eq!(window.progress().committed(), 1);
    window.parked(&(1..2));
    assert_eq!(window.progress().committed(), 5);
}

#[test]
fn work_that_is_extended_does_not_expire_and_leaves_few_deadlines_behind() {
    let mut now = Instant::now();
    let mut window = super::tests::window(Progress::at(0));
    window.deliver(&dense(0, 5), now + ACK_TIMEOUT);
    for _ in 0..1000 {
        now += Duration::from_secs(1);
        assert_eq!(window.extend(&[0..5], now + ACK_TIMEOUT), Ok(()));
        assert_eq!(window.expire(&fault(now)), Expired::None);
        assert!(window.deadlines.len() < 100, "{}", window.deadlines.len());
    }
    assert_eq!(window.expire(&fault(now + ACK_TIMEOUT)), Expired::Some);
}

#[test]
fn a_member_that_vanishes_counts_as_an_attempt_at_the_record_it_was_at() {
    let now = Instant::now();
    let mut window = super::tests::window(Progress::at(0));
    window.deliver(&dense(0, 5), now + ACK_TIMEOUT);
    assert_eq!(window.ack(&[0..2]), Ok(()));
    window.abandon(&fault(now));
    let failed: Vec<_> = window.progress().failures().map(|(range, failure)| (range, failure.attempts)).collect();
    assert_eq!(failed, [(2..3, 1)]);
}

#[test]
fn pauses_grow_with_every_attempt_unless_the_member_names_one() {
    let now = Instant::now();
    let mut window = super::tests::window(Progress::at(0));
    for attempt in 1..=4_u32 {
        window.deliver(&dense(0, 1), now + ACK_TIMEOUT);
        window.held_until = None;
        assert_eq!(window.nack(&[0..1], &fault(now), Pause::Backoff), Ok(()));
        let held = window.held_until(now).expect("it pauses") - now;
        let whole = Duration::from_secs(1 << (attempt - 1));
        assert!((whole / 2..=whole).contains(&held), "{attempt}: {held:?}");
    }
}

/// A member that acks, nacks, releases and forgets at random gets every record in the end, and never one that it has
/// acked.
#[test]
fn random_settlements_lose_nothing_and_repeat_nothing_that_was_acked() {
    for seed in 0..300 {
        let mut random = fastrand::Rng::with_seed(seed);
        let log: Vec<BatchHeader> = (0..20)
            .scan(0, |base, _| {
                let header = dense(*base, random.u32(1..6));
                *base = header.next_offset();
                Some(header)
            })
            .collect();
        let end = log.last().map_or(0, BatchHeader::next_offset);
        let policy = RetryPolicy { max_attempts: 1000, ..RetryPolicy::default() };
        let mut window = Window::new(Progress::at(0), policy);
        let mut now = Instant::now();
        let mut acked: BTreeMap<Offset, u32> = BTreeMap::new();
        let mut with_member: Vec<Range<Offset>> = Vec::new();
        for step in 0.. {
            assert!(step < 20_000, "seed {seed}: it does not come to an end");
            if window.progress().committed() == end {
                break;
            }
            let batch = log.iter().find(|batch| batch.next_offset() > window.cursor());
            if let Some(batch) = batch.filter(|_| random.bool() && window.held_until(now).is_none()) {
                for portion in window.deliver(batch, now + ACK_TIMEOUT) {
                    for offset in portion.ranges.iter().cloned().flatten() {
                        assert!(!acked.contains_key(&offset), "seed {seed}: {offset} was acked");
                        with_member.push(offset..offset + 1);
                    }
                }
            }
            if !with_member.is_empty() {
                let range = with_member.swap_remove(random.usize(..with_member.len()));
                let settled = match random.u8(0..8) {
                    0 => {
                        let pause = Pause::Fixed(Duration::from_millis(random.u64(0..2000)));
                        window.nack(std::slice::from_ref(&range), &fault(now), pause)
                    }
                    1 => window.release(std::slice::from_ref(&range)),
                    2 => Ok(()),
                    _ => {
                        acked.insert(range.start, 1);
                        window.ack(std::slice::from_ref(&range))
                    }
                };
                assert_eq!(settled, Ok(()), "seed {seed}");
            }
            now += Duration::from_millis(random.u64(0..3000));
            window.expire(&fault(now));
            assert_eq!(window.is_settled(), window.open_records() == 0);
        }
        assert_eq!(acked.len() as u64, end, "seed {seed}: every record was acked once it was committed");
    }
}

#[test]
fn an_altered_policy_decides_anew_about_what_halts() {
    let now = Instant::now();
    for on_exhausted in [OnExhausted::Park, OnExhausted::Halt] {
        let mut window = three_attempts(OnExhausted::Halt);
        for _ in 0..3 {
            window.deliver(&dense(0, 4), in_1s(now));
            assert_eq!(window.nack(&[1..2], &fault(now), AT_ONCE), Ok(()));
        }
        window.deliver(&dense(0, 4), in_1s(now));
        assert!(matches!(window.stop(7, now), Some(Stop::Halted { offset: 1, .. })), "{:?}", window.stop(7, now));
        window.set_retry(RetryPolicy { max_attempts: 4, on_exhausted, ..RetryPolicy::default() });
        assert_eq!((window.has_room(), window.stop(7, now)), (true, None));
        let again = window.deliver(&dense(0, 4), in_1s(now));
        assert_eq!(again.first(), Some(&portion(&[1..2], 4)), "one more attempt");
        assert_eq!(window.nack(&[1..2], &fault(now), AT_ONCE), Ok(()));
        window.deliver(&dense(0, 4), in_1s(now));
        match on_exhausted {
            OnExhausted::Park | OnExhausted::ParkKey => assert!(window.is_parking(&(1..2))),
            OnExhausted::Halt => assert!(matches!(window.stop(7, now), Some(Stop::Halted { offset: 1, .. }))),
        }
    }
}

#[test]
fn it_says_what_it_waits_for() {
    let now = Instant::now();
    let mut window = window(Progress::at(0));
    assert_eq!(window.stop(7, now), None);
    window.deliver(&dense(0, 4), in_1s(now));
    let pause = Duration::from_secs(5);
    assert_eq!(window.nack(&[2..3], &fault(now), Pause::Fixed(pause)), Ok(()));
    let Some(Stop::Held { offset, failure, until }) = window.stop(7, now) else { panic!("{:?}", window.stop(7, now)) };
    assert_eq!((offset, failure.attempts, &*failure.last_error, until), (2, 1, "boom", now + pause));
    assert_eq!(window.stop(7, until), None);
    let all = u32::try_from(OPEN_RECORDS_MAX).expect("it is small");
    window.deliver(&dense(2, all), in_1s(until));
    assert_eq!(window.stop(7, until), Some(Stop::TooFarAhead { first: 0, with: Some(7) }));
}
