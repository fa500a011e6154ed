//! Reading everything that a topic holds.

use std::collections::BTreeMap;

use aqueduct_client::{Client, Event, Start, Subscription};

use crate::wait::within;

/// What `topic` holds now, in the order in which it came.
///
/// # Panics
/// If anything of it cannot be read.
pub async fn read_all(client: &Client, topic: &str) -> Vec<Event> {
    let subscription = client.subscribe(topic).from(Start::Earliest).until_end().build();
    drain(subscription.await.expect("the topic can be read")).await
}

/// What comes until the subscription ends.
///
/// # Panics
/// If anything of it cannot be read, or it does not end.
pub async fn drain(mut subscription: Subscription) -> Vec<Event> {
    let mut events = Vec::new();
    while let Some(event) = within("the next event", subscription.next()).await {
        events.push(event.expect("an event"));
    }
    events
}

/// By partition, with the order of each kept.
pub fn by_partition(events: Vec<Event>) -> BTreeMap<u32, Vec<Event>> {
    let mut partitions = BTreeMap::<u32, Vec<Event>>::new();
    for event in events {
        partitions.entry(event.partition).or_default().push(event);
    }
    partitions
}

/// The value as text.
///
/// # Panics
/// If there is none, or it is no text.
pub fn text(event: &Event) -> &str {
    std::str::from_utf8(event.value().expect("a value")).expect("text")
}
