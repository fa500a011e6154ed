//! The task that keeps a table up to date.

use std::sync::Arc;

use super::{Shared, TableError};
use crate::{
    codec::EventBatch,
    subscription::{Item, Step, Subscription},
    types::Gap,
};

/// What a table does about events that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OnGap {
    End,
    GoOn,
}

pub(super) struct Driver {
    pub(super) subscription: Subscription,
    pub(super) on_gap: OnGap,
    pub(super) shared: Arc<Shared>,
}

impl Driver {
    /// Runs until the table ends.
    pub(super) async fn run(mut self) {
        let error = loop {
            let taken = match self.subscription.next_step().await {
                None => Err(TableError::Closed),
                Some(Err(error)) => Err(error.into()),
                Some(Ok(Step::Batch(batch))) => self.take(&batch),
                Some(Ok(Step::Note(note))) => self.note(note),
            };
            match taken {
                Ok(()) => self.shared.moved.send_replace(()),
                Err(error) => break error,
            }
        };
        self.shared.state.lock().end(error);
        self.shared.moved.send_replace(());
    }

    fn take(&self, batch: &EventBatch) -> Result<(), TableError> {
        let mut state = self.shared.state.lock();
        for event in batch.events() {
            state.apply(event.map_err(|error| TableError::Subscribe(Arc::new(error.into())))?)?;
        }
        state.reached(batch.partition(), batch.next_offset());
        Ok(())
    }

    fn note(&self, note: Item) -> Result<(), TableError> {
        let mut state = self.shared.state.lock();
        match note {
            Item::Gap(gap) if self.on_gap == OnGap::End => return Err(TableError::Gap(gap)),
            Item::Gap(Gap { partition, to, .. }) => {
                state.accept_gap();
                state.reached(partition, to);
            }
            Item::CaughtUp { partition, high_watermark } => state.reached(partition, high_watermark),
            Item::Event(_) | Item::End { .. } | Item::Reconnected => {}
        }
        Ok(())
    }
}
