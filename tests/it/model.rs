//! Random sequences of API calls under a manual clock: every store gives the same answers, and
//! they are those of a naive model.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use keyclasp::clock::{Clock, ManualClock, SystemClock, Timestamp};
use keyclasp::fence::Fence;
use keyclasp::hash::{Hasher, Keyring, Pepper};
use keyclasp::key::{
    ApiKey, Argon2Profile, Cidrs, Description, Draft, Event, KeyId, Lifetime, Metadata, Name, Owner, OwnerKind,
    OwnerRef, Patch, PepperId, Policy, Principals, Realm, Reason, RequestId, Scope, Scopes, SecretBytes, Status,
};
use keyclasp::random::{OsEntropy, SeededEntropy};
use keyclasp::service::access::Call;
use keyclasp::service::audit::EventListing;
use keyclasp::service::lifecycle::{Listing, Rotation, Seen};
use keyclasp::service::sweep::Selection;
use keyclasp::service::validate::{Check, Outcome};
use keyclasp::service::{Error, ErrorKind, Held, Parts, Policies, Service, ServiceMetrics};
use keyclasp::store::Store;
use keyclasp::store::embedded::EmbeddedConfig;
use keyclasp::store::redis::{RedisConfig, RedisStore, RedisUrl};
use proptest::prelude::*;

use crate::support::TempDir;
use crate::support::api::member;
use crate::support::redis::RedisServer;
use crate::support::until;
use crate::support::world::call;

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);
const RETENTION: Duration = Duration::from_secs(90 * 86_400);
/// Few enough that the limit is met.
const KEYS_PER_OWNER: usize = 4;
const SCOPES: [&[&str]; 4] = [&[], &["a:read"], &["a:write"], &["a:read", "b:admin"]];
const REQUIRED: [&[&str]; 4] = [&[], &["a:read"], &["a:write"], &["b:read"]];

/// One call. Keys are named by a number that is taken modulo the number of keys there are.
#[derive(Debug, Clone)]
enum Op {
    Create { owner: u8, scopes: usize, ttl: Option<Duration>, begins_in: Option<Duration>, request: Option<u8> },
    Get(usize),
    List { owner: Option<u8>, status: Option<Status>, page_size: usize },
    Rename(usize),
    Rescope(usize, usize),
    Reend(usize, Option<Duration>),
    Rotate { key: usize, grace: Duration, ttl: Option<Duration>, request: Option<u8> },
    Suspend(usize, Option<Duration>),
    Resume(usize),
    Revoke(usize, Option<u8>),
    RevokeOwner(u8, bool),
    RevokeOwn(usize),
    Validate { key: usize, required: usize, other_realm: bool },
    Events,
    Wait(Duration),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let span = || prop_oneof![Just(Duration::from_millis(1)), Just(HOUR), Just(DAY), Just(DAY * 10)];
    let request = || proptest::option::weighted(0.3, 0_u8..3);
    let status = proptest::sample::select(vec![Status::Active, Status::Suspended, Status::Revoked, Status::Expired]);
    let key = || 0_usize..1000;
    let op = prop_oneof![
        6 => (0_u8..3, 0..SCOPES.len(), proptest::option::of(span()), proptest::option::weighted(0.2, span()), request())
            .prop_map(|(owner, scopes, ttl, begins_in, request)| Op::Create { owner, scopes, ttl, begins_in, request }),
        2 => key().prop_map(Op::Get),
        3 => (proptest::option::of(0_u8..3), proptest::option::of(status), 1_usize..4)
            .prop_map(|(owner, status, page_size)| Op::List { owner, status, page_size }),
        1 => key().prop_map(Op::Rename),
        1 => (key(), 0..SCOPES.len()).prop_map(|(key, scopes)| Op::Rescope(key, scopes)),
        1 => (key(), proptest::option::of(span())).prop_map(|(key, end)| Op::Reend(key, end)),
        3 => (key(), prop_oneof![Just(Duration::ZERO), span()], proptest::option::of(span()), request())
            .prop_map(|(key, grace, ttl, request)| Op::Rotate { key, grace, ttl, request }),
        2 => (key(), proptest::option::of(span())).prop_map(|(key, until)| Op::Suspend(key, until)),
        2 => key().prop_map(Op::Resume),
        2 => (key(), request()).prop_map(|(key, request)| Op::Revoke(key, request)),
        1 => (0_u8..3, any::<bool>()).prop_map(|(owner, dry_run)| Op::RevokeOwner(owner, dry_run)),
        1 => key().prop_map(Op::RevokeOwn),
        8 => (key(), 0..REQUIRED.len(), proptest::bool::weighted(0.1))
            .prop_map(|(key, required, other_realm)| Op::Validate { key, required, other_realm }),
        1 => Just(Op::Events),
        3 => prop_oneof![4 => span(), 1 => Just(RETENTION)].prop_map(Op::Wait),
    ];
    proptest::collection::vec(op, 1..40)
}

