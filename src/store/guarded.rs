//! A store whose every call is bounded in time and counted, whatever store it is.

mod labels;

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use self::labels::{CallLabels, CallResult, Verb, VerbLabels};
use super::{
    AuditPage, AuditQuery, Beat, Beaten, CALL_LIMIT, Commit, Done, Epoch, Found, Health, Identity, Leases, ListPage,
    ListQuery, LogCursor, LogPage, Member, MemberId, Observer, Outcome, ScanCursor, ScanPage, Store, StoreError,
};
use crate::clock::alarm::{Late, within};
use crate::clock::{Clock, Timestamp};
use crate::key::codec::IdempotencyEntry;
use crate::key::{KeyId, PepperId};

/// From the 4 µs of a page in memory to the two seconds at which a call is given up.
const BUCKETS: [f64; 12] = [4e-6, 16e-6, 64e-6, 256e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 50e-3, 250e-3, 1.0, 2.0];

/// Wraps a store: a call that takes longer than its limit is [`StoreError::Unavailable`], and each
/// is counted by its verb and result.
pub struct Guarded {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    limit: Duration,
    gate: Gate,
    calls: Family<CallLabels, Counter>,
    durations: Family<VerbLabels, Histogram, fn() -> Histogram>,
    /// The members of both families, looked up once.
    verbs: [VerbMetrics; Verb::ALL.len()],
}

impl Guarded {
    /// Wraps `store`, with a limit of [`CALL_LIMIT`].
    #[must_use]
    pub fn new(store: Arc<dyn Store>, clock: Arc<dyn Clock>) -> Self {
        let calls = Family::<CallLabels, Counter>::default();
        let durations = Family::new_with_constructor((|| Histogram::new(BUCKETS)) as fn() -> Histogram);
        let verbs = Verb::ALL.map(|verb| VerbMetrics {
            calls: CallResult::ALL.map(|result| calls.get_or_create(&CallLabels { verb, result }).clone()),
            duration: durations.get_or_create(&VerbLabels { verb }).clone(),
        });
        Self { store, clock, limit: CALL_LIMIT, gate: Gate::open(), calls, durations, verbs }
    }

    /// With another limit.
    #[must_use]
    pub const fn with_limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// With a gate that somebody else opens and closes.
    #[must_use]
    pub fn with_gate(mut self, gate: Gate) -> Self {
        self.gate = gate;
        self
    }

    /// Adds the metrics to `registry`: `store_calls_total` and `store_call_duration_seconds`, under
    /// the registry's prefix, which is `keyclasp`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("store_calls", "Calls of the store, by verb and result", self.calls.clone());
        registry.register_with_unit(
            "store_call_duration",
            "How long calls of the store took, by verb",
            Unit::Seconds,
            self.durations.clone(),
        );
    }

    fn inner(&self) -> Result<&dyn Leases, StoreError> {
        self.store.leases().ok_or_else(|| StoreError::Misuse("leases of a store that has none".to_owned()))
    }

    async fn call<T>(
        &self,
        verb: Verb,
        call: impl Future<Output = Result<T, StoreError>> + Send,
        good: fn(&T) -> CallResult,
    ) -> Result<T, StoreError> {
        let start = self.clock.elapsed();
        // Health goes through: it is how a closed gate comes to be opened, and how it is explained.
        let result = if self.gate.is_open() || verb == Verb::Health {
            within(self.limit, call).await.unwrap_or_else(|Late| {
                Err(StoreError::Unavailable(format!("{} did not answer within {:?}", verb.name(), self.limit)))
            })
        } else {
            Err(closed())
        };
        let took = self.clock.elapsed().saturating_sub(start);
        if let Some(metrics) = self.verbs.get(verb as usize) {
            metrics.duration.observe(took.as_secs_f64());
            let outcome = result.as_ref().map_or_else(CallResult::of_error, good);
            if let Some(calls) = metrics.calls.get(outcome as usize) {
                calls.inc();
            }
        }
        result
    }
}

/// Whether calls reach the store. Closed until the store has passed its check: before that, nobody
/// knows whether it may be used, or whether the keyring fits it. Clones are the same gate.
#[derive(Debug, Clone)]
pub struct Gate(Arc<AtomicBool>);

impl Gate {
    /// An open gate.
    #[must_use]
    pub fn open() -> Self {
        Self(Arc::new(AtomicBool::new(true)))
    }

    /// A closed gate.
    #[must_use]
    pub fn closed() -> Self {
        Self(Arc::new(AtomicBool::new(false)))
    }

    /// Opens or closes it.
    pub fn set(&self, open: bool) {
        self.0.store(open, Ordering::Release);
    }

