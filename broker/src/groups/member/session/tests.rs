use std::{num::NonZeroU64, ops::Range, sync::Arc};

use aqueduct_storage::{Batch, BatchHeader};

use super::*;
use crate::groups::{
    Leave,
    coordinator::{Grant, MemberStats, PartitionGeneration, SeatGeneration, Settlement, Target},
    hours::{DailyWindow, DeliveryHours},
    member::message::Credit,
    progress::Progress,
    retry::OnExhausted,
    roster::Standing,
    waits::{PartitionWait, WaitCause},
    window::{Exit, Pause},
};

const ACK_TIMEOUT: Duration = crate::groups::policy::ACK_TIMEOUT_DEFAULT;
const HEARTBEAT: Duration = Duration::from_secs(10);

/// The member, which has partitions of its own.
const ME: MemberId = 7;

fn session(now: Instant) -> Session {
    session_with(Policy::default(), now)
}

fn session_with(policy: Policy, now: Instant) -> Session {
    let mut session = Session::new(ME, policy.clone(), WallClock { at: now, at_us: 1_000_000 }, copies::pool().share());
    let credit = Credit { bytes: u64::MAX, records: u64::MAX };
    let generation = SeatGeneration::OfPartition;
    let terms = SeatTerms { generation, heartbeat: HEARTBEAT, credit, stats: Arc::default() };
    let joined = Event::Joined { topic_id: [1; 16], member: ME, policy, partitions: 1 };
    session.join(ME, terms, joined, now);
    session.close_entry();
    session.on_time(now);
    drain(&mut session, now);
    session
}

/// How the member's stream ends, once it does.
fn departed(session: &Session) -> Option<End> {
    session.next_departure().map(|(_, end)| end)
}

/// Partition `p` in generation `10 + p`.
fn grant(partition: u32, standing: Standing) -> (u32, Grant) {
    (partition, Grant { generation: 10 + u64::from(partition), progress: Some(Progress::at(0)), standing })
}

fn target(grants: impl IntoIterator<Item = (u32, Grant)>) -> Target {
    Target { grants: grants.into_iter().collect(), ..Target::default() }
}

/// A session that has partition 0 and was delivered offsets 0 to 10 of it.
fn delivered(now: Instant) -> Session {
    let mut session = session(now);
    assert_eq!(session.target(&target([grant(0, Standing::Held)])), [0]);
    session.queue(0);
    drain(&mut session, now);
    deliver(&mut session, 0, now);
    session
}

fn deliver(session: &mut Session, base_offset: Offset, now: Instant) {
    let turn = session.next_turn(now).expect("there is something to read");
    session.deliver(turn, vec![batch(base_offset, 10).into()], base_offset + 10, now);
}

fn batch(base_offset: Offset, record_count: u32) -> Batch {
    let header = BatchHeader { base_offset, record_count, ..BatchHeader::default() };
    Batch { header, payload: bytes::Bytes::from_static(&[7; 100]) }
}

fn next_exits(session: &mut Session, now: Instant) -> Vec<(PartitionGeneration, Exit)> {
    let of_partitions = session.next_exits(now).into_iter();
    of_partitions.flat_map(|Exits { at, exits, .. }| exits.into_iter().map(move |exit| (at, exit))).collect()
}

fn parked(exits: Vec<(PartitionGeneration, Exit)>) -> Vec<Moved> {
    let parked = |exit: Exit| Departed { ranges: vec![exit.range], parked: 1, ..Departed::default() };
    exits.into_iter().map(|(at, exit)| Moved { at, outcome: Ok(parked(exit)) }).collect()
}

fn drain(session: &mut Session, now: Instant) -> Vec<Event> {
    std::iter::from_fn(|| session.next_event(ME, now)).collect()
}

fn settle(ack_id: u64, generation: u64, range: Range<Offset>) -> Settle {
    Settle { ack_id: NonZeroU64::new(ack_id), partition: 0, generation, ranges: vec![range] }
}

fn committed_in(settlement: &Settlement) -> Vec<Offset> {
    settlement.advanced.iter().map(|one| one.progress.committed()).collect()
}

const AT_0: PartitionGeneration = PartitionGeneration { partition: 0, generation: 10 };

