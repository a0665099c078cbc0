//! The record of a key: all that is known about it, and the status that follows from it.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::id::KeyId;
use super::owner::Owner;
use super::scope::Scopes;
use super::text::Prefix;
use super::values::{Actor, Cidrs, Description, Invalid, Metadata, Name, Principals, Realm, Reason};
use crate::clock::Timestamp;

/// What is stored about a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRecord {
    /// The key's id.
    pub id: KeyId,
    /// The realm that it belongs to.
    pub realm: Realm,
    /// Whom it acts for.
    pub owner: Owner,
    /// What it is called.
    pub name: Name,
    /// What it is for.
    pub description: Description,
    /// What it may do.
    pub scopes: Scopes,
    /// What its text begins with.
    pub prefix: Prefix,
    /// When it was created. Never changes: indexes are sorted by it.
    pub created_at: Timestamp,
    /// Who created it.
    pub created_by: Actor,
    /// Refused before this time.
    pub not_before: Option<Timestamp>,
    /// Refused from this time on.
    pub expires_at: Option<Timestamp>,
    /// Set once, never unset.
    pub revocation: Option<Revocation>,
    /// Why it is suspended, at most once per reason.
    pub suspensions: BTreeMap<SuspensionReason, Suspension>,
    /// From where it may be used.
    pub allowed_cidrs: Cidrs,
    /// Who may present it.
    pub allowed_principals: Principals,
    /// The key that this one replaced.
    pub rotated_from: Option<KeyId>,
    /// The key that replaced this one.
    pub rotated_to: Option<KeyId>,
    /// Free labels.
    pub metadata: Metadata,
    /// Hash of the secret.
    pub secret: SecretHash,
    /// 1 after creation, one more with each change.
    pub version: u64,
}

impl KeyRecord {
    /// Where the key is in its life at `now`.
    #[must_use]
    pub fn status(&self, now: Timestamp) -> Status {
        if self.revocation.is_some() {
            Status::Revoked
        } else if self.expires_at.is_some_and(|end| end <= now) {
            Status::Expired
        } else if self.active_suspensions(now).next().is_some() {
            Status::Suspended
        } else {
            Status::Active
        }
    }

    /// The suspensions that hold at `now`.
    pub fn active_suspensions(&self, now: Timestamp) -> impl Iterator<Item = SuspensionReason> + '_ {
        self.suspensions
            .iter()
            .filter(move |(_, one)| one.until.is_none_or(|until| now < until))
            .map(|(reason, _)| *reason)
    }

    /// Whether the key counts against its owner's limit at `now`: neither revoked nor expired.
    #[must_use]
    pub fn is_living(&self, now: Timestamp) -> bool {
        self.living_until().is_some_and(|end| now < end)
    }

    /// Until when the key counts against its owner's limit. None: it does not (it is revoked).
    #[must_use]
    pub fn living_until(&self) -> Option<Timestamp> {
        match self.revocation {
            Some(_) => None,
            None => Some(self.expires_at.unwrap_or(Timestamp::MAX)),
        }
    }

    /// When the record goes: `retention` after the key ended. None: not in sight.
    #[must_use]
    pub fn gone_at(&self, retention: Duration) -> Option<Timestamp> {
        let revoked_at = self.revocation.as_ref().map(|revocation| revocation.at);
        [self.expires_at, revoked_at].into_iter().flatten().min().map(|end| end.after(retention))
    }
}

/// Where a key is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    /// It can be used.
    Active,
    /// It is refused until every suspension is lifted.
    Suspended,
    /// It is refused for ever.
    Revoked,
    /// Its time is over.
    Expired,
}

/// How a key ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revocation {
    /// When.
    pub at: Timestamp,
    /// By whom.
    pub by: Actor,
    /// Why.
    pub reason: Reason,
}

/// Why a key is suspended. The numbers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum SuspensionReason {
    /// Somebody called SuspendKey.
    Manual = 1,
    /// The owner is disabled.
    OwnerDisabled = 2,
    /// The owner is locked out.
    OwnerLocked = 3,
    /// The client whose service account owns the key is disabled.
    ClientDisabled = 4,
}

impl SuspensionReason {
    /// Every reason.
    pub const ALL: [Self; 4] = [Self::Manual, Self::OwnerDisabled, Self::OwnerLocked, Self::ClientDisabled];

    /// The stored number.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// From the stored number.
    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| u32::from(reason.number()) == number)
    }
}

/// One suspension.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suspension {
    /// By whom.
    pub by: Actor,
    /// When.
    pub at: Timestamp,
    /// It lifts itself at this time.
    pub until: Option<Timestamp>,
    /// What was said about it.
    pub note: Reason,
}

