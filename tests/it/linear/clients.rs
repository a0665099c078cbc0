//! The clients of a run: some validate all the time, some change keys and then look everywhere
//! whether the change is seen. Each call has a deadline and is recorded with what was answered.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt as _};
use keyclasp::rpc::proto::v1::key_service_client::KeyServiceClient;
use keyclasp::rpc::proto::v1::{self, KeyStatus, Outcome};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status};
use tonic_types::StatusExt as _;

use super::cluster::{REPLICAS, Shared};
use super::dice::Dice;
use super::history::{Answer, Kind, Op, State};
use crate::support::until;

/// The deadline that each call names.
const DEADLINE: Duration = Duration::from_secs(2);
/// Beyond it, for the answer to arrive.
const SLACK: Duration = Duration::from_millis(250);
/// Keys in use at a time.
const KEYS: usize = 16;
/// How many of them nobody changes.
const UNTOUCHED: usize = 3;
/// How long a revoked key stays in use.
const AFTERLIFE: Duration = Duration::from_millis(1500);
/// How often a change of unknown outcome is repeated.
const REPEATS: usize = 3;
/// How long the final answers may take to agree.
const SETTLE: Duration = Duration::from_secs(30);

/// The keys of a run.
#[derive(Debug, Default)]
pub(super) struct Keys {
    /// Those in use, by their place.
    used: Mutex<Vec<Arc<Key>>>,
    all: Mutex<Vec<Arc<Key>>>,
    next: AtomicU32,
}

#[derive(Debug)]
struct Key {
    number: u32,
    id: String,
    text: String,
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
    /// By replica.
    stubs: Vec<Mutex<Option<Stub>>>,
}

/// The client of a replica, and where that was.
type Stub = (SocketAddr, KeyServiceClient<Channel>);

impl Client {
    pub(super) fn new(shared: &Arc<Shared>, keys: &Arc<Keys>) -> Self {
        let stubs = (0..REPLICAS).map(|_| Mutex::default()).collect();
        Self { shared: Arc::clone(shared), keys: Arc::clone(keys), stubs }
    }

