//! Data directories in memory: a broker that has a topic, events, a named producer and a group, and was stopped.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use aqueduct::{Broker, BrokerConfig};
use aqueduct_client::{Record, Start};
use tempfile::TempDir;

/// Where syncs cost nothing, if there is such a place.
const MEMORY: &str = "/dev/shm";

/// Enough threads for a broker with three logs.
const IO_THREADS: usize = 2;

/// Files by their path in the data directory.
pub(crate) type Tree = BTreeMap<PathBuf, Vec<u8>>;

pub(crate) fn config() -> BrokerConfig {
    BrokerConfig { io_threads: IO_THREADS, ..BrokerConfig::default() }
}

/// A runtime whose clock runs only while nothing else does: waiting costs no time.
pub(crate) fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().start_paused(true).build().expect("a runtime")
}

/// Waits for `work`, which others do on threads that this runtime does not know: for `real` its clock stands still.
pub(crate) async fn in_time<T>(real: Duration, work: impl Future<Output = T>) -> T {
    let (done, wait) = std::sync::mpsc::channel::<()>();
    let hold = tokio::task::spawn_blocking(move || wait.recv_timeout(real));
    let result = work.await;
    drop(done);
    // It says that the channel is closed or the time over, and both are as they should be.
    let _ = hold.await;
    result
}

/// A directory that holds `tree`.
pub(crate) fn directory_of(tree: &Tree) -> TempDir {
    let mut builder = tempfile::Builder::new();
    builder.prefix("aqueduct-fuzz-");
    let in_memory = builder.tempdir_in(MEMORY);
    let directory = in_memory.or_else(|_| builder.tempdir()).expect("a temporary directory");
    for (path, content) in tree {
        let path = directory.path().join(path);
        fs::create_dir_all(path.parent().expect("it has one")).expect("a directory");
        fs::write(path, content).expect("a file");
    }
    directory
}

/// What every input begins with.
pub(crate) fn original() -> &'static Tree {
    static ORIGINAL: OnceLock<Tree> = OnceLock::new();
    ORIGINAL.get_or_init(|| {
        let directory = directory_of(&Tree::new());
        runtime().block_on(in_time(Duration::from_secs(60), fill(directory.path())));
        let mut tree = Tree::new();
        collect(directory.path(), directory.path(), &mut tree);
        tree
    })
}

async fn fill(path: &Path) {
    let broker = Broker::open_with(path, config()).await.expect("a broker");
    let client = broker.client();
    client.topics().create("orders").partitions(2).build().await.expect("a topic");
    let producer = client.producer("orders").name("shop").build().await.expect("a producer");
    for value in ["one", "two", "three"] {
        producer.publish(Record::new(value).key(value)).await.expect("published");
    }
    let mut inbox = client.consumer("orders", "billing").start(Start::Earliest).build().await.expect("a consumer");
    let delivery = inbox.next().await.expect("an event").expect("a delivery");
    delivery.ack_durable().await.expect("durable");
    drop(inbox);
    client.close(Duration::from_secs(5)).await.expect("closed");
    broker.shutdown(Duration::from_secs(10)).await.expect("stopped");
}

fn collect(root: &Path, directory: &Path, tree: &mut Tree) {
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            collect(root, &path, tree);
        } else {
            let content = fs::read(&path).expect("a file");
            tree.insert(path.strip_prefix(root).expect("inside").to_owned(), content);
        }
    }
}
