//! Whom a key acts for.

use sha2::{Digest, Sha256};

use super::values::{Invalid, Name, Realm};

/// What kind of thing an owner is. The numbers are stored and part of the bucket's derivation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum OwnerKind {
    /// A Keycloak user, by Keycloak's user id.
    User = 1,
    /// The service account of a Keycloak client.
    ServiceAccount = 2,
    /// A Keycloak client.
    Client = 3,
    /// Something that Keycloak does not know.
    External = 4,
}

impl OwnerKind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::User, Self::ServiceAccount, Self::Client, Self::External];

    /// The stored number.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// What people call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::ServiceAccount => "service-account",
            Self::Client => "client",
            Self::External => "external",
        }
    }

    /// From the stored number.
    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| u32::from(kind.number()) == number)
    }
}

/// The identity of an owner within a realm.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OwnerRef {
    kind: OwnerKind,
    id: String,
}

impl OwnerRef {
    /// Parses an owner's id: 1 to 255 characters.
    ///
    /// # Errors
    /// When the id is empty, too long, or holds a control character.
    pub fn parse(kind: OwnerKind, id: &str) -> Result<Self, Invalid> {
        // The same rule as a realm's name.
        Realm::check(id).map(|id| Self { kind, id: id.to_owned() })
    }

    /// The kind.
    #[must_use]
    pub const fn kind(&self) -> OwnerKind {
        self.kind
    }

    /// The id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The id, without a copy.
    #[must_use]
    pub fn into_id(self) -> String {
        self.id
    }

    /// SHA-256(realm ‖ 0 ‖ kind ‖ 0 ‖ id): where the owner's keys live.
    #[must_use]
    pub fn digest(&self, realm: &Realm) -> [u8; 32] {
        Sha256::new()
            .chain_update(realm.as_str())
            .chain_update([0, self.kind.number(), 0])
            .chain_update(&self.id)
            .finalize()
            .into()
    }

    /// The bucket of all keys of this owner: the first byte of [`Self::digest`].
    #[must_use]
    pub fn bucket(&self, realm: &Realm) -> u8 {
        let [bucket, ..] = self.digest(realm);
        bucket
    }
}

/// An owner as a record holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Who it is.
    pub reference: OwnerRef,
    /// For people who read a list; not part of the identity.
    pub display_name: Name,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_an_identity_do_not_run_into_each_other() {
        let digest =
            |realm: &str, kind, id: &str| OwnerRef::parse(kind, id).unwrap().digest(&Realm::parse(realm).unwrap());
        assert_ne!(digest("ab", OwnerKind::User, "c"), digest("a", OwnerKind::User, "bc"));
        assert_ne!(digest("a", OwnerKind::User, "b"), digest("a", OwnerKind::Client, "b"));
    }

    #[test]
    fn kinds_keep_their_numbers() {
        for kind in OwnerKind::ALL {
            assert_eq!(OwnerKind::from_number(kind.number().into()), Some(kind));
        }
        assert_eq!(OwnerKind::from_number(0), None);
        assert_eq!(OwnerKind::from_number(5), None);
        assert_eq!(OwnerKind::ServiceAccount.number(), 2);
    }
}