    /// Makes the keys that a run begins with.
    pub(super) async fn make_keys(&self) {
        until("all keys are made", async || {
            let replica = self.keys.used.lock().unwrap().len() % REPLICAS;
            let made = self.create(replica).await;
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
            let ops = join_all(asked.clone().map(|(kind, replica)| self.ask(kind, key, replica))).await;
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
            return self.replace(place, dice).await;
        }
        // After FLUSHALL all are missing; a few of them tell as much as all.
        let missing = |key: &Arc<Key>| key.life.lock().unwrap().missing;
        let place_of_missing = self.keys.used.lock().unwrap().iter().position(missing);
        if let Some(place) = place_of_missing {
            return self.replace(place, dice).await;
        }
        if place < UNTOUCHED {
            return;
        }
        let chance = dice.below(100);
        let kind = match life {
            Life { unsure: true, .. } => Kind::Revoke,
            _ if chance < 15 => Kind::Revoke,
            Life { suspended: true, .. } if chance < 70 => Kind::Resume,
            Life { suspended: true, .. } => Kind::Suspend,
            _ if chance < 75 => Kind::Suspend,
            _ => Kind::Resume,
        };
        for _ in 0..=REPEATS {
            let op = self.ask(kind, &key, dice.below(REPLICAS)).await;
            let answer = op.answer.clone();
            key.remember(&op);
            self.shared.record(op);
            match (answer, kind) {
                // What promises most is looked at closest: everywhere, at once.
                (Answer::Is(..), Kind::Suspend | Kind::Revoke) => {
                    join_all((0..REPLICAS).map(|replica| self.validate(&key, replica))).await;
                    return;
                }
                (Answer::Unknown(_), _) if !self.shared.stopped() => {}
                _ => return,
            }
        }
    }

    /// Puts a new key in the place of one that is of no more use. Should it fail, it is tried again
    /// when the place is come upon again.
    async fn replace(&self, place: usize, dice: &mut Dice) {
        if let Some(new) = self.create(dice.below(REPLICAS)).await {
            self.keys.used.lock().unwrap()[place] = new;
        }
    }

    async fn validate(&self, key: &Key, replica: usize) -> Answer {
        let op = self.ask(Kind::Validate, key, replica).await;
        let answer = op.answer.clone();
        key.remember(&op);
        self.shared.record(op);
        answer
    }

    async fn create(&self, replica: usize) -> Option<Arc<Key>> {
        let number = self.keys.next.fetch_add(1, Ordering::SeqCst);
        let owner = v1::Owner {
            kind: v1::OwnerKind::User.into(),
            id: format!("owner-{}", number % 64),
            display_name: String::new(),
        };
        let request = v1::CreateKeyRequest { realm: "acme".to_owned(), owner: Some(owner), ..Default::default() };
        let mut stub = self.stub(replica);
        let start = self.shared.now();
        let answered = bounded(stub.create_key(self.request(request))).await;
        let end = self.shared.now();
        let (answer, made) = match answered {
            Ok(v1::CreateKeyResponse { key: Some(key), api_key }) => (of_status(&key), Some((key.id, api_key))),
            Ok(_) => (Answer::Wrong("no key".to_owned()), None),
            Err(status) => (of_error(&status), None),
        };
        self.shared.record(Op { key: number, kind: Kind::Create, replica, start, end, answer });
        let (id, text) = made?;
        let key = Arc::new(Key { number, id, text, life: Mutex::default() });
        self.keys.all.lock().unwrap().push(Arc::clone(&key));
        Some(key)
    }

    /// Makes a call about a key that there is.
    async fn ask(&self, kind: Kind, key: &Key, replica: usize) -> Op {
        let mut stub = self.stub(replica);
        let id = key.id.clone();
        let start = self.shared.now();
        let answered = match kind {
            Kind::Validate | Kind::FinalValidate => {
                let request = v1::ValidateKeyRequest { api_key: key.text.clone(), ..Default::default() };
                bounded(stub.validate_key(self.request(request))).await.map(|answer| of_outcome(&answer))
            }
            Kind::FinalGet => {
                let request = self.request(v1::GetKeyRequest { id });
                bounded(stub.get_key(request)).await.map(|answer| of_key(answer.key.as_ref()))
            }
            Kind::Suspend => {
                let request = self.request(v1::SuspendKeyRequest { id, ..Default::default() });
                bounded(stub.suspend_key(request)).await.map(|answer| of_key(answer.key.as_ref()))
            }
            Kind::Resume => {
                let request = self.request(v1::ResumeKeyRequest { id, ..Default::default() });
                bounded(stub.resume_key(request)).await.map(|answer| of_key(answer.key.as_ref()))
            }
            Kind::Revoke => {
                let request = self.request(v1::RevokeKeyRequest { id, ..Default::default() });
                bounded(stub.revoke_key(request)).await.map(|answer| of_key(answer.key.as_ref()))
            }
            Kind::Create => panic!("there is a key already"),
        };
        let end = self.shared.now();
        let answer = answered.unwrap_or_else(|status| of_error(&status));
        Op { key: key.number, kind, replica, start, end, answer }
    }

    /// Where the replica is now.
    fn stub(&self, replica: usize) -> KeyServiceClient<Channel> {
        let address = self.shared.address(replica);
        let mut stub = self.stubs[replica].lock().unwrap();
        match &*stub {
            Some((of, stub)) if *of == address => stub.clone(),
            _ => {
                let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
                let new = KeyServiceClient::new(endpoint.connect_timeout(DEADLINE).connect_lazy());
                *stub = Some((address, new.clone()));
                new
            }
        }
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(DEADLINE);
        request.metadata_mut().insert("authorization", format!("Bearer {}", self.shared.token).parse().unwrap());
        request
    }
}

impl Key {
    fn remember(&self, op: &Op) {
        let mut life = self.life.lock().unwrap();
        match (&op.answer, op.kind) {
            (Answer::Missing, _) => life.missing = true,
            (Answer::Is(State::Revoked, _), Kind::Revoke) | (Answer::Ended, _) => {
                life.revoked.get_or_insert(op.end);
            }
            (Answer::Is(_, _), Kind::Suspend) => life.suspended = true,
            (Answer::Is(_, _), Kind::Resume) => life.suspended = false,
            (Answer::Unknown(_), Kind::Resume) => life.unsure = true,
            _ => {}
        }
    }
}

async fn bounded<T>(call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Status> {
    match tokio::time::timeout(DEADLINE + SLACK, call).await {
        Ok(answered) => answered.map(Response::into_inner),
        Err(_) => Err(Status::deadline_exceeded("no answer in time")),
    }
}

fn of_key(key: Option<&v1::Key>) -> Answer {
    key.map_or_else(|| Answer::Wrong("no key".to_owned()), of_status)
}

fn of_status(key: &v1::Key) -> Answer {
    match key.status() {
        KeyStatus::Active => Answer::Is(State::Active, key.version),
        KeyStatus::Suspended => Answer::Is(State::Suspended, key.version),
        KeyStatus::Revoked => Answer::Is(State::Revoked, key.version),
        other => Answer::Wrong(other.as_str_name().to_owned()),
    }
}

fn of_outcome(answer: &v1::ValidateKeyResponse) -> Answer {
    let state = match answer.outcome() {
        Outcome::Valid => State::Active,
        Outcome::Suspended => State::Suspended,
        Outcome::Revoked => State::Revoked,
        Outcome::Unknown => return Answer::Missing,
        other => return Answer::Wrong(other.as_str_name().to_owned()),
    };
    match &answer.key {
        Some(key) if of_status(key) == Answer::Is(state, key.version) => Answer::Is(state, key.version),
        key => Answer::Wrong(format!("{:?} with {key:?}", answer.outcome())),
    }
}

/// What an error says of whether the call took effect: mostly nothing.
fn of_error(status: &Status) -> Answer {
    let reason = status.get_error_details().error_info().map(|info| info.reason.clone());
    match (reason.as_deref(), status.code()) {
        (Some("KEY_NOT_FOUND"), _) => Answer::Missing,
        (Some("KEY_REVOKED"), _) => Answer::Ended,
        // No reason: it is not from keyclasp, but from the channel.
        (None, code) => Answer::Unknown(code),
        (_, code @ (Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted | Code::Aborted)) => {
            Answer::Unknown(code)
        }
        (Some(reason), code) => Answer::Wrong(format!("{code:?} {reason}: {}", status.message())),
    }
}
