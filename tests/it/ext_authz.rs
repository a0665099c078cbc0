//! Envoy's ext_authz without Envoy: a server of its own, asked by clients of ours and of others.

mod oracle;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use keyclasp::rpc::proto::envoy::config::core::v3::HeaderValue;
use keyclasp::rpc::proto::envoy::service::auth::v3::CheckResponse;
use keyclasp::rpc::proto::envoy::service::auth::v3::check_response::HttpResponse;
use prost::Message;
use serde_json::{Value, json};
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use crate::support::json::call;
use crate::support::server::Keyclasp;

/// The Python that `scripts/setup.sh` makes.
fn python() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache"), PathBuf::from);
    cache.join("keyclasp-tools/bin/python-xds")
}

/// What a server answers to questions of `ask.py`.
fn asked_by_others(server: &Keyclasp, questions: &[Value]) -> Vec<Value> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/ext_authz/ask.py");
    let mut command = Command::new(python());
    command.arg(script).arg(server.listen().to_string()).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child =
        command.spawn().unwrap_or_else(|error| panic!("{}: {error}; run scripts/setup.sh", python().display()));
    let mut input = child.stdin.take().unwrap();
    for question in questions {
        writeln!(input, "{question}").unwrap();
    }
    drop(input);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A new key of the realm `acme`: its id and text.
fn key(server: &Keyclasp) -> (String, String) {
    let request =
        json!({"realm": "acme", "owner": {"kind": "OWNER_KIND_USER", "id": "Zoë"}, "scopes": ["orders:read", "x"]});
    let (status, made) = call(server.listen(), &server.token(), "KeyService/CreateKey", &request);
    assert_eq!(status, 200, "{made}");
    (made["key"]["id"].as_str().unwrap().to_owned(), made["apiKey"].as_str().unwrap().to_owned())
}

/// All that Envoy can send, and keyclasp does not need.
fn rich(headers: &Value, extensions: &Value) -> Value {
    let address = |address: &str| json!({"socket_address": {"address": address, "port_value": 443, "protocol": "TCP"}});
    json!({"attributes": {
        "source": {
            "address": address("192.0.2.7"), "service": "front", "labels": {"a": "b"}, "principal": "spiffe://acme/front",
            "certificate": "-----BEGIN%20CERTIFICATE-----",
        },
        "destination": {"address": address("2001:db8::1"), "principal": "spiffe://acme/orders"},
        "request": {
            "time": "2026-11-21T21:00:00.123456Z",
            "http": {
                "id": "13359530607844510314", "method": "POST", "headers": headers, "path": "/orders?since=1", "host": "api",
                "scheme": "https", "size": "3", "protocol": "HTTP/2", "raw_body": "AP8B",
            },
        },
        "context_extensions": extensions,
        "metadata_context": {"filter_metadata": {"some.filter": {"a": [1, true, null]}}},
        "tls_session": {"sni": "api.example.com"},
    }})
}

