//! The references of what proxies ask: servers that decide nothing, on keyclasp's runtime and allocator.

use std::convert::Infallible;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use keyclasp::rpc::proto::envoy::config::core::v3::{HeaderValue, HeaderValueOption};
use keyclasp::rpc::proto::envoy::service::auth::v3::authorization_server::{Authorization, AuthorizationServer};
use keyclasp::rpc::proto::envoy::service::auth::v3::check_response::HttpResponse;
use keyclasp::rpc::proto::envoy::service::auth::v3::{CheckRequest, CheckResponse, OkHttpResponse};
use prost::encoding::{WireType, encode_key, encode_varint};
use tokio::net::TcpListener;
use tonic::{Request as Call, Response as Answer, Status};

use super::servers::REALM;
use super::wire::framed;

/// Allows everything, and sets three headers: what anybody would write first.
#[derive(Debug)]
pub(crate) struct Allow {
    response: CheckResponse,
}

/// It as a service.
pub(crate) fn allow() -> AuthorizationServer<Allow> {
    let header = |key: &str, value: &str| HeaderValueOption {
        header: Some(HeaderValue { key: key.to_owned(), value: value.to_owned(), raw_value: Vec::new() }),
        append_action: 2,
    };
    let headers = vec![
        header("x-owner", "0b9d3c0e-6f5a-4c1d-9a51-000000000001"),
        header("x-key-id", "3IjTXA1IaOizvIEbXFCQaw"),
        header("x-scopes", "clusters:write nodes:read"),
    ];
    let ok = OkHttpResponse { headers, ..OkHttpResponse::default() };
    let response = CheckResponse {
        status: Some(tonic_types::pb::Status::default()),
        http_response: Some(HttpResponse::OkResponse(ok)),
        dynamic_metadata: None,
    };
    AuthorizationServer::new(Allow { response })
}

#[tonic::async_trait]
impl Authorization for Allow {
    async fn check(&self, _: Call<CheckRequest>) -> Result<Answer<CheckResponse>, Status> {
        Ok(Answer::new(self.response.clone()))
    }
}

/// Answers 200 to everything over HTTP/1.1, for as long as the process lives.
pub(crate) async fn constant(listener: TcpListener) -> anyhow::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let answer = |_: Request<Incoming>| async { Ok::<_, Infallible>(Response::new(Full::new(Bytes::new()))) };
        let serving =
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer));
        tokio::spawn(async move {
            // A client that goes away is no failure.
            let _ = serving.await;
        });
    }
}

/// What Envoy asks about a request with this key, as gRPC frames it: with all that it sends, which is more than
/// keyclasp's description of the message has.
pub(crate) fn question(key: &str) -> Vec<u8> {
    let peer = |address: &str| message(1, &message(1, &text(2, address)));
    let entry = |tag, name: &str, value: &str| message(tag, &[text(1, name), text(2, value)].concat());
    let headers = [
        (":authority", "api.example.com"),
        (":method", "GET"),
        (":path", "/orders?since=1"),
        (":scheme", "http"),
        ("accept", "*/*"),
        ("user-agent", "curl/8.5.0"),
        ("x-api-key", key),
        ("x-forwarded-proto", "http"),
        ("x-request-id", "0b9d3c0e-6f5a-4c1d-9a51-000000000001"),
    ];
    let mut http = [text(1, "13359530607844510314"), text(2, "GET")].concat();
    http.extend(headers.iter().flat_map(|(name, value)| entry(3, name, value)));
    for (tag, value) in [(4, "/orders?since=1"), (5, "api.example.com"), (6, "http"), (10, "HTTP/1.1")] {
        http.extend(text(tag, value));
    }
    let attributes = [
        message(1, &peer("192.0.2.7")),
        message(2, &peer("10.0.0.1")),
        message(4, &message(2, &http)),
        entry(10, "keyclasp.realm", REALM),
        entry(10, "keyclasp.scopes", "clusters:read"),
        message(11, &[]),
    ];
    framed(&message(1, &attributes.concat()))
}

fn text(tag: u32, text: &str) -> Vec<u8> {
    message(tag, text.as_bytes())
}

fn message(tag: u32, message: &[u8]) -> Vec<u8> {
    let mut field = Vec::new();
    encode_key(tag, WireType::LengthDelimited, &mut field);
    encode_varint(u64::try_from(message.len()).unwrap_or_default(), &mut field);
    field.extend_from_slice(message);
    field
}