/// The API over one store.
struct World {
    service: Service,
    clock: Arc<ManualClock>,
    call: Call,
    realm: Realm,
    /// Text and id of every key that was made, in order.
    keys: Vec<(ApiKey, KeyId)>,
}

fn owner(number: u8) -> OwnerRef {
    OwnerRef::parse(OwnerKind::User, &format!("owner-{number}")).unwrap()
}

fn request_id(request: Option<u8>) -> Option<RequestId> {
    request.map(|number| RequestId::parse(&format!("request-{number}")).unwrap())
}

impl World {
    fn new(Stored { store, records, .. }: &Stored, realm: &Realm, start: Timestamp, seed: u64) -> Self {
        let id = PepperId::parse("p1").unwrap();
        let keyring = Keyring::new(vec![Pepper::new(id.clone(), &SecretBytes::new([7; 32]))], &id).unwrap();
        let entropy = Arc::new(SeededEntropy::new(seed));
        let clock = Arc::new(ManualClock::new(start));
        let profile = Argon2Profile { m_kib: 8, t: 1, p: 1 };
        let service = Service::new(Parts {
            records: Arc::clone(records),
            store: Arc::clone(store),
            hasher: Arc::new(Hasher::new(keyring, profile, &*entropy).unwrap()),
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
            entropy,
            policies: Policies {
                default: Policy { max_keys_per_owner: u32::try_from(KEYS_PER_OWNER).unwrap(), ..Policy::default() },
                ..Policies::default()
            },
            retention: RETENTION,
            metrics: ServiceMetrics::new(),
        });
        let call = call();
        Self { service, clock, call, realm: realm.clone(), keys: Vec::new() }
    }

    fn key(&self, number: usize) -> Option<(ApiKey, KeyId)> {
        if self.keys.is_empty() { None } else { Some(self.keys[number % self.keys.len()].clone()) }
    }

    /// Makes the call; answers all that a caller could see of it but for positions in the log.
    async fn apply(&mut self, op: &Op) -> String {
        match self.try_apply(op).await {
            Ok(answer) => answer,
            Err(error) => format!("error {:?}", error.kind),
        }
    }

