//! Between the messages of `keyclasp.v1` and the domain: requests are parsed here, once, with
//! every wrong field named; answers are written here.

use std::net::IpAddr;
use std::time::Duration;

use super::proto::v1;
use crate::clock::Timestamp;
use crate::key::{
    Action, Cidrs, Description, Draft, Event, Invalid, KeyId, KeyRecord, Lifetime, MAX_GRACE, Metadata, Name, Owner,
    OwnerKind, OwnerRef, Patch, Principals, Realm, Reason, RequestId, Scope, Scopes, Status, Suspension,
    SuspensionReason,
};
use crate::service::audit::{EventListing, Located};
use crate::service::lifecycle::{Listing, Rotation, Seen};
use crate::service::page::{DEFAULT_PAGE, MAX_PAGE};
use crate::service::status::{Finding, Severity};
use crate::service::sweep::Selection;
use crate::service::{Error, Fence, FieldViolation};

/// Times are kept in milliseconds.
const SHORTEST_TTL: Duration = Duration::from_millis(1);

/// Collects what is wrong with a request's fields, so that the caller is told all of it at once.
#[derive(Debug, Default)]
struct Fields(Vec<FieldViolation>);

impl Fields {
    /// The value, or a violation of `field`.
    fn take<T>(&mut self, field: &str, value: Result<T, Invalid>) -> Option<T> {
        value.map_err(|problem| self.wrong(field, problem.to_string())).ok()
    }

    fn wrong(&mut self, field: &str, problem: impl Into<String>) {
        self.0.push(FieldViolation { field: field.to_owned(), problem: problem.into() });
    }

    /// What `build` makes of the values, if nothing was wrong.
    fn finish<T>(self, value: Option<T>) -> Result<T, Error> {
        match value {
            Some(value) if self.0.is_empty() => Ok(value),
            _ => Err(Error::fields(self.0)),
        }
    }

    fn id(&mut self, field: &str, id: &str) -> Option<KeyId> {
        self.take(field, if id.is_empty() { Err(Invalid::new("is required")) } else { id.parse() })
    }

    fn optional<T>(
        &mut self,
        field: &str,
        text: &str,
        parse: impl Fn(&str) -> Result<T, Invalid>,
    ) -> Option<Option<T>> {
        if text.is_empty() { Some(None) } else { self.take(field, parse(text)).map(Some) }
    }

    fn time(&mut self, field: &str, time: Option<prost_types::Timestamp>) -> Option<Option<Timestamp>> {
        match time {
            None => Some(None),
            Some(time) => self.take(field, parse_time(time)).map(Some),
        }
    }

    fn span(&mut self, field: &str, span: Option<prost_types::Duration>) -> Option<Option<Duration>> {
        match span {
            None => Some(None),
            Some(span) => self.take(field, parse_span(span)).map(Some),
        }
    }

    fn owner_ref(&mut self, owner: &v1::Owner) -> Option<OwnerRef> {
        let kind = match OwnerKind::from_number(u32::try_from(owner.kind).unwrap_or_default()) {
            Some(kind) => Some(kind),
            None => {
                self.wrong("owner.kind", "is required: USER, SERVICE_ACCOUNT, CLIENT or EXTERNAL");
                None
            }
        };
        // Parsed even if the kind is wrong, so that both faults are told.
        let id = self.take("owner.id", OwnerRef::parse(kind.unwrap_or(OwnerKind::User), &owner.id));
        kind.and(id)
    }

    fn optional_owner(&mut self, owner: Option<&v1::Owner>) -> Option<Option<OwnerRef>> {
        match owner {
            None => Some(None),
            Some(owner) => self.owner_ref(owner).map(Some),
        }
    }

    fn page_size(&mut self, size: i32) -> Option<usize> {
        match usize::try_from(size) {
            Ok(0) => Some(DEFAULT_PAGE),
            Ok(size) if size <= MAX_PAGE => Some(size),
            _ => {
                self.wrong("page_size", format!("must be 0 (which means {DEFAULT_PAGE}) to {MAX_PAGE}"));
                None
            }
        }
    }
}

fn parse_time(time: prost_types::Timestamp) -> Result<Timestamp, Invalid> {
    let out_of_range = || Invalid::new("must be a time from 1970 to 9999");
    let seconds = u64::try_from(time.seconds).map_err(|_| out_of_range())?;
    let nanos = u32::try_from(time.nanos).ok().filter(|nanos| *nanos < 1_000_000_000).ok_or_else(out_of_range)?;
    let millis = seconds.checked_mul(1000).and_then(|millis| millis.checked_add(u64::from(nanos / 1_000_000)));
    let millis = millis.ok_or_else(out_of_range)?;
    if millis > Timestamp::MAX.as_millis() { Err(out_of_range()) } else { Ok(Timestamp::from_millis(millis)) }
}

