//! `--hours` and `--utc-offset`: when a group is delivered to.

use aqueduct_client::{DeliveryHours, GroupDescription, PartitionLag, RequestError};
use clap::Args;

use super::session::Session;

/// When the group is delivered to
#[derive(Debug, Args)]
pub(super) struct HoursArgs {
    /// Deliver only within these hours of the day, such as 22:00-06:00 or 06:00-08:00,18:00-20:00; or always
    #[arg(long, value_name = "HOURS")]
    hours: Option<DeliveryHours>,
    /// How far the clock of --hours is ahead of UTC; daylight saving does not move it [default: +00:00]
    #[arg(long, value_parser = parse_offset, requires = "hours", allow_hyphen_values = true, value_name = "±HH:MM")]
    utc_offset: Option<i16>,
}

impl HoursArgs {
    pub(super) fn hours(&self) -> Option<DeliveryHours> {
        self.hours.map(|hours| hours.at_utc_offset(self.utc_offset.unwrap_or(0)))
    }
}

fn parse_offset(text: &str) -> Result<i16, String> {
    let expected = || "expected a distance from UTC such as +02:00 or -08:00".to_owned();
    let (sign, distance) = match text.split_at_checked(1).ok_or_else(expected)? {
        ("+", distance) => (1, distance),
        ("-", distance) => (-1, distance),
        _ => return Err(expected()),
    };
    let (hours, minutes) = distance.split_once(':').ok_or_else(expected)?;
    let number = |digits: &str| {
        let is_number = digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_digit());
        digits.parse::<i16>().ok().filter(|_| is_number)
    };
    match (number(hours), number(minutes)) {
        (Some(hours @ 0..=14), Some(minutes @ 0..60)) => Ok(sign * (hours * 60 + minutes)),
        _ => Err(expected()),
    }
}

/// `waits until 22:00 (+02:00): nothing is delivered before`
pub(super) fn waits(description: &GroupDescription) -> Option<String> {
    let until = description.closed_until?;
    let hours = description.group.policy.hours.unwrap_or(DeliveryHours::ALWAYS);
    Some(format!("waits until {}: nothing is delivered before", hours.clock_at(until)))
}

/// What there is to say of the groups in `lag` that are delivered to only later.
pub(super) async fn closed(session: &Session, lag: &[PartitionLag]) -> Result<Vec<String>, RequestError> {
    let groups = session.client.groups().list().await?;
    let with_hours = groups.iter().filter(|group| group.policy.hours.is_some());
    let mut closed = Vec::new();
    for group in with_hours.filter(|group| lag.iter().any(|lag| lag.group == group.name)) {
        let description = session.client.group(&group.name).describe().await?;
        closed.extend(waits(&description).map(|waits| format!("group {} {waits}", group.name)));
    }
    Ok(closed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_distance_from_utc_has_a_sign_hours_and_minutes() {
        for (text, minutes) in [("+02:00", 120), ("-08:00", -480), ("+05:45", 345), ("-00:30", -30)] {
            assert_eq!(parse_offset(text), Ok(minutes), "{text}");
        }
        for text in ["", "02:00", "+2", "+02:60", "+15:00", "+2:00", "é1:00", "UTC"] {
            assert!(parse_offset(text).is_err(), "{text}");
        }
    }
}
