#![expect(clippy::single_range_in_vec_init, reason = "a list of one range is what is meant")]

use std::{collections::BTreeMap, time::Duration};

use super::*;
use crate::groups::retry::OnExhausted;

const ACK_TIMEOUT: Duration = Duration::from_secs(30);
const NO_LIMIT: u64 = u64::MAX;
const A: ChainId = ChainId::Key(1);
const B: ChainId = ChainId::Key(2);

fn dense(base_offset: Offset, record_count: u32) -> BatchHeader {
    BatchHeader { base_offset, record_count, ..BatchHeader::default() }
}

fn fault(at: Instant) -> Fault {
    Fault { error: "boom".into(), at, at_us: 7 }
}

fn loan(seat: MemberId, now: Instant) -> Loan {
    Loan { seat, until: now + ACK_TIMEOUT }
}

fn window() -> KeyedWindow {
    KeyedWindow::new(Progress::at(0), RetryPolicy { max_attempts: 3, ..RetryPolicy::default() })
}

fn offsets(portions: &[Portion]) -> Vec<Offset> {
    portions.iter().flat_map(|portion| portion.ranges.iter().cloned().flatten()).collect()
}

const AT_ONCE: Way = Way::Retry(Pause::Fixed(Duration::ZERO));

#[test]
fn one_key_is_with_one_member_and_the_others_go_on() {
    let now = Instant::now();
    let mut window = window();
    let keys = [A, B, A, B, A];
    assert_eq!(offsets(&window.deliver(&dense(0, 5), &keys, loan(1, now), 2)), [0, 1]);
    assert_eq!(offsets(&window.deliver(&dense(0, 5), &keys, loan(2, now), NO_LIMIT)), [0; 0]);
    assert_eq!(window.records.next_read(), 5, "what waits is passed over");
    assert_eq!(window.ack(1, &[1..2]), Ok(()));
    assert_eq!(window.records.next_read(), 3);
    assert_eq!(offsets(&window.deliver(&dense(0, 5), &keys, loan(2, now), NO_LIMIT)), [3]);
    assert_eq!(window.ack(1, &[0..1]), Ok(()));
    assert_eq!(offsets(&window.deliver(&dense(0, 5), &keys, loan(2, now), NO_LIMIT)), [2, 4]);
    assert_eq!(window.ack(2, &[2..5]), Ok(()));
    assert_eq!(window.records.progress.committed(), 5);
}

#[test]
fn what_is_lost_is_with_nobody_and_keeps_nothing_of_its_key_waiting() {
    let now = Instant::now();
    let mut window = window();
    let keys = [A, B, A, A, B];
    assert_eq!(offsets(&window.deliver(&dense(0, 5), &keys, loan(1, now), 2)), [0, 1]);
    window.deliver(&dense(0, 5), &keys, loan(2, now), NO_LIMIT);
    assert_eq!(window.waiting_keys(), Some(Stop::Keys { records: 3, first: 2, until: None }));
    window.vacate(1);
    assert_eq!(window.records.next_read(), 0);
    assert_eq!(window.skip_to(3), 0..3, "0 and 1 were to come again, and 2 to follow");
    assert_eq!((window.records.loans.records_of(1), window.records.next_read()), (0, 3));
    assert_eq!(offsets(&window.deliver(&dense(0, 5), &keys, loan(2, now), NO_LIMIT)), [3, 4]);
    assert_eq!(window.waiting_keys(), None);
    assert_eq!(window.ack(2, &[3..5]), Ok(()));
    assert!(window.records.is_settled() && window.records.progress.committed() == 5);
}

#[test]
fn an_open_record_that_is_lost_sets_its_followers_free() {
    let now = Instant::now();
    let mut window = window();
    window.deliver(&dense(0, 2), &[A, B], loan(1, now), NO_LIMIT);
    window.deliver(&dense(2, 2), &[A, B], loan(2, now), NO_LIMIT);
    assert_eq!(window.records.next_read(), 4, "both wait");
    assert_eq!(window.release(1, &[0..1]), Ok(()));
    assert_eq!(window.skip_to(2), 0..2);
    assert_eq!(window.records.loans.records_of(1), 0);
    assert_eq!(offsets(&window.deliver(&dense(2, 2), &[A, B], loan(2, now), NO_LIMIT)), [2, 3]);
}