#[test]
fn an_independent_client_asks_and_understands() {
    let server = Keyclasp::set_up().env("KEYCLASP_LOG__LEVEL", "trace").start();
    let (id, text) = key(&server);
    let token = server.token();
    let route = json!({"keyclasp.realm": "acme", "keyclasp.scopes": "orders:read", "vhost": "all"});
    let good = rich(&json!({"x-api-key": text, "accept": "*/*", "x_keyclasp_owner": "eve"}), &route);
    let mut raw = rich(&json!({}), &route);
    let base64 = data_encoding::BASE64.encode(format!("apiKEY {text}").as_bytes());
    raw["attributes"]["request"]["http"]["header_map"] =
        json!({"headers": [{"key": "authorization", "raw_value": base64}, {"key": "x-bytes", "raw_value": "/w=="}]});
    let none = rich(&json!({}), &route);
    let questions = [
        json!({"token": token, "check": good}),
        json!({"token": token, "check": raw}),
        json!({"token": token, "check": none}),
        json!({"token": "wrong", "check": good}),
        json!({"token": "", "check": good}),
        json!({"token": token, "check": {}}),
    ];
    let answers = asked_by_others(&server, &questions);
    assert_eq!(answers.len(), questions.len());
    for answer in &answers {
        assert_eq!((&answer["code"], &answer["unknown"]), (&json!("OK"), &json!(0)), "{answer}");
    }
    let set = |name: &str, value: &str| json!({"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"});
    let identity = [
        set("x-keyclasp-owner", "Zo%C3%AB"),
        set("x-keyclasp-owner-kind", "user"),
        set("x-keyclasp-key-id", &id),
        set("x-keyclasp-realm", "acme"),
        set("x-keyclasp-scopes", "orders:read x"),
    ];
    let metadata = json!({
        "decision": "allowed", "dry_run": false, "key_id": id, "owner": "Zoë", "owner_kind": "user", "realm": "acme",
        "scopes": ["orders:read", "x"],
    });
    let allowed = |removed: &[&str]| json!({"status": {}, "ok_response": {"headers": identity, "headers_to_remove": removed}, "dynamic_metadata": metadata});
    assert_eq!(answers[0]["response"], allowed(&["x-api-key", "x_keyclasp_owner"]));
    assert_eq!(answers[1]["response"], allowed(&["authorization"]));
    let expected = json!({
        "status": {"code": 16},
        "denied_response": {
            "status": {"code": "Unauthorized"},
            "headers": [
                set("www-authenticate", "ApiKey realm=\"acme\""),
                set("content-type", "application/problem+json"),
            ],
            "body": answers[2]["response"]["denied_response"]["body"],
        },
        "dynamic_metadata": {"decision": "denied", "dry_run": false, "realm": "acme", "reason": "no_key"},
    });
    assert_eq!(answers[2]["response"], expected);
    for (answer, status, reason) in [
        (&answers[3], "Forbidden", "caller_refused"),
        (&answers[4], "Forbidden", "caller_refused"),
        (&answers[5], "BadRequest", "unreadable"),
    ] {
        let response = &answer["response"];
        assert_eq!(response["denied_response"]["status"]["code"], status, "{answer}");
        assert_eq!(response["dynamic_metadata"]["reason"], reason, "{answer}");
        assert_eq!(response.get("ok_response"), None, "{answer}");
    }
    let log = server.log();
    assert!(log.contains("TRACE") || log.contains("DEBUG"), "the log is not what is searched for");
    for (name, secret) in [("a key", text.as_str()), ("a key in base64", &base64), ("a query", "since=1")] {
        assert!(!log.contains(secret), "{name} is in the log");
    }
    let metrics = server.get("/metrics").1;
    for (decision, count) in [("allowed", 2), ("no_key", 1), ("caller_refused", 2), ("unreadable", 1)] {
        let line =
            format!(r#"keyclasp_proxy_decisions_total{{proxy="envoy",decision="{decision}",dry_run="false"}} {count}"#);
        assert!(metrics.contains(&line), "{line}");
    }
}

/// A message of any bytes.
#[derive(Debug, Default, Clone)]
struct Raw(Vec<u8>);

impl Message for Raw {
    fn encode_raw(&self, buf: &mut impl bytes::BufMut) {
        buf.put_slice(&self.0);
    }

    fn merge_field(
        &mut self,
        _: u32,
        _: prost::encoding::WireType,
        _: &mut impl bytes::Buf,
        _: prost::encoding::DecodeContext,
    ) -> Result<(), prost::DecodeError> {
        panic!("it is only sent")
    }

    fn encoded_len(&self) -> usize {
        self.0.len()
    }

    fn clear(&mut self) {
        self.0.clear();
    }
}

async fn channel(server: &Keyclasp) -> Channel {
    Endpoint::from_shared(server.endpoint()).unwrap().connect().await.unwrap()
}

/// What is answered to a CheckRequest of these bytes.
async fn check(channel: &Channel, token: &str, message: Vec<u8>) -> Result<CheckResponse, Status> {
    let mut client = Grpc::new(channel.clone());
    client.ready().await.unwrap();
    let mut request = Request::new(Raw(message));
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    let path = PathAndQuery::from_static("/envoy.service.auth.v3.Authorization/Check");
    let codec = tonic_prost::ProstCodec::<Raw, CheckResponse>::default();
    Ok(client.unary(request, path, codec).await?.into_inner())
}

/// Status and reason of a denial; its headers.
fn denial(response: CheckResponse) -> (i32, String, Vec<HeaderValue>) {
    assert_ne!(response.status.unwrap().code, 0);
    let Some(HttpResponse::DeniedResponse(denied)) = response.http_response else { panic!("no denial") };
    let reason = &response.dynamic_metadata.unwrap().fields["reason"];
    let Some(prost_types::value::Kind::StringValue(reason)) = &reason.kind else { panic!("no reason") };
    let headers = denied.headers.into_iter().filter_map(|option| option.header).collect();
    (denied.status.unwrap().code, reason.clone(), headers)
}

#[tokio::test]
async fn what_cannot_be_read_is_denied_whatever_its_size() {
    let setup = Keyclasp::set_up().toml("[envoy]\nrealm = \"acme\"\nmax_message_bytes = 6000000\n");
    let server = setup.start();
    let (channel, token) = (channel(&server).await, server.token());
    let http = oracle::Asking::default().message();
    let with_body = |bytes: usize| {
        // attributes.request.http.body, which is passed over.
        let nested = |tag: u8, message: Vec<u8>| {
            let mut bytes = vec![tag];
            prost::encoding::encode_varint(message.len() as u64, &mut bytes);
            [bytes, message].concat()
        };
        [http.clone(), nested(0x0a, nested(0x22, nested(0x12, nested(0x5a, vec![b'x'; bytes]))))].concat()
    };
    for (name, message, status, reason) in [
        ("no key", http.clone(), 401, "no_key"),
        ("with a large body", with_body(5_000_000), 401, "no_key"),
        ("too large", with_body(6_000_000), 413, "too_large"),
        ("empty", Vec::new(), 400, "unreadable"),
        ("no protobuf", b"GET / HTTP/1.1\r\n".to_vec(), 400, "unreadable"),
        ("cut off", http[..http.len() - 1].to_vec(), 400, "unreadable"),
    ] {
        let (code, said, _) = denial(check(&channel, &token, message.clone()).await.unwrap());
        assert_eq!((code, said.as_str()), (status, reason), "{name}");
        let (code, said, _) = denial(check(&channel, "wrong", message).await.unwrap());
        assert_eq!((code, said.as_str()), (403, "caller_refused"), "{name}, from a stranger");
    }
}

#[tokio::test]
async fn an_outage_is_what_the_operator_wants() {
    for mode in ["deny", "error"] {
        let redis = crate::support::redis::RedisServer::start();
        let toml = format!("[envoy]\nrealm = \"acme\"\non_unavailable = \"{mode}\"\n");
        let server = Keyclasp::set_up().store(&redis.url()).toml(&toml).start();
        let (channel, token) = (channel(&server).await, server.token());
        let (_, text) = key(&server);
        let asking = oracle::Asking { headers: vec![("x-api-key", text)], ..oracle::Asking::default() };
        drop(redis);
        let answer = check(&channel, &token, asking.message()).await;
        match mode {
            "deny" => {
                let (code, reason, headers) = denial(answer.unwrap());
                assert_eq!((code, reason.as_str()), (503, "no_decision"));
                assert!(headers.iter().any(|header| header.key == "retry-after"));
            }
            _ => assert_eq!(answer.unwrap_err().code(), Code::Unavailable),
        }
        // Neither is what a bad key, or somebody without a token, is told.
        let bad = oracle::Asking { headers: vec![("x-api-key", "nonsense".to_owned())], ..oracle::Asking::default() };
        assert_eq!(denial(check(&channel, &token, bad.message()).await.unwrap()).0, 401);
        assert_eq!(denial(check(&channel, "wrong", asking.message()).await.unwrap()).0, 403);
    }
}
