//! No secret leaves the answer that makes it: a whole life at the level TRACE, and then a search
//! through everything that was written anywhere.

use std::path::Path;

use data_encoding::{BASE64, HEXLOWER};
use keyclasp::key::ApiKey;
use serde_json::{Value, json};

use crate::oauth::send;
use crate::support::json::call;
use crate::support::redis::RedisServer;
use crate::support::server::Keyclasp;

/// Everything that must not be found, with a name for the message.
struct Secrets(Vec<(String, Vec<u8>)>);

impl Secrets {
    fn new() -> Self {
        Self(Vec::new())
    }

    fn add(&mut self, name: &str, secret: impl Into<Vec<u8>>) {
        self.0.push((name.to_owned(), secret.into()));
    }

    /// A key in every form in which it could leak: its text, its secret part, and the random bytes
    /// behind it, raw and spelled out.
    fn add_key(&mut self, text: &str) {
        let parsed = ApiKey::new(text.to_owned()).parse().unwrap();
        let random = parsed.random.expose();
        self.add("a key", text);
        self.add("the secret part of a key", &text.as_bytes()[text.len() - 60..text.len() - 30]);
        self.add("the end of a key", &text.as_bytes()[text.len() - 30..]);
        self.add("the random bytes of a key", &random[..]);
        self.add("the random bytes of a key in hex", HEXLOWER.encode(random));
        self.add("the random bytes of a key in base64", BASE64.encode(random).trim_end_matches('='));
    }

    fn must_not_be_in(&self, place: &str, bytes: &[u8]) {
        for (name, secret) in &self.0 {
            let found = bytes.windows(secret.len()).any(|window| window == secret);
            assert!(!found, "{name} is in {place}");
        }
    }
}

fn text(value: &Value, field: &str) -> String {
    value[field].as_str().unwrap_or_else(|| panic!("no {field} in {value}")).to_owned()
}

fn owner() -> Value {
    json!({"kind": "OWNER_KIND_USER", "id": "u-1"})
}

