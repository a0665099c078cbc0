//! The clients of a run: some validate all the time, some change keys and then look everywhere
//! whether the change is seen. Each call has a deadline and is recorded with what was answered.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use std::{array, slice};

use futures_util::future::{OptionFuture, join_all, join3};
use futures_util::stream::{self, StreamExt as _};

use super::calls::{Caller, DEADLINE, Made};
use super::cluster::{REPLICAS, Shared};
use super::dice::Dice;
use super::history::{Answer, Kind, Op};
use crate::support::until;

/// Keys in use at a time.
const KEYS: usize = 16;
/// How many of them nobody changes.
const UNTOUCHED: usize = 3;
/// How many owners are given keys at a time: one for those that nobody changes, and three.
const OWNERS: usize = 4;
/// Keys that an owner is given before another one takes his turn. Each RevokeKeys reads them all.
const KEYS_OF_OWNER: u32 = 16;
/// How long a revoked key stays in use.
const AFTERLIFE: Duration = Duration::from_secs(1);
/// How often a change of unknown outcome is repeated.
const REPEATS: usize = 3;
/// How long the final answers may take to agree.
const SETTLE: Duration = Duration::from_secs(30);

/// The keys of a run.
#[derive(Debug)]
pub(super) struct Keys {
    /// Those in use, by their place.
    used: Mutex<Vec<Arc<Key>>>,
    all: Mutex<Vec<Arc<Key>>>,
    next: AtomicU32,
    /// How many were made for each of the owners that take turns.
    made: [AtomicU32; OWNERS],
}

#[derive(Debug)]
struct Key {
    made: Made,
    life: Mutex<Life>,
}

/// What the clients remember of a key, to choose what to do next.
#[derive(Debug, Clone, Copy, Default)]
struct Life {
    suspended: bool,
    denied: bool,
    /// What gives something back, of unknown outcome, may take effect at any time: nothing can be said of
    /// whether the key has it any more, and all that is left to do is to revoke it.
    unsure: bool,
    revoked: Option<Duration>,
    missing: bool,
}

/// One client, with connections of its own.
#[derive(Debug)]
pub(super) struct Client {
    shared: Arc<Shared>,
    keys: Arc<Keys>,
    caller: Caller,
}

impl Client {
    pub(super) fn new(shared: &Arc<Shared>, keys: &Arc<Keys>) -> Self {
        Self { shared: Arc::clone(shared), keys: Arc::clone(keys), caller: Caller::new(shared) }
    }

    /// Makes the keys that a run begins with.
    pub(super) async fn make_keys(&self) {
        until("all keys are made", async || {
            let place = self.keys.used.lock().unwrap().len();
            let made = self.create(place, place % REPLICAS).await;
            let mut used = self.keys.used.lock().unwrap();
            used.extend(made);
            used.len() == KEYS
        })
        .await;
    }

    /// Validates keys at one replica until it is told to stop.
    pub(super) async fn validate_all_the_time(self, replica: usize, mut dice: Dice) {
        while !self.shared.stopped() {
            let (_, key) = self.pick(&mut dice);
            let answer = self.validate(&key, replica).await;
            let failed = matches!(answer, Answer::Unknown(_));
            tokio::time::sleep(if failed { dice.millis(10, 30) } else { dice.millis(1, 5) }).await;
        }
    }

    /// Changes keys until it is told to stop.
    pub(super) async fn change_all_the_time(self, mut dice: Dice) {
        while !self.shared.stopped() {
            self.change(&mut dice).await;
            tokio::time::sleep(dice.millis(5, 40)).await;
        }
    }

    /// Asks every replica for every key until they all say the same as the store, and records what
    /// they said then, or last.
    pub(super) async fn settle(&self) {
        let until = self.shared.now() + SETTLE;
        let all = self.keys.all.lock().unwrap().clone();
        stream::iter(&all).for_each_concurrent(8, async |key| self.settle_key(key, until).await).await;
    }

