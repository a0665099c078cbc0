//! What a client can and cannot do behind each of the proxies. Every test runs before every one of them.

use super::parts::{Answer, field};
use super::proxies::{Kind, Site};

/// Makes a test of each function for each of the proxies.
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

mod keys;
mod outages;
mod paths;
mod smuggled;

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
