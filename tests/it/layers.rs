//! Dependencies between modules point one way.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Each module with the modules that it may use, beside itself.
const ALLOWED: [(&str, &[&str]); 14] = [
    ("clock", &[]),
    ("random", &[]),
    ("key", &["clock"]),
    // The keyring's derivations need randomness and what a key is; stores do not need them.
    ("store", &["key", "clock", "random"]),
    ("hash", &["store", "key", "clock", "random"]),
    ("fence", &["store", "key", "clock"]),
    // What keyclasp says to Keycloak, and nothing of what a key is.
    ("keycloak", &["clock", "random"]),
    ("service", &["fence", "hash", "store", "key", "clock", "random"]),
    ("rpc", &["service", "fence", "hash", "store", "key", "clock", "random"]),
    ("telemetry", &[]),
    // Each component owns its part of the configuration; `config` reads them from one file.
    ("config", &["rpc", "telemetry", "service", "fence", "hash", "store", "key", "clock", "random"]),
    ("app", &["config", "rpc", "telemetry", "service", "fence", "hash", "store", "key", "clock", "random"]),
    ("cli", &["app", "config", "rpc", "telemetry", "service", "fence", "hash", "store", "key", "clock", "random"]),
    ("main", &["cli"]),
];

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The modules of this crate that `source` names: `crate::X`, and `keyclasp::X` in the binary.
/// Comments do not count.
fn used_by(source: &str) -> BTreeSet<String> {
    let code: String =
        source.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n");
    let mut used = BTreeSet::new();
    for root in ["crate::", "keyclasp::"] {
        for (at, _) in code.match_indices(root) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
                continue;
            }
            let rest = &code[at + root.len()..];
            let names: Vec<&str> = match rest.strip_prefix('{') {
                Some(group) => group.split('}').next().unwrap_or_default().split(',').map(str::trim).collect(),
                None => vec![rest],
            };
            for name in names {
                used.insert(name.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
            }
        }
    }
    used
}

#[test]
fn dependencies_point_one_way() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut seen = BTreeSet::new();
    let mut wrong = Vec::new();
    for file in files {
        let path = file.strip_prefix(&root).unwrap();
        let module = path.components().next().unwrap().as_os_str().to_str().unwrap().trim_end_matches(".rs").to_owned();
        if module == "lib" {
            continue;
        }
        let Some((_, allowed)) = ALLOWED.iter().find(|(name, _)| *name == module) else {
            wrong.push(format!(
                "{} belongs to no known module; add `{module}` to this test and to docs/ARCHITECTURE.md",
                path.display()
            ));
            continue;
        };
        seen.insert(module.clone());
        for used in used_by(&std::fs::read_to_string(&file).unwrap()) {
            let known = ALLOWED.iter().any(|(name, _)| *name == used);
            if known && used != module && !allowed.contains(&used.as_str()) {
                wrong.push(format!("{} uses `{used}`, which `{module}` may not", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(seen.len(), ALLOWED.len(), "a module of this test does not exist: {seen:?}");
}

#[test]
fn only_the_composition_root_names_concrete_stores() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    for file in files {
        let path = file.strip_prefix(&root).unwrap();
        if path.starts_with("store") || path == Path::new("app.rs") || path.starts_with("config") {
            continue;
        }
        let source = std::fs::read_to_string(&file).unwrap();
        for concrete in ["EmbeddedStore", "RedisStore"] {
            assert!(!source.contains(concrete), "{} names {concrete}", path.display());
        }
    }
}

#[test]
fn the_scanner_sees_what_it_must() {
    let source =
        "use crate::key::{A, B};\nuse crate::{rpc, store::X};\n// crate::service\nlet x = keyclasp::cli::run();";
    let used: Vec<_> = used_by(source).into_iter().collect();
    assert_eq!(used, ["cli", "key", "rpc", "store"]);
}
