//! keyclasp behind the real Envoy, with the configuration that `keyclasp envoy-config` prints: what a client gets, and
//! what an upstream sees.

mod certificates;
mod documented;
mod grpc;
mod identity;
mod istio;
mod metadata;
mod modes;
mod outages;
mod refusals;
mod rolling;
mod routes;
mod sources;
mod tracing;
mod traffic;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use serde_json::{Value, json};

use crate::support::echo::Echo;
use crate::support::envoy::{Config, Envoy};
use crate::support::http1::{self, Answer};
use crate::support::json::call;
use crate::support::server::{Keyclasp, Setup};

/// Envoy's token.
const TOKEN: &str = "envoys-own-token-for-these-tests";
/// The token of a caller who may make keys, and not validate them.
const ISSUER: &str = "an-issuers-token-for-these-tests";

/// Where all places that a key can come in are looked at, and two hosts have a realm of their own.
const SETTINGS: &str = r#"
[proxy]
sources = ["apikey", "bearer", "basic", "x-api-key", "api-key", "query:api_key", "cookie:session_key"]

[[envoy.hosts]]
host = "hosted.test"
realm = "acme"
scopes = ["orders:read"]

[[envoy.hosts]]
host = "*.below.test"
realm = "beta"
"#;

/// A keyclasp, an upstream, and Envoys between a client and these. Nothing in it changes but keys, so tests share it.
struct Rig {
    keyclasp: Keyclasp,
    echo: Echo,
    printed: OnceLock<Envoy>,
    raw: OnceLock<Envoy>,
    bare: OnceLock<Envoy>,
    open: OnceLock<Envoy>,
}

/// A key.
struct Key {
    id: String,
    text: String,
}

impl Rig {
    /// The one that all tests share which run at the same time.
    fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<Rig>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let rig = Arc::new(Self::over(callers(Keyclasp::set_up()).toml(SETTINGS).start()));
            *shared = Arc::downgrade(&rig);
            rig
        })
    }

    fn over(keyclasp: Keyclasp) -> Self {
        let echo = Echo::start();
        let (printed, raw, bare, open) = Default::default();
        Self { keyclasp, echo, printed, raw, bare, open }
    }

    /// What `keyclasp envoy-config` prints for this keyclasp and upstream, with more arguments and with routes of tests.
    fn config(&self, arguments: &[&str]) -> Config {
        let (replica, upstream) = (self.keyclasp.listen().to_string(), self.echo.address().to_string());
        let fixed = ["--realm", "acme", "--replica", &replica, "--upstream", &upstream];
        let config = Config::printed(&[&fixed, arguments].concat());
        let config = config
            .same_protocol()
            .route("/scoped", &[("keyclasp.scopes", "orders:read orders:delete")])
            .route("/beta", &[("keyclasp.realm", "beta")])
            .route("/optional", &[("keyclasp.optional", "true")])
            .route("/dry", &[("keyclasp.dry_run", "true"), ("keyclasp.scopes", "orders:delete")])
            .route("/colour", &[("keyclasp.colour", "blue")])
            .route("/misspelt", &[("keyclasp.scope", "orders:read")])
            .route("/maybe", &[("keyclasp.optional", "maybe")])
            .route("/inject", &[("keyclasp.token", "inject")])
            .route("/others", &[("colour", "blue"), ("keyclaspish", "yes"), ("Keyclasp.realm", "beta")])
            .route("/grpc.health.v1.Health/Watch", &[("keyclasp.scopes", "orders:delete")]);
        config.host("norealm.test", &[]).host("hosted.test", &[]).host("a.below.test", &[])
    }

    /// An Envoy as printed.
    fn envoy(&self) -> &Envoy {
        self.printed.get_or_init(|| self.config(&[]).start(TOKEN))
    }

    /// One that passes header values on as they are.
    fn raw(&self) -> &Envoy {
        self.raw.get_or_init(|| self.config(&["--raw-headers"]).start(TOKEN))
    }

    /// One that does not remove a client's identity headers by itself.
    fn bare(&self) -> &Envoy {
        self.bare.get_or_init(|| self.config(&[]).without_early_mutation().start(TOKEN))
    }

    /// One that lets requests through while nobody can decide.
    fn open(&self) -> &Envoy {
        self.open.get_or_init(|| self.config(&["--fail-open"]).start(TOKEN))
    }

    /// A new key of the realm acme with these scopes.
    fn key(&self, scopes: &[&str]) -> Key {
        self.make(&json!({"scopes": scopes}))
    }

    /// A new key: of the realm acme and the user u-1, unless `with` says otherwise.
    fn make(&self, with: &Value) -> Key {
        make(&self.keyclasp, with)
    }

    /// Calls keyclasp as its admin.
    fn call(&self, method: &str, request: &Value) -> Value {
        admin(&self.keyclasp, method, request)
    }

    /// A GET through Envoy with these headers.
    fn get(&self, target: &str, headers: &[(&str, &str)]) -> Answer {
        http1::get(self.envoy().listen(), target, headers)
    }

    /// What the upstream saw of a GET that passed.
    #[track_caller]
    fn passes(&self, target: &str, headers: &[(&str, &str)]) -> Seen {
        passed(self.envoy().listen(), target, headers)
    }

    /// The answer to a GET that was refused with this status, and did not reach the upstream.
    #[track_caller]
    fn refuses(&self, status: u16, target: &str, headers: &[(&str, &str)]) -> Answer {
        let answer = self.get(target, headers);
        assert_refused(status, &answer);
        answer
    }
}

