//! Without a decision nothing is said about a token: never that it is active, and never that it is not.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Answer, INTROSPECT, REVOKE, RS, inactive, introspect, key, post};
use crate::support::eventually;
use crate::support::redis::RedisServer;
use crate::support::server::Keyclasp;

/// With a short lease: memory helps no longer than that.
fn started(redis: &RedisServer) -> Keyclasp {
    super::callers(Keyclasp::set_up().store(&redis.url())).env("KEYCLASP_FENCE__LEASE", "500ms").start()
}

fn undecided(answer: &Answer) {
    assert_eq!(answer.error(), (503, "temporarily_unavailable".to_owned()), "{answer:?}");
    assert!(!answer.body.contains("active"), "{answer:?}");
}

/// What is decided about a token, once something is: a lease that short may end on a busy machine.
fn decided(server: &Keyclasp, token: &str) -> Value {
    let decided = eventually(Duration::from_secs(30), || {
        let answer = post(server, INTROSPECT, Some(RS), &format!("token={token}"));
        if answer.status != 200 {
            undecided(&answer);
        }
        (answer.status == 200).then(|| answer.json())
    });
    decided.expect("nothing is decided")
}

/// Ends a key as the standard has it: what was not done is tried again.
fn revoke(server: &Keyclasp, token: &str) {
    let ended = eventually(Duration::from_secs(30), || {
        let answer = post(server, REVOKE, None, &format!("token={token}"));
        if answer.status != 200 {
            undecided(&answer);
        }
        (answer.status == 200).then_some(())
    });
    assert!(ended.is_some(), "never revoked");
}

/// The kernel still accepts connections for it, and nothing is answered: what bounds this is the time of a call.
#[test]
fn a_frozen_store_is_no_answer_about_a_token() {
    let redis = RedisServer::start();
    let mut server = started(&redis);
    let (_, cold) = key(&server, &json!({}));
    let (_, warm) = key(&server, &json!({}));
    assert_eq!(decided(&server, &warm)["active"], true);
    redis.freeze();
    undecided(&post(&server, INTROSPECT, Some(RS), &format!("token={cold}")));
    undecided(&post(&server, REVOKE, None, &format!("token={cold}")));
    // What was in memory goes with the lease.
    let answer = eventually(Duration::from_secs(30), || {
        let answer = post(&server, INTROSPECT, Some(RS), &format!("token={warm}"));
        (answer.status != 200).then_some(answer)
    });
    undecided(&answer.expect("no lease ends"));
    // No store is asked about these, and no fence.
    assert_eq!(introspect(&server, RS, "x"), inactive());
    assert_eq!(post(&server, REVOKE, None, "token=x").status, 200);
    redis.thaw();
    server.wait_ready();
    assert_eq!(decided(&server, &warm)["active"], true);
    revoke(&server, &warm);
    assert_eq!(decided(&server, &warm), inactive());
}

#[test]
fn a_store_that_is_away_is_no_answer_about_a_token() {
    let mut redis = RedisServer::start_with(&["appendonly", "yes", "appendfsync", "always"]);
    let mut server = started(&redis);
    let (_, text) = key(&server, &json!({}));
    redis.kill();
    undecided(&post(&server, INTROSPECT, Some(RS), &format!("token={text}")));
    undecided(&post(&server, REVOKE, None, &format!("token={text}")));
    redis.start_again();
    server.wait_ready();
    revoke(&server, &text);
    assert_eq!(decided(&server, &text), inactive());
}

/// The whole time of a request is bounded too, whatever it waits for.
#[test]
fn a_revocation_that_is_not_fenced_in_time_is_not_answered_as_done() {
    let redis = RedisServer::start();
    let a = super::callers(Keyclasp::set_up().store(&redis.url()))
        .env("KEYCLASP_FENCE__LEASE", "60s")
        .env("KEYCLASP_SERVER__DEFAULT_DEADLINE", "1s")
        .start();
    let config = a.dir().join("keyclasp.toml");
    let mut b = Keyclasp::set_up().without_config().env("KEYCLASP_CONFIG", config.to_str().unwrap()).start();
    redis.run(&["COPY", "kc:{s00}:epoch", "kc:{s00}:settled"]);
    let (_, text) = key(&a, &json!({}));
    assert_eq!(introspect(&b, RS, &text)["active"], true);
    // It may answer from memory for a minute, for all that anybody knows.
    b.kill9();
    undecided(&post(&a, REVOKE, None, &format!("token={text}")));
    assert_eq!(introspect(&a, RS, &text), inactive(), "here it is over");
}
