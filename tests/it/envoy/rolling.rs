//! Replicas that stop and come back under load, with the configuration that docs/ENVOY.md gives: no request fails.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpStream;

use super::{TOKEN, callers, make};
use crate::support::echo::Echo;
use crate::support::envoy::{Config, Envoy};
use crate::support::eventually;
use crate::support::redis::RedisServer;
use crate::support::server::{Keyclasp, Setup};

const PATIENCE: Duration = Duration::from_secs(60);
/// Clients, each with one connection and one request after the other.
const CLIENTS: usize = 4;
/// Requests between two steps.
const BETWEEN: u64 = 200;

/// Requests that go on until they are told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    clients: Vec<tokio::task::JoinHandle<Vec<String>>>,
}

impl Load {
    fn start(envoy: &Envoy, key: &str) -> Self {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let clients = (0..CLIENTS).map(|_| {
            let (address, key) = (envoy.listen(), key.to_owned());
            let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
            tokio::spawn(async move {
                let stream = TcpStream::connect(address).await.unwrap();
                let (mut sender, connection) =
                    hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
                tokio::spawn(connection);
                let mut failed = Vec::new();
                while !stop.load(Ordering::SeqCst) {
                    let request = Request::get("/").header("host", "keyclasp.test").header("api-key", &key);
                    let answer = sender.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await.unwrap();
                    let status = answer.status();
                    let body = answer.into_body().collect().await.unwrap().to_bytes();
                    if status != 200 {
                        failed.push(format!("{status} {}", String::from_utf8_lossy(&body)));
                    }
                    done.fetch_add(1, Ordering::SeqCst);
                }
                failed
            })
        });
        let clients = clients.collect();
        Self { stop, done, clients }
    }

    /// Waits until so many more requests have been answered.
    fn go_on(&self) {
        let target = self.done.load(Ordering::SeqCst) + BETWEEN;
        let reached = eventually(PATIENCE, || (self.done.load(Ordering::SeqCst) >= target).then_some(()));
        assert!(reached.is_some(), "requests are not answered any more");
    }

    /// Stops it, and answers what failed.
    async fn stop(self) -> (u64, Vec<String>) {
        self.stop.store(true, Ordering::SeqCst);
        let mut failed = Vec::new();
        for client in self.clients {
            failed.extend(client.await.unwrap());
        }
        (self.done.load(Ordering::SeqCst), failed)
    }
}

fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

/// Waits until Envoy finds every replica healthy.
fn wait_healthy(envoy: &Envoy) {
    let healthy = eventually(PATIENCE, || {
        let clusters = envoy.admin("/clusters");
        let flags = clusters.lines().filter(|line| line.starts_with("keyclasp::") && line.contains("::health_flags::"));
        let flags: Vec<_> = flags.collect();
        (flags.len() == 2 && flags.iter().all(|line| line.ends_with("::healthy"))).then_some(())
    });
    assert!(healthy.is_some(), "{}", envoy.admin("/clusters"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_that_stop_or_die_one_after_the_other_cost_no_request() {
    let redis = RedisServer::start();
    let echo = Echo::start();
    let addresses = [free_address(), free_address()];
    // A replica that cannot decide yet says so, and Envoy asks the other one.
    let with = |setup: Setup, address| {
        setup.env("KEYCLASP_ENVOY__ON_UNAVAILABLE", "error").env("KEYCLASP_SERVER__LISTEN", address).start()
    };
    let first = with(callers(Keyclasp::set_up().store(&redis.url())), &addresses[0]);
    let file = first.dir().join("keyclasp.toml");
    let second = Keyclasp::set_up().without_config().env("KEYCLASP_CONFIG", file.to_str().unwrap());
    let second = with(second, &addresses[1]);
    let key = make(&first, &json!({}));
    let upstream = echo.address().to_string();
    let config = Config::printed(&[
        "--realm",
        "acme",
        "--replica",
        &addresses[0],
        "--replica",
        &addresses[1],
        "--upstream",
        &upstream,
    ]);
    let envoy = config.start(TOKEN);
    wait_healthy(&envoy);
    let load = Load::start(&envoy, &key.text);
    let mut replicas = [Some(first), Some(second)];
    for killed in [false, true] {
        for replica in &mut replicas {
            load.go_on();
            let mut keyclasp = replica.take().unwrap();
            if killed {
                keyclasp.kill9();
            } else {
                assert!(keyclasp.terminate().success(), "{}", keyclasp.log());
            }
            load.go_on();
            *replica = Some(keyclasp.start_again());
            // As a rollout does: the next one when this one serves.
            wait_healthy(&envoy);
        }
    }
    load.go_on();
    let (done, failed) = load.stop().await;
    assert!(done >= 9 * BETWEEN, "{done}");
    let log = envoy.log();
    let said: Vec<_> = log.lines().filter(|line| !line.contains(" 200 ")).collect();
    let counters = envoy.admin("/stats?usedonly&format=text&filter=^cluster.keyclasp.upstream_rq");
    assert!(failed.is_empty(), "{} of {done} failed: {said:?} {counters}", failed.len());
}
