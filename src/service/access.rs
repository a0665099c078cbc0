//! Who may do what: principals, their roles per realm, and their caps. Default deny.
//!
//! How a caller proves who it is, is the wire's business; here it is known already.

use std::sync::Arc;
use std::time::Duration;

use crate::key::{Actor, Caps, Realm};

/// A caller whose identity was proven.
#[derive(Debug, Clone)]
pub struct Principal {
    /// Its name, as audit events show it.
    pub name: Actor,
    /// Its roles.
    pub grants: Vec<Grant>,
    /// Bounds on what it may issue.
    pub caps: Caps,
}

/// A role in some realms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The role.
    pub role: Role,
    /// Where.
    pub realms: Realms,
}

/// A set of realms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Realms {
    /// Every realm.
    All,
    /// These.
    Only(Vec<Realm>),
}

impl Realms {
    /// Whether `realm` is one of them.
    #[must_use]
    pub fn contain(&self, realm: &Realm) -> bool {
        match self {
            Self::All => true,
            Self::Only(realms) => realms.contains(realm),
        }
    }
}

/// What a caller is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Asks whether keys may pass.
    Validator,
    /// Makes keys and changes them.
    Issuer,
    /// Reads keys and the audit log.
    Auditor,
    /// Reports what became of owners.
    Keycloak,
    /// All of these, and the state of the service.
    Admin,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 5] = [Self::Validator, Self::Issuer, Self::Auditor, Self::Keycloak, Self::Admin];

    /// Its name in a configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Validator => "validator",
            Self::Issuer => "issuer",
            Self::Auditor => "auditor",
            Self::Keycloak => "keycloak",
            Self::Admin => "admin",
        }
    }

    /// Whether it has `right`.
    #[must_use]
    pub const fn has(self, right: Right) -> bool {
        match right {
            Right::Validate => matches!(self, Self::Validator | Self::Admin),
            Right::Issue => matches!(self, Self::Issuer | Self::Admin),
            Right::ReadKeys => matches!(self, Self::Issuer | Self::Auditor | Self::Admin),
            Right::ReadAudit => matches!(self, Self::Auditor | Self::Admin),
            Right::ReadStatus => matches!(self, Self::Admin),
        }
    }
}

/// What a method needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Right {
    /// To ask whether a key may pass.
    Validate,
    /// To make keys and change them.
    Issue,
    /// To read keys.
    ReadKeys,
    /// To read the audit log.
    ReadAudit,
    /// To read the state of the service.
    ReadStatus,
}

impl Right {
    /// Every right.
    pub const ALL: [Self; 5] = [Self::Validate, Self::Issue, Self::ReadKeys, Self::ReadAudit, Self::ReadStatus];

    /// The roles that have it, for messages.
    #[must_use]
    pub fn roles(self) -> String {
        let names: Vec<_> = Role::ALL.into_iter().filter(|role| role.has(self)).map(Role::name).collect();
        names.join(" or ")
    }
}

impl Principal {
    /// Whether it has `right` in `realm`.
    #[must_use]
    pub fn may(&self, right: Right, realm: &Realm) -> bool {
        self.grants.iter().any(|grant| grant.role.has(right) && grant.realms.contain(realm))
    }

    /// Where it has `right`.
    #[must_use]
    pub fn realms_with(&self, right: Right) -> Realms {
        let mut realms = Vec::new();
        for grant in self.grants.iter().filter(|grant| grant.role.has(right)) {
            match &grant.realms {
                Realms::All => return Realms::All,
                Realms::Only(some) => realms.extend(some.iter().cloned()),
            }
        }
        Realms::Only(realms)
    }

    /// Whether it has `right` in any realm at all.
    #[must_use]
    pub fn may_somewhere(&self, right: Right) -> bool {
        self.realms_with(right) != Realms::Only(Vec::new())
    }
}

/// A call: who makes it, and from where.
#[derive(Debug, Clone)]
pub struct Call {
    /// Who.
    pub principal: Arc<Principal>,
    /// Where from, for the audit log; empty where it is not known.
    pub origin: Arc<str>,
    /// When the caller's time is up, by [`crate::clock::Clock::elapsed`]. None: nobody has said.
    pub ends: Option<Duration>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn principal(grants: Vec<Grant>) -> Principal {
        Principal { name: Actor::parse("test").unwrap(), grants, caps: Caps::default() }
    }

    #[test]
    fn roles_and_rights() {
        let table = [
            (Right::Validate, "validator or admin"),
            (Right::Issue, "issuer or admin"),
            (Right::ReadKeys, "issuer or auditor or admin"),
            (Right::ReadAudit, "auditor or admin"),
            (Right::ReadStatus, "admin"),
        ];
        for (right, roles) in table {
            assert_eq!(right.roles(), roles);
        }
    }

    #[test]
    fn nothing_is_allowed_without_a_grant_in_that_realm() {
        let (a, b) = (Realm::parse("a").unwrap(), Realm::parse("b").unwrap());
        let nobody = principal(Vec::new());
        assert!(Right::ALL.into_iter().all(|right| !nobody.may(right, &a) && !nobody.may_somewhere(right)));
        let issuer = principal(vec![Grant { role: Role::Issuer, realms: Realms::Only(vec![a.clone()]) }]);
        assert!(issuer.may(Right::Issue, &a) && !issuer.may(Right::Issue, &b) && !issuer.may(Right::Validate, &a));
        let nowhere = principal(vec![Grant { role: Role::Admin, realms: Realms::Only(Vec::new()) }]);
        assert!(!nowhere.may_somewhere(Right::ReadStatus));
        let admin = principal(vec![Grant { role: Role::Admin, realms: Realms::All }]);
        assert!(Right::ALL.into_iter().all(|right| admin.may(right, &b)));
    }
}
