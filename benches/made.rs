//! The use cases over a store that makes its records up when they are read: the check path as the service
//! runs it, without a wire, without a store's own cost, with as many keys as one likes.
//!
//! Shared by the programs that measure the hit path. Times and memory are taken by them.

use std::fmt;
use std::future::Future as _;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use async_trait::async_trait;
use keyclasp::clock::{Clock, SystemClock, Timestamp};
use keyclasp::fence::{self, Fence};
use keyclasp::hash::{Hasher, Keyring, Pepper};
use keyclasp::key::codec::IdempotencyEntry;
use keyclasp::key::{
    Actor, ApiKey, Argon2Profile, Caps, KeyId, KeyRecord, PepperId, Prefix, Realm, Scope, SecretBytes, SecretHash,
};
use keyclasp::random::SeededEntropy;
use keyclasp::service::access::{Call, Grant, Principal, Realms, Role};
use keyclasp::service::validate::{Check, Outcome as Verdict};
use keyclasp::service::{Held, Parts, Policies, Service, ServiceMetrics};
use keyclasp::store::guarded::Guarded;
use keyclasp::store::{
    AuditPage, AuditQuery, Beat, Beaten, Commit, Done, Epoch, Found, Health, Identity, Leases, ListPage, ListQuery,
    LogCursor, LogPage, Member, MemberId, Observer, Outcome, ScanCursor, ScanPage, Store, StoreError,
};
use tokio::task::unconstrained;

#[path = "sample.rs"]
pub(crate) mod sample;

use sample::Own;

/// The one history of the store.
const EPOCH: Epoch = Epoch([7; 32]);
/// Leases outlive every measurement.
const TERM: Duration = Duration::from_secs(24 * 60 * 60);
/// The least that Argon2 costs: what it costs is not measured here.
const PROFILE: Argon2Profile = Argon2Profile { m_kib: 8, t: 1, p: 1 };
/// Bytes of an answer, as the wire writes it.
const ANSWER: usize = 190;

/// Why a record may be answered from memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// One process has the store, and is told of changes.
    Embedded,
    /// Leases.
    Leased,
}

impl Mode {
    pub(crate) const ALL: [Self; 2] = [Self::Embedded, Self::Leased];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Embedded => "embedded",
            Self::Leased => "leased",
        }
    }
}

/// The use cases over a store of made-up keys, and the texts of these keys.
pub(crate) struct Made {
    pub(crate) texts: Vec<ApiKey>,
    store: Arc<MadeStore>,
    records: Arc<Fence<Held>>,
    service: Service,
    call: Call,
    realm: Realm,
    required: [Scope; 1],
}