    async fn try_apply(&mut self, op: &Op) -> Result<String, Error> {
        let keys = self.service.keys.clone();
        let number = match op {
            Op::Get(key)
            | Op::Rename(key)
            | Op::Rescope(key, _)
            | Op::Reend(key, _)
            | Op::Rotate { key, .. }
            | Op::Suspend(key, _)
            | Op::Resume(key)
            | Op::Revoke(key, _)
            | Op::RevokeOwn(key)
            | Op::Validate { key, .. } => Some(*key),
            _ => None,
        };
        let chosen = number.and_then(|number| self.key(number));
        if number.is_some() && chosen.is_none() {
            return Ok("no key".to_owned());
        }
        let (text, id) = chosen.unwrap_or((ApiKey::new(String::new()), KeyId::from_bytes([0; 16])));
        let now = self.clock.now();
        let update = |patch| keys.update(&self.call, id, patch, None);
        Ok(match op {
            Op::Create { owner: number, scopes, ttl, begins_in, request } => {
                let draft = Draft {
                    realm: self.realm.clone(),
                    owner: Owner { reference: owner(*number), display_name: Name::parse("").unwrap() },
                    name: Name::parse("k").unwrap(),
                    description: Description::parse("").unwrap(),
                    scopes: Scopes::parse(SCOPES[*scopes]).unwrap(),
                    lifetime: ttl.map(Lifetime::For),
                    not_before: begins_in.map(|span| now.after(span)),
                    allowed_cidrs: Cidrs::default(),
                    allowed_principals: Principals::default(),
                    metadata: Metadata::default(),
                };
                let created = keys.create(&self.call, draft, request_id(*request)).await?;
                let answer = format!("{} text {}", show(&created.key), created.text.is_some());
                if let Some(text) = created.text {
                    self.keys.push((text, created.key.record.id));
                }
                answer
            }
            Op::Get(_) => show(&keys.get(&self.call, id).await?),
            Op::List { owner: number, status, page_size } => {
                let mut listing = Listing {
                    realm: self.realm.clone(),
                    owner: number.map(owner),
                    status: *status,
                    page_size: *page_size,
                    page_token: String::new(),
                };
                let mut answer = String::new();
                for _ in 0..100 {
                    let page = keys.list(&self.call, &listing).await?;
                    assert!(page.records.len() <= *page_size);
                    for record in page.records {
                        let seen = Seen { record, now: page.now };
                        writeln!(answer, "{}", show(&seen)).unwrap();
                    }
                    if page.next_page_token.is_empty() {
                        return Ok(answer);
                    }
                    listing.page_token = page.next_page_token;
                }
                panic!("a listing does not end");
            }
            Op::Rename(_) => {
                let name = Some(Name::parse(&format!("at {}", now.as_millis())).unwrap());
                show(&update(Patch { name, ..Patch::default() }).await?.key)
            }
            Op::Rescope(_, scopes) => {
                let scopes = Some(Scopes::parse(SCOPES[*scopes]).unwrap());
                show(&update(Patch { scopes, ..Patch::default() }).await?.key)
            }
            Op::Reend(_, end) => {
                let expires_at = Some(end.map(|span| now.after(span)));
                show(&update(Patch { expires_at, ..Patch::default() }).await?.key)
            }
            Op::Rotate { grace, ttl, request, .. } => {
                let rotation = Rotation { id, grace: *grace, ttl: *ttl, request_id: request_id(*request) };
                let rotated = keys.rotate(&self.call, &rotation).await?;
                let old = rotated.old.as_ref().map(show);
                let answer = format!("{} text {} old {old:?}", show(&rotated.key), rotated.text.is_some());
                if let Some(text) = rotated.text {
                    self.keys.push((text, rotated.key.record.id));
                }
                answer
            }
            Op::Suspend(_, until) => {
                let until = until.map(|span| now.after(span));
                show(&keys.suspend(&self.call, id, Reason::from_static(""), until).await?.key)
            }
            Op::Resume(_) => show(&keys.resume(&self.call, id, Reason::from_static("")).await?.key),
            Op::Revoke(_, request) => {
                show(&keys.revoke(&self.call, id, Reason::from_static("r"), request_id(*request)).await?.key)
            }
            Op::RevokeOwner(number, dry_run) => {
                let selection = Selection {
                    realm: self.realm.clone(),
                    owner: Some(owner(*number)),
                    created_before: None,
                    scope: None,
                    reason: Reason::from_static(""),
                    dry_run: *dry_run,
                };
                let swept = self.service.sweep.revoke(&self.call, &selection).await?;
                format!("revoked {} ended {}", swept.revoked, swept.already_ended)
            }
            Op::RevokeOwn(_) => {
                self.service.own.revoke(&text, Reason::from_static(""), "", None).await?;
                "gone".to_owned()
            }
            Op::Validate { required, other_realm, .. } => {
                let realm = if *other_realm { Realm::parse("other").unwrap() } else { self.realm.clone() };
                let required: Vec<_> = REQUIRED[*required].iter().map(|scope| Scope::parse(scope).unwrap()).collect();
                let check = Check {
                    text: &text,
                    realm: Some(&realm),
                    required_scopes: &required,
                    source_address: None,
                    source_principal: None,
                };
                format!("{:?}", self.service.validator.validate(&self.call, &check).await?.outcome)
            }
            Op::Events => {
                let mut listing = EventListing {
                    realm: Some(self.realm.clone()),
                    key_id: None,
                    owner: None,
                    actor: None,
                    action: None,
                    since: None,
                    before: None,
                    newest_first: false,
                    page_size: 3,
                    page_token: String::new(),
                };
                let mut lines = Vec::new();
                for _ in 0..1000 {
                    let page = self.service.audit.list(&self.call, &listing).await?;
                    for located in page.events {
                        let Event { at, action, key_id, key_version, .. } = located.event;
                        lines.push(format!("{at} {key_id} {key_version} {action:?}"));
                    }
                    if page.next_page_token.is_empty() {
                        let in_time = |pair: &[String]| pair[0][..24] <= pair[1][..24];
                        assert!(lines.windows(2).all(in_time), "events are not in the order of time: {lines:?}");
                        return Ok(lines.join("\n"));
                    }
                    listing.page_token = page.next_page_token;
                }
                panic!("the audit log does not end");
            }
            Op::Wait(span) => {
                self.clock.advance(*span);
                String::new()
            }
        })
    }
}

