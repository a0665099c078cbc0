//! The decorator: bounds and counts every call, of a store that does what a test wants.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use keyclasp::clock::{Clock, ManualClock, SystemClock, Timestamp};
use keyclasp::key::codec::{CodecError, IdempotencyEntry};
use keyclasp::key::{KeyId, PepperId};
use keyclasp::random::OsEntropy;
use keyclasp::store::conformance::sample::{self, holder};
use keyclasp::store::embedded::EmbeddedConfig;
use keyclasp::store::guarded::{Gate, Guarded};
use keyclasp::store::{
    AuditFilter, AuditPage, AuditQuery, Beat, Beaten, Commit, Done, Epoch, Found, Health, Identity, Leases, ListPage,
    ListQuery, LogCursor, LogPage, Member, MemberId, Outcome, ScanCursor, ScanPage, Store, StoreError,
};
use prometheus_client::registry::Registry;

use crate::support::TempDir;

/// Answers `commit` with what it holds, after its clock moved on by 3 ms, and hangs if that is nothing, as every
/// other verb does.
#[derive(Debug)]
struct Scripted {
    clock: Arc<ManualClock>,
    commit: Option<Result<Outcome, StoreError>>,
}

impl Scripted {
    async fn hang<T>(&self) -> Result<T, StoreError> {
        std::future::pending().await
    }
}

#[async_trait]
impl Store for Scripted {
    async fn get(&self, _: KeyId, _: Timestamp) -> Result<Option<Found>, StoreError> {
        self.hang().await
    }
    async fn commit(&self, _: &Commit, _: Timestamp) -> Result<Outcome, StoreError> {
        let Some(answer) = &self.commit else { return self.hang().await };
        self.clock.advance(Duration::from_millis(3));
        answer.clone()
    }
    async fn idempotency(&self, _: u8, _: [u8; 32], _: Timestamp) -> Result<Option<IdempotencyEntry>, StoreError> {
        self.hang().await
    }
    async fn list(&self, _: &ListQuery, _: Timestamp) -> Result<ListPage, StoreError> {
        self.hang().await
    }
    async fn audit(&self, _: &AuditQuery) -> Result<AuditPage, StoreError> {
        self.hang().await
    }
    async fn log(&self, _: u16, _: Option<LogCursor>, _: usize) -> Result<LogPage, StoreError> {
        self.hang().await
    }
    async fn scan(&self, _: Option<ScanCursor>, _: Timestamp) -> Result<ScanPage, StoreError> {
        self.hang().await
    }
    async fn pepper_checks(&self) -> Result<Vec<(PepperId, [u8; 32])>, StoreError> {
        self.hang().await
    }
    async fn add_pepper_check(&self, _: &PepperId, _: [u8; 32]) -> Result<[u8; 32], StoreError> {
        self.hang().await
    }
    async fn remove_pepper_check(&self, _: &PepperId) -> Result<(), StoreError> {
        self.hang().await
    }
    async fn health(&self, _: Timestamp) -> Result<Health, StoreError> {
        self.hang().await
    }
    fn shards(&self) -> u16 {
        1
    }
    fn leases(&self) -> Option<&dyn Leases> {
        Some(self)
    }
    fn identity(&self) -> Identity {
        Identity { kind: "scripted", location: "here".to_owned() }
    }
}

#[async_trait]
impl Leases for Scripted {
    fn term(&self) -> Duration {
        Duration::from_secs(7)
    }
    async fn beat(&self, _: u16, _: &Beat) -> Result<Beaten, StoreError> {
        self.hang().await
    }
    async fn members(&self, _: u16) -> Result<Beaten, StoreError> {
        self.hang().await
    }
    async fn remove(&self, _: u16, _: Epoch, _: &Member) -> Result<bool, StoreError> {
        self.hang().await
    }
    async fn release(&self, _: u16, _: MemberId) -> Result<(), StoreError> {
        self.hang().await
    }
    async fn settle(&self, _: u16, _: Epoch) -> Result<(), StoreError> {
        self.hang().await
    }
    async fn barrier(&self, _: u16) -> Result<Done, StoreError> {
        self.hang().await
    }
    async fn wake(&self, _: &[(u16, u64)], _: Duration) -> Result<Vec<(u16, u64)>, StoreError> {
        self.hang().await
    }
}

fn guarded(commit: Option<Result<Outcome, StoreError>>) -> (Guarded, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1)));
    let store = Arc::new(Scripted { clock: clock.clone(), commit });
    (Guarded::new(store, clock.clone()).with_limit(Duration::from_millis(1)), clock)
}

