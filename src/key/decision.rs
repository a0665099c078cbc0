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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::super::brief::Brief;
    use super::super::record::{Revocation, Suspension, example};
    use super::super::scope::Scopes;
    use super::super::values::{Actor, Cidrs, Principals, Reason};
    use super::*;

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    fn suspension(until: Option<u64>) -> Suspension {
        Suspension { by: Actor::parse("x").unwrap(), at: at(1), until: until.map(at), note: Reason::from_static("") }
    }

    /// Each branch, told by what is done to an active record and to a question that it passes.
    #[test]
    fn each_branch() {
        let now = at(2_000_000);
        type Setup = fn(&mut KeyRecord);
        let revoke: Setup = |record| {
            record.revocation =
                Some(Revocation { at: at(1), by: Actor::parse("x").unwrap(), reason: Reason::from_static("") });
        };
        let expire: Setup = |record| record.expires_at = Some(at(2_000_000));
        let table: [(&str, Setup, Decision); 16] = [
            ("as it is", |_| (), Decision::Valid),
            ("another realm", |record| record.realm = Realm::parse("other").unwrap(), Decision::WrongRealm),
            ("revoked", revoke, Decision::Revoked),
            ("expires now", expire, Decision::Expired),
            ("expires in a millisecond", |record| record.expires_at = Some(at(2_000_001)), Decision::Valid),
            (
                "suspended by hand",
                |record| drop(record.suspensions.insert(SuspensionReason::Manual, suspension(None))),
                Decision::Suspended,
            ),
            (
                "by hand and by the owner's state",
                |record| {
                    record.suspensions.insert(SuspensionReason::Manual, suspension(None));
                    record.suspensions.insert(SuspensionReason::OwnerDisabled, suspension(None));
                },
                Decision::Suspended,
            ),
            (
                "by hand until now, by the owner's state for ever",
                |record| {
                    record.suspensions.insert(SuspensionReason::Manual, suspension(Some(2_000_000)));
                    record.suspensions.insert(SuspensionReason::OwnerLocked, suspension(None));
                },
                Decision::OwnerInactive,
            ),
            (
                "the client is disabled",
                |record| drop(record.suspensions.insert(SuspensionReason::ClientDisabled, suspension(None))),
                Decision::OwnerInactive,
            ),
            ("begins in a millisecond", |record| record.not_before = Some(at(2_000_001)), Decision::NotYetValid),
            ("begins now", |record| record.not_before = Some(at(2_000_000)), Decision::Valid),
            (
                "lacks a scope",
                |record| record.scopes = Scopes::parse(&["nodes:read"]).unwrap(),
                Decision::MissingScope(vec![Scope::parse("clusters:read").unwrap()]),
            ),
            (
                "from elsewhere",
                |record| record.allowed_cidrs = Cidrs::parse(&["192.0.2.0/24"]).unwrap(),
                Decision::AddressDenied,
            ),
            ("from there", |record| record.allowed_cidrs = Cidrs::parse(&["10.0.0.0/8"]).unwrap(), Decision::Valid),
            (
                "by somebody else",
                |record| record.allowed_principals = Principals::parse(&["spiffe://b"]).unwrap(),
                Decision::PrincipalDenied,
            ),
            (
                "by one of them",
                |record| record.allowed_principals = Principals::parse(&["spiffe://a", "spiffe://b"]).unwrap(),
                Decision::Valid,
            ),
        ];
        let (realm, scopes) = (Realm::parse("acme").unwrap(), Scopes::parse(&["clusters:read", "nodes:read"]).unwrap());
        let question = Question {
            now,
            realm: Some(&realm),
            required_scopes: scopes.as_slice(),
            source_address: Some("10.1.2.3".parse().unwrap()),
            source_principal: Some("spiffe://a"),
        };
        for (name, setup, expected) in table {
            let mut record = example();
            setup(&mut record);
            let decision = decide(&record, &Implications::default(), &question);
            // What is told in brief is never more than the whole.
            let passes = Brief::of(&record).passes(&Implications::default(), &question);
            assert!(!passes || decision == Decision::Valid, "{name}");
            assert_eq!(decision, expected, "{name}");
        }
    }

    #[test]
    fn a_bound_key_is_refused_when_nobody_says_from_where_or_by_whom() {
        let question = Question {
            now: at(2_000_000),
            realm: None,
            required_scopes: &[],
            source_address: None,
            source_principal: None,
        };
        let mut record = example();
        record.allowed_cidrs = Cidrs::parse(&["0.0.0.0/0"]).unwrap();
        assert_eq!(decide(&record, &Implications::default(), &question), Decision::AddressDenied);
        let mut record = example();
        record.allowed_principals = Principals::parse(&["a"]).unwrap();
        assert_eq!(decide(&record, &Implications::default(), &question), Decision::PrincipalDenied);
    }

    /// The rules once more, as naively as they can be written: facts about a key and a question,
    /// and the first rule that refuses.
    #[derive(Debug, Clone)]
    struct Naive {
        other_realm: bool,
        realm_asked: bool,
        revoked: bool,
        expires: Option<u64>,
        manual: Option<Option<u64>>,
        owner: Option<Option<u64>>,
        begins: Option<u64>,
        held: Vec<&'static str>,
        required: Vec<&'static str>,
        bound: bool,
        inside: Option<bool>,
        now: u64,
    }

    impl Naive {
        fn holds(suspension: Option<Option<u64>>, now: u64) -> bool {
            match suspension {
                None => false,
                Some(None) => true,
                Some(Some(until)) => until > now,
            }
        }

        fn covers(held: &str, required: &str) -> bool {
            let enough: &[&str] = match required {
                "a:read" => &["a:read", "a:write", "a:admin", "a:*", "*"],
                "a:write" => &["a:write", "a:admin", "a:*", "*"],
                "a:admin" => &["a:admin", "a:*", "*"],
                "b:read" => &["b:read", "*"],
                _ => &["plain", "*"],
            };
            enough.contains(&held)
        }

        fn decide(&self) -> &'static str {
            if self.realm_asked && self.other_realm {
                return "wrong realm";
            }
            if self.revoked {
                return "revoked";
            }
            if self.expires.is_some_and(|end| self.now >= end) {
                return "expired";
            }
            if Self::holds(self.manual, self.now) {
                return "suspended";
            }
            if Self::holds(self.owner, self.now) {
                return "owner inactive";
            }
            if self.begins.is_some_and(|begin| self.now < begin) {
                return "not yet";
            }
            if self.required.iter().any(|required| !self.held.iter().any(|held| Self::covers(held, required))) {
                return "scope";
            }
            if self.bound && self.inside != Some(true) {
                return "address";
            }
            "valid"
        }
    }

    fn naive() -> impl Strategy<Value = Naive> {
        let times = || proptest::option::of(90_u64..110);
        let suspensions = || proptest::option::weighted(0.3, proptest::option::of(90_u64..110));
        let held =
            proptest::sample::subsequence(vec!["a:read", "a:write", "a:admin", "a:*", "b:read", "plain", "*"], 0..=3);
        let required = proptest::sample::subsequence(vec!["a:read", "a:write", "a:admin", "b:read", "plain"], 0..=2);
        (
            (any::<bool>(), any::<bool>(), proptest::bool::weighted(0.1), times(), suspensions(), suspensions()),
            (times(), held, required, any::<bool>(), proptest::option::of(any::<bool>()), 90_u64..110),
        )
            .prop_map(|((other_realm, realm_asked, revoked, expires, manual, owner), rest)| {
                let (begins, held, required, bound, inside, now) = rest;
                Naive {
                    other_realm,
                    realm_asked,
                    revoked,
                    expires,
                    manual,
                    owner,
                    begins,
                    held,
                    required,
                    bound,
                    inside,
                    now,
                }
            })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn agrees_with_the_naive_model(naive in naive()) {
            let realm = Realm::parse(if naive.other_realm { "other" } else { "acme" }).unwrap();
            let required = Scopes::parse(&naive.required).unwrap();
            let mut record = example();
            record.revocation = naive.revoked.then(|| Revocation {
                at: at(1),
                by: Actor::parse("x").unwrap(),
                reason: Reason::from_static(""),
            });
            record.expires_at = naive.expires.map(at);
            record.not_before = naive.begins.map(at);
            record.scopes = Scopes::parse(&naive.held).unwrap();
            record.suspensions = [(SuspensionReason::Manual, naive.manual), (SuspensionReason::OwnerDisabled, naive.owner)]
                .into_iter()
                .filter_map(|(reason, until)| Some((reason, suspension(until?))))
                .collect::<BTreeMap<_, _>>();
            if naive.bound {
                record.allowed_cidrs = Cidrs::parse(&["10.0.0.0/8"]).unwrap();
            }
            let question = Question {
                now: at(naive.now),
                realm: naive.realm_asked.then_some(&realm),
                required_scopes: required.as_slice(),
                source_address: naive
                    .inside
                    .map(|inside| if inside { "10.9.9.9" } else { "11.0.0.1" }.parse().unwrap()),
                source_principal: None,
            };
            let decided = match decide(&record, &Implications::default(), &question) {
                Decision::Valid => "valid",
                Decision::WrongRealm => "wrong realm",
                Decision::Revoked => "revoked",
                Decision::Expired => "expired",
                Decision::Suspended => "suspended",
                Decision::OwnerInactive => "owner inactive",
                Decision::NotYetValid => "not yet",
                Decision::MissingScope(_) => "scope",
                Decision::AddressDenied => "address",
                Decision::PrincipalDenied => "principal",
            };
            prop_assert_eq!(decided, naive.decide());
            let is_plain = record.revocation.is_none() && record.suspensions.is_empty() && !naive.bound;
            let passes = Brief::of(&record).passes(&Implications::default(), &question);
            prop_assert_eq!(passes, is_plain && decided == "valid", "the brief");
        }
    }
}
