//! The life of a key: how a record comes to be, and each step that changes it. Pure functions from
//! a record to the next one; who may take a step, and where it is stored, is decided elsewhere.

use std::time::Duration;

use super::event::Action;
use super::id::KeyId;
use super::owner::Owner;
use super::policy::{Policy, PolicyViolation};
use super::record::{KeyRecord, Revocation, SecretHash, Suspension, SuspensionReason};
use super::scope::{Implications, Scope, Scopes};
use super::values::{Actor, Cidrs, Description, Metadata, Name, Principals, Realm, Reason};
use crate::clock::Timestamp;

/// What somebody wants a new key to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    /// The realm.
    pub realm: Realm,
    /// Whom it shall act for.
    pub owner: Owner,
    /// What it shall be called.
    pub name: Name,
    /// What it is for.
    pub description: Description,
    /// What it may do.
    pub scopes: Scopes,
    /// When it ends; none: as the policy says.
    pub lifetime: Option<Lifetime>,
    /// When it begins; none: now.
    pub not_before: Option<Timestamp>,
    /// From where it may be used.
    pub allowed_cidrs: Cidrs,
    /// Who may present it.
    pub allowed_principals: Principals,
    /// Free labels.
    pub metadata: Metadata,
}

/// When a key ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    /// This long from now on.
    For(Duration),
    /// At this time.
    Until(Timestamp),
}

impl Lifetime {
    fn end(self, now: Timestamp) -> Result<Timestamp, LifeError> {
        let end = match self {
            Self::For(ttl) => now.after(ttl),
            Self::Until(end) => end,
        };
        if end > now { Ok(end) } else { Err(LifeError::EndInPast) }
    }
}

impl Draft {
    /// The record of the new key.
    ///
    /// # Errors
    /// When the policy does not allow it, or its times make no sense.
    pub fn into_record(
        self,
        policy: &Policy,
        id: KeyId,
        secret: SecretHash,
        by: Actor,
        now: Timestamp,
    ) -> Result<KeyRecord, LifeError> {
        let lifetime = self.lifetime.or(policy.default_ttl.map(Lifetime::For));
        let expires_at = lifetime.map(|lifetime| lifetime.end(now)).transpose()?;
        check_order(self.not_before, expires_at)?;
        policy.check_scopes(&self.scopes)?;
        policy.check_end(expires_at, now)?;
        policy.check_binding(&self.allowed_cidrs, &self.allowed_principals)?;
        Ok(KeyRecord {
            id,
            realm: self.realm,
            owner: self.owner,
            name: self.name,
            description: self.description,
            scopes: self.scopes,
            prefix: policy.prefix,
            created_at: now,
            created_by: by,
            not_before: self.not_before,
            expires_at,
            revocation: None,
            suspensions: std::collections::BTreeMap::new(),
            allowed_cidrs: self.allowed_cidrs,
            allowed_principals: self.allowed_principals,
            rotated_from: None,
            rotated_to: None,
            metadata: self.metadata,
            secret,
            version: 1,
        })
    }
}

/// Fields to change; none: leave as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Patch {
    /// Name.
    pub name: Option<Name>,
    /// Description.
    pub description: Option<Description>,
    /// Scopes.
    pub scopes: Option<Scopes>,
    /// Start; `Some(None)` removes it.
    pub not_before: Option<Option<Timestamp>>,
    /// End; `Some(None)` removes it.
    pub expires_at: Option<Option<Timestamp>>,
    /// Networks.
    pub allowed_cidrs: Option<Cidrs>,
    /// Principals.
    pub allowed_principals: Option<Principals>,
    /// Labels, all of them.
    pub metadata: Option<Metadata>,
    /// The owner's display name.
    pub owner_display_name: Option<Name>,
}

impl Patch {
    /// Whether it says who may use the key, when, from where or for what: it may take something away.
    #[must_use]
    pub const fn limits(&self) -> bool {
        self.scopes.is_some()
            || self.not_before.is_some()
            || self.expires_at.is_some()
            || self.allowed_cidrs.is_some()
            || self.allowed_principals.is_some()
    }
}

