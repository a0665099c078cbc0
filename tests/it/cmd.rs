//! Transcripts of the command line: each file in `tests/cmd` is run against a server of its own,
//! on the embedded store and on a Redis of four shards.

use std::path::Path;

use super::support::redis::RedisServer;
use super::support::server::{Keyclasp, Setup};
use super::support::shell;

/// Runs `tests/cmd/NAME.md`. A file that says `<!-- no server -->` needs none.
fn transcript(name: &str, setup: impl FnOnce() -> Setup) {
    let file = format!("tests/cmd/{name}.md");
    let markdown = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(&file)).unwrap();
    let steps = shell::steps(&markdown);
    assert!(!steps.is_empty(), "{file} has no commands");
    let server = (!markdown.contains("<!-- no server -->")).then(|| setup().start());
    if let Err(report) = shell::run(&file, &steps, server.as_ref()) {
        panic!("{report}\n{}", server.map(|server| format!("The server said:\n{}", server.log())).unwrap_or_default());
    }
}

macro_rules! transcripts {
    (embedded: $($name:ident)*; redis: $($on_redis:ident)*;) => {
        $(#[test]
        fn $name() {
            transcript(stringify!($name), Keyclasp::set_up);
        })*

        const ALL: &[&str] = &[$(stringify!($name)),*];

        mod on_redis {
            $(#[test]
            fn $on_redis() {
                let redis = super::RedisServer::start();
                super::transcript(stringify!($on_redis), || {
                    super::Keyclasp::set_up().store(&redis.url()).env("KEYCLASP_STORE__SHARDS", "4")
                });
            })*
        }
    };
}

transcripts! {
    embedded: audit config doctor envoy_config errors init keyring keys output revoke_all store validate;
    redis: audit errors keyring keys output revoke_all validate;
}

#[test]
fn every_transcript_is_run() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cmd");
    let mut found: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    found.sort();
    assert_eq!(found, ALL);
}
