//! Members whose streams were ended because of what they did: the log tells of each, and the last few of each group are
//! remembered, so that whoever looks later learns of them, too.

use std::collections::{BTreeMap, VecDeque};

use super::{Coordinator, Member};
use crate::groups::{assignment::MemberId, error::GroupError};

/// Of one group.
const REMEMBERED: usize = 8;

/// A member that was taken out of its group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TakenOut {
    pub(crate) id: MemberId,
    /// As the member gave it; may be empty.
    pub(crate) name: String,
    pub(crate) topic: String,
    /// By the wall clock, in microseconds since the epoch.
    pub(crate) at_us: i64,
    /// Why, and what to do.
    pub(crate) why: GroupError,
}

/// By group, the oldest first. They are forgotten with the broker's process.
#[derive(Debug, Default)]
pub(super) struct Expulsions {
    by_group: BTreeMap<String, VecDeque<TakenOut>>,
}

impl Expulsions {
    fn add(&mut self, group: &str, taken_out: TakenOut) {
        let of_group = self.by_group.entry(group.to_owned()).or_default();
        if of_group.len() == REMEMBERED {
            of_group.pop_front();
        }
        of_group.push_back(taken_out);
    }

    /// The group is gone.
    pub(super) fn forget(&mut self, group: &str) {
        self.by_group.remove(group);
    }

    fn of(&self, group: &str) -> Vec<TakenOut> {
        self.by_group.get(group).into_iter().flatten().cloned().collect()
    }
}

impl Coordinator {
    /// A member has ended, and did not want to.
    pub(super) fn taken_out(&mut self, id: MemberId, member: &Member, why: GroupError) {
        let (group, _) = &member.consumption;
        let (name, topic) = (member.name.clone(), member.topic_name.clone());
        tracing::warn!(group, topic, member = name, id, error = %why, "member taken out");
        // A group that is deleted meanwhile has nobody left to tell.
        if self.state.group(group).is_some() {
            self.expulsions.add(group, TakenOut { id, name, topic, at_us: self.clock.now_us(), why });
        }
    }

    /// Those who were taken out of `group` last, the oldest first.
    pub(crate) fn taken_out_of(&self, group: &str) -> Vec<TakenOut> {
        self.expulsions.of(group)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_few_of_each_group_are_remembered_until_it_is_deleted() {
        let mut expulsions = Expulsions::default();
        let one = |id| TakenOut {
            id,
            name: String::new(),
            topic: "orders".to_owned(),
            at_us: 0,
            why: GroupError::MemberSilent { silent_ms: 30_000 },
        };
        (0..20).for_each(|id| expulsions.add("billing", one(id)));
        expulsions.add("audit", one(99));
        let ids = |of: Vec<TakenOut>| of.into_iter().map(|one| one.id).collect::<Vec<_>>();
        assert_eq!(ids(expulsions.of("billing")), (12..20).collect::<Vec<_>>());
        expulsions.forget("billing");
        assert!(expulsions.of("billing").is_empty());
        assert_eq!(ids(expulsions.of("audit")), [99]);
    }
}
