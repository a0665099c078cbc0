//! Records answered from memory: what the store is asked, and that nothing old is ever answered.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use keyclasp::clock::{Clock, ManualClock, SystemClock, Timestamp};
use keyclasp::fence::Fence;
use keyclasp::hash::{Hasher, Keyring, Pepper};
use keyclasp::key::codec::IdempotencyEntry;
use keyclasp::key::{
    Actor, ApiKey, Argon2Profile, Caps, Draft, KeyId, Lifetime, OwnerKind, OwnerRef, PepperId, Realm, Reason,
    SecretBytes,
};
use keyclasp::random::OsEntropy;
use keyclasp::service::access::{Call, Grant, Principal, Realms, Role};
use keyclasp::service::validate::{Check, Outcome as Decided};
use keyclasp::service::{Parts, Policies, Service, ServiceMetrics};
use keyclasp::store::embedded::EmbeddedConfig;
use keyclasp::store::{
    AuditPage, AuditQuery, Commit, Found, Health, Identity, ListPage, ListQuery, LogCursor, LogPage, Observer, Outcome,
    ScanCursor, ScanPage, Store, StoreError,
};
use tokio::sync::Semaphore;

use crate::support::TempDir;
use crate::support::api::member;

/// A store whose reads are counted and can be held up after they have read.
#[derive(Debug)]
struct Watched {
    store: Arc<dyn Store>,
    reads: AtomicU64,
    slow: AtomicBool,
    /// A permit for each slow read that has read.
    read: Semaphore,
    /// A permit for each that may answer.
    answer: Semaphore,
}

#[async_trait]
impl Store for Watched {
    async fn get(&self, id: KeyId, now: Timestamp) -> Result<Option<Found>, StoreError> {
        let found = self.store.get(id, now).await;
        self.reads.fetch_add(1, Ordering::SeqCst);
        if self.slow.load(Ordering::SeqCst) {
            self.read.add_permits(1);
            self.answer.acquire().await.unwrap().forget();
        }
        found
    }
    async fn commit(&self, commit: &Commit, now: Timestamp) -> Result<Outcome, StoreError> {
        self.store.commit(commit, now).await
    }
    async fn idempotency(
        &self,
        bucket: u8,
        slot: [u8; 32],
        now: Timestamp,
    ) -> Result<Option<IdempotencyEntry>, StoreError> {
        self.store.idempotency(bucket, slot, now).await
    }
    async fn list(&self, query: &ListQuery, now: Timestamp) -> Result<ListPage, StoreError> {
        self.store.list(query, now).await
    }
    async fn audit(&self, query: &AuditQuery) -> Result<AuditPage, StoreError> {
        self.store.audit(query).await
    }
    async fn log(&self, shard: u16, after: Option<LogCursor>, limit: usize) -> Result<LogPage, StoreError> {
        self.store.log(shard, after, limit).await
    }
    async fn scan(&self, cursor: Option<ScanCursor>, now: Timestamp) -> Result<ScanPage, StoreError> {
        self.store.scan(cursor, now).await
    }
    async fn pepper_checks(&self) -> Result<Vec<(PepperId, [u8; 32])>, StoreError> {
        self.store.pepper_checks().await
    }
    async fn add_pepper_check(&self, id: &PepperId, check: [u8; 32]) -> Result<[u8; 32], StoreError> {
        self.store.add_pepper_check(id, check).await
    }
    async fn remove_pepper_check(&self, id: &PepperId) -> Result<(), StoreError> {
        self.store.remove_pepper_check(id).await
    }
    async fn health(&self, now: Timestamp) -> Result<Health, StoreError> {
        self.store.health(now).await
    }
    fn observe(&self, observer: Arc<dyn Observer>) -> bool {
        self.store.observe(observer)
    }
    fn shards(&self) -> u16 {
        self.store.shards()
    }
    fn identity(&self) -> Identity {
        self.store.identity()
    }
}

struct World {
    service: Service,
    store: Arc<Watched>,
    hasher: Arc<Hasher>,
    call: Call,
    _dir: TempDir,
}

impl World {
    fn new(clock: Arc<dyn Clock>) -> Self {
        let dir = TempDir::new();
        let store = Arc::new(Watched {
            store: Arc::new(EmbeddedConfig::new(dir.path()).open(&OsEntropy).unwrap()),
            reads: AtomicU64::new(0),
            slow: AtomicBool::new(false),
            read: Semaphore::new(0),
            answer: Semaphore::new(0),
        });
        let id = PepperId::parse("p1").unwrap();
        let keyring = Keyring::new(vec![Pepper::new(id.clone(), &SecretBytes::new([7; 32]))], &id).unwrap();
        let hasher = Arc::new(Hasher::new(keyring, Argon2Profile { m_kib: 8, t: 1, p: 1 }, &OsEntropy).unwrap());
        let dynamic = Arc::clone(&store) as Arc<dyn Store>;
        let service = Service::new(Parts {
            records: Arc::new(Fence::new(Arc::clone(&dynamic), 64 << 20, member())),
            store: dynamic,
            hasher: Arc::clone(&hasher),
            clock,
            entropy: Arc::new(OsEntropy),
            policies: Policies::default(),
            retention: Duration::from_secs(3600),
            metrics: ServiceMetrics::new(),
        });
        let principal = Principal {
            name: Actor::parse("tester").unwrap(),
            grants: vec![Grant { role: Role::Admin, realms: Realms::All }],
            caps: Caps::default(),
        };
        let call = Call { principal: Arc::new(principal), origin: "192.0.2.1".into(), ends: None };
        Self { service, store, hasher, call, _dir: dir }
    }

