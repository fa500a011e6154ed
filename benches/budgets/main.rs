//! Budgets of instructions for the hot paths, checked in and kept by CI.
//!
//! `cargo run --release -p aqueduct-budgets` runs every path under callgrind and compares what it executed with
//! `budgets.toml`; with `--bless` it writes that file. Instructions, because they repeat on machines whose clocks do not:
//! two runs differ by less than one in a thousand. They say nothing of the kernel, of cache misses or of waiting, which is
//! what the load programs are for. In release, because unoptimised code says nothing of the code that users run.
//!
//! The figures hold for one compiler and one instruction set: an update of Rust, or a processor without AVX2 or PCLMULQDQ
//! (under valgrind, memcpy and CRC-32 take what the processor has), may need a new blessing.

#![forbid(unsafe_code)]

mod budget;
mod callgrind;
mod paths;

use std::process::ExitCode;

use anyhow::bail;

use crate::paths::Path;

const USAGE: &str = "usage: budgets [--bless]\n       budgets --path PATH   (one path, for callgrind)";

fn main() -> anyhow::Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => {
            let report = budget::compare(&measure()?, &budget::load()?);
            print!("{}", report.text);
            Ok(if report.is_kept { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        ["--bless"] => {
            let measured = measure()?;
            budget::save(&measured)?;
            print!("{}", budget::compare(&measured, &budget::load()?).text);
            Ok(ExitCode::SUCCESS)
        }
        ["--path", name] => {
            let Some(path) = Path::ALL.into_iter().find(|path| path.name() == name) else { bail!("no path {name:?}") };
            path.run()?;
            Ok(ExitCode::SUCCESS)
        }
        _ => bail!(USAGE),
    }
}

fn measure() -> anyhow::Result<budget::Figures> {
    if cfg!(debug_assertions) {
        bail!("only a release build says anything: `cargo run --release -p aqueduct-budgets`");
    }
    callgrind::check()?;
    Path::ALL.into_iter().map(|path| Ok((path, callgrind::instructions(path)? / path.units()))).collect()
}
