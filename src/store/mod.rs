//! The store: where records live, behind one trait with few verbs.
//!
//! Domain logic stays outside. A mutation is computed from the record it read and written by one
//! atomic compare-and-set [`Commit`]; when somebody was faster, the answer is
//! [`Outcome::Conflict`], and the caller reads again. `now` is an argument of every verb: past its
//! time a record is absent, whatever the backend still holds.
//!
//! Every key of an owner lives in the owner's *bucket* (the first byte of its ids), and a bucket
//! lies in one *shard*; a commit stays within one shard. Whoever writes another backend runs
//! `conformance` on it.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

#[cfg(feature = "conformance")]
pub mod conformance;
pub mod embedded;
pub mod guarded;
mod leases;
pub mod promised;
pub mod redis;

use crate::clock::Timestamp;
use crate::key::codec::{CodecError, IdempotencyEntry};
use crate::key::{Action, Actor, Event, KeyId, KeyRecord, OwnerRef, PepperId, Realm};

pub use leases::{Beat, Beaten, LONGEST_WAKE, Leases, Member, MemberId, over, usable};

/// Most writes of one commit.
pub const MAX_WRITES: usize = 256;

/// Where records live.
#[async_trait]
pub trait Store: Send + Sync + fmt::Debug {
    /// The record of `id`, from the primary, or none.
    async fn get(&self, id: KeyId, now: Timestamp) -> Result<Option<Found>, StoreError>;

    /// Writes everything in `commit` or nothing: records, indexes, events, log entries and the
    /// idempotency entry. It survives a crash of this process once it is answered. A taken
    /// idempotency slot is answered before any conflict: what was done already is no conflict.
    async fn commit(&self, commit: &Commit, now: Timestamp) -> Result<Outcome, StoreError>;

    /// What the idempotency slot `slot` in the shard of `bucket` was answered with, if it is
    /// remembered at `now`.
    async fn idempotency(
        &self,
        bucket: u8,
        slot: [u8; 32],
        now: Timestamp,
    ) -> Result<Option<IdempotencyEntry>, StoreError>;

    /// One page of records, by (created_at, id). No record that existed throughout is skipped.
    async fn list(&self, query: &ListQuery, now: Timestamp) -> Result<ListPage, StoreError>;

    /// Events of one shard that match, in order of their position. A shard that does not exist is a
    /// misuse, here and in [`Store::log`].
    async fn audit(&self, query: &AuditQuery) -> Result<AuditPage, StoreError>;

    /// Log entries of one shard after `after` (none: from the first one ever), oldest first, at most
    /// `limit`.
    async fn log(&self, shard: u16, after: Option<LogCursor>, limit: usize) -> Result<LogPage, StoreError>;

    /// Every record, in no particular order, page by page: for maintenance.
    async fn scan(&self, cursor: Option<ScanCursor>, now: Timestamp) -> Result<ScanPage, StoreError>;

    /// The pepper checks that the store knows (see [`crate::hash::Pepper::check`]).
    async fn pepper_checks(&self) -> Result<Vec<(PepperId, [u8; 32])>, StoreError>;

    /// Adds a pepper check if its id is not known yet, and answers the one that counts from now on.
    async fn add_pepper_check(&self, id: &PepperId, check: [u8; 32]) -> Result<[u8; 32], StoreError>;

    /// Forgets a pepper check.
    async fn remove_pepper_check(&self, id: &PepperId) -> Result<(), StoreError>;

    /// What the store is and promises, asked just now.
    async fn health(&self, now: Timestamp) -> Result<Health, StoreError>;

    /// Has `observer` told of each change from now on, before the commit that made it is answered, and
    /// after it can be read; answers whether it will be. A store that others write to as well cannot
    /// promise that. There is one observer: the first.
    fn observe(&self, _observer: Arc<dyn Observer>) -> bool {
        false
    }

    /// The verbs by which several processes on this store come to an understanding. None: it has one.
    fn leases(&self) -> Option<&dyn Leases> {
        None
    }

    /// Number of shards, a power of two up to 256.
    fn shards(&self) -> u16;

    /// What and where the store is, without credentials, known without asking it.
    fn identity(&self) -> Identity;
}

