//! `keyring retire` against a service that was, or was not, restarted in between.

use std::process::Stdio;

use crate::support::server::Keyclasp;

/// Runs `keyring …` on the files of `server`; answers the exit code and all that was said.
fn keyring(server: &Keyclasp, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = server.command();
    let output =
        command.arg("keyring").args(arguments).arg("--dir").arg(server.dir()).stdin(Stdio::null()).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).unwrap())
}

fn restarted(mut server: Keyclasp) -> Keyclasp {
    assert!(server.terminate().success(), "{}", server.log());
    server.start_again()
}

#[test]
fn a_pepper_is_retired_only_after_a_restart_and_without_keys() {
    let server = Keyclasp::start();
    let file = std::fs::read_to_string(server.dir().join("keyring.toml")).unwrap();
    let first = file.lines().find_map(|line| line.strip_prefix("current = ")).unwrap().trim_matches('"').to_owned();
    assert_eq!(keyring(&server, &["add", "second"]).0, Some(0));
    let server = restarted(server);
    assert_eq!(keyring(&server, &["use", "second"]).0, Some(0));

    // No key is under the first one yet, but the next one that this process makes will be.
    let (exit, said) = keyring(&server, &["retire", &first]);
    assert_eq!(exit, Some(1), "{said}");
    assert!(said.contains("still makes new keys") && said.contains("restart every replica"), "{said}");
    let create = ["key", "create", "--realm", "acme", "--owner", "user:alice", "--quiet"];
    assert!(server.command().args(create).stdin(Stdio::null()).output().unwrap().status.success());

    assert_eq!(keyring(&server, &["add", "third"]).0, Some(0));
    let server = restarted(server);
    let (exit, said) = keyring(&server, &["retire", &first]);
    assert_eq!(exit, Some(1), "{said}");
    assert!(said.contains(&format!("1 keys are still under the pepper {first}")), "{said}");

    let (exit, said) = keyring(&server, &["retire", "third"]);
    assert_eq!(exit, Some(0), "{said}");
    assert!(said.contains("Retired the pepper third") && said.contains("cannot speak for the others"), "{said}");
    restarted(server);
}
