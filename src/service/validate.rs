//! ValidateKey: may this key pass? The check path.
//!
//! Order of refusal: length, alphabet and checksum; the tag; only then the store; the secret
//! before anything that the record says. What is no key of ours, or a forgery, costs neither a
//! store call nor an Argon2 run.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::access::{Call, Right};
use super::error::{Error, ErrorKind};
use super::{Core, Held};
use crate::clock::Timestamp;
use crate::hash::{TextDigest, Verdict};
use crate::key::{ApiKey, Decision, KeyRecord, Question, Realm, Scope, decide};

/// What ValidateKey is asked.
#[derive(Debug)]
pub struct Check<'a> {
    /// The presented text.
    pub text: &'a ApiKey,
    /// The realm that the key must belong to; none: any in which the caller may validate.
    pub realm: Option<&'a Realm>,
    /// Scopes that the key must cover.
    pub required_scopes: &'a [Scope],
    /// From where the key was presented.
    pub source_address: Option<IpAddr>,
    /// Who presented it.
    pub source_principal: Option<&'a str>,
}

/// What ValidateKey answers.
#[derive(Debug, Clone)]
pub struct Checked {
    /// What was decided.
    pub outcome: Outcome,
    /// The record, where the caller may see it: the secret matched and the realm is right.
    pub record: Option<Arc<Held>>,
    /// When it was decided.
    pub now: Timestamp,
    /// With [`Outcome::MissingScope`]: the scopes that the key does not cover.
    pub missing_scopes: Vec<Scope>,
}

/// What was decided. The numbers are those of `keyclasp.v1.Outcome`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Outcome {
    /// The key may pass.
    Valid = 1,
    /// Not a key.
    Malformed = 2,
    /// No such key, as far as this caller may know.
    Unknown = 3,
    /// Revoked.
    Revoked = 4,
    /// Suspended by hand.
    Suspended = 5,
    /// Expired.
    Expired = 6,
    /// Before its not_before.
    NotYetValid = 7,
    /// Of another realm in which the caller may validate.
    WrongRealm = 8,
    /// A required scope is not covered.
    MissingScope = 9,
    /// Not from that address.
    AddressDenied = 10,
    /// Not by that principal.
    PrincipalDenied = 11,
    /// The owner is not active.
    OwnerInactive = 12,
    /// Used too often.
    RateLimited = 13,
}

impl Outcome {
    /// How many there are.
    pub const COUNT: usize = 13;
    /// Every outcome, by number.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Valid,
        Self::Malformed,
        Self::Unknown,
        Self::Revoked,
        Self::Suspended,
        Self::Expired,
        Self::NotYetValid,
        Self::WrongRealm,
        Self::MissingScope,
        Self::AddressDenied,
        Self::PrincipalDenied,
        Self::OwnerInactive,
        Self::RateLimited,
    ];

    /// Its place in [`Self::ALL`].
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize - 1
    }

    /// Its name, in lower case.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Valid => "valid",
            Self::Malformed => "malformed",
            Self::Unknown => "unknown",
            Self::Revoked => "revoked",
            Self::Suspended => "suspended",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::WrongRealm => "wrong_realm",
            Self::MissingScope => "missing_scope",
            Self::AddressDenied => "address_denied",
            Self::PrincipalDenied => "principal_denied",
            Self::OwnerInactive => "owner_inactive",
            Self::RateLimited => "rate_limited",
        }
    }

    /// The outcome in words.
    #[must_use]
    pub const fn message(self) -> &'static str {
        match self {
            Self::Valid => "the key may pass",
            Self::Malformed => "this is not a key: its length, its characters or its checksum are wrong",
            Self::Unknown => "there is no such key",
            Self::Revoked => "the key was revoked",
            Self::Suspended => "the key is suspended",
            Self::Expired => "the key has expired",
            Self::NotYetValid => "the key is not valid yet",
            Self::WrongRealm => "the key belongs to another realm",
            Self::MissingScope => "the key does not have every required scope",
            Self::AddressDenied => "the key may not be used from this address",
            Self::PrincipalDenied => "the key may not be presented by this principal",
            Self::OwnerInactive => "the owner of the key is not active",
            Self::RateLimited => "the key was used too often",
        }
    }
}

/// The check path.
#[derive(Debug, Clone)]
pub struct Validator {
    core: Arc<Core>,
}

impl Validator {
    pub(super) const fn new(core: Arc<Core>) -> Self {
        Self { core }
    }

    /// Decides whether a key may pass.
    ///
    /// # Errors
    /// When no decision was made: the caller may not ask, or the store did not answer.
    pub async fn validate(&self, call: &Call, check: &Check<'_>) -> Result<Checked, Error> {
        match check.realm {
            Some(realm) => super::require(&call.principal, Right::Validate, realm)?,
            None => super::require_somewhere(&call.principal, Right::Validate)?,
        }
        let checked = self.decide(call, check).await?;
        self.core.metrics.decided(checked.outcome);
        Ok(checked)
    }

    /// Tells that a request which would have been refused passed in a dry run, so that `doctor` knows of it.
    pub fn let_through(&self) {
        self.core.metrics.let_through();
    }

    /// The scopes that a key covers, as far as they can be listed.
    #[must_use]
    pub fn listed_scopes(&self, record: &KeyRecord) -> BTreeSet<Scope> {
        self.core.policies.of(&record.realm).implications.listed(record.scopes.as_slice())
    }