/// A step in a key's life: the record afterwards and what to say about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The record afterwards, its version one higher.
    pub after: KeyRecord,
    /// What was done.
    pub action: Action,
    /// Whether the key may do less than before, so that the answer must wait for the fence.
    pub narrows: bool,
    /// With [`Action::Updated`]: the fields that changed, by their name in `keyclasp.v1.Key`.
    pub fields: Vec<&'static str>,
}

/// A step that cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LifeError {
    /// The key is revoked, which is for ever.
    #[error("the key is revoked; make a new one")]
    Revoked,
    /// The key was rotated before.
    #[error("the key was rotated before, to {0}; rotate that one")]
    AlreadyRotated(KeyId),
    /// The policy, or the caller's caps, do not allow the result.
    #[error(transparent)]
    Policy(#[from] PolicyViolation),
    /// The end does not lie in the future.
    #[error("must lie in the future")]
    EndInPast,
    /// The suspension would lift itself before it begins.
    #[error("must lie in the future; leave it out for a suspension that does not lift itself")]
    LiftedInPast,
    /// The end does not lie behind the start.
    #[error("not_before must lie before expires_at")]
    EndsBeforeItBegins,
    /// The caller expected another version.
    #[error("the key has version {0} by now; read it again")]
    Version(u64),
}

