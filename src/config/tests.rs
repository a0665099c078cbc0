//! Tests of the configuration as a whole.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::scratch::Scratch;
use super::{Config, Place, Sources, StoreUrl, reference};
use crate::key::{Argon2Profile, Caps, OwnerKind, OwnerRef, Policy, Realm, Scope};
use crate::rpc::limits::ServerLimits;
use crate::rpc::serve::ServeConfig;
use crate::service::access::{Grant, Realms, Right, Role};
use crate::telemetry::LogFormat;

const DIGEST: &str = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"; // of "secret"

fn env(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn load(scratch: &Scratch, text: &str, vars: &[(&str, &str)]) -> Result<Config, Vec<String>> {
    let file = scratch.write("keyclasp.toml", text);
    let directory = format!("{}/", scratch.path().display());
    Config::load(&Sources { file: Some(file), env: env(vars) })
        .map_err(|problems| problems.iter().map(|one| one.to_string().replace(&directory, "")).collect())
}

/// The problems of a file, one line each.
fn problems(text: &str, vars: &[(&str, &str)]) -> Vec<String> {
    load(&Scratch::new(), text, vars).expect_err("the configuration was taken")
}

fn realm(name: &str) -> Realm {
    Realm::parse(name).unwrap()
}

#[test]
fn an_empty_file_gives_the_defaults() {
    let scratch = Scratch::new();
    let config = load(&scratch, "", &[]).unwrap();
    assert_eq!(config.data_dir, scratch.path());
    assert_eq!(config.server.listen, "127.0.0.1:7413".parse().unwrap());
    assert_eq!(config.server.ops_listen, "127.0.0.1:7414".parse().unwrap());
    assert_eq!(config.server.limits(), ServerLimits::default(), "the declared defaults are not those of the limits");
    assert_eq!(config.server.serving(), ServeConfig::default(), "the declared defaults are not those of serving");
    assert_eq!(config.store.target.to_string(), format!("file://{}", scratch.path().display()));
    assert_eq!((config.store.shards.get(), config.store.log_max_entries), (1, 100_000));
    assert_eq!(config.keys.retention, Duration::from_secs(90 * 24 * 60 * 60));
    assert_eq!(config.hash, Argon2Profile::LIGHT);
    assert_eq!(config.keyring.path(), scratch.path().join("keyring.toml"));
    assert_eq!(config.log.format, LogFormat::Human);
    assert_eq!(config.realms.default, Policy::default(), "the declared defaults are not those of the policy");
    assert!(config.callers.is_empty());
    assert_eq!(config.findings().iter().map(|finding| finding.code).collect::<Vec<_>>(), ["NO_CALLERS"]);
}

#[test]
fn everything_can_be_set() {
    let scratch = Scratch::new();
    scratch.write("gateway.token", "secret-secret-secret\n");
    scratch.write("redis.password", "pass word\n");
    let config = load(
        &scratch,
        &format!(
            r#"
            data_dir = "data"
            [server]
            listen = "0.0.0.0:1"
            ops_listen = "[::1]:2"
            insecure = true
            workers = 3
            drain = "1m 5s"
            [store]
            url = "redis://keyclasp@redis:7000/1"
            password_file = "redis.password"
            shards = 16
            require_durable = true
            [keys]
            retention = "1d"
            [hash]
            m_kib = 4_096
            t = 2
            p = 2
            [keyring]
            file = "../peppers.toml"
            [log]
            format = "json"
            level = "info,keyclasp=trace"
            [[callers]]
            name = "gateway"
            token_file = "gateway.token"
            roles = ["validator", "auditor"]
            realms = ["a", "b"]
            grants = [{{ role = "issuer", realms = ["c"] }}]
            [[callers]]
            name = "issuer"
            token_sha256 = "{DIGEST}"
            [[callers.grants]]
            role = "issuer"
            realms = ["*"]
            [callers.caps]
            scopes = ["a:read"]
            max_ttl = "30d"
            owners = ["user:1", "service-account:2"]
            "#
        ),
        &[],
    )
    .unwrap();
    assert_eq!(config.data_dir, scratch.path().join("data"));
    assert_eq!(config.server.drain, Duration::from_secs(65));
    assert_eq!(config.server.workers.get(), 3);
    let StoreUrl::Redis(redis) = &config.store.target else { panic!("not a Redis") };
    assert_eq!(redis.location(), "redis://redis:7000/1");
    assert!(redis.has_password(), "the password's file was not read");
    assert!(config.store.require_durable && config.store.shards.get() == 16);
    assert_eq!(config.hash, Argon2Profile { m_kib: 4096, t: 2, p: 2 });
    assert_eq!(config.keyring.path(), scratch.path().join("../peppers.toml"));
    let [gateway, issuer] = config.callers.as_slice() else { panic!("not two callers") };
    assert!(
        gateway.principal.may(Right::Validate, &realm("b")) && !gateway.principal.may(Right::Validate, &realm("c"))
    );
    assert!(gateway.principal.may(Right::Issue, &realm("c")) && !gateway.principal.may(Right::Issue, &realm("a")));
    assert_eq!(gateway.principal.caps, Caps::default());
    assert_eq!(issuer.principal.grants, [Grant { role: Role::Issuer, realms: Realms::All }]);
    assert_eq!(data_encoding::HEXLOWER.encode(&issuer.token_sha256), DIGEST);
    assert_eq!(
        issuer.principal.caps,
        Caps {
            scopes: Some(vec![Scope::parse("a:read").unwrap()]),
            max_ttl: Some(Duration::from_secs(30 * 24 * 60 * 60)),
            owners: Some(vec![
                OwnerRef::parse(OwnerKind::User, "1").unwrap(),
                OwnerRef::parse(OwnerKind::ServiceAccount, "2").unwrap()
            ]),
        }
    );
    let codes: Vec<_> = config.findings().iter().map(|finding| finding.code).collect();
    assert_eq!(codes, ["CLEAR_TEXT", "SECRET_FILE_MODE", "SECRET_FILE_MODE"]);
}

#[test]
fn a_realm_takes_from_the_default_what_it_does_not_set() {
    let config = load(
        &Scratch::new(),
        r#"
        [realms.default]
        prefix = "co"
        max_ttl = "30d"
        default_ttl = "10d"
        grantable = ["a:read"]
        [realms.production]
        allow_no_expiry = false
        max_ttl = "none"
        implications = { all = ["read", "list"], list = ["count"] }
        [realms."with a . dot"]
        grantable = ["*"]
        require_binding = true
        max_keys_per_owner = 5
        "#,
        &[("KEYCLASP_REALMS__DEFAULT__DEFAULT_TTL", "20d")],
    )
    .unwrap();
    let day = Duration::from_secs(24 * 60 * 60);
    let other = config.realms.of(&realm("other"));
    assert_eq!((other.prefix.as_str(), other.max_ttl, other.default_ttl), ("co", Some(30 * day), Some(20 * day)));
    let production = config.realms.of(&realm("production"));
    assert_eq!((production.prefix.as_str(), production.max_ttl, production.default_ttl), ("co", None, Some(20 * day)));
    assert!(!production.allow_no_expiry && other.allow_no_expiry);
    let scope = |text| Scope::parse(text).unwrap();
    assert!(production.implications.covers(scope("x:all"), &scope("x:count")));
    assert!(!production.implications.covers(scope("x:write"), &scope("x:read")));
    assert!(other.implications.covers(scope("x:write"), &scope("x:read")));
    assert_eq!(other.grantable, Some(vec![scope("a:read")]));
    let dotted = config.realms.of(&realm("with a . dot"));
    assert!(dotted.grantable.is_none() && dotted.require_binding && dotted.max_keys_per_owner == 5);
}

#[test]
fn the_environment_wins_over_the_file() {
    let scratch = Scratch::new();
    let vars = [
        ("KEYCLASP_SERVER__LISTEN", "127.0.0.1:1"),
        ("KEYCLASP_SERVER__WORKERS", "2"),
        ("KEYCLASP_STORE__REQUIRE_DURABLE", "true"),
        ("KEYCLASP_STORE__URL", "unix:///run/redis.sock"),
        ("KEYCLASP_DATA_DIR", "/data"),
        ("KEYCLASP_KEYRING__FILE", "relative/keyring.toml"),
        ("KEYCLASP_REALMS__DEFAULT__GRANTABLE", "a:read, b:write"),
        ("KEYCLASP_REALMS__DEFAULT__IMPLICATIONS", "{ write = [\"read\"] }"),
        // Not ours: what Kubernetes sets for a service called keyclasp, and the command line's own.
        ("KEYCLASP_PORT", "tcp://10.0.0.1:7413"),
        ("KEYCLASP_SERVICE_PORT_GRPC", "7413"),
        ("KEYCLASP_ENDPOINT", "http://x"),
        ("PATH", "/bin"),
    ];
    let config = load(&scratch, "[server]\nlisten = \"127.0.0.1:2\"\nworkers = 9\n", &vars).unwrap();
    assert_eq!(config.server.listen, "127.0.0.1:1".parse().unwrap());
    assert_eq!(config.server.workers.get(), 2);
    assert!(config.store.require_durable);
    assert_eq!(config.store.target.to_string(), "unix:///run/redis.sock?db=0");
    assert_eq!(config.data_dir, Path::new("/data"));
    // A shell's working directory, not the file's.
    assert_eq!(config.keyring.path(), Path::new("relative/keyring.toml"));
    assert_eq!(config.realms.default.grantable.as_ref().map(Vec::len), Some(2));
}

#[test]
fn without_a_file_everything_is_in_the_data_directory() {
    let load = |vars: &[(&str, &str)]| Config::load(&Sources { file: None, env: env(vars) });
    let config = load(&[("XDG_DATA_HOME", "/xdg"), ("HOME", "/home/me")]).unwrap();
    assert_eq!(config.data_dir, Path::new("/xdg/keyclasp"));
    assert_eq!(config.keyring.path(), Path::new("/xdg/keyclasp/keyring.toml"));
    assert_eq!(config.store.target.to_string(), "file:///xdg/keyclasp");
    let config = load(&[("XDG_DATA_HOME", ""), ("HOME", "/home/me")]).unwrap();
    assert_eq!(config.data_dir, Path::new("/home/me/.local/share/keyclasp"));
    let config = load(&[("KEYCLASP_DATA_DIR", "/data"), ("HOME", "/home/me")]).unwrap();
    assert_eq!(config.keyring.path(), Path::new("/data/keyring.toml"));
    let problems = load(&[]).unwrap_err().to_string();
    assert_eq!(
        problems,
        "configuration: data_dir is not known: HOME is not set: set KEYCLASP_DATA_DIR, or give a configuration file"
    );
}

#[test]
fn everything_that_is_wrong_is_said_at_once_with_its_place_and_remedy() {
    let said = problems(
        "[server]\nlisten = \"nowhere\"\nport = 7413\nworkers = \"many\"\ndrain = \"0s\"\n\
         [store]\nurl = \"redis-cluster://a:1,b:2/secret\"\nshards = 3\n\
         [hash]\nm_kib = 8\np = 4\n\
         [log]\nformat = \"xml\"\nlevel = \"loud\"\n\
         [realms.default]\nprefix = \"K\"\n[realms.a]\nmax_ttl = \"1d\"\ndefault_ttl = \"2d\"\n\
         [colours]\nred = 1\n",
        &[
            ("KEYCLASP_SERVER__PORT", "1"),
            ("KEYCLASP_SERVER__MAX_STREAMS", "none"),
            ("KEYCLASP_CALLERS__NAME", "x"),
            ("KEYCLASP_NO__SECTION", "x"),
        ],
    );
    let expected = [
        "keyclasp.toml:2: server.listen is not an IP address and a port: write it as \"127.0.0.1:7413\" or \"[::]:7413\"",
        "keyclasp.toml:3: server.port is not a setting: remove it, or use one of listen, ops_listen, insecure, workers, \
         drain, max_message_bytes, max_header_bytes, max_http2_header_bytes, max_streams, max_connections, max_in_flight, default_deadline, max_deadline",
        "keyclasp.toml:4: server.workers is not a whole number from 0 to 1024: choose a number in that range",
        "keyclasp.toml:5: server.drain is not a duration of more than nothing: write it as \"90d\", \"12h\" or \"500ms\"",
        "keyclasp.toml:7: store.url is not the URL of a store that can be used: Cluster is not supported yet; use one \
         primary, redis://HOST:PORT",
        "keyclasp.toml:8: store.shards is not a power of two from 1 to 256: write it as 16",
        "keyclasp.toml:10: hash.m_kib is too little for so many lanes: give it at least 8 for each lane of hash.p",
        "keyclasp.toml:13: log.format is not a log format: write it as \"human\" or \"json\"",
        "keyclasp.toml:14: log.level is not a level or a list of directives: write it as \"info\" or \"info,keyclasp=debug\"",
        "keyclasp.toml:16: realms.default.prefix is not a prefix: must be 2 to 24 characters of a-z, 0-9 and _, beginning \
         with a letter and not ending with _",
        "keyclasp.toml:20: colours is not a setting: remove it, or use one of data_dir, server, store, keys, hash, cache, fence, keyring, log, proxy, envoy, forward_auth, oauth2, realms, callers",
        "KEYCLASP_CALLERS__NAME is not the name of a setting: unset it, or see `keyclasp config reference` for what there is",
        "KEYCLASP_NO__SECTION is not the name of a setting: unset it, or see `keyclasp config reference` for what there is",
        "KEYCLASP_SERVER__MAX_STREAMS: server.max_streams is not a whole number from 1 to 65536: choose a number in that range",
        "KEYCLASP_SERVER__PORT is not the name of a setting: unset it, or see `keyclasp config reference` for what there is",
    ];
    assert_eq!(said, expected);
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    let one = |text: &str, expected: &str| {
        let said = problems(text, &[]);
        assert!(said.len() == 1 && said[0].contains(expected), "{text}: {said:?}");
    };
    one("[server]\nlisten = \"0.0.0.0:1\"", "server.insecure = true");
    one("[server]\nlisten = \"127.0.0.1:1\"\nops_listen = \"127.0.0.1:1\"", "a port of its own");
    one("[server]\ndefault_deadline = \"2m\"", "longer than max_deadline");
    one("[server]\nlisten = \"[2001:db8::1]:1\"", "there is no TLS");
    one("[store]\npassword_file = \"x\"", "embedded store");
    one("[store]\nurl = \"redis://:a@h\"\npassword_file = \"x\"", "holds a password as well");
    one("[store]\nurl = \"redis://h\"\npassword_file = \"nothing\"", "cannot be read from");
    one("[realms.default]\nmax_ttl = \"1d\"\ndefault_ttl = \"2d\"", "longer than max_ttl");
    one("server = 3", "server is not a table");
    one("[callers]\nname = \"x\"", "write each as [[callers]]");
    one("[realms.default]\nimplications = { \"a:b\" = [] }", "name the action alone");
    one("[realms.\"\"]\nprefix = \"ab\"", "is not the name of a realm");
}

#[test]
fn an_issuer_is_a_url_that_clients_can_compare() {
    let config = load(&Scratch::new(), "", &[("KEYCLASP_OAUTH2__ISSUER", "https://keys.example.com/a")]).unwrap();
    assert_eq!(config.issuer.unwrap().as_str(), "https://keys.example.com/a");
    assert_eq!(load(&Scratch::new(), "", &[]).unwrap().issuer, None);
    let said = problems("[oauth2]\nissuer = \"http://keys.example.com\"", &[]);
    let expected = "keyclasp.toml:2: oauth2.issuer is not the URL of an issuer: begin it with https://";
    assert!(said.len() == 1 && said[0].starts_with(expected), "{said:?}");
}

#[test]
fn callers_that_make_no_sense_are_refused() {
    let caller = |rest: &str| format!("[[callers]]\n{rest}\n");
    let full = format!("name = \"a\"\ntoken_sha256 = \"{DIGEST}\"\nroles = [\"admin\"]\nrealms = [\"*\"]");
    let one = |text: &str, expected: &str| {
        let said = problems(text, &[]);
        assert!(said.len() == 1 && said[0].contains(expected), "{text}: {said:?}");
    };
    one(&caller(&full.replace("name = \"a\"", "")), "keyclasp.toml:1: callers.name is missing");
    one(&caller(&full.replace(&format!("token_sha256 = \"{DIGEST}\""), "")), "set one of token_sha256 and token_file");
    one(&caller(&format!("{full}\ntoken_file = \"x\"")), "set one of token_sha256 and token_file");
    one(&caller(&full.replace("realms = [\"*\"]", "")), "callers.realms is missing");
    one(&caller(&full.replace("roles = [\"admin\"]", "")), "callers.roles is missing");
    one(&caller(&full.replace("[\"admin\"]", "[]")), "has no role in any realm");
    one(
        &caller(&full.replace("\"a\"", "\"key:0123\"")),
        "keyclasp.toml:2: callers.name begins with `key:`, which is how audit events call a key that revoked itself",
    );
    one(&caller(&full.replace("admin", "root")), "\"validator\" or \"issuer\"");
    one(&caller(&format!("{full}\ncaps = {{ owners = [\"me\"] }}")), "callers.caps.owners is not");
    one(&caller(&format!("{full}\ncaps = {{ scope = [] }}")), "callers.caps.scope is not a setting");
    one(&caller(&full.replace(DIGEST, "secret")), "64 hexadecimal digits");
    let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    one(&caller(&full.replace(DIGEST, empty)), "the empty text");
    let twice = problems(&format!("{0}{0}", caller(&full)), &[]);
    assert_eq!(twice.len(), 2);
    assert!(twice.iter().all(|said| said.starts_with("keyclasp.toml:6: callers")), "{twice:?}");
}

#[test]
fn a_file_that_is_no_toml_or_is_not_there_says_so() {
    let said = problems("[server]\nlisten = \n[store\nshards = 5\n", &[]);
    assert!(said.iter().any(|line| line.starts_with("keyclasp.toml:2 is not TOML here")), "{said:?}");
    assert!(said.iter().any(|line| line.starts_with("keyclasp.toml:3 is not TOML here")), "{said:?}");
    let gone =
        Config::load(&Sources { file: Some(PathBuf::from("/nowhere/keyclasp.toml")), env: Vec::new() }).unwrap_err();
    let [problem] = gone.iter().collect::<Vec<_>>()[..] else { panic!("not one problem") };
    assert!(matches!(problem.place, Place::File(_, 0)));
    assert_eq!(
        problem.to_string(),
        "/nowhere/keyclasp.toml cannot be read: No such file or directory (os error 2): check the path and its permissions"
    );
}

#[test]
fn a_message_never_holds_a_secret() {
    let said = problems(
        "[store]\nurl = \"redis://user:hunter2@host:notaport\"\n[[callers]]\nname = \"a\"\ntoken_sha256 = \"hunter2\"\n",
        &[("KEYCLASP_STORE__SHARDS", "hunter2")],
    );
    assert!(said.len() > 2 && !said.join("\n").contains("hunter2"), "{said:?}");
}

#[test]
fn the_reference_is_a_configuration_of_the_defaults() {
    let page = reference();
    let mut toml = String::new();
    let mut inside = false;
    for line in page.lines() {
        match line {
            "```toml" => inside = true,
            "```" => inside = false,
            line if inside => toml.extend([line, "\n"]),
            _ => {}
        }
    }
    // Hosts and callers need what only their own settings can say.
    let (settings, _) = toml.split_once("[[").unwrap();
    let scratch = Scratch::new();
    let (from_reference, from_nothing) = (load(&scratch, settings, &[]).unwrap(), load(&scratch, "", &[]).unwrap());
    assert_eq!(format!("{from_reference:?}"), format!("{from_nothing:?}"));
    for name in super::reference::names() {
        let variable = format!("KEYCLASP_{}", name.replace('.', "__").to_uppercase());
        assert!(page.contains(&variable), "{variable}");
    }
}

#[test]
fn the_reference_in_the_documentation_is_todays() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/CONFIGURATION.md");
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        committed == reference(),
        "docs/CONFIGURATION.md is stale: cargo run -- config reference > docs/CONFIGURATION.md"
    );
}