fn parse_span(span: prost_types::Duration) -> Result<Duration, Invalid> {
    Duration::try_from(span).map_err(|_| Invalid::new("must be a duration that is not negative, such as \"3600s\""))
}

/// A wish for a key, and what makes it safe to repeat.
pub(super) fn draft(request: v1::CreateKeyRequest) -> Result<(Draft, Option<RequestId>), Error> {
    use v1::create_key_request::Lifetime as Wire;
    let mut fields = Fields::default();
    let realm = fields.take("realm", Realm::parse(&request.realm));
    let owner = match &request.owner {
        Some(owner) => {
            let display_name = fields.take("owner.display_name", Name::parse(&owner.display_name));
            fields.owner_ref(owner).zip(display_name).map(|(reference, display_name)| Owner { reference, display_name })
        }
        None => {
            fields.wrong("owner", "is required: say whom the key acts for");
            None
        }
    };
    let name = fields.take("name", Name::parse(&request.name));
    let description = fields.take("description", Description::parse(&request.description));
    let scopes = fields.take("scopes", Scopes::parse(&request.scopes));
    let lifetime = match request.lifetime {
        None => Some(None),
        Some(Wire::Ttl(ttl)) => match fields.take("ttl", parse_span(ttl)) {
            Some(ttl) if ttl < SHORTEST_TTL => {
                fields.wrong("ttl", "must be at least a millisecond; leave it out for the realm's default");
                None
            }
            ttl => ttl.map(|ttl| Some(Lifetime::For(ttl))),
        },
        Some(Wire::ExpiresAt(end)) => fields.take("expires_at", parse_time(end)).map(|end| Some(Lifetime::Until(end))),
    };
    let not_before = fields.time("not_before", request.not_before);
    let cidrs = fields.take("allowed_cidrs", Cidrs::parse(&request.allowed_cidrs));
    let principals = fields.take("allowed_principals", Principals::parse(&request.allowed_principals));
    let metadata = fields.take("metadata", Metadata::parse(&request.metadata));
    let request_id = fields.optional("request_id", &request.request_id, RequestId::parse);
    let draft = (|| {
        Some((
            Draft {
                realm: realm?,
                owner: owner?,
                name: name?,
                description: description?,
                scopes: scopes?,
                lifetime: lifetime?,
                not_before: not_before?,
                allowed_cidrs: cidrs?,
                allowed_principals: principals?,
                metadata: metadata?,
            },
            request_id?,
        ))
    })();
    fields.finish(draft)
}

/// A key's id.
pub(super) fn id(id: &str) -> Result<KeyId, Error> {
    let mut fields = Fields::default();
    let id = fields.id("id", id);
    fields.finish(id)
}

/// A key's id, a reason, a time, and what makes the call safe to repeat.
pub(super) fn id_and_reason(
    id: &str,
    reason: &str,
    until: Option<prost_types::Timestamp>,
    request_id: &str,
) -> Result<(KeyId, Reason, Option<Timestamp>, Option<RequestId>), Error> {
    let mut fields = Fields::default();
    let id = fields.id("id", id);
    let reason = fields.take("reason", Reason::parse(reason));
    let until = fields.time("until", until);
    let request_id = fields.optional("request_id", request_id, RequestId::parse);
    let all = (|| Some((id?, reason?, until?, request_id?)))();
    fields.finish(all)
}

/// A reason alone.
pub(super) fn reason(reason: &str) -> Result<Reason, Error> {
    let mut fields = Fields::default();
    let reason = fields.take("reason", Reason::parse(reason));
    fields.finish(reason)
}

