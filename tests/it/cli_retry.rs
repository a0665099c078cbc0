//! The command line when answers get lost: between it and a real server stands a proxy that does
//! not deliver some of them.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};

use tonic::Status;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};
use tower::{Service, ServiceExt};

use super::support::server::Keyclasp;

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It is answered.
    Answered,
    /// It is carried out, but the answer gets lost.
    AnswerLost,
    /// It does not arrive.
    Lost,
}

/// Forwards calls of the KeyService; the n-th suffers the n-th fate, and the last one's for ever.
#[derive(Clone)]
struct Proxy {
    channel: Channel,
    fates: &'static [Fate],
    calls: Arc<AtomicU32>,
}

impl NamedService for Proxy {
    const NAME: &'static str = "keyclasp.v1.KeyService";
}

impl Service<http::Request<Body>> for Proxy {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let number = self.calls.fetch_add(1, Ordering::SeqCst) as usize;
        let fate = self.fates[number.min(self.fates.len() - 1)];
        let channel = self.channel.clone();
        Box::pin(async move {
            let lost = || Status::unavailable("the line is down").into_http();
            if fate == Fate::Lost {
                return Ok(lost());
            }
            let answer = channel.oneshot(request).await.unwrap();
            Ok(if fate == Fate::AnswerLost { lost() } else { answer })
        })
    }
}

/// The command line behind a proxy, in front of a server of its own.
struct Line {
    server: Keyclasp,
    endpoint: String,
    calls: Arc<AtomicU32>,
}

impl Line {
    fn with(fates: &'static [Fate]) -> Self {
        let server = Keyclasp::start();
        let calls = Arc::new(AtomicU32::new(0));
        let (endpoint, counted) = (server.endpoint(), Arc::clone(&calls));
        let (said, address) = std::sync::mpsc::channel();
        // Ends with the process; it is a part of the test, not of the program.
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
                said.send(incoming.local_addr().unwrap()).unwrap();
                let channel = Endpoint::from_shared(endpoint).unwrap().connect_lazy();
                let proxy = Proxy { channel, fates, calls: counted };
                Server::builder().add_service(proxy).serve_with_incoming(incoming).await.unwrap();
            });
        });
        let endpoint = format!("http://{}", address.recv().unwrap());
        Self { server, endpoint, calls }
    }

    /// Over the proxy.
    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = self.server.command();
        output(command.env("KEYCLASP_ENDPOINT", &self.endpoint).args(arguments))
    }

    /// Past it.
    fn keys(&self, status: &str) -> Vec<String> {
        let list = ["key", "list", "--realm", "acme", "--quiet", "--status", status];
        let output = output(self.server.command().args(list));
        String::from_utf8(output.stdout).unwrap().lines().map(ToOwned::to_owned).collect()
    }

    /// Whether the text that a command printed is that of the one key that is active.
    fn works(&self, printed: &Output) -> bool {
        let file = self.server.dir().join("key");
        std::fs::write(&file, &printed.stdout).unwrap();
        let validated = output(self.server.command().args(["validate", "--key-file", file.to_str().unwrap()]));
        let [active] = &self.keys("active")[..] else { return false };
        validated.status.success() && String::from_utf8_lossy(&validated.stdout).contains(active)
    }

    fn calls(&self) -> u32 {
        self.calls.load(Ordering::SeqCst)
    }
}

fn output(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

const CREATE: [&str; 7] = ["key", "create", "--realm", "acme", "--owner", "user:alice", "--quiet"];

#[test]
fn a_call_that_did_not_arrive_is_repeated() {
    let line = Line::with(&[Fate::Lost, Fate::Answered]);
    let made = line.run(&CREATE);
    assert_eq!(made.status.code(), Some(0), "{}", stderr(&made));
    assert!(line.works(&made));
    assert_eq!((line.calls(), line.keys("revoked").len()), (2, 0));
}

#[test]
fn a_key_whose_text_was_lost_is_replaced_by_one_whose_text_arrives() {
    let line = Line::with(&[Fate::AnswerLost, Fate::Answered]);
    let made = line.run(&CREATE);
    assert_eq!(made.status.code(), Some(0), "{}", stderr(&made));
    assert!(stderr(&made).contains("Replacing it by a new one"), "{}", stderr(&made));
    assert!(line.works(&made));
    assert_eq!((line.calls(), line.keys("revoked").len()), (3, 1), "nobody has the text of the first key");
}

#[test]
fn so_is_one_whose_replacement_was_lost_as_well() {
    let line = Line::with(&[Fate::AnswerLost, Fate::Answered, Fate::AnswerLost, Fate::Answered]);
    let made = line.run(&CREATE);
    assert_eq!(made.status.code(), Some(0), "{}", stderr(&made));
    assert!(line.works(&made));
    assert_eq!(line.keys("revoked").len(), 2);
}

#[test]
fn a_rotation_whose_answer_was_lost_yields_a_text_that_works() {
    let line = Line::with(&[Fate::Answered, Fate::AnswerLost, Fate::Answered]);
    assert!(line.run(&CREATE).status.success());
    let id = line.keys("active").remove(0);
    let rotated = line.run(&["key", "rotate", &id, "--quiet"]);
    assert_eq!(rotated.status.code(), Some(0), "{}", stderr(&rotated));
    assert!(line.works(&rotated));
}

#[test]
fn it_gives_up_on_texts_after_some_tries_and_says_which_key_to_rotate() {
    use Fate::{AnswerLost, Answered};
    let line = Line::with(&[AnswerLost, AnswerLost, Answered, AnswerLost, Answered]);
    let made = line.run(&CREATE);
    assert_eq!(made.status.code(), Some(3), "{}", stderr(&made));
    let id = line.keys("active").remove(0);
    assert!(made.stdout.is_empty() && stderr(&made).contains(&format!("key rotate {id}")), "{}", stderr(&made));
}

#[test]
fn it_gives_up_after_some_tries_and_says_how_to_go_on() {
    let line = Line::with(&[Fate::Lost]);
    let made = line.run(&[&CREATE[..], &["--request-id", "mine"]].concat());
    assert_eq!(made.status.code(), Some(3));
    assert!(stderr(&made).contains("--request-id mine"), "{}", stderr(&made));
    assert_eq!(line.calls(), 5);
}

#[test]
fn a_text_that_somebody_may_have_is_not_replaced() {
    // The second command's first try does not arrive; the answer to its next is that of the first.
    let line = Line::with(&[Fate::Answered, Fate::Lost, Fate::Answered]);
    let arguments = [&CREATE[..], &["--request-id", "mine"]].concat();
    assert!(line.run(&arguments).status.success());
    let again = line.run(&arguments);
    assert_eq!(again.status.code(), Some(1));
    assert!(again.stdout.is_empty() && stderr(&again).contains("key rotate"), "{}", stderr(&again));
    assert_eq!((line.keys("active").len(), line.keys("revoked").len()), (1, 0));
}
