//! What those who run it see of leases, histories, members and the Redis behind them: in GetStatus, `/metrics`,
//! the log and `keyclasp doctor`.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::json::call;
use crate::support::redis::{RedisServer, Replicated};
use crate::support::server::{Keyclasp, Setup};

/// Longest that something which comes by itself may take.
const BOUND: Duration = Duration::from_secs(30);
/// Long enough that a busy machine does not lose a lease.
const TERM: &str = "[fence]\nlease = \"3s\"";

fn status(server: &Keyclasp) -> Value {
    let (status, answer) = call(server.listen(), &server.token(), "AdminService/GetStatus", &json!({}));
    assert_eq!(status, 200, "{answer}");
    answer
}

/// The first status that `is` so.
fn status_when(server: &Keyclasp, is: impl Fn(&Value) -> bool) -> Value {
    let mut last = Value::Null;
    let found = eventually(BOUND, || {
        last = status(server);
        is(&last).then(|| last.clone())
    });
    found.unwrap_or_else(|| panic!("never came to be; at last {last:#}\n{}", server.log()))
}

/// What `keyclasp doctor` says, with its exit code.
fn doctor(server: &Keyclasp) -> (String, Option<i32>) {
    let output = server.command().arg("doctor").output().unwrap();
    (String::from_utf8(output.stdout).unwrap(), output.status.code())
}

/// What it says while a lease is held, which a busy machine can lose for a moment.
fn doctor_with_lease(server: &Keyclasp) -> (String, Option<i32>) {
    let said = eventually(BOUND, || {
        let (said, code) = doctor(server);
        field(&said, "lease").starts_with("held, ").then_some((said, code))
    });
    said.unwrap_or_else(|| panic!("no lease is held:\n{}", server.log()))
}

/// What is said at a name in the table.
fn field(said: &str, name: &str) -> String {
    let value = said.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix("  "));
    value.unwrap_or_else(|| panic!("{name} is missing in\n{said}")).trim_start().to_owned()
}

