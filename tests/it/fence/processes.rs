//! What only real processes can show: how they are stopped, paused and started beside each other.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::json::{Begun, call, call_within};
use crate::support::redis::RedisServer;
use crate::support::server::{Keyclasp, Setup};

/// Longest that anything may take, on a machine that compiles something else.
const PATIENCE: Duration = Duration::from_secs(30);
/// The rows of the members of the only shard.
const MEMBERS: &str = "kc:{s00}:m";

/// Processes with one configuration.
struct Pair {
    redis: RedisServer,
    a: Keyclasp,
    b: Keyclasp,
    token: String,
}

impl Pair {
    fn start(lease: &str, settings: &[(&str, &str)]) -> Self {
        let redis = RedisServer::start();
        let with = |setup: Setup| {
            let setup = setup.env("KEYCLASP_FENCE__LEASE", lease);
            settings.iter().fold(setup, |setup, (name, value)| setup.env(name, value))
        };
        let a = with(Keyclasp::set_up().store(&redis.url())).start();
        let config = a.dir().join("keyclasp.toml");
        let beside = Keyclasp::set_up().without_config().env("KEYCLASP_CONFIG", config.to_str().unwrap());
        let b = with(beside).start();
        // No lease of an earlier history can run: there was none.
        redis.run(&["COPY", "kc:{s00}:epoch", "kc:{s00}:settled"]);
        let token = a.token();
        Self { redis, a, b, token }
    }

    /// Id and text of a new key that both have in memory.
    fn key(&self) -> (Value, Value) {
        let create = json!({"realm": "acme", "owner": {"kind": "OWNER_KIND_USER", "id": "ada"}, "name": "a key"});
        let (status, made) = call(self.a.listen(), &self.token, "KeyService/CreateKey", &create);
        assert_eq!(status, 200, "{made}");
        let text = made["apiKey"].clone();
        for process in [&self.a, &self.b] {
            assert_eq!(self.check(process, &text), "OUTCOME_VALID");
        }
        (made["key"]["id"].clone(), text)
    }

    fn check(&self, process: &Keyclasp, text: &Value) -> String {
        let (status, checked) = call(process.listen(), &self.token, "KeyService/ValidateKey", &json!({"apiKey": text}));
        if status == 200 { checked["outcome"].as_str().unwrap().to_owned() } else { format!("{status} {checked}") }
    }

    fn revoke(&self, id: &Value, timeout: Duration) -> (u16, Value) {
        call_within(self.a.listen(), &self.token, "KeyService/RevokeKey", &json!({"id": id}), timeout)
    }

    /// How many entries the log has had so far, and the second by the server's clock.
    fn written(&self) -> (u64, u64) {
        (self.redis.command(&["GET", "kc:{s00}:pos"]), self.redis.command::<Vec<u64>>(&["TIME"])[0])
    }

    fn members(&self) -> u64 {
        self.redis.command(&["HLEN", MEMBERS])
    }
}

fn waited(revoked: &(u16, Value)) -> (u64, u64) {
    assert_eq!(revoked.0, 200, "{}", revoked.1);
    let fence = &revoked.1["fence"];
    (fence["acknowledged"].as_u64().unwrap_or_default(), fence["lapsed"].as_u64().unwrap_or_default())
}

#[test]
fn two_processes_of_one_host_and_directory_are_two_members() {
    let pair = Pair::start("20s", &[]);
    let (id, text) = pair.key();
    assert_eq!(pair.members(), 2);
    assert_eq!(waited(&pair.revoke(&id, PATIENCE)), (2, 0));
    for process in [&pair.a, &pair.b] {
        assert_eq!(pair.check(process, &text), "OUTCOME_REVOKED");
    }
}

/// A lease lasts for a minute, and the revocation has half of that.
#[test]
fn after_sigterm_the_next_revocation_waits_for_nobody() {
    let mut pair = Pair::start("60s", &[]);
    let (id, _) = pair.key();
    assert!(pair.b.terminate().success());
    assert_eq!(pair.members(), 1, "its row stayed");
    assert_eq!(waited(&pair.revoke(&id, PATIENCE)), (1, 0));
}

