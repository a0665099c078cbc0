//! The headers that tell an upstream whose key a request came with: always keyclasp's own.

use serde_json::json;

use super::{Key, Rig, Seen, passed};
use crate::support::envoy::Envoy;

/// What a client sends to be taken for somebody else.
const SPOOFED: [(&str, &str); 13] = [
    ("x-keyclasp-owner", "root"),
    ("X-Keyclasp-Owner", "root"),
    ("x_keyclasp_owner", "root"),
    ("x-keyclasp_owner", "root"),
    ("x-keyclasp-owner_kind", "user"),
    ("x-keyclasp-key-id", "1"),
    ("X_KEYCLASP_KEY_ID", "1"),
    ("x-keyclasp-realm", "master"),
    ("x-keyclasp-scopes", "*"),
    ("X.Keyclasp.Owner", "root"),
    ("x.keyclasp-owner.kind", "user"),
    ("x!keyclasp~key|id", "1"),
    ("x-keyclasp.scopes", "*"),
];

const IDENTITY: [&str; 5] =
    ["x-keyclasp-key-id", "x-keyclasp-owner", "x-keyclasp-owner-kind", "x-keyclasp-realm", "x-keyclasp-scopes"];

fn key(rig: &Rig) -> Key {
    let owner = json!({"kind": "OWNER_KIND_SERVICE_ACCOUNT", "id": "zoë's bot %"});
    rig.make(&json!({"owner": owner, "scopes": ["orders:read", "orders:write"]}))
}

#[track_caller]
fn assert_is(seen: &Seen, key: &Key) {
    let mut names = seen.identities();
    names.dedup();
    assert_eq!(names, IDENTITY, "{seen:?}");
    let values = IDENTITY.map(|name| seen.header(name).unwrap());
    let expected = [&key.id, "zo%C3%AB's%20bot%20%25", "service-account", "acme"];
    assert_eq!(values[..4], expected, "{seen:?}");
    let mut scopes: Vec<_> = values[4].split(' ').collect();
    scopes.sort_unstable();
    assert_eq!(scopes, ["orders:read", "orders:write"]);
}

/// Asserts that nothing of what a client claims gets through, in any way that lets requests pass.
fn no_claim_passes(rig: &Rig, envoy: &Envoy) {
    let key = key(rig);
    let with_key: Vec<_> = SPOOFED.into_iter().chain([("api-key", key.text.as_str())]).collect();
    assert_is(&passed(envoy.listen(), "/", &with_key), &key);
    // Nobody, and a dry run that would refuse.
    for (target, headers) in [("/optional", &SPOOFED[..]), ("/dry", &SPOOFED), ("/dry", &with_key)] {
        let seen = passed(envoy.listen(), target, headers);
        assert_eq!(seen.identities(), Vec::<&str>::new(), "{target}");
    }
    // A key without scopes: the header says so, and not what the client says.
    let bare = rig.key(&[]);
    let seen = passed(envoy.listen(), "/", &[("x-keyclasp-scopes", "*"), ("api-key", &bare.text)]);
    assert!(seen.header("x-keyclasp-scopes").unwrap_or_default().is_empty(), "{seen:?}");
}

#[test]
fn an_upstream_is_told_whose_key_it_was() {
    let rig = Rig::shared();
    let key = key(&rig);
    assert_is(&rig.passes("/", &[("api-key", &key.text)]), &key);
}

#[test]
fn a_client_cannot_have_an_identity_taken_away_on_the_way() {
    let rig = Rig::shared();
    let key = key(&rig);
    // Fields that Connection names go no further than the next hop (RFC 9110, section 7.6.1): that is keyclasp's word here.
    for named in ["x-keyclasp-owner", "x-keyclasp-scopes, x-keyclasp-realm", "keep-alive, x-keyclasp-key-id"] {
        assert_is(&rig.passes("/", &[("api-key", &key.text), ("connection", named)]), &key);
    }
}

#[test]
fn what_a_client_claims_to_be_does_not_pass() {
    let rig = Rig::shared();
    no_claim_passes(&rig, rig.envoy());
    // Also where keyclasp is not asked.
    assert_eq!(rig.passes("/healthz", &SPOOFED).identities(), Vec::<&str>::new());
}

#[test]
fn what_a_client_claims_to_be_does_not_pass_where_keyclasp_alone_removes_it() {
    let rig = Rig::shared();
    no_claim_passes(&rig, rig.bare());
    // What the early header mutation is for: keyclasp is not asked here.
    assert!(!passed(rig.bare().listen(), "/healthz", &SPOOFED).identities().is_empty());
}

#[test]
fn what_a_client_claims_to_be_does_not_pass_where_envoy_sends_raw_values() {
    let rig = Rig::shared();
    no_claim_passes(&rig, rig.raw());
}