#[test]
fn acks_are_answered_when_their_settlement_has_ended_and_later_ones_share_the_next() {
    let now = Instant::now();
    let mut session = delivered(now);
    drain(&mut session, now);
    session.request(ME, Request::Ack(settle(1, 10, 0..3)), now);
    let first = session.next_settlement(now).expect("there is something to commit");
    assert_eq!(committed_in(&first), [3]);
    for ack_id in 2..6 {
        session.request(ME, Request::Ack(settle(ack_id, 10, ack_id + 1..ack_id + 2)), now);
    }
    assert!(session.next_settlement(now).is_none(), "one at a time");
    assert_eq!(drain(&mut session, now), []);

    session.settled(&[AT_0], Ok(vec![]), now);
    let ack = |ack_id, committed| Event::Settled {
        ack_id: NonZeroU64::new(ack_id).expect("not zero"),
        committed,
        error: None,
    };
    assert_eq!(drain(&mut session, now), [ack(1, 3)]);
    let second = session.next_settlement(now).expect("the rest");
    assert_eq!(committed_in(&second), [7]);
    session.settled(&[AT_0], Ok(vec![]), now);
    assert_eq!(drain(&mut session, now), [ack(2, 4), ack(3, 5), ack(4, 6), ack(5, 7)]);
    assert!(session.next_settlement(now).is_none());
}

#[test]
fn a_failed_settlement_is_reported_and_tried_again_later() {
    let now = Instant::now();
    let mut session = delivered(now);
    drain(&mut session, now);
    session.request(ME, Request::Ack(settle(1, 10, 0..3)), now);
    assert!(session.next_settlement(now).is_some());
    session.settled(&[AT_0], Err(GroupError::ShuttingDown), now);
    let [Event::Settled { error: Some(GroupError::ShuttingDown), .. }] = &drain(&mut session, now)[..] else {
        panic!("the ack is answered with the error");
    };
    assert!(session.next_settlement(now).is_none());
    let later = session.timer();
    assert!(later <= now + Duration::from_secs(1));
    assert_eq!(session.next_settlement(later).map(|again| committed_in(&again)), Some(vec![3]));
}

#[test]
fn an_ack_of_another_generation_is_stale_and_settles_nothing() {
    let now = Instant::now();
    let mut session = delivered(now);
    drain(&mut session, now);
    session.request(ME, Request::Ack(settle(1, 9, 0..3)), now);
    let events = drain(&mut session, now);
    assert!(matches!(&events[..], [Event::Settled { error: Some(GroupError::StaleGeneration { .. }), .. }]));
    assert!(session.next_settlement(now).is_none());
}

#[test]
fn settling_nothing_or_what_was_not_delivered_is_invalid() {
    let now = Instant::now();
    let mut session = delivered(now);
    drain(&mut session, now);
    session.request(ME, Request::Ack(settle(1, 10, 5..11)), now);
    session.request(ME, Request::Ack(Settle { ranges: vec![], ..settle(2, 10, 0..1) }), now);
    let events = drain(&mut session, now);
    let invalid = |event: &Event| matches!(event, Event::Settled { error: Some(GroupError::Invalid { .. }), .. });
    assert!(events.len() == 2 && events.iter().all(invalid), "{events:?}");
}

#[test]
fn a_revoked_partition_is_given_up_together_with_its_last_progress() {
    let now = Instant::now();
    let mut session = delivered(now);
    drain(&mut session, now);
    let leaving = target([grant(0, Standing::Leaving)]);
    session.target(&leaving);
    assert_eq!(drain(&mut session, now), [Event::Assignment { assigned: vec![], revoked: vec![0] }]);
    assert!(session.next_turn(now).is_none(), "nothing more comes from it");
    session.request(ME, Request::Ack(settle(1, 10, 0..6)), now);
    let settlement = session.next_settlement(now).expect("the ack");
    assert_eq!(settlement.given_up, []);
    session.settled(&[AT_0], Ok(vec![]), now);
    session.request(ME, Request::Ack(settle(2, 10, 6..8)), now);
    session.request(ME, Request::Release(settle(0, 10, 8..10)), now);
    let settlement = session.next_settlement(now).expect("the rest");
    assert_eq!((committed_in(&settlement), settlement.given_up), (vec![8], vec![AT_0]));

    // The coordinator has not taken note of it yet.
    assert!(session.target(&leaving).is_empty());
    assert!(session.settling.to_give_back.is_empty(), "it is not given up twice");
}