/// Until its last answer, a process that drains is a member like any other.
#[test]
fn what_is_answered_while_a_process_drains_is_true() {
    let mut pair = Pair::start("20s", &[("KEYCLASP_SERVER__DRAIN", "30s")]);
    let (id, text) = pair.key();
    let begun = Begun::new(pair.b.listen(), &pair.token, "KeyService/ValidateKey", &json!({"apiKey": text}));
    let in_flight = || pair.b.get("/metrics").1.contains("keyclasp_rpc_in_flight 1\n").then_some(());
    eventually(PATIENCE, in_flight).expect("the call is in flight");
    pair.b.signal(Signal::TERM);
    let stopping = || (pair.b.get("/readyz").0 == 503).then_some(());
    eventually(PATIENCE, stopping).expect("it drains");
    assert_eq!(pair.members(), 2, "it left before its last answer");
    assert_eq!(waited(&pair.revoke(&id, PATIENCE)), (2, 0));
    // Its decision begins now.
    let (status, checked) = begun.end();
    assert_eq!((status, checked["outcome"].as_str()), (200, Some("OUTCOME_REVOKED")), "{checked}");
    assert!(pair.b.terminate().success());
    assert_eq!(pair.members(), 1);
}

#[test]
fn who_gives_a_revocation_too_little_time_is_told_that_it_is_not_fenced_and_a_repeat_is() {
    let pair = Pair::start("3s", &[]);
    let (id, text) = pair.key();
    pair.b.signal(Signal::STOP);
    let (status, error) = pair.revoke(&id, Duration::from_millis(300));
    assert_eq!((status, error["code"].as_str()), (504, Some("deadline_exceeded")), "{error}");
    assert_eq!(error["details"][0]["debug"]["reason"], "REVOKED_NOT_FENCED", "{error}");
    assert_eq!(pair.check(&pair.a, &text), "OUTCOME_REVOKED", "it is stored");
    assert_eq!(waited(&pair.revoke(&id, PATIENCE)), (1, 1));
    // The paused one comes back, and its first answer is the right one.
    pair.b.signal(Signal::CONT);
    assert_ne!(pair.check(&pair.b, &text), "OUTCOME_VALID");
    let refused = || (pair.check(&pair.b, &text) == "OUTCOME_REVOKED").then_some(());
    eventually(PATIENCE, refused).expect("it holds a lease again");
}

#[test]
fn a_flood_of_a_revoked_key_that_ends_itself_writes_once_a_second_at_most() {
    let pair = Pair::start("5s", &[]);
    let (id, text) = pair.key();
    pair.revoke(&id, PATIENCE);
    let (before, began) = pair.written();
    for _ in 0..200 {
        let (status, answer) = call(pair.b.listen(), "", "KeyService/RevokeOwnKey", &json!({"apiKey": text}));
        assert_eq!(status, 200, "{answer}");
    }
    let (after, ended) = pair.written();
    let (writes, took) = (after - before, ended - began);
    assert!((1..=took + 2).contains(&writes), "{writes} writes in {took} s");
}

/// Where its time is up before anybody could have confirmed anything.
#[test]
fn nor_does_one_of_callers_who_go_away_at_once() {
    let pair = Pair::start("5s", &[]);
    let (id, text) = pair.key();
    pair.revoke(&id, PATIENCE);
    let (before, began) = pair.written();
    for _ in 0..200 {
        let (request, timeout) = (json!({"apiKey": text}), Duration::from_millis(10));
        let (status, answer) = call_within(pair.b.listen(), "", "KeyService/RevokeOwnKey", &request, timeout);
        assert!(matches!(status, 200 | 504), "{status} {answer}");
    }
    let (status, answer) = call(pair.b.listen(), "", "KeyService/RevokeOwnKey", &json!({"apiKey": text}));
    assert_eq!(status, 200, "{answer}");
    let (after, ended) = pair.written();
    let (writes, took) = (after - before, ended - began);
    assert!((1..=took + 2).contains(&writes), "{writes} writes in {took} s");
    let warnings = u64::try_from(pair.b.log().matches("some replica may not know of it yet").count()).unwrap();
    assert!((1..=10 * (took + 2)).contains(&warnings), "{warnings} warnings in {took} s");
    let told: Vec<_> = answer["fence"].as_object().unwrap().keys().collect();
    assert_eq!(told, ["duration"], "more is told than a stranger may know");
}
