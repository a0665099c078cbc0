//! The clients of a run: some validate all the time, some change keys and then look everywhere
//! whether the change is seen. Each call has a deadline and is recorded with what was answered.

use std::array;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::{OptionFuture, join, join_all};
use futures_util::stream::{self, StreamExt as _};

use super::calls::{Caller, Made};
use super::cluster::{REPLICAS, Shared};
use super::dice::Dice;
use super::history::{Answer, Kind, Op, State};
use crate::support::until;

/// Keys in use at a time.
const KEYS: usize = 16;
/// How many of them nobody changes.
const UNTOUCHED: usize = 3;
/// How many owners have keys in use at a time, as a rule: that of those, and three whose keys are changed.
const OWNERS: usize = 4;
/// Keys that an owner is given before another one takes his turn. Each RevokeKeys reads them all.
const KEYS_OF_OWNER: u32 = 16;
/// How long a revoked key stays in use.
const AFTERLIFE: Duration = Duration::from_millis(1500);
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
    /// A resume of unknown outcome may take effect at any time: nothing can be said of whether the
    /// key is suspended any more, and all that is left to do is to revoke it.
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
        let life = *key.life.lock().unwrap();
        if life.revoked.is_some_and(|at| at + AFTERLIFE < self.shared.now()) {
            return self.replace(place, dice.below(REPLICAS)).await;
        }
        // After FLUSHALL all are missing; a few of them tell as much as all.
        let missing = |key: &Arc<Key>| key.life.lock().unwrap().missing;
        let place_of_missing = self.keys.used.lock().unwrap().iter().position(missing);
        if let Some(place) = place_of_missing {
            return self.replace(place, dice.below(REPLICAS)).await;
        }
        if place < UNTOUCHED {
            return;
        }
        let kind = choose(life, dice);
        let keys = if kind == Kind::RevokeKeys { self.keys.of(key.made.owner) } else { vec![key] };
        if kind == Kind::RevokeKeys {
            // What is in the memory of all has to go from there.
            self.validate_everywhere(&keys).await;
        }
        for _ in 0..=REPEATS {
            let op = self.call(kind, &keys, place, dice).await;
            let answer = op.answer.clone();
            keys.iter().for_each(|key| key.remember(&op));
            self.shared.record(op);
            match answer {
                // What promises most is looked at closest: everywhere, at once.
                Answer::Is(..) | Answer::Swept(..) if kind.takes_away() => {
                    return self.validate_everywhere(&keys).await;
                }
                Answer::Unknown(_) if !self.shared.stopped() => {}
                _ => return,
            }
        }
    }

    /// Changes keys: all of one owner, or one.
    async fn call(&self, kind: Kind, keys: &[Arc<Key>], place: usize, dice: &mut Dice) -> Op {
        let (key, replica) = (&keys[0].made, dice.below(REPLICAS));
        if kind != Kind::RevokeKeys {
            return self.caller.ask(kind, key, replica).await;
        }
        // Sometimes the owner is given a key meanwhile, in the place of one that will be of no more use.
        let another = dice.chance(40).then(|| self.replace(place, dice.below(REPLICAS)));
        join(self.caller.revoke_keys(key.owner, replica), OptionFuture::from(another)).await.0
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
        let key = Arc::new(Key { made: made?, life: Mutex::default() });
        self.keys.all.lock().unwrap().push(Arc::clone(&key));
        Some(key)
    }
}

impl Default for Keys {
    fn default() -> Self {
        let made = array::from_fn(|_| AtomicU32::default());
        Self { used: Mutex::default(), all: Mutex::default(), next: AtomicU32::default(), made }
    }
}

impl Keys {
    /// The keys in use of an owner.
    fn of(&self, owner: u32) -> Vec<Arc<Key>> {
        self.used.lock().unwrap().iter().filter(|key| key.made.owner == owner).map(Arc::clone).collect()
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
    let chance = dice.below(100);
    match life {
        _ if chance < 5 => Kind::RevokeKeys,
        Life { unsure: true, .. } => Kind::Revoke,
        _ if chance < 15 => Kind::Revoke,
        Life { suspended: true, .. } if chance < 70 => Kind::Resume,
        Life { suspended: true, .. } => Kind::Suspend,
        _ if chance < 75 => Kind::Suspend,
        _ => Kind::Resume,
    }
}

impl Key {
    fn remember(&self, op: &Op) {
        let mut life = self.life.lock().unwrap();
        match (&op.answer, op.kind) {
            (Answer::Missing, _) => life.missing = true,
            (Answer::Is(State::Revoked, _), Kind::Revoke) | (Answer::Swept(..) | Answer::Ended, _) => {
                life.revoked.get_or_insert(op.end);
            }
            (Answer::Is(_, _), Kind::Suspend) => life.suspended = true,
            (Answer::Is(_, _), Kind::Resume) => life.suspended = false,
            (Answer::Unknown(_), Kind::Resume) => life.unsure = true,
            _ => {}
        }
    }
}