impl KeyRecord {
    /// Changes the fields that `patch` holds. The policy is asked about those alone, so that a
    /// policy that was tightened later does not stand in the way of a new name.
    ///
    /// # Errors
    /// When the key is revoked, or the result is not allowed.
    pub fn update(&self, patch: Patch, policy: &Policy, now: Timestamp) -> Result<Change, LifeError> {
        let mut after = self.next_version()?;
        let mut fields = Vec::new();
        let mut set = |field: &'static str, changed: bool| {
            if changed {
                fields.push(field);
            }
            changed
        };
        if let Some(name) = patch.name {
            set("name", replace(&mut after.name, name));
        }
        if let Some(description) = patch.description {
            set("description", replace(&mut after.description, description));
        }
        if let Some(scopes) = patch.scopes
            && set("scopes", replace(&mut after.scopes, scopes))
        {
            policy.check_scopes(&after.scopes)?;
        }
        let mut times = false;
        if let Some(not_before) = patch.not_before {
            times |= set("not_before", replace(&mut after.not_before, not_before));
        }
        if let Some(expires_at) = patch.expires_at
            && set("expires_at", replace(&mut after.expires_at, expires_at))
        {
            times = true;
            if after.expires_at.is_some_and(|end| end <= now) {
                return Err(LifeError::EndInPast);
            }
            policy.check_end(after.expires_at, now)?;
        }
        if times {
            check_order(after.not_before, after.expires_at)?;
        }
        let mut binding = false;
        if let Some(cidrs) = patch.allowed_cidrs {
            binding |= set("allowed_cidrs", replace(&mut after.allowed_cidrs, cidrs));
        }
        if let Some(principals) = patch.allowed_principals {
            binding |= set("allowed_principals", replace(&mut after.allowed_principals, principals));
        }
        if binding {
            policy.check_binding(&after.allowed_cidrs, &after.allowed_principals)?;
        }
        if let Some(metadata) = patch.metadata {
            set("metadata", replace(&mut after.metadata, metadata));
        }
        if let Some(display_name) = patch.owner_display_name {
            set("owner.display_name", replace(&mut after.owner.display_name, display_name));
        }
        let narrows = narrows(self, &after, &policy.implications);
        Ok(Change { after, action: Action::Updated, narrows, fields })
    }

    /// Suspends by hand. Suspending again replaces the suspension but never ends it sooner: to lift
    /// one is what [`Self::resume`] is for, and not everybody who may suspend may do that.
    ///
    /// # Errors
    /// When the key is revoked, or `until` does not lie in the future.
    pub fn suspend(
        &self,
        by: Actor,
        note: Reason,
        until: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<Change, LifeError> {
        if until.is_some_and(|until| until <= now) {
            return Err(LifeError::LiftedInPast);
        }
        let mut after = self.next_version()?;
        let until = match after.suspensions.get(&SuspensionReason::Manual) {
            // None is for ever.
            Some(before) => before.until.zip(until).map(|(before, until)| before.max(until)),
            None => until,
        };
        after.suspensions.insert(SuspensionReason::Manual, Suspension { by, at: now, until, note });
        Ok(Change { after, action: Action::Suspended, narrows: true, fields: Vec::new() })
    }

    /// Lifts a suspension by hand, and only that. None: there was none.
    ///
    /// # Errors
    /// When the key is revoked.
    pub fn resume(&self) -> Result<Option<Change>, LifeError> {
        let mut after = self.next_version()?;
        let lifted = after.suspensions.remove(&SuspensionReason::Manual).is_some();
        Ok(lifted.then_some(Change { after, action: Action::Resumed, narrows: false, fields: Vec::new() }))
    }

    /// Ends the key for ever. A key that is revoked stays as it is, but for its version: every
    /// revoke is a write, so that its fence is one too.
    #[must_use]
    pub fn revoke(&self, by: Actor, reason: Reason, now: Timestamp) -> Change {
        let mut after = self.clone();
        after.version += 1;
        after.revocation.get_or_insert(Revocation { at: now, by, reason });
        Change { after, action: Action::Revoked, narrows: true, fields: Vec::new() }
    }

    /// Replaces the key by one with the same grants. Answers the change of this key, then the
    /// record of the new one. The new key is suspended where this one is.
    ///
    /// # Errors
    /// When the key is revoked or rotated already, or the policy does not allow the new one.
    #[expect(clippy::too_many_arguments, reason = "a rotation needs them all, and each has its own type")]
    pub fn rotate(
        &self,
        policy: &Policy,
        new_id: KeyId,
        new_secret: SecretHash,
        by: Actor,
        grace: Duration,
        ttl: Option<Duration>,
        now: Timestamp,
    ) -> Result<(Change, Self), LifeError> {
        let mut old = self.next_version()?;
        if let Some(successor) = self.rotated_to {
            return Err(LifeError::AlreadyRotated(successor));
        }
        let expires_at = match ttl {
            Some(ttl) => Some(Lifetime::For(ttl).end(now)?),
            None => self.inherited_end(policy, now),
        };
        // A start that has passed is history; one that has not is a grant like the others.
        let not_before = self.not_before.filter(|begin| *begin > now);
        check_order(not_before, expires_at)?;
        policy.check_scopes(&self.scopes)?;
        policy.check_end(expires_at, now)?;
        policy.check_binding(&self.allowed_cidrs, &self.allowed_principals)?;
        let new = Self {
            id: new_id,
            prefix: policy.prefix,
            created_at: now,
            created_by: by.clone(),
            not_before,
            expires_at,
            rotated_from: Some(self.id),
            rotated_to: None,
            secret: new_secret,
            version: 1,
            ..self.clone()
        };
        old.rotated_to = Some(new_id);
        if grace.is_zero() {
            old.revocation = Some(Revocation { at: now, by, reason: Reason::from_static("rotated") });
        } else {
            let end = now.after(grace);
            old.expires_at = Some(self.expires_at.map_or(end, |expires_at| expires_at.min(end)));
        }
        let narrows = old.living_until() < self.living_until();
        Ok((Change { after: old, action: Action::Rotated, narrows, fields: Vec::new() }, new))
    }

    /// The old lifetime from now on, cut to what the policy allows today.
    fn inherited_end(&self, policy: &Policy, now: Timestamp) -> Option<Timestamp> {
        let lifetime = self.expires_at.map(|end| end.since(self.created_at));
        let lifetime = match (lifetime, policy.max_ttl) {
            (Some(lifetime), Some(max)) => Some(lifetime.min(max)),
            (Some(lifetime), None) => Some(lifetime),
            (None, max) if max.is_some() || !policy.allow_no_expiry => policy.default_ttl.or(max),
            (None, _) => None,
        };
        lifetime.map(|lifetime| now.after(lifetime))
    }

    fn next_version(&self) -> Result<Self, LifeError> {
        if self.revocation.is_some() {
            return Err(LifeError::Revoked);
        }
        Ok(Self { version: self.version + 1, ..self.clone() })
    }
}

