#![expect(clippy::single_range_in_vec_init, reason = "a list of one range is what is meant")]

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

use super::*;
use crate::groups::window::{OPEN_RECORDS_MAX, Stop, next_exits};

const ACK_TIMEOUT: Duration = Duration::from_secs(30);
const NO_LIMIT: u64 = u64::MAX;

fn dense(base_offset: Offset, record_count: u32) -> BatchHeader {
    BatchHeader { base_offset, record_count, ..BatchHeader::default() }
}

fn fault(at: Instant) -> Fault {
    Fault { error: "boom".into(), at, at_us: 7 }
}

fn loan(seat: MemberId, now: Instant) -> Loan {
    Loan { seat, until: now + ACK_TIMEOUT }
}

fn ranges(portion: Option<Portion>) -> Vec<Range<Offset>> {
    portion.map(|portion| portion.ranges).unwrap_or_default()
}

fn exits(window: &FreeWindow) -> Vec<Range<Offset>> {
    next_exits(&window.records, NO_LIMIT, |leaving| leaving).into_iter().map(|exit| exit.range).collect()
}

/// Offsets 0 to 5 with seat 1, and 5 to 10 with seat 2.
fn delivered(now: Instant) -> FreeWindow {
    let mut window = FreeWindow::new(Progress::at(0));
    assert_eq!(ranges(window.deliver(&dense(0, 10), loan(1, now), 5)), [0..5]);
    assert_eq!(window.records.next_read(), 5);
    assert_eq!(ranges(window.deliver(&dense(0, 10), loan(2, now), 5)), [5..10]);
    window
}

#[test]
fn a_failed_record_leaves_alone_and_the_committed_offset_goes_on_once_it_has() {
    let now = Instant::now();
    let mut window = delivered(now);
    assert_eq!(window.let_go(1, &[2..3], &fault(now), Way::Retry(Pause::Backoff)), Ok(()));
    assert_eq!(window.ack(1, &[0..2, 3..5]), Ok(()));
    assert_eq!(window.ack(2, &[5..10]), Ok(()));
    assert_eq!((window.records.progress.committed(), exits(&window)), (2, vec![2..3]));
    assert_eq!(window.records.next_read(), 10, "nothing comes back");
    window.records.left(&(2..3));
    assert_eq!(window.records.progress.committed(), 10);
    assert!(window.records.is_settled());
}

#[test]
fn what_a_member_gives_back_unseen_goes_to_the_next_first_and_no_attempt_is_counted() {
    let now = Instant::now();
    let mut window = delivered(now);
    assert_eq!(window.release(1, &[3..5]), Ok(()));
    assert_eq!(window.records.next_read(), 3);
    let again = window.deliver(&dense(0, 10), loan(2, now), NO_LIMIT);
    assert_eq!(again, Some(Portion { ranges: vec![3..5], attempt: 1 }));
    assert_eq!(
        (window.records.next_read(), window.records.loans.records_of(1), window.records.loans.records_of(2)),
        (10, 3, 7)
    );
    assert_eq!(exits(&window), []);
}

#[test]
fn who_vanishes_has_failed_at_the_first_of_its_records_and_the_others_come_again() {
    let now = Instant::now();
    let mut window = delivered(now);
    window.abandon(2, &fault(now));
    assert_eq!((exits(&window), window.records.next_read(), window.records.loans.records_of(1)), (vec![5..6], 6, 5));
    window.vacate(1);
    assert_eq!(ranges(window.deliver(&dense(0, 10), loan(3, now), NO_LIMIT)), [0..5, 6..10]);
}

#[test]
fn a_time_out_counts_for_the_first_record_of_each_member_that_is_late() {
    let now = Instant::now();
    let mut window = delivered(now);
    window.records.extend(&[5..7], loan(2, now + ACK_TIMEOUT)).expect("they were delivered");
    assert_eq!(window.expire(&fault(now + ACK_TIMEOUT)), [1, 2]);
    assert_eq!((exits(&window), window.records.loans.records_of(2)), (vec![0..1, 7..8], 2));
    assert_eq!(ranges(window.deliver(&dense(0, 10), loan(3, now), NO_LIMIT)), [1..5, 8..10]);
    assert_eq!(window.expire(&fault(now + ACK_TIMEOUT * 2)), [2, 3]);
}

