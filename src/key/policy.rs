//! What a realm allows its keys to be, and what an issuer may make of it.

use std::time::Duration;

use super::owner::OwnerRef;
use super::record::KeyRecord;
use super::scope::{Implications, Scope, Scopes};
use super::text::Prefix;
use super::values::{Cidrs, Principals};
use crate::clock::Timestamp;

/// The policy of a realm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// What new keys begin with.
    pub prefix: Prefix,
    /// Which action implies which.
    pub implications: Implications,
    /// Scopes that keys may hold: each must be covered by one of these. None: any.
    pub grantable: Option<Vec<Scope>>,
    /// Lifetime of a key that is created without one.
    pub default_ttl: Option<Duration>,
    /// Longest lifetime from now on that a key may be given.
    pub max_ttl: Option<Duration>,
    /// Whether a key may be made that does not expire.
    pub allow_no_expiry: bool,
    /// Most keys per owner that are neither revoked nor expired.
    pub max_keys_per_owner: u32,
    /// Whether a key must be bound to networks or principals.
    pub require_binding: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            prefix: Prefix::default(),
            implications: Implications::default(),
            grantable: None,
            default_ttl: None,
            max_ttl: None,
            allow_no_expiry: true,
            max_keys_per_owner: 20_000,
            require_binding: false,
        }
    }
}

/// A wish that the policy, or the caller's caps, do not allow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyViolation {
    /// A scope may not be granted.
    #[error("the scope {0} may not be granted")]
    Scope(Scope),
    /// The lifetime is too long.
    #[error("the key may live at most {} from now on", humantime::format_duration(*.0))]
    Lifetime(Duration),
    /// The key would not expire.
    #[error("the key must expire; give it a ttl or expires_at")]
    NoExpiry,
    /// The key is not bound.
    #[error("the key must be bound to networks or principals; give it allowed_cidrs or allowed_principals")]
    Unbound,
    /// The owner is not one that the caller may issue for.
    #[error("this caller may not act for that owner")]
    Owner,
}

impl PolicyViolation {
    /// The field of the request that is at fault.
    #[must_use]
    pub const fn field(&self) -> &'static str {
        match self {
            Self::Scope(_) => "scopes",
            Self::Lifetime(_) | Self::NoExpiry => "expires_at",
            Self::Unbound => "allowed_cidrs",
            Self::Owner => "owner",
        }
    }
}

impl Policy {
    /// Whether keys may hold `scopes`.
    ///
    /// # Errors
    /// Names the first that they may not.
    pub fn check_scopes(&self, scopes: &Scopes) -> Result<(), PolicyViolation> {
        check_scopes(&self.implications, self.grantable.as_deref(), scopes)
    }

    /// Whether a key may be given this end at `now`.
    ///
    /// # Errors
    /// When it is too late, or none at all.
    pub fn check_end(&self, expires_at: Option<Timestamp>, now: Timestamp) -> Result<(), PolicyViolation> {
        if expires_at.is_none() && !self.allow_no_expiry {
            return Err(PolicyViolation::NoExpiry);
        }
        check_end(self.max_ttl, expires_at, now)
    }

    /// Whether a key may be bound like this.
    ///
    /// # Errors
    /// When it is not bound but must be.
    pub fn check_binding(&self, cidrs: &Cidrs, principals: &Principals) -> Result<(), PolicyViolation> {
        if self.require_binding && cidrs.is_empty() && principals.is_empty() {
            return Err(PolicyViolation::Unbound);
        }
        Ok(())
    }
}

/// What an issuer may make: bounds beside its role. The default bounds nothing.
///
/// They bound what is given, and for which owners anything is changed. They do not bound reading:
/// who may issue in a realm sees its keys.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Caps {
    /// Scopes that it may grant: each must be covered by one of these. None: any.
    pub scopes: Option<Vec<Scope>>,
    /// Longest lifetime from now on that it may give. None: any.
    pub max_ttl: Option<Duration>,
    /// Owners for whom it may act. None: any.
    pub owners: Option<Vec<OwnerRef>>,
}

impl Caps {
    /// Whether the caller may bring about `after`, the record as it would be afterwards.
    ///
    /// # Errors
    /// Names the bound that it breaks.
    pub fn check(&self, after: &KeyRecord, implications: &Implications, now: Timestamp) -> Result<(), PolicyViolation> {
        self.check_owner(&after.owner.reference)?;
        check_scopes(implications, self.scopes.as_deref(), &after.scopes)?;
        check_end(self.max_ttl, after.expires_at, now)
    }

    /// Whether the caller may act for `owner` at all.
    ///
    /// # Errors
    /// When it may not.
    pub fn check_owner(&self, owner: &OwnerRef) -> Result<(), PolicyViolation> {
        match &self.owners {
            Some(owners) if !owners.contains(owner) => Err(PolicyViolation::Owner),
            _ => Ok(()),
        }
    }
}

fn check_scopes(
    implications: &Implications,
    grantable: Option<&[Scope]>,
    scopes: &Scopes,
) -> Result<(), PolicyViolation> {
    let Some(grantable) = grantable else { return Ok(()) };
    match scopes.as_slice().iter().find(|scope| !implications.any_covers(grantable, scope)) {
        Some(scope) => Err(PolicyViolation::Scope(scope.clone())),
        None => Ok(()),
    }
}

fn check_end(max_ttl: Option<Duration>, expires_at: Option<Timestamp>, now: Timestamp) -> Result<(), PolicyViolation> {
    match (max_ttl, expires_at) {
        (Some(max), None) => Err(PolicyViolation::Lifetime(max)),
        (Some(max), Some(end)) if end > now.after(max) => Err(PolicyViolation::Lifetime(max)),
        _ => Ok(()),
    }
}
