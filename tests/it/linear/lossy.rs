//! A Redis that forgets its last second when its machine fails: what was revoked in it comes back.
//! That is not promised otherwise, and `keyclasp doctor` has to say so before it happens.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::json::call;
use crate::support::redis::RedisServer;
use crate::support::server::Keyclasp;

const KEYS: usize = 20;
const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn what_a_store_that_is_not_durable_loses_is_not_promised_and_doctor_warns() {
    let mut redis = RedisServer::start_with(&["appendonly", "yes", "appendfsync", "everysec"]);
    let mut server = Keyclasp::set_up().store(&redis.url()).env("KEYCLASP_FENCE__LEASE", "300ms").start();
    let doctor = server.command().arg("doctor").output().unwrap();
    let said = String::from_utf8_lossy(&doctor.stdout);
    assert!(said.contains("STORE_NOT_DURABLE"), "doctor does not warn:\n{said}");

    let (address, token) = (server.listen(), server.token());
    // Just after a fault the service may still be finding its way.
    let ask = |method: &str, request: Value| {
        let answered = || Some(call(address, &token, method, &request)).filter(|(status, _)| *status == 200);
        let answer = eventually(PATIENCE, answered).unwrap_or_else(|| panic!("{method} is never answered"));
        answer.1
    };
    let keys: Vec<(Value, Value)> = (0..KEYS)
        .map(|_| {
            let owner = json!({"kind": "OWNER_KIND_USER", "id": "u-1"});
            let made = ask("KeyService/CreateKey", json!({"realm": "acme", "owner": owner}));
            (made["key"]["id"].clone(), made["apiKey"].clone())
        })
        .collect();
    let validate = || {
        let outcome =
            |(_, text): &(Value, Value)| ask("KeyService/ValidateKey", json!({"apiKey": text}))["outcome"].clone();
        keys.iter().map(outcome).collect::<Vec<_>>()
    };

    let (file, on_disk) = written(&redis);
    keys.iter().for_each(|(id, _)| drop(ask("KeyService/RevokeKey", json!({"id": id}))));
    assert_eq!(validate(), vec!["OUTCOME_REVOKED"; KEYS]);
    // As when the machine fails: what no fsync has reached is gone.
    redis.kill();
    std::fs::File::options().write(true).open(file).unwrap().set_len(on_disk).unwrap();
    redis.start_again();
    server.wait_ready();
    // What is in memory is right for as long as the lease lasts.
    let back = || validate().iter().filter(|outcome| *outcome == "OUTCOME_VALID").count();
    let all = eventually(PATIENCE, || (back() == KEYS).then_some(()));
    assert!(all.is_some(), "the test has to lose what it says it loses, and not {}", back());
    println!("not promised: {KEYS} keys that were revoked in the last second before a crash are valid again");

    keys.iter().for_each(|(id, _)| drop(ask("KeyService/RevokeKey", json!({"id": id}))));
    assert_eq!(validate(), vec!["OUTCOME_REVOKED"; KEYS]);
}

/// The file that Redis appends to, and its length once nothing is left to be written.
fn written(redis: &RedisServer) -> (PathBuf, u64) {
    let quiet = || {
        let info: String = redis.command(&["INFO", "persistence"]);
        let says = |what: &str| info.lines().any(|line| line == what);
        (says("aof_buffer_length:0") && says("aof_pending_bio_fsync:0")).then_some(())
    };
    assert!(eventually(PATIENCE, quiet).is_some(), "Redis does not write what it has");
    let [_, dir] = redis.command::<[String; 2]>(&["CONFIG", "GET", "dir"]);
    let files = std::fs::read_dir(PathBuf::from(dir).join("appendonlydir")).unwrap();
    let file = files.map(|file| file.unwrap().path()).find(|path| path.to_str().unwrap().ends_with(".incr.aof"));
    let file = file.expect("an append-only file");
    let length = file.metadata().unwrap().len();
    (file, length)
}
