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
use tokio::net::TcpListener;
use tonic::{Request as Call, Response as Answer, Status};

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
