//! One data directory and the brokers that live and die on it, with programs that publish, consume and administer.

use std::{
    collections::BTreeMap,
    os::unix::process::ExitStatusExt as _,
    time::{Duration, Instant},
};

use aqueduct_tests::{BrokerProcess, Launch, Output, Running, Stopped, aqueduct, until};

use crate::{
    ledger::{Ledger, Run},
    points::{Deaths, Point},
};

/// Kept for ever, consumed by [`GROUP`].
const ORDERS: &str = "orders";
const PARTITIONS: u32 = 2;
const GROUP: &str = "billing";
/// Kept up to [`RETENTION_BYTES`].
const TICKS: &str = "ticks";
const RETENTION_BYTES: usize = 128 * 1024;
/// Lines have up to so many bytes: a round fills a segment, about.
const LINE_BYTES_MAX: usize = 1500;
const LINES_AT_A_TIME: usize = 12;
/// Events that a check reads although they were read before.
const OVERLAP: u64 = 500;
/// A broker that its client could not reach is about to end.
const DYING: Duration = Duration::from_secs(10);

/// What is known of a topic that was to be made or deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Existence {
    Certain(Present),
    /// No answer came.
    Unknown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Present {
    Yes,
    No,
}

pub(crate) struct Campaign {
    random: fastrand::Rng,
    started: Instant,
    stopped: Option<Stopped>,
    pub(crate) deaths: Deaths,
    orders: Ledger,
    ticks: Ledger,
    runs: BTreeMap<&'static str, Vec<Run>>,
    scratch: BTreeMap<String, Existence>,
    checks: u32,
}

/// Commands at work on a broker.
struct Traffic {
    publishers: Vec<Publisher>,
    consumer: Running,
    reader: Running,
    /// What the group has committed, again and again.
    lag: Running,
    admin: Vec<Admin>,
}

/// Publishes its lines a few at a time, so that there is much to be killed between.
struct Publisher {
    topic: &'static str,
    run: Run,
    command: Running,
    fed: usize,
}

/// A command that makes or deletes a topic.
struct Admin {
    topic: String,
    wanted: Present,
    command: Running,
}

impl Publisher {
    /// More lines, once those before have their receipts.
    fn feed(&mut self) {
        if self.fed == self.run.lines.len() {
            self.command.end_input();
        } else if self.command.lines() == self.fed {
            let until = self.run.lines.len().min(self.fed + LINES_AT_A_TIME);
            self.command.feed(&self.run.input(self.fed..until));
            self.fed = until;
        }
    }
}

impl Traffic {
    /// The reader and the watcher of the lag do not end by themselves.
    fn has_ended(&mut self) -> bool {
        self.publishers.iter_mut().for_each(Publisher::feed);
        let publishers = self.publishers.iter_mut().map(|publisher| &mut publisher.command);
        let admin = self.admin.iter_mut().map(|admin| &mut admin.command);
        publishers.chain(admin).chain([&mut self.consumer]).all(Running::has_ended)
    }

    fn receipts(&self) -> usize {
        self.publishers.iter().map(|publisher| publisher.command.lines()).sum()
    }
}

impl Campaign {
    pub(crate) fn start(seed: u64) -> Self {
        // One thread writes and syncs, so that it makes enough calls to be killed at.
        let sets = ["--set", "segment_bytes=64KiB", "--set", "retention_interval=100ms", "--set", "io_threads=1"];
        let broker = BrokerProcess::launch(Launch::with_args(&sets));
        let url = broker.url();
        let create = |words: &[&str]| aqueduct(Some(&url), &[&["topic", "create"], words].concat()).success();
        create(&[ORDERS, "--partitions", &PARTITIONS.to_string()]);
        create(&[TICKS, "--retention-bytes", &RETENTION_BYTES.to_string()]);
        aqueduct(Some(&url), &["group", "create", GROUP]).success();
        Self {
            random: fastrand::Rng::with_seed(seed),
            started: Instant::now(),
            stopped: Some(broker.kill()),
            deaths: Deaths::default(),
            orders: Ledger::default(),
            ticks: Ledger::default(),
            runs: BTreeMap::new(),
            scratch: BTreeMap::new(),
            checks: 0,
        }
    }

