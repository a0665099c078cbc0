//! What Envoy's log and its other filters learn of a decision, allowed or denied; never a secret.

use serde_json::{Value, json};

use super::{Key, Rig};
use crate::support::http1;

/// The metadata of the request for a path that no other request has.
fn metadata(rig: &Rig, path: &str) -> Value {
    let line = rig.envoy().logged(&format!("{path} "));
    let at = line.find('{').unwrap_or_else(|| panic!("no metadata in {line}"));
    serde_json::from_str(&line[at..]).unwrap_or_else(|error| panic!("{error} in {line}"))
}

/// A path of one test.
fn path(below: &str, key: &Key) -> String {
    format!("{below}/{}", key.id)
}

#[test]
fn an_allowed_request_says_whose_key_it_was() {
    let rig = Rig::shared();
    let key = rig.key(&["orders:read"]);
    let path = path("/metadata", &key);
    rig.passes(&path, &[("api-key", &key.text)]);
    let said = metadata(&rig, &path);
    assert_eq!(
        (&said["decision"], &said["realm"], &said["key_id"]),
        (&json!("allowed"), &json!("acme"), &json!(key.id))
    );
    assert_eq!(
        (&said["owner"], &said["owner_kind"], &said["scopes"]),
        (&json!("u-1"), &json!("user"), &json!(["orders:read"]))
    );
    assert!(!said.to_string().contains(&key.text));
}

#[test]
fn a_denied_request_says_why() {
    let rig = Rig::shared();
    let key = rig.key(&[]);
    let lacking = path("/scoped", &key);
    rig.refuses(403, &lacking, &[("api-key", &key.text)]);
    let said = metadata(&rig, &lacking);
    assert_eq!(
        (&said["decision"], &said["reason"], &said["realm"]),
        (&json!("denied"), &json!("missing_scope"), &json!("acme"))
    );
    assert_eq!(said["key_id"], key.id, "{said}");

    rig.call("KeyService/RevokeKey", &json!({"id": key.id}));
    let revoked = path("/revoked", &key);
    rig.refuses(401, &revoked, &[("api-key", &key.text)]);
    assert_eq!(metadata(&rig, &revoked)["reason"], "revoked");

    let without = path("/without", &key);
    rig.refuses(401, &without, &[]);
    let said = metadata(&rig, &without);
    assert_eq!(
        (&said["decision"], &said["reason"], &said["key_id"]),
        (&json!("denied"), &json!("no_key"), &Value::Null)
    );
}

#[test]
fn nobody_and_a_dry_run_say_so() {
    let rig = Rig::shared();
    let key = rig.key(&[]);
    let nobody = path("/optional", &key);
    rig.passes(&nobody, &[]);
    assert_eq!(metadata(&rig, &nobody)["decision"], "anonymous");

    let dry = path("/dry", &key);
    rig.passes(&dry, &[("api-key", &key.text)]);
    let said = metadata(&rig, &dry);
    assert_eq!((&said["reason"], &said["dry_run"]), (&json!("missing_scope"), &json!(true)), "{said}");
}

#[test]
fn no_log_has_a_key_or_a_query() {
    let rig = Rig::shared();
    let key = rig.key(&[]);
    let path = path("/secret", &key);
    let target = format!("{path}?api_key={}&token=hidden", key.text);
    rig.passes(&target, &[]);
    rig.refuses(401, &target.replace(&key.text, &format!("{}x", key.text)), &[]);
    http1::get(rig.open().listen(), &target, &[]);
    rig.envoy().logged(&path);
    let secret = key.text.rsplit('_').next().unwrap();
    for log in [rig.envoy().log(), rig.open().log(), rig.keyclasp.log(), rig.keyclasp.get("/metrics").1] {
        assert!(!log.contains(secret) && !log.contains("token=hidden"), "{log}");
    }
}
