//! Bounds: calls in flight, streams, headers, deadlines, connections that say nothing.

use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use keyclasp::rpc::gateway::RequestBody;
use keyclasp::rpc::limits::ServerLimits;
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::body::Body;
use tonic::codegen::Bytes;
use tonic::codegen::Service as _;
use tonic::codegen::http::{self, Version};
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_types::StatusExt as _;

use super::stub::{ECHO, NEVER, Running, Stub, TOKEN, WAIT, known, rpc, start, started, validate};
use crate::support::until;

const DRAIN: Duration = Duration::from_secs(30);
const VALIDATE: &str = "keyclasp.v1.KeyService/ValidateKey";
const OWN: &str = "keyclasp.v1.KeyService/RevokeOwnKey";

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

/// A JSON call whose body is announced and never sent.
async fn withheld(address: std::net::SocketAddr, method: &str, headers: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST /{method} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n\
         {headers}content-length: 100\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

/// Polls until so many calls are in flight.
async fn until_in_flight(server: &Running, calls: usize) {
    until(&format!("{calls} calls in flight"), async || server.rpc.metrics().in_flight() == calls).await;
}

#[tokio::test]
async fn strangers_take_no_place_from_those_who_are_known() {
    for (in_flight, strangers) in [(1, 1), (2, 1), (8, 2)] {
        let limits = ServerLimits { in_flight, message_time: Duration::from_secs(3600), ..ServerLimits::default() };
        let server = start(limits, DRAIN);
        let mut idle = Vec::new();
        for _ in 0..strangers {
            idle.push(withheld(server.address, OWN, "connect-timeout-ms: 3600000\r\n").await);
        }
        until_in_flight(&server, strangers).await;
        // One more finds no room, and says so.
        let shed = read(&mut withheld(server.address, OWN, "").await).await;
        assert!(shed.starts_with("HTTP/1.1 429") && shed.contains("OVERLOADED"), "{in_flight}: {shed}");
        // All of the others are for those who are known.
        let client = server.client().await;
        let waiting: Vec<_> = (0..in_flight)
            .map(|_| {
                let mut client = client.clone();
                tokio::spawn(async move { client.validate_key(known(validate(WAIT))).await })
            })
            .collect();
        server.stub.until_entered(u32::try_from(in_flight).unwrap()).await;
        server.stub.release.add_permits(in_flight);
        for call in waiting {
            call.await.unwrap().unwrap();
        }
        drop(idle);
        until_in_flight(&server, 0).await;
    }
}

#[tokio::test]
async fn a_message_that_does_not_come_gives_its_place_back() {
    let message_time = Duration::from_millis(200);
    let server = start(ServerLimits { message_time, ..ServerLimits::default() }, DRAIN);
    let authorized = format!("authorization: Bearer {TOKEN}\r\nconnect-timeout-ms: 3600000\r\n");
    for (method, headers) in [(OWN, "connect-timeout-ms: 3600000\r\n"), (VALIDATE, authorized.as_str())] {
        let answer = read(&mut withheld(server.address, method, headers).await).await;
        assert!(answer.starts_with("HTTP/1.1 504") && answer.contains("did not arrive within 200ms"), "{answer}");
    }
    // gRPC: half a message, then silence.
    let body = Body::new(Begun(Some(Bytes::from_static(&[0, 0, 0, 0, 9]))));
    let request = http::Request::post(format!("http://{}/{VALIDATE}", server.address))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-timeout", "1H")
        .header("authorization", format!("Bearer {TOKEN}"));
    let mut channel = server.channel().await;
    std::future::poll_fn(|context| channel.poll_ready(context)).await.unwrap();
    let response = channel.call(request.body(body).unwrap()).await.unwrap();
    let status = Status::from_header_map(response.headers()).unwrap();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    assert!(status.message().contains("did not arrive"), "{status:?}");
    assert_eq!(status.get_error_details().error_info().unwrap().reason, "DEADLINE_EXCEEDED");
    until_in_flight(&server, 0).await;
    // The time is for the message, not for the work.
    let mut request = known(validate(NEVER));
    request.set_timeout(4 * message_time);
    let late = server.client().await.validate_key(request).await.unwrap_err();
    assert!(late.message().starts_with("the time for this call was up"), "{late:?}");
}

#[tokio::test]
async fn only_so_many_streams_are_open_and_each_gives_its_place_back() {
    let server = start(ServerLimits { open_streams: 3, ..ServerLimits::default() }, DRAIN);
    let channel = server.channel().await;
    let watch = async || HealthClient::new(channel.clone()).watch(HealthCheckRequest::default()).await;
    let (first, _second) = (watch().await.unwrap(), watch().await.unwrap());
    let silent = futures_util::stream::pending::<ServerReflectionRequest>();
    let _third = ServerReflectionClient::new(channel.clone()).server_reflection_info(silent).await.unwrap();
    assert_eq!((server.rpc.metrics().streams(), server.rpc.metrics().in_flight()), (3, 0));
    assert!(server.metrics().contains("keyclasp_rpc_streams 3"), "{}", server.metrics());

    let shed = watch().await.unwrap_err();
    assert_eq!(
        (shed.code(), shed.message()),
        (Code::ResourceExhausted, "as many streams as allowed are open; nothing was done")
    );
    let silent = futures_util::stream::pending::<ServerReflectionRequest>();
    let shed = ServerReflectionClient::new(channel.clone()).server_reflection_info(silent).await.unwrap_err();
    assert_eq!(shed.get_error_details().error_info().unwrap().reason, "OVERLOADED");
    // Others go on.
    HealthClient::new(channel.clone()).check(HealthCheckRequest::default()).await.unwrap();
    server.client().await.validate_key(known(validate(ECHO))).await.unwrap();

    drop(first);
    let mut again = None;
    until("a stream that was dropped gives its place back", async || {
        again = watch().await.ok();
        again.is_some()
    })
    .await;
    assert_eq!(server.rpc.metrics().streams(), 3);
}

/// A body that begins and does not go on.
struct Begun(Option<Bytes>);

impl http_body::Body for Begun {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
        self.0.take().map_or(Poll::Pending, |begun| Poll::Ready(Some(Ok(http_body::Frame::data(begun)))))
    }
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
    // Over HTTP/2 more is taken, for what an Envoy that traces sends.
    let with = |key: &str, length: usize| {
        let mut request = known(validate(key));
        request.metadata_mut().insert("x-long", "x".repeat(length).parse().unwrap());
        request
    };
    let refused = server.client().await.validate_key(with(WAIT, 300_000)).await;
    assert!(refused.is_err(), "{refused:?}");
    assert_eq!(server.stub.entered.available_permits(), 0, "it reached the service");
    server.client().await.validate_key(with("a", 100_000)).await.unwrap();
    assert_eq!(server.json_with(VALIDATE, &format!("x-long: {}\r\n", "x".repeat(10_000)), "{}").await.status, 200);
}

/// One request to a gateway without a socket.
async fn in_process(api_key: &str, headers: &[(&'static str, &str)]) -> http::Response<Body> {
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
    let status = |response: http::Response<Body>| Status::from_header_map(response.headers());
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
    let ended = async || server.rpc.metrics().in_flight() == 0 && server.metrics().contains(counted);
    until("a call that was cancelled is counted as such", ended).await;
}

/// What the server answers until it closes this connection.
async fn read(stream: &mut TcpStream) -> String {
    String::from_utf8(closed(stream).await).unwrap()
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
    until("no connection is counted any more", async || server.rpc.metrics().connections() == 0).await;
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
