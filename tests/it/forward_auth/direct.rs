//! What `/forward-auth` answers by itself: to those who may not ask, and to Traefik, which is not at hand: the
//! requests here are written as Traefik 3 writes them (its pkg/middlewares/auth/forward.go).

use keyclasp::key::Cidrs;
use keyclasp::rpc::proxy::{Settings, Source, Sources};

use super::parts::{Answer, Keyclasp, ask};

const LOOPBACK: &[&str] = &["127.0.0.1/32"];

/// What Traefik adds about a `GET /orders/1?a=b` of 192.0.2.7.
const TRAEFIK: [(&str, &str); 7] = [
    ("X-Forwarded-For", "192.0.2.7"),
    ("X-Forwarded-Host", "api.example.com"),
    ("X-Forwarded-Method", "GET"),
    ("X-Forwarded-Port", "443"),
    ("X-Forwarded-Proto", "https"),
    ("X-Forwarded-Server", "traefik-0"),
    ("X-Forwarded-Uri", "/orders/1?a=b"),
];

fn traefik(keyclasp: &Keyclasp, route: &str, fields: &[(&str, &str)]) -> Answer {
    let target = format!("/forward-auth?style=traefik&{route}");
    ask(keyclasp.address, "GET", &target, &[&TRAEFIK, fields].concat(), "")
}

/// What Traefik makes of the client's request: it takes away each field that authResponseHeaders names, and puts
/// in its place what the answer has.
fn goes_on<'a>(answer: &'a Answer, sent: &[(&'a str, &'a str)]) -> Vec<(String, String)> {
    let page = include_str!("../../../docs/TRAEFIK.md");
    let named: Vec<_> = page
        .lines()
        .skip_while(|line| line.trim() != "authResponseHeaders:")
        .skip(1)
        .map_while(|line| line.trim().strip_prefix("- "))
        .map(str::to_lowercase)
        .collect();
    assert!(named.len() >= 9, "docs/TRAEFIK.md: {named:?}");
    let stays = sent.iter().map(|(name, value)| (name.to_lowercase(), (*value).to_owned()));
    let mut goes_on: Vec<_> = stays.filter(|(name, _)| !named.contains(name)).collect();
    goes_on.extend(named.iter().filter_map(|name| Some((name.clone(), answer.field(name)?.to_owned()))));
    goes_on
}

fn has(fields: &[(String, String)], name: &str) -> bool {
    fields.iter().any(|(known, _)| known == name)
}

#[test]
fn without_peers_there_is_no_endpoint() {
    let keyclasp = Keyclasp::start(&[], Settings::default());
    let (_, key) = keyclasp.key("acme", &[], &[]);
    let answer = traefik(&keyclasp, "realm=acme", &[("X-API-Key", &key)]);
    assert_eq!(answer.status, 404, "{answer:?}");
}

#[test]
fn a_peer_that_is_not_configured_is_refused_whatever_it_says() {
    let keyclasp = Keyclasp::start(&["192.0.2.0/24", "::1/128"], Settings::default());
    let (_, key) = keyclasp.key("acme", &[], &[]);
    for route in ["realm=acme", "realm=acme&style=nginx", "realm=acme&optional=true"] {
        let target = format!("/forward-auth?{route}");
        for fields in
            [&[("X-API-Key", key.as_str())][..], &[("X-Forwarded-For", "192.0.2.7"), ("X-Real-IP", "192.0.2.7")]]
        {
            let answer = ask(keyclasp.address, "GET", &target, fields, "");
            assert_eq!(answer.status, 403, "{answer:?}");
            assert_eq!(answer.json()["type"], "urn:keyclasp:problem:proxy-refused");
            assert!(answer.field("x-keyclasp-owner").is_none(), "{answer:?}");
        }
    }
    let counted = r#"keyclasp_rpc_calls_total{method="forward-auth",code="PERMISSION_DENIED"} 6"#;
    assert!(keyclasp.metrics().contains(counted), "{}", keyclasp.metrics());
}

