//! What keeps a group from going on, in words for people.

use std::time::Duration;

use aqueduct_client::{FailedRecords, Member, PartitionWait, TakenOutMember, Timestamp, WaitReason, WaitingRetries};

use super::joined;
use crate::cli::render::{self, Align};
use crate::cli::{size, time};

/// What a table shows of an error.
const ERROR_SHOWN_CHARS: usize = 60;
/// Stands among the partitions for what a group tries again.
const RETRIES: u32 = u32::MAX;

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

/// `orders/0,3 waits for clerk until 2026-03-01T08:00:00Z: …`, a line for all partitions of a topic with the same wait.
///
/// Nothing for what is said of the whole group.
pub(super) fn waits(waits: &[PartitionWait]) -> String {
    let is_same = |one: &PartitionWait, other: &PartitionWait| {
        let of = |wait: &PartitionWait| (wait.reason, wait.offset, wait.until);
        of(one) == of(other) && one.topic == other.topic && one.member == other.member && one.message == other.message
    };
    let mut alike: Vec<(&PartitionWait, Vec<u32>)> = Vec::new();
    for wait in waits.iter().filter(|wait| wait.reason != Some(WaitReason::Hours)) {
        match alike.iter_mut().find(|(one, _)| is_same(one, wait) && wait.partition != RETRIES) {
            Some((_, partitions)) => partitions.push(wait.partition),
            None => alike.push((wait, vec![wait.partition])),
        }
    }
    alike.into_iter().map(|(wait, partitions)| line(wait, &partitions)).collect()
}

fn line(wait: &PartitionWait, partitions: &[u32]) -> String {
    let place = match partitions {
        [RETRIES] => place(&wait.topic, RETRIES),
        _ => format!("{}/{}", wait.topic, joined(partitions)),
    };
    let member = wait.member.as_ref().map_or_else(String::new, |member| format!(" for {member}"));
    let until = wait.until.map(|until| format!(" until {}", time::rfc3339_seconds(until.as_micros())));
    format!("{place} waits{member}{}: {}\n", until.unwrap_or_default(), wait.message)
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
        RETRIES => format!("{topic}/retry"),
        _ => format!("{topic}/{partition}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(partition: u32) -> PartitionWait {
        PartitionWait {
            topic: "orders".to_owned(),
            partition,
            reason: Some(WaitReason::MembersBusy),
            offset: None,
            until: None,
            member: None,
            message: "add members".to_owned(),
        }
    }

    #[test]
    fn a_wait_names_the_partition_the_member_and_the_time() {
        let with_member = PartitionWait { member: Some("clerk".to_owned()), ..waiting(0) };
        assert_eq!(waits(&[with_member]), "orders/0 waits for clerk: add members\n");
        let until = PartitionWait { until: Some(Timestamp::from_micros(0)), ..waiting(RETRIES) };
        assert_eq!(waits(&[until]), "orders/retry waits until 1970-01-01T00:00:00Z: add members\n");
        let of_the_group = PartitionWait { reason: Some(WaitReason::Hours), ..waiting(0) };
        assert_eq!(waits(&[of_the_group]), "");
    }

    #[test]
    fn partitions_that_wait_alike_share_a_line() {
        let other = PartitionWait { message: "mend it".to_owned(), ..waiting(2) };
        let told = waits(&[waiting(0), waiting(1), other, waiting(3), waiting(RETRIES)]);
        let expected = "orders/0,1,3 waits: add members\norders/2 waits: mend it\norders/retry waits: add members\n";
        assert_eq!(told, expected);
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
