//! Plain HTTP beside the methods: who may ask, what bounds it, what its failures look like.

use std::sync::Arc;
use std::time::Duration;

use data_encoding::BASE64;
use http_body_util::BodyExt as _;
use keyclasp::clock::{Clock, SystemClock};
use keyclasp::key::{Actor, Caps, Cidrs};
use keyclasp::rpc::auth::Caller;
use keyclasp::rpc::gateway::endpoint::{Access, Answering, Asked, Endpoint, Handler, Unserved, Verbs, count_as};
use keyclasp::rpc::limits::ServerLimits;
use keyclasp::service::access::Principal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tonic::body::Body;
use tonic::codegen::Service as _;
use tonic::codegen::http::{Method, Request, Response, StatusCode, Uri, Version};

use super::stub::{Running, TOKEN, start_with, stopped_within};
use crate::support::until;

const PATHS: [&str; 4] = ["/open", "/token", "/peers", "/foreign"];

/// Says what it was asked, waits or panics as its query says.
struct Echo {
    entered: Semaphore,
    release: Semaphore,
}

impl Handler for Shared {
    fn handle(&self, asked: Asked) -> Answering {
        let echo = Arc::clone(&self.0);
        Box::pin(async move {
            match asked.head.uri.query() {
                Some("wait") => {
                    echo.entered.add_permits(1);
                    echo.release.acquire().await.unwrap().forget();
                }
                Some("never") => std::future::pending().await,
                Some("panic") => panic!("as asked"),
                _ => {}
            }
            let printed = format!("{asked:?}");
            assert!(!printed.contains("secret") && !printed.contains("Bearer"), "{printed}");
            assert!(asked.ends > SystemClock::new().elapsed());
            let who = match &asked.caller {
                Caller::Known(call) => format!("{} from {}", call.principal.name, call.origin),
                Caller::Anonymous(anonymous) | Caller::Refused(anonymous) => {
                    format!("nobody from {}", anonymous.origin)
                }
            };
            let authorization = asked.head.headers.contains_key("authorization");
            let text = format!("{} {} by {who}, authorization: {authorization}", asked.head.method, asked.body.len());
            let mut response = Response::new(Body::new(text));
            if asked.head.uri.query() == Some("denied") {
                count_as(&mut response, StatusCode::FORBIDDEN);
            }
            response
        })
    }

    fn refuse(&self, uri: &Uri, unserved: &Unserved) -> Response<Body> {
        let text = format!("refused {} {}: {}", uri.path(), uri.query().unwrap_or("-"), unserved.error.message);
        Response::builder().status(unserved.status).body(Body::new(text)).unwrap()
    }
}

#[derive(Clone)]
struct Shared(Arc<Echo>);

fn served(limits: ServerLimits) -> (Running, Arc<Echo>) {
    let echo = Arc::new(Echo { entered: Semaphore::new(0), release: Semaphore::new(0) });
    let handler: Arc<dyn Handler> = Arc::new(Shared(Arc::clone(&echo)));
    let principal =
        Arc::new(Principal { name: Actor::parse("proxy").unwrap(), grants: Vec::new(), caps: Caps::default() });
    let peers = |net: &str| Access::Peers { peers: Cidrs::parse(&[net]).unwrap(), principal: Arc::clone(&principal) };
    let access = [Access::Open, Access::Token, peers("127.0.0.0/8"), peers("192.0.2.0/24")];
    let running = start_with(limits, Duration::from_secs(30), move |mut builder| {
        for (path, access) in PATHS.into_iter().zip(access.clone()) {
            let verbs =
                if path == "/peers" { Verbs::Any } else { Verbs::Only(&[Method::GET, Method::POST, Method::HEAD]) };
            let body = (path != "/peers").then_some(100);
            builder = builder.endpoint(Endpoint {
                path: path.to_owned(),
                verbs,
                access,
                body,
                handler: Arc::clone(&handler),
            });
        }
        builder
    });
    (running, echo)
}

/// What is answered to a request with these headers, each with its line end, and this body.
async fn ask(server: &Running, verb: &str, target: &str, headers: &str, body: &str) -> (u16, String, String) {
    let length = body.len();
    let answer = server
        .http(&format!(
            "{verb} {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}content-length: {length}\r\n\r\n{body}"
        ))
        .await;
    (answer.status, answer.head, answer.body)
}

