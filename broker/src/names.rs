//! The rule for names of topics, groups and producers.

use crate::error::NameError;

/// Longest name, in bytes.
pub(crate) const NAME_BYTES_MAX: usize = 249;

/// Checks a name that a user chose: 1 to 249 of `[A-Za-z0-9._-]`, beginning with a letter, a digit or `_`.
///
/// `~` is left to the broker's own topics, `/` to namespaces to come.
///
/// # Errors
/// [`NameError`] says which rule is broken.
pub(crate) fn check(name: &str) -> Result<(), NameError> {
    let Some(first) = name.chars().next() else { return Err(NameError::Empty) };
    if name.len() > NAME_BYTES_MAX {
        return Err(NameError::TooLong { bytes: name.len() });
    }
    if !(first.is_ascii_alphanumeric() || first == '_') {
        return Err(NameError::FirstCharacter(first));
    }
    match name.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))) {
        None => Ok(()),
        Some('~') => Err(NameError::System),
        Some(character) => Err(NameError::Character(character)),
    }
}

/// Whether `name` is one that only the broker gives.
pub(crate) fn is_system(name: &str) -> bool {
    name.contains('~')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_digits_dots_underscores_and_hyphens_are_names() {
        for name in ["a", "_x", "9", "orders.eu-west_1", &"n".repeat(249)] {
            assert_eq!(check(name), Ok(()), "{name}");
        }
    }

    #[test]
    fn every_other_name_is_refused_with_its_reason() {
        assert_eq!(check(""), Err(NameError::Empty));
        assert_eq!(check(&"n".repeat(250)), Err(NameError::TooLong { bytes: 250 }));
        assert_eq!(check("-a"), Err(NameError::FirstCharacter('-')));
        assert_eq!(check(".."), Err(NameError::FirstCharacter('.')));
        assert_eq!(check("a/b"), Err(NameError::Character('/')));
        assert_eq!(check("a\0"), Err(NameError::Character('\0')));
        assert_eq!(check("caf\u{e9}"), Err(NameError::Character('\u{e9}')));
        assert_eq!(check("orders~dlq"), Err(NameError::System));
    }
}
