//! `[store]` and `[keys]`: where records live, and how long.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::setting::{Fault, Setting, section};
use super::source::Raw;
use super::types::{Number, text};
use crate::key::Invalid;
use crate::store::redis::{RedisUrl, Shards, Wait};

section! {
    /// Where records live.
    ["store"] pub(super) struct StoreSection {
        /// The store. `file:///DIRECTORY`: one embedded file there, for one process.
        /// `redis://[USER[:PASSWORD]@]HOST[:PORT][/DATABASE]` or `unix:///SOCKET[?db=DATABASE]`: a Redis (7.0 or later) or
        /// Valkey, for any number of replicas. Unset: an embedded file in `data_dir`.
        url: Option<StoreUrl>,
        /// A file with the password of the Redis, instead of one in the URL.
        password_file: Option<PathBuf>,
        /// Parts that the data is split into, for Redis: a power of two. Stored at the first start
        /// and not to be changed later. 16 is good advice where a Cluster may follow.
        shards: Shards = 1,
        /// Redis replicas that may be promoted to primary, not counting the primary. With any, a change is
        /// answered only when `wait` of the nodes have it. The same for every keyclasp on one store, `wait` too: to
        /// change them, stop all of them first.
        replicas: Number<0, 5> = 0,
        /// How many nodes must have a change before it is answered, the primary among them: `majority`, `all` or
        /// a number. `majority` is enough only where the replica that is promoted is the one that has most.
        wait: Wait = "majority",
        /// Audit events that are kept per shard; the oldest go.
        audit_max_events: Number<1_000, 1_000_000_000> = 1_000_000,
        /// Entries of the invalidation log that are kept per shard.
        log_max_entries: Number<1_000, 10_000_000> = 100_000,
        /// Refuses to start on a store that could lose a change which was answered OK.
        require_durable: bool = false,
    }
    check |store, reader| {
        match (&store.url, &store.password_file) {
            (Some(StoreUrl::Redis(url)), Some(_)) if url.has_password() => reader.refuse(
                "password_file",
                "is set, and store.url holds a password as well",
                "remove one of them; the file is safer",
            ),
            (None | Some(StoreUrl::Embedded(_)), Some(_)) => {
                reader.refuse("password_file", "is set for an embedded store", "remove it, or set store.url");
            }
            _ => {}
        }
        if let Err(problem) = store.wait.replicas(store.replicas.get()) {
            reader.refuse("wait", problem.to_string(), "name as many nodes as there are, or `majority` or `all`");
        }
    }
}

section! {
    /// How long the records of keys are kept.
    ["keys"] pub struct Keys {
        /// How long a record stays after its key expired or was revoked: as long as this the answer is
        /// "expired" or "revoked" rather than "unknown".
        retention: Duration = "90d",
    }
    check |_, _| {}
}

/// Where records live: parsed, with the secrets read.
#[derive(Debug, Clone)]
pub struct Store {
    /// Which store.
    pub target: StoreUrl,
    /// Number of shards (Redis).
    pub shards: Shards,
    /// Redis replicas that may be promoted.
    pub replicas: u32,
    /// How many nodes must have a change.
    pub wait: Wait,
    /// Audit events that are kept per shard.
    pub audit_max_events: u64,
    /// Log entries that are kept per shard.
    pub log_max_entries: u64,
    /// Whether a store that may lose acknowledged changes is refused.
    pub require_durable: bool,
}

/// Which store.
#[derive(Debug, Clone)]
pub enum StoreUrl {
    /// One file in this directory.
    Embedded(PathBuf),
    /// A Redis.
    Redis(RedisUrl),
}

/// Without credentials.
impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedded(directory) => write!(f, "file://{}", directory.display()),
            Self::Redis(url) => fmt::Display::fmt(url, f),
        }
    }
}

