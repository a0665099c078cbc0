//! HTTP Basic, for those who speak OAuth: the name and the token of a configured caller
//! (`client_secret_basic`, RFC 6749 section 2.3.1). Tokens are compared by their digests, as bearers are.

use std::sync::Arc;

use data_encoding::BASE64;
use http::HeaderValue;
use zeroize::Zeroizing;

use super::{Authenticator, TokenDigest};
use crate::rpc::urlencoded;
use crate::service::access::Principal;
use crate::service::{Error, ErrorKind};

/// Whose name and token `value` holds. None: it is of another scheme.
///
/// # Errors
/// Unauthenticated when they are nobody's.
pub(super) fn holder<'a>(
    authenticator: &'a Authenticator,
    value: &HeaderValue,
) -> Option<Result<&'a Arc<Principal>, Error>> {
    let credentials = credentials(value)?;
    Some(credentials.and_then(|credentials| credentials.holder(authenticator).ok_or_else(unknown)))
}

/// One answer, whatever is wrong with them.
fn unknown() -> Error {
    refused("the name and token are not those of a caller that is configured here")
}

fn refused(message: &str) -> Error {
    Error::new(ErrorKind::Unauthenticated, message)
}

/// A client's name and token, as they were sent.
struct Credentials {
    sent: Zeroizing<Vec<u8>>,
}

impl Credentials {
    /// Whose they are. The standard wants both form-encoded; many clients send them as they are, and who
    /// has one spelling of a token has the other.
    fn holder<'a>(&self, authenticator: &'a Authenticator) -> Option<&'a Arc<Principal>> {
        let colon = self.sent.iter().position(|byte| *byte == b':')?;
        let (name, token) = (self.sent.get(..colon)?, self.sent.get(colon + 1..)?);
        // Nobody has the empty token, whatever is configured.
        let holder = |name: &[u8], token: &[u8]| {
            if token.is_empty() {
                return None;
            }
            let principal = authenticator.holder(&TokenDigest::of(token))?;
            (principal.name.as_str().as_bytes() == name).then_some(principal)
        };
        let decoded = urlencoded::decode(name).zip(urlencoded::decode(token));
        let encoded = decoded.and_then(|(name, token)| holder(name.as_bytes(), token.as_bytes()));
        encoded.or_else(|| holder(name, token))
    }
}

/// The credentials of `Basic …`; the scheme's case does not matter (RFC 9110). None: another scheme.
fn credentials(value: &HeaderValue) -> Option<Result<Credentials, Error>> {
    let (scheme, encoded) = value.as_bytes().split_at_checked("basic ".len())?;
    scheme.eq_ignore_ascii_case(b"basic ").then(|| {
        let mut sent = Zeroizing::new(vec![0; BASE64.decode_len(encoded.len()).map_err(|_| not_basic())?]);
        let length = BASE64.decode_mut(encoded, &mut sent).map_err(|_| not_basic())?;
        sent.truncate(length);
        if sent.contains(&b':') { Ok(Credentials { sent }) } else { Err(not_basic()) }
    })
}

