//! Are the tests any good? Each patch in `tests/mutants` breaks one promise of the code; the test that it names must notice.
//!
//! `cargo run -p aqueduct-tests --bin mutants [NAME…]` copies the workspace to `target/mutants`, sees the tests pass there,
//! and then, for each patch: applies it, builds, runs the test, expects that very test to fail, and restores the files. It
//! fails if a patch does not apply, does not compile, or is not noticed.
//!
//! A patch begins with a sentence, a line `Rows:` (of the fault matrix) and lines `Caught-by: cargo test … -- TEST`, each of
//! which must fail. The copy shares the target directory: its packages lie one folder deeper, which keeps their artifacts apart from
//! those of the original, and makes those of all dependencies common.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::Instant,
};

const PACKAGES: [&str; 6] = ["proto", "storage", "client", "broker", "tests", "benches"];

/// Where the packages lie in the copy.
const FOLDER: &str = "tree";

/// The package and the binary.
const BROKER: &str = "aqueduct";

/// Where a broken broker lies, in the copy, with the test that runs it.
const PROCESSES: &str = "processes";

/// Seconds after which a run counts as hanging.
const PATIENCE: &str = "180";

/// Of the campaign: enough to notice what these patches break.
const SEEDS: &str = "40";

/// One way to break the code.
struct Mutant {
    name: String,
    patch: PathBuf,
    /// The files it touches.
    files: Vec<PathBuf>,
    catchers: Vec<Catcher>,
}

/// A test that must fail.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Catcher {
    /// What builds it: arguments of `cargo test`.
    build: Vec<String>,
    test: String,
}

fn main() -> ExitCode {
    let wanted: BTreeSet<String> = std::env::args().skip(1).collect();
    match run(&wanted) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(wanted: &BTreeSet<String>) -> Result<(), String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().map_err(|error| error.to_string())?;
    let mutants = Mutant::all(&root.join("tests/mutants"), wanted)?;
    let started = Instant::now();
    let copy = Copy::make(&root)?;
    control(&copy, &mutants)?;
    println!("{:6.1} s  control: every test passes without a patch", started.elapsed().as_secs_f64());
    let mut escaped = Vec::new();
    for mutant in &mutants {
        let begun = Instant::now();
        let caught = mutant.is_caught(&copy);
        let seconds = begun.elapsed().as_secs_f64();
        match caught {
            Ok(()) => {
                let tests: Vec<&str> = mutant.catchers.iter().map(|catcher| catcher.test.as_str()).collect();
                println!("{seconds:6.1} s  {:34} caught by {}", mutant.name, tests.join(", "));
            }
            Err(why) => {
                println!("{seconds:6.1} s  {:34} NOT CAUGHT: {why}", mutant.name);
                escaped.push(mutant.name.as_str());
            }
        }
    }
    let (all, seconds) = (mutants.len(), started.elapsed().as_secs_f64());
    println!("{seconds:6.1} s  in all: {} of {all} caught", all - escaped.len());
    if escaped.is_empty() { Ok(()) } else { Err(format!("not caught: {}", escaped.join(", "))) }
}

/// The tests must pass where nothing is broken: a test that always fails catches nothing.
fn control(copy: &Copy, mutants: &[Mutant]) -> Result<(), String> {
    let catchers: BTreeSet<&Catcher> = mutants.iter().flat_map(|mutant| &mutant.catchers).collect();
    let mut by_build: BTreeMap<&[String], Vec<&str>> = BTreeMap::new();
    for catcher in catchers {
        by_build.entry(&catcher.build).or_default().push(&catcher.test);
    }
    for (build, tests) in by_build {
        copy.build(build)?;
        let outcome = copy.run(build, &tests)?;
        if let Some(missing) = tests.iter().find(|test| !outcome.passed.contains(**test)) {
            return Err(format!("{missing} does not pass without a patch:\n{}", outcome.output));
        }
    }
    Ok(())
}