/// The secret at rest: Argon2id over a keyed digest. Cannot be turned back, and is no use without
/// the pepper; still, it is not printed.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretHash {
    /// Output.
    pub digest: [u8; 32],
    /// With what costs it was computed.
    pub profile: Argon2Profile,
    /// Under which pepper.
    pub pepper: PepperId,
}

impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretHash")
            .field("profile", &self.profile)
            .field("pepper", &self.pepper)
            .finish_non_exhaustive()
    }
}

/// Costs of Argon2id. The secret has 256 random bits, so a light profile serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Argon2Profile {
    /// Memory in KiB.
    pub m_kib: u32,
    /// Passes.
    pub t: u32,
    /// Lanes.
    pub p: u32,
}

impl Argon2Profile {
    /// What new keys are hashed with: 64 KiB, one pass, one lane.
    pub const LIGHT: Self = Self { m_kib: 64, t: 1, p: 1 };

    /// Costs that this program is willing to pay for one check: up to 64 MiB, 10 passes, 4 lanes.
    /// A record that asks for more was not written by it.
    #[must_use]
    pub const fn is_bearable(self) -> bool {
        // The lanes first: what is stored may hold any number.
        self.p >= 1 && self.p <= 4 && self.m_kib >= 8 * self.p && self.m_kib <= 65_536 && self.t >= 1 && self.t <= 10
    }
}

/// The id of a pepper: 1 to 16 of `a-z0-9-`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PepperId(String);

impl PepperId {
    /// Parses `text`.
    ///
    /// # Errors
    /// When the text is not of that form.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if (1..=16).contains(&text.len()) && text.bytes().all(allowed) {
            Ok(Self(text.to_owned()))
        } else {
            Err(Invalid::new("must be 1 to 16 characters of a-z, 0-9 and -"))
        }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PepperId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A record for tests: active, without bounds.
#[cfg(test)]
pub(crate) fn example() -> KeyRecord {
    KeyRecord {
        id: KeyId::from_bytes([7; 16]),
        realm: Realm::parse("acme").unwrap(),
        owner: Owner {
            reference: super::owner::OwnerRef::parse(super::owner::OwnerKind::User, "u-1").unwrap(),
            display_name: Name::parse("").unwrap(),
        },
        name: Name::parse("nightly").unwrap(),
        description: Description::parse("").unwrap(),
        scopes: Scopes::parse(&["clusters:write", "nodes:read"]).unwrap(),
        prefix: Prefix::default(),
        created_at: Timestamp::from_millis(1_000_000),
        created_by: Actor::parse("tester").unwrap(),
        not_before: None,
        expires_at: None,
        revocation: None,
        suspensions: BTreeMap::new(),
        allowed_cidrs: Cidrs::default(),
        allowed_principals: Principals::default(),
        rotated_from: None,
        rotated_to: None,
        metadata: Metadata::default(),
        secret: SecretHash { digest: [1; 32], profile: Argon2Profile::LIGHT, pepper: PepperId::parse("p1").unwrap() },
        version: 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revoked_before_expired_before_suspended_before_active() {
        let at = Timestamp::from_millis;
        let by = Actor::parse("x").unwrap();
        let mut record = example();
        assert_eq!(record.status(at(2_000_000)), Status::Active);
        let suspension =
            Suspension { by: by.clone(), at: at(1), until: Some(at(3_000_000)), note: Reason::from_static("") };
        record.suspensions.insert(SuspensionReason::OwnerLocked, suspension);
        assert_eq!(record.status(at(2_999_999)), Status::Suspended);
        assert_eq!(record.status(at(3_000_000)), Status::Active);
        record.expires_at = Some(at(2_500_000));
        assert_eq!(record.status(at(2_499_999)), Status::Suspended);
        assert_eq!(record.status(at(2_500_000)), Status::Expired);
        record.revocation = Some(Revocation { at: at(2_000_000), by, reason: Reason::from_static("") });
        assert_eq!(record.status(at(2_500_000)), Status::Revoked);
    }

    #[test]
    fn a_record_goes_when_its_key_has_been_over_for_the_retention() {
        let at = Timestamp::from_millis;
        let day = Duration::from_secs(86_400);
        let mut record = example();
        assert_eq!(record.gone_at(day), None);
        assert_eq!(record.living_until(), Some(Timestamp::MAX));
        record.expires_at = Some(at(9_000_000));
        assert_eq!(record.gone_at(day), Some(at(95_400_000)));
        record.revocation =
            Some(Revocation { at: at(5_000_000), by: Actor::parse("x").unwrap(), reason: Reason::from_static("") });
        assert_eq!(record.gone_at(day), Some(at(91_400_000)));
        assert!(!record.is_living(at(1)));
    }
}
