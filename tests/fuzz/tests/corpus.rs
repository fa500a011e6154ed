//! Every input in `corpus/`, those that once broke something among them, through the target it is for.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use aqueduct_fuzz::{TARGETS, Target};

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("readable").path()).collect();
    paths.sort();
    paths
}

#[test]
fn no_input_breaks_a_promise() {
    static PANICS: AtomicUsize = AtomicUsize::new(0);
    // Some targets have threads and tasks of their own, whose panics nobody would hear of.
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        PANICS.fetch_add(1, Ordering::SeqCst);
        report(panic);
    }));
    let mut broken = Vec::new();
    for Target { name, run } in TARGETS {
        let inputs = entries(&corpus().join(name));
        assert!(!inputs.is_empty(), "{name} has no inputs");
        for path in inputs {
            let input = std::fs::read(&path).expect("readable");
            let before = PANICS.load(Ordering::SeqCst);
            let ended = std::panic::catch_unwind(|| run(&input));
            if ended.is_err() || PANICS.load(Ordering::SeqCst) > before {
                broken.push(path);
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn every_folder_of_inputs_belongs_to_a_target() {
    let names: Vec<String> =
        entries(&corpus()).iter().filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect();
    let mut targets: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
    targets.sort_unstable();
    assert_eq!(names, targets);
}
