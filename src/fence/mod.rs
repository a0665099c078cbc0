//! Records answered from memory, and what makes that safe.
//!
//! # The claim
//! A record that [`Fence::held`] or [`Fence::find`] answers is no older than the last change of it
//! that was answered before the call began: whoever was told that a key is revoked sees it revoked.
//!
//! # What it rests on
//! - The store has *one writer*, this process, and tells of each change after it can be read and
//!   before it is answered ([`Store::observe`]). The record is dropped then, and a load of it that runs
//!   is detached: what it read may be older ([`cache`]).
//! - When the writer does not know what was written, everything is dropped.
//! - A store that others write to as well promises nothing of the kind: what lies in it is read each
//!   time. To answer from memory all the same, a replica needs a lease, and a change has to wait for it.
//!
//! Nothing about a request is kept, and neither is that there is no record.

pub mod cache;
mod sync;

use std::fmt;
use std::sync::{Arc, Weak};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use self::cache::{Cache, Landing, Load, Weigh};
use crate::clock::Timestamp;
use crate::key::KeyId;
use crate::store::{Found, Observer, Store, StoreError, shard_of};

/// What is made of a record that was read, and kept.
pub trait Hold: Weigh {
    /// Of a record.
    fn of(found: Found) -> Self;

    /// Whether the record is absent at `now`.
    fn is_gone(&self, now: Timestamp) -> bool;
}

/// How often a call joins a load before it gives up: each one is given up by somebody else.
const MAX_JOINS: usize = 4;
/// What a record weighs as a rule, to size the tables: a record of a few scopes and texts.
const USUAL_BYTES: u64 = 1024;

/// Records by id: from memory where that is safe, else from the store.
pub struct Fence<V> {
    store: Arc<dyn Store>,
    /// None where the store must be asked each time.
    cache: Option<Arc<Records<V>>>,
    loads: Counter,
    joins: Counter,
}

type Records<V> = Cache<KeyId, V, StoreError>;

impl<V: Hold> Fence<V> {
    /// Over `store`, with `room` bytes for what is kept. Without room nothing is.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, room: u64) -> Self {
        let usual = usize::try_from(room / USUAL_BYTES).unwrap_or(usize::MAX);
        let cache = Arc::new(Cache::new(room, usual, store.shards()));
        let stale = Stale { cache: Arc::downgrade(&cache), shards: store.shards() };
        let follows = room > 0 && store.observe(Arc::new(stale));
        Self { store, cache: follows.then_some(cache), loads: Counter::default(), joins: Counter::default() }
    }

    /// Adds the metrics to `registry`, under its prefix, which is `keyclasp`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("record_loads", "Records read from the store for a check of a key", self.loads.clone());
        let help = "Checks of a key that waited for a record which another check was reading";
        registry.register("record_loads_joined", help, self.joins.clone());
        if let Some(cache) = &self.cache {
            registry.register_collector(Box::new(Sizes(Arc::clone(cache))));
        }
    }

    /// The record of `id`, if it is in memory.
    #[must_use]
    pub fn held(&self, id: KeyId, now: Timestamp) -> Option<Arc<V>> {
        let cache = self.cache.as_ref()?;
        let shard = shard_of(id.bucket(), self.store.shards());
        cache.hit(shard, cache.generation(shard), &id).filter(|held| !held.is_gone(now))
    }

    /// The record of `id`, or none. Reads it from the store unless it is in memory, once for all who ask
    /// at a time.
    ///
    /// # Errors
    /// When the store did not answer.
    pub async fn find(&self, id: KeyId, now: Timestamp) -> Result<Option<Arc<V>>, StoreError> {
        let Some(cache) = &self.cache else {
            self.loads.inc();
            return Ok(self.store.get(id, now).await?.map(|found| Arc::new(V::of(found))));
        };
        let shard = shard_of(id.bucket(), self.store.shards());
        for _ in 0..MAX_JOINS {
            let generation = cache.generation(shard);
            if let Some(held) = cache.hit(shard, generation, &id) {
                return Ok(Some(held).filter(|held| !held.is_gone(now)));
            }
            let joined = match cache.load(shard, generation, id) {
                Load::Own(own) => {
                    self.loads.inc();
                    return Ok(match self.store.get(id, now).await {
                        Ok(Some(found)) => Some(own.done(V::of(found))),
                        Ok(None) => {
                            own.absent();
                            None
                        }
                        Err(error) => {
                            own.failed(error.clone());
                            return Err(error);
                        }
                    });
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
        Err(StoreError::Unavailable("who was reading this record gave up, again and again; try again".to_owned()))
    }

    /// Drops the record of `id`: the next call reads it anew.
    pub fn forget(&self, id: KeyId) {
        if let Some(cache) = &self.cache {
            cache.invalidate(&id);
        }
    }

    /// Whether records are answered from memory.
    #[must_use]
    pub const fn remembers(&self) -> bool {
        self.cache.is_some()
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

/// How full the memory is.
struct Sizes<V>(Arc<Records<V>>);

impl<V> fmt::Debug for Sizes<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sizes")
    }
}

impl<V: Hold> Collector for Sizes<V> {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let size = self.0.size();
        let gauges = [
            ("records_held", "Records in memory", u64::try_from(size.values).unwrap_or(u64::MAX)),
            ("records_held_bytes", "Memory that they take, about", size.bytes),
            ("records_room_bytes", "Memory that they may take", size.room),
        ];
        for (name, help, value) in gauges {
            let value = i64::try_from(value).unwrap_or(i64::MAX);
            ConstGauge::new(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
        }
        Ok(())
    }
}
