//! The life of a single key: create, get, list, update, rotate, suspend, resume, revoke.
//!
//! Every change is computed from the record that was read and written by a compare-and-set commit
//! together with its audit event; when somebody else was faster, it is computed anew.

use std::sync::Arc;
use std::time::Duration;

use super::access::{Call, Right};
use super::error::{Error, ErrorKind};
use super::idempotency::Token;
use super::{Core, Fence, MAX_CONFLICTS, contention, event, page, require};
use crate::clock::Timestamp;
use crate::key::{
    Action, ApiKey, Change, Draft, KeyId, KeyRecord, LifeError, OwnerRef, Patch, Policy, Realm, Reason, RequestId,
    Status, canonical,
};
use crate::random::bytes;
use crate::store::{
    Commit, Effect, Epoch, Expect, Found, Idempotency, ListCursor, ListQuery, Outcome, OwnerGuard, shard_of,
};

/// A record, and the time at which it was looked at: its status depends on it.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The record.
    pub record: KeyRecord,
    /// When.
    pub now: Timestamp,
}

/// A new key.
#[derive(Debug, Clone)]
pub struct Created {
    /// Its record.
    pub key: Seen,
    /// Its text; none when a request_id was repeated.
    pub text: Option<ApiKey>,
}

/// A changed key.
#[derive(Debug, Clone)]
pub struct Changed {
    /// Its record.
    pub key: Seen,
    /// What was waited for, where something was taken away or may have been by an earlier call.
    pub fence: Option<Fence>,
}

/// A replaced key.
#[derive(Debug, Clone)]
pub struct Rotated {
    /// The new key's record.
    pub key: Seen,
    /// The new key's text; none when a request_id was repeated.
    pub text: Option<ApiKey>,
    /// The old key's record; none if it is gone by now.
    pub old: Option<Seen>,
    /// What was waited for.
    pub fence: Fence,
}

/// How a key is to be rotated.
#[derive(Debug, Clone)]
pub struct Rotation {
    /// The key.
    pub id: KeyId,
    /// How long the old key goes on.
    pub grace: Duration,
    /// How long the new key lives; none: as long as the old one was given.
    pub ttl: Option<Duration>,
    /// Makes it safe to repeat.
    pub request_id: Option<RequestId>,
}

/// Which keys to list.
#[derive(Debug, Clone)]
pub struct Listing {
    /// Of this realm.
    pub realm: Realm,
    /// Of this owner.
    pub owner: Option<OwnerRef>,
    /// With this status.
    pub status: Option<Status>,
    /// At most so many.
    pub page_size: usize,
    /// From here on.
    pub page_token: String,
}

/// One page of keys.
#[derive(Debug, Clone)]
pub struct Listed {
    /// The keys.
    pub records: Vec<KeyRecord>,
    /// When they were looked at.
    pub now: Timestamp,
    /// For the next page; empty: this was the last.
    pub next_page_token: String,
}

/// How many records a listing with a filter looks at before it answers what it has.
const MAX_LOOKED_AT: usize = 5_000;

/// The life of single keys.
#[derive(Debug, Clone)]
pub struct Lifecycle {
    core: Arc<Core>,
}

impl Lifecycle {
    pub(super) const fn new(core: Arc<Core>) -> Self {
        Self { core }
    }

