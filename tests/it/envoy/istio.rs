//! Istio: a provider, a policy for every request, and nothing that a route could say to keyclasp. What
//! `examples/istio` changes in Envoy's configuration is tried on an Envoy that is configured as Istio does it.

use std::path::Path;

use keyclasp::rpc::proto::envoy::service::auth::v3::attribute_context::{HttpRequest, Peer, Request};
use keyclasp::rpc::proto::envoy::service::auth::v3::authorization_client::AuthorizationClient;
use keyclasp::rpc::proto::envoy::service::auth::v3::check_response::HttpResponse;
use keyclasp::rpc::proto::envoy::service::auth::v3::{AttributeContext, CheckRequest, CheckResponse};
use serde_json::json;
use serde_yaml_ng::Value;
use tonic::transport::Channel;

use super::{Key, Rig, assert_refused, passed, problem};
use crate::support::envoy::{Config, Envoy, parse};
use crate::support::http1;
use crate::support::server::Keyclasp;

const TOKEN: &str = "the-meshs-own-token-for-these-tests";

fn example(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/istio").join(name)).unwrap()
}

/// A keyclasp with what the example appends to its configuration.
fn keyclasp() -> Keyclasp {
    let setup = Keyclasp::set_up().toml(&example("keyclasp.toml"));
    std::fs::write(setup.dir().join("istio.token"), TOKEN).unwrap();
    setup.start()
}

/// Merges messages as protobuf does: fields one by one, lists behind each other.
fn merge(into: &mut Value, patch: &Value) {
    match (into, patch) {
        (Value::Mapping(into), Value::Mapping(patch)) => {
            for (name, value) in patch {
                merge(into.entry(name.clone()).or_insert(Value::Null), value);
            }
        }
        (Value::Sequence(into), Value::Sequence(patch)) => into.extend(patch.iter().cloned()),
        (into, patch) => *into = patch.clone(),
    }
}

/// An Envoy as Istio configures it: hosts by name, no context extensions, no metadata; with the example's patches.
fn envoy(rig: &Rig) -> Envoy {
    let (replica, upstream) = (rig.keyclasp.listen().to_string(), rig.echo.address().to_string());
    let mut config = Config::printed(&["--replica", &replica, "--upstream", &upstream]).without_early_mutation();
    let provider = parse(&example("meshconfig.yaml"));
    let provider = &provider["meshConfig"]["extensionProviders"][0]["envoyExtAuthzGrpc"];
    let mut authorization =
        parse("transport_api_version: V3\ngrpc_service: { envoy_grpc: { cluster_name: keyclasp } }\n");
    authorization["@type"] = config.authorization()["@type"].clone();
    authorization["failure_mode_allow"] = provider["failOpen"].clone();
    authorization["grpc_service"]["timeout"] = provider["timeout"].clone();
    authorization["status_on_error"]["code"] =
        provider["statusOnError"].as_str().unwrap().parse::<u64>().unwrap().into();
    *config.authorization() = authorization;
    let hosts: Vec<Value> = ["api.acme.example", "api.beta.example"]
        .into_iter()
        .map(|host| {
            let mut value = parse("{ routes: [ { match: { prefix: / }, route: { cluster: upstream } } ] }");
            value["name"] = host.into();
            value["domains"] = Value::Sequence(vec![host.into()]);
            value
        })
        .collect();
    *config.hosts() = hosts;
    let filter = parse(&example("envoyfilter.yaml"));
    for patch in filter["spec"]["configPatches"].as_sequence().unwrap() {
        let value = &patch["patch"]["value"];
        match patch["applyTo"].as_str().unwrap() {
            "HTTP_FILTER" => merge(config.authorization(), &value["typed_config"]),
            "NETWORK_FILTER" => merge(config.manager(), &value["typed_config"]),
            "CLUSTER" => merge(config.cluster("keyclasp"), value),
            other => panic!("{other}"),
        }
    }
    config.start(TOKEN)
}