impl StoreUrl {
    /// Parses a URL. Relative directories of `file:` are relative to `base`.
    ///
    /// # Errors
    /// Says what is wrong and what to do, without the URL itself: it may hold a password.
    pub fn parse(url: &str, base: &Path) -> Result<Self, Invalid> {
        let (scheme, rest) = url.split_once(':').unwrap_or_default();
        let problem = match scheme {
            "file" => return file(rest, base),
            "redis" | "unix" => return RedisUrl::parse(url).map(Self::Redis),
            "rediss" => "TLS to the store is not supported yet; use redis:// within a network that you trust",
            "redis-sentinel" => "Sentinel is not supported yet; name the primary as redis://HOST:PORT",
            "redis-cluster" => "Cluster is not supported yet; use one primary, redis://HOST:PORT",
            _ => "this kind of store is unknown; use file:///DIRECTORY, redis://HOST:PORT or unix:///SOCKET",
        };
        Err(Invalid::new(problem))
    }
}

fn file(rest: &str, base: &Path) -> Result<StoreUrl, Invalid> {
    match rest.strip_prefix("//").unwrap_or(rest) {
        "" => Err(Invalid::new("name a directory: file:///var/lib/keyclasp")),
        // `file://data` would be a host called data.
        path if rest.starts_with("//") && !path.starts_with('/') => {
            Err(Invalid::new("a URL with a host is no file here; write three slashes: file:///DIRECTORY"))
        }
        path => Ok(StoreUrl::Embedded(base.join(path))),
    }
}

impl Setting for StoreUrl {
    fn form() -> String {
        "the URL of a store that can be used".to_owned()
    }

    fn example() -> String {
        "\"redis://127.0.0.1:6379\"".to_owned()
    }

    fn parse(value: &Raw, base: &Path) -> Result<Self, Fault> {
        let url = text(value).ok_or_else(Fault::form::<Self>)?;
        Self::parse(url, base).map_err(Fault::with::<Self>)
    }
}

impl Setting for Wait {
    fn form() -> String {
        "`majority`, `all`, or a number of nodes".to_owned()
    }

    fn example() -> String {
        "\"all\" or 2".to_owned()
    }

    fn parse(value: &Raw, base: &Path) -> Result<Self, Fault> {
        match text(value) {
            Some("majority") => Ok(Self::Majority),
            Some("all") => Ok(Self::All),
            _ => Number::<1, 6>::parse(value, base)
                .map(|nodes| Self::Nodes(nodes.get()))
                .map_err(|_| Fault::form::<Self>()),
        }
    }
}

impl Setting for Shards {
    fn form() -> String {
        "a power of two from 1 to 256".to_owned()
    }

    fn example() -> String {
        "16".to_owned()
    }

    fn parse(value: &Raw, base: &Path) -> Result<Self, Fault> {
        let number = Number::<1, 256>::parse(value, base).ok().and_then(|number| u16::try_from(number.get()).ok());
        number.and_then(|number| Self::parse(number).ok()).ok_or_else(Fault::form::<Self>)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<String, String> {
        let url = StoreUrl::parse(url, Path::new("/base"));
        url.map(|url| url.to_string()).map_err(|error| error.to_string())
    }

    #[test]
    fn urls() {
        let table = [
            ("file:///data", "file:///data"),
            ("file:data", "file:///base/data"),
            ("file:./data", "file:///base/./data"),
            ("redis://h", "redis://h:6379/0"),
            ("redis://user:pass@[::1]:1/2", "redis://[::1]:1/2"),
            ("unix:///run/redis.sock?db=3", "unix:///run/redis.sock?db=3"),
        ];
        for (url, shown) in table {
            assert_eq!(parse(url).as_deref(), Ok(shown), "{url}");
        }
        for url in ["", "data", "file:", "file://data", "redis://", "redis://h:x", "redis://h/0/x", "http://h"] {
            assert!(parse(url).is_err(), "{url}");
        }
        for later in ["rediss://h", "redis-sentinel://h:1/m", "redis-cluster://h:1"] {
            assert!(parse(later).unwrap_err().contains("not supported yet"), "{later}");
        }
    }
}
