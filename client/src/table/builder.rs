//! What a table may hold, and how it comes to be.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

use super::{
    Shared, Table, TableError, Task,
    driver::{Driver, OnGap},
    state::{Bounds, State},
};
use crate::{
    client::Client,
    types::{Offset, Start},
};

/// Builds a [`Table`].
#[derive(Clone, Debug)]
#[must_use]
pub struct TableBuilder {
    client: Client,
    topic: String,
    bounds: Bounds,
    on_gap: OnGap,
}

impl TableBuilder {
    pub(crate) fn new(client: Client, topic: String) -> Self {
        let bounds = Bounds { entries_max: 1_000_000, bytes_max: 256 << 20, changes_max: 4096 };
        Self { client, topic, bounds, on_gap: OnGap::End }
    }

    /// Most keys with a value; one more ends the table with [`TableError::TooManyEntries`]. Default: 1,000,000.
    pub fn max_entries(mut self, entries: usize) -> Self {
        self.bounds.entries_max = entries;
        self
    }

    /// Most bytes of keys, values and headers, with about 200 for each entry; more ends the table with
    /// [`TableError::TooManyBytes`]. Default: 256 MiB.
    pub fn max_bytes(mut self, bytes: usize) -> Self {
        self.bounds.bytes_max = bytes;
        self
    }

    /// Most changes that a listener of [`Table::changes`] may be behind before it misses some; at least 1. Default: 4096.
    pub fn max_changes(mut self, changes: usize) -> Self {
        // What tokio's channel can hold.
        self.bounds.changes_max = changes.clamp(1, usize::MAX / 4);
        self
    }

    /// Goes on behind events that cannot be read, because they are damaged or retention was faster; they are counted in
    /// [`TableStats::gaps`](super::TableStats::gaps), and their keys keep the values before. Default: a gap ends the table
    /// with [`TableError::Gap`].
    pub fn accept_gaps(mut self) -> Self {
        self.on_gap = OnGap::GoOn;
        self
    }

    /// Reads the topic, and is ready when everything is in the table that the topic held when this was called. Reads the
    /// partitions that the topic has at that time.
    ///
    /// # Errors
    /// [`TableError`]: the topic is not there, cannot be read, or is more than the table may hold.
    pub async fn build(self) -> Result<Table, TableError> {
        let description = self.client.topics().describe(&self.topic).await?;
        let targets: Vec<(u32, Offset)> =
            description.partitions.iter().map(|partition| (partition.partition, partition.high_watermark)).collect();
        let partitions = targets.iter().map(|(partition, _)| *partition);
        let subscription =
            self.client.subscribe(&self.topic).from(Start::Earliest).partitions(partitions.clone()).build().await?;
        let state = Mutex::new(State::new(self.bounds, partitions));
        let shared = Arc::new(Shared { state, moved: watch::Sender::new(()) });
        let driver = Driver { subscription, on_gap: self.on_gap, shared: Arc::clone(&shared) };
        let task = Arc::new(Task(tokio::spawn(driver.run()).abort_handle()));
        let table = Table { shared, _task: task };
        for (partition, high_watermark) in targets {
            table.shared.wait_until(|state| Ok(state.position(partition)? >= high_watermark)).await?;
        }
        Ok(table)
    }
}
