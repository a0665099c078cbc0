//! Every kind of request that an Envoy carries.

use std::io::{Read as _, Write as _};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::net::TcpStream;

use super::{Rig, Seen, TOKEN, assert_refused, callers, passed};
use crate::support::envoy::Config;
use crate::support::server::Keyclasp;
use crate::support::{eventually, http1};

const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn a_preflight_needs_no_key_and_a_browser_can_read_a_refusal() {
    let rig = Rig::shared();
    let envoy = rig.config(&["--allow-origin", "https://app.example"]).start(TOKEN);
    let preflight = |origin| {
        let headers = [("origin", origin), ("access-control-request-method", "GET")];
        http1::send(envoy.listen(), "OPTIONS", "/", &headers, b"")
    };
    let answer = preflight("https://app.example");
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, Some("https://app.example")));
    assert!(answer.header("access-control-allow-headers").unwrap().contains("api-key"), "{answer:?}");
    assert_eq!(preflight("https://evil.example").status, 401);

    let refused = http1::get(envoy.listen(), "/", &[("origin", "https://app.example")]);
    assert_refused(401, &refused);
    assert_eq!(refused.header("access-control-allow-origin"), Some("https://app.example"));
    let key = rig.key(&[]);
    let headers = [("origin", "https://app.example"), ("api-key", key.text.as_str())];
    let passed = http1::get(envoy.listen(), "/", &headers);
    assert_eq!((passed.status, passed.header("access-control-allow-origin")), (200, Some("https://app.example")));
}

#[test]
fn a_web_socket_opens_with_a_key_alone() {
    let rig = Rig::shared();
    let key = rig.key(&[]);
    let upgrade =
        [("upgrade", "websocket"), ("sec-websocket-version", "13"), ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")];
    let open = |text: &str| {
        let mut stream = http1::connect(rig.envoy().listen());
        let mut request = "GET /socket HTTP/1.1\r\nhost: keyclasp.test\r\nconnection: upgrade\r\n".to_owned();
        for (name, value) in upgrade.iter().chain([&("api-key", text)]) {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        stream.write_all(format!("{request}\r\n").as_bytes()).unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        let (status, headers) = http1::head(&String::from_utf8_lossy(&head));
        (status, headers, stream)
    };
    let (status, headers, mut stream) = open(&key.text);
    assert_eq!(status, 101, "{headers:?}");
    let asked = headers.iter().find(|(name, _)| name == "x-asked").unwrap();
    let seen = Seen(serde_json::from_str(&asked.1).unwrap());
    assert_eq!((seen.header("api-key"), seen.header("x-keyclasp-key-id")), (None, Some(key.id.as_str())));
    stream.write_all(b"to and fro").unwrap();
    let mut echoed = [0; 10];
    stream.read_exact(&mut echoed).unwrap();
    assert_eq!(&echoed, b"to and fro");
    assert_eq!(open("nonsense").0, 401);
}

/// With room for large headers.
fn large_headers(mut config: Config) -> Config {
    config.manager()["max_request_headers_kb"] = 128.into();
    config
}

#[test]
fn a_header_of_60_kilobytes_passes_beside_a_key_and_is_none() {
    let rig = Rig::shared();
    let key = rig.key(&[]);
    let large = "x".repeat(60 << 10);
    for arguments in [&["--fail-open"][..], &["--fail-open", "--raw-headers"]] {
        let envoy = large_headers(rig.config(arguments)).start(TOKEN);
        let seen = passed(envoy.listen(), "/", &[("api-key", &key.text), ("x-large", &large)]);
        assert_eq!((seen.header("x-large"), seen.header("api-key")), (Some(large.as_str()), None));
        assert_refused(401, &http1::get(envoy.listen(), "/", &[("api-key", &large)]));
        assert_refused(401, &http1::get(envoy.listen(), "/", &[("authorization", &format!("ApiKey {large}"))]));
        assert_refused(401, &http1::get(envoy.listen(), "/", &[("x-large", &large)]));
        // Where a key is taken out of a large cookie, the rest stays.
        let cookie = format!("a={large}; session_key={}", key.text);
        let seen = passed(envoy.listen(), "/", &[("cookie", &cookie)]);
        assert_eq!(seen.header("cookie"), Some(format!("a={large}").as_str()));
    }
}

#[test]
fn a_body_that_envoy_sends_along_does_not_matter() {
    let rig = Rig::shared();
    let key = rig.key(&[]);
    let config = rig.config(&["--fail-open"]);
    let config = config.with("with_request_body", "{ max_request_bytes: 6000000, pack_as_bytes: true }");
    let envoy = config.start(TOKEN);
    let body = vec![0xff; 5_000_000];
    let answer = http1::send(envoy.listen(), "POST", "/", &[("api-key", &key.text)], &body);
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.json()["bytes"], body.len());
    assert_refused(401, &http1::send(envoy.listen(), "POST", "/", &[("api-key", "nonsense")], &body));
}

#[test]
fn a_question_that_is_too_large_is_refused_even_where_envoy_fails_open() {
    let rig = Rig::over(callers(Keyclasp::set_up()).env("KEYCLASP_ENVOY__MAX_MESSAGE_BYTES", "1048576").start());
    let key = rig.key(&[]);
    let config = rig.config(&["--fail-open"]);
    let config = config.with("with_request_body", "{ max_request_bytes: 6000000, pack_as_bytes: true }");
    let envoy = config.start(TOKEN);
    let answer = http1::send(envoy.listen(), "POST", "/", &[("api-key", &key.text)], &vec![b'x'; 1 << 21]);
    assert_refused(413, &answer);
    assert_eq!(http1::send(envoy.listen(), "POST", "/", &[("api-key", &key.text)], b"small").status, 200);
}

#[tokio::test]
async fn http2_requests_pass_and_are_refused_like_others() {
    let rig = Rig::shared();
    let key = rig.key(&[]);
    let stream = TcpStream::connect(rig.envoy().listen()).await.unwrap();
    let io = TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    // Two fields of one name, which HTTP/2 allows for cookies too.
    let cookie = format!("session_key={}", key.text);
    for (name, value, status) in [("api-key", key.text.as_str(), 200), ("cookie", &cookie, 200), ("api-key", "x", 401)]
    {
        let request = Request::get("http://keyclasp.test/h2?a=1").header("cookie", "a=1").header(name, value);
        let answer = sender.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await.unwrap();
        assert_eq!(answer.status(), status);
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        let body: Value = serde_json::from_slice(&body).unwrap();
        if status == 200 {
            let seen = Seen(body);
            assert_eq!((&seen.0["version"], seen.target()), (&"HTTP/2.0".into(), "/h2?a=1"));
            assert_eq!((seen.all("cookie"), seen.header("api-key")), (vec!["a=1"], None));
        }
    }
}

#[test]
fn each_worker_of_an_envoy_asks() {
    let rig = Rig::shared();
    let envoy = rig.config(&[]).start_with(TOKEN, 2);
    let key = rig.key(&[]);
    // By the address as it is configured, without the port that the system chose.
    let taken = |worker| envoy.counter(&format!("listener.127.0.0.1_0.worker_{worker}.downstream_cx_total"));
    let both = eventually(PATIENCE, || {
        passed(envoy.listen(), "/", &[("api-key", &key.text)]);
        assert_refused(401, &http1::get(envoy.listen(), "/", &[]));
        (taken(0) > 2 && taken(1) > 2).then_some(())
    });
    assert!(both.is_some(), "{}", envoy.admin("/stats?filter=worker_"));
}
