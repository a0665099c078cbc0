//! The scripts, and what they answer.
//!
//! A script is called by its digest. A server that does not know it (it is new, or somebody said
//! SCRIPT FLUSH) has run nothing, so it is then called by its text; see `connection`.

use std::time::Duration;

use redis::Value;
use sha2::{Digest, Sha256};

use super::confirm::Other;
use super::resp::{write_argument, write_count};
use crate::key::codec::CodecError;
use crate::store::{Epoch, StoreError};

/// Reads; run on a full server too.
const READS: &str = "#!lua flags=no-writes\n";
/// Writes what adds: a full server refuses.
const ADDS: &str = "#!lua\n";
/// Writes what takes away: a full server lets it through.
const TAKES_AWAY: &str = "#!lua flags=allow-oom\n";

macro_rules! script {
    ($header:expr, $($file:literal),+) => {
        Script::new(&[$header, include_str!("scripts/fence.lua"), $(include_str!(concat!("scripts/", $file))),+])
    };
}

/// Every script.
#[derive(Debug)]
pub(super) struct Scripts {
    pub(super) hello: Script,
    pub(super) epoch: Script,
    pub(super) get: Script,
    pub(super) list: Script,
    pub(super) sweep: Script,
    pub(super) log: Script,
    pub(super) audit: Script,
    pub(super) scan: Script,
    pub(super) commit_adds: Script,
    pub(super) commit_takes_away: Script,
    pub(super) beat: Script,
    pub(super) members: Script,
    pub(super) remove: Script,
    pub(super) release: Script,
    pub(super) settle: Script,
    pub(super) barrier: Script,
    pub(super) lease: Script,
}

impl Scripts {
    /// All of them.
    pub(super) fn new() -> Self {
        Self {
            hello: script!(TAKES_AWAY, "rows.lua", "hello.lua"),
            epoch: script!(READS, "epoch.lua"),
            get: script!(READS, "get.lua"),
            list: script!(READS, "list.lua"),
            sweep: script!(TAKES_AWAY, "sweep.lua"),
            log: script!(READS, "log.lua"),
            audit: script!(READS, "audit.lua"),
            scan: script!(READS, "scan.lua"),
            commit_adds: script!(ADDS, "rows.lua", "commit.lua"),
            commit_takes_away: script!(TAKES_AWAY, "rows.lua", "commit.lua"),
            // A full server is when leases matter as ever: they let a revocation be answered.
            beat: script!(TAKES_AWAY, "rows.lua", "beat.lua"),
            members: script!(READS, "rows.lua", "members.lua"),
            remove: script!(TAKES_AWAY, "rows.lua", "remove.lua"),
            release: script!(TAKES_AWAY, "rows.lua", "release.lua"),
            settle: script!(TAKES_AWAY, "rows.lua", "settle.lua"),
            barrier: script!(TAKES_AWAY, "rows.lua", "barrier.lua"),
            lease: script!(TAKES_AWAY, "rows.lua", "lease.lua"),
        }
    }
}

/// A text and its digest.
#[derive(Debug)]
pub(super) struct Script {
    text: String,
    /// How the commands that call it by its digest go on after their number of arguments.
    by_digest: Vec<u8>,
}

/// Bytes of a usual call.
const USUAL: usize = 256;

impl Script {
    fn new(parts: &[&str]) -> Self {
        let text = parts.concat();
        let mut by_digest = Vec::new();
        write_argument(&mut by_digest, b"EVALSHA");
        write_argument(&mut by_digest, redis::Script::new(&text).get_hash().as_bytes());
        Self { text, by_digest }
    }

    /// A call of it.
    pub(super) fn call<K, A>(&self, keys: K, args: A) -> Call<'_>
    where
        K: IntoIterator<Item: AsRef<[u8]>, IntoIter: ExactSizeIterator>,
        A: IntoIterator<Item: AsRef<[u8]>, IntoIter: ExactSizeIterator>,
    {
        let (keys, args) = (keys.into_iter(), args.into_iter());
        let (script, number) = (self, keys.len());
        // Besides them: the command, the script, the number of keys.
        let arguments = 3 + number + args.len();
        let mut by_digest = Vec::with_capacity(USUAL);
        write_count(&mut by_digest, arguments);
        by_digest.extend_from_slice(&self.by_digest);
        let rest = by_digest.len();
        write_argument(&mut by_digest, number.to_string().as_bytes());
        keys.for_each(|key| write_argument(&mut by_digest, key.as_ref()));
        args.for_each(|arg| write_argument(&mut by_digest, arg.as_ref()));
        Call { script, by_digest, rest, arguments }
    }
}

/// For a script without arguments.
pub(super) const NO_ARGS: [&[u8]; 0] = [];

/// A script with its keys and arguments, as it goes over the wire.
#[derive(Debug)]
pub(super) struct Call<'a> {
    script: &'a Script,
    by_digest: Vec<u8>,
    /// Where in it that begins which is the same in a call by text.
    rest: usize,
    arguments: usize,
}

impl Call<'_> {
    /// The call by digest.
    pub(super) fn by_digest(&self) -> &[u8] {
        &self.by_digest
    }

    /// The call by text.
    pub(super) fn by_text(&self) -> Vec<u8> {
        let mut command = Vec::with_capacity(self.script.text.len() + self.by_digest.len());
        write_count(&mut command, self.arguments);
        write_argument(&mut command, b"EVAL");
        write_argument(&mut command, self.script.text.as_bytes());
        command.extend_from_slice(self.by_digest.get(self.rest..).unwrap_or_default());
        command
    }
}

/// Which history of a shard a script ran in: the replid of the node that began it, and 16 random
/// bytes. Written by that node when it found none of its own, so it is new after a failover, a
/// restart and a FLUSHALL alike.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Incarnation([u8; Self::LEN]);

