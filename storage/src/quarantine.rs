//! Side files: the bytes that a repair has taken out of a log, kept beside it for whoever can make something of them.

/// What the name of a side file has behind the name of the file that the bytes are from.
const MARK: &str = ".damaged-";

/// Whether this is the name of a side file.
pub(crate) fn is_side_file(name: &str) -> bool {
    name.contains(MARK)
}