#[test]
fn a_partition_revoked_before_it_was_seen_is_given_back() {
    let now = Instant::now();
    let mut session = session(now);
    assert!(session.target(&target([grant(0, Standing::Leaving)])).is_empty());
    assert_eq!(drain(&mut session, now), []);
    let settlement = session.next_settlement(now).expect("it is given back");
    assert_eq!(settlement.given_up, [AT_0]);
}

#[test]
fn a_revoked_partition_waits_for_the_ack_time_out_at_most() {
    let now = Instant::now();
    let mut session = delivered(now);
    session.target(&target([grant(0, Standing::Leaving)]));
    session.request(ME, Request::Heartbeat, now + ACK_TIMEOUT - Duration::from_secs(1));
    session.on_time(now + ACK_TIMEOUT - Duration::from_secs(1));
    assert!(session.next_settlement(now).is_none());
    session.on_time(now + ACK_TIMEOUT);
    let settlement = session.next_settlement(now + ACK_TIMEOUT).expect("it is given up");
    assert_eq!(settlement.given_up, [AT_0]);
}

#[test]
fn partitions_take_turns() {
    let now = Instant::now();
    let mut session = session(now);
    session.target(&target((0..3).map(|partition| grant(partition, Standing::Held))));
    (0..3).for_each(|partition| session.queue(partition));
    let mut order = Vec::new();
    for round in 0..6 {
        drain(&mut session, now);
        let turn = session.next_turn(now).expect("somebody's turn");
        order.push(turn.partition);
        let header = BatchHeader { base_offset: turn.cursor, record_count: 1, ..BatchHeader::default() };
        session.deliver(turn, vec![Batch { header, payload: bytes::Bytes::new() }.into()], round + 1, now);
    }
    assert_eq!(order, [0, 1, 2, 0, 1, 2]);
}

#[test]
fn a_nack_holds_its_partition_and_what_was_read_meanwhile_is_dropped() {
    let now = Instant::now();
    let mut session = delivered(now);
    drain(&mut session, now);
    let turn = session.next_turn(now).expect("more to read");
    let delay = Duration::from_secs(5);
    let nack = Request::Nack { settle: settle(0, 10, 4..5), pause: Pause::Fixed(delay), error: "boom".to_owned() };
    session.request(ME, nack, now);
    let header = BatchHeader { base_offset: 10, record_count: 10, ..BatchHeader::default() };
    session.deliver(turn, vec![Batch { header, payload: bytes::Bytes::new() }.into()], 20, now);
    assert_eq!(drain(&mut session, now), [Event::Rewound { partition: 0, generation: 10, offset: 4 }]);
    assert!(session.next_turn(now).is_none());
    assert!(session.timer() <= now + delay);
    session.on_time(now + delay);
    assert_eq!(session.next_turn(now + delay).map(|turn| turn.cursor), Some(4), "from the nacked offset on");
}

#[test]
fn heartbeats_go_out_when_nothing_else_does_and_silence_ends_the_stream() {
    let now = Instant::now();
    let mut session = session(now);
    session.on_time(now + HEARTBEAT);
    assert_eq!(drain(&mut session, now + HEARTBEAT), [Event::Heartbeat]);
    session.request(ME, Request::Heartbeat, now + HEARTBEAT);
    let patience = HEARTBEAT * SILENT_HEARTBEATS;
    session.on_time(now + HEARTBEAT * 2);
    session.on_time(now + HEARTBEAT * 3);
    drain(&mut session, now + HEARTBEAT * 3);
    session.on_time(now + HEARTBEAT + patience - Duration::from_millis(1));
    assert_eq!(departed(&session), None);
    assert!(session.timer() <= now + HEARTBEAT + patience);
    session.on_time(now + HEARTBEAT + patience);
    assert!(matches!(departed(&session), Some(End::Failed(GroupError::MemberSilent { .. }))));
}

#[test]
fn a_client_that_goes_leaves_its_acks_to_be_committed_first() {
    let now = Instant::now();
    let mut session = delivered(now);
    session.request(ME, Request::Ack(settle(1, 10, 0..3)), now);
    session.client_gone(ME, now);
    assert_eq!(departed(&session), Some(End::Gone), "there is nobody to tell");
    session.depart(ME);
    assert!(!session.is_finished());
    assert_eq!(session.next_settlement(now).map(|last| committed_in(&last)), Some(vec![3]));
    assert!(!session.is_finished());
    session.settled(&[AT_0], Ok(vec![]), now);
    assert!(session.is_finished());
}