    async fn key(&self, lifetime: Option<Lifetime>) -> (KeyId, ApiKey) {
        let draft = Draft {
            realm: Realm::parse("acme").unwrap(),
            owner: keyclasp::key::Owner {
                reference: OwnerRef::parse(OwnerKind::External, "ada").unwrap(),
                display_name: keyclasp::key::Name::parse("").unwrap(),
            },
            name: keyclasp::key::Name::parse("a key").unwrap(),
            description: keyclasp::key::Description::parse("").unwrap(),
            scopes: keyclasp::key::Scopes::parse(&[] as &[&str]).unwrap(),
            lifetime,
            not_before: None,
            allowed_cidrs: keyclasp::key::Cidrs::parse(&[] as &[&str]).unwrap(),
            allowed_principals: keyclasp::key::Principals::parse(&[] as &[&str]).unwrap(),
            metadata: keyclasp::key::Metadata::parse(std::iter::empty::<(&str, &str)>()).unwrap(),
        };
        let created = self.service.keys.create(&self.call, draft, None).await.unwrap();
        (created.key.record.id, created.text.unwrap())
    }

    async fn check(&self, text: &ApiKey) -> Decided {
        let check = Check { text, realm: None, required_scopes: &[], source_address: None, source_principal: None };
        self.service.validator.validate(&self.call, &check).await.unwrap().outcome
    }

    /// The version of the record that a check sees.
    async fn version(&self, text: &ApiKey) -> u64 {
        let check = Check { text, realm: None, required_scopes: &[], source_address: None, source_principal: None };
        let checked = self.service.validator.validate(&self.call, &check).await.unwrap();
        checked.record.unwrap().record().version
    }

    async fn revoke(&self, id: KeyId) {
        let reason = Reason::parse("").unwrap();
        self.service.keys.revoke(&self.call, id, reason, None).await.unwrap();
    }

    async fn suspend(&self, id: KeyId) {
        self.service.keys.suspend(&self.call, id, Reason::parse("").unwrap(), None).await.unwrap();
    }

    async fn resume(&self, id: KeyId) {
        self.service.keys.resume(&self.call, id, Reason::parse("").unwrap()).await.unwrap();
    }

    fn reads(&self) -> u64 {
        self.store.reads.load(Ordering::SeqCst)
    }
}

fn system() -> Arc<dyn Clock> {
    Arc::new(SystemClock::new())
}

#[tokio::test]
async fn a_key_that_was_checked_is_checked_again_without_the_store_and_without_argon2() {
    let world = World::new(system());
    let (_, text) = world.key(None).await;
    assert_eq!(world.check(&text).await, Decided::Valid);
    let (reads, runs) = (world.reads(), world.hasher.argon2_runs());
    for _ in 0..10 {
        assert_eq!(world.check(&text).await, Decided::Valid);
    }
    assert_eq!((world.reads(), world.hasher.argon2_runs()), (reads, runs));
}

#[tokio::test]
async fn each_change_is_seen_by_the_next_check() {
    let world = World::new(system());
    let (id, text) = world.key(None).await;
    assert_eq!(world.check(&text).await, Decided::Valid);
    world.suspend(id).await;
    assert_eq!(world.check(&text).await, Decided::Suspended);
    world.resume(id).await;
    assert_eq!(world.check(&text).await, Decided::Valid);
    world.revoke(id).await;
    assert_eq!(world.check(&text).await, Decided::Revoked);
    // The secret is the same all along: it was hashed to be made, and to be verified once.
    assert_eq!(world.hasher.argon2_runs(), 2);
}

#[tokio::test]
async fn a_wrong_text_for_a_key_in_memory_costs_neither_a_read_nor_an_argon2_run() {
    let world = World::new(system());
    let (id, text) = world.key(None).await;
    assert_eq!(world.check(&text).await, Decided::Valid);
    let prefix = keyclasp::key::Prefix::parse("kc").unwrap();
    // What only a leaked pepper makes possible: a text with the right tag, for this very id.
    let (forged, _) = world.hasher.make(&prefix, id, &OsEntropy).unwrap();
    let (reads, runs) = (world.reads(), world.hasher.argon2_runs());
    for _ in 0..10 {
        assert_eq!(world.check(&forged).await, Decided::Unknown);
    }
    assert_eq!((world.reads(), world.hasher.argon2_runs()), (reads, runs));
    assert_eq!(world.check(&text).await, Decided::Valid, "the forgery spoiled what is in memory");
}

