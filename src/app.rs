//! The composition root: the only place that names concrete parts.
//!
//! Starts them, watches them, stops them. When a part dies, the process ends with an error rather
//! than go on half alive. SIGTERM: not ready, drain for a bounded time, then the store is closed.

mod keeper;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::keeper::Keeper;
use crate::clock::{Clock, SystemClock, Timestamp};
use crate::config::{Config, Lease, StoreUrl};
use crate::fence::{Fence, Member};
use crate::hash::Hasher;
use crate::random::{self, Entropy, OsEntropy};
use crate::rpc::admin::Admin;
use crate::rpc::audit::Audit;
use crate::rpc::auth::{Authenticator, Binding, Credential, TokenDigest};
use crate::rpc::envoy::{self, Authorization};
use crate::rpc::forward_auth;
use crate::rpc::gateway::{GatewayBuilder, Health, Rpc};
use crate::rpc::keys::Keys;
use crate::rpc::oauth2;
use crate::rpc::ops::{Ops, Readiness};
use crate::rpc::proxy::{Decider, Proxy, ProxyMetrics};
use crate::rpc::serve::{Server, bind};
use crate::service::{Parts, Service, ServiceMetrics};
use crate::store::embedded::{EmbeddedConfig, EmbeddedStore};
use crate::store::guarded::{Gate, Guarded};
use crate::store::promised::Promised;
use crate::store::redis::{RedisConfig, RedisStore};
use crate::store::{Epoch, Health as StoreHealth, Identity, MemberId, Store, StoreError};

/// Longest that giving back the leases may take.
const LEAVE: Duration = Duration::from_secs(3);
/// How often what has gone is swept out of an embedded store.
const SWEEP_EVERY: Duration = Duration::from_secs(5);
/// How much one sweep takes out, so that commits do not wait long behind it.
const SWEEP_LIMIT: usize = 512;

/// What runs once the service has started.
#[derive(Debug, Clone, Copy)]
pub struct Started {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Where it answers metrics and health.
    pub ops_listen: SocketAddr,
}

/// Runs the service until SIGTERM or SIGINT.
///
/// # Errors
/// When it cannot start, its store must not be used, or one of its parts dies.
pub fn run(config: Config, announce: impl FnOnce(&Started)) -> anyhow::Result<()> {
    config.log.start()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(config, announce))
}

