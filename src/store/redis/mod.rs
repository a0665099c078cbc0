//! The store on Redis (7.0 or newer) or Valkey: one standalone server.
//!
//! Everything that knows where which key lies is in this folder. Every verb is one script on the
//! shard's primary, which first asks whether the node is a primary and whether the shard is still
//! the one that it was (`scripts/fence.lua`); only SCAN, which is no shard's, and the `meta` hash
//! need more than one call.
//!
//! # Epochs
//! A shard's *incarnation* is a key that holds the replid of the node that wrote it and 16 random
//! bytes. The start-up check writes it where it is absent or another node's, and so does a commit.
//! FLUSHALL removes it; a restart and a promotion change the node's replid: after each of them the
//! epoch is one that nobody has seen. A read that finds no incarnation of the node's own has it
//! written (`hello`) and reads again.
//!
//! A commit names the incarnation that this process knows. When the shard has another one, nothing
//! is written: the records that the commit was computed from may be of a history that was lost. The
//! caller is told to read again.
//!
//! # Time
//! Whether a record or an idempotency entry is past its time is decided by the `now` of the verb.
//! Redis' TTL only collects garbage, an hour later. It is given as a span, so that it does not
//! matter how far Redis' clock is from ours.

mod audit;
mod commit;
mod config;
mod connection;
mod failure;
mod info;
mod keys;
mod list;
mod scan;
mod script;

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::try_join_all;
use redis::{Cmd, Value};

pub use config::{RedisConfig, RedisUrl, Shards};

use self::connection::{Budget, Lane, Link};
use self::failure::Failure;
use self::info::Info;
use self::keys::ShardKeys;
use self::script::{Answer, Call, Incarnation, Scripts, Values, unexpected};
use super::{
    AuditPage, AuditQuery, Commit, Epoch, Health, Identity, ListPage, ListQuery, LogCursor, LogPage, Outcome,
    ScanCursor, ScanPage, Store, StoreError, shard_of,
};
use crate::clock::{Clock, Timestamp};
use crate::key::codec::{self, CodecError, Header, IdempotencyEntry};
use crate::key::{KeyId, KeyRecord, PepperId};
use crate::random::{self, Entropy};

/// How much longer than its time Redis keeps what goes by itself.
const SLACK: Duration = Duration::from_secs(60 * 60);

/// Field of the `meta` hash: number of shards.
const SHARDS: &str = "shards";
/// What the fields of pepper checks begin with.
const PEPPER: &str = "pepper:";

