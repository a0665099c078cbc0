//! Who may call what: every method by every role, in the right realm, in another and without any.

use std::sync::Arc;
use std::time::Duration;

use keyclasp::key::{Actor, Caps, OwnerKind, OwnerRef, Realm, Scope};
use keyclasp::rpc::admin::Admin;
use keyclasp::rpc::audit::Audit;
use keyclasp::rpc::keys::Keys;
use keyclasp::rpc::proto::v1;
use keyclasp::rpc::proto::v1::admin_service_server::AdminService;
use keyclasp::rpc::proto::v1::audit_service_server::AuditService;
use keyclasp::rpc::proto::v1::key_service_server::KeyService;
use keyclasp::service::access::{Call, Grant, Principal, Realms, Role};
use tonic::{Code, Request, Status};

use crate::support::api::Api;

const REALM: &str = "acme";

/// Every method that needs a role, with a request that is about `REALM`.
const METHODS: [&str; 12] = [
    "CreateKey",
    "GetKey",
    "ListKeys",
    "UpdateKey",
    "RotateKey",
    "SuspendKey",
    "ResumeKey",
    "RevokeKey",
    "RevokeKeys",
    "ValidateKey",
    "ListEvents",
    "GetStatus",
];

fn realm() -> Realm {
    Realm::parse(REALM).unwrap()
}

fn owner() -> v1::Owner {
    v1::Owner { kind: v1::OwnerKind::User.into(), id: "u-1".to_owned(), display_name: String::new() }
}

fn caller(grants: Vec<Grant>, caps: Caps) -> Call {
    let principal = Principal { name: Actor::parse("caller").unwrap(), grants, caps };
    Call { principal: Arc::new(principal), origin: "192.0.2.1".into(), ends: None }
}

pub(crate) fn admin() -> Call {
    caller(vec![Grant { role: Role::Admin, realms: Realms::All }], Caps::default())
}

fn issuer(caps: Caps) -> Call {
    caller(vec![Grant { role: Role::Issuer, realms: Realms::All }], caps)
}

pub(crate) fn with<T>(call: &Call, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.extensions_mut().insert(std::sync::Arc::new(call.clone()));
    request
}

fn create(scopes: &[&str], ttl: Option<u64>) -> v1::CreateKeyRequest {
    v1::CreateKeyRequest {
        realm: REALM.to_owned(),
        owner: Some(owner()),
        scopes: scopes.iter().map(ToString::to_string).collect(),
        lifetime: ttl.map(|seconds| {
            let ttl = prost_types::Duration { seconds: i64::try_from(seconds).unwrap(), nanos: 0 };
            v1::create_key_request::Lifetime::Ttl(ttl)
        }),
        ..v1::CreateKeyRequest::default()
    }
}

async fn make(api: &Api, scopes: &[&str], ttl: Option<u64>) -> (v1::Key, String) {
    let made =
        Keys::new(api.service.clone()).create_key(with(&admin(), create(scopes, ttl))).await.unwrap().into_inner();
    (made.key.unwrap(), made.api_key)
}

