//! Which clients are members of which groups now, whatever connections they use.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::connection::ClientId;

/// See the [module](self). Bounded by the number of members.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    groups_of: Mutex<HashMap<ClientId, Vec<String>>>,
    changed: watch::Sender<()>,
}

/// One membership. Ends when it is dropped.
pub(super) struct Present {
    clients: Arc<Clients>,
    client: ClientId,
    group: String,
}

impl Clients {
    /// From now on the client is a member of the group.
    pub(super) fn enter(self: &Arc<Self>, client: ClientId, group: &str) -> Present {
        self.groups_of.lock().entry(client).or_default().push(group.to_owned());
        self.changed.send_replace(());
        Present { clients: Arc::clone(self), client, group: group.to_owned() }
    }

    /// Whether a client has a member in a group.
    pub(crate) fn is_member(&self, client: ClientId, group: &str) -> bool {
        self.groups_of.lock().get(&client).is_some_and(|groups| groups.iter().any(|of| of == group))
    }

    /// Notified when a client becomes a member of a group.
    pub(crate) fn changed(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        let mut groups_of = self.clients.groups_of.lock();
        let Some(groups) = groups_of.get_mut(&self.client) else { return };
        if let Some(at) = groups.iter().position(|group| *group == self.group) {
            groups.swap_remove(at);
        }
        if groups.is_empty() {
            groups_of.remove(&self.client);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_a_member_until_its_last_stream_of_the_group_ends() {
        let clients = Arc::<Clients>::default();
        let (one, other) = (ClientId::Named(1), ClientId::Named(2));
        let mut changed = clients.changed();
        let first = clients.enter(one, "billing");
        let second = clients.enter(one, "billing");
        let elsewhere = clients.enter(other, "audit");
        assert!(changed.has_changed().is_ok_and(|changed| changed));
        changed.mark_unchanged();
        drop(first);
        assert!(clients.is_member(one, "billing") && !clients.is_member(other, "billing"));
        assert!(!clients.is_member(one, "audit"));
        drop((second, elsewhere));
        assert!(!clients.is_member(one, "billing"));
        assert!(clients.groups_of.lock().is_empty());
    }
}
