//! A store that does what another one does, but counts its calls, holds them up and loses their answers
//! when a test says so.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use keyclasp::clock::Timestamp;
use keyclasp::key::codec::IdempotencyEntry;
use keyclasp::key::{KeyId, PepperId};
use keyclasp::store::{
    AuditPage, AuditQuery, Beat, Beaten, Commit, Done, Epoch, Found, Health, Identity, Leases, ListPage, ListQuery,
    LogCursor, LogPage, Member, MemberId, Observer, Outcome, ScanCursor, ScanPage, Store, StoreError,
};
use tokio::sync::Semaphore;

/// Longest that anything waits that a test has forgotten.
const LONGEST: Duration = Duration::from_secs(30);

/// What a test can meddle with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verb {
    Get,
    Commit,
    Log,
    /// Of one shard.
    LogOf(u16),
    /// Beats that can grant a lease.
    Beat,
    /// Those that only tell how far the log was applied.
    Acknowledge,
    Members,
}

/// The store.
#[derive(Debug)]
pub(crate) struct Meddled {
    store: Arc<dyn Store>,
    calls: Mutex<BTreeMap<Verb, u64>>,
    gates: Mutex<BTreeMap<Verb, Gate>>,
    /// Who is told what changes, where the store tells.
    told: OnceLock<Arc<Told>>,
}

#[derive(Debug, Clone)]
enum Gate {
    Held(Arc<HeldUp>),
    /// So many answers get lost.
    Lost(u32),
}

/// Calls that have been carried out, and whose answers wait.
#[derive(Debug)]
pub(crate) struct HeldUp {
    /// A permit for each that waits.
    waiting: Semaphore,
    /// A permit for each that may go.
    going: Semaphore,
}

/// Passes on what the store tells, unless that is held up: the store's writer waits then.
struct Told {
    observer: Arc<dyn Observer>,
    is_held_up: Mutex<bool>,
    goes_on: Condvar,
}

impl Told {
    fn wait(&self) {
        let is_held_up = self.is_held_up.lock().unwrap();
        let waited = self.goes_on.wait_timeout_while(is_held_up, LONGEST, |is_held_up| *is_held_up);
        drop(waited.unwrap());
    }
}

impl Observer for Told {
    fn changed(&self, id: KeyId) {
        self.wait();
        self.observer.changed(id);
    }
    fn unknown(&self) {
        self.wait();
        self.observer.unknown();
    }
}

impl fmt::Debug for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Told")
    }
}

impl HeldUp {
    /// Waits until a call has been carried out and waits.
    pub(crate) async fn one_waits(&self) {
        tokio::time::timeout(LONGEST, self.waiting.acquire()).await.unwrap().unwrap().forget();
    }

    /// Lets one go.
    pub(crate) fn let_one_go(&self) {
        self.going.add_permits(1);
    }
}

