//! The process: starting, being ready, refusing, stopping.

use std::net::TcpListener;

use keyclasp::key::{ApiKey, SecretBytes, render};
use serde_json::json;

use crate::support::json::call;
use crate::support::redis::RedisServer;
use crate::support::server::Keyclasp;

#[test]
fn it_starts_answers_and_stops_with_exit_code_zero() {
    let mut server = Keyclasp::start();
    assert_eq!(server.get("/livez").0, 200);
    assert_eq!(server.get("/readyz").0, 200);
    assert_eq!(server.get("/elsewhere").0, 404);
    let create = json!({"realm": "acme", "owner": {"kind": "OWNER_KIND_USER", "id": "u-1"}});
    let (status, made) = call(server.listen(), &server.token(), "KeyService/CreateKey", &create);
    assert_eq!(status, 200, "{made}");
    let (_, checked) =
        call(server.listen(), &server.token(), "KeyService/ValidateKey", &json!({"apiKey": made["apiKey"]}));
    assert_eq!(checked["outcome"], "OUTCOME_VALID");
    let (_, metrics) = server.get("/metrics");
    for expected in [
        "keyclasp_validations_total{outcome=\"valid\"} 1",
        "keyclasp_mutations_total{action=\"created\"} 1",
        "keyclasp_argon2_runs_total 2",
        "keyclasp_build_info{version=",
        "keyclasp_store_calls_total{",
        "keyclasp_rpc_calls_total{",
        "keyclasp_rpc_in_flight",
    ] {
        assert!(metrics.contains(expected), "{expected} is missing in\n{metrics}");
    }
    assert!(server.terminate().success(), "{}", server.log());
}

#[test]
fn what_was_made_is_there_after_a_restart() {
    let mut server = Keyclasp::start();
    let create = json!({"realm": "acme", "owner": {"kind": "OWNER_KIND_USER", "id": "u-1"}});
    let (_, made) = call(server.listen(), &server.token(), "KeyService/CreateKey", &create);
    server.kill9();
    let server = server.start_again();
    let (_, checked) =
        call(server.listen(), &server.token(), "KeyService/ValidateKey", &json!({"apiKey": made["apiKey"]}));
    assert_eq!(checked["outcome"], "OUTCOME_VALID", "{checked}");
}

#[test]
fn a_second_process_on_the_port_is_refused_clearly() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (status, log) = Keyclasp::set_up().env("KEYCLASP_SERVER__LISTEN", &address).start_refused();
    assert!(!status.success());
    assert!(log.contains("server.listen") && log.contains(&taken.local_addr().unwrap().port().to_string()), "{log}");
}

#[test]
fn a_second_process_on_the_embedded_store_is_refused_clearly() {
    let server = Keyclasp::start();
    let url = format!("file://{}", server.dir().display());
    let (status, log) = Keyclasp::set_up().env("KEYCLASP_STORE__URL", &url).start_refused();
    assert!(!status.success());
    assert!(log.contains(&server.dir().display().to_string()), "{log}");
}

#[test]
fn a_listener_that_others_reach_without_tls_needs_insecure() {
    let (status, log) = Keyclasp::set_up().env("KEYCLASP_SERVER__LISTEN", "0.0.0.0:0").start_refused();
    assert!(!status.success());
    assert!(log.contains("server.insecure"), "{log}");
    let server =
        Keyclasp::set_up().env("KEYCLASP_SERVER__LISTEN", "0.0.0.0:0").env("KEYCLASP_SERVER__INSECURE", "true").start();
    assert!(server.is_ready());
}

#[test]
fn it_waits_for_a_redis_that_is_not_there_yet_and_recovers_when_it_comes_back() {
    let mut redis = RedisServer::start();
    redis.kill();
    let mut server = Keyclasp::set_up().store(&redis.url()).start_unready();
    let list = json!({"realm": "acme"});
    let (token, address) = (server.token(), server.listen());
    assert_eq!(server.get("/livez").0, 200);
    assert_eq!(server.get("/readyz").0, 503);
    let (status, error) = call(address, &token, "KeyService/ListKeys", &list);
    assert_eq!((status, error["code"].as_str()), (503, Some("unavailable")), "{error}");
    redis.start_again();
    server.wait_ready();
    assert_eq!(call(address, &token, "KeyService/ListKeys", &list).0, 200);

    redis.kill();
    let gone = crate::support::eventually(std::time::Duration::from_secs(20), || (!server.is_ready()).then_some(()));
    assert!(gone.is_some(), "it says that it is ready without a store");
    redis.start_again();
    server.wait_ready();
    assert!(server.terminate().success(), "{}", server.log());
}

