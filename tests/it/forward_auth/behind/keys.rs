//! Keys and requests as they are meant: who passes, as whom, and what the others are told.

use keyclasp::rpc::proxy::{Settings, Source, Sources};

use super::{IDENTITY, JWT, OWNER, heard, refused};
use crate::forward_auth::proxies::{Kind, Site};

behind! {
    a_good_key_reaches_the_upstream_as_its_owner_and_goes_no_further,
    credentials_that_are_no_key_go_on,
    no_key_a_bad_one_and_one_of_another_realm_are_refused_alike,
    a_key_without_a_required_scope_is_told_which,
    two_keys_are_refused,
    a_key_that_was_revoked_is_told_so_at_once,
    an_optional_key_may_be_missing_but_not_bad,
    every_method_is_asked_about_and_bodies_pass,
    the_upstreams_own_errors_are_not_ours,
    a_key_that_is_bound_to_networks_counts_by_who_is_connected,
    a_key_with_very_many_scopes_passes,
}

fn a_good_key_reaches_the_upstream_as_its_owner_and_goes_no_further(kind: Kind) {
    let site = Site::start(kind);
    let (id, key) = site.keyclasp.key("acme", &["orders:read", "orders:write"], &[]);
    let basic = data_encoding::BASE64.encode(format!("me:{key}").as_bytes());
    for (name, value) in [
        ("X-API-Key", key.clone()),
        ("API-Key", key.clone()),
        ("Authorization", format!("ApiKey {key}")),
        ("Authorization", format!("bearer {key}")),
        ("Authorization", format!("Basic {basic}")),
    ] {
        for target in ["/a/b?c=d&e=%2f", "/orders/1", "/catalog/x"] {
            let answer = site.get(target, &[(name, &value), ("Accept", "text/x")]);
            assert_eq!(answer.status, 200, "{target}: {answer:?}");
            assert_eq!(answer.target(), target);
            let found = IDENTITY.map(|name| answer.upstream(name).unwrap_or("-").to_owned());
            assert_eq!(found, [OWNER, "user", &id.to_string(), "acme", "orders:read orders:write"].map(str::to_owned));
            assert_eq!(answer.upstream("accept"), Some("text/x"));
            for text in [&key, &basic] {
                assert!(!answer.body.contains(text.as_str()), "the key reached the upstream: {answer:?}");
            }
            for holder in ["authorization", "x-api-key", "api-key", "x-keyclasp-keep"] {
                assert_eq!(answer.upstream(holder), None, "{answer:?}");
            }
        }
    }
}

fn credentials_that_are_no_key_go_on(kind: Kind) {
    let site = Site::start(kind);
    let (_, key) = site.keyclasp.key("acme", &[], &[]);
    let basic = format!("Basic {}", data_encoding::BASE64.encode(b"me:password"));
    for other in [JWT, &basic, "Digest username=\"me\", realm=\"x\""] {
        let answer = site.get("/", &[("Authorization", other), ("X-API-Key", &key), ("Cookie", "a=b")]);
        assert_eq!(answer.upstream("authorization"), Some(other), "{answer:?}");
        assert_eq!((answer.upstream("x-api-key"), answer.upstream("cookie")), (None, Some("a=b")));
        let anonymous = site.get("/catalog/", &[("Authorization", other)]);
        assert_eq!(anonymous.upstream("authorization"), Some(other), "{anonymous:?}");
    }
}

