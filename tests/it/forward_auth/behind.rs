//! What a client can and cannot do behind each of the proxies. Every test runs before every one of them.

use keyclasp::rpc::proxy::{Settings, Source, Sources};

use super::parts::{Answer, field, instead};
use super::proxies::{Kind, Site};
use crate::support::meddled::Verb;

macro_rules! behind {
    ($($test:ident),* $(,)?) => {
        behind!(@ nginx Nginx $($test)*);
        behind!(@ caddy Caddy $($test)*);
        behind!(@ haproxy HaProxy $($test)*);
    };
    (@ $module:ident $kind:ident $($test:ident)*) => {
        mod $module {
            $(#[test]
            fn $test() {
                super::$test(super::Kind::$kind);
            })*
        }
    };
}

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
    a_smuggled_original_uri_changes_nothing,
    a_smuggled_original_method_changes_nothing,
    a_smuggled_forwarded_uri_changes_nothing,
    a_smuggled_forwarded_method_changes_nothing,
    a_smuggled_forwarded_host_changes_nothing,
    a_smuggled_client_address_changes_nothing,
    a_smuggled_identity_is_overwritten,
    a_smuggled_identity_without_a_key_is_gone,
    a_smuggled_identity_where_nobody_asks_is_gone,
    a_smuggled_identity_with_underscores_never_arrives,
    smuggled_answers_of_keyclasp_change_nothing,
    fields_that_a_client_declares_hop_by_hop_change_nothing,
    a_query_of_the_client_changes_nothing,
    dots_in_a_path_lead_nowhere,
    encoded_dots_in_a_path_lead_nowhere,
    encoded_slashes_in_a_path_lead_nowhere,
    double_slashes_in_a_path_lead_nowhere,
    semicolons_in_a_path_lead_nowhere,
    backslashes_in_a_path_lead_nowhere,
    an_absolute_target_is_asked_about_as_its_path,
    what_keyclasp_was_asked_is_what_the_upstream_is_asked,
    a_store_that_is_away_is_a_503,
    a_keyclasp_that_is_away_lets_nobody_through,
    a_keyclasp_that_never_answers_lets_nobody_through,
    an_answer_that_is_none_of_keyclasps_lets_nobody_through,
    a_route_that_is_misconfigured_lets_nobody_through,
    a_keyclasp_without_the_endpoint_lets_nobody_through,
    a_header_that_is_too_large_does_not_pass,
    a_dry_run_lets_everybody_through_and_takes_nothing_away,
}

/// As the answer says it.
const OWNER: &str = "ada%20lovelace";
const JWT: &str = "Bearer eyJhbGciOiJub25lIn0.e30.x";

const IDENTITY: [&str; 5] =
    ["x-keyclasp-owner", "x-keyclasp-owner-kind", "x-keyclasp-key-id", "x-keyclasp-realm", "x-keyclasp-scopes"];

/// Fields of the request that reached the upstream, by what CGI makes of their names.
fn folded<'a>(answer: &'a Answer, name: &str) -> Vec<&'a str> {
    let (head, _) = answer.body.split_once("\r\n\r\n").unwrap_or((&answer.body, ""));
    let lines = head.lines().skip(1).filter_map(|line| line.split_once(':'));
    lines
        .filter(|(known, _)| known.replace('_', "-").eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim())
        .collect()
}

#[track_caller]
fn refused(answer: &Answer, status: u16, name: &str) {
    assert!(!answer.reached(), "it reached the upstream: {answer:?}");
    assert_eq!(answer.status, status, "{answer:?}");
    assert_eq!(answer.field("content-type"), Some("application/problem+json"), "{answer:?}");
    let problem = answer.json();
    assert_eq!(problem["type"], format!("urn:keyclasp:problem:{name}"), "{answer:?}");
    assert_eq!(problem["status"], status, "{answer:?}");
    assert_eq!(answer.field("www-authenticate").is_some(), status == 401, "{answer:?}");
    assert_eq!(answer.field("retry-after").is_some(), matches!(status, 429 | 503), "{answer:?}");
}