#[test]
fn traefik_passes_on_what_is_no_key_and_takes_away_what_is() {
    let keyclasp = Keyclasp::start(LOOPBACK, Settings::default());
    let (_, key) = keyclasp.key("acme", &["orders:write"], &[]);
    let (jwt, mine) = ("Bearer eyJhbGciOiJub25lIn0.e30.x", format!("ApiKey {key}"));
    for (sent, stays) in [
        (vec![("Authorization", jwt), ("X-API-Key", &key), ("Accept", "*/*")], &["authorization", "accept"][..]),
        (vec![("Authorization", mine.as_str()), ("Accept", "*/*")], &["accept"]),
        (vec![("API-Key", &key), ("X-Keyclasp-Owner", "root"), ("X-Keyclasp-Scopes", "admin")], &[]),
        (vec![("API-Key", &key), ("Cookie", "a=b")], &["cookie"]),
    ] {
        let answer = traefik(&keyclasp, "realm=acme&scopes=orders:write", &sent);
        assert_eq!(answer.status, 200, "{answer:?}");
        let upstream = goes_on(&answer, &sent);
        for name in ["authorization", "x-api-key", "api-key", "accept", "cookie"] {
            assert_eq!(has(&upstream, name), stays.contains(&name), "{name}: {upstream:?}");
        }
        assert!(upstream.contains(&("x-keyclasp-owner".to_owned(), "ada%20lovelace".to_owned())), "{upstream:?}");
        assert!(!upstream.iter().any(|(_, value)| value.contains(&key) || value == "root"), "{upstream:?}");
    }
}

#[test]
fn what_traefik_refuses_it_passes_on_as_it_is() {
    let keyclasp = Keyclasp::start(LOOPBACK, Settings::default());
    let (_, key) = keyclasp.key("acme", &[], &[]);
    for (route, fields, status, name) in [
        ("realm=acme", vec![], 401, "invalid-key"),
        ("realm=other", vec![("X-API-Key", key.as_str())], 401, "invalid-key"),
        ("realm=acme&scopes=orders:write", vec![("X-API-Key", &key)], 403, "missing-scope"),
        ("realm=acme", vec![("X-API-Key", &key), ("API-Key", "kc_x")], 400, "two-keys"),
        ("relm=acme", vec![("X-API-Key", &key)], 403, "route-misconfigured"),
        ("", vec![("X-API-Key", &key)], 403, "route-misconfigured"),
        ("realm=acme&token=inject", vec![("X-API-Key", &key)], 403, "route-misconfigured"),
        ("realm=acme", vec![("X-API-Key", &key), ("X_Keyclasp_Owner", "root")], 400, "spoofed-identity"),
        ("realm=acme&dry_run=true", vec![("X.Keyclasp-Owner", "root")], 400, "spoofed-identity"),
    ] {
        let answer = traefik(&keyclasp, route, &fields);
        assert_eq!(
            (answer.status, answer.json()["type"].as_str()),
            (status, Some(&*format!("urn:keyclasp:problem:{name}"))),
            "{route} {answer:?}"
        );
        assert!(answer.field("x-keyclasp-reason").is_none() && !answer.body.contains(&key), "{answer:?}");
    }
    // No identity, also where none is needed.
    let sent = [("X-Keyclasp-Owner", "root"), ("Authorization", "Basic bWU6cHc=")];
    let answer = traefik(&keyclasp, "realm=acme&optional=true", &sent);
    let upstream = goes_on(&answer, &sent);
    assert!(
        answer.status == 200 && !has(&upstream, "x-keyclasp-owner") && has(&upstream, "authorization"),
        "{upstream:?}"
    );
}

#[test]
fn what_the_proxy_says_has_to_be_there_once() {
    let keyclasp = Keyclasp::start(LOOPBACK, Settings::default());
    let (_, key) = keyclasp.key("acme", &[], &[]);
    let with_key = |fields: &[(&str, &str)]| {
        let fields = [fields, &[("X-API-Key", key.as_str())]].concat();
        ask(keyclasp.address, "GET", "/forward-auth?realm=acme", &fields, "").status
    };
    assert_eq!(with_key(&TRAEFIK), 200);
    for name in ["X-Forwarded-Uri", "X-Forwarded-Method"] {
        let others: Vec<_> = TRAEFIK.into_iter().filter(|(known, _)| *known != name).collect();
        assert_eq!(with_key(&others), 400, "{name} is missing");
    }
    for name in ["X-Forwarded-Uri", "X-Forwarded-Method", "X-Forwarded-Host", "X-Forwarded-For"] {
        assert_eq!(with_key(&[&TRAEFIK[..], &[(name, "/x")]].concat()), 400, "{name} is there twice");
    }
}

