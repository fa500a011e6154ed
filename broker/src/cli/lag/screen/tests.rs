//! Whole screens, as a person sees them.

use aqueduct_client::{LagForecast, LossCause, RetentionRisk};

use super::super::sample;
use super::*;

/// 2026-03-01T08:00:00Z.
const EIGHT_US: i64 = 1_772_352_000_000_000;

fn lag(group: &str, topic: &str, partition: u32, lag_records: u64) -> PartitionLag {
    let behind = sample(lag_records, lag_records as f64 / 100.0);
    PartitionLag {
        group: group.to_owned(),
        topic: topic.to_owned(),
        partition,
        lag_bytes: lag_records * 120,
        member: Some(format!("worker-{}", partition % 3)),
        forecast: LagForecast {
            rate_in: Some(100.0),
            rate_out: Some(300.0),
            catch_up: Some(Duration::from_secs(lag_records / 200)),
            ..LagForecast::default()
        },
        ..behind
    }
}

fn at_risk(mut lag: PartitionLag, within: u64) -> PartitionLag {
    lag.forecast.rate_out = Some(40.0);
    lag.forecast.catch_up = None;
    lag.forecast.retention_loss = Some(Duration::from_secs(within));
    lag.forecast.retention_loss_cause = Some(LossCause::Age);
    lag.forecast.risk = Some(RetentionRisk::Near);
    lag
}

/// A group that falls behind, one that catches up, one that is done, and one that nobody has measured.
fn busy() -> Vec<PartitionLag> {
    let mut unmeasured = lag("audit", "orders", 0, 900);
    (unmeasured.forecast, unmeasured.member) = (LagForecast::default(), None);
    let mut idle = lag("mail", "invoices", 0, 0);
    idle.forecast.catch_up = Some(Duration::ZERO);
    vec![
        unmeasured,
        lag("billing", "orders", 0, 5_000),
        lag("billing", "orders", 1, 1_234_567),
        idle,
        at_risk(lag("search", "page-views", 0, 40_000), 482),
    ]
}

struct Stage {
    lags: Vec<PartitionLag>,
    history: History,
    size: Size,
    rows: Rows,
}

impl Stage {
    fn of(lags: Vec<PartitionLag>, columns: usize, rows: usize) -> Self {
        let mut history = History::default();
        for second in 0..60 {
            let then: Vec<PartitionLag> = lags
                .iter()
                .map(|lag| PartitionLag { lag_records: lag.lag_records * second / 60, ..lag.clone() })
                .collect();
            history.push(&then);
        }
        Self { lags, history, size: Size { columns, rows }, rows: Rows::Fitting }
    }

    fn screen(&self) -> Screen<'_> {
        Screen {
            server: "http://127.0.0.1:7171",
            reported_us: Some(EIGHT_US),
            lags: &self.lags,
            history: &self.history,
            away: None,
            nothing: "no group reads anything yet",
            rows: self.rows,
            palette: Palette::Plain,
            size: self.size,
        }
    }

    fn lines(&self) -> Vec<String> {
        draw(&self.screen())
    }
}

fn assert_fits(lines: &[String], size: Size) {
    assert!(lines.len() <= size.rows, "{} lines on {} rows:\n{}", lines.len(), size.rows, lines.join("\n"));
    for line in lines {
        assert!(line.chars().count() <= size.columns, "wider than {}: {line}", size.columns);
    }
}

#[test]
fn a_screen_of_80_columns() {
    let lines = Stage::of(busy(), 80, 24).lines();
    assert_eq!(
        lines,
        [
            "aqueduct lag  http://127.0.0.1:7171  2026-03-01T08:00:00Z",
            "4 groups on 3 topics: 1,280,467 records behind (146.5 MiB), 400/s in, 940/s out",
            "! retention removes events of page-views/0 that search has not read in 8m 2s;",
            "  add members, or: aqueduct topic alter page-views --retention-age …",
            "",
            "GROUP TOPIC                LAG  TREND        AGE  IN/s  OUT/s  CATCH UP  LOSS IN",
            "search page-views/0     40,000  ▂▃▄▄▅▆▇██  6m40s   100     40     never     8m2s",
            "billing orders       1,239,567  ▂▃▄▄▅▆▇██  3h25m   200    600     1h42m        -",
            "  0                      5,000  ▂▃▄▄▅▆▇██  50.0s   100    300     25.0s        -",
            "  1                  1,234,567  ▂▃▄▄▅▆▇██  3h25m   100    300     1h42m        -",
            "audit orders/0             900  ▂▃▄▄▅▆▇██   9.0s     ?      ?         ?        -",
            "mail invoices/0              0  ▁▁▁▁▁▁▁▁▁      -   100    300         -        -",
            "p: all partitions  q: quit",
        ]
    );
}