/// Calls `method`; the code of its answer, and for ValidateKey the outcome.
async fn attempt(api: &Api, method: &str, call: &Call) -> Result<(), Code> {
    let (key, text) = make(api, &["a:read"], None).await;
    let (keys, id) = (Keys::new(api.service.clone()), key.id.clone());
    let code = |status: Status| status.code();
    match method {
        "CreateKey" => keys.create_key(with(call, create(&[], None))).await.map(drop),
        "GetKey" => keys.get_key(with(call, v1::GetKeyRequest { id })).await.map(drop),
        "ListKeys" => {
            let request = v1::ListKeysRequest { realm: REALM.to_owned(), ..v1::ListKeysRequest::default() };
            keys.list_keys(with(call, request)).await.map(drop)
        }
        "UpdateKey" => {
            let update_mask = Some(prost_types::FieldMask { paths: vec!["name".to_owned()] });
            let key = Some(v1::Key { id, name: "new".to_owned(), ..v1::Key::default() });
            keys.update_key(with(call, v1::UpdateKeyRequest { key, update_mask })).await.map(drop)
        }
        "RotateKey" => {
            keys.rotate_key(with(call, v1::RotateKeyRequest { id, ..v1::RotateKeyRequest::default() })).await.map(drop)
        }
        "SuspendKey" => keys
            .suspend_key(with(call, v1::SuspendKeyRequest { id, ..v1::SuspendKeyRequest::default() }))
            .await
            .map(drop),
        "ResumeKey" => {
            keys.resume_key(with(call, v1::ResumeKeyRequest { id, ..v1::ResumeKeyRequest::default() })).await.map(drop)
        }
        "RevokeKey" => {
            keys.revoke_key(with(call, v1::RevokeKeyRequest { id, ..v1::RevokeKeyRequest::default() })).await.map(drop)
        }
        "RevokeKeys" => {
            let request =
                v1::RevokeKeysRequest { realm: REALM.to_owned(), all: true, dry_run: true, ..Default::default() };
            keys.revoke_keys(with(call, request)).await.map(drop)
        }
        "ValidateKey" => {
            let request =
                v1::ValidateKeyRequest { api_key: text, realm: REALM.to_owned(), ..v1::ValidateKeyRequest::default() };
            let answer = keys.validate_key(with(call, request)).await.map_err(code)?.into_inner();
            assert_eq!(answer.outcome(), v1::Outcome::Valid);
            Ok(())
        }
        "ListEvents" => {
            let request = v1::ListEventsRequest { realm: REALM.to_owned(), ..v1::ListEventsRequest::default() };
            Audit::new(api.service.clone()).list_events(with(call, request)).await.map(drop)
        }
        "GetStatus" => {
            Admin::new(api.service.clone()).get_status(with(call, v1::GetStatusRequest::default())).await.map(drop)
        }
        other => panic!("{other} is not in the table"),
    }
    .map_err(code)
}

/// The roles that may call a method.
fn allowed(method: &str) -> &'static [Role] {
    match method {
        "GetKey" | "ListKeys" => &[Role::Issuer, Role::Auditor, Role::Admin],
        "ValidateKey" => &[Role::Validator, Role::Admin],
        "ListEvents" => &[Role::Auditor, Role::Admin],
        "GetStatus" => &[Role::Admin],
        _ => &[Role::Issuer, Role::Admin],
    }
}

#[tokio::test]
async fn every_method_by_every_role_in_the_right_the_wrong_and_no_realm() {
    let api = Api::embedded();
    for method in METHODS {
        for role in Role::ALL {
            let may = allowed(method).contains(&role);
            // These name their key by its id: in a realm where the caller has no role, there is none.
            let by_id =
                matches!(method, "GetKey" | "UpdateKey" | "RotateKey" | "SuspendKey" | "ResumeKey" | "RevokeKey");
            let other = Realm::parse("other").unwrap();
            let table = [
                ("all realms", Realms::All, if may { Ok(()) } else { Err(Code::PermissionDenied) }),
                ("this realm", Realms::Only(vec![realm()]), if may { Ok(()) } else { Err(Code::PermissionDenied) }),
                (
                    "another realm",
                    Realms::Only(vec![other]),
                    match (may, by_id, method) {
                        (true, true, _) => Err(Code::NotFound),
                        // The state of the replica belongs to no realm.
                        (true, _, "GetStatus") => Ok(()),
                        _ => Err(Code::PermissionDenied),
                    },
                ),
                ("no realm", Realms::Only(Vec::new()), Err(Code::PermissionDenied)),
            ];
            for (name, realms, expected) in table {
                let call = caller(vec![Grant { role, realms }], Caps::default());
                assert_eq!(attempt(&api, method, &call).await, expected, "{method} by {} in {name}", role.name());
            }
        }
        let nobody = caller(Vec::new(), Caps::default());
        assert_eq!(attempt(&api, method, &nobody).await, Err(Code::PermissionDenied), "{method} by nobody");
        let unproven = Keys::new(api.service.clone()).get_key(Request::new(v1::GetKeyRequest::default())).await;
        assert_eq!(unproven.unwrap_err().code(), Code::Unauthenticated);
    }
}

