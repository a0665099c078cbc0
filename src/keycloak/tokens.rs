//! Access tokens of owners, by Keycloak's JWT authorization grant (RFC 7523, section 2.1).

use std::fmt;
use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use http::{StatusCode, Uri};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::assertion::{Assertion, Claims};
use super::http::{Answer, Bounds, Http, HttpError};
use super::signing::{SigningKey, SigningKeyError};
use crate::clock::Timestamp;
use crate::random::{Entropy, EntropyError, bytes};

/// `grant_type` of RFC 7523, section 2.1.
const GRANT: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
/// `client_assertion_type` of RFC 7523, section 2.2.
const CLIENT_ASSERTION: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
/// How long an assertion lives.
const ASSERTION_LIVES: Duration = Duration::from_secs(30);
/// Longest access token that is taken, in characters.
const LONGEST_TOKEN: usize = 64 * 1024;

/// One realm of a Keycloak.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeycloakRealm {
    /// Where its token endpoint is.
    token_endpoint: Uri,
    /// What it calls itself: `iss` of its tokens, and `aud` of what is said to it.
    issuer: String,
}

impl KeycloakRealm {
    /// The realm `name` of the Keycloak that is reached at `url` and calls itself `hostname`.
    ///
    /// # Errors
    /// When that is no URL.
    pub fn new(url: &str, hostname: &str, name: &str) -> Result<Self, http::uri::InvalidUri> {
        let path = format!("/realms/{}", segment(name));
        let token_endpoint = format!("{}{path}/protocol/openid-connect/token", url.trim_end_matches('/')).parse()?;
        Ok(Self { token_endpoint, issuer: format!("{}{path}", hostname.trim_end_matches('/')) })
    }

    /// `iss` of its tokens.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.issuer
    }
}

/// As whom keyclasp asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Minter {
    /// The issuer of the identity provider: `iss` of assertions about owners.
    pub issuer: String,
    /// The client that tokens are made for: `azp` of them.
    pub client_id: String,
}

/// An access token. Who has it acts for its owner: a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct AccessToken {
    text: Zeroizing<String>,
    /// Until when it is good, by its own word.
    pub expires_at: Timestamp,
    /// What it is good for, with a space between each two.
    pub scope: String,
}

impl AccessToken {
    /// The text.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.text
    }
}

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessToken")
            .field("expires_at", &self.expires_at)
            .field("scope", &self.scope)
            .finish_non_exhaustive()
    }
}

/// Why there is no token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MintError {
    /// The owner is disabled.
    #[error("the owner is disabled")]
    OwnerDisabled,
    /// The owner has to do something first, such as to verify an address.
    #[error("the owner has to log in and do what Keycloak requires first")]
    ActionRequired,
    /// Nobody is linked to this owner: the owner never linked the account, or was deleted.
    #[error("no user of Keycloak's is linked to this owner")]
    NotLinked,
    /// A scope is not known to Keycloak, or the minting client may not ask for it.
    #[error("Keycloak gives no token for these scopes: {0}")]
    Scope(String),
    /// Keycloak is not set up for this: an operator has to mend it.
    #[error("Keycloak refuses: {0}; look at the identity provider and the client of this realm")]
    Misconfigured(String),
    /// What Keycloak answered is not what it may answer. Nothing of it is used.
    #[error("Keycloak's answer is refused: {0}")]
    Unusable(String),
    /// It cannot be reached, or cannot answer now.
    #[error("{0}")]
    Unavailable(String),
    /// No randomness.
    #[error(transparent)]
    Entropy(#[from] EntropyError),
}

impl From<HttpError> for MintError {
    fn from(error: HttpError) -> Self {
        match error {
            HttpError::Unreachable(_) | HttpError::TooLate(_) => Self::Unavailable(error.to_string()),
            HttpError::TooLong => Self::Unusable(error.to_string()),
            HttpError::Redirected(_) => Self::Misconfigured(error.to_string()),
        }
    }
}

impl From<SigningKeyError> for MintError {
    fn from(_: SigningKeyError) -> Self {
        Self::Entropy(EntropyError)
    }
}

/// Makes tokens. Clones are the same.
#[derive(Debug, Clone)]
pub struct Mint {
    http: Http,
    minter: Minter,
}

impl Mint {
    /// One that asks as `minter`.
    ///
    /// # Errors
    /// When the certificates of this system cannot be read.
    pub fn new(minter: Minter, bounds: Bounds) -> std::io::Result<Self> {
        Ok(Self { http: Http::new(bounds)?, minter })
    }

