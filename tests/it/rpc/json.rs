//! JSON beside gRPC: the mapping both ways, errors in Connect's form, and what HTTP itself refuses.

use data_encoding::BASE64_NOPAD;
use prost::Message as _;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::stub::{ECHO, TOKEN, started};

const CREATE: &str = "keyclasp.v1.KeyService/CreateKey";
const GET: &str = "keyclasp.v1.KeyService/GetKey";
const VALIDATE: &str = "keyclasp.v1.KeyService/ValidateKey";

#[tokio::test]
async fn messages_follow_the_json_mapping_both_ways() {
    let server = started();
    let body = json!({
        "realm": "acme", "name": "näme", "owner": { "kind": "OWNER_KIND_USER", "id": "u-1" },
        "scopes": ["a:read", "b:*"], "expires_at": "2030-01-31T12:00:00.5+01:00", "metadata": { "team": "x" },
    });
    let answer = server.json(CREATE, &body.to_string()).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.head.contains("content-type: application/json"), "{answer:?}");
    assert!(answer.head.contains("cache-control: no-store"), "{answer:?}");
    let expected = json!({
        "apiKey": "kc_text",
        "key": {
            "name": "näme", "owner": { "kind": "OWNER_KIND_USER", "id": "u-1" }, "scopes": ["a:read", "b:*"],
            "status": "KEY_STATUS_ACTIVE", "expiresAt": "2030-01-31T11:00:00.500Z", "metadata": { "team": "x" },
            "version": "18446744073709551615",
        },
    });
    assert_eq!(answer.json(), expected);
}

