//! What stands around a proxy under test: a keyclasp in this process, which can lose its store; a relay before
//! it, which knows what it was asked; an upstream, which answers what it was asked; and a client that sends
//! whatever it is told to.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use keyclasp::clock::SystemClock;
use keyclasp::key::{
    ApiKey, Cidrs, Description, Draft, KeyId, Metadata, Name, Owner, OwnerKind, OwnerRef, Principals, Realm, Scopes,
};
use keyclasp::random::OsEntropy;
use keyclasp::rpc::auth::Authenticator;
use keyclasp::rpc::forward_auth;
use keyclasp::rpc::gateway::Rpc;
use keyclasp::rpc::limits::ServerLimits;
use keyclasp::rpc::proxy::{Decider, Proxy, ProxyMetrics, Settings};
use keyclasp::rpc::serve::{ServeConfig, Server, bind};
use keyclasp::store::embedded::EmbeddedConfig;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

use crate::support::TempDir;
use crate::support::world::World;

/// A keyclasp with `/forward-auth`, until dropped.
pub(super) struct Keyclasp {
    pub(super) address: SocketAddr,
    pub(super) world: World,
    runtime: Option<Runtime>,
    stop: Option<oneshot::Sender<()>>,
    rpc: Rpc,
    asked: ProxyMetrics,
    _dir: TempDir,
}

impl Keyclasp {
    /// For these peers; none: without the endpoint.
    pub(super) fn start(peers: &[&str], settings: Settings) -> Self {
        let dir = TempDir::new();
        let store = EmbeddedConfig::new(dir.path()).open(&OsEntropy).unwrap();
        let world = World::over(Arc::new(store), Arc::new(SystemClock::new()));
        let rpc = Rpc::new(Authenticator::default(), ServerLimits::default(), Arc::new(SystemClock::new())).unwrap();
        let asked = ProxyMetrics::new();
        let peers = Cidrs::parse(peers).unwrap();
        let endpoint = (!peers.is_empty()).then(|| {
            let decider = Decider::new(world.service.clone(), settings, asked.clone(), Proxy::ForwardAuth);
            forward_auth::endpoint(decider, peers).unwrap()
        });
        let listener = bind(([127, 0, 0, 1], 0).into(), "server.listen").unwrap();
        let address = listener.local_addr().unwrap();
        let factory = {
            let rpc = rpc.clone();
            move |_| {
                let gateway = rpc.gateway();
                let gateway = endpoint.iter().cloned().fold(gateway, |gateway, endpoint| gateway.endpoint(endpoint));
                std::future::ready(Ok(gateway.build()))
            }
        };
        let config = ServeConfig { workers: std::num::NonZeroUsize::new(1), ..ServeConfig::default() };
        let server = Server::new(config, rpc.clone(), factory);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        runtime.spawn(async move {
            let stopped = async {
                let _ = stopped.await;
            };
            server.run(listener, stopped).await.unwrap();
        });
        Self { address, world, runtime: Some(runtime), stop: Some(stop), rpc, asked, _dir: dir }
    }

    /// A key of `ada` in this realm.
    pub(super) fn key(&self, realm: &str, scopes: &[&str], cidrs: &[&str]) -> (KeyId, String) {
        let draft = Draft {
            realm: Realm::parse(realm).unwrap(),
            owner: Owner {
                reference: OwnerRef::parse(OwnerKind::User, "ada lovelace").unwrap(),
                display_name: Name::parse("").unwrap(),
            },
            name: Name::parse("a key").unwrap(),
            description: Description::parse("").unwrap(),
            scopes: Scopes::parse(scopes).unwrap(),
            lifetime: None,
            not_before: None,
            allowed_cidrs: Cidrs::parse(cidrs).unwrap(),
            allowed_principals: Principals::parse(&[] as &[&str]).unwrap(),
            metadata: Metadata::parse(std::iter::empty::<(&str, &str)>()).unwrap(),
        };
        let made = self.run(self.world.service.keys.create(&self.world.call, draft, None)).unwrap();
        let text: ApiKey = made.text.unwrap();
        (made.key.record.id, text.expose().to_owned())
    }

    pub(super) fn run<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.as_ref().unwrap().block_on(work)
    }

    /// Its counters.
    pub(super) fn metrics(&self) -> String {
        let mut registry = prometheus_client::registry::Registry::with_prefix("keyclasp");
        self.rpc.metrics().register(&mut registry);
        self.asked.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        text
    }
}

