//! What the service says of itself to OAuth clients (RFC 8414): open to everybody, and there only
//! where an issuer is configured, as every URL in it follows from the issuer.

use bytes::Bytes;
use serde::Serialize;

use super::issuer::Issuer;
use super::{INTROSPECT, REVOKE};

/// The document (RFC 8414, section 2).
#[derive(Serialize)]
struct Document<'a> {
    /// As it is configured: a client compares it with the URL that it asked for (section 3.3).
    issuer: &'a str,
    introspection_endpoint: String,
    /// Names of client authentication methods, and `Bearer` of the registry of access token types:
    /// both may stand here.
    introspection_endpoint_auth_methods_supported: [&'static str; 2],
    revocation_endpoint: String,
    /// Without this member a client would take it for `client_secret_basic`; the key itself is the right.
    revocation_endpoint_auth_methods_supported: [&'static str; 1],
    /// Required, and empty: there is no authorization endpoint. (Section 3.2 would leave an empty list out, section 2
    /// does not allow it; clients that parse the document want it.)
    response_types_supported: [&'static str; 0],
    /// Left out it would mean two grants (section 2), and there is none.
    grant_types_supported: [&'static str; 0],
}

/// The document of `issuer`.
pub(super) fn document(issuer: &Issuer) -> Bytes {
    let document = Document {
        issuer: issuer.as_str(),
        introspection_endpoint: issuer.url(INTROSPECT),
        introspection_endpoint_auth_methods_supported: ["client_secret_basic", "Bearer"],
        revocation_endpoint: issuer.url(REVOKE),
        revocation_endpoint_auth_methods_supported: ["none"],
        response_types_supported: [],
        grant_types_supported: [],
    };
    // Texts and lists of texts: JSON can hold them.
    serde_json::to_vec(&document).unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn every_url_is_below_the_issuer() {
        for text in ["https://a.example/keys", "https://a.example/keys/"] {
            let document: Value = serde_json::from_slice(&document(&Issuer::parse(text).unwrap())).unwrap();
            let expected = json!({
                "issuer": text,
                "introspection_endpoint": "https://a.example/keys/oauth2/introspect",
                "introspection_endpoint_auth_methods_supported": ["client_secret_basic", "Bearer"],
                "revocation_endpoint": "https://a.example/keys/oauth2/revoke",
                "revocation_endpoint_auth_methods_supported": ["none"],
                "response_types_supported": [],
                "grant_types_supported": [],
            });
            assert_eq!(document, expected);
        }
    }
}