fn check_order(not_before: Option<Timestamp>, expires_at: Option<Timestamp>) -> Result<(), LifeError> {
    match (not_before, expires_at) {
        (Some(begin), Some(end)) if begin >= end => Err(LifeError::EndsBeforeItBegins),
        _ => Ok(()),
    }
}

fn replace<T: PartialEq>(place: &mut T, value: T) -> bool {
    let changed = *place != value;
    *place = value;
    changed
}

/// Whether something that `before` may do, `after` may not.
fn narrows(before: &KeyRecord, after: &KeyRecord, implications: &Implications) -> bool {
    let end = |record: &KeyRecord| record.expires_at.unwrap_or(Timestamp::MAX);
    let begin = |record: &KeyRecord| record.not_before.unwrap_or_default();
    let lost = |scope: &&Scope| !implications.any_covers(after.scopes.as_slice(), scope);
    before.scopes.as_slice().iter().any(|scope| lost(&scope))
        || end(after) < end(before)
        || begin(after) > begin(before)
        || !before.allowed_cidrs.within(&after.allowed_cidrs)
        || !before.allowed_principals.within(&after.allowed_principals)
}

#[cfg(test)]
mod tests {
    use super::super::record::example;
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    fn by() -> Actor {
        Actor::parse("issuer").unwrap()
    }

    fn now() -> Timestamp {
        at(2_000_000)
    }

    fn scopes(texts: &[&str]) -> Scopes {
        Scopes::parse(texts).unwrap()
    }

    fn rotate(
        record: &KeyRecord,
        policy: &Policy,
        grace: Duration,
        ttl: Option<Duration>,
    ) -> Result<(Change, KeyRecord), LifeError> {
        record.rotate(policy, KeyId::from_bytes([9; 16]), record.secret.clone(), by(), grace, ttl, now())
    }

    #[test]
    fn an_update_tells_which_fields_changed_and_whether_it_narrows() {
        let policy = Policy::default();
        type Make = fn() -> Patch;
        let table: [(&str, Make, &[&str], bool); 9] = [
            ("name", || Patch { name: Some(Name::parse("new").unwrap()), ..Patch::default() }, &["name"], false),
            ("same name", || Patch { name: Some(Name::parse("nightly").unwrap()), ..Patch::default() }, &[], false),
            ("fewer scopes", || Patch { scopes: Some(scopes(&["nodes:read"])), ..Patch::default() }, &["scopes"], true),
            (
                "weaker scope",
                || Patch { scopes: Some(scopes(&["clusters:read", "nodes:read"])), ..Patch::default() },
                &["scopes"],
                true,
            ),
            (
                "stronger scope",
                || Patch { scopes: Some(scopes(&["clusters:admin", "nodes:read"])), ..Patch::default() },
                &["scopes"],
                false,
            ),
            ("an end", || Patch { expires_at: Some(Some(at(9_000_000))), ..Patch::default() }, &["expires_at"], true),
            ("a start", || Patch { not_before: Some(Some(at(9_000_000))), ..Patch::default() }, &["not_before"], true),
            (
                "networks",
                || Patch { allowed_cidrs: Some(Cidrs::parse(&["10.0.0.0/8"]).unwrap()), ..Patch::default() },
                &["allowed_cidrs"],
                true,
            ),
            (
                "principals",
                || Patch { allowed_principals: Some(Principals::parse(&["a"]).unwrap()), ..Patch::default() },
                &["allowed_principals"],
                true,
            ),
        ];
        for (name, patch, fields, narrows) in table {
            let change = example().update(patch(), &policy, now()).unwrap();
            assert_eq!((change.fields.as_slice(), change.narrows), (fields, narrows), "{name}");
            assert_eq!(change.after.version, 2, "{name}");
        }
    }

