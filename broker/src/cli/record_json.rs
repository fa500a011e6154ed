//! One event as one line of JSON, both ways: what `subscribe --output json` prints, `publish --format json` takes.
//!
//! Invariant: publishing a printed line stores the same key, value, headers and timestamp, byte for byte. Bytes that are
//! not UTF-8 travel as `…_base64`, absent ones as null. The position (topic, partition, offset, append time) is printed
//! for people and scripts; the broker gives a published record its own.

use std::fmt;

use aqueduct_client::{Event, Header, Record, Timestamp};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use serde::de::{self, DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// Appends `event` and a line end to `out`.
pub(crate) fn render(event: &Event, out: &mut Vec<u8>) {
    let (key, key_base64) = text_or_base64(event.record.key.as_deref());
    let (value, value_base64) = text_or_base64(event.record.value.as_deref());
    let line = PrintedEvent {
        topic: &event.topic,
        partition: event.partition,
        offset: event.offset,
        timestamp_us: event.record.timestamp.map(Timestamp::as_micros),
        append_time_us: event.append_time.as_micros(),
        key,
        key_base64,
        value,
        value_base64,
        headers: event.record.headers.iter().map(PrintedHeader::from).collect(),
    };
    // Strings and integers always serialise, and writing to a vector cannot fail.
    let _ = serde_json::to_writer(&mut *out, &line);
    out.push(b'\n');
}

/// Reads a line that [`render`] wrote, or one written by hand: `value` (null for a tombstone) is needed, the rest is not.
///
/// # Errors
/// A sentence for the user, without the line's number.
pub(crate) fn parse(line: &[u8]) -> Result<Record, String> {
    let given: GivenRecord = serde_json::from_slice(line).map_err(|error| {
        let what = describe(&error);
        // JSON, but of another shape: most likely the user's own events.
        if error.is_data() {
            format!("{what}; for JSON objects of your own use --key-field or --format lines")
        } else {
            what
        }
    })?;
    let value = exclusive("value", given.value, given.value_base64)?
        .ok_or("there is no \"value\"; a tombstone says \"value\":null")?;
    let key = exclusive("key", given.key, given.key_base64)?.flatten();
    Ok(Record { key, value, headers: given.headers.0, timestamp: given.timestamp_us.map(Timestamp::from_micros) })
}

/// Takes any JSON object as a value, kept as its bytes; the field `name` gives the key: a string its text, a number or a
/// boolean its JSON text, null or absent no key.
///
/// # Errors
/// As [`parse`].
pub(crate) fn parse_with_key_field(line: Bytes, name: &str) -> Result<Record, String> {
    let mut reader = serde_json::Deserializer::from_slice(&line);
    let key = KeyField(name)
        .deserialize(&mut reader)
        .and_then(|key| reader.end().map(|()| key))
        .map_err(|error| describe(&error))?;
    Ok(Record { key, value: Some(line), headers: Vec::new(), timestamp: None })
}

#[derive(Serialize)]
struct PrintedEvent<'a> {
    topic: &'a str,
    partition: u32,
    offset: u64,
    timestamp_us: Option<i64>,
    append_time_us: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<Option<&'a str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Option<&'a str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
    headers: Vec<PrintedHeader<'a>>,
}

#[derive(Serialize)]
struct PrintedHeader<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Option<&'a str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
}

impl<'a> From<&'a Header> for PrintedHeader<'a> {
    fn from(header: &'a Header) -> Self {
        let (value, value_base64) = text_or_base64(Some(&header.value));
        Self { name: &header.name, value, value_base64 }
    }
}

/// Exactly one of the two is present; absent bytes are a present null.
fn text_or_base64(bytes: Option<&[u8]>) -> (Option<Option<&str>>, Option<String>) {
    match bytes.map(|bytes| std::str::from_utf8(bytes).map_err(|_| bytes)) {
        None => (Some(None), None),
        Some(Ok(text)) => (Some(Some(text)), None),
        Some(Err(bytes)) => (None, Some(BASE64.encode(bytes))),
    }
}