    async fn decide(&self, call: &Call, check: &Check<'_>) -> Result<Checked, Error> {
        let core = &*self.core;
        let now = core.clock.now();
        let refused = |outcome| Checked { outcome, record: None, now, missing_scopes: Vec::new() };
        let held = match core.identify(check.text, now).await? {
            Ok(held) => held,
            Err(NoKey::Malformed) => return Ok(refused(Outcome::Malformed)),
            Err(NoKey::Unknown) => return Ok(refused(Outcome::Unknown)),
        };
        let question = Question {
            now,
            realm: check.realm,
            required_scopes: check.required_scopes,
            source_address: check.source_address,
            source_principal: check.source_principal,
        };
        // A record that is kept is asked for again. That the caller may ask in this realm was seen before.
        if let Some(realm) = check.realm
            && Arc::strong_count(&held) > 1
            && held.brief().passes(&core.policies.of(realm).implications, &question)
        {
            return Ok(Checked { outcome: Outcome::Valid, record: Some(held), now, missing_scopes: Vec::new() });
        }
        let record = held.record();
        if !call.principal.may(Right::Validate, &record.realm) {
            return Ok(refused(Outcome::Unknown));
        }
        let mut missing_scopes = Vec::new();
        let outcome = match decide(record, &core.policies.of(&record.realm).implications, &question) {
            Decision::Valid => Outcome::Valid,
            // Nothing is told about a key of another realm.
            Decision::WrongRealm => return Ok(refused(Outcome::WrongRealm)),
            Decision::Revoked => Outcome::Revoked,
            Decision::Expired => Outcome::Expired,
            Decision::Suspended => Outcome::Suspended,
            Decision::OwnerInactive => Outcome::OwnerInactive,
            Decision::NotYetValid => Outcome::NotYetValid,
            Decision::MissingScope(missing) => {
                missing_scopes = missing;
                Outcome::MissingScope
            }
            Decision::AddressDenied => Outcome::AddressDenied,
            Decision::PrincipalDenied => Outcome::PrincipalDenied,
        };
        Ok(Checked { outcome, record: Some(held), now, missing_scopes })
    }
}

/// Why a presented text is that of no record.
pub(super) enum NoKey {
    /// Not a key.
    Malformed,
    /// A forgery, or a key whose record is gone.
    Unknown,
}

impl Core {
    /// Finds the record whose key `text` is.
    pub(super) async fn identify(&self, text: &ApiKey, now: Timestamp) -> Result<Result<Arc<Held>, NoKey>, Error> {
        // What has no id where one belongs, or is too long, is not even read.
        let Some(id) = text.id() else { return Ok(Err(NoKey::Malformed)) };
        let digest = self.hasher.digest(text);
        if let Some(held) = self.records.held(id, now)
            && held.is_verified_by(&digest)
        {
            return Ok(Ok(held));
        }
        // A text that was verified before is well-formed and genuine.
        let verified = self.hasher.recall(id, &digest);
        if verified.is_none() {
            let Ok(parsed) = text.parse() else { return Ok(Err(NoKey::Malformed)) };
            if !self.hasher.keyring().is_genuine(&parsed) {
                return Ok(Err(NoKey::Unknown));
            }
        }
        let Some(held) = self.records.find(id, now).await.map_err(Error::unread)? else {
            return Ok(Err(NoKey::Unknown));
        };
        if verified.is_some_and(|verified| verified.against(&held.record().secret)) {
            if self.records.remembers() {
                let _ = held.verified().set(digest);
            }
            return Ok(Ok(held));
        }
        // Once in the life of a key: it should not make the state of every call larger.
        Box::pin(self.verify(text, digest, held)).await
    }

    /// Whether `text`, whose digest is `digest`, is the key of a record. Where records are kept, Argon2
    /// runs once for all who ask at a time, and never for another text than the one that was verified.
    async fn verify(
        &self,
        text: &ApiKey,
        digest: TextDigest,
        held: Arc<Held>,
    ) -> Result<Result<Arc<Held>, NoKey>, Error> {
        let verified = held.verified().get_or_try_init(|| async {
            match self.run_argon2(text, held.record()).await? {
                Verdict::Match => Ok(digest),
                Verdict::Mismatch => Err(Unverified::Other),
                Verdict::Undecidable => Err(Unverified::Failed(undecidable(held.record()))),
            }
        });
        match verified.await {
            Ok(verified) if verified.is(&digest) => Ok(Ok(held)),
            Ok(_) | Err(Unverified::Other) => Ok(Err(NoKey::Unknown)),
            Err(Unverified::Failed(error)) => Err(error),
        }
    }

    async fn run_argon2(&self, text: &ApiKey, record: &KeyRecord) -> Result<Verdict, Error> {
        let Ok(parsed) = text.parse() else { return Ok(Verdict::Mismatch) };
        let (hasher, text, stored) = (Arc::clone(&self.hasher), text.clone(), record.secret.clone());
        self.argon2.run(record.secret.profile, move || hasher.verify(&text, &parsed, &stored)).await
    }
}

/// Why a text was not verified.
enum Unverified {
    /// It is not the key's.
    Other,
    /// Nobody can say.
    Failed(Error),
}

impl From<Error> for Unverified {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

fn undecidable(record: &KeyRecord) -> Error {
    Error {
        internal: Some(format!(
            "key {}: its pepper {} is not in the keyring, or its hash costs {:?} are beyond bearing",
            record.id, record.secret.pepper, record.secret.profile
        )),
        ..Error::new(ErrorKind::DataUnreadable, "the secret of this key cannot be verified; the log has more")
    }
}
