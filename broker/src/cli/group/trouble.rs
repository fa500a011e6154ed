//! What keeps a group from going on, in words for people.

use std::time::Duration;

use aqueduct_client::{FailedRecords, Member, PartitionWait, TakenOutMember, Timestamp, WaitReason, WaitingRetries};

use super::joined;
use crate::cli::render::{self, Align};
use crate::cli::{size, time};

/// What a table shows of an error.
const ERROR_SHOWN_CHARS: usize = 60;
/// Stands among the partitions for what a group tries again.
const REDRIVEN: u32 = u32::MAX;

/// `clerk has been stalled for 2m (no ack since 2026-03-01T08:00:00Z) and holds 7 records of orders/0,4`
pub(super) fn of_member(member: &Member) -> Option<String> {
    let name = name(member.id, &member.name);
    let place = format!("{}/{}", member.topic, joined(&member.partitions));
    if let Some(until) = member.away_until {
        let until = time::rfc3339_seconds(until.as_micros());
        return Some(format!("{name} is away; {place} waits for it until {until}\n"));
    }
    let since = member.stalled_since?;
    let stalled_for = Timestamp::now().as_micros().saturating_sub(since.as_micros());
    let stalled_for = time::human(Duration::from_micros(u64::try_from(stalled_for).unwrap_or(0)));
    let no_ack = member.last_settled.map_or_else(
        || "no ack yet".to_owned(),
        |last| format!("no ack since {}", time::rfc3339_seconds(last.as_micros())),
    );
    let open = size::grouped(member.open_records);
    Some(format!("{name} has been stalled for {stalled_for} ({no_ack}) and holds {open} records of {place}\n"))
}

pub(super) fn failed_table(failed: &[FailedRecords]) -> String {
    render::table(
        [
            ("FAILED", Align::Left),
            ("RECORDS", Align::Right),
            ("ATTEMPTS", Align::Right),
            ("LAST", Align::Left),
            ("LAST ERROR", Align::Left),
        ],
        failed.iter().map(|failed| {
            [
                format!("{}@{}", place(&failed.topic, failed.partition), failed.from),
                size::grouped(failed.to.saturating_sub(failed.from)),
                failed.attempts.to_string(),
                time::rfc3339_seconds(failed.last_failed.as_micros()),
                render::one_line(&failed.last_error, ERROR_SHOWN_CHARS),
            ]
        }),
    )
}

/// `clerk (orders) was taken out at 2026-03-01T08:00:00Z: nothing came from this member for 30000 ms, …`
pub(super) fn taken_out(member: &TakenOutMember) -> String {
    let name = name(member.id, &member.name);
    let at = time::rfc3339_seconds(member.at.as_micros());
    format!("{name} ({}) was taken out at {at}: {}\n", member.topic, member.message)
}

/// `orders/0 waits until 2026-03-01T08:00:00Z for offset 17 (with clerk): …`
///
/// `None` for what is said of the whole group.
pub(super) fn wait(wait: &PartitionWait) -> Option<String> {
    if wait.reason == Some(WaitReason::Hours) {
        return None;
    }
    let until = wait.until.map(|until| format!(" until {}", time::rfc3339_seconds(until.as_micros())));
    let member = wait.member.as_ref().map(|member| format!(" for {member}"));
    let place = place(&wait.topic, wait.partition);
    Some(format!("{place} waits{}{}: {}\n", member.unwrap_or_default(), until.unwrap_or_default(), wait.message))
}

pub(super) fn retries_table(retries: &[WaitingRetries]) -> String {
    render::table(
        [
            ("TRIED AGAIN", Align::Left),
            ("DUE", Align::Right),
            ("LATER", Align::Right),
            ("NEXT", Align::Left),
            ("LAST ERROR", Align::Left),
        ],
        retries.iter().map(|retries| {
            let at_least = if retries.later_is_at_least { "≥ " } else { "" };
            [
                retries.topic.clone(),
                size::grouped(retries.due),
                format!("{at_least}{}", size::grouped(retries.later)),
                render::or_dash(retries.next_due.map(|due| time::rfc3339_seconds(due.as_micros()))),
                retries
                    .last_error
                    .as_ref()
                    .map_or_else(|| "-".to_owned(), |error| render::one_line(error, ERROR_SHOWN_CHARS)),
            ]
        }),
    )
}

fn name(id: u64, name: &str) -> String {
    if name.is_empty() { id.to_string() } else { name.to_owned() }
}

fn place(topic: &str, partition: u32) -> String {
    match partition {
        REDRIVEN => format!("{topic}/redriven"),
        _ => format!("{topic}/{partition}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_names_the_partition_the_member_and_the_time() {
        let mut of_record = PartitionWait {
            topic: "orders".to_owned(),
            partition: 0,
            reason: Some(WaitReason::OpenRecords),
            offset: Some(17),
            until: None,
            member: Some("clerk".to_owned()),
            message: "settle it".to_owned(),
        };
        assert_eq!(wait(&of_record).as_deref(), Some("orders/0 waits for clerk: settle it\n"));
        (of_record.member, of_record.until) = (None, Some(Timestamp::from_micros(0)));
        of_record.partition = REDRIVEN;
        let expected = "orders/redriven waits until 1970-01-01T00:00:00Z: settle it\n";
        assert_eq!(wait(&of_record).as_deref(), Some(expected));
        of_record.reason = Some(WaitReason::Hours);
        assert_eq!(wait(&of_record), None);
    }

    #[test]
    fn what_is_not_counted_to_the_end_is_a_bound() {
        let retries = WaitingRetries {
            topic: "orders".to_owned(),
            due: 2,
            later: 1000,
            later_is_at_least: true,
            next_due: None,
            last_error: Some("no\nroom".to_owned()),
        };
        let table = retries_table(&[retries]);
        assert!(table.contains("≥ 1,000") && table.contains("no"), "{table}");
    }
}
