//! What `publish` reads: a stream of bytes cut into records, on a thread of its own, with bounded memory.
//!
//! The thread hands over whatever one `read` returned, so a record that came through a live pipe is published at once
//! and a large file moves in large pieces. Records share the memory of the piece they were cut from.

use std::io::{self, Read};

use aqueduct_client::{Header, Record};
use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;

use super::record_json;

/// One `read`.
const READ_BYTES: usize = 64 << 10;
/// A longer line is taken for a missing separator. JSON needs up to six bytes for one of a record.
const LINE_BYTES_MAX: usize = 16 << 20;
/// Pieces read ahead of the publisher.
const PIECES_AHEAD: usize = 4;

/// `--format`: one value a line, one JSON object a line, or values separated by NUL bytes (so that they may contain line
/// ends). `publish --help` explains them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum InputFormat {
    Lines,
    Json,
    Null,
}

/// How a line becomes a record.
#[derive(Debug, Clone)]
pub(crate) struct Decoder {
    /// How values are separated, and what they are.
    pub(crate) format: InputFormat,
    /// The key of every record.
    pub(crate) key: Option<Bytes>,
    /// With [`InputFormat::Json`]: the field that holds the key; the line is the value.
    pub(crate) key_field: Option<String>,
    /// Added to every record.
    pub(crate) headers: Vec<Header>,
}

/// A record and the number of the line it came from, counted from 1.
#[derive(Debug, PartialEq)]
pub(crate) struct Numbered {
    /// The line.
    pub(crate) line: u64,
    /// What it says.
    pub(crate) record: Record,
}

/// Why reading ended before the end of the input.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InputError {
    /// Nothing of this line is published.
    #[error("line {line} is not a record: {reason}")]
    Malformed {
        /// Its number, from 1.
        line: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// The input itself failed.
    #[error("cannot read the input after line {line}: {source}")]
    Read {
        /// The last complete line.
        line: u64,
        /// Why.
        source: io::Error,
    },
}

/// What one `read` gave: records, and perhaps the reason why there will be no more.
#[derive(Debug)]
pub(crate) struct Piece {
    /// In input order.
    pub(crate) records: Vec<Numbered>,
    /// After those records.
    pub(crate) failure: Option<InputError>,
}

/// Starts the reading thread. The channel closes at the end of the input; dropping the receiver ends the thread at its
/// next record.
pub(crate) fn read(input: Box<dyn Read + Send>, decoder: Decoder) -> mpsc::Receiver<Piece> {
    let (sender, receiver) = mpsc::channel(PIECES_AHEAD);
    std::thread::spawn(move || read_pieces(input, &decoder, |piece| sender.blocking_send(piece).is_ok()));
    receiver
}

/// Reads on this thread until the input ends or fails, or `take` wants no more.
pub(crate) fn read_pieces(mut input: impl Read, decoder: &Decoder, mut take: impl FnMut(Piece) -> bool) {
    let mut cutter = Cutter::new(decoder);
    loop {
        let mut chunk = BytesMut::zeroed(READ_BYTES);
        let piece = match input.read(&mut chunk) {
            Ok(0) => {
                take(cutter.finish());
                return;
            }
            Ok(read) => {
                chunk.truncate(read);
                cutter.feed(chunk.freeze())
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(source) => {
                let failure = Some(InputError::Read { line: cutter.line, source });
                Piece { records: Vec::new(), failure }
            }
        };
        let ended = piece.failure.is_some();
        if !take(piece) || ended {
            return;
        }
    }
}

/// Cuts the stream at separators; keeps the beginning of a line whose end has not come yet.
struct Cutter<'a> {
    decoder: &'a Decoder,
    separator: u8,
    /// The last complete line.
    line: u64,
    carry: BytesMut,
}

impl<'a> Cutter<'a> {
    fn new(decoder: &'a Decoder) -> Self {
        let separator = match decoder.format {
            InputFormat::Lines | InputFormat::Json => b'\n',
            InputFormat::Null => 0,
        };
        Self { decoder, separator, line: 0, carry: BytesMut::new() }
    }

    fn feed(&mut self, mut chunk: Bytes) -> Piece {
        let mut records = Vec::new();
        while let Some(end) = chunk.iter().position(|byte| *byte == self.separator) {
            let mut line = chunk.split_to(end + 1);
            line.truncate(end);
            if !self.carry.is_empty() {
                self.carry.extend_from_slice(&line);
                line = self.carry.split().freeze();
            }
            if let Err(failure) = self.complete(line, &mut records) {
                return Piece { records, failure: Some(failure) };
            }
        }
        self.carry.extend_from_slice(&chunk);
        let failure = (self.carry.len() > LINE_BYTES_MAX).then(|| InputError::Malformed {
            line: self.line + 1,
            reason: format!("it has over {} MiB; is the separator missing?", LINE_BYTES_MAX >> 20),
        });
        Piece { records, failure }
    }