/// Which keys to list.
pub(super) fn listing(request: v1::ListKeysRequest) -> Result<Listing, Error> {
    let mut fields = Fields::default();
    let realm = fields.take("realm", Realm::parse(&request.realm));
    let owner = fields.optional_owner(request.owner.as_ref());
    let status = match v1::KeyStatus::try_from(request.status) {
        Ok(v1::KeyStatus::Unspecified) => Some(None),
        Ok(v1::KeyStatus::Active) => Some(Some(Status::Active)),
        Ok(v1::KeyStatus::Suspended) => Some(Some(Status::Suspended)),
        Ok(v1::KeyStatus::Revoked) => Some(Some(Status::Revoked)),
        Ok(v1::KeyStatus::Expired) => Some(Some(Status::Expired)),
        Err(_) => {
            fields.wrong("status", "must be ACTIVE, SUSPENDED, REVOKED or EXPIRED; leave it out for any");
            None
        }
    };
    let page_size = fields.page_size(request.page_size);
    let listing = (|| {
        Some(Listing {
            realm: realm?,
            owner: owner?,
            status: status?,
            page_size: page_size?,
            page_token: request.page_token,
        })
    })();
    fields.finish(listing)
}

/// The fields that an update may name.
const UPDATABLE: &str = "name, description, scopes, not_before, expires_at, allowed_cidrs, allowed_principals, \
                         metadata, owner.display_name";

/// More than there are fields to name.
const MAX_PATHS: usize = 16;

/// Which key to change, how, and the version that it must have.
pub(super) fn update(request: v1::UpdateKeyRequest) -> Result<(KeyId, Patch, Option<u64>), Error> {
    let mut fields = Fields::default();
    let key = request.key.unwrap_or_default();
    let id = fields.id("key.id", &key.id);
    let mut patch = Patch::default();
    let paths = request.update_mask.unwrap_or_default().paths;
    if paths.len() > MAX_PATHS {
        fields.wrong("update_mask", format!("names more than {MAX_PATHS} fields; choose of {UPDATABLE}"));
        return fields.finish(None);
    }
    if paths.is_empty() {
        fields.wrong("update_mask", format!("is required: name the fields to change, of {UPDATABLE}"));
    }
    for path in &paths {
        match path.as_str() {
            "name" => patch.name = fields.take("key.name", Name::parse(&key.name)),
            "description" => patch.description = fields.take("key.description", Description::parse(&key.description)),
            "scopes" => patch.scopes = fields.take("key.scopes", Scopes::parse(&key.scopes)),
            "not_before" => patch.not_before = fields.time("key.not_before", key.not_before),
            "expires_at" => patch.expires_at = fields.time("key.expires_at", key.expires_at),
            "allowed_cidrs" => {
                patch.allowed_cidrs = fields.take("key.allowed_cidrs", Cidrs::parse(&key.allowed_cidrs));
            }
            "allowed_principals" => {
                patch.allowed_principals =
                    fields.take("key.allowed_principals", Principals::parse(&key.allowed_principals));
            }
            "metadata" => patch.metadata = fields.take("key.metadata", Metadata::parse(&key.metadata)),
            "owner.display_name" => {
                let name = key.owner.as_ref().map_or("", |owner| owner.display_name.as_str());
                patch.owner_display_name = fields.take("key.owner.display_name", Name::parse(name));
            }
            other => {
                let other: String = other.chars().take(64).collect();
                fields.wrong("update_mask", format!("`{other}` cannot be changed; choose of {UPDATABLE}"));
            }
        }
    }
    fields.finish(id.map(|id| (id, patch, (key.version != 0).then_some(key.version))))
}

/// How to rotate.
pub(super) fn rotation(request: v1::RotateKeyRequest) -> Result<Rotation, Error> {
    let mut fields = Fields::default();
    let id = fields.id("id", &request.id);
    let grace = fields.span("grace", request.grace).map(Option::unwrap_or_default);
    if grace.is_some_and(|grace| grace > MAX_GRACE) {
        fields.wrong("grace", "must be at most 30 days");
    }
    let ttl = fields.span("ttl", request.ttl);
    if matches!(ttl, Some(Some(ttl)) if ttl < SHORTEST_TTL) {
        fields.wrong("ttl", "must be at least a millisecond; leave it out for the old key's lifetime");
    }
    let request_id = fields.optional("request_id", &request.request_id, RequestId::parse);
    let rotation = (|| Some(Rotation { id: id?, grace: grace?, ttl: ttl?, request_id: request_id? }))();
    fields.finish(rotation)
}

