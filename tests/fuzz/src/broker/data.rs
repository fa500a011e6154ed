//! Data directories in memory. The first one is of a broker with a topic, events, a named producer and a group.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use aqueduct::BrokerConfig;
use tempfile::TempDir;

/// Where syncs cost nothing, if there is such a place.
const MEMORY: &str = "/dev/shm";

/// Enough threads for a broker with three logs.
const IO_THREADS: usize = 2;

/// Longer than a call takes that waits for nothing but the disk.
const CALL_MAX: Duration = Duration::from_millis(5);

/// Files by their path in the data directory.
pub(crate) type Tree = BTreeMap<PathBuf, Vec<u8>>;

pub(crate) fn config() -> BrokerConfig {
    BrokerConfig { io_threads: IO_THREADS, ..BrokerConfig::default() }
}

/// A runtime that calls can be [hurried](hurried) in.
pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// Gives `work` the little time that a disk in memory takes; then the clock jumps from timer to timer, so that waiting
/// costs no time. `None` if it still waits after so much of that time.
pub(crate) async fn hurried<T>(work: impl Future<Output = T>, patience: Duration) -> Option<T> {
    let mut work = std::pin::pin!(work);
    if let Ok(result) = tokio::time::timeout(CALL_MAX, &mut work).await {
        return Some(result);
    }
    tokio::time::pause();
    let result = tokio::time::timeout(patience, work).await;
    tokio::time::resume();
    result.ok()
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

/// What every input begins with: `data/`, always the same, so that inputs do the same wherever they are run.
pub(crate) fn original() -> &'static Tree {
    static ORIGINAL: OnceLock<Tree> = OnceLock::new();
    ORIGINAL.get_or_init(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("data");
        let mut tree = Tree::new();
        collect(&root, &root, &mut tree);
        tree
    })
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
