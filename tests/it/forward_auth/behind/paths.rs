//! Paths that two programs may read in two ways: no way leads around the question.

use super::heard;
use crate::forward_auth::proxies::{Kind, Site};

behind! {
    dots_in_a_path_lead_nowhere,
    encoded_dots_in_a_path_lead_nowhere,
    encoded_slashes_in_a_path_lead_nowhere,
    double_slashes_in_a_path_lead_nowhere,
    semicolons_in_a_path_lead_nowhere,
    backslashes_in_a_path_lead_nowhere,
    encoded_letters_in_a_path_lead_nowhere,
    encoded_semicolons_in_a_path_lead_nowhere,
    a_directory_itself_needs_what_is_below_it,
    an_absolute_target_is_asked_about_as_its_path,
    what_keyclasp_was_asked_is_what_the_upstream_is_asked,
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

fn encoded_letters_in_a_path_lead_nowhere(kind: Kind) {
    lead_nowhere(
        kind,
        &["/%6Frders/1", "/%6frders/1", "/orders%2D1", "/order%73/1", "/publi%63/x", "/%7Eorders/1", "/%31"],
    );
}

fn encoded_semicolons_in_a_path_lead_nowhere(kind: Kind) {
    lead_nowhere(kind, &["/orders%3b/1", "/orders%3Bx/1", "/public/..%3b/orders/1", "/public%3b/x"]);
}

fn a_directory_itself_needs_what_is_below_it(kind: Kind) {
    let site = Site::start(kind);
    let (_, key) = site.keyclasp.key("acme", &["orders:read"], &[]);
    for target in ["/orders", "/orders?a=b", "/orders/", "/orders/?a=b"] {
        let answer = site.ask("POST", target, &[("X-API-Key", &key)], "x");
        // nginx sends a client that lacks the slash to where it is.
        assert!(!answer.reached() && [301, 403].contains(&answer.status), "{target}: {answer:?}");
    }
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