/// Which keys to revoke.
pub(super) fn selection(request: &v1::RevokeKeysRequest) -> Result<Selection, Error> {
    let mut fields = Fields::default();
    let realm = fields.take("realm", Realm::parse(&request.realm));
    let owner = fields.optional_owner(request.owner.as_ref());
    let created_before = fields.time("created_before", request.created_before);
    let scope = fields.optional("scope", &request.scope, Scope::parse);
    let reason = fields.take("reason", Reason::parse(&request.reason));
    let filtered = request.owner.is_some() || request.created_before.is_some() || !request.scope.is_empty();
    match (filtered, request.all) {
        (false, false) => fields.wrong("owner", "give a filter (owner, created_before, scope), or set `all`"),
        (true, true) => fields.wrong("all", "cannot be combined with a filter; remove one of them"),
        _ => {}
    }
    let selection = (|| {
        Some(Selection {
            realm: realm?,
            owner: owner?,
            created_before: created_before?,
            scope: scope?,
            reason: reason?,
            dry_run: request.dry_run,
        })
    })();
    fields.finish(selection)
}

/// What is asked about a presented key, but for its text.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) realm: Option<Realm>,
    pub(super) required_scopes: Vec<Scope>,
    pub(super) source_address: Option<IpAddr>,
    pub(super) source_principal: Option<String>,
}

/// What is asked about a presented key.
pub(super) fn asked(request: v1::ValidateKeyRequest) -> Result<Asked, Error> {
    let mut fields = Fields::default();
    let realm = fields.optional("realm", &request.realm, Realm::parse);
    let scopes = if request.required_scopes.len() > Scopes::MAX {
        fields.wrong("required_scopes", format!("holds more than {} scopes", Scopes::MAX));
        None
    } else {
        let scopes: Result<Vec<_>, _> = request.required_scopes.iter().map(|scope| Scope::parse(scope)).collect();
        fields.take("required_scopes", scopes)
    };
    let address = fields.optional("source_address", &request.source_address, |text| {
        text.parse().map_err(|_| Invalid::new("must be an IPv4 or IPv6 address, without a port"))
    });
    let asked = (|| {
        Some(Asked {
            realm: realm?,
            required_scopes: scopes?,
            source_address: address?,
            source_principal: Some(request.source_principal).filter(|principal| !principal.is_empty()),
        })
    })();
    fields.finish(asked)
}

/// Which events to list.
pub(super) fn event_listing(request: v1::ListEventsRequest) -> Result<EventListing, Error> {
    let mut fields = Fields::default();
    let realm = fields.optional("realm", &request.realm, Realm::parse);
    let key_id = fields.optional("key_id", &request.key_id, str::parse);
    let owner = fields.optional_owner(request.owner.as_ref());
    let actor = fields.optional("actor", &request.actor, crate::key::Actor::parse);
    let action = match u32::try_from(request.action) {
        Ok(0) => Some(None),
        number => {
            let action = number.ok().and_then(Action::from_number);
            if action.is_none() {
                fields.wrong("action", "is not a known action; leave it out for any");
            }
            action.map(Some)
        }
    };
    let since = fields.time("since", request.since);
    let before = fields.time("before", request.before);
    let page_size = fields.page_size(request.page_size);
    let listing = (|| {
        Some(EventListing {
            realm: realm?,
            key_id: key_id?,
            owner: owner?,
            actor: actor?,
            action: action?,
            since: since?,
            before: before?,
            newest_first: request.newest_first,
            page_size: page_size?,
            page_token: request.page_token,
        })
    })();
    fields.finish(listing)
}

/// A record as callers see it at the time it was looked at.
pub(super) fn key(seen: Seen) -> v1::Key {
    record(seen.record, seen.now)
}

/// A record as callers see it at `now`.
pub(super) fn record(record: KeyRecord, now: Timestamp) -> v1::Key {
    let status = status(record.status(now));
    let (revoked_at, revoked_by, revoke_reason) = match record.revocation {
        Some(revocation) => (Some(time(revocation.at)), revocation.by.into_string(), revocation.reason.into_string()),
        None => (None, String::new(), String::new()),
    };
    v1::Key {
        id: record.id.to_string(),
        realm: record.realm.into_string(),
        owner: Some(owner(record.owner.reference, record.owner.display_name.into_string())),
        name: record.name.into_string(),
        description: record.description.into_string(),
        prefix: record.prefix.as_str().to_owned(),
        scopes: record.scopes.into_vec().into_iter().map(Scope::into_string).collect(),
        status,
        suspensions: record.suspensions.iter().map(|(reason, one)| suspension(*reason, one)).collect(),
        created_at: Some(time(record.created_at)),
        created_by: record.created_by.into_string(),
        not_before: record.not_before.map(time),
        expires_at: record.expires_at.map(time),
        revoked_at,
        revoked_by,
        revoke_reason,
        allowed_cidrs: record.allowed_cidrs.texts().collect(),
        allowed_principals: record.allowed_principals.as_slice().to_vec(),
        rotated_from: record.rotated_from.map_or_else(String::new, |id| id.to_string()),
        rotated_to: record.rotated_to.map_or_else(String::new, |id| id.to_string()),
        metadata: record.metadata.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        version: record.version,
    }
}

