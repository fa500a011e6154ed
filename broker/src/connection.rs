//! What belongs to one connection. It travels with every request in its extensions.

use std::{sync::Arc, time::Duration};

use tonic::{Extensions, metadata::MetadataMap};

use crate::{budget::Budget, turns::ConnectionId};

/// One connection: a socket, or one client inside the process.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    /// For its turns.
    pub id: ConnectionId,
    /// For what this connection has waiting for the disk.
    pub budget: Arc<Budget>,
}

impl Connection {
    /// A connection of `peer`, with a budget of its own.
    pub(crate) fn new(peer: &str, budget_bytes: u64) -> Self {
        let budget = Arc::new(Budget::new("CONNECTION_BUDGET", &format!("connection {peer}"), budget_bytes));
        Self { id: ConnectionId::next(), budget }
    }

    /// The connection a request came by.
    pub(crate) fn of(extensions: &Extensions, budget_bytes: u64) -> Self {
        extensions.get::<Self>().cloned().unwrap_or_else(|| Self::new("of unknown origin", budget_bytes))
    }
}

/// Whoever publishes and consumes, whatever connections it uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum ClientId {
    /// By the header `aqueduct-client`: 32 hexadecimal digits of the client's choice.
    Named(u128),
    /// Without it, a connection counts as a client.
    Connection(ConnectionId),
}

impl ClientId {
    /// Who has sent a request with this metadata over this connection.
    pub(crate) fn of(metadata: &MetadataMap, connection: &Connection) -> Self {
        let named = metadata.get("aqueduct-client").and_then(|value| value.to_str().ok()).filter(|id| id.len() == 32);
        let named = named.and_then(|id| u128::from_str_radix(id, 16).ok());
        named.map_or(Self::Connection(connection.id), Self::Named)
    }
}

/// How long the caller will wait, if it said so: the header `grpc-timeout`, at most eight digits and a unit.
pub(crate) fn timeout(metadata: &MetadataMap) -> Option<Duration> {
    let value = metadata.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    let amount: u64 = (digits.len() <= 8).then(|| digits.parse().ok())??;
    match unit {
        "H" => Some(Duration::from_secs(amount * 3600)),
        "M" => Some(Duration::from_secs(amount * 60)),
        "S" => Some(Duration::from_secs(amount)),
        "m" => Some(Duration::from_millis(amount)),
        "u" => Some(Duration::from_micros(amount)),
        "n" => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_known_by_its_name_and_without_one_by_its_connection() {
        let connection = Connection::new("test", 1);
        let of = |name: &'static str| {
            let mut metadata = MetadataMap::new();
            metadata.insert("aqueduct-client", name.parse().unwrap());
            ClientId::of(&metadata, &connection)
        };
        assert_eq!(of("000000000000000000000000000000ff"), ClientId::Named(255));
        for nonsense in ["", "ff", "00000000000000000000000000000xyz", "+0000000000000000000000000000000ff"] {
            assert_eq!(of(nonsense), ClientId::Connection(connection.id), "{nonsense}");
        }
        assert_ne!(Connection::new("test", 1).id, connection.id);
    }

    #[test]
    fn deadlines_are_read_in_every_unit_and_nonsense_is_none() {
        let read = |value: &str| {
            let mut metadata = MetadataMap::new();
            metadata.insert("grpc-timeout", value.parse().unwrap());
            timeout(&metadata)
        };
        assert_eq!(read("2S"), Some(Duration::from_secs(2)));
        assert_eq!(read("1H"), Some(Duration::from_secs(3600)));
        assert_eq!(read("250m"), Some(Duration::from_millis(250)));
        assert_eq!(read("7u"), Some(Duration::from_micros(7)));
        for nonsense in ["S", "12", "-1S", "999999999S", "1x"] {
            assert_eq!(read(nonsense), None, "{nonsense}");
        }
    }
}
