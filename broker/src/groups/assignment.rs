//! Who gets which partition: balanced, and with as few moves as balance allows.

use std::collections::BTreeMap;

/// One `Consume` stream, for as long as it lasts.
pub(crate) type MemberId = u64;

/// Gives each of `partitions` (numbered from 0) to one of `members`.
///
/// No two members differ by more than one partition, and no partition moves that could stay with the member it has in
/// `current`: the larger shares go to the members that hold the most now. Without members, nobody gets anything.
pub(crate) fn assign(
    members: &[MemberId],
    partitions: u32,
    current: &BTreeMap<u32, MemberId>,
) -> BTreeMap<u32, MemberId> {
    let mut held: BTreeMap<MemberId, Vec<u32>> = members.iter().map(|&member| (member, Vec::new())).collect();
    if held.is_empty() {
        return BTreeMap::new();
    }
    let mut homeless = Vec::new();
    for partition in 0..partitions {
        match current.get(&partition).and_then(|member| held.get_mut(member)) {
            Some(mine) => mine.push(partition),
            None => homeless.push(partition),
        }
    }

    let share = partitions as usize / held.len();
    let larger_shares = partitions as usize % held.len();
    let mut by_load: Vec<(MemberId, Vec<u32>)> = held.into_iter().collect();
    by_load.sort_by_key(|(member, mine)| (usize::MAX - mine.len(), *member));

    let mut wanting = Vec::new();
    for (rank, (member, mine)) in by_load.iter_mut().enumerate() {
        let quota = share + usize::from(rank < larger_shares);
        homeless.extend(mine.drain(quota.min(mine.len())..));
        wanting.extend(std::iter::repeat_n(*member, quota - mine.len()));
    }
    homeless.sort_unstable();

    let kept =
        by_load.into_iter().flat_map(|(member, mine)| mine.into_iter().map(move |partition| (partition, member)));
    kept.chain(homeless.into_iter().zip(wanting)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loads(members: &[MemberId], assignment: &BTreeMap<u32, MemberId>) -> Vec<usize> {
        members.iter().map(|member| assignment.values().filter(|owner| *owner == member).count()).collect()
    }

    /// The fewest moves by which `current` becomes balanced: whoever holds more than a share gives up the excess, and
    /// only as many members as there are larger shares may keep one more.
    fn fewest_moves(members: &[MemberId], partitions: u32, current: &BTreeMap<u32, MemberId>) -> usize {
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
                let next = assign(&members, partitions, &current);
                if members.is_empty() {
                    assert!(next.is_empty(), "seed {seed}");
                } else {
                    assert_eq!(next.len(), partitions as usize, "seed {seed}: every partition has one owner");
                    let loads = loads(&members, &next);
                    let (least, most) = (loads.iter().min(), loads.iter().max());
                    assert!(most.zip(least).is_some_and(|(most, least)| most - least <= 1), "seed {seed}: {loads:?}");
                    let moved = current
                        .iter()
                        .filter(|(partition, owner)| members.contains(owner) && next.get(partition) != Some(owner))
                        .count();
                    assert_eq!(moved, fewest_moves(&members, partitions, &current), "seed {seed}");
                }
                current = next;
            }
        }
    }

    #[test]
    fn more_members_than_partitions_leave_some_idle() {
        let assignment = assign(&[7, 8, 9], 2, &BTreeMap::from([(0, 9)]));
        assert_eq!(assignment, BTreeMap::from([(0, 9), (1, 7)]));
    }
}
