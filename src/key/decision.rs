//! The decision: may a key whose secret matched pass? A pure function of the record, the realm's
//! implications and the question.

use std::net::IpAddr;

use super::record::{KeyRecord, Status, SuspensionReason};
use super::scope::{Implications, Scope};
use super::values::Realm;
use crate::clock::Timestamp;

/// What is asked about a key.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// When it is asked.
    pub now: Timestamp,
    /// The realm that the key must belong to; none: any.
    pub realm: Option<&'a Realm>,
    /// Scopes that the key must cover, all of them.
    pub required_scopes: &'a [Scope],
    /// From where the key was presented.
    pub source_address: Option<IpAddr>,
    /// Who presented it.
    pub source_principal: Option<&'a str>,
}

/// The answer. Says nothing about secrets: whether the text is that of the key was settled before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// The key may pass.
    Valid,
    /// It belongs to another realm. Asked first, so that nothing else is told about it.
    WrongRealm,
    /// It was revoked.
    Revoked,
    /// Its time is over.
    Expired,
    /// Somebody suspended it.
    Suspended,
    /// It is suspended only because of its owner's state.
    OwnerInactive,
    /// Its time has not come.
    NotYetValid,
    /// It does not cover these scopes.
    MissingScope(Vec<Scope>),
    /// It may not be used from there, or nobody said from where.
    AddressDenied,
    /// It may not be presented by that principal, or nobody said by whom.
    PrincipalDenied,
}

/// Decides. The first reason to refuse is the answer, in the order of [`Decision`].
#[must_use]
pub fn decide(record: &KeyRecord, implications: &Implications, question: &Question<'_>) -> Decision {
    if question.realm.is_some_and(|realm| *realm != record.realm) {
        return Decision::WrongRealm;
    }
    match record.status(question.now) {
        Status::Revoked => return Decision::Revoked,
        Status::Expired => return Decision::Expired,
        Status::Suspended => {
            let by_hand = record.active_suspensions(question.now).any(|reason| reason == SuspensionReason::Manual);
            return if by_hand { Decision::Suspended } else { Decision::OwnerInactive };
        }
        Status::Active => {}
    }
    if record.not_before.is_some_and(|begin| question.now < begin) {
        return Decision::NotYetValid;
    }
    let held = record.scopes.as_slice();
    let missing = |required: &&Scope| !implications.any_covers(held, required);
    if question.required_scopes.iter().any(|required| missing(&required)) {
        return Decision::MissingScope(question.required_scopes.iter().filter(missing).cloned().collect());
    }
    if !record.allowed_cidrs.is_empty()
        && !question.source_address.is_some_and(|address| record.allowed_cidrs.contain(address))
    {
        return Decision::AddressDenied;
    }
    if !record.allowed_principals.is_empty()
        && !question.source_principal.is_some_and(|principal| record.allowed_principals.contain(principal))
    {
        return Decision::PrincipalDenied;
    }
    Decision::Valid
}
