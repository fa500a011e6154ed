//! Who gets which partition: balanced, and with as few moves as balance allows.

use std::collections::BTreeMap;

/// One `Consume` stream, for as long as it lasts.
pub(crate) type MemberId = u64;

/// Who is to have a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) member: MemberId,
    /// The change of the members that brought it there; they are numbered in order.
    pub(crate) since: u64,
}

/// Gives each of `partitions` to one of `members`; what moves, moves with the change of that number.
///
/// No two members differ by more than one partition, and no partition moves that could stay with the member it has in
/// `current`: the larger shares go to the members that hold the most now. A member that has to give something up gives
/// what has come to it last: so the partitions of somebody who was gone for a while go back, and no others move. Without
/// members, nobody gets anything.
pub(crate) fn assign(
    members: &[MemberId],
    partitions: &[u32],
    current: &BTreeMap<u32, Share>,
    change: u64,
) -> BTreeMap<u32, Share> {
    let mut held: BTreeMap<MemberId, Vec<Held>> = members.iter().map(|&member| (member, Vec::new())).collect();
    if held.is_empty() {
        return BTreeMap::new();
    }
    let mut homeless = Vec::new();
    for &partition in partitions {
        match current.get(&partition).and_then(|share| Some((share.since, held.get_mut(&share.member)?))) {
            Some((since, mine)) => mine.push(Held { since, partition }),
            None => homeless.push(partition),
        }
    }

    let share = partitions.len() / held.len();
    let larger_shares = partitions.len() % held.len();
    let mut by_load: Vec<(MemberId, Vec<Held>)> = held.into_iter().collect();
    by_load.sort_by_key(|(member, mine)| (usize::MAX - mine.len(), *member));

    let mut wanting = Vec::new();
    for (rank, (member, mine)) in by_load.iter_mut().enumerate() {
        let quota = share + usize::from(rank < larger_shares);
        mine.sort_unstable();
        homeless.extend(mine.drain(quota.min(mine.len())..).map(|held| held.partition));
        wanting.extend(std::iter::repeat_n(*member, quota - mine.len()));
    }
    homeless.sort_unstable();

    let kept = by_load.into_iter().flat_map(|(member, mine)| {
        mine.into_iter().map(move |Held { since, partition }| (partition, Share { member, since }))
    });
    let moved = homeless.into_iter().zip(wanting);
    kept.chain(moved.map(|(partition, member)| (partition, Share { member, since: change }))).collect()
}

/// A partition that may stay; those that stay are the first in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Held {
    since: u64,
    partition: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loads(members: &[MemberId], assignment: &BTreeMap<u32, Share>) -> Vec<usize> {
        members.iter().map(|member| assignment.values().filter(|share| share.member == *member).count()).collect()
    }

    /// The fewest moves by which `current` becomes balanced: whoever holds more than a share gives up the excess, and
    /// only as many members as there are larger shares may keep one more.
    fn fewest_moves(members: &[MemberId], partitions: u32, current: &BTreeMap<u32, Share>) -> usize {
        let share = partitions as usize / members.len();
        let larger_shares = partitions as usize % members.len();
        let loads = loads(members, current);
        let excess: usize = loads.iter().map(|load| load.saturating_sub(share)).sum();
        excess - loads.iter().filter(|load| **load > share).count().min(larger_shares)
    }

    #[test]
    fn random_joins_and_leaves_keep_the_balance_with_the_fewest_moves() {
        for seed in 0..300 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut partitions = random.u32(0..40);
            let mut members: Vec<MemberId> = Vec::new();
            let mut current = BTreeMap::new();
            for next_id in 0..60 {
                match random.u8(0..10) {
                    0..=4 => members.push(next_id),
                    5..=8 if !members.is_empty() => drop(members.swap_remove(random.usize(..members.len()))),
                    _ => partitions += random.u32(0..3),
                }
                let numbers: Vec<u32> = (0..partitions).collect();
                let next = assign(&members, &numbers, &current, next_id);
                if members.is_empty() {
                    assert!(next.is_empty(), "seed {seed}");
                } else {
                    assert_eq!(next.len(), partitions as usize, "seed {seed}: every partition has one owner");
                    let loads = loads(&members, &next);
                    let (least, most) = (loads.iter().min(), loads.iter().max());
                    assert!(most.zip(least).is_some_and(|(most, least)| most - least <= 1), "seed {seed}: {loads:?}");
                    let moved = current
                        .iter()
                        .filter(|(partition, share)| {
                            members.contains(&share.member) && next.get(partition) != Some(share)
                        })
                        .count();
                    assert_eq!(moved, fewest_moves(&members, partitions, &current), "seed {seed}");
                }
                current = next;
            }
        }
    }

    #[test]
    fn more_members_than_partitions_leave_some_idle() {
        let before = Share { member: 9, since: 1 };
        let assignment = assign(&[7, 8, 9], &[0, 1], &BTreeMap::from([(0, before)]), 2);
        assert_eq!(assignment, BTreeMap::from([(0, before), (1, Share { member: 7, since: 2 })]));
    }

    #[test]
    fn when_members_restart_one_after_another_only_their_own_partitions_move() {
        for (count, partitions) in [(10, 100), (4, 64), (5, 5), (3, 0)] {
            let numbers: Vec<u32> = (0..partitions).collect();
            let mut members: Vec<MemberId> = (0..count).collect();
            let mut current = assign(&members, &numbers, &BTreeMap::new(), 0);
            for restarts in 0..30 {
                let change = 1 + 2 * restarts;
                let gone = members.remove(0);
                let of_gone = |share: &Share| share.member == gone;
                let without = assign(&members, &numbers, &current, change);
                let unmoved = |(partition, share): (&u32, &Share)| of_gone(share) || without[partition] == *share;
                assert!(current.iter().all(unmoved), "restart {restarts} of {count}");
                members.push(count + restarts);
                let with = assign(&members, &numbers, &without, change + 1);
                let came_back = |(partition, share): (&u32, &Share)| of_gone(share) || with[partition] == *share;
                assert!(current.iter().all(came_back), "restart {restarts} of {count}");
                current = with;
            }
        }
    }
}