#[test]
fn what_follows_a_failed_record_of_its_key_comes_after_it_again() {
    let now = Instant::now();
    let mut window = window();
    let keys = [A, B, A, B, A];
    window.deliver(&dense(0, 5), &keys, loan(1, now), NO_LIMIT);
    let later = Way::Retry(Pause::Fixed(Duration::from_secs(5)));
    assert_eq!(window.let_go(1, &[2..3], &fault(now), later), Ok(()));
    assert_eq!((window.records.loans.records_of(1), window.records.next_read()), (3, 5), "the elder of its key stays");
    assert_eq!(window.ack(1, &[4..5]), Err(Refusal::TakenBack));
    assert_eq!(window.ack(1, &[0..1, 1..2, 3..4]), Ok(()));
    assert_eq!(window.next_deadline().map(|at| at - now), Some(Duration::from_secs(5)));
    assert_eq!(window.expire(&fault(now + Duration::from_secs(4))), [0; 0]);
    assert_eq!(window.records.next_read(), 5);
    window.expire(&fault(now + Duration::from_secs(5)));
    let again = window.deliver(&dense(0, 5), &keys, loan(2, now), NO_LIMIT);
    assert_eq!(again, [Portion { ranges: vec![2..3], attempt: 2 }, Portion { ranges: vec![4..5], attempt: 1 }]);
}

#[test]
fn a_record_that_has_failed_too_often_is_parked_and_its_followers_go_on() {
    let now = Instant::now();
    let mut window = window();
    for attempt in 1..=3 {
        let portions = window.deliver(&dense(0, 2), &[A, A], loan(attempt, now), NO_LIMIT);
        assert_eq!((offsets(&portions), portions[0].attempt), (vec![0, 1], u32::try_from(attempt).expect("few")));
        assert_eq!(window.let_go(attempt, &[0..1], &fault(now), AT_ONCE), Ok(()));
        window.expire(&fault(now));
    }
    let [exit] = &window.next_exits(NO_LIMIT)[..] else { panic!("one") };
    assert_eq!((exit.range.clone(), exit.failure.attempts, exit.way), (0..1, 3, Way::Park));
    assert_eq!(window.records.loans.records_of(3), 0, "the follower was taken back with it");
    assert_eq!(offsets(&window.deliver(&dense(0, 2), &[A, A], loan(4, now), NO_LIMIT)), [1]);
    assert_eq!(window.ack(4, &[1..2]), Ok(()));
    window.records.left(&(0..1));
    assert_eq!(window.records.progress.committed(), 2);
}

#[test]
fn records_without_a_key_wait_for_nobody() {
    let now = Instant::now();
    let mut window = window();
    window.deliver(&dense(0, 3), &[], loan(1, now), 1);
    assert_eq!(window.let_go(1, &[0..1], &fault(now), Way::Retry(Pause::Backoff)), Ok(()));
    assert_eq!(offsets(&window.deliver(&dense(0, 3), &[], loan(2, now), NO_LIMIT)), [1, 2]);
}

#[test]
fn who_goes_leaves_its_keys_to_others_in_order() {
    let now = Instant::now();
    let mut window = window();
    let keys = [A, B, A, A];
    window.deliver(&dense(0, 4), &keys, loan(1, now), 2);
    window.deliver(&dense(0, 4), &keys, loan(2, now), NO_LIMIT);
    window.vacate(1);
    assert_eq!(offsets(&window.deliver(&dense(0, 4), &keys, loan(2, now), NO_LIMIT)), [0, 1, 2, 3]);
}

/// Batches, and the keys of their records.
fn random_log(random: &mut fastrand::Rng) -> Vec<(BatchHeader, Vec<ChainId>)> {
    let batches = (0..12).scan(0, |base, _| {
        let header = dense(*base, random.u32(1..16));
        *base = header.next_offset();
        let keys = (header.base_offset..header.next_offset()).map(|offset| match random.u32(0..6) {
            0 => ChainId::Record(offset),
            key => ChainId::Key(key),
        });
        Some((header, keys.collect()))
    });
    batches.collect()
}