    async fn settle_key(&self, key: &Key, until: Duration) {
        let asked = (0..REPLICAS).flat_map(|replica| [(Kind::FinalGet, replica), (Kind::FinalValidate, replica)]);
        loop {
            let ops = join_all(asked.clone().map(|(kind, replica)| self.caller.ask(kind, &key.made, replica))).await;
            let agreed = ops.iter().all(|op| op.answer == ops[0].answer && !matches!(op.answer, Answer::Unknown(_)));
            if agreed || self.shared.now() > until {
                return ops.into_iter().for_each(|op| self.shared.record(op));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// One of the keys in use, and its place.
    fn pick(&self, dice: &mut Dice) -> (usize, Arc<Key>) {
        let place = dice.below(KEYS);
        (place, Arc::clone(&self.keys.used.lock().unwrap()[place]))
    }

    async fn change(&self, dice: &mut Dice) {
        let (place, key) = self.pick(dice);
        // Half the time: where nothing can be made, something may yet be taken away. After FLUSHALL all are
        // missing; a few of them tell as much as all.
        let now = self.shared.now();
        let of_no_use = |key: &Arc<Key>| key.life.lock().unwrap().is_of_no_use(now);
        let old = self.keys.used.lock().unwrap().iter().position(of_no_use);
        if let Some(place) = old.filter(|_| dice.chance(50)) {
            return self.replace(place, dice.below(REPLICAS)).await;
        }
        if place < UNTOUCHED {
            return;
        }
        let life = *key.life.lock().unwrap();
        match choose(life, dice) {
            Kind::RevokeKeys => self.sweep(place, &key, dice).await,
            Kind::Rotate => {
                self.validate_everywhere(slice::from_ref(&key)).await;
                if let Some(new) = self.rotate(&key, dice).await {
                    self.validate_everywhere(&[key, Arc::clone(&new)]).await;
                    self.keys.used.lock().unwrap()[place] = new;
                }
            }
            kind => self.repeat(kind, &key, slice::from_ref(&key), dice).await,
        }
    }

    /// Ends all keys of the owner of a key.
    async fn sweep(&self, place: usize, key: &Arc<Key>, dice: &mut Dice) {
        let keys = self.keys.beside(key);
        // What is in the memory of all has to go from there.
        self.validate_everywhere(&keys).await;
        // Sometimes the owner is given a key meanwhile, in the place of one that will be of no more use; and sometimes
        // another call does the same, so that each may find that the other one has done it.
        let another = dice.chance(40).then(|| self.replace(place, dice.below(REPLICAS)));
        let mut others = dice.chance(40).then(|| Dice::of(dice.next(), "the other one"));
        let second = others.as_mut().map(|dice| self.repeat(Kind::RevokeKeys, key, &keys, dice));
        let first = self.repeat(Kind::RevokeKeys, key, &keys, dice);
        join3(first, OptionFuture::from(second), OptionFuture::from(another)).await;
    }

    /// Makes a change, again where its outcome is unknown. `changes`: the keys that it is for, `key` among them.
    async fn repeat(&self, kind: Kind, key: &Key, changes: &[Arc<Key>], dice: &mut Dice) {
        for _ in 0..=REPEATS {
            let replica = dice.below(REPLICAS);
            let op = match kind {
                Kind::RevokeKeys => {
                    // Who gives it too little time has to repeat it while some replica may not know of it yet.
                    let deadline = if dice.chance(30) { dice.millis(10, 60) } else { DEADLINE };
                    self.caller.revoke_keys(key.made.owner, deadline, replica).await
                }
                _ => self.caller.ask(kind, &key.made, replica).await,
            };
            let (done, unknown) = (op.is_done(), matches!(op.answer, Answer::Unknown(_)));
            changes.iter().for_each(|key| key.remember(&op));
            self.shared.record(op);
            if done && kind.takes_away() {
                // What promises most is looked at closest: everywhere, at once.
                return self.validate_everywhere(changes).await;
            }
            if !unknown || self.shared.stopped() {
                return;
            }
        }
    }

    /// Replaces a key. Where the outcome is unknown, its text is, too; and repeating it would tell nothing.
    async fn rotate(&self, key: &Key, dice: &mut Dice) -> Option<Arc<Key>> {
        let number = self.keys.next.fetch_add(1, Ordering::SeqCst);
        let (op, new) = self.caller.rotate(&key.made, number, dice.below(REPLICAS)).await;
        key.remember(&op);
        self.shared.record(op);
        let (op, made) = new?;
        let new = self.keys.add(made);
        // Suspended and denied, where the old one was.
        let Life { suspended, denied, unsure, .. } = *key.life.lock().unwrap();
        *new.life.lock().unwrap() = Life { suspended, denied, unsure, ..Life::default() };
        self.shared.record(op);
        Some(new)
    }

    /// Puts a new key in the place of one that is of no more use. Should it fail, it is tried again
    /// when the place is come upon again.
    async fn replace(&self, place: usize, replica: usize) {
        if let Some(new) = self.create(place, replica).await {
            self.keys.used.lock().unwrap()[place] = new;
        }
    }

    async fn validate_everywhere(&self, keys: &[Arc<Key>]) {
        let everywhere = keys.iter().flat_map(|key| (0..REPLICAS).map(|replica| self.validate(key, replica)));
        join_all(everywhere).await;
    }

    async fn validate(&self, key: &Key, replica: usize) -> Answer {
        let op = self.caller.ask(Kind::Validate, &key.made, replica).await;
        let answer = op.answer.clone();
        key.remember(&op);
        self.shared.record(op);
        answer
    }

    /// Makes a key for the owner whose turn it is in this place.
    async fn create(&self, place: usize, replica: usize) -> Option<Arc<Key>> {
        let number = self.keys.next.fetch_add(1, Ordering::SeqCst);
        let (op, made) = self.caller.create(number, self.keys.owner_in(place), replica).await;
        self.shared.record(op);
        Some(self.keys.add(made?))
    }
}

impl Default for Keys {
    fn default() -> Self {
        let made = array::from_fn(|_| AtomicU32::default());
        Self { used: Mutex::default(), all: Mutex::default(), next: AtomicU32::default(), made }
    }
}

impl Keys {
    /// A new key.
    fn add(&self, made: Made) -> Arc<Key> {
        let key = Arc::new(Key { made, life: Mutex::default() });
        self.all.lock().unwrap().push(Arc::clone(&key));
        key
    }

    /// A key, and what else is in use of its owner.
    fn beside(&self, key: &Arc<Key>) -> Vec<Arc<Key>> {
        let used = self.used.lock().unwrap();
        let others = used.iter().filter(|other| other.made.owner == key.made.owner && !Arc::ptr_eq(other, key));
        others.chain([key]).map(Arc::clone).collect()
    }

    /// Whose the next key in this place is. What nobody changes has an owner of its own.
    fn owner_in(&self, place: usize) -> u32 {
        let turn = if place < UNTOUCHED { 0 } else { 1 + place % (OWNERS - 1) };
        let before = self.made[turn].fetch_add(1, Ordering::SeqCst) / KEYS_OF_OWNER;
        u32::try_from(turn + OWNERS * before as usize).unwrap()
    }
}

/// What to do with a key.
fn choose(life: Life, dice: &mut Dice) -> Kind {
    match dice.below(100) {
        ..8 => Kind::RevokeKeys,
        8..18 => Kind::Revoke,
        _ if life.unsure => Kind::Revoke,
        18..30 => Kind::Rotate,
        // What there is nothing to do for is a change as well.
        30..58 if life.denied == dice.chance(80) => Kind::Widen,
        30..58 => Kind::Narrow,
        _ if life.suspended == dice.chance(80) => Kind::Resume,
        _ => Kind::Suspend,
    }
}

impl Life {
    /// Whether another key should have the place of this one.
    fn is_of_no_use(&self, now: Duration) -> bool {
        self.missing || self.revoked.is_some_and(|at| at + AFTERLIFE < now)
    }
}

impl Key {
    fn remember(&self, op: &Op) {
        let mut life = self.life.lock().unwrap();
        match (&op.answer, op.kind) {
            (Answer::Missing, _) => life.missing = true,
            (Answer::Is(..), Kind::Revoke | Kind::Rotate) | (Answer::Swept(..) | Answer::Ended, _) => {
                life.revoked.get_or_insert(op.end);
            }
            (Answer::Is(..), Kind::Suspend) => life.suspended = true,
            (Answer::Is(..), Kind::Resume) => life.suspended = false,
            (Answer::Is(..), Kind::Narrow) => life.denied = true,
            (Answer::Is(..), Kind::Widen) => life.denied = false,
            (Answer::Unknown(_), Kind::Resume | Kind::Widen) => life.unsure = true,
            _ => {}
        }
    }
}
