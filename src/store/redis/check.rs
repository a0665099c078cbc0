//! The check: whether this server can be relied on, and which histories its shards are in. Nothing
//! else says which history may be read and written.

use std::sync::PoisonError;

use futures_util::future::try_join_all;
use redis::Value;

use super::connection::{Budget, Lane};
use super::failure::Failure;
use super::info::Info;
use super::keys::ShardKeys;
use super::script::{Answer, Incarnation, unexpected};
use super::{Known, RedisStore, changed};
use crate::store::{Epoch, Store, StoreError};

/// Field of the `meta` hash: number of shards.
const SHARDS: &str = "shards";

impl RedisStore {
    /// The check: whether this server can be relied on, and whether the store in it has as many
    /// shards as the configuration says. Makes every shard usable. To be made before the store is
    /// used, and again when [`Store::health`] tells of other epochs than [`Self::checked`]: in a new
    /// history nothing is read or written until then.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] while the server is out of reach: try again;
    /// [`StoreError::Refused`] when it must not be used. Once a check has passed, it was configured
    /// right: what a failover or its operator may mend is `Unavailable` from then on, and only what
    /// no waiting heals (its version, its mode, the number of shards) is `Refused`. What was known
    /// before stays known.
    pub async fn check(&self) -> Result<(), StoreError> {
        let _turn = self.checking.lock().await;
        let budget = self.link.budget();
        let location = self.config.url.location();
        let info = self.info(budget).await.map_err(|failure| match failure {
            Failure::TooOld(_) => StoreError::Refused(format!("{location}: {failure}")),
            Failure::Denied(_) => self.reserved(format!("{location}: {failure}")),
            other => other.into(),
        })?;
        if let Some(refusal) = info.refusal(location) {
            return Err(StoreError::Refused(refusal));
        }
        if let Some(reservation) = info.reservation(location) {
            return Err(self.reserved(reservation));
        }
        // The first shard holds the settings. Nothing is written where they are other ones.
        let mut found = vec![self.hello(0, budget).await?];
        found.extend(try_join_all((1..self.shards()).map(|shard| self.hello(shard, budget))).await?);
        // Between the first word and the last, the server may have become another one. A history
        // that was left never comes again, so where all of them are as they were found, all of them
        // were there at the same time.
        if self.incarnations(budget).await? != found {
            return Err(changed());
        }
        let known = found.into_iter().map(|incarnation| Known { incarnation, epoch: incarnation.epoch() }).collect();
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = known;
        Ok(())
    }

    /// The epochs that passed the last check, one for each shard; none before the first.
    #[must_use]
    pub fn checked(&self) -> Vec<Epoch> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.iter().map(|known| known.epoch).collect()
    }

    /// The error for what can be mended without this process: told to whoever starts it, waited for
    /// by one that has served.
    fn reserved(&self, text: String) -> StoreError {
        if self.checked().is_empty() { StoreError::Refused(text) } else { StoreError::Unavailable(text) }
    }

    pub(super) async fn info(&self, budget: Budget) -> Result<Info, Failure> {
        match self.link.send(Lane::Read, &redis::cmd("INFO"), budget).await? {
            Value::VerbatimString { text, .. } | Value::SimpleString(text) => Ok(Info::parse(&text)),
            Value::BulkString(bytes) => Ok(Info::parse(&String::from_utf8_lossy(&bytes))),
            _ => Err(Failure::Refused("INFO was answered by something else than text".to_owned())),
        }
    }

    /// The incarnation of each shard as it is now.
    pub(super) async fn incarnations(&self, budget: Budget) -> Result<Vec<Incarnation>, StoreError> {
        let incarnation = async |shard| {
            let call = self.scripts.epoch.call(vec![ShardKeys::new(shard).incarnation()], Vec::new());
            Ok(self.read(&call, budget).await?.0)
        };
        try_join_all((0..self.shards()).map(incarnation)).await
    }

    /// Makes a shard usable: it has an incarnation of this node's own afterwards.
    async fn hello(&self, shard: u16, budget: Budget) -> Result<Incarnation, StoreError> {
        let random: [u8; 16] = self.random()?;
        let ours = self.shards().to_string();
        let mut keys = vec![ShardKeys::new(shard).incarnation()];
        let mut args = vec![random.to_vec()];
        if shard == 0 {
            keys.push(ShardKeys::meta());
            args.extend([SHARDS.into(), ours.clone().into_bytes()]);
        }
        let call = self.scripts.hello.call(keys, args);
        match Answer::parse(self.link.run(Lane::Write, &call, budget).await?)? {
            Answer::Ok(incarnation, _) => Ok(incarnation),
            Answer::NotPrimary => Err(self.not_primary()),
            Answer::Setting(stored) => {
                let stored = String::from_utf8_lossy(&stored);
                Err(StoreError::Refused(format!(
                    "the store at {} was made with {stored} shards, and the configuration says {ours}: set store.shards = {stored}, or use an empty database",
                    self.config.url.location()
                )))
            }
            _ => Err(unexpected("a script's answer")),
        }
    }
}