fn show(seen: &Seen) -> String {
    let Seen { record, now } = seen;
    format!(
        "{} v{} {:?} {:?} {:?} {:?}",
        record.id,
        record.version,
        record.status(*now),
        record.name,
        record.scopes,
        record.expires_at
    )
}

/// What the model knows of a key.
#[derive(Debug, Clone)]
struct ModelKey {
    owner: u8,
    scopes: Vec<&'static str>,
    created: Timestamp,
    begins: Option<Timestamp>,
    ends: Option<Timestamp>,
    revoked: Option<Timestamp>,
    /// Until when it is suspended.
    suspended: Option<Option<Timestamp>>,
    rotated: bool,
    renamed: Option<Timestamp>,
    version: u64,
}

impl ModelKey {
    fn status(&self, now: Timestamp) -> Status {
        if self.revoked.is_some() {
            return Status::Revoked;
        }
        if matches!(self.ends, Some(end) if end <= now) {
            return Status::Expired;
        }
        match self.suspended {
            Some(None) => Status::Suspended,
            Some(Some(until)) if now < until => Status::Suspended,
            _ => Status::Active,
        }
    }

    fn gone(&self, now: Timestamp) -> bool {
        [self.ends, self.revoked].into_iter().flatten().any(|end| end.after(RETENTION) <= now)
    }

    fn covers(&self, required: &str) -> bool {
        let enough: &[&str] = match required {
            "a:read" => &["a:read", "a:write"],
            "a:write" => &["a:write"],
            "b:read" => &["b:admin"],
            _ => &[],
        };
        self.scopes.iter().any(|held| enough.contains(held))
    }
}

/// What was remembered of a request_id: which call it was, and when.
#[derive(Debug)]
struct Remembered {
    method: &'static str,
    request: u8,
    content: String,
    key: usize,
    until: Timestamp,
}

#[derive(Debug, Default)]
struct Model {
    keys: Vec<ModelKey>,
    requests: Vec<Remembered>,
    own: Vec<(usize, Timestamp)>,
}

