//! Members as processes of their own: killed, restarted, and brought down by what they are given.

use std::{
    collections::BTreeSet,
    process::{Child, Command, Stdio},
    time::Duration,
};

use aqueduct_client::{Client, LetterFilter, Record, RetryPolicy};
use aqueduct_tests::{BrokerProcess, aqueduct, aqueduct_command, eventually, text, within};

/// Set for the process that [`handler`] is: which broker it works for.
const HANDLER_OF: &str = "AQUEDUCT_TEST_HANDLER_OF";

/// Killed when it is dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().expect("it can be killed");
        self.0.wait().expect("it ends");
    }
}

fn subscriber(url: &str, name: &str) -> Process {
    let words = ["subscribe", "orders", "--group", "billing", "--member", name, "--keep", "9m"];
    let mut command = aqueduct_command();
    Process(
        command
            .args(["--server", url])
            .args(words)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("it starts"),
    )
}

/// Which partitions the members have that are there, once each has two.
async fn shares(client: &Client, names: [&str; 2]) -> [BTreeSet<u32>; 2] {
    eventually("everybody has a share", async || {
        let members = client.group("billing").describe().await.ok()?.members;
        let share = |name: &str| {
            let member = members.iter().find(|member| member.name == name && member.away_until.is_none())?;
            let share: BTreeSet<u32> = member.partitions.iter().copied().collect();
            (share.len() == 2).then_some(share)
        };
        Some([share(names[0])?, share(names[1])?])
    })
    .await
}

#[tokio::test]
async fn a_killed_process_with_a_static_name_finds_its_partitions_when_it_starts_again() {
    let broker = BrokerProcess::start();
    let (client, url) = (broker.client().await, broker.url());
    client.topics().create("orders").partitions(4).build().await.expect("a new topic");
    let names = ["pod-0", "pod-1"];
    let mut processes = names.map(|name| subscriber(&url, name));
    let before = shares(&client, names).await;
    for (process, name) in processes.iter_mut().zip(names) {
        process.0.kill().expect("it can be killed");
        let away = eventually("it is away", async || {
            let members = client.group("billing").describe().await.expect("a description").members;
            members.into_iter().find(|member| member.name == name && member.away_until.is_some())
        });
        away.await;
        let described = aqueduct(Some(&url), &["group", "describe", "billing"]).success().stdout;
        assert!(described.contains(&format!("{name} is away; orders/")), "{described}");
        *process = subscriber(&url, name);
        assert_eq!(shares(&client, names).await, before);
    }
}

#[tokio::test]
async fn a_stopped_process_is_named_and_its_records_go_to_others() {
    const RECORDS: u64 = 200;
    let broker = BrokerProcess::start();
    let (client, url) = (broker.client().await, broker.url());
    client.topics().create("orders").partitions(2).build().await.expect("a new topic");
    let records =
        (0..RECORDS).map(|number| Record::new(format!("{number} {}", "x".repeat(1000))).key(number.to_string()));
    client.publish_many("orders", records).await.expect("receipts");
    let words =
        ["group", "create", "billing", "--ack-timeout", "300ms", "--backoff-min", "1ms", "--backoff-max", "1ms"];
    aqueduct(Some(&url), &words).success();
    // Nobody takes what it prints, so that it stands with records in its hands; and then it is stopped.
    let mut command = aqueduct_command();
    command.args(["--server", &url, "subscribe", "orders", "--group", "billing", "--member", "sleeper"]);
    let sleeper = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it starts");
    let sleeper = Process(sleeper);
    let group = client.group("billing");
    eventually("it has records", async || {
        let members = group.describe().await.expect("a description").members;
        members.iter().any(|member| member.name == "sleeper" && member.open_records > 0).then_some(())
    })
    .await;
    let pid = sleeper.0.id().to_string();
    assert!(Command::new("kill").args(["-STOP", &pid]).status().expect("kill runs").success());

    let mut heir = client.consumer("orders", "billing").build().await.expect("a member");
    let all_settled = async || {
        let lag = group.lag("orders").await.expect("a report");
        lag.iter().all(|lag| lag.lag_records == 0).then_some(())
    };
    let handling = async {
        loop {
            heir.next().await.expect("it goes on").expect("a delivery").ack();
        }
    };
    tokio::select! {
        () = eventually("everything is handled", all_settled) => {}
        () = handling => {}
    }
    let named = eventually("it is named", async || {
        let taken_out = group.describe().await.expect("a description").taken_out;
        taken_out.into_iter().find(|member| member.name == "sleeper")
    })
    .await;
    assert_eq!(named.reason, "MEMBER_STUCK", "{named:?}");
    let described = aqueduct(Some(&url), &["group", "describe", "billing"]).success().stdout;
    assert!(described.contains("sleeper (orders) was taken out at"), "{described}");
    let logged = async || {
        let log = broker.log();
        log.lines().any(|line| line.contains("member taken out") && line.contains("sleeper")).then_some(())
    };
    eventually("the log says so", logged).await;
    let mut dead = Vec::new();
    let letters = client.dead_letters("orders", "billing");
    letters.read(&LetterFilter::default(), |letter| dead.push(letter)).await.expect("letters");
    assert!(dead.is_empty(), "nothing is wrong with the records: {dead:?}");
}

