//! Events that are delivered later, by real processes: killed at any moment, and from the command line.

mod command_line;
mod kills;
mod never_early;
