//! `POST /oauth2/introspect` (RFC 7662): may this key pass, as resource servers ask that speak OAuth.
//!
//! The same decision as ValidateKey's. No address and no principal come with the question, so a key
//! that is bound to some is never active here: whoever asks could not know more than that. What a
//! resource server is told of an inactive token is that alone, whatever the reason (section 2.2).

use serde::Serialize;

use crate::clock::Timestamp;
use crate::key::{ApiKey, KeyRecord, OwnerKind, Realm, Scope};
use crate::rpc::urlencoded;
use crate::service::access::Call;
use crate::service::validate::{Check, Checked, Outcome};
use crate::service::{Error, ErrorKind, Service};

use super::issuer::Issuer;

/// The answer about a token that is not active: nothing else is told of it.
const INACTIVE: &[u8] = br#"{"active":false}"#;

/// What is asked.
#[derive(Debug)]
pub(super) struct Question {
    /// The presented text.
    token: ApiKey,
    /// Of our own: the realm that the key must belong to. None: any in which the caller may validate.
    realm: Option<Realm>,
}

impl Question {
    /// Reads a form (section 2.1). The hint would only say where to look first.
    ///
    /// # Errors
    /// When the form is not such a request; holds nothing of the token.
    pub(super) fn parse(form: &[u8]) -> Result<Self, Error> {
        let [token, _hint, realm] =
            urlencoded::parameters(form, ["token", "token_type_hint", "realm"]).map_err(super::malformed)?;
        let realm = realm.map(|realm| Realm::parse(&realm)).transpose();
        Ok(Self {
            token: super::token(token)?,
            realm: realm.map_err(|invalid| Error::new(ErrorKind::RequestMalformed, format!("realm {invalid}")))?,
        })
    }
}

/// Decides about `asked`, and writes the answer.
///
/// # Errors
/// When no decision was made: the caller may not ask, or the store did not answer.
pub(super) async fn introspect(
    service: &Service,
    issuer: Option<&Issuer>,
    call: &Call,
    asked: &Question,
) -> Result<Vec<u8>, Error> {
    let check = Check {
        text: &asked.token,
        realm: asked.realm.as_ref(),
        required_scopes: &[],
        source_address: None,
        source_principal: None,
    };
    let checked = service.validator.validate(call, &check).await?;
    Ok(match checked {
        Checked { outcome: Outcome::Valid, record: Some(held), .. } => {
            active(held.record(), service.validator.listed_scopes(held.record()), issuer)
        }
        _ => INACTIVE.to_vec(),
    })
}

/// The members of section 2.2, each where there is something to say.
#[derive(Serialize)]
struct Active<'a> {
    active: bool,
    /// With those that the key's own imply in its realm, as a resource server compares texts and does not
    /// know what implies what. A wildcard stands for itself. Scopes are RFC 6749's scope tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<String>,
    /// The client that the token was given to: the owner, where the owner is one. Who made the key is
    /// the audit log's.
    #[serde(skip_serializing_if = "Option::is_none")]
    client_id: Option<&'a str>,
    /// Of the owner, for people: its display name. Others may have the same; `sub` is who it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    username: Option<&'a str>,
    /// A key is used by whoever holds it, which is what this type means (RFC 6750).
    token_type: &'static str,
    /// In whole seconds, as JSON Web Tokens have them (RFC 7519), and never later than the truth.
    #[serde(skip_serializing_if = "Option::is_none")]
    exp: Option<u64>,
    /// When it was made.
    iat: u64,
    /// Never earlier than the truth.
    #[serde(skip_serializing_if = "Option::is_none")]
    nbf: Option<u64>,
    /// For whom the key acts: the owner's id, which for a Keycloak user is the `sub` of that user's tokens.
    sub: &'a str,
    /// The realm: a key is for the services of its realm, and `sub` is unique within it. So whoever validates in
    /// several realms must look at this, or ask with `realm`.
    aud: &'a str,
    /// Who issued it, where that has a URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<&'a str>,
    /// The key's id: what RevokeKey takes and the audit log shows. No secret.
    jti: String,
}

fn active(record: &KeyRecord, scopes: impl IntoIterator<Item = Scope>, issuer: Option<&Issuer>) -> Vec<u8> {
    let owner = &record.owner;
    let scopes: Vec<_> = scopes.into_iter().map(Scope::into_string).collect();
    let answer = Active {
        active: true,
        scope: (!scopes.is_empty()).then(|| scopes.join(" ")),
        client_id: matches!(owner.reference.kind(), OwnerKind::Client | OwnerKind::ServiceAccount)
            .then(|| owner.reference.id()),
        username: Some(owner.display_name.as_str()).filter(|name| !name.is_empty()),
        token_type: "Bearer",
        exp: record.expires_at.map(whole_seconds),
        iat: whole_seconds(record.created_at),
        nbf: record.not_before.map(|begin| begin.as_millis().div_ceil(1000)),
        sub: owner.reference.id(),
        aud: record.realm.as_str(),
        iss: issuer.map(Issuer::as_str),
        jti: record.id.to_string(),
    };
    // Texts and numbers: JSON can hold them.
    serde_json::to_vec(&answer).unwrap_or_else(|_| INACTIVE.to_vec())
}

const fn whole_seconds(time: Timestamp) -> u64 {
    time.as_millis() / 1000
}
