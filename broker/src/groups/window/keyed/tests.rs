#![expect(clippy::single_range_in_vec_init, reason = "a list of one range is what is meant")]

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

use super::{
    super::{Again, Exit, Failed, Loan, Refusal, next_exits},
    *,
};

const NO_LIMIT: u64 = u64::MAX;
const A: Belongs = Belongs::ToKey(1);
const B: Belongs = Belongs::ToKey(2);

fn dense(base_offset: Offset, record_count: u32) -> BatchHeader {
    BatchHeader { base_offset, record_count, ..BatchHeader::default() }
}

fn failed() -> Failed {
    Failed { fault: Fault { error: "boom".into(), at: Instant::now(), at_us: 7 }, pause: Pause::Backoff }
}

fn in_letters(range: Range<Offset>) -> Whereabouts {
    Whereabouts { in_letters: [range].into_iter().collect(), ..Whereabouts::default() }
}

struct Stage {
    window: KeyedWindow,
    keys: Keys,
    belongs: Vec<Belongs>,
}

impl Stage {
    /// One batch, of records that belong to these keys.
    fn new(belongs: &[Belongs]) -> Self {
        let window = KeyedWindow::new(3, Progress::at(0));
        Self { window, keys: Keys::default(), belongs: belongs.to_vec() }
    }

    fn deliver(&mut self, seat: MemberId, records_max: u64) -> Vec<Offset> {
        let now = Instant::now();
        let loan = Loan { seat, until: now + Duration::from_secs(30) };
        let lending = Lending { loan, records_max, now };
        let header = dense(0, u32::try_from(self.belongs.len()).expect("few"));
        let portions = self.window.deliver(&header, &self.belongs, lending, &mut self.keys);
        portions.iter().flat_map(|portion| portion.ranges.iter().cloned().flatten()).collect()
    }

    fn ack(&mut self, seat: MemberId, ranges: &[Range<Offset>]) -> Result<(), Refusal> {
        self.window.ack(seat, ranges, &mut self.keys)
    }

    fn nack(&mut self, seat: MemberId, ranges: &[Range<Offset>]) -> Result<(), Refusal> {
        self.window.nack(seat, ranges, &failed(), &mut self.keys)
    }

    fn exits(&self) -> Vec<Exit> {
        next_exits(&self.window.records, NO_LIMIT, |leaving| &leaving.leaving)
    }

    /// Offsets that leave, and how.
    fn leaving(&self) -> Vec<(Offset, Way)> {
        self.exits().into_iter().map(|exit| (exit.range.start, exit.way)).collect()
    }

    /// What leaves has left, into retry.
    fn move_into_retry(&mut self) {
        for Exit { range, .. } in self.exits() {
            let in_retry = [range.clone()].into_iter().collect();
            let whereabouts = Whereabouts { in_retry, ..Whereabouts::default() };
            self.window.left(&range, &whereabouts, &mut self.keys);
        }
    }

    fn committed(&self) -> Offset {
        self.window.records.progress.committed()
    }
}

#[test]
fn one_key_is_with_one_member_and_the_others_go_on() {
    let mut stage = Stage::new(&[A, B, A, B, A]);
    assert_eq!(stage.deliver(1, 2), [0, 1]);
    assert_eq!(stage.deliver(2, NO_LIMIT), [0; 0]);
    assert_eq!(stage.window.records.next_read(), 5, "what waits is passed over");
    assert_eq!(stage.ack(1, &[1..2]), Ok(()));
    assert_eq!(stage.window.records.next_read(), 3);
    assert_eq!(stage.deliver(2, NO_LIMIT), [3]);
    assert_eq!(stage.ack(1, &[0..1]), Ok(()));
    assert_eq!(stage.deliver(2, NO_LIMIT), [2, 4]);
    assert_eq!(stage.ack(2, &[2..5]), Ok(()));
    assert_eq!(stage.committed(), 5);
}