/// A record as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The record. Boxed: every check of a key passes it on.
    pub record: Box<KeyRecord>,
    /// When it goes.
    pub gone_at: Option<Timestamp>,
    /// The history that it was found in.
    pub epoch: Epoch,
}

/// Is told what changes in a store. Called by its writer, so it must not wait.
pub trait Observer: Send + Sync {
    /// The record of `id` has changed.
    fn changed(&self, id: KeyId);

    /// Nobody knows which records have changed, or whether others may change them from now on. Reads
    /// that begin after this are of what is found then.
    fn unknown(&self);
}

/// The shard of a bucket.
#[must_use]
pub fn shard_of(bucket: u8, shards: u16) -> u16 {
    u16::from(bucket) % shards.max(1)
}

/// What and where a store is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// `embedded` or `redis`.
    pub kind: &'static str,
    /// A path or an address; never credentials.
    pub location: String,
}

/// What is written at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// The bucket whose shard is written; every record's bucket lies in that shard.
    pub bucket: u8,
    /// Up to [`MAX_WRITES`] records, each once.
    pub writes: Vec<Write>,
    /// The history that the writes were computed from: in another one they conflict. None: they are right
    /// whatever was read, as a revocation is.
    pub epoch: Option<Epoch>,
    /// What happened.
    pub events: Vec<Event>,
    /// Makes the call safe to repeat.
    pub idempotency: Option<Idempotency>,
    /// Bounds the living keys of an owner.
    pub guard: Option<OwnerGuard>,
    /// Whether a full store must still take it.
    pub effect: Effect,
}

impl Commit {
    /// Whether the commit keeps the contract of [`Store::commit`] in a store of `shards` shards.
    /// Each backend asks this first.
    ///
    /// # Errors
    /// [`StoreError::Misuse`], saying how it does not.
    pub fn check(&self, shards: u16) -> Result<(), StoreError> {
        let misuse = |text: String| Err(StoreError::Misuse(text));
        if self.writes.len() > MAX_WRITES || self.events.len() > MAX_WRITES {
            return misuse(format!(
                "a commit of {} writes and {} events; at most {MAX_WRITES} of each fit",
                self.writes.len(),
                self.events.len()
            ));
        }
        if self.writes.is_empty() && self.idempotency.is_none() {
            return misuse("a commit that writes nothing".to_owned());
        }
        // An event is found by the log position of its commit, and only a write has one.
        if self.writes.is_empty() && !self.events.is_empty() {
            return misuse("a commit of events without a write".to_owned());
        }
        let shard = shard_of(self.bucket, shards);
        let mut ids = BTreeSet::new();
        for Write { record, .. } in &self.writes {
            if shard_of(record.id.bucket(), shards) != shard {
                return misuse(format!("a commit in shard {shard} writes {}, which lies in another", record.id));
            }
            if !ids.insert(record.id) {
                return misuse(format!("a commit writes {} twice", record.id));
            }
        }
        match &self.guard {
            Some(guard) if shard_of(guard.owner.bucket(&guard.realm), shards) != shard => {
                misuse(format!("a commit in shard {shard} guards an owner whose keys lie in another"))
            }
            _ => Ok(()),
        }
    }
}

/// One record to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// The record as it shall be.
    pub record: KeyRecord,
    /// What must be there now.
    pub expects: Expect,
    /// When the record goes.
    pub gone_at: Option<Timestamp>,
}

/// What a write expects to find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// No record (or one that is past its time).
    Absent,
    /// A record of this version.
    Version(u64),
}

/// Whether a commit adds to the store or takes rights away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Creates, widens, resumes: a full store refuses it.
    Adds,
    /// Revokes, suspends, narrows: a full store must take it.
    TakesAway,
}

/// The part of a commit that makes its call safe to repeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idempotency {
    /// Which call: a digest of caller, realm, method and request_id.
    pub slot: [u8; 32],
    /// What it was answered with.
    pub entry: IdempotencyEntry,
    /// A replay writes the entry again; a first try must find the slot empty.
    pub replay: bool,
}

/// At most `max` keys of `owner` may be living once the commit is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnerGuard {
    /// The owner's realm.
    pub realm: Realm,
    /// The owner.
    pub owner: OwnerRef,
    /// The bound.
    pub max: u32,
}

