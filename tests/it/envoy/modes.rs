//! Fail-open that cannot be abused, and dry runs.

use serde_json::json;

use super::{ISSUER, Rig, TOKEN, assert_refused, callers, passed, problem};
use crate::support::http1;
use crate::support::server::Keyclasp;

#[test]
fn no_bad_key_passes_where_envoy_fails_open() {
    let rig = Rig::shared();
    let envoy = rig.open().listen();
    let key = rig.key(&[]);
    passed(envoy, "/", &[("api-key", &key.text)]);
    let revoked = rig.key(&[]);
    rig.call("KeyService/RevokeKey", &json!({"id": revoked.id}));
    let suspended = rig.key(&[]);
    rig.call("KeyService/SuspendKey", &json!({"id": suspended.id}));
    let later = rig.make(&json!({"notBefore": "2100-01-01T00:00:00Z"}));
    let elsewhere = rig.make(&json!({"allowedCidrs": ["198.51.100.0/24"]}));
    let foreign = rig.make(&json!({"realm": "beta"}));
    let two = format!("{},{}", key.text, foreign.text);
    let long = "x".repeat(20_000);
    for (status, target, text) in [
        (401, "/", ""),
        (401, "/", "nonsense"),
        (401, "/", &long),
        (401, "/", &foreign.text),
        (401, "/", &revoked.text),
        (401, "/", &suspended.text),
        (401, "/", &later.text),
        (403, "/", &elsewhere.text),
        (403, "/scoped", &key.text),
        (403, "/colour", &key.text),
        (403, "/maybe", &key.text),
        (400, "/", &two),
    ] {
        assert_refused(status, &http1::get(envoy, target, &[("api-key", text)]));
    }
    assert_refused(401, &http1::get(envoy, "/", &[]));
    assert_refused(403, &http1::get(envoy, "/", &[("host", "norealm.test"), ("api-key", &key.text)]));
    let broken: &[(&str, &[u8])] = &[("api-key", b"\xff\xfe"), ("x-other", b"\x80")];
    assert_refused(401, &http1::send_bytes(envoy, "GET", "/", broken, b""));
}

#[test]
fn an_envoy_that_may_not_ask_gets_no_request_through_even_where_it_fails_open() {
    let rig = Rig::shared();
    let key = rig.key(&[]);
    let open = rig.config(&["--fail-open"]);
    let without_metadata = open.clone().without_metadata();
    for (config, token) in
        [(&open, "somebody-elses-token-for-these-tests"), (&open, ""), (&open, ISSUER), (&without_metadata, TOKEN)]
    {
        let envoy = config.start(token);
        for headers in [&[("api-key", key.text.as_str())][..], &[("api-key", "nonsense")], &[]] {
            let answer = http1::get(envoy.listen(), "/", headers);
            assert_refused(403, &answer);
            assert_eq!(problem(&answer), "proxy-refused");
        }
        // Neither where a route lets requests pass without a key, nor where it refuses nobody.
        for target in ["/optional", "/dry"] {
            assert_refused(403, &http1::get(envoy.listen(), target, &[]));
        }
    }
    assert!(rig.keyclasp.log().contains("caller_refused"), "{}", rig.keyclasp.log());
}

/// The value of a counter of decisions.
fn decisions(rig: &Rig, decision: &str, dry_run: bool) -> u64 {
    let series =
        format!("keyclasp_proxy_decisions_total{{proxy=\"envoy\",decision=\"{decision}\",dry_run=\"{dry_run}\"}} ");
    let (_, metrics) = rig.keyclasp.get("/metrics");
    let found = metrics.lines().find_map(|line| line.strip_prefix(&series)?.trim().parse().ok());
    found.unwrap_or_else(|| panic!("{series} is missing in\n{metrics}"))
}

#[test]
fn a_dry_run_of_a_route_decides_and_counts_and_refuses_nobody() {
    let rig = Rig::over(callers(Keyclasp::set_up()).start());
    let key = rig.key(&["orders:delete"]);
    let lacking = rig.key(&[]);
    // What would pass passes as always.
    let seen = rig.passes("/dry", &[("api-key", &key.text)]);
    assert_eq!((seen.header("x-keyclasp-key-id"), seen.header("api-key")), (Some(key.id.as_str()), None));
    // What would not, passes as nobody; its credentials may be somebody else's.
    let seen = rig.passes("/dry", &[("api-key", &lacking.text)]);
    assert_eq!((seen.identities(), seen.header("api-key")), (Vec::new(), Some(lacking.text.as_str())));
    assert_eq!(rig.passes("/dry", &[("api-key", "nonsense")]).header("api-key"), Some("nonsense"));
    rig.passes("/dry", &[]);
    // Other routes are as they were.
    rig.refuses(401, "/", &[]);
    for (decision, dry_run, count) in [
        ("allowed", true, 1),
        ("missing_scope", true, 1),
        ("malformed", true, 1),
        ("no_key", true, 1),
        ("no_key", false, 1),
        ("allowed", false, 0),
    ] {
        assert_eq!(decisions(&rig, decision, dry_run), count, "{decision} {dry_run}");
    }
}

#[test]
fn a_dry_run_of_all_refuses_nobody_and_doctor_says_so() {
    let rig = Rig::over(callers(Keyclasp::set_up()).env("KEYCLASP_PROXY__DRY_RUN", "true").start());
    let key = rig.key(&[]);
    for (target, headers) in [
        ("/", &[][..]),
        ("/", &[("api-key", "nonsense")]),
        ("/scoped", &[("api-key", key.text.as_str())]),
        ("/colour", &[]),
    ] {
        assert_eq!(rig.passes(target, headers).identities(), Vec::<&str>::new(), "{target}");
    }
    assert_eq!(rig.passes("/", &[("api-key", &key.text)]).header("x-keyclasp-key-id"), Some(key.id.as_str()));
    assert_eq!((decisions(&rig, "no_key", true), decisions(&rig, "route_fault", true)), (1, 1));
    // Whoever asks.
    let stranger = rig.config(&[]).start("somebody-elses-token-for-these-tests");
    assert_eq!(passed(stranger.listen(), "/", &[("api-key", &key.text)]).identities(), Vec::<&str>::new());
    assert_eq!(decisions(&rig, "caller_refused", true), 1);
    let doctor = rig.keyclasp.command().arg("doctor").output().unwrap();
    let said = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(said.contains("proxy.dry_run"), "{said}");
}
