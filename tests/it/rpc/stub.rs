//! A KeyService that does what its request says, a server for it, and clients.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use keyclasp::clock::SystemClock;
use keyclasp::key::{Actor, Caps};
use keyclasp::rpc::auth::{self, Authenticator, Binding, Credential, TokenDigest};
use keyclasp::rpc::error::status;
use keyclasp::rpc::gateway::{Gateway, GatewayBuilder, KeyCheck, Rpc, Written};
use keyclasp::rpc::limits::ServerLimits;
use keyclasp::rpc::proto::v1;
use keyclasp::rpc::proto::v1::key_service_client::KeyServiceClient;
use keyclasp::rpc::proto::v1::key_service_server::KeyService;
use keyclasp::rpc::serve::{DrainReport, ServeConfig, ServeError, Server, bind};
use keyclasp::service::Error;
use keyclasp::service::access::{Call, Principal};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

/// The token that the server knows, of the caller `mesh`.
pub(super) const TOKEN: &str = "a-token-for-tests";

/// What `api_key` asks of the stub.
pub(super) const ECHO: &str = "echo";
pub(super) const WAIT: &str = "wait";
pub(super) const NEVER: &str = "never";
pub(super) const PANIC: &str = "panic";

#[derive(Clone)]
pub(super) struct Stub {
    worker: usize,
    /// One more for each call that waits.
    pub(super) entered: Arc<Semaphore>,
    /// Each lets one of them go on.
    pub(super) release: Arc<Semaphore>,
    waiting: Arc<AtomicUsize>,
    /// The most calls that waited at a time.
    pub(super) most: Arc<AtomicUsize>,
}

impl Stub {
    pub(super) fn new() -> Self {
        Self {
            worker: 0,
            entered: Arc::new(Semaphore::new(0)),
            release: Arc::new(Semaphore::new(0)),
            waiting: Arc::default(),
            most: Arc::default(),
        }
    }

    /// Until `calls` more of them wait.
    pub(super) async fn until_entered(&self, calls: u32) {
        let entered = self.entered.acquire_many(calls);
        tokio::time::timeout(Duration::from_secs(30), entered).await.expect("calls reach the stub").unwrap().forget();
    }
}

type Answer<T> = Result<Response<T>, Status>;

fn none<T>() -> Answer<T> {
    Err(Status::unimplemented("not in the stub"))
}

impl KeyCheck for Stub {
    async fn check(
        &self,
        call: &Call,
        request: v1::ValidateKeyRequest,
    ) -> Result<Written<v1::ValidateKeyResponse>, Status> {
        match request.api_key.as_str() {
            WAIT => {
                self.most.fetch_max(self.waiting.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                self.entered.add_permits(1);
                self.release.acquire().await.unwrap().forget();
                self.waiting.fetch_sub(1, Ordering::SeqCst);
            }
            NEVER => std::future::pending().await,
            PANIC => panic!("as asked"),
            _ => {}
        }
        let message = format!("{} from {} at worker {}", call.principal.name, call.origin, self.worker);
        Ok(Written::new(&v1::ValidateKeyResponse {
            outcome: v1::Outcome::Valid.into(),
            message,
            ..v1::ValidateKeyResponse::default()
        }))
    }
}

#[tonic::async_trait]
impl KeyService for Stub {
    async fn create_key(&self, request: Request<v1::CreateKeyRequest>) -> Answer<v1::CreateKeyResponse> {
        let asked = request.into_inner();
        let expires_at = match asked.lifetime {
            Some(v1::create_key_request::Lifetime::ExpiresAt(at)) => Some(at),
            _ => None,
        };
        let key = v1::Key {
            name: asked.name,
            owner: asked.owner,
            scopes: asked.scopes,
            metadata: asked.metadata,
            status: v1::KeyStatus::Active.into(),
            version: u64::MAX,
            expires_at,
            ..v1::Key::default()
        };
        Ok(Response::new(v1::CreateKeyResponse { key: Some(key), api_key: "kc_text".to_owned() }))
    }

    async fn get_key(&self, request: Request<v1::GetKeyRequest>) -> Answer<v1::GetKeyResponse> {
        assert!(request.metadata().get("authorization").is_none(), "the token stops at the gateway");
        Err(status(Error::key_not_found()))
    }

    async fn validate_key(&self, request: Request<v1::ValidateKeyRequest>) -> Answer<v1::ValidateKeyResponse> {
        let call = auth::call(&request)?;
        Ok(Response::new(self.check(&call, request.into_inner()).await?.message().unwrap()))
    }
    async fn revoke_own_key(&self, request: Request<v1::RevokeOwnKeyRequest>) -> Answer<v1::RevokeOwnKeyResponse> {
        assert_eq!(auth::call(&request).unwrap_err().code(), tonic::Code::Unauthenticated);
        assert_eq!(&*auth::origin(&request), "127.0.0.1");
        Ok(Response::new(v1::RevokeOwnKeyResponse::default()))
    }

    async fn list_keys(&self, _: Request<v1::ListKeysRequest>) -> Answer<v1::ListKeysResponse> {
        none()
    }

    async fn update_key(&self, _: Request<v1::UpdateKeyRequest>) -> Answer<v1::UpdateKeyResponse> {
        none()
    }

    async fn rotate_key(&self, _: Request<v1::RotateKeyRequest>) -> Answer<v1::RotateKeyResponse> {
        none()
    }

    async fn suspend_key(&self, _: Request<v1::SuspendKeyRequest>) -> Answer<v1::SuspendKeyResponse> {
        none()
    }

