//! Values in memory, each of which may be declared stale at any time: also while it is being loaded.
//!
//! Nothing here knows what a value is, or why it is stale. What the others rely on:
//!
//! - A value is found only in the generation that it was loaded in. A new generation of a shard
//!   forgets all of its values at once.
//! - One load of a key runs at a time; who asks meanwhile joins it.
//! - A key that is declared stale is forgotten, and a load of it that runs is *detached*: its value
//!   goes to those who asked for it before, is never kept, and nobody joins it any more.
//!
//! Keeping, joining and detaching happen under the lock of the key's stripe. A hit takes no such lock.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::future::Future;
use std::hash::{BuildHasher as _, Hash};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use quick_cache::{DefaultHashBuilder, Weighter};

use super::sync::atomic::{AtomicU64, Ordering};
use super::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Locks for loads, one of which stands apart.
const STRIPES: usize = 64;

/// What can be kept: it knows what it weighs.
pub trait Weigh: Send + Sync + 'static {
    /// Bytes that it occupies, about.
    fn weight(&self) -> u64;
}

/// By what values are found.
pub trait Key: Copy + Eq + Hash + Send + Sync + 'static {}

impl<K: Copy + Eq + Hash + Send + Sync + 'static> Key for K {}

/// Which life of a shard's values: what was loaded in one is not found in another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Generation(u64);

impl Generation {
    /// Of a shard that there is not: nothing is kept in it.
    const NEVER: Self = Self(u64::MAX);
}

/// What a cache holds, for whoever watches it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Values; those of earlier generations are among them until their room is needed.
    pub values: usize,
    /// Bytes, as the values weigh.
    pub bytes: u64,
    /// Bytes that there is room for.
    pub room: u64,
}

/// Values by key, up to a number of bytes.
pub struct Cache<K, V, E> {
    values: quick_cache::sync::Cache<K, Kept<V>, ByWeight>,
    /// Loads that run, by key.
    first_stripe: Mutex<Flights<K, V, E>>,
    stripes: Box<[Mutex<Flights<K, V, E>>]>,
    stripe_of: DefaultHashBuilder,
    generations: Box<[AtomicU64]>,
}

type Flights<K, V, E> = HashMap<K, Arc<Flight<V, E>>, DefaultHashBuilder>;