    #[test]
    fn a_tightened_policy_does_not_stand_in_the_way_of_a_new_name() {
        let policy = Policy { grantable: Some(Vec::new()), allow_no_expiry: false, ..Policy::default() };
        let patch = Patch { name: Some(Name::parse("new").unwrap()), ..Patch::default() };
        assert!(example().update(patch, &policy, now()).is_ok());
        let patch = Patch { scopes: Some(scopes(&["nodes:write"])), ..Patch::default() };
        assert!(matches!(example().update(patch, &policy, now()), Err(LifeError::Policy(PolicyViolation::Scope(_)))));
    }

    #[test]
    fn a_revoked_key_takes_no_other_step_but_to_be_revoked_again() {
        let first = example().revoke(by(), Reason::from_static("first"), now());
        assert!(first.narrows && first.after.version == 2);
        let revoked = first.after;
        let again = revoked.revoke(by(), Reason::from_static("second"), now().after(HOUR)).after;
        assert_eq!((again.version, &again.revocation), (3, &revoked.revocation));
        let policy = Policy::default();
        assert_eq!(revoked.update(Patch::default(), &policy, now()), Err(LifeError::Revoked));
        assert_eq!(revoked.suspend(by(), Reason::from_static(""), None, now()), Err(LifeError::Revoked));
        assert_eq!(revoked.resume(), Err(LifeError::Revoked));
        assert_eq!(rotate(&revoked, &policy, Duration::ZERO, None), Err(LifeError::Revoked));
    }

    #[test]
    fn suspending_again_never_lifts_sooner() {
        let suspend = |record: &KeyRecord, until: Option<u64>| {
            let change = record.suspend(by(), Reason::from_static(""), until.map(at), now()).unwrap();
            change.after
        };
        let until = |record: &KeyRecord| record.suspensions.get(&SuspensionReason::Manual).unwrap().until;
        let for_ever = suspend(&example(), None);
        assert_eq!(until(&suspend(&for_ever, Some(2_000_001))), None);
        let a_while = suspend(&example(), Some(3_000_000));
        assert_eq!(until(&suspend(&a_while, Some(2_000_001))), Some(at(3_000_000)));
        assert_eq!(until(&suspend(&a_while, Some(4_000_000))), Some(at(4_000_000)));
        assert_eq!(until(&suspend(&a_while, None)), None);
    }

    #[test]
    fn resuming_lifts_what_was_done_by_hand_alone() {
        let mut record = example().suspend(by(), Reason::from_static("why"), None, now()).unwrap().after;
        let owner = Suspension { by: by(), at: now(), until: None, note: Reason::from_static("") };
        record.suspensions.insert(SuspensionReason::OwnerDisabled, owner);
        let resumed = record.resume().unwrap().unwrap().after;
        assert_eq!(resumed.suspensions.keys().copied().collect::<Vec<_>>(), [SuspensionReason::OwnerDisabled]);
        assert_eq!(resumed.resume(), Ok(None));
    }

    #[test]
    fn a_rotation_without_grace_revokes_and_with_grace_shortens() {
        let policy = Policy::default();
        let (old, new) = rotate(&example(), &policy, Duration::ZERO, None).unwrap();
        assert!(old.narrows && old.after.revocation.is_some());
        assert_eq!((old.after.rotated_to, new.rotated_from), (Some(new.id), Some(example().id)));
        assert_eq!((new.version, new.created_at, &new.scopes), (1, now(), &example().scopes));

        let (old, _) = rotate(&example(), &policy, HOUR, None).unwrap();
        assert!(old.narrows && old.after.revocation.is_none(), "its end came nearer");
        assert_eq!(old.after.expires_at, Some(now().after(HOUR)));

        let ends_sooner = KeyRecord { expires_at: Some(at(2_000_500)), ..example() };
        let (old, _) = rotate(&ends_sooner, &policy, HOUR, None).unwrap();
        assert_eq!(old.after.expires_at, ends_sooner.expires_at);
        assert!(!old.narrows, "it ends when it would have ended anyway");
        assert!(matches!(rotate(&old.after, &policy, HOUR, None), Err(LifeError::AlreadyRotated(_))));
    }