/// What the model has to say about an answer.
#[derive(Debug, PartialEq)]
enum Predicted {
    Error(ErrorKind),
    /// Version and status of the key in the answer.
    Key(u64, Status),
    /// How many keys a list holds.
    Count(usize),
    Text(String),
    Nothing,
}

impl Model {
    fn remembered(&self, method: &str, request: Option<u8>, now: Timestamp) -> Option<&Remembered> {
        let request = request?;
        self.requests.iter().rev().find(|one| one.method == method && one.request == request && now < one.until)
    }

    fn remember(&mut self, method: &'static str, request: Option<u8>, content: String, key: usize, now: Timestamp) {
        if let Some(request) = request {
            self.requests.push(Remembered { method, request, content, key, until: now.after(DAY) });
        }
    }

    fn living(&self, owner: u8, now: Timestamp) -> usize {
        let living =
            |key: &&ModelKey| key.owner == owner && matches!(key.status(now), Status::Active | Status::Suspended);
        self.keys.iter().filter(living).count()
    }

    fn shown(&self, key: usize, now: Timestamp) -> Predicted {
        Predicted::Key(self.keys[key].version, self.keys[key].status(now))
    }

    #[expect(clippy::too_many_lines, reason = "one arm per call, each of them short")]
    fn apply(&mut self, op: &Op, now: Timestamp) -> Predicted {
        let pick = |number: usize| if self.keys.is_empty() { None } else { Some(number % self.keys.len()) };
        let found = |number: usize| match pick(number) {
            None => Err(Predicted::Text("no key".to_owned())),
            Some(index) if self.keys[index].gone(now) => Err(Predicted::Error(ErrorKind::KeyNotFound)),
            Some(index) => Ok(index),
        };
        let not_revoked = |number: usize| {
            let index = found(number)?;
            if self.keys[index].revoked.is_some() { Err(Predicted::Error(ErrorKind::KeyRevoked)) } else { Ok(index) }
        };
        let result = match op {
            Op::Create { owner, scopes, ttl, begins_in, request } => {
                let begins = begins_in.map(|span| now.after(span));
                let content = format!("{owner} {scopes} {ttl:?} {begins:?}");
                if let Some(first) = self.remembered("create", *request, now) {
                    return match (first.content == content, self.keys[first.key].gone(now)) {
                        (false, _) => Predicted::Error(ErrorKind::RequestIdReused),
                        (true, true) => Predicted::Error(ErrorKind::KeyNotFound),
                        (true, false) => self.shown(first.key, now),
                    };
                }
                if let (Some(begin), Some(ttl)) = (begins_in, ttl)
                    && begin >= ttl
                {
                    return Predicted::Error(ErrorKind::InvalidArgument);
                }
                if self.living(*owner, now) >= KEYS_PER_OWNER {
                    return Predicted::Error(ErrorKind::OwnerKeyLimit);
                }
                self.keys.push(ModelKey {
                    owner: *owner,
                    scopes: SCOPES[*scopes].to_vec(),
                    created: now,
                    begins,
                    ends: ttl.map(|ttl| now.after(ttl)),
                    revoked: None,
                    suspended: None,
                    rotated: false,
                    renamed: None,
                    version: 1,
                });
                let key = self.keys.len() - 1;
                self.remember("create", *request, content, key, now);
                Ok(self.shown(key, now))
            }
            Op::Get(number) => found(*number).map(|index| self.shown(index, now)),
            Op::List { owner, status, .. } => {
                let matching = self.keys.iter().filter(|key| {
                    !key.gone(now)
                        && owner.is_none_or(|owner| owner == key.owner)
                        && status.is_none_or(|status| status == key.status(now))
                });
                Ok(Predicted::Count(matching.count()))
            }
            Op::Rename(number) => not_revoked(*number).map(|index| {
                // The name is that of the time: at one point in time, a second renaming changes nothing.
                let key = &mut self.keys[index];
                if key.renamed.replace(now) != Some(now) {
                    key.version += 1;
                }
                self.shown(index, now)
            }),
            Op::Rescope(number, scopes) => not_revoked(*number).map(|index| {
                let key = &mut self.keys[index];
                if key.scopes != SCOPES[*scopes] {
                    key.scopes = SCOPES[*scopes].to_vec();
                    key.version += 1;
                }
                self.shown(index, now)
            }),
            Op::Reend(number, end) => not_revoked(*number).and_then(|index| {
                let revived = self.keys[index].status(now) == Status::Expired;
                let full = self.living(self.keys[index].owner, now) >= KEYS_PER_OWNER;
                let key = &mut self.keys[index];
                let ends = end.map(|span| now.after(span));
                if key.ends == ends {
                    return Ok(self.shown(index, now));
                }
                if matches!((key.begins, ends), (Some(begin), Some(end)) if begin >= end) {
                    return Err(Predicted::Error(ErrorKind::InvalidArgument));
                }
                if revived && full {
                    return Err(Predicted::Error(ErrorKind::OwnerKeyLimit));
                }
                key.ends = ends;
                key.version += 1;
                Ok(self.shown(index, now))
            }),
            Op::Rotate { key: number, grace, ttl, request } => found(*number).and_then(|index| {
                let content = format!("{index} {grace:?} {ttl:?}");
                let old = self.keys[index].clone();
                let repeated =
                    self.remembered("rotate", *request, now).map(|first| (first.content == content, first.key));
                if let Some((same, first)) = repeated {
                    // A key that can still be rotated is hashed for before the store finds the
                    // request_id; what it is told does not depend on that.
                    if !same {
                        let error = if old.revoked.is_some() || old.rotated || !self.rotatable(index, *ttl, now) {
                            return Err(self.unrotatable(index, *ttl, now, true));
                        } else {
                            ErrorKind::RequestIdReused
                        };
                        return Err(Predicted::Error(error));
                    }
                    self.keys[index].version += 1;
                    return if self.keys[first].gone(now) {
                        Err(Predicted::Error(ErrorKind::KeyNotFound))
                    } else {
                        Ok(self.shown(first, now))
                    };
                }
                if !self.rotatable(index, *ttl, now) {
                    return Err(self.unrotatable(index, *ttl, now, false));
                }
                let living = matches!(old.status(now), Status::Active | Status::Suspended);
                let freed = usize::from(living && grace.is_zero());
                if self.living(old.owner, now) + 1 - freed > KEYS_PER_OWNER {
                    return Err(Predicted::Error(ErrorKind::OwnerKeyLimit));
                }
                let lifetime = ttl.or(old.ends.map(|end| end.since(old.created)));
                let new = ModelKey {
                    created: now,
                    begins: old.begins.filter(|begin| *begin > now),
                    ends: lifetime.map(|span| now.after(span)),
                    version: 1,
                    ..old
                };
                let key = &mut self.keys[index];
                key.version += 1;
                key.rotated = true;
                if grace.is_zero() {
                    key.revoked = Some(now);
                } else {
                    let end = now.after(*grace);
                    key.ends = Some(key.ends.map_or(end, |old| old.min(end)));
                }
                self.keys.push(new);
                let key = self.keys.len() - 1;
                self.remember("rotate", *request, content, key, now);
                Ok(self.shown(key, now))
            }),
            Op::Suspend(number, until) => not_revoked(*number).map(|index| {
                let until = until.map(|span| now.after(span));
                self.keys[index].suspended = Some(match self.keys[index].suspended {
                    None => until,
                    Some(before) => before.zip(until).map(|(before, until)| before.max(until)),
                });
                self.keys[index].version += 1;
                self.shown(index, now)
            }),
            Op::Resume(number) => not_revoked(*number).map(|index| {
                if self.keys[index].suspended.take().is_some() {
                    self.keys[index].version += 1;
                }
                self.shown(index, now)
            }),
            Op::Revoke(number, request) => found(*number).and_then(|index| {
                let content = index.to_string();
                match self.remembered("revoke", *request, now).map(|first| first.content == content) {
                    Some(false) => return Err(Predicted::Error(ErrorKind::RequestIdReused)),
                    Some(true) => {}
                    None => self.remember("revoke", *request, content, index, now),
                }
                self.keys[index].revoked.get_or_insert(now);
                self.keys[index].version += 1;
                Ok(self.shown(index, now))
            }),
            Op::RevokeOwner(owner, dry_run) => {
                let (mut revoked, mut ended) = (0, 0);
                for key in self.keys.iter_mut().filter(|key| key.owner == *owner && !key.gone(now)) {
                    if matches!(key.status(now), Status::Revoked | Status::Expired) {
                        ended += 1;
                        continue;
                    }
                    revoked += 1;
                    if !dry_run {
                        key.revoked = Some(now);
                        key.version += 1;
                    }
                }
                Ok(Predicted::Text(format!("revoked {revoked} ended {ended}")))
            }
            Op::RevokeOwn(number) => match pick(*number) {
                None => Ok(Predicted::Text("no key".to_owned())),
                Some(index) => {
                    let recent = self.own.iter().rev().find(|(key, _)| *key == index);
                    if recent.is_some_and(|(_, at)| now.since(*at) < Duration::from_secs(1)) {
                        return Predicted::Text("gone".to_owned());
                    }
                    if self.keys[index].gone(now) {
                        return Predicted::Error(ErrorKind::KeyNotRecognized);
                    }
                    self.own.push((index, now));
                    self.keys[index].revoked.get_or_insert(now);
                    self.keys[index].version += 1;
                    Ok(Predicted::Text("gone".to_owned()))
                }
            },
            Op::Validate { key, required, other_realm } => match pick(*key) {
                None => Ok(Predicted::Text("no key".to_owned())),
                Some(index) => {
                    let key = &self.keys[index];
                    let outcome = if key.gone(now) {
                        Outcome::Unknown
                    } else if *other_realm {
                        Outcome::WrongRealm
                    } else {
                        match key.status(now) {
                            Status::Revoked => Outcome::Revoked,
                            Status::Expired => Outcome::Expired,
                            Status::Suspended => Outcome::Suspended,
                            Status::Active if key.begins.is_some_and(|begin| now < begin) => Outcome::NotYetValid,
                            Status::Active if !REQUIRED[*required].iter().all(|one| key.covers(one)) => {
                                Outcome::MissingScope
                            }
                            Status::Active => Outcome::Valid,
                        }
                    };
                    Ok(Predicted::Text(format!("{outcome:?}")))
                }
            },
            Op::Events | Op::Wait(_) => Ok(Predicted::Nothing),
        };
        result.unwrap_or_else(|error| error)
    }