impl<K, V, E> Cache<K, V, E>
where
    K: Key,
    V: Weigh,
    E: Clone,
{
    /// Room for `bytes`, which hold about `values` of them; each of `shards` has generations of its own.
    #[must_use]
    pub fn new(bytes: u64, values: usize, shards: u16) -> Self {
        Self {
            values: quick_cache::sync::Cache::with_weighter(values, bytes, ByWeight),
            first_stripe: Mutex::default(),
            stripes: (1..STRIPES).map(|_| Mutex::default()).collect(),
            stripe_of: DefaultHashBuilder::default(),
            generations: (0..shards.max(1)).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// The present generation of a shard.
    #[must_use]
    pub fn generation(&self, shard: u16) -> Generation {
        let count = self.generations.get(usize::from(shard));
        count.map_or(Generation::NEVER, |count| Generation(count.load(Ordering::Acquire)))
    }

    /// Begins a new generation of a shard. What is kept of it is found no more, and no running load of
    /// it is joined or kept.
    pub fn renew(&self, shard: u16) {
        if let Some(count) = self.generations.get(usize::from(shard)) {
            count.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// The value of `key` that was loaded in `generation`, if that is still the present one of `shard`.
    #[must_use]
    pub fn hit(&self, shard: u16, generation: Generation, key: &K) -> Option<Arc<V>> {
        let kept = self.values.get(key)?;
        (kept.generation == generation && self.is_present(shard, generation)).then_some(kept.value)
    }

    /// A load of the value of `key` in `generation`: one's own, or one that runs already.
    #[must_use]
    pub fn load(&self, shard: u16, generation: Generation, key: K) -> Load<'_, K, V, E> {
        let mut flights = lock(self.stripe(&key));
        match flights.entry(key) {
            Entry::Occupied(flying) if flying.get().generation == generation => {
                Load::Joined(Joined { flight: Arc::clone(flying.get()), ticket: None })
            }
            // One of another generation is detached by taking its place.
            place => {
                let flight = Arc::new(Flight { generation, state: Mutex::new(State::Flying(Waiting::default())) });
                place.insert_entry(Arc::clone(&flight));
                Load::Own(Own { cache: self, shard, key, flight: Some(flight) })
            }
        }
    }

    /// Declares the value of `key` stale.
    pub fn invalidate(&self, key: &K) {
        let mut flights = lock(self.stripe(key));
        flights.remove(key);
        self.values.remove(key);
    }

    /// Whether values of `generation` may be answered and kept.
    fn is_present(&self, shard: u16, generation: Generation) -> bool {
        generation != Generation::NEVER && self.generation(shard) == generation
    }

    /// How much is kept.
    #[must_use]
    pub fn size(&self) -> Size {
        Size { values: self.values.len(), bytes: self.values.weight(), room: self.values.capacity() }
    }

    fn stripe(&self, key: &K) -> &Mutex<Flights<K, V, E>> {
        let stripe = usize::try_from(self.stripe_of.hash_one(key) % STRIPES as u64).unwrap_or_default();
        self.stripes.get(stripe).unwrap_or(&self.first_stripe)
    }

    /// Ends a load: keeps its value if nothing spoke against it meanwhile.
    fn land(&self, shard: u16, key: K, flight: &Arc<Flight<V, E>>, landed: Option<Arc<V>>) {
        let mut flights = lock(self.stripe(&key));
        if let Entry::Occupied(current) = flights.entry(key)
            && Arc::ptr_eq(current.get(), flight)
        {
            current.remove();
            if let Some(value) = landed
                && self.is_present(shard, flight.generation)
            {
                self.values.insert(key, Kept { generation: flight.generation, value });
            }
        }
    }
}

impl<K, V, E> fmt::Debug for Cache<K, V, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache").finish_non_exhaustive()
    }
}

struct Kept<V> {
    generation: Generation,
    value: Arc<V>,
}

impl<V> Clone for Kept<V> {
    fn clone(&self) -> Self {
        Self { generation: self.generation, value: Arc::clone(&self.value) }
    }
}

/// Room for what a table needs for an entry besides the value: the key, a generation, links, counts.
const ENTRY: u64 = 96;

#[derive(Debug, Clone, Copy)]
struct ByWeight;

impl<K, V: Weigh> Weighter<K, Kept<V>> for ByWeight {
    fn weight(&self, _: &K, kept: &Kept<V>) -> u64 {
        kept.value.weight() + ENTRY
    }
}

/// Who loads.
#[derive(Debug)]
pub enum Load<'a, K: Key, V: Weigh, E: Clone> {
    /// The one who asked: it must say what came of it.
    Own(Own<'a, K, V, E>),
    /// Somebody else, since before.
    Joined(Joined<V, E>),
}

/// A load that is one's own. Dropped without a word, whoever joined it is told that it was given up.
pub struct Own<'a, K: Key, V: Weigh, E: Clone> {
    cache: &'a Cache<K, V, E>,
    shard: u16,
    key: K,
    /// None: its word was given.
    flight: Option<Arc<Flight<V, E>>>,
}

impl<K: Key, V: Weigh, E: Clone> Own<'_, K, V, E> {
    /// The value was loaded.
    pub fn done(mut self, value: V) -> Arc<V> {
        let value = Arc::new(value);
        self.end(Landing::Value(Arc::clone(&value)));
        value
    }

    /// There is no such value. That is not kept.
    pub fn absent(mut self) {
        self.end(Landing::Absent);
    }

    /// It could not be loaded.
    pub fn failed(mut self, error: E) {
        self.end(Landing::Failed(error));
    }

    fn end(&mut self, landing: Landing<V, E>) {
        let Some(flight) = self.flight.take() else { return };
        let value = match &landing {
            Landing::Value(value) => Some(Arc::clone(value)),
            _ => None,
        };
        self.cache.land(self.shard, self.key, &flight, value);
        flight.end(landing);
    }
}

