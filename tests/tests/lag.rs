//! Lag that tells when to act: rates, forecasts and warnings, against what retention really does.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use aqueduct::{BrokerConfig, testing::TestBroker};
use aqueduct_client::{Client, GroupPolicy, LossCause, PartitionLag, Record, RetentionRisk};
use aqueduct_tests::{BrokerProcess, Launch, aqueduct, aqueduct_binary, aqueduct_command, eventually, until};
use tonic::transport::Channel;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

const MINUTE: Duration = Duration::from_secs(60);

/// A broker whose clock is set forward, and how far it has come since the beginning.
struct Advanced {
    broker: TestBroker,
    client: Client,
    begun: Instant,
    ahead: Duration,
}

impl Advanced {
    /// With a group that has read nothing of `orders`.
    async fn start(retention_age: Option<Duration>, retention_bytes: Option<u64>) -> Self {
        let config = BrokerConfig { retention_interval: Duration::from_millis(100), ..BrokerConfig::default() };
        let broker = TestBroker::start_with(config).await.expect("a broker");
        let client = broker.client();
        let mut orders = client.topics().create("orders").segment_bytes(64 << 10);
        if let Some(age) = retention_age {
            orders = orders.retention_age(age);
        }
        if let Some(bytes) = retention_bytes {
            orders = orders.retention_bytes(bytes);
        }
        orders.build().await.expect("a new topic");
        // Retention passes over topics in order of their names: when it was here, it was there.
        let ticks = client.topics().create("ticks").retention_age(Duration::from_secs(1));
        ticks.build().await.expect("a new topic");
        let group = client.group("billing");
        group.create(GroupPolicy::default()).await.expect("a new group");
        group.commit("orders", [(0, 0)]).await.expect("committed");
        Self { broker, client, begun: Instant::now(), ahead: Duration::ZERO }
    }

    /// Since the beginning, by the broker's clock, and no less.
    fn now(&self) -> Duration {
        self.begun.elapsed() + self.ahead
    }

    /// Sets the clock forward and waits until retention has done what there is to do by then.
    async fn advance(&mut self, by: Duration) {
        let tick = self.client.publish("ticks", Record::new("tick")).await.expect("a receipt");
        self.broker.advance(by);
        self.ahead += by;
        eventually("retention has passed", async || {
            let ticks = self.client.topics().describe("ticks").await.expect("a description");
            (ticks.partitions[0].log_start > tick.offset).then_some(())
        })
        .await;
    }

    async fn publish(&self, bytes: usize) {
        self.client.publish("orders", Record::new(vec![b'x'; bytes])).await.expect("a receipt");
    }

    async fn lag(&self) -> PartitionLag {
        self.client.group("billing").lag("orders").await.expect("a report").remove(0)
    }
}

