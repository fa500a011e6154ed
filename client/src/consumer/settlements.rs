//! What a session has to tell the broker about deliveries: collected here, sent as few messages. Pure.
//!
//! Acks are coalesced while earlier ones wait for their answer, so that their rate follows the broker's disk and not the
//! number of records. Everything here belongs to deliveries that credit has paid for, which bounds it.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    ops::Bound,
};

use aqueduct_proto::v1::{self, consume_request::Event};
use tokio::sync::oneshot;
use tonic::Code;

use super::{ranges::RangeSet, room::Room};
use crate::{
    error::{AckError, BrokerError},
    types::Offset,
};

/// Ack messages without an answer; while there are that many, further acks are collected.
const ACKS_IN_FLIGHT_MAX: usize = 4;
/// The same of nacks and parks of one claim, which are answered later: the broker moves their records first.
const REFUSALS_IN_FLIGHT_MAX: usize = 8;
/// More of them do not wait for others to join.
const REFUSALS_WAITING_MAX: usize = 8;

/// Whom a delivery belongs to: its partition and the generation of the assignment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Claim {
    pub(super) partition: u32,
    pub(super) generation: u64,
}

/// Tells whoever waits for a durable ack.
pub(super) type Done = oneshot::Sender<Result<(), AckError>>;

/// Somebody who waits for one.
#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) offset: Offset,
    pub(super) done: Done,
}

/// What has been settled, as the broker has answered.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Answered {
    pub(super) acked: u64,
    pub(super) nacked: u64,
    pub(super) parked: u64,
    /// Not accepted: the partition has moved on, or the broker could not store it.
    pub(super) aborted: u64,
}

#[derive(Debug)]
pub(super) struct Settlements {
    acks: BTreeMap<Claim, Acks>,
    /// Whose acks were sent last: the next claim is the one after it, so that busy partitions hold up no others.
    acked_last: Option<Claim>,
    refused: BTreeMap<Claim, Refusals>,
    /// Whose were sent last.
    refused_last: Option<Claim>,
    extended: BTreeMap<Claim, RangeSet>,
    releases: BTreeMap<Claim, RangeSet>,
    in_flight: HashMap<u64, InFlight>,
    /// Of those, how many are acks. What is given back is answered later, and must not hold them up.
    acks_in_flight: usize,
    next_id: u64,
    room: Room,
}

#[derive(Debug, Default)]
struct Acks {
    offsets: RangeSet,
    waiters: Vec<Waiter>,
}

/// What is to become of records that were not handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// They come again: after this time, or after the group's backoff.
    Nack { delay_ms: Option<u32> },
    /// They go to the dead letters.
    Park,
}

/// And why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reason {
    pub(super) refusal: Refusal,
    pub(super) error: String,
}

/// Of one claim.
#[derive(Debug, Default)]
struct Refusals {
    waiting: VecDeque<Refused>,
    in_flight: usize,
}

impl Refusals {
    fn is_ready(&self) -> bool {
        let is_free = self.in_flight < REFUSALS_IN_FLIGHT_MAX || self.waiting.len() > REFUSALS_WAITING_MAX;
        is_free && !self.waiting.is_empty()
    }

    fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.in_flight == 0
    }
}

#[derive(Debug)]
struct Refused {
    reason: Reason,
    offsets: RangeSet,
    waiters: Vec<Waiter>,
}

#[derive(Debug)]
struct InFlight {
    claim: Claim,
    records: u64,
    kind: Kind,
    waiters: Vec<Waiter>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Ack,
    Nack,
    Park,
}

impl Settlements {
    pub(super) fn new(room: Room) -> Self {
        Self {
            acks: BTreeMap::new(),
            acked_last: None,
            refused: BTreeMap::new(),
            refused_last: None,
            extended: BTreeMap::new(),
            releases: BTreeMap::new(),
            in_flight: HashMap::new(),
            acks_in_flight: 0,
            next_id: 1,
            room,
        }
    }

    pub(super) fn ack(&mut self, claim: Claim, offset: Offset, done: Option<Done>) {
        let acks = self.acks.entry(claim).or_default();
        acks.offsets.insert(offset);
        acks.waiters.extend(done.map(|done| Waiter { offset, done }));
    }