/// What a commit came to. Only [`Outcome::Done`] wrote anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Written.
    Done(Done),
    /// A record, or the history, is not what was expected: read again.
    Conflict,
    /// The idempotency slot is taken: this call was answered before.
    Replay(IdempotencyEntry),
    /// The owner guard does not hold.
    OwnerFull,
}

/// What was written, where, and who may not know of it yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    /// The position of the shard's last log entry, which is the commit's own unless it had no writes.
    pub at: LogCursor,
    /// Whether no lease of an earlier epoch can still run.
    pub settled: bool,
    /// Who may answer from memory.
    pub members: Vec<Member>,
}

impl Done {
    /// In a store that nobody else uses.
    #[must_use]
    pub const fn alone(at: LogCursor) -> Self {
        Self { at, settled: true, members: Vec::new() }
    }
}

/// A place in a shard's log. Positions begin at 1 and grow by one an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LogCursor {
    /// The history that the position belongs to.
    pub epoch: Epoch,
    /// The position; 0: before the first entry.
    pub position: u64,
}

/// Names one history of a shard. Changes whenever what was written may have been lost.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Epoch(pub [u8; 32]);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Which records to list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListQuery {
    /// Of this realm.
    pub realm: Realm,
    /// Of this owner alone.
    pub owner: Option<OwnerRef>,
    /// After this place.
    pub after: Option<ListCursor>,
    /// At most so many.
    pub limit: usize,
}

/// A place in a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ListCursor {
    /// When the record there was created.
    pub created_at: Timestamp,
    /// Its id.
    pub id: KeyId,
}

/// One page of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListPage {
    /// The records.
    pub records: Vec<KeyRecord>,
    /// The history of each shard that was looked at, also where nothing was found.
    pub epochs: Vec<(u16, Epoch)>,
    /// Where to go on; none: this was the end. A page may be short, even empty, and still have more
    /// behind it: a store looks at a bounded number of records per call.
    pub next: Option<ListCursor>,
}

/// Which events to answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditQuery {
    /// Of this shard.
    pub shard: u16,
    /// After this place, in the direction of `newest_first`; none: from the end it begins at.
    pub after: Option<AuditCursor>,
    /// From the newest to the oldest.
    pub newest_first: bool,
    /// Only these.
    pub filter: AuditFilter,
    /// At most so many.
    pub limit: usize,
}

/// Which events match: all that is given must hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AuditFilter {
    /// One of these realms; none: any.
    pub realms: Option<Vec<Realm>>,
    /// This key.
    pub key_id: Option<KeyId>,
    /// This owner.
    pub owner: Option<OwnerRef>,
    /// This actor.
    pub actor: Option<Actor>,
    /// This action.
    pub action: Option<Action>,
    /// At or after this time.
    pub since: Option<Timestamp>,
    /// Before this time.
    pub before: Option<Timestamp>,
}

impl AuditFilter {
    /// Whether `event` matches.
    #[must_use]
    pub fn matches(&self, event: &Event) -> bool {
        self.realms.as_ref().is_none_or(|realms| realms.contains(&event.realm))
            && self.key_id.is_none_or(|id| id == event.key_id)
            && self.owner.as_ref().is_none_or(|owner| *owner == event.owner)
            && self.actor.as_ref().is_none_or(|actor| *actor == event.actor)
            && self.action.is_none_or(|action| action == event.action)
            && self.since.is_none_or(|since| event.at >= since)
            && self.before.is_none_or(|before| event.at < before)
    }
}

/// A place in a shard's audit log: the position of the commit's last log entry, and the index of
/// the event within the commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AuditCursor {
    /// Position.
    pub position: u64,
    /// Index, from 0.
    pub index: u32,
}

/// One page of events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditPage {
    /// The events with their places.
    pub events: Vec<(AuditCursor, Event)>,
    /// Where to go on; none: this was the end. A page may be empty and still have more behind it:
    /// a store looks at a bounded number of events per call.
    pub next: Option<AuditCursor>,
}