    /// A broker that dies at a system call, in recovery or under load; if it does not come to that, at the end of the load.
    pub(crate) fn die_at_a_call(&mut self) {
        let point = Point::random(&mut self.random);
        let mut stopped = self.stopped.take().expect("no broker runs");
        stopped.launch.wrapper = point.wrapper();
        let mut broker = match stopped.try_restart() {
            Ok(broker) => broker,
            Err(ended) => {
                assert_eq!(ended.status.signal(), Some(9), "{point:?}: it ended by itself:\n{}", ended.log);
                self.deaths.at(point);
                self.deaths.in_recovery += 1;
                self.stopped = Some(ended.stopped);
                return;
            }
        };
        let mut traffic = self.traffic(&broker.url());
        until("the commands end, or the broker does", || {
            (traffic.has_ended() || broker.ended().is_some()).then_some(())
        });
        self.witness(traffic, &mut broker);
        match broker.ended().is_some() {
            true => self.deaths.at(point),
            false => self.deaths.at_a_moment(),
        }
        self.stopped = Some(broker.kill());
    }

    /// A broker that nobody traces: everything is checked, then it works until it is killed.
    pub(crate) fn check_and_die_at_a_moment(&mut self) {
        let mut broker = self.restart();
        self.check(&broker.url(), OVERLAP);
        let mut traffic = self.traffic(&broker.url());
        let receipts_until_death = self.random.usize(0..200);
        until("some receipts are printed, or all", || {
            (traffic.has_ended() || traffic.receipts() >= receipts_until_death).then_some(())
        });
        broker.send_sigkill();
        self.deaths.at_a_moment();
        self.witness(traffic, &mut broker);
        self.stopped = Some(broker.kill());
    }

    /// Reads everything from the beginning, and prints what the campaign was.
    pub(crate) fn finish(mut self) {
        let broker = self.restart();
        self.check(&broker.url(), u64::MAX);
        println!("{}", self.deaths.summary());
        println!(
            "{} receipts and {} deliveries held in {} checks; {} topics made, log start of {TICKS} {}; {:?}",
            self.orders.receipts + self.ticks.receipts,
            self.orders.deliveries + self.ticks.deliveries,
            self.checks,
            self.scratch.len(),
            self.ticks.log_start(0),
            self.started.elapsed()
        );
        assert!(self.deaths.missed().is_empty(), "no broker died at {:?}", self.deaths.missed());
        assert!(self.ticks.log_start(0) > 0, "retention never had anything to do");
    }

    fn restart(&mut self) -> BrokerProcess {
        let mut stopped = self.stopped.take().expect("no broker runs");
        stopped.launch.wrapper.clear();
        stopped.restart()
    }

    /// Everything at once: publishers, a member of the group, a reader, topics made and deleted.
    fn traffic(&mut self, url: &str) -> Traffic {
        let start = |words: &[&str]| Running::start(Some(url), &[words, &["--output", "json"]].concat());
        let mut publishers = Vec::new();
        for (topic, partition) in [(ORDERS, 0), (ORDERS, 1), (TICKS, 0)] {
            let run = self.new_run(topic, partition);
            let command = start(&["publish", topic, "--partition", &partition.to_string()]);
            publishers.push(Publisher { topic, run, command, fed: 0 });
        }
        let consumer = start(&["subscribe", ORDERS, "--group", GROUP, "--until-end"]);
        let reader = start(&["subscribe", TICKS, "--from", "latest"]);
        let lag = start(&["lag", GROUP, "--watch", "--interval", "10ms"]);
        let number = self.scratch.len();
        let to_delete = self.scratch.iter().find(|(_, existence)| **existence == Existence::Certain(Present::Yes));
        let to_delete = to_delete.map(|(topic, _)| topic.clone());
        let new = format!("scratch-{number:04}");
        let mut admin = vec![Admin {
            command: start(&["topic", "create", &new, "--partitions", "2"]),
            topic: new,
            wanted: Present::Yes,
        }];
        if let Some(topic) = to_delete {
            let command = start(&["topic", "delete", &topic, "--yes"]);
            admin.push(Admin { command, topic, wanted: Present::No });
        }
        for admin in &admin {
            self.scratch.insert(admin.topic.clone(), Existence::Unknown);
        }
        Traffic { publishers, consumer, reader, lag, admin }
    }

