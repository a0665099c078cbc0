//! What routes, virtual hosts and keyclasp's own configuration say of realm and scopes.

use std::io::{Read as _, Write as _};

use serde_json::json;

use super::{Rig, problem};
use crate::support::http1;

#[test]
fn a_route_adds_to_what_its_virtual_host_says_name_by_name() {
    let rig = Rig::shared();
    let (acme, beta) = (rig.key(&["orders:*"]), rig.make(&json!({"realm": "beta", "scopes": ["orders:*"]})));
    // The realm from the virtual host, the scopes from the route.
    assert_eq!(rig.passes("/scoped", &[("api-key", &acme.text)]).header("x-keyclasp-realm"), Some("acme"));
    rig.refuses(401, "/scoped", &[("api-key", &beta.text)]);
    // The route's realm wins.
    rig.passes("/beta", &[("api-key", &beta.text)]);
    rig.refuses(401, "/beta", &[("api-key", &acme.text)]);
}

#[test]
fn the_printed_example_routes_work() {
    let rig = Rig::shared();
    let (with, without) = (rig.key(&["reports:read"]), rig.key(&[]));
    rig.passes("/reports/2026", &[("api-key", &with.text)]);
    assert_eq!(problem(&rig.refuses(403, "/reports/2026", &[("api-key", &without.text)])), "missing-scope");
    rig.passes("/reportsome", &[("api-key", &without.text)]);
    rig.passes("/healthz", &[]);
}

#[test]
fn a_path_has_one_spelling_so_that_no_route_is_passed_by() {
    let rig = Rig::shared();
    let key = rig.key(&[]);
    for path in ["//reports", "/x/../reports", "/./reports", "/reports/../reports/x", "/x/%2e%2e/reports", "/%72eports"]
    {
        let answer = rig.get(path, &[("api-key", &key.text)]);
        assert_eq!(answer.status, 403, "{path}: {answer:?}");
    }
    // An encoded slash is sent back to be asked for by its plain name.
    let answer = rig.get("/x%2f..%2freports", &[("api-key", &key.text)]);
    assert!(matches!(answer.status, 307 | 403), "{answer:?}");
}

#[test]
fn path_parameters_do_not_lead_around_a_route() {
    let rig = Rig::shared();
    let key = rig.key(&[]);
    let headers = [("api-key", key.text.as_str())];
    for path in [
        "/reports;x",
        "/reports;x/1",
        "/reports%3bx",
        "/reports%3Bx/1",
        "/;x/reports",
        "/a/%2e%2e;/reports",
        "/healthz;x",
        "/x;",
    ] {
        let answer = rig.get(path, &headers);
        assert_eq!(answer.status, 403, "{path}: {answer:?}");
        assert!(answer.text().contains("access denied"), "{path}: {answer:?}");
    }
    // Envoy knows this one.
    assert_eq!(problem(&rig.refuses(403, "/a/..;/reports", &headers)), "missing-scope");
    // Beside bytes that are no text, too.
    let address = rig.envoy().listen();
    for path in [&b"/reports;\xff"[..], b"/\xff;/../reports;x", b"/reports;\xc3"] {
        let target = [b"GET ", path, b" HTTP/1.1\r\nhost: a.test\r\nconnection: close\r\napi-key: "].concat();
        let mut stream = http1::connect(address);
        stream.write_all(&[&target, key.text.as_bytes(), b"\r\n\r\n"].concat()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with("HTTP/1.1 403 ") || answer.starts_with("HTTP/1.1 400 "), "{path:?}: {answer}");
    }
    // A query may have them.
    for target in ["/x?a=1;b=2", "/x?a=%3b", "/x?/reports;x"] {
        assert_eq!(rig.passes(target, &headers).target(), target);
    }
    let with = rig.key(&["reports:read"]);
    rig.passes("/reports?a;b", &[("api-key", &with.text)]);
}

#[test]
fn names_that_keyclasp_does_not_know_refuse_and_names_of_others_do_not_matter() {
    let rig = Rig::shared();
    let key = rig.key(&["*"]);
    for target in ["/colour", "/misspelt", "/maybe", "/inject"] {
        assert_eq!(problem(&rig.refuses(403, target, &[("api-key", &key.text)])), "route-misconfigured", "{target}");
    }
    assert_eq!(rig.passes("/others", &[("api-key", &key.text)]).header("x-keyclasp-realm"), Some("acme"));
}

#[test]
fn a_route_without_a_realm_takes_it_from_the_host_map_or_refuses() {
    let rig = Rig::shared();
    let (key, bare) = (rig.key(&["orders:read"]), rig.key(&[]));
    let beta = rig.make(&json!({"realm": "beta"}));
    let on = |host: &'static str, text| [("host", host), ("api-key", text)];
    assert_eq!(problem(&rig.refuses(403, "/", &on("norealm.test", &key.text))), "route-misconfigured");
    rig.passes("/", &on("hosted.test", &key.text));
    assert_eq!(problem(&rig.refuses(403, "/", &on("hosted.test", &bare.text))), "missing-scope");
    rig.passes("/", &on("a.below.test", &beta.text));
    rig.refuses(401, "/", &on("a.below.test", &key.text));
}

#[test]
fn without_a_key_an_optional_route_passes_and_a_bad_key_does_not() {
    let rig = Rig::shared();
    rig.passes("/optional", &[]);
    rig.refuses(401, "/optional", &[("api-key", "nonsense")]);
    let key = rig.key(&[]);
    assert_eq!(rig.passes("/optional", &[("api-key", &key.text)]).header("x-keyclasp-key-id"), Some(key.id.as_str()));
    rig.call("KeyService/RevokeKey", &json!({"id": key.id}));
    assert_eq!(problem(&rig.refuses(401, "/optional", &[("api-key", &key.text)])), "key-revoked");
}
