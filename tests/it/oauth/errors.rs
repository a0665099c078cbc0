//! What is no request, to each of the endpoints; and that no answer repeats a token.

use serde_json::json;

use super::{FORM, INTROSPECT, REVOKE, RS, basic, inactive, introspect, key, post, send, started};

const SECRET: &str = "kc_SECRET";

#[test]
fn what_is_wrong_with_a_form_is_said() {
    let server = started();
    for path in [INTROSPECT, REVOKE] {
        for (form, said) in [
            ("", "token is missing"),
            ("token=", "token is missing"),
            ("token", "token is missing"),
            ("token_type_hint=access_token", "token is missing"),
            ("Token=kc_SECRET", "token is missing"),
            ("{\"token\":\"kc_SECRET\"}", "token is missing"),
            ("token=kc_SECRET&token=kc_SECRET", "token is given more than once"),
            ("token=kc_SECRET&token=", "token is given more than once"),
            ("token=kc_SECRET&%74oken=other", "token is given more than once"),
            ("token=kc_SECRET&token_type_hint=a&token_type_hint=a", "token_type_hint is given more than once"),
            ("token=kc_SECRET%", "token is not percent-encoded UTF-8"),
            ("token=kc_SECRET%ff", "token is not percent-encoded UTF-8"),
        ] {
            let answer = post(&server, path, Some(RS), form);
            assert_eq!(answer.error(), (400, "invalid_request".to_owned()), "{form}: {answer:?}");
            assert!(answer.body.contains(said), "{said}: {answer:?}");
            assert!(!answer.body.contains(SECRET) && !answer.head.contains(SECRET), "{answer:?}");
        }
    }
    for (form, said) in [
        ("token=kc_SECRET&realm=a&realm=b", "realm is given more than once"),
        ("token=kc_SECRET&realm=a%0Ab", "realm "),
        ("token=kc_SECRET&realm=%zz", "realm is not percent-encoded UTF-8"),
    ] {
        let answer = post(&server, INTROSPECT, Some(RS), form);
        assert_eq!(answer.error(), (400, "invalid_request".to_owned()), "{form}: {answer:?}");
        assert!(answer.body.contains(said), "{said}: {answer:?}");
    }
}

#[test]
fn parameters_that_are_not_known_are_ignored_and_so_is_the_hint() {
    let server = started();
    let (_, text) = key(&server, &json!({}));
    for more in ["token_type_hint=refresh_token", "token_type_hint=nonsense", "scope=x&scope=y&%zz=1&=", "client_id=x"]
    {
        let answer = post(&server, INTROSPECT, Some(RS), &format!("{more}&token={text}"));
        assert_eq!((answer.status, answer.json()["active"].as_bool()), (200, Some(true)), "{more}: {answer:?}");
    }
}

#[test]
fn only_a_form_is_read() {
    let server = started();
    let (_, text) = key(&server, &json!({}));
    let form = format!("token={text}");
    let authorization = basic(RS);
    for path in [INTROSPECT, REVOKE] {
        for headers in [
            &[][..],
            &[("content-type", "application/json")],
            &[("content-type", "text/plain")],
            &[("content-type", "application/x-www-form-urlencoded2")],
            &[("content-type", "multipart/form-data; boundary=x")],
            &[FORM, ("content-type", "application/json")],
            &[FORM, ("content-encoding", "gzip")],
        ] {
            let headers = [headers, &[("authorization", authorization.as_str())]].concat();
            let answer = send(server.listen(), "POST", path, &headers, form.as_bytes());
            assert_eq!(answer.error(), (415, "invalid_request".to_owned()), "{headers:?}: {answer:?}");
            assert!(answer.has("accept-post: application/x-www-form-urlencoded"), "{answer:?}");
        }
    }
    assert_eq!(introspect(&server, RS, &text)["active"], true, "nothing was revoked");
    for content_type in ["Application/X-WWW-form-urlencoded", "application/x-www-form-urlencoded ; charset=UTF-8"] {
        let headers = [("content-type", content_type), ("authorization", authorization.as_str())];
        let answer = send(server.listen(), "POST", INTROSPECT, &headers, form.as_bytes());
        assert_eq!(answer.json()["active"], true, "{content_type}: {answer:?}");
    }
}

#[test]
fn only_post_is_taken_and_a_token_in_the_url_is_not_read() {
    let server = started();
    let (_, text) = key(&server, &json!({}));
    let authorization = basic(RS);
    let headers = [FORM, ("authorization", authorization.as_str())];
    for path in [INTROSPECT, REVOKE] {
        for method in ["GET", "PUT", "DELETE", "OPTIONS", "PATCH"] {
            let answer = send(server.listen(), method, &format!("{path}?token={text}"), &headers, b"");
            assert_eq!(answer.error(), (405, "invalid_request".to_owned()), "{method} {path}: {answer:?}");
            assert!(answer.has("allow: post"), "{answer:?}");
        }
        let head = send(server.listen(), "HEAD", path, &headers, b"");
        assert!(head.status == 405 && head.body.is_empty(), "{head:?}");
        let answer = send(server.listen(), "POST", &format!("{path}?token={text}"), &headers, b"");
        assert_eq!(answer.error(), (400, "invalid_request".to_owned()), "{answer:?}");
        assert!(!format!("{answer:?}").contains(&text), "{answer:?}");
        let answer = send(server.listen(), "POST", &format!("{path}/"), &headers, b"token=x");
        assert_eq!(answer.status, 404, "{answer:?}");
    }
    assert_eq!(introspect(&server, RS, &text)["active"], true, "nothing was revoked");
}

#[test]
fn a_request_that_is_too_large_is_refused_however_it_comes() {
    let server = super::callers(crate::support::server::Keyclasp::set_up())
        .env("KEYCLASP_SERVER__MAX_MESSAGE_BYTES", "4096")
        .start();
    let authorization = basic(RS);
    let largest = format!("token={}", "x".repeat(4096 - "token=".len()));
    for path in [INTROSPECT, REVOKE] {
        let headers = [FORM, ("authorization", authorization.as_str())];
        assert_eq!(send(server.listen(), "POST", path, &headers, largest.as_bytes()).status, 200);
        let answer = send(server.listen(), "POST", path, &headers, format!("{largest}x").as_bytes());
        assert_eq!(answer.error(), (413, "invalid_request".to_owned()), "{answer:?}");
        let chunked = format!("{:x}\r\n{largest}x\r\n0\r\n\r\n", largest.len() + 1);
        let headers = [FORM, ("authorization", authorization.as_str()), ("transfer-encoding", "chunked")];
        let answer = send(server.listen(), "POST", path, &headers, chunked.as_bytes());
        assert_eq!(answer.error(), (413, "invalid_request".to_owned()), "{answer:?}");
    }
    assert_eq!(introspect(&server, RS, "x"), inactive(), "it goes on");
}
