//! Calls over gRPC: who may call, what errors look like, what is not a call.

use keyclasp::rpc::proto::v1;
use prost::Message;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Code, Request, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_prost::ProstCodec;
use tonic_reflection::pb::{v1 as reflection, v1alpha};
use tonic_types::StatusExt as _;

use super::stub::{ECHO, PANIC, Running, known, started, validate};
use keyclasp::rpc::limits::ServerLimits;

fn reason(status: &Status) -> String {
    status.get_error_details().error_info().map(|info| info.reason.clone()).unwrap_or_default()
}

/// Calls any path with any message.
async fn raw<T: Message + 'static>(server: &Running, path: &'static str, request: Request<T>) -> Result<(), Status> {
    let mut client = tonic::client::Grpc::new(server.channel().await);
    client.ready().await.unwrap();
    let codec = ProstCodec::<T, ()>::default();
    client.unary(request, PathAndQuery::from_static(path), codec).await.map(|_| ())
}

#[tokio::test]
async fn a_known_caller_reaches_the_service_as_its_principal() {
    let server = started();
    let answer = server.client().await.validate_key(known(validate(ECHO))).await.unwrap().into_inner();
    assert_eq!(answer.outcome(), v1::Outcome::Valid);
    assert!(answer.message.starts_with("mesh from 127.0.0.1 at worker "), "{}", answer.message);
}

#[tokio::test]
async fn others_are_refused_before_they_reach_the_service_unless_the_method_is_open() {
    let server = started();
    let mut client = server.client().await;
    let refused = client.validate_key(validate(PANIC)).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::Unauthenticated, "UNAUTHENTICATED"));
    let mut twice = known(validate(PANIC));
    twice.metadata_mut().append("authorization", "Bearer other".parse().unwrap());
    assert_eq!(client.validate_key(twice).await.unwrap_err().code(), Code::Unauthenticated);
    // What a caller may not do is not told from what there is not.
    client.revoke_own_key(v1::RevokeOwnKeyRequest::default()).await.unwrap();
}

#[tokio::test]
async fn errors_carry_their_details() {
    let server = started();
    let error = server.client().await.get_key(known(v1::GetKeyRequest::default())).await.unwrap_err();
    assert_eq!((error.code(), reason(&error).as_str()), (Code::NotFound, "KEY_NOT_FOUND"));
}