/// A misspelt field must not silently publish a record without its value, so unknown ones are refused.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a JSON object as `subscribe --output json` prints it")]
struct GivenRecord {
    #[serde(default, rename = "topic")]
    _topic: IgnoredAny,
    #[serde(default, rename = "partition")]
    _partition: IgnoredAny,
    #[serde(default, rename = "offset")]
    _offset: IgnoredAny,
    #[serde(default, rename = "append_time_us")]
    _append_time_us: IgnoredAny,
    timestamp_us: Option<i64>,
    #[serde(default, deserialize_with = "present")]
    key: Option<Option<String>>,
    key_base64: Option<String>,
    #[serde(default, deserialize_with = "present")]
    value: Option<Option<String>>,
    value_base64: Option<String>,
    #[serde(default)]
    headers: GivenHeaders,
}

/// Tells a field that is null from one that is not there.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<String>>, D::Error> {
    Option::<String>::deserialize(deserializer).map(Some)
}

/// Of `name` and `name_base64` at most one may be given.
fn exclusive(
    name: &str,
    text: Option<Option<String>>,
    base64: Option<String>,
) -> Result<Option<Option<Bytes>>, String> {
    match (text, base64) {
        (Some(_), Some(_)) => Err(format!("both \"{name}\" and \"{name}_base64\" are given; give one")),
        (None, Some(base64)) => match BASE64.decode(base64) {
            Ok(bytes) => Ok(Some(Some(bytes.into()))),
            Err(error) => Err(format!("\"{name}_base64\" is not base64: {error}")),
        },
        (Some(text), None) => Ok(Some(text.map(Bytes::from))),
        (None, None) => Ok(None),
    }
}

/// A list of `{"name", "value"}`, because names may repeat; by hand also an object of names and values.
#[derive(Default)]
struct GivenHeaders(Vec<Header>);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GivenHeader {
    name: String,
    #[serde(default, deserialize_with = "present")]
    value: Option<Option<String>>,
    value_base64: Option<String>,
}

impl<'de> Deserialize<'de> for GivenHeaders {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Headers;
        impl<'de> Visitor<'de> for Headers {
            type Value = GivenHeaders;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of headers, each with \"name\" and \"value\"")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<GivenHeaders, A::Error> {
                let mut headers = Vec::new();
                while let Some(header) = list.next_element::<GivenHeader>()? {
                    let value = exclusive("value", header.value, header.value_base64)
                        .and_then(|value| value.flatten().ok_or_else(|| "it has no \"value\"".to_owned()))
                        .map_err(|error| de::Error::custom(format!("header {:?}: {error}", header.name)))?;
                    headers.push(Header { name: header.name.into(), value });
                }
                Ok(GivenHeaders(headers))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<GivenHeaders, A::Error> {
                let mut headers = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, String>()? {
                    headers.push(Header { name: name.into(), value: value.into() });
                }
                Ok(GivenHeaders(headers))
            }
        }
        deserializer.deserialize_any(Headers)
    }
}

/// Walks an object and keeps one field of it.
struct KeyField<'a>(&'a str);

impl<'de> DeserializeSeed<'de> for KeyField<'_> {
    type Value = Option<Bytes>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for KeyField<'_> {
    type Value = Option<Bytes>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Option<Bytes>, A::Error> {
        let mut key = None;
        while let Some(name) = map.next_key::<std::borrow::Cow<'de, str>>()? {
            if name == self.0 {
                key = match map.next_value::<serde_json::Value>()? {
                    serde_json::Value::Null => None,
                    serde_json::Value::String(text) => Some(text.into()),
                    serde_json::Value::Bool(flag) => Some(flag.to_string().into()),
                    serde_json::Value::Number(number) => Some(number.to_string().into()),
                    serde_json::Value::Array(_) | serde_json::Value::Object(_) => {
                        return Err(de::Error::custom(format!(
                            "the key field {:?} is a list or an object; a key is a string or a number",
                            self.0
                        )));
                    }
                };
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(key)
    }
}

/// The parser counts lines within the text it was given, which is always one: only its column says something.
fn describe(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let position = format!(" at line {} column {}", error.line(), error.column());
    match text.strip_suffix(&position) {
        Some(what) if error.column() > 0 => format!("{what} (column {})", error.column()),
        Some(what) => what.to_owned(),
        None => text,
    }
}

#[cfg(test)]
#[path = "record_json/tests.rs"]
mod tests;
