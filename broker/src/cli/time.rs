//! Times and durations as people write them, and as they like to read them.
//!
//! Inside, a time is microseconds since the Unix epoch and a duration a [`Duration`]; this file is the edge.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::Timestamp;

/// Units of a duration, longest first, in microseconds.
const UNITS: [(&str, u64); 7] = [
    ("w", 7 * 24 * 3600 * 1_000_000),
    ("d", 24 * 3600 * 1_000_000),
    ("h", 3600 * 1_000_000),
    ("m", 60 * 1_000_000),
    ("s", 1_000_000),
    ("ms", 1_000),
    ("us", 1),
];

/// Parses `15m`, `2h`, `1h30m`, `500ms`, `1.5s`, `7d`.
///
/// # Errors
/// A sentence for the user; a bare number is refused, because its unit would be a guess.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    const EXPECTED: &str = "expected a number and a unit, such as 500ms, 30s, 15m, 2h or 7d";
    let mut rest = text.trim();
    let mut total_us: u64 = 0;
    if rest.is_empty() {
        return Err(EXPECTED.to_owned());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(digits);
        let letters = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(letters);
        if number.is_empty() {
            return Err(EXPECTED.to_owned());
        }
        if unit.is_empty() {
            return Err(format!("{number} has no unit; {EXPECTED}"));
        }
        let Some((_, unit_us)) = UNITS.iter().find(|(name, _)| *name == unit) else {
            return Err(format!("{unit:?} is not a unit of time; {EXPECTED}"));
        };
        let part_us = scaled(number, *unit_us).ok_or_else(|| EXPECTED.to_owned())?;
        total_us = total_us.checked_add(part_us).ok_or_else(|| format!("{text} is too long"))?;
        rest = after;
    }
    Ok(Duration::from_micros(total_us))
}

/// `number` (digits with at most one dot) times `unit`, exact to the microsecond.
fn scaled(number: &str, unit: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if number.ends_with('.') || fraction.contains('.') || fraction.len() > 9 {
        return None;
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let fraction = match u32::try_from(fraction.len()).ok()? {
        0 => 0,
        digits => {
            let parsed = u128::from(fraction.parse::<u64>().ok()?);
            u64::try_from(parsed * u128::from(unit) / 10u128.pow(digits)).ok()?
        }
    };
    whole.checked_mul(unit)?.checked_add(fraction)
}

/// Parses an RFC 3339 time such as `2026-03-01T08:00:00Z` into microseconds since the epoch.
///
/// # Errors
/// A sentence for the user.
pub(crate) fn parse_rfc3339(text: &str) -> Result<i64, String> {
    text.trim().parse::<Timestamp>().map(Timestamp::as_microsecond).map_err(|_| {
        format!("{text:?} is not a time with its zone, such as 2026-03-01T08:00:00Z or 2026-03-01T09:00:00+01:00")
    })
}

/// RFC 3339 in UTC, to the microsecond; a time out of the calendar as its bare number.
pub(crate) fn rfc3339(time_us: i64) -> String {
    Timestamp::from_microsecond(time_us).map_or_else(|_| time_us.to_string(), |time| format!("{time:.6}"))
}

/// As [`rfc3339`], to the second, for tables.
pub(crate) fn rfc3339_seconds(time_us: i64) -> String {
    Timestamp::from_microsecond(time_us).map_or_else(|_| time_us.to_string(), |time| format!("{time:.0}"))
}

/// The wall clock, in microseconds since the epoch.
pub(crate) fn now_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// Two significant units at most: `850 µs`, `12.3 ms`, `4.2 s`, `3m 10s`, `2h 5m`, `9d 4h`.
pub(crate) fn human(duration: Duration) -> String {
    let seconds = duration.as_secs();
    if duration < Duration::from_millis(1) {
        format!("{} µs", duration.as_micros())
    } else if duration < Duration::from_secs(1) {
        format!("{:.1} ms", duration.as_secs_f64() * 1e3)
    } else if seconds < 60 {
        format!("{:.1} s", duration.as_secs_f64())
    } else {
        let (high, low, names) = match seconds {
            0..3600 => (seconds / 60, seconds % 60, ("m", "s")),
            3600..86_400 => (seconds / 3600, seconds % 3600 / 60, ("h", "m")),
            _ => (seconds / 86_400, seconds % 86_400 / 3600, ("d", "h")),
        };
        if low == 0 { format!("{high}{}", names.0) } else { format!("{high}{} {low}{}", names.0, names.1) }
    }
}

/// The shortest text that [`parse_duration`] reads back as exactly `duration`.
pub(crate) fn exact(duration: Duration) -> String {
    let mut rest = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    if rest == 0 {
        return "0s".to_owned();
    }
    let mut text = String::new();
    for (name, unit_us) in UNITS {
        if rest >= unit_us {
            text.push_str(&format!("{}{name}", rest / unit_us));
            rest %= unit_us;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_numbers_with_units() {
        for (text, us) in [
            ("500ms", 500_000),
            ("30s", 30_000_000),
            ("15m", 900_000_000),
            ("1h30m", 5_400_000_000),
            ("1.5s", 1_500_000),
            (".5s", 500_000),
            ("0s", 0),
            ("7d", 604_800_000_000),
            ("250us", 250),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_micros(us)), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_duration_is_refused() {
        for text in ["", "15", "m", "15x", "-3s", "1h-2m", "1..5s", "1.s", "99999999999w", "1e3s", "15 m"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn exact_durations_read_back() {
        for us in [0, 1, 999, 1_000, 61_000_000, 90_061_000_001, 604_800_000_000] {
            let duration = Duration::from_micros(us);
            assert_eq!(parse_duration(&exact(duration)), Ok(duration), "{}", exact(duration));
        }
    }

    #[test]
    fn times_need_a_zone_and_read_back() {
        assert_eq!(parse_rfc3339("1970-01-01T00:00:01Z"), Ok(1_000_000));
        assert_eq!(parse_rfc3339("1970-01-01T01:00:00+01:00"), Ok(0));
        assert!(parse_rfc3339("2026-03-01T08:00:00").is_err());
        assert!(parse_rfc3339("yesterday").is_err());
        assert_eq!(rfc3339(1_500_000), "1970-01-01T00:00:01.500000Z");
        assert_eq!(parse_rfc3339(&rfc3339(1_772_352_000_123_456)), Ok(1_772_352_000_123_456));
        assert_eq!(rfc3339(i64::MAX), i64::MAX.to_string());
    }

    #[test]
    fn people_read_two_units_at_most() {
        let human = |ms| super::human(Duration::from_micros(ms));
        assert_eq!(human(850), "850 µs");
        assert_eq!(human(12_340), "12.3 ms");
        assert_eq!(human(4_200_000), "4.2 s");
        assert_eq!(human(190_000_000), "3m 10s");
        assert_eq!(human(7_200_000_000), "2h");
    }
}
