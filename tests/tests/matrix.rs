//! The table of faults in `tests/README.md` is complete and true: every fault has tests, every test named there exists and
//! runs, and for every fault it is told what has turned a test red.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

const ROWS: u32 = 40;

/// One fault.
struct Row {
    number: u32,
    fault: String,
    expected: String,
    /// `path/to/file.rs::name_of_a_test`.
    tests: Vec<String>,
    /// What broke the code so that a test went red; `mutants/NAME` is a patch.
    turned_red_by: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The rows of the table, which are the lines that begin with `| NUMBER |`.
fn rows() -> Vec<Row> {
    read("tests/README.md").lines().filter_map(row).collect()
}

fn row(line: &str) -> Option<Row> {
    let cells: Vec<&str> = line.strip_prefix('|')?.strip_suffix('|')?.split('|').map(str::trim).collect();
    let number = cells.first()?.parse().ok()?;
    let [_, fault, expected, tests, turned_red_by] = cells[..] else { panic!("five cells in: {line}") };
    Some(Row {
        number,
        fault: fault.to_owned(),
        expected: expected.to_owned(),
        tests: in_backticks(tests),
        turned_red_by: turned_red_by.to_owned(),
    })
}

fn in_backticks(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn mutants_of(row: &Row) -> Vec<String> {
    let names = in_backticks(&row.turned_red_by);
    names.iter().filter_map(|name| name.strip_prefix("mutants/")).map(str::to_owned).collect()
}

/// Why `entry` is no test that runs.
fn fault_of_test(entry: &str) -> Option<String> {
    let Some((file, name)) = entry.split_once("::") else { return Some(format!("{entry} is not file::test")) };
    let Ok(source) = fs::read_to_string(root().join(file)) else { return Some(format!("there is no {file}")) };
    let lines: Vec<&str> = source.lines().map(str::trim).collect();
    let is_it = |line: &&str| line.split_once("fn ").is_some_and(|(_, rest)| rest.starts_with(&format!("{name}(")));
    let Some(at) = lines.iter().position(is_it) else { return Some(format!("{file} has no {name}")) };
    let above = lines[..at].iter().rev().take_while(|line| line.starts_with("#[") || line.starts_with("//"));
    let attributes: Vec<&&str> = above.filter(|line| line.starts_with("#[")).collect();
    if !attributes.iter().any(|attribute| attribute.contains("test")) {
        return Some(format!("{entry} is not a test"));
    }
    let is_ignored = attributes.iter().any(|attribute| attribute.contains("ignore"));
    is_ignored.then(|| format!("{entry} is ignored"))
}

#[test]
fn every_fault_is_in_the_table_once_with_what_is_expected_and_what_turned_a_test_red() {
    let rows = rows();
    let numbers: Vec<u32> = rows.iter().map(|row| row.number).collect();
    assert_eq!(numbers, (1..=ROWS).collect::<Vec<_>>());
    for Row { number, fault, expected, tests, turned_red_by } in &rows {
        assert!(!fault.is_empty() && !expected.is_empty(), "row {number} says nothing");
        assert!(!tests.is_empty(), "row {number} has no test");
        assert!(!turned_red_by.is_empty(), "row {number}: a test that nobody has seen fail proves nothing");
    }
}

#[test]
fn every_test_in_the_table_exists_and_runs() {
    let wrong: Vec<String> = rows()
        .iter()
        .flat_map(|row| {
            row.tests.iter().filter_map(|test| Some(format!("row {}: {}", row.number, fault_of_test(test)?)))
        })
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_mutants_in_the_table_are_those_that_there_are() {
    let mut told: BTreeMap<String, BTreeSet<u32>> = BTreeMap::new();
    for row in rows() {
        for name in mutants_of(&row) {
            told.entry(name).or_default().insert(row.number);
        }
    }
    let mut there: BTreeMap<String, BTreeSet<u32>> = BTreeMap::new();
    for entry in fs::read_dir(root().join("tests/mutants")).expect("the folder of the mutants") {
        let path = entry.expect("an entry").path();
        let text = fs::read_to_string(&path).expect("a patch");
        let of =
            text.lines().find_map(|line| line.strip_prefix("Rows:")).unwrap_or_else(|| panic!("{path:?}: no rows"));
        let of = of.split(',').map(|number| number.trim().parse().expect("the number of a row")).collect();
        there.insert(path.file_stem().expect("a name").to_string_lossy().into_owned(), of);
    }
    assert_eq!(told, there, "in the table, and in the patches");
}