/// Lives through a key's whole life; answers everything that was answered, but for the texts
/// that it makes.
fn live(server: &Keyclasp, secrets: &mut Secrets) -> String {
    let (address, token) = (server.listen(), server.token());
    let mut answers = String::new();
    let mut ask = |method: &str, request: Value| {
        let (status, answer) = call(address, &token, method, &request);
        let mut shown = answer.clone();
        if let Some(shown) = shown.as_object_mut() {
            shown.remove("apiKey");
        }
        answers.push_str(&format!("{method} {status} {shown}\n"));
        (status, answer)
    };
    let create = json!({"realm": "acme", "owner": owner(), "scopes": ["a:write"], "requestId": "one"});
    let (status, made) = ask("KeyService/CreateKey", create.clone());
    assert_eq!(status, 200, "{made}");
    let (key, id) = (text(&made, "apiKey"), text(&made["key"], "id"));
    secrets.add_key(&key);
    ask("KeyService/CreateKey", create);
    ask("KeyService/ValidateKey", json!({"apiKey": key, "realm": "acme", "requiredScopes": ["a:read", "b:c"]}));
    ask("KeyService/ValidateKey", json!({"apiKey": key, "realm": "elsewhere"}));
    // A key where something else is asked for: the error must not repeat it.
    for request in [
        ("KeyService/GetKey", json!({"id": key})),
        ("KeyService/ListKeys", json!({"realm": "acme", "pageToken": key})),
        ("KeyService/RevokeKey", json!({"id": key, "requestId": key})),
        ("KeyService/UpdateKey", json!({"key": {"id": id, "allowedCidrs": [key]}, "updateMask": "allowedCidrs"})),
        ("KeyService/ValidateKey", json!({"apiKey": 7, "realm": key})),
        ("KeyService/ValidateKey", json!({"apiKey": key, "sourceAddress": key})),
        ("KeyService/ValidateKey", json!({"apiKey": format!("{key}x")})),
        ("KeyService/ValidateKey", json!({"api_key": key, "unknown": key})),
    ] {
        ask(request.0, request.1);
    }
    let (_, rotated) = ask("KeyService/RotateKey", json!({"id": id, "grace": "60s"}));
    let (new_key, new_id) = (text(&rotated, "apiKey"), text(&rotated["key"], "id"));
    secrets.add_key(&new_key);
    ask("KeyService/SuspendKey", json!({"id": new_id, "reason": "odd hours"}));
    ask("KeyService/ValidateKey", json!({"apiKey": new_key}));
    ask("KeyService/ResumeKey", json!({"id": new_id}));
    ask("KeyService/RevokeKey", json!({"id": id, "reason": "old"}));
    ask("KeyService/RevokeOwnKey", json!({"apiKey": new_key, "reason": "done"}));
    ask("KeyService/ListKeys", json!({"realm": "acme"}));
    ask("AuditService/ListEvents", json!({"realm": "acme"}));
    ask("AdminService/GetStatus", json!({"countRecords": true}));
    // OAuth's forms, as they should be and as they should not.
    let (status, made) = call(address, &token, "KeyService/CreateKey", &json!({"realm": "acme", "owner": owner()}));
    assert_eq!(status, 200, "{made}");
    let oauth_key = text(&made, "apiKey");
    secrets.add_key(&oauth_key);
    let basic = |name: &str, token: &str| format!("Basic {}", BASE64.encode(format!("{name}:{token}").as_bytes()));
    secrets
        .add("the credentials of a client", basic("admin", &token)["Basic ".len()..].trim_end_matches('=').to_owned());
    for (target, authorization, form) in [
        ("/oauth2/introspect", basic("admin", &token), format!("token={oauth_key}")),
        ("/oauth2/introspect", basic("admin", &oauth_key), format!("token={oauth_key}")),
        ("/oauth2/introspect", basic(&oauth_key, &token), format!("token={oauth_key}")),
        ("/oauth2/introspect", format!("Bearer {oauth_key}"), format!("token={oauth_key}")),
        ("/oauth2/introspect", basic("admin", &token), format!("token=x&realm={oauth_key}%0a")),
        ("/oauth2/introspect", basic("admin", &token), format!("token={oauth_key}&token={oauth_key}")),
        ("/oauth2/introspect", basic("admin", &token), format!("token={oauth_key}%zz&{oauth_key}=x")),
        (&format!("/oauth2/introspect?token={oauth_key}"), basic("admin", &token), String::new()),
        (&format!("/oauth2/{oauth_key}"), basic("admin", &token), String::new()),
        (&format!("/oauth2/revoke?token={oauth_key}"), String::new(), format!("{oauth_key}={oauth_key}")),
        ("/oauth2/revoke", String::new(), format!("token={oauth_key}")),
        ("/oauth2/revoke", basic("admin", &token), format!("token={oauth_key}")),
    ] {
        let headers = [("content-type", "application/x-www-form-urlencoded"), ("authorization", &authorization)];
        let answer = send(address, "POST", target, &headers, form.as_bytes());
        answers.push_str(&format!("{answer:?}\n"));
    }
    assert!(answers.contains("\"active\":true"), "{answers}");
    // The same over gRPC, by the command line, whose output is searched as well.
    let output = server
        .command()
        .args(["key", "create", "--realm", "acme", "--owner", "user:u-2", "--scope", "a:read", "--quiet"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let cli_key = String::from_utf8(output.stdout).unwrap().trim_end().to_owned();
    secrets.add_key(&cli_key);
    secrets.must_not_be_in("the error output of key create", &output.stderr);
    for arguments in [
        &["key", "list", "--realm", "acme", "--output", "json"][..],
        &["audit", "list", "--realm", "acme", "--output", "yaml"],
        // A key on the command line by mistake.
        &["key", "get", &cli_key],
        &["key", "revoke", &cli_key],
    ] {
        let output = server.command().args(arguments).output().unwrap();
        answers.push_str(&String::from_utf8_lossy(&output.stdout));
        answers.push_str(&String::from_utf8_lossy(&output.stderr));
    }
    // A token that is none.
    let (status, refused) = call(address, &cli_key, "KeyService/GetKey", &json!({"id": id}));
    assert_eq!(status, 401, "{refused}");
    answers.push_str(&refused.to_string());
    answers
}

fn files(dir: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else {
            found.push(path);
        }
    }
}

fn search(server: &mut Keyclasp, secrets: &mut Secrets, answers: &str) {
    secrets.must_not_be_in("an answer", answers.as_bytes());
    secrets.add("the admin token", server.token());
    let pepper = std::fs::read_to_string(server.dir().join("keyring.toml")).unwrap();
    let pepper =
        pepper.lines().find_map(|line| line.trim().strip_prefix("pepper = ")).unwrap().trim_matches('"').to_owned();
    secrets.add("the pepper", pepper);
    let (status, metrics) = server.get("/metrics");
    assert_eq!(status, 200);
    secrets.must_not_be_in("the metrics", metrics.as_bytes());
    server.terminate();
    let log = server.log();
    assert!(log.contains("TRACE"), "the log is not at the level TRACE");
    assert!(log.contains("key changed"), "the log holds no mutation");
    secrets.must_not_be_in("the log", log.as_bytes());
    let mut found = Vec::new();
    files(server.dir(), &mut found);
    let mut searched = 0;
    for file in found {
        let name = file.file_name().unwrap().to_str().unwrap();
        if !["keyring.toml", "admin.token"].contains(&name) {
            secrets.must_not_be_in(&format!("the file {name}"), &std::fs::read(&file).unwrap());
            searched += 1;
        }
    }
    assert!(searched >= 2, "the configuration and the log at least lie here");
}

#[test]
fn a_whole_life_at_trace_level_leaks_no_secret_on_the_embedded_store() {
    for format in ["human", "json"] {
        let mut server =
            Keyclasp::set_up().env("KEYCLASP_LOG__LEVEL", "trace").env("KEYCLASP_LOG__FORMAT", format).start();
        let mut secrets = Secrets::new();
        let answers = live(&server, &mut secrets);
        search(&mut server, &mut secrets, &answers);
    }
}

#[test]
fn a_whole_life_at_trace_level_leaks_no_secret_on_redis() {
    let redis = RedisServer::start_with(&["rdbcompression", "no"]);
    let mut server = Keyclasp::set_up().store(&redis.url()).env("KEYCLASP_LOG__LEVEL", "trace").start();
    let mut secrets = Secrets::new();
    let answers = live(&server, &mut secrets);
    let dump = redis.stored_bytes();
    assert!(dump.len() > 500, "Redis holds something");
    search(&mut server, &mut secrets, &answers);
    secrets.must_not_be_in("what Redis stores", &dump);
}

#[test]
fn the_search_finds_what_is_there() {
    let mut secrets = Secrets::new();
    secrets.add("a thing", "needle");
    let found = std::panic::catch_unwind(|| secrets.must_not_be_in("the hay", b"hay needle hay"));
    assert!(found.is_err());
    secrets.must_not_be_in("the hay", b"hay hay");
}
