//! The clients that others wrote: authlib's in Python, Spring Security's in Java. `scripts/setup.sh` installs both.

use std::io::Write as _;
use std::net::TcpListener;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::{MAKER, RS, WIDE, callers, done, key};
use crate::support::server::Keyclasp;
use crate::support::tools;

/// What a program writes that is given `input`, line by line.
pub(super) fn ran(mut command: Command, input: &[String]) -> Vec<String> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}; run scripts/setup.sh"));
    let mut stdin = child.stdin.take().unwrap();
    for line in input {
        writeln!(stdin, "{line}").unwrap();
    }
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

fn source(name: &str) -> String {
    format!("{}/tests/it/oauth/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// Answers of authlib's client, as `who`, to steps of `authlib_client.py`; first the metadata.
fn authlib(issuer: &str, [name, token]: [&str; 2], steps: &[Value]) -> Vec<Value> {
    let mut command = Command::new(tools().join("bin/python-authlib"));
    command.args([&source("authlib_client.py"), issuer, name, token]);
    let steps: Vec<_> = steps.iter().map(Value::to_string).collect();
    ran(command, &steps).iter().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A service that its issuer's URL reaches, with a path behind that.
fn reachable() -> (Keyclasp, String) {
    for _ in 0..10 {
        // Free now; should somebody be faster, the next one will be too.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let issuer = format!("http://127.0.0.1:{port}/keys");
        let setup = callers(Keyclasp::set_up())
            .env("KEYCLASP_SERVER__LISTEN", &format!("127.0.0.1:{port}"))
            .env("KEYCLASP_OAUTH2__ISSUER", &issuer);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return (setup.start(), issuer);
        }
    }
    panic!("no free port");
}

#[test]
fn authlib_finds_the_endpoints_introspects_and_revokes() {
    let (server, issuer) = reachable();
    let (id, text) = key(&server, &json!({"scopes": ["orders:write"], "ttl": "3600s"}));
    let (_, beta) = key(&server, &json!({"realm": "beta"}));
    let steps = [
        json!({"introspect": text}),
        json!({"introspect": text, "bearer": true}),
        json!({"introspect": "nothing"}),
        json!({"introspect": beta}),
        json!({"revoke": text}),
        json!({"introspect": text}),
        json!({"revoke": text}),
        json!({"revoke": "nothing"}),
    ];
    let answers = authlib(&issuer, RS, &steps);
    let record = done(&server, "KeyService/GetKey", &json!({"id": id}))["key"].clone();
    assert_eq!(record["status"], "KEY_STATUS_REVOKED");
    let [metadata, active, by_bearer, unknown, foreign, revoked, over, again, nothing] = answers.as_slice() else {
        panic!("{answers:?}")
    };
    assert_eq!((&metadata[0], &metadata[1]["issuer"]), (&json!(200), &json!(issuer)));
    assert_eq!(active[0], 200);
    for (member, value) in [
        ("active", json!(true)),
        ("scope", json!("orders:read orders:write")),
        ("sub", json!("u-1")),
        ("aud", json!("acme")),
        ("iss", json!(issuer)),
        ("jti", json!(id)),
        ("token_type", json!("Bearer")),
    ] {
        assert_eq!(active[1][member], value, "{active}");
    }
    assert_eq!(active[1]["exp"].as_u64().unwrap() - active[1]["iat"].as_u64().unwrap(), 3600);
    assert_eq!(by_bearer, active);
    for answer in [unknown, foreign, over] {
        assert_eq!(*answer, json!([200, {"active": false}]));
    }
    for answer in [revoked, again, nothing] {
        assert_eq!(*answer, json!([200, null]));
    }
    // A token whose characters mean something in a form, as this client sends it.
    assert_eq!(authlib(&issuer, WIDE, &[json!({"introspect": beta})])[1][1]["aud"], "beta");
    for (who, status, error) in [([RS[0], "wrong"], 401, "invalid_client"), (MAKER, 403, "insufficient_scope")] {
        let answers = authlib(&issuer, who, &[json!({"introspect": beta})]);
        assert_eq!((&answers[1][0], &answers[1][1]["error"]), (&json!(status), &json!(error)), "{answers:?}");
    }
}

#[test]
fn spring_security_takes_a_key_for_an_opaque_token() {
    let server = callers(Keyclasp::set_up()).env("KEYCLASP_OAUTH2__ISSUER", "https://keys.example").start();
    let (id, text) = key(
        &server,
        &json!({
            "owner": {"kind": "OWNER_KIND_SERVICE_ACCOUNT", "id": "s-1", "displayName": "Nightly"},
            "scopes": ["orders:write", "nodes:read"], "ttl": "3600s", "notBefore": "2020-01-01T00:00:00Z",
        }),
    );
    let (_, bound) = key(&server, &json!({"allowedCidrs": ["0.0.0.0/0"]}));
    let spring = |[name, token]: [&str; 2], tokens: &[String]| {
        let mut command = Command::new("java");
        let jars = tools().join("spring-security").join("*");
        command.arg("-cp").arg(jars).arg(source("spring/Introspect.java"));
        command.arg(format!("{}/oauth2/introspect", server.endpoint())).args([name, token]);
        ran(command, tokens)
    };
    let lines = spring(WIDE, &[text.clone(), bound, "nothing".to_owned()]);
    let [active, bound, nothing] = lines.as_slice() else { panic!("{lines:?}") };
    // The authorities are what a resource server asks for: `hasAuthority("SCOPE_orders:read")`.
    let authorities = "active s-1 [SCOPE_nodes:read, SCOPE_orders:read, SCOPE_orders:write] {";
    assert!(active.starts_with(authorities), "{active}");
    for member in ["active=true", "aud=[acme]", "client_id=s-1", "iss=https://keys.example", "sub=s-1"] {
        assert!(active.contains(member), "{member}: {active}");
    }
    assert!(active.contains(&format!("jti={id}")) && active.contains("username=Nightly"), "{active}");
    assert!(active.contains("nbf=2020-01-01T00:00:00Z") && active.contains("exp=20"), "{active}");
    for refused in [bound, nothing] {
        assert_eq!(refused, "refused Provided token isn't active");
    }
    done(&server, "KeyService/RevokeKey", &json!({"id": id}));
    assert_eq!(spring(WIDE, std::slice::from_ref(&text)), ["refused Provided token isn't active"]);
    let failed = spring([WIDE[0], "wrong"], &[text]);
    assert!(failed.len() == 1 && failed[0].starts_with("failed 401"), "{failed:?}");
}
