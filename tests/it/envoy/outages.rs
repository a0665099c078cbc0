//! keyclasp or its store is away, slow or silent: what that does to requests, as Envoy and keyclasp are set.

use std::time::Duration;

use rustix::process::Signal;
use tonic::Code;

use super::{Key, Rig, Seen, TOKEN, assert_refused, callers, passed, problem};
use crate::support::envoy::{Config, Envoy};
use crate::support::eventually;
use crate::support::http1::{self, Answer};
use crate::support::proxy::{Link, Proxy};
use crate::support::redis::RedisServer;
use crate::support::server::Keyclasp;

const PATIENCE: Duration = Duration::from_secs(30);

/// A keyclasp over a Redis behind a link that can fail, with short leases.
struct Stored {
    rig: Rig,
    link: Proxy,
    redis: RedisServer,
}

impl Stored {
    fn start(on_unavailable: &str) -> Self {
        let redis = RedisServer::start();
        let link = Proxy::start(redis.port());
        let keyclasp = callers(Keyclasp::set_up().store(&format!("redis://127.0.0.1:{}", link.port())))
            .env("KEYCLASP_FENCE__LEASE", "1s")
            .env("KEYCLASP_ENVOY__ON_UNAVAILABLE", on_unavailable)
            .start();
        Self { rig: Rig::over(keyclasp), link, redis }
    }

    /// Waits until keyclasp may not answer from memory any more.
    fn wait_unready(&self) {
        let unready = eventually(PATIENCE, || (!self.rig.keyclasp.is_ready()).then_some(()));
        assert!(unready.is_some(), "it says that it is ready without a store");
    }
}

/// The refusal of a key that nobody can decide about.
#[track_caller]
fn assert_no_decision(answer: &Answer) {
    assert_refused(503, answer);
    assert_eq!(problem(answer), "no-decision");
    assert!(answer.header("retry-after").is_some_and(|wait| wait.parse::<u32>().unwrap() >= 1), "{answer:?}");
}

/// Envoy's own refusal, where nobody answered it.
#[track_caller]
fn assert_envoys_own(answer: &Answer) {
    assert_eq!((answer.status, answer.body.as_slice()), (503, &b""[..]), "{answer:?}");
}

fn ask(envoy: &Envoy, key: &Key) -> Answer {
    http1::get(envoy.listen(), "/", &[("api-key", &key.text)])
}

#[test]
fn while_keyclasp_is_stopped_envoy_does_what_it_was_told_to() {
    let mut rig = Rig::over(callers(Keyclasp::set_up()).start());
    let key = rig.key(&[]);
    passed(rig.envoy().listen(), "/", &[("api-key", &key.text)]);
    passed(rig.open().listen(), "/", &[("api-key", &key.text)]);
    assert!(rig.keyclasp.terminate().success());
    assert_envoys_own(&ask(rig.envoy(), &key));
    // It lets all through, but nobody's identity with it.
    let seen = passed(rig.open().listen(), "/", &[("api-key", "nonsense"), ("x-keyclasp-owner", "root")]);
    assert_eq!(seen.identities(), Vec::<&str>::new());
}

#[test]
fn while_keyclasp_is_frozen_envoy_waits_no_longer_than_its_timeout() {
    let rig = Rig::over(callers(Keyclasp::set_up()).start());
    let key = rig.key(&[]);
    passed(rig.envoy().listen(), "/", &[("api-key", &key.text)]);
    passed(rig.open().listen(), "/", &[("api-key", &key.text)]);
    rig.keyclasp.signal(Signal::STOP);
    // The signal takes a moment to reach all threads.
    let refused = eventually(PATIENCE, || Some(ask(rig.envoy(), &key)).filter(|answer| answer.status != 200));
    assert_envoys_own(&refused.expect("it is frozen"));
    let seen = passed(rig.open().listen(), "/", &[("api-key", "nonsense"), ("x-keyclasp-owner", "root")]);
    assert_eq!(seen.identities(), Vec::<&str>::new());
    rig.keyclasp.signal(Signal::CONT);
    let again = eventually(PATIENCE, || (ask(rig.envoy(), &key).status == 200).then_some(()));
    assert!(again.is_some(), "it recovers");
}

#[test]
fn a_slow_way_to_keyclasp_costs_time_and_nothing_else() {
    let rig = Rig::over(callers(Keyclasp::set_up()).start());
    let way = Proxy::start(rig.keyclasp.listen().port());
    let (replica, upstream) = (format!("127.0.0.1:{}", way.port()), rig.echo.address().to_string());
    let key = rig.key(&[]);
    for mode in [&[][..], &["--fail-open"]] {
        let fixed = ["--realm", "acme", "--replica", &replica, "--upstream", &upstream];
        let mut config = Config::printed(&[&fixed, mode].concat());
        // Time enough on a busy machine.
        let service = &mut config.authorization()["grpc_service"];
        service["timeout"] = "20s".into();
        service["retry_policy"]["retry_back_off"]["max_interval"] = "20s".into();
        let envoy = config.start(TOKEN);
        // 200 ms from question to answer, at least.
        way.set(Link::Slow(Duration::from_millis(100)));
        let seen = passed(envoy.listen(), "/", &[("api-key", &key.text)]);
        assert_eq!(seen.header("x-keyclasp-key-id"), Some(key.id.as_str()));
        assert_refused(401, &http1::get(envoy.listen(), "/", &[("api-key", "nonsense")]));
        way.set(Link::Open);
    }
}