    /// An access token of the user `subject` of `realm`, for `scope`, which may be empty.
    ///
    /// # Errors
    /// When Keycloak gives none, or gives one that is not what was asked for.
    pub async fn token(
        &self,
        realm: &KeycloakRealm,
        subject: &str,
        scope: &str,
        key: &SigningKey,
        now: Timestamp,
        entropy: &dyn Entropy,
    ) -> Result<AccessToken, MintError> {
        let sign = |issuer, subject, scope| -> Result<Assertion, MintError> {
            let audience = realm.issuer();
            let claims =
                Claims { issuer, subject, audience, scope, now, lifetime: ASSERTION_LIVES, unique: bytes(entropy)? };
            Ok(claims.sign(key)?)
        };
        let Minter { issuer, client_id } = &self.minter;
        let owner = sign(issuer, subject, Some(scope))?;
        let client = sign(client_id, client_id, None)?;
        let form = form(&[
            ("grant_type", GRANT),
            ("assertion", owner.expose()),
            ("scope", scope),
            ("client_id", client_id),
            ("client_assertion_type", CLIENT_ASSERTION),
            ("client_assertion", client.expose()),
        ]);
        let answer = self.http.post(&realm.token_endpoint, form).await?;
        read(&answer, realm, subject, client_id, now)
    }
}

/// What Keycloak says when it gives a token (RFC 6749, section 5.1).
#[derive(Deserialize)]
struct Given {
    access_token: String,
    token_type: String,
    #[serde(default)]
    scope: String,
}

/// What it says when it does not (RFC 6749, section 5.2).
#[derive(Deserialize)]
struct Refused {
    error: String,
    #[serde(default)]
    error_description: String,
}

/// What an access token says of itself (RFC 7519, section 4.1).
#[derive(Deserialize)]
struct Said {
    iss: String,
    sub: String,
    azp: String,
    exp: u64,
}

fn read(
    answer: &Answer,
    realm: &KeycloakRealm,
    subject: &str,
    client_id: &str,
    now: Timestamp,
) -> Result<AccessToken, MintError> {
    let unusable = |what: &str| MintError::Unusable(what.to_owned());
    if answer.status != StatusCode::OK {
        return Err(refusal(answer));
    }
    let Given { access_token, token_type, scope } =
        serde_json::from_slice(&answer.body).map_err(|_| unusable("it is no token response"))?;
    let text = Zeroizing::new(access_token);
    if !token_type.eq_ignore_ascii_case("bearer") {
        return Err(unusable("its token is no bearer token"));
    }
    // It becomes the value of a header field.
    if text.len() > LONGEST_TOKEN || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(unusable("its token is too long, or holds what no token holds"));
    }
    let said: Said = payload(&text).ok_or_else(|| unusable("its token cannot be read"))?;
    // From whom was configured, so the signature is for those who take it; whose token it is, is our business.
    if said.iss != realm.issuer {
        return Err(unusable(&format!("its token is of the issuer {:?}", said.iss)));
    }
    if said.sub != subject {
        return Err(unusable("its token is somebody else's"));
    }
    if said.azp != client_id {
        return Err(unusable(&format!("its token is made for the client {:?}", said.azp)));
    }
    let expires_at = Timestamp::from_millis(said.exp.saturating_mul(1000));
    if expires_at <= now {
        return Err(unusable("its token has expired; compare the clocks"));
    }
    Ok(AccessToken { text, expires_at, scope })
}

/// The claims of a JWT in its compact form (RFC 7515, section 7.1).
fn payload(token: &str) -> Option<Said> {
    let mut parts = token.split('.');
    let (Some(_), Some(payload), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return None;
    };
    serde_json::from_slice(&BASE64URL_NOPAD.decode(payload.as_bytes()).ok()?).ok()
}

/// What a refusal means: by the code where there is one for it, and otherwise by Keycloak's text.
fn refusal(answer: &Answer) -> MintError {
    let Ok(Refused { error, error_description }) = serde_json::from_slice::<Refused>(&answer.body) else {
        let status = answer.status;
        return if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
            MintError::Unavailable(format!("Keycloak cannot answer now: {status}"))
        } else {
            MintError::Misconfigured(format!("{status}, which is no answer of a token endpoint"))
        };
    };
    if answer.status.is_server_error() || answer.status == StatusCode::TOO_MANY_REQUESTS {
        return MintError::Unavailable(format!("Keycloak cannot answer now: {} {error}", answer.status));
    }
    match (error.as_str(), error_description.as_str()) {
        ("invalid_scope", _) => MintError::Scope(error_description),
        ("invalid_grant", "User is not enabled") => MintError::OwnerDisabled,
        ("invalid_grant", "Account is not fully set up") => MintError::ActionRequired,
        ("invalid_grant", "User not found") => MintError::NotLinked,
        _ => MintError::Misconfigured(format!("{error}: {error_description}")),
    }
}

/// `application/x-www-form-urlencoded`, without the fields that are empty.
fn form(fields: &[(&str, &str)]) -> String {
    let mut form = String::new();
    for (name, value) in fields.iter().filter(|(_, value)| !value.is_empty()) {
        if !form.is_empty() {
            form.push('&');
        }
        form.push_str(name);
        form.push('=');
        form.push_str(&segment(value));
    }
    form
}

