//! `subscribe --template`: a line of output as text with `%` fields, compiled once.
//!
//! Fields are written as the bytes they are; nothing is escaped or quoted.

use std::io::Write as _;

use aqueduct_client::{Event, Header};

use super::time;

/// What the fields are, for `--help` and for the message about an unknown one.
pub(crate) const FIELDS: &str = "%t topic, %p partition, %o offset, %k key, %v value, %h headers, \
    %T producer's time, %A append time, %% a percent sign; \\n \\t \\r \\0 \\\\";

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Literal(Vec<u8>),
    Topic,
    Partition,
    Offset,
    Key,
    Value,
    Headers,
    Timestamp,
    AppendTime,
}

/// A parsed template. It ends every event with a line end, unless its text already ends in `\n` or `\0`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Template {
    pieces: Vec<Piece>,
}

impl Template {
    /// # Errors
    /// Names the unknown field or escape and lists the known ones.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut literal = Vec::new();
        let mut characters = text.chars();
        while let Some(character) = characters.next() {
            let piece = match character {
                '%' => match characters.next() {
                    Some('%') => {
                        literal.push(b'%');
                        continue;
                    }
                    field => parse_field(field)?,
                },
                '\\' => {
                    literal.push(parse_escape(characters.next())?);
                    continue;
                }
                other => {
                    literal.extend_from_slice(other.encode_utf8(&mut [0; 4]).as_bytes());
                    continue;
                }
            };
            if !literal.is_empty() {
                pieces.push(Piece::Literal(std::mem::take(&mut literal)));
            }
            pieces.push(piece);
        }
        if !matches!(literal.last(), Some(b'\n' | b'\0')) {
            literal.push(b'\n');
        }
        pieces.push(Piece::Literal(literal));
        Ok(Self { pieces })
    }

    /// Appends one event to `out`.
    pub(crate) fn render(&self, event: &Event, out: &mut Vec<u8>) {
        let record = &event.record;
        for piece in &self.pieces {
            match piece {
                Piece::Literal(bytes) => out.extend_from_slice(bytes),
                Piece::Topic => out.extend_from_slice(event.topic.as_bytes()),
                Piece::Partition => write_number(out, u64::from(event.partition)),
                Piece::Offset => write_number(out, event.offset),
                Piece::Key => out.extend_from_slice(record.key.as_deref().unwrap_or_default()),
                Piece::Value => out.extend_from_slice(record.value.as_deref().unwrap_or_default()),
                Piece::Headers => write_headers(out, &record.headers),
                Piece::Timestamp => {
                    let time = record.timestamp.map(|time| time::rfc3339(time.as_micros()));
                    out.extend_from_slice(time.unwrap_or_default().as_bytes());
                }
                Piece::AppendTime => {
                    out.extend_from_slice(time::rfc3339(event.append_time.as_micros()).as_bytes());
                }
            }
        }
    }
}

fn parse_field(field: Option<char>) -> Result<Piece, String> {
    Ok(match field {
        Some('t') => Piece::Topic,
        Some('p') => Piece::Partition,
        Some('o') => Piece::Offset,
        Some('k') => Piece::Key,
        Some('v') => Piece::Value,
        Some('h') => Piece::Headers,
        Some('T') => Piece::Timestamp,
        Some('A') => Piece::AppendTime,
        Some(other) => return Err(format!("%{other} is not a field; the fields are {FIELDS}")),
        None => return Err(format!("a single % at the end; the fields are {FIELDS}")),
    })
}

fn parse_escape(escape: Option<char>) -> Result<u8, String> {
    Ok(match escape {
        Some('n') => b'\n',
        Some('t') => b'\t',
        Some('r') => b'\r',
        Some('0') => b'\0',
        Some('\\') => b'\\',
        Some(other) => return Err(format!("\\{other} is not an escape; the fields are {FIELDS}")),
        None => return Err(format!("a single \\ at the end; the fields are {FIELDS}")),
    })
}

fn write_number(out: &mut Vec<u8>, number: u64) {
    // Writing to a vector cannot fail.
    let _ = write!(out, "{number}");
}

fn write_headers(out: &mut Vec<u8>, headers: &[Header]) {
    for (position, Header { name, value }) in headers.iter().enumerate() {
        if position > 0 {
            out.push(b',');
        }
        out.extend_from_slice(name.as_bytes());
        out.push(b'=');
        out.extend_from_slice(value);
    }
}

#[cfg(test)]
mod tests {
    use aqueduct_client::{Record, Timestamp};

    use super::*;

    fn rendered(template: &str, event: &Event) -> String {
        let mut out = Vec::new();
        Template::parse(template).unwrap().render(event, &mut out);
        String::from_utf8(out).unwrap()
    }

    fn event(record: Record) -> Event {
        Event {
            topic: "orders".into(),
            partition: 3,
            offset: 1042,
            append_time: Timestamp::from_micros(1_000_000),
            record,
        }
    }

    #[test]
    fn every_field_and_escape_is_filled_in() {
        let event = event(Record::new("hello").key("k").header("a", "1").header("a", "2"));
        assert_eq!(rendered("%p %o %k %v", &event), "3 1042 k hello\n");
        assert_eq!(rendered(r"%t/%p@%o\t100%%\\\n", &event), "orders/3@1042\t100%\\\n");
        assert_eq!(rendered("[%h] [%T] %A", &event), "[a=1,a=2] [] 1970-01-01T00:00:01.000000Z\n");
    }

    #[test]
    fn absent_key_and_value_are_empty() {
        assert_eq!(rendered("<%k|%v>", &event(Record::default())), "<|>\n");
    }

    #[test]
    fn a_line_end_is_added_unless_the_template_has_one() {
        let event = event(Record::new("hello"));
        assert_eq!(rendered("", &event), "\n");
        assert_eq!(rendered(r"%v\n", &event), "hello\n");
        assert_eq!(rendered(r"%v\0", &event), "hello\0");
        assert_eq!(rendered("é%v", &event), "éhello\n");
    }

    #[test]
    fn unknown_fields_and_escapes_are_named() {
        for (template, named) in [("%x", "%x"), (r"\q", r"\q"), ("%", "single %"), ("\\", "single \\"), ("%é", "%é")]
        {
            let error = Template::parse(template).unwrap_err();
            assert!(error.contains(named), "{error}");
            assert!(error.contains("%p partition"), "{error}");
        }
    }
}
