//! What `publish` reads from its standard input, and what `subscribe` prints.

use std::io::{self, Read};
use std::sync::Arc;

use aqueduct_client::{Event, Header, Record, Timestamp};
use arbitrary::{Arbitrary, Unstructured};
use bytes::Bytes;

use crate::cli::input::{self, Decoder, InputFormat, Numbered};
use crate::cli::record_json;

/// One byte that says how to read the rest.
///
/// The records do not depend on how the bytes arrive, and whatever is read is printed as a line that is read as the same.
pub fn records(input: &[u8]) {
    let Some((&how, text)) = input.split_first() else { return };
    match how % 5 {
        0 => read_in_any_pieces(text, &decoder(InputFormat::Lines)),
        1 => read_in_any_pieces(text, &decoder(InputFormat::Null)),
        2 => read_in_any_pieces(text, &decoder(InputFormat::Json)),
        3 => {
            let key_field = Some("key".to_owned());
            read_in_any_pieces(text, &Decoder { key_field, ..decoder(InputFormat::Json) });
        }
        _ => {
            if let Ok(record) = record(&mut Unstructured::new(text)) {
                prints_as_itself(record);
            }
        }
    }
}

fn decoder(format: InputFormat) -> Decoder {
    Decoder { format, key: None, key_field: None, headers: Vec::new() }
}

fn read_in_any_pieces(text: &[u8], decoder: &Decoder) {
    let (records, failure) = read(text, text.len(), decoder);
    // Each piece is read into a buffer of its own: few of them, or the buffers are all that is tested.
    let piece_bytes = text.len().div_ceil(7).max(1);
    assert_eq!(read(text, piece_bytes, decoder), (records.clone(), failure), "it depends on how the bytes arrive");
    records.into_iter().for_each(prints_as_itself);
}

/// The records, and why there are no more.
fn read(text: &[u8], piece_bytes: usize, decoder: &Decoder) -> (Vec<Record>, Option<String>) {
    let (mut records, mut line, mut failure) = (Vec::new(), 0, None);
    input::read_pieces(Pieces { rest: text, piece_bytes }, decoder, |piece| {
        for Numbered { line: next, record } in piece.records {
            assert!(next > line, "lines are numbered in order");
            line = next;
            records.push(record);
        }
        failure = piece.failure.map(|failure| failure.to_string());
        true
    });
    (records, failure)
}

/// Standard input that gives a few bytes at a time.
struct Pieces<'a> {
    rest: &'a [u8],
    piece_bytes: usize,
}

impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.rest.len().min(self.piece_bytes).min(buffer.len());
        buffer[..bytes].copy_from_slice(&self.rest[..bytes]);
        self.rest = &self.rest[bytes..];
        Ok(bytes)
    }
}

fn prints_as_itself(record: Record) {
    let append_time = Timestamp::from_micros(1);
    let event = Event { topic: Arc::from("orders"), partition: 0, offset: 7, append_time, record };
    let mut line = Vec::new();
    record_json::render(&event, &mut line);
    assert_eq!(line.iter().position(|byte| *byte == b'\n'), Some(line.len() - 1), "one line");
    assert_eq!(record_json::parse(&line[..line.len() - 1]), Ok(event.record), "{}", String::from_utf8_lossy(&line));
}

fn record(from: &mut Unstructured<'_>) -> arbitrary::Result<Record> {
    let bytes = |from: &mut Unstructured<'_>| Vec::<u8>::arbitrary(from).map(Bytes::from);
    let key = if from.arbitrary()? { Some(bytes(from)?) } else { None };
    let value = if from.arbitrary()? { Some(bytes(from)?) } else { None };
    let timestamp = Option::<i64>::arbitrary(from)?.map(Timestamp::from_micros);
    let mut headers = Vec::new();
    while headers.len() < 4 && from.arbitrary()? {
        headers.push(Header { name: String::arbitrary(from)?.into(), value: bytes(from)? });
    }
    Ok(Record { key, value, headers, timestamp })
}
