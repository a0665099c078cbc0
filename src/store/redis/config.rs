//! Where a Redis is and how it is used: the settings of this backend, parsed.
//!
//! A [`RedisUrl`] carries the password and never prints it.

use std::fmt;
use std::time::Duration;

use redis::io::tcp::TcpSettings;
use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo, ProtocolVersion};

use crate::key::Invalid;
use crate::store::CALL_LIMIT;

/// What this backend needs to know.
#[derive(Debug, Clone)]
pub struct RedisConfig {
    /// Where it is.
    pub url: RedisUrl,
    /// How many logical shards its records are dealt to. Fixed once the store was used.
    pub shards: Shards,
    /// About how many audit events each shard keeps.
    pub audit_max_events: u32,
    /// About how many log entries each shard keeps.
    pub log_max_entries: u32,
    /// How many replicas may be promoted.
    pub replicas: u32,
    /// How many nodes must have a change before it is answered.
    pub wait: Wait,
    /// The term of leases. None: as the store says, [`DEFAULT_LEASE`] in a new one.
    pub lease: Option<Duration>,
    /// Longest that making a connection may take.
    pub connect_timeout: Duration,
    /// Longest that a verb may take, connecting included.
    pub call_timeout: Duration,
}

impl RedisConfig {
    /// With the defaults: one shard, a million audit events, 100,000 log entries, one second to
    /// connect, and a little less than [`CALL_LIMIT`] for a call, so that who fails it is the one who
    /// knows why.
    #[must_use]
    pub const fn new(url: RedisUrl) -> Self {
        Self {
            url,
            shards: Shards(1),
            audit_max_events: 1_000_000,
            log_max_entries: 100_000,
            replicas: 0,
            wait: Wait::Majority,
            lease: None,
            connect_timeout: Duration::from_secs(1),
            call_timeout: CALL_LIMIT.saturating_sub(Duration::from_millis(100)),
        }
    }
}

/// The term of leases in a store that is new.
pub const DEFAULT_LEASE: Duration = Duration::from_secs(5);

/// How many nodes must have a change before it is answered, the primary among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// More than half of them.
    Majority,
    /// Every one.
    All,
    /// So many.
    Nodes(u32),
}

impl Wait {
    /// How many of `replicas` replicas have to confirm.
    ///
    /// # Errors
    /// When it names no node, or more than there are.
    pub fn replicas(self, replicas: u32) -> Result<u32, Invalid> {
        let nodes = replicas.saturating_add(1);
        match self {
            Self::Majority => Ok(nodes / 2),
            Self::All => Ok(replicas),
            Self::Nodes(named) if (1..=nodes).contains(&named) => Ok(named - 1),
            Self::Nodes(named) => Err(Invalid::new(format!("names {named} nodes, and there are {nodes}"))),
        }
    }
}

/// A number of shards: a power of two up to 256.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shards(u16);

impl Shards {
    /// Parses a number.
    ///
    /// # Errors
    /// When it is no power of two, or more than 256.
    pub fn parse(number: u16) -> Result<Self, Invalid> {
        if number.is_power_of_two() && number <= 256 {
            Ok(Self(number))
        } else {
            Err(Invalid::new(format!("is {number}; it must be a power of two from 1 to 256, such as 1 or 16")))
        }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }
}

/// The address of a standalone Redis, with what it takes to get in. Printed without the password.
#[derive(Clone)]
pub struct RedisUrl {
    connection: ConnectionInfo,
    location: String,
}

