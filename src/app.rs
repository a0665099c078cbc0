//! The composition root: the only place that names concrete parts.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;

use crate::clock::{Clock, SystemClock};
use crate::config::{Config, StoreUrl};
use crate::hash::Hasher;
use crate::random::{Entropy, OsEntropy};
use crate::rpc::auth::{Authenticator, Binding, Credential, TokenDigest};
use crate::rpc::gateway::Gateway;
use crate::service::{Parts, Service, ServiceMetrics, keyring};
use crate::store::Store;
use crate::store::embedded::EmbeddedConfig;

/// What runs once the service has started.
#[derive(Debug, Clone, Copy)]
pub struct Started {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Where it answers metrics and health.
    pub ops_listen: SocketAddr,
}

/// Runs the service until SIGTERM.
///
/// # Errors
/// When it cannot start, or one of its parts dies.
pub fn run(config: Config, announce: impl FnOnce(&Started)) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(serve(config, announce))
}

async fn serve(config: Config, announce: impl FnOnce(&Started)) -> anyhow::Result<()> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let entropy: Arc<dyn Entropy> = Arc::new(OsEntropy);
    let loaded = config.keyring.load()?;
    let StoreUrl::Embedded(dir) = &config.store.target else { anyhow::bail!("only the embedded store is wired yet") };
    let store: Arc<dyn Store> = Arc::new(EmbeddedConfig::new(dir).open(&*entropy)?);
    keyring::reconcile(&*store, &loaded.keyring, &loaded.retired).await?;
    let service = Service::new(Parts {
        store,
        hasher: Arc::new(Hasher::new(loaded.keyring, config.hash, &*entropy)?),
        clock,
        entropy,
        policies: config.realms,
        retention: config.keys.retention,
        metrics: ServiceMetrics::new(),
    });
    let bindings = config.callers.into_iter().map(|caller| Binding {
        credential: Credential::Token(TokenDigest::from_bytes(caller.token_sha256)),
        principal: Arc::new(caller.principal),
    });
    let gateway = Gateway::new(&service, Arc::new(Authenticator::new(bindings)?));
    let listener = tokio::net::TcpListener::bind(config.server.listen).await.context("server.listen")?;
    announce(&Started { listen: listener.local_addr()?, ops_listen: config.server.ops_listen });
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    loop {
        let (stream, peer) = tokio::select! {
            accepted = listener.accept() => accepted?,
            _ = terminate.recv() => return Ok(()),
        };
        stream.set_nodelay(true)?;
        let (gateway, origin): (_, Arc<str>) = (gateway.clone(), peer.ip().to_string().into());
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let (gateway, origin) = (gateway.clone(), Arc::clone(&origin));
                async move { gateway.answer(request, origin).await }
            });
            let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
        });
    }
}