#[tokio::test]
async fn who_may_ask_is_the_endpoints_own_rule() {
    let (server, _) = served(ServerLimits::default());
    let basic = |text: &str| format!("authorization: Basic {}\r\n", BASE64.encode(text.as_bytes()));
    let bearer = format!("authorization: Bearer {TOKEN}\r\n");
    let by = |who: &str, passed: bool| format!("POST 2 by {who} from 127.0.0.1, authorization: {passed}");
    for (target, headers, status, said) in [
        ("/open", String::new(), 200, by("nobody", false)),
        ("/open", "authorization: Bearer wrong\r\n".to_owned(), 200, by("nobody", false)),
        ("/token", bearer.clone(), 200, by("mesh", false)),
        ("/token", basic(&format!("mesh:{TOKEN}")), 200, by("mesh", false)),
        ("/token", basic(&format!("other:{TOKEN}")), 401, "not those of a caller".to_owned()),
        ("/token", "authorization: Bearer wrong\r\n".to_owned(), 401, "refused /token -: the bearer token".to_owned()),
        ("/token?x", String::new(), 401, "refused /token x: this method needs a caller".to_owned()),
        (
            "/peers",
            "authorization: Bearer wrong\r\n".to_owned(),
            200,
            "by proxy from 127.0.0.1, authorization: true".to_owned(),
        ),
        ("/foreign", bearer, 403, "127.0.0.1 may not ask".to_owned()),
    ] {
        let (found, head, body) = ask(&server, "POST", target, &headers, "{}").await;
        assert!(found == status && body.contains(&said), "{target} {headers}: {found} {body}");
        assert!(head.contains("cache-control: no-store"), "{head}");
    }
    // Basic is for these endpoints alone.
    let refused = server
        .http(&format!(
            "POST /keyclasp.v1.KeyService/ValidateKey HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{}\
             content-type: application/json\r\ncontent-length: 2\r\n\r\n{{}}",
            basic(&format!("mesh:{TOKEN}"))
        ))
        .await;
    assert_eq!(refused.status, 401, "{refused:?}");
    assert_eq!(server.rpc.metrics().in_flight(), 0);
}

#[tokio::test]
async fn methods_and_bodies_are_bounded_and_what_is_not_served_is_not_found() {
    let (server, _) = served(ServerLimits::default());
    let (status, head, body) = ask(&server, "DELETE", "/open?q", "", "").await;
    assert!(
        status == 405 && head.contains("allow: get, post, head") && body.starts_with("refused /open q"),
        "{head} {body}"
    );
    assert_eq!(ask(&server, "POST", "/open", "", &"x".repeat(100)).await.0, 200);
    let (status, _, body) = ask(&server, "POST", "/open", "", &"x".repeat(101)).await;
    assert!(status == 413 && body.contains("100 bytes"), "{status} {body}");
    let chunked = "POST /open HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n";
    let answer = server.http(&format!("{chunked}65\r\n{}\r\n0\r\n\r\n", "x".repeat(101))).await;
    assert_eq!(answer.status, 413, "{answer:?}");
    for verb in ["GET", "PUT", "OPTIONS", "PURGE"] {
        let (status, _, body) = ask(&server, verb, "/peers", "", &"x".repeat(500)).await;
        assert!(status == 200 && body.starts_with(&format!("{verb} 0 by")), "the body is not read: {body}");
    }
    let (status, head, body) = ask(&server, "HEAD", "/open", "", "").await;
    assert!(status == 200 && body.is_empty() && head.contains("cache-control"), "{head}{body}");
    for target in ["/open/", "/Open", "/peers/x", "//open"] {
        assert_eq!(ask(&server, "GET", target, "", "").await.0, 404, "{target}");
    }
}

#[tokio::test]
async fn a_body_that_does_not_come_an_answer_that_does_not_and_a_panic_are_answered() {
    let mut limits = ServerLimits { message_time: Duration::from_millis(200), ..ServerLimits::default() };
    let (server, _) = served(limits);
    let half = "POST /open HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 9\r\n\r\n{";
    let answer = server.http(half).await;
    assert!(answer.status == 408 && answer.body.contains("did not arrive within 200ms"), "{answer:?}");
    let (status, _, body) = ask(&server, "GET", "/open?panic", "", "").await;
    assert!(status == 500 && body == "refused /open panic: internal error; the log has more", "{body}");
    limits.deadlines.default = Duration::from_millis(50);
    let (late, _) = served(limits);
    let (status, head, body) = ask(&late, "GET", "/open?never", "", "").await;
    assert!(status == 503 && head.contains("retry-after: 1") && body.contains("was up"), "{head}{body}");
    assert_eq!((server.rpc.metrics().in_flight(), late.rpc.metrics().in_flight()), (0, 0));
}