    fn is_open(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

fn closed() -> StoreError {
    StoreError::Unavailable("it has not passed its check yet, see the log".to_owned())
}

fn ok<T>(_: &T) -> CallResult {
    CallResult::Ok
}

#[async_trait]
impl Store for Guarded {
    async fn get(&self, id: KeyId, now: Timestamp) -> Result<Option<Found>, StoreError> {
        self.call(Verb::Get, self.store.get(id, now), ok).await
    }

    async fn idempotency(
        &self,
        bucket: u8,
        slot: [u8; 32],
        now: Timestamp,
    ) -> Result<Option<IdempotencyEntry>, StoreError> {
        self.call(Verb::Idempotency, self.store.idempotency(bucket, slot, now), ok).await
    }

    async fn commit(&self, commit: &Commit, now: Timestamp) -> Result<Outcome, StoreError> {
        self.call(Verb::Commit, self.store.commit(commit, now), CallResult::of_outcome).await
    }

    async fn list(&self, query: &ListQuery, now: Timestamp) -> Result<ListPage, StoreError> {
        self.call(Verb::List, self.store.list(query, now), ok).await
    }

    async fn audit(&self, query: &AuditQuery) -> Result<AuditPage, StoreError> {
        self.call(Verb::Audit, self.store.audit(query), ok).await
    }

    async fn log(&self, shard: u16, after: Option<LogCursor>, limit: usize) -> Result<LogPage, StoreError> {
        self.call(Verb::Log, self.store.log(shard, after, limit), ok).await
    }

    async fn scan(&self, cursor: Option<ScanCursor>, now: Timestamp) -> Result<ScanPage, StoreError> {
        self.call(Verb::Scan, self.store.scan(cursor, now), ok).await
    }

    async fn pepper_checks(&self) -> Result<Vec<(PepperId, [u8; 32])>, StoreError> {
        self.call(Verb::Peppers, self.store.pepper_checks(), ok).await
    }

    async fn add_pepper_check(&self, id: &PepperId, check: [u8; 32]) -> Result<[u8; 32], StoreError> {
        self.call(Verb::Peppers, self.store.add_pepper_check(id, check), ok).await
    }

    async fn remove_pepper_check(&self, id: &PepperId) -> Result<(), StoreError> {
        self.call(Verb::Peppers, self.store.remove_pepper_check(id), ok).await
    }

    async fn health(&self, now: Timestamp) -> Result<Health, StoreError> {
        self.call(Verb::Health, self.store.health(now), ok).await
    }

    fn observe(&self, observer: Arc<dyn Observer>) -> bool {
        self.store.observe(observer)
    }

    fn shards(&self) -> u16 {
        self.store.shards()
    }

    fn leases(&self) -> Option<&dyn Leases> {
        self.store.leases().map(|_| self as &dyn Leases)
    }

    fn identity(&self) -> Identity {
        self.store.identity()
    }
}

#[async_trait]
impl Leases for Guarded {
    fn term(&self) -> Duration {
        self.store.leases().map(Leases::term).unwrap_or_default()
    }

    async fn beat(&self, shard: u16, beat: &Beat) -> Result<Beaten, StoreError> {
        self.call(Verb::Beat, self.inner()?.beat(shard, beat), ok).await
    }

    async fn members(&self, shard: u16) -> Result<Beaten, StoreError> {
        self.call(Verb::Members, self.inner()?.members(shard), ok).await
    }

    async fn remove(&self, shard: u16, epoch: Epoch, member: &Member) -> Result<bool, StoreError> {
        self.call(Verb::Remove, self.inner()?.remove(shard, epoch, member), ok).await
    }

    async fn release(&self, shard: u16, member: MemberId) -> Result<(), StoreError> {
        self.call(Verb::Release, self.inner()?.release(shard, member), ok).await
    }

    async fn settle(&self, shard: u16, epoch: Epoch) -> Result<(), StoreError> {
        self.call(Verb::Settle, self.inner()?.settle(shard, epoch), ok).await
    }

    async fn barrier(&self, shard: u16) -> Result<Done, StoreError> {
        self.call(Verb::Barrier, self.inner()?.barrier(shard), ok).await
    }

    /// Not counted: it is slow because nothing happens.
    async fn wake(&self, after: &[(u16, u64)], limit: Duration) -> Result<Vec<(u16, u64)>, StoreError> {
        if !self.gate.is_open() {
            return Err(closed());
        }
        let answer = within(self.limit, self.inner()?.wake(after, limit)).await;
        answer
            .unwrap_or_else(|Late| Err(StoreError::Unavailable(format!("wake did not answer within {:?}", self.limit))))
    }
}

impl fmt::Debug for Guarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guarded").field("store", &self.store).field("limit", &self.limit).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct VerbMetrics {
    calls: [Counter; CallResult::ALL.len()],
    duration: Histogram,
}
