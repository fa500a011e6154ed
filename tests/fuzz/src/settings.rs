//! The configuration of `serve`: from the file and from the environment.

use std::ffi::OsString;
use std::path::Path;

use crate::cli::settings::{Layered, SettingsError, from_environment, from_text};

/// A configuration file and, behind a NUL, variables of the environment as lines of `NAME=value`.
///
/// Any text gives settings or an error that names the key. Settings print as a file that gives the same settings.
pub fn settings(input: &[u8]) {
    let Ok(input) = std::str::from_utf8(input) else { return };
    let (file, environment) = input.split_once('\0').unwrap_or((input, ""));
    let variables = environment.lines().filter_map(|line| line.split_once('='));
    let variables: Vec<(OsString, OsString)> =
        variables.map(|(name, value)| (format!("AQUEDUCT_{name}").into(), value.into())).collect();
    let path = Path::new("aqueduct.toml");
    let layers = from_text(file, path).and_then(|mut assignments| {
        assignments.extend(from_environment(variables)?);
        Ok(assignments)
    });
    match layers.and_then(Layered::new) {
        Ok(layered) => {
            let printed = layered.to_toml();
            let again = from_text(&printed, path).and_then(Layered::new);
            let again = again.unwrap_or_else(|error| panic!("printed settings are refused: {error}\n{printed}"));
            assert_eq!(values(&again.to_toml()), values(&printed), "printed settings say something else");
        }
        Err(error) => assert!(names_what_is_wrong(&error), "{error}"),
    }
}

fn names_what_is_wrong(error: &SettingsError) -> bool {
    let text = error.to_string();
    match error {
        SettingsError::Unknown { key, .. } => text.contains(&format!("{key:?}")),
        SettingsError::Invalid { key, reason, .. } | SettingsError::Bounds { key, reason } => {
            text.contains(key) && !reason.is_empty()
        }
        SettingsError::File { path, reason } => text.contains(&*path.to_string_lossy()) && !reason.is_empty(),
    }
}

/// Without where each came from.
fn values(printed: &str) -> toml::Table {
    printed.parse().expect("printed settings are TOML")
}
