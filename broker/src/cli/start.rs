//! Where to begin: `earliest`, `latest`, an offset or a time, for `subscribe --from` and `group reset --to`.

use aqueduct_client::{Start, Timestamp};

use super::time;

/// # Errors
/// A sentence for the user that lists what is possible.
pub(crate) fn parse(text: &str) -> Result<Start, String> {
    match text {
        "earliest" => return Ok(Start::Earliest),
        "latest" => return Ok(Start::Latest),
        _ => {}
    }
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse().map(Start::Offset).map_err(|_| format!("offset {text} is over 2^64"));
    }
    time::parse_rfc3339(text).map(|time_us| Start::Time(Timestamp::from_micros(time_us))).map_err(|_| {
        "expected earliest, latest, an offset such as 1042, or a time with its zone such as 2026-03-01T08:00:00Z"
            .to_owned()
    })
}

/// As [`parse`] takes it.
pub(crate) fn describe(start: Start) -> String {
    match start {
        Start::Earliest => "earliest".to_owned(),
        Start::Latest => "latest".to_owned(),
        Start::Offset(offset) => offset.to_string(),
        Start::Time(time) => time::rfc3339(time.as_micros()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_are_words_offsets_or_times() {
        for (text, start) in [
            ("earliest", Start::Earliest),
            ("latest", Start::Latest),
            ("1042", Start::Offset(1042)),
            ("1970-01-01T00:00:01.000000Z", Start::Time(Timestamp::from_micros(1_000_000))),
        ] {
            assert_eq!(parse(text), Ok(start));
            assert_eq!(describe(start), text);
        }
        for text in ["", "-1", "first", "1e3", "99999999999999999999", "2026-03-01"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