#[tokio::test]
async fn a_key_of_another_realm_is_unknown_to_who_may_not_validate_there_and_wrong_to_who_may() {
    let api = Api::embedded();
    let (_, text) = make(&api, &[], None).await;
    let keys = Keys::new(api.service.clone());
    let here = Realms::Only(vec![Realm::parse("other").unwrap()]);
    let both = Realms::Only(vec![Realm::parse("other").unwrap(), realm()]);
    for (realms, asked, expected) in [
        (here.clone(), "other", v1::Outcome::Unknown),
        (here, "", v1::Outcome::Unknown),
        (both.clone(), "other", v1::Outcome::WrongRealm),
        (both, "", v1::Outcome::Valid),
    ] {
        let call = caller(vec![Grant { role: Role::Validator, realms }], Caps::default());
        let request = v1::ValidateKeyRequest {
            api_key: text.clone(),
            realm: asked.to_owned(),
            ..v1::ValidateKeyRequest::default()
        };
        let answer = keys.validate_key(with(&call, request)).await.unwrap().into_inner();
        assert_eq!(answer.outcome(), expected);
        assert_eq!(answer.key.is_some(), expected == v1::Outcome::Valid);
    }
}

#[tokio::test]
async fn whoever_holds_a_key_may_end_it_without_a_role() {
    let api = Api::embedded();
    let (key, text) = make(&api, &[], None).await;
    let keys = Keys::new(api.service.clone());
    let request = v1::RevokeOwnKeyRequest { api_key: text, reason: "leaked".to_owned() };
    keys.revoke_own_key(Request::new(request)).await.unwrap();
    let seen = keys.get_key(with(&admin(), v1::GetKeyRequest { id: key.id.clone() })).await.unwrap().into_inner();
    let seen = seen.key.unwrap();
    assert_eq!((seen.status(), seen.revoke_reason.as_str()), (v1::KeyStatus::Revoked, "leaked"));
    assert_eq!(seen.revoked_by, format!("key:{}", key.id));
    for text in
        ["", "kc_nonsense", "kc_0000000000000000000000_000000000000000000000000000000000000000000000000000000000000"]
    {
        let request = v1::RevokeOwnKeyRequest { api_key: text.to_owned(), reason: String::new() };
        assert_eq!(keys.revoke_own_key(Request::new(request)).await.unwrap_err().code(), Code::NotFound);
    }
}

/// What a capped issuer could not create, it cannot have by rotating, updating or resuming either.
#[tokio::test]
async fn a_capped_issuer_gains_nothing_by_another_way() {
    let api = Api::embedded();
    let keys = Keys::new(api.service.clone());
    let hour = Duration::from_secs(3600);
    let scopes = Caps { scopes: Some(vec![Scope::parse("a:read").unwrap()]), ..Caps::default() };
    let ttl = Caps { max_ttl: Some(hour), ..Caps::default() };
    let owners = Caps { owners: Some(vec![OwnerRef::parse(OwnerKind::User, "u-2").unwrap()]), ..Caps::default() };
    // Each of these keys lies beyond the cap in one way.
    for (name, caps, held, ends_in) in [
        ("scopes", scopes, &["a:write"][..], Some(60)),
        ("lifetime", ttl.clone(), &["a:read"][..], Some(7200)),
        ("no end", ttl, &["a:read"][..], None),
        ("owner", owners, &["a:read"][..], Some(60)),
    ] {
        let capped = issuer(caps);
        let denied = |result: Result<(), Status>| {
            let status = result.expect_err(name);
            assert_eq!(status.code(), Code::PermissionDenied, "{name}: {status:?}");
        };
        denied(keys.create_key(with(&capped, create(held, ends_in))).await.map(drop));

        let (key, _) = make(&api, held, ends_in).await;
        let id = key.id.clone();
        let rotate = v1::RotateKeyRequest { id: id.clone(), ..v1::RotateKeyRequest::default() };
        denied(keys.rotate_key(with(&capped, rotate)).await.map(drop));
        let update = v1::UpdateKeyRequest {
            key: Some(v1::Key { id: id.clone(), name: "mine".to_owned(), ..v1::Key::default() }),
            update_mask: Some(prost_types::FieldMask { paths: vec!["name".to_owned()] }),
        };
        denied(keys.update_key(with(&capped, update)).await.map(drop));
        let suspend = v1::SuspendKeyRequest { id: id.clone(), ..v1::SuspendKeyRequest::default() };
        keys.suspend_key(with(&admin(), suspend)).await.unwrap();
        let resume = v1::ResumeKeyRequest { id: id.clone(), ..v1::ResumeKeyRequest::default() };
        denied(keys.resume_key(with(&capped, resume)).await.map(drop));
        let seen = keys.get_key(with(&admin(), v1::GetKeyRequest { id })).await.unwrap().into_inner().key.unwrap();
        assert_eq!((seen.status(), seen.version), (v1::KeyStatus::Suspended, 2), "{name}: nothing else was changed");
    }
}

