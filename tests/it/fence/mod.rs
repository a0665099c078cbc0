//! The promise of fenced revocation, on every set-up that it is made for: what is taken away is gone on every
//! process when the call returns.
//!
//! Here processes are parts of the test, so that each of their steps can be held up; `processes` has what only
//! real ones can show, and `linear` what nobody thought of.

mod documented;
mod findings;
mod outages;
mod processes;
mod rules;
mod suite;
mod topologies;

use std::sync::Arc;
use std::time::Duration;

use keyclasp::clock::SystemClock;
use keyclasp::fence::Standing;
use keyclasp::key::{ApiKey, KeyId};
use keyclasp::random::OsEntropy;
use keyclasp::service::Fence;
use keyclasp::service::validate::Outcome;
use keyclasp::store::embedded::EmbeddedConfig;
use keyclasp::store::redis::{RedisConfig, RedisStore, RedisUrl, Shards};
use keyclasp::store::{Beaten, Epoch, Leases, Store, shard_of};
use tokio::task::JoinHandle;

use crate::support::meddled::Verb;
use crate::support::proxy::Proxy;
use crate::support::redis::{RedisServer, Replicated};
use crate::support::world::World;
use crate::support::{TempDir, until};

/// The term of leases in these tests.
const TERM: Duration = Duration::from_millis(300);
/// Shards where there is more than one.
const SHARDS: u16 = 4;

/// What processes share.
enum Fleet {
    /// A directory, which the only process there is has locked.
    Embedded(Alone),
    Standalone(RedisServer),
    /// With [`SHARDS`] shards.
    Sharded(RedisServer),
    /// Behind an address that moves.
    Replicated(Replicated, Proxy),
}

/// A process that has the store to itself.
struct Alone {
    world: Arc<World>,
    store: Arc<dyn Store>,
    /// Outlives the store.
    _dir: TempDir,
}

impl Fleet {
    async fn embedded() -> Self {
        let dir = TempDir::new();
        let store: Arc<dyn Store> = Arc::new(EmbeddedConfig::new(dir.path()).open(&OsEntropy).unwrap());
        let world = Arc::new(World::over(Arc::clone(&store), Arc::new(SystemClock::new())));
        Self::Embedded(Alone { world, store, _dir: dir })
    }

    async fn standalone() -> Self {
        Self::Standalone(RedisServer::start())
    }

    async fn sharded() -> Self {
        Self::Sharded(RedisServer::start())
    }

    async fn replicated() -> Self {
        let servers = Replicated::start();
        let proxy = Proxy::start(servers.primary.port());
        Self::Replicated(servers, proxy)
    }

    fn config(&self) -> RedisConfig {
        let (url, replicas) = match self {
            Self::Embedded(_) => panic!("there is no Redis"),
            Self::Standalone(server) | Self::Sharded(server) => (server.url(), 0),
            Self::Replicated(_, proxy) => (format!("redis://127.0.0.1:{}", proxy.port()), 1),
        };
        let shards = Shards::parse(if matches!(self, Self::Sharded(_)) { SHARDS } else { 1 }).unwrap();
        RedisConfig { shards, replicas, lease: Some(TERM), ..RedisConfig::new(RedisUrl::parse(&url).unwrap()) }
    }

    /// The server that processes are led to at first.
    fn primary(&self) -> &RedisServer {
        match self {
            Self::Embedded(_) => panic!("there is no Redis"),
            Self::Standalone(server) | Self::Sharded(server) => server,
            Self::Replicated(servers, _) => &servers.primary,
        }
    }

    /// Another process, which holds a lease; on the embedded store the same again, which needs none.
    async fn join(&self) -> Process {
        match self {
            Self::Embedded(Alone { world, store, .. }) => {
                Process { world: Arc::clone(world), store: Arc::clone(store), membership: None }
            }
            Self::Standalone(_) | Self::Sharded(_) | Self::Replicated(..) => self.join_as(self.config()).await,
        }
    }

