//! The keys that sign assertions: ES256 (RFC 7518, section 3.4), and the document by which others verify
//! (RFC 7517).
//!
//! Several keys are published and one of them signs, so that they can be changed: one is published first, signs once
//! Keycloak has had time to see it, and is taken out when the last assertion of its is over.

use std::fmt;

use data_encoding::{BASE64, BASE64URL_NOPAD};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

/// Bytes of a coordinate of P-256.
const COORDINATE: usize = 32;
/// What stands before a public key that is not compressed (SEC 1, section 2.3.3).
const UNCOMPRESSED: u8 = 4;
/// How a private key is written (RFC 7468, section 10).
const BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
const END: &str = "-----END PRIVATE KEY-----";
/// Characters of a line of it.
const LINE: usize = 64;

/// Why there is no such key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SigningKeyError {
    /// The text is no such key.
    #[error(
        "not an unencrypted P-256 private key in PKCS #8 (BEGIN PRIVATE KEY); `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256` makes one"
    )]
    NotAKey,
    /// No randomness.
    #[error("the operating system gave no random bytes")]
    Entropy,
    /// Two of them are one key.
    #[error("two of the signing keys are the same one")]
    Duplicate,
    /// There is none.
    #[error("there is no signing key")]
    None,
}

/// A key that signs.
pub struct SigningKey {
    id: String,
    pair: EcdsaKeyPair,
    x: [u8; COORDINATE],
    y: [u8; COORDINATE],
}

impl SigningKey {
    /// The text of a new one, as [`Self::parse`] reads it: a secret.
    ///
    /// # Errors
    /// When there is no randomness.
    pub fn generate() -> Result<Zeroizing<String>, SigningKeyError> {
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
            .map_err(|_| SigningKeyError::Entropy)?;
        let body = Zeroizing::new(BASE64.encode(document.as_ref()));
        // All of it at once: a text that grows leaves copies behind.
        let mut text = Zeroizing::new(String::with_capacity(BEGIN.len() + END.len() + 2 * body.len()));
        text.push_str(BEGIN);
        for (at, character) in body.chars().enumerate() {
            if at % LINE == 0 {
                text.push('\n');
            }
            text.push(character);
        }
        text.push('\n');
        text.push_str(END);
        text.push('\n');
        Ok(text)
    }

    /// From its text: PKCS #8 in PEM (RFC 7468, section 10), as openssl writes it.
    ///
    /// # Errors
    /// When the text is anything else.
    pub fn parse(text: &str) -> Result<Self, SigningKeyError> {
        let inside = text.split_once(BEGIN).and_then(|(_, rest)| rest.split_once(END));
        let (body, _) = inside.ok_or(SigningKeyError::NotAKey)?;
        let body: Zeroizing<String> = Zeroizing::new(body.split_ascii_whitespace().collect());
        let document = Zeroizing::new(BASE64.decode(body.as_bytes()).map_err(|_| SigningKeyError::NotAKey)?);
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &document, &SystemRandom::new())
            .map_err(|_| SigningKeyError::NotAKey)?;
        let [UNCOMPRESSED, point @ ..] = pair.public_key().as_ref() else { return Err(SigningKeyError::NotAKey) };
        let (x, y) = point.split_first_chunk().ok_or(SigningKeyError::NotAKey)?;
        let y = y.try_into().map_err(|_| SigningKeyError::NotAKey)?;
        let mut key = Self { id: String::new(), x: *x, y, pair };
        key.id = BASE64URL_NOPAD.encode(&key.thumbprint());
        Ok(key)
    }

    /// Its id: the thumbprint of its public key (RFC 7638), so that one key has one id wherever it is published.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// A signature as JWS has it (RFC 7518, section 3.4): r and s, 32 bytes each.
    ///
    /// # Errors
    /// When there is no randomness.
    pub fn sign(&self, message: &[u8]) -> Result<[u8; 2 * COORDINATE], SigningKeyError> {
        let signature = self.pair.sign(&SystemRandom::new(), message).map_err(|_| SigningKeyError::Entropy)?;
        signature.as_ref().try_into().map_err(|_| SigningKeyError::Entropy)
    }

    fn thumbprint(&self) -> [u8; 32] {
        // The members in the order of their names, without white space (RFC 7638, section 3.3).
        let [x, y] = self.coordinates();
        Sha256::digest(format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#)).into()
    }

    fn coordinates(&self) -> [String; 2] {
        [self.x, self.y].map(|coordinate| BASE64URL_NOPAD.encode(&coordinate))
    }

    fn public(&self) -> Jwk<'_> {
        let [x, y] = self.coordinates();
        Jwk { kty: "EC", crv: "P-256", r#use: "sig", alg: ALGORITHM, kid: &self.id, x, y }
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("id", &self.id).finish_non_exhaustive()
    }
}

