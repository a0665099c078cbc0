//! RevokeOwnKey: whoever holds a key may end it; the key itself is the credential.
//!
//! Open to everybody, so it must not be a way to make the store work: what is no key costs no I/O; one
//! revocation of a key is written at a time in this process, and at most one a second, however many ask and
//! however soon they go away. Who asks meanwhile waits for that one's members only. That holds for as many keys
//! as are remembered: who has more real keys than that can make some of them be forgotten.

use std::sync::Arc;
use std::time::Duration;

use quick_cache::sync::Cache;
use tokio::sync::{Mutex, OwnedMutexGuard, Semaphore};

use super::error::{Error, ErrorKind};
use super::{Core, Fence, MAX_CONFLICTS, contention};
use crate::key::{Action, Actor, ApiKey, Event, KeyId, KeyRecord, Reason};
use crate::store::{Commit, Done, Effect, Expect, Outcome, StoreError};

/// For how long a write serves those who ask again.
const REMEMBERED: Duration = Duration::from_secs(1);
/// How many keys are remembered; each is a real key, so others' keys are not crowded out by noise.
const REMEMBERED_KEYS: usize = 4_096;
/// How many writes may be under way at once: they go on when their callers have gone.
const WRITES: usize = 64;
/// Longest that one of them goes on.
const LONGEST_WRITE: Duration = Duration::from_secs(10);

/// Ending a key by presenting it.
#[derive(Clone)]
pub struct SelfRevocation {
    core: Arc<Core>,
    recent: Arc<Cache<KeyId, Slot>>,
    writes: Arc<Semaphore>,
}

impl std::fmt::Debug for SelfRevocation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SelfRevocation").field("core", &self.core).finish_non_exhaustive()
    }
}

/// The last write for one key. Locked while there is another.
type Slot = Arc<Mutex<Option<Written>>>;

/// A commit that was tried, whatever came of it.
#[derive(Clone)]
struct Written {
    /// When it began.
    at: Duration,
    outcome: Result<Done, Error>,
    /// What was waited for, once somebody has waited to the end.
    fence: Option<Fence>,
}

impl SelfRevocation {
    pub(super) fn new(core: Arc<Core>) -> Self {
        let recent = Arc::new(Cache::new(REMEMBERED_KEYS));
        Self { core, recent, writes: Arc::new(Semaphore::new(WRITES)) }
    }

    /// Ends the key whose text this is.
    ///
    /// # Errors
    /// When the text is not that of a key, or the store did not answer.
    pub async fn revoke(
        &self,
        text: &ApiKey,
        reason: Reason,
        origin: &str,
        ends: Option<Duration>,
    ) -> Result<Fence, Error> {
        let core = &*self.core;
        // The tag is checked before anything is remembered, so that memory holds real keys alone.
        let parsed = text.parse().map_err(|_| not_recognized())?;
        if !core.hasher.keyring().is_genuine(&parsed) {
            return Err(not_recognized());
        }
        let slot = self.recent.get_or_insert_with(&parsed.id, || Ok::<_, Error>(Arc::default()))?;
        let written = self.written(&slot, text, reason, origin).await?;
        let done = written.outcome?;
        if let Some(fence) = written.fence {
            return Ok(fence);
        }
        let fence = core.fence(parsed.id.bucket(), &done, ends).await?;
        // If it is locked, there is another write already, or somebody else notes the same.
        if let Ok(mut last) = slot.try_lock()
            && let Some(last) = &mut *last
            && last.outcome.as_ref().is_ok_and(|last| last.at == done.at)
        {
            last.fence = Some(fence);
        }
        Ok(fence)
    }

    /// The last write for a key, or a new one if that was long enough ago.
    async fn written(&self, slot: &Slot, text: &ApiKey, reason: Reason, origin: &str) -> Result<Written, Error> {
        let mut last = Arc::clone(slot).lock_owned().await;
        if let Some(written) = &*last {
            let age = self.core.clock.elapsed().saturating_sub(written.at);
            if let Some(left) = REMEMBERED.checked_sub(age).filter(|left| !left.is_zero()) {
                return Ok(written.clone().for_another(left));
            }
        }
        // Before a place is taken: what was written once and is gone is not written again.
        let at = self.core.clock.elapsed();
        if self.core.identify(text, self.core.clock.now()).await?.is_err() {
            *last = Some(Written { at, outcome: Err(not_recognized()), fence: None });
            return Err(not_recognized());
        }
        let place = Arc::clone(&self.writes).acquire_owned().await.map_err(|_| contention())?;
        let (core, text, origin) = (Arc::clone(&self.core), text.clone(), origin.to_owned());
        // A caller who goes away ends neither the write nor the memory of it: else the next one would write again.
        let writing = tokio::spawn(async move {
            let _place = place;
            let writing = write(&core, &text, reason, origin, &mut last);
            tokio::time::timeout(LONGEST_WRITE, writing).await.unwrap_or_else(|_| Err(unknown()))
        });
        writing.await.unwrap_or_else(|_| Err(unknown()))
    }
}

impl Written {
    /// As those see it who ask while it is remembered, which is for `left` more.
    fn for_another(self, left: Duration) -> Self {
        // Sooner than that, nothing else can come of it.
        let outcome = self.outcome.map_err(|error| match error.retry_after {
            Some(after) => error.retry_after(after.max(left)),
            None => error,
        });
        Self { outcome, ..self }
    }
}

/// Writes that the key whose text this is has ended. In `last` is what was tried, from before the store is asked
/// to do it on.
async fn write(
    core: &Core,
    text: &ApiKey,
    reason: Reason,
    origin: String,
    last: &mut OwnedMutexGuard<Option<Written>>,
) -> Result<Written, Error> {
    for _ in 0..MAX_CONFLICTS {
        let now = core.clock.now();
        let Ok(held) = core.identify(text, now).await? else { return Err(not_recognized()) };
        let record = held.record();
        let by = Actor::parse(&format!("key:{}", record.id)).map_err(|_| not_recognized())?;
        let change = record.revoke(by.clone(), reason.clone(), now);
        let happened = Event {
            at: now,
            action: Action::Revoked,
            actor: by,
            realm: record.realm.clone(),
            key_id: record.id,
            owner: record.owner.reference.clone(),
            reason: reason.clone(),
            origin: origin.clone(),
            key_version: change.after.version,
            fields: Vec::new(),
            rotated_to: None,
        };
        let commit = Commit {
            bucket: record.id.bucket(),
            epoch: None,
            writes: vec![core.write(change.after, Expect::Version(record.version))],
            // A repetition is no news.
            events: if is_revoked(record) { Vec::new() } else { vec![happened] },
            idempotency: None,
            guard: None,
            effect: Effect::TakesAway,
        };
        let at = core.clock.elapsed();
        **last = Some(Written { at, outcome: Err(unknown()), fence: None });
        let outcome = match core.commit(&commit, now).await {
            Ok(Outcome::Done(done)) => Ok(done),
            Ok(_) => {
                // Nothing was written.
                **last = None;
                core.records.forget(record.id);
                continue;
            }
            Err(error) => Err(error),
        };
        let written = Written { at, outcome, fence: None };
        **last = Some(written.clone());
        return Ok(written);
    }
    Err(contention())
}

const fn is_revoked(record: &KeyRecord) -> bool {
    record.revocation.is_some()
}

fn not_recognized() -> Error {
    Error::new(ErrorKind::KeyNotRecognized, "api_key: this is not the text of a key that can be revoked")
}

fn unknown() -> Error {
    StoreError::Unavailable("nobody heard what came of a write".to_owned()).into()
}