/// Changes the term of leases in the store of `config`, while nobody uses it. Answers what and where that is.
///
/// # Errors
/// When there are no leases, or replicas are running; and when the store is out of reach or must not be used.
pub fn set_lease(mut config: Config, term: Duration) -> Result<Identity, StoreError> {
    let none = "the store is embedded, which one process has for itself: it needs no leases, and none are set";
    // Asked first: its file is not opened beside a service that runs.
    if matches!(config.store.target, StoreUrl::Embedded(_)) {
        return Err(StoreError::Refused(none.to_owned()));
    }
    let no_runtime = |error| StoreError::Unavailable(format!("no runtime could be started: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(no_runtime)?;
    // Whatever is configured.
    config.lease = None;
    let (entropy, clock): (Arc<dyn Entropy>, Arc<dyn Clock>) = (Arc::new(OsEntropy), Arc::new(SystemClock::new()));
    match Backend::open(&config, &entropy, &clock)? {
        Backend::Embedded(_) => Err(StoreError::Refused(none.to_owned())),
        Backend::Redis(store) => {
            runtime.block_on(store.set_lease(term))?;
            Ok(store.identity())
        }
    }
}

async fn serve(config: Config, announce: impl FnOnce(&Started)) -> anyhow::Result<()> {
    // From here on a signal is heard, however early it comes.
    let terminated = termination()?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let entropy: Arc<dyn Entropy> = Arc::new(OsEntropy);
    let loaded = config.keyring.load()?;

    let backend = Backend::open(&config, &entropy, &clock)?;
    let gate = Gate::closed();
    let guarded = Guarded::new(backend.store(), Arc::clone(&clock)).with_gate(gate.clone());
    let hasher = Hasher::new(loaded.keyring.clone(), config.hash, &*entropy)?;
    let metrics = ServiceMetrics::new();

    let mut registry = Registry::with_prefix("keyclasp");
    register_build(&mut registry);
    guarded.register(&mut registry);
    let promised = Promised::default();
    promised.register(&mut registry);
    metrics.register(&mut registry);
    hasher.register(&mut registry);

    let store: Arc<dyn Store> = Arc::new(guarded);
    let member = Member { id: MemberId(random::bytes(&*entropy)?), clock: Arc::clone(&clock) };
    let records = Arc::new(Fence::new(Arc::clone(&store), config.cache_bytes, member));
    records.register(&mut registry);
    let service = Service::new(Parts {
        store,
        records: Arc::clone(&records),
        hasher: Arc::new(hasher),
        clock: Arc::clone(&clock),
        entropy,
        policies: config.realms,
        retention: config.keys.retention,
        metrics,
    });
    let bindings = config.callers.into_iter().map(|caller| Binding {
        credential: Credential::Token(TokenDigest::from_bytes(caller.token_sha256)),
        principal: Arc::new(caller.principal),
    });
    let rpc = Rpc::new(Authenticator::new(bindings)?, config.server.limits(), Arc::clone(&clock))?;
    rpc.metrics().register(&mut registry);
    let proxies = config.proxies;
    let asked = ProxyMetrics::new();
    asked.register(&mut registry);
    let envoy = Authorization::new(
        Decider::new(service.clone(), proxies.envoy, asked.clone(), Proxy::Envoy),
        envoy::Limits { message_bytes: proxies.envoy_message_bytes, outage_is_error: proxies.envoy_outage_is_error },
    );
    let mut endpoints = oauth2::endpoints(&service, config.issuer.as_ref(), rpc.limits().message_bytes);
    if !proxies.forward_auth_peers.is_empty() {
        let decider = Decider::new(service.clone(), proxies.forward_auth, asked, Proxy::ForwardAuth);
        endpoints.push(forward_auth::endpoint(decider, proxies.forward_auth_peers)?);
    }
    let gateways = {
        let rpc = rpc.clone();
        move |_worker| {
            let gateway = rpc
                .gateway()
                .keys(Keys::new(service.clone()))
                .audit(Audit::new(service.clone()))
                .admin(Admin::new(service.clone()))
                .envoy(envoy.clone());
            let gateway = endpoints.iter().cloned().fold(gateway, GatewayBuilder::endpoint);
            std::future::ready(Ok(gateway.build()))
        }
    };
    let listener = bind(config.server.listen, "server.listen")?;
    let ops_listener = bind(config.server.ops_listen, "server.ops_listen")?;
    let started = Started { listen: listener.local_addr()?, ops_listen: ops_listener.local_addr()? };

    let (said, ready) = watch::channel(Readiness::NotReady("the store has not answered yet".to_owned()));
    let speaker = Speaker { said, health: rpc.health().clone() };
    // SIGTERM was seen; and then: no more calls. The ops port goes on until the drain is over.
    let (stopping, accepting) = (CancellationToken::new(), CancellationToken::new());
    let mut parts = Watched::default();
    let (done, drained) = oneshot::channel();
    parts.watch("the API server", {
        let server = Server::new(config.server.serving(), rpc.clone(), gateways);
        let accepting = accepting.clone();
        async move {
            let report = server.run(listener, accepting.cancelled_owned()).await?;
            let _ = done.send(report);
            Ok(())
        }
    });
    let ops = Ops::new(Arc::new(registry), ready);
    parts.watch("the ops server", async move { Ok(ops.run(ops_listener, std::future::pending()).await?) });
    parts.watch("the watch over the store", {
        let keeper = Keeper {
            backend: backend.clone(),
            loaded,
            require_durable: config.store.require_durable,
            clock: Arc::clone(&clock),
            records: Arc::clone(&records),
            speaker: speaker.clone(),
            gate,
            promised,
        };
        let stopping = stopping.clone();
        async move { stopping.run_until_cancelled_owned(keeper.run()).await.unwrap_or(Ok(())) }
    });
    let (left, gone) = oneshot::channel();
    parts.watch("the watch over the leases", {
        let records = Arc::clone(&records);
        async move {
            records.follow().await;
            let _ = left.send(());
            Ok(())
        }
    });
    if let Backend::Embedded(store) = &backend {
        let died = store.writer_died();
        parts.watch("the writer of the store", async move {
            died.await;
            Ok(())
        });
        parts.watch("the sweeper of the store", sweep(Arc::clone(store), clock));
    }
    announce(&started);
    tracing::info!(listen = %started.listen, ops = %started.ops_listen, store = %backend.store().identity().location, "started");

    tokio::select! {
        ended = parts.first_to_end() => return Err(ended),
        signal = terminated => tracing::info!(signal, "stopping"),
    }
    // First, so that the watch over the store does not say otherwise while calls end.
    stopping.cancel();
    speaker.say(Readiness::NotReady("the service is stopping".to_owned())).await;
    accepting.cancel();
    let report = drained.await.context("the API server did not say how it ended")?;
    // After the last answer: from here on nobody has to wait for this process.
    records.leave();
    if records.term().is_some() && tokio::time::timeout(LEAVE, gone).await.is_err() {
        tracing::warn!("the leases were not given back in time: the next revocation waits for their end");
    }
    tracing::info!(dropped = report.dropped, "stopped");
    Ok(())
}

/// The concrete store.
#[derive(Clone)]
enum Backend {
    Embedded(Arc<EmbeddedStore>),
    Redis(Arc<RedisStore>),
}

impl Backend {
    fn open(config: &Config, entropy: &Arc<dyn Entropy>, clock: &Arc<dyn Clock>) -> Result<Self, StoreError> {
        let (config, lease) = (&config.store, config.lease.map(Lease::get));
        match &config.target {
            StoreUrl::Embedded(dir) => {
                let config = EmbeddedConfig {
                    audit_max_events: config.audit_max_events,
                    log_max_entries: config.log_max_entries,
                    ..EmbeddedConfig::new(dir)
                };
                Ok(Self::Embedded(Arc::new(config.open(&**entropy)?)))
            }
            StoreUrl::Redis(url) => {
                let config = RedisConfig {
                    shards: config.shards,
                    replicas: config.replicas,
                    wait: config.wait,
                    lease,
                    audit_max_events: u32::try_from(config.audit_max_events).unwrap_or(u32::MAX),
                    log_max_entries: u32::try_from(config.log_max_entries).unwrap_or(u32::MAX),
                    ..RedisConfig::new(url.clone())
                };
                Ok(Self::Redis(Arc::new(RedisStore::new(config, Arc::clone(entropy), Arc::clone(clock))?)))
            }
        }
    }

    fn store(&self) -> Arc<dyn Store> {
        match self {
            Self::Embedded(store) => Arc::clone(store) as Arc<dyn Store>,
            Self::Redis(store) => Arc::clone(store) as Arc<dyn Store>,
        }
    }

    /// Whether the store may be used at all: asked before it is first used, and after it was away.
    async fn check(&self) -> Result<(), StoreError> {
        match self {
            Self::Embedded(_) => Ok(()),
            Self::Redis(store) => store.check().await,
        }
    }

    /// As much of [`Store::health`] as has to be asked for all the time: the epochs may be those of some shards.
    async fn glance(&self, now: Timestamp) -> Result<StoreHealth, StoreError> {
        match self {
            Self::Embedded(store) => store.health(now).await,
            Self::Redis(store) => store.glance().await,
        }
    }

    /// Waits until a call was told of another history than those that passed the last check.
    async fn changed(&self) {
        match self {
            Self::Embedded(_) => std::future::pending().await,
            Self::Redis(store) => store.changed().await,
        }
    }

    /// The histories that passed the last check, where a store can come to have others.
    fn checked(&self) -> Option<Vec<Epoch>> {
        match self {
            Self::Embedded(_) => None,
            Self::Redis(store) => Some(store.checked()),
        }
    }
}

/// Says whether this process serves: on the ops port and in `grpc.health.v1`.
#[derive(Clone)]
struct Speaker {
    said: watch::Sender<Readiness>,
    health: Health,
}

impl Speaker {
    async fn say(&self, readiness: Readiness) {
        match &readiness {
            Readiness::Ready => tracing::info!("ready"),
            Readiness::NotReady(why) => tracing::warn!(why, "not ready"),
        }
        let ready = readiness == Readiness::Ready;
        let before = self.said.send_replace(readiness);
        // Who watches is told of changes alone; another reason is none.
        if ready != (before == Readiness::Ready) {
            self.health.set_serving(ready).await;
        }
    }
}

/// Takes out of an embedded store what has gone, a little at a time.
async fn sweep(store: Arc<EmbeddedStore>, clock: Arc<dyn Clock>) -> anyhow::Result<()> {
    let mut ticks = tokio::time::interval(SWEEP_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match store.sweep(clock.now(), SWEEP_LIMIT).await {
            // More is left: next time sooner, but not at once, so that commits come in between.
            Ok(swept) if swept.more => ticks.reset_after(Duration::from_millis(50)),
            Ok(_) => {}
            // A full or failing disk shows in every commit; sweeping tries again.
            Err(error) => tracing::warn!(%error, "nothing was swept"),
        }
    }
}

/// Tasks that must not end while the service runs.
#[derive(Default)]
struct Watched {
    tasks: JoinSet<(&'static str, anyhow::Result<()>)>,
}

impl Watched {
    fn watch(&mut self, name: &'static str, task: impl Future<Output = anyhow::Result<()>> + Send + 'static) {
        self.tasks.spawn(async move { (name, task.await) });
    }

    /// Waits until one of them has ended, and says why.
    async fn first_to_end(&mut self) -> anyhow::Error {
        match self.tasks.join_next().await {
            Some(Ok((_, Err(error)))) => error,
            Some(Ok((name, Ok(())))) => anyhow::anyhow!("{name} ended, and with it the service"),
            Some(Err(died)) => anyhow::anyhow!("a part of the service died: {died}"),
            None => anyhow::anyhow!("no part of the service was started"),
        }
    }
}

/// SIGTERM or SIGINT. SIGHUP, which asks for changed files to be read again, must not end the
/// service; it says that it does not do that yet.
fn termination() -> anyhow::Result<impl Future<Output = &'static str>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => return "SIGTERM",
                _ = interrupt.recv() => return "SIGINT",
                Some(()) = hangup.recv() => {
                    tracing::warn!("SIGHUP: this version reads its files only at start; restart it to have them read");
                }
            }
        }
    })
}

fn register_build(registry: &mut Registry) {
    let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
    registry.register("build", "The program that runs", build);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_part_that_ends_fails_or_panics_ends_the_service() {
        let mut parts = Watched::default();
        parts.watch("a part that goes on", std::future::pending());
        parts.watch("a part", std::future::ready(Ok(())));
        assert_eq!(parts.first_to_end().await.to_string(), "a part ended, and with it the service");
        parts.watch("a part", std::future::ready(Err(anyhow::anyhow!("its reason"))));
        assert_eq!(parts.first_to_end().await.to_string(), "its reason");
        parts.watch("a part", async { panic!("a bug") });
        assert!(parts.first_to_end().await.to_string().starts_with("a part of the service died"));
    }
}
