//! The store on Redis (7.0 or newer) or Valkey: one primary, and the replicas that may take its place.
//!
//! Everything that knows where which key lies is in this folder. Every verb of a shard is one script on its
//! primary, which first asks whether the node is a primary and whether the shard is still the one that it was
//! (`scripts/fence.lua`); where replicas have to confirm what it wrote, a WAIT follows it. No script are:
//! the walk over all records (SCAN, then a script for those found in each shard), the `meta` hash, health (INFO,
//! TIME, CONFIG GET, and a script for each epoch), and the wait for log entries (XREAD).
//!
//! # Epochs
//! A shard's *incarnation* is a key that holds the replid of the node that wrote it and 16 random
//! bytes. The check writes it where it is absent or another node's; nobody else does. FLUSHALL
//! removes it; a restart and a promotion change the node's replid: after each of them the epoch is
//! one that nobody has seen.
//!
//! Every verb names the incarnation that has passed the check ([`RedisStore::check`]). When the shard
//! has another one, nothing is read or written until the check has been made again: the records that
//! a commit was computed from may be of a history that was lost, and what lies there now may be
//! another store, whose settings and peppers nobody has compared. Only health, which is how a new
//! history is noticed, the verbs of the pepper checks, which are part of comparing, and the wait for log
//! entries, which only wakes, ask for none.
//!
//! # Time
//! Whether a record or an idempotency entry is past its time is decided by the `now` of the verb.
//! Redis' TTL only collects garbage, an hour later. It is given as a span, so that it does not
//! matter how far Redis' clock is from ours.

mod audit;
mod check;
mod commit;
mod config;
mod confirm;
mod connection;
mod dial;
mod failure;
mod generation;
mod health;
mod info;
mod keys;
mod lanes;
mod leases;
mod list;
mod pipeline;
mod resp;
mod scan;
mod script;
mod term;

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use async_trait::async_trait;
use redis::{Cmd, Value};
use tokio::sync::Notify;

pub use config::{DEFAULT_LEASE, RedisConfig, RedisUrl, Shards, Wait};

use self::confirm::Strangers;
use self::connection::{Budget, Link};
use self::failure::Failure;
use self::generation::Generation;
use self::keys::ShardKeys;
use self::lanes::Lane;
use self::script::{Answer, Call, Incarnation, Scripts, Values, unexpected};
use super::{
    AuditPage, AuditQuery, Commit, Epoch, Found, Health, Identity, Leases, ListPage, ListQuery, LogCursor, LogPage,
    Outcome, ScanCursor, ScanPage, Store, StoreError, shard_of,
};
use crate::clock::{Clock, Timestamp};
use crate::key::codec::{self, CodecError, Header, IdempotencyEntry};
use crate::key::{KeyId, KeyRecord, PepperId};
use crate::random::{self, Entropy};

/// How much longer than its time Redis keeps what goes by itself.
const SLACK: Duration = Duration::from_secs(60 * 60);

/// What the fields of pepper checks begin with.
const PEPPER: &str = "pepper:";

/// A store on one Redis.
pub struct RedisStore {
    config: RedisConfig,
    link: Link,
    scripts: Scripts,
    entropy: Arc<dyn Entropy>,
    /// How many replicas have to confirm a change.
    confirming: u32,
    /// Members who go by another number of them, as a check saw them.
    strangers: Strangers,
    /// A shard was found in another history than the one that has passed.
    changed: Notify,
    /// What has passed the check.
    known: RwLock<Checked>,
    /// Held by who checks: two of them would not know whose word is the later one.
    checking: tokio::sync::Mutex<()>,
}

/// What the check found.
#[derive(Debug)]
struct Checked {
    /// How long leases last.
    term: Duration,
    /// The history of each shard; empty until a check has passed.
    shards: Vec<Known>,
}

impl Checked {
    /// Nothing has passed yet.
    const fn none(term: Duration) -> Self {
        Self { term, shards: Vec::new() }
    }
}

/// A history that has passed the check.
#[derive(Debug, Clone, Copy)]
struct Known {
    incarnation: Incarnation,
    epoch: Epoch,
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore").field("config", &self.config).finish_non_exhaustive()
    }
}

impl RedisStore {
    /// The store that `config` describes, not yet connected. Of `clock`, only the time that passes
    /// is used ([`Clock::elapsed`]), for bounds: a clock that stands still bounds nothing.
    ///
    /// # Errors
    /// When the client cannot be made from the address, or there are fewer replicas than have to confirm a
    /// change.
    pub fn new(config: RedisConfig, entropy: Arc<dyn Entropy>, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        let link = Link::new(&config, clock)?;
        let confirming = config.wait.replicas(config.replicas);
        let confirming = confirming.map_err(|error| StoreError::Refused(format!("store.wait {error}")))?;
        let known = RwLock::new(Checked::none(config.lease.unwrap_or(DEFAULT_LEASE)));
        let checking = tokio::sync::Mutex::default();
        let (scripts, strangers) = (Scripts::new(), Strangers::default());
        Ok(Self { config, link, scripts, entropy, confirming, strangers, changed: Notify::new(), known, checking })
    }

