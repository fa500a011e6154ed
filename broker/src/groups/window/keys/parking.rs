//! Keys that are parked: whatever was published behind a dead letter of theirs goes there as well.

use std::collections::HashMap;

use aqueduct_storage::Offset;

use super::{KeyId, Keys, Scope};

impl Keys {
    /// What is parked with a record from now on.
    pub(crate) fn set_scope(&mut self, scope: Scope) {
        self.scope = scope;
        if scope == Scope::Record {
            self.set_parked(HashMap::new());
        }
    }

    pub(crate) fn scope(&self) -> Scope {
        self.scope
    }

    /// Exactly these have dead letters; of each, where the first of them was published. What was redriven of the others is
    /// to be seen before anything else of them is tried.
    pub(crate) fn set_parked(&mut self, parked: HashMap<KeyId, Offset>) {
        self.redriven.retain(|id, origin| parked.get(id) == Some(origin));
        self.parked = parked;
        self.fresh.extend(self.chains.keys());
    }

    /// Whether there is a dead letter of its key that was published before the record.
    pub(super) fn is_parked(&self, id: KeyId, origin: Offset) -> bool {
        let behind_a_letter = || self.parked.get(&id).is_some_and(|letter| *letter < origin);
        let behind_another = || self.parking.range((id, 0)..(id, origin)).next().is_some();
        self.scope == Scope::Key && (behind_a_letter() || behind_another())
    }

    /// A record of this key is a dead letter now.
    pub(in crate::groups::window) fn has_letter(&mut self, id: KeyId, origin: Offset) {
        self.parking.remove(&(id, origin));
        self.redriven.remove(&id);
        if self.scope == Scope::Key {
            self.parked.entry(id).and_modify(|letter| *letter = origin.min(*letter)).or_insert(origin);
        }
    }
}
