//! A real Keycloak, started by the first test that needs it and shared by all of a run: each test makes a realm of its
//! own. It ends with the process of the tests.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{LazyLock, mpsc};
use std::time::Duration;

use serde_json::{Value, json};

use super::http1::{self, Answer};
use super::{eventually, tools};

/// Longest that it may take to start, beside everything else that starts.
const STARTS: Duration = Duration::from_secs(180);
/// The administrator of this run.
const ADMIN: (&str, &str) = ("admin", "a password of this run");

static SHARED: LazyLock<Keycloak> = LazyLock::new(Keycloak::start);

/// A running Keycloak.
#[derive(Debug)]
pub(crate) struct Keycloak {
    address: SocketAddr,
}

impl Keycloak {
    /// The one of this run.
    pub(crate) fn shared() -> &'static Self {
        &SHARED
    }

    /// Where it is reached, which is also what it calls itself.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn start() -> Self {
        let home = prepared();
        let [port, management] =
            [(); 2].map(|()| TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port());
        let log = home.join("keycloak.log");
        let (started, when_started) = mpsc::channel();
        let (program, output) = (home.join("bin/kc.sh"), std::fs::File::create(&log).unwrap());
        // It is told to end when this thread does, which is when the process does.
        std::thread::spawn(move || {
            let mut command = Command::new("setpriv");
            command.args(["--pdeathsig", "TERM"]).arg(program).args(["start", "--optimized", "--http-enabled=true"]);
            command.arg(format!("--hostname=http://127.0.0.1:{port}")).arg("--http-host=127.0.0.1");
            command.arg(format!("--http-port={port}")).arg(format!("--http-management-port={management}"));
            command.env("KC_BOOTSTRAP_ADMIN_USERNAME", ADMIN.0).env("KC_BOOTSTRAP_ADMIN_PASSWORD", ADMIN.1);
            command.env("JAVA_OPTS_APPEND", "-XX:TieredStopAtLevel=1").env("JAVA_OPTS_KC_HEAP", "-Xms256m -Xmx768m");
            command.stdin(Stdio::null()).stderr(output.try_clone().unwrap()).stdout(output);
            started.send(command.spawn()).unwrap();
            loop {
                std::thread::park();
            }
        });
        let mut child = when_started.recv().unwrap().expect("setpriv (util-linux) does not start");
        let ready = eventually(STARTS, || {
            assert!(child.try_wait().unwrap().is_none(), "Keycloak ended: {}", std::fs::read_to_string(&log).unwrap());
            let health = SocketAddr::from(([127, 0, 0, 1], management));
            let listens = std::net::TcpStream::connect(health).is_ok();
            (listens && http1::get(health, "/health/ready", &[]).status == 200).then_some(())
        });
        assert!(ready.is_some(), "Keycloak is not ready: {}", std::fs::read_to_string(&log).unwrap());
        Self { address: SocketAddr::from(([127, 0, 0, 1], port)) }
    }

    /// Calls the Admin REST API; `path` begins behind `/admin/realms`.
    pub(crate) fn admin(&self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        let form = format!(
            "grant_type=password&client_id=admin-cli&username={}&password={}",
            ADMIN.0,
            ADMIN.1.replace(' ', "+")
        );
        let headers = [("content-type", "application/x-www-form-urlencoded")];
        let path_of_tokens = "/realms/master/protocol/openid-connect/token";
        let token = http1::send(self.address, "POST", path_of_tokens, &headers, form.as_bytes()).json();
        let bearer = format!("Bearer {}", token["access_token"].as_str().expect("no token for the administrator"));
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        let body = body.map(ToString::to_string).unwrap_or_default();
        http1::send(self.address, method, &format!("/admin/realms{path}"), &headers, body.as_bytes())
    }

    /// The same, which must succeed.
    fn done(&self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        let answer = self.admin(method, path, body);
        assert!((200..300).contains(&answer.status), "{method} {path}: {answer:?}");
        answer
    }

    /// A new realm in which `issuer` may speak for users, by the public keys `jwks`.
    pub(crate) fn realm(&'static self, issuer: &str, jwks: &str) -> Realm {
        static REALMS: AtomicU32 = AtomicU32::new(0);
        let name = format!("realm-{}", REALMS.fetch_add(1, Ordering::Relaxed));
        self.done("POST", "", Some(&json!({ "realm": name, "enabled": true })));
        let realm = Realm { keycloak: self, name };
        let provider = json!({
            "alias": PROVIDER,
            "providerId": "jwt-authorization-grant",
            "enabled": true,
            "hideOnLogin": true,
            "config": {
                "issuer": issuer,
                "jwtAuthorizationGrantEnabled": "true",
                "useJwksUrl": "false",
                "publicKeySignatureVerifier": jwks,
                "jwtAuthorizationGrantAssertionSignatureAlg": "ES256",
                "jwtAuthorizationGrantMaxAllowedAssertionExpiration": "60",
            },
        });
        realm.done("POST", "/identity-provider/instances", Some(&provider));
        realm
    }
}