    async fn resume_key(&self, _: Request<v1::ResumeKeyRequest>) -> Answer<v1::ResumeKeyResponse> {
        none()
    }

    async fn revoke_key(&self, _: Request<v1::RevokeKeyRequest>) -> Answer<v1::RevokeKeyResponse> {
        none()
    }

    async fn revoke_keys(&self, _: Request<v1::RevokeKeysRequest>) -> Answer<v1::RevokeKeysResponse> {
        none()
    }
}

/// The part that all gateways share, with one caller.
pub(super) fn rpc(limits: ServerLimits) -> Rpc {
    let principal = Principal { name: Actor::parse("mesh").unwrap(), grants: Vec::new(), caps: Caps::default() };
    let credential = Credential::Token(TokenDigest::of(TOKEN.as_bytes()));
    let authenticator = Authenticator::new([Binding { credential, principal: Arc::new(principal) }]).unwrap();
    Rpc::new(authenticator, limits, Arc::new(SystemClock::new())).unwrap()
}

/// A server that was started.
pub(super) struct Running {
    pub(super) address: SocketAddr,
    pub(super) stub: Stub,
    pub(super) rpc: Rpc,
    pub(super) stop: oneshot::Sender<()>,
    pub(super) ended: JoinHandle<Result<DrainReport, ServeError>>,
}

/// A server with two workers.
pub(super) fn start(limits: ServerLimits, drain: Duration) -> Running {
    start_with(limits, drain, |builder| builder)
}

/// The same with more than the stub in it.
pub(super) fn start_with(
    limits: ServerLimits,
    drain: Duration,
    more: impl Fn(GatewayBuilder) -> GatewayBuilder + Send + Sync + 'static,
) -> Running {
    let (rpc, stub) = (rpc(limits), Stub::new());
    let (shared, each) = (rpc.clone(), stub.clone());
    let factory = move |worker| {
        let gateway = more(shared.gateway().keys(Stub { worker, ..each.clone() })).build();
        std::future::ready(Ok(gateway))
    };
    let listener = bind(([127, 0, 0, 1], 0).into(), "server.listen").unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel();
    let ended = tokio::spawn(serve(config(drain), rpc.clone(), factory, listener, stopped));
    Running { address, stub, rpc, stop, ended }
}

pub(super) fn started() -> Running {
    start(ServerLimits::default(), Duration::from_secs(30))
}

/// Stops a server and answers how that went.
pub(super) async fn stopped_within(server: Running, bound: Duration) -> DrainReport {
    let _ = server.stop.send(());
    tokio::time::timeout(bound, server.ended).await.expect("it ends in time").unwrap().unwrap()
}

pub(super) fn config(drain: Duration) -> ServeConfig {
    ServeConfig { workers: std::num::NonZeroUsize::new(2), drain, ..ServeConfig::default() }
}

pub(super) async fn serve<F, Made>(
    config: ServeConfig,
    rpc: Rpc,
    factory: F,
    listener: std::net::TcpListener,
    stopped: oneshot::Receiver<()>,
) -> Result<DrainReport, ServeError>
where
    F: Fn(usize) -> Made + Send + Sync + 'static,
    Made: Future<Output = Result<Gateway, String>>,
{
    let shutdown = async {
        let _ = stopped.await;
    };
    Server::new(config, rpc, factory).run(listener, shutdown).await
}

impl Running {
    pub(super) async fn channel(&self) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.address)).unwrap().connect().await.unwrap()
    }

    pub(super) async fn client(&self) -> KeyServiceClient<Channel> {
        KeyServiceClient::new(self.channel().await)
    }

    /// A JSON call over HTTP/1.1, with the token.
    pub(super) async fn json(&self, method: &str, body: &str) -> Http {
        self.json_with(method, "", body).await
    }

    pub(super) async fn json_with(&self, method: &str, headers: &str, body: &str) -> Http {
        self.http(&format!(
            "POST /{method} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {TOKEN}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n{headers}\r\n{body}",
            body.len()
        ))
        .await
    }

    /// What the server answers to these bytes until it closes the connection.
    pub(super) async fn http(&self, request: &str) -> Http {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        // It may answer and close before it has read all of a request that is too large.
        let _ = stream.write_all(request.as_bytes()).await;
        let mut answer = Vec::new();
        let reading = async {
            let mut chunk = [0; 4096];
            while let Ok(read @ 1..) = stream.read(&mut chunk).await {
                answer.extend_from_slice(&chunk[..read]);
            }
        };
        tokio::time::timeout(Duration::from_secs(30), reading).await.expect("the server closes the connection");
        Http::parse(&String::from_utf8(answer).unwrap())
    }

    pub(super) fn metrics(&self) -> String {
        let mut registry = prometheus_client::registry::Registry::with_prefix("keyclasp");
        self.rpc.metrics().register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        text
    }
}

/// An HTTP answer.
#[derive(Debug)]
pub(super) struct Http {
    pub(super) status: u16,
    pub(super) head: String,
    pub(super) body: String,
}

impl Http {
    fn parse(text: &str) -> Self {
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((text, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        Self { status, head: head.to_lowercase(), body: body.to_owned() }
    }

    pub(super) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// A request with the token.
pub(super) fn known<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {TOKEN}").parse().unwrap());
    request
}

pub(super) fn validate(api_key: &str) -> v1::ValidateKeyRequest {
    v1::ValidateKeyRequest { api_key: api_key.to_owned(), ..v1::ValidateKeyRequest::default() }
}
