//! For what records wait, where it is their keys.

use super::{Keys, Stop};

impl Keys {
    /// What waits of a partition for earlier ones of its keys, if anything does. Looks at all chains.
    pub(in crate::groups::window) fn waiting_of(&self, partition: u32) -> Option<Stop> {
        let chains =
            || self.chains.iter().filter(|(id, _)| id.partition == partition).map(|(_, chain)| chain.line.waiting());
        let first = chains().filter_map(|waiting| waiting.first().copied()).min()?;
        let records = chains().map(|waiting| waiting.len() as u64).sum();
        Some(Stop::Keys { records, first })
    }

    /// Why new records may not be looked at.
    pub(in crate::groups::window) fn too_many_in_retry(&self) -> Stop {
        Stop::TooManyInRetry { records: self.in_retry }
    }

    /// What is in the log of retries and waits, for its time or for an earlier one of its key, if anything does. Looks at all
    /// chains.
    pub(in crate::groups::window) fn waiting_in_retry(&self) -> Option<Stop> {
        let in_retry = self.chains.values().flat_map(|chain| &chain.retries.all);
        let records = in_retry.filter(|known| known.waiting_at().is_some()).count();
        (records > 0).then(|| Stop::InRetry { records, until: self.next_pause() })
    }
}