impl Meddled {
    /// Does what `store` does.
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
        Self { store, calls: Mutex::default(), gates: Mutex::default(), told: OnceLock::new() }
    }

    /// How often the store was called.
    pub(crate) fn calls(&self, verb: Verb) -> u64 {
        self.calls.lock().unwrap().get(&verb).copied().unwrap_or_default()
    }

    /// From now on the answers of a verb wait.
    pub(crate) fn hold_up(&self, verb: Verb) -> Arc<HeldUp> {
        let held = Arc::new(HeldUp { waiting: Semaphore::new(0), going: Semaphore::new(0) });
        self.gates.lock().unwrap().insert(verb, Gate::Held(Arc::clone(&held)));
        held
    }

    /// Ends what [`Self::hold_up`] began: all go.
    pub(crate) fn let_go(&self, verb: Verb) {
        if let Some(Gate::Held(held)) = self.gates.lock().unwrap().remove(&verb) {
            held.going.add_permits(1 << 20);
        }
    }

    /// Calls of a verb pass again; those that are held up already stay so.
    pub(crate) fn pass(&self, verb: Verb) {
        self.gates.lock().unwrap().remove(&verb);
    }

    /// The next answer of a verb gets lost: it was carried out, and nobody knows.
    pub(crate) fn lose_one(&self, verb: Verb) {
        self.gates.lock().unwrap().insert(verb, Gate::Lost(1));
    }

    /// From now on the answers of a verb get lost, until [`Self::pass`].
    pub(crate) fn lose_all(&self, verb: Verb) {
        self.gates.lock().unwrap().insert(verb, Gate::Lost(u32::MAX));
    }

    /// From now on the store's writer waits when it tells what has changed: that can be read already, and is not
    /// answered.
    pub(crate) fn hold_up_telling(&self) {
        *self.told().is_held_up.lock().unwrap() = true;
    }

    /// Ends what [`Self::hold_up_telling`] began.
    pub(crate) fn tell(&self) {
        *self.told().is_held_up.lock().unwrap() = false;
        self.told().goes_on.notify_all();
    }

    /// The store tells that it does not know what has changed.
    pub(crate) fn lose_track(&self) {
        self.told().unknown();
    }

    fn told(&self) -> &Told {
        self.told.get().expect("a store that tells")
    }

    async fn meddle<T>(&self, verb: Verb, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        let answer = call.await;
        *self.calls.lock().unwrap().entry(verb).or_default() += 1;
        let gate = {
            let mut gates = self.gates.lock().unwrap();
            match gates.get_mut(&verb) {
                Some(Gate::Held(held)) => Some(Gate::Held(Arc::clone(held))),
                Some(Gate::Lost(left)) if *left > 0 => {
                    *left -= 1;
                    Some(Gate::Lost(0))
                }
                _ => None,
            }
        };
        match gate {
            Some(Gate::Held(held)) => {
                held.waiting.add_permits(1);
                held.going.acquire().await.unwrap().forget();
                answer
            }
            Some(Gate::Lost(_)) => Err(StoreError::Unavailable("its answer got lost".to_owned())),
            None => answer,
        }
    }

    fn shared(&self) -> &dyn Leases {
        self.store.leases().unwrap()
    }
}

impl Drop for Meddled {
    fn drop(&mut self) {
        // The store waits for its writer.
        if self.told.get().is_some() {
            self.tell();
        }
    }
}

#[async_trait]
impl Store for Meddled {
    async fn get(&self, id: KeyId, now: Timestamp) -> Result<Option<Found>, StoreError> {
        self.meddle(Verb::Get, self.store.get(id, now)).await
    }
    async fn commit(&self, commit: &Commit, now: Timestamp) -> Result<Outcome, StoreError> {
        self.meddle(Verb::Commit, self.store.commit(commit, now)).await
    }
    async fn log(&self, shard: u16, after: Option<LogCursor>, limit: usize) -> Result<LogPage, StoreError> {
        let page = self.meddle(Verb::Log, self.store.log(shard, after, limit));
        self.meddle(Verb::LogOf(shard), page).await
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
        let told = Arc::new(Told { observer, is_held_up: Mutex::new(false), goes_on: Condvar::new() });
        self.store.observe(Arc::clone(&told) as Arc<dyn Observer>) && self.told.set(told).is_ok()
    }
    fn leases(&self) -> Option<&dyn Leases> {
        self.store.leases().map(|_| self as &dyn Leases)
    }
    fn shards(&self) -> u16 {
        self.store.shards()
    }
    fn identity(&self) -> Identity {
        self.store.identity()
    }
}

#[async_trait]
impl Leases for Meddled {
    fn term(&self) -> Duration {
        self.shared().term()
    }
    async fn beat(&self, shard: u16, beat: &Beat) -> Result<Beaten, StoreError> {
        let verb = if beat.confirmed { Verb::Beat } else { Verb::Acknowledge };
        self.meddle(verb, self.shared().beat(shard, beat)).await
    }
    async fn members(&self, shard: u16) -> Result<Beaten, StoreError> {
        self.meddle(Verb::Members, self.shared().members(shard)).await
    }
    async fn remove(&self, shard: u16, epoch: Epoch, member: &Member) -> Result<bool, StoreError> {
        self.shared().remove(shard, epoch, member).await
    }
    async fn release(&self, shard: u16, member: MemberId) -> Result<(), StoreError> {
        self.shared().release(shard, member).await
    }
    async fn settle(&self, shard: u16, epoch: Epoch) -> Result<(), StoreError> {
        self.shared().settle(shard, epoch).await
    }
    async fn barrier(&self, shard: u16) -> Result<Done, StoreError> {
        self.shared().barrier(shard).await
    }
    async fn wake(&self, after: &[(u16, u64)], limit: Duration) -> Result<Vec<(u16, u64)>, StoreError> {
        self.shared().wake(after, limit).await
    }
}