    fn rotatable(&self, index: usize, ttl: Option<Duration>, now: Timestamp) -> bool {
        let key = &self.keys[index];
        let lifetime = ttl.or(key.ends.map(|end| end.since(key.created)));
        let begins = key.begins.filter(|begin| *begin > now);
        let ordered = !matches!((begins, lifetime), (Some(begin), Some(span)) if begin >= now.after(span));
        key.revoked.is_none() && !key.rotated && ordered
    }

    /// Why a key cannot be rotated. `reused`: its request_id was used for something else, which
    /// is only looked up once the rotation has failed.
    fn unrotatable(&self, index: usize, ttl: Option<Duration>, now: Timestamp, reused: bool) -> Predicted {
        debug_assert!(!self.rotatable(index, ttl, now));
        Predicted::Error(if reused {
            ErrorKind::RequestIdReused
        } else if self.keys[index].revoked.is_some() {
            ErrorKind::KeyRevoked
        } else if self.keys[index].rotated {
            ErrorKind::KeyRotated
        } else {
            ErrorKind::InvalidArgument
        })
    }
}

/// Whether an answer is what the model predicted.
fn agrees(predicted: &Predicted, answer: &str) -> bool {
    match predicted {
        Predicted::Error(kind) => answer == format!("error {kind:?}"),
        Predicted::Key(version, status) => answer.contains(&format!(" v{version} {status:?} ")),
        Predicted::Count(count) => answer.lines().count() == *count,
        Predicted::Text(text) => answer == text,
        Predicted::Nothing => !answer.starts_with("error"),
    }
}

