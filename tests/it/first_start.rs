//! Starting with what is there: nothing at all, a configuration, a keyring.

use std::os::unix::fs::PermissionsExt;
use std::process::{Output, Stdio};

use crate::support::TempDir;
use crate::support::server::{Keyclasp, program};

/// Runs the command line against `server`; answers its standard output.
fn cli(server: &Keyclasp, arguments: &[&str]) -> String {
    let output = server.command().args(arguments).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

const CREATE: [&str; 8] = ["key", "create", "--realm", "acme", "--owner", "user:alice", "--quiet", "--output=table"];
const LIST: [&str; 5] = ["key", "list", "--realm", "acme", "--quiet"];

#[test]
fn a_first_start_without_anything_makes_what_it_needs_and_says_what_to_try() {
    let home = TempDir::new();
    let setup = |home: &TempDir| {
        let xdg = home.path().join("data");
        Keyclasp::set_up().without_config().env("XDG_DATA_HOME", xdg.to_str().unwrap())
    };
    let server = setup(&home).start();
    let data = home.path().join("data/keyclasp");
    for (name, mode) in [("keyring.toml", 0o600), ("admin.token", 0o600)] {
        let path = data.join(name);
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, mode, "{name}");
        assert!(server.log().contains(&format!("Wrote {}", path.display())), "{}", server.log());
    }
    // The command that it names works as it stands.
    let log = server.log();
    let (_, command) = log.split_once("Try: ").unwrap();
    let mut words = command.lines().next().unwrap().split_whitespace();
    words.next();
    let output = program().args(words).env("XDG_DATA_HOME", home.path().join("data")).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(String::from_utf8(output.stdout).unwrap().starts_with("api key"));

    // A second start makes nothing new.
    let token = std::fs::read(data.join("admin.token")).unwrap();
    drop(server);
    let server = setup(&home).start();
    assert!(!server.log().contains("Wrote"), "{}", server.log());
    assert_eq!(std::fs::read(data.join("admin.token")).unwrap(), token);
}

#[test]
fn a_configuration_that_is_wrong_or_a_store_without_its_keyring_is_refused() {
    let (status, said) = Keyclasp::set_up().toml("colour = 1").start_refused();
    assert_eq!(status.code(), Some(1));
    assert!(said.contains("callers.colour is not a setting"), "{said}");

    let setup = Keyclasp::set_up().store("redis://127.0.0.1:1");
    std::fs::remove_file(setup.dir().join("keyring.toml")).unwrap();
    let (status, said) = setup.start_refused();
    assert_eq!(status.code(), Some(1));
    assert!(said.contains("there is no keyring at"), "{said}");

    // The embedded store was used with a keyring that is lost: no other is made in its place.
    let mut server = Keyclasp::start();
    server.terminate();
    let keyring = server.dir().join("keyring.toml");
    std::fs::remove_file(&keyring).unwrap();
    let setup = server.into_setup();
    let mut command = program();
    command.arg("serve").env("KEYCLASP_CONFIG", setup.dir().join("keyclasp.toml"));
    let output = command.env("KEYCLASP_SERVER__LISTEN", "127.0.0.1:0").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(said.contains("restore the file from a backup"), "{said}");
    assert!(!keyring.exists());
}

#[test]
fn callers_come_from_the_configuration() {
    let token = "a-token-of-the-gateway";
    let setup = Keyclasp::set_up().toml(
        "[[callers]]\nname = \"gateway\"\ntoken_file = \"gateway.token\"\nroles = [\"validator\"]\nrealms = [\"acme\"]\n",
    );
    let file = setup.dir().join("gateway.token");
    std::fs::write(&file, token).unwrap();
    let server = setup.start();
    let key = cli(&server, &CREATE);
    std::fs::write(server.dir().join("key"), &key).unwrap();
    let key_file = server.dir().join("key");
    let as_gateway = |arguments: &[&str]| {
        let mut command = server.command();
        command.args(arguments).arg("--token-file").arg(&file).stdin(Stdio::null());
        command.output().unwrap()
    };
    let key_file = key_file.to_str().unwrap();
    assert!(as_gateway(&["validate", "--key-file", key_file, "--realm", "acme"]).status.success());
    let refused = as_gateway(&LIST);
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("ROLE_MISSING"), "{}", stderr(&refused));
    assert!(!server.log().contains(token) && !server.log().contains(&server.token()) && !server.log().contains(&key));
}
