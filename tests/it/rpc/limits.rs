//! Bounds: calls in flight, streams, headers, deadlines, connections that say nothing.

use std::sync::atomic::Ordering;
use std::time::Duration;

use keyclasp::rpc::gateway::RequestBody;
use keyclasp::rpc::limits::ServerLimits;
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::codegen::Bytes;
use tonic::codegen::http::{self, Version};
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt as _;

use super::stub::{ECHO, NEVER, Stub, TOKEN, WAIT, known, rpc, start, started, validate};

const DRAIN: Duration = Duration::from_secs(30);
const VALIDATE: &str = "keyclasp.v1.KeyService/ValidateKey";

#[tokio::test]
async fn calls_beyond_the_limit_are_shed_at_once_and_health_is_not() {
    let server = start(ServerLimits { in_flight: 2, ..ServerLimits::default() }, DRAIN);
    let client = server.client().await;
    let waiting: Vec<_> = (0..2)
        .map(|_| {
            let mut client = client.clone();
            tokio::spawn(async move { client.validate_key(known(validate(WAIT))).await })
        })
        .collect();
    server.stub.until_entered(2).await;

    let shed = client.clone().validate_key(known(validate(ECHO))).await.unwrap_err();
    let details = shed.get_error_details();
    assert_eq!(shed.code(), Code::ResourceExhausted);
    assert_eq!(details.error_info().unwrap().reason, "OVERLOADED");
    assert!(details.retry_info().unwrap().retry_delay.unwrap() > Duration::ZERO);
    let shed = server.json(VALIDATE, "{}").await;
    assert!(shed.status == 429 && shed.head.contains("retry-after: 1"), "{shed:?}");
    assert_eq!(shed.json()["details"][1]["debug"]["retryDelay"], "0.100s", "{shed:?}");
    HealthClient::new(server.channel().await).check(HealthCheckRequest::default()).await.unwrap();
    assert_eq!(server.rpc.metrics().in_flight(), 2);

    server.stub.release.add_permits(2);
    for call in waiting {
        call.await.unwrap().unwrap();
    }
    client.clone().validate_key(known(validate(ECHO))).await.unwrap();
    assert!(server.metrics().contains("keyclasp_rpc_shed_total 2"), "{}", server.metrics());
}

#[tokio::test]
async fn a_connection_has_only_so_many_calls_at_a_time() {
    let server = start(ServerLimits { streams_per_connection: 2, ..ServerLimits::default() }, DRAIN);
    let mut client = server.client().await;
    // The first answer comes after the server's settings: from then on the client knows the limit.
    client.validate_key(known(validate(ECHO))).await.unwrap();
    let calls: Vec<_> = (0..6)
        .map(|_| {
            let mut client = client.clone();
            tokio::spawn(async move { client.validate_key(known(validate(WAIT))).await })
        })
        .collect();
    for _ in 0..6 {
        server.stub.until_entered(1).await;
        server.stub.release.add_permits(1);
    }
    for call in calls {
        call.await.unwrap().unwrap();
    }
    let most = server.stub.most.load(Ordering::SeqCst);
    assert!(most <= 2, "{most} calls at a time");
}

#[tokio::test]
async fn headers_that_are_too_large_reach_no_service() {
    let server = started();
    let long = "x".repeat(20_000);
    let answer = server.json_with(VALIDATE, &format!("x-long: {long}\r\n"), "{}").await;
    assert_eq!(answer.status, 431, "{answer:?}");
    let mut request = known(validate(WAIT));
    request.metadata_mut().insert("x-long", long.parse().unwrap());
    let refused = server.client().await.validate_key(request).await;
    assert!(refused.is_err(), "{refused:?}");
    assert_eq!(server.stub.entered.available_permits(), 0, "it reached the service");
    assert_eq!(server.json_with(VALIDATE, &format!("x-long: {}\r\n", "x".repeat(10_000)), "{}").await.status, 200);
}