/// A store on one Redis.
pub struct RedisStore {
    config: RedisConfig,
    link: Link,
    scripts: Scripts,
    entropy: Arc<dyn Entropy>,
    /// The incarnation of each shard that commits are computed in.
    known: RwLock<Vec<Option<Incarnation>>>,
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
    /// When the client cannot be made from the address.
    pub fn new(config: RedisConfig, entropy: Arc<dyn Entropy>, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        let link = Link::new(&config, clock)?;
        let known = RwLock::new(vec![None; config.shards.get().into()]);
        Ok(Self { config, link, scripts: Scripts::new(), entropy, known })
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

    /// The start-up check: whether this server can be relied on, and whether the store in it has as
    /// many shards as the configuration says. Makes every shard usable.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] while the server is out of reach: try again;
    /// [`StoreError::Refused`] when it must not be used.
    pub async fn check(&self) -> Result<(), StoreError> {
        let budget = self.link.budget();
        let location = self.config.url.location();
        let info = self.info(budget).await.map_err(|failure| match failure {
            Failure::Denied(_) | Failure::TooOld(_) => StoreError::Refused(format!("{location}: {failure}")),
            other => other.into(),
        })?;
        if let Some(refusal) = info.refusal(location) {
            return Err(StoreError::Refused(refusal));
        }
        self.check_shards(budget).await?;
        let found = try_join_all((0..self.shards()).map(|shard| self.hello(shard, budget))).await?;
        self.with_known(|known| *known = found.into_iter().map(Some).collect());
        Ok(())
    }

    /// Compares the number of shards with the stored one; stores it where there is none.
    async fn check_shards(&self, budget: Budget) -> Result<(), StoreError> {
        let ours = self.shards().to_string();
        let mut stored = self.meta_field(SHARDS, budget).await?;
        if stored.is_none() {
            let add = command("HSETNX", &[ShardKeys::meta().as_bytes(), SHARDS.as_bytes(), ours.as_bytes()]);
            self.link.send(Lane::Write, &add, budget).await?;
            stored = self.meta_field(SHARDS, budget).await?;
        }
        let stored = stored.unwrap_or_default();
        if stored == ours.as_bytes() {
            return Ok(());
        }
        let stored = String::from_utf8_lossy(&stored).into_owned();
        Err(StoreError::Refused(format!(
            "the store at {} was made with {stored} shards, and the configuration says {ours}: set store.shards = {stored}, or use an empty database",
            self.config.url.location()
        )))
    }

    async fn meta_field(&self, field: &str, budget: Budget) -> Result<Option<Vec<u8>>, StoreError> {
        let get = command("HGET", &[ShardKeys::meta().as_bytes(), field.as_bytes()]);
        let value = self.link.send(Lane::Write, &get, budget).await?;
        Values::of(Value::Array(vec![value]))?.optional_bytes()
    }

    async fn info(&self, budget: Budget) -> Result<Info, Failure> {
        match self.link.send(Lane::Read, &redis::cmd("INFO"), budget).await? {
            Value::VerbatimString { text, .. } | Value::SimpleString(text) => Ok(Info::parse(&text)),
            Value::BulkString(bytes) => Ok(Info::parse(&String::from_utf8_lossy(&bytes))),
            _ => Err(Failure::Refused("INFO was answered by something else than text".to_owned())),
        }
    }

    /// A setting of the server; none where it may not be read. That there was no answer is no such
    /// reason: "nobody can say" is taken for an answer by whoever insists on durability.
    async fn setting(&self, name: &str, budget: Budget) -> Result<Option<String>, Failure> {
        let get = command("CONFIG", &[b"GET", name.as_bytes()]);
        let value = match self.link.send(Lane::Read, &get, budget).await {
            // Not permitted, or renamed away.
            Err(Failure::Denied(_) | Failure::Plain(_)) => return Ok(None),
            other => other?,
        };
        let Value::Map(pairs) = value else { return Ok(None) };
        Ok(match pairs.into_iter().next() {
            Some((_, Value::BulkString(bytes))) => String::from_utf8(bytes).ok(),
            Some((_, Value::SimpleString(text))) => Some(text),
            _ => None,
        })
    }

    /// Makes a shard usable: it has an incarnation of this node's own afterwards.
    async fn hello(&self, shard: u16, budget: Budget) -> Result<Incarnation, StoreError> {
        let random: [u8; 16] = self.random()?;
        let call = self.scripts.hello.call(vec![ShardKeys::new(shard).incarnation()], vec![random.to_vec()]);
        match Answer::parse(self.link.run(Lane::Write, &call, budget).await?)? {
            Answer::Ok(incarnation, _) => Ok(incarnation),
            Answer::NotPrimary => Err(self.not_primary()),
            _ => Err(unexpected("a script's answer")),
        }
    }

    /// Runs a script that reads. Its first argument is the incarnation that it expects, or empty;
    /// another one is an error.
    async fn read(&self, shard: u16, call: &Call<'_>, budget: Budget) -> Result<(Incarnation, Values), StoreError> {
        let mut greeted = false;
        let mut resent = false;
        loop {
            let value = match self.link.run(Lane::Read, call, budget).await {
                // Reading twice does no harm, and the next connection may be a good one.
                Err(Failure::Broken(_)) if !resent => {
                    resent = true;
                    continue;
                }
                other => other?,
            };
            match Answer::parse(value)? {
                Answer::Ok(incarnation, values) => return Ok((incarnation, values)),
                Answer::NotPrimary => return Err(self.not_primary()),
                Answer::Lost if !greeted => {
                    greeted = true;
                    self.hello(shard, budget).await?;
                }
                Answer::Lost | Answer::Changed(_) => return Err(lost()),
                _ => return Err(unexpected("a script's answer")),
            }
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

    fn known(&self, shard: u16) -> Option<Incarnation> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.get(usize::from(shard)).copied().flatten()
    }

    fn with_known(&self, change: impl FnOnce(&mut Vec<Option<Incarnation>>)) {
        change(&mut self.known.write().unwrap_or_else(PoisonError::into_inner));
    }

    fn check_shard(&self, shard: u16) -> Result<ShardKeys, StoreError> {
        if shard < self.shards() {
            Ok(ShardKeys::new(shard))
        } else {
            Err(StoreError::Misuse(format!("shard {shard} of {}", self.shards())))
        }
    }

    async fn epoch(&self, shard: u16, budget: Budget) -> Result<Epoch, StoreError> {
        let (incarnation, _) = self.read_log(shard, 0, 0, budget).await?;
        Ok(incarnation.epoch())
    }
}

#[async_trait]
impl Store for RedisStore {
    async fn get(&self, id: KeyId, now: Timestamp) -> Result<Option<KeyRecord>, StoreError> {
        let shard = shard_of(id.bucket(), self.shards());
        let keys = ShardKeys::new(shard);
        let call = self.scripts.get.call(vec![keys.incarnation(), keys.record(id)], vec![Vec::new()]);
        let (_, mut values) = self.read(shard, &call, self.link.budget()).await?;
        match values.array()?.optional_bytes()? {
            Some(bytes) => decode(id, &bytes, now),
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
        let budget = self.link.budget();
        let info = self.info(budget).await?;
        let epochs = if info.is_primary() {
            try_join_all((0..self.shards()).map(|shard| self.epoch(shard, budget))).await?
        } else {
            Vec::new()
        };
        let time = self.link.send(Lane::Read, &redis::cmd("TIME"), budget).await?;
        let mut time = Values::of(time)?;
        let (seconds, micros) = (time.number()?, time.number()?);
        let appendfsync = self.setting("appendfsync", budget).await?;
        let save = self.setting("save", budget).await?;
        Ok(Health {
            role: if info.is_primary() { "primary" } else { "replica" }.to_owned(),
            version: info.version(),
            epochs,
            durability: info.durability(appendfsync.as_deref(), save.as_deref()),
            clock: Some(Timestamp::from_millis(seconds.saturating_mul(1000).saturating_add(micros / 1000))),
            evicts: info.evicts(),
            fullness: info.fullness(),
        })
    }

    fn shards(&self) -> u16 {
        self.config.shards.get()
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

/// The record in `bytes`, unless it is past its time.
fn decode(id: KeyId, bytes: &[u8], now: Timestamp) -> Result<Option<KeyRecord>, StoreError> {
    let failed = |error| unreadable(format!("the record of key {id}"), error);
    if Header::read(bytes).map_err(failed)?.is_gone(now) {
        return Ok(None);
    }
    codec::decode_record(id, bytes).map(Some).map_err(failed)
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

fn lost() -> StoreError {
    StoreError::Unavailable("it was emptied or replaced while it was read; call again".to_owned())
}

/// A number as an argument of a script.
fn decimal(number: u64) -> Vec<u8> {
    number.to_string().into_bytes()
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