fn metrics(guarded: &Guarded) -> String {
    let mut registry = Registry::with_prefix("keyclasp");
    guarded.register(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    text
}

#[tokio::test]
async fn every_verb_is_given_up_and_named() {
    let (store, clock) = guarded(None);
    let (ada, now, pepper) = (holder("acme", "ada"), clock.now(), PepperId::parse("p1").unwrap());
    let audit = AuditQuery { shard: 0, after: None, newest_first: false, filter: AuditFilter::default(), limit: 1 };
    let (leases, member) = (store.leases().unwrap(), Member { id: MemberId([1; 16]), beat: 1, applied: 0 });
    let beat = Beat { member: member.id, number: 1, applied: None, confirmed: true };
    let errors = [
        ("get", store.get(ada.id(1), now).await.unwrap_err()),
        ("commit", store.commit(&sample::create(&ada.record(1, now)), now).await.unwrap_err()),
        ("idempotency", store.idempotency(0, [0; 32], now).await.unwrap_err()),
        ("list", store.list(&ada.list(1), now).await.unwrap_err()),
        ("audit", store.audit(&audit).await.unwrap_err()),
        ("log", store.log(0, None, 1).await.unwrap_err()),
        ("scan", store.scan(None, now).await.unwrap_err()),
        ("peppers", store.pepper_checks().await.unwrap_err()),
        ("peppers", store.add_pepper_check(&pepper, [0; 32]).await.unwrap_err()),
        ("peppers", store.remove_pepper_check(&pepper).await.unwrap_err()),
        ("health", store.health(now).await.unwrap_err()),
        ("beat", leases.beat(0, &beat).await.unwrap_err()),
        ("members", leases.members(0).await.unwrap_err()),
        ("remove", leases.remove(0, Epoch([0; 32]), &member).await.unwrap_err()),
        ("release", leases.release(0, member.id).await.unwrap_err()),
        ("settle", leases.settle(0, Epoch([0; 32])).await.unwrap_err()),
        ("barrier", leases.barrier(0).await.unwrap_err()),
        ("wake", leases.wake(&[(0, 0)], Duration::from_secs(60)).await.unwrap_err()),
    ];
    assert_eq!(leases.term(), Duration::from_secs(7));
    for (verb, error) in &errors {
        assert_eq!(*error, StoreError::Unavailable(format!("{verb} did not answer within 1ms")));
    }
    let metrics = metrics(&store);
    for (verb, count) in
        [("get", 1), ("commit", 1), ("list", 1), ("peppers", 3), ("health", 1), ("beat", 1), ("barrier", 1)]
    {
        let line = format!("keyclasp_store_calls_total{{verb=\"{verb}\",result=\"unavailable\"}} {count}\n");
        assert!(metrics.contains(&line), "{line}{metrics}");
    }
    assert!(!metrics.contains("wake"), "it is slow because nothing happens: {metrics}");
}

#[tokio::test]
async fn every_result_is_counted_by_its_name() {
    let entry = sample::first_try(1, holder("acme", "ada").id(1), Timestamp::default()).entry;
    let cursor = LogCursor { epoch: keyclasp::store::Epoch([0; 32]), position: 1 };
    let unreadable = StoreError::Unreadable { what: "x".to_owned(), error: CodecError::UnknownFormat(2) };
    let cases = [
        ("ok", Ok(Outcome::Done(Done::alone(cursor)))),
        ("conflict", Ok(Outcome::Conflict)),
        ("replay", Ok(Outcome::Replay(entry))),
        ("owner_full", Ok(Outcome::OwnerFull)),
        ("unavailable", Err(StoreError::Unavailable("x".to_owned()))),
        ("full", Err(StoreError::Full("x".to_owned()))),
        ("unreadable", Err(unreadable)),
        ("refused", Err(StoreError::Refused("x".to_owned()))),
        ("misuse", Err(StoreError::Misuse("x".to_owned()))),
    ];
    for (name, answer) in cases {
        let (store, clock) = guarded(Some(answer.clone()));
        let commit = sample::create(&holder("acme", "ada").record(1, clock.now()));
        assert_eq!(store.commit(&commit, clock.now()).await, answer);
        let metrics = metrics(&store);
        for other in
            ["ok", "conflict", "replay", "owner_full", "unavailable", "full", "unreadable", "refused", "misuse"]
        {
            let line = format!(
                "keyclasp_store_calls_total{{verb=\"commit\",result=\"{other}\"}} {}\n",
                u8::from(other == name)
            );
            assert!(metrics.contains(&line), "{line}{metrics}");
        }
        assert!(metrics.contains("keyclasp_store_call_duration_seconds_sum{verb=\"commit\"} 0.003\n"), "{metrics}");
        assert!(metrics.contains("keyclasp_store_call_duration_seconds_count{verb=\"commit\"} 1\n"), "{metrics}");
    }
}

#[tokio::test]
async fn a_closed_gate_lets_nothing_through_but_health() {
    let dir = TempDir::new();
    let store = EmbeddedConfig::new(dir.path()).open(&OsEntropy).unwrap();
    let gate = Gate::closed();
    let guarded = Guarded::new(Arc::new(store), Arc::new(SystemClock::new())).with_gate(gate.clone());
    let now = SystemClock::new().now();
    let id = KeyId::from_bytes([1; 16]);
    assert!(matches!(guarded.get(id, now).await, Err(StoreError::Unavailable(_))));
    assert!(guarded.health(now).await.is_ok());
    assert!(guarded.leases().is_none(), "the store has none");
    gate.set(true);
    assert_eq!(guarded.get(id, now).await, Ok(None));
    gate.set(false);
    assert!(matches!(guarded.get(id, now).await, Err(StoreError::Unavailable(_))));

    let clock = Arc::new(ManualClock::new(now));
    let store = Arc::new(Scripted { clock: clock.clone(), commit: None });
    let guarded = Guarded::new(store, clock).with_gate(gate);
    let leases = guarded.leases().unwrap();
    let answers = [leases.wake(&[(0, 0)], Duration::ZERO).await.map(drop), leases.members(0).await.map(drop)];
    for answer in answers {
        assert!(matches!(&answer, Err(StoreError::Unavailable(text)) if text.contains("its check")), "{answer:?}");
    }
}
