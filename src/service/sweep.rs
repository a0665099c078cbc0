//! RevokeKeys: ends every key that matches, in commits of up to 256, one fence per shard.
//!
//! Safe to repeat: a key that is revoked already is counted and left alone, so a call that was cut
//! off goes on where it stopped. In a shard where nothing is left to revoke, one revoked key is
//! written once more: what an earlier, unanswered call wrote there must be waited for too.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::try_join_all;

use super::access::{Call, Right};
use super::error::{Error, ErrorKind};
use super::{Core, Fence, MAX_CONFLICTS, contention, event, page, require};
use crate::clock::Timestamp;
use crate::key::{Action, Caps, KeyRecord, OwnerRef, Realm, Reason, Scope, Status};
use crate::store::{
    Commit, Done, Effect, Expect, ListCursor, ListPage, ListQuery, MAX_WRITES, Outcome, StoreError, shard_of,
};

/// Which keys to end: all of the realm that match every filter.
#[derive(Debug, Clone)]
pub struct Selection {
    /// The realm.
    pub realm: Realm,
    /// Only of this owner.
    pub owner: Option<OwnerRef>,
    /// Only created before this time.
    pub created_before: Option<Timestamp>,
    /// Only keys that hold or imply this scope.
    pub scope: Option<Scope>,
    /// Why.
    pub reason: Reason,
    /// Count, change nothing.
    pub dry_run: bool,
}

/// What was ended.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Swept {
    /// Keys that this call revoked, or would have.
    pub revoked: u64,
    /// Keys that matched and had ended before.
    pub already_ended: u64,
    /// One per shard that was written.
    pub fences: Vec<Fence>,
}

/// Revoking many keys.
#[derive(Debug, Clone)]
pub struct Sweep {
    core: Arc<Core>,
}

impl Sweep {
    pub(super) const fn new(core: Arc<Core>) -> Self {
        Self { core }
    }

    /// Ends every key that matches. A key that is created while this runs may be missed.
    ///
    /// # Errors
    /// When the caller may not, or the store did not answer; part may be done then.
    pub async fn revoke(&self, call: &Call, selection: &Selection) -> Result<Swept, Error> {
        let core = &*self.core;
        require(&call.principal, Right::Issue, &selection.realm)?;
        check_owner_cap(call, selection)?;
        let now = core.clock.now();
        if call.principal.caps.scopes.is_some() {
            self.check_scopes_cap(call, selection, now).await?;
        }
        let mut swept = Swept::default();
        let mut fences: BTreeMap<u16, Done> = BTreeMap::new();
        // The first key of each shard that was found revoked after the last commit there: who revoked it may not
        // have been answered yet, so its revocation is written again.
        let mut revoked: BTreeMap<u16, KeyRecord> = BTreeMap::new();
        let mut after = None;
        loop {
            let found = self.page(selection, after, now).await?;
            let mut by_shard: BTreeMap<u16, Vec<KeyRecord>> = BTreeMap::new();
            for record in found.records.into_iter().filter(|record| self.matches(record, selection)) {
                let shard = shard_of(record.id.bucket(), core.store.shards());
                match record.status(now) {
                    Status::Revoked => {
                        swept.already_ended += 1;
                        core.records.forget(record.id);
                        revoked.entry(shard).or_insert(record);
                    }
                    Status::Expired => swept.already_ended += 1,
                    Status::Active | Status::Suspended => by_shard.entry(shard).or_default().push(record),
                }
            }
            for (shard, records) in by_shard {
                for batch in records.chunks(MAX_WRITES) {
                    if selection.dry_run {
                        swept.revoked += batch.len() as u64;
                        continue;
                    }
                    let (done, ended) = self.revoke_batch(call, batch, selection, &mut swept).await?;
                    if let Some(done) = done {
                        note(&mut fences, shard, done)?;
                        revoked.remove(&shard);
                    } else if let Some(record) = ended {
                        revoked.entry(shard).or_insert(record);
                    }
                }
            }
            after = found.next;
            if after.is_none() {
                break;
            }
        }
        if !selection.dry_run {
            for (shard, record) in revoked {
                note(&mut fences, shard, self.write_again(call, &record, now).await?)?;
            }
        }
        let waits = fences.iter().map(|(shard, done)| core.fence_shard(*shard, done, call.ends));
        swept.fences = try_join_all(waits).await?;
        Ok(swept)
    }

    async fn page(&self, selection: &Selection, after: Option<ListCursor>, now: Timestamp) -> Result<ListPage, Error> {
        let query =
            ListQuery { realm: selection.realm.clone(), owner: selection.owner.clone(), after, limit: page::MAX_PAGE };
        let found = self.core.store.list(&query, now).await?;
        // A store that answers from memory never waits: let others, and the deadline, have a turn.
        tokio::task::yield_now().await;
        Ok(found)
    }

