//! Requests at the service boundary: every wrong field is named, every limit holds, and what
//! repeats is recognized.

use keyclasp::clock::{Clock, SystemClock};
use keyclasp::rpc::audit::Audit;
use keyclasp::rpc::keys::Keys;
use keyclasp::rpc::proto::v1;
use keyclasp::rpc::proto::v1::audit_service_server::AuditService;
use keyclasp::rpc::proto::v1::key_service_server::KeyService;
use prost_types::{Duration, FieldMask, Timestamp};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

use crate::access::{admin, with};
use crate::support::api::Api;

fn owner() -> v1::Owner {
    v1::Owner { kind: v1::OwnerKind::User.into(), id: "u-1".to_owned(), display_name: String::new() }
}

fn create() -> v1::CreateKeyRequest {
    v1::CreateKeyRequest { realm: "acme".to_owned(), owner: Some(owner()), ..v1::CreateKeyRequest::default() }
}

fn ttl(seconds: i64) -> Option<v1::create_key_request::Lifetime> {
    Some(v1::create_key_request::Lifetime::Ttl(Duration { seconds, nanos: 0 }))
}

fn in_seconds(seconds: u64) -> Timestamp {
    let now = SystemClock::new().now().as_millis() / 1000;
    Timestamp { seconds: i64::try_from(now + seconds).unwrap(), nanos: 0 }
}

/// The fields that an INVALID_ARGUMENT names, sorted.
fn fields(status: &Status) -> Vec<String> {
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    let details = status.get_error_details();
    assert_eq!(details.error_info().unwrap().domain, "keyclasp");
    let mut fields: Vec<_> =
        details.bad_request().unwrap().field_violations.iter().map(|one| one.field.clone()).collect();
    fields.sort();
    fields
}

fn reason(status: &Status) -> String {
    status.get_error_details().error_info().unwrap().reason.clone()
}

struct Client {
    api: Api,
}

impl Client {
    fn new() -> Self {
        Self { api: Api::embedded() }
    }

    fn keys(&self) -> Keys {
        Keys::new(self.api.service.clone())
    }

    async fn create(&self, request: v1::CreateKeyRequest) -> Result<v1::CreateKeyResponse, Status> {
        self.keys().create_key(with(&admin(), request)).await.map(tonic::Response::into_inner)
    }

    async fn make(&self) -> v1::Key {
        self.create(create()).await.unwrap().key.unwrap()
    }

    async fn update(&self, key: v1::Key, paths: &[&str]) -> Result<v1::UpdateKeyResponse, Status> {
        let update_mask = Some(FieldMask { paths: paths.iter().map(ToString::to_string).collect() });
        let request = v1::UpdateKeyRequest { key: Some(key), update_mask };
        self.keys().update_key(with(&admin(), request)).await.map(tonic::Response::into_inner)
    }
}