    /// [`Self::new`] and [`Self::check`].
    ///
    /// # Errors
    /// As these.
    pub async fn connect(
        config: RedisConfig,
        entropy: Arc<dyn Entropy>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StoreError> {
        let store = Self::new(config, entropy, clock)?;
        store.check().await?;
        Ok(store)
    }

    async fn meta_field(&self, field: &str, budget: Budget) -> Result<Option<Vec<u8>>, StoreError> {
        let get = command("HGET", &[ShardKeys::meta().as_bytes(), field.as_bytes()]);
        let value = self.link.send(Lane::Write, &get, budget).await?;
        Values::of(Value::Array(vec![value]))?.optional_bytes()
    }

    /// Runs a script that reads. Its first argument is the incarnation that it expects.
    async fn read(&self, call: &Call<'_>, budget: Budget) -> Result<(Incarnation, Values), StoreError> {
        let answer = match self.link.run(Lane::Read, call, budget).await {
            // Reading twice does no harm, and the next connection may be a good one.
            Err(Failure::Broken(_)) => self.link.run(Lane::Read, call, budget).await?,
            other => other?,
        };
        self.accepted(self.heard(answer)?)
    }

    /// Runs a script that writes what nobody has to confirm.
    async fn run(&self, lane: Lane, call: &Call<'_>, budget: Budget) -> Result<Answer, StoreError> {
        self.heard(self.link.run(lane, call, budget).await?)
    }

    /// The answer of a script, which came over a connection of this generation. A node that is no primary, or
    /// one that is in another history, is not where the connections were made to: the address may lead
    /// elsewhere by now, or others of them may.
    fn heard(&self, (value, made): (Value, Generation)) -> Result<Answer, StoreError> {
        let answer = Answer::parse(value)?;
        if matches!(answer, Answer::NotPrimary | Answer::Changed) {
            self.link.suspect(made);
        }
        if matches!(answer, Answer::Changed) {
            self.changed.notify_one();
        }
        Ok(answer)
    }

    /// The answer of a script that has nothing to refuse but what all of them do.
    fn accepted(&self, answer: Answer) -> Result<(Incarnation, Values), StoreError> {
        match answer {
            Answer::Ok(incarnation, values) => Ok((incarnation, values)),
            Answer::NotPrimary => Err(self.not_primary()),
            Answer::Changed => Err(changed()),
            _ => Err(unexpected("a script's answer")),
        }
    }

    fn not_primary(&self) -> StoreError {
        StoreError::Unavailable(format!(
            "{} is a replica now; if it stays one, point store.url at the primary",
            self.config.url.location()
        ))
    }

    fn random<const N: usize>(&self) -> Result<[u8; N], StoreError> {
        random::bytes(&*self.entropy).map_err(|error| StoreError::Unavailable(error.to_string()))
    }

    /// The history of a shard that has passed the check.
    fn expected(&self, shard: u16) -> Result<Known, StoreError> {
        match self.known().shards.get(usize::from(shard)) {
            Some(known) => Ok(*known),
            None => Err(StoreError::Unavailable("it has not been checked yet".to_owned())),
        }
    }

    fn known(&self) -> RwLockReadGuard<'_, Checked> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn learn(&self, checked: Checked) {
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = checked;
    }

    fn check_shard(&self, shard: u16) -> Result<ShardKeys, StoreError> {
        if shard < self.shards() {
            Ok(ShardKeys::new(shard))
        } else {
            Err(StoreError::Misuse(format!("shard {shard} of {}", self.shards())))
        }
    }
}

#[async_trait]
impl Store for RedisStore {
    async fn get(&self, id: KeyId, now: Timestamp) -> Result<Option<Found>, StoreError> {
        let shard = shard_of(id.bucket(), self.shards());
        let keys = ShardKeys::new(shard);
        let Known { incarnation, epoch } = self.expected(shard)?;
        let call = self.scripts.get.call([keys.incarnation(), keys.record(id)], [incarnation]);
        let (_, mut values) = self.read(&call, self.link.budget()).await?;
        match values.array()?.optional_bytes()? {
            Some(bytes) => Ok(decode(id, &bytes, now)?.map(|(record, gone_at)| Found { record, gone_at, epoch })),
            None => Ok(None),
        }
    }

