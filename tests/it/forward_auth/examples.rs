//! Each example runs with one command and shows what its page says.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::proxies::tools;
use crate::support::TempDir;
use crate::support::server::PROGRAM;

#[track_caller]
fn runs(name: &str) {
    let home = TempDir::new();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name).join("run");
    let program = Path::new(PROGRAM).parent().unwrap().to_owned();
    let path = std::env::var_os("PATH").unwrap();
    let path = std::env::join_paths([program, tools()].into_iter().chain(std::env::split_paths(&path))).unwrap();
    let output = Command::new(script)
        .env("PATH", path)
        .env("HOME", home.path())
        .env("TMPDIR", home.path())
        .current_dir(home.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}");
    let shown: Vec<_> = said.split("\n# ").skip(1).collect();
    let expected: [(&str, &[&str]); 4] = [
        ("200", &["owner='ada'", "scopes='orders:read'", "key=''"]),
        ("401", &["urn:keyclasp:problem:invalid-key", r#"ApiKey realm="acme""#]),
        ("403", &["urn:keyclasp:problem:missing-scope", "orders:write"]),
        ("200", &["owner=''"]),
    ];
    assert_eq!(shown.len(), expected.len(), "{said}");
    for (shown, (status, texts)) in shown.iter().zip(expected) {
        let line = shown.lines().nth(1).unwrap_or_default();
        assert_eq!(line.split(' ').nth(1), Some(status), "{said}");
        assert!(texts.iter().all(|text| shown.contains(text)), "{texts:?} in\n{said}");
    }
    let left: Vec<PathBuf> = std::fs::read_dir(home.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(left.is_empty(), "nothing is left behind: {left:?}");
}

#[test]
fn nginx_runs_with_one_command() {
    runs("nginx");
}

#[test]
fn caddy_runs_with_one_command() {
    runs("caddy");
}

#[test]
fn haproxy_runs_with_one_command() {
    runs("haproxy");
}
