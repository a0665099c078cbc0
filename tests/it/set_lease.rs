//! `keyclasp store set-lease`, on a store that is used and one that is not.

use std::process::Stdio;

use crate::support::redis::RedisServer;
use crate::support::server::{Keyclasp, program};

/// Runs it on the files of a service; answers the exit code and all that was said.
fn set_lease(dir: &std::path::Path, term: &str) -> (Option<i32>, String) {
    let mut command = program();
    let config = dir.join("keyclasp.toml");
    let output = command.args(["store", "set-lease", term, "--config"]).arg(config).stdin(Stdio::null()).output();
    let output = output.unwrap();
    (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
}

#[test]
fn the_term_of_leases_is_changed_while_no_replica_runs() {
    let mut redis = RedisServer::start();
    let setup = Keyclasp::set_up().store(&redis.url()).toml("[fence]\nlease = \"400ms\"");
    let mut server = setup.start();
    let (exit, said) = set_lease(server.dir(), "2s");
    assert_eq!(exit, Some(1), "{said}");
    assert!(said.contains("a replica is running") && said.contains("stop all of them first"), "{said}");
    assert!(server.is_ready(), "{}", server.log());

    assert!(server.terminate().success(), "{}", server.log());
    let setup = server.into_setup();
    let (exit, said) = set_lease(setup.dir(), "2s");
    assert_eq!(exit, Some(0), "{said}");
    assert!(said.contains("Leases of redis://127.0.0.1") && said.contains("last 2s from now on"), "{said}");
    assert!(said.contains("says fence.lease = 400ms: set it to \"2s\""), "{said}");
    let (status, said) = setup.start_refused();
    assert!(!status.success());
    assert!(said.contains("made with fence.lease = 2s") && said.contains("says 400ms"), "{said}");

    redis.kill();
    let other = Keyclasp::set_up().store(&redis.url());
    let (exit, said) = set_lease(other.dir(), "5s");
    assert_eq!(exit, Some(3), "{said}");
}
