//! The members of one group on one topic, and which partitions they have.
//!
//! Pure. A partition has at most one owner; it gets the next one only after the last has given it up or has left. Every
//! grant has a generation of its own, so that nothing an earlier owner says can be mistaken for the present one's.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    assignment::{MemberId, assign},
    state::REDRIVEN,
};

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct Roster {
    partitions: u32,
    /// [`REDRIVEN`] has an owner, too.
    has_redriven: bool,
    members: BTreeSet<MemberId>,
    owners: BTreeMap<u32, Owner>,
    /// Who is to have each partition in the end.
    wanted: BTreeMap<u32, MemberId>,
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

    /// A member has gone, and with it whatever it had open.
    pub(crate) fn leave(&mut self, member: MemberId, generation: impl FnMut() -> u64) -> Vec<Step> {
        self.members.remove(&member);
        self.owners.retain(|_, owner| owner.member != member);
        self.rebalance(generation)
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

    /// How many partitions are spread.
    pub(crate) fn partitions(&self) -> u32 {
        self.partitions
    }

    /// Everybody.
    pub(crate) fn members(&self) -> &BTreeSet<MemberId> {
        &self.members
    }

    fn rebalance(&mut self, mut generation: impl FnMut() -> u64) -> Vec<Step> {
        let members: Vec<MemberId> = self.members.iter().copied().collect();
        let keeper = self.wanted.get(&REDRIVEN).filter(|keeper| self.members.contains(keeper)).copied();
        self.wanted = assign(&members, self.partitions, &self.wanted);
        // Few records come this way: they stay with whom they are.
        let keeper = keeper.or_else(|| members.first().copied()).filter(|_| self.has_redriven);
        self.wanted.extend(keeper.map(|keeper| (REDRIVEN, keeper)));
        let mut steps = Vec::new();
        for (&partition, &member) in &self.wanted {
            match self.owners.get_mut(&partition) {
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

    #[test]
    fn partitions_move_one_owner_at_a_time_and_end_up_balanced() {
        for seed in 0..300 {
            let mut random = fastrand::Rng::with_seed(seed);
            let (mut roster, mut told, mut last_generation) = (Roster::default(), Told::new(), 0);
            let mut next = || {
                last_generation += 1;
                last_generation
            };
            for id in 0..80 {
                let members: Vec<_> = roster.members().iter().copied().collect();
                let steps = match random.u8(0..10) {
                    0..=2 => roster.join(id, random.u32(0..20), &mut next),
                    3..=4 if !members.is_empty() => {
                        let gone = members[random.usize(..members.len())];
                        told.remove(&gone);
                        roster.leave(gone, &mut next)
                    }
                    _ => give_up_one(&mut roster, &mut told, &mut next),
                };
                tell(&mut told, steps, seed);
            }
            while told.values().flat_map(BTreeMap::values).any(|(_, standing)| *standing == Standing::Leaving) {
                let steps = give_up_one(&mut roster, &mut told, &mut next);
                tell(&mut told, steps, seed);
            }
            let loads: Vec<usize> =
                roster.members().iter().map(|member| told.get(member).map_or(0, BTreeMap::len)).collect();
            if let (Some(least), Some(most)) = (loads.iter().min(), loads.iter().max()) {
                assert!(most - least <= 1, "seed {seed}: {loads:?}");
                assert_eq!(loads.iter().sum::<usize>(), roster.partitions as usize, "seed {seed}");
            }
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
        let mut generation = 10;
        let mut next = || {
            generation += 1;
            generation
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