#[test]
fn only_who_has_a_record_settles_it() {
    let now = Instant::now();
    let mut window = delivered(now);
    assert_eq!(window.ack(2, &[4..6]), Err(Refusal::TakenBack), "what is its own is settled");
    assert_eq!((window.records.loans.records_of(1), window.records.loans.records_of(2)), (5, 4));
    assert_eq!(window.ack(2, &[5..6]), Ok(()), "settled already");
    assert_eq!(window.let_go(2, &[0..1], &fault(now), Way::Park), Err(Refusal::TakenBack));
    assert_eq!(window.ack(1, &[9..11]), Err(Refusal::NotDelivered));
    assert_eq!(window.ack(1, &[]), Err(Refusal::NotDelivered));
    assert_eq!(window.let_go(1, &[0..1], &fault(now), Way::Park), Ok(()));
    assert_eq!(window.let_go(1, &[0..1], &fault(now), Way::Park), Ok(()), "it is leaving already");
    assert_eq!(window.ack(1, &[0..1]), Err(Refusal::TakenBack), "too late");
}

#[test]
fn a_batch_goes_to_a_few_members_however_little_room_they_have() {
    let now = Instant::now();
    let mut window = FreeWindow::new(Progress::at(0));
    let mut portions = 0;
    while window.records.next_read() < 1000 {
        window.deliver(&dense(0, 1000), loan(1, now), 1);
        portions += 1;
    }
    assert_eq!(portions, PORTIONS_MAX);
}

#[test]
fn offsets_without_records_hold_nothing_up() {
    let mut window = FreeWindow::new(Progress::at(0));
    let header = BatchHeader {
        base_offset: 3,
        record_count: 2,
        offset_span: 6,
        offset_deltas: vec![1, 4],
        ..BatchHeader::default()
    };
    assert_eq!(ranges(window.deliver(&header, loan(1, Instant::now()), NO_LIMIT)), [4..5, 7..8]);
    assert_eq!(window.release(1, &[4..5]), Ok(()));
    let emptied = BatchHeader { record_count: 1, offset_deltas: vec![4], ..header };
    assert_eq!(ranges(window.deliver(&emptied, loan(1, Instant::now()), NO_LIMIT)), [0..0; 0]);
    assert_eq!(window.ack(1, &[7..8]), Ok(()));
    assert_eq!(window.records.progress.committed(), 9);
}

#[test]
fn delivery_waits_while_too_much_is_ahead_of_the_committed_offset_but_not_for_what_came_back() {
    let now = Instant::now();
    let mut window = FreeWindow::new(Progress::at(0));
    let all = u32::try_from(OPEN_RECORDS_MAX).expect("it is small");
    window.deliver(&dense(0, all), loan(1, now), NO_LIMIT);
    assert!(!window.has_room());
    assert_eq!(window.release(1, &[7..8]), Ok(()));
    assert!(window.has_room());
}

#[test]
fn what_retention_took_is_skipped() {
    let now = Instant::now();
    let mut window = delivered(now);
    assert_eq!(window.records.skip_to(20), 10..20);
    assert_eq!(window.release(1, &[1..5]), Ok(()));
    assert_eq!(window.records.skip_to(3), 1..3);
    assert_eq!(window.records.next_read(), 3);
    assert_eq!(window.ack(1, &[0..1]), Ok(()));
    assert_eq!(window.records.progress.committed(), 3);
}

#[test]
fn what_is_lost_is_with_nobody_any_more() {
    let now = Instant::now();
    let mut window = delivered(now);
    assert_eq!(window.release(1, &[1..2]), Ok(()));
    assert_eq!(window.records.skip_to(8), 1..8, "what is read again is lost, and what lies behind it");
    assert_eq!([1, 2].map(|seat| window.records.loans.records_of(seat)), [1, 2]);
    assert_eq!(window.ack(2, &[5..8]), Ok(()), "nobody minds");
    assert_eq!((window.ack(1, &[0..1]), window.ack(2, &[8..10])), (Ok(()), Ok(())));
    assert!(window.records.is_settled());
    assert_eq!(window.expire(&fault(now + ACK_TIMEOUT)), [0; 0], "nothing of it comes back");
    assert_eq!((window.records.progress.committed(), window.records.next_read()), (10, 10));
}