#[tokio::test]
async fn each_wrong_field_of_a_creation_is_named() {
    let client = Client::new();
    let many = |count: usize| (0..count).map(|number| format!("s{number}")).collect::<Vec<_>>();
    let networks = |count: usize| (0..count).map(|number| format!("10.0.0.{number}")).collect::<Vec<_>>();
    let with_owner = |owner: v1::Owner| v1::CreateKeyRequest { owner: Some(owner), ..create() };
    let table: Vec<(v1::CreateKeyRequest, &[&str])> = vec![
        (v1::CreateKeyRequest::default(), &["owner", "realm"]),
        (v1::CreateKeyRequest { realm: "x".repeat(256), ..create() }, &["realm"]),
        (with_owner(v1::Owner::default()), &["owner.id", "owner.kind"]),
        (with_owner(v1::Owner { kind: 9, ..owner() }), &["owner.kind"]),
        (with_owner(v1::Owner { kind: -1, ..owner() }), &["owner.kind"]),
        (with_owner(v1::Owner { id: "x".repeat(256), ..owner() }), &["owner.id"]),
        (with_owner(v1::Owner { display_name: "x".repeat(129), ..owner() }), &["owner.display_name"]),
        (v1::CreateKeyRequest { name: "x".repeat(129), ..create() }, &["name"]),
        (v1::CreateKeyRequest { name: "a\u{1b}b".to_owned(), ..create() }, &["name"]),
        (v1::CreateKeyRequest { description: "x".repeat(1025), ..create() }, &["description"]),
        (v1::CreateKeyRequest { scopes: many(65), ..create() }, &["scopes"]),
        (v1::CreateKeyRequest { scopes: vec!["x".repeat(129)], ..create() }, &["scopes"]),
        (v1::CreateKeyRequest { scopes: vec!["a b".to_owned()], ..create() }, &["scopes"]),
        (v1::CreateKeyRequest { lifetime: ttl(0), ..create() }, &["ttl"]),
        (v1::CreateKeyRequest { lifetime: ttl(-1), ..create() }, &["ttl"]),
        (
            v1::CreateKeyRequest {
                lifetime: Some(v1::create_key_request::Lifetime::ExpiresAt(Timestamp { seconds: 1, nanos: 0 })),
                ..create()
            },
            &["expires_at"],
        ),
        (
            v1::CreateKeyRequest {
                lifetime: Some(v1::create_key_request::Lifetime::ExpiresAt(Timestamp { seconds: i64::MAX, nanos: 0 })),
                ..create()
            },
            &["expires_at"],
        ),
        (v1::CreateKeyRequest { not_before: Some(Timestamp { seconds: -1, nanos: 0 }), ..create() }, &["not_before"]),
        (v1::CreateKeyRequest { not_before: Some(Timestamp { seconds: 1, nanos: -1 }), ..create() }, &["not_before"]),
        (v1::CreateKeyRequest { not_before: Some(in_seconds(60)), lifetime: ttl(30), ..create() }, &["not_before"]),
        (v1::CreateKeyRequest { allowed_cidrs: networks(33), ..create() }, &["allowed_cidrs"]),
        (v1::CreateKeyRequest { allowed_cidrs: vec!["here".to_owned()], ..create() }, &["allowed_cidrs"]),
        (v1::CreateKeyRequest { allowed_principals: many(17), ..create() }, &["allowed_principals"]),
        (v1::CreateKeyRequest { metadata: [("x".repeat(65), String::new())].into(), ..create() }, &["metadata"]),
        (v1::CreateKeyRequest { metadata: [("a".to_owned(), "x".repeat(513))].into(), ..create() }, &["metadata"]),
        (
            v1::CreateKeyRequest {
                metadata: many(17).into_iter().map(|name| (name, String::new())).collect(),
                ..create()
            },
            &["metadata"],
        ),
        (v1::CreateKeyRequest { request_id: "x".repeat(129), ..create() }, &["request_id"]),
        (v1::CreateKeyRequest { request_id: "a b".to_owned(), ..create() }, &["request_id"]),
        // All of it at once.
        (
            v1::CreateKeyRequest {
                name: "x".repeat(129),
                scopes: many(65),
                allowed_cidrs: vec!["here".to_owned()],
                lifetime: ttl(-1),
                ..v1::CreateKeyRequest::default()
            },
            &["allowed_cidrs", "name", "owner", "realm", "scopes", "ttl"],
        ),
    ];
    for (request, expected) in table {
        assert_eq!(fields(&client.create(request.clone()).await.unwrap_err()), expected, "{request:?}");
    }
}