#[tokio::test]
async fn without_a_store_nothing_passes_and_bad_keys_are_still_told_so() {
    let mut stored = Stored::start("deny");
    let key = stored.rig.key(&[]);
    passed(stored.rig.envoy().listen(), "/", &[("api-key", &key.text)]);
    stored.redis.kill();
    stored.wait_unready();
    let rig = &stored.rig;
    for envoy in [rig.envoy(), rig.open()] {
        assert_no_decision(&ask(envoy, &key));
        // What needs no store to be seen.
        assert_refused(401, &http1::get(envoy.listen(), "/", &[("api-key", "nonsense")]));
        assert_refused(401, &http1::get(envoy.listen(), "/", &[]));
        let (code, text) = super::grpc::code_of_a_call(envoy.listen(), &key.text).await;
        assert!(code == Code::Unavailable && !text.contains('{'), "{code:?} {text}");
    }
    stored.redis.start_again();
    stored.rig.keyclasp.wait_ready();
    // The keys are gone with this Redis, which keeps nothing: but it can be decided again.
    assert_refused(401, &ask(stored.rig.envoy(), &key));
}

#[test]
fn without_a_store_an_operator_who_asks_for_it_has_envoy_decide_but_not_about_bad_keys() {
    let mut stored = Stored::start("error");
    let key = stored.rig.key(&[]);
    passed(stored.rig.envoy().listen(), "/", &[("api-key", &key.text)]);
    stored.redis.kill();
    stored.wait_unready();
    let rig = &stored.rig;
    assert_envoys_own(&ask(rig.envoy(), &key));
    assert_eq!(passed(rig.open().listen(), "/", &[("api-key", &key.text)]).identities(), Vec::<&str>::new());
    for envoy in [rig.envoy(), rig.open()] {
        assert_refused(401, &http1::get(envoy.listen(), "/", &[("api-key", "nonsense")]));
        assert_refused(401, &http1::get(envoy.listen(), "/", &[]));
        assert_refused(403, &http1::get(envoy.listen(), "/colour", &[]));
    }
}

#[test]
fn with_a_slow_store_keys_in_memory_pass_at_once_and_others_pass_or_are_not_decided() {
    let stored = Stored::start("deny");
    let (warm, cold) = (stored.rig.key(&[]), stored.rig.key(&[]));
    for envoy in [stored.rig.envoy(), stored.rig.open()] {
        passed(envoy.listen(), "/", &[("api-key", &warm.text)]);
    }
    // 200 ms from question to answer.
    stored.link.set(Link::Slow(Duration::from_millis(100)));
    for (envoy, fails_open) in [(stored.rig.envoy(), false), (stored.rig.open(), true)] {
        let decided = eventually(PATIENCE, || {
            let answer = ask(envoy, &cold);
            if answer.status == 200 {
                // By keyclasp, and not for want of an answer.
                assert_eq!(Seen(answer.json()).header("x-keyclasp-key-id"), Some(cold.id.as_str()));
                return Some(());
            }
            // One that fails closed may give up a try before keyclasp answers.
            assert_eq!(answer.status, 503, "{answer:?}");
            assert!(!fails_open || problem(&answer) == "no-decision", "{answer:?}");
            None
        });
        assert!(decided.is_some(), "a slow store answers too");
        assert_refused(401, &http1::get(envoy.listen(), "/", &[("api-key", "nonsense")]));
    }
}

#[test]
fn with_a_silent_store_keyclasp_refuses_before_envoy_gives_up() {
    let stored = Stored::start("deny");
    let key = stored.rig.key(&[]);
    // Time enough on a busy machine; keyclasp keeps back a part of it for the way.
    let mut config = stored.rig.config(&["--fail-open"]);
    let service = &mut config.authorization()["grpc_service"];
    service["timeout"] = "4s".into();
    service["retry_policy"]["retry_back_off"]["max_interval"] = "4s".into();
    let envoy = config.start(TOKEN);
    stored.link.set(Link::Silent);
    // As long as the lease runs, a key that is not in memory is read; then there is no lease to decide under.
    assert_no_decision(&ask(&envoy, &key));
    stored.wait_unready();
    assert_no_decision(&ask(&envoy, &key));
    stored.link.set(Link::Open);
    let again = eventually(PATIENCE, || (ask(&envoy, &key).status == 200).then_some(()));
    assert!(again.is_some(), "it recovers");
}
