//! What a real process says of itself over gRPC and on the ops port: NOT_SERVING until its store
//! answers, SERVING while it does, and NOT_SERVING from SIGTERM on.

use std::time::Duration;

use rustix::process::Signal;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::support::eventually;
use crate::support::redis::RedisServer;
use crate::support::server::Keyclasp;

/// Longest that an answer may take, on a machine that compiles something else.
const ANSWER: Duration = Duration::from_secs(30);
/// The whole process, and one of its services.
const NAMES: [&str; 2] = ["", "keyclasp.v1.KeyService"];

async fn health(server: &Keyclasp) -> HealthClient<Channel> {
    HealthClient::new(Endpoint::from_shared(server.endpoint()).unwrap().connect().await.unwrap())
}

fn about(name: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: name.to_owned() }
}

async fn checked(health: &mut HealthClient<Channel>) -> [ServingStatus; 2] {
    let [whole, service] = NAMES.map(about);
    [
        health.check(whole).await.unwrap().into_inner().status(),
        health.check(service).await.unwrap().into_inner().status(),
    ]
}

async fn next(watch: &mut Streaming<HealthCheckResponse>) -> ServingStatus {
    let message = tokio::time::timeout(ANSWER, watch.message()).await.expect("the stream says what changes");
    message.unwrap().expect("the stream goes on").status()
}

#[tokio::test]
async fn from_sigterm_on_it_does_not_serve_and_what_never_ends_does_not_hold_the_end() {
    let mut server = Keyclasp::set_up().env("KEYCLASP_SERVER__DRAIN", "3s").start();
    let mut client = health(&server).await;
    assert_eq!(checked(&mut client).await, [ServingStatus::Serving; 2]);
    let mut watches = Vec::new();
    for name in NAMES {
        let mut watch = client.watch(about(name)).await.unwrap().into_inner();
        assert_eq!(next(&mut watch).await, ServingStatus::Serving, "{name}");
        watches.push(watch);
    }

    // The streams hold the end for as long as the drain may take: what it says meanwhile can be seen.
    server.signal(Signal::TERM);
    let said = eventually(ANSWER, || Some(server.get("/readyz")).filter(|(status, _)| *status != 200)).unwrap();
    assert_eq!(said.0, 503, "{said:?}\n{}", server.log());
    assert!(said.1.contains("stopping"), "{said:?}");
    assert_eq!(server.get("/livez").0, 200, "it is not to be restarted while it drains");
    for watch in &mut watches {
        assert_eq!(next(watch).await, ServingStatus::NotServing);
    }

    // Signalled again, it does not change its mind.
    assert!(server.terminate().success(), "{}", server.log());
    assert!(server.log().contains("\"dropped\":1") || server.log().contains("dropped=1"), "{}", server.log());
    for watch in &mut watches {
        assert!(!matches!(watch.message().await, Ok(Some(_))), "the stream is over");
    }
}

#[tokio::test]
async fn until_its_store_answers_it_does_not_serve() {
    let mut redis = RedisServer::start();
    redis.kill();
    let mut server = Keyclasp::set_up().store(&redis.url()).start_unready();
    let mut client = health(&server).await;
    assert_eq!(checked(&mut client).await, [ServingStatus::NotServing; 2]);
    assert_eq!(server.get("/readyz").0, 503);
    let mut watch = client.watch(about("")).await.unwrap().into_inner();
    assert_eq!(next(&mut watch).await, ServingStatus::NotServing);

    redis.start_again();
    server.wait_ready();
    assert_eq!(next(&mut watch).await, ServingStatus::Serving);
    assert_eq!(checked(&mut client).await, [ServingStatus::Serving; 2]);
}
