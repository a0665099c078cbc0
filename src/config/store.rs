//! `[store]` and `[keys]`: where records live, and how long.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use data_encoding::HEXLOWER_PERMISSIVE;
use zeroize::Zeroizing;

use super::setting::{Fault, Setting, section};
use super::source::Raw;
use super::types::{Number, text};

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
        /// Audit events that are kept per shard; the oldest go.
        audit_max_events: Number<1_000, 1_000_000_000> = 1_000_000,
        /// Entries of the invalidation log that are kept per shard.
        log_max_entries: Number<1_000, 10_000_000> = 100_000,
        /// Refuses to start on a store that could lose a change which was answered OK.
        require_durable: bool = false,
    }
    check |store, reader| {
        match (&store.url, &store.password_file) {
            (Some(StoreUrl::Redis(address)), Some(_)) if address.password.is_some() => reader.refuse(
                "password_file",
                "is set, and store.url holds a password as well",
                "remove one of them; the file is safer",
            ),
            (None | Some(StoreUrl::Embedded(_)), Some(_)) => {
                reader.refuse("password_file", "is set for an embedded store", "remove it, or set store.url");
            }
            _ => {}
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
    pub shards: u16,
    /// Audit events that are kept per shard.
    pub audit_max_events: u64,
    /// Log entries that are kept per shard.
    pub log_max_entries: u64,
    /// Whether a store that may lose acknowledged changes is refused.
    pub require_durable: bool,
}

/// Which store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreUrl {
    /// One file in this directory.
    Embedded(PathBuf),
    /// A Redis.
    Redis(RedisAddress),
}

/// Where a Redis is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisAddress {
    /// How to reach it.
    pub endpoint: RedisEndpoint,
    /// Which database.
    pub database: u32,
    /// As whom.
    pub username: Option<String>,
    /// With what.
    pub password: Option<Secret>,
}

/// How to reach a Redis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedisEndpoint {
    /// Over TCP: host (a name or an address, IPv6 without brackets) and port.
    Tcp(String, u16),
    /// Over a Unix socket.
    Unix(PathBuf),
}

/// A secret text: not printable, wiped when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes over the text.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The characters. What they are given to must not keep or print them.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(redacted)")
    }
}

/// Without credentials.
impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedded(directory) => write!(f, "file://{}", directory.display()),
            Self::Redis(RedisAddress { endpoint: RedisEndpoint::Tcp(host, port), database, .. }) => {
                match host.contains(':') {
                    true => write!(f, "redis://[{host}]:{port}/{database}"),
                    false => write!(f, "redis://{host}:{port}/{database}"),
                }
            }
            Self::Redis(RedisAddress { endpoint: RedisEndpoint::Unix(path), database, .. }) => {
                write!(f, "unix://{}?db={database}", path.display())
            }
        }
    }
}

impl StoreUrl {
    /// Parses a URL. Relative directories of `file:` are relative to `base`.
    ///
    /// # Errors
    /// Says what is wrong and what to do, without the URL itself: it may hold a password.
    pub fn parse(url: &str, base: &Path) -> Result<Self, &'static str> {
        let Some((scheme, rest)) = url.split_once(':') else {
            return Err("write it as file:///DIRECTORY, redis://HOST:PORT or unix:///SOCKET");
        };
        match scheme {
            "file" => {
                let path = rest.strip_prefix("//").unwrap_or(rest);
                match path {
                    "" => Err("name a directory: file:///var/lib/keyclasp"),
                    // `file://data` would be a host called data.
                    path if rest.starts_with("//") && !path.starts_with('/') => {
                        Err("a URL with a host is no file here; write three slashes: file:///DIRECTORY")
                    }
                    path => Ok(Self::Embedded(base.join(path))),
                }
            }
            "redis" => redis(rest).map(Self::Redis),
            "unix" => unix(rest).map(Self::Redis),
            "rediss" => Err("TLS to the store is not supported yet; use redis:// within a network that you trust"),
            "redis-sentinel" => Err("Sentinel is not supported yet; name the primary as redis://HOST:PORT"),
            "redis-cluster" => Err("Cluster is not supported yet; use one primary, redis://HOST:PORT"),
            _ => Err("this kind of store is unknown; use file:///DIRECTORY, redis://HOST:PORT or unix:///SOCKET"),
        }
    }
}