    /// Returns how many messages more that makes. It joins the last one of its claim, if that gives the same reason and nobody
    /// waits for just one of the two.
    pub(super) fn refuse(&mut self, claim: Claim, offset: Offset, reason: Reason, done: Option<Done>) -> usize {
        let refusals = self.refused.entry(claim).or_default();
        let last = refusals.waiting.back_mut().filter(|last| last.reason == reason && last.waiters.is_empty());
        if let (Some(last), None) = (last, &done) {
            last.offsets.insert(offset);
            return 0;
        }
        let mut offsets = RangeSet::default();
        offsets.insert(offset);
        let waiters = done.map(|done| Waiter { offset, done }).into_iter().collect();
        refusals.waiting.push_back(Refused { reason, offsets, waiters });
        1
    }

    pub(super) fn extend(&mut self, claim: Claim, offset: Offset) {
        self.extended.entry(claim).or_default().insert(offset);
    }

    pub(super) fn extend_range(&mut self, claim: Claim, from: Offset, to: Offset) {
        self.extended.entry(claim).or_default().insert_range(from, to);
    }

    pub(super) fn release(&mut self, claim: Claim, ranges: &[v1::OffsetRange]) {
        let set = self.releases.entry(claim).or_default();
        ranges.iter().for_each(|range| set.insert_range(range.from, range.to));
    }

    /// Room for this much has become free.
    pub(super) fn give_back(&mut self, credit: v1::Credit) {
        self.room.give_back(credit);
    }

    /// How much of the prefetch the broker may use.
    pub(super) fn room(&mut self) -> &mut Room {
        &mut self.room
    }

    /// [`next`](Self::next) has something to send.
    pub(super) fn is_ready(&self) -> bool {
        let acks = !self.acks.is_empty() && self.acks_in_flight < ACKS_IN_FLIGHT_MAX;
        let refusals = self.refused.values().any(Refusals::is_ready);
        acks || refusals || !self.extended.is_empty() || !self.releases.is_empty() || self.room.is_due()
    }

    /// Everything is sent, and acks and nacks are answered.
    pub(super) fn is_settled(&self) -> bool {
        self.releases.is_empty() && self.is_answered()
    }

    /// All acks and nacks are sent and answered.
    pub(super) fn is_answered(&self) -> bool {
        // Until they are answered, refusals of a claim are known.
        self.acks.is_empty() && self.refused.is_empty() && self.in_flight.is_empty()
    }

    /// The next message. What gives records back to others goes first.
    pub(super) fn next(&mut self) -> Option<Event> {
        if let Some((claim, offsets)) = self.releases.pop_first() {
            let Claim { partition, generation } = claim;
            return Some(Event::Release(v1::Release { partition, generation, ranges: offsets.into_ranges() }));
        }
        if let Some((claim, refused)) = self.next_refused() {
            return Some(self.refusal(claim, refused));
        }
        if let Some((claim, offsets)) = self.extended.pop_first() {
            let Claim { partition, generation } = claim;
            return Some(Event::Extend(v1::Extend { partition, generation, ranges: offsets.into_ranges() }));
        }
        if self.acks_in_flight < ACKS_IN_FLIGHT_MAX
            && let Some((claim, acks)) = self.next_acks()
        {
            self.acks_in_flight += 1;
            let ack_id = self.sent(claim, acks.offsets.records(), Kind::Ack, acks.waiters);
            let Claim { partition, generation } = claim;
            return Some(Event::Ack(v1::Ack { ack_id, partition, generation, ranges: acks.offsets.into_ranges() }));
        }
        self.room.is_due().then(|| Event::Credit(self.room.grant()))
    }

    /// By turns.
    fn next_acks(&mut self) -> Option<(Claim, Acks)> {
        let after = self.acked_last.map_or(Bound::Unbounded, Bound::Excluded);
        let next = self.acks.range((after, Bound::Unbounded)).next().or_else(|| self.acks.first_key_value());
        let claim = *next?.0;
        self.acked_last = Some(claim);
        Some((claim, self.acks.remove(&claim)?))
    }

