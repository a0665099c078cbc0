//! Why a request is refused, and what its client is told: each row of the table.

use std::time::Duration;

use serde_json::json;

use super::{Key, Rig, problem};
use crate::support::eventually;

/// The key's refusal, which must not have reached the upstream.
#[track_caller]
fn refused(rig: &Rig, status: u16, key: &Key) -> String {
    problem(&rig.refuses(status, "/", &[("api-key", &key.text)]))
}

#[test]
fn strangers_all_get_one_identical_answer() {
    let rig = Rig::shared();
    let key = rig.key(&[]);
    let foreign = rig.make(&json!({"realm": "beta"}));
    let forged = forged(&key.text);
    let typo = format!("{}A", &key.text[..key.text.len() - 1]);
    let without = rig.refuses(401, "/", &[]);
    assert_eq!(without.header("www-authenticate"), Some("ApiKey realm=\"acme\""));
    assert_eq!(problem(&without), "invalid-key");
    for text in ["nonsense", "", &forged, &typo, &foreign.text] {
        let answer = rig.refuses(401, "/", &[("api-key", text)]);
        assert_eq!(answer.text(), without.text(), "{text}");
        assert_eq!(answer.header("www-authenticate"), without.header("www-authenticate"));
    }
    assert_eq!(rig.passes("/beta", &[("api-key", &foreign.text)]).header("x-keyclasp-realm"), Some("beta"));
}

/// A well-formed key with the id of one that exists and a secret that was guessed.
fn forged(text: &str) -> String {
    let real = keyclasp::key::ApiKey::new(text.to_owned()).parse().unwrap();
    let secret = keyclasp::key::SecretBytes::new([7; 32]);
    keyclasp::key::render(&real.prefix, real.id, &secret, [7; 8]).expose().to_owned()
}

#[test]
fn a_revoked_key_is_refused_and_told_so_at_once() {
    let rig = Rig::shared();
    let key = rig.key(&[]);
    rig.passes("/", &[("api-key", &key.text)]);
    rig.call("KeyService/RevokeKey", &json!({"id": key.id}));
    assert_eq!(refused(&rig, 401, &key), "key-revoked");
}

#[test]
fn a_suspended_key_is_refused_until_it_is_resumed() {
    let rig = Rig::shared();
    let key = rig.key(&[]);
    rig.call("KeyService/SuspendKey", &json!({"id": key.id}));
    assert_eq!(refused(&rig, 401, &key), "key-suspended");
    rig.call("KeyService/ResumeKey", &json!({"id": key.id}));
    rig.passes("/", &[("api-key", &key.text)]);
}

#[test]
fn an_expired_key_is_refused_and_told_so() {
    let rig = Rig::shared();
    let key = rig.make(&json!({"ttl": "0.001s"}));
    let outcome = || rig.call("KeyService/ValidateKey", &json!({"apiKey": key.text}))["outcome"].clone();
    eventually(Duration::from_secs(30), || (outcome() == "OUTCOME_EXPIRED").then_some(())).expect("it expires");
    assert_eq!(refused(&rig, 401, &key), "key-expired");
}

#[test]
fn a_key_that_is_not_valid_yet_is_refused_and_told_so() {
    let rig = Rig::shared();
    let key = rig.make(&json!({"notBefore": "2100-01-01T00:00:00Z"}));
    assert_eq!(refused(&rig, 401, &key), "key-not-yet-valid");
}

#[test]
fn a_missing_scope_is_named() {
    let rig = Rig::shared();
    let key = rig.key(&["orders:write"]);
    let answer = rig.refuses(403, "/scoped", &[("api-key", &key.text)]);
    assert_eq!(problem(&answer), "missing-scope");
    assert_eq!(answer.json()["missing_scopes"], json!(["orders:delete"]), "write implies read");
}

#[test]
fn an_address_that_a_key_is_not_bound_to_is_refused_whatever_a_client_claims() {
    let rig = Rig::shared();
    let elsewhere = rig.make(&json!({"allowedCidrs": ["198.51.100.0/24"]}));
    assert_eq!(refused(&rig, 403, &elsewhere), "address-denied");
    let claim = [("api-key", elsewhere.text.as_str()), ("x-forwarded-for", "198.51.100.1")];
    assert_eq!(problem(&rig.refuses(403, "/", &claim)), "address-denied");
    let here = rig.make(&json!({"allowedCidrs": ["127.0.0.0/8"]}));
    rig.passes("/", &[("api-key", &here.text), ("x-forwarded-for", "198.51.100.1")]);
}

#[test]
fn a_principal_that_did_not_prove_itself_is_refused() {
    let rig = Rig::shared();
    let key = rig.make(&json!({"allowedPrincipals": ["spiffe://acme/billing"]}));
    assert_eq!(refused(&rig, 403, &key), "principal-denied");
    // Nobody believes what a client says of its own certificate.
    let claim = [("api-key", key.text.as_str()), ("x-forwarded-client-cert", "URI=spiffe://acme/billing")];
    assert_eq!(problem(&rig.refuses(403, "/", &claim)), "principal-denied");
}

#[test]
fn what_is_refused_does_not_reach_the_upstream() {
    // The count is of this upstream alone, which other tests must not use meanwhile.
    let rig = Rig::over(super::callers(crate::support::server::Keyclasp::set_up()).start());
    let key = rig.key(&[]);
    rig.passes("/", &[("api-key", &key.text)]);
    let before = rig.echo.requests();
    rig.refuses(401, "/", &[]);
    rig.refuses(401, "/", &[("api-key", "nonsense")]);
    rig.refuses(403, "/reports", &[("api-key", &key.text)]);
    assert_eq!(rig.echo.requests(), before);
    rig.passes("/", &[("api-key", &key.text)]);
    assert_eq!(rig.echo.requests(), before + 1);
}