    /// The last line may lack its separator.
    fn finish(&mut self) -> Piece {
        let mut records = Vec::new();
        let rest = self.carry.split().freeze();
        let failure = if rest.is_empty() { None } else { self.complete(rest, &mut records).err() };
        Piece { records, failure }
    }

    fn complete(&mut self, line: Bytes, records: &mut Vec<Numbered>) -> Result<(), InputError> {
        let number = self.line + 1;
        if let Some(record) =
            self.decoder.decode(line).map_err(|reason| InputError::Malformed { line: number, reason })?
        {
            records.push(Numbered { line: number, record });
        }
        self.line = number;
        Ok(())
    }
}

impl Decoder {
    /// Blank lines between JSON objects are nothing; a blank line of text is an empty value.
    fn decode(&self, line: Bytes) -> Result<Option<Record>, String> {
        let mut record = match (self.format, &self.key_field) {
            (InputFormat::Lines | InputFormat::Null, _) => Record { value: Some(line), ..Record::default() },
            (InputFormat::Json, _) if line.trim_ascii().is_empty() => return Ok(None),
            (InputFormat::Json, Some(field)) => record_json::parse_with_key_field(line, field)?,
            (InputFormat::Json, None) => record_json::parse(&line)?,
        };
        if let Some(key) = &self.key {
            record.key = Some(key.clone());
        }
        record.headers.extend(self.headers.iter().cloned());
        Ok(Some(record))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoder(format: InputFormat) -> Decoder {
        Decoder { format, key: None, key_field: None, headers: Vec::new() }
    }

    /// Feeds `input` in pieces of `size` bytes.
    fn cut(input: &[u8], size: usize, decoder: &Decoder) -> (Vec<(u64, Vec<u8>)>, Option<String>) {
        let mut cutter = Cutter::new(decoder);
        let mut pieces: Vec<Piece> =
            input.chunks(size).map(|chunk| cutter.feed(Bytes::copy_from_slice(chunk))).collect();
        pieces.push(cutter.finish());
        let mut records = Vec::new();
        for piece in pieces {
            records.extend(piece.records.into_iter().map(|r| (r.line, r.record.value.unwrap_or_default().to_vec())));
            if let Some(failure) = piece.failure {
                return (records, Some(failure.to_string()));
            }
        }
        (records, None)
    }

    #[test]
    fn lines_are_the_same_however_they_arrive() {
        for size in 1..12 {
            let (records, failure) = cut(b"one\n\nthree\r\nfour", size, &decoder(InputFormat::Lines));
            let expected: [(u64, &[u8]); 4] = [(1, b"one"), (2, b""), (3, b"three\r"), (4, b"four")];
            assert_eq!(records.iter().map(|(n, v)| (*n, v.as_slice())).collect::<Vec<_>>(), expected, "{size}");
            assert_eq!(failure, None);
        }
    }

    #[test]
    fn null_separated_values_may_contain_line_ends() {
        let (records, _) = cut(b"a\nb\0c\0", 3, &decoder(InputFormat::Null));
        assert_eq!(records, [(1, b"a\nb".to_vec()), (2, b"c".to_vec())]);
    }

    #[test]
    fn nothing_is_no_record() {
        assert_eq!(cut(b"", 8, &decoder(InputFormat::Lines)), (Vec::new(), None));
    }

    #[test]
    fn a_malformed_line_ends_the_input_and_says_its_number() {
        let input = b"{\"value\":\"a\"}\n\n  \n{\"value\":\"b\"}\noops\n{\"value\":\"c\"}\n";
        for size in [1, 7, 1000] {
            let (records, failure) = cut(input, size, &decoder(InputFormat::Json));
            assert_eq!(records, [(1, b"a".to_vec()), (4, b"b".to_vec())]);
            assert!(failure.as_deref().is_some_and(|text| text.starts_with("line 5 is not a record")), "{failure:?}");
        }
    }

    #[test]
    fn a_line_without_end_is_refused_before_it_fills_the_memory() {
        let decoder = decoder(InputFormat::Lines);
        let mut cutter = Cutter::new(&decoder);
        let chunk = Bytes::from(vec![b'x'; 1 << 20]);
        let fed = (0..64).take_while(|_| cutter.feed(chunk.clone()).failure.is_none()).count();
        assert_eq!(fed, LINE_BYTES_MAX >> 20);
    }

    #[test]
    fn key_and_headers_are_added_to_every_record() {
        let decoder = Decoder {
            key: Some("k".into()),
            headers: vec![Header { name: "h".into(), value: "1".into() }],
            ..decoder(InputFormat::Lines)
        };
        let mut cutter = Cutter::new(&decoder);
        let piece = cutter.feed(Bytes::from_static(b"v\n"));
        assert_eq!(piece.records, [Numbered { line: 1, record: Record::new("v").key("k").header("h", "1") }]);
    }
}
