//! Stores full of keys, written through the library as the service writes them: ten keys an owner,
//! two scopes each, in commits of 256.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use keyclasp::clock::{Clock as _, SystemClock, Timestamp};
use keyclasp::key::{Argon2Profile, KeyId, PepperId, Realm, SecretHash};
use keyclasp::random::{self, OsEntropy, SeededEntropy};
use keyclasp::store::embedded::EmbeddedConfig;
use keyclasp::store::redis::{RedisConfig, RedisStore, RedisUrl};
use keyclasp::store::{Commit, Effect, Expect, MAX_WRITES, Outcome, Store, Write};

use super::drive::count;
use super::made::sample::{self, Own};
use super::servers::REALM;

const DAY: std::time::Duration = std::time::Duration::from_secs(24 * 60 * 60);

/// Writes `keys` keys into the embedded store in `dir`.
pub(crate) async fn embedded(dir: &Path, keys: usize) -> anyhow::Result<()> {
    let store = EmbeddedConfig::new(dir).open(&OsEntropy)?;
    write(&store, keys).await
}

/// What keys cost a Redis, in bytes a key.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    /// Growth of `used_memory`, without the log.
    pub(crate) used: f64,
    /// Growth of `used_memory_dataset`, without the log.
    pub(crate) dataset: f64,
    /// Taken off both: the bytes of the log, of all keys together.
    pub(crate) log: u64,
    /// Average record as it is stored.
    pub(crate) record: f64,
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} {}", self.used, self.dataset, self.log, self.record)
    }
}

impl Memory {
    /// From its text.
    pub(crate) fn parse(text: &str) -> anyhow::Result<Self> {
        let parts: Vec<&str> = text.split_whitespace().collect();
        match parts.as_slice() {
            [used, dataset, log, record] => {
                Ok(Self { used: used.parse()?, dataset: dataset.parse()?, log: log.parse()?, record: record.parse()? })
            }
            _ => anyhow::bail!("{text:?} are not the four numbers of a filled Redis"),
        }
    }
}

/// Writes `keys` keys into the empty Redis at `url` and answers what they take.
pub(crate) async fn redis(url: &str, keys: usize) -> anyhow::Result<Memory> {
    let store =
        RedisStore::connect(RedisConfig::new(RedisUrl::parse(url)?), Arc::new(OsEntropy), Arc::new(SystemClock::new()))
            .await?;
    let mut connection = redis::Client::open(url)?.get_multiplexed_async_connection().await?;
    let before = memory(&mut connection).await?;
    write(&store, keys).await?;
    let after = memory(&mut connection).await?;
    let (mut log, mut records, mut bytes) = (0_u64, 0_u64, 0_u64);
    // The few names that are no record are found among the first answers of a scan of all types.
    for kind in ["stream", "string"] {
        let mut cursor = 0_u64;
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(cursor).arg("COUNT").arg(1000).arg("TYPE").arg(kind);
            let (next, names): (u64, Vec<Vec<u8>>) = scan.query_async(&mut connection).await?;
            for name in names {
                if kind == "stream" {
                    let mut usage = redis::cmd("MEMORY");
                    usage.arg("USAGE").arg(&name).arg("SAMPLES").arg(0);
                    log += usage.query_async::<u64>(&mut connection).await?;
                } else if records < 1000 {
                    records += 1;
                    bytes += redis::cmd("STRLEN").arg(&name).query_async::<u64>(&mut connection).await?;
                }
            }
            cursor = next;
            if cursor == 0 || (kind == "string" && records >= 1000) {
                break;
            }
        }
    }
    let all = count(u64::try_from(keys)?);
    let each = |before: u64, after: u64| count(after.saturating_sub(before).saturating_sub(log)) / all;
    Ok(Memory {
        used: each(before.0, after.0),
        dataset: each(before.1, after.1),
        log,
        record: count(bytes) / count(records),
    })
}

/// `used_memory` and `used_memory_dataset`.
async fn memory(connection: &mut redis::aio::MultiplexedConnection) -> anyhow::Result<(u64, u64)> {
    let info: redis::InfoDict = redis::cmd("INFO").arg("memory").query_async(connection).await?;
    let field = |name: &str| info.get(name).with_context(|| format!("INFO memory has no {name}"));
    Ok((field("used_memory")?, field("used_memory_dataset")?))
}

/// Writes the keys without events: what the audit log takes depends on its own bound.
async fn write(store: &dyn Store, keys: usize) -> anyhow::Result<()> {
    let now = SystemClock::new().now();
    let entropy = SeededEntropy::new(1);
    let mut written = 0;
    while written < keys {
        let most = MAX_WRITES.min(keys - written);
        let numbers = u64::try_from(written)?..u64::try_from(written + most)?;
        let writes = numbers.map(|number| creation(number, now, &entropy));
        let writes = writes.collect::<anyhow::Result<Vec<_>>>()?;
        let bucket = writes.first().map_or(0, |write| write.record.id.bucket());
        let commit = Commit {
            bucket,
            writes,
            epoch: None,
            events: Vec::new(),
            idempotency: None,
            guard: None,
            effect: Effect::Adds,
        };
        let outcome = store.commit(&commit, now).await?;
        ensure!(matches!(outcome, Outcome::Done(_)), "a commit came to {outcome:?}");
        written += most;
    }
    Ok(())
}

fn creation(number: u64, now: Timestamp, entropy: &SeededEntropy) -> anyhow::Result<Write> {
    let realm = Realm::parse(REALM)?;
    let expires_at = now.after(365 * DAY);
    let own = Own {
        id: KeyId::new(sample::owner(number)?.bucket(&realm), random::bytes(entropy)?),
        // A thousand a second.
        created_at: now.after(std::time::Duration::from_millis(number)),
        expires_at,
        secret: SecretHash {
            digest: random::bytes(entropy)?,
            profile: Argon2Profile::LIGHT,
            pepper: PepperId::parse("p1")?,
        },
    };
    let record = sample::record(&realm, number, own)?;
    Ok(Write { record, expects: Expect::Absent, gone_at: Some(expires_at.after(90 * DAY)) })
}