#[tokio::test]
async fn the_command_line_sets_shows_and_clears_hours() {
    let broker = BrokerProcess::start();
    let (client, url) = (broker.client().await, broker.url());
    let run = |words: &[&str]| aqueduct(Some(&url), words).success();
    client.topics().create("orders").build().await.expect("a new topic");
    // Whatever the time is, one of the two is closed now.
    let both = [("night", "20:00-08:00"), ("day", "08:00-20:00")];
    for (group, hours) in both {
        let words = ["group", "create", group, "--hours", hours, "--utc-offset", "-03:30"];
        let created = run(&words).stderr;
        assert!(created.contains(&format!("{hours} (-03:30)")), "{created}");
        client.group(group).commit("orders", [(0, 0)]).await.expect("committed");
    }
    let closed = async |group: &'static str| {
        let closed = client.group(group).describe().await.expect("a description").closed_until;
        closed.map(|_| group)
    };
    let waiting = match (closed("night").await, closed("day").await) {
        (Some(group), None) | (None, Some(group)) => group,
        // The hours have changed in between.
        (None, None) | (Some(_), Some(_)) => return,
    };
    let until = if waiting == "night" { "20:00 (-03:30)" } else { "08:00 (-03:30)" };
    let described = run(&["group", "describe", waiting]).stdout;
    assert!(described.contains(&format!("waits until {until}")), "{described}");
    let lag = run(&["lag"]).stderr;
    assert!(lag.contains(&format!("group {waiting} waits until {until}")), "{lag}");
    let altered = run(&["group", "alter", waiting, "--hours", "always"]).stderr;
    assert!(altered.contains("delivered to always"), "{altered}");
    assert!(!run(&["lag"]).stderr.contains(waiting));
    aqueduct(Some(&url), &["group", "alter", waiting, "--utc-offset", "+01:00"]).failure(2, &["--hours"]);
    aqueduct(Some(&url), &["group", "create", "x", "--hours", "22:00-22:00"]).failure(2, &["22:00-06:00"]);
}

#[tokio::test]
async fn a_record_that_brings_its_handler_down_every_time_is_parked_and_the_rest_is_handled() {
    let broker = BrokerProcess::start();
    let client = broker.client().await;
    client.topics().create("orders").build().await.expect("a new topic");
    for value in ["good 0", "poison", "good 2", "good 3"] {
        client.publish("orders", Record::new(value)).await.expect("a receipt");
    }
    let mut deaths = 0;
    let group = client.group("billing");
    loop {
        let ended = tokio::task::spawn_blocking({
            let url = broker.url();
            move || handler_process(&url).status().expect("it runs")
        });
        if within("the end of the handler", ended).await.expect("it is waited for").success() {
            break;
        }
        deaths += 1;
        assert!(deaths <= 3, "the policy allows three attempts");
    }
    assert_eq!(deaths, 3);
    assert_eq!(group.lag("orders").await.expect("a report")[0].lag_records, 0);
    let mut letters = Vec::new();
    let dead = client.dead_letters("orders", "billing");
    dead.read(&LetterFilter::default(), |letter| letters.push(letter)).await.expect("letters");
    assert_eq!(
        letters.iter().map(|letter| (text(&letter.event), letter.death.attempts)).collect::<Vec<_>>(),
        [("poison", 3)]
    );
    assert_eq!(letters[0].death.last_error, "its member went away");
}

fn handler_process(url: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("it runs"));
    command.args(["--exact", "handler"]).env(HANDLER_OF, url).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Not a test: the program of [`handler_process`]. It handles records until it has handled the last one.
#[tokio::test]
async fn handler() {
    let Ok(url) = std::env::var(HANDLER_OF) else { return };
    let client = Client::connect(url).await.expect("a client");
    let backoff = Some(Duration::from_millis(1));
    let retry =
        RetryPolicy { backoff_min: backoff, backoff_max: backoff, max_attempts: Some(3), ..RetryPolicy::default() };
    let mut consumer = client.consumer("orders", "billing").retry(retry).build().await.expect("a member");
    loop {
        let delivery = within("a delivery", consumer.next()).await.expect("it goes on").expect("a delivery");
        match text(&delivery) {
            "poison" => std::process::abort(),
            "good 3" => break delivery.ack_durable().await.expect("durable"),
            _ => delivery.ack_durable().await.expect("durable"),
        }
    }
    // The poison before it may be on its way to the dead letters.
    let group = client.group("billing");
    eventually("everything is settled", async || {
        (group.lag("orders").await.expect("a report")[0].lag_records == 0).then_some(())
    })
    .await;
}