#[test]
fn a_screen_of_140_columns() {
    let lines = Stage::of(busy(), 140, 24).lines();
    assert_eq!(
        lines,
        [
            "aqueduct lag  http://127.0.0.1:7171  2026-03-01T08:00:00Z",
            "4 groups on 3 topics: 1,280,467 records behind (146.5 MiB), 400/s in, 940/s out",
            "! retention removes events of page-views/0 that search has not read in 8m 2s; add members, or: aqueduct topic alter page-views",
            "  --retention-age …",
            "",
            "GROUP TOPIC                LAG  TREND                               BYTES    AGE  IN/s  OUT/s  CATCH UP  LOSS IN  MEMBER",
            "search page-views/0     40,000  ▂▂▂▂▃▃▃▃▄▄▄▄▄▅▅▅▅▆▆▆▆▇▇▇▇█████    4.5 MiB  6m40s   100     40     never     8m2s  worker-0",
            "billing orders       1,239,567  ▂▂▂▂▃▃▃▃▄▄▄▄▄▅▅▅▅▆▆▆▆▇▇▇▇█████  141.8 MiB  3h25m   200    600     1h42m        -  2 members",
            "  0                      5,000  ▂▂▂▂▃▃▃▃▄▄▄▄▄▅▅▅▅▆▆▆▆▇▇▇▇█████  585.9 KiB  50.0s   100    300     25.0s        -  worker-0",
            "  1                  1,234,567  ▂▂▂▂▃▃▃▃▄▄▄▄▄▅▅▅▅▆▆▆▆▇▇▇▇█████  141.2 MiB  3h25m   100    300     1h42m        -  worker-1",
            "audit orders/0             900  ▂▂▂▂▃▃▃▃▄▄▄▄▄▅▅▅▅▆▆▆▆▇▇▇▇█████  105.4 KiB   9.0s     ?      ?         ?        -  nobody",
            "mail invoices/0              0  ▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁        0 B      -   100    300         -        -  worker-0",
            "p: all partitions  q: quit",
        ]
    );
}

#[test]
fn a_broker_that_is_away_is_told_above_what_was_last_known() {
    let stage = Stage::of(vec![lag("billing", "orders", 0, 5_000)], 80, 24);
    let away = Away { for_: Duration::from_millis(12_345), error: "cannot reach http://127.0.0.1:7171:\nrefused" };
    let lines = draw(&Screen { away: Some(away), ..stage.screen() });
    assert_eq!(lines[2], "no report for 12.0s: cannot reach http://127.0.0.1:7171: refused; trying again");
    assert!(lines.iter().any(|line| line.contains("5,000")), "{lines:?}");
    let nothing_yet = draw(&Screen { away: Some(away), reported_us: None, lags: &[], ..stage.screen() });
    assert_eq!(nothing_yet[0], "aqueduct lag  http://127.0.0.1:7171  waiting for the first report");
    assert_eq!(nothing_yet.len(), 3, "{nothing_yet:?}");
}

#[test]
fn nobody_who_reads_is_told_as_such() {
    let lines = Stage::of(Vec::new(), 80, 24).lines();
    assert_eq!(lines[3..], ["no group reads anything yet"]);
}

#[test]
fn a_hundred_partitions_are_one_row_unless_all_are_wanted() {
    let lags: Vec<_> =
        (0..100).map(|partition| lag("billing", "orders", partition, 500 + u64::from(partition))).collect();
    let mut stage = Stage::of(lags, 80, 24);
    let lines = stage.lines();
    assert_eq!(lines.iter().filter(|line| line.starts_with("billing orders ")).count(), 1);
    assert_eq!(lines.last().map(String::as_str), Some("p: all partitions  q: quit"));
    assert_eq!(lines.len(), 6, "{lines:?}");
    stage.rows = Rows::Partitions;
    let lines = stage.lines();
    assert_fits(&lines, stage.size);
    assert!(lines[5].starts_with("  99 "), "the most urgent first: {}", lines[5]);
    assert_eq!(lines.len(), 24);
    assert_eq!(lines[23], "… 82 more, less urgent  p: fewer partitions  q: quit");
    stage.size.rows = 200;
    assert_eq!(stage.lines().len(), 106, "all of them fit");
}

#[test]
fn nothing_is_wider_or_longer_than_the_terminal_whatever_its_size() {
    for seed in 0..300 {
        let mut random = fastrand::Rng::with_seed(seed);
        let lags: Vec<_> = (0..random.u32(0..60))
            .map(|n| {
                let group = "g".repeat(random.usize(1..60));
                let digits = random.u32(20..64);
                let lag = lag(&group, "topic", n, random.u64(0..u64::MAX >> digits));
                if random.bool() { at_risk(lag, random.u64(0..10_000)) } else { lag }
            })
            .collect();
        let mut stage = Stage::of(lags, random.usize(1..220), random.usize(1..60));
        if random.bool() {
            stage.rows = Rows::Partitions;
        }
        let lines = stage.lines();
        assert!(lines.len() <= stage.size.rows, "seed {seed}");
        if stage.size.columns >= 80 {
            assert_fits(&lines, stage.size);
        }
    }
}

#[test]
fn colours_are_used_only_where_they_are_wanted() {
    let stage = Stage::of(busy(), 120, 24);
    let coloured = draw(&Screen { palette: Palette::Colour, ..stage.screen() });
    assert!(coloured.iter().any(|line| line.contains("\x1b[31m")), "{coloured:?}");
    let mut plain = coloured.join("\n");
    for code in ["0", "1", "2", "31", "32", "33"] {
        plain = plain.replace(&format!("\x1b[{code}m"), "");
    }
    let trimmed: Vec<&str> = plain.lines().map(str::trim_end).collect();
    assert_eq!(trimmed.join("\n"), stage.lines().join("\n"));
}
