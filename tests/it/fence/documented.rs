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
fn quoted(page: &str) -> impl Iterator<Item = &str> {
    let table = page.split_once("## What happens when").unwrap().1.split_once("\n## ").unwrap().0;
    table.split('`').skip(1).step_by(2)
}

/// How many names of tests and files a page has, and which of them are of none.
fn looked_up(page: &str) -> (usize, Vec<&str>) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut functions_there = BTreeSet::new();
    for dir in ["src", "tests/it"] {
        functions(&root.join(dir), &mut functions_there);
    }
    let is_there = |name: &str| match name.strip_suffix('…') {
        // A second one in the same directory is named without it.
        _ if name.ends_with(".rs") => ["", "tests/it/store_redis"].iter().any(|dir| root.join(dir).join(name).exists()),
        Some(start) => functions_there.iter().any(|there| there.starts_with(start)),
        None => functions_there.contains(name),
    };
    let is_a_name = |name: &&str| name.ends_with(".rs") || name.len() >= NAME && name.contains('_');
    let names: Vec<&str> = quoted(page).filter(is_a_name).collect();
    (names.len(), names.into_iter().filter(|name| !is_there(name)).collect())
}

#[test]
fn each_test_that_the_table_of_faults_names_is_there() {
    let (names, missing) = looked_up(PAGE);
    assert!(missing.is_empty(), "there is no {missing:?}");
    assert!(names > 20, "{names} names: nothing is shown");
}

#[test]
fn a_name_that_is_of_no_test_is_found() {
    // In parts, or this very text would be one that is there.
    let wrong = ["no_test_that_", "anybody_wrote"].concat();
    let page = format!(
        "## What happens when\n| a fault | `flushall_is_another_history`, `flushall_is_another_…`, `{wrong}`, `{wrong}_…`, \
         `store.wait` | `leases.rs`, `tests/it/none.rs` |\n## Next\n`{wrong}`"
    );
    let shortened = format!("{wrong}_…");
    assert_eq!(looked_up(&page), (6, vec![wrong.as_str(), &shortened, "tests/it/none.rs"]));
}
