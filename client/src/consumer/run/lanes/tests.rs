use std::collections::{BTreeMap, VecDeque};

use super::*;

const MODES: [Option<GroupMode>; 4] = [None, Some(GroupMode::Ordered), Some(GroupMode::Keyed), Some(GroupMode::Shared)];

/// An event of the model: its place in the partition says what must come before it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Event {
    offset: usize,
    partition: u32,
    key: Option<Bytes>,
}

fn lane(mode: Option<GroupMode>, event: &Event) -> Option<Lane> {
    Lane::of(mode, event.partition, event.key.as_ref())
}

fn events(count: usize, random: &mut fastrand::Rng) -> Vec<Event> {
    let event = |offset| {
        let key = random.u8(0..8);
        let key = (key > 0).then(|| Bytes::copy_from_slice(&[key]));
        Event { offset, partition: random.u32(0..3), key }
    };
    (0..count).map(event).collect()
}

/// Runs all `events` on `concurrency` places with handlers that end in any order, as `Runner` does it; a handler fails one
/// time in `failing`, and what it failed at comes again, in front of what had to be given back. Gives the order in which the
/// events were handled, and how many ran at once at most.
fn run(mode: Option<GroupMode>, events: Vec<Event>, failing: usize, random: &mut fastrand::Rng) -> (Vec<Event>, usize) {
    const CONCURRENCY: usize = 4;
    let count = events.len();
    let mut inbox: VecDeque<Event> = events.into();
    let mut lanes = Lanes::default();
    let (mut running, mut handled, mut most) = (Vec::<Event>::new(), Vec::new(), 0);
    while handled.len() < count {
        let next = inbox.iter().position(|event| lanes.is_free(event.partition));
        if running.len() < CONCURRENCY
            && lanes.have_room()
            && let Some(event) = next.and_then(|next| inbox.remove(next))
        {
            running.extend(lanes.enter(lane(mode, &event).as_ref(), event));
        } else {
            let event = running.swap_remove(random.usize(0..running.len()));
            let lane = lane(mode, &event);
            if random.usize(0..failing) > 0 {
                handled.push(event);
            } else {
                let stopped = lane.as_ref().map(|lane| lanes.clear(lane)).unwrap_or_default();
                inbox.extend(stopped);
                inbox.push_back(event);
                inbox.make_contiguous().sort();
            }
            running.extend(lane.and_then(|lane| lanes.leave(&lane)));
        }
        most = most.max(running.len());
        let mut busy: Vec<_> = running.iter().filter_map(|event| lane(mode, event)).collect();
        let beside_each_other = busy.len();
        busy.sort_by_key(|lane| format!("{lane:?}"));
        busy.dedup();
        assert_eq!(busy.len(), beside_each_other, "two events of one lane run at once");
    }
    assert!(lanes.busy.is_empty() && lanes.waiting == 0);
    (handled, most)
}

fn assert_in_order(mode: Option<GroupMode>, handled: &[Event], seed: u64) {
    let mut last: BTreeMap<String, usize> = BTreeMap::new();
    for event in handled {
        let Some(lane) = lane(mode, event) else { continue };
        if let Some(before) = last.insert(format!("{lane:?}"), event.offset) {
            assert!(before < event.offset, "{event:?} was overtaken by {before}, {mode:?}, seed {seed}");
        }
    }
}

#[test]
fn lanes_keep_their_order_in_every_mode_whatever_ends_first_and_whatever_fails() {
    for seed in 0..60 {
        let mut random = fastrand::Rng::with_seed(seed);
        for mode in MODES {
            let events = events(200, &mut random);
            for failing in [usize::MAX, 5] {
                let (mut handled, most) = run(mode, events.clone(), failing, &mut random);
                assert_in_order(mode, &handled, seed);
                assert!(most <= 4);
                handled.sort();
                assert_eq!(handled, events, "each is handled once, seed {seed}");
            }
        }
    }
}

#[test]
fn a_shared_group_runs_anything_beside_anything_and_a_keyed_one_all_without_a_key() {
    let mut lanes = Lanes::default();
    for event in 0..10 {
        assert_eq!(
            lanes.enter(Lane::of(Some(GroupMode::Shared), 0, Some(&Bytes::from("key"))).as_ref(), event),
            Some(event)
        );
        assert_eq!(lanes.enter(Lane::of(Some(GroupMode::Keyed), 0, None).as_ref(), event), Some(event));
    }
    assert!(lanes.is_free(0) && lanes.waiting().next().is_none());
}

#[test]
fn a_key_waits_for_itself_across_partitions_and_for_no_other() {
    let mut lanes = Lanes::default();
    let of = |key: &'static str, partition| Lane::of(Some(GroupMode::Keyed), partition, Some(&Bytes::from(key)));
    assert_eq!(lanes.enter(of("a", 0).as_ref(), 1), Some(1));
    assert_eq!(lanes.enter(of("a", 1).as_ref(), 2), None);
    assert_eq!(lanes.enter(of("b", 0).as_ref(), 3), Some(3));
    assert!(lanes.is_free(0), "keyed events of a partition run beside each other");
    let lane = of("a", 0).expect("a lane");
    assert_eq!(lanes.leave(&lane), Some(2));
    assert_eq!(lanes.leave(&lane), None);
    assert_eq!(lanes.enter(Some(&lane), 4), Some(4));
}

#[test]
fn what_waits_for_a_lane_is_bounded_and_comes_out_when_its_event_fails() {
    let mut lanes = Lanes::default();
    let lane = Lane::Key("a".into());
    assert_eq!(lanes.enter(Some(&lane), 0), Some(0));
    for event in 1..=WAITING_MAX {
        assert!(lanes.have_room());
        assert_eq!(lanes.enter(Some(&lane), event), None);
    }
    assert!(!lanes.have_room());
    assert_eq!(lanes.clear(&lane).len(), WAITING_MAX);
    assert!(lanes.have_room() && lanes.leave(&lane).is_none());
    assert_eq!(lanes.enter(Some(&lane), 0), Some(0), "the lane is free again");
    lanes.enter(Some(&lane), 1);
    assert_eq!((lanes.take_waiting(), lanes.waiting().count()), (vec![1], 0));
    assert_eq!(lanes.enter(Some(&lane), 2), None, "it is still busy");
}
