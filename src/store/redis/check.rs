//! The check: whether this server can be relied on, and which histories its shards are in. Nothing
//! else says which history may be read and written.

use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use redis::Value;

use super::connection::Budget;
use super::failure::Failure;
use super::info::Info;
use super::keys::ShardKeys;
use super::lanes::Lane;
use super::script::{Answer, Incarnation, NO_ARGS, unexpected};
use super::{Checked, DEFAULT_LEASE, Known, RedisStore, changed, decimal, millis};
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
    /// [`StoreError::Unavailable`] while the server is out of reach, and while it is not plain whether those live
    /// who have changes confirmed by another number of replicas (`confirm`): try again;
    /// [`StoreError::Refused`] when it must not be used. Once a check has passed, it was configured
    /// right: what a failover or its operator may mend is `Unavailable` from then on, and only what
    /// no waiting heals (its version, its mode, the number of shards, the term of leases, how many replicas
    /// confirm a change) is `Refused`.
    /// What was known before stays known.
    pub async fn check(&self) -> Result<(), StoreError> {
        self.pass(Terms::AsConfigured).await.map(drop)
    }

    /// [`Self::check`] of a store with whatever term of leases; answers the longest one that is known in it.
    pub(super) async fn check_any_term(&self) -> Result<Duration, StoreError> {
        self.pass(Terms::Any).await
    }

    async fn pass(&self, terms: Terms) -> Result<Duration, StoreError> {
        let _turn = self.checking.lock().await;
        let (budget, began) = (self.link.budget(), self.link.generation());
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
            // Where replicas may be promoted, a process can start while one is.
            let passes = self.config.replicas > 0 && !info.is_primary();
            return Err(if passes { StoreError::Unavailable(reservation) } else { self.reserved(reservation) });
        }
        // The first shard holds the settings. Nothing is written where they are other ones. Its term of
        // leases is that of all of them.
        let configured = self.config.lease;
        let first = self.hello(0, terms.expected(configured), configured.unwrap_or(DEFAULT_LEASE), budget).await?;
        let (expected, term) = (terms.expected(Some(first.1)), first.1);
        let others = (1..self.shards()).map(|shard| self.hello(shard, expected, term, budget));
        let mut all = vec![first];
        // All of them are heard, for one may tell that others have to be waited for.
        for other in join_all(others).await {
            all.push(other?);
        }
        let term = all.iter().map(|(_, term)| *term).max().unwrap_or(term);
        let found: Vec<_> = all.into_iter().map(|(incarnation, _)| incarnation).collect();
        // Between the first word and the last, the server may have become another one. A history
        // that was left never comes again, so where all of them are as they were found, all of them
        // were there at the same time.
        if self.incarnations(self.shards(), budget).await? != found {
            // Or else the connections lead to different ones, and would for ever.
            self.link.suspect(began);
            return Err(changed());
        }
        let before = self.known().shards.iter().map(|known| known.incarnation).collect::<Vec<_>>();
        let is_another = !before.is_empty() && before != found;
        let shards = found.into_iter().map(|incarnation| Known { incarnation, epoch: incarnation.epoch() }).collect();
        self.learn(Checked { term, shards });
        self.strangers.forget();
        if is_another {
            // Where the others lead that were made before, nobody knows: maybe to a server that was left and
            // lives on.
            self.link.renew();
        }
        Ok(term)
    }

    /// The epochs that passed the last check, one for each shard; none before the first.
    #[must_use]
    pub fn checked(&self) -> Vec<Epoch> {
        self.known().shards.iter().map(|known| known.epoch).collect()
    }

    /// The error for what can be mended without this process: told to whoever starts it, waited for
    /// by one that has served.
    fn reserved(&self, text: String) -> StoreError {
        if self.checked().is_empty() { StoreError::Refused(text) } else { StoreError::Unavailable(text) }
    }

    pub(super) async fn info(&self, budget: Budget) -> Result<Info, Failure> {
        let (value, made) = self.link.ask(Lane::Read, &redis::cmd("INFO"), budget).await?;
        let info = match value {
            Value::VerbatimString { text, .. } | Value::SimpleString(text) => Info::parse(&text),
            Value::BulkString(bytes) => Info::parse(&String::from_utf8_lossy(&bytes)),
            _ => return Err(Failure::Refused("INFO was answered by something else than text".to_owned())),
        };
        if !info.is_primary() {
            self.link.suspect(made);
        }
        Ok(info)
    }

    /// The incarnation of each of the first `shards` as it is now.
    pub(super) async fn incarnations(&self, shards: u16, budget: Budget) -> Result<Vec<Incarnation>, StoreError> {
        let incarnation = async |shard| {
            let call = self.scripts.epoch.call([ShardKeys::new(shard).incarnation()], NO_ARGS);
            Ok(self.read(&call, budget).await?.0)
        };
        try_join_all((0..shards).map(incarnation)).await
    }

    /// Makes a shard usable: it has an incarnation of this node's own afterwards, the number of replicas that
    /// confirm a change which is configured, and a term of leases, which is `expected` (none: whichever) and `new`
    /// where there was none.
    async fn hello(
        &self,
        shard: u16,
        expected: Option<Duration>,
        new: Duration,
        budget: Budget,
    ) -> Result<(Incarnation, Duration), StoreError> {
        let random: [u8; 16] = self.random()?;
        let ours = self.shards().to_string();
        let mut keys = vec![ShardKeys::new(shard).incarnation()];
        let expected = expected.map_or_else(Vec::new, |term| decimal(millis(term)));
        let silent = self.strangers.silent(shard, self.link.now());
        let mut args = vec![random.to_vec(), expected, decimal(millis(new)), decimal(self.confirming.into())];
        args.push(silent.len().to_string().into_bytes());
        args.extend(silent.into_iter().flat_map(|(id, row)| [id, row]));
        if shard == 0 {
            keys.push(ShardKeys::meta());
            args.extend([SHARDS.into(), ours.clone().into_bytes()]);
        }
        let call = self.scripts.hello.call(keys, args);
        match self.run(Lane::Write, &call, budget).await? {
            Answer::Ok(incarnation, mut values) => Ok((incarnation, Duration::from_millis(values.number()?))),
            Answer::NotPrimary => Err(self.not_primary()),
            Answer::Confirm(other) => Err(self.strangers(shard, &other)),
            Answer::Lease(stored) => Err(StoreError::Refused(self.other_term(shard, stored, new))),
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

    fn other_term(&self, shard: u16, stored: Duration, ours: Duration) -> String {
        let (stored, ours) = (humantime::format_duration(stored), humantime::format_duration(ours));
        let location = self.config.url.location();
        if shard == 0 {
            format!(
                "the store at {location} was made with fence.lease = {stored}, and the configuration says {ours}: set fence.lease = \"{stored}\" or leave it unset; `keyclasp store set-lease` changes it"
            )
        } else {
            format!(
                "in the store at {location} the leases of shard 0 last {ours}, and those of shard {shard} {stored}, because a change of the term did not come to its end: repeat `keyclasp store set-lease`"
            )
        }
    }
}

/// Which terms of leases a check accepts.
#[derive(Clone, Copy)]
enum Terms {
    /// The configured one, in every shard.
    AsConfigured,
    /// Whichever, and not the same in every shard.
    Any,
}

impl Terms {
    fn expected(self, term: Option<Duration>) -> Option<Duration> {
        match self {
            Self::AsConfigured => term,
            Self::Any => None,
        }
    }
}