#[tokio::test]
async fn errors_have_connects_form_and_status() {
    let server = started();
    let answer = server.json(GET, r#"{"id":"x"}"#).await;
    assert_eq!(answer.status, 404, "{answer:?}");
    let error = answer.json();
    assert_eq!(error["code"], "not_found");
    assert_eq!(error["message"], "there is no key with this id in a realm where this caller has a role");
    let detail = &error["details"][0];
    assert_eq!(detail["type"], "google.rpc.ErrorInfo");
    assert_eq!(detail["debug"], json!({ "reason": "KEY_NOT_FOUND", "domain": "keyclasp" }));
    // As docs/ERRORS.md shows it.
    assert_eq!(detail["value"], "Cg1LRVlfTk9UX0ZPVU5EEghrZXljbGFzcA");
    let value = BASE64_NOPAD.decode(detail["value"].as_str().unwrap().as_bytes()).unwrap();
    assert_eq!(tonic_types::pb::ErrorInfo::decode(value.as_slice()).unwrap().reason, "KEY_NOT_FOUND");
}

#[tokio::test]
async fn what_is_wrong_with_a_body_is_said_without_repeating_it() {
    let server = started();
    let answer = server.json(VALIDATE, r#"{"api_key":"echo","apikey":"kc_SECRET"}"#).await;
    assert_eq!(answer.status, 400, "{answer:?}");
    let error = answer.json();
    assert_eq!(error["code"], "invalid_argument");
    assert_eq!(error["details"][1]["type"], "google.rpc.BadRequest");
    let violation = &error["details"][1]["debug"]["fieldViolations"][0];
    assert_eq!(violation["field"], "apikey");
    assert!(violation["description"].as_str().unwrap().contains("apiKey"), "{error}");
    for (body, said) in [
        ("", "the body is empty; send `{}`"),
        (r#"{"apiKey":"kc_SECRET""#, "not JSON: line 1"),
        (r#"{"apiKey":["kc_SECRET"]}"#, "apiKey: must be a string"),
        (r#"{"apiKey":"kc_SECRET"} x"#, "not JSON: line 1"),
        ("kc_SECRET", "not JSON: line 1"),
    ] {
        let answer = server.json(VALIDATE, body).await;
        assert!(answer.status == 400 && answer.body.contains(said), "{body}: {answer:?}");
        assert!(!answer.body.contains("SECRET"), "{answer:?}");
    }
    assert_eq!(server.json(VALIDATE, "{}").await.status, 200);
}

#[tokio::test]
async fn what_is_given_twice_is_refused_by_name() {
    let server = started();
    for (method, body, field) in [
        (VALIDATE, r#"{"apiKey":"kc_SECRET","apiKey":"kc_SECRET"}"#, "apiKey"),
        (VALIDATE, r#"{"apiKey":"kc_SECRET","api_key":"other"}"#, "api_key"),
        (CREATE, r#"{"owner":{"id":"a","kind":"OWNER_KIND_USER","id":"b"}}"#, "owner.id"),
        (CREATE, r#"{"metadata":{"a":"1","a":"2"}}"#, "metadata"),
    ] {
        let answer = server.json(method, body).await;
        assert_eq!(
            (answer.status, answer.json()["code"].as_str()),
            (400, Some("invalid_argument")),
            "{body}: {answer:?}"
        );
        let error = answer.json();
        assert_eq!(error["details"][0]["debug"]["reason"], "INVALID_ARGUMENT", "{answer:?}");
        assert_eq!(error["details"][1]["debug"]["fieldViolations"][0]["field"], field, "{answer:?}");
        assert!(!answer.body.contains("SECRET"), "{answer:?}");
    }
}

#[tokio::test]
async fn what_http_refuses_is_said_in_the_same_form() {
    let server = started();
    let post = |path: &str, headers: &str| {
        format!("POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}content-length: 2\r\n\r\n{{}}")
    };
    let get = format!("GET /{VALIDATE} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    let path = format!("/{VALIDATE}");
    let table = [
        (get, 405, "invalid_argument", "allow: post"),
        (post("/", ""), 404, "unimplemented", "POST /package.Service/Method"),
        (
            post("/keyclasp.v1.KeyService/No", "content-type: application/json\r\n"),
            404,
            "unimplemented",
            "nothing at this path",
        ),
        // Known to the descriptors, but not served here.
        (
            post("/keyclasp.v1.AdminService/GetStatus", "content-type: application/json\r\n"),
            404,
            "unimplemented",
            "nothing",
        ),
        (post(&path, ""), 415, "invalid_argument", "accept-post: application/json, application/grpc"),
        (post(&path, "content-type: text/plain\r\n"), 415, "invalid_argument", "application/json"),
        (post(&path, "content-type: application/grpc+json\r\n"), 415, "invalid_argument", "application/json"),
        (post(&path, "content-type: application/grpc\r\n"), 505, "invalid_argument", "needs HTTP/2"),
        (
            post(&path, "content-type: application/json\r\ncontent-encoding: gzip\r\n"),
            415,
            "invalid_argument",
            "compressed",
        ),
        (post("/grpc.health.v1.Health/Watch", "content-type: application/json\r\n"), 501, "unimplemented", "streams"),
        (post(&path, "content-type: application/json\r\n"), 401, "unauthenticated", "Bearer TOKEN"),
        (
            post(&path, "content-type: application/json\r\nauthorization: Bearer no\r\n"),
            401,
            "unauthenticated",
            "not one that is configured",
        ),
    ];
    for (request, status, code, said) in table {
        let answer = server.http(&request).await;
        assert_eq!((answer.status, answer.json()["code"].as_str()), (status, Some(code)), "{request}: {answer:?}");
        assert!(answer.head.contains(said) || answer.body.contains(said), "{said}: {answer:?}");
        assert!(answer.json()["details"][0]["debug"]["reason"].is_string(), "{answer:?}");
    }
}

#[tokio::test]
async fn a_connection_serves_one_call_after_another_whatever_the_parameters_of_the_content_type() {
    let server = started();
    let mut stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
    let body = format!(r#"{{"apiKey":"{ECHO}"}}"#);
    for content_type in ["application/json", "application/json; charset=utf-8", "Application/JSON;x=y"] {
        let request = format!(
            "POST /{VALIDATE} HTTP/1.1\r\nhost: x\r\nauthorization: bearer {TOKEN}\r\ncontent-type: {content_type}\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        while !answer.ends_with('}') {
            let mut chunk = [0; 1024];
            let read = stream.read(&mut chunk).await.unwrap();
            assert!(read > 0, "closed after {answer}");
            answer.push_str(std::str::from_utf8(&chunk[..read]).unwrap());
        }
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("mesh from 127.0.0.1"), "{answer}");
    }
}

#[tokio::test]
async fn open_methods_need_no_caller_and_health_speaks_json_too() {
    let server = started();
    let answer = server
        .http("POST /keyclasp.v1.KeyService/RevokeOwnKey HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer wrong\r\n\
               content-type: application/json\r\ncontent-length: 15\r\n\r\n{\"apiKey\":\"kc\"}")
        .await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "{}"));
    server.rpc.health().set_serving(true).await;
    let answer = server
        .http("POST /grpc.health.v1.Health/Check HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n\
               content-length: 36\r\n\r\n{\"service\":\"keyclasp.v1.KeyService\"} ")
        .await;
    assert_eq!(answer.json(), json!({ "status": "SERVING" }), "{answer:?}");
}