#[test]
fn each_host_has_its_realm_and_scopes_and_no_other_host_leads_anywhere() {
    let rig = Rig::over(keyclasp());
    let envoy = envoy(&rig);
    let (acme, bare) = (rig.key(&["orders:read"]), rig.key(&[]));
    let beta = rig.make(&json!({"realm": "beta"}));
    let on = |host, key: &Key| http1::get(envoy.listen(), "/", &[("host", host), ("api-key", &key.text)]);

    let claimed = [("host", "api.acme.example"), ("api-key", acme.text.as_str()), ("x-keyclasp-owner", "root")];
    let seen = passed(
        envoy.listen(),
        "/orders",
        &[&claimed[..], &[("x_keyclasp_realm", "beta"), ("X.Keyclasp.Realm", "beta")]].concat(),
    );
    assert_eq!((seen.header("x-keyclasp-owner"), seen.header("x-keyclasp-realm")), (Some("u-1"), Some("acme")));
    assert_eq!((seen.identities().len(), seen.header("api-key")), (5, None), "{seen:?}");
    assert_eq!(on("api.beta.example", &beta).status, 200);
    assert_eq!(problem(&on("api.acme.example", &bare)), "missing-scope");
    assert_refused(401, &on("api.acme.example", &beta));
    assert_refused(401, &on("api.beta.example", &acme));
    // A host that the configuration does not name: no route, whatever the key.
    for host in ["api.other.example", "API.acme.example.evil", "keyclasp.test"] {
        assert_eq!(on(host, &acme).status, 404, "{host}");
    }
}

/// A question in the shape of Istio's: with the client's SPIFFE id, and without context extensions.
async fn ask(keyclasp: &Keyclasp, host: &str, principal: &str, key: &Key) -> CheckResponse {
    let channel = Channel::from_shared(keyclasp.endpoint()).unwrap().connect().await.unwrap();
    let headers = [(":authority", host), (":method", "GET"), (":path", "/orders"), ("api-key", &key.text)];
    let http = HttpRequest {
        headers: headers.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        path: "/orders".to_owned(),
        host: host.to_owned(),
        header_map: None,
    };
    let attributes = AttributeContext {
        source: Some(Peer { address: None, principal: principal.to_owned() }),
        request: Some(Request { http: Some(http) }),
        context_extensions: [].into(),
    };
    let mut request = tonic::Request::new(CheckRequest { attributes: Some(attributes) });
    request.metadata_mut().insert("authorization", format!("Bearer {TOKEN}").parse().unwrap());
    AuthorizationClient::new(channel).check(request).await.unwrap().into_inner()
}

/// The HTTP status of an answer; 200: it passes.
fn status(answer: &CheckResponse) -> i32 {
    let rpc = answer.status.as_ref().unwrap().code;
    match answer.http_response.as_ref().unwrap() {
        HttpResponse::OkResponse(_) => {
            assert_eq!(rpc, 0);
            200
        }
        HttpResponse::DeniedResponse(denied) => {
            assert_ne!(rpc, 0);
            denied.status.as_ref().unwrap().code
        }
    }
}

#[tokio::test]
async fn a_question_without_context_extensions_goes_by_its_host() {
    let rig = Rig::over(keyclasp());
    let key = rig.key(&["orders:read"]);
    for (host, expected) in [
        ("api.acme.example", 200),
        ("api.acme.example:443", 200),
        ("API.ACME.example", 200),
        ("api.beta.example", 401),
        ("acme.example", 403),
        ("api.acme.example.evil.test", 403),
        ("", 403),
    ] {
        assert_eq!(status(&ask(&rig.keyclasp, host, "", &key).await), expected, "{host}");
    }
}

#[tokio::test]
async fn a_key_is_bound_to_the_workload_that_proved_itself_to_the_mesh() {
    let rig = Rig::over(keyclasp());
    let worker = "spiffe://cluster.local/ns/orders/sa/worker";
    let key = rig.make(&json!({"scopes": ["orders:read"], "allowedPrincipals": [worker]}));
    assert_eq!(status(&ask(&rig.keyclasp, "api.acme.example", worker, &key).await), 200);
    for other in ["", "spiffe://cluster.local/ns/orders/sa/other"] {
        assert_eq!(status(&ask(&rig.keyclasp, "api.acme.example", other, &key).await), 403, "{other}");
    }
}

/// The policy asks about every request, and the gateway names its hosts: what the host map rests on.
#[test]
fn the_example_leaves_no_way_around() {
    let policy = parse(&example("policy.yaml"));
    assert_eq!((&policy["spec"]["action"], &policy["spec"]["rules"]), (&"CUSTOM".into(), &parse("[ {} ]")));
    let named = serde_yaml_ng::Deserializer::from_str(&example("gateway.yaml"))
        .map(|document| <Value as serde::Deserialize>::deserialize(document).unwrap())
        .flat_map(|document| match document["kind"].as_str().unwrap() {
            "Gateway" => document["spec"]["servers"][0]["hosts"].as_sequence().unwrap().clone(),
            _ => document["spec"]["hosts"].as_sequence().unwrap().clone(),
        })
        .collect::<Vec<_>>();
    assert_eq!(named.len(), 4);
    assert!(named.iter().all(|host| example("keyclasp.toml").contains(&format!("\"{}\"", host.as_str().unwrap()))));
}