#[test]
fn a_store_that_must_be_refused_ends_the_process() {
    let redis = RedisServer::start_with(&["maxmemory", "64mb", "maxmemory-policy", "allkeys-lru"]);
    let (status, log) = Keyclasp::set_up().store(&redis.url()).start_refused();
    assert_eq!(status.code(), Some(1));
    assert!(log.contains("noeviction"), "{log}");

    let redis = RedisServer::start();
    let (status, log) =
        Keyclasp::set_up().store(&redis.url()).env("KEYCLASP_STORE__REQUIRE_DURABLE", "true").start_refused();
    assert_eq!(status.code(), Some(1));
    assert!(log.contains("store.require_durable") && log.contains("appendfsync always"), "{log}");
}

#[test]
fn a_part_that_dies_ends_the_process() {
    // Each worker needs files of its own, so that one of so many finds none left; all else has started by then.
    let few = Keyclasp::set_up().env("KEYCLASP_SERVER__WORKERS", "64").under(&["prlimit", "--nofile=64:64"]);
    let (status, log) = few.start_refused();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains(" listens on ") && log.contains("did not start"), "{log}");
}

#[test]
fn without_a_setting_it_has_a_worker_for_each_core_that_it_may_use() {
    let allowed = std::thread::available_parallelism().unwrap().get();
    let server = Keyclasp::start();
    // It is ready when the store is; its last worker may still be starting.
    let all = || (server.workers().len() == allowed).then_some(());
    let started = crate::support::eventually(std::time::Duration::from_secs(20), all);
    assert!(started.is_some(), "{:?} of {allowed}", server.workers());
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let cores = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap();
    let first = cores.trim().split([',', '-']).next().unwrap();
    let server = Keyclasp::set_up().under(&["taskset", "--cpu-list", first]).start();
    assert_eq!(server.workers(), ["keyclasp-rpc-0"]);
}

#[test]
fn replicas_with_different_peppers_do_not_share_a_store() {
    let redis = RedisServer::start();
    let first = Keyclasp::set_up().store(&redis.url()).start();
    let (status, log) = Keyclasp::set_up().store(&redis.url()).start_refused();
    assert_eq!(status.code(), Some(1));
    assert!(log.contains("keyring.file"), "{log}");
    assert!(first.is_ready());
}

/// Calls of the store, whatever they were and came to, but for the question whether it is there.
fn store_calls(metrics: &str) -> u64 {
    let calls = metrics.lines().filter_map(|line| line.strip_prefix("keyclasp_store_calls_total{verb=\""));
    let counts: Vec<u64> = calls
        .filter(|call| !call.starts_with("health\""))
        .map(|call| call.split_whitespace().last().unwrap().parse().unwrap())
        .collect();
    assert!(counts.len() > 50, "not every verb and result is there:\n{metrics}");
    counts.iter().sum()
}

/// The value of a series in the text of `/metrics`; 0 where it is not there.
fn series(metrics: &str, name: &str) -> u64 {
    let found = metrics.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    found.unwrap_or_default()
}

#[test]
fn a_flood_of_forged_keys_makes_no_store_call_and_no_argon2_run() {
    let server = Keyclasp::start();
    let (address, token) = (server.listen(), server.token());
    let create = json!({"realm": "acme", "owner": {"kind": "OWNER_KIND_USER", "id": "u-1"}});
    let (_, made) = call(address, &token, "KeyService/CreateKey", &create);
    let real = ApiKey::new(made["apiKey"].as_str().unwrap().to_owned()).parse().unwrap();
    let counted = || {
        let (_, metrics) = server.get("/metrics");
        (store_calls(&metrics), series(&metrics, "keyclasp_argon2_runs_total"), metrics)
    };
    // The count moves when a key is genuine, or the test would see nothing.
    let before = counted();
    let (_, checked) = call(address, &token, "KeyService/ValidateKey", &json!({"apiKey": made["apiKey"]}));
    assert_eq!(checked["outcome"], "OUTCOME_VALID");
    let after = counted();
    assert_eq!((after.0, after.1), (before.0 + 1, before.1 + 1), "{}", after.2);
    for number in 0..200_u8 {
        // Well-formed, with the right checksum and the id of a key that exists, but with a guessed tag.
        let guess = render(&real.prefix, real.id, &SecretBytes::new([number; 32]), [number; 8]);
        for method in ["KeyService/ValidateKey", "KeyService/RevokeOwnKey"] {
            let (_, answer) = call(address, &token, method, &json!({"apiKey": guess.expose()}));
            assert!(answer["outcome"] == "OUTCOME_UNKNOWN" || answer["code"] == "not_found", "{answer}");
        }
        let (_, answer) = call(address, &token, "KeyService/ValidateKey", &json!({"apiKey": format!("junk {number}")}));
        assert_eq!(answer["outcome"], "OUTCOME_MALFORMED");
    }
    let flooded = counted();
    assert_eq!((flooded.0, flooded.1), (after.0, after.1), "{}", flooded.2);
    assert!(flooded.2.contains("keyclasp_validations_total{outcome=\"unknown\"} 200"), "{}", flooded.2);
}