/// A store, and the records in front of it, which all sequences share: a store tells one observer.
struct Stored {
    name: &'static str,
    store: Arc<dyn Store>,
    records: Arc<Fence<Held>>,
}

impl Stored {
    fn new(name: &'static str, store: Arc<dyn Store>) -> Self {
        Self { name, records: Arc::new(Fence::new(Arc::clone(&store), 64 << 20, member())), store }
    }
}

/// Runs the sequence on every store.
async fn run(stores: &[Stored], ops: &[Op]) -> Result<(), TestCaseError> {
    static CASE: AtomicU64 = AtomicU64::new(0);
    let case = CASE.fetch_add(1, Ordering::SeqCst);
    let realm = Realm::parse(&format!("case-{case}")).unwrap();
    let start = SystemClock::new().now();
    let mut worlds: Vec<_> =
        stores.iter().map(|stored| (stored.name, World::new(stored, &realm, start, case))).collect();
    let mut model = Model::default();
    for (index, op) in ops.iter().enumerate() {
        let now = worlds.first().map_or(start, |(_, world)| world.clock.now());
        let predicted = model.apply(op, now);
        let mut first: Option<String> = None;
        for (name, world) in &mut worlds {
            let answer = world.apply(op).await;
            prop_assert!(
                agrees(&predicted, &answer),
                "{name}, call {index} {op:?}: answered {answer:?}, the model says {predicted:?}"
            );
            match &first {
                Some(first) => prop_assert_eq!(first, &answer, "{}, call {} {:?}", name, index, op),
                None => first = Some(answer),
            }
        }
    }
    Ok(())
}