impl RedisUrl {
    /// Parses `redis://[user][:password]@host[:port][/db]` or
    /// `unix:///path[?db=N&user=…&pass=…]`.
    ///
    /// # Errors
    /// When the text is no such address; the error does not repeat it, for it may hold a password.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        match text.split_once("://").map(|(scheme, _)| scheme) {
            Some("redis" | "unix") => {}
            Some("rediss" | "redis-sentinel" | "redis-cluster") => {
                return Err(Invalid::new(
                    "asks for TLS, Sentinel or Cluster, which this version does not speak; use redis://host:port or unix:///path",
                ));
            }
            _ => return Err(Invalid::new("must begin with redis:// or unix://, such as redis://127.0.0.1:6379")),
        }
        // The detail of the error may quote what it could not read; its category does not.
        let connection = text.into_connection_info().map_err(|error| {
            Invalid::new(format!("is not an address of a Redis ({}); write redis://host:port/db", error.category()))
        })?;
        let db = connection.redis_settings().db();
        if db < 0 {
            return Err(Invalid::new("names a database below 0; write redis://host:port/0"));
        }
        let location = match connection.addr() {
            ConnectionAddr::Tcp(host, port) if host.contains(':') => format!("redis://[{host}]:{port}/{db}"),
            ConnectionAddr::Tcp(host, port) => format!("redis://{host}:{port}/{db}"),
            ConnectionAddr::Unix(path) => format!("unix://{}?db={db}", path.display()),
            _ => {
                return Err(Invalid::new(
                    "is not an address that this version can connect to; write redis://host:port",
                ));
            }
        };
        // RESP3, because only its connections say when they have died. Without TCP_NODELAY a small
        // command waits for the acknowledgement of the one before it.
        let settings = connection
            .redis_settings()
            .clone()
            .set_protocol(ProtocolVersion::RESP3)
            .set_lib_name("keyclasp", env!("CARGO_PKG_VERSION"));
        let connection =
            connection.set_redis_settings(settings).set_tcp_settings(TcpSettings::default().set_nodelay(true));
        Ok(Self { connection, location })
    }

    /// The same with a password that came by another way than the URL.
    #[must_use]
    pub fn with_password(self, password: &str) -> Self {
        let settings = self.connection.redis_settings().clone().set_password(password);
        Self { connection: self.connection.set_redis_settings(settings), ..self }
    }

    /// Whether it holds a password.
    #[must_use]
    pub fn has_password(&self) -> bool {
        self.connection.redis_settings().password().is_some()
    }

    /// Address and database, without user and password.
    #[must_use]
    pub fn location(&self) -> &str {
        &self.location
    }

    /// What the client needs.
    pub(super) fn connection(&self) -> ConnectionInfo {
        self.connection.clone()
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RedisUrl").field(&self.location).finish()
    }
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.location)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_printed_without_user_and_password() {
        for (text, location) in [
            ("redis://127.0.0.1", "redis://127.0.0.1:6379/0"),
            ("redis://me:s3cret@cache.example:7000/3", "redis://cache.example:7000/3"),
            ("redis://:s3cret@[::1]:7000", "redis://[::1]:7000/0"),
            ("unix:///run/redis.sock?db=2&user=me&pass=s3cret", "unix:///run/redis.sock?db=2"),
        ] {
            let url = RedisUrl::parse(text).unwrap();
            assert_eq!(url.location(), location);
            assert_eq!(url.to_string(), location);
            let config = format!("{:?}", RedisConfig::new(url.with_password("s3cret")));
            assert!(config.contains(location) && !config.contains("s3cret"), "{config}");
        }
    }

    #[test]
    fn the_password_reaches_the_client() {
        let password = |url: &RedisUrl| url.connection().redis_settings().password().map(ToOwned::to_owned);
        let url = RedisUrl::parse("redis://me:a%2Fb@localhost").unwrap();
        assert_eq!(password(&url).as_deref(), Some("a/b"));
        assert!(url.has_password() && !RedisUrl::parse("redis://me@localhost").unwrap().has_password());
        assert_eq!(password(&url.with_password("other")).as_deref(), Some("other"));
    }

    #[test]
    fn what_is_no_address_is_refused_with_a_remedy_and_without_quoting_it() {
        for (text, remedy) in [
            ("rediss://s3cret@host", "redis://host:port"),
            ("redis-sentinel://s3cret", "redis://host:port"),
            ("http://s3cret", "redis://127.0.0.1:6379"),
            ("s3cret", "redis://127.0.0.1:6379"),
            ("redis://host/s3cret", "redis://host:port/db"),
            ("redis://host:s3cret", "redis://host:port/db"),
            ("redis://host/-1", "redis://host:port/0"),
        ] {
            let error = RedisUrl::parse(text).unwrap_err().to_string();
            assert!(error.contains(remedy) && !error.contains("s3cret"), "{text}: {error}");
        }
    }

    #[test]
    fn shards_are_powers_of_two_up_to_256() {
        let valid: Vec<u16> = (0..=1024).filter(|number| Shards::parse(*number).is_ok()).collect();
        assert_eq!(valid, [1, 2, 4, 8, 16, 32, 64, 128, 256]);
    }
}