#[test]
fn a_partition_without_a_position_is_reported_and_nothing_of_it_is_committed() {
    let now = Instant::now();
    let mut session = session(now);
    let unknown = Grant { generation: 10, progress: None, standing: Standing::Held };
    session.target(&target([(0, unknown)]));
    let error = GroupError::NoPosition { partition: 0 };
    assert_eq!(drain(&mut session, now)[1..], [Event::Failure { partition: 0, error }]);
    session.queue(0);
    assert!(session.next_turn(now).is_none());
    session.request(ME, Request::Ack(settle(1, 10, 0..1)), now);
    session.request(ME, Request::Release(Settle { ranges: vec![], ..settle(2, 10, 0..1) }), now);
    assert!(session.next_settlement(now).is_none());
}

#[test]
fn a_client_that_does_not_take_answers_is_not_listened_to() {
    let now = Instant::now();
    let mut session = delivered(now);
    for ack_id in 1..=OUTBOX_EVENTS as u64 {
        assert!(session.takes_requests(ME) || ack_id > OUTBOX_EVENTS as u64 - 2);
        session.request(ME, Request::Ack(settle(ack_id, 9, 0..1)), now);
    }
    assert!(!session.takes_requests(ME));
    for heartbeats in 1..SILENT_HEARTBEATS {
        session.on_time(now + HEARTBEAT * heartbeats);
        assert_eq!(departed(&session), None, "it is not taken for silent");
    }
    drain(&mut session, now);
    assert!(session.takes_requests(ME));
}

#[test]
fn a_parked_record_is_answered_once_it_is_among_the_dead_letters_and_the_journal_knows() {
    let now = Instant::now();
    let mut session = delivered(now);
    drain(&mut session, now);
    session.request(ME, Request::Park { settle: settle(1, 10, 0..1), reason: "nonsense".to_owned() }, now);
    session.request(ME, Request::Ack(settle(2, 10, 1..10)), now);
    let exits = next_exits(&mut session, now);
    let [(AT_0, exit)] = &exits[..] else { panic!("one: {exits:?}") };
    assert_eq!((exit.range.clone(), &*exit.failure.last_error), (0..1, "nonsense"));
    assert!(session.next_exits(now).is_empty(), "not twice");
    let first = session.next_settlement(now).expect("the ack");
    assert_eq!(committed_in(&first), [0]);
    session.settled(&[AT_0], Ok(vec![]), now);
    let answered = |session: &mut Session| -> Vec<u64> {
        let settled = |event| match event {
            Event::Settled { ack_id, error: None, .. } => Some(ack_id.get()),
            _ => None,
        };
        drain(session, now).into_iter().filter_map(settled).collect()
    };
    assert_eq!(answered(&mut session), [2]);

    session.moved(vec![Moved { at: AT_0, outcome: Err(GroupError::ShuttingDown) }], now);
    assert!(session.next_exits(now).is_empty(), "not again at once");
    let later = session.timer();
    let exits = next_exits(&mut session, later);
    session.moved(parked(exits), later);
    assert!(answered(&mut session).is_empty());
    let second = session.next_settlement(later).expect("the parked record");
    assert_eq!(committed_in(&second), [10]);
    session.settled(&[AT_0], Ok(vec![]), later);
    assert_eq!(answered(&mut session), [1]);
}

#[test]
fn what_fails_goes_together_and_no_partition_waits_while_another_one_has_failures_all_the_time() {
    let mut now = Instant::now();
    let mut session = session(now);
    session.target(&target((0..3).map(|partition| grant(partition, Standing::Held))));
    (0..3).for_each(|partition| session.queue(partition));
    let many = 10_000;
    for _ in 0..3 {
        drain(&mut session, now);
        let turn = session.next_turn(now).expect("there is something to read");
        session.deliver(turn, vec![batch(0, many).into()], u64::from(many), now);
    }
    let park = |session: &mut Session, partition, range| {
        let settle = Settle { partition, ..settle(1, 10 + u64::from(partition), range) };
        session.request(ME, Request::Park { settle, reason: "nonsense".to_owned() }, now);
    };
    for offset in 0..2 {
        (0..2).for_each(|partition| park(&mut session, partition, offset..offset + 1));
    }
    // More than is moved at once.
    park(&mut session, 2, 0..5_000);
    let mut order = Vec::new();
    for _ in 0..2 {
        let exits = next_exits(&mut session, now);
        order.push(exits.iter().map(|(at, _)| at.partition).collect::<Vec<_>>());
        session.moved(parked(exits), now);
        assert!(session.next_exits(now).is_empty(), "what fails meanwhile goes with the next");
        now = session.timer();
    }
    assert_eq!(order, [vec![1, 2], vec![0, 1]]);
}

