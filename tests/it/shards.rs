//! A service on a store of four shards: what is put together above the store is whole and in order.

use std::collections::BTreeSet;
use std::time::UNIX_EPOCH;

use keyclasp::clock::Timestamp;
use serde_json::{Value, json};

use crate::support::json::call;
use crate::support::redis::RedisServer;
use crate::support::server::Keyclasp;

const SHARDS: usize = 4;

/// A process, and the Redis that it shards.
struct Sharded {
    server: Keyclasp,
    redis: RedisServer,
}

impl Sharded {
    fn start() -> Self {
        let redis = RedisServer::start();
        let setup = Keyclasp::set_up().store(&redis.url()).env("KEYCLASP_STORE__SHARDS", &SHARDS.to_string());
        // In a new history a revocation waits for one term, for whoever may have had a lease before.
        let server = setup.toml("[fence]\nlease = \"1s\"").start();
        Self { server, redis }
    }

    fn call(&self, method: &str, request: &Value) -> Value {
        let (status, answer) = call(self.server.listen(), &self.server.token(), method, request);
        assert_eq!(status, 200, "{method} {request}: {answer}");
        answer
    }

    /// A key of each of so many owners, who lie on every shard: their ids and texts.
    fn keys(&self, owners: usize) -> Vec<(String, String)> {
        let made = (0..owners).map(|number| {
            let owner = json!({"kind": "OWNER_KIND_USER", "id": format!("u-{number}")});
            let made = self.call("KeyService/CreateKey", &json!({"realm": "acme", "owner": owner}));
            (text(&made["key"]["id"]), text(&made["apiKey"]))
        });
        let made = made.collect();
        for shard in 0..SHARDS {
            let entries: u64 = self.redis.command(&["XLEN", &format!("kc:{{s{shard:02x}}}:log")]);
            assert!(entries > 0, "no owner lies on shard {shard}, and this shows nothing");
        }
        made
    }

    fn outcome(&self, key: &str) -> Value {
        self.call("KeyService/ValidateKey", &json!({"apiKey": key}))["outcome"].clone()
    }

    /// All events that match, page by page.
    fn events(&self, filter: &Value, page_size: usize) -> Vec<Told> {
        let (mut listed, mut page_token) = (Vec::new(), String::new());
        loop {
            let mut request = filter.clone();
            request["realm"] = json!("acme");
            request["pageSize"] = json!(page_size);
            request["pageToken"] = json!(page_token);
            let answer = self.call("AuditService/ListEvents", &request);
            let events = answer["events"].as_array().cloned().unwrap_or_default();
            assert!(events.len() <= page_size, "{answer}");
            listed.extend(events.iter().map(|event| Told { at: time(&event["at"]), id: text(&event["id"]) }));
            match answer["nextPageToken"].as_str() {
                Some(next) if !next.is_empty() => next.clone_into(&mut page_token),
                _ => return listed,
            }
        }
    }
}

/// An event.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Told {
    at: Timestamp,
    id: String,
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}")).to_owned()
}

fn time(value: &Value) -> Timestamp {
    let since = humantime::parse_rfc3339(&text(value)).unwrap().duration_since(UNIX_EPOCH).unwrap();
    Timestamp::default().after(since)
}

fn times(events: &[Told]) -> Vec<Timestamp> {
    events.iter().map(|event| event.at).collect()
}

fn ids(events: &[Told]) -> BTreeSet<String> {
    events.iter().map(|event| event.id.clone()).collect()
}

#[test]
fn the_audit_log_is_merged_by_time_and_no_event_is_lost_or_told_twice() {
    let service = Sharded::start();
    let keys = service.keys(20);
    for (id, _) in keys.iter().step_by(2) {
        service.call("KeyService/SuspendKey", &json!({"id": id}));
    }
    let whole = service.events(&json!({}), 500);
    assert!(times(&whole).is_sorted(), "{whole:#?}");
    assert_eq!((whole.len(), ids(&whole).len()), (30, 30), "{whole:#?}");
    let middle = whole[whole.len() / 2].at;
    for newest_first in [false, true] {
        for (since, before) in [(false, false), (true, false), (false, true)] {
            let mut filter = json!({"newestFirst": newest_first});
            if since {
                filter["since"] = json!(middle.to_string());
            }
            if before {
                filter["before"] = json!(middle.to_string());
            }
            let in_time = |event: &&Told| (!since || event.at >= middle) && (!before || event.at < middle);
            let mut expected: Vec<_> = whole.iter().filter(in_time).cloned().collect();
            if newest_first {
                expected.reverse();
            }
            assert!(!expected.is_empty(), "{filter}");
            for page_size in [1, 3, 500] {
                let listed = service.events(&filter, page_size);
                // Events of one time, on different shards, have no order of their own.
                assert_eq!(times(&listed), times(&expected), "{filter}, pages of {page_size}");
                assert_eq!(ids(&listed), ids(&expected), "{filter}, pages of {page_size}");
            }
        }
    }
    let suspensions = service.events(&json!({"action": "EVENT_ACTION_SUSPENDED"}), 3);
    assert_eq!((suspensions.len(), ids(&suspensions).len()), (10, 10), "{suspensions:#?}");
}

