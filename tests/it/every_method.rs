//! Every method that the descriptors tell of, called over JSON as `curl` would.

use keyclasp::rpc::proto::DESCRIPTORS;
use prost::Message as _;
use prost_types::FileDescriptorSet;
use serde_json::{Value, json};

use crate::support::json::call;
use crate::support::server::Keyclasp;

/// `Service/Method` of all that are called with one message and answer with one.
fn unary_methods() -> Vec<String> {
    let files = FileDescriptorSet::decode(DESCRIPTORS).unwrap().file;
    let services = files.iter().filter(|file| file.package() == "keyclasp.v1").flat_map(|file| &file.service);
    let methods = services.flat_map(|service| service.method.iter().map(move |method| (service, method)));
    methods
        .filter(|(_, method)| !method.client_streaming() && !method.server_streaming())
        .map(|(service, method)| format!("{}/{}", service.name(), method.name()))
        .collect()
}

/// A right request for a method, about a key of its own, and a field of its answer.
fn example(method: &str, id: &str, key: &str) -> (Value, &'static str) {
    let owner = json!({"kind": "OWNER_KIND_USER", "id": "u-1"});
    match method {
        "KeyService/CreateKey" => (json!({"realm": "acme", "owner": owner}), "/apiKey"),
        "KeyService/GetKey" => (json!({"id": id}), "/key/id"),
        "KeyService/ListKeys" => (json!({"realm": "acme", "owner": owner}), "/keys/0/id"),
        "KeyService/UpdateKey" => (json!({"key": {"id": id, "name": "other"}, "updateMask": "name"}), "/key/name"),
        "KeyService/RotateKey" => (json!({"id": id, "grace": "60s"}), "/oldKey/rotatedTo"),
        "KeyService/SuspendKey" => (json!({"id": id, "reason": "why"}), "/key/suspensions/0/note"),
        "KeyService/ResumeKey" => (json!({"id": id}), "/key/status"),
        "KeyService/RevokeKey" => (json!({"id": id, "reason": "why"}), "/key/revokedAt"),
        "KeyService/RevokeKeys" => (json!({"realm": "acme", "owner": owner}), "/revoked"),
        "KeyService/ValidateKey" => (json!({"apiKey": key, "realm": "acme"}), "/outcome"),
        "KeyService/RevokeOwnKey" => (json!({"apiKey": key}), "/fence"),
        "AdminService/GetStatus" => (json!({"countRecords": true}), "/store/reachable"),
        "AuditService/ListEvents" => (json!({"keyId": id}), "/events/0/action"),
        _ => panic!("{method} is new: it needs an example here"),
    }
}

#[test]
fn every_unary_method_is_served_over_json() {
    let server = Keyclasp::start();
    let ask = |method: &str, request: &Value| call(server.listen(), &server.token(), method, request);
    let methods = unary_methods();
    assert!(methods.len() >= 13, "{methods:?}");
    for method in methods {
        let create = json!({"realm": "acme", "owner": {"kind": "OWNER_KIND_USER", "id": "u-1"}});
        let (_, made) = ask("KeyService/CreateKey", &create);
        let (id, key) = (made["key"]["id"].as_str().unwrap(), made["apiKey"].as_str().unwrap());
        let (request, field) = example(&method, id, key);
        let (status, answer) = ask(&method, &request);
        assert_eq!(status, 200, "{method} {request}: {answer}");
        assert!(answer.pointer(field).is_some_and(|value| !value.is_null()), "{method}: no {field} in {answer}");
    }
}