#[tokio::test]
async fn the_largest_key_that_the_limits_allow_is_made_and_answered_whole() {
    let client = Client::new();
    let request = v1::CreateKeyRequest {
        realm: "é".repeat(255),
        owner: Some(v1::Owner { id: "ü".repeat(255), display_name: "ß".repeat(128), ..owner() }),
        name: "é".repeat(128),
        description: "ß".repeat(1024),
        scopes: (0..64).map(|number| format!("{number:0>128}")).collect(),
        lifetime: ttl(60),
        not_before: Some(in_seconds(30)),
        allowed_cidrs: (0..32).map(|number| format!("2001:db8:{number:x}::/48")).collect(),
        allowed_principals: (0..16).map(|number| format!("{number:0>255}")).collect(),
        metadata: (0..16).map(|number| (format!("{number:0>64}"), "ü".repeat(256))).collect(),
        request_id: "x".repeat(128),
    };
    let key = client.create(request.clone()).await.unwrap().key.unwrap();
    let got = client.keys().get_key(with(&admin(), v1::GetKeyRequest { id: key.id.clone() })).await.unwrap();
    let got = got.into_inner().key.unwrap();
    assert_eq!(got, key);
    assert_eq!((got.realm, got.name, got.description), (request.realm, request.name, request.description));
    assert_eq!((got.scopes.len(), got.allowed_cidrs.len(), got.metadata), (64, 32, request.metadata));
}

#[tokio::test]
async fn each_wrong_field_of_the_other_requests_is_named() {
    let client = Client::new();
    let key = client.make().await;
    let (keys, id) = (client.keys(), key.id.clone());
    for bad in ["", "short", "00000000000000000000-0", "zzzzzzzzzzzzzzzzzzzzzz"] {
        let request = v1::GetKeyRequest { id: bad.to_owned() };
        assert_eq!(fields(&keys.get_key(with(&admin(), request)).await.unwrap_err()), ["id"], "{bad}");
    }
    let list = |page_size, status| v1::ListKeysRequest {
        realm: "acme".to_owned(),
        page_size,
        status,
        ..v1::ListKeysRequest::default()
    };
    for (request, expected) in [
        (list(501, 0), "page_size"),
        (list(-1, 0), "page_size"),
        (list(0, 99), "status"),
        (v1::ListKeysRequest::default(), "realm"),
    ] {
        assert_eq!(fields(&keys.list_keys(with(&admin(), request)).await.unwrap_err()), [expected]);
    }
    for size in [0, 1, 500] {
        assert!(keys.list_keys(with(&admin(), list(size, 0))).await.is_ok());
    }
    let audit = Audit::new(client.api.service.clone());
    let events = |page_size| v1::ListEventsRequest { page_size, ..v1::ListEventsRequest::default() };
    for size in [501, -1, i32::MIN, i32::MAX] {
        assert_eq!(
            fields(&audit.list_events(with(&admin(), events(size))).await.unwrap_err()),
            ["page_size"],
            "{size}"
        );
    }
    for size in [0, 1, 500] {
        assert!(audit.list_events(with(&admin(), events(size))).await.is_ok());
    }
    let rotate = |grace, ttl| v1::RotateKeyRequest {
        id: id.clone(),
        grace: Some(Duration { seconds: grace, nanos: 0 }),
        ttl: Some(Duration { seconds: ttl, nanos: 0 }),
        request_id: String::new(),
    };
    for (request, expected) in [
        (rotate(30 * 86_400 + 1, 60), "grace"),
        (rotate(-1, 60), "grace"),
        (rotate(0, 0), "ttl"),
        (rotate(0, -1), "ttl"),
    ] {
        assert_eq!(fields(&keys.rotate_key(with(&admin(), request)).await.unwrap_err()), [expected]);
    }
    let suspend = |reason: String, until| v1::SuspendKeyRequest { id: id.clone(), reason, until };
    let long = keys.suspend_key(with(&admin(), suspend("x".repeat(513), None))).await.unwrap_err();
    assert_eq!(fields(&long), ["reason"]);
    let past = Some(Timestamp { seconds: 1, nanos: 0 });
    let past = keys.suspend_key(with(&admin(), suspend(String::new(), past))).await.unwrap_err();
    assert_eq!(fields(&past), ["until"]);
    let validate = |realm: &str, scopes: Vec<String>, address: &str| v1::ValidateKeyRequest {
        api_key: String::new(),
        realm: realm.to_owned(),
        required_scopes: scopes,
        source_address: address.to_owned(),
        source_principal: String::new(),
    };
    for (request, expected) in [
        (validate(&"x".repeat(256), Vec::new(), ""), "realm"),
        (validate("", vec![String::new()], ""), "required_scopes"),
        (validate("", (0..65).map(|number| format!("s{number}")).collect(), ""), "required_scopes"),
        (validate("", Vec::new(), "10.0.0.1:80"), "source_address"),
    ] {
        assert_eq!(fields(&keys.validate_key(with(&admin(), request)).await.unwrap_err()), [expected]);
    }
    // Nothing was presented: that is no key, and no error of the caller.
    let nothing = keys.validate_key(with(&admin(), validate("", Vec::new(), ""))).await.unwrap().into_inner();
    assert_eq!(nothing.outcome(), v1::Outcome::Malformed);

    let revoke = |all, scope: &str| v1::RevokeKeysRequest {
        realm: "acme".to_owned(),
        all,
        scope: scope.to_owned(),
        ..v1::RevokeKeysRequest::default()
    };
    for (request, expected) in
        [(revoke(false, ""), "owner"), (revoke(true, "a:b"), "all"), (revoke(false, "a b"), "scope")]
    {
        assert_eq!(fields(&keys.revoke_keys(with(&admin(), request)).await.unwrap_err()), [expected]);
    }
}

