//! The policy of each realm.

use std::collections::HashMap;

use crate::key::{Policy, Realm};

/// Policies by realm, with a default for those without one of their own.
#[derive(Debug, Clone, Default)]
pub struct Policies {
    /// For every realm that is not named.
    pub default: Policy,
    /// By name.
    pub realms: HashMap<Realm, Policy>,
}

impl Policies {
    /// The policy of `realm`.
    #[must_use]
    pub fn of(&self, realm: &Realm) -> &Policy {
        self.realms.get(realm).unwrap_or(&self.default)
    }
}