    /// Makes a key.
    ///
    /// # Errors
    /// When the caller may not, policy or caps do not allow it, the owner has too many, or the
    /// store did not take it.
    pub async fn create(&self, call: &Call, draft: Draft, request_id: Option<RequestId>) -> Result<Created, Error> {
        let core = &*self.core;
        require(&call.principal, Right::Issue, &draft.realm)?;
        let now = core.clock.now();
        let policy = core.policies.of(&draft.realm);
        let token = request_id.map(|id| Token::new(call, &draft.realm, "CreateKey", &id, draft.canonical()));
        let bucket = draft.owner.reference.bucket(&draft.realm);
        let id = KeyId::new(bucket, bytes(&*core.entropy)?);
        let (text, secret) = core.make(policy, id).await?;
        let made = draft.into_record(policy, id, secret, call.principal.name.clone(), now).map_err(Error::from);
        let made = made.and_then(|record| {
            let checked = call.principal.caps.check(&record, &policy.implications, now);
            checked.map(|()| record).map_err(|violation| Error::cap(&violation))
        });
        let record = match made {
            Ok(record) => record,
            // What cannot be made today may have been made by this very call, when it was first made.
            Err(error) => match core.earlier(token.as_ref(), bucket, now).await? {
                Some(again) => return core.created_before(again, bucket, now).await,
                None => return Err(error),
            },
        };

        let commit = Commit {
            bucket,
            epoch: None,
            events: vec![event(call, &record, Action::Created, now)],
            idempotency: token.as_ref().map(|token| token.first(core, id, now)),
            guard: Some(guard(&record, policy)),
            effect: Effect::Adds,
            writes: vec![core.write(record.clone(), Expect::Absent)],
        };
        match core.commit(&commit, now).await? {
            Outcome::Done(_) => Ok(Created { key: Seen { record, now }, text: Some(text) }),
            Outcome::OwnerFull => Err(owner_full(policy)),
            Outcome::Replay(entry) => {
                let again = token.ok_or_else(unasked_replay)?.again(core, entry)?;
                core.created_before(again, bucket, now).await
            }
            // 120 random bits met a key that exists, or history changed under the commit.
            Outcome::Conflict => Err(contention()),
        }
    }

    /// Answers a key.
    ///
    /// # Errors
    /// When there is none that this caller may see, or the store did not answer.
    pub async fn get(&self, call: &Call, id: KeyId) -> Result<Seen, Error> {
        let now = self.core.clock.now();
        let found = self.core.fetch(&call.principal, Right::ReadKeys, id, now).await?;
        Ok(Seen { record: *found.record, now })
    }

    /// Lists keys, oldest first.
    ///
    /// # Errors
    /// When the caller may not, the token is not of this list, or the store did not answer.
    pub async fn list(&self, call: &Call, listing: &Listing) -> Result<Listed, Error> {
        let core = &*self.core;
        require(&call.principal, Right::ReadKeys, &listing.realm)?;
        let now = core.clock.now();
        let binding = page::Binding::new(&format!("keys {:?} {:?} {:?}", listing.realm, listing.owner, listing.status));
        let mut after = page::read(binding, &listing.page_token)?.map(|place| read_cursor(&place)).transpose()?;
        let (mut records, mut looked_at) = (Vec::new(), 0);
        loop {
            let limit = listing.page_size - records.len();
            let query = ListQuery {
                realm: listing.realm.clone(),
                owner: listing.owner.clone(),
                after,
                // With a filter most records may be passed over: read more at once.
                limit: if listing.status.is_some() { page::MAX_PAGE } else { limit },
            };
            let found = core.store.list(&query, now).await.map_err(Error::unread)?;
            // A store that answers from memory never waits: let others, and the deadline, have a turn.
            tokio::task::yield_now().await;
            looked_at += found.records.len().max(1);
            after = found.next;
            for record in found.records {
                if records.len() == listing.page_size {
                    // Goes on behind the last record that is answered.
                    after = records.last().map(cursor_of);
                    break;
                }
                if listing.status.is_none_or(|status| record.status(now) == status) {
                    records.push(record);
                }
            }
            if after.is_none() || records.len() >= listing.page_size || looked_at >= MAX_LOOKED_AT {
                let next_page_token =
                    after.map_or_else(String::new, |place| page::write(binding, &write_cursor(place)));
                return Ok(Listed { records, now, next_page_token });
            }
        }
    }

    /// Changes fields. `expected_version`, where given, must be the key's current one.
    ///
    /// # Errors
    /// When there is no such key, it is revoked, or policy or caps do not allow the result.
    pub async fn update(
        &self,
        call: &Call,
        id: KeyId,
        patch: Patch,
        expected_version: Option<u64>,
    ) -> Result<Changed, Error> {
        let step = Step {
            call,
            id,
            idempotency: None,
            reason: Reason::from_static(""),
            caps: CapCheck::Whole,
            limits: patch.limits(),
        };
        self.change(step, |record, policy, now| {
            if expected_version.is_some_and(|expected| expected != record.version) {
                return Err(LifeError::Version(record.version));
            }
            record
                .update(patch.clone(), policy, now)
                .map(|change| Some(change).filter(|change| !change.fields.is_empty()))
        })
        .await
    }

