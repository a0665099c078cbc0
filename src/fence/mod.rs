//! Records answered from memory, and what makes that safe.
//!
//! # The claim
//! A record that [`Fence::held`] or [`Fence::find`] answers is no older than the last change of it that
//! took something away and was answered before the call began: whoever was told that a key is revoked sees
//! it revoked, on every replica.
//!
//! # What it rests on, where one process has the store
//! The store tells of each change after it can be read and before it is answered ([`Store::observe`]). The
//! record is dropped then, and a load of it that runs is detached: what it read may be older ([`cache`]).
//! When the writer does not know what was written, everything is dropped.
//!
//! # What it rests on, where several processes share the store
//! The rules of docs/CONSISTENCY.md, by number:
//!
//! - Rules 1, 7: Everything is of one *epoch* of its shard: a new one drops the lease and all that is in memory
//!   ([`lease`]).
//! - Rules 2, 6: A process answers while it holds a *lease* of the shard, which its beats renew: counted from when
//!   the beat was sent, and usable once the log has been applied up to the tail that the beat was answered
//!   with ([`lease`], `follow`).
//! - Rules 4, 5: Who takes something away waits until every member has applied the change, or has held no lease
//!   for certain ([`Fence::wait`]).
//! - Rule 8: An entry of the log drops the record and detaches its load *before* it counts as applied
//!   (`follow`).
//! - Rule 9: A check notes the generation, then asks for the lease, then looks up; what it reads from the store
//!   must be of the epoch of that generation ([`Fence::find`]).
//! - Rule 10: Who leaves drops its leases first, and then says so; rows of the silent go once their lease is over
//!   for certain (`follow`, `wait`).
//!
//! A store that is neither asked each time. Nothing about a request is kept, and neither is that there is no
//! record.

pub mod cache;
mod follow;
pub mod lease;
mod metrics;
mod shard;
mod sync;
mod wait;

use std::fmt;
use std::sync::{Arc, Weak};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

pub use self::cache::Size;
pub use self::metrics::Waits;
pub use self::shard::Standing;
pub use self::wait::{Unfenced, Waited};

use self::cache::{Cache, Landing, Load, Weigh};
use self::metrics::{Sizes, Standings, WaitMetrics};
use self::shard::Shard;
use self::wait::Polls;
use crate::clock::{Clock, Timestamp};
use crate::key::KeyId;
use crate::store::{Epoch, Found, Leases, MemberId, Observer, Store, StoreError, shard_of};

/// What is made of a record that was read, and kept.
pub trait Hold: Weigh {
    /// Of a record.
    fn of(found: Found) -> Self;

    /// Whether the record is absent at `now`.
    fn is_gone(&self, now: Timestamp) -> bool;
}

/// How often a call begins again before it gives up: somebody gave up the load that it had joined, or there was
/// another history.
const MAX_TURNS: usize = 4;
/// What a record weighs as a rule, to size the tables: a record of a few scopes and texts.
const USUAL_BYTES: u64 = 1024;

/// Records by id: from memory where that is safe, else from the store.
pub struct Fence<V> {
    store: Arc<dyn Store>,
    mode: Mode<V>,
    /// Whether there is room for what is read.
    keeps: bool,
    loads: Counter,
    joins: Counter,
}

type Records<V> = Cache<KeyId, V, StoreError>;

/// What makes it safe to answer from memory.
enum Mode<V> {
    /// Nothing does: the store is asked each time.
    Asking,
    /// The store tells.
    Told(Arc<Records<V>>),
    /// Leases.
    Leased(Arc<Leased<V>>),
}

/// What a process among others needs.
struct Leased<V> {
    cache: Records<V>,
    shards: Box<[Shard]>,
    polls: Box<[Polls]>,
    clock: Arc<dyn Clock>,
    member: MemberId,
    leaving: CancellationToken,
    waits: WaitMetrics,
}

/// A process among others that use the store.
#[derive(Clone)]
pub struct Member {
    /// How it is called: random, new for each start of a process.
    pub id: MemberId,
    /// Its clock. Of it only the time that passes is used ([`Clock::elapsed`]), which must count the time that
    /// the machine was suspended.
    pub clock: Arc<dyn Clock>,
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Member").field("id", &self.id).finish_non_exhaustive()
    }
}

