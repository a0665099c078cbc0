//! What the server is and promises, asked just now; and that a call was told of another history.

use redis::Value;

use super::connection::Budget;
use super::failure::Failure;
use super::lanes::Lane;
use super::script::{Incarnation, Values};
use super::{RedisStore, command};
use crate::clock::Timestamp;
use crate::store::{Health, Replication, StoreError};

impl RedisStore {
    /// [`health`](crate::store::Store::health) with the epoch of the first shard alone: so cheap that it can be asked
    /// for all the time, however many shards there are. A server that was started anew, promoted or emptied shows
    /// in any of them.
    ///
    /// # Errors
    /// As [`health`](crate::store::Store::health).
    pub async fn glance(&self) -> Result<Health, StoreError> {
        self.look(1).await
    }

    /// Waits until some call was answered that a shard has another history than the one that passed the check. For
    /// one who waits at a time.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    pub(super) async fn look(&self, shards: u16) -> Result<Health, StoreError> {
        let budget = self.link.budget();
        let info = self.info(budget).await?;
        let epochs = if info.is_primary() {
            self.incarnations(shards, budget).await?.iter().map(Incarnation::epoch).collect()
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
            replication: Some(Replication {
                connected: info.followers(),
                needed: self.confirming,
                configured: self.config.replicas,
            }),
        })
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
}