#[test]
fn who_had_no_room_in_a_move_comes_first_in_the_next() {
    let mut now = Instant::now();
    let mut session = session(now);
    session.target(&target((0..2).map(|partition| grant(partition, Standing::Held))));
    (0..2).for_each(|partition| session.queue(partition));
    for _ in 0..2 {
        drain(&mut session, now);
        deliver(&mut session, 0, now);
    }
    let mut first = Vec::new();
    for offset in 0..4 {
        for partition in 0..2 {
            let settle = Settle { partition, ..settle(1, 10 + u64::from(partition), offset..offset + 1) };
            session.request(ME, Request::Park { settle, reason: "nonsense".to_owned() }, now);
        }
        let mut exits = next_exits(&mut session, now);
        first.push(exits[0].0.partition);
        // Its records were large.
        let full: Vec<_> = exits.extract_if(1.., |_| true).map(|(at, _)| at).collect();
        let without_room = full.into_iter().map(|at| Moved { at, outcome: Ok(Departed::default()) });
        session.moved(parked(exits).into_iter().chain(without_room).collect(), now);
        now += Duration::from_secs(1);
    }
    assert_eq!(first, [1, 0, 1, 0]);
}

#[test]
fn whoever_waits_for_a_record_to_leave_is_answered_when_it_is_lost() {
    let now = Instant::now();
    let policy = Policy { mode: Mode::Shared, ..Policy::default() };
    let mut session = session_with(policy.clone(), now);
    session.target(&Target { policy, ..target([grant(0, Standing::Held)]) });
    session.queue(0);
    drain(&mut session, now);
    deliver(&mut session, 0, now);
    session.request(ME, Request::Release(settle(0, 10, 0..1)), now);
    let nack = Request::Nack { settle: settle(1, 10, 5..6), pause: Pause::Backoff, error: "boom".to_owned() };
    session.request(ME, nack, now);
    assert_eq!(next_exits(&mut session, now).len(), 1);
    session.moved(vec![Moved { at: AT_0, outcome: Err(GroupError::ShuttingDown) }], now);
    drain(&mut session, now);
    let turn = session.next_turn(now).expect("what was given back is read again");
    session.gap(turn, 20, Loss::Retention);
    session.next_settlement(now).expect("the gap");
    session.settled(&[AT_0], Ok(vec![]), now);
    let is_answer = |event: &Event| matches!(event, Event::Settled { ack_id, .. } if ack_id.get() == 1);
    assert!(drain(&mut session, now).iter().any(is_answer));
}

#[test]
fn a_halted_partition_is_reported_and_what_is_open_can_still_be_settled() {
    let now = Instant::now();
    let mut session = session(now);
    let retry = RetryPolicy { max_attempts: 1, on_exhausted: OnExhausted::Halt, ..RetryPolicy::default() };
    let policy = Policy { retry, ..Policy::default() };
    session.target(&Target { policy, ..target([grant(0, Standing::Held)]) });
    session.queue(0);
    drain(&mut session, now);
    deliver(&mut session, 0, now);
    let pause = Pause::Fixed(Duration::ZERO);
    let nack = Request::Nack { settle: settle(0, 10, 4..5), pause, error: "boom".to_owned() };
    session.request(ME, nack, now);
    drain(&mut session, now);
    deliver(&mut session, 0, now);
    let events = drain(&mut session, now);
    let halted = |event: &Event| matches!(event, Event::Failure { error: GroupError::Halted { offset: 4, .. }, .. });
    assert!(events.iter().any(halted), "{events:?}");
    assert!(session.next_turn(now).is_none(), "nothing is read beyond it");
    session.request(ME, Request::Ack(settle(1, 10, 0..4)), now);
    let settlement = session.next_settlement(now).expect("the ack");
    assert_eq!(committed_in(&settlement), [4]);
}

