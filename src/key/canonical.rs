//! The canonical bytes of a wish: what makes two requests with one request_id the same or not.
//!
//! Every part is written with its length, so parts do not run into each other. Sets are sorted
//! when they are parsed, so their order in the request does not matter. Never stored: only an
//! HMAC of it is.

use std::time::Duration;

use super::id::KeyId;
use super::life::{Draft, Lifetime};
use super::values::Reason;
use crate::clock::Timestamp;

/// Collects parts.
#[derive(Debug, Default)]
struct Canonical(Vec<u8>);

impl Canonical {
    fn bytes(mut self, part: &[u8]) -> Self {
        self.0.extend_from_slice(&(part.len() as u64).to_be_bytes());
        self.0.extend_from_slice(part);
        self
    }

    fn text(self, part: &str) -> Self {
        self.bytes(part.as_bytes())
    }

    fn number(self, part: u128) -> Self {
        self.bytes(&part.to_be_bytes())
    }

    fn time(self, part: Option<Timestamp>) -> Self {
        self.number(part.map_or(0, |time| u128::from(time.as_millis()) + 1))
    }

    fn span(self, part: Option<Duration>) -> Self {
        self.number(part.map_or(0, |span| span.as_nanos() + 1))
    }

    fn texts<T: AsRef<str>>(self, parts: impl ExactSizeIterator<Item = T>) -> Self {
        let count = self.number(parts.len() as u128);
        parts.fold(count, |canonical, part| canonical.text(part.as_ref()))
    }
}

impl Draft {
    /// The canonical bytes of a wish for this key.
    #[must_use]
    pub fn canonical(&self) -> Vec<u8> {
        let (ttl, until) = match self.lifetime {
            None => (None, None),
            Some(Lifetime::For(ttl)) => (Some(ttl), None),
            Some(Lifetime::Until(end)) => (None, Some(end)),
        };
        let cidrs: Vec<_> = self.allowed_cidrs.texts().collect();
        let metadata: Vec<_> = self.metadata.iter().flat_map(|(name, value)| [name, value]).collect();
        Canonical::default()
            .text(self.realm.as_str())
            .number(self.owner.reference.kind().number().into())
            .text(self.owner.reference.id())
            .text(self.owner.display_name.as_str())
            .text(self.name.as_str())
            .text(self.description.as_str())
            .texts(self.scopes.as_slice().iter().map(|scope| scope.as_str()))
            .span(ttl)
            .time(until)
            .time(self.not_before)
            .texts(cidrs.iter())
            .texts(self.allowed_principals.as_slice().iter())
            .texts(metadata.iter())
            .0
    }
}

/// The canonical bytes of a wish to rotate.
#[must_use]
pub fn rotation(id: KeyId, grace: Duration, ttl: Option<Duration>) -> Vec<u8> {
    Canonical::default().bytes(id.as_bytes()).span(Some(grace)).span(ttl).0
}

/// The canonical bytes of a wish to revoke.
#[must_use]
pub fn revocation(id: KeyId, reason: &Reason) -> Vec<u8> {
    Canonical::default().bytes(id.as_bytes()).text(reason.as_str()).0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_do_not_run_into_each_other() {
        let one = Canonical::default().text("ab").text("c").0;
        assert_ne!(one, Canonical::default().text("a").text("bc").0);
        assert_ne!(Canonical::default().time(None).0, Canonical::default().time(Some(Timestamp::default())).0);
        let texts = |parts: &[&str]| Canonical::default().texts(parts.iter()).0;
        assert_ne!(texts(&[]), texts(&[""]));
    }
}
