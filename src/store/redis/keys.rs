//! What the keys in Redis are called. Everything of one shard has its hash tag, so that one script
//! reaches all of it, on a Cluster too.
//!
//! | key | type | what |
//! |---|---|---|
//! | `kc:{s00}:meta` | hash | number of shards, pepper checks; in shard 0 alone |
//! | `kc:{sNN}:epoch` | string | the shard's incarnation |
//! | `kc:{sNN}:pos` | string | position of the newest log entry |
//! | `kc:{sNN}:log` | stream | which key got which version |
//! | `kc:{sNN}:a` | stream | audit events |
//! | `kc:{sNN}:k:<id>` | string | a record, see `key::codec` |
//! | `kc:{sNN}:o:<owner>` | sorted set | ids of an owner by created_at |
//! | `kc:{sNN}:l:<owner>` | sorted set | the living keys of an owner, by the last 11 digits of their ids, by when they cease to live |
//! | `kc:{sNN}:r:<realm>` | sorted set | ids of a realm by created_at |
//! | `kc:{sNN}:i:<slot>` | string | an idempotency entry |
//! | `kc:{sNN}:m` | hash | members: by their id in hex, `<last beat>:<last entry applied>` |
//! | `kc:{sNN}:settled` | string | the incarnation in which no lease of an earlier one can still run |
//! | `kc:{sNN}:lease` | string | the term of leases in milliseconds, in every shard the same |
//! | `kc:{sNN}:confirm` | string | how many replicas confirm a change, in every shard the same |
//! | `kc:{sNN}:barrier` | string | a counter that means nothing |
//!
//! Scripts make some of these names themselves, from that of the incarnation: see
//! `scripts/commit.lua` and `scripts/rows.lua`.

use data_encoding::BASE64URL_NOPAD;
use sha2::{Digest, Sha256};

use crate::key::{KeyId, OwnerRef, Realm};

/// Bytes that hold most names.
const USUAL: usize = 40;

/// The names of one shard's keys.
#[derive(Debug, Clone, Copy)]
pub(super) struct ShardKeys(u16);

impl ShardKeys {
    /// Of shard `shard`.
    pub(super) const fn new(shard: u16) -> Self {
        Self(shard)
    }

    /// The hash of what concerns the whole store.
    pub(super) fn meta() -> String {
        Self::new(0).named("meta")
    }

    /// The incarnation.
    pub(super) fn incarnation(self) -> String {
        self.named("epoch")
    }

    /// The position of the newest log entry.
    pub(super) fn position(self) -> String {
        self.named("pos")
    }

    /// The log.
    pub(super) fn log(self) -> String {
        self.named("log")
    }

    /// The members.
    pub(super) fn members(self) -> String {
        self.named("m")
    }

    /// The audit events.
    pub(super) fn audit(self) -> String {
        self.named("a")
    }

    /// A record.
    pub(super) fn record(self, id: KeyId) -> String {
        let mut name = self.named("k:");
        name.push_str(std::str::from_utf8(&id.digits()).unwrap_or_default());
        name
    }

    /// The index of an owner.
    pub(super) fn owner(self, realm: &Realm, owner: &OwnerRef) -> String {
        self.named(&format!("o:{}", owner_name(realm, owner)))
    }

    /// The living keys of an owner.
    pub(super) fn living(self, realm: &Realm, owner: &OwnerRef) -> String {
        self.named(&format!("l:{}", owner_name(realm, owner)))
    }

    /// The index of a realm.
    pub(super) fn realm(self, realm: &Realm) -> String {
        self.named(&format!("r:{}", realm_name(realm)))
    }

    /// An idempotency entry.
    pub(super) fn idempotency(self, slot: &[u8; 32]) -> String {
        self.named(&format!("i:{}", BASE64URL_NOPAD.encode(slot)))
    }

    /// Without the machinery of `format!`: every read of a record makes two names.
    fn named(self, name: &str) -> String {
        let mut named = String::with_capacity(USUAL);
        named.push_str("kc:{s");
        for digit in [self.0 >> 4, self.0 & 0xf] {
            named.push(char::from_digit(u32::from(digit), 16).unwrap_or_default());
        }
        named.push_str("}:");
        named.push_str(name);
        named
    }
}

/// Matches the records of every shard, and in this program's databases nothing else.
pub(super) const RECORDS: &str = "kc:{s[0-9a-f][0-9a-f]}:k:*";

/// The shard and id in the name of a record.
pub(super) fn parse_record(name: &[u8]) -> Option<(u16, KeyId)> {
    let (shard, id) = std::str::from_utf8(name).ok()?.strip_prefix("kc:{s")?.split_once("}:k:")?;
    Some((u16::from_str_radix(shard, 16).ok()?, id.parse().ok()?))
}

/// How an owner is called in names: 96 bits, enough that no two meet by chance; and should somebody
/// make two meet, lists compare the records themselves.
pub(super) fn owner_name(realm: &Realm, owner: &OwnerRef) -> String {
    short(owner.digest(realm))
}

/// How a realm is called in names.
pub(super) fn realm_name(realm: &Realm) -> String {
    short(Sha256::digest(realm.as_str()).into())
}

fn short(digest: [u8; 32]) -> String {
    BASE64URL_NOPAD.encode(digest.split_at(12).0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::OwnerKind;

    #[test]
    fn names_are_stored_and_so_must_not_change() {
        let keys = ShardKeys::new(0x1f);
        let realm = Realm::parse("acme").unwrap();
        let owner = OwnerRef::parse(OwnerKind::User, "alice").unwrap();
        let id = KeyId::new(0x1f, [7; 15]);
        assert_eq!(ShardKeys::meta(), "kc:{s00}:meta");
        assert_eq!(keys.incarnation(), "kc:{s1f}:epoch");
        assert_eq!(keys.record(id), format!("kc:{{s1f}}:k:{id}"));
        assert_eq!(keys.owner(&realm, &owner), "kc:{s1f}:o:uPPQdPcjqGLaNp-6");
        assert_eq!(keys.living(&realm, &owner), "kc:{s1f}:l:uPPQdPcjqGLaNp-6");
        assert_eq!(keys.realm(&realm), "kc:{s1f}:r:giszrYfBSKCiClun");
        assert_eq!(parse_record(keys.record(id).as_bytes()), Some((0x1f, id)));
        assert_eq!(parse_record(b"kc:{s1f}:k:short"), None);
        assert_eq!(parse_record(b"kc:{s1f}:log"), None);
    }
}