    #[test]
    fn a_new_key_lives_as_long_as_the_old_one_was_given_cut_to_the_policy() {
        let lived = KeyRecord { expires_at: Some(example().created_at.after(HOUR)), ..example() };
        let end =
            |record: &KeyRecord, policy: &Policy, ttl| rotate(record, policy, HOUR, ttl).map(|(_, new)| new.expires_at);
        assert_eq!(end(&lived, &Policy::default(), None), Ok(Some(now().after(HOUR))));
        assert_eq!(end(&lived, &Policy::default(), Some(HOUR * 3)), Ok(Some(now().after(HOUR * 3))));
        let tight = Policy { max_ttl: Some(HOUR / 2), ..Policy::default() };
        assert_eq!(end(&lived, &tight, None), Ok(Some(now().after(HOUR / 2))));
        assert_eq!(end(&example(), &tight, None), Ok(Some(now().after(HOUR / 2))));
        assert!(matches!(end(&lived, &tight, Some(HOUR)), Err(LifeError::Policy(PolicyViolation::Lifetime(_)))));
        let must_end = Policy { allow_no_expiry: false, ..Policy::default() };
        assert_eq!(end(&example(), &must_end, None), Err(LifeError::Policy(PolicyViolation::NoExpiry)));
    }

    #[test]
    fn a_rotation_does_not_shake_off_a_suspension() {
        let suspended = example().suspend(by(), Reason::from_static("why"), None, now()).unwrap().after;
        let (_, new) = rotate(&suspended, &Policy::default(), HOUR, None).unwrap();
        assert_eq!(new.suspensions, suspended.suspensions);
    }

    #[test]
    fn a_draft_is_held_to_the_policy() {
        let draft = |lifetime, cidrs: &[&str]| Draft {
            realm: example().realm,
            owner: example().owner,
            name: example().name,
            description: example().description,
            scopes: scopes(&["a:read"]),
            lifetime,
            not_before: None,
            allowed_cidrs: Cidrs::parse(cidrs).unwrap(),
            allowed_principals: Principals::default(),
            metadata: Metadata::default(),
        };
        let make = |draft: Draft, policy: &Policy| {
            draft.into_record(policy, example().id, example().secret, by(), now()).map(|record| record.expires_at)
        };
        let free = Policy::default();
        assert_eq!(make(draft(None, &[]), &free), Ok(None));
        assert_eq!(make(draft(Some(Lifetime::For(HOUR)), &[]), &free), Ok(Some(now().after(HOUR))));
        assert_eq!(make(draft(Some(Lifetime::Until(now())), &[]), &free), Err(LifeError::EndInPast));
        let with_default = Policy { default_ttl: Some(HOUR), ..Policy::default() };
        assert_eq!(make(draft(None, &[]), &with_default), Ok(Some(now().after(HOUR))));
        let short = Policy { max_ttl: Some(HOUR), ..Policy::default() };
        assert_eq!(make(draft(Some(Lifetime::For(HOUR)), &[]), &short), Ok(Some(now().after(HOUR))));
        let too_long = Lifetime::For(HOUR + Duration::from_millis(1));
        assert_eq!(make(draft(Some(too_long), &[]), &short), Err(PolicyViolation::Lifetime(HOUR).into()));
        assert_eq!(make(draft(None, &[]), &short), Err(PolicyViolation::Lifetime(HOUR).into()));
        let bound = Policy { require_binding: true, ..Policy::default() };
        assert_eq!(make(draft(None, &[]), &bound), Err(PolicyViolation::Unbound.into()));
        assert_eq!(make(draft(None, &["10.0.0.0/8"]), &bound), Ok(None));
        let granted = Policy { grantable: Some(scopes(&["a:write", "b:*"]).as_slice().to_vec()), ..Policy::default() };
        assert_eq!(make(draft(None, &[]), &granted), Ok(None));
        let greedy = Draft { scopes: scopes(&["a:admin"]), ..draft(None, &[]) };
        assert!(matches!(make(greedy, &granted), Err(LifeError::Policy(PolicyViolation::Scope(_)))));
    }
}