impl Mutant {
    fn all(folder: &Path, wanted: &BTreeSet<String>) -> Result<Vec<Self>, String> {
        let entries = fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let mut patches: Vec<PathBuf> = entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect();
        patches.retain(|path| path.extension().is_some_and(|extension| extension == "patch"));
        patches.sort();
        let mut mutants = patches.into_iter().map(Self::read).collect::<Result<Vec<_>, _>>()?;
        if let Some(unknown) = wanted.iter().find(|name| mutants.iter().all(|mutant| mutant.name != **name)) {
            return Err(format!("there is no tests/mutants/{unknown}.patch"));
        }
        mutants.retain(|mutant| wanted.is_empty() || wanted.contains(&mutant.name));
        Ok(mutants)
    }

    fn read(patch: PathBuf) -> Result<Self, String> {
        let text = fs::read_to_string(&patch).map_err(|error| format!("{}: {error}", patch.display()))?;
        let wrong = |what: &str| format!("{} {what}", patch.display());
        let lines = text.lines().filter_map(|line| line.strip_prefix("Caught-by:"));
        let catchers =
            lines.map(|line| Catcher::read(line).ok_or_else(|| wrong("does not say `cargo test … -- TEST`")));
        let catchers: Vec<Catcher> = catchers.collect::<Result<_, _>>()?;
        if catchers.is_empty() {
            return Err(wrong("has no line `Caught-by:`"));
        }
        let files = text.lines().filter_map(|line| line.strip_prefix("+++ b/")).map(PathBuf::from).collect();
        let name = patch.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self { name, files, catchers, patch })
    }

    fn is_caught(&self, copy: &Copy) -> Result<(), String> {
        let noticed = copy.apply(self).and_then(|()| {
            self.catchers.iter().try_for_each(|catcher| {
                copy.build(&catcher.build)?;
                let outcome = copy.run(&catcher.build, &[&catcher.test])?;
                let is_red = outcome.failed.contains(&catcher.test);
                if is_red { Ok(()) } else { Err(format!("{} does not fail:\n{}", catcher.test, outcome.output)) }
            })
        });
        copy.restore(self)?;
        noticed
    }
}

impl Catcher {
    fn read(line: &str) -> Option<Self> {
        let (build, test) = line.trim().strip_prefix("cargo test ")?.split_once(" -- ")?;
        Some(Self { build: build.split_whitespace().map(str::to_owned).collect(), test: test.trim().to_owned() })
    }
}

/// The workspace, copied to where it may be broken.
struct Copy {
    original: PathBuf,
    root: PathBuf,
    target: PathBuf,
}

/// What a run of tests has said.
struct Outcome {
    passed: BTreeSet<String>,
    failed: BTreeSet<String>,
    output: String,
}