#[tokio::test]
async fn a_path_that_is_no_method_is_unimplemented() {
    let server = started();
    for path in ["/keyclasp.v1.KeyService/Nothing", "/some.Thing/Else", "/keyclasp.v1.AdminService/GetStatus"] {
        let error = raw(&server, path, known(())).await.unwrap_err();
        assert_eq!((error.code(), reason(&error).as_str()), (Code::Unimplemented, "METHOD_UNKNOWN"), "{path}");
    }
    assert!(server.metrics().contains(r#"keyclasp_rpc_calls_total{method="unknown",code="UNIMPLEMENTED"} 3"#));
}

#[tokio::test]
async fn what_cannot_be_decoded_is_the_callers_fault_and_is_not_repeated() {
    let server = started();
    // Field 1 is api_key: a string that is no UTF-8.
    let garbage = known(b"kc_SECRET\xff".to_vec());
    let error = raw(&server, "/keyclasp.v1.KeyService/ValidateKey", garbage).await.unwrap_err();
    assert_eq!((error.code(), reason(&error).as_str()), (Code::InvalidArgument, "REQUEST_MALFORMED"), "{error:?}");
    assert!(error.message().contains("keyclasp.v1.ValidateKeyRequest"), "{error:?}");
    assert!(!error.message().contains("SECRET"), "{error:?}");
}

#[tokio::test]
async fn a_unary_method_takes_one_message_no_more_and_no_less() {
    let server = started();
    let path = PathAndQuery::from_static("/keyclasp.v1.KeyService/ValidateKey");
    for (count, complaint) in [(0, "no message was sent"), (1, ""), (2, "more than one message")] {
        let mut client = tonic::client::Grpc::new(server.channel().await);
        client.ready().await.unwrap();
        let messages = futures_util::stream::iter(vec![validate(ECHO); count]);
        let codec = ProstCodec::<v1::ValidateKeyRequest, v1::ValidateKeyResponse>::default();
        let answer = client.client_streaming(known(messages), path.clone(), codec).await;
        match answer {
            Ok(answer) => assert_eq!((count, answer.get_ref().outcome()), (1, v1::Outcome::Valid)),
            Err(error) => {
                assert_eq!((error.code(), reason(&error).as_str()), (Code::InvalidArgument, "REQUEST_MALFORMED"));
                assert!(count != 1 && error.message().contains(complaint), "{count}: {error:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_message_that_is_too_large_is_refused_in_both_forms() {
    let server = started();
    let limit = ServerLimits::default().message_bytes;
    let error = server.client().await.validate_key(known(validate(&"x".repeat(limit)))).await.unwrap_err();
    assert_eq!((error.code(), reason(&error).as_str()), (Code::InvalidArgument, "REQUEST_MALFORMED"), "{error:?}");
    assert!(error.message().contains("262144 bytes"), "{error:?}");
    let body = format!(r#"{{"apiKey":"{}"}}"#, "x".repeat(limit));
    let answer = server.json("keyclasp.v1.KeyService/ValidateKey", &body).await;
    assert!(answer.status == 400 && answer.body.contains("262144 bytes"), "{answer:?}");
    // Just below the limit: the message, with its four bytes around the text, fits.
    server.client().await.validate_key(known(validate(&"x".repeat(limit - 4)))).await.unwrap();
}

#[tokio::test]
async fn a_panic_is_answered_counted_and_survived() {
    let server = started();
    let mut client = server.client().await;
    let error = client.validate_key(known(validate(PANIC))).await.unwrap_err();
    assert_eq!((error.code(), reason(&error).as_str()), (Code::Internal, "INTERNAL"));
    client.validate_key(known(validate(ECHO))).await.unwrap();
    let metrics = server.metrics();
    for line in [
        r#"keyclasp_rpc_calls_total{method="keyclasp.v1.KeyService/ValidateKey",code="INTERNAL"} 1"#,
        r#"keyclasp_rpc_calls_total{method="keyclasp.v1.KeyService/ValidateKey",code="OK"} 1"#,
        r#"keyclasp_rpc_latency_seconds_count{method="keyclasp.v1.KeyService/ValidateKey"} 2"#,
        "keyclasp_rpc_in_flight 0",
    ] {
        assert!(metrics.contains(line), "{line} in\n{metrics}");
    }
}

#[tokio::test]
async fn health_says_what_it_is_told() {
    let server = started();
    let mut client = HealthClient::new(server.channel().await);
    for serving in [false, true, false] {
        server.rpc.health().set_serving(serving).await;
        for service in ["", "keyclasp.v1.KeyService", "keyclasp.v1.AuditService", "keyclasp.v1.AdminService"] {
            let request = tonic_health::pb::HealthCheckRequest { service: service.to_owned() };
            let status = client.check(request).await.unwrap().into_inner().status();
            assert_eq!(status == ServingStatus::Serving, serving, "{service}");
        }
    }
}

#[tokio::test]
async fn reflection_tells_the_services_in_both_versions() {
    let server = started();
    let asked = reflection::ServerReflectionRequest {
        message_request: Some(reflection::server_reflection_request::MessageRequest::ListServices(String::new())),
        ..Default::default()
    };
    let mut client = reflection::server_reflection_client::ServerReflectionClient::new(server.channel().await);
    let mut answers = client.server_reflection_info(tokio_stream(asked)).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response;
    let Some(reflection::server_reflection_response::MessageResponse::ListServicesResponse(list)) = answer else {
        panic!("{answer:?}")
    };
    let names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
    for name in ["keyclasp.v1.KeyService", "keyclasp.v1.AdminService", "grpc.health.v1.Health"] {
        assert!(names.iter().any(|known| known == name), "{names:?}");
    }

    let asked = v1alpha::ServerReflectionRequest {
        message_request: Some(v1alpha::server_reflection_request::MessageRequest::FileContainingSymbol(
            "keyclasp.v1.ValidateKeyRequest".to_owned(),
        )),
        ..Default::default()
    };
    let mut client = v1alpha::server_reflection_client::ServerReflectionClient::new(server.channel().await);
    let mut answers = client.server_reflection_info(tokio_stream(asked)).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response;
    assert!(
        matches!(answer, Some(v1alpha::server_reflection_response::MessageResponse::FileDescriptorResponse(_))),
        "{answer:?}"
    );
}

/// A stream of one message.
fn tokio_stream<T: Send + 'static>(message: T) -> impl futures_util::Stream<Item = T> + Send + 'static {
    futures_util::stream::iter([message])
}