/// A part of a shard's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogPage {
    /// The history that this is of.
    pub epoch: Epoch,
    /// Position of the newest entry ever written; 0: none.
    pub tail: u64,
    /// Whether entries after the given cursor are missing (another epoch, trimmed, or a tail that
    /// lies before the cursor): whatever was concluded from earlier entries must be dropped. The
    /// entries are then empty, and reading goes on from `tail`.
    pub gap: bool,
    /// The entries, oldest first.
    pub entries: Vec<LogEntry>,
}

/// One entry of a log: this key has this version now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogEntry {
    /// Its position.
    pub position: u64,
    /// The key.
    pub id: KeyId,
    /// Its version.
    pub version: u64,
}

/// A place in a scan; its meaning is the backend's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScanCursor(pub Vec<u8>);

/// One page of a scan.
#[derive(Debug, Clone)]
pub struct ScanPage {
    /// The records. One that is written during the scan may come twice.
    pub records: Vec<KeyRecord>,
    /// Where to go on; none: this was the end.
    pub next: Option<ScanCursor>,
}

/// What a store is and promises.
#[derive(Debug, Clone, PartialEq)]
pub struct Health {
    /// `primary`, `replica`, or empty where there are no roles.
    pub role: String,
    /// Version of its software.
    pub version: String,
    /// Epoch of each shard.
    pub epochs: Vec<Epoch>,
    /// What a crash of the store can lose.
    pub durability: Durability,
    /// The store's clock, where it has one.
    pub clock: Option<Timestamp>,
    /// Whether the store may drop records when it is full.
    pub evicts: bool,
    /// How full it is, from 0 to 1, where it has a bound.
    pub fullness: Option<f64>,
    /// Who follows it, where it can be followed.
    pub replication: Option<Replication>,
}

/// Copies of a store that may take its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Replication {
    /// Those that follow the primary now.
    pub connected: u32,
    /// As many of them have to have a change before it is answered.
    pub needed: u32,
    /// Those that the configuration says there are.
    pub configured: u32,
}

impl Replication {
    /// What is waited for, and what may be promoted for it, for people.
    #[must_use]
    pub fn text(self) -> String {
        let Self { connected, needed, configured } = self;
        if needed == 0 {
            let others =
                if connected.max(configured) == 0 { "there are no replicas" } else { "replicas are not waited for" };
            return format!("a change is answered as soon as the primary has it: {others}");
        }
        let promoted = match (needed == configured, configured) {
            (true, 1) => "the replica may be promoted",
            (true, _) => "any of them may be promoted",
            (false, _) => "the one that has most may be promoted, and no other",
        };
        format!("each change is confirmed by {needed} of {configured} replicas before it is answered: {promoted}")
    }
}

/// What a crash of the store can lose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Durability {
    /// Nothing that was answered OK.
    Durable(String),
    /// The last moments, or everything; the text says which.
    Lossy(String),
    /// The store does not say.
    Unknown(String),
}

impl Durability {
    /// The text for people.
    #[must_use]
    pub fn text(&self) -> &str {
        match self {
            Self::Durable(text) | Self::Lossy(text) | Self::Unknown(text) => text,
        }
    }

    /// Whether nothing that was answered OK is lost.
    #[must_use]
    pub const fn is_durable(&self) -> bool {
        matches!(self, Self::Durable(_))
    }
}

/// Why a store did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// It did not answer, or not in time. A commit may or may not have been written.
    #[error("the store is out of reach: {0}")]
    Unavailable(String),
    /// It has no room for what adds to it.
    #[error("the store is full: {0}")]
    Full(String),
    /// It holds something that this program cannot read.
    #[error("the store holds {what} that cannot be read: {error}")]
    Unreadable {
        /// What it was.
        what: String,
        /// Why.
        #[source]
        error: CodecError,
    },
    /// It must not be used at all: another process holds it, it evicts, it is too old, its
    /// settings contradict the configuration. The text names the remedy, and no waiting heals it. Answered by
    /// checks, at the start and later, and when the term of leases is to be changed; by no other verb.
    #[error("{0}")]
    Refused(String),
    /// The caller broke the contract of a verb: a bug in this program.
    #[error("a bug in keyclasp: {0}")]
    Misuse(String),
}

/// The longest that a store call may take before it counts as unavailable.
pub const CALL_LIMIT: Duration = Duration::from_secs(2);