impl Copy {
    fn make(original: &Path) -> Result<Self, String> {
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| original.join("target"), PathBuf::from);
        let copy = Self { original: original.to_owned(), root: target.join("mutants"), target };
        copy.fill().map_err(|error| format!("copying to {}: {error}", copy.root.display()))?;
        Ok(copy)
    }

    fn fill(&self) -> io::Result<()> {
        if self.root.exists() {
            fs::remove_dir_all(&self.root)?;
        }
        for package in PACKAGES {
            copy_folder(&self.original.join(package), &self.root.join(FOLDER).join(package))?;
        }
        fs::copy(self.original.join("Cargo.lock"), self.root.join("Cargo.lock"))?;
        let manifest = fs::read_to_string(self.original.join("Cargo.toml"))?;
        fs::write(self.root.join("Cargo.toml"), one_folder_deeper(&manifest))
    }

    fn apply(&self, mutant: &Mutant) -> Result<(), String> {
        let mut git = Command::new("git");
        // Not a part of the repository that it lies in.
        git.env("GIT_CEILING_DIRECTORIES", &self.root).current_dir(self.root.join(FOLDER));
        let output = git.arg("apply").arg(&mutant.patch).output().map_err(|error| format!("git: {error}"))?;
        if output.status.success() {
            return Ok(());
        }
        let why = String::from_utf8_lossy(&output.stderr);
        Err(format!("the patch does not apply any more; make it anew for the code as it is:\n{why}"))
    }

    fn restore(&self, mutant: &Mutant) -> Result<(), String> {
        for file in &mutant.files {
            fs::copy(self.original.join(file), self.root.join(FOLDER).join(file))
                .map_err(|error| format!("restoring {}: {error}", file.display()))?;
        }
        Ok(())
    }

    /// A patch that does not compile is noticed by nobody's test.
    fn build(&self, build: &[String]) -> Result<(), String> {
        if is_of_processes(build) {
            return self.build_with_broker(build);
        }
        let mut cargo = self.cargo("test");
        cargo.args(build).arg("--no-run");
        output_of(&mut cargo).map(drop)
    }

    /// These tests run the broker that they find beside them. A broken one must not be left where other tests look: it goes
    /// to a folder of its own, together with the test.
    fn build_with_broker(&self, build: &[String]) -> Result<(), String> {
        let broker = self.target.join("debug").join(BROKER);
        let (aside, folder) = (self.root.join("original"), self.root.join(PROCESSES));
        let moving = |error: io::Error| format!("moving {}: {error}", broker.display());
        fs::create_dir_all(folder.join("deps")).map_err(moving)?;
        let is_built = broker.exists();
        if is_built {
            fs::rename(&broker, &aside).map_err(moving)?;
        }
        let mut cargo = self.cargo("build");
        cargo.args(build).args(["-p", BROKER, "--bin", BROKER, "--message-format=json-render-diagnostics"]);
        let built = output_of(&mut cargo);
        if built.is_ok() {
            fs::rename(&broker, folder.join(BROKER)).map_err(moving)?;
        }
        if is_built {
            fs::rename(&aside, &broker).map_err(moving)?;
        }
        let test = test_executable(&built?).ok_or("cargo has built no test")?;
        fs::copy(test, folder.join("deps/test")).map(drop).map_err(moving)
    }

    fn run(&self, build: &[String], tests: &[&str]) -> Result<Outcome, String> {
        let mut command = if is_of_processes(build) {
            let mut command = Command::new("timeout");
            command.arg(PATIENCE).arg(self.root.join(PROCESSES).join("deps/test"));
            command
        } else {
            let mut cargo = self.cargo("test");
            cargo.args(build).arg("--").env("AQUEDUCT_SEEDS", SEEDS);
            cargo
        };
        command.arg("--exact").args(tests);
        let output = command.output().map_err(|error| format!("running the test: {error}"))?;
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let stdout = said(&output.stdout);
        let named = |verdict: &str| {
            let name = |line: &str| Some(line.strip_prefix("test ")?.strip_suffix(verdict)?.to_owned());
            stdout.lines().filter_map(name).collect()
        };
        let (passed, failed) = (named(" ... ok"), named(" ... FAILED"));
        Ok(Outcome { passed, failed, output: stdout + &said(&output.stderr) })
    }

    fn cargo(&self, subcommand: &str) -> Command {
        let mut command = Command::new("timeout");
        command.arg(PATIENCE).arg(std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")));
        command.args([subcommand, "--locked", "--target-dir"]).arg(&self.target).current_dir(&self.root);
        command
    }
}

fn is_of_processes(build: &[String]) -> bool {
    build.iter().any(|argument| argument == "aqueduct-tests")
}

/// What cargo says when it has built everything.
fn output_of(cargo: &mut Command) -> Result<String, String> {
    let output = cargo.output().map_err(|error| format!("cargo: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("it does not compile:\n{}", String::from_utf8_lossy(&output.stderr)))
}

/// The test among the artifacts that cargo tells of.
fn test_executable(messages: &str) -> Option<PathBuf> {
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let mut tests = messages.filter(|message| message["target"]["kind"][0] == "test");
    tests.find_map(|message| message["executable"].as_str().map(PathBuf::from))
}

/// The manifest of the workspace with every package in [`FOLDER`].
fn one_folder_deeper(manifest: &str) -> String {
    let deeper = |line: &str| {
        if ["members", "default-members", "exclude"].iter().any(|key| line.starts_with(key)) {
            return line.replace("[\"", &format!("[\"{FOLDER}/")).replace(", \"", &format!(", \"{FOLDER}/"));
        }
        line.replace("path = \"", &format!("path = \"{FOLDER}/"))
    };
    manifest.lines().map(deeper).collect::<Vec<_>>().join("\n")
}

fn copy_folder(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if !entry.file_type()?.is_dir() {
            fs::copy(entry.path(), to)?;
        } else if entry.file_name() != "target" {
            copy_folder(&entry.path(), &to)?;
        }
    }
    Ok(())
}
