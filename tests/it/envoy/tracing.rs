//! An Envoy that traces: it copies a client's `tracestate` into the metadata of its questions.

use serde_json::json;

use super::{Rig, TOKEN, assert_refused, callers, passed};
use crate::support::envoy::{Config, Envoy, parse};
use crate::support::http1::{self, Answer};
use crate::support::server::Keyclasp;

/// One that fails open, and has nobody to send its spans to.
fn tracing(rig: &Rig) -> Envoy {
    let mut config: Config = rig.config(&["--fail-open"]).with_cluster("collector", ([127, 0, 0, 1], 1).into());
    config.manager()["tracing"] = parse(
        "provider:\n  \
           name: envoy.tracers.opentelemetry\n  \
           typed_config:\n    \
             \"@type\": type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig\n    \
             grpc_service: { envoy_grpc: { cluster_name: collector } }\n    \
             service_name: front\n",
    );
    config.start(TOKEN)
}

/// A request in a trace whose `tracestate` has so many bytes.
fn traced(envoy: &Envoy, state: usize, headers: &[(&str, &str)]) -> Answer {
    let state = format!("x={}", "a".repeat(state));
    let trace =
        [("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"), ("tracestate", state.as_str())];
    http1::get(envoy.listen(), "/", &[&trace, headers].concat())
}

#[test]
fn a_long_tracestate_does_not_open_an_envoy_that_fails_open() {
    let rig = Rig::over(callers(Keyclasp::set_up()).start());
    let envoy = tracing(&rig);
    let key = rig.key(&[]);
    passed(envoy.listen(), "/", &[("api-key", &key.text)]);
    let revoked = rig.key(&[]);
    rig.call("KeyService/RevokeKey", &json!({"id": revoked.id}));
    for state in [1, 20_000, 55_000] {
        assert_refused(401, &traced(&envoy, state, &[]));
        assert_refused(401, &traced(&envoy, state, &[("api-key", &revoked.text)]));
        assert_eq!(traced(&envoy, state, &[("api-key", &key.text)]).status, 200, "{state}");
    }
}

/// What `server.max_http2_header_bytes` is for: Envoy really sends it, and a keyclasp that does not take it is as good as away.
#[test]
fn a_keyclasp_that_takes_less_than_envoy_lets_clients_send_is_passed_by() {
    let keyclasp = callers(Keyclasp::set_up()).env("KEYCLASP_SERVER__MAX_HTTP2_HEADER_BYTES", "16384");
    let rig = Rig::over(keyclasp.start());
    let envoy = tracing(&rig);
    assert_refused(401, &traced(&envoy, 1, &[]));
    assert_eq!(traced(&envoy, 20_000, &[]).status, 200);
}
