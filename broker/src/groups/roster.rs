//! The members of one group on one topic, and which partitions they have.
//!
//! Pure. A partition has at most one owner; it gets the next one only after the last has given it up or has left. Every
//! grant has a generation of its own, so that nothing an earlier owner says can be mistaken for the present one's.
//!
//! A member may be *away*: it has gone, and its share waits for whoever comes in its place. Meanwhile nobody owns those
//! partitions, and nobody else's move because of them.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    assignment::{MemberId, Share, assign},
    state::REDRIVEN,
};

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct Roster {
    partitions: u32,
    /// [`REDRIVEN`] has an owner, too.
    has_redriven: bool,
    members: BTreeSet<MemberId>,
    away: BTreeSet<MemberId>,
    owners: BTreeMap<u32, Owner>,
    /// Who is to have each partition in the end.
    wanted: BTreeMap<u32, Share>,
    /// How often the members have changed.
    changes: u64,
}

/// Who has a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) member: MemberId,
    pub(crate) generation: u64,
    pub(crate) standing: Standing,
}

/// How long an owner stays one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Until the members change.
    Held,
    /// Until it has settled what is open.
    Leaving,
}

/// What a change of the roster means for a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Grant { member: MemberId, partition: u32, generation: u64 },
    Revoke { member: MemberId, partition: u32 },
}

impl Roster {
    /// A member has come; the topic has `partitions` by now.
    pub(crate) fn join(&mut self, member: MemberId, partitions: u32, generation: impl FnMut() -> u64) -> Vec<Step> {
        self.members.insert(member);
        self.grow(partitions, generation)
    }

    /// The topic has `partitions` by now.
    pub(crate) fn grow(&mut self, partitions: u32, generation: impl FnMut() -> u64) -> Vec<Step> {
        self.partitions = self.partitions.max(partitions);
        self.rebalance(generation)
    }

    /// The group has redriven records by now.
    pub(crate) fn add_redriven(&mut self, generation: impl FnMut() -> u64) -> Vec<Step> {
        self.has_redriven = true;
        self.rebalance(generation)
    }

    /// A member has gone, and with it whatever it had open; or one that was away is not waited for any longer.
    pub(crate) fn leave(&mut self, member: MemberId, generation: impl FnMut() -> u64) -> Vec<Step> {
        self.away.remove(&member);
        self.gone(member);
        self.rebalance(generation)
    }

    /// A member has gone, and with it whatever it had open; its share waits.
    pub(crate) fn wait_for(&mut self, member: MemberId, generation: impl FnMut() -> u64) -> Vec<Step> {
        self.gone(member);
        self.away.insert(member);
        self.rebalance(generation)
    }

    /// A member comes in the place of another one, which is away or has just gone: it gets that one's share.
    pub(crate) fn succeed(
        &mut self,
        predecessor: MemberId,
        member: MemberId,
        partitions: u32,
        generation: impl FnMut() -> u64,
    ) -> Vec<Step> {
        self.away.remove(&predecessor);
        self.gone(predecessor);
        for share in self.wanted.values_mut().filter(|share| share.member == predecessor) {
            share.member = member;
        }
        self.join(member, partitions, generation)
    }

    fn gone(&mut self, member: MemberId) {
        self.members.remove(&member);
        self.owners.retain(|_, owner| owner.member != member);
    }

    /// A member gives a partition back. Without effect if it does not have it in that generation.
    pub(crate) fn give_up(
        &mut self,
        member: MemberId,
        partition: u32,
        of_generation: u64,
        generation: impl FnMut() -> u64,
    ) -> Vec<Step> {
        if !self.is_owner(member, partition, of_generation) {
            return Vec::new();
        }
        self.owners.remove(&partition);
        self.rebalance(generation)
    }

    /// Whether what `member` says about a delivery of that generation still counts.
    pub(crate) fn is_owner(&self, member: MemberId, partition: u32, generation: u64) -> bool {
        self.owners.get(&partition).is_some_and(|owner| owner.member == member && owner.generation == generation)
    }

    /// Who has `partition` now.
    pub(crate) fn owner(&self, partition: u32) -> Option<Owner> {
        self.owners.get(&partition).copied()
    }

    /// The partitions of `member`.
    pub(crate) fn owned_by(&self, member: MemberId) -> impl Iterator<Item = (u32, Standing)> {
        self.owners.iter().filter(move |(_, owner)| owner.member == member).map(|(p, owner)| (*p, owner.standing))
    }

    /// What `member` is to have in the end, and what waits for it while it is away.
    pub(crate) fn wanted_by(&self, member: MemberId) -> impl Iterator<Item = u32> {
        self.wanted.iter().filter(move |(_, share)| share.member == member).map(|(partition, _)| *partition)
    }

    /// Whether nobody is there, and nobody is waited for.
    pub(crate) fn is_empty(&self) -> bool {
        self.members.is_empty() && self.away.is_empty()
    }

