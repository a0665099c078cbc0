//! Where a key may stand, and that it goes no further than that.

use data_encoding::BASE64;

use super::{Rig, passed, problem};
use crate::support::envoy::Envoy;
use crate::support::http1;

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", BASE64.encode(format!("{user}:{password}").as_bytes()))
}

/// Asserts that a key passes wherever it may stand, and is gone there.
fn everywhere(rig: &Rig, envoy: &Envoy) {
    let key = rig.key(&[]);
    let text = key.text.as_str();
    let (api_key, bearer) = (format!("ApiKey {text}"), format!("Bearer {text}"));
    for (name, value) in [
        ("authorization", api_key),
        ("authorization", bearer),
        ("authorization", basic("anybody", text)),
        ("authorization", basic("", text)),
        ("x-api-key", text.to_owned()),
        ("api-key", text.to_owned()),
    ] {
        let seen = passed(envoy.listen(), "/a?b=2&a=1", &[(name, &value), ("x-other", "stays")]);
        assert_eq!(seen.header(name), None, "{seen:?}");
        assert_eq!((seen.header("x-other"), seen.target()), (Some("stays"), "/a?b=2&a=1"), "{seen:?}");
        assert_eq!(seen.header("x-keyclasp-key-id"), Some(key.id.as_str()));
        assert!(!seen.0.to_string().contains(text), "{seen:?}");
    }
}

#[test]
fn a_key_passes_from_each_header_and_goes_no_further() {
    let rig = Rig::shared();
    everywhere(&rig, rig.envoy());
}

#[test]
fn a_key_passes_from_each_header_where_envoy_sends_raw_values() {
    let rig = Rig::shared();
    everywhere(&rig, rig.raw());
}

#[test]
fn schemes_are_known_in_any_case() {
    let rig = Rig::shared();
    let key = rig.key(&[]);
    let encoded = basic("me", &key.text);
    for value in [
        format!("apikey {}", key.text),
        format!("APIKEY {}", key.text),
        format!("bEaReR {}", key.text),
        encoded.replacen("Basic", "bAsIc", 1),
        format!("ApiKey   {}", key.text),
    ] {
        assert_eq!(rig.passes("/", &[("AUTHORIZATION", &value)]).header("authorization"), None);
    }
}

#[test]
fn credentials_that_are_no_key_pass_on_beside_one() {
    let rig = Rig::shared();
    let key = rig.key(&[]);
    for other in ["Bearer eyJhbGciOi.eyJzdWIi.c2ln", "Digest username=\"Mufasa\", realm=\"x\"", &basic("me", "pw")] {
        let seen = rig.passes("/", &[("authorization", other), ("api-key", &key.text)]);
        assert_eq!((seen.header("authorization"), seen.header("api-key")), (Some(other), None), "{seen:?}");
        // Without a key beside it: no key at all.
        assert_eq!(problem(&rig.refuses(401, "/", &[("authorization", other)])), "invalid-key");
        let seen = rig.passes("/optional", &[("authorization", other)]);
        assert_eq!(seen.header("authorization"), Some(other), "{seen:?}");
    }
}

#[test]
fn a_key_in_a_cookie_is_taken_out_and_the_others_stay() {
    let rig = Rig::shared();
    let key = rig.key(&[]);
    let among = format!("a=1; session_key={}; b=2", key.text);
    assert_eq!(rig.passes("/", &[("cookie", &among)]).header("cookie"), Some("a=1; b=2"));
    let alone = format!("session_key={}", key.text);
    assert_eq!(rig.passes("/", &[("cookie", &alone)]).header("cookie"), None);
    let seen = passed(rig.raw().listen(), "/", &[("cookie", &among)]);
    assert_eq!(seen.header("cookie"), Some("a=1; b=2"));
    // Cookies without a key are left alone.
    let seen = rig.passes("/", &[("cookie", "b=2; a=1"), ("api-key", &key.text)]);
    assert_eq!(seen.header("cookie"), Some("b=2; a=1"));
}

#[test]
fn a_key_in_the_query_is_taken_out_and_other_queries_stay_as_they_are() {
    let rig = Rig::shared();
    let key = rig.key(&[]);
    let seen = rig.passes(&format!("/q?b=2&api_key={}&a=1", key.text), &[]);
    let mut left: Vec<_> = seen.target().strip_prefix("/q?").unwrap().split('&').collect();
    left.sort_unstable();
    assert_eq!(left, ["a=1", "b=2"]);
    // Envoy sorts what stays when it takes one out, which breaks signed URLs: only where the key really was there.
    let seen = rig.passes("/q?z=%41&b=2&a=1&b=1", &[("api-key", &key.text)]);
    assert_eq!(seen.target(), "/q?z=%41&b=2&a=1&b=1");
}