#[test]
fn proxies_before_the_proxy_are_believed_where_they_are_configured() {
    for (trusted, forwarded, status) in [
        (&[][..], "192.0.2.7", 200),
        (&[], "192.0.2.7, 10.0.0.1", 403),
        (&["10.0.0.0/8"], "192.0.2.7, 10.0.0.1", 200),
        (&["10.0.0.0/8"], "192.0.2.7, 198.51.100.1, 10.0.0.1", 403),
        (&["10.0.0.0/8"], "198.51.100.1, 192.0.2.7", 200),
        (&["10.0.0.0/8"], "unknown", 403),
        (&["10.0.0.0/8"], "", 403),
    ] {
        let settings = Settings { trusted_proxies: Cidrs::parse(trusted).unwrap(), ..Settings::default() };
        let keyclasp = Keyclasp::start(LOOPBACK, settings);
        let (_, key) = keyclasp.key("acme", &[], &["192.0.2.0/24"]);
        let fields = [&TRAEFIK[1..], &[("X-Forwarded-For", forwarded), ("X-API-Key", &key)]].concat();
        let answer = ask(keyclasp.address, "GET", "/forward-auth?realm=acme", &fields, "");
        assert_eq!(answer.status, status, "{trusted:?} {forwarded}: {answer:?}");
    }
}

#[test]
fn behind_nginx_too() {
    for (trusted, real, forwarded, status) in [
        (&[][..], "192.0.2.7", "198.51.100.1", 200),
        (&[], "10.0.0.1", "192.0.2.7", 403),
        (&["10.0.0.0/8"], "10.0.0.1", "192.0.2.7", 200),
        (&["10.0.0.0/8"], "10.0.0.1", "192.0.2.7, 198.51.100.1", 403),
        (&["10.0.0.0/8"], "198.51.100.1", "192.0.2.7", 403),
    ] {
        let settings = Settings { trusted_proxies: Cidrs::parse(trusted).unwrap(), ..Settings::default() };
        let keyclasp = Keyclasp::start(LOOPBACK, settings);
        let (_, key) = keyclasp.key("acme", &[], &["192.0.2.0/24"]);
        let fields = [
            ("X-Original-Method", "GET"),
            ("X-Original-URI", "/"),
            ("X-Real-IP", real),
            ("X-Forwarded-For", forwarded),
            ("X-API-Key", &key),
        ];
        let answer = ask(keyclasp.address, "GET", "/forward-auth?realm=acme&style=nginx", &fields, "");
        assert_eq!(answer.status, status, "{trusted:?} {real} {forwarded}: {answer:?}");
    }
}

#[test]
fn every_method_and_any_body_may_ask() {
    let keyclasp = Keyclasp::start(LOOPBACK, Settings::default());
    let (_, key) = keyclasp.key("acme", &[], &[]);
    for verb in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "WEIRD"] {
        let fields = [&TRAEFIK[..], &[("X-API-Key", &key)]].concat();
        let answer = ask(keyclasp.address, verb, "/forward-auth?realm=acme", &fields, &"x".repeat(100_000));
        assert_eq!(answer.status, 200, "{verb}: {answer:?}");
        assert_eq!(answer.field("cache-control"), Some("no-store"));
    }
}

#[test]
fn a_key_that_traefik_cannot_take_away_does_not_pass() {
    let sources = ["query:api_key", "cookie:key"].map(|source| Source::parse(source).unwrap());
    let settings = Settings { sources: Sources::new(sources), ..Settings::default() };
    let keyclasp = Keyclasp::start(LOOPBACK, settings);
    let (_, key) = keyclasp.key("acme", &[], &[]);
    let uri = format!("/orders/1?api_key={key}");
    let fields = [&TRAEFIK[..6], &[("X-Forwarded-Uri", uri.as_str())]].concat();
    let answer = ask(keyclasp.address, "GET", "/forward-auth?style=traefik&realm=acme", &fields, "");
    assert_eq!((answer.status, answer.json()["type"].as_str()), (400, Some("urn:keyclasp:problem:unreadable")));
    // Cookies it takes from the answer.
    let cookie = format!("a=b; key={key}");
    let sent = [("Cookie", cookie.as_str())];
    let answer = traefik(&keyclasp, "realm=acme", &sent);
    assert!(goes_on(&answer, &sent).contains(&("cookie".to_owned(), "a=b".to_owned())), "{answer:?}");
}

#[test]
fn a_dry_run_takes_nothing_away_from_traefik_either_whatever_failed() {
    // Nobody may ask, and nobody is refused.
    let settings = Settings { dry_run: true, ..Settings::default() };
    let keyclasp = Keyclasp::start(&["192.0.2.0/24"], settings);
    let sent = [("Authorization", "Basic bWU6cHc="), ("X-API-Key", "k"), ("Cookie", "a=b")];
    let answer = traefik(&keyclasp, "realm=acme", &sent);
    assert_eq!(answer.status, 200, "{answer:?}");
    let upstream = goes_on(&answer, &sent);
    for (name, value) in sent {
        assert!(upstream.contains(&(name.to_lowercase(), value.to_owned())), "{name}: {upstream:?}");
    }
}
