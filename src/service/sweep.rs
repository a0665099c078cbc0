//! RevokeKeys: ends every key that matches, in commits of up to 256, one fence per shard.
//!
//! Safe to repeat: a key that has ended already is counted and left alone, so a call that was cut off goes
//! on where it stopped. Each shard that was looked at is fenced, also where nothing was left to do: what an
//! earlier, unanswered call wrote there must be waited for too, and somebody has to confirm that the history
//! in which nothing was found is the present one.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::try_join_all;

use super::access::{Call, Right};
use super::error::{Error, ErrorKind};
use super::{Core, Fence, MAX_CONFLICTS, another_history, contention, event, page, require};
use crate::clock::Timestamp;
use crate::key::{Action, Caps, KeyRecord, OwnerRef, Realm, Reason, Scope, Status};
use crate::store::{Commit, Effect, Epoch, Expect, ListCursor, ListPage, ListQuery, MAX_WRITES, Outcome, shard_of};

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
    /// One per shard that was looked at.
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
        let mut histories = Histories::default();
        let mut after = None;
        loop {
            let found = self.page(selection, after, now).await?;
            for (shard, epoch) in &found.epochs {
                histories.see(*shard, *epoch)?;
            }
            let mut by_shard: BTreeMap<u16, Vec<KeyRecord>> = BTreeMap::new();
            for record in found.records.into_iter().filter(|record| self.matches(record, selection)) {
                let shard = shard_of(record.id.bucket(), core.store.shards());
                match record.status(now) {
                    // Whoever ended it may not have been answered yet.
                    Status::Revoked | Status::Expired => {
                        swept.already_ended += 1;
                        core.records.forget(record.id);
                    }
                    Status::Active | Status::Suspended => by_shard.entry(shard).or_default().push(record),
                }
            }
            for (shard, records) in by_shard {
                for batch in records.chunks(MAX_WRITES) {
                    if selection.dry_run {
                        swept.revoked += batch.len() as u64;
                    } else {
                        self.revoke_batch(call, shard, batch, selection, &mut histories, &mut swept).await?;
                    }
                }
            }
            after = found.next;
            if after.is_none() {
                break;
            }
        }
        if !selection.dry_run {
            let fences = histories.0.iter().map(async |(shard, epoch)| {
                core.fence_earlier(*shard, *epoch, call.ends).await?.ok_or_else(another_history)
            });
            swept.fences = try_join_all(fences).await?;
        }
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

    fn matches(&self, record: &KeyRecord, selection: &Selection) -> bool {
        let implications = &self.core.policies.of(&record.realm).implications;
        selection.created_before.is_none_or(|before| record.created_at < before)
            && selection.scope.as_ref().is_none_or(|scope| implications.any_covers(record.scopes.as_slice(), scope))
    }

    /// Ends keys of one shard. When somebody else changed one of them meanwhile, all are read again; those that
    /// ended on their own are counted as such.
    async fn revoke_batch(
        &self,
        call: &Call,
        shard: u16,
        batch: &[KeyRecord],
        selection: &Selection,
        histories: &mut Histories,
        swept: &mut Swept,
    ) -> Result<(), Error> {
        let core = &*self.core;
        let mut open = batch.to_vec();
        for _ in 0..MAX_CONFLICTS {
            let now = core.clock.now();
            let Some(first) = open.first() else { return Ok(()) };
            let bucket = first.id.bucket();
            let changes: Vec<_> = open
                .iter()
                .map(|record| {
                    (record.version, record.revoke(call.principal.name.clone(), selection.reason.clone(), now))
                })
                .collect();
            let commit = Commit {
                bucket,
                epoch: histories.of(shard),
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
            if let Outcome::Done(_) = core.commit(&commit, now).await? {
                swept.revoked += open.len() as u64;
                return Ok(());
            }
            let mut again = Vec::with_capacity(open.len());
            for record in &open {
                let found = core.store.get(record.id, now).await?;
                if let Some(found) = &found {
                    histories.see(shard, found.epoch)?;
                }
                match found {
                    Some(found) if !matches!(found.record.status(now), Status::Revoked | Status::Expired) => {
                        again.push(*found.record);
                    }
                    _ => {
                        swept.already_ended += 1;
                        core.records.forget(record.id);
                    }
                }
            }
            open = again;
        }
        Err(contention())
    }
}

/// The history of each shard that was looked at. What was seen and written in one of them says nothing about
/// another.
#[derive(Debug, Default)]
struct Histories(BTreeMap<u16, Epoch>);

impl Histories {
    fn see(&mut self, shard: u16, epoch: Epoch) -> Result<(), Error> {
        if *self.0.entry(shard).or_insert(epoch) == epoch { Ok(()) } else { Err(another_history()) }
    }

    fn of(&self, shard: u16) -> Option<Epoch> {
        self.0.get(&shard).copied()
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