impl Made {
    /// With `keys` keys and room for `room` bytes of records. To be called within a runtime; answers once the
    /// lease is held.
    pub(crate) async fn new(mode: Mode, keys: usize, room: u64) -> anyhow::Result<Self> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let entropy = SeededEntropy::new(1);
        let id = PepperId::parse("p1")?;
        let keyring = Keyring::new(vec![Pepper::new(id.clone(), &SecretBytes::new([7; 32]))], &id)?;
        let hasher = Hasher::new(keyring, PROFILE, &entropy)?;
        let realm = Realm::parse("acme")?;
        let (mut texts, mut digests) = (Vec::with_capacity(keys), Vec::with_capacity(keys));
        for number in 0..u64::try_from(keys)? {
            let (text, secret) = hasher.make(&Prefix::default(), key_id(&realm, number)?, &entropy)?;
            texts.push(text);
            digests.push(secret.digest);
        }
        let store = Arc::new(MadeStore { mode, realm: realm.clone(), pepper: id, digests, reads: AtomicU64::new(0) });
        let guarded: Arc<dyn Store> = Arc::new(Guarded::new(Arc::clone(&store) as Arc<dyn Store>, Arc::clone(&clock)));
        let member = fence::Member { id: MemberId([1; 16]), clock: Arc::clone(&clock) };
        let records = Arc::new(Fence::new(Arc::clone(&guarded), room, member));
        let service = Service::new(Parts {
            store: guarded,
            records: Arc::clone(&records),
            hasher: Arc::new(hasher),
            clock,
            entropy: Arc::new(entropy),
            policies: Policies::default(),
            retention: Duration::from_secs(90 * 24 * 60 * 60),
            metrics: ServiceMetrics::new(),
        });
        let principal = Principal {
            name: Actor::parse("gateway")?,
            grants: vec![Grant { role: Role::Validator, realms: Realms::Only(vec![realm.clone()]) }],
            caps: Caps::default(),
        };
        let call = Call { principal: Arc::new(principal), origin: "192.0.2.1".into(), ends: None };
        tokio::spawn({
            let records = Arc::clone(&records);
            async move { records.follow().await }
        });
        while !records.holds_all() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(Self { texts, store, records, service, call, realm, required: [Scope::parse("clusters:read")?] })
    }

    /// One check of a key as the service makes it, which must pass. A store that makes up its answers is never
    /// waited for.
    pub(crate) fn check(&self, text: &ApiKey) -> anyhow::Result<()> {
        let check = Check {
            text,
            realm: Some(&self.realm),
            required_scopes: &self.required,
            source_address: None,
            source_principal: None,
        };
        // Without the runtime's budget, which would make it wait for its next turn.
        let mut checking = pin!(unconstrained(self.service.validator.validate(&self.call, &check)));
        let mut context = Context::from_waker(Waker::noop());
        // Before Argon2 runs, once for each key, other calls would have their turn.
        let checked = match checking.as_mut().poll(&mut context) {
            Poll::Pending => checking.as_mut().poll(&mut context),
            ready => ready,
        };
        let Poll::Ready(checked) = checked else { anyhow::bail!("the check waited for something") };
        let checked = checked?;
        anyhow::ensure!(checked.outcome == Verdict::Valid, "a made-up key is {:?}", checked.outcome);
        if let Some(held) = &checked.record {
            // The wire keeps the answer beside the record.
            let _ = std::hint::black_box(held.valid_answer(|_| vec![0; ANSWER]));
        }
        Ok(())
    }

    /// How often the store was read.
    pub(crate) fn reads(&self) -> u64 {
        self.store.reads.load(Ordering::Relaxed)
    }

    /// What is in memory, as `/metrics` tells: records, and the bytes that they weigh.
    pub(crate) fn held(&self) -> anyhow::Result<(u64, u64)> {
        let mut registry = prometheus_client::registry::Registry::default();
        self.records.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry)?;
        let of = |name: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
            value.ok_or_else(|| anyhow::anyhow!("there is no metric {name}"))
        };
        Ok((of("records_held")?, of("records_held_bytes")?))
    }
}

impl fmt::Debug for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Made").field("keys", &self.texts.len()).finish_non_exhaustive()
    }
}

/// The id of a key: its number, where others have randomness.
fn key_id(realm: &Realm, number: u64) -> anyhow::Result<KeyId> {
    let mut random = [0; 15];
    random.iter_mut().zip(number.to_be_bytes()).for_each(|(to, from)| *to = from);
    Ok(KeyId::new(sample::owner(number)?.bucket(realm), random))
}

struct MadeStore {
    mode: Mode,
    realm: Realm,
    pepper: PepperId,
    digests: Vec<[u8; 32]>,
    reads: AtomicU64,
}

impl MadeStore {
    fn record(&self, id: KeyId) -> anyhow::Result<Option<KeyRecord>> {
        let [_, a, b, c, d, e, f, g, h, ..] = *id.as_bytes();
        let number = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
        let Some(digest) = self.digests.get(usize::try_from(number)?) else { return Ok(None) };
        let own = Own {
            id,
            created_at: Timestamp::from_millis(1_000_000),
            expires_at: Timestamp::MAX,
            secret: SecretHash { digest: *digest, profile: PROFILE, pepper: self.pepper.clone() },
        };
        sample::record(&self.realm, number, own).map(Some)
    }