/// The algorithm of every signature (RFC 7518, section 3.1).
pub(super) const ALGORITHM: &str = "ES256";

/// A public key (RFC 7517, section 4; RFC 7518, section 6.2.1).
#[derive(Serialize)]
struct Jwk<'a> {
    kty: &'static str,
    crv: &'static str,
    r#use: &'static str,
    alg: &'static str,
    kid: &'a str,
    x: String,
    y: String,
}

/// The keys of this service: the first one signs, and all of them are published.
#[derive(Debug)]
pub struct SigningKeys(Vec<SigningKey>);

impl SigningKeys {
    /// These; the first one signs.
    ///
    /// # Errors
    /// When there is none, or one is there twice.
    pub fn new(keys: Vec<SigningKey>) -> Result<Self, SigningKeyError> {
        if keys.is_empty() {
            return Err(SigningKeyError::None);
        }
        for (at, key) in keys.iter().enumerate() {
            if keys.iter().skip(at + 1).any(|other| other.id == key.id) {
                return Err(SigningKeyError::Duplicate);
            }
        }
        Ok(Self(keys))
    }

    /// The one that signs.
    ///
    /// # Errors
    /// Never: there is one.
    pub fn current(&self) -> Result<&SigningKey, SigningKeyError> {
        self.0.first().ok_or(SigningKeyError::None)
    }

    /// The public keys as others read them (RFC 7517, section 5).
    #[must_use]
    pub fn jwks(&self) -> String {
        let keys: Vec<_> = self.0.iter().map(SigningKey::public).collect();
        serde_json::json!({ "keys": keys }).to_string()
    }
}

#[cfg(test)]
mod tests {
    use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};

    use super::*;

    /// What `openssl genpkey` wrote, its coordinates by `openssl pkey -text`, and its thumbprint by a Python of four lines.
    const OPENSSL: &str = include_str!("../../tests/vectors/es256.pem");

    fn key() -> SigningKey {
        SigningKey::parse(&SigningKey::generate().unwrap()).unwrap()
    }

    fn point(key: &SigningKey) -> Vec<u8> {
        [&[UNCOMPRESSED][..], &key.x, &key.y].concat()
    }

    #[test]
    fn what_is_made_is_read_and_what_is_signed_verifies() {
        let (one, other) = (key(), key());
        let signature = one.sign(b"a message").unwrap();
        let verify = |key: &SigningKey, message: &[u8]| {
            UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point(key)).verify(message, &signature).is_ok()
        };
        assert!(verify(&one, b"a message"));
        assert!(!verify(&one, b"another one") && !verify(&other, b"a message"));
        assert_ne!(one.id(), other.id());
    }

    #[test]
    fn a_key_of_openssl_has_the_id_that_others_compute() {
        let key = SigningKey::parse(OPENSSL).unwrap();
        let expected: serde_json::Value = serde_json::from_str(include_str!("../../tests/vectors/es256.json")).unwrap();
        assert_eq!(serde_json::to_value(key.public()).unwrap(), expected);
    }

    #[test]
    fn no_private_key_is_printed_or_published() {
        let text = SigningKey::generate().unwrap();
        let key = SigningKey::parse(&text).unwrap();
        let secret: String = text.lines().filter(|line| !line.starts_with('-')).collect();
        let keys = SigningKeys::new(vec![key]).unwrap();
        for shown in [format!("{keys:?}"), keys.jwks()] {
            assert!(!shown.contains(&secret) && !shown.contains(r#""d""#), "{shown}");
        }
    }

    #[test]
    fn what_is_no_such_key_is_refused() {
        let text = SigningKey::generate().unwrap();
        let cut: String = text.chars().take(text.len() - 60).chain(END.chars()).collect();
        let damaged = text.replacen("MIGH", "MIGG", 1);
        for text in ["", "x", BEGIN, &format!("{BEGIN}{END}"), &format!("{BEGIN}\n!!\n{END}"), &cut, &damaged] {
            assert_eq!(SigningKey::parse(text).unwrap_err(), SigningKeyError::NotAKey, "{text}");
        }
        let twice = || SigningKey::parse(&text).unwrap();
        assert_eq!(SigningKeys::new(vec![twice(), key(), twice()]).unwrap_err(), SigningKeyError::Duplicate);
        assert_eq!(SigningKeys::new(Vec::new()).unwrap_err(), SigningKeyError::None);
    }

    #[test]
    fn all_are_published_and_the_first_one_signs() {
        let keys = SigningKeys::new(vec![key(), key()]).unwrap();
        let jwks: serde_json::Value = serde_json::from_str(&keys.jwks()).unwrap();
        let ids: Vec<_> = jwks["keys"].as_array().unwrap().iter().map(|key| key["kid"].as_str().unwrap()).collect();
        assert_eq!(ids, [keys.0[0].id(), keys.0[1].id()]);
        assert_eq!(keys.current().unwrap().id(), ids[0]);
    }
}
