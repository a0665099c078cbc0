//! Whoever holds a key ends it, and once that is answered no replica lets it pass.

use serde_json::json;

use super::{INTROSPECT, REVOKE, RS, done, encoded, inactive, introspect, key, post, started};
use crate::support::redis::RedisServer;
use crate::support::server::Keyclasp;

fn revoke(server: &Keyclasp, token: &str) {
    let answer = post(server, REVOKE, None, &format!("token={}&token_type_hint=access_token", encoded(token)));
    assert_eq!((answer.status, answer.body.as_str()), (200, ""), "{answer:?}");
    assert!(answer.has("cache-control: no-store") && answer.has("pragma: no-cache"), "{answer:?}");
}

#[test]
fn the_key_is_the_right_to_end_it() {
    let server = started();
    let (id, text) = key(&server, &json!({}));
    let (_, other) = key(&server, &json!({}));
    assert_eq!(introspect(&server, RS, &text)["active"], true);
    revoke(&server, &text);
    assert_eq!(introspect(&server, RS, &text), inactive());
    assert_eq!(introspect(&server, RS, &other)["active"], true);
    let record = done(&server, "KeyService/GetKey", &json!({"id": id}))["key"].clone();
    assert_eq!((&record["status"], &record["revokedBy"]), (&json!("KEY_STATUS_REVOKED"), &json!(format!("key:{id}"))));
    let events = done(&server, "AuditService/ListEvents", &json!({"keyId": id}))["events"].clone();
    let last = events.as_array().unwrap().last().unwrap();
    assert_eq!((&last["actor"], &last["origin"]), (&json!(format!("key:{id}")), &json!("127.0.0.1")), "{events}");
    // Again: it is so already, and no news.
    for _ in 0..3 {
        revoke(&server, &text);
    }
    assert_eq!(done(&server, "AuditService/ListEvents", &json!({"keyId": id}))["events"], events);
}

#[test]
fn what_lets_nobody_pass_is_revoked_already() {
    let server = started();
    let foreign = key(&Keyclasp::start(), &json!({})).1;
    let (id, suspended) = key(&server, &json!({}));
    done(&server, "KeyService/SuspendKey", &json!({"id": id}));
    for token in [foreign.as_str(), &suspended, "x", "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.c2ln", "é \n"] {
        revoke(&server, token);
    }
    let record = done(&server, "KeyService/GetKey", &json!({"id": id}))["key"].clone();
    assert_eq!(record["status"], "KEY_STATUS_REVOKED", "a suspended key can be ended too");
}

/// Clients show their own credentials here, as the standard wants it. Nobody looks at them.
#[test]
fn a_credential_is_not_judged() {
    let server = started();
    for who in [RS, ["nobody", "wrong"]] {
        let (_, text) = key(&server, &json!({}));
        let answer = post(&server, REVOKE, Some(who), &format!("token={text}"));
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(introspect(&server, RS, &text), inactive());
    }
}

#[test]
fn once_it_is_answered_no_replica_lets_the_key_pass() {
    let redis = RedisServer::start();
    let a = super::callers(Keyclasp::set_up().store(&redis.url())).start();
    let config = a.dir().join("keyclasp.toml");
    let b = Keyclasp::set_up().without_config().env("KEYCLASP_CONFIG", config.to_str().unwrap()).start();
    // No lease of an earlier history can run: there was none.
    redis.run(&["COPY", "kc:{s00}:epoch", "kc:{s00}:settled"]);
    for (here, there) in [(&a, &b), (&b, &a)] {
        let (_, text) = key(&a, &json!({}));
        for replica in [here, there] {
            assert_eq!(introspect(replica, RS, &text)["active"], true);
        }
        revoke(here, &text);
        for replica in [there, here] {
            assert_eq!(introspect(replica, RS, &text), inactive());
        }
        revoke(there, &text);
    }
    let answer = post(&b, INTROSPECT, Some(RS), "token=x");
    assert_eq!((answer.status, answer.json()), (200, inactive()));
}