#[tokio::test]
async fn an_update_changes_what_its_mask_names_and_nothing_else() {
    let client = Client::new();
    let key = client.make().await;
    let wish = v1::Key {
        id: key.id.clone(),
        name: "new".to_owned(),
        description: "not in the mask".to_owned(),
        ..v1::Key::default()
    };
    for (paths, expected) in [(&[][..], "update_mask"), (&["id"], "update_mask"), (&["name", "status"], "update_mask")]
    {
        assert_eq!(fields(&client.update(wish.clone(), paths).await.unwrap_err()), [expected]);
    }
    let changed = client.update(wish.clone(), &["name"]).await.unwrap();
    let after = changed.key.unwrap();
    assert_eq!((after.name.as_str(), after.description.as_str(), after.version), ("new", "", 2));
    assert_eq!(changed.fence, None, "nothing was taken away");
    // The same once more changes nothing.
    assert_eq!(client.update(wish, &["name"]).await.unwrap().key.unwrap().version, 2);

    let stale = v1::Key { id: key.id.clone(), version: 1, name: "late".to_owned(), ..v1::Key::default() };
    let refused = client.update(stale.clone(), &["name"]).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused)), (Code::Aborted, "VERSION_MISMATCH".to_owned()));
    let fresh = v1::Key { version: 2, ..stale };
    assert_eq!(client.update(fresh, &["name"]).await.unwrap().key.unwrap().version, 3);

    let narrow = v1::Key { id: key.id.clone(), allowed_cidrs: vec!["10.0.0.0/8".to_owned()], ..v1::Key::default() };
    assert!(client.update(narrow, &["allowed_cidrs"]).await.unwrap().fence.unwrap().position > 0);
}