#[test]
fn a_client_that_goes_without_leaving_has_failed_at_what_it_was_at() {
    let now = Instant::now();
    let mut session = delivered(now);
    session.client_gone(ME, now + Duration::from_secs(2));
    let settlement = session.next_settlement(now).expect("the failure is kept");
    let failed: Vec<_> = settlement.advanced[0].progress.failures().collect();
    assert_eq!(failed.len(), 1);
    assert_eq!((failed[0].0.clone(), failed[0].1.first_failed_us), (0..1, 3_000_000));

    let mut leaving = delivered(now);
    leaving.request(ME, Request::Leave(Leave::ForNow), now);
    leaving.client_gone(ME, now);
    assert!(leaving.next_settlement(now).is_none());
}

fn stats(session: &Session) -> &MemberStats {
    &session.seats.get(ME).expect("a seat").stats
}

fn is_active(session: &Session) -> bool {
    session.seats.get(ME).is_some_and(|seat| seat.phase == Phase::Active)
}

#[test]
fn a_member_that_settles_nothing_is_taken_out_before_its_record_has_used_up_its_attempts() {
    let mut now = Instant::now();
    let mut session = delivered(now);
    drain(&mut session, now);
    for timeouts in 1..=3 {
        now += ACK_TIMEOUT;
        session.request(ME, Request::Heartbeat, now);
        session.on_time(now);
        assert_eq!(stats(&session).stalled_since_us(), Some(31_000_000), "since the first of them");
        assert_eq!(departed(&session).is_some() || !is_active(&session), timeouts == 3, "{timeouts}");
        if timeouts < 3 {
            // Its backoff is over, too.
            now += Duration::from_secs(10);
            session.on_time(now);
            drain(&mut session, now);
            deliver(&mut session, 0, now);
            drain(&mut session, now);
        }
    }
    let settlement = session.next_settlement(now).expect("what has failed");
    let failed: Vec<u32> = settlement.advanced[0].progress.failures().map(|(_, failure)| failure.attempts).collect();
    assert_eq!(failed, [3], "two are left for others");
    session.settled(&[AT_0], Ok(vec![]), now);
    assert!(matches!(departed(&session), Some(End::Failed(GroupError::MemberStuck { timeouts: 3, .. }))));
    assert!(stats(&session).is_gone_for_good(), "nothing waits for it");
}

#[test]
fn a_member_that_is_late_but_settles_stays() {
    let mut now = Instant::now();
    let mut session = delivered(now);
    for round in 0..4 {
        now += ACK_TIMEOUT + Duration::from_secs(1);
        session.request(ME, Request::Heartbeat, now);
        session.on_time(now);
        assert!(stats(&session).stalled_since_us().is_some());
        session.request(ME, Request::Extend(settle(0, 10, 0..1)), now);
        assert_eq!((stats(&session).stalled_since_us(), is_active(&session)), (None, true), "{round}");
        now += Duration::from_secs(3600);
        session.request(ME, Request::Heartbeat, now);
        session.on_time(now);
        drain(&mut session, now);
        deliver(&mut session, 0, now);
        drain(&mut session, now);
    }
}

#[test]
fn a_client_that_takes_nothing_is_taken_out_and_no_attempt_is_counted() {
    let now = Instant::now();
    let mut session = delivered(now);
    let heartbeat = Duration::from_secs(1);
    session.seats.get_mut(ME).expect("a seat").heartbeat = heartbeat;
    for heartbeats in 1..=SILENT_HEARTBEATS {
        assert_eq!(departed(&session), None);
        let now = now + heartbeat * heartbeats;
        session.request(ME, Request::Heartbeat, now);
        session.on_time(now);
    }
    assert!(matches!(departed(&session), Some(End::Failed(GroupError::MemberNotReading { .. }))));
    assert!(session.next_settlement(now).is_none(), "nothing has failed");
}

#[test]
fn time_in_which_the_broker_did_not_run_is_no_silence_of_the_member() {
    let mut now = Instant::now();
    let mut session = session(now);
    for _ in 0..3 {
        now += Duration::from_secs(24 * 3600);
        session.on_time(now);
        assert_eq!(departed(&session), None);
        assert_eq!(drain(&mut session, now), []);
    }
    for _ in 0..SILENT_HEARTBEATS {
        now += HEARTBEAT;
        session.on_time(now);
        drain(&mut session, now);
    }
    assert!(matches!(departed(&session), Some(End::Failed(GroupError::MemberSilent { .. }))));
}

