//! What is printed and documented for Envoy is what Envoy takes.

use std::path::Path;
use std::process::Command;

use serde_yaml_ng::Value;

use crate::support::TempDir;
use crate::support::envoy::{self, Config};
use crate::support::server::{PROGRAM, program};
use crate::support::shell;

fn printed(arguments: &[&str]) -> String {
    let output = program().arg("envoy-config").args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn envoy_accepts_what_is_printed() {
    let dir = TempDir::new();
    for arguments in [
        &[][..],
        &["--realm", "acme"],
        &["--realm", "a \"b\" é", "--scope", "a:b", "--scope", "c:*", "--raw-headers"],
        &["--replica", "kc-0.example:7413", "--replica", "kc-1.example:7413", "--upstream", "up.example:80"],
        &["--replica", "[::1]:7413", "--listen", "[::]:8080", "--allow-origin", "https://app.example"],
    ] {
        let file = dir.path().join("envoy.yaml");
        std::fs::write(&file, printed(&[&["--full"], arguments].concat())).unwrap();
        if let Err(said) = envoy::validate(&file) {
            panic!("{arguments:?}: {said}");
        }
    }
}

#[test]
fn the_parts_that_are_printed_are_those_of_the_whole() {
    let arguments =
        ["--realm", "acme", "--scope", "a:b", "--replica", "127.0.0.1:1", "--allow-origin", "https://a.test"];
    let mut whole = Config::printed(&arguments);
    let parts = envoy::parse(&printed(&arguments));
    let manager = whole.manager().clone();
    let mut found = vec!["http_filters", "typed_per_filter_config", "routes", "clusters"];
    let first = |sequence: &Value, count: usize| Value::Sequence(sequence.as_sequence().unwrap()[..count].to_vec());
    // Behind ours come those of whoever takes the parts.
    assert_eq!(parts["http_filters"], first(&manager["http_filters"], 3));
    let host = &manager["route_config"]["virtual_hosts"][0];
    assert_eq!(parts["typed_per_filter_config"], host["typed_per_filter_config"]);
    assert_eq!(parts["routes"], first(&host["routes"], 2));
    assert_eq!(&parts["clusters"][0], whole.cluster("keyclasp"));
    for (name, value) in parts.as_mapping().unwrap() {
        let name = name.as_str().unwrap();
        if !found.contains(&name) {
            assert_eq!(value, &manager[name], "{name}");
            found.push(name);
        }
    }
    assert!(found.contains(&"early_header_mutation_extensions") && found.contains(&"normalize_path"), "{found:?}");
}

#[test]
fn without_a_replica_it_is_where_the_configuration_listens() {
    let dir = TempDir::new();
    let config = dir.path().join("keyclasp.toml");
    for (listen, printed) in [("192.0.2.7:7000", "192.0.2.7"), ("0.0.0.0:7000", "127.0.0.1"), ("[::]:7000", "::1")] {
        std::fs::write(&config, format!("[server]\nlisten = \"{listen}\"\ninsecure = true\n")).unwrap();
        let output = program().arg("envoy-config").arg("--config").arg(&config).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let endpoint = format!("socket_address: {{ address: \"{printed}\", port_value: 7000 }}");
        assert!(text.contains(&endpoint), "{text}");
    }
}

#[test]
fn the_pages_commands_work() {
    let page = include_str!("../../../docs/ENVOY.md");
    let steps = shell::steps(page);
    assert!(steps.len() >= 2);
    if let Err(report) = shell::run("docs/ENVOY.md", &steps, None) {
        panic!("{report}");
    }
}

/// `examples/envoy/run` with nothing but what `scripts/setup.sh` installs.
#[test]
fn the_example_runs_with_one_command() {
    let home = TempDir::new();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/envoy/run");
    let tools = envoy::path();
    let path = [Path::new(PROGRAM).parent().unwrap(), tools.parent().unwrap()].map(|dir| dir.display().to_string());
    let path = format!("{}:{}", path.join(":"), std::env::var("PATH").unwrap());
    let output = Command::new("bash")
        .arg(script)
        .env("PATH", path)
        .env("HOME", home.path())
        .current_dir(home.path())
        .output()
        .unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}");
    for expected in ["HTTP/1.1 200 OK", "x-keyclasp-owner: ada", "HTTP/1.1 401 Unauthorized", "HTTP/1.1 403 Forbidden"]
    {
        assert!(said.to_lowercase().contains(&expected.to_lowercase()), "{expected} is missing in\n{said}");
    }
}
