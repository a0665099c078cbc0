//! What a failed call means for the caller, the connection and the start-up check.

use std::fmt;

use redis::{ErrorKind, RedisError, ServerErrorKind};

use crate::store::StoreError;

/// A call that did not bring an answer.
#[derive(Debug, Clone)]
pub(super) enum Failure {
    /// The script is not known to the server, and so did not run.
    NoScript,
    /// The server is full and refused what adds. Nothing was written.
    Full(String),
    /// User or password are wrong, or the user may not run this. Nothing was written.
    Denied(String),
    /// A plain error: the server does not have the command, or a script failed. Whether anything was
    /// written is not known.
    Plain(String),
    /// The server does not know what every Redis since 6.0 knows. Nothing was written.
    TooOld(String),
    /// The server refused for now: it cannot write to its disk, or a key of ours is of another kind. Whether
    /// anything was written is not known.
    Refused(String),
    /// The server is a replica, became one, or loads, as one does that becomes a replica: the primary may be
    /// another one now. Whether anything was written is not known.
    NotInCharge(String),
    /// The server writes nothing while it has too few replicas: they may follow another one now. Nothing was
    /// written.
    Alone(String),
    /// The connection broke. Whether anything was written is not known.
    Broken(String),
    /// There was no answer in time. Whether anything was written is not known.
    TimedOut,
}

impl Failure {
    /// Reads an error of the client.
    pub(super) fn of(error: &RedisError) -> Self {
        // Never holds an argument's value: Redis quotes the arguments of commands that it does not
        // know, and these are all known to the versions that are let in. (HELLO, which has the password,
        // is seen to by `dial`.)
        let text = error.to_string();
        match (error.kind(), error.code()) {
            (ErrorKind::Server(ServerErrorKind::NoScript), _) => Self::NoScript,
            (_, Some("OOM")) => Self::Full("maxmemory is reached; raise it, or let retention remove keys".to_owned()),
            (ErrorKind::AuthenticationFailed | ErrorKind::Server(ServerErrorKind::NoPerm), _)
            | (_, Some("NOAUTH" | "WRONGPASS")) => Self::Denied(text),
            (_, Some("READONLY" | "LOADING" | "MASTERDOWN" | "UNBLOCKED")) => Self::NotInCharge(text),
            (_, Some("NOREPLICAS")) => Self::Alone(text),
            (ErrorKind::RESP3NotSupported, _) => Self::TooOld(text),
            (ErrorKind::Server(ServerErrorKind::ResponseError), _) => Self::Plain(text),
            (ErrorKind::Server(_), _) | (_, Some(_)) => Self::Refused(text),
            _ if error.is_timeout() => Self::TimedOut,
            _ => Self::Broken(text),
        }
    }

    /// Whether the connection must be replaced.
    pub(super) const fn is_of_the_connection(&self) -> bool {
        matches!(self, Self::Broken(_) | Self::TimedOut)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoScript => f.pad("it forgot a script while it ran"),
            Self::Denied(text) => write!(f, "it does not let us in ({text}); check user and password of store.url"),
            Self::TooOld(text) => write!(f, "it is older than Redis 7.0 ({text}); upgrade it"),
            Self::Full(text)
            | Self::Plain(text)
            | Self::Refused(text)
            | Self::NotInCharge(text)
            | Self::Alone(text)
            | Self::Broken(text) => f.pad(text),
            Self::TimedOut => f.pad("it did not answer in time"),
        }
    }
}

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Full(text) => Self::Full(text),
            other => Self::Unavailable(other.to_string()),
        }
    }
}