#[test]
fn without_records_in_memory_each_check_reads_and_argon2_still_runs_once() {
    let server = Keyclasp::set_up().env("KEYCLASP_CACHE__MEMORY_MIB", "0").start();
    let (address, token) = (server.listen(), server.token());
    let create = json!({"realm": "acme", "owner": {"kind": "OWNER_KIND_USER", "id": "u-1"}});
    let counted = || {
        let (_, metrics) = server.get("/metrics");
        (store_calls(&metrics), series(&metrics, "keyclasp_argon2_runs_total"))
    };
    for _ in 0..3 {
        let (_, made) = call(address, &token, "KeyService/CreateKey", &create);
        let before = counted();
        for _ in 0..10 {
            let (_, checked) = call(address, &token, "KeyService/ValidateKey", &json!({"apiKey": made["apiKey"]}));
            assert_eq!(checked["outcome"], "OUTCOME_VALID");
        }
        assert_eq!(counted(), (before.0 + 10, before.1 + 1));
    }
}

#[test]
fn in_json_each_line_of_the_log_is_an_object_with_the_fields_of_what_happened() {
    let mut server = Keyclasp::set_up().env("KEYCLASP_LOG__FORMAT", "json").start();
    let (address, token) = (server.listen(), server.token());
    let create = json!({"realm": "acme", "owner": {"kind": "OWNER_KIND_USER", "id": "u-1"}});
    let (_, made) = call(address, &token, "KeyService/CreateKey", &create);
    call(address, &token, "KeyService/RevokeKey", &json!({"id": made["key"]["id"]}));
    server.terminate();
    let log = server.log();
    // Before it, on standard output, stands where it listens: that is for people.
    let said = log.lines().skip_while(|line| !line.starts_with('{'));
    let lines: Vec<serde_json::Value> = said
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line}\n{log}")))
        .collect();
    for line in &lines {
        for field in ["timestamp", "level", "target", "message"] {
            assert!(line[field].is_string(), "{field} is missing in {line}");
        }
    }
    let changes: Vec<_> = lines.iter().filter(|line| line["message"] == "key changed").collect();
    assert_eq!(changes.len(), 2, "{log}");
    for (change, (action, version)) in changes.iter().zip([("created", 1), ("revoked", 2)]) {
        assert_eq!((change["level"].as_str(), change["action"].as_str()), (Some("INFO"), Some(action)), "{change}");
        assert_eq!((&change["key"], &change["version"]), (&made["key"]["id"], &json!(version)), "{change}");
        for (field, value) in [("realm", "acme"), ("owner", "u-1"), ("actor", "admin"), ("origin", "127.0.0.1")] {
            assert_eq!(change[field], value, "{change}");
        }
    }
}

#[test]
fn the_log_has_a_line_for_each_mutation_and_none_for_a_validation() {
    let server = Keyclasp::start();
    let (address, token) = (server.listen(), server.token());
    let create = json!({"realm": "acme", "owner": {"kind": "OWNER_KIND_USER", "id": "u-1"}});
    let (_, made) = call(address, &token, "KeyService/CreateKey", &create);
    let lines = || server.log().lines().count();
    let before = lines();
    for _ in 0..10 {
        call(address, &token, "KeyService/ValidateKey", &json!({"apiKey": made["apiKey"]}));
    }
    assert_eq!(lines(), before, "{}", server.log());
    call(address, &token, "KeyService/RevokeKey", &json!({"id": made["key"]["id"], "reason": "test"}));
    assert_eq!(lines(), before + 1, "{}", server.log());
    let log = server.log();
    let line = log.lines().last().unwrap();
    for part in ["revoked", made["key"]["id"].as_str().unwrap(), "acme", "admin"] {
        assert!(line.contains(part), "{part} is missing in {line}");
    }
}
