//! Records and commits to test with. Everything here is a valid value; ids are spread like real
//! ones, and the same in every run.

use std::collections::BTreeMap;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use crate::clock::Timestamp;
use crate::key::codec::IdempotencyEntry;
use crate::key::{
    Action, Actor, Argon2Profile, Cidrs, Description, Event, KeyId, KeyRecord, Metadata, Name, Owner, OwnerKind,
    OwnerRef, PepperId, Prefix, Principals, Realm, Reason, Revocation, Scopes, SecretHash,
};
use crate::store::{Commit, Effect, Expect, Idempotency, ListQuery, OwnerGuard, Write};

/// A realm and an owner in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The realm.
    pub realm: Realm,
    /// The owner.
    pub owner: OwnerRef,
}

/// The user `owner` in `realm`.
#[must_use]
pub fn holder(realm: &str, owner: &str) -> Holder {
    Holder { realm: Realm::parse(realm).unwrap(), owner: OwnerRef::parse(OwnerKind::User, owner).unwrap() }
}

impl Holder {
    /// The bucket of the owner's keys.
    #[must_use]
    pub fn bucket(&self) -> u8 {
        self.owner.bucket(&self.realm)
    }

    /// The id of this owner's key number `n`.
    #[must_use]
    pub fn id(&self, n: u32) -> KeyId {
        let digest =
            Sha256::new().chain_update(self.owner.digest(&self.realm)).chain_update(n.to_be_bytes()).finalize();
        let mut random = [0; 15];
        random.copy_from_slice(&digest[..15]);
        KeyId::new(self.bucket(), random)
    }

    /// A new record of this owner's key number `n`, without an end.
    #[must_use]
    pub fn record(&self, n: u32, created_at: Timestamp) -> KeyRecord {
        KeyRecord {
            id: self.id(n),
            realm: self.realm.clone(),
            owner: Owner { reference: self.owner.clone(), display_name: Name::parse("Ada").unwrap() },
            name: Name::parse(&format!("key {n}")).unwrap(),
            description: Description::parse("made by the conformance suite").unwrap(),
            scopes: Scopes::parse(&["clusters:read", "nodes:write"]).unwrap(),
            prefix: Prefix::default(),
            created_at,
            created_by: Actor::parse("issuer").unwrap(),
            not_before: None,
            expires_at: None,
            revocation: None,
            suspensions: BTreeMap::new(),
            allowed_cidrs: Cidrs::default(),
            allowed_principals: Principals::default(),
            rotated_from: None,
            rotated_to: None,
            metadata: Metadata::default(),
            secret: SecretHash {
                digest: Sha256::digest(n.to_be_bytes()).into(),
                profile: Argon2Profile::LIGHT,
                pepper: PepperId::parse("p1").unwrap(),
            },
            version: 1,
        }
    }

    /// At most `max` living keys of this owner.
    #[must_use]
    pub fn guard(&self, max: u32) -> OwnerGuard {
        OwnerGuard { realm: self.realm.clone(), owner: self.owner.clone(), max }
    }

    /// Lists this owner's keys in pages of `limit`.
    #[must_use]
    pub fn list(&self, limit: usize) -> ListQuery {
        ListQuery { realm: self.realm.clone(), owner: Some(self.owner.clone()), after: None, limit }
    }

    /// Lists the realm's keys in pages of `limit`.
    #[must_use]
    pub fn list_realm(&self, limit: usize) -> ListQuery {
        ListQuery { owner: None, ..self.list(limit) }
    }
}

/// The write that creates `record`.
#[must_use]
pub fn creation(record: &KeyRecord) -> Write {
    Write { record: record.clone(), expects: Expect::Absent, gone_at: record.expires_at }
}

/// The write that makes `record` of the version before it.
#[must_use]
pub fn change(record: &KeyRecord) -> Write {
    Write { record: record.clone(), expects: Expect::Version(record.version - 1), gone_at: record.expires_at }
}

/// A commit of `writes`, in the shard of the first one, without events.
#[must_use]
pub fn commit(writes: Vec<Write>) -> Commit {
    let bucket = writes.first().map_or(0, |write| write.record.id.bucket());
    Commit { bucket, writes, epoch: None, events: Vec::new(), idempotency: None, guard: None, effect: Effect::Adds }
}

/// The commit that creates `record`, with its event.
#[must_use]
pub fn create(record: &KeyRecord) -> Commit {
    Commit { events: vec![event(record, Action::Created)], ..commit(vec![creation(record)]) }
}

/// The commit that makes `record` of the version before it, with its event.
#[must_use]
pub fn update(record: &KeyRecord) -> Commit {
    Commit { events: vec![event(record, Action::Updated)], ..commit(vec![change(record)]) }
}

/// The next version of `record`, under another name.
#[must_use]
pub fn renamed(record: &KeyRecord, name: &str) -> KeyRecord {
    KeyRecord { name: Name::parse(name).unwrap(), version: record.version + 1, ..record.clone() }
}

/// The next version of `record`, revoked.
#[must_use]
pub fn revoked(record: &KeyRecord, at: Timestamp) -> KeyRecord {
    let revocation = Revocation { at, by: Actor::parse("issuer").unwrap(), reason: Reason::from_static("leaked") };
    KeyRecord { revocation: Some(revocation), version: record.version + 1, ..record.clone() }
}

/// What happened to `record`.
#[must_use]
pub fn event(record: &KeyRecord, action: Action) -> Event {
    Event {
        at: record.created_at,
        action,
        actor: record.created_by.clone(),
        realm: record.realm.clone(),
        key_id: record.id,
        owner: record.owner.reference.clone(),
        reason: Reason::from_static("because"),
        origin: "192.0.2.7".to_owned(),
        key_version: record.version,
        fields: vec!["name".to_owned()],
        rotated_to: record.rotated_to,
    }
}

/// A first try in `slot`, answered with `key_id`; the entry lives for a day.
#[must_use]
pub fn first_try(slot: u8, key_id: KeyId, now: Timestamp) -> Idempotency {
    let entry = IdempotencyEntry { content: [slot; 32], key_id, expires_at: now.after(DAY) };
    Idempotency { slot: [slot; 32], entry, replay: false }
}

/// 24 hours.
pub const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A second.
pub const SECOND: Duration = Duration::from_secs(1);
