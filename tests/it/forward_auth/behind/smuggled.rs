//! Fields that a client sends in the place of the proxy, of keyclasp or of the configuration.

use keyclasp::rpc::proxy::Settings;

use super::{IDENTITY, JWT, OWNER, folded, heard, refused};
use crate::forward_auth::proxies::{Kind, Site};

behind! {
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