    /// Suspends by hand.
    ///
    /// # Errors
    /// When there is no such key, or it is revoked.
    pub async fn suspend(
        &self,
        call: &Call,
        id: KeyId,
        reason: Reason,
        until: Option<Timestamp>,
    ) -> Result<Changed, Error> {
        let step = Step { call, id, idempotency: None, reason: reason.clone(), caps: CapCheck::Owner, limits: true };
        self.change(step, |record, _, now| {
            record.suspend(call.principal.name.clone(), reason.clone(), until, now).map(Some)
        })
        .await
    }

    /// Lifts a suspension by hand, and only that.
    ///
    /// # Errors
    /// When there is no such key, it is revoked, or caps do not allow the result.
    pub async fn resume(&self, call: &Call, id: KeyId, reason: Reason) -> Result<Changed, Error> {
        let step = Step { call, id, idempotency: None, reason, caps: CapCheck::Whole, limits: false };
        self.change(step, |record, _, _| record.resume()).await
    }

    /// Ends a key. Ending it again writes again and is OK.
    ///
    /// # Errors
    /// When there is no such key.
    pub async fn revoke(
        &self,
        call: &Call,
        id: KeyId,
        reason: Reason,
        request_id: Option<RequestId>,
    ) -> Result<Changed, Error> {
        let idempotency = request_id.map(|request_id| ("RevokeKey", request_id, canonical::revocation(id, &reason)));
        let step = Step { call, id, idempotency, reason: reason.clone(), caps: CapCheck::Owner, limits: true };
        self.change(step, |record, _, now| Ok(Some(record.revoke(call.principal.name.clone(), reason.clone(), now))))
            .await
    }

    /// Replaces a key by a new one with the same grants.
    ///
    /// # Errors
    /// When there is no such key, it is revoked or was rotated before, or policy or caps do not
    /// allow the new one.
    pub async fn rotate(&self, call: &Call, rotation: &Rotation) -> Result<Rotated, Error> {
        let core = &*self.core;
        for _ in 0..MAX_CONFLICTS {
            let now = core.clock.now();
            let Found { record, epoch, .. } = core.fetch(&call.principal, Right::Issue, rotation.id, now).await?;
            let policy = core.policies.of(&record.realm);
            let token = rotation.request_id.as_ref().map(|id| {
                let content = canonical::rotation(rotation.id, rotation.grace, rotation.ttl);
                Token::new(call, &record.realm, "RotateKey", id, content)
            });
            let bucket = record.id.bucket();
            let new_id = KeyId::new(bucket, bytes(&*core.entropy)?);
            let (text, secret) = core.make(policy, new_id).await?;
            let by = call.principal.name.clone();
            let rotated = record.rotate(policy, new_id, secret, by, rotation.grace, rotation.ttl, now);
            let rotated = rotated.map_err(Error::from).and_then(|(change, new)| {
                let checked = call.principal.caps.check(&new, &policy.implications, now);
                checked.map(|()| (change, new)).map_err(|violation| Error::cap(&violation))
            });
            let (change, new) = match rotated {
                Ok(rotated) => rotated,
                // The rotation may have been this very call, repeated.
                Err(error) => match core.earlier(token.as_ref(), bucket, now).await? {
                    Some(again) => return self.rotated_before(call, again, *record, epoch, now).await,
                    None => return Err(error),
                },
            };

            let old = change.after;
            let mut rotated = event(call, &old, Action::Rotated, now);
            rotated.rotated_to = Some(new.id);
            let commit = Commit {
                bucket,
                epoch: Some(epoch),
                events: vec![rotated, event(call, &new, Action::Created, now)],
                idempotency: token.as_ref().map(|token| token.first(core, new.id, now)),
                guard: Some(guard(&new, policy)),
                effect: Effect::Adds,
                writes: vec![
                    core.write(old.clone(), Expect::Version(record.version)),
                    core.write(new.clone(), Expect::Absent),
                ],
            };
            match core.commit(&commit, now).await? {
                Outcome::Done(done) => {
                    // Also where the old key's end came no nearer: an earlier, unanswered rotation may have done that.
                    let fence = core.fence(bucket, &done, call.ends).await?;
                    let (key, old) = (Seen { record: new, now }, Some(Seen { record: old, now }));
                    return Ok(Rotated { key, text: Some(text), old, fence });
                }
                Outcome::Replay(entry) => {
                    let again = token.ok_or_else(unasked_replay)?.again(core, entry)?;
                    return self.rotated_before(call, again, *record, epoch, now).await;
                }
                Outcome::OwnerFull => return Err(owner_full(policy)),
                Outcome::Conflict => {}
            }
        }
        Err(contention())
    }

