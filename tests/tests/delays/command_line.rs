//! `publish --delay` and `--at`.

use aqueduct_tests::{BrokerProcess, aqueduct, aqueduct_with_input};

#[test]
fn records_are_scheduled_from_the_command_line() {
    let broker = BrokerProcess::start();
    let url = broker.url();
    let run = |args: &[&str]| aqueduct(Some(&url), args);
    let publish = |args: &[&str], input: &str| {
        aqueduct_with_input(
            Some(&url),
            &[&["publish", "reminders", "--output", "json"], args].concat(),
            input.as_bytes(),
        )
    };
    run(&["topic", "create", "reminders"]).success();
    let far = publish(&["--at", "2031-03-01T08:00:00Z"], "later\n").success();
    assert!(far.stderr.contains("scheduled 1 record to reminders"), "{}", far.stderr);
    assert!(far.stderr.contains("due at 2031-03-01T08:00:00"), "{}", far.stderr);
    let receipts = publish(&["--delay", "200ms"], "b\nc\n").success().json_lines();
    assert_eq!(receipts.iter().map(|receipt| receipt["line"].as_u64()).collect::<Vec<_>>(), [Some(1), Some(2)]);
    assert!(receipts[0]["id"].as_u64() < receipts[1]["id"].as_u64());
    assert_eq!(receipts[0]["due_us"], receipts[1]["due_us"]);
    let seen = run(&["subscribe", "reminders", "--from", "earliest", "--count", "2"]).success();
    assert_eq!(seen.stdout, "b\nc\n");

    publish(&["--delay", "99999d"], "x\n").failure(2, &["line 1", "ten years"]);
    publish(&["--delay", "1m", "--at", "2031-03-01T08:00:00Z"], "x\n").failure(2, &["cannot be used with"]);
    publish(&["--delay", "1m", "--codec", "lz4"], "x\n").failure(2, &["cannot be used with"]);
    let nowhere = aqueduct_with_input(Some(&url), &["publish", "nowhere", "--delay", "1m"], b"x\n");
    nowhere.failure(4, &["nowhere", "does not exist"]);
}
