//! A device that really fails: ext4 on compressed memory that may not grow. Writes succeed, into the page cache; writing
//! back fails; the sync says so once; the next sync would succeed, with the data gone.
//!
//! Making and mounting such a device needs root. Where it is not allowed the test says so and ends: `failing.rs` and
//! `full.rs` hold the same promises without privilege, with injected errors and a small disk.

use std::{
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use aqueduct_client::{Client, Record};
use aqueduct_proto::v1;
use aqueduct_tests::{
    BrokerProcess, Fault, Launch, Raw, Refusal, eventually, free_port, raw, read_all, text, until, within,
};
use tempfile::TempDir;
use tonic::Code;

use crate::failing::assert_not_synced_again;

const ZRAM: &str = "/sys/class/zram-control";

/// Mounts `$0` over the data directory in `$1`, for the program in the rest. The journal is not written by itself
/// meanwhile: a file system that cannot write its journal is dead, and what is tested here is one that goes on.
const MOUNT: &str = r#"
set -e
mkdir -p "$1/data"
mount -o "$2" "$0" "$1/data"
shift 2
exec "$@"
"#;

fn mounted(device: &Path, options: &str, directory: &Path) -> Vec<OsString> {
    let words = ["unshare", "--mount", "sh", "-c", MOUNT].map(Into::into);
    words.into_iter().chain([device.into(), directory.into(), options.into()]).collect()
}

/// A block device in memory.
struct Zram {
    number: String,
}

impl Zram {
    /// With a file system. An error says why this machine does not let us.
    fn formatted() -> io::Result<Self> {
        let number = fs::read_to_string(Path::new(ZRAM).join("hot_add"))?.trim().to_owned();
        let zram = Self { number };
        fs::write(zram.setting("disksize"), "64M")?;
        run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(zram.path()))?;
        // Whether it can be mounted is seen here, not when a broker does not start.
        let directory = tempfile::tempdir()?;
        let words = mounted(&zram.path(), "rw", directory.path());
        run(Command::new(&words[0]).args(&words[1..]).args(["rmdir"]).arg(directory.path().join("data/lost+found")))?;
        Ok(zram)
    }

    fn path(&self) -> PathBuf {
        Path::new("/dev").join(format!("zram{}", self.number))
    }

    fn setting(&self, name: &str) -> PathBuf {
        Path::new("/sys/block").join(format!("zram{}", self.number)).join(name)
    }

    /// From here on nothing new can be stored.
    fn fail(&self) {
        fs::write(self.setting("mem_limit"), "4096").expect("a limit");
    }

    fn heal(&self) {
        fs::write(self.setting("mem_limit"), "0").expect("no limit");
    }

    /// What it holds, past the page cache.
    fn copy_to(&self, image: &Path) {
        let (from, to) = (self.path(), image);
        let words = [format!("if={}", from.display()), format!("of={}", to.display())];
        run(Command::new("dd").args(words).args(["bs=1M", "iflag=direct", "status=none"])).expect("copied");
    }
}

impl Drop for Zram {
    fn drop(&mut self) {
        // The mount goes with its namespace, a moment after the last process in it.
        let removed = || fs::write(Path::new(ZRAM).join("hot_remove"), &self.number).ok();
        until("the device is not used any more", removed);
    }
}

fn run(command: &mut Command) -> io::Result<()> {
    let output = command.output()?;
    if output.status.success() { Ok(()) } else { Err(io::Error::other(String::from_utf8_lossy(&output.stderr))) }
}

/// A broker whose data lies on a device of its own.
struct Device {
    broker: BrokerProcess,
    directory: Arc<TempDir>,
    // Last: it can be removed once nobody uses it.
    zram: Zram,
}

impl Device {
    fn start(zram: Zram) -> Self {
        let directory = Arc::new(tempfile::tempdir().expect("a temporary directory"));
        let launch = Launch { wrapper: mounted(&zram.path(), "commit=300", directory.path()), ..Launch::default() };
        let broker = BrokerProcess::launch_in(Arc::clone(&directory), launch, free_port());
        Self { broker, directory, zram }
    }

    /// A broker on what the device holds at this moment, as after a power cut.
    fn after_power_cut(self) -> BrokerProcess {
        let image = self.directory.path().join("image");
        self.zram.copy_to(&image);
        let mut stopped = self.broker.kill();
        stopped.launch.wrapper = mounted(&image, "loop", self.directory.path());
        stopped.restart()
    }
}

fn large(number: u64) -> Record {
    // Other bytes than the next one's, so that they take memory.
    let mut random = fastrand::Rng::with_seed(number);
    let noise: String = std::iter::repeat_with(|| random.alphanumeric()).take(300_000).collect();
    Record::new(format!("{number} {noise}"))
}

fn publish(number: u64) -> v1::PublishRequest {
    raw::publish_records("orders", vec![raw::record(large(number).value.expect("a value"))])
}

/// Checks that the topic holds the records of these numbers and nothing else.
async fn assert_holds(client: &Client, numbers: impl Iterator<Item = u64>) {
    let events = read_all(client, "orders").await;
    let expected: Vec<Record> = numbers.map(large).collect();
    assert_eq!(events.len(), expected.len());
    for (event, expected) in events.iter().zip(&expected) {
        assert!(event.record == *expected, "offset {} holds {}…", event.offset, &text(event)[..10]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_loses_what_it_took_is_found_out_at_the_sync_and_nothing_acknowledged_is_lost() {
    let device = match Zram::formatted() {
        Ok(zram) => Device::start(zram),
        Err(reason) => {
            println!("no device can be made and mounted here, `failing` and `full` hold these rows: {reason}");
            return;
        }
    };
    let client = device.broker.client().await;
    client.topics().create("orders").build().await.expect("a new topic");
    client.publish("orders", large(0)).await.expect("a receipt");
    let description = async || client.topics().describe("orders").await.expect("a description").partitions.remove(0);
    let before = description().await;
    let mut raw = Raw::connect(&device.broker.url()).await;

    device.zram.fail();
    let calls = Fault::inject(device.broker.pid(), "pwritev,fdatasync", &[]);
    let unknown = within("an answer", raw.publish(publish(1))).await;
    Refusal::of(unknown).expect(Code::Unknown, "OUTCOME_UNKNOWN");
    let refused = eventually("publishing is refused with the reason", async || {
        let refusal = Refusal::of(raw.clone().publish(publish(1)).await);
        (refusal.code == Code::Unavailable).then_some(refusal)
    });
    refused.await.expect(Code::Unavailable, "PARTITION_UNAVAILABLE");
    assert!(description().await.failure.is_some(), "whoever looks is told");
    // Reads go on, and nothing is shown that is not durable.
    assert_holds(&client, 0..1).await;

    device.zram.heal();
    let again = async || raw.clone().publish(publish(100)).await.ok();
    let again = eventually("publishing works again", again).await;
    assert_eq!(again.base_offset, 1);
    let after = description().await;
    assert!(after.epoch > before.epoch && after.segments > before.segments, "{before:?}, then {after:?}");
    assert_eq!(after.failure, None);
    assert_holds(&client, [0, 100].into_iter()).await;
    assert_not_synced_again(&calls.trace(), "EIO");
    drop(calls);

    let broker = device.after_power_cut();
    let client = broker.client().await;
    assert_holds(&client, [0, 100].into_iter()).await;
    assert_eq!(client.publish("orders", large(101)).await.expect("a receipt").offset, 2);
}