/// What keyclasp was asked about, as the proxy said it: method, target, address. Each must be there once.
#[track_caller]
fn heard(site: &Site) -> (String, String, String) {
    let heard = site.relay.heard();
    let names = match site.kind {
        Kind::Nginx => ["x-original-method", "x-original-uri", "x-real-ip"],
        Kind::Caddy | Kind::HaProxy => ["x-forwarded-method", "x-forwarded-uri", "x-forwarded-for"],
    };
    let [method, uri, address] = names.map(|name| {
        let is = |line: &&str| line.split_once(':').is_some_and(|(known, _)| known.eq_ignore_ascii_case(name));
        assert_eq!(heard.lines().filter(is).count(), 1, "{name} in\n{heard}");
        field(&heard, name).unwrap().to_owned()
    });
    (method, uri, address)
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

/// A request with a field that only the proxy may send: it is refused without a key, and asked about as it is with one.
#[track_caller]
fn changes_nothing(kind: Kind, fields: &[(&str, &str)]) {
    let site = Site::start(kind);
    let (_, key) = site.keyclasp.key("acme", &[], &[]);
    // Twice, in other letters, and with an underscore, where such a name passes.
    for (name, value) in fields {
        let (lower, folded) = (name.to_lowercase(), name.replace('-', "_"));
        for spelled in
            [&[(*name, *value)][..], &[(&lower, *value)], &[(*name, "/"), (*name, *value)], &[(&folded, *value)]]
        {
            site.relay.heard();
            let without = site.ask("POST", "/secret?a=b", spelled, "x");
            assert!(!without.reached() && without.status == 401, "{spelled:?}: {without:?}");
            assert_eq!(
                heard(&site),
                ("POST".to_owned(), "/secret?a=b".to_owned(), "127.0.0.1".to_owned()),
                "{spelled:?}"
            );
            let with = site.ask("POST", "/secret?a=b", &[spelled, &[("X-API-Key", &key)]].concat(), "x");
            assert_eq!(with.target(), "/secret?a=b", "{spelled:?}");
            assert_eq!(
                heard(&site),
                ("POST".to_owned(), "/secret?a=b".to_owned(), "127.0.0.1".to_owned()),
                "{spelled:?}"
            );
            let scoped = site.ask("POST", "/orders/1", &[spelled, &[("X-API-Key", &key)]].concat(), "x");
            refused(&scoped, 403, "missing-scope");
        }
    }
}

fn a_smuggled_original_uri_changes_nothing(kind: Kind) {
    changes_nothing(kind, &[("X-Original-URI", "/public/"), ("X-Original-URL", "/public/")]);
}

fn a_smuggled_original_method_changes_nothing(kind: Kind) {
    changes_nothing(kind, &[("X-Original-Method", "OPTIONS"), ("X-HTTP-Method-Override", "OPTIONS")]);
}

fn a_smuggled_forwarded_uri_changes_nothing(kind: Kind) {
    changes_nothing(kind, &[("X-Forwarded-Uri", "/public/"), ("X-Rewrite-Url", "/public/")]);
}

fn a_smuggled_forwarded_method_changes_nothing(kind: Kind) {
    changes_nothing(kind, &[("X-Forwarded-Method", "OPTIONS")]);
}

fn a_smuggled_forwarded_host_changes_nothing(kind: Kind) {
    changes_nothing(kind, &[("X-Forwarded-Host", "public.example.com"), ("X-Original-Host", "public.example.com")]);
}

fn a_smuggled_client_address_changes_nothing(kind: Kind) {
    let site = Site::start(kind);
    let (_, far) = site.keyclasp.key("acme", &[], &["192.0.2.0/24"]);
    for name in ["X-Forwarded-For", "X-Real-IP", "Forwarded", "X_Forwarded_For", "X-Client-IP", "True-Client-IP"] {
        let value = if name == "Forwarded" { "for=192.0.2.1" } else { "192.0.2.1" };
        for fields in [&[(name, value)][..], &[(name, value), (name, value)]] {
            let answer = site.get("/", &[fields, &[("X-API-Key", &far)]].concat());
            refused(&answer, 403, "address-denied");
        }
    }
}

fn a_smuggled_identity_is_overwritten(kind: Kind) {
    let site = Site::start(kind);
    let (_, key) = site.keyclasp.key("acme", &[], &[]);
    for name in IDENTITY {
        for fields in [&[(name, "root")][..], &[(name, "root"), (name, "root")], &[(&*name.to_uppercase(), "root")]] {
            let answer = site.get("/", &[fields, &[("X-API-Key", &key)]].concat());
            assert!(!answer.body.contains("root"), "{answer:?}");
            assert_eq!(folded(&answer, "x-keyclasp-owner"), [OWNER], "{answer:?}");
        }
    }
}

fn a_smuggled_identity_without_a_key_is_gone(kind: Kind) {
    let site = Site::start(kind);
    for name in IDENTITY {
        let answer = site.get("/catalog/", &[(name, "root"), (name, "root")]);
        assert_eq!(folded(&answer, name), [""; 0], "{answer:?}");
        assert!(answer.reached() && !answer.body.contains("root"), "{answer:?}");
        assert!(!site.get("/", &[(name, "root")]).reached());
    }
}

fn a_smuggled_identity_where_nobody_asks_is_gone(kind: Kind) {
    let site = Site::start(kind);
    for name in IDENTITY {
        let answer = site.get("/public/", &[(name, "root")]);
        assert!(answer.reached() && !answer.body.contains("root"), "{answer:?}");
    }
}

fn a_smuggled_identity_with_underscores_never_arrives(kind: Kind) {
    let lets_underscores_through = |name: &str, text: String| match (kind, name) {
        (Kind::Nginx, "keyclasp-server.conf") => {
            text.replace("underscores_in_headers off", "underscores_in_headers on")
        }
        (Kind::Caddy, "Caddyfile") => text.replace("\trequest_header -*keyclasp*\n\tforward_auth", "\tforward_auth"),
        (Kind::HaProxy, "haproxy.cfg") => text.replace("http-request del-header keyclasp", "#"),
        _ => text,
    };
    let (strict, lenient) = (Site::start(kind), Site::with(kind, Settings::default(), lets_underscores_through));
    for site in [&strict, &lenient] {
        let (_, key) = site.keyclasp.key("acme", &[], &[]);
        for name in IDENTITY {
            for spelled in [name.replace('-', "_"), name.replacen('-', "_", 1), name.to_uppercase().replace('-', "_")] {
                for (target, fields) in [("/", &[("X-API-Key", key.as_str())][..]), ("/catalog/", &[])] {
                    let answer = site.get(target, &[fields, &[(spelled.as_str(), "root")]].concat());
                    assert!(!answer.body.contains("root"), "{spelled}: {answer:?}");
                    let expected = if std::ptr::eq(site, &raw const strict) { 200 } else { 400 };
                    assert_eq!(answer.status, expected, "{spelled}: {answer:?}");
                }
            }
        }
    }
}

fn smuggled_answers_of_keyclasp_change_nothing(kind: Kind) {
    let site = Site::start(kind);
    let (_, key) = site.keyclasp.key("acme", &[], &[]);
    for (name, value) in [
        ("X-Keyclasp-Keep", "authorization, x-api-key, api-key, cookie"),
        ("X-Keyclasp-Status", "200"),
        ("X-Keyclasp-Problem", "{}"),
        ("X-Keyclasp-Cookie", "a=b"),
        ("X-Keyclasp-Uri", "/public/"),
        ("X-Keyclasp-Dry-Run", "no-key"),
    ] {
        refused(&site.get("/", &[(name, value)]), 401, "invalid-key");
        for holder in ["X-API-Key", "API-Key"] {
            let answer = site.get("/", &[(name, value), (holder, &key)]);
            assert!(answer.target() == "/" && !answer.body.contains(&key), "{name}: {answer:?}");
        }
    }
}

/// A proxy takes fields away that Connection names (RFC 9110, section 7.6.1), also such as it added itself.
fn fields_that_a_client_declares_hop_by_hop_change_nothing(kind: Kind) {
    let site = Site::start(kind);
    let (_, key) = site.keyclasp.key("acme", &[], &["127.0.0.0/8"]);
    let names = IDENTITY.into_iter().chain([
        "X-Forwarded-For",
        "X-Forwarded-Uri",
        "X-Forwarded-Method",
        "X-Real-IP",
        "X-Original-URI",
        "X-Keyclasp-Keep",
        "X-API-Key",
    ]);
    for name in names {
        for connection in [name.to_owned(), format!("close, {name}"), format!("{},x", name.to_uppercase())] {
            let fields = [("Connection", connection.as_str()), ("X-API-Key", &key), ("Authorization", JWT)];
            let answer = site.get("/", &fields);
            if answer.reached() {
                assert_eq!(folded(&answer, "x-keyclasp-owner"), [OWNER], "{connection}: {answer:?}");
                for name in &IDENTITY[..4] {
                    assert_eq!(folded(&answer, name).len(), 1, "{connection}: {answer:?}");
                }
                assert!(!answer.body.contains(&key), "{answer:?}");
            } else {
                assert!([400, 401, 403].contains(&answer.status), "{connection}: {answer:?}");
            }
            let without = site.get("/", &fields[..1]);
            assert!(!without.reached(), "{connection}: {without:?}");
        }
    }
}

fn a_query_of_the_client_changes_nothing(kind: Kind) {
    let site = Site::start(kind);
    let (_, other) = site.keyclasp.key("other", &[], &[]);
    for target in
        ["/?optional=true", "/?realm=other", "/?dry_run=true&style=forwarded", "/x?&realm=other#", "/?a=b?realm=other"]
    {
        let answer = site.get(target, &[("X-API-Key", &other)]);
        assert!(!answer.reached() && [400, 401].contains(&answer.status), "{target}: {answer:?}");
        let answer = site.get(target, &[]);
        assert!(!answer.reached() && [400, 401].contains(&answer.status), "{target}: {answer:?}");
    }
    // What is for nginx alone is not to be reached.
    for target in ["/keyclasp/any", "/keyclasp/optional", "/forward-auth?realm=acme&optional=true"] {
        let answer = site.get(target, &[]);
        assert!(!answer.reached() && answer.status >= 400, "{target}: {answer:?}");
    }
}

/// No target may reach the upstream without a key under a path that an upstream could take for a protected one.
#[track_caller]
fn lead_nowhere(kind: Kind, targets: &[&str]) {
    let site = Site::start(kind);
    let (_, key) = site.keyclasp.key("acme", &[], &[]);
    assert!(site.get("/public/a?b=/../c;//%2f", &[]).reached(), "a query may hold anything");
    for target in targets {
        let answer = site.get(target, &[]);
        assert!(!answer.reached() && [400, 401, 404].contains(&answer.status), "{target}: {answer:?}");
        // Nor with a key that is good elsewhere.
        let answer = site.get(target, &[("X-API-Key", &key)]);
        assert!(!answer.reached(), "{target}: {answer:?}");
    }
}

fn dots_in_a_path_lead_nowhere(kind: Kind) {
    lead_nowhere(
        kind,
        &[
            "/public/../orders/1",
            "/public/./../orders/1",
            "/public/x/../../orders/1",
            "/orders/../public/../orders/1",
            "/public/..",
            "/../orders/1",
            "/public/.",
        ],
    );
}

fn encoded_dots_in_a_path_lead_nowhere(kind: Kind) {
    lead_nowhere(kind, &["/public/%2e%2e/orders/1", "/public/%2E./orders/1", "/public/.%2e/orders/1", "/public/%2e/"]);
}

fn encoded_slashes_in_a_path_lead_nowhere(kind: Kind) {
    lead_nowhere(
        kind,
        &[
            "/public%2f..%2forders/1",
            "/public/..%2forders/1",
            "/public/..%2Forders%2F1",
            "/orders%2f1",
            "/public/%2e%2e%2forders/1",
            "/public/..%5corders/1",
        ],
    );
}

fn double_slashes_in_a_path_lead_nowhere(kind: Kind) {
    lead_nowhere(kind, &["//orders/1", "/public//../orders/1", "/public//orders", "///", "//public/"]);
}

fn semicolons_in_a_path_lead_nowhere(kind: Kind) {
    lead_nowhere(
        kind,
        &["/public/..;/orders/1", "/public/..;x=y/orders/1", "/orders;x/1", "/public/;/../orders/1", "/public;/x"],
    );
}

fn backslashes_in_a_path_lead_nowhere(kind: Kind) {
    lead_nowhere(kind, &["/public/..\\orders/1", "/public\\..\\orders/1", "\\orders/1"]);
}

fn an_absolute_target_is_asked_about_as_its_path(kind: Kind) {
    let site = Site::start(kind);
    let (_, key) = site.keyclasp.key("acme", &["orders:write"], &[]);
    let target = "http://api.example.com/orders/1?a=b";
    let answer = site.get(target, &[]);
    assert!(!answer.reached(), "{answer:?}");
    site.relay.heard();
    let answer = site.get(target, &[("X-API-Key", &key)]);
    if kind == Kind::Caddy {
        assert_eq!((answer.status, answer.reached()), (400, false), "its `//` is one more: {answer:?}");
        return;
    }
    assert_eq!(answer.target(), "/orders/1?a=b");
    assert_eq!(heard(&site).1, "/orders/1?a=b");
}

fn what_keyclasp_was_asked_is_what_the_upstream_is_asked(kind: Kind) {
    let site = Site::start(kind);
    let (_, key) = site.keyclasp.key("acme", &["orders:write"], &[]);
    site.relay.heard();
    for target in [
        "/",
        "/orders/1",
        "/orders/%C3%A9?x=%2F%2e%2e/&y=a+b;c//",
        "/a%20b/c",
        "/a.b/..c/d..",
        "/%41",
        "/a?",
        "/a??b",
        "/a%25b",
        "/orders/x:y@z,!$&'()*+=~",
    ] {
        let answer = site.get(target, &[("X-API-Key", &key)]);
        assert_eq!(answer.target(), target);
        assert_eq!(heard(&site), ("GET".to_owned(), target.to_owned(), "127.0.0.1".to_owned()));
    }
}

fn a_store_that_is_away_is_a_503(kind: Kind) {
    let site = Site::start(kind);
    let (_, key) = site.keyclasp.key("acme", &[], &[]);
    site.keyclasp.world.store.lose_all(Verb::Get);
    refused(&site.get("/", &[("X-API-Key", &key)]), 503, "no-decision");
    refused(&site.get("/catalog/", &[("X-API-Key", &key)]), 503, "no-decision");
    refused(&site.get("/", &[]), 401, "invalid-key");
    site.keyclasp.world.store.pass(Verb::Get);
    assert!(site.get("/", &[("X-API-Key", &key)]).reached());
    let metrics = site.keyclasp.metrics();
    for line in [
        r#"keyclasp_proxy_decisions_total{proxy="forward_auth",decision="no_decision",dry_run="false"} 2"#,
        r#"keyclasp_proxy_decisions_total{proxy="forward_auth",decision="allowed",dry_run="false"} 1"#,
        // As what it is, whatever nginx is told.
        r#"keyclasp_rpc_calls_total{method="forward-auth",code="UNAVAILABLE"} 2"#,
    ] {
        assert!(metrics.contains(line), "{line} in\n{metrics}");
    }
}

fn a_keyclasp_that_is_away_lets_nobody_through(kind: Kind) {
    let site = Site::start(kind);
    let (_, key) = site.keyclasp.key("acme", &[], &[]);
    assert!(site.get("/", &[("X-API-Key", &key)]).reached());
    site.relay.cut();
    for target in ["/", "/catalog/", "/orders/"] {
        for fields in [&[("X-API-Key", key.as_str())][..], &[]] {
            let answer = site.get(target, fields);
            // Caddy says it in its own words.
            let status = if kind == Kind::Caddy { 502 } else { 503 };
            assert_eq!((answer.status, answer.reached()), (status, false), "{answer:?}");
        }
    }
    assert!(site.get("/public/", &[]).reached());
}

fn a_keyclasp_that_never_answers_lets_nobody_through(kind: Kind) {
    let site = Site::asking(kind, instead(None));
    for target in ["/", "/catalog/"] {
        let answer = site.get(target, &[("X-API-Key", "kc_x")]);
        assert!(!answer.reached() && [502, 503, 504].contains(&answer.status), "{answer:?}");
    }
}

fn an_answer_that_is_none_of_keyclasps_lets_nobody_through(kind: Kind) {
    for text in [
        "HTTP/1.1 500 No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
        "HTTP/1.1 404 No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
        "HTTP/1.1 302 No\r\nlocation: /public/\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
        "HTTP/1.1 431 No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
        "HTTP/1.1 200",
        "nonsense\r\n\r\n",
        "",
    ] {
        let site = Site::asking(kind, instead(Some(text)));
        for target in ["/", "/catalog/"] {
            let answer = site.get(target, &[("X-API-Key", "kc_x")]);
            assert!(!answer.reached() && answer.status >= 300, "{text}: {answer:?}");
        }
    }
}

fn a_route_that_is_misconfigured_lets_nobody_through(kind: Kind) {
    for (right, wrong) in [("realm=acme", "relm=acme"), ("realm=acme", ""), ("realm=acme", "realm=acme&realm=b")] {
        let site = Site::with(kind, Settings::default(), |_, text| text.replace(right, wrong));
        let (_, key) = site.keyclasp.key("acme", &["orders:write"], &[]);
        for target in ["/", "/orders/", "/catalog/"] {
            refused(&site.get(target, &[("X-API-Key", &key)]), 403, "route-misconfigured");
            refused(&site.get(target, &[]), 403, "route-misconfigured");
        }
    }
}

fn a_keyclasp_without_the_endpoint_lets_nobody_through(kind: Kind) {
    let site = Site::with(kind, Settings::default(), |_, text| text.replace("/forward-auth", "/forward-authority"));
    let (_, key) = site.keyclasp.key("acme", &[], &[]);
    let answer = site.get("/", &[("X-API-Key", &key)]);
    assert!(!answer.reached() && answer.status >= 400, "{answer:?}");
}

fn a_header_that_is_too_large_does_not_pass(kind: Kind) {
    let site = Site::start(kind);
    let (_, key) = site.keyclasp.key("acme", &[], &[]);
    for size in [20_000, 60_000] {
        let answer = site.get("/", &[("X-API-Key", &key), ("X-Large", &"x".repeat(size))]);
        assert!(!answer.reached() && (400..600).contains(&answer.status), "{} {}", answer.status, answer.head);
    }
    assert!(site.get("/", &[("X-API-Key", &key), ("X-Large", &"x".repeat(6000))]).reached());
}

fn a_dry_run_lets_everybody_through_and_takes_nothing_away(kind: Kind) {
    let settings = Settings { dry_run: true, ..Settings::default() };
    let site = Site::with(kind, settings, |_, text| text);
    let (_, key) = site.keyclasp.key("acme", &[], &[]);
    assert!(site.get("/", &[]).reached());
    let answer = site.get("/orders/1", &[("X-API-Key", &key), ("X-Keyclasp-Owner", "root")]);
    assert_eq!(answer.upstream("x-api-key"), Some(key.as_str()), "whoever judged it before still does");
    assert!(IDENTITY.iter().all(|name| answer.upstream(name).is_none()), "{answer:?}");
    let metrics = site.keyclasp.metrics();
    let line = r#"keyclasp_proxy_decisions_total{proxy="forward_auth",decision="missing_scope",dry_run="true"} 1"#;
    assert!(metrics.contains(line), "{metrics}");
}

#[test]
fn nginx_makes_of_a_403_the_status_that_is_meant() {
    for status in [400, 413, 429, 503, 403] {
        let text = format!(
            "HTTP/1.1 403 No\r\nx-keyclasp-status: {status}\r\nx-keyclasp-problem: {{\"status\":{status}}}\r\nretry-after: 7\r\n\
             content-length: 0\r\nconnection: close\r\n\r\n"
        );
        let site = Site::asking(Kind::Nginx, instead(Some(text.leak())));
        for verb in ["GET", "POST"] {
            let answer = site.ask(verb, "/", &[("X-API-Key", "kc_x")], "");
            assert_eq!((answer.status, answer.reached()), (status, false), "{answer:?}");
            assert_eq!(answer.field("content-type"), Some("application/problem+json"), "{answer:?}");
            assert_eq!(answer.field("retry-after"), Some("7"), "{answer:?}");
            assert_eq!(answer.json()["status"], status, "{answer:?}");
        }
    }
}

#[test]
fn nginx_takes_keys_out_of_cookies_and_queries_as_its_page_says() {
    let sources = ["query:api_key", "cookie:key"].map(|source| Source::parse(source).unwrap());
    let settings = Settings { sources: Sources::new(sources), ..Settings::default() };
    let site = Site::with(Kind::Nginx, settings, |name, text| match name {
        "keyclasp.conf" => {
            format!("{text}\n{}", super::pages::nginx("map $keyclasp_keep $keyclasp_cookies"))
        }
        "keyclasp-server.conf" => {
            format!("{text}\n{}", super::pages::nginx("auth_request_set $keyclasp_cookie"))
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
    let answer = site.get(&format!("/a?b=c&api_key={key}&d"), &[("Cookie", "x=y")]);
    assert_eq!((answer.target(), answer.upstream("cookie")), ("/a?b=c&d", Some("x=y")));
    let answer = site.get("/a?b=c", &[("Cookie", &format!("x=y; key={key}; z=1"))]);
    assert_eq!((answer.target(), answer.upstream("cookie")), ("/a?b=c", Some("x=y; z=1")));
    let answer = site.get("/a", &[("Cookie", &format!("key={key}"))]);
    assert_eq!(answer.upstream("cookie"), None);
    refused(&site.get("/a?b=c", &[("X-API-Key", &key)]), 401, "invalid-key");
}