    fn standing(&self, beat: Option<&Beat>) -> Beaten {
        let members = beat.map(|beat| Member { id: beat.member, beat: beat.number, applied: 0 });
        Beaten { epoch: EPOCH, tail: 0, settled: true, members: members.into_iter().collect() }
    }
}

impl fmt::Debug for MadeStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MadeStore").finish_non_exhaustive()
    }
}

fn never<T>() -> Result<T, StoreError> {
    Err(StoreError::Misuse("a store of made-up records only reads".to_owned()))
}

#[async_trait]
impl Store for MadeStore {
    async fn get(&self, id: KeyId, _: Timestamp) -> Result<Option<Found>, StoreError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        let record = self.record(id).map_err(|error| StoreError::Misuse(error.to_string()))?;
        Ok(record.map(|record| Found { record: Box::new(record), gone_at: None, epoch: EPOCH }))
    }

    async fn commit(&self, _: &Commit, _: Timestamp) -> Result<Outcome, StoreError> {
        never()
    }

    async fn idempotency(&self, _: u8, _: [u8; 32], _: Timestamp) -> Result<Option<IdempotencyEntry>, StoreError> {
        never()
    }

    async fn list(&self, _: &ListQuery, _: Timestamp) -> Result<ListPage, StoreError> {
        never()
    }

    async fn audit(&self, _: &AuditQuery) -> Result<AuditPage, StoreError> {
        never()
    }

    async fn log(&self, _: u16, _: Option<LogCursor>, _: usize) -> Result<LogPage, StoreError> {
        Ok(LogPage { epoch: EPOCH, tail: 0, gap: false, entries: Vec::new() })
    }

    async fn scan(&self, _: Option<ScanCursor>, _: Timestamp) -> Result<ScanPage, StoreError> {
        never()
    }

    async fn pepper_checks(&self) -> Result<Vec<(PepperId, [u8; 32])>, StoreError> {
        never()
    }

    async fn add_pepper_check(&self, _: &PepperId, _: [u8; 32]) -> Result<[u8; 32], StoreError> {
        never()
    }

    async fn remove_pepper_check(&self, _: &PepperId) -> Result<(), StoreError> {
        never()
    }

    async fn health(&self, _: Timestamp) -> Result<Health, StoreError> {
        never()
    }

    fn observe(&self, _: Arc<dyn Observer>) -> bool {
        self.mode == Mode::Embedded
    }

    fn leases(&self) -> Option<&dyn Leases> {
        (self.mode == Mode::Leased).then_some(self as &dyn Leases)
    }

    fn shards(&self) -> u16 {
        1
    }

    fn identity(&self) -> Identity {
        Identity { kind: "made up", location: String::new() }
    }
}

#[async_trait]
impl Leases for MadeStore {
    fn term(&self) -> Duration {
        TERM
    }

    async fn beat(&self, _: u16, beat: &Beat) -> Result<Beaten, StoreError> {
        Ok(self.standing(Some(beat)))
    }

    async fn members(&self, _: u16) -> Result<Beaten, StoreError> {
        Ok(self.standing(None))
    }

    async fn remove(&self, _: u16, _: Epoch, _: &Member) -> Result<bool, StoreError> {
        Ok(false)
    }

    async fn release(&self, _: u16, _: MemberId) -> Result<(), StoreError> {
        Ok(())
    }

    async fn settle(&self, _: u16, _: Epoch) -> Result<(), StoreError> {
        Ok(())
    }

    async fn barrier(&self, _: u16) -> Result<Done, StoreError> {
        never()
    }

    async fn wake(&self, _: &[(u16, u64)], limit: Duration) -> Result<Vec<(u16, u64)>, StoreError> {
        tokio::time::sleep(limit).await;
        Ok(Vec::new())
    }
}
