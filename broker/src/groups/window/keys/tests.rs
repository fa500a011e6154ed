use std::time::Duration;

use super::*;

const ID: KeyId = KeyId { partition: 0, hash: 7 };

fn again(origin: Offset, due: Instant) -> Again {
    Again { id: ID, origin, due }
}

fn turn(is_due: Due) -> Turn {
    Turn { is_due, superseded: None }
}

/// These are in retry, at these places, and were seen; returns what may be looked at now.
fn see(keys: &mut Keys, records: &[(Offset, Offset)]) -> Vec<Offset> {
    let now = Instant::now();
    for &(origin, at) in records {
        assert_eq!(keys.admit_again(again(origin, now), at, 1, now), turn(Due::Later), "at first sight");
    }
    keys.seen_to_the_end();
    keys.take_ready()
}

#[test]
fn the_first_of_a_key_is_tried_when_it_is_due_and_the_next_one_after_it() {
    let now = Instant::now();
    let later = now + Duration::from_secs(600);
    let mut keys = Keys::default();
    assert_eq!(see(&mut keys, &[(4, 0), (9, 1)]), [0, 1]);
    assert_eq!(keys.admit_again(again(4, later), 0, 1, now), turn(Due::Later));
    assert_eq!(keys.admit_again(again(9, now), 1, 1, now), turn(Due::Later));
    assert_eq!((keys.next_pause(), keys.take_ready()), (Some(later), vec![]));
    keys.resume(later);
    assert_eq!(keys.take_ready(), [0, 1]);
    assert_eq!(keys.admit_again(again(9, now), 1, 2, later), turn(Due::Later), "not before the elder");
    assert_eq!(keys.admit_again(again(4, later), 0, 1, later), turn(Due::Now));
    assert_eq!(keys.admit_again(again(9, now), 1, 2, later), turn(Due::Later), "not with another member");
    keys.settled_again(ID, 0);
    assert_eq!(keys.take_ready(), [1]);
    assert_eq!(keys.admit_again(again(9, now), 1, 2, later), turn(Due::Now));
    keys.settled_again(ID, 1);
    assert_eq!(keys.admit(ID, 10, 3), Admission::Granted, "the key is free");
}

#[test]
fn nothing_is_tried_before_all_are_seen() {
    let now = Instant::now();
    let mut keys = Keys::default();
    assert_eq!(see(&mut keys, &[(9, 0), (4, 1)]), [1, 0]);
    assert_eq!(keys.admit_again(again(9, now), 0, 1, now), turn(Due::Later));
    assert_eq!(keys.admit_again(again(4, now), 1, 1, now), turn(Due::Now));
}

#[test]
fn what_is_redriven_comes_before_what_waits_and_while_nothing_newer_is_open() {
    let now = Instant::now();
    let mut keys = Keys::default();
    assert_eq!(keys.admit(ID, 10, 1), Admission::Granted);
    assert_eq!(see(&mut keys, &[(3, 0)]), [0; 0], "its key is with somebody");
    assert_eq!(keys.admit(ID, 11, 1), Admission::Follows);
    assert_eq!(keys.settled(ID, 10), [0; 0]);
    assert_eq!(keys.take_ready(), [0]);
    assert_eq!(keys.admit_again(again(3, now), 0, 2, now), turn(Due::Now));
}

#[test]
fn a_record_that_moved_is_not_lent_together_with_what_follows_it() {
    let now = Instant::now();
    let mut keys = Keys::default();
    assert_eq!(see(&mut keys, &[(4, 0), (9, 1)]), [0, 1]);
    assert_eq!(keys.admit_again(again(4, now), 0, 1, now), turn(Due::Now));
    assert_eq!(keys.admit_again(again(9, now), 1, 1, now), turn(Due::Now));
    assert_eq!(keys.fail_again(ID, 0), [1], "it was with the same member");
    assert_eq!(keys.take_ready(), [0; 0]);
    assert_eq!(see(&mut keys, &[(4, 2)]), [2, 1]);
    assert_eq!(keys.admit_again(again(4, now), 2, 1, now), turn(Due::Now));
    assert_eq!(keys.admit_again(again(9, now), 1, 1, now), turn(Due::Later));
    keys.settled_again(ID, 2);
    assert_eq!(keys.take_ready(), [1]);
}

#[test]
fn of_two_copies_one_is_settled() {
    let now = Instant::now();
    let mut keys = Keys::default();
    keys.admit_again(again(4, now), 0, 1, now);
    let newer = keys.admit_again(again(4, now), 5, 1, now);
    assert_eq!(newer, Turn { is_due: Due::Later, superseded: Some(0) }, "the newer one knows of more attempts");
    keys.seen_to_the_end();
    assert_eq!(keys.take_ready()[..1], [5]);
    assert_eq!(keys.admit_again(again(4, now), 5, 1, now), turn(Due::Now));
    let copy = keys.admit_again(again(4, now), 6, 1, now);
    assert_eq!(copy, Turn { is_due: Due::Later, superseded: Some(6) }, "somebody works on the other one");
}

#[test]
fn nobody_waits_for_what_is_lost() {
    let mut keys = Keys::default();
    see(&mut keys, &[(4, 0)]);
    assert_eq!(keys.admit(ID, 9, 1), Admission::Follows);
    keys.lost(&(0..1));
    assert_eq!(keys.admit(ID, 10, 1), Admission::Granted);
    assert_eq!(keys.in_retry, 0);
}

#[test]
fn what_was_published_after_a_dead_letter_of_its_key_goes_there_too() {
    let now = Instant::now();
    let mut keys = Keys::default();
    keys.set_scope(Scope::Key);
    keys.has_letter(ID, 4);
    assert_eq!(keys.admit(ID, 9, 1), Admission::Parks);
    assert_eq!(see(&mut keys, &[(5, 0)]), [0]);
    assert_eq!(keys.admit_again(again(5, now), 0, 1, now), turn(Due::Never));
    assert_eq!(keys.admit(ID, 10, 1), Admission::Follows, "not before what is on its way");
    keys.gone(ID, 5);
    assert_eq!(see(&mut keys, &[(4, 1)]), [1]);
    assert_eq!(keys.admit_again(again(4, now), 1, 1, now), turn(Due::Now), "the letter itself was redriven");
    keys.settled_again(ID, 1);
    keys.gone(ID, 10);
    keys.set_parked(HashMap::new());
    assert_eq!(keys.admit(ID, 11, 1), Admission::Parks, "others are still on their way to the dead letters");
    [5, 9, 11].into_iter().for_each(|origin| keys.has_letter(ID, origin));
    keys.set_parked(HashMap::new());
    assert_eq!(keys.admit(ID, 12, 1), Admission::Granted);
}

#[test]
fn there_is_a_bound() {
    let now = Instant::now();
    let mut keys = Keys::default();
    for origin in 0..IN_RETRY_MAX as Offset {
        assert!(keys.have_room());
        keys.admit_again(again(origin, now), origin, 1, now);
    }
    assert!(!keys.have_room());
    keys.seen_to_the_end();
    assert_eq!(keys.admit_again(again(0, now), 0, 1, now), turn(Due::Now));
    keys.settled_again(ID, 0);
    assert!(keys.have_room());
}