    /// A caller that may grant some scopes only may revoke many keys only if they hold no others:
    /// nothing is revoked unless all of them may be.
    async fn check_scopes_cap(&self, call: &Call, selection: &Selection, now: Timestamp) -> Result<(), Error> {
        let implications = &self.core.policies.of(&selection.realm).implications;
        // A revoked key has no lifetime left that could be too long.
        let caps = Caps { max_ttl: None, ..call.principal.caps.clone() };
        let mut after = None;
        loop {
            let found = self.page(selection, after, now).await?;
            for record in found.records.iter().filter(|record| self.matches(record, selection)) {
                caps.check(record, implications, now).map_err(|violation| Error::cap(&violation))?;
            }
            after = found.next;
            if after.is_none() {
                return Ok(());
            }
        }
    }

    /// Writes a revoked key once more. Somebody who is faster writes it as well, so that is tried
    /// again.
    async fn write_again(&self, call: &Call, record: &KeyRecord, now: Timestamp) -> Result<Done, Error> {
        let core = &*self.core;
        let mut record = record.clone();
        for _ in 0..MAX_CONFLICTS {
            let change = record.revoke(call.principal.name.clone(), Reason::from_static(""), now);
            let commit = Commit {
                bucket: record.id.bucket(),
                epoch: None,
                writes: vec![core.write(change.after, Expect::Version(record.version))],
                events: Vec::new(),
                idempotency: None,
                guard: None,
                effect: Effect::TakesAway,
            };
            if let Outcome::Done(done) = core.commit(&commit, now).await? {
                return Ok(done);
            }
            record = *core.store.get(record.id, now).await?.ok_or_else(contention)?.record;
        }
        Err(contention())
    }

    fn matches(&self, record: &KeyRecord, selection: &Selection) -> bool {
        let implications = &self.core.policies.of(&record.realm).implications;
        selection.created_before.is_none_or(|before| record.created_at < before)
            && selection.scope.as_ref().is_none_or(|scope| implications.any_covers(record.scopes.as_slice(), scope))
    }

    /// Ends keys of one shard. When somebody else changed one of them meanwhile, all are read
    /// again; those that ended on their own are counted as such. Answers the place of the commit, or
    /// none and one of those that were found revoked.
    async fn revoke_batch(
        &self,
        call: &Call,
        batch: &[KeyRecord],
        selection: &Selection,
        swept: &mut Swept,
    ) -> Result<(Option<Done>, Option<KeyRecord>), Error> {
        let core = &*self.core;
        let mut open = batch.to_vec();
        let mut ended = None;
        for _ in 0..MAX_CONFLICTS {
            let now = core.clock.now();
            let Some(first) = open.first() else { return Ok((None, ended)) };
            let bucket = first.id.bucket();
            let changes: Vec<_> = open
                .iter()
                .map(|record| {
                    (record.version, record.revoke(call.principal.name.clone(), selection.reason.clone(), now))
                })
                .collect();
            let commit = Commit {
                bucket,
                epoch: None,
                events: changes
                    .iter()
                    .map(|(_, change)| {
                        let mut happened = event(call, &change.after, Action::Revoked, now);
                        happened.reason = selection.reason.clone();
                        happened
                    })
                    .collect(),
                idempotency: None,
                guard: None,
                effect: Effect::TakesAway,
                writes: changes
                    .into_iter()
                    .map(|(version, change)| core.write(change.after, Expect::Version(version)))
                    .collect(),
            };
            if let Outcome::Done(done) = core.commit(&commit, now).await? {
                swept.revoked += open.len() as u64;
                return Ok((Some(done), None));
            }
            let mut again = Vec::with_capacity(open.len());
            for record in &open {
                match core.store.get(record.id, now).await? {
                    Some(found) if !matches!(found.record.status(now), Status::Revoked | Status::Expired) => {
                        again.push(*found.record)
                    }
                    found => {
                        swept.already_ended += 1;
                        core.records.forget(record.id);
                        let found = found.map(|found| *found.record);
                        ended = found.filter(|record| record.status(now) == Status::Revoked).or(ended);
                    }
                }
            }
            open = again;
        }
        Err(contention())
    }
}

/// Keeps the last commit of each shard: whoever knows of that one knows of those before. All of them must be of
/// one history, else the earlier ones may be lost.
fn note(fences: &mut BTreeMap<u16, Done>, shard: u16, done: Done) -> Result<(), Error> {
    let epoch = done.at.epoch;
    match fences.insert(shard, done) {
        Some(before) if before.at.epoch != epoch => {
            Err(StoreError::Unavailable("its history changed while keys were revoked; repeat the call".to_owned())
                .into())
        }
        _ => Ok(()),
    }
}

/// A caller that may act for some owners only must say for which.
fn check_owner_cap(call: &Call, selection: &Selection) -> Result<(), Error> {
    match (&selection.owner, &call.principal.caps.owners) {
        (Some(owner), _) => call.principal.caps.check_owner(owner).map_err(|violation| Error::cap(&violation)),
        (None, Some(_)) => Err(Error::new(
            ErrorKind::CapExceeded,
            "this caller's caps: it may act for some owners only; name one in `owner`",
        )),
        (None, None) => Ok(()),
    }
}