/// A key that such an issuer could have made, changed so that it could not: the key as it would be counts, not the
/// key as it was.
#[tokio::test]
async fn a_capped_issuer_cannot_lead_a_key_of_its_own_beyond_its_caps() {
    let api = Api::embedded();
    let keys = Keys::new(api.service.clone());
    let capped = issuer(Caps {
        scopes: Some(vec![Scope::parse("a:read").unwrap()]),
        max_ttl: Some(Duration::from_secs(3600)),
        ..Caps::default()
    });
    let made = keys.create_key(with(&capped, create(&["a:read"], Some(60)))).await.unwrap().into_inner();
    let before = made.key.unwrap();
    let id = before.id.clone();
    let update = |path: &str, key: v1::Key| v1::UpdateKeyRequest {
        key: Some(v1::Key { id: id.clone(), ..key }),
        update_mask: Some(prost_types::FieldMask { paths: vec![path.to_owned()] }),
    };
    let end = before.created_at.unwrap().seconds;
    let at = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
    for (path, key) in [
        ("scopes", v1::Key { scopes: vec!["a:write".to_owned()], ..v1::Key::default() }),
        ("scopes", v1::Key { scopes: vec!["a:read".to_owned(), "b:read".to_owned()], ..v1::Key::default() }),
        ("expires_at", v1::Key { expires_at: at(end + 7200), ..v1::Key::default() }),
        // It would never end.
        ("expires_at", v1::Key::default()),
    ] {
        let status = keys.update_key(with(&capped, update(path, key.clone()))).await.expect_err(path);
        assert_eq!(status.code(), Code::PermissionDenied, "{path} {key:?}: {status:?}");
    }
    let ttl = Some(prost_types::Duration { seconds: 7200, nanos: 0 });
    let rotate = v1::RotateKeyRequest { id: id.clone(), ttl, ..v1::RotateKeyRequest::default() };
    assert_eq!(keys.rotate_key(with(&capped, rotate)).await.unwrap_err().code(), Code::PermissionDenied);
    let seen = keys.get_key(with(&admin(), v1::GetKeyRequest { id: id.clone() })).await.unwrap().into_inner();
    assert_eq!(seen.key.unwrap(), before, "a change that was denied was made");
    // And what stays within the caps is allowed: it is for these that the others were denied.
    let longer = v1::Key { expires_at: at(end + 1800), ..v1::Key::default() };
    keys.update_key(with(&capped, update("expires_at", longer))).await.unwrap();
    let ttl = Some(prost_types::Duration { seconds: 1800, nanos: 0 });
    keys.rotate_key(with(&capped, v1::RotateKeyRequest { id, ttl, ..Default::default() })).await.unwrap();
}