#[tokio::test]
async fn a_repeated_request_id_answers_the_first_key_without_its_text() {
    let client = Client::new();
    let request = v1::CreateKeyRequest { request_id: "one".to_owned(), ..create() };
    let first = client.create(request.clone()).await.unwrap();
    assert!(!first.api_key.is_empty());
    let again = client.create(request.clone()).await.unwrap();
    assert_eq!((again.key, again.api_key.as_str()), (first.key.clone(), ""));
    let other = client.create(v1::CreateKeyRequest { name: "other".to_owned(), ..request }).await.unwrap_err();
    assert_eq!((other.code(), reason(&other)), (Code::AlreadyExists, "REQUEST_ID_REUSED".to_owned()));

    let id = first.key.unwrap().id;
    let rotate =
        v1::RotateKeyRequest { id: id.clone(), request_id: "one".to_owned(), ..v1::RotateKeyRequest::default() };
    let rotated = client.keys().rotate_key(with(&admin(), rotate.clone())).await.unwrap().into_inner();
    let again = client.keys().rotate_key(with(&admin(), rotate)).await.unwrap().into_inner();
    assert_eq!((again.key, again.api_key.as_str()), (rotated.key.clone(), ""));
    // A revocation that is repeated is a new entry of the log.
    assert!(again.fence.unwrap().position > rotated.fence.unwrap().position);

    let id = rotated.key.unwrap().id;
    let revoke = v1::RevokeKeyRequest { id, reason: "r".to_owned(), request_id: "one".to_owned() };
    let revoked = client.keys().revoke_key(with(&admin(), revoke.clone())).await.unwrap().into_inner();
    let again = client.keys().revoke_key(with(&admin(), revoke.clone())).await.unwrap().into_inner();
    assert!(again.fence.unwrap().position > revoked.fence.unwrap().position);
    let other = v1::RevokeKeyRequest { reason: "another".to_owned(), ..revoke };
    let refused = client.keys().revoke_key(with(&admin(), other)).await.unwrap_err();
    assert_eq!(refused.code(), Code::AlreadyExists);
}

#[tokio::test]
async fn what_a_revoked_key_cannot_do_any_more_says_so() {
    let client = Client::new();
    let id = client.make().await.id;
    let revoke = v1::RevokeKeyRequest { id: id.clone(), ..v1::RevokeKeyRequest::default() };
    client.keys().revoke_key(with(&admin(), revoke.clone())).await.unwrap();
    assert!(client.keys().revoke_key(with(&admin(), revoke)).await.is_ok(), "again is fine");
    let keys = client.keys();
    let resume = keys.resume_key(with(&admin(), v1::ResumeKeyRequest { id: id.clone(), ..Default::default() })).await;
    let rotate = keys.rotate_key(with(&admin(), v1::RotateKeyRequest { id: id.clone(), ..Default::default() })).await;
    let suspend =
        keys.suspend_key(with(&admin(), v1::SuspendKeyRequest { id: id.clone(), ..Default::default() })).await;
    let update = client.update(v1::Key { id: id.clone(), ..v1::Key::default() }, &["name"]).await;
    for refused in [resume.map(drop), rotate.map(drop), suspend.map(drop), update.map(drop)] {
        let refused = refused.unwrap_err();
        assert_eq!((refused.code(), reason(&refused)), (Code::FailedPrecondition, "KEY_REVOKED".to_owned()));
    }
    assert!(keys.get_key(with(&admin(), v1::GetKeyRequest { id })).await.is_ok());
}

#[tokio::test]
async fn a_page_token_is_good_for_its_own_list_alone() {
    let client = Client::new();
    for _ in 0..3 {
        client.make().await;
    }
    let list = |page_token: String, status: v1::KeyStatus| v1::ListKeysRequest {
        realm: "acme".to_owned(),
        page_size: 2,
        page_token,
        status: status.into(),
        ..v1::ListKeysRequest::default()
    };
    let page =
        |request| async { client.keys().list_keys(with(&admin(), request)).await.map(tonic::Response::into_inner) };
    let first = page(list(String::new(), v1::KeyStatus::Unspecified)).await.unwrap();
    assert_eq!(first.keys.len(), 2);
    let second = page(list(first.next_page_token.clone(), v1::KeyStatus::Unspecified)).await.unwrap();
    assert_eq!((second.keys.len(), second.next_page_token.as_str()), (1, ""));
    for request in [
        list(first.next_page_token.clone(), v1::KeyStatus::Active),
        list("nonsense".to_owned(), v1::KeyStatus::Unspecified),
        list("A".repeat(10_000), v1::KeyStatus::Unspecified),
    ] {
        let refused = page(request).await.unwrap_err();
        assert_eq!((refused.code(), reason(&refused)), (Code::InvalidArgument, "PAGE_TOKEN_INVALID".to_owned()));
    }
}

