//! A method that judges: whatever the gateway refuses is answered by the judge, and no error.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http_body_util::BodyExt as _;
use keyclasp::rpc::auth::Caller;
use keyclasp::rpc::gateway::{Gateway, Judge, RequestBody, Rpc, Unanswered, Unread};
use keyclasp::rpc::limits::ServerLimits;
use tokio::sync::Semaphore;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Bytes;
use tonic::codegen::http::{Request, Response, Version};

use super::stub::{Running, TOKEN, rpc, start_with};

const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";
const LIMIT: usize = 64;

/// Says what it was asked and by whom; a message may say that it waits or panics.
#[derive(Clone, Default)]
struct Echo(Arc<Shared>);

struct Shared {
    entered: Semaphore,
    /// Whether it leaves to the gateway what it may.
    errs: AtomicBool,
}

impl Default for Shared {
    fn default() -> Self {
        Self { entered: Semaphore::new(0), errs: AtomicBool::new(false) }
    }
}

impl Judge for Echo {
    fn limit(&self) -> usize {
        LIMIT
    }

    async fn judge(&self, caller: Caller, message: Result<Bytes, Unread>) -> Result<Bytes, Status> {
        let who = match caller {
            Caller::Known(call) => call.principal.name.to_string(),
            Caller::Anonymous(_) => "anybody".to_owned(),
            Caller::Refused(anonymous) => format!("a stranger from {}", anonymous.origin),
        };
        match message.as_deref() {
            Ok([b'w', b'a', b'i', b't', ..]) => {
                self.0.entered.add_permits(1);
                std::future::pending().await
            }
            Ok(b"never") => std::future::pending().await,
            Ok(b"panic") => panic!("as asked"),
            Ok(b"outage") => Err(Status::unavailable("as asked")),
            Ok(message) => Ok(framed(format!("{who} sent {} bytes", message.len()))),
            Err(unread) => Ok(framed(format!("{who} sent {unread:?}"))),
        }
    }

    fn refuse(&self, why: Unanswered) -> Option<Bytes> {
        (!self.0.errs.load(Ordering::SeqCst)).then(|| framed(format!("{why:?}")))
    }
}

fn framed(message: impl AsRef<[u8]>) -> Bytes {
    let message = message.as_ref();
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[0], &length[..], message].concat().into()
}

struct Judged {
    gateway: Gateway,
    rpc: Rpc,
    echo: Echo,
}

fn judged(limits: ServerLimits) -> Judged {
    let (rpc, echo) = (rpc(limits), Echo::default());
    Judged { gateway: rpc.gateway().envoy(echo.clone()).build(), rpc, echo }
}