impl Drop for Keyclasp {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Passes on what arrives, and keeps what was sent to `target`. Lives as long as the test's process.
pub(super) struct Relay {
    pub(super) address: SocketAddr,
    heard: Arc<Mutex<Vec<u8>>>,
    cut: Arc<Mutex<bool>>,
}

impl Relay {
    pub(super) fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (heard, cut) = (Arc::<Mutex<Vec<u8>>>::default(), Arc::<Mutex<bool>>::default());
        let (keeps, is_cut) = (Arc::clone(&heard), Arc::clone(&cut));
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if *is_cut.lock().unwrap() {
                    continue;
                }
                let Ok(server) = TcpStream::connect(target) else { continue };
                let (mut back_from, mut back_to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut back_from, &mut back_to);
                    let _ = back_to.shutdown(std::net::Shutdown::Both);
                });
                let (keeps, is_cut) = (Arc::clone(&keeps), Arc::clone(&is_cut));
                std::thread::spawn(move || {
                    let (mut client, mut server) = (client, server);
                    let mut piece = [0; 16_384];
                    while let Ok(read @ 1..) = client.read(&mut piece) {
                        keeps.lock().unwrap().extend_from_slice(&piece[..read]);
                        if *is_cut.lock().unwrap() || server.write_all(&piece[..read]).is_err() {
                            break;
                        }
                    }
                    for stream in [client, server] {
                        let _ = stream.shutdown(std::net::Shutdown::Both);
                    }
                });
            }
        });
        Self { address, heard, cut }
    }

    /// What was sent since this was asked last.
    pub(super) fn heard(&self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut *self.heard.lock().unwrap())).into_owned()
    }

    /// From now on nothing gets through.
    pub(super) fn cut(&self) {
        *self.cut.lock().unwrap() = true;
    }
}

/// An upstream that answers each request with that request. Lives as long as the test's process.
pub(super) fn upstream() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || serve(client));
        }
    });
    address
}

fn serve(mut client: TcpStream) {
    let mut arrived = Vec::new();
    let mut piece = [0; 16_384];
    loop {
        let text = String::from_utf8_lossy(&arrived).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = field(head, "content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
            if body.len() >= length && !text.is_empty() {
                let status = if head.contains(" /status/") {
                    head[head.find("/status/").unwrap() + 8..][..3].to_owned()
                } else {
                    "200".to_owned()
                };
                let body = if head.starts_with("HEAD ") { String::new() } else { text.clone() };
                let _ = write!(
                    client,
                    "HTTP/1.1 {status} It\r\ncontent-type: text/plain\r\nx-upstream: yes\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                    text.len()
                );
                return;
            }
        }
        match client.read(&mut piece) {
            Ok(read @ 1..) => arrived.extend_from_slice(&piece[..read]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            _ => return,
        }
    }
}

/// Somebody in keyclasp's place, who answers every request with these bytes; None: not at all. Lives as long as the
/// test's process.
pub(super) fn instead(answer: Option<&'static str>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut client in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let (mut arrived, mut piece) = (Vec::new(), [0; 16_384]);
                while let Ok(read @ 1..) = client.read(&mut piece) {
                    arrived.extend_from_slice(&piece[..read]);
                    if arrived.ends_with(b"\r\n\r\n")
                        && let Some(answer) = answer
                    {
                        let _ = client.write_all(answer.as_bytes());
                        return;
                    }
                }
            });
        }
    });
    address
}

/// The value of a header field of this head.
pub(super) fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().skip(1).take_while(|line| !line.is_empty()).find_map(|line| {
        let (known, value) = line.split_once(':')?;
        known.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// An answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) head: String,
    pub(super) body: String,
}

impl Answer {
    /// A field of the answer.
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        field(&self.head, name)
    }

    /// A field of the request that reached the upstream.
    #[track_caller]
    pub(super) fn upstream(&self, name: &str) -> Option<&str> {
        assert!(self.reached(), "it did not reach the upstream: {self:?}");
        field(&self.body, name)
    }

    /// Whether it is the upstream's.
    pub(super) fn reached(&self) -> bool {
        self.field("x-upstream").is_some()
    }

    /// What the upstream was asked for.
    #[track_caller]
    pub(super) fn target(&self) -> &str {
        assert!(self.reached(), "it did not reach the upstream: {self:?}");
        self.body.split(' ').nth(1).unwrap()
    }

    pub(super) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Sends a request with these header fields and reads the answer until the connection is closed.
#[track_caller]
pub(super) fn ask(address: SocketAddr, verb: &str, target: &str, fields: &[(&str, &str)], body: &str) -> Answer {
    let mut request = format!("{verb} {target} HTTP/1.1\r\nHost: api.example.com\r\nConnection: close\r\n");
    for (name, value) in fields {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    if !body.is_empty() {
        request.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    request.push_str("\r\n");
    request.push_str(body);
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    // It may be refused before all of it was read.
    let _ = stream.write_all(request.as_bytes());
    let mut answer = Vec::new();
    let mut piece = [0; 16_384];
    loop {
        match stream.read(&mut piece) {
            Ok(read @ 1..) => answer.extend_from_slice(&piece[..read]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                panic!("no end of the answer: {}", String::from_utf8_lossy(&answer))
            }
            _ => break,
        }
    }
    let text = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    Answer { status, head: head.to_owned(), body: body.to_owned() }
}