    /// Answers a repeated rotation: writes again, then tells what the first one made.
    async fn rotated_before(
        &self,
        call: &Call,
        again: Idempotency,
        old: KeyRecord,
        epoch: Epoch,
        now: Timestamp,
    ) -> Result<Rotated, Error> {
        let core = &*self.core;
        let new_id = again.entry.key_id;
        // The rotation took something from the old key: its repetition is a new log entry of that.
        let version = old.version;
        let commit = Commit {
            bucket: old.id.bucket(),
            epoch: Some(epoch),
            writes: vec![core.write(KeyRecord { version: version + 1, ..old.clone() }, Expect::Version(version))],
            events: Vec::new(),
            idempotency: Some(again),
            guard: None,
            effect: Effect::TakesAway,
        };
        let Outcome::Done(done) = core.commit(&commit, now).await? else { return Err(contention()) };
        let fence = core.fence(new_id.bucket(), &done, call.ends).await?;
        let record = core.store.get(new_id, now).await?.ok_or_else(Error::key_not_found)?.record;
        let old = core.store.get(old.id, now).await?.map(|found| Seen { record: *found.record, now });
        Ok(Rotated { key: Seen { record: *record, now }, text: None, old, fence })
    }

    /// Takes one step in a key's life, again when somebody else was faster. `compute` answers
    /// none where nothing is to be done.
    async fn change(
        &self,
        step: Step<'_>,
        compute: impl Fn(&KeyRecord, &Policy, Timestamp) -> Result<Option<Change>, LifeError>,
    ) -> Result<Changed, Error> {
        let Step { call, id, idempotency, reason, caps, limits } = step;
        let core = &*self.core;
        // Set once the first try has found that this call was answered before.
        let mut replay = None;
        for _ in 0..MAX_CONFLICTS {
            let now = core.clock.now();
            let found = core.fetch(&call.principal, Right::Issue, id, now).await?;
            let (record, epoch) = (&found.record, found.epoch);
            let policy = core.policies.of(&record.realm);
            let Some(change) = compute(record, policy, now)? else {
                // Somebody else's change made it so, and may not have been answered yet.
                core.records.forget(id);
                let shard = shard_of(id.bucket(), core.store.shards());
                let (present, fence) = if limits {
                    let fence = core.fence_earlier(shard, epoch, call.ends).await?;
                    (fence.is_some(), fence)
                } else {
                    (core.settle_earlier(shard, epoch).await?, None)
                };
                if present {
                    return Ok(Changed { key: Seen { record: *found.record, now }, fence });
                }
                continue;
            };
            match caps {
                CapCheck::Whole => call.principal.caps.check(&change.after, &policy.implications, now),
                CapCheck::Owner => call.principal.caps.check_owner(&change.after.owner.reference),
            }
            .map_err(|violation| Error::cap(&violation))?;
            let token = idempotency.as_ref().map(|(method, request_id, content)| {
                Token::new(call, &record.realm, method, request_id, content.clone())
            });
            let mut happened = event(call, &change.after, change.action, now);
            happened.reason = reason.clone();
            happened.fields = change.fields.iter().map(ToString::to_string).collect();
            let commit = Commit {
                bucket: id.bucket(),
                epoch: Some(epoch),
                // What a repeated call did, was told by the first.
                events: if replay.is_some() { Vec::new() } else { vec![happened] },
                idempotency: match &replay {
                    Some(again) => Some(Idempotency::clone(again)),
                    None => token.as_ref().map(|token| token.first(core, id, now)),
                },
                // A key that comes back to life counts against its owner's limit again.
                guard: (!record.is_living(now) && change.after.is_living(now)).then(|| guard(&change.after, policy)),
                effect: if change.narrows { Effect::TakesAway } else { Effect::Adds },
                writes: vec![core.write(change.after.clone(), Expect::Version(record.version))],
            };
            match core.commit(&commit, now).await? {
                Outcome::Done(done) => {
                    let fence = core.fence_if(change.narrows || limits, id.bucket(), &done, call.ends).await?;
                    return Ok(Changed { key: Seen { record: change.after, now }, fence });
                }
                Outcome::Replay(entry) => replay = Some(token.ok_or_else(unasked_replay)?.again(core, entry)?),
                Outcome::Conflict => {}
                Outcome::OwnerFull => return Err(owner_full(policy)),
            }
        }
        Err(contention())
    }
}

