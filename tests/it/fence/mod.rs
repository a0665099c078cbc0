//! The promise of fenced revocation, on every set-up of Redis that it is made for: what is taken away is gone
//! on every process when the call returns.
//!
//! Here processes are parts of the test, so that each of their steps can be held up; `processes` has what only
//! real ones can show, and `linear` what nobody thought of.

mod findings;
mod processes;
mod rules;
mod suite;
mod topologies;

use std::sync::Arc;
use std::time::Duration;

use keyclasp::clock::SystemClock;
use keyclasp::key::ApiKey;
use keyclasp::random::OsEntropy;
use keyclasp::service::validate::Outcome;
use keyclasp::store::redis::{RedisConfig, RedisStore, RedisUrl};
use keyclasp::store::{Epoch, Leases, Store};
use tokio::task::JoinHandle;

use crate::support::proxy::Proxy;
use crate::support::redis::{RedisServer, Replicated};
use crate::support::until;
use crate::support::world::World;

/// The term of leases in these tests.
const TERM: Duration = Duration::from_millis(300);

/// The servers that processes share.
struct Fleet {
    servers: Servers,
}

enum Servers {
    Standalone(RedisServer),
    /// Behind an address that moves.
    Replicated(Replicated, Proxy),
}

impl Fleet {
    async fn standalone() -> Self {
        Self { servers: Servers::Standalone(RedisServer::start()) }
    }

    async fn replicated() -> Self {
        let servers = Replicated::start();
        let proxy = Proxy::start(servers.primary.port());
        Self { servers: Servers::Replicated(servers, proxy) }
    }

    fn config(&self) -> RedisConfig {
        let (url, replicas) = match &self.servers {
            Servers::Standalone(server) => (server.url(), 0),
            Servers::Replicated(_, proxy) => (format!("redis://127.0.0.1:{}", proxy.port()), 1),
        };
        RedisConfig { replicas, lease: Some(TERM), ..RedisConfig::new(RedisUrl::parse(&url).unwrap()) }
    }

    /// The server that processes are led to at first.
    fn primary(&self) -> &RedisServer {
        match &self.servers {
            Servers::Standalone(server) => server,
            Servers::Replicated(servers, _) => &servers.primary,
        }
    }

    /// Another process, which holds a lease.
    async fn join(&self) -> Process {
        self.join_as(self.config()).await
    }

    async fn join_as(&self, config: RedisConfig) -> Process {
        let (entropy, clock) = (Arc::new(OsEntropy), Arc::new(SystemClock::new()));
        let redis = Arc::new(RedisStore::connect(config, entropy, clock).await.unwrap());
        let world = Arc::new(World::over(Arc::clone(&redis) as Arc<dyn Store>, Arc::new(SystemClock::new())));
        let following = tokio::spawn({
            let world = Arc::clone(&world);
            async move { world.records.follow().await }
        });
        let keeping = tokio::spawn(keep(Arc::clone(&redis), Arc::clone(&world)));
        let process = Process { redis, world, following, keeping };
        until("the process holds a lease", async || process.world.records.holds_all()).await;
        process
    }

    /// So many of them.
    async fn processes<const N: usize>(&self) -> [Process; N] {
        let mut processes = Vec::new();
        for _ in 0..N {
            processes.push(self.join().await);
        }
        processes.try_into().unwrap_or_else(|_| panic!("as many as were started"))
    }
}

/// Has the store checked again when its history changes, as the program does.
async fn keep(redis: Arc<RedisStore>, world: Arc<World>) {
    loop {
        let now = keyclasp::clock::Clock::now(&SystemClock::new());
        if let Ok(health) = redis.health(now).await
            && health.epochs != redis.checked()
            && redis.check().await.is_ok()
        {
            world.records.beat_now();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A process.
struct Process {
    redis: Arc<RedisStore>,
    world: Arc<World>,
    following: JoinHandle<()>,
    keeping: JoinHandle<()>,
}

impl Process {
    /// What a check comes to that begins now, or a little later: not at once where a lease was lost to a busy
    /// machine.
    async fn check(&self, text: &ApiKey) -> Outcome {
        let mut outcome = None;
        until("a check is answered", async || {
            outcome = self.world.try_check(text).await.ok();
            outcome.is_some()
        })
        .await;
        outcome.unwrap()
    }

    /// Whether a check that begins now lets the key pass.
    async fn accepts(&self, text: &ApiKey) -> bool {
        matches!(self.world.try_check(text).await, Ok(Outcome::Valid))
    }

    /// Has the key in memory.
    async fn warm(&self, text: &ApiKey) {
        assert_eq!(self.check(text).await, Outcome::Valid);
        until("the key is in memory", async || {
            let before = self.world.store.calls(crate::support::meddled::Verb::Get);
            self.check(text).await == Outcome::Valid
                && self.world.store.calls(crate::support::meddled::Verb::Get) == before
        })
        .await;
    }

    /// It falls silent: no beat, no log; what it has in memory stays.
    fn fall_silent(&self) {
        self.following.abort();
    }

    async fn epoch(&self) -> Epoch {
        self.redis.members(0).await.unwrap().epoch
    }

    async fn members(&self) -> usize {
        self.redis.members(0).await.unwrap().members.len()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.following.abort();
        self.keeping.abort();
    }
}