/// An event as callers see it.
pub(super) fn event(located: Located) -> v1::Event {
    let Located { shard, place, event } = located;
    let Event { at, action, actor, realm, key_id, owner: reference, reason, origin, key_version, fields, rotated_to } =
        event;
    let action = match action {
        Action::Created => v1::EventAction::Created,
        Action::Updated => v1::EventAction::Updated,
        Action::Rotated => v1::EventAction::Rotated,
        Action::Suspended => v1::EventAction::Suspended,
        Action::Resumed => v1::EventAction::Resumed,
        Action::Revoked => v1::EventAction::Revoked,
    };
    v1::Event {
        id: format!("{shard}-{}-{}", place.position, place.index),
        at: Some(time(at)),
        action: action.into(),
        actor: actor.to_string(),
        realm: realm.to_string(),
        key_id: key_id.to_string(),
        owner: Some(owner(reference, String::new())),
        reason: reason.to_string(),
        origin,
        key_version,
        fields,
        rotated_to: rotated_to.map_or_else(String::new, |id| id.to_string()),
    }
}

/// Of a trait, so that `doctor` can write what it finds by itself in the same form.
impl From<Finding> for v1::Finding {
    fn from(finding: Finding) -> Self {
        let severity = match finding.severity {
            Severity::Info => v1::FindingSeverity::Info,
            Severity::Warning => v1::FindingSeverity::Warning,
            Severity::Error => v1::FindingSeverity::Error,
        };
        Self {
            severity: severity.into(),
            code: finding.code.to_owned(),
            meaning: finding.meaning,
            remedy: finding.remedy,
        }
    }
}

/// What was waited for.
pub(super) fn fence(fence: Fence) -> v1::Fence {
    v1::Fence {
        position: fence.position,
        acknowledged: fence.acknowledged,
        lapsed: fence.lapsed,
        duration: Some(span(fence.duration)),
    }
}

/// A point in time.
pub(super) fn time(time: Timestamp) -> prost_types::Timestamp {
    let millis = time.as_millis();
    prost_types::Timestamp {
        // Below Timestamp::MAX both conversions are exact.
        seconds: i64::try_from(millis / 1000).unwrap_or(i64::MAX),
        nanos: i32::try_from(millis % 1000 * 1_000_000).unwrap_or_default(),
    }
}

/// A span of time.
pub(super) fn span(span: Duration) -> prost_types::Duration {
    prost_types::Duration::try_from(span).unwrap_or_default()
}

fn owner(reference: OwnerRef, display_name: String) -> v1::Owner {
    v1::Owner { kind: owner_kind(reference.kind()), id: reference.into_id(), display_name }
}

/// The number of a kind of owners.
pub(super) fn owner_kind(kind: OwnerKind) -> i32 {
    match kind {
        OwnerKind::User => v1::OwnerKind::User,
        OwnerKind::ServiceAccount => v1::OwnerKind::ServiceAccount,
        OwnerKind::Client => v1::OwnerKind::Client,
        OwnerKind::External => v1::OwnerKind::External,
    }
    .into()
}

/// The number of a status.
pub(super) fn status(status: Status) -> i32 {
    match status {
        Status::Active => v1::KeyStatus::Active,
        Status::Suspended => v1::KeyStatus::Suspended,
        Status::Revoked => v1::KeyStatus::Revoked,
        Status::Expired => v1::KeyStatus::Expired,
    }
    .into()
}

/// A suspension as callers see it.
pub(super) fn suspension(reason: SuspensionReason, suspension: &Suspension) -> v1::Suspension {
    v1::Suspension {
        reason: suspension_reason(reason).into(),
        by: suspension.by.to_string(),
        at: Some(time(suspension.at)),
        until: suspension.until.map(time),
        note: suspension.note.to_string(),
    }
}

const fn suspension_reason(reason: SuspensionReason) -> v1::SuspensionReason {
    match reason {
        SuspensionReason::Manual => v1::SuspensionReason::Manual,
        SuspensionReason::OwnerDisabled => v1::SuspensionReason::OwnerDisabled,
        SuspensionReason::OwnerLocked => v1::SuspensionReason::OwnerLocked,
        SuspensionReason::ClientDisabled => v1::SuspensionReason::ClientDisabled,
    }
}