impl<K: Key, V: Weigh, E: Clone> Drop for Own<'_, K, V, E> {
    fn drop(&mut self) {
        // After another word this one says nothing.
        self.end(Landing::GivenUp);
    }
}

impl<K: Key, V: Weigh, E: Clone> fmt::Debug for Own<'_, K, V, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Own")
    }
}

/// What came of a load that was joined.
#[derive(Debug)]
pub enum Landing<V, E> {
    /// The value.
    Value(Arc<V>),
    /// There is none.
    Absent,
    /// It failed.
    Failed(E),
    /// Nobody goes on with it. Whoever still wants the value loads it.
    GivenUp,
}

impl<V, E: Clone> Clone for Landing<V, E> {
    fn clone(&self) -> Self {
        match self {
            Self::Value(value) => Self::Value(Arc::clone(value)),
            Self::Absent => Self::Absent,
            Self::Failed(error) => Self::Failed(error.clone()),
            Self::GivenUp => Self::GivenUp,
        }
    }
}

/// A load that runs.
struct Flight<V, E> {
    generation: Generation,
    state: Mutex<State<V, E>>,
}

enum State<V, E> {
    /// It runs; these wait for it.
    Flying(Waiting),
    /// It has ended.
    Landed(Landing<V, E>),
}

/// Who waits for a load: a waker for each, by its ticket. Who gives up takes his away, so that there are never
/// more of them than calls that wait, however long the load takes.
#[derive(Default)]
struct Waiting {
    wakers: BTreeMap<u64, Waker>,
    tickets: u64,
}

impl Waiting {
    /// Has the holder of `ticket` woken by `waker`. Answers the one that is not needed any more.
    fn note(&mut self, ticket: &mut Option<u64>, waker: &Waker) -> Option<Waker> {
        let ticket = *ticket.get_or_insert_with(|| {
            self.tickets += 1;
            self.tickets
        });
        match self.wakers.get(&ticket) {
            Some(noted) if noted.will_wake(waker) => None,
            _ => self.wakers.insert(ticket, waker.clone()),
        }
    }
}

impl<V, E> Flight<V, E> {
    /// The first word counts.
    fn end(&self, landing: Landing<V, E>) {
        let mut state = lock(&self.state);
        if let State::Flying(waiting) = &mut *state {
            let waiting = std::mem::take(waiting);
            *state = State::Landed(landing);
            drop(state);
            waiting.wakers.into_values().for_each(Waker::wake);
        }
    }
}

/// A load that somebody else began.
pub struct Joined<V, E> {
    flight: Arc<Flight<V, E>>,
    /// By what the flight knows this one, once it waits.
    ticket: Option<u64>,
}

impl<V, E: Clone> Future for Joined<V, E> {
    type Output = Landing<V, E>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Landing<V, E>> {
        let Self { flight, ticket } = self.get_mut();
        let mut state = lock(&flight.state);
        let unneeded = match &mut *state {
            State::Landed(landing) => return Poll::Ready(landing.clone()),
            State::Flying(waiting) => waiting.note(ticket, context.waker()),
        };
        // What a waker does when it goes is not known here: not under the lock.
        drop(state);
        drop(unneeded);
        Poll::Pending
    }
}

impl<V, E> Drop for Joined<V, E> {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket else { return };
        let mut state = lock(&self.flight.state);
        let unneeded = match &mut *state {
            State::Landed(_) => None,
            State::Flying(waiting) => waiting.wakers.remove(&ticket),
        };
        drop(state);
        drop(unneeded);
    }
}

