//! The events of the demo: 5,000 real departures from the three New York airports, January 2013.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use aqueduct_client::{Header, Record};
use bytes::Bytes;
use serde::Deserialize;

/// Figures of the US Bureau of Transportation Statistics (public domain).
static FLIGHTS: &[u8] = include_bytes!("flights.ndjson");

/// Makes every event unique, so that one stored twice would be seen.
const EVENT_ID: &str = "event-id";

/// The events of one airport, which has a producer of its own.
#[derive(Debug, Clone)]
pub(super) struct Airport {
    /// `JFK`, `LGA` or `EWR`
    pub(super) name: String,
    events: Vec<Departure>,
}

#[derive(Debug, Clone)]
struct Departure {
    /// The aircraft. Some cancelled flights have none.
    key: Option<Bytes>,
    value: Bytes,
}

#[derive(Deserialize)]
struct Fields<'a> {
    origin: &'a str,
    tailnum: Option<&'a str>,
}

impl Airport {
    /// All of them, by name.
    pub(super) fn all() -> Result<Vec<Self>, serde_json::Error> {
        let mut airports: BTreeMap<&str, Vec<Departure>> = BTreeMap::new();
        for line in FLIGHTS.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let fields: Fields<'static> = serde_json::from_slice(line)?;
            let key = fields.tailnum.map(|tailnum| Bytes::from_static(tailnum.as_bytes()));
            airports.entry(fields.origin).or_default().push(Departure { key, value: Bytes::from_static(line) });
        }
        Ok(airports.into_iter().map(|(name, events)| Self { name: name.to_owned(), events }).collect())
    }

    /// How many events a round has.
    pub(super) fn len(&self) -> usize {
        self.events.len()
    }

    /// Every event `rounds` times, each with an id of its own.
    pub(super) fn records(&self, rounds: u32) -> impl Iterator<Item = Record> + '_ {
        (0..rounds).flat_map(move |round| {
            self.events.iter().enumerate().map(move |(position, event)| Record {
                key: event.key.clone(),
                value: Some(event.value.clone()),
                headers: vec![Header {
                    name: EVENT_ID.into(),
                    value: format!("{}-{round}-{position}", self.name).into(),
                }],
                timestamp: None,
            })
        })
    }
}

/// Of key, value and id. The same in every run of one binary.
pub(super) fn fingerprint(record: &Record) -> u64 {
    let mut hasher = DefaultHasher::new();
    record.key.as_deref().hash(&mut hasher);
    record.value.as_deref().hash(&mut hasher);
    for header in &record.headers {
        header.name.hash(&mut hasher);
        header.value.hash(&mut hasher);
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_file_holds_three_airports_and_every_event_is_unique() {
        let airports = Airport::all().unwrap();
        assert_eq!(airports.iter().map(|airport| airport.name.as_str()).collect::<Vec<_>>(), ["EWR", "JFK", "LGA"]);
        assert_eq!(airports.iter().map(Airport::len).sum::<usize>(), 5_000);
        let prints: HashSet<u64> =
            airports.iter().flat_map(|airport| airport.records(2)).map(|record| fingerprint(&record)).collect();
        assert_eq!(prints.len(), 10_000);
    }
}