/// What [`Lifecycle::change`] needs to know beside the step itself.
struct Step<'a> {
    call: &'a Call,
    id: KeyId,
    /// Method, request_id and canonical content.
    idempotency: Option<(&'static str, RequestId, Vec<u8>)>,
    reason: Reason,
    caps: CapCheck,
    /// Whether it may have been taken away already, by an earlier call that was not answered, what this one would
    /// take away.
    limits: bool,
}

/// How far the caller's caps are asked.
#[derive(Clone, Copy)]
enum CapCheck {
    /// The whole record as it would be: for what gives.
    Whole,
    /// The owner alone: for what takes away, which may always make a key smaller.
    Owner,
}

impl Core {
    async fn make(&self, policy: &Policy, id: KeyId) -> Result<(ApiKey, crate::key::SecretHash), Error> {
        let (hasher, entropy, prefix) = (Arc::clone(&self.hasher), Arc::clone(&self.entropy), policy.prefix);
        self.argon2.run(hasher.profile(), move || hasher.make(&prefix, id, &*entropy)).await
    }

    /// Answers a repeated creation: writes again, then tells what the first one made.
    async fn created_before(&self, again: Idempotency, bucket: u8, now: Timestamp) -> Result<Created, Error> {
        let key_id = again.entry.key_id;
        self.write_again(bucket, again, now).await?;
        let record = self.store.get(key_id, now).await?.ok_or_else(Error::key_not_found)?.record;
        Ok(Created { key: Seen { record: *record, now }, text: None })
    }

    /// Writes an idempotency entry once more, and nothing else.
    async fn write_again(&self, bucket: u8, again: Idempotency, now: Timestamp) -> Result<(), Error> {
        let commit = Commit {
            bucket,
            epoch: None,
            writes: Vec::new(),
            events: Vec::new(),
            idempotency: Some(again),
            guard: None,
            effect: Effect::Adds,
        };
        match self.commit(&commit, now).await? {
            Outcome::Done(_) => Ok(()),
            _ => Err(contention()),
        }
    }

    /// The entry that an earlier call with this request_id and content left, if any.
    async fn earlier(&self, token: Option<&Token>, bucket: u8, now: Timestamp) -> Result<Option<Idempotency>, Error> {
        let Some(token) = token else { return Ok(None) };
        match self.store.idempotency(bucket, token.slot(), now).await? {
            Some(entry) => token.again(self, entry).map(Some),
            None => Ok(None),
        }
    }
}

fn guard(record: &KeyRecord, policy: &Policy) -> OwnerGuard {
    OwnerGuard { realm: record.realm.clone(), owner: record.owner.reference.clone(), max: policy.max_keys_per_owner }
}

fn owner_full(policy: &Policy) -> Error {
    Error::new(
        ErrorKind::OwnerKeyLimit,
        format!(
            "the owner has {} keys that are neither revoked nor expired, as many as the realm allows; revoke some",
            policy.max_keys_per_owner
        ),
    )
}

fn unasked_replay() -> Error {
    Error {
        internal: Some("the store answered a replay to a commit without an idempotency slot".to_owned()),
        ..Error::new(ErrorKind::Internal, "internal error; the log has more")
    }
}

fn cursor_of(record: &KeyRecord) -> ListCursor {
    ListCursor { created_at: record.created_at, id: record.id }
}

fn write_cursor(cursor: ListCursor) -> Vec<u8> {
    [&cursor.created_at.as_millis().to_be_bytes()[..], cursor.id.as_bytes()].concat()
}

fn read_cursor(place: &[u8]) -> Result<ListCursor, Error> {
    let (time, id) = place.split_at_checked(8).ok_or_else(page::invalid)?;
    Ok(ListCursor {
        created_at: Timestamp::from_millis(u64::from_be_bytes(time.try_into().map_err(|_| page::invalid())?)),
        id: KeyId::from_bytes(id.try_into().map_err(|_| page::invalid())?),
    })
}
