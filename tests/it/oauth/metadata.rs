//! The metadata document: there with an issuer alone, where the standard puts it, and true.

use serde_json::{Value, json};

use super::{REVOKE, RS, basic, introspect, key, post, send};
use crate::support::server::Keyclasp;

const WELL_KNOWN: &str = "/.well-known/oauth-authorization-server";

fn with(issuer: &str) -> Keyclasp {
    super::callers(Keyclasp::set_up()).env("KEYCLASP_OAUTH2__ISSUER", issuer).start()
}

#[test]
fn without_an_issuer_there_is_none() {
    let server = super::started();
    for path in [WELL_KNOWN, "/.well-known/openid-configuration"] {
        assert_eq!(send(server.listen(), "GET", path, &[], b"").status, 404);
    }
    assert_eq!(introspect(&server, RS, "x"), super::inactive(), "the rest is there");
}

#[test]
fn it_is_open_to_everybody_and_says_where_things_are() {
    let server = with("https://keys.example");
    // A credential that nothing asks for is not judged.
    for headers in [&[][..], &[("authorization", "Bearer wrong")]] {
        let answer = send(server.listen(), "GET", &format!("{WELL_KNOWN}?x=y"), headers, b"");
        assert!(answer.status == 200 && answer.has("content-type: application/json"), "{answer:?}");
        let expected = json!({
            "issuer": "https://keys.example",
            "introspection_endpoint": "https://keys.example/oauth2/introspect",
            "introspection_endpoint_auth_methods_supported": ["client_secret_basic", "Bearer"],
            "revocation_endpoint": "https://keys.example/oauth2/revoke",
            "revocation_endpoint_auth_methods_supported": ["none"],
            "response_types_supported": [],
            "grant_types_supported": [],
        });
        assert_eq!(answer.json(), expected);
        let head = send(server.listen(), "HEAD", WELL_KNOWN, headers, b"");
        assert_eq!((head.status, head.body.as_str()), (200, ""));
        assert!(head.has(&format!("content-length: {}", answer.body.len())), "{head:?}");
    }
    let answer = send(server.listen(), "POST", WELL_KNOWN, &[], b"");
    assert_eq!(answer.error(), (405, "invalid_request".to_owned()));
    assert!(answer.has("allow: get, head"), "{answer:?}");
    assert_eq!(send(server.listen(), "GET", &format!("{WELL_KNOWN}/"), &[], b"").status, 404);
}

/// As the service may be behind a proxy that takes the path away, and behind one that does not.
#[test]
fn an_issuer_with_a_path_has_its_endpoints_below_it_and_at_the_root() {
    let server = with("https://keys.example/some/where/");
    assert_eq!(send(server.listen(), "GET", WELL_KNOWN, &[], b"").status, 404);
    let document = send(server.listen(), "GET", &format!("{WELL_KNOWN}/some/where"), &[], b"").json();
    let (_, text) = key(&server, &json!({}));
    let authorization = basic(RS);
    let headers = [super::FORM, ("authorization", authorization.as_str())];
    let below = |name: &str| {
        let url = document[name].as_str().unwrap();
        url.strip_prefix("https://keys.example").unwrap().to_owned()
    };
    for path in [below("introspection_endpoint"), super::INTROSPECT.to_owned()] {
        let answer = send(server.listen(), "POST", &path, &headers, format!("token={text}").as_bytes());
        assert_eq!(answer.json()["iss"], "https://keys.example/some/where/", "{path}: {answer:?}");
    }
    assert_eq!(post(&server, &below("revocation_endpoint"), None, &format!("token={text}")).status, 200);
    assert_eq!(introspect(&server, RS, &text), super::inactive());
    assert_eq!(post(&server, REVOKE, None, &format!("token={text}")).status, 200);
    assert_eq!(document["issuer"], Value::from("https://keys.example/some/where/"));
}