#[test]
fn what_is_lost_is_with_nobody_and_keeps_nothing_of_its_key_waiting() {
    let mut stage = Stage::new(&[A, B, A, A, B]);
    assert_eq!(stage.deliver(1, 2), [0, 1]);
    assert_eq!(stage.deliver(2, NO_LIMIT), [0; 0]);
    assert_eq!(stage.window.stop(&stage.keys), Some(Stop::Keys { records: 3, first: 2 }));
    stage.window.vacate(1, &mut stage.keys);
    assert_eq!(stage.window.records.next_read(), 0);
    assert_eq!(stage.window.skip_to(3, &mut stage.keys), 0..3, "0 and 1 were to come again, and 2 to follow");
    assert_eq!((stage.window.records.loans.records_of(1), stage.window.records.next_read()), (0, 3));
    assert_eq!(stage.deliver(2, NO_LIMIT), [3, 4]);
    assert_eq!(stage.window.stop(&stage.keys), None);
    assert_eq!(stage.ack(2, &[3..5]), Ok(()));
    assert!(stage.window.records.is_settled() && stage.committed() == 5);
}

#[test]
fn an_open_record_that_is_lost_sets_its_followers_free() {
    let mut stage = Stage::new(&[A, B, A, B]);
    assert_eq!(stage.deliver(1, 2), [0, 1]);
    assert_eq!(stage.deliver(2, NO_LIMIT), [0; 0], "both wait");
    assert_eq!(stage.window.release(1, &[0..1], &mut stage.keys), Ok(()));
    assert_eq!(stage.window.skip_to(2, &mut stage.keys), 0..2);
    assert_eq!(stage.window.records.loans.records_of(1), 0);
    assert_eq!(stage.deliver(2, NO_LIMIT), [2, 3]);
}

#[test]
fn what_follows_a_failed_record_of_its_key_goes_into_retry_with_it_and_the_group_goes_on() {
    let retry = Way::RetryInOrder(Pause::Backoff);
    let mut stage = Stage::new(&[A, B, A, B, A]);
    assert_eq!(stage.deliver(1, NO_LIMIT), [0, 1, 2, 3, 4]);
    assert_eq!(stage.nack(1, &[2..3]), Ok(()));
    assert_eq!(stage.window.records.loans.records_of(1), 3, "the elder of its key stays");
    assert_eq!(stage.ack(1, &[4..5]), Err(Refusal::TakenBack));
    assert_eq!(stage.leaving(), [(2, retry)]);
    assert_eq!(stage.ack(1, &[0..1, 1..2, 3..4]), Ok(()));
    assert_eq!(stage.deliver(2, NO_LIMIT), [0; 0], "the follower is not delivered from here");
    assert_eq!(stage.leaving(), [(2, retry), (4, Way::Follow)]);
    stage.move_into_retry();
    assert_eq!(stage.committed(), 5);
}

#[test]
fn of_two_that_fail_together_the_second_only_follows() {
    let mut stage = Stage::new(&[A, A]);
    stage.deliver(1, NO_LIMIT);
    assert_eq!(stage.nack(1, &[0..2]), Ok(()));
    assert_eq!(stage.deliver(1, NO_LIMIT), [0; 0]);
    assert_eq!(stage.leaving(), [(0, Way::RetryInOrder(Pause::Backoff)), (1, Way::Follow)]);
}

#[test]
fn a_parked_record_holds_nothing_up() {
    let mut stage = Stage::new(&[A, A]);
    stage.deliver(1, NO_LIMIT);
    assert_eq!(stage.window.park(1, &[0..1], &failed().fault, &mut stage.keys), Ok(()));
    assert_eq!(stage.ack(1, &[1..2]), Ok(()));
    assert_eq!(stage.leaving(), [(0, Way::Park)]);
    stage.window.left(&(0..1), &in_letters(0..1), &mut stage.keys);
    assert_eq!(stage.committed(), 2);
}

