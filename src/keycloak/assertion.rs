//! Assertions: what keyclasp says about an owner, for once and for a short time (RFC 7523, section 3).

use std::time::Duration;

use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use serde::Serialize;
use zeroize::Zeroizing;

use super::signing::{ALGORITHM, SigningKey, SigningKeyError};
use crate::clock::Timestamp;

/// How long an assertion may live. Keycloak forgets which ones it has seen when it starts anew, so one that
/// was stolen is of use for no longer than that.
pub const LONGEST_ASSERTION: Duration = Duration::from_secs(60);

/// A signed assertion: who has it gets a token, so it is a secret.
pub struct Assertion(Zeroizing<String>);

impl Assertion {
    /// The text, as a request has it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Assertion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Assertion(…)")
    }
}

/// What an assertion says.
#[derive(Debug, Clone, Copy)]
pub struct Claims<'a> {
    /// Who says it: the issuer of the identity provider, or the client that proves itself.
    pub issuer: &'a str,
    /// About whom.
    pub subject: &'a str,
    /// To whom: exactly one, the issuer of the realm.
    pub audience: &'a str,
    /// The most that may be asked for, with a space between each two; none: nothing is said about that.
    pub scope: Option<&'a str>,
    /// When.
    pub now: Timestamp,
    /// For how long; what is longer than [`LONGEST_ASSERTION`] is cut.
    pub lifetime: Duration,
    /// What makes it one of its kind: random bytes. Keycloak refuses a second one.
    pub unique: [u8; 16],
}

impl Claims<'_> {
    /// Signs them.
    ///
    /// # Errors
    /// When there is no randomness.
    pub fn sign(&self, key: &SigningKey) -> Result<Assertion, SigningKeyError> {
        let now = self.now.as_millis() / 1000;
        let header = Header { alg: ALGORITHM, typ: "JWT", kid: key.id() };
        let body = Body {
            iss: self.issuer,
            sub: self.subject,
            aud: self.audience,
            scope: self.scope,
            iat: now,
            exp: now + self.lifetime.min(LONGEST_ASSERTION).as_secs(),
            jti: uuid(self.unique),
        };
        let signed = format!("{}.{}", encoded(&header), encoded(&body));
        let signature = BASE64URL_NOPAD.encode(&key.sign(signed.as_bytes())?);
        Ok(Assertion(Zeroizing::new(format!("{signed}.{signature}"))))
    }
}

/// The JOSE header (RFC 7515, section 4).
#[derive(Serialize)]
struct Header<'a> {
    alg: &'static str,
    typ: &'static str,
    kid: &'a str,
}

/// The claims (RFC 7519, section 4.1).
#[derive(Serialize)]
struct Body<'a> {
    iss: &'a str,
    sub: &'a str,
    aud: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<&'a str>,
    iat: u64,
    exp: u64,
    jti: String,
}

fn encoded(part: &impl Serialize) -> String {
    // Texts and numbers alone: there is nothing in them that JSON could not hold.
    BASE64URL_NOPAD.encode(&serde_json::to_vec(part).unwrap_or_default())
}

/// A random UUID (RFC 9562, section 5.4): Keycloak keeps the ids that it has seen as such.
fn uuid(mut bytes: [u8; 16]) -> String {
    let [_, _, _, _, _, _, version, _, variant, ..] = &mut bytes;
    *version = *version & 0x0f | 0x40;
    *variant = *variant & 0x3f | 0x80;
    let digits = HEXLOWER.encode(&bytes);
    let part = |from: usize, to: usize| digits.get(from..to).unwrap_or_default();
    [part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32)].join("-")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn claims() -> Claims<'static> {
        Claims {
            issuer: "https://keys.example.com",
            subject: "3f2b9c1e-0000-4000-8000-000000000001",
            audience: "https://sso.example.com/realms/acme",
            scope: Some("orders:read orders:write"),
            now: Timestamp::from_millis(1_700_000_000_999),
            lifetime: Duration::from_secs(30),
            unique: [0xff; 16],
        }
    }

    fn read(claims: &Claims<'_>) -> [Value; 2] {
        let key = SigningKey::parse(&SigningKey::generate().unwrap()).unwrap();
        let assertion = claims.sign(&key).unwrap();
        let parts: Vec<_> = assertion.expose().split('.').collect();
        assert_eq!(parts.len(), 3);
        let read = |at: usize| serde_json::from_slice(&BASE64URL_NOPAD.decode(parts[at].as_bytes()).unwrap()).unwrap();
        let header: Value = read(0);
        assert_eq!(header["kid"], key.id());
        assert!(!format!("{assertion:?}").contains(parts[2]));
        [header, read(1)]
    }

    #[test]
    fn it_says_what_it_was_told() {
        let [header, body] = read(&claims());
        assert_eq!((&header["alg"], &header["typ"]), (&json!("ES256"), &json!("JWT")));
        assert_eq!(
            body,
            json!({
                "iss": "https://keys.example.com",
                "sub": "3f2b9c1e-0000-4000-8000-000000000001",
                "aud": "https://sso.example.com/realms/acme",
                "scope": "orders:read orders:write",
                "iat": 1_700_000_000,
                "exp": 1_700_000_030,
                "jti": "ffffffff-ffff-4fff-bfff-ffffffffffff",
            })
        );
    }

    #[test]
    fn it_lives_no_longer_than_a_minute_and_need_not_name_a_scope() {
        let claims = Claims { scope: None, lifetime: Duration::from_secs(3600), ..claims() };
        let [_, body] = read(&claims);
        assert_eq!(body["exp"], 1_700_000_060);
        assert!(body.get("scope").is_none());
    }
}
