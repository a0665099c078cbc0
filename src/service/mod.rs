//! Use cases: what keyclasp does, whoever asks and over whatever wire.
//!
//! | use case | home |
//! |---|---|
//! | who may do what | [`access`] |
//! | create, get, list, update, rotate, suspend, resume, revoke one key | [`lifecycle`] |
//! | revoke many keys | [`sweep`] |
//! | end a key by presenting it | [`own`] |
//! | may this key pass? | [`validate`] |
//! | what happened | [`audit`] |
//! | how is this replica | [`status`] |
//!
//! Knows no wire codes and no concrete store.

pub mod access;
mod argon2;
pub mod audit;
mod error;
mod held;
mod idempotency;
pub mod keyring;
pub mod lifecycle;
mod metrics;
pub mod own;
pub mod page;
mod policies;
pub mod status;
pub mod sweep;
pub mod validate;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

pub use error::{Error, ErrorKind, FieldViolation};
pub use metrics::ServiceMetrics;
pub use policies::Policies;

use self::access::{Call, Principal, Realms, Right};
pub use self::held::Held;
use crate::clock::{Clock, Timestamp};
use crate::fence::{self, Waited};
use crate::hash::Hasher;
use crate::key::{Event, KeyId, KeyRecord, Realm};
use crate::random::Entropy;
use crate::store::{Commit, Done, Epoch, Found, Outcome, Store, StoreError, Write, shard_of};

/// What the use cases share.
pub struct Core {
    store: Arc<dyn Store>,
    records: Arc<fence::Fence<Held>>,
    hasher: Arc<Hasher>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    policies: Policies,
    retention: Duration,
    metrics: ServiceMetrics,
    argon2: argon2::Gate,
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core").field("store", &self.store).finish_non_exhaustive()
    }
}

/// What the composition root puts into [`Service::new`].
pub struct Parts {
    /// Where records live.
    pub store: Arc<dyn Store>,
    /// The records of that store, for checks of keys.
    pub records: Arc<fence::Fence<Held>>,
    /// Makes and verifies secrets.
    pub hasher: Arc<Hasher>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
    /// What each realm allows.
    pub policies: Policies,
    /// How long the record of a key that ended is kept.
    pub retention: Duration,
    /// What is counted.
    pub metrics: ServiceMetrics,
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts").field("store", &self.store).finish_non_exhaustive()
    }
}

/// The use cases, wired together. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Service {
    /// The life of single keys.
    pub keys: lifecycle::Lifecycle,
    /// Revoking many keys.
    pub sweep: sweep::Sweep,
    /// Ending a key by presenting it.
    pub own: own::SelfRevocation,
    /// The check path.
    pub validator: validate::Validator,
    /// The audit log.
    pub audit: audit::AuditLog,
    /// The state of this replica.
    pub status: status::StatusReport,
}

impl Service {
    /// The use cases over `parts`.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let core = Arc::new(Core {
            store: parts.store,
            records: parts.records,
            hasher: parts.hasher,
            clock: parts.clock,
            entropy: parts.entropy,
            policies: parts.policies,
            retention: parts.retention,
            metrics: parts.metrics,
            argon2: argon2::Gate::new(),
        });
        Self {
            keys: lifecycle::Lifecycle::new(Arc::clone(&core)),
            sweep: sweep::Sweep::new(Arc::clone(&core)),
            own: own::SelfRevocation::new(Arc::clone(&core)),
            validator: validate::Validator::new(Arc::clone(&core)),
            audit: audit::AuditLog::new(Arc::clone(&core)),
            status: status::StatusReport::new(core),
        }
    }
}

/// What the answer to a change that takes something away waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Fence {
    /// Position of the change in its shard's log.
    pub position: u64,
    /// Replicas that said that they had applied it, this one among them.
    pub acknowledged: u32,
    /// Replicas whose lease had to end first, because they were silent.
    pub lapsed: u32,
    /// How long the wait took.
    pub duration: Duration,
}

impl Fence {
    fn new(done: &Done, waited: Waited) -> Self {
        let Waited { acknowledged, lapsed, duration } = waited;
        Self { position: done.at.position, acknowledged, lapsed, duration }
    }
}

/// A commit that is under way. At its end, also when its caller goes away before the store has answered, nobody
/// knows for certain that it was not carried out.
struct MayHaveChanged<'a> {
    core: &'a Core,
    commit: &'a Commit,
}

impl Drop for MayHaveChanged<'_> {
    fn drop(&mut self) {
        self.core.records.changed(self.commit.writes.iter().map(|write| write.record.id));
    }
}

/// How often a change is computed anew because somebody else was faster.
const MAX_CONFLICTS: usize = 16;