/// With callers for Envoy and for somebody who only makes keys.
fn callers(setup: Setup) -> Setup {
    let callers: String = [("envoy", TOKEN, "validator"), ("issuer", ISSUER, "issuer")]
        .iter()
        .map(|(name, token, role)| {
            let digest = data_encoding::HEXLOWER.encode(&<sha2::Sha256 as sha2::Digest>::digest(token));
            format!(
                "[[callers]]\nname = \"{name}\"\ntoken_sha256 = \"{digest}\"\nroles = [\"{role}\"]\nrealms = [\"*\"]\n"
            )
        })
        .collect();
    setup.toml(&callers)
}

/// A new key.
#[track_caller]
fn make(keyclasp: &Keyclasp, with: &Value) -> Key {
    let mut request = json!({"realm": "acme", "owner": {"kind": "OWNER_KIND_USER", "id": "u-1"}});
    for (name, value) in with.as_object().unwrap() {
        request[name] = value.clone();
    }
    let made = admin(keyclasp, "KeyService/CreateKey", &request);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    Key { id: text(&made["key"]["id"]), text: text(&made["apiKey"]) }
}

/// Calls keyclasp as its admin.
#[track_caller]
fn admin(keyclasp: &Keyclasp, method: &str, request: &Value) -> Value {
    let (status, answer) = call(keyclasp.listen(), &keyclasp.token(), method, request);
    assert_eq!(status, 200, "{method}: {answer}");
    answer
}

/// A request, as the upstream saw it.
#[derive(Debug)]
struct Seen(Value);

impl Seen {
    /// The values of a header.
    fn all(&self, name: &str) -> Vec<&str> {
        let headers = self.0["headers"].as_array().unwrap().iter();
        headers.filter(|header| header[0] == name).map(|header| header[1].as_str().unwrap()).collect()
    }

    /// The value of a header that came at most once.
    #[track_caller]
    fn header(&self, name: &str) -> Option<&str> {
        let values = self.all(name);
        assert!(values.len() < 2, "{name}: {values:?}");
        values.first().copied()
    }

    /// The names of all headers that somebody could take for an identity.
    fn identities(&self) -> Vec<&str> {
        let headers = self.0["headers"].as_array().unwrap().iter().map(|header| header[0].as_str().unwrap());
        let claims =
            |name: &&str| name.replace(|letter: char| !letter.is_ascii_alphanumeric(), "-").starts_with("x-keyclasp-");
        let mut names: Vec<_> = headers.filter(claims).collect();
        names.sort_unstable();
        names
    }

    fn target(&self) -> &str {
        self.0["target"].as_str().unwrap()
    }
}

/// What the upstream saw of a GET that passed.
#[track_caller]
fn passed(envoy: SocketAddr, target: &str, headers: &[(&str, &str)]) -> Seen {
    let answer = http1::get(envoy, target, headers);
    assert_eq!(answer.status, 200, "{target} {headers:?}: {}", answer.text());
    Seen(answer.json())
}

/// An answer is a refusal by keyclasp: with this status and a problem that says the same.
#[track_caller]
fn assert_refused(status: u16, answer: &Answer) {
    assert_eq!(answer.status, status, "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{answer:?}");
    let problem = answer.json();
    assert_eq!(problem["status"], status, "{problem}");
    for member in ["type", "title", "detail"] {
        assert!(problem[member].as_str().is_some_and(|text| !text.is_empty()), "{problem}");
    }
    assert_eq!(answer.header("www-authenticate").is_some(), status == 401, "{answer:?}");
}

/// The end of a problem's type, such as `key-revoked`.
fn problem(answer: &Answer) -> String {
    let problem = answer.json();
    problem["type"].as_str().unwrap().rsplit(':').next().unwrap().to_owned()
}
