//! `budgets.toml`, and how measured figures are judged by it.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::PathBuf};

use anyhow::Context as _;
use serde::Deserialize;

use crate::paths::Path;

/// Further from its budget than this, a path is slower than it may be, or its budget larger than it need be.
const TOLERANCE: f64 = 0.03;

/// Instructions for each unit of a path: a record, a call.
pub(crate) type Figures = BTreeMap<Path, f64>;

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Budget {
    instructions: f64,
}

/// By the name of the path.
pub(crate) type Budgets = BTreeMap<String, Budget>;

/// The table, and whether every budget is kept.
pub(crate) struct Report {
    pub(crate) text: String,
    pub(crate) is_kept: bool,
}

pub(crate) fn load() -> anyhow::Result<Budgets> {
    let text = fs::read_to_string(file()).context("budgets.toml cannot be read: `--bless` writes it")?;
    toml::from_str(&text).context("budgets.toml")
}

pub(crate) fn save(measured: &Figures) -> anyhow::Result<()> {
    let mut text = String::from(
        "# Instructions of the hot paths: written by `cargo run --release -p aqueduct-budgets -- --bless`.\n",
    );
    for (path, instructions) in measured {
        write!(text, "\n[{}] # {}\ninstructions = {instructions:.1}\n", path.name(), path.unit())?;
    }
    Ok(fs::write(file(), text)?)
}

fn file() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("budgets.toml")
}

/// Judges every path; one without a budget is as bad as one that exceeds it, and so is a budget without a path.
pub(crate) fn compare(measured: &Figures, budgets: &Budgets) -> Report {
    let mut text = format!("{:<16}{:>14}{:>14}{:>12}  each\n", "path", "budget", "measured", "difference");
    let mut remarks = String::new();
    let mut is_kept = true;
    for (path, &instructions) in measured {
        let name = path.name();
        let Some(Budget { instructions: budget }) = budgets.get(name).copied() else {
            is_kept = false;
            remarks += &format!("{name}: {instructions:.1} instructions, but no budget: `--bless` writes one\n");
            continue;
        };
        let difference = instructions / budget - 1.0;
        let percent = difference * 100.0;
        text += &format!("{name:<16}{budget:>14.1}{instructions:>14.1}{percent:>+11.2}%  {}\n", path.unit());
        if difference > TOLERANCE {
            is_kept = false;
            remarks += &format!("{name} is over its budget: {instructions:.1} instructions, not {budget:.1}\n");
        } else if difference < -TOLERANCE {
            remarks += &format!("{name} is faster than its budget: tighten it with `--bless`\n");
        }
    }
    for name in budgets.keys().filter(|name| measured.keys().all(|path| path.name() != *name)) {
        is_kept = false;
        remarks += &format!("{name} has a budget, but there is no such path\n");
    }
    Report { text: text + &remarks, is_kept }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(measured: f64, budget: f64) -> Report {
        let budgets = [(Path::Encode.name().to_owned(), Budget { instructions: budget })].into();
        compare(&[(Path::Encode, measured)].into(), &budgets)
    }

    #[test]
    fn a_path_over_its_budget_fails_and_is_named_with_both_figures() {
        let report = judge(103.1, 100.0);
        assert!(!report.is_kept);
        assert!(report.text.contains("encode is over its budget: 103.1 instructions, not 100.0"), "{}", report.text);
    }

    #[test]
    fn a_path_within_the_tolerance_passes_and_one_below_is_to_be_tightened() {
        assert!(judge(102.9, 100.0).is_kept);
        let report = judge(96.0, 100.0);
        assert!(report.is_kept);
        assert!(report.text.contains("tighten"), "{}", report.text);
    }

    #[test]
    fn paths_without_budgets_and_budgets_without_paths_fail() {
        assert!(!compare(&[(Path::Encode, 1.0)].into(), &Budgets::new()).is_kept);
        assert!(!compare(&Figures::new(), &[("gone".to_owned(), Budget { instructions: 1.0 })].into()).is_kept);
    }
}