impl Judged {
    fn ask(&self, token: &str, headers: &[(&str, &str)], body: Bytes) -> impl Future<Output = String> + use<> {
        let mut request = Request::post(CHECK).version(Version::HTTP_2).header("content-type", "application/grpc");
        if !token.is_empty() {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = self.gateway.connection("192.0.2.1").handle(request.body(RequestBody::Whole(Some(body))).unwrap());
        async move {
            let Ok(response) = answer.await;
            read(response).await
        }
    }
}

/// The message of an answer, or the error.
async fn read(response: Response<Body>) -> String {
    if let Some(status) = Status::from_header_map(response.headers()) {
        return format!("error: {:?}", status.code());
    }
    let body = response.into_body().collect().await.unwrap();
    assert_eq!(body.trailers().unwrap()["grpc-status"], "0");
    String::from_utf8(body.to_bytes()[5..].to_vec()).unwrap()
}

#[tokio::test]
async fn it_answers_whoever_asks_and_whatever() {
    let judged = judged(ServerLimits { message_bytes: 16, ..ServerLimits::default() });
    let message = |length: usize| framed(vec![b'x'; length]);
    for (token, headers, body, answer) in [
        (TOKEN, &[][..], message(3), "mesh sent 3 bytes"),
        (TOKEN, &[], message(0), "mesh sent 0 bytes"),
        (TOKEN, &[], message(LIMIT), "mesh sent 64 bytes"),
        (TOKEN, &[], message(LIMIT + 1), "mesh sent TooLarge"),
        (TOKEN, &[], Bytes::new(), "mesh sent Malformed"),
        (TOKEN, &[], message(9).slice(..8), "mesh sent Malformed"),
        (TOKEN, &[], [message(1), message(1)].concat().into(), "mesh sent Malformed"),
        (TOKEN, &[("grpc-encoding", "gzip")], message(1), "mesh sent Malformed"),
        (TOKEN, &[("grpc-timeout", "soon")], message(1), "Malformed"),
        (TOKEN, &[("grpc-timeout", "20m")], framed("never"), "Late"),
        (TOKEN, &[], framed("panic"), "Panicked"),
        (TOKEN, &[], framed("outage"), "error: Unavailable"),
        (TOKEN, &[("authorization", "Bearer x")], message(1), "a stranger from 192.0.2.1 sent 1 bytes"),
        ("", &[], message(1), "a stranger from 192.0.2.1 sent 1 bytes"),
        ("wrong", &[], message(16), "a stranger from 192.0.2.1 sent 16 bytes"),
        ("wrong", &[], message(17), "a stranger from 192.0.2.1 sent TooLarge"),
    ] {
        assert_eq!(judged.ask(token, headers, body).await, answer, "{token} {headers:?}");
    }
    assert_eq!(judged.rpc.metrics().in_flight(), 0);
    judged.echo.0.errs.store(true, Ordering::SeqCst);
    assert_eq!(judged.ask(TOKEN, &[("grpc-timeout", "20m")], framed("never")).await, "error: DeadlineExceeded");
    assert_eq!(judged.ask(TOKEN, &[("grpc-timeout", "soon")], message(1)).await, "error: InvalidArgument");
}

#[tokio::test]
async fn under_load_too_and_strangers_take_no_place_of_who_is_known() {
    let judged = judged(ServerLimits { in_flight: 1, ..ServerLimits::default() });
    let waiting = |token| tokio::spawn(judged.ask(token, &[], framed("wait")));
    let stranger = waiting("wrong");
    judged.echo.0.entered.acquire().await.unwrap().forget();
    assert_eq!(judged.ask("wrong", &[], framed("x")).await, "Stranger");
    assert_eq!(judged.ask(TOKEN, &[], framed("x")).await, "mesh sent 1 bytes");
    let known = waiting(TOKEN);
    judged.echo.0.entered.acquire().await.unwrap().forget();
    assert_eq!(judged.ask(TOKEN, &[], framed("x")).await, "Shed");
    assert_eq!(judged.ask("", &[], framed("x")).await, "Stranger");
    judged.echo.0.errs.store(true, Ordering::SeqCst);
    assert_eq!(judged.ask(TOKEN, &[], framed("x")).await, "error: ResourceExhausted");
    for call in [stranger, known] {
        call.abort();
        assert!(call.await.unwrap_err().is_cancelled());
    }
    assert_eq!(judged.rpc.metrics().in_flight(), 0);
}

#[tokio::test]
async fn only_so_many_large_messages_are_in_memory() {
    let judged = judged(ServerLimits { message_bytes: 16, ..ServerLimits::default() });
    let large = || framed(format!("wait{}", "x".repeat(LIMIT - 4)));
    let ask = || tokio::spawn(judged.ask(TOKEN, &[], large()));
    let waiting: Vec<_> = (0..32).map(|_| ask()).collect();
    judged.echo.0.entered.acquire_many(32).await.unwrap().forget();
    assert_eq!(judged.ask(TOKEN, &[], large()).await, "mesh sent Crowded");
    assert_eq!(judged.ask(TOKEN, &[], framed([b'x'; 16])).await, "mesh sent 16 bytes");
    for call in waiting {
        call.abort();
        assert!(call.await.unwrap_err().is_cancelled());
    }
    assert_eq!(judged.ask(TOKEN, &[], framed([b'x'; LIMIT])).await, "mesh sent 64 bytes");
}

#[tokio::test]
async fn it_is_counted_shown_and_said_to_serve() {
    let server: Running = start_with(ServerLimits::default(), std::time::Duration::from_secs(30), |builder| {
        builder.envoy(Echo::default())
    });
    let mut health = tonic_health::pb::health_client::HealthClient::new(server.channel().await);
    let service = "envoy.service.auth.v3.Authorization".to_owned();
    let asked = tonic_health::pb::HealthCheckRequest { service };
    assert_eq!(health.check(asked).await.unwrap().into_inner().status, 2, "not serving, and known");
    let status = server.json_with(&CHECK[1..], "", "not JSON").await.status;
    assert_eq!(status, 400, "over JSON there is no proxy to open");
    assert!(
        server.metrics().contains(r#"method="envoy.service.auth.v3.Authorization/Check",code="INVALID_ARGUMENT"} 1"#)
    );
}
