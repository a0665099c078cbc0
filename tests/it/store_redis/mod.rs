//! The store on Redis: the conformance suite on one and on four shards, and what only a server
//! that is emptied, filled, stopped, frozen and replaced can show.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use keyclasp::clock::{Clock, SystemClock, Timestamp};
use keyclasp::key::{KeyId, KeyRecord, PepperId};
use keyclasp::random::OsEntropy;
use keyclasp::store::conformance::Harness;
use keyclasp::store::conformance::sample::{self, DAY, Holder, SECOND, holder};
use keyclasp::store::guarded::Guarded;
use keyclasp::store::redis::{RedisConfig, RedisStore, RedisUrl, Shards};
use keyclasp::store::{
    AuditFilter, AuditQuery, Beat, Commit, Durability, Effect, Epoch, Leases as _, ListQuery, LogCursor, LogPage,
    Member, MemberId, Outcome, Store, StoreError, Write, shard_of,
};

use crate::support::redis::RedisServer;
use crate::support::until;

struct OnRedis {
    server: RedisServer,
    store: Arc<RedisStore>,
}

#[async_trait]
impl Harness for OnRedis {
    fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }

    fn now(&self) -> Timestamp {
        SystemClock::new().now()
    }

    async fn plant(&self, id: KeyId, bytes: &[u8]) {
        self.server.set(&record_key(id, self.store.shards()), bytes);
    }
}

fn record_key(id: KeyId, shards: u16) -> String {
    format!("kc:{{s{:02x}}}:k:{id}", shard_of(id.bucket(), shards))
}

fn config(server: &RedisServer, shards: u16) -> RedisConfig {
    let url = RedisUrl::parse(&server.url()).unwrap();
    RedisConfig { shards: Shards::parse(shards).unwrap(), ..RedisConfig::new(url) }
}

async fn connect(config: RedisConfig) -> Result<Arc<RedisStore>, StoreError> {
    RedisStore::connect(config, Arc::new(OsEntropy), Arc::new(SystemClock::new())).await.map(Arc::new)
}

async fn start(settings: &[&str]) -> OnRedis {
    let server = RedisServer::start_with(settings);
    let store = connect(config(&server, 1)).await.unwrap();
    OnRedis { server, store }
}

async fn on_one_shard() -> OnRedis {
    start(&[]).await
}

async fn on_four_shards() -> OnRedis {
    let server = RedisServer::start();
    let store = connect(config(&server, 4)).await.unwrap();
    OnRedis { server, store }
}

/// Behind the decorator that every store of a service is behind.
struct GuardedOnRedis {
    inner: OnRedis,
    store: Arc<Guarded>,
}

#[async_trait]
impl Harness for GuardedOnRedis {
    fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }

    fn now(&self) -> Timestamp {
        self.inner.now()
    }

    async fn plant(&self, id: KeyId, bytes: &[u8]) {
        self.inner.plant(id, bytes).await;
    }
}

async fn guarded_on_four_shards() -> GuardedOnRedis {
    let inner = on_four_shards().await;
    let store = Arc::new(Guarded::new(inner.store.clone(), Arc::new(SystemClock::new())));
    GuardedOnRedis { inner, store }
}

mod addresses;
mod histories;
mod keys;
mod leases;
mod outages;
mod replicas;
mod server;

mod one_shard {
    keyclasp::store_conformance!(super::on_one_shard);
    keyclasp::store_conformance!(leases super::on_one_shard);
}

mod four_shards {
    keyclasp::store_conformance!(super::on_four_shards);
    keyclasp::store_conformance!(leases super::on_four_shards);
}

mod guarded {
    keyclasp::store_conformance!(leases super::guarded_on_four_shards);
}

fn ada() -> Holder {
    holder("acme", "ada")
}

fn now() -> Timestamp {
    SystemClock::new().now()
}

async fn create(store: &RedisStore, record: &KeyRecord) -> LogCursor {
    done(store, &sample::create(record)).await
}

async fn done(store: &RedisStore, commit: &Commit) -> LogCursor {
    match store.commit(commit, now()).await.unwrap() {
        Outcome::Done(done) => done.at,
        other => panic!("{other:?}"),
    }
}

fn revoke(record: &KeyRecord) -> Commit {
    let revoked = sample::revoked(record, now());
    Commit { effect: Effect::TakesAway, ..sample::update(&revoked) }
}

/// Every verb once, each bounded by far less than for ever; those that did not fail, by name.
async fn verbs_that_answer(store: &RedisStore) -> Vec<&'static str> {
    let record = ada().record(77, now());
    let filter = AuditFilter::default();
    let audit = AuditQuery { shard: 0, after: None, newest_first: false, filter, limit: 1 };
    let mut answered = Vec::new();
    macro_rules! verb {
        ($name:literal, $call:expr) => {
            match tokio::time::timeout(Duration::from_secs(10), $call).await.expect($name) {
                Ok(_) => answered.push($name),
                Err(StoreError::Unavailable(_)) => {}
                Err(other) => panic!("{}: {other:?}", $name),
            }
        };
    }
    verb!("get", store.get(record.id, now()));
    verb!("commit", store.commit(&sample::create(&record), now()));
    verb!("idempotency", store.idempotency(0, [1; 32], now()));
    verb!("list", store.list(&ada().list(5), now()));
    verb!("list realm", store.list(&ada().list_realm(5), now()));
    verb!("audit", store.audit(&audit));
    verb!("log", store.log(0, None, 1));
    verb!("scan", store.scan(None, now()));
    verb!("pepper_checks", store.pepper_checks());
    verb!("add_pepper_check", store.add_pepper_check(&PepperId::parse("p").unwrap(), [1; 32]));
    verb!("remove_pepper_check", store.remove_pepper_check(&PepperId::parse("p").unwrap()));
    let epoch = store.checked().first().copied().unwrap_or(Epoch([0; 32]));
    let member = Member { id: MemberId([1; 16]), beat: 1, applied: 0 };
    let beat = |confirmed| Beat { member: member.id, number: 1, applied: None, confirmed };
    verb!("beat", store.beat(0, &beat(true)));
    verb!("beat, not confirmed", store.beat(0, &beat(false)));
    verb!("members", store.members(0));
    verb!("settle", store.settle(0, epoch));
    verb!("barrier", store.barrier(0));
    verb!("remove", store.remove(0, epoch, &member));
    verb!("release", store.release(0, member.id));
    verb!("health", store.health(now()));
    verb!("check", store.check());
    answered
}

const VERBS: usize = 20;
