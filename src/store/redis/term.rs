//! The term of leases, which is the same for everybody who uses a store: what it is, and how it is changed.
//!
//! A lease that runs was counted with the term that its holder knew, and who waits for it counts with the
//! one that is stored. So the term changes only when no lease can run; and as a new one begins a new history,
//! nobody goes on with the old one.

use std::time::Duration;

use futures_util::future::try_join_all;

use super::lanes::Lane;
use super::{Checked, RedisStore, millis};
use crate::store::{Beaten, Leases as _, Member, Store as _, StoreError, over};

/// A timer may be late.
const SLACK: Duration = Duration::from_millis(50);
/// Longest that this takes: twice the longest term, for the first shard and then for the others.
const LONGEST_WATCH: Duration = Duration::from_secs(150);
/// How often it is looked whether others live.
const AGAIN: Duration = Duration::from_millis(50);
/// Members are looked at so often in a term; who lives beats five times.
const LOOKS: u32 = 10;

impl RedisStore {
    /// Sets the term of leases. Waits until no lease of the term that was can run, which may take that long;
    /// rows of members that are silent meanwhile are deleted. Afterwards, and when it did not come to the
    /// end, the store has to be checked again. It needs no check before.
    ///
    /// # Errors
    /// [`StoreError::Refused`] when replicas are running, and as [`Self::check`]. What was done for some
    /// shards only is refused by every check until this is repeated.
    pub async fn set_lease(&self, term: Duration) -> Result<(), StoreError> {
        let before = self.sole().await?;
        let silent = self.silent(before).await?;
        for (shard, members) in (0..).zip(silent) {
            for member in &members.members {
                if !self.remove(shard, members.epoch, member).await? {
                    return Err(self.running(1));
                }
            }
        }
        for shard in 0..self.shards() {
            self.write_term(shard, term).await?;
        }
        // Nothing is known of the histories that have begun.
        self.learn(Checked::none(term));
        Ok(())
    }

    /// [`Self::check_any_term`], and waits until it is plain whether those live who go by another number of replicas
    /// that confirm a change, where there are some.
    async fn sole(&self) -> Result<Duration, StoreError> {
        let ends = self.link.now().saturating_add(LONGEST_WATCH);
        loop {
            match self.check_any_term().await {
                Err(StoreError::Unavailable(_)) if self.strangers.are_watched() && self.link.now() < ends => {
                    tokio::time::sleep(AGAIN).await;
                }
                checked => return checked,
            }
        }
    }

    /// The shards, once nobody can hold a lease of the term `before` who is not among the members; and of
    /// these, nobody has beaten meanwhile.
    async fn silent(&self, before: Duration) -> Result<Vec<Beaten>, StoreError> {
        let mut last = self.all_members().await?;
        // Nobody may answer from memory, nor could in an earlier history.
        if last.iter().all(|shard| shard.settled && shard.members.is_empty()) {
            return Ok(last);
        }
        let began = self.link.now();
        let wait = over(before) + SLACK;
        while self.link.now() < began + wait {
            tokio::time::sleep(before / LOOKS).await;
            let now = self.all_members().await?;
            let beaten = |(now, last): (&Beaten, &Beaten)| {
                let alive = |member: &&Member| !last.members.contains(member);
                now.members.iter().filter(alive).count()
            };
            // A process has a row in every shard.
            let running = now.iter().zip(&last).map(beaten).max().unwrap_or(0);
            if running > 0 {
                return Err(self.running(running));
            }
            last = now;
        }
        Ok(last)
    }

    async fn all_members(&self) -> Result<Vec<Beaten>, StoreError> {
        try_join_all((0..self.shards()).map(|shard| self.members(shard))).await
    }

    async fn write_term(&self, shard: u16, term: Duration) -> Result<(), StoreError> {
        let (keys, known) = (self.check_shard(shard)?, self.expected(shard)?);
        let random: [u8; 16] = self.random()?;
        let args = vec![known.incarnation.to_vec(), random.to_vec(), millis(term).to_string().into_bytes()];
        let call = self.scripts.lease.call(vec![keys.incarnation()], args);
        let (_, mut values) = self.accepted(self.confirmed(Lane::Write, &call).await?)?;
        match values.number()? {
            0 => Ok(()),
            members => Err(self.running(usize::try_from(members).unwrap_or(usize::MAX))),
        }
    }

    fn running(&self, replicas: usize) -> StoreError {
        let replicas = if replicas == 1 { "a replica is".to_owned() } else { format!("{replicas} replicas are") };
        StoreError::Refused(format!(
            "{replicas} running on the store at {}: stop all of them first, then repeat this",
            self.config.url.location()
        ))
    }
}