#[test]
fn with_a_parked_record_its_key_is_parked_if_that_is_wanted() {
    let mut stage = Stage::new(&[A, A, B, A]);
    stage.keys.set_scope(Scope::Key);
    assert_eq!(stage.deliver(1, 3), [0, 1, 2]);
    assert_eq!(stage.window.park(1, &[0..1], &failed().fault, &mut stage.keys), Ok(()));
    assert_eq!(stage.ack(1, &[1..2]), Err(Refusal::TakenBack), "it is to be parked, too");
    stage.window.left(&(0..1), &in_letters(0..1), &mut stage.keys);
    assert_eq!(stage.deliver(1, NO_LIMIT), [0; 0]);
    assert_eq!(stage.leaving(), [(1, Way::ParkBehind), (3, Way::ParkBehind)]);
    stage.window.left(&(1..2), &in_letters(1..2), &mut stage.keys);
    stage.window.left(&(3..4), &in_letters(3..4), &mut stage.keys);
    assert_eq!(stage.ack(1, &[2..3]), Ok(()));
    assert_eq!(stage.committed(), 4);
    stage.keys.set_parked(HashMap::new());
    assert_eq!(stage.keys.admit(KeyId { partition: 3, hash: 1 }, 9, 1), Admission::Granted, "all of it was redriven");
}

#[test]
fn a_key_is_free_again_once_what_failed_turns_out_to_be_exhausted() {
    let mut stage = Stage::new(&[A, A, A]);
    assert_eq!(stage.deliver(1, 1), [0]);
    assert_eq!(stage.nack(1, &[0..1]), Ok(()));
    stage.window.left(&(0..1), &in_letters(0..1), &mut stage.keys);
    assert_eq!(stage.deliver(2, NO_LIMIT), [1, 2]);
}

#[test]
fn records_without_a_key_wait_for_nobody() {
    let mut stage = Stage::new(&[Belongs::Alone, Belongs::Alone, Belongs::Alone]);
    assert_eq!(stage.deliver(1, 1), [0]);
    assert_eq!(stage.nack(1, &[0..1]), Ok(()));
    assert_eq!(stage.leaving(), [(0, Way::Retry(Pause::Backoff))], "not in order of anything");
    assert_eq!(stage.deliver(2, NO_LIMIT), [1, 2]);
}

#[test]
fn who_goes_leaves_its_keys_to_others_in_order() {
    let mut stage = Stage::new(&[A, B, A, A]);
    stage.deliver(1, 2);
    stage.deliver(2, NO_LIMIT);
    stage.window.vacate(1, &mut stage.keys);
    assert_eq!(stage.deliver(2, NO_LIMIT), [0, 1, 2, 3]);
}

#[test]
fn what_is_in_retry_already_is_not_delivered_once_more() {
    let mut stage = Stage::new(&[A, A]);
    let now = Instant::now();
    let id = KeyId { partition: 3, hash: 1 };
    stage.keys.admit_again(Again { id, origin: 0, due: now }, 70, 1, now);
    assert_eq!(stage.deliver(1, NO_LIMIT), [0; 0]);
    assert_eq!((stage.committed(), stage.leaving()), (1, vec![(1, Way::Follow)]));
}

#[test]
fn hashes_are_found_however_far_apart_their_offsets_are() {
    for seed in 0..50 {
        let mut random = fastrand::Rng::with_seed(seed);
        let (mut hashes, mut model) = (Hashes::default(), std::collections::BTreeMap::new());
        let mut offset = random.u64(0..10);
        for _ in 0..200 {
            match random.u8(0..10) {
                0 => offset += random.u64(0..1 << 40),
                1 => {
                    let from = offset.saturating_sub(random.u64(0..20));
                    hashes.forget_below(from);
                    model.retain(|known, _| *known >= from);
                }
                2 => {
                    let again = offset.saturating_sub(random.u64(0..20));
                    hashes.note(again, 7);
                    model.insert(again, 7);
                }
                _ => {
                    offset += 1;
                    hashes.note(offset, random.u32(..));
                    model.insert(offset, hashes.of(offset).expect("just noted"));
                }
            }
            let looked_at = offset.saturating_sub(25)..offset + 2;
            let found: Vec<_> = looked_at.clone().map(|at| hashes.of(at)).collect();
            assert_eq!(found, looked_at.clone().map(|at| model.get(&at).copied()).collect::<Vec<_>>(), "seed {seed}");
            let noted: Vec<_> = model.range(looked_at.clone()).map(|(at, _)| *at).collect();
            assert_eq!(hashes.noted_in(&looked_at), noted, "seed {seed}");
        }
    }
}