/// One request to a gateway without a socket.
async fn in_process(api_key: &str, headers: &[(&'static str, &str)]) -> http::Response<tonic::body::Body> {
    let gateway = rpc(ServerLimits::default()).gateway().keys(Stub::new()).build();
    let message = validate(api_key).encode_to_vec();
    let mut framed = vec![0];
    framed.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    framed.extend(message);
    let mut request = http::Request::post(format!("/{VALIDATE}"))
        .version(Version::HTTP_2)
        .header("content-type", "application/grpc")
        .header("authorization", format!("Bearer {TOKEN}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(RequestBody::Whole(Some(Bytes::from(framed)))).unwrap();
    let Ok(response) = gateway.connection("192.0.2.1").handle(request).await;
    response
}

#[tokio::test]
async fn a_deadline_ends_the_work_with_our_own_error() {
    let response = in_process(NEVER, &[("grpc-timeout", "50m")]).await;
    let status = Status::from_header_map(response.headers()).unwrap();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert_eq!(status.get_error_details().error_info().unwrap().reason, "DEADLINE_EXCEEDED");
    assert!(status.message().contains("a change only with a request_id"), "{status:?}");

    let server = started();
    let body = format!(r#"{{"apiKey":"{NEVER}"}}"#);
    let answer = server.json_with(VALIDATE, "connect-timeout-ms: 50\r\n", &body).await;
    assert_eq!((answer.status, answer.json()["code"].as_str()), (504, Some("deadline_exceeded")), "{answer:?}");
    // A body that never comes is bounded by the same.
    let request = format!(
        "POST /{VALIDATE} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {TOKEN}\r\n\
         content-type: application/json\r\nconnect-timeout-ms: 50\r\ncontent-length: 9\r\n\r\n{{"
    );
    let answer = server.http(&request).await;
    assert_eq!(answer.status, 504, "{answer:?}");
    assert_eq!(server.rpc.metrics().in_flight(), 0);
}

#[tokio::test]
async fn a_deadline_that_is_none_is_refused() {
    let status = |response: http::Response<tonic::body::Body>| Status::from_header_map(response.headers());
    let refused = status(in_process(ECHO, &[("grpc-timeout", "soon")]).await).unwrap();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("grpc-timeout"), "{refused:?}");
    assert!(status(in_process(ECHO, &[("grpc-timeout", "5S")]).await).is_none(), "an answer");
    let refused = started().json_with(VALIDATE, "connect-timeout-ms: 1s\r\n", "{}").await;
    assert!(refused.status == 400 && refused.body.contains("connect-timeout-ms"), "{refused:?}");
}

#[tokio::test]
async fn a_caller_that_goes_away_frees_its_place() {
    let server = started();
    let mut client = server.client().await;
    let call = tokio::spawn(async move { client.validate_key(known(validate(WAIT))).await });
    server.stub.until_entered(1).await;
    call.abort();
    let counted = r#"keyclasp_rpc_calls_total{method="keyclasp.v1.KeyService/ValidateKey",code="CANCELLED"} 1"#;
    let mut polls = 0;
    while server.rpc.metrics().in_flight() > 0 || !server.metrics().contains(counted) {
        polls += 1;
        assert!(polls < 3000, "{}", server.metrics());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Until the server closes this connection.
async fn closed(stream: &mut TcpStream) -> Vec<u8> {
    let mut said = Vec::new();
    let reading = stream.read_to_end(&mut said);
    let _ = tokio::time::timeout(Duration::from_secs(30), reading).await.expect("the server closes it");
    said
}

#[tokio::test]
async fn a_connection_that_does_not_say_what_it_wants_is_closed() {
    let server = start(ServerLimits { header_timeout: Duration::from_millis(200), ..ServerLimits::default() }, DRAIN);
    for start in ["", "P", "PRI * HTTP/2.0\r\n\r\nSM", "POST /x HTTP/1.1\r\nhost: a-host-with-a-long-name\r\n"] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(start.as_bytes()).await.unwrap();
        closed(&mut stream).await;
    }
    let mut polls = 0;
    while server.rpc.metrics().connections() > 0 {
        polls += 1;
        assert!(polls < 3000, "connections are still counted");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed_at_once() {
    let server = start(ServerLimits { connections: 1, ..ServerLimits::default() }, DRAIN);
    let mut client = server.client().await;
    client.validate_key(known(validate(ECHO))).await.unwrap();
    let mut second = TcpStream::connect(server.address).await.unwrap();
    assert!(closed(&mut second).await.is_empty());
    client.validate_key(known(validate(ECHO))).await.expect("the first one goes on");
    let metrics = server.metrics();
    assert!(metrics.contains("keyclasp_rpc_connections_refused_total 1"), "{metrics}");
    assert!(metrics.contains("keyclasp_rpc_connections 1"), "{metrics}");
}