#[tokio::test]
async fn many_keys_are_revoked_in_commits_of_256_with_one_fence_a_shard() {
    let client = Client::new();
    for number in 0..600 {
        let scopes = if number % 2 == 0 { vec!["a:write".to_owned()] } else { vec!["b:read".to_owned()] };
        client.create(v1::CreateKeyRequest { scopes, ..create() }).await.unwrap();
    }
    let request = v1::RevokeKeysRequest {
        realm: "acme".to_owned(),
        scope: "a:read".to_owned(),
        dry_run: true,
        ..v1::RevokeKeysRequest::default()
    };
    let sweep = |request| async { client.keys().revoke_keys(with(&admin(), request)).await.unwrap().into_inner() };
    let counted = sweep(request.clone()).await;
    assert_eq!((counted.revoked, counted.already_ended, counted.fences.len()), (300, 0, 0));
    let revoked = sweep(v1::RevokeKeysRequest { dry_run: false, ..request.clone() }).await;
    assert_eq!((revoked.revoked, revoked.already_ended, revoked.fences.len()), (300, 0, 1));
    let again = sweep(v1::RevokeKeysRequest { dry_run: false, ..request }).await;
    assert_eq!((again.revoked, again.already_ended), (0, 300));
    let all = v1::RevokeKeysRequest { realm: "acme".to_owned(), all: true, ..v1::RevokeKeysRequest::default() };
    assert_eq!(sweep(all).await.revoked, 300);
    let unproven = client.keys().revoke_keys(Request::new(v1::RevokeKeysRequest::default())).await.unwrap_err();
    assert_eq!(unproven.code(), Code::Unauthenticated);
}

#[tokio::test]
async fn an_error_is_not_larger_than_a_few_of_its_violations() {
    let client = Client::new();
    let paths: Vec<String> = (0..50_000).map(|number| format!("p{number}")).collect();
    let request = v1::UpdateKeyRequest { key: None, update_mask: Some(FieldMask { paths }) };
    let refused = client.keys().update_key(with(&admin(), request)).await.unwrap_err();
    assert_eq!(fields(&refused), ["key.id", "update_mask"]);
    assert!(refused.message().len() + refused.details().len() < 4_096, "{}", refused.message().len());
}

#[tokio::test]
async fn a_time_beyond_what_can_be_counted_is_refused() {
    let client = Client::new();
    let not_before = Some(Timestamp { seconds: 18_446_744_073_709_551, nanos: 999_999_999 });
    let refused = client.create(v1::CreateKeyRequest { not_before, ..create() }).await.unwrap_err();
    assert_eq!(fields(&refused), ["not_before"]);
}

#[tokio::test]
async fn a_creation_is_repeated_after_its_end_has_come() {
    let clock = std::sync::Arc::new(keyclasp::clock::ManualClock::new(SystemClock::new().now()));
    let client = Client { api: Api::embedded_at(std::sync::Arc::<keyclasp::clock::ManualClock>::clone(&clock)) };
    let request = v1::CreateKeyRequest {
        lifetime: Some(v1::create_key_request::Lifetime::ExpiresAt(in_seconds(60))),
        request_id: "one".to_owned(),
        ..create()
    };
    let first = client.create(request.clone()).await.unwrap().key.unwrap();
    clock.advance(std::time::Duration::from_secs(120));
    let again = client.create(request.clone()).await.unwrap();
    let key = again.key.unwrap();
    assert_eq!((&key.id, key.status(), again.api_key.as_str()), (&first.id, v1::KeyStatus::Expired, ""));
    let fresh = client.create(v1::CreateKeyRequest { request_id: "two".to_owned(), ..request }).await.unwrap_err();
    assert_eq!(fields(&fresh), ["expires_at"]);
}
