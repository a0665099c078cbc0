//! Callers that speak gRPC, by a stock client: they get a grpc-status and a short text, never a body of JSON.

use std::net::SocketAddr;

use serde_json::{Value, json};
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use super::{Rig, Seen};

async fn client(envoy: SocketAddr) -> HealthClient<Channel> {
    HealthClient::new(Channel::from_shared(format!("http://{envoy}")).unwrap().connect().await.unwrap())
}

/// An empty message, which the upstream mirrors.
fn request(headers: &[(&'static str, &str)]) -> Request<HealthCheckRequest> {
    let mut request = Request::new(HealthCheckRequest::default());
    for (name, value) in headers {
        request.metadata_mut().insert(*name, value.parse().unwrap());
    }
    request
}

async fn call(rig: &Rig, headers: &[(&'static str, &str)]) -> Result<Response<HealthCheckResponse>, Status> {
    client(rig.envoy().listen()).await.check(request(headers)).await
}

#[track_caller]
fn assert_refused(status: &Status, code: Code) {
    assert_eq!(status.code(), code, "{status:?}");
    let text = status.message();
    assert!(!text.is_empty() && text.len() < 200 && !text.contains('{'), "{text}");
}

#[tokio::test]
async fn a_call_with_a_key_passes_with_its_message_and_the_owners_identity() {
    let rig = Rig::shared();
    let key = rig.key(&["orders:read"]);
    let api_key = format!("ApiKey {}", key.text);
    let answer = call(&rig, &[("authorization", &api_key)]).await.unwrap();
    let seen: Value = serde_json::from_str(answer.metadata().get("x-asked").unwrap().to_str().unwrap()).unwrap();
    let seen = Seen(seen);
    assert_eq!(seen.0["version"], "HTTP/2.0");
    assert_eq!(seen.header("x-keyclasp-key-id"), Some(key.id.as_str()));
    assert_eq!((seen.header("authorization"), seen.header("content-type")), (None, Some("application/grpc")));
}

#[tokio::test]
async fn a_call_without_a_good_key_is_unauthenticated() {
    let rig = Rig::shared();
    assert_refused(&call(&rig, &[]).await.unwrap_err(), Code::Unauthenticated);
    assert_refused(&call(&rig, &[("api-key", "nonsense")]).await.unwrap_err(), Code::Unauthenticated);
    let key = rig.key(&[]);
    rig.call("KeyService/RevokeKey", &json!({"id": key.id}));
    let status = call(&rig, &[("api-key", &key.text)]).await.unwrap_err();
    assert_refused(&status, Code::Unauthenticated);
    assert!(status.message().contains("revoked"), "{status:?}");
}

#[tokio::test]
async fn a_call_that_may_not_is_denied_and_told_which_scope_it_lacks() {
    let rig = Rig::shared();
    let key = rig.key(&["orders:read"]);
    let mut client = client(rig.envoy().listen()).await;
    let status = client.watch(request(&[("api-key", &key.text)])).await.unwrap_err();
    assert_refused(&status, Code::PermissionDenied);
    assert!(status.message().contains("orders:delete"), "{status:?}");
}

#[tokio::test]
async fn a_call_with_two_keys_is_unauthenticated() {
    let rig = Rig::shared();
    let (a, b) = (rig.key(&[]), rig.key(&[]));
    let status = call(&rig, &[("api-key", &a.text), ("x-api-key", &b.text)]).await.unwrap_err();
    assert_refused(&status, Code::Unauthenticated);
}

/// The code of a call while nobody can decide.
pub(super) async fn code_of_a_call(envoy: SocketAddr, key: &str) -> (Code, String) {
    let status = client(envoy).await.check(request(&[("api-key", key)])).await.unwrap_err();
    (status.code(), status.message().to_owned())
}
