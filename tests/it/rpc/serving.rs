//! Workers: connections are dealt to all of them, their end is bounded, their failure is heard of.

use std::collections::BTreeSet;
use std::time::Duration;

use keyclasp::rpc::limits::ServerLimits;
use keyclasp::rpc::serve::{DrainReport, ServeError, bind};
use tokio::sync::oneshot;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::stub::{ECHO, Stub, WAIT, config, known, rpc, serve, start, started, validate};
use crate::support::until;

#[tokio::test]
async fn connections_are_dealt_to_every_worker() {
    let server = started();
    let mut workers = BTreeSet::new();
    for _ in 0..4 {
        let answer = server.client().await.validate_key(known(validate(ECHO))).await.unwrap().into_inner();
        workers.insert(answer.message);
    }
    assert_eq!(workers.len(), 2, "{workers:?}");
}

#[tokio::test]
async fn a_call_in_flight_is_answered_before_the_end() {
    let server = started();
    let mut client = server.client().await;
    let call = tokio::spawn(async move { client.validate_key(known(validate(WAIT))).await });
    // An idle connection does not hold the end.
    let _idle = server.client().await;
    server.stub.until_entered(1).await;
    server.stop.send(()).unwrap();
    // Nobody new is taken from then on.
    until("nobody listens", async || tokio::net::TcpStream::connect(server.address).await.is_err()).await;
    assert!(!server.ended.is_finished(), "it waits for the call");
    server.stub.release.add_permits(1);
    call.await.unwrap().unwrap();
    assert_eq!(server.ended.await.unwrap().unwrap(), DrainReport { dropped: 0 });
}

#[tokio::test]
async fn a_stream_that_never_ends_does_not_hold_the_end() {
    let server = start(ServerLimits::default(), Duration::from_millis(200));
    let mut client = HealthClient::new(server.channel().await);
    let mut watch = client.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    watch.message().await.unwrap().unwrap();
    server.stop.send(()).unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(30), server.ended).await.expect("the drain is bounded");
    assert_eq!(ended.unwrap().unwrap(), DrainReport { dropped: 1 });
    assert!(!matches!(watch.message().await, Ok(Some(_))), "the stream is over");
}

#[tokio::test]
async fn a_worker_that_does_not_start_is_heard_of() {
    async fn outcome(fails: fn() -> Result<(), String>) -> ServeError {
        let rpc = rpc(ServerLimits::default());
        let shared = rpc.clone();
        let factory = move |worker| {
            let gateway = shared.gateway().keys(Stub::new()).build();
            std::future::ready(if worker == 1 { fails().map(|()| gateway) } else { Ok(gateway) })
        };
        let listener = bind(([127, 0, 0, 1], 0).into(), "server.listen").unwrap();
        let (_stop, stopped) = oneshot::channel();
        serve(config(Duration::from_secs(30)), rpc, factory, listener, stopped).await.unwrap_err()
    }
    let error = outcome(|| Err("the store refused".to_owned())).await;
    assert_eq!(error.to_string(), "worker 1 did not start: the store refused");
    let error = outcome(|| std::panic::resume_unwind(Box::new("as asked"))).await;
    assert!(matches!(error, ServeError::WorkerDied { worker: 1 }), "{error}");
}