fn not_basic() -> Error {
    refused("the authorization header is not of the form `Basic BASE64(NAME:TOKEN)`")
}

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;

    use http::header::AUTHORIZATION;
    use proptest::prelude::*;

    use super::*;
    use crate::key::{Actor, Caps};
    use crate::rpc::auth::{Binding, Credential};

    const NAME: &str = "rs: é+%41";
    const TOKEN: &str = "to+ken%2B:with=odd characters";

    fn binding(name: &str, token: &str) -> Binding {
        let principal = Principal { name: Actor::parse(name).unwrap(), grants: Vec::new(), caps: Caps::default() };
        Binding { credential: Credential::Token(TokenDigest::of(token.as_bytes())), principal: Arc::new(principal) }
    }

    fn authenticator() -> Authenticator {
        Authenticator::new([binding("rs", "s3cret"), binding("mesh", "other"), binding(NAME, TOKEN)]).unwrap()
    }

    fn value(value: impl AsRef<[u8]>) -> HeaderValue {
        HeaderValue::from_bytes(value.as_ref()).unwrap()
    }

    /// Who that is, and whether the connection remembers it.
    fn called(authenticator: &Authenticator, values: &[HeaderValue]) -> Result<(String, bool), Error> {
        let (origin, shown) = (Arc::from("192.0.2.1"), OnceLock::new());
        let headers = values.iter().map(|value| (AUTHORIZATION, value.clone())).collect();
        let call = authenticator.client(&headers, &origin, &shown)?;
        assert_eq!(&*call.origin, "192.0.2.1");
        Ok((call.principal.name.to_string(), shown.get().is_some()))
    }

    fn who(values: &[&str]) -> Result<(String, bool), String> {
        let values: Vec<_> = values.iter().map(value).collect();
        called(&authenticator(), &values).map_err(|error| {
            assert_eq!(error.kind, ErrorKind::Unauthenticated);
            error.message
        })
    }

    fn encoded(credentials: &[u8]) -> String {
        format!("Basic {}", BASE64.encode(credentials))
    }

    /// All of it, so that whatever could go wrong does.
    fn percent(text: &str) -> String {
        text.bytes().map(|byte| format!("%{byte:02x}")).collect()
    }

    #[test]
    fn a_name_with_its_token_is_its_holder_and_is_not_remembered() {
        for value in ["Basic cnM6czNjcmV0", "basic cnM6czNjcmV0", "BASIC cnM6czNjcmV0"] {
            assert_eq!(who(&[value]), Ok(("rs".to_owned(), false)), "{value}");
        }
        // What is remembered is taken for every method of the API, where Basic is no credential.
        assert_eq!(who(&["Bearer s3cret"]), Ok(("rs".to_owned(), true)));
        let odd = encoded(format!("{}:{}", percent(NAME), percent(TOKEN)).as_bytes());
        assert_eq!(who(&[&odd]), Ok((NAME.to_owned(), false)));
        assert!(who(&[]).unwrap_err().contains("needs a caller"));
    }

    #[test]
    fn a_token_is_taken_as_it_is_too() {
        let authenticator = Authenticator::new([binding("rs", "a+b%2Bc:d")]).unwrap();
        for credentials in ["rs:a+b%2Bc:d", "rs:a%2Bb%252Bc%3Ad", "r%73:a%2Bb%252Bc:d"] {
            assert!(called(&authenticator, &[value(encoded(credentials.as_bytes()))]).is_ok(), "{credentials}");
        }
    }

    #[test]
    fn nobody_has_the_empty_token() {
        let authenticator = Authenticator::new([binding("rs", "")]).unwrap();
        assert!(called(&authenticator, &[value(encoded(b"rs:"))]).is_err());
    }

    #[test]
    fn whatever_is_wrong_with_name_or_token_the_answer_is_one() {
        let wrong = who(&[&encoded(b"rs:wrong")]).unwrap_err();
        for credentials in
            ["mesh:s3cret", ":s3cret", "rs:", "rs:s3cret ", " rs:s3cret", "RS:s3cret", "nobody:s3cret", ":", "rs:%zz"]
        {
            assert_eq!(who(&[&encoded(credentials.as_bytes())]).unwrap_err(), wrong, "{credentials}");
        }
        assert!(!wrong.contains("s3cret"));
    }

    #[test]
    fn what_is_no_credential_is_refused() {
        for value in [
            "Basic ",
            "Basic",
            "Basic  cnM6czNjcmV0",
            "Basic cnM6czNjcmV0 ",
            "Basic cnM6czNjcmV",
            "Basic cnM6czNjcmV0=",
            "Basic s3cret",
            &encoded(b"rs-s3cret"),
            "Digest x",
            "s3cret",
            "",
        ] {
            assert!(who(&[value]).unwrap_err().contains("not of the form"), "{value:?}");
        }
        let good = encoded(b"rs:s3cret");
        for pair in [[good.as_str(), &good], [&good, "Bearer s3cret"], ["Bearer s3cret", &good]] {
            assert!(who(&pair).unwrap_err().contains("exactly one"), "{pair:?}");
        }
    }

    proptest! {
        #[test]
        fn any_name_and_token_are_known_form_encoded_and_no_others_are(
            name in "[ -~é]{1,12}", token in "[!-~]{1,20}", other in "[!-~]{1,20}",
        ) {
            prop_assume!(Actor::parse(&name).is_ok());
            let authenticator = Authenticator::new([binding(&name, &token)]).unwrap();
            let knows = |name: &str, token: &str| {
                called(&authenticator, &[value(encoded(format!("{name}:{token}").as_bytes()))]).is_ok()
            };
            prop_assert!(knows(&percent(&name), &percent(&token)));
            prop_assert!(name.contains(':') || knows(&name, &token));
            prop_assert!(other == token || !knows(&percent(&name), &percent(&other)));
            prop_assert!(other == name || !knows(&percent(&other), &percent(&token)));
        }

        #[test]
        fn any_header_is_read_or_refused(sent in proptest::collection::vec(32_u8..=255, 0..60)) {
            prop_assume!(!sent.contains(&127));
            prop_assert!(called(&authenticator(), &[value(sent)]).is_err());
        }
    }
}
