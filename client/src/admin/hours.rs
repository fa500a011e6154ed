//! Within which hours a group is delivered to.

use std::{fmt, str::FromStr};

use aqueduct_proto::v1;

use crate::types::{Timestamp, UnknownName};

/// Windows of one group.
const WINDOWS_MAX: usize = 4;
const MINUTES_PER_DAY: i64 = 24 * 60;
const MINUTE_US: i64 = 60_000_000;

/// Every day from one minute of the day up to another one; over midnight if it ends before it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DailyWindow {
    /// Inclusive; at most 1439.
    pub from_minute: u16,
    /// Exclusive; at most 1439.
    pub to_minute: u16,
}

/// Hours of every day within which a group is delivered to. Outside them its members stay, and may settle what is open.
///
/// ```
/// use aqueduct_client::DeliveryHours;
///
/// let nights: DeliveryHours = "22:00-06:00".parse()?;
/// assert_eq!(nights.at_utc_offset(120).to_string(), "22:00-06:00 (+02:00)");
/// # Ok::<(), aqueduct_client::UnknownName>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeliveryHours {
    windows: [Option<DailyWindow>; WINDOWS_MAX],
    utc_offset_minutes: i16,
}

impl DeliveryHours {
    /// All hours.
    pub const ALWAYS: Self = Self { windows: [None; WINDOWS_MAX], utc_offset_minutes: 0 };

    /// The same hours by a clock that is so many minutes ahead of UTC, all the year round.
    pub fn at_utc_offset(self, minutes: i16) -> Self {
        Self { utc_offset_minutes: minutes, ..self }
    }

    /// None: all hours.
    pub fn windows(&self) -> impl Iterator<Item = DailyWindow> + use<> {
        self.windows.into_iter().flatten()
    }

    /// How far their clock is ahead of UTC.
    pub fn utc_offset_minutes(&self) -> i16 {
        self.utc_offset_minutes
    }

    /// `22:00 (+02:00)`: what their clock shows at that time.
    pub fn clock_at(&self, time: Timestamp) -> String {
        let minute = time.as_micros().div_euclid(MINUTE_US) + i64::from(self.utc_offset_minutes);
        let minute = u16::try_from(minute.rem_euclid(MINUTES_PER_DAY)).unwrap_or(0);
        format!("{} ({})", clock(minute), offset(self.utc_offset_minutes))
    }

    pub(crate) fn from_proto(hours: &v1::DeliveryHours) -> Self {
        let minute = |minute: u32| u16::try_from(minute).unwrap_or(0);
        let mut windows = [None; WINDOWS_MAX];
        for (window, given) in windows.iter_mut().zip(&hours.windows) {
            let (from_minute, to_minute) = (minute(given.from_minute), minute(given.to_minute));
            *window = Some(DailyWindow { from_minute, to_minute });
        }
        Self { windows, utc_offset_minutes: i16::try_from(hours.utc_offset_minutes).unwrap_or(0) }
    }
}

impl From<DeliveryHours> for v1::DeliveryHours {
    fn from(hours: DeliveryHours) -> Self {
        let window = |window: DailyWindow| v1::DailyWindow {
            from_minute: window.from_minute.into(),
            to_minute: window.to_minute.into(),
        };
        Self { windows: hours.windows().map(window).collect(), utc_offset_minutes: hours.utc_offset_minutes.into() }
    }
}

/// `always`, or windows such as `22:00-06:00,12:00-13:00`. `24:00` is midnight.
impl FromStr for DeliveryHours {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, UnknownName> {
        if text == "always" {
            return Ok(Self::ALWAYS);
        }
        let expected = "always, or up to 4 windows of the day such as 22:00-06:00,12:00-13:00";
        let unknown = || UnknownName { name: text.into(), expected };
        let mut windows = [None; WINDOWS_MAX];
        let mut free = windows.iter_mut();
        for window in text.split(',') {
            let (from, to) = window.split_once('-').ok_or_else(unknown)?;
            let minutes = (minute_of_day(from), minute_of_day(to));
            let (Some(from_minute), Some(to_minute)) = minutes else { return Err(unknown()) };
            let window = Some(DailyWindow { from_minute, to_minute }).filter(|window| from_minute != window.to_minute);
            *free.next().ok_or_else(unknown)? = Some(window.ok_or_else(unknown)?);
        }
        Ok(Self { windows, utc_offset_minutes: 0 })
    }
}

fn minute_of_day(text: &str) -> Option<u16> {
    let (hours, minutes) = text.trim().split_once(':')?;
    let number = |digits: &str| {
        let is_number = (1..=2).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
        digits.parse::<u16>().ok().filter(|_| is_number)
    };
    match (number(hours)?, number(minutes)?) {
        (24, 0) => Some(0),
        (hours @ 0..24, minutes @ 0..60) => Some(hours * 60 + minutes),
        _ => None,
    }
}

fn clock(minute: u16) -> String {
    format!("{:02}:{:02}", minute / 60, minute % 60)
}

fn offset(minutes: i16) -> String {
    format!("{}{}", if minutes < 0 { '-' } else { '+' }, clock(minutes.unsigned_abs()))
}

impl fmt::Display for DeliveryHours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let windows: Vec<String> =
            self.windows().map(|window| format!("{}-{}", clock(window.from_minute), clock(window.to_minute))).collect();
        if windows.is_empty() {
            return f.write_str("always");
        }
        write!(f, "{} ({})", windows.join(","), offset(self.utc_offset_minutes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hours_are_read_as_they_are_shown() {
        for (text, shown) in [
            ("always", "always"),
            ("22:00-06:00", "22:00-06:00 (+00:00)"),
            ("9:30-12:00, 13:05-24:00", "09:30-12:00,13:05-00:00 (+00:00)"),
        ] {
            assert_eq!(text.parse::<DeliveryHours>().expect(text).to_string(), shown);
        }
        for text in
            ["", "22:00", "22:00-", "22-6", "25:00-06:00", "24:01-06:00", "10:60-11:00", "+1:00-2:00", "1:00-1:00"]
        {
            assert!(text.parse::<DeliveryHours>().is_err(), "{text:?}");
        }
        assert!(["1:00-2:00"; 5].join(",").parse::<DeliveryHours>().is_err(), "too many");
    }

    #[test]
    fn they_survive_the_wire_and_tell_the_time_of_their_own_clock() {
        let nights = "22:00-06:00".parse::<DeliveryHours>().expect("legal").at_utc_offset(-90);
        assert_eq!(DeliveryHours::from_proto(&nights.into()), nights);
        assert_eq!(nights.clock_at(Timestamp::from_micros(30 * MINUTE_US)), "23:00 (-01:30)");
    }
}