#[test]
fn who_holds_everybody_up_is_named() {
    let now = Instant::now();
    let mut window = FreeWindow::new(Progress::at(0));
    assert!(window.has_room());
    let all = u32::try_from(OPEN_RECORDS_MAX).expect("it is small");
    window.deliver(&dense(0, all), loan(3, now), NO_LIMIT);
    assert_eq!(window.records.too_far_ahead(), Stop::TooFarAhead { first: 0, with: Some(3) });
    assert_eq!(window.let_go(3, &[0..1], &fault(now), Way::Park), Ok(()));
    assert_eq!(window.records.too_far_ahead(), Stop::TooFarAhead { first: 0, with: None }, "it is on its way out");
}

/// Every record is with one member at a time, and in the end it is acked or has left.
#[test]
fn random_members_lose_nothing_and_share_nothing() {
    for seed in 0..300 {
        let mut random = fastrand::Rng::with_seed(seed);
        let log: Vec<BatchHeader> = (0..15)
            .scan(0, |base, _| {
                let header = dense(*base, random.u32(1..20));
                *base = header.next_offset();
                Some(header)
            })
            .collect();
        let end = log.last().map_or(0, BatchHeader::next_offset);
        let mut window = FreeWindow::new(Progress::at(0));
        let mut now = Instant::now();
        let mut with: BTreeMap<Offset, MemberId> = BTreeMap::new();
        let mut over: BTreeMap<Offset, &str> = BTreeMap::new();
        for step in 0.. {
            assert!(step < 50_000, "seed {seed}: it does not come to an end");
            if window.records.progress.committed() == end {
                break;
            }
            let seat = random.u64(1..5);
            let of_seat: Vec<Offset> = with.iter().filter(|(_, of)| **of == seat).map(|(offset, _)| *offset).collect();
            assert_eq!(window.records.loans.records_of(seat), of_seat.len() as u64, "seed {seed}");
            match (random.u8(0..20), of_seat.first().copied()) {
                (0..6, _) => {
                    let next = window.records.next_read();
                    let Some(batch) = log.iter().find(|batch| batch.next_offset() > next) else { continue };
                    for offset in ranges(window.deliver(batch, loan(seat, now), random.u64(1..9))).into_iter().flatten()
                    {
                        assert_eq!(with.insert(offset, seat), None, "seed {seed}: {offset} is with somebody");
                        assert!(!over.contains_key(&offset), "seed {seed}: {offset} is over");
                    }
                }
                (6..8, Some(first)) => {
                    window.let_go(seat, &[first..first + 1], &fault(now), Way::Park).expect("it has it");
                    with.remove(&first);
                    over.insert(first, "failed");
                }
                (8, Some(first)) => {
                    window.abandon(seat, &fault(now));
                    with.retain(|_, of| *of != seat);
                    over.insert(first, "failed");
                }
                (9, Some(first)) => {
                    window.release(seat, &[first..first + 1]).expect("it has it");
                    with.remove(&first);
                }
                (10, _) => {
                    now += Duration::from_secs(random.u64(0..40));
                    for late in window.expire(&fault(now)) {
                        let is_open =
                            |offset: Offset| window.records.loans.missing_in(&(offset..offset + 1)).is_empty();
                        let taken: Vec<Offset> =
                            with.iter().filter(|(o, of)| **of == late && !is_open(**o)).map(|(o, _)| *o).collect();
                        with.retain(|offset, _| !taken.contains(offset));
                        let failed: Vec<Offset> = taken
                            .into_iter()
                            .filter(|offset| window.records.is_leaving(&(*offset..*offset + 1)))
                            .collect();
                        assert_eq!(failed.len(), 1, "seed {seed}: one attempt for each");
                        over.insert(failed[0], "failed");
                    }
                }
                (11..13, _) => {
                    if let Some(range) = exits(&window).first() {
                        window.records.left(range);
                    }
                }
                (_, Some(_)) => {
                    let offset = of_seat[random.usize(..of_seat.len())];
                    window.ack(seat, &[offset..offset + 1]).expect("it has it");
                    with.remove(&offset);
                    over.insert(offset, "acked");
                }
                (_, None) => {}
            }
        }
        assert_eq!(over.len() as u64, end, "seed {seed}");
    }
}
