//! docs/CONSISTENCY.md names the test that shows each outcome: each name is that of a test.

use std::collections::BTreeSet;
use std::path::Path;

/// The page.
const PAGE: &str = include_str!("../../../docs/CONSISTENCY.md");
/// Least letters of what is taken for the name of a test.
const NAME: usize = 16;

/// The names of all functions below a directory.
fn functions(dir: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            functions(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let source = std::fs::read_to_string(&path).unwrap();
            let names = source
                .split("fn ")
                .skip(1)
                .map(|rest| rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect::<String>());
            found.extend(names);
        }
    }
}

/// What stands in backticks in the table of faults.
fn quoted() -> Vec<&'static str> {
    let table = PAGE.split_once("## What happens when").unwrap().1.split_once("\n## ").unwrap().0;
    table.split('`').skip(1).step_by(2).collect()
}

#[test]
fn each_test_that_the_table_of_faults_names_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut there = BTreeSet::new();
    for dir in ["src", "tests/it"] {
        functions(&root.join(dir), &mut there);
    }
    let mut looked_for = 0;
    for name in quoted() {
        if name.ends_with(".rs") {
            // A second one in the same directory is named without it.
            assert!(
                ["", "tests/it/store_redis"].iter().any(|dir| root.join(dir).join(name).exists()),
                "no file {name}"
            );
            continue;
        }
        if name.len() < NAME || !name.contains('_') {
            continue;
        }
        looked_for += 1;
        let is_there = match name.strip_suffix('…') {
            Some(start) => there.iter().any(|there| there.starts_with(start)),
            None => there.contains(name),
        };
        assert!(is_there, "there is no test {name}");
    }
    assert!(looked_for > 20, "{looked_for} names: nothing is shown");
}
