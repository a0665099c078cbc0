//! What a resource server is told of a key, and of what is none.

use std::time::Duration;

use serde_json::{Value, json};

use super::{INTROSPECT, MAKER, RS, WIDE, basic, done, encoded, inactive, introspect, key, post, send, started};
use crate::support::eventually;
use crate::support::server::Keyclasp;

fn seconds(time: &Value) -> u64 {
    let time = humantime::parse_rfc3339(time.as_str().unwrap()).unwrap();
    time.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

#[test]
fn each_member_says_what_the_record_says() {
    let server = super::callers(Keyclasp::set_up()).env("KEYCLASP_OAUTH2__ISSUER", "https://keys.example/a/").start();
    let (id, text) = key(
        &server,
        &json!({
            "owner": {"kind": "OWNER_KIND_CLIENT", "id": "c \"1\"", "displayName": "Zoë"},
            "name": "not told", "scopes": ["orders:write", "nodes:*", "plain"], "ttl": "3600s",
            "notBefore": "2020-01-01T00:00:00.500Z", "metadata": {"not": "told"},
        }),
    );
    let record = done(&server, "KeyService/GetKey", &json!({"id": id}))["key"].clone();
    let expected = json!({
        "active": true, "scope": "nodes:* orders:read orders:write plain", "client_id": "c \"1\"", "username": "Zoë",
        "token_type": "Bearer", "exp": seconds(&record["expiresAt"]), "iat": seconds(&record["createdAt"]),
        "nbf": 1_577_836_801, "sub": "c \"1\"", "aud": "acme", "iss": "https://keys.example/a/", "jti": id,
    });
    assert_eq!(introspect(&server, RS, &text), expected);
    // As ValidateKey decides, which is what the scopes that are added rest on.
    let check = json!({"apiKey": text, "requiredScopes": ["nodes:x", "orders:read", "orders:write", "plain"]});
    assert_eq!(done(&server, "KeyService/ValidateKey", &check)["outcome"], "OUTCOME_VALID");
}

#[test]
fn what_a_key_does_not_have_is_left_out() {
    let server = started();
    let (id, text) = key(&server, &json!({}));
    let record = done(&server, "KeyService/GetKey", &json!({"id": id}))["key"].clone();
    let least = json!({
        "active": true, "token_type": "Bearer", "iat": seconds(&record["createdAt"]), "sub": "u-1", "aud": "acme",
        "jti": id,
    });
    assert_eq!(introspect(&server, RS, &text), least);
    for (kind, client_id) in [
        ("OWNER_KIND_SERVICE_ACCOUNT", json!("u-1")),
        ("OWNER_KIND_CLIENT", json!("u-1")),
        ("OWNER_KIND_EXTERNAL", Value::Null),
    ] {
        let (_, text) = key(&server, &json!({"owner": {"kind": kind, "id": "u-1"}}));
        assert_eq!(introspect(&server, RS, &text)["client_id"], client_id, "{kind}");
    }
}

#[test]
fn nobody_keeps_the_answer() {
    let server = started();
    let (_, text) = key(&server, &json!({}));
    for token in [text.as_str(), "nothing"] {
        let answer = post(&server, INTROSPECT, Some(RS), &format!("token={token}"));
        for header in ["content-type: application/json", "cache-control: no-store", "pragma: no-cache"] {
            assert!(answer.status == 200 && answer.has(header), "{answer:?}");
        }
    }
}

#[test]
fn whatever_refuses_a_key_makes_it_inactive_and_nothing_else_is_told() {
    let server = started();
    let changed = |method: &str, more: &Value| {
        let (id, text) = key(&server, &json!({}));
        // It is in memory, and active.
        assert_eq!(introspect(&server, RS, &text)["active"], true);
        let mut request = json!({"id": id});
        for (name, value) in more.as_object().unwrap() {
            request[name] = value.clone();
        }
        done(&server, method, &request);
        text
    };
    let made = |fields: &Value| key(&server, fields).1;
    let good = made(&json!({}));
    let other = Keyclasp::start();
    let mut typo = good.clone();
    typo.pop();
    typo.push(if good.ends_with('a') { 'b' } else { 'a' });
    for (why, token) in [
        ("revoked", changed("KeyService/RevokeKey", &json!({}))),
        ("suspended", changed("KeyService/SuspendKey", &json!({}))),
        ("rotated", changed("KeyService/RotateKey", &json!({}))),
        ("not yet valid", made(&json!({"notBefore": "2100-01-01T00:00:00Z"}))),
        ("bound to an address, even the caller's", made(&json!({"allowedCidrs": ["0.0.0.0/0", "::/0"]}))),
        ("bound to a principal", made(&json!({"allowedPrincipals": ["rs"]}))),
        ("of a realm where the caller may not ask", made(&json!({"realm": "beta"}))),
        ("unknown: made elsewhere", key(&other, &json!({})).1),
        ("a typo", typo),
        ("a key and a space", format!("{good} ")),
        ("no key", "x".to_owned()),
        ("somebody else's token", "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl".repeat(100)),
        ("text of any kind", "\0\u{7f}é\n".to_owned()),
    ] {
        assert_eq!(introspect(&server, RS, &token), inactive(), "{why}");
    }
    let (_, short) = key(&server, &json!({"ttl": "1s"}));
    let ended = eventually(Duration::from_secs(30), || (introspect(&server, RS, &short) == inactive()).then_some(()));
    assert!(ended.is_some(), "it never expired");
    assert_eq!(introspect(&server, RS, &good)["active"], true, "none of this is about other keys");
}

#[test]
fn a_suspended_key_is_active_again_once_it_is_resumed() {
    let server = started();
    let (id, text) = key(&server, &json!({}));
    done(&server, "KeyService/SuspendKey", &json!({"id": id}));
    assert_eq!(introspect(&server, RS, &text), inactive());
    done(&server, "KeyService/ResumeKey", &json!({"id": id}));
    assert_eq!(introspect(&server, RS, &text)["active"], true);
}

#[test]
fn the_realm_may_be_named() {
    let server = started();
    let (_, acme) = key(&server, &json!({}));
    let (_, beta) = key(&server, &json!({"realm": "beta"}));
    let ask = |token: &str, realm: &str| {
        let answer = post(&server, INTROSPECT, Some(WIDE), &format!("realm={realm}&token={token}"));
        (answer.status, answer.json()["aud"].as_str().map(str::to_owned))
    };
    assert_eq!(ask(&acme, "acme"), (200, Some("acme".to_owned())));
    assert_eq!(ask(&beta, "beta"), (200, Some("beta".to_owned())));
    assert_eq!(ask(&beta, ""), (200, Some("beta".to_owned())), "a parameter without a value is none");
    for (token, realm) in [(&acme, "beta"), (&beta, "acme")] {
        let answer = post(&server, INTROSPECT, Some(WIDE), &format!("realm={realm}&token={token}"));
        assert_eq!((answer.status, answer.json()), (200, inactive()));
    }
    // Whoever may not ask in a realm learns nothing of its keys.
    let answer = post(&server, INTROSPECT, Some(RS), &format!("realm=beta&token={beta}"));
    assert_eq!(answer.error(), (403, "insufficient_scope".to_owned()));
}

#[test]
fn a_caller_shows_its_token_by_basic_or_as_a_bearer() {
    let server = started();
    let (_, text) = key(&server, &json!({}));
    let form = format!("token={text}");
    let ask = |authorization: &str| {
        let headers = [super::FORM, ("authorization", authorization)];
        send(server.listen(), "POST", INTROSPECT, &headers, form.as_bytes())
    };
    let [name, token] = WIDE;
    let standard = basic([&encoded(name), &encoded(token)]);
    for good in [basic(RS), basic(RS).replace("Basic", "bASIC"), format!("Bearer {}", RS[1]), standard, basic(WIDE)] {
        assert_eq!(ask(&good).json()["active"], true, "{good}");
    }
    for wrong in [
        basic([RS[0], "wrong"]),
        basic([RS[0], WIDE[1]]),
        basic([MAKER[0], RS[1]]),
        basic(["", RS[1]]),
        "Bearer wrong".to_owned(),
        // The key says nothing about who asks.
        format!("Bearer {text}"),
        "Basic".to_owned(),
        "Basic %".to_owned(),
        format!("Digest {}", RS[1]),
    ] {
        let answer = ask(&wrong);
        assert_eq!(answer.error(), (401, "invalid_client".to_owned()), "{wrong}");
        for challenge in ["basic realm=\"keyclasp\", charset=\"utf-8\"", "bearer realm=\"keyclasp\""] {
            assert!(answer.has(&format!("www-authenticate: {challenge}")), "{answer:?}");
        }
    }
    let answer = ask(&basic(MAKER));
    assert_eq!(answer.error(), (403, "insufficient_scope".to_owned()));
    let (value, bearer) = (basic(RS), format!("Bearer {}", RS[1]));
    let twice = [super::FORM, ("authorization", value.as_str()), ("authorization", &bearer)];
    let answer = send(server.listen(), "POST", INTROSPECT, &twice, form.as_bytes());
    assert_eq!(answer.error(), (401, "invalid_client".to_owned()));
    assert_eq!(post(&server, INTROSPECT, None, &form).error(), (401, "invalid_client".to_owned()));
}

#[test]
fn only_roles_that_validate_may_ask() {
    let roles = ["validator", "issuer", "auditor", "keycloak", "admin"];
    // `init` has made a caller that is called `admin`.
    let one =
        |role: &&str| super::caller([&format!("some {role}"), &format!("token-of-the-{role}")], role, r#"["acme"]"#);
    let server = Keyclasp::set_up().toml(&roles.iter().map(one).collect::<String>()).start();
    let (_, text) = key(&server, &json!({}));
    for role in roles {
        let headers = [super::FORM, ("authorization", &*format!("Bearer token-of-the-{role}"))];
        let answer = send(server.listen(), "POST", INTROSPECT, &headers, format!("token={text}").as_bytes());
        if ["validator", "admin"].contains(&role) {
            assert_eq!(answer.json()["active"], true, "{role}: {answer:?}");
        } else {
            assert_eq!(answer.error(), (403, "insufficient_scope".to_owned()), "{role}");
            assert!(!answer.body.contains("active"), "{role}: {answer:?}");
        }
    }
}

/// Basic is for OAuth: on the methods of the API it is no credential, whatever its connection showed before.
#[test]
fn basic_opens_nothing_else() {
    use std::io::{Read as _, Write as _};

    let server = started();
    let (id, text) = key(&server, &json!({}));
    let mut stream = std::net::TcpStream::connect(server.listen()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut ask = |path: &str, content_type: &str, close: &str, body: &str| {
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: {}\r\ncontent-type: {content_type}\r\n{close}\
             content-length: {}\r\n\r\n{body}",
            basic(["admin", &server.token()]),
            body.len()
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        while !answer.ends_with('}') {
            let mut chunk = [0; 4096];
            let read = stream.read(&mut chunk).unwrap();
            assert!(read > 0, "closed after {answer}");
            answer.push_str(std::str::from_utf8(&chunk[..read]).unwrap());
        }
        answer
    };
    let answer = ask(INTROSPECT, super::FORM.1, "", &format!("token={text}"));
    assert!(answer.contains("\"active\":true"), "{answer}");
    let get = "/keyclasp.v1.KeyService/GetKey";
    let answer = ask(get, "application/json", "connection: close\r\n", &json!({"id": id}).to_string());
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
}