impl<V: Hold> Fence<V> {
    /// Over `store`, with `room` bytes for what is kept. Without room nothing is.
    ///
    /// Where `store` is shared by several processes, somebody has to run [`Self::follow`]: until it has
    /// obtained a lease, no record is answered at all.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, room: u64, member: Member) -> Self {
        let usual = usize::try_from(room / USUAL_BYTES).unwrap_or(usize::MAX);
        let shards = store.shards();
        let cache = Cache::new(room, usual, shards);
        let mode = if store.leases().is_some() {
            Mode::Leased(Arc::new(Leased {
                cache,
                shards: (0..shards).map(|_| Shard::default()).collect(),
                polls: (0..shards).map(|_| Polls::default()).collect(),
                clock: member.clock,
                member: member.id,
                leaving: CancellationToken::new(),
                waits: WaitMetrics::default(),
            }))
        } else {
            let cache = Arc::new(cache);
            let stale = Stale { cache: Arc::downgrade(&cache), shards };
            if room > 0 && store.observe(Arc::new(stale)) { Mode::Told(cache) } else { Mode::Asking }
        };
        let keeps = room > 0 && !matches!(mode, Mode::Asking);
        Self { store, mode, keeps, loads: Counter::default(), joins: Counter::default() }
    }

    /// Adds the metrics to `registry`, under its prefix, which is `keyclasp`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("record_loads", "Records read from the store for a check of a key", self.loads.clone());
        let help = "Checks of a key that waited for a record which another check was reading";
        registry.register("record_loads_joined", help, self.joins.clone());
        match &self.mode {
            Mode::Asking => {}
            Mode::Told(cache) => {
                let cache = Arc::clone(cache);
                registry.register_collector(Box::new(Sizes(move || cache.size())));
            }
            Mode::Leased(leased) => {
                leased.waits.register(registry);
                let (sized, standing) = (Arc::clone(leased), Arc::clone(leased));
                registry.register_collector(Box::new(Sizes(move || sized.cache.size())));
                registry.register_collector(Box::new(Standings(move || standing.standings())));
            }
        }
    }

    /// The record of `id`, if it is in memory.
    #[must_use]
    pub fn held(&self, id: KeyId, now: Timestamp) -> Option<Arc<V>> {
        let shard = shard_of(id.bucket(), self.store.shards());
        let held = match &self.mode {
            Mode::Asking => return None,
            Mode::Told(cache) => cache.hit(shard, cache.generation(shard), &id),
            Mode::Leased(leased) => {
                // In this order: see `Shard::until`.
                let generation = leased.cache.generation(shard);
                if !leased.shard(shard)?.is_held(leased.clock.elapsed()) {
                    return None;
                }
                leased.cache.hit(shard, generation, &id)
            }
        };
        held.filter(|held| !held.is_gone(now))
    }

    /// The record of `id`, or none. Reads it from the store unless it is in memory, once for all who ask
    /// at a time.
    ///
    /// # Errors
    /// When the store did not answer, or this process holds no lease.
    pub async fn find(&self, id: KeyId, now: Timestamp) -> Result<Option<Arc<V>>, StoreError> {
        let cache = match &self.mode {
            Mode::Asking => {
                self.loads.inc();
                return Ok(self.store.get(id, now).await?.map(|found| Arc::new(V::of(found))));
            }
            Mode::Told(cache) => cache,
            Mode::Leased(leased) => &leased.cache,
        };
        let shard = shard_of(id.bucket(), self.store.shards());
        for _ in 0..MAX_TURNS {
            let generation = cache.generation(shard);
            let lease = self.lease(shard)?;
            if let Some(held) = cache.hit(shard, generation, &id) {
                return Ok(Some(held).filter(|held| !held.is_gone(now)));
            }
            let epoch = match lease {
                None => None,
                Some(shard_state) => match shard_state.epoch_while(|| cache.generation(shard) == generation) {
                    Some(epoch) => Some(epoch),
                    None => continue,
                },
            };
            let joined = match cache.load(shard, generation, id) {
                Load::Own(own) => {
                    self.loads.inc();
                    match self.store.get(id, now).await {
                        Ok(Some(found)) if epoch.is_some_and(|epoch| epoch != found.epoch) => {
                            // Dropping `own` tells those who wait for it to try as this one does.
                            self.heard_of(shard, found.epoch);
                            continue;
                        }
                        Ok(Some(found)) => return Ok(Some(own.done(V::of(found)))),
                        Ok(None) => {
                            own.absent();
                            return Ok(None);
                        }
                        Err(error) => {
                            own.failed(error.clone());
                            return Err(error);
                        }
                    }
                }
                Load::Joined(joined) => joined,
            };
            self.joins.inc();
            match joined.await {
                Landing::Value(held) => return Ok(Some(held).filter(|held| !held.is_gone(now))),
                Landing::Absent => return Ok(None),
                Landing::Failed(error) => return Err(error),
                Landing::GivenUp => {}
            }
        }
        Err(StoreError::Unavailable("what is in memory was dropped again and again meanwhile; try again".to_owned()))
    }

    /// Drops the record of `id`: the next call reads it anew.
    pub fn forget(&self, id: KeyId) {
        match &self.mode {
            Mode::Asking => {}
            Mode::Told(cache) => cache.invalidate(&id),
            Mode::Leased(leased) => leased.cache.invalidate(&id),
        }
    }

    /// The records of `ids` may have changed by a commit of this process that has ended. A store that tells of
    /// changes has done so already.
    pub fn changed(&self, ids: impl Iterator<Item = KeyId>) {
        if let Mode::Leased(leased) = &self.mode {
            ids.for_each(|id| leased.cache.invalidate(&id));
        }
    }

    /// Whether records are answered from memory.
    #[must_use]
    pub const fn remembers(&self) -> bool {
        self.keeps
    }

    /// How each shard stands. Empty where there are no leases.
    #[must_use]
    pub fn standings(&self) -> Vec<Standing> {
        match &self.mode {
            Mode::Leased(leased) => leased.standings(),
            Mode::Asking | Mode::Told(_) => Vec::new(),
        }
    }

    /// The term of a lease. None where there are no leases.
    #[must_use]
    pub fn term(&self) -> Option<std::time::Duration> {
        self.store.leases().map(Leases::term)
    }

    /// How this process is called among those that hold leases. None where there are none.
    #[must_use]
    pub fn member(&self) -> Option<MemberId> {
        match &self.mode {
            Mode::Leased(leased) => Some(leased.member),
            Mode::Asking | Mode::Told(_) => None,
        }
    }

    /// What changes have waited for. None where there are no leases, and nothing to wait for.
    #[must_use]
    pub fn waits(&self) -> Option<Waits> {
        match &self.mode {
            Mode::Leased(leased) => Some(leased.waits.so_far()),
            Mode::Asking | Mode::Told(_) => None,
        }
    }

    /// How full the memory is. None where the store is asked each time.
    #[must_use]
    pub fn size(&self) -> Option<Size> {
        match &self.mode {
            Mode::Asking => None,
            Mode::Told(cache) => Some(cache.size()),
            Mode::Leased(leased) => Some(leased.cache.size()),
        }
    }

    /// Whether checks of keys in every shard can be answered now, as far as leases go.
    #[must_use]
    pub fn holds_all(&self) -> bool {
        self.standings().iter().all(|standing| standing.left.is_some())
    }

    /// The shard's lease, which must be held. None where there are no leases.
    fn lease(&self, shard: u16) -> Result<Option<&Shard>, StoreError> {
        let Mode::Leased(leased) = &self.mode else { return Ok(None) };
        let lease = leased.shard(shard).ok_or_else(|| StoreError::Misuse(format!("there is no shard {shard}")))?;
        if lease.is_held(leased.clock.elapsed()) {
            return Ok(Some(lease));
        }
        lease.beat.notify_one();
        Err(StoreError::Unavailable("this replica holds no lease of it: it has not been confirmed lately".to_owned()))
    }

    /// An answer was of `epoch`: if that is news, a beat finds out more.
    fn heard_of(&self, shard: u16, epoch: Epoch) {
        if let Mode::Leased(leased) = &self.mode
            && let Some(shard) = leased.shard(shard)
        {
            shard.first_heard(epoch, leased.clock.elapsed());
            shard.beat.notify_one();
        }
    }
}

impl<V> Leased<V> {
    fn shard(&self, shard: u16) -> Option<&Shard> {
        self.shards.get(usize::from(shard))
    }

    fn standings(&self) -> Vec<Standing> {
        let now = self.clock.elapsed();
        self.shards.iter().map(|shard| shard.standing(now)).collect()
    }
}

impl<V> fmt::Debug for Fence<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fence").field("store", &self.store).finish_non_exhaustive()
    }
}

/// Tells the cache what the store tells.
struct Stale<V> {
    /// The store outlives the cache.
    cache: Weak<Records<V>>,
    shards: u16,
}

impl<V: Hold> Observer for Stale<V> {
    fn changed(&self, id: KeyId) {
        if let Some(cache) = self.cache.upgrade() {
            cache.invalidate(&id);
        }
    }

    fn unknown(&self) {
        if let Some(cache) = self.cache.upgrade() {
            (0..self.shards).for_each(|shard| cache.renew(shard));
        }
    }
}
