//! What happens when keyclasp, its store or the proxy's configuration does not do what it should: nothing passes.

use keyclasp::rpc::proxy::Settings;

use super::{IDENTITY, refused};
use crate::forward_auth::parts::instead;
use crate::forward_auth::proxies::{Kind, Site};
use crate::support::meddled::Verb;

behind! {
    a_store_that_is_away_is_a_503,
    a_keyclasp_that_is_away_lets_nobody_through,
    a_keyclasp_that_never_answers_lets_nobody_through,
    an_answer_that_is_none_of_keyclasps_lets_nobody_through,
    a_route_that_is_misconfigured_lets_nobody_through,
    a_keyclasp_without_the_endpoint_lets_nobody_through,
    a_header_that_is_too_large_does_not_pass,
    a_dry_run_lets_everybody_through_and_takes_nothing_away,
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
