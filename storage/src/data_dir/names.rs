//! Names of topics, and of the folders that hold them.

use super::{DataDirError, TopicMeta};

/// Longest folder that is just the name; a longer one would not leave room for a suffix.
pub(super) const FOLDER_BYTES_MAX: usize = 200;
const NAME_BYTES_MAX: usize = 1024;

/// The name itself where a case-insensitive file system cannot confuse it with another; else with the id behind it.
pub(super) fn choose_folder(meta: &TopicMeta, is_taken: impl Fn(&str) -> bool) -> String {
    let name = &meta.name;
    if name.len() <= FOLDER_BYTES_MAX && !is_taken(name) {
        return name.clone();
    }
    // Names are ASCII, so any cut is one between characters.
    let readable = &name[..name.len().min(FOLDER_BYTES_MAX)];
    format!("{readable}~{}", hex(&meta.id))
}

/// What can safely be a path component, `~` for system names included; the broker is stricter with users' names.
pub(super) fn check_name(name: &str) -> Result<(), DataDirError> {
    let is_possible = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'~');
    let begins_well = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if !begins_well || name.len() > NAME_BYTES_MAX || !name.bytes().all(is_possible) {
        return Err(DataDirError::InvalidName { name: name.chars().take(64).collect() });
    }
    Ok(())
}

pub(super) fn hex(id: &[u8; 16]) -> String {
    crate::LogId(*id).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_the_directory_or_hide_in_it_are_refused() {
        for name in ["", ".", "..", "a/b", "-a", ".new-x", "~a", "a\0", "ü", &"x".repeat(1025)] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
        for name in ["orders", "_x", "9", "a.b-c", "orders~billing~dlq"] {
            assert!(check_name(name).is_ok(), "{name:?}");
        }
    }

    #[test]
    fn a_folder_that_is_taken_or_too_long_gets_the_id_behind_it() {
        let meta = TopicMeta { name: "Orders".into(), id: [0xab; 16], ..TopicMeta::default() };
        assert_eq!(choose_folder(&meta, |_| false), "Orders");
        assert_eq!(choose_folder(&meta, |_| true), format!("Orders~{}", "ab".repeat(16)));
        let long = TopicMeta { name: "x".repeat(1000), ..meta };
        assert!(choose_folder(&long, |_| false).len() < 255);
    }
}