#[test]
fn a_realm_is_revoked_on_every_shard_under_a_fence_for_each() {
    let service = Sharded::start();
    let keys = service.keys(20);
    for (_, key) in &keys {
        assert_eq!(service.outcome(key), "OUTCOME_VALID");
    }
    let all = json!({"realm": "acme", "all": true});
    let mut dry = all.clone();
    dry["dryRun"] = json!(true);
    let counted = service.call("KeyService/RevokeKeys", &dry);
    assert_eq!((counted["revoked"].as_str(), &counted["fences"]), (Some("20"), &Value::Null), "{counted}");
    assert_eq!(service.outcome(&keys[0].1), "OUTCOME_VALID");

    // One owner lies on one shard.
    let one = json!({"realm": "acme", "owner": {"kind": "OWNER_KIND_USER", "id": "u-0"}});
    let swept = service.call("KeyService/RevokeKeys", &one);
    assert_eq!((swept["revoked"].as_str(), swept["fences"].as_array().map(Vec::len)), (Some("1"), Some(1)), "{swept}");

    let swept = service.call("KeyService/RevokeKeys", &all);
    assert_eq!((swept["revoked"].as_str(), swept["alreadyEnded"].as_str()), (Some("19"), Some("1")), "{swept}");
    let fences = swept["fences"].as_array().unwrap();
    assert_eq!(fences.len(), SHARDS, "{swept}");
    for (shard, fence) in fences.iter().enumerate() {
        let written: u64 = service.redis.command(&["GET", &format!("kc:{{s{shard:02x}}}:pos")]);
        assert_eq!(fence["position"].as_str(), Some(written.to_string().as_str()), "shard {shard}: {swept}");
        // On a busy machine this process may have lost its lease meanwhile.
        let waited = fence["acknowledged"].as_u64().unwrap_or(0) + fence["lapsed"].as_u64().unwrap_or(0);
        assert_eq!(waited, 1, "shard {shard}: {swept}");
    }
    for (_, key) in &keys {
        assert_eq!(service.outcome(key), "OUTCOME_REVOKED");
    }
}

#[test]
fn each_change_that_takes_away_tells_what_it_waited_for() {
    let service = Sharded::start();
    let owner = json!({"kind": "OWNER_KIND_USER", "id": "u-1"});
    let nowhere = json!(["192.0.2.0/24"]);
    for method in ["SuspendKey", "UpdateKey", "RotateKey", "RevokeKey", "RevokeOwnKey"] {
        let made = service.call("KeyService/CreateKey", &json!({"realm": "acme", "owner": owner}));
        let id = &made["key"]["id"];
        let request = match method {
            "UpdateKey" => json!({"key": {"id": id, "allowedCidrs": nowhere}, "updateMask": "allowedCidrs"}),
            "RevokeOwnKey" => json!({"apiKey": made["apiKey"]}),
            _ => json!({"id": id}),
        };
        let fence = service.call(&format!("KeyService/{method}"), &request)["fence"].clone();
        assert!(text(&fence["duration"]).ends_with('s'), "{method}: {fence}");
        if method == "RevokeOwnKey" {
            // Its caller may be anybody.
            assert_eq!(fence.as_object().map(serde_json::Map::len), Some(1), "{fence}");
            continue;
        }
        let count = |field: &str| fence[field].as_u64().unwrap_or(0);
        assert_eq!(count("acknowledged") + count("lapsed"), 1, "{method}: {fence}");
        assert!(text(&fence["position"]).parse::<u64>().unwrap() > 1, "{method}: {fence}");
    }
}
