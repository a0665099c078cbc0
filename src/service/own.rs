//! RevokeOwnKey: whoever holds a key may end it; the key itself is the credential.
//!
//! Open to everybody, so it must not be a way to make the store work: what is no key costs no I/O;
//! revocations of one key run one at a time in this process, and what was revoked less than a
//! second ago is answered from memory.

use std::sync::Arc;
use std::time::Duration;

use quick_cache::sync::Cache;
use tokio::sync::Mutex;

use super::error::{Error, ErrorKind};
use super::{Core, Fence, MAX_CONFLICTS, contention};
use crate::key::{Action, Actor, ApiKey, Event, KeyId, KeyRecord, Reason};
use crate::store::{Commit, Effect, Expect, Outcome};

/// How long an answer serves those who ask again.
const REMEMBERED: Duration = Duration::from_secs(1);
/// How many keys are remembered; each is a real key, so others' keys are not crowded out by noise.
const REMEMBERED_KEYS: usize = 4_096;

/// Ending a key by presenting it.
#[derive(Clone)]
pub struct SelfRevocation {
    core: Arc<Core>,
    recent: Arc<Cache<KeyId, Arc<Mutex<Option<Recent>>>>>,
}

impl std::fmt::Debug for SelfRevocation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SelfRevocation").field("core", &self.core).finish_non_exhaustive()
    }
}

#[derive(Clone, Copy)]
struct Recent {
    at: Duration,
    fence: Fence,
}

impl SelfRevocation {
    pub(super) fn new(core: Arc<Core>) -> Self {
        Self { core, recent: Arc::new(Cache::new(REMEMBERED_KEYS)) }
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
        let mut recent = slot.lock().await;
        let elapsed = core.clock.elapsed();
        if let Some(recent) = *recent
            && elapsed.saturating_sub(recent.at) < REMEMBERED
        {
            return Ok(recent.fence);
        }
        let fence = self.revoke_now(text, reason, origin, ends).await?;
        *recent = Some(Recent { at: elapsed, fence });
        Ok(fence)
    }

    async fn revoke_now(
        &self,
        text: &ApiKey,
        reason: Reason,
        origin: &str,
        ends: Option<Duration>,
    ) -> Result<Fence, Error> {
        let core = &*self.core;
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
                origin: origin.to_owned(),
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
            if let Outcome::Done(done) = core.commit(&commit, now).await? {
                return core.fence(record.id.bucket(), &done, ends).await;
            }
            core.records.forget(record.id);
        }
        Err(contention())
    }
}

const fn is_revoked(record: &KeyRecord) -> bool {
    record.revocation.is_some()
}

fn not_recognized() -> Error {
    Error::new(ErrorKind::KeyNotRecognized, "api_key: this is not the text of a key that can be revoked")
}