    async fn commit(&self, commit: &Commit, now: Timestamp) -> Result<Outcome, StoreError> {
        self.write(commit, now).await
    }

    async fn idempotency(
        &self,
        bucket: u8,
        slot: [u8; 32],
        now: Timestamp,
    ) -> Result<Option<IdempotencyEntry>, StoreError> {
        self.read_slot(bucket, slot, now).await
    }

    async fn list(&self, query: &ListQuery, now: Timestamp) -> Result<ListPage, StoreError> {
        self.list_page(query, now).await
    }

    async fn audit(&self, query: &AuditQuery) -> Result<AuditPage, StoreError> {
        self.audit_page(query).await
    }

    async fn log(&self, shard: u16, after: Option<LogCursor>, limit: usize) -> Result<LogPage, StoreError> {
        self.log_page(shard, after, limit).await
    }

    async fn scan(&self, cursor: Option<ScanCursor>, now: Timestamp) -> Result<ScanPage, StoreError> {
        self.scan_page(cursor, now).await
    }

    async fn pepper_checks(&self) -> Result<Vec<(PepperId, [u8; 32])>, StoreError> {
        let all = command("HGETALL", &[ShardKeys::meta().as_bytes()]);
        let Value::Map(fields) = self.link.send(Lane::Write, &all, self.link.budget()).await? else {
            return Err(unexpected("a hash"));
        };
        let mut checks = Vec::new();
        for (name, value) in fields {
            let mut pair = Values::of(Value::Array(vec![name, value]))?;
            let (name, value) = (pair.bytes()?, pair.bytes()?);
            let Some(id) = std::str::from_utf8(&name).ok().and_then(|name| name.strip_prefix(PEPPER)) else {
                continue;
            };
            let id = PepperId::parse(id).map_err(|error| unreadable("a pepper's id".to_owned(), error.into()))?;
            let check = pepper_check(&id, &value)?;
            checks.push((id, check));
        }
        checks.sort();
        Ok(checks)
    }

    async fn add_pepper_check(&self, id: &PepperId, check: [u8; 32]) -> Result<[u8; 32], StoreError> {
        let budget = self.link.budget();
        let field = format!("{PEPPER}{id}");
        let add = command("HSETNX", &[ShardKeys::meta().as_bytes(), field.as_bytes(), &check]);
        self.link.send(Lane::Write, &add, budget).await?;
        match self.meta_field(&field, budget).await? {
            Some(bytes) => pepper_check(id, &bytes),
            None => Err(StoreError::Unavailable(format!("the check of pepper `{id}` was removed as it was added"))),
        }
    }

    async fn remove_pepper_check(&self, id: &PepperId) -> Result<(), StoreError> {
        let field = format!("{PEPPER}{id}");
        let remove = command("HDEL", &[ShardKeys::meta().as_bytes(), field.as_bytes()]);
        self.link.send(Lane::Write, &remove, self.link.budget()).await?;
        Ok(())
    }

    async fn health(&self, _now: Timestamp) -> Result<Health, StoreError> {
        self.look(self.shards()).await
    }

    fn shards(&self) -> u16 {
        self.config.shards.get()
    }

    fn leases(&self) -> Option<&dyn Leases> {
        Some(self)
    }

    fn identity(&self) -> Identity {
        Identity { kind: "redis", location: self.config.url.location().to_owned() }
    }
}

fn command(name: &str, args: &[&[u8]]) -> Cmd {
    let mut command = redis::cmd(name);
    for arg in args {
        command.arg(*arg);
    }
    command
}

/// A record, and when it goes.
type Living = (Box<KeyRecord>, Option<Timestamp>);

/// The record in `bytes`, unless it is past its time.
fn decode(id: KeyId, bytes: &[u8], now: Timestamp) -> Result<Option<Living>, StoreError> {
    let failed = |error| unreadable(format!("the record of key {id}"), error);
    let header = Header::read(bytes).map_err(failed)?;
    if header.is_gone(now) {
        return Ok(None);
    }
    let record = codec::decode_record(id, bytes).map_err(failed)?;
    Ok(Some((record, header.gone_at)))
}

fn pepper_check(id: &PepperId, bytes: &[u8]) -> Result<[u8; 32], StoreError> {
    bytes.try_into().map_err(|_| {
        let error = CodecError::Damaged(format!("{} bytes where 32 are written", bytes.len()));
        unreadable(format!("the check of pepper `{id}`"), error)
    })
}

const fn unreadable(what: String, error: CodecError) -> StoreError {
    StoreError::Unreadable { what, error }
}

fn changed() -> StoreError {
    StoreError::Unavailable("its history changed; it is being checked".to_owned())
}

/// A number as an argument of a script.
fn decimal(number: u64) -> Vec<u8> {
    number.to_string().into_bytes()
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