/// The value of a series in `/metrics`.
fn series(server: &Keyclasp, name: &str) -> Option<f64> {
    let (_, metrics) = server.get("/metrics");
    metrics.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

fn codes(status: &Value) -> Vec<&str> {
    let findings = status["findings"].as_array().map(Vec::as_slice).unwrap_or_default();
    findings.iter().map(|finding| finding["code"].as_str().unwrap()).collect()
}

/// Another replica with the keyring of the first.
fn beside(first: &Keyclasp, url: &str) -> Setup {
    let setup = Keyclasp::set_up().store(url).toml(TERM);
    for file in ["keyring.toml", "admin.token"] {
        std::fs::copy(first.dir().join(file), setup.dir().join(file)).unwrap();
    }
    setup
}

#[test]
fn two_replicas_tell_of_their_leases_and_of_what_a_revocation_waited_for() {
    let redis = RedisServer::start_with(&["appendonly", "yes", "appendfsync", "always"]);
    let first = Keyclasp::set_up().store(&redis.url()).toml(TERM).start();
    let second = beside(&first, &redis.url()).start();
    for server in [&first, &second] {
        let state = status_when(server, |it| {
            let shard = &it["fence"]["shards"][0];
            shard["members"] == 2 && !shard["leaseLeft"].is_null() && shard["trouble"].as_str().unwrap_or("").is_empty()
        });
        let shard = &state["fence"]["shards"][0];
        assert_eq!(state["fence"]["term"], "3s", "{state:#}");
        assert_eq!(shard["epoch"], state["store"]["epochs"][0], "{state:#}");
        assert_eq!(shard["drops"], "1", "{state:#}");
        assert_eq!(state["cache"]["room"], (64 << 20).to_string(), "{state:#}");
        let left = || series(server, "keyclasp_lease_left_seconds{shard=\"0\"}").filter(|left| *left > 0.0);
        assert!(eventually(BOUND, left).is_some_and(|left| left < 3.0), "{}", server.get("/metrics").1);
        assert_eq!(series(server, "keyclasp_lease_members{shard=\"0\"}"), Some(2.0));
    }
    assert_ne!(status(&first)["fence"]["member"], status(&second)["fence"]["member"]);
    // The history is new, and nobody may know yet what leases there were before it.
    status_when(&first, |it| it["fence"]["shards"][0]["settled"] == true && codes(it).is_empty());
    for (name, value) in [
        ("keyclasp_log_lag{shard=\"0\"}", 0.0),
        ("keyclasp_lease_settled{shard=\"0\"}", 1.0),
        ("keyclasp_memory_turns{shard=\"0\"}", 1.0),
        ("keyclasp_store_durable", 1.0),
        ("keyclasp_store_replicas{state=\"connected\"}", 0.0),
        ("keyclasp_store_replicas{state=\"needed\"}", 0.0),
    ] {
        assert_eq!(series(&first, name), Some(value), "{name} in\n{}", first.get("/metrics").1);
    }
    let log = first.log();
    for line in ["a history of the store begins", "a lease is held: keys are validated from memory"] {
        assert!(log.contains(line), "{line} is missing in\n{log}");
    }
    assert!(!log.contains("a crash of the store can lose changes"), "{log}");

    let create = json!({"realm": "acme", "owner": {"kind": "OWNER_KIND_USER", "id": "u-1"}});
    let (_, made) = call(first.listen(), &first.token(), "KeyService/CreateKey", &create);
    let check = json!({"apiKey": made["apiKey"]});
    assert_eq!(call(second.listen(), &second.token(), "KeyService/ValidateKey", &check).1["outcome"], "OUTCOME_VALID");
    let revoke = json!({"id": made["key"]["id"]});
    let (_, revoked) = call(first.listen(), &first.token(), "KeyService/RevokeKey", &revoke);
    assert_eq!(revoked["fence"]["acknowledged"], 2, "{revoked}");

    let waits = status(&first)["fence"]["waits"].clone();
    assert_eq!(waits["acknowledged"], "1", "{waits}");
    assert_eq!(waits["average"], waits["longest"], "{waits}");
    assert_eq!(series(&first, "keyclasp_fence_waits_total{result=\"acknowledged\"}"), Some(1.0));
    assert_eq!(series(&first, "keyclasp_fence_wait_duration_seconds_count"), Some(1.0));
    let log = first.log();
    let line = log.lines().find(|line| line.contains("no replica passes what this change took away"));
    assert!(line.is_some_and(|line| line.contains("acknowledged=2") && line.contains("took=")), "{log}");

    let (said, code) = doctor_with_lease(&first);
    assert_eq!(code, Some(0), "{said}");
    for (name, value) in [
        ("durable", "yes: append-only file, on disk before each answer"),
        ("replicas", "0 connected; a change is answered as soon as the primary has it: there are no replicas"),
        ("log lag", "0"),
        ("members", "2"),
        ("fenced", "1 confirmed by every replica; "),
    ] {
        assert!(field(&said, name).starts_with(value), "{name} is not {value} in\n{said}");
    }
}

#[test]
fn a_replica_that_is_killed_is_waited_for_once_and_then_gone() {
    let redis = RedisServer::start();
    let first = Keyclasp::set_up().store(&redis.url()).toml(TERM).start();
    let mut second = beside(&first, &redis.url()).start();
    status_when(&first, |it| it["fence"]["shards"][0]["members"] == 2);
    assert_eq!(series(&first, "keyclasp_store_durable"), Some(0.0));
    let log = first.log();
    assert!(log.contains("a crash of the store can lose changes that were answered OK"), "{log}");
    second.kill9();
    let create = json!({"realm": "acme", "owner": {"kind": "OWNER_KIND_USER", "id": "u-1"}});
    let (_, made) = call(first.listen(), &first.token(), "KeyService/CreateKey", &create);
    let (_, revoked) = call(first.listen(), &first.token(), "KeyService/RevokeKey", &json!({"id": made["key"]["id"]}));
    assert_eq!(revoked["fence"]["lapsed"], 1, "{revoked}");
    let state = status_when(&first, |it| it["fence"]["shards"][0]["members"] == 1);
    assert_eq!(state["fence"]["waits"]["lapsed"], "1", "{state:#}");
    let (said, _) = doctor(&first);
    assert_eq!(field(&said, "members"), "1");
    assert!(field(&said, "fenced").starts_with("1 after a silent replica's lease; "), "{said}");
}

#[test]
fn a_redis_without_the_replica_that_must_confirm_is_told_of_in_plain_words() {
    let redis = RedisServer::start();
    let server = Keyclasp::set_up().store(&redis.url()).toml(TERM).env("KEYCLASP_STORE__REPLICAS", "1").start_unready();
    let state = status_when(&server, |it| {
        let reason = &it["fence"]["shards"][0]["trouble"];
        it["store"]["reachable"] == true && reason.as_str().is_some_and(|reason| reason.contains("0 of 1 replicas"))
    });
    assert_eq!(codes(&state), ["STORE_NOT_DURABLE", "REPLICAS_MISSING", "NO_LEASE"], "{state:#}");
    let store = &state["store"];
    assert_eq!((&store["replicas"], &store["replicasNeeded"]), (&json!(1), &json!(1)), "{state:#}");
    assert_eq!(series(&server, "keyclasp_lease_left_seconds{shard=\"0\"}"), Some(0.0));
    assert_eq!(series(&server, "keyclasp_store_replicas{state=\"needed\"}"), Some(1.0));
    assert_eq!(series(&server, "keyclasp_store_replicas{state=\"connected\"}"), Some(0.0));
    let (said, code) = doctor(&server);
    assert_eq!(code, Some(1), "{said}");
    assert_eq!(
        field(&said, "replicas"),
        "0 of 1 connected; each change is confirmed by 1 of 1 replicas before it is answered: the replica may be promoted"
    );
    assert_eq!(field(&said, "lease"), "none held; term 3s");
    for part in [
        "error  REPLICAS_MISSING\n  1 of 1 replica must confirm each change (store.wait), and no replica follows the primary: \
         no change is answered OK, and 3s after the last confirmation no key is validated\n",
        "error  NO_LEASE\n  this replica holds no lease of shard 0",
    ] {
        assert!(said.contains(part), "{part} is missing in\n{said}");
    }

    // It comes, and what was missing is there.
    let replica = RedisServer::start_with(&["replicaof", &format!("127.0.0.1 {}", redis.port())]);
    let state = status_when(&server, |it| {
        it["store"]["replicasConnected"] == 1 && !it["fence"]["shards"][0]["leaseLeft"].is_null()
    });
    assert!(!codes(&state).contains(&"REPLICAS_MISSING") && !codes(&state).contains(&"NO_LEASE"), "{state:#}");
    let connected = || series(&server, "keyclasp_store_replicas{state=\"connected\"}");
    assert!(eventually(BOUND, || (connected() == Some(1.0)).then_some(())).is_some());
    drop(replica);
    status_when(&server, |it| codes(it).contains(&"REPLICAS_MISSING") && codes(it).contains(&"NO_LEASE"));
    let ended = || server.log().contains("the lease has ended: keys are not validated").then_some(());
    assert!(eventually(BOUND, ended).is_some(), "{}", server.log());
}

/// Only the first shard is looked at all the time; of another one, a beat tells.
#[test]
fn another_history_of_one_shard_is_taken_up() {
    let redis = RedisServer::start();
    let server = Keyclasp::set_up().store(&redis.url()).toml(TERM).env("KEYCLASP_STORE__SHARDS", "4").start();
    let before = status_when(&server, |it| !it["fence"]["shards"][3]["leaseLeft"].is_null());
    redis.run(&["DEL", "kc:{s03}:epoch"]);
    let after = status_when(&server, |it| {
        let shard = &it["fence"]["shards"][3];
        shard["epoch"] != before["fence"]["shards"][3]["epoch"] && !shard["leaseLeft"].is_null()
    });
    assert_eq!(after["fence"]["shards"][3]["epoch"], after["store"]["epochs"][3], "{after:#}");
    for shard in 0..3 {
        assert_eq!(after["store"]["epochs"][shard], before["store"]["epochs"][shard], "{after:#}");
    }
}

#[test]
fn replicas_that_nobody_waits_for_are_told_of() {
    let servers = Replicated::start();
    let server = Keyclasp::set_up().store(&servers.primary.url()).toml(TERM).start();
    let state = status_when(&server, |it| it["store"]["replicasConnected"] == 1);
    assert!(codes(&state).contains(&"FAILOVER_LOSES"), "{state:#}");
    let (said, _) = doctor(&server);
    assert!(
        field(&said, "replicas").starts_with("1 connected; a change is answered as soon as the primary has it"),
        "{said}"
    );
}

/// Each change waits for one replica, and it may be the other one that is promoted.
#[test]
fn more_replicas_than_are_counted_are_told_of() {
    let servers = Replicated::start();
    let primary = &servers.primary;
    let _other = RedisServer::start_with(&["replicaof", &format!("127.0.0.1 {}", primary.port())]);
    let server = Keyclasp::set_up().store(&primary.url()).toml(TERM).env("KEYCLASP_STORE__REPLICAS", "1").start();
    let state = status_when(&server, |it| it["store"]["replicasConnected"] == 2);
    assert!(codes(&state).contains(&"REPLICAS_UNCOUNTED"), "{state:#}");
    let (said, _) = doctor_with_lease(&server);
    assert!(said.contains("2 replicas follow the primary, and store.replicas says 1"), "{said}");
}

/// A replica goes on from memory while its Redis is away, and says for how long.
#[test]
fn a_redis_that_is_away_is_told_of_with_how_long_keys_are_validated() {
    let mut redis = RedisServer::start();
    let server = Keyclasp::set_up().store(&redis.url()).toml("[fence]\nlease = \"30s\"").start();
    redis.kill();
    let state = status_when(&server, |it| it["store"]["reachable"] != true);
    assert_eq!(codes(&state).first(), Some(&"STORE_UNREACHABLE"), "{state:#}");
    assert!(!codes(&state).contains(&"NO_LEASE"), "{state:#}");
    let (said, code) = doctor(&server);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("goes on to validate the keys that it has in memory, for "), "{said}");
}