#[tokio::test]
async fn an_issuer_for_some_owners_cannot_revoke_those_of_others() {
    let api = Api::embedded();
    let keys = Keys::new(api.service.clone());
    let (key, _) = make(&api, &[], None).await;
    let other = OwnerRef::parse(OwnerKind::User, "u-2").unwrap();
    let capped = issuer(Caps { owners: Some(vec![other]), ..Caps::default() });
    let of = |id: &str| v1::RevokeKeysRequest {
        realm: REALM.to_owned(),
        owner: Some(v1::Owner { id: id.to_owned(), ..owner() }),
        ..v1::RevokeKeysRequest::default()
    };
    let all = v1::RevokeKeysRequest { realm: REALM.to_owned(), all: true, ..v1::RevokeKeysRequest::default() };
    for request in [of("u-1"), all] {
        assert_eq!(keys.revoke_keys(with(&capped, request)).await.unwrap_err().code(), Code::PermissionDenied);
    }
    let revoke = v1::RevokeKeyRequest { id: key.id.clone(), ..v1::RevokeKeyRequest::default() };
    assert_eq!(keys.revoke_key(with(&capped, revoke)).await.unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(keys.revoke_keys(with(&capped, of("u-2"))).await.unwrap().into_inner().revoked, 0);
    let seen = keys.get_key(with(&admin(), v1::GetKeyRequest { id: key.id })).await.unwrap().into_inner().key.unwrap();
    assert_eq!(seen.status(), v1::KeyStatus::Active);
}

/// Suspending again must not be a way to lift a suspension that one may not resume.
#[tokio::test]
async fn a_capped_issuer_cannot_shorten_a_suspension() {
    let api = Api::embedded();
    let keys = Keys::new(api.service.clone());
    let (key, _) = make(&api, &["a:admin"], None).await;
    let suspend = |until| v1::SuspendKeyRequest { id: key.id.clone(), reason: String::new(), until };
    keys.suspend_key(with(&admin(), suspend(None))).await.unwrap();
    let capped = issuer(Caps { scopes: Some(vec![Scope::parse("b:read").unwrap()]), ..Caps::default() });
    let soon = prost_types::Timestamp { seconds: 253_402_300_799, nanos: 0 };
    let after = keys.suspend_key(with(&capped, suspend(Some(soon)))).await.unwrap().into_inner().key.unwrap();
    assert_eq!(after.suspensions.first().unwrap().until, None);
}

#[tokio::test]
async fn an_issuer_of_some_scopes_revokes_many_keys_only_if_they_hold_no_others() {
    let api = Api::embedded();
    let keys = Keys::new(api.service.clone());
    let (weak, _) = make(&api, &["a:read"], None).await;
    let (strong, _) = make(&api, &["b:admin"], None).await;
    let ttl = Some(Duration::from_secs(60));
    let capped = issuer(Caps { scopes: Some(vec![Scope::parse("a:write").unwrap()]), max_ttl: ttl, ..Caps::default() });
    let request = |scope: &str| v1::RevokeKeysRequest {
        realm: REALM.to_owned(),
        all: scope.is_empty(),
        scope: scope.to_owned(),
        ..v1::RevokeKeysRequest::default()
    };
    let refused = keys.revoke_keys(with(&capped, request(""))).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    for id in [&weak.id, &strong.id] {
        let seen = keys.get_key(with(&admin(), v1::GetKeyRequest { id: id.clone() })).await.unwrap().into_inner();
        assert_eq!(seen.key.unwrap().status(), v1::KeyStatus::Active, "nothing was revoked");
    }
    assert_eq!(keys.revoke_keys(with(&capped, request("a:read"))).await.unwrap().into_inner().revoked, 1);
}

#[tokio::test]
async fn an_auditor_of_one_realm_sees_no_event_of_another() {
    let api = Api::embedded();
    make(&api, &[], None).await;
    let audit = Audit::new(api.service.clone());
    for (realms, events) in
        [(Realms::Only(vec![Realm::parse("other").unwrap()]), 0), (Realms::Only(vec![realm()]), 1), (Realms::All, 1)]
    {
        let call = caller(vec![Grant { role: Role::Auditor, realms }], Caps::default());
        let answer = audit.list_events(with(&call, v1::ListEventsRequest::default())).await.unwrap().into_inner();
        assert_eq!(answer.events.len(), events);
    }
}