/// Waits until the broker has measured.
async fn measured(client: &Client) -> PartitionLag {
    eventually("rates are known", async || {
        let lag = client.group("billing").lag("orders").await.expect("a report").remove(0);
        (lag.forecast.rate_in.is_some() && lag.forecast.rate_out.is_some()).then_some(lag)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_loss_by_age_is_foretold_no_later_than_it_happens_and_warned_of_before() {
    let mut advanced = Advanced::start(Some(60 * MINUTE), None).await;
    advanced.publish(100).await;
    measured(&advanced.client).await;
    let mut foretold = None;
    let mut warned = Vec::new();
    for _ in 0..40 {
        let lag = advanced.lag().await;
        if lag.lost_records() > 0 {
            let foretold = foretold.expect("a forecast before it happened");
            assert!(foretold <= advanced.now(), "foretold for {foretold:?}, lost by {:?}", advanced.now());
            assert!(advanced.now() < 90 * MINUTE, "an hour is kept, and a step");
            assert_eq!(lag.forecast.risk, Some(RetentionRisk::Lost));
            assert_eq!(warned.first(), Some(&None), "not from the beginning");
            assert_eq!(warned.last(), Some(&Some(RetentionRisk::Near)), "{warned:?}");
            return;
        }
        assert_eq!(lag.forecast.retention_loss_cause, Some(LossCause::Age));
        foretold = Some(advanced.now() + lag.forecast.retention_loss.expect("a forecast"));
        warned.push(lag.forecast.risk);
        advanced.advance(5 * MINUTE).await;
    }
    panic!("retention has removed nothing: this test tests nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_loss_by_bytes_is_foretold_no_later_than_it_happens() {
    let mut advanced = Advanced::start(None, Some(256 << 10)).await;
    measured(&advanced.client).await;
    // When, by the forecasts that were made on the way. By then the rate has settled.
    let mut foretold: Vec<(Duration, Duration)> = Vec::new();
    for step in 0..200 {
        advanced.publish(4 << 10).await;
        advanced.advance(Duration::from_secs(2)).await;
        let lag = advanced.lag().await;
        if lag.lost_records() > 0 {
            let lost = advanced.now();
            assert!(foretold.len() > 20, "this test tests nothing: {foretold:?}");
            for (at, within) in foretold {
                // The rate is a mean over steps: a fifth is more than it can be off.
                assert!(at + within.mul_f64(0.8) <= lost, "at {at:?} foretold within {within:?}, lost by {lost:?}");
            }
            return;
        }
        if step > 10
            && let Some(within) = lag.forecast.retention_loss
        {
            assert_eq!(lag.forecast.retention_loss_cause, Some(LossCause::Bytes));
            foretold.push((advanced.now(), within));
        }
    }
    panic!("retention has removed nothing: this test tests nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_begins_without_rates_and_measures_anew() {
    let advanced = Advanced::start(None, None).await;
    advanced.publish(100).await;
    measured(&advanced.client).await;
    let Advanced { broker, client, .. } = advanced;
    drop(client);
    let broker = broker.restart().await.expect("it starts again");
    measured(&broker.client()).await;
}

/// What a broker says of a group that will lose events, everywhere it says it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_will_lose_events_is_named_in_the_log_by_lag_and_by_info_once_for_each_episode() {
    let broker = BrokerProcess::launch(Launch::with_args(&["--set", "retention_interval=100ms"]));
    let (client, url) = (broker.client().await, broker.url());
    let orders = client.topics().create("orders").segment_bytes(64 << 10).retention_bytes(1 << 20);
    orders.build().await.expect("a new topic");
    let group = client.group("billing");
    group.create(GroupPolicy::default()).await.expect("a new group");
    group.commit("orders", [(0, 0)]).await.expect("committed");
    measured(&client).await;
    let producer = client.producer("orders").build().await.expect("a producer");
    let publish = async |records: usize| {
        for _ in 0..records {
            producer.publish(Record::new(vec![b'x'; 16 << 10])).await.expect("a receipt");
        }
    };
    let risk = async |expected: RetentionRisk| {
        eventually("the risk is seen", async || {
            let lag = group.lag("orders").await.expect("a report").remove(0);
            (lag.forecast.risk == Some(expected)).then_some(())
        })
        .await;
    };
    let in_the_log = |words: &str| broker.log().lines().filter(|line| line.contains(words)).count();

    publish(60).await;
    risk(RetentionRisk::Near).await;
    eventually("it is logged", async || (in_the_log("retention will begin to remove") == 1).then_some(())).await;
    let line = broker.log().lines().find(|line| line.contains("will begin to remove")).expect("the line").to_owned();
    for word in ["WARN", "billing", "orders", "partition=0", "aqueduct topic alter orders --retention-bytes 2097152"] {
        assert!(line.contains(word), "no {word:?} in {line}");
    }
    let info = client.info().await.expect("its information");
    assert_eq!(info.at_risk.iter().map(|lag| lag.group.as_str()).collect::<Vec<_>>(), ["billing"]);
    let shown = aqueduct(Some(&url), &["info"]).success().stdout;
    assert!(shown.contains("every partition takes writes"), "it is not unhealthy:\n{shown}");
    assert!(shown.contains("retention removes events of orders/0 that billing has not read"), "{shown}");
    let channel = Channel::from_shared(url.clone()).expect("a URL").connect().await.expect("the broker listens");
    let request = HealthCheckRequest { service: "aqueduct.v1.Log".to_owned() };
    let status = HealthClient::new(channel).check(request).await.expect("an answer").into_inner().status();
    assert_eq!(status, ServingStatus::Serving);
    let said = aqueduct(Some(&url), &["lag"]).success();
    assert!(said.stderr.contains("warning: retention removes events of orders/0"), "{}", said.stderr);
    assert!(said.stdout.contains("LOSS IN"), "{}", said.stdout);
    let json = aqueduct(Some(&url), &["lag", "--output", "json"]).success();
    assert_eq!(json.stderr, "", "programs read it from standard output");
    let lag = &json.json_lines()[0];
    assert_eq!(lag["retention_risk"], "near");
    for field in ["rate_in", "rate_out", "bytes_in", "retention_loss_seconds"] {
        assert!(lag[field].is_number(), "no {field} in {lag}");
    }
    assert!(lag["catch_up_seconds"].is_null(), "it never does: {lag}");

    let seen = group.lag("orders").await.expect("a report")[0].forecast.bytes_in.expect("a rate");
    eventually("the broker looks several times more", async || {
        let now = group.lag("orders").await.expect("a report")[0].forecast.bytes_in.expect("a rate");
        (now < 0.85 * seen).then_some(())
    })
    .await;
    assert_eq!(in_the_log("retention will begin to remove"), 1, "once is enough:\n{}", broker.log());

    publish(30).await;
    risk(RetentionRisk::Lost).await;
    eventually("it is logged", async || (in_the_log("were removed before the group had read them") == 1).then_some(()))
        .await;
    let said = aqueduct(Some(&url), &["lag", "billing"]).success().stderr;
    assert!(said.contains("warning: billing has lost"), "{said}");

    // What is read, or passed over, is no risk any more.
    let end = group.lag("orders").await.expect("a report")[0].high_watermark;
    group.commit("orders", [(0, end)]).await.expect("committed");
    eventually("the risk is over", async || client.info().await.expect("information").at_risk.is_empty().then_some(()))
        .await;
    let lag = group.lag("orders").await.expect("a report").remove(0);
    assert_eq!(
        (lag.forecast.catch_up, lag.forecast.retention_loss, lag.forecast.risk),
        (Some(Duration::ZERO), None, None)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_is_no_terminal_prints_one_report_after_the_other() {
    let broker = BrokerProcess::start();
    let client = broker.client().await;
    client.topics().create("orders").build().await.expect("a new topic");
    let group = client.group("billing");
    group.create(GroupPolicy::default()).await.expect("a new group");
    group.commit("orders", [(0, 0)]).await.expect("committed");
    for (output, marks) in [("text", "billing"), ("json", "\"retention_risk\":null")] {
        let mut command = aqueduct_command();
        let words = ["lag", "--watch", "--interval", "100ms", "--output", output, "--server", &broker.url()];
        let mut watching = command.args(words).stdout(Stdio::piped()).spawn().expect("it starts");
        let lines = BufReader::new(watching.stdout.take().expect("a pipe")).lines().map_while(Result::ok);
        let reports: Vec<String> = lines.filter(|line| line.contains(marks)).take(3).collect();
        assert_eq!(reports.len(), 3);
        assert!(reports.iter().all(|line| !line.contains('\x1b')), "{reports:?}");
        watching.kill().expect("it was running");
        watching.wait().expect("it ends");
    }
}

/// `lag --watch` on a terminal, which `script` of util-linux makes.
struct OnTerminal {
    script: Child,
    shown: Arc<Mutex<String>>,
}

impl OnTerminal {
    fn watch(url: &str) -> Self {
        let command = format!("{} lag --watch --interval 100ms --server {url}", aqueduct_binary().display());
        let mut script = Command::new("script")
            .args(["--quiet", "--return", "--command", &command, "/dev/null"])
            .env("NO_COLOR", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("`script` is needed for a terminal: install the package `bsdutils`");
        let mut output = script.stdout.take().expect("a pipe");
        let shown = Arc::new(Mutex::new(String::new()));
        let collected = Arc::clone(&shown);
        thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(bytes @ 1..) = output.read(&mut piece) {
                collected.lock().expect("the screen").push_str(&String::from_utf8_lossy(&piece[..bytes]));
            }
        });
        Self { script, shown }
    }

    fn everything(&self) -> String {
        self.shown.lock().expect("the screen").clone()
    }

    /// The last screen that was drawn to its end.
    fn screen(&self) -> String {
        let everything = self.everything();
        let mut screens = everything.rsplit("\x1b[H");
        screens.find(|screen| screen.contains("\x1b[J")).unwrap_or_default().to_owned()
    }
}

impl Drop for OnTerminal {
    fn drop(&mut self) {
        // It has ended by itself, if all is well.
        let _ = self.script.kill();
        let _ = self.script.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_live_table_outlives_the_broker_and_gives_the_terminal_back() {
    let broker = BrokerProcess::start();
    let client = broker.client().await;
    client.topics().create("orders").build().await.expect("a new topic");
    client.group("billing").create(GroupPolicy::default()).await.expect("a new group");
    client.group("billing").commit("orders", [(0, 0)]).await.expect("committed");
    let mut terminal = OnTerminal::watch(&broker.url());
    let shows = |terminal: &OnTerminal, words: &str| terminal.screen().contains(words).then_some(());
    until("the group is on the screen", || shows(&terminal, "billing orders/0"));
    let stopped = broker.kill();
    until("it says that the broker is away", || shows(&terminal, "trying again"));
    shows(&terminal, "billing orders/0").expect("what was last known stays");
    let broker = stopped.restart();
    client.publish("orders", Record::new("one")).await.expect("a receipt");
    until("it goes on", || shows(&terminal, "1 record behind"));
    assert_eq!(shows(&terminal, "trying again"), None, "it has come back");
    terminal.script.stdin.as_mut().expect("a pipe").write_all(b"q").expect("typed");
    let status = until("it ends", || terminal.script.try_wait().expect("its status"));
    assert!(status.success(), "{status}");
    until("the terminal is given back", || terminal.everything().ends_with("\x1b[?25h\x1b[?1049l").then_some(()));
    assert!(terminal.everything().starts_with("\x1b[?1049h\x1b[?25l"));
    drop(broker);
}
