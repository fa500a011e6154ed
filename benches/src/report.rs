//! Figures as they are measured, one a line.

/// Prints a figure.
pub(crate) fn figure(name: &str, value: f64, unit: &str) {
    println!("{name:<44} {value:>14.1} {unit}");
}
