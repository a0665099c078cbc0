//! The key that figures are about: every measured or counted record is one of these.

use std::collections::BTreeMap;

use keyclasp::clock::Timestamp;
use keyclasp::key::{
    Actor, Cidrs, Description, KeyId, KeyRecord, Metadata, Name, Owner, OwnerKind, OwnerRef, Prefix, Principals, Realm,
    Scopes, SecretHash,
};

/// Keys of one owner.
const PER_OWNER: u64 = 10;

/// The owner of key number `number`.
pub(crate) fn owner(number: u64) -> anyhow::Result<OwnerRef> {
    Ok(OwnerRef::parse(OwnerKind::User, &format!("7f9d3c0e-6f5a-4c1d-9a51-{:012x}", number / PER_OWNER))?)
}

/// What sets records apart, but for their number.
pub(crate) struct Own {
    pub(crate) id: KeyId,
    pub(crate) created_at: Timestamp,
    pub(crate) expires_at: Timestamp,
    pub(crate) secret: SecretHash,
}

/// Key number `number`: two scopes, an end, no limits.
pub(crate) fn record(realm: &Realm, number: u64, own: Own) -> anyhow::Result<KeyRecord> {
    Ok(KeyRecord {
        id: own.id,
        owner: Owner { reference: owner(number)?, display_name: Name::parse("")? },
        realm: realm.clone(),
        name: Name::parse(&format!("report-{number:07}"))?,
        description: Description::parse("")?,
        scopes: Scopes::parse(&["clusters:write", "nodes:read"])?,
        prefix: Prefix::default(),
        created_at: own.created_at,
        created_by: Actor::parse("portal")?,
        not_before: None,
        expires_at: Some(own.expires_at),
        revocation: None,
        suspensions: BTreeMap::new(),
        allowed_cidrs: Cidrs::default(),
        allowed_principals: Principals::default(),
        rotated_from: None,
        rotated_to: None,
        metadata: Metadata::default(),
        secret: own.secret,
        version: 1,
    })
}