    /// How many partitions are spread.
    pub(crate) fn partitions(&self) -> u32 {
        self.partitions
    }

    /// Everybody who is there.
    pub(crate) fn members(&self) -> &BTreeSet<MemberId> {
        &self.members
    }

    fn rebalance(&mut self, mut generation: impl FnMut() -> u64) -> Vec<Step> {
        self.changes += 1;
        let members: Vec<MemberId> = self.members.iter().copied().collect();
        let keeper = self.wanted.remove(&REDRIVEN);
        let keeper =
            keeper.filter(|keeper| self.members.contains(&keeper.member) || self.away.contains(&keeper.member));
        let (waiting, shared): (Vec<u32>, Vec<u32>) =
            (0..self.partitions).partition(|partition| self.waits(*partition));
        let waiting = waiting.into_iter().filter_map(|partition| Some((partition, *self.wanted.get(&partition)?)));
        let waiting: Vec<(u32, Share)> = waiting.collect();
        self.wanted = assign(&members, &shared, &self.wanted, self.changes);
        self.wanted.extend(waiting);
        // Few records come this way: they stay with whom they are.
        let first = members.first().map(|&member| Share { member, since: self.changes });
        let keeper = keeper.or(first).filter(|_| self.has_redriven);
        self.wanted.extend(keeper.map(|keeper| (REDRIVEN, keeper)));
        let mut steps = Vec::new();
        for (&partition, &Share { member, .. }) in &self.wanted {
            match self.owners.get_mut(&partition) {
                None if self.away.contains(&member) => {}
                None => {
                    let generation = generation();
                    self.owners.insert(partition, Owner { member, generation, standing: Standing::Held });
                    steps.push(Step::Grant { member, partition, generation });
                }
                // Once leaving it leaves, even if it is wanted here again: the member has been told.
                Some(owner) if owner.member != member && owner.standing == Standing::Held => {
                    owner.standing = Standing::Leaving;
                    steps.push(Step::Revoke { member: owner.member, partition });
                }
                Some(_) => {}
            }
        }
        steps
    }

