//! Audit events: what happened to a key, written in the same step as the change.

use super::id::KeyId;
use super::owner::OwnerRef;
use super::values::{Actor, Realm, Reason};
use crate::clock::Timestamp;

/// One change of one key. Never holds a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// When, by the clock of the replica that made the change.
    pub at: Timestamp,
    /// What was done.
    pub action: Action,
    /// By whom.
    pub actor: Actor,
    /// The key's realm.
    pub realm: Realm,
    /// The key.
    pub key_id: KeyId,
    /// The key's owner.
    pub owner: OwnerRef,
    /// Why.
    pub reason: Reason,
    /// Where the call came from, as far as it is known.
    pub origin: String,
    /// Version of the key after the change.
    pub key_version: u64,
    /// With [`Action::Updated`]: the fields that changed.
    pub fields: Vec<String>,
    /// With [`Action::Rotated`]: the key that replaced this one.
    pub rotated_to: Option<KeyId>,
}

/// What was done to a key. The numbers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Action {
    /// It was created.
    Created = 1,
    /// Fields were changed.
    Updated = 2,
    /// It was replaced by another key.
    Rotated = 3,
    /// It was suspended.
    Suspended = 4,
    /// It was resumed.
    Resumed = 5,
    /// It was revoked.
    Revoked = 6,
}

impl Action {
    /// Every action.
    pub const ALL: [Self; 6] =
        [Self::Created, Self::Updated, Self::Rotated, Self::Suspended, Self::Resumed, Self::Revoked];

    /// Its name, in lower case.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Updated => "updated",
            Self::Rotated => "rotated",
            Self::Suspended => "suspended",
            Self::Resumed => "resumed",
            Self::Revoked => "revoked",
        }
    }

    /// The stored number.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// From the stored number.
    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|action| u32::from(action.number()) == number)
    }
}