/// `text` with everything percent-encoded that does not mean itself everywhere (RFC 3986, section 2.3).
fn segment(text: &str) -> String {
    use fmt::Write as _;
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

    fn realm() -> KeycloakRealm {
        KeycloakRealm::new("http://127.0.0.1:8080/", "https://sso.example.com", "acme inc").unwrap()
    }

    fn said() -> Value {
        json!({ "iss": realm().issuer(), "sub": "u-1", "azp": "keyclasp", "exp": 1_700_000_060 })
    }

    fn token(said: &Value) -> String {
        ["{}", &said.to_string(), "signature"].map(|part| BASE64URL_NOPAD.encode(part.as_bytes())).join(".")
    }

    fn given(token: &str) -> Value {
        json!({ "access_token": token, "token_type": "Bearer", "scope": "orders:read", "expires_in": 60 })
    }

    fn answered(status: u16, body: impl ToString) -> Result<AccessToken, MintError> {
        let answer = Answer { status: StatusCode::from_u16(status).unwrap(), body: body.to_string().into() };
        read(&answer, &realm(), "u-1", "keyclasp", NOW)
    }

    #[test]
    fn a_realm_has_its_place_and_its_name() {
        assert_eq!(realm().issuer(), "https://sso.example.com/realms/acme%20inc");
        let endpoint = "http://127.0.0.1:8080/realms/acme%20inc/protocol/openid-connect/token";
        assert_eq!(realm().token_endpoint, endpoint);
        assert!(KeycloakRealm::new("http://a b", "x", "acme").is_err());
    }

    #[test]
    fn a_token_is_taken_that_is_what_was_asked_for() {
        let text = token(&said());
        let taken = answered(200, given(&text)).unwrap();
        assert_eq!((taken.expose(), taken.scope.as_str()), (text.as_str(), "orders:read"));
        assert_eq!(taken.expires_at, Timestamp::from_millis(1_700_000_060_000));
        assert!(!format!("{taken:?}").contains(&text));
    }

    #[test]
    fn any_other_token_is_refused() {
        for (name, value) in [
            ("iss", json!("https://sso.example.com/realms/other")),
            ("iss", Value::Null),
            ("sub", json!("u-2")),
            ("azp", json!("account-console")),
            ("exp", json!(1_700_000_000)),
            ("exp", json!("soon")),
        ] {
            let mut said = said();
            said[name] = value.clone();
            let refused = answered(200, given(&token(&said)));
            assert!(matches!(refused, Err(MintError::Unusable(_))), "{name} {value}: {refused:?}");
        }
        let whole = token(&said());
        for body in [
            given(""),
            given("opaque"),
            given(&format!("{whole}.more")),
            given(&format!("{whole}\r\nx-evil: 1")),
            given(&format!("{whole}{}", "x".repeat(LONGEST_TOKEN))),
            json!({ "access_token": whole, "token_type": "DPoP" }),
            json!({ "token_type": "Bearer" }),
            json!("<html>"),
        ] {
            let refused = answered(200, &body);
            assert!(matches!(refused, Err(MintError::Unusable(_))), "{body}: {refused:?}");
        }
    }

    #[test]
    fn refusals_mean_what_keycloak_says() {
        let refused = |status, error: &str, description: &str| {
            answered(status, json!({ "error": error, "error_description": description })).unwrap_err()
        };
        assert_eq!(refused(400, "invalid_grant", "User is not enabled"), MintError::OwnerDisabled);
        assert_eq!(refused(400, "invalid_grant", "Account is not fully set up"), MintError::ActionRequired);
        assert_eq!(refused(400, "invalid_grant", "User not found"), MintError::NotLinked);
        assert_eq!(
            refused(400, "invalid_scope", "Invalid scopes: x"),
            MintError::Scope("Invalid scopes: x".to_owned())
        );
        for (status, error, description) in [
            (400, "invalid_grant", "Invalid signature"),
            (400, "invalid_grant", "No Identity Provider for provided issuer"),
            (401, "unauthorized_client", "Invalid client credentials"),
            (404, "Realm does not exist", ""),
        ] {
            let error = refused(status, error, description);
            assert!(matches!(&error, MintError::Misconfigured(said) if said.contains(description)), "{error}");
        }
        for status in [429, 500, 503] {
            for body in ["<html>down</html>".to_owned(), json!({ "error": "unknown_error" }).to_string()] {
                assert!(matches!(answered(status, body), Err(MintError::Unavailable(_))), "{status}");
            }
        }
        assert!(matches!(answered(404, "<html>"), Err(MintError::Misconfigured(_))));
    }

    #[test]
    fn a_form_holds_anything() {
        assert_eq!(form(&[("a", "b c+d&e=é"), ("empty", ""), ("g", "~")]), "a=b%20c%2Bd%26e%3D%C3%A9&g=~");
    }
}