    /// By turns.
    fn next_refused(&mut self) -> Option<(Claim, Refused)> {
        let after = self.refused_last.map_or(Bound::Unbounded, Bound::Excluded);
        let is_ready = |(_, refusals): &(&Claim, &Refusals)| refusals.is_ready();
        let next = self.refused.range((after, Bound::Unbounded)).find(is_ready);
        let claim = *next.or_else(|| self.refused.iter().find(is_ready))?.0;
        self.refused_last = Some(claim);
        let refusals = self.refused.get_mut(&claim)?;
        refusals.in_flight += 1;
        Some((claim, refusals.waiting.pop_front()?))
    }

    fn refusal(&mut self, claim: Claim, refused: Refused) -> Event {
        let Refused { reason: Reason { refusal, error }, offsets, waiters } = refused;
        let Claim { partition, generation } = claim;
        let records = offsets.records();
        let ranges = offsets.into_ranges();
        match refusal {
            Refusal::Nack { delay_ms } => {
                let ack_id = self.sent(claim, records, Kind::Nack, waiters);
                Event::Nack(v1::Nack { ack_id, partition, generation, ranges, delay_ms, error })
            }
            Refusal::Park => {
                let ack_id = self.sent(claim, records, Kind::Park, waiters);
                Event::Park(v1::Park { ack_id, partition, generation, ranges, reason: error })
            }
        }
    }

    fn sent(&mut self, claim: Claim, records: u64, kind: Kind, waiters: Vec<Waiter>) -> u64 {
        let ack_id = self.next_id;
        self.next_id += 1;
        self.in_flight.insert(ack_id, InFlight { claim, records, kind, waiters });
        ack_id
    }

    /// The broker's answer to an ack or nack.
    pub(super) fn answered(&mut self, settled: &v1::Settled) -> Answered {
        let Some(message) = self.in_flight.remove(&settled.ack_id) else { return Answered::default() };
        match message.kind {
            Kind::Ack => self.acks_in_flight -= 1,
            Kind::Nack | Kind::Park => self.refusal_is_answered(message.claim),
        }
        let Some(error) = settled.error.as_ref().map(BrokerError::from_proto) else {
            message.waiters.into_iter().for_each(|waiter| drop(waiter.done.send(Ok(()))));
            return match message.kind {
                Kind::Ack => Answered { acked: message.records, ..Answered::default() },
                Kind::Nack => Answered { nacked: message.records, ..Answered::default() },
                Kind::Park => Answered { parked: message.records, ..Answered::default() },
            };
        };
        for Waiter { offset, done } in message.waiters {
            let error = Box::new(error.clone());
            // Nobody may be waiting any more.
            let _ = done.send(Err(match error.code {
                Code::Aborted => AckError::Aborted { partition: message.claim.partition, offset, error },
                _ => AckError::Rejected(error),
            }));
        }
        Answered { aborted: message.records, ..Answered::default() }
    }

    fn refusal_is_answered(&mut self, claim: Claim) {
        if let Some(refusals) = self.refused.get_mut(&claim) {
            refusals.in_flight -= 1;
            if refusals.is_empty() {
                self.refused.remove(&claim);
            }
        }
    }