impl Core {
    /// Writes `commit`, and tells the log and the metrics of its events.
    async fn commit(&self, commit: &Commit, now: Timestamp) -> Result<Outcome, Error> {
        let changed = MayHaveChanged { core: self, commit };
        let outcome = self.store.commit(commit, now).await;
        drop(changed);
        let outcome = outcome?;
        if matches!(outcome, Outcome::Done(_)) {
            for event in &commit.events {
                self.metrics.mutated(event.action);
                tracing::info!(
                    action = event.action.name(),
                    key = %event.key_id,
                    realm = %event.realm,
                    owner = event.owner.id(),
                    actor = %event.actor,
                    origin = event.origin,
                    version = event.key_version,
                    "key changed"
                );
            }
        }
        Ok(outcome)
    }

    /// Waits until no replica answers from what was before `done`, a commit in the shard of `bucket`. `ends`: when
    /// the caller's time is up.
    async fn fence(&self, bucket: u8, done: &Done, ends: Option<Duration>) -> Result<Fence, Error> {
        let waited = self.records.wait(shard_of(bucket, self.store.shards()), done, ends).await?;
        Ok(Fence::new(done, waited))
    }

    /// The same, for a change that may not take anything away.
    async fn fence_if(
        &self,
        narrows: bool,
        bucket: u8,
        done: &Done,
        ends: Option<Duration>,
    ) -> Result<Option<Fence>, Error> {
        if narrows { self.fence(bucket, done, ends).await.map(Some) } else { Ok(None) }
    }

    /// Waits until no replica answers from what was in `shard` before this call, which somebody else may have
    /// written and not been answered yet. None: `epoch`, in which that was found, is not the present one any more.
    async fn fence_earlier(&self, shard: u16, epoch: Epoch, ends: Option<Duration>) -> Result<Option<Fence>, Error> {
        if self.store.leases().is_none() {
            let position = self.store.log(shard, None, 1).await?.tail;
            return Ok(Some(Fence { position, ..Fence::default() }));
        }
        let waited = self.records.wait_for_earlier(shard, epoch, ends).await?;
        Ok(waited.map(|(done, waited)| Fence::new(&done, waited)))
    }

    /// Waits until what was in `shard` before this call is as durable as a commit, and for nobody to learn of it:
    /// for what gives. Answers whether `epoch`, in which that was found, is the present one.
    async fn settle_earlier(&self, shard: u16, epoch: Epoch) -> Result<bool, Error> {
        match self.store.leases() {
            Some(leases) => Ok(leases.barrier(shard).await?.at.epoch == epoch),
            None => Ok(true),
        }
    }

    /// The record of `id`, which `principal` must have `right` to. An unknown id and one in a
    /// realm where the caller has no role look the same.
    async fn fetch(&self, principal: &Principal, right: Right, id: KeyId, now: Timestamp) -> Result<Found, Error> {
        require_somewhere(principal, right)?;
        let found = self.store.get(id, now).await.map_err(Error::unread)?.ok_or_else(Error::key_not_found)?;
        let realm = &found.record.realm;
        if principal.may(right, realm) {
            Ok(found)
        } else if Right::ALL.into_iter().any(|right| principal.may(right, realm)) {
            Err(role_missing(right))
        } else {
            Err(Error::key_not_found())
        }
    }

    fn write(&self, record: KeyRecord, expects: crate::store::Expect) -> Write {
        Write { gone_at: record.gone_at(self.retention), record, expects }
    }
}

/// The event of a change to `record` (as it is afterwards).
fn event(call: &Call, record: &KeyRecord, action: crate::key::Action, now: Timestamp) -> Event {
    Event {
        at: now,
        action,
        actor: call.principal.name.clone(),
        realm: record.realm.clone(),
        key_id: record.id,
        owner: record.owner.reference.clone(),
        reason: crate::key::Reason::from_static(""),
        origin: call.origin.as_ref().to_owned(),
        key_version: record.version,
        fields: Vec::new(),
        rotated_to: None,
    }
}

fn require(principal: &Principal, right: Right, realm: &Realm) -> Result<(), Error> {
    if principal.may(right, realm) { Ok(()) } else { Err(role_missing(right)) }
}

fn require_somewhere(principal: &Principal, right: Right) -> Result<(), Error> {
    match principal.realms_with(right) {
        Realms::Only(realms) if realms.is_empty() => Err(role_missing(right)),
        _ => Ok(()),
    }
}

fn role_missing(right: Right) -> Error {
    Error::new(ErrorKind::RoleMissing, format!("this caller needs the role {} in this realm", right.roles()))
}

fn another_history() -> Error {
    StoreError::Unavailable("its history changed meanwhile; repeat the call".to_owned()).into()
}

fn contention() -> Error {
    Error::new(ErrorKind::TooMuchContention, "others keep changing the same keys; try again")
        .retry_after(Duration::from_millis(100))
}