#[tokio::test]
async fn requests_beyond_the_limit_are_shed_and_each_kind_has_its_own_places() {
    let (server, echo) = served(ServerLimits { in_flight: 1, ..ServerLimits::default() });
    let mut waiting = Vec::new();
    for target in ["/open?wait", "/peers?wait"] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream
            .write_all(format!("GET {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes())
            .await
            .unwrap();
        waiting.push(stream);
    }
    let _ = echo.entered.acquire_many(2).await.unwrap();
    for target in ["/open", "/peers", "/token"] {
        let (status, head, body) = ask(&server, "GET", target, "", "").await;
        assert!(
            status == 503 && head.contains("retry-after: 1") && body.contains("in flight"),
            "{target}: {head}{body}"
        );
    }
    // A method has the same places.
    assert_eq!(server.json("keyclasp.v1.KeyService/ValidateKey", "{}").await.status, 429);
    // One that is told to stop answers what it has begun.
    let metrics = server.rpc.metrics().clone();
    let stopping = tokio::spawn(stopped_within(server, Duration::from_secs(30)));
    echo.release.add_permits(2);
    for mut stream in waiting {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    assert_eq!(stopping.await.unwrap().dropped, 0);
    assert_eq!(metrics.in_flight(), 0);
}

#[tokio::test]
async fn each_path_is_counted_and_no_query_is() {
    let (server, _) = served(ServerLimits::default());
    for (verb, target) in
        [("GET", "/open?secret"), ("GET", "/peers?denied"), ("PUT", "/open"), ("GET", "/foreign"), ("GET", "/token")]
    {
        ask(&server, verb, target, "", "").await;
    }
    let mut gone = TcpStream::connect(server.address).await.unwrap();
    gone.write_all(b"GET /open?never HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    until("it is in flight", async || server.rpc.metrics().in_flight() == 1).await;
    drop(gone);
    until("it has gone", async || server.rpc.metrics().in_flight() == 0).await;
    let metrics = server.metrics();
    for (method, code) in [
        ("open", "OK"),
        ("open", "INVALID_ARGUMENT"),
        ("open", "CANCELLED"),
        ("peers", "PERMISSION_DENIED"),
        ("foreign", "PERMISSION_DENIED"),
        ("token", "UNAUTHENTICATED"),
    ] {
        let line = format!(r#"keyclasp_rpc_calls_total{{method="{method}",code="{code}"}} 1"#);
        assert!(metrics.contains(&line), "{line} in\n{metrics}");
    }
    assert!(metrics.contains(r#"keyclasp_rpc_latency_seconds_count{method="open"} 3"#), "{metrics}");
    assert!(!metrics.contains("secret"), "{metrics}");
}

#[tokio::test]
async fn over_http_2_it_is_the_same() {
    let (server, _) = served(ServerLimits::default());
    for (verb, target, status, said) in [
        (Method::GET, "/open", 200, "GET 0 by nobody from 127.0.0.1, authorization: false"),
        (Method::HEAD, "/open", 200, ""),
        (Method::DELETE, "/open", 405, "refused /open -: this path does not take this method"),
        (Method::from_bytes(b"PURGE").unwrap(), "/peers", 200, "PURGE 0 by proxy from 127.0.0.1, authorization: false"),
        (Method::GET, "/open?panic", 500, "refused /open panic: internal error; the log has more"),
    ] {
        let mut channel = server.channel().await;
        std::future::poll_fn(|context| channel.poll_ready(context)).await.unwrap();
        let request = Request::builder().method(verb.clone()).uri(format!("http://{}{target}", server.address));
        let response = channel.call(request.body(Body::empty()).unwrap()).await.unwrap();
        assert_eq!((response.status().as_u16(), response.version()), (status, Version::HTTP_2), "{verb} {target}");
        assert_eq!(response.headers()["cache-control"], "no-store");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(String::from_utf8_lossy(&body), said, "{verb} {target}");
    }
}