#[test]
fn an_empty_key_is_a_bad_key_and_not_none() {
    let rig = Rig::shared();
    for (target, headers) in [
        ("/optional", [("api-key", "")]),
        ("/optional", [("x-api-key", " ")]),
        ("/optional", [("authorization", "ApiKey")]),
        ("/optional", [("cookie", "session_key=")]),
        ("/optional?api_key=", [("x-other", "1")]),
    ] {
        assert_eq!(problem(&rig.refuses(401, target, &headers)), "invalid-key");
    }
    assert_eq!(rig.passes("/optional", &[]).identities(), Vec::<&str>::new());
}

#[test]
fn two_keys_are_refused_wherever_they_stand() {
    let rig = Rig::shared();
    let (a, b) = (rig.key(&[]).text, rig.key(&[]).text);
    let (api_key_a, bearer_b) = (format!("ApiKey {a}"), format!("Bearer {b}"));
    for envoy in [rig.envoy(), rig.raw()] {
        for (target, headers) in [
            ("/", &[("api-key", a.as_str()), ("x-api-key", b.as_str())][..]),
            ("/", &[("api-key", &a), ("api-key", &b)]),
            ("/", &[("api-key", &format!("{a},{b}"))]),
            ("/", &[("api-key", &format!("{a}, {b}"))]),
            ("/", &[("authorization", &api_key_a), ("authorization", &bearer_b)]),
            ("/", &[("authorization", &format!("{api_key_a},{bearer_b}"))]),
            ("/", &[("authorization", &api_key_a), ("authorization", "Bearer eyJh.x.y")]),
            ("/", &[("authorization", &api_key_a), ("authorization", &basic("me", &b))]),
            ("/", &[("cookie", &format!("session_key={a}; session_key={b}"))]),
            ("/", &[("cookie", &format!("session_key={a}")), ("api-key", &b)]),
            (&format!("/?api_key={a}&api_key={b}"), &[]),
            (&format!("/?api_key={a}"), &[("api-key", &b)]),
        ] {
            let answer = http1::get(envoy.listen(), target, headers);
            super::assert_refused(400, &answer);
            assert_eq!(problem(&answer), "two-keys");
        }
        // One and the same key twice is one key.
        for headers in [&[("api-key", a.as_str()), ("x-api-key", &a)][..], &[("api-key", &a), ("api-key", &a)]] {
            let seen = passed(envoy.listen(), "/", headers);
            assert_eq!((seen.header("api-key"), seen.header("x-api-key")), (None, None));
        }
    }
}

#[test]
fn bytes_that_are_no_text_make_no_key_and_no_harm() {
    let rig = Rig::shared();
    let key = rig.key(&[]);
    let broken = [key.text.as_bytes(), b"\xff"].concat();
    for envoy in [rig.envoy(), rig.raw()] {
        let answer = http1::send_bytes(envoy.listen(), "GET", "/", &[("api-key", &broken)], b"");
        super::assert_refused(401, &answer);
        // In a field that is none of ours they do not matter.
        let other: &[(&str, &[u8])] = &[("api-key", key.text.as_bytes()), ("x-other", b"\xc3\x28")];
        assert_eq!(http1::send_bytes(envoy.listen(), "GET", "/", other, b"").status, 200);
    }
}

/// Envoy joins the Cookie fields of HTTP/1.1 by commas in `headers`, which leaves open whose value the key is;
/// `header_map` has each as it came.
#[test]
fn a_cookie_field_of_its_own_for_the_key_is_refused_where_envoy_joins_them() {
    let rig = Rig::shared();
    let key = rig.key(&[]);
    let cookie = format!("session_key={}", key.text);
    for headers in [[("cookie", "a=1"), ("cookie", &cookie)], [("cookie", "a=1; b=2"), ("cookie", &cookie)]] {
        let answer = http1::get(rig.envoy().listen(), "/", &headers);
        super::assert_refused(400, &answer);
        assert_eq!(problem(&answer), "two-keys");
        let seen = passed(rig.raw().listen(), "/", &headers);
        assert!(seen.all("cookie").iter().all(|cookie| !cookie.contains("session_key")), "{:?}", seen.all("cookie"));
    }
}
