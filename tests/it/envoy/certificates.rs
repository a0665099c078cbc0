//! Clients that prove to Envoy who they are, by a certificate with a SPIFFE id.

use std::path::Path;
use std::process::Command;

use serde_json::json;

use super::{Rig, TOKEN};
use crate::support::TempDir;
use crate::support::envoy::{Config, parse};

const BILLING: &str = "spiffe://acme.example/ns/billing/sa/worker";
const OTHER: &str = "spiffe://acme.example/ns/other/sa/worker";

/// A certificate of its own making, and its key: `NAME.pem` and `NAME.key`.
fn certificate(dir: &Path, name: &str, alternative: &str) {
    let output = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"])
        .args(["-subj", &format!("/CN={name}"), "-addext", &format!("subjectAltName={alternative}")])
        .args(["-out", &format!("{name}.pem"), "-keyout", &format!("{name}.key")])
        .current_dir(dir)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// With TLS, and certificates of clients.
fn with_tls(mut config: Config, dir: &Path) -> Config {
    let path = |name: &str| dir.join(name).display().to_string();
    let mut socket = parse(
        "name: envoy.transport_sockets.tls\n\
         typed_config:\n  \
           \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext\n  \
           require_client_certificate: true\n  \
           common_tls_context: { tls_certificates: [ { certificate_chain: {}, private_key: {} } ], validation_context: { trusted_ca: {} } }\n",
    );
    let common = &mut socket["typed_config"]["common_tls_context"];
    common["tls_certificates"][0]["certificate_chain"]["filename"] = path("server.pem").into();
    common["tls_certificates"][0]["private_key"]["filename"] = path("server.key").into();
    common["validation_context"]["trusted_ca"]["filename"] = path("clients.pem").into();
    config.chain()["transport_socket"] = socket;
    config
}

#[test]
fn a_key_is_bound_to_who_proved_itself_and_not_to_who_says_so() {
    let rig = Rig::shared();
    let dir = TempDir::new();
    certificate(dir.path(), "server", "IP:127.0.0.1");
    certificate(dir.path(), "billing", &format!("URI:{BILLING}"));
    certificate(dir.path(), "other", &format!("URI:{OTHER}"));
    let trusted: String =
        ["billing.pem", "other.pem"].map(|name| std::fs::read_to_string(dir.path().join(name)).unwrap()).concat();
    std::fs::write(dir.path().join("clients.pem"), trusted).unwrap();
    let envoy = with_tls(rig.config(&[]), dir.path()).start(TOKEN);
    let key = rig.make(&json!({"allowedPrincipals": [BILLING]}));
    let ask = |client: &str| {
        let output = Command::new("curl")
            .args(["--silent", "--show-error", "--insecure", "--max-time", "30", "--output", "/dev/null"])
            .args([
                "--write-out",
                "%{http_code}",
                "--cert",
                &format!("{client}.pem"),
                "--key",
                &format!("{client}.key"),
            ])
            .args(["--header", &format!("api-key: {}", key.text)])
            .args(["--header", &format!("x-forwarded-client-cert: URI={BILLING}")])
            .arg(format!("https://{}/", envoy.listen()))
            .current_dir(dir.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(ask("billing"), "200");
    assert_eq!(ask("other"), "403");
}
