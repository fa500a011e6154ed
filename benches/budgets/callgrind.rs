//! One path under callgrind: a process of its own, counted only inside of [`measured_part`].

use std::{fs, process::Command};

use anyhow::{Context as _, bail, ensure};

use crate::paths::Path;

/// Matches the symbol of [`measured_part`], mangled or not. It contains no closure, whose name would match too.
const TOGGLE: &str = "--toggle-collect=*measured_part*";

/// What callgrind counts: `work`, and all that it calls. Everything around it is free.
#[inline(never)]
pub(crate) fn measured_part(work: &mut dyn FnMut()) {
    work();
}

/// Fails if there is no valgrind.
pub(crate) fn check() -> anyhow::Result<()> {
    match Command::new("valgrind").arg("--version").output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => bail!("`valgrind --version` ended with {}", output.status),
        Err(error) => bail!("budgets need valgrind (`apt-get install valgrind`): {error}"),
    }
}

/// Instructions that `path` executed, all its iterations together.
pub(crate) fn instructions(path: Path) -> anyhow::Result<f64> {
    let directory = tempfile::tempdir()?;
    let counts = directory.path().join("counts");
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", TOGGLE, "--collect-atstart=no"])
        .arg(format!("--callgrind-out-file={}", counts.display()))
        .arg(std::env::current_exe()?)
        .args(["--path", path.name()])
        .output()
        .context("valgrind does not start")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{} under valgrind ended with {}:\n{said}", path.name(), output.status);
    let text = fs::read_to_string(counts)?;
    let total = text.lines().find_map(|line| line.strip_prefix("totals:")).context("callgrind gave no total")?;
    let total: f64 = total.trim().parse()?;
    ensure!(total > 0.0, "callgrind has not met `measured_part`, the function that it was told to count");
    Ok(total)
}
