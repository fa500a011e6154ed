use super::*;

fn event(record: Record) -> Event {
    Event { topic: "orders".into(), partition: 3, offset: 1042, append_time: Timestamp::from_micros(99), record }
}

fn printed(record: Record) -> String {
    let mut out = Vec::new();
    render(&event(record), &mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn a_record_prints_with_its_position_first() {
    let record = Record::new("hello").key("k").header("trace", "t1").timestamp(Timestamp::from_micros(7));
    assert_eq!(
        printed(record),
        r#"{"topic":"orders","partition":3,"offset":1042,"timestamp_us":7,"append_time_us":99,"key":"k","value":"hello","headers":[{"name":"trace","value":"t1"}]}"#
            .to_owned()
            + "\n"
    );
}

#[test]
fn absent_is_null_and_binary_is_base64() {
    let record = Record::new(&[0xff, 0x00][..]).header("b", &[0xfe][..]);
    assert_eq!(
        printed(record),
        r#"{"topic":"orders","partition":3,"offset":1042,"timestamp_us":null,"append_time_us":99,"key":null,"value_base64":"/wA=","headers":[{"name":"b","value_base64":"/g=="}]}"#
            .to_owned()
            + "\n"
    );
    let tombstone = printed(Record { value: None, key: Some(vec![0x80].into()), ..Record::default() });
    assert!(tombstone.contains(r#""key_base64":"gA==","value":null"#), "{tombstone}");
}

/// Bytes that are often text, sometimes not, sometimes absent.
fn arbitrary_bytes(random: &mut fastrand::Rng) -> Option<Bytes> {
    let length = random.usize(0..12);
    match random.u8(0..4) {
        0 => None,
        1 => Some((0..length).map(|_| random.u8(..)).collect()),
        2 => Some((0..length).map(|_| random.char(..)).collect::<String>().into()),
        _ => Some((0..length).map(|_| random.alphanumeric()).collect::<String>().into()),
    }
}

#[test]
fn every_record_reads_back_as_it_was() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..5_000 {
        let headers = (0..random.usize(0..4))
            .map(|_| Header {
                name: ["a", "a", "trace", "ü\n"][random.usize(0..4)].into(),
                value: arbitrary_bytes(&mut random).unwrap_or_default(),
            })
            .collect();
        let record = Record {
            key: arbitrary_bytes(&mut random),
            value: arbitrary_bytes(&mut random),
            headers,
            timestamp: random.bool().then(|| Timestamp::from_micros(random.i64(..))),
        };
        let line = printed(record.clone());
        assert_eq!(line.matches('\n').count(), 1, "one line: {line}");
        assert_eq!(parse(line.as_bytes()).as_ref(), Ok(&record), "seed {seed}: {line}");
    }
}

#[test]
fn a_line_by_hand_needs_only_a_value() {
    assert_eq!(parse(br#"{"value":"x"}"#), Ok(Record::new("x")));
    assert_eq!(parse(br#" {"key":"k","value":null} "#), Ok(Record::tombstone("k")));
    assert_eq!(parse(br#"{"value":"x","headers":{"a":"1"}}"#), Ok(Record::new("x").header("a", "1")));
    assert_eq!(parse(br#"{"value_base64":"","headers":[]}"#), Ok(Record::new("")));
}

#[test]
fn malformed_lines_say_what_is_wrong() {
    for (line, expected) in [
        (&b"not json"[..], "expected ident (column 2)"),
        (b"", "EOF while parsing a value"),
        (b"[1]", "expected a JSON object as `subscribe --output json` prints it"),
        (br#"{"a":1}"#, "unknown field `a`"),
        (br#"{"key":"k"}"#, r#"there is no "value""#),
        (br#"{"value":{"a":1}}"#, "invalid type: map, expected a string"),
        (br#"{"value":"x","value_base64":"eA=="}"#, r#"both "value" and "value_base64""#),
        (br#"{"value":"x","value":"y"}"#, "duplicate field `value`"),
        (br#"{"value_base64":"%"}"#, r#""value_base64" is not base64"#),
        (br#"{"value":"x"} tail"#, "trailing characters"),
        (br#"{"value":"x","timestamp_us":1.5}"#, "floating point"),
        (br#"{"value":"x","headers":[{"name":"h"}]}"#, r#"header "h": it has no "value""#),
        (b"{\"value\":\"\xff\"}", "invalid unicode"),
    ] {
        let error = parse(line).unwrap_err();
        assert!(error.contains(expected), "{}: {error}", String::from_utf8_lossy(line));
        assert!(!error.contains("line 1"), "{error}");
    }
}

#[test]
fn an_object_with_a_key_field_is_kept_byte_for_byte() {
    let key = |line: &'static str| {
        let record = parse_with_key_field(Bytes::from_static(line.as_bytes()), "id").unwrap();
        assert_eq!(record.value.as_deref(), Some(line.as_bytes()));
        record.key.map(|key| String::from_utf8(key.to_vec()).unwrap())
    };
    assert_eq!(key(r#"{ "id" : "N14228" , "x":[1,{"id":2}] }"#).as_deref(), Some("N14228"));
    assert_eq!(key(r#"{"id":42}"#).as_deref(), Some("42"));
    assert_eq!(key(r#"{"id":true}"#).as_deref(), Some("true"));
    assert_eq!(key(r#"{"i\u0064":"escaped"}"#).as_deref(), Some("escaped"));
    assert_eq!(key(r#"{"id":null}"#), None);
    assert_eq!(key(r#"{"other":1}"#), None);
}

#[test]
fn what_is_not_an_object_has_no_key_field() {
    for (line, expected) in [
        ("[1]", "expected a JSON object"),
        ("7", "expected a JSON object"),
        (r#"{"id":[1]}"#, "a key is a string or a number"),
        (r#"{"id":1"#, "EOF"),
        (r#"{"id":1}{"#, "trailing characters"),
    ] {
        let error = parse_with_key_field(Bytes::from(line), "id").unwrap_err();
        assert!(error.contains(expected), "{line}: {error}");
    }
}