    /// The session is over: gives how many settled records nobody will ever confirm.
    pub(super) fn lose(self) -> u64 {
        let waiting = self.acks.into_values().map(|acks| (acks.offsets.records(), acks.waiters));
        let sent = self.in_flight.into_values().map(|message| (message.records, message.waiters));
        let refused = self.refused.into_values().flat_map(|refusals| refusals.waiting);
        let refused = refused.map(|refused| (refused.offsets.records(), refused.waiters));
        let mut lost = 0;
        for (records, waiters) in waiting.chain(sent).chain(refused) {
            lost += records;
            waiters.into_iter().for_each(|waiter| drop(waiter.done.send(Err(AckError::SessionLost))));
        }
        lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLAIM: Claim = Claim { partition: 1, generation: 7 };

    fn at_once(error: &str) -> Reason {
        Reason { refusal: Refusal::Nack { delay_ms: Some(0) }, error: error.to_owned() }
    }

    fn settlements() -> Settlements {
        Settlements::new(Room::new(v1::Credit { bytes: 1_000, records: 10 }, u64::MAX))
    }

    fn ok(ack_id: u64) -> v1::Settled {
        v1::Settled { ack_id, ..v1::Settled::default() }
    }

    #[test]
    fn acks_are_collected_while_earlier_ones_wait_for_their_answer() {
        let mut settlements = settlements();
        for offset in 0..100 {
            settlements.ack(CLAIM, offset, None);
            if offset < 4 {
                assert!(matches!(settlements.next(), Some(Event::Ack(_))));
            }
        }
        assert!(!settlements.is_ready() && settlements.next().is_none());
        assert_eq!(settlements.answered(&ok(1)), Answered { acked: 1, ..Answered::default() });
        let Some(Event::Ack(ack)) = settlements.next() else { panic!("the rest goes at once") };
        assert_eq!((ack.ack_id, ack.generation, ack.ranges), (5, 7, vec![v1::OffsetRange { from: 4, to: 100 }]));
        assert!(!settlements.is_settled());
        for id in 2..=5 {
            settlements.answered(&ok(id));
        }
        assert!(settlements.is_settled());
    }

    #[test]
    fn partitions_that_are_always_busy_do_not_hold_up_the_acks_of_others() {
        let mut settlements = settlements();
        let claim = |partition| Claim { partition, ..CLAIM };
        settlements.ack(claim(9), 0, None);
        let mut sent = Vec::new();
        for round in 0..12 {
            (0..5).for_each(|partition| settlements.ack(claim(partition), round, None));
            let Some(Event::Ack(ack)) = settlements.next() else { panic!("there is always something to send") };
            settlements.answered(&ok(ack.ack_id));
            sent.push(ack.partition);
        }
        assert_eq!(sent, [0, 1, 2, 3, 4, 9, 0, 1, 2, 3, 4, 0]);
    }

    #[test]
    fn generations_are_never_mixed() {
        let mut settlements = settlements();
        settlements.ack(CLAIM, 1, None);
        settlements.ack(Claim { generation: 8, ..CLAIM }, 2, None);
        let sent: Vec<_> = std::iter::from_fn(|| settlements.next()).collect();
        assert_eq!(sent.len(), 2);
    }

    #[test]
    fn releases_and_nacks_do_not_wait_for_acks() {
        let mut settlements = settlements();
        settlements.ack(CLAIM, 1, None);
        settlements.refuse(CLAIM, 2, at_once("boom"), None);
        settlements.refuse(CLAIM, 3, at_once("boom"), None);
        settlements.release(CLAIM, &[v1::OffsetRange { from: 4, to: 9 }]);
        assert!(matches!(settlements.next(), Some(Event::Release(_))));
        let Some(Event::Nack(nack)) = settlements.next() else { panic!("a nack") };
        assert_eq!((nack.ranges, nack.error.as_str()), (vec![v1::OffsetRange { from: 2, to: 4 }], "boom"));
        assert!(matches!(settlements.next(), Some(Event::Ack(_))));
    }

    #[test]
    fn acks_do_not_wait_for_the_answers_to_nacks() {
        let mut settlements = settlements();
        for offset in 0..10 {
            settlements.refuse(CLAIM, offset, at_once(&format!("error {offset}")), None);
        }
        let sent: Vec<_> = std::iter::from_fn(|| settlements.next()).collect();
        assert_eq!(sent.len(), REFUSALS_IN_FLIGHT_MAX);
        for offset in 10..20 {
            settlements.ack(CLAIM, offset, None);
            assert_eq!(matches!(settlements.next(), Some(Event::Ack(_))), offset < 14);
        }
        for nack in 1..=8 {
            settlements.answered(&ok(nack));
        }
        for _ in 8..10 {
            assert!(matches!(settlements.next(), Some(Event::Nack(_))));
        }
        assert!(!settlements.is_ready(), "acks wait for acks");
        settlements.answered(&ok(9));
        assert!(matches!(settlements.next(), Some(Event::Ack(_))));
    }

    #[test]
    fn nacks_are_collected_while_earlier_ones_of_their_claim_wait_for_their_answer() {
        let mut settlements = settlements();
        let other = Claim { partition: 2, ..CLAIM };
        let nacks = |settlements: &mut Settlements| -> Vec<(u32, Vec<v1::OffsetRange>)> {
            let nack = |event| match event {
                Event::Nack(nack) => (nack.partition, nack.ranges),
                other => panic!("{other:?}"),
            };
            std::iter::from_fn(|| settlements.next()).map(nack).collect()
        };
        let range = |from, to| vec![v1::OffsetRange { from, to }];
        for offset in 0..8 {
            assert_eq!(settlements.refuse(CLAIM, offset, at_once("boom"), None), 1);
            assert_eq!(nacks(&mut settlements), [(1, range(offset, offset + 1))]);
        }
        for offset in 8..100 {
            assert_eq!(settlements.refuse(CLAIM, offset, at_once("boom"), None), usize::from(offset == 8));
        }
        assert!(!settlements.is_ready());
        settlements.refuse(other, 1, at_once("boom"), None);
        assert_eq!(nacks(&mut settlements), [(2, range(1, 2))], "another claim does not wait");
        settlements.answered(&ok(1));
        assert_eq!(nacks(&mut settlements), [(1, range(8, 100))]);
    }

    #[test]
    fn many_nacks_with_different_reasons_do_not_wait_and_whoever_waits_for_one_hears_of_just_that() {
        let mut settlements = settlements();
        for offset in 0..100 {
            settlements.refuse(CLAIM, offset, at_once(&format!("error {offset}")), None);
        }
        assert_eq!(std::iter::from_fn(|| settlements.next()).count(), 100 - REFUSALS_WAITING_MAX);

        let (done, mut waiting) = oneshot::channel();
        let park = Reason { refusal: Refusal::Park, error: "nonsense".to_owned() };
        let other = Claim { partition: 2, ..CLAIM };
        assert_eq!(settlements.refuse(other, 1, park.clone(), None), 1);
        assert_eq!(settlements.refuse(other, 2, park.clone(), Some(done)), 1);
        assert_eq!(settlements.refuse(other, 3, park, None), 1);
        assert_eq!(std::iter::from_fn(|| settlements.next()).count(), 3);
        settlements.answered(&ok(94));
        assert!(matches!(waiting.try_recv(), Ok(Ok(()))));
    }

    #[test]
    fn credit_goes_back_in_halves() {
        let mut settlements = settlements();
        settlements.give_back(v1::Credit { bytes: 10, records: 4 });
        assert_eq!(settlements.next(), None);
        settlements.give_back(v1::Credit { bytes: 10, records: 1 });
        assert_eq!(settlements.next(), Some(Event::Credit(v1::Credit { bytes: 20, records: 5 })));
        assert_eq!(settlements.next(), None);
    }

    #[test]
    fn a_stale_generation_reaches_whoever_waits() {
        let mut settlements = settlements();
        let (done, mut waiting) = oneshot::channel();
        settlements.ack(CLAIM, 5, Some(done));
        settlements.next();
        let error = tonic_types::Status { code: Code::Aborted.into(), ..Default::default() };
        let answered = settlements.answered(&v1::Settled { ack_id: 1, error: Some(error), ..Default::default() });
        assert_eq!(answered, Answered { aborted: 1, ..Answered::default() });
        assert!(matches!(waiting.try_recv(), Ok(Err(AckError::Aborted { partition: 1, offset: 5, .. }))));
    }

    #[test]
    fn a_lost_session_is_counted_and_said() {
        let mut settlements = settlements();
        let (done, mut waiting) = oneshot::channel();
        settlements.ack(CLAIM, 5, Some(done));
        settlements.refuse(CLAIM, 6, at_once(""), None);
        settlements.next();
        assert_eq!(settlements.lose(), 2);
        assert!(matches!(waiting.try_recv(), Ok(Err(AckError::SessionLost))));
    }
}