    fn new_run(&mut self, topic: &'static str, partition: u32) -> Run {
        let number = self.runs.entry(topic).or_default().len();
        let lines = self.random.usize(20..300);
        let mut line = |line: usize| format!("{number} {line} {}", "x".repeat(self.random.usize(0..LINE_BYTES_MAX)));
        Run { name: number.to_string(), partition, lines: (0..lines).map(&mut line).collect() }
    }

    /// Writes down what the commands printed. Those that still run are killed; those that failed by themselves may have
    /// done so only because the broker died.
    fn witness(&mut self, traffic: Traffic, broker: &mut BrokerProcess) {
        let mut collect = |mut command: Running| -> Output {
            let by_itself = command.has_ended();
            let output = command.kill();
            if by_itself && output.code != 0 {
                let started = Instant::now();
                let dies = || (broker.ended().is_some() || started.elapsed() > DYING).then_some(());
                until("the broker that could not be reached ends", dies);
                assert!(broker.ended().is_some(), "a command failed on a broker that lives: {output:?}");
            }
            output
        };
        for Publisher { topic, run, command, .. } in traffic.publishers {
            let output = collect(command);
            let ledger = if topic == ORDERS { &mut self.orders } else { &mut self.ticks };
            ledger.receipts(&run, &output);
            self.runs.entry(topic).or_default().push(run);
        }
        let consumed = collect(traffic.consumer);
        self.orders.consumed(&consumed);
        self.orders.lag(&traffic.lag.kill());
        self.orders.acknowledged(&consumed);
        self.ticks.seen(&traffic.reader.kill());
        for Admin { topic, wanted, command } in traffic.admin {
            if collect(command).code == 0 {
                self.scratch.insert(topic, Existence::Certain(wanted));
            }
        }
    }

    fn check(&mut self, url: &str, overlap: u64) {
        let run = |words: &[&str]| aqueduct(Some(url), &[words, &["--output", "json"]].concat());
        let read = |topic: &str, partition: u32, from: &str| {
            let partition = partition.to_string();
            run(&["subscribe", topic, "--partition", &partition, "--from", from, "--until-end"]).success()
        };
        for partition in 0..PARTITIONS {
            let from = self.orders.frontier(partition, overlap);
            self.orders.complete(partition, from, &read(ORDERS, partition, &from.to_string()));
        }
        self.ticks.complete(0, self.ticks.log_start(0), &read(TICKS, 0, "earliest"));
        let kept = self.ticks.kept_bytes(0);
        assert!(self.ticks.log_start(0) == 0 || kept > RETENTION_BYTES / 3, "retention left only {kept} bytes");
        self.orders.runs_are_whole(self.runs.get(ORDERS).map_or(&[], Vec::as_slice));
        self.orders.lag(&run(&["lag", GROUP]).success());
        let topics = run(&["topic", "list"]).success().json_lines();
        for (topic, existence) in &mut self.scratch {
            let is_there = topics.iter().any(|line| line["name"] == topic.as_str());
            let now = Existence::Certain(if is_there { Present::Yes } else { Present::No });
            assert!(*existence == now || *existence == Existence::Unknown, "{topic} was {existence:?} and is {now:?}");
            *existence = now;
        }
        self.checks += 1;
    }
}