    async fn join_as(&self, config: RedisConfig) -> Process {
        let (entropy, clock) = (Arc::new(OsEntropy), Arc::new(SystemClock::new()));
        let redis = Arc::new(RedisStore::connect(config, entropy, clock).await.unwrap());
        let store = Arc::clone(&redis) as Arc<dyn Store>;
        let world = Arc::new(World::over(Arc::clone(&store), Arc::new(SystemClock::new())));
        let following = tokio::spawn({
            let world = Arc::clone(&world);
            async move { world.records.follow().await }
        });
        let keeping = tokio::spawn(keep(Arc::clone(&redis), Arc::clone(&world)));
        let process = Process { world, store, membership: Some(Membership { redis, following, keeping }) };
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

    /// Whether others may answer from memory too, by a lease.
    const fn has_leases(&self) -> bool {
        !matches!(self, Self::Embedded(_))
    }

    /// So many members, where there are any: for the embedded store nobody has to be waited for.
    const fn members(&self, members: u32) -> u32 {
        if self.has_leases() { members } else { 0 }
    }

    /// So many leases had to end before the change was answered, where there are any.
    #[track_caller]
    fn assert_lapsed(&self, fence: &Fence, lapsed: u32) {
        assert_eq!(fence.lapsed, self.members(lapsed), "{fence:?}");
        assert!(self.has_leases() || fence.acknowledged == 0, "{fence:?}");
        assert!(fence.position > 0, "{fence:?}");
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

/// A process; on the embedded store, one who calls the only one.
struct Process {
    world: Arc<World>,
    /// Its store, with which nobody meddles.
    store: Arc<dyn Store>,
    /// None where there are no leases.
    membership: Option<Membership>,
}

/// What a process among others holds a lease with.
struct Membership {
    redis: Arc<RedisStore>,
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
            let before = self.world.store.calls(Verb::Get);
            self.check(text).await == Outcome::Valid && self.world.store.calls(Verb::Get) == before
        })
        .await;
    }

    /// The shard of a key.
    fn shard_of(&self, key: KeyId) -> u16 {
        shard_of(key.bucket(), self.store.shards())
    }

    /// The position of the last change in the log of the key's shard.
    async fn tail(&self, key: KeyId) -> u64 {
        self.store.log(self.shard_of(key), None, 1).await.unwrap().tail
    }

    /// It falls silent: no beat, no log; what it has in memory stays. On the embedded store it does neither anyway.
    fn fall_silent(&self) {
        if let Some(membership) = &self.membership {
            membership.following.abort();
        }
    }

    /// Its Redis, where there is one.
    fn redis(&self) -> &RedisStore {
        &self.membership.as_ref().expect("a process among others").redis
    }

    /// How it stands in the shard of a key, where there are leases.
    fn standing(&self, key: KeyId) -> Standing {
        self.world.records.standings()[usize::from(self.shard_of(key))].clone()
    }

    /// Who holds leases in the shard of a key, where there are any.
    async fn shard(&self, key: KeyId) -> Beaten {
        self.redis().members(self.shard_of(key)).await.unwrap()
    }

    /// The history of the key's shard, where there are leases.
    async fn epoch(&self, key: KeyId) -> Epoch {
        self.shard(key).await.epoch
    }

    /// How many hold leases in the shard of a key, where there are any.
    async fn members(&self, key: KeyId) -> usize {
        self.shard(key).await.members.len()
    }

    /// Waits until it has applied and acknowledged what there is, and is doing nothing about it any more: what is
    /// read from now on stays in memory.
    async fn up_to_date(&self) {
        let records = &self.world.records;
        until("all has been applied", async || records.standings().iter().all(|standing| standing.lag == 0)).await;
        // Shards beat equally often, but not in step.
        let beats = self.world.store.calls(Verb::Beat) + 2 * u64::from(self.store.shards());
        until("it beats", async || self.world.store.calls(Verb::Beat) > beats).await;
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.following.abort();
        self.keeping.abort();
    }
}
