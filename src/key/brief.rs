//! What checks of a key look at, beside each other: a record is a dozen texts in as many places, and fetching
//! each of them from memory costs more than all that a check does with them.

use std::fmt;

use super::decision::Question;
use super::id::ID_LEN;
use super::owner::OwnerKind;
use super::record::KeyRecord;
use super::scope::{Implications, Scope};
use crate::clock::Timestamp;

/// What a check of a key looks at, and what is told of a key that passes.
pub struct Brief {
    key_id: [u8; ID_LEN],
    owner_kind: OwnerKind,
    /// Whether the time, the realm and the scopes are all that decides.
    is_plain: bool,
    not_before: Timestamp,
    /// [`Timestamp::MAX`]: never.
    expires_at: Timestamp,
    /// Where in `texts` the realm ends, and the owner's id.
    realm_ends: usize,
    owner_ends: usize,
    /// The realm, the owner's id, and the scopes with a space between each two.
    texts: Box<str>,
}

impl Brief {
    /// Of this record.
    #[must_use]
    pub fn of(record: &KeyRecord) -> Self {
        let (realm, owner) = (record.realm.as_str(), record.owner.reference.id());
        let scopes = record.scopes.as_slice().iter().map(Scope::as_str);
        let mut texts = String::with_capacity(Self::weight(record));
        texts.push_str(realm);
        texts.push_str(owner);
        let owner_ends = texts.len();
        for scope in scopes {
            if texts.len() > owner_ends {
                texts.push(' ');
            }
            texts.push_str(scope);
        }
        Self {
            key_id: record.id.digits(),
            owner_kind: record.owner.reference.kind(),
            is_plain: record.revocation.is_none()
                && record.suspensions.is_empty()
                && record.allowed_cidrs.is_empty()
                && record.allowed_principals.is_empty(),
            not_before: record.not_before.unwrap_or(Timestamp::from_millis(0)),
            expires_at: record.expires_at.unwrap_or(Timestamp::MAX),
            realm_ends: realm.len(),
            owner_ends,
            texts: texts.into_boxed_str(),
        }
    }

    /// Bytes that the brief of `record` takes beside itself.
    #[must_use]
    pub fn weight(record: &KeyRecord) -> usize {
        let scopes = record.scopes.as_slice();
        let spaces = scopes.len().saturating_sub(1);
        record.realm.as_str().len()
            + record.owner.reference.id().len()
            + spaces
            + scopes.iter().map(|scope| scope.as_str().len()).sum::<usize>()
    }

    /// Whether the key passes for sure. Where it does not, [`decide`](super::decide) says why not, or that it passes
    /// all the same.
    #[must_use]
    pub fn passes(&self, implications: &Implications, question: &Question<'_>) -> bool {
        self.is_plain
            && question.now >= self.not_before
            && question.now < self.expires_at
            && question.realm.is_none_or(|realm| realm.as_str() == self.realm())
            && question.required_scopes.iter().all(|required| implications.any_covers(self.each_scope(), required))
    }

    /// The text form of the key's id.
    #[must_use]
    pub fn key_id(&self) -> &str {
        std::str::from_utf8(&self.key_id).unwrap_or_default()
    }

    /// The realm.
    #[must_use]
    pub fn realm(&self) -> &str {
        self.texts.get(..self.realm_ends).unwrap_or_default()
    }

    /// What kind of owner the key has.
    #[must_use]
    pub const fn owner_kind(&self) -> OwnerKind {
        self.owner_kind
    }

    /// The owner's id.
    #[must_use]
    pub fn owner(&self) -> &str {
        self.texts.get(self.realm_ends..self.owner_ends).unwrap_or_default()
    }

    /// The scopes as OAuth writes them (RFC 6749, section 3.3): a space between each two. Empty: it has none.
    #[must_use]
    pub fn scopes(&self) -> &str {
        self.texts.get(self.owner_ends..).unwrap_or_default()
    }

    /// Each scope, in order.
    pub fn each_scope(&self) -> impl Iterator<Item = &str> + Clone {
        // No scope is empty.
        self.scopes().split(' ').filter(|scope| !scope.is_empty())
    }
}

impl fmt::Debug for Brief {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Brief").field("key_id", &self.key_id()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::example;
    use super::super::scope::Scopes;
    use super::super::values::Realm;
    use super::*;

    #[test]
    fn it_says_what_the_record_says_in_the_room_that_it_claims() {
        for scopes in [&[][..], &["*"], &["a:read", "b", "c:*"]] {
            let mut record = example();
            record.realm = Realm::parse("naïve 漢字").unwrap();
            record.scopes = Scopes::parse(scopes).unwrap();
            let brief = Brief::of(&record);
            assert_eq!(
                (brief.realm(), brief.owner(), brief.scopes()),
                ("naïve 漢字", "u-1", scopes.join(" ").as_str())
            );
            assert_eq!(brief.each_scope().collect::<Vec<_>>(), scopes);
            assert_eq!((brief.key_id(), brief.owner_kind()), (record.id.to_string().as_str(), OwnerKind::User));
            assert_eq!(brief.texts.len(), Brief::weight(&record));
        }
    }
}