#[tokio::test]
async fn many_who_ask_for_a_cold_key_at_once_cost_one_read_and_one_argon2_run() {
    let world = Arc::new(World::new(system()));
    let (_, text) = world.key(None).await;
    let runs = world.hasher.argon2_runs();
    world.store.slow.store(true, Ordering::SeqCst);
    let checks: Vec<_> = (0..100)
        .map(|_| {
            let (world, text) = (Arc::clone(&world), text.clone());
            tokio::spawn(async move { world.check(&text).await })
        })
        .collect();
    world.store.read.acquire().await.unwrap().forget();
    // All the others run until they wait for the one that reads.
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    world.store.answer.add_permits(1);
    for check in checks {
        assert_eq!(check.await.unwrap(), Decided::Valid);
    }
    assert_eq!((world.reads(), world.hasher.argon2_runs() - runs), (1, 1));
}

#[tokio::test]
async fn a_read_that_raced_with_a_revocation_is_not_kept() {
    let world = Arc::new(World::new(system()));
    let (id, text) = world.key(None).await;
    world.store.slow.store(true, Ordering::SeqCst);
    let raced = tokio::spawn({
        let (world, text) = (Arc::clone(&world), text.clone());
        async move { world.check(&text).await }
    });
    // It has read the record, and has not been told so yet.
    world.store.read.acquire().await.unwrap().forget();
    world.store.slow.store(false, Ordering::SeqCst);
    world.revoke(id).await;
    assert_eq!(world.check(&text).await, Decided::Revoked, "the check joined a read that is older than the revocation");
    world.store.answer.add_permits(1);
    assert_eq!(raced.await.unwrap(), Decided::Valid, "it began before the revocation");
    assert_eq!(world.check(&text).await, Decided::Revoked, "what the raced check read was kept");
}

#[tokio::test]
async fn who_gives_up_a_read_leaves_it_to_the_others() {
    let world = Arc::new(World::new(system()));
    let (_, text) = world.key(None).await;
    world.store.slow.store(true, Ordering::SeqCst);
    let checks: Vec<_> = (0..2)
        .map(|_| {
            let (world, text) = (Arc::clone(&world), text.clone());
            tokio::spawn(async move { world.check(&text).await })
        })
        .collect();
    let mut checks = checks.into_iter();
    world.store.read.acquire().await.unwrap().forget();
    world.store.slow.store(false, Ordering::SeqCst);
    checks.next().unwrap().abort();
    assert_eq!(checks.next().unwrap().await.unwrap(), Decided::Valid);
}

#[tokio::test]
async fn time_ends_a_key_in_memory_as_it_ends_one_in_the_store() {
    let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1_700_000_000_000)));
    let world = World::new(Arc::clone(&clock) as Arc<dyn Clock>);
    let (_, text) = world.key(Some(Lifetime::For(Duration::from_secs(60)))).await;
    assert_eq!(world.check(&text).await, Decided::Valid);
    let reads = world.reads();
    clock.advance(Duration::from_millis(59_999));
    assert_eq!(world.check(&text).await, Decided::Valid);
    clock.advance(Duration::from_millis(1));
    assert_eq!(world.check(&text).await, Decided::Expired);
    assert_eq!(world.reads(), reads);
    // And when its record goes, it goes from memory too.
    clock.advance(Duration::from_secs(3600));
    assert_eq!(world.check(&text).await, Decided::Unknown);
}

/// Checks run on several threads while a key is suspended and resumed again and again: no check sees a
/// record that is older than the one that was answered before it began.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_check_is_older_than_the_change_that_was_answered_before_it() {
    const CHANGES: u64 = 400;
    let world = Arc::new(World::new(system()));
    let (id, text) = world.key(None).await;
    let answered = Arc::new(AtomicU64::new(1));
    let checkers: Vec<_> = (0..4)
        .map(|_| {
            let (world, text, answered) = (Arc::clone(&world), text.clone(), Arc::clone(&answered));
            tokio::spawn(async move {
                let mut seen = BTreeSet::new();
                loop {
                    let least = answered.load(Ordering::SeqCst);
                    let version = world.version(&text).await;
                    assert!(version >= least, "saw version {version}, though {least} had been answered before");
                    seen.insert(version);
                    if least > CHANGES {
                        return seen.len();
                    }
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    for change in 1..=CHANGES {
        if change.is_multiple_of(2) {
            world.resume(id).await;
        } else {
            world.suspend(id).await;
        }
        answered.store(change + 1, Ordering::SeqCst);
    }
    for checker in checkers {
        assert!(checker.await.unwrap() > 10, "the checks and the changes ran one after the other");
    }
}

/// Who finds that a change was made already may be answered before the one who made it.
#[tokio::test]
async fn a_change_that_changes_nothing_is_seen_by_the_next_check_too() {
    let world = World::new(system());
    let (id, text) = world.key(None).await;
    assert_eq!(world.check(&text).await, Decided::Valid);
    let reads = world.reads();
    // Nothing is suspended, so nothing is written: it reads, and drops what is in memory.
    world.resume(id).await;
    assert_eq!(world.check(&text).await, Decided::Valid);
    assert_eq!(world.reads(), reads + 2);
}