/// Members that ack, nack, give back, are late and vanish at random, and a hub that starts over from what the journal has:
/// no key is ever with two members, everything is handled or parked, and each key in order.
#[test]
fn random_members_keep_every_key_in_order() {
    for seed in 0..300 {
        let mut random = fastrand::Rng::with_seed(seed);
        let retry = RetryPolicy { max_attempts: 3, on_exhausted: OnExhausted::Park, ..RetryPolicy::default() };
        let log = random_log(&mut random);
        let keys: Vec<ChainId> = log.iter().flat_map(|(_, keys)| keys.clone()).collect();
        let key = |offset: Offset| keys[usize::try_from(offset).expect("few")];
        let end = keys.len() as Offset;
        let mut window = KeyedWindow::new(Progress::at(0), retry);
        let mut now = Instant::now();
        // What each member works on, oldest first; a record that was taken back may still be there.
        let mut inboxes: BTreeMap<MemberId, Vec<Offset>> = (1..5).map(|seat| (seat, Vec::new())).collect();
        let mut over: Vec<Offset> = Vec::new();
        for step in 0.. {
            assert!(step < 100_000, "seed {seed}: it does not come to an end at {:?}", window.records.progress);
            if window.records.progress.committed() == end {
                break;
            }
            now += Duration::from_millis(random.u64(0..50));
            window.expire(&fault(now));
            let open = |window: &KeyedWindow, offset: Offset| {
                window.records.loans.missing_in(&(offset..offset + 1)).is_empty()
            };
            inboxes.values_mut().for_each(|inbox| inbox.retain(|offset| open(&window, *offset)));
            let mut with: BTreeMap<ChainId, MemberId> = BTreeMap::new();
            for (seat, inbox) in &inboxes {
                assert!(inbox.is_sorted(), "seed {seed}");
                for offset in inbox {
                    let other = with.insert(key(*offset), *seat);
                    assert!(other.is_none_or(|other| other == *seat), "seed {seed}: a key is with two members");
                }
            }
            let seat = random.u64(1..5);
            let first = inboxes[&seat].first().copied();
            match (random.u8(0..24), first) {
                (0..8, _) => {
                    let next = window.records.next_read();
                    let Some((header, keys)) = log.iter().find(|(header, _)| header.next_offset() > next) else {
                        continue;
                    };
                    let portions = window.deliver(header, keys, loan(seat, now), random.u64(1..6));
                    let inbox = inboxes.get_mut(&seat).expect("it is there");
                    inbox.extend(offsets(&portions));
                    inbox.sort_unstable();
                }
                (8..12, Some(first)) => {
                    let pause = Pause::Fixed(Duration::from_millis(random.u64(0..200)));
                    window.let_go(seat, &[first..first + 1], &fault(now), Way::Retry(pause)).expect("it has it");
                }
                (12, _) => window.abandon(seat, &fault(now)),
                (13, Some(first)) => window.release(seat, &[first..first + 1]).expect("it has it"),
                (14, _) => window.vacate(seat),
                (15, _) => now += ACK_TIMEOUT,
                (16, _) if random.u8(0..8) == 0 => {
                    window = KeyedWindow::new(window.records.progress.clone(), retry);
                }
                (17, _) => {
                    if let Some(exit) = window.next_exits(1).first() {
                        window.records.left(&exit.range);
                        over.push(exit.range.start);
                    }
                }
                (_, Some(first)) => {
                    let elders = (0..first).filter(|elder| key(*elder) == key(first));
                    for elder in elders {
                        let is_over = over.contains(&elder) || window.records.is_leaving(&(elder..elder + 1));
                        assert!(is_over, "seed {seed}: {first} has overtaken {elder}");
                    }
                    window.ack(seat, &[first..first + 1]).expect("it has it");
                    over.push(first);
                }
                (_, None) => {}
            }
        }
        over.sort_unstable();
        over.dedup();
        assert_eq!(over.len() as u64, end, "seed {seed}");
    }
}
