//! `lag --watch`: report after report, as text or JSON, or as a live table on a terminal.

use std::io::{self, IsTerminal as _};
use std::time::{Duration, Instant};

use aqueduct_client::{Client, LagWatch, PartitionLag, RequestError};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::history::History;
use super::json::LagJson;
use super::screen::{self, Away, Palette, Rows, Screen};
use super::terminal::Terminal;
use super::{LagArgs, nothing, retain_topic, table};
use crate::cli::render::{self, Format};
use crate::cli::session::Session;
use crate::cli::{Global, interrupted, stdout, time};

/// Between two tries to reach a broker that is away.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

pub(super) async fn watch(global: &Global, args: &LagArgs, session: &Session) -> anyhow::Result<()> {
    if let Some(group) = &args.group {
        // Says so if there is no such group.
        session.client.group(group).describe().await?;
    }
    if global.output == Format::Text && io::stdout().is_terminal() {
        live(global, args, &session.client).await
    } else {
        report(global, args, &session.client).await
    }
}

async fn open(client: &Client, args: &LagArgs) -> Result<LagWatch, RequestError> {
    match &args.group {
        Some(group) => client.group(group).watch_lag(args.topic.as_deref(), args.interval).await,
        None => client.groups().watch_lag(args.interval).await,
    }
}

/// One block after the other, for files and programs. A lost connection is the end.
async fn report(global: &Global, args: &LagArgs, client: &Client) -> anyhow::Result<()> {
    let mut reports = open(client, args).await?;
    let mut interrupted = std::pin::pin!(interrupted());
    loop {
        let report = tokio::select! {
            () = &mut interrupted => return Ok(()),
            report = reports.next() => report,
        };
        let Some(report) = report else { return Ok(()) };
        let mut lag = report?;
        retain_topic(&mut lag, args.topic.as_deref());
        match global.output {
            Format::Json => render::print_json(lag.iter().map(LagJson::from))?,
            Format::Text => {
                let text = if lag.is_empty() { format!("{}\n", nothing(args)) } else { table(&lag) };
                stdout::print(&format!("{}\n\n{text}\n", time::rfc3339_seconds(time::now_us())))?;
            }
        }
    }
}

/// A table that is drawn over itself until somebody has seen enough.
async fn live(global: &Global, args: &LagArgs, client: &Client) -> anyhow::Result<()> {
    let (sender, mut reports) = mpsc::channel(1);
    tokio::spawn(follow(client.clone(), args.clone(), sender));
    let mut resized = signal(SignalKind::window_change())?;
    let mut interrupted = std::pin::pin!(interrupted());
    // So that it can be seen for how long the broker has been away.
    let mut clock = tokio::time::interval(Duration::from_secs(1));
    let mut state = State::new(args);
    let terminal = Terminal::enter()?;
    let mut keys = terminal.keys();
    loop {
        tokio::select! {
            () = &mut interrupted => return Ok(()),
            report = reports.recv() => match report {
                Some(report) => state.take(report, args),
                None => return Ok(()),
            },
            Some(key) = keys.recv() => match key {
                b'q' => return Ok(()),
                b'p' => state.rows = state.rows.other(),
                _ => continue,
            },
            _ = resized.recv() => {}
            _ = clock.tick() => {}
        }
        terminal.draw(&state.lines(global, args))?;
    }
}

/// What the live table shows.
struct State {
    lags: Vec<PartitionLag>,
    reported_us: Option<i64>,
    history: History,
    away: Option<(Instant, String)>,
    rows: Rows,
    palette: Palette,
}

impl State {
    fn new(args: &LagArgs) -> Self {
        Self {
            lags: Vec::new(),
            reported_us: None,
            history: History::default(),
            away: None,
            rows: if args.partitions { Rows::Partitions } else { Rows::Fitting },
            palette: Palette::of_environment(),
        }
    }

    fn take(&mut self, report: Result<Vec<PartitionLag>, RequestError>, args: &LagArgs) {
        match report {
            Ok(mut lags) => {
                retain_topic(&mut lags, args.topic.as_deref());
                self.history.push(&lags);
                self.lags = lags;
                self.reported_us = Some(time::now_us());
                self.away = None;
            }
            Err(error) => {
                let since = self.away.as_ref().map_or_else(Instant::now, |(since, _)| *since);
                self.away = Some((since, error.to_string()));
            }
        }
    }

    fn lines(&self, global: &Global, args: &LagArgs) -> Vec<String> {
        let away = self.away.as_ref().map(|(since, error)| Away { for_: since.elapsed(), error });
        screen::draw(&Screen {
            server: &global.server,
            reported_us: self.reported_us,
            lags: &self.lags,
            history: &self.history,
            away,
            nothing: &nothing(args),
            rows: self.rows,
            palette: self.palette,
            size: Terminal::size(),
        })
    }
}

/// Sends every report; goes on after the broker was away. Ends when nobody takes them any more.
async fn follow(client: Client, args: LagArgs, reports: mpsc::Sender<Result<Vec<PartitionLag>, RequestError>>) {
    loop {
        match open(&client, &args).await {
            Ok(mut watch) => {
                while let Some(report) = watch.next().await {
                    if reports.send(report).await.is_err() {
                        return;
                    }
                }
            }
            Err(error) => {
                if reports.send(Err(error)).await.is_err() {
                    return;
                }
            }
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}