impl Incarnation {
    pub(super) const LEN: usize = 56;

    pub(super) const fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    /// As an argument of a script.
    pub(super) fn to_vec(self) -> Vec<u8> {
        self.0.to_vec()
    }

    /// SHA-256(replid ‖ random).
    pub(super) fn epoch(&self) -> Epoch {
        Epoch(Sha256::digest(self.0).into())
    }
}

/// As an argument of a script.
impl AsRef<[u8]> for Incarnation {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for Incarnation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.epoch().fmt(f)
    }
}

/// What a script answered.
#[derive(Debug)]
pub(super) enum Answer {
    /// It ran.
    Ok(Incarnation, Values),
    /// The node is no primary.
    NotPrimary,
    /// The shard has another incarnation than was expected, or none of this node's own.
    Changed,
    /// Hello: the store was made with another value of the setting, this one.
    Setting(Vec<u8>),
    /// Hello: the store has another term of leases, this one.
    Lease(Duration),
    /// Hello: the members of the shard go by another number of replicas that confirm a change.
    Confirm(Other),
    /// Commit: a record is not what was expected.
    Conflict,
    /// Commit: the idempotency slot holds this entry.
    Replay(Vec<u8>),
    /// Commit: the owner has too many living keys.
    OwnerFull,
    /// Commit: the header of a record cannot be read. Its id, then the header.
    Unreadable(Vec<u8>, Vec<u8>),
}

impl Answer {
    /// Reads an answer.
    pub(super) fn parse(value: Value) -> Result<Self, StoreError> {
        let mut values = Values::of(value)?;
        let status = values.bytes()?;
        Ok(match status.as_slice() {
            b"role" => Self::NotPrimary,
            b"epoch" => Self::Changed,
            b"setting" => Self::Setting(values.bytes()?),
            b"lease" => Self::Lease(Duration::from_millis(values.number()?)),
            b"confirm" => {
                let (confirm, mut found) = (values.number()?, values.array()?);
                let mut rows = Vec::new();
                while !found.is_empty() {
                    rows.push((found.bytes()?, found.bytes()?));
                }
                Self::Confirm(Other { confirm, rows, term: Duration::from_millis(values.number()?) })
            }
            status => {
                let incarnation = values.incarnation()?;
                match status {
                    b"ok" => Self::Ok(incarnation, values),
                    b"conflict" => Self::Conflict,
                    b"replay" => Self::Replay(values.bytes()?),
                    b"full" => Self::OwnerFull,
                    b"unreadable" => Self::Unreadable(values.bytes()?, values.bytes()?),
                    _ => return Err(unexpected("a script's answer")),
                }
            }
        })
    }
}

/// The values of an array, taken one after the other, each as what it must be.
#[derive(Debug)]
pub(super) struct Values(std::vec::IntoIter<Value>);

impl Values {
    /// Those of an array.
    pub(super) fn of(value: Value) -> Result<Self, StoreError> {
        match value {
            Value::Array(values) => Ok(Self(values.into_iter())),
            _ => Err(unexpected("an array")),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.len() == 0
    }

    pub(super) fn optional_bytes(&mut self) -> Result<Option<Vec<u8>>, StoreError> {
        match self.0.next() {
            Some(Value::BulkString(bytes)) => Ok(Some(bytes)),
            Some(Value::SimpleString(text)) => Ok(Some(text.into_bytes())),
            Some(Value::Nil) => Ok(None),
            _ => Err(unexpected("a string")),
        }
    }

    pub(super) fn bytes(&mut self) -> Result<Vec<u8>, StoreError> {
        self.optional_bytes()?.ok_or_else(|| unexpected("a string"))
    }

    /// A whole number, written as text or not.
    pub(super) fn number(&mut self) -> Result<u64, StoreError> {
        match self.0.next() {
            Some(Value::Int(number)) => u64::try_from(number).ok(),
            Some(Value::BulkString(bytes)) => std::str::from_utf8(&bytes).ok().and_then(|text| text.parse().ok()),
            _ => None,
        }
        .ok_or_else(|| unexpected("a number"))
    }

    pub(super) fn array(&mut self) -> Result<Self, StoreError> {
        Self::of(self.0.next().unwrap_or_default())
    }

    fn incarnation(&mut self) -> Result<Incarnation, StoreError> {
        let bytes = self.bytes()?;
        let error = || CodecError::Damaged(format!("{} bytes where {} are written", bytes.len(), Incarnation::LEN));
        bytes
            .as_slice()
            .try_into()
            .map(Incarnation)
            .map_err(|_| StoreError::Unreadable { what: "an incarnation".to_owned(), error: error() })
    }
}

/// Redis, or what stands in for it, answered something else than it was asked.
pub(super) fn unexpected(what: &str) -> StoreError {
    StoreError::Unavailable(format!(
        "it answered something else than {what}; check that store.url leads to a Redis and to no proxy before it"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_by_digest_and_one_by_text_differ_in_nothing_else() {
        let script = Script::new(&["return ", "1"]);
        for (keys, args) in [(vec![], vec![]), (vec!["a", "bc"], vec![]), (vec!["k"; 12], vec!["x", "", "\r\n"])] {
            let call = script.call(keys.clone(), args.clone());
            let packed = |name: &str, what: &str| {
                redis::cmd(name).arg(what).arg(keys.len()).arg(&keys).arg(&args).get_packed_command()
            };
            assert_eq!(call.by_digest(), packed("EVALSHA", redis::Script::new("return 1").get_hash()));
            assert_eq!(call.by_text(), packed("EVAL", "return 1"));
        }
    }
}