impl<V, E> fmt::Debug for Joined<V, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Joined")
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that holds one of these locks can be left half-done by a panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    use super::*;

    #[derive(Debug, PartialEq, Eq)]
    struct Value(u32);

    impl Weigh for Value {
        fn weight(&self) -> u64 {
            100
        }
    }

    type TestCache = Cache<u8, Value, &'static str>;

    fn cache() -> TestCache {
        Cache::new(1 << 20, 1024, 2)
    }

    /// The load of a key that nobody loads yet.
    fn own(cache: &TestCache, key: u8) -> Own<'_, u8, Value, &'static str> {
        match cache.load(0, cache.generation(0), key) {
            Load::Own(own) => own,
            Load::Joined(_) => panic!("somebody loads {key} already"),
        }
    }

    fn joined(cache: &TestCache, key: u8) -> Joined<Value, &'static str> {
        match cache.load(0, cache.generation(0), key) {
            Load::Joined(joined) => joined,
            Load::Own(_) => panic!("nobody loads {key}"),
        }
    }

    fn hit(cache: &TestCache, key: u8) -> Option<u32> {
        cache.hit(0, cache.generation(0), &key).map(|value| value.0)
    }

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn poll(
        joined: &mut Joined<Value, &'static str>,
        woken: &std::sync::Arc<Woken>,
    ) -> Poll<Landing<Value, &'static str>> {
        Pin::new(joined).poll(&mut Context::from_waker(&Waker::from(std::sync::Arc::clone(woken))))
    }

    #[test]
    fn what_was_loaded_is_found_until_it_is_stale() {
        let cache = cache();
        assert_eq!(hit(&cache, 1), None);
        own(&cache, 1).done(Value(10));
        own(&cache, 2).done(Value(20));
        assert_eq!((hit(&cache, 1), hit(&cache, 2)), (Some(10), Some(20)));
        cache.invalidate(&1);
        assert_eq!((hit(&cache, 1), hit(&cache, 2)), (None, Some(20)));
        assert_eq!(cache.size().values, 1);
        assert_eq!(cache.size().bytes, 100 + ENTRY);
    }

    #[test]
    fn who_asks_during_a_load_joins_it_and_is_woken() {
        let cache = cache();
        let load = own(&cache, 1);
        let (mut first, mut second) = (joined(&cache, 1), joined(&cache, 1));
        let woken = std::sync::Arc::new(Woken::default());
        for _ in 0..3 {
            assert!(poll(&mut first, &woken).is_pending() && poll(&mut second, &woken).is_pending());
        }
        load.done(Value(10));
        // However often they were polled.
        assert_eq!(woken.0.load(Ordering::SeqCst), 2);
        for joined in [&mut first, &mut second] {
            assert!(matches!(poll(joined, &woken), Poll::Ready(Landing::Value(value)) if value.0 == 10));
        }
    }

    /// While a load takes its time, calls with little time come and go.
    #[test]
    fn who_gives_up_waiting_leaves_nothing() {
        let cache = cache();
        let load = own(&cache, 1);
        let waiting = || match &*lock(&load.flight.as_ref().unwrap().state) {
            State::Flying(waiting) => waiting.wakers.len(),
            State::Landed(_) => panic!("it has not ended"),
        };
        let (mut patient, patient_woken) = (joined(&cache, 1), std::sync::Arc::new(Woken::default()));
        assert!(poll(&mut patient, &patient_woken).is_pending());
        let gone = std::sync::Arc::new(Woken::default());
        for _ in 0..1_000 {
            let mut impatient = joined(&cache, 1);
            assert!(poll(&mut impatient, &gone).is_pending());
            assert_eq!(waiting(), 2);
        }
        // One that moved to another task is woken there, and there alone.
        let elsewhere = std::sync::Arc::new(Woken::default());
        assert!(poll(&mut patient, &elsewhere).is_pending());
        assert_eq!(waiting(), 1);
        assert_eq!(std::sync::Arc::strong_count(&gone), 1, "a waker was kept");
        load.done(Value(10));
        let woken = [&patient_woken, &elsewhere, &gone].map(|woken| woken.0.load(Ordering::SeqCst));
        assert_eq!(woken, [0, 1, 0]);
        assert!(matches!(poll(&mut patient, &elsewhere), Poll::Ready(Landing::Value(value)) if value.0 == 10));
    }

    #[test]
    fn a_load_that_came_to_nothing_tells_so_and_leaves_nothing() {
        let cache = cache();
        let woken = std::sync::Arc::new(Woken::default());
        let load = own(&cache, 1);
        let mut waiting = joined(&cache, 1);
        load.failed("no");
        assert!(matches!(poll(&mut waiting, &woken), Poll::Ready(Landing::Failed("no"))));
        let load = own(&cache, 1);
        let mut waiting = joined(&cache, 1);
        load.absent();
        assert!(matches!(poll(&mut waiting, &woken), Poll::Ready(Landing::Absent)));
        let load = own(&cache, 1);
        let mut waiting = joined(&cache, 1);
        drop(load);
        assert!(matches!(poll(&mut waiting, &woken), Poll::Ready(Landing::GivenUp)));
        assert_eq!(hit(&cache, 1), None);
        own(&cache, 1).done(Value(10));
        assert_eq!(hit(&cache, 1), Some(10));
    }

    #[test]
    fn a_load_that_became_stale_serves_those_who_wait_and_is_neither_kept_nor_joined() {
        let cache = cache();
        let woken = std::sync::Arc::new(Woken::default());
        let old = own(&cache, 1);
        let mut before = joined(&cache, 1);
        cache.invalidate(&1);
        let new = own(&cache, 1);
        let mut after = joined(&cache, 1);
        old.done(Value(10));
        assert_eq!(hit(&cache, 1), None, "the old load was kept");
        assert!(matches!(poll(&mut before, &woken), Poll::Ready(Landing::Value(value)) if value.0 == 10));
        assert!(poll(&mut after, &woken).is_pending(), "the old load was joined");
        new.done(Value(11));
        assert_eq!(hit(&cache, 1), Some(11));
    }

    #[test]
    fn an_old_load_that_ends_late_does_not_end_the_new_one() {
        let cache = cache();
        let old = own(&cache, 1);
        cache.invalidate(&1);
        let new = own(&cache, 1);
        drop(old);
        let mut waiting = joined(&cache, 1);
        new.done(Value(11));
        let woken = std::sync::Arc::new(Woken::default());
        assert!(matches!(poll(&mut waiting, &woken), Poll::Ready(Landing::Value(_))));
    }

    #[test]
    fn a_new_generation_forgets_one_shard_and_detaches_its_loads() {
        let cache = cache();
        own(&cache, 1).done(Value(10));
        let Load::Own(other) = cache.load(1, cache.generation(1), 2) else { panic!("nobody loads it") };
        other.done(Value(20));
        let before = cache.generation(0);
        let old = own(&cache, 3);
        cache.renew(0);
        assert_eq!(hit(&cache, 1), None);
        assert!(cache.hit(0, before, &1).is_none(), "found in a generation that is over");
        assert!(cache.hit(1, cache.generation(1), &2).is_some(), "another shard's");
        // A call of the new generation does not join the old load, and the old one is not kept.
        let new = own(&cache, 3);
        old.done(Value(30));
        assert_eq!(hit(&cache, 3), None);
        new.done(Value(31));
        assert_eq!(hit(&cache, 3), Some(31));
    }

    #[test]
    fn a_load_of_a_generation_that_ended_meanwhile_is_not_found() {
        let cache = cache();
        let old = own(&cache, 1);
        cache.renew(0);
        old.done(Value(10));
        assert_eq!(hit(&cache, 1), None);
    }

    #[test]
    fn it_holds_no_more_than_it_has_room_for() {
        let cache: Cache<u32, Value, ()> = Cache::new(64 * (100 + ENTRY), 64, 1);
        for key in 0..10_000 {
            if let Load::Own(own) = cache.load(0, cache.generation(0), key) {
                own.done(Value(key));
            }
        }
        let size = cache.size();
        assert!(size.bytes <= size.room && size.values > 0, "{size:?}");
        assert!(cache.stripes.iter().chain([&cache.first_stripe]).all(|stripe| lock(stripe).is_empty()));
    }
}
