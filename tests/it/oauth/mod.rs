//! OAuth's words for a key, against a running service: introspection, revocation and metadata, by raw HTTP and by
//! the clients that others wrote.

mod clients;
mod documented;
mod errors;
mod introspection;
mod metadata;
mod outages;
mod revocation;

use std::fmt;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use data_encoding::BASE64;
use serde_json::{Value, json};

use crate::support::json::call;
use crate::support::server::{Keyclasp, Setup};

/// Names and tokens of the callers that [`callers`] adds. `rs` validates in the realm `acme`, `wide` in `acme` and
/// `beta`, `maker` makes keys everywhere and validates nowhere.
const RS: [&str; 2] = ["rs", "rs-token-of-a-test"];
const WIDE: [&str; 2] = ["wide one", "wide+token%of a:test"];
const MAKER: [&str; 2] = ["maker", "maker-token-of-a-test"];
const INTROSPECT: &str = "/oauth2/introspect";
const REVOKE: &str = "/oauth2/revoke";
const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");

/// With callers of its own.
fn callers(setup: Setup) -> Setup {
    setup.toml(
        &[
            caller(RS, "validator", r#"["acme"]"#),
            caller(WIDE, "validator", r#"["acme", "beta"]"#),
            caller(MAKER, "issuer", r#"["*"]"#),
        ]
        .concat(),
    )
}

/// The settings of a caller.
fn caller([name, token]: [&str; 2], role: &str, realms: &str) -> String {
    let digest = data_encoding::HEXLOWER.encode(&<sha2::Sha256 as sha2::Digest>::digest(token));
    format!("[[callers]]\nname = \"{name}\"\ntoken_sha256 = \"{digest}\"\nroles = [\"{role}\"]\nrealms = {realms}\n")
}

fn started() -> Keyclasp {
    callers(Keyclasp::set_up()).start()
}

/// `Basic …` as most clients write it: name and token as they are.
fn basic([name, token]: [&str; 2]) -> String {
    format!("Basic {}", BASE64.encode(format!("{name}:{token}").as_bytes()))
}

/// A text in a form.
fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// What came back.
pub(crate) struct Answer {
    status: u16,
    /// Status and headers in lower case.
    head: String,
    body: String,
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n\n{}", self.head, self.body)
    }
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    fn has(&self, header: &str) -> bool {
        self.head.lines().any(|line| line == header)
    }

    /// Status and code of an OAuth error, which holds what every such error must.
    fn error(&self) -> (u16, String) {
        let error = self.json();
        assert!(self.has("content-type: application/json"), "{self:?}");
        assert!(self.has("cache-control: no-store") && self.has("pragma: no-cache"), "{self:?}");
        assert!(!error["error_description"].as_str().unwrap().is_empty(), "{self:?}");
        assert_eq!(error.as_object().unwrap().len(), 2, "{self:?}");
        assert_eq!(self.head.contains("\nretry-after: "), self.status == 503, "{self:?}");
        (self.status, error["error"].as_str().unwrap().to_owned())
    }
}

/// Sends a request over a connection of its own.
pub(crate) fn send(address: SocketAddr, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    let mut request = format!("{method} {target} HTTP/1.1\r\nhost: keyclasp.test\r\nconnection: close\r\n");
    if !headers.iter().any(|(name, _)| *name == "transfer-encoding") {
        request.push_str(&format!("content-length: {}\r\n", body.len()));
    }
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str("\r\n");
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    // Who refuses a request early may not read all of it.
    let _ = stream.write_all(body);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no HTTP answer: {answer:?}"));
    let status = head.split_whitespace().nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_ascii_lowercase().replace("\r\n", "\n"), body: body.to_owned() }
}

/// Sends a form.
fn post(server: &Keyclasp, path: &str, who: Option<[&str; 2]>, form: &str) -> Answer {
    let authorization = who.map(basic);
    let mut headers = vec![FORM];
    headers.extend(authorization.as_deref().map(|value| ("authorization", value)));
    send(server.listen(), "POST", path, &headers, form.as_bytes())
}

/// What `who` is told of a token.
fn introspect(server: &Keyclasp, who: [&str; 2], token: &str) -> Value {
    let answer = post(server, INTROSPECT, Some(who), &format!("token={}", encoded(token)));
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

/// That it is not active, and nothing else.
fn inactive() -> Value {
    json!({"active": false})
}

/// Id and text of a new key: a user's, in the realm `acme`, with more fields or other ones.
fn key(server: &Keyclasp, fields: &Value) -> (String, String) {
    let mut create = json!({"realm": "acme", "owner": {"kind": "OWNER_KIND_USER", "id": "u-1"}});
    for (name, value) in fields.as_object().unwrap() {
        create[name] = value.clone();
    }
    let made = done(server, "KeyService/CreateKey", &create);
    (made["key"]["id"].as_str().unwrap().to_owned(), made["apiKey"].as_str().unwrap().to_owned())
}

/// The answer to a call of the admin.
fn done(server: &Keyclasp, method: &str, request: &Value) -> Value {
    let (status, answer) = call(server.listen(), &server.token(), method, request);
    assert_eq!(status, 200, "{method}: {answer}");
    answer
}