/// What keyclasp is called as an identity provider.
const PROVIDER: &str = "keyclasp";

/// A realm of one test.
#[derive(Debug)]
pub(crate) struct Realm {
    keycloak: &'static Keycloak,
    pub(crate) name: String,
}

impl Realm {
    /// Calls the Admin REST API about this realm, which must succeed.
    pub(crate) fn done(&self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        self.keycloak.done(method, &format!("/{}{path}", self.name), body)
    }

    /// A client for which tokens are made, and which proves itself by the public keys `jwks`.
    pub(crate) fn minting_client(&self, client_id: &str, jwks: &str) {
        let client = json!({
            "clientId": client_id,
            "publicClient": false,
            "standardFlowEnabled": false,
            "directAccessGrantsEnabled": false,
            "serviceAccountsEnabled": false,
            "fullScopeAllowed": false,
            "clientAuthenticatorType": "client-jwt",
            "attributes": {
                "oauth2.jwt.authorization.grant.enabled": "true",
                "oauth2.jwt.authorization.grant.idp": PROVIDER,
                "access.token.lifespan": "60",
                "use.jwks.string": "true",
                "jwks.string": jwks,
                "token.endpoint.auth.signing.alg": "ES256",
            },
        });
        self.done("POST", "/clients", Some(&client));
    }

    /// A new user; answers Keycloak's id.
    pub(crate) fn user(&self, name: &str) -> String {
        let user = json!({
            "username": name,
            "enabled": true,
            "email": format!("{name}@example.com"),
            "emailVerified": true,
            "firstName": name,
            "lastName": "Example",
        });
        let made = self.done("POST", "/users", Some(&user));
        made.header("location").and_then(|place| place.rsplit('/').next()).expect("a user without a place").to_owned()
    }

    /// Links a user to what keyclasp calls `subject`.
    pub(crate) fn link(&self, user: &str, subject: &str) {
        let link = json!({ "userId": subject, "userName": subject });
        self.done("POST", &format!("/users/{user}/federated-identity/{PROVIDER}"), Some(&link));
    }

    /// The keys by which its tokens verify, and what it says of a token.
    pub(crate) fn get(&self, path: &str, token: Option<&str>) -> Answer {
        let bearer = token.map(|token| format!("Bearer {token}"));
        let headers: Vec<_> = bearer.iter().map(|bearer| ("authorization", bearer.as_str())).collect();
        http1::get(self.keycloak.address, &format!("/realms/{}{path}", self.name), &headers)
    }
}

impl Drop for Realm {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.keycloak.admin("DELETE", &format!("/{}", self.name), None);
        }
    }
}

/// A home of its own with what `scripts/setup.sh` prepared, by links: it writes nothing but its data.
fn prepared() -> PathBuf {
    let from = tools().join("keycloak").canonicalize().expect("there is no Keycloak; run scripts/setup.sh");
    let all = std::env::temp_dir();
    let ours = format!("keyclasp-keycloak-{}", std::process::id());
    // Those of runs that are over, and what another process of this number left.
    for other in std::fs::read_dir(&all).unwrap().filter_map(Result::ok) {
        let name = other.file_name().to_string_lossy().into_owned();
        let pid = name.strip_prefix("keyclasp-keycloak-");
        if name == ours || pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let _ = std::fs::remove_dir_all(other.path());
        }
    }
    let home = all.join(ours);
    // With times as they are: Keycloak takes other ones for changed files. By links where that can be.
    let copy = |how: &str| Command::new("cp").arg(how).args([&from, &home]).stderr(Stdio::null()).status().unwrap();
    assert!(copy("-al").success() || copy("-a").success(), "{} cannot be copied", from.display());
    home
}