#[test]
fn outside_its_hours_nothing_is_read_or_delivered_and_acks_are_taken() {
    let now = Instant::now();
    let mut session = delivered(now);
    drain(&mut session, now);
    let turn = session.next_turn(now).expect("more to read");
    let window = DailyWindow { from_minute: 60, to_minute: 120 };
    let hours = DeliveryHours::new(&[window], 0).expect("legal");
    let policy = Policy { hours, ..Policy::default() };
    session.target(&Target { policy, ..target([grant(0, Standing::Held)]) });
    let minutes = |minutes: i64| minutes * 60_000_000;
    session.look_at_the_clock(now, || minutes(120));
    let header = BatchHeader { base_offset: 10, record_count: 10, ..BatchHeader::default() };
    session.deliver(turn, vec![Batch { header, payload: bytes::Bytes::new() }.into()], 20, now);
    assert_eq!(drain(&mut session, now), [], "what was read before comes later");
    assert!(session.next_turn(now).is_none());
    assert!(session.timer() <= now + Duration::from_secs(5), "the wall clock may be set");
    session.request(ME, Request::Ack(settle(1, 10, 0..10)), now);
    assert_eq!(session.next_settlement(now).map(|settlement| committed_in(&settlement)), Some(vec![10]));

    session.look_at_the_clock(now, || minutes(24 * 60 + 60) - 1);
    assert!(session.next_turn(now).is_none());
    assert!(session.timer() <= now + Duration::from_micros(1), "it opens at once when it is time");
    session.look_at_the_clock(now, || minutes(24 * 60 + 60));
    assert_eq!(session.next_turn(now).map(|turn| turn.cursor), Some(10));
}

#[test]
fn an_altered_policy_is_in_force_at_once() {
    let now = Instant::now();
    let mut session = delivered(now);
    drain(&mut session, now);
    let retry = RetryPolicy { max_attempts: 1, ..RetryPolicy::default() };
    let policy = Policy { retry, ack_timeout: ACK_TIMEOUT / 10, ..Policy::default() };
    session.target(&Target { policy, ..target([grant(0, Standing::Held)]) });
    let nack = Request::Nack { settle: settle(0, 10, 0..1), pause: Pause::Backoff, error: "boom".to_owned() };
    session.request(ME, nack, now);
    drain(&mut session, now);
    deliver(&mut session, 0, now);
    let exits = next_exits(&mut session, now);
    assert_eq!(exits[0].1.range, 0..1, "its only attempt has failed");
    assert!(session.timer() <= now + ACK_TIMEOUT / 10, "what is delivered now has the new time-out");
}

#[test]
fn it_says_for_what_its_partitions_wait() {
    let now = Instant::now();
    let mut session = delivered(now);
    drain(&mut session, now);
    assert_eq!(session.waits(now), []);
    let pause = Pause::Fixed(Duration::from_secs(5));
    let nack = Request::Nack { settle: settle(0, 10, 3..4), pause, error: "boom".to_owned() };
    session.request(ME, nack, now);
    drain(&mut session, now);
    let waits = session.waits(now);
    let [PartitionWait { partition: 0, cause: WaitCause::Retry { offset: 3, until_us, .. }, next: 3 }] = waits[..]
    else {
        panic!("{waits:?}");
    };
    assert_eq!(until_us, 1_000_000 + 5_000_000, "by the wall clock");
    let later = now + Duration::from_secs(5);
    session.hold(ME);
    session.on_time(later);
    let busy = PartitionWait { partition: 0, cause: WaitCause::MembersBusy, next: 3 };
    assert_eq!(session.waits(later), [busy], "the connection takes nothing");
    session.fail(0, 10, GroupError::NoPosition { partition: 0 });
    assert_eq!(session.waits(later)[0].cause, WaitCause::OutOfService);
}

#[test]
fn who_is_taken_out_is_remembered_with_the_reason() {
    let now = Instant::now();
    let mut session = delivered(now);
    let stats = Arc::clone(&session.seats.get(ME).expect("it is there").stats);
    drain(&mut session, now);
    let mut silent = now;
    while session.seats.get(ME).is_some_and(Seat::is_there) {
        silent += HEARTBEAT;
        session.on_time(silent);
        drain(&mut session, silent);
    }
    assert!(matches!(stats.taken_out(), Some(GroupError::MemberSilent { .. })), "{:?}", stats.taken_out());
    let mut other = super::tests::session(now);
    let stats = Arc::clone(&other.seats.get(ME).expect("it is there").stats);
    other.end(GroupError::ShuttingDown);
    assert_eq!(stats.taken_out(), None, "that is not its own doing");
}