/// Runs `cases` sequences on every store.
fn check(stores: &[Stored], runtime: &tokio::runtime::Runtime, cases: u32) {
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    runner.run(&ops(), |ops| runtime.block_on(run(stores, &ops))).unwrap_or_else(|error| panic!("{error}"));
}

/// One run over both: each sequence gets the same answers, and they are the model's.
#[test]
fn api_sequences_get_the_same_answers_on_both_stores() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (dir, redis) = (TempDir::new(), RedisServer::start());
    let embedded = EmbeddedConfig::new(dir.path()).open(&OsEntropy).unwrap();
    // One shard, as the embedded store has: a request_id is remembered by the shard, so with more of
    // them a second use for an owner elsewhere would not be noticed.
    let config = RedisConfig::new(RedisUrl::parse(&redis.url()).unwrap());
    let store = RedisStore::new(config, Arc::new(OsEntropy), Arc::new(SystemClock::new())).unwrap();
    runtime.block_on(store.check()).unwrap();
    // No lease of an earlier history can run: there was none. Else the first revocation would wait for that.
    redis.run(&["COPY", "kc:{s00}:epoch", "kc:{s00}:settled"]);
    let cases = if std::env::var_os("KEYCLASP_TORTURE").is_some() { 5_000 } else { 150 };
    let stores = [Stored::new("embedded", Arc::new(embedded)), Stored::new("redis", Arc::new(store))];
    assert!(stores.iter().all(|stored| stored.records.remembers()));
    let records = Arc::clone(&stores[1].records);
    runtime.spawn(async move { records.follow().await });
    runtime.block_on(until("a lease is held", async || stores[1].records.holds_all()));
    check(&stores, &runtime, cases);
}