    /// Whether `partition` is kept for a member that is away.
    fn waits(&self, partition: u32) -> bool {
        self.wanted.get(&partition).is_some_and(|share| self.away.contains(&share.member))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Members as they know it from the steps: partition to generation and standing.
    type Told = BTreeMap<MemberId, BTreeMap<u32, (u64, Standing)>>;

    fn tell(told: &mut Told, steps: Vec<Step>, seed: u64) {
        for step in steps {
            match step {
                Step::Grant { member, partition, generation } => {
                    let holders = told.values().filter(|held| held.contains_key(&partition)).count();
                    assert_eq!(holders, 0, "seed {seed}: partition {partition} is granted while somebody has it");
                    told.entry(member).or_default().insert(partition, (generation, Standing::Held));
                }
                Step::Revoke { member, partition } => {
                    let held = told.get_mut(&member).and_then(|held| held.get_mut(&partition));
                    let (_, standing) = held.expect("only what is held is revoked");
                    assert_eq!(*standing, Standing::Held, "seed {seed}: revoked twice");
                    *standing = Standing::Leaving;
                }
            }
        }
    }

    /// Numbers that rise.
    fn rising() -> impl FnMut() -> u64 {
        let mut last = 0;
        move || {
            last += 1;
            last
        }
    }

    /// A roster, what its members were told of it, and who is away with which share.
    struct Model {
        seed: u64,
        random: fastrand::Rng,
        roster: Roster,
        told: Told,
        away: BTreeMap<MemberId, BTreeSet<u32>>,
    }

    impl Model {
        fn new(seed: u64) -> Self {
            let random = fastrand::Rng::with_seed(seed);
            Self { seed, random, roster: Roster::default(), told: Told::new(), away: BTreeMap::new() }
        }

        fn one_of(&mut self, members: &[MemberId]) -> Option<MemberId> {
            (!members.is_empty()).then(|| members[self.random.usize(..members.len())])
        }

        fn one_present(&mut self) -> Option<MemberId> {
            let members: Vec<MemberId> = self.roster.members().iter().copied().collect();
            self.one_of(&members)
        }

        fn one_away(&mut self) -> Option<MemberId> {
            let away: Vec<MemberId> = self.away.keys().copied().collect();
            self.one_of(&away)
        }

        fn share(&self, member: MemberId) -> BTreeSet<u32> {
            self.roster.wanted_by(member).collect()
        }

        /// One random change, by or for a member that may get the number `id`.
        fn change(&mut self, id: MemberId, mut next: impl FnMut() -> u64) {
            let steps = match self.random.u8(0..12) {
                0..=2 => self.roster.join(id, self.random.u32(0..20), &mut next),
                3 => self.one_present().map_or_else(Vec::new, |gone| {
                    self.told.remove(&gone);
                    self.roster.leave(gone, &mut next)
                }),
                4..=5 => self.one_present().map_or_else(Vec::new, |gone| {
                    self.told.remove(&gone);
                    let steps = self.roster.wait_for(gone, &mut next);
                    self.away.insert(gone, self.share(gone));
                    assert!(!steps.iter().any(is_revocation), "seed {}: {steps:?}", self.seed);
                    steps
                }),
                6 => self.one_away().map_or_else(Vec::new, |gone| {
                    self.away.remove(&gone);
                    self.roster.succeed(gone, id, 0, &mut next)
                }),
                7 => self.one_away().map_or_else(Vec::new, |gone| {
                    self.away.remove(&gone);
                    self.roster.leave(gone, &mut next)
                }),
                _ => give_up_one(&mut self.roster, &mut self.told, &mut next),
            };
            tell(&mut self.told, steps, self.seed);
            for (member, share) in &self.away {
                assert_eq!(self.share(*member), *share, "seed {}: what waits for {member} stays", self.seed);
                let granted =
                    |partition: &u32| self.roster.owner(*partition).is_some_and(|o| o.standing == Standing::Held);
                assert!(!share.iter().any(granted), "seed {}: it is nobody's meanwhile", self.seed);
            }
        }

        /// Until nobody has anything left to give up.
        fn settle(&mut self, mut next: impl FnMut() -> u64) {
            while self.told.values().flat_map(BTreeMap::values).any(|(_, standing)| *standing == Standing::Leaving) {
                let steps = give_up_one(&mut self.roster, &mut self.told, &mut next);
                tell(&mut self.told, steps, self.seed);
            }
        }
    }

    fn is_revocation(step: &Step) -> bool {
        matches!(step, Step::Revoke { .. })
    }

    #[test]
    fn partitions_move_one_owner_at_a_time_and_end_up_balanced() {
        for seed in 0..500 {
            let (mut model, mut next) = (Model::new(seed), rising());
            (0..80).for_each(|id| model.change(id, &mut next));
            while let Some(gone) = model.one_away() {
                model.away.remove(&gone);
                let steps = model.roster.leave(gone, &mut next);
                tell(&mut model.told, steps, seed);
            }
            model.settle(&mut next);
            let Model { roster, told, .. } = &model;
            let loads: Vec<usize> =
                roster.members().iter().map(|member| told.get(member).map_or(0, BTreeMap::len)).collect();
            if let (Some(least), Some(most)) = (loads.iter().min(), loads.iter().max()) {
                assert!(most - least <= 1, "seed {seed}: {loads:?}");
                assert_eq!(loads.iter().sum::<usize>(), roster.partitions as usize, "seed {seed}");
            }
        }
    }

    #[test]
    fn a_member_that_was_away_gets_exactly_its_partitions_back_and_nobody_loses_any() {
        for seed in 0..300 {
            let (mut model, mut next) = (Model::new(seed), rising());
            (0..30).for_each(|id| model.change(id, &mut next));
            let Some(gone) = model.one_present() else { continue };
            let share = model.share(gone);
            model.told.remove(&gone);
            for steps in [model.roster.wait_for(gone, &mut next), model.roster.succeed(gone, 1000, 0, &mut next)] {
                assert!(!steps.iter().any(is_revocation), "seed {seed}: {steps:?}");
                tell(&mut model.told, steps, seed);
            }
            assert_eq!(model.share(1000), share, "seed {seed}");
            model.settle(&mut next);
            let told: BTreeSet<u32> = model.told.get(&1000).into_iter().flat_map(BTreeMap::keys).copied().collect();
            assert_eq!(told, share, "seed {seed}");
        }
    }

    fn give_up_one(roster: &mut Roster, told: &mut Told, next: impl FnMut() -> u64) -> Vec<Step> {
        let leaving = told.iter().find_map(|(member, held)| {
            let (partition, (generation, _)) = held.iter().find(|(_, (_, standing))| *standing == Standing::Leaving)?;
            Some((*member, (*partition, *generation)))
        });
        let Some((member, (partition, generation))) = leaving else { return Vec::new() };
        assert!(roster.is_owner(member, partition, generation));
        told.get_mut(&member).expect("it was found there").remove(&partition);
        roster.give_up(member, partition, generation, next)
    }

    #[test]
    fn an_earlier_generation_owns_nothing_and_gives_nothing_up() {
        let mut next = {
            let mut numbers = rising();
            move || 10 + numbers()
        };
        let mut roster = Roster::default();
        assert_eq!(roster.join(1, 1, &mut next), [Step::Grant { member: 1, partition: 0, generation: 11 }]);
        assert!(roster.is_owner(1, 0, 11));
        assert!(!roster.is_owner(1, 0, 10));
        assert_eq!(roster.give_up(1, 0, 10, &mut next), []);
        assert_eq!(roster.give_up(2, 0, 11, &mut next), []);
        assert!(roster.is_owner(1, 0, 11));
    }
}