fn no_key_a_bad_one_and_one_of_another_realm_are_refused_alike(kind: Kind) {
    let site = Site::start(kind);
    let (_, other) = site.keyclasp.key("other", &[], &[]);
    let (_, key) = site.keyclasp.key("acme", &[], &[]);
    let swapped = key.replace(&key[30..34], "0000");
    let none = site.get("/", &[]);
    refused(&none, 401, "invalid-key");
    assert_eq!(none.field("www-authenticate"), Some(r#"ApiKey realm="acme""#), "{none:?}");
    assert_eq!(none.head.to_lowercase().matches("www-authenticate").count(), 1, "{none:?}");
    for bad in ["", "kc_", "nonsense", &swapped, &other] {
        let answer = site.get("/", &[("X-API-Key", bad)]);
        refused(&answer, 401, "invalid-key");
        assert_eq!(answer.body, none.body);
    }
    refused(&site.get("/", &[("Authorization", JWT)]), 401, "invalid-key");
}

fn a_key_without_a_required_scope_is_told_which(kind: Kind) {
    let site = Site::start(kind);
    let (_, key) = site.keyclasp.key("acme", &["orders:read"], &[]);
    let answer = site.get("/orders/1", &[("X-API-Key", &key)]);
    refused(&answer, 403, "missing-scope");
    assert_eq!(answer.json()["missing_scopes"], serde_json::json!(["orders:write"]));
    assert!(site.get("/", &[("X-API-Key", &key)]).reached());
}

fn two_keys_are_refused(kind: Kind) {
    let site = Site::start(kind);
    let [(_, one), (_, two)] = [(); 2].map(|()| site.keyclasp.key("acme", &[], &[]));
    refused(&site.get("/", &[("X-API-Key", &one), ("API-Key", &two)]), 400, "two-keys");
    refused(&site.get("/", &[("X-API-Key", &one), ("X-API-Key", &two)]), 400, "two-keys");
    refused(&site.get("/", &[("X-API-Key", &format!("{one},{two}"))]), 400, "two-keys");
}

fn a_key_that_was_revoked_is_told_so_at_once(kind: Kind) {
    let site = Site::start(kind);
    let (id, key) = site.keyclasp.key("acme", &[], &[]);
    assert!(site.get("/", &[("X-API-Key", &key)]).reached());
    site.keyclasp.run(site.keyclasp.world.revoke(id));
    refused(&site.get("/", &[("X-API-Key", &key)]), 401, "key-revoked");
}

fn an_optional_key_may_be_missing_but_not_bad(kind: Kind) {
    let site = Site::start(kind);
    let answer = site.get("/catalog/1", &[]);
    assert!(IDENTITY.iter().all(|name| answer.upstream(name).is_none()), "{answer:?}");
    refused(&site.get("/catalog/1", &[("X-API-Key", "kc_bad")]), 401, "invalid-key");
}

fn every_method_is_asked_about_and_bodies_pass(kind: Kind) {
    let site = Site::start(kind);
    let (_, key) = site.keyclasp.key("acme", &[], &[]);
    let large = "x".repeat(900_000);
    for (verb, body) in
        [("GET", ""), ("HEAD", ""), ("OPTIONS", ""), ("DELETE", ""), ("POST", "a=b"), ("PUT", &large), ("PATCH", "c")]
    {
        site.relay.heard();
        let without = site.ask(verb, "/x", &[], body);
        assert_eq!((without.status, without.reached()), (401, false), "{verb}: {without:?}");
        assert_eq!(heard(&site).0, verb);
        let answer = site.ask(verb, "/x", &[("X-API-Key", &key)], body);
        assert!(answer.status == 200 && answer.reached(), "{verb}: {} {}", answer.status, answer.head);
        assert_eq!(heard(&site).0, verb);
        if verb != "HEAD" {
            assert!(answer.body.starts_with(&format!("{verb} /x ")), "{verb}");
            assert_eq!(answer.body.split_once("\r\n\r\n").unwrap().1.len(), body.len(), "{verb}");
        }
    }
}

fn the_upstreams_own_errors_are_not_ours(kind: Kind) {
    let site = Site::start(kind);
    let (_, key) = site.keyclasp.key("acme", &[], &[]);
    for status in [400, 401, 403, 404, 500, 503] {
        let answer = site.get(&format!("/status/{status}"), &[("X-API-Key", &key)]);
        assert_eq!((answer.status, answer.reached()), (status, true), "{answer:?}");
        assert!(answer.body.starts_with("GET "), "{answer:?}");
    }
}

fn a_key_that_is_bound_to_networks_counts_by_who_is_connected(kind: Kind) {
    let site = Site::start(kind);
    let (_, near) = site.keyclasp.key("acme", &[], &["127.0.0.0/8"]);
    let (_, far) = site.keyclasp.key("acme", &[], &["192.0.2.0/24"]);
    assert!(site.get("/", &[("X-API-Key", &near)]).reached());
    refused(&site.get("/", &[("X-API-Key", &far)]), 403, "address-denied");
}

fn a_key_with_very_many_scopes_passes(kind: Kind) {
    let site = Site::start(kind);
    let scopes: Vec<_> = (0..40).map(|number| format!("{}:a{number}", "x".repeat(90))).collect();
    let scopes: Vec<_> = scopes.iter().map(String::as_str).collect();
    let (_, key) = site.keyclasp.key("acme", &scopes, &[]);
    let answer = site.get("/", &[("X-API-Key", &key)]);
    let arrived: Vec<_> = answer.upstream("x-keyclasp-scopes").unwrap().split(' ').collect();
    assert_eq!(arrived.len(), scopes.len(), "{answer:?}");
    refused(&site.get("/orders/", &[("X-API-Key", &key)]), 403, "missing-scope");
}

fn query_and_cookie() -> Settings {
    let sources = ["query:api_key", "cookie:key", "x-api-key"].map(|source| Source::parse(source).unwrap());
    Settings { sources: Sources::new(sources), ..Settings::default() }
}

/// A key in the query or a cookie is taken out there, and all else stays.
fn taken_out(site: &Site, key: &str) {
    let answer = site.get(&format!("/a?b=c&api_key={key}&d"), &[("Cookie", "x=y")]);
    assert_eq!((answer.target(), answer.upstream("cookie")), ("/a?b=c&d", Some("x=y")));
    let answer = site.get("/a?b=c", &[("Cookie", &format!("x=y; key={key}; z=1"))]);
    assert_eq!((answer.target(), answer.upstream("cookie")), ("/a?b=c", Some("x=y; z=1")));
    let answer = site.get("/a", &[("Cookie", &format!("key={key}"))]);
    assert_eq!(answer.upstream("cookie"), None, "{answer:?}");
}

#[test]
fn haproxy_takes_keys_out_of_cookies_and_queries() {
    let site = Site::with(Kind::HaProxy, query_and_cookie(), |_, text| text);
    let (_, key) = site.keyclasp.key("acme", &[], &[]);
    taken_out(&site, &key);
}

#[test]
fn caddy_cannot_take_keys_out_of_cookies_and_queries_and_they_do_not_pass() {
    let site = Site::with(Kind::Caddy, query_and_cookie(), |_, text| text);
    let (_, key) = site.keyclasp.key("acme", &[], &[]);
    refused(&site.get(&format!("/a?api_key={key}"), &[]), 400, "unreadable");
    refused(&site.get("/a", &[("Cookie", &format!("x=y; key={key}"))]), 400, "unreadable");
    assert_eq!(site.get("/a?b", &[("Cookie", "x=y"), ("X-API-Key", &key)]).upstream("cookie"), Some("x=y"));
}

#[test]
fn nginx_takes_keys_out_of_cookies_and_queries_as_its_page_says() {
    let sources = ["query:api_key", "cookie:key"].map(|source| Source::parse(source).unwrap());
    let settings = Settings { sources: Sources::new(sources), ..Settings::default() };
    let site = Site::with(Kind::Nginx, settings, |name, text| match name {
        "keyclasp.conf" => {
            format!("{text}\n{}", crate::forward_auth::pages::nginx("map $keyclasp_keep $keyclasp_cookies"))
        }
        "keyclasp-server.conf" => {
            format!("{text}\n{}", crate::forward_auth::pages::nginx("auth_request_set $keyclasp_cookie"))
        }
        "nginx.conf" => {
            let marks = text.find("proxy_pass http://").unwrap();
            let (before, after) = text.split_at(marks);
            let end = after.find(';').unwrap();
            format!("{before}{}$keyclasp_target{}", &after[..end], &after[end..])
        }
        _ => text,
    });
    let (_, key) = site.keyclasp.key("acme", &[], &[]);
    taken_out(&site, &key);
    refused(&site.get("/a?b=c", &[("X-API-Key", &key)]), 401, "invalid-key");
}