fn redis(rest: &str) -> Result<RedisAddress, &'static str> {
    const FORM: &str = "write it as redis://[USER[:PASSWORD]@]HOST[:PORT][/DATABASE]";
    let rest = rest.strip_prefix("//").ok_or(FORM)?;
    let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
    if database.contains(['?', '#']) || authority.contains(['?', '#']) {
        return Err("a redis:// URL takes no query here; further settings stand in [store]");
    }
    let (credentials, host_port) = match authority.rsplit_once('@') {
        Some((credentials, host_port)) => (Some(credentials), host_port),
        None => (None, authority),
    };
    let (username, password) = match credentials.map(|text| text.split_once(':').unwrap_or((text, ""))) {
        None => (None, None),
        Some((user, password)) => (decoded(user)?, decoded(password)?.map(Secret::new)),
    };
    let (host, port) = match host_port.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, port)) => (host, port),
        None => host_port.split_at(host_port.find(':').unwrap_or(host_port.len())),
    };
    let port = match port.strip_prefix(':') {
        Some(port) => port.parse().map_err(|_| "the port must be a number up to 65535")?,
        None if port.is_empty() => 6379,
        None => return Err(FORM),
    };
    if host.is_empty() || host.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(FORM);
    }
    Ok(RedisAddress {
        endpoint: RedisEndpoint::Tcp(host.to_owned(), port),
        database: number(database)?,
        username,
        password,
    })
}

fn unix(rest: &str) -> Result<RedisAddress, &'static str> {
    let rest = rest.strip_prefix("//").unwrap_or(rest);
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let database = match query {
        "" => 0,
        query => number(query.strip_prefix("db=").ok_or("a unix:// URL takes only ?db=NUMBER")?)?,
    };
    if !path.starts_with('/') || path == "/" {
        return Err("write it as unix:///PATH/OF/THE/SOCKET");
    }
    let endpoint = RedisEndpoint::Unix(PathBuf::from(path));
    Ok(RedisAddress { endpoint, database, username: None, password: None })
}

fn number(database: &str) -> Result<u32, &'static str> {
    match database {
        "" => Ok(0),
        number => number.parse().map_err(|_| "the database must be a number"),
    }
}

/// Percent-decoded; empty: none.
fn decoded(text: &str) -> Result<Option<String>, &'static str> {
    const FORM: &str = "user and password must be percent-encoded UTF-8; @ is %40, / is %2F and % is %25";
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let (hex, rest) = part.split_at_checked(2).ok_or(FORM)?;
        bytes.extend(HEXLOWER_PERMISSIVE.decode(hex.as_bytes()).map_err(|_| FORM)?);
        bytes.extend(rest.as_bytes());
    }
    let text = String::from_utf8(bytes).map_err(|_| FORM)?;
    Ok(Some(text).filter(|text| !text.is_empty()))
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

/// A power of two up to 256.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shards(pub(super) u16);

impl Setting for Shards {
    fn form() -> String {
        "a power of two from 1 to 256".to_owned()
    }

    fn example() -> String {
        "16".to_owned()
    }

    fn parse(value: &Raw, base: &Path) -> Result<Self, Fault> {
        let number = Number::<1, 256>::parse(value, base).ok().filter(|number| number.get().is_power_of_two());
        number.and_then(|number| u16::try_from(number.get()).ok()).map(Self).ok_or_else(Fault::form::<Self>)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<StoreUrl, &'static str> {
        StoreUrl::parse(url, Path::new("/base"))
    }

    #[test]
    fn urls() {
        let table = [
            ("file:///data", "file:///data"),
            ("file:data", "file:///base/data"),
            ("file:./data", "file:///base/./data"),
            ("redis://h", "redis://h:6379/0"),
            ("redis://h:1/2", "redis://h:1/2"),
            ("redis://[::1]:1", "redis://[::1]:1/0"),
            ("redis://[::1]", "redis://[::1]:6379/0"),
            ("unix:///run/redis.sock", "unix:///run/redis.sock?db=0"),
            ("unix:///run/redis.sock?db=3", "unix:///run/redis.sock?db=3"),
        ];
        for (url, shown) in table {
            assert_eq!(parse(url).map(|url| url.to_string()).as_deref(), Ok(shown), "{url}");
        }
        for url in ["", "data", "file:", "file://data", "redis:h", "redis://", "redis://h:x", "redis://h:1/x"] {
            assert!(parse(url).is_err(), "{url}");
        }
        for url in ["redis://h:70000", "redis://h/0?a=b", "redis://u:%zz@h", "unix://run", "unix:///s?x=1", "http://h"]
        {
            assert!(parse(url).is_err(), "{url}");
        }
        for later in ["rediss://h", "redis-sentinel://h:1/m", "redis-cluster://h:1"] {
            assert!(parse(later).unwrap_err().contains("not supported yet"), "{later}");
        }
    }

    #[test]
    fn credentials_are_decoded_and_never_shown() {
        let Ok(url @ StoreUrl::Redis(_)) = parse("redis://us%40er:p%2Fss%25@h") else { panic!("not parsed") };
        let shown = format!("{url} {url:?}");
        assert!(!shown.contains("p/ss%"), "{shown}");
        let StoreUrl::Redis(address) = url else { panic!("not a Redis") };
        assert_eq!(address.username.as_deref(), Some("us@er"));
        assert_eq!(address.password.unwrap().expose(), "p/ss%");
        let Ok(StoreUrl::Redis(address)) = parse("redis://:secret@h") else { panic!("not parsed") };
        assert_eq!((address.username, address.password.unwrap().expose()), (None, "secret"));
    }
}
