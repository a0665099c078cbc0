//! Who calls: a credential of the request becomes a [`Principal`]. What a principal may do is the
//! business of `service::access`.
//!
//! Today there is one kind of credential, the static bearer token, known to this process only as
//! its SHA-256. Client certificates, access tokens and Unix peers become further kinds of
//! [`Credential`], and further steps of [`Authenticator::authenticate`].

mod basic;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use data_encoding::HEXLOWER_PERMISSIVE;
use http::header::AUTHORIZATION;
use http::{Extensions, HeaderMap, HeaderValue};
use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConstantTimeEq as _};
use tonic::{Request, Status};
use zeroize::Zeroizing;

use super::error;
use crate::service::access::{Call, Principal};
use crate::service::{Error, ErrorKind};

/// What the gateway puts into the extensions of a call that nobody proved anything about, to a
/// method that is open to such calls. A call of a known caller has a [`Call`] there.
#[derive(Debug, Clone, Default)]
pub struct Anonymous {
    /// Address of the peer; empty where it is not known.
    pub origin: Arc<str>,
}

/// Who makes a call, as the gateway found it. A generated server carries it in the extensions of its
/// requests.
#[derive(Debug, Clone)]
pub enum Caller {
    /// Somebody who proved it; shared by the calls of a connection.
    Known(Arc<Call>),
    /// Nobody in particular, of a method that is open to such calls.
    Anonymous(Anonymous),
    /// Somebody who did not prove it, of a method that says so in its answer.
    Refused(Anonymous),
}

impl Caller {
    /// The call, for a method that needs to know its caller.
    ///
    /// # Errors
    /// UNAUTHENTICATED where nobody proved who calls.
    pub fn known(self) -> Result<Arc<Call>, Status> {
        match self {
            Self::Known(call) => Ok(call),
            Self::Anonymous(_) | Self::Refused(_) => Err(error::status(absent())),
        }
    }

    /// Puts it where [`call`] and [`origin`] find it.
    pub(super) fn attach(self, extensions: &mut Extensions) {
        match self {
            Self::Known(call) => extensions.insert(call).is_some(),
            Self::Anonymous(anonymous) | Self::Refused(anonymous) => extensions.insert(anonymous).is_some(),
        };
    }
}

/// The call that `request` is, for a method that needs to know its caller.
///
/// # Errors
/// UNAUTHENTICATED where nobody proved who calls.
pub fn call<T>(request: &Request<T>) -> Result<Arc<Call>, Status> {
    let call = request.extensions().get::<Arc<Call>>().cloned().ok_or_else(|| error::status(absent()))?;
    Ok(match ends(request) {
        // The call is shared by all of a connection; its end is its own.
        ends @ Some(_) => Arc::new(Call { ends, ..Call::clone(&call) }),
        None => call,
    })
}

/// When the caller's time is up, for a method that waits for other replicas.
pub fn ends<T>(request: &Request<T>) -> Option<Duration> {
    request.extensions().get::<Ends>().map(|ends| ends.0)
}

/// When the time of a request is up, among its extensions.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ends(pub(super) Duration);

/// Where `request` came from, for a method that is open to anyone; empty where it is not known.
pub fn origin<T>(request: &Request<T>) -> Arc<str> {
    let extensions = request.extensions();
    match (extensions.get::<Arc<Call>>(), extensions.get::<Anonymous>()) {
        (Some(call), _) => Arc::clone(&call.origin),
        (None, Some(anonymous)) => Arc::clone(&anonymous.origin),
        (None, None) => Arc::from(""),
    }
}

/// SHA-256 of a bearer token: all that a configuration holds of it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenDigest([u8; 32]);

impl TokenDigest {
    /// Of a token's text.
    #[must_use]
    pub fn of(token: &[u8]) -> Self {
        Self(Sha256::digest(token).into())
    }

    /// From the digest itself.
    #[must_use]
    pub const fn from_bytes(digest: [u8; 32]) -> Self {
        Self(digest)
    }

    /// From the 64 hexadecimal digits that `sha256sum` prints.
    ///
    /// # Errors
    /// When it is anything else. The message does not hold the text: it might be the token itself.
    pub fn parse(text: &str) -> Result<Self, NotADigest> {
        let bytes = HEXLOWER_PERMISSIVE.decode(text.as_bytes()).map_err(|_| NotADigest)?;
        let digest = Self(bytes.try_into().map_err(|_| NotADigest)?);
        // Nobody has the empty token.
        if digest == Self::of(b"") { Err(NotADigest) } else { Ok(digest) }
    }

    /// Where to look for it. The digest of what a stranger sends tells them nothing by its timing
    /// that they could not compute, but what is compared in full is compared in constant time.
    const fn shelf(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }
}

impl fmt::Debug for TokenDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenDigest(…)")
    }
}

/// A text is not the digest of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not the SHA-256 of a token in 64 hexadecimal digits; `printf %s \"$TOKEN\" | sha256sum` prints it")]
pub struct NotADigest;

/// What proves who calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Credential {
    /// A static bearer token with this digest.
    Token(TokenDigest),
}

/// Whoever has the credential is the principal.
#[derive(Debug, Clone)]
pub struct Binding {
    /// The credential.
    pub credential: Credential,
    /// Who has it. Several credentials may name one principal: that is how a token is replaced.
    pub principal: Arc<Principal>,
}

/// The bindings of a process.
#[derive(Debug, Default)]
pub struct Authenticator {
    tokens: HashMap<u64, Vec<(TokenDigest, Arc<Principal>)>>,
}

/// Bindings contradict each other.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{first}` and `{second}` have one and the same token; give each caller its own")]
pub struct SharedCredential {
    /// Who had it first.
    pub first: String,
    /// Who has it too.
    pub second: String,
}

impl Authenticator {
    /// From all bindings.
    ///
    /// # Errors
    /// When two principals share a credential.
    pub fn new(bindings: impl IntoIterator<Item = Binding>) -> Result<Self, SharedCredential> {
        let mut tokens: HashMap<u64, Vec<(TokenDigest, Arc<Principal>)>> = HashMap::new();
        for Binding { credential: Credential::Token(digest), principal } in bindings {
            let shelf = tokens.entry(digest.shelf()).or_default();
            match shelf.iter().find(|(known, _)| *known == digest) {
                Some((_, first)) if first.name != principal.name => {
                    let (first, second) = (first.name.to_string(), principal.name.to_string());
                    return Err(SharedCredential { first, second });
                }
                _ => shelf.push((digest, principal)),
            }
        }
        Ok(Self { tokens })
    }

    /// The call of who sends these headers over a connection from `origin`. None: they hold no
    /// credential. What the connection showed first is in `shown`, once it has shown something.
    ///
    /// # Errors
    /// Unauthenticated when they hold a credential that is not known, or more than one.
    pub(super) fn call(
        &self,
        headers: &HeaderMap,
        origin: &Arc<str>,
        shown: &OnceLock<Shown>,
    ) -> Result<Option<Arc<Call>>, Error> {
        let mut values = headers.get_all(AUTHORIZATION).iter();
        if let (Some(value), None, Some(shown)) = (values.next(), values.next(), shown.get())
            && shown.is(value)
        {
            return Ok(Some(Arc::clone(&shown.call)));
        }
        let Some(principal) = self.authenticate(headers)? else { return Ok(None) };
        let call = Arc::new(Call { principal: Arc::clone(principal), origin: Arc::clone(origin), ends: None });
        if let Some(value) = headers.get(AUTHORIZATION) {
            shown.get_or_init(|| Shown { header: value.as_bytes().to_vec().into(), call: Arc::clone(&call) });
        }
        Ok(Some(call))
    }

    /// The same for a client of OAuth, which may name itself and its token by Basic as well (RFC 6749, section
    /// 2.3.1). There must be a credential.
    ///
    /// # Errors
    /// Unauthenticated when there is none that is known, or more than one.
    pub(super) fn client(
        &self,
        headers: &HeaderMap,
        origin: &Arc<str>,
        shown: &OnceLock<Shown>,
    ) -> Result<Arc<Call>, Error> {
        let mut values = headers.get_all(AUTHORIZATION).iter();
        if let (Some(value), None) = (values.next(), values.next())
            && let Some(holder) = basic::holder(self, value)
        {
            return Ok(Arc::new(Call { principal: Arc::clone(holder?), origin: Arc::clone(origin), ends: None }));
        }
        self.call(headers, origin, shown)?.ok_or_else(absent)
    }

    /// Who sends these headers. None: they hold no credential.
    ///
    /// # Errors
    /// Unauthenticated when they hold one that is not known, or more than one.
    fn authenticate(&self, headers: &HeaderMap) -> Result<Option<&Arc<Principal>>, Error> {
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let Some(value) = values.next() else { return Ok(None) };
        if values.next().is_some() {
            let message = "more than one authorization header; send exactly one";
            return Err(Error::new(ErrorKind::Unauthenticated, message));
        }
        match bearer(value) {
            Some(token) => self.holder(&TokenDigest::of(token)).map(Some).ok_or_else(unknown),
            None => Err(Error::new(
                ErrorKind::Unauthenticated,
                "the authorization header is not of the form `Bearer TOKEN`",
            )),
        }
    }

    fn holder(&self, digest: &TokenDigest) -> Option<&Arc<Principal>> {
        let shelf = self.tokens.get(&digest.shelf())?;
        shelf.iter().find(|(known, _)| bool::from(known.0.ct_eq(&digest.0))).map(|(_, principal)| principal)
    }
}

/// The first good credential of a connection, and whose it is: one that comes again with the next
/// call is compared, which takes less than its digest. So the token's text lives as long as its
/// connection, as it does in the connection's HPACK table; it is wiped with it.
pub(super) struct Shown {
    header: Zeroizing<Vec<u8>>,
    call: Arc<Call>,
}

impl Shown {
    /// Whether `value` is this credential; takes as long for any other of its length.
    fn is(&self, value: &HeaderValue) -> bool {
        let (known, known_rest) = self.header.as_chunks::<8>();
        let (given, given_rest) = value.as_bytes().as_chunks::<8>();
        let words = known.iter().zip(given).fold(Choice::from(1), |same, (known, given)| {
            same & u64::from_ne_bytes(*known).ct_eq(&u64::from_ne_bytes(*given))
        });
        self.header.len() == value.len() && bool::from(words & known_rest.ct_eq(given_rest))
    }
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shown").field("call", &self.call).finish_non_exhaustive()
    }
}

/// What is said to a call without any credential.
pub(super) fn absent() -> Error {
    Error::new(
        ErrorKind::Unauthenticated,
        "this method needs a caller; send `authorization: Bearer TOKEN` with a token that is configured in keyclasp",
    )
}

/// One answer, whatever is wrong with the token.
fn unknown() -> Error {
    Error::new(ErrorKind::Unauthenticated, "the bearer token is not one that is configured here")
}

/// The token of `Bearer TOKEN`; the scheme's case does not matter (RFC 9110).
fn bearer(value: &HeaderValue) -> Option<&[u8]> {
    let (scheme, token) = value.as_bytes().split_at_checked("bearer ".len())?;
    (scheme.eq_ignore_ascii_case(b"bearer ") && !token.is_empty() && token.iter().all(u8::is_ascii_graphic))
        .then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::{Actor, Caps};

    fn principal(name: &str) -> Arc<Principal> {
        Arc::new(Principal { name: Actor::parse(name).unwrap(), grants: Vec::new(), caps: Caps::default() })
    }

    fn binding(token: &str, name: &str) -> Binding {
        Binding { credential: Credential::Token(TokenDigest::of(token.as_bytes())), principal: principal(name) }
    }

    fn headers(values: &[&str]) -> HeaderMap {
        values.iter().map(|value| (AUTHORIZATION, HeaderValue::from_str(value).unwrap())).collect()
    }

    #[test]
    fn a_token_is_its_holder_and_nothing_else_is() {
        let authenticator =
            Authenticator::new([binding("s3cret", "issuer"), binding("other", "mesh"), binding("s3cret2", "issuer")])
                .unwrap();
        let who = |values: &[&str]| {
            let headers = headers(values);
            let found = authenticator.authenticate(&headers);
            found.map(|found| found.map(|principal| principal.name.to_string())).map_err(|error| {
                assert_eq!(error.kind, ErrorKind::Unauthenticated);
                error.message
            })
        };
        for value in ["Bearer s3cret", "bearer s3cret", "BEARER s3cret", "Bearer s3cret2"] {
            assert_eq!(who(&[value]), Ok(Some("issuer".into())), "{value}");
        }
        assert_eq!(who(&["Bearer other"]), Ok(Some("mesh".into())));
        assert_eq!(who(&[]), Ok(None));
        let wrong = who(&["Bearer s3creT"]).unwrap_err();
        assert_eq!(who(&["Bearer x"]).unwrap_err(), wrong, "wrong and unknown tokens are told apart");
        for value in
            ["", "Bearer", "Bearer ", "Basic s3cret", "s3cret", "Bearer  s3cret", "Bearer s3cret ", "Bearer s3 cret"]
        {
            assert!(who(&[value]).unwrap_err().contains("Bearer TOKEN"), "{value:?}");
        }
        for pair in [["Bearer s3cret", "Bearer s3cret"], ["Bearer s3cret", "Basic x"], ["Basic x", "Bearer s3cret"]] {
            assert!(who(&pair).unwrap_err().contains("exactly one"), "{pair:?}");
        }
    }

    #[test]
    fn what_a_connection_showed_first_is_known_again_and_nothing_else_is_taken_for_it() {
        let authenticator = Authenticator::new([binding("s3cret", "issuer"), binding("s3creT", "mesh")]).unwrap();
        let (origin, shown) = (Arc::from("192.0.2.1"), OnceLock::new());
        let who = |values: &[&str]| {
            let called = authenticator.call(&headers(values), &origin, &shown);
            called.map(|call| call.map(|call| (call.principal.name.to_string(), call.origin.to_string())))
        };
        let known = |name: &str| Ok(Some((name.to_owned(), "192.0.2.1".to_owned())));
        assert!(who(&["Bearer wrong"]).is_err() && shown.get().is_none(), "only what is good is remembered");
        for _ in 0..2 {
            assert_eq!(who(&["Bearer s3cret"]), known("issuer"));
            // As long as the one that was shown first.
            assert_eq!(who(&["Bearer s3creT"]), known("mesh"));
            assert_eq!(who(&[]), Ok(None));
            for wrong in ["Bearer s3crex", "Bearer s3cre", "Bearer s3crett", "Xearer s3cret", ""] {
                assert!(who(&[wrong]).is_err(), "{wrong}");
            }
            assert!(who(&["Bearer s3cret", "Bearer s3cret"]).is_err());
        }
        assert!(!format!("{:?}", shown.get()).contains("s3cret"));
    }

    #[test]
    fn a_token_belongs_to_one_principal() {
        let error = Authenticator::new([binding("x", "a"), binding("x", "b")]).unwrap_err();
        assert_eq!(error, SharedCredential { first: "a".into(), second: "b".into() });
        assert!(Authenticator::new([binding("x", "a"), binding("x", "a")]).is_ok());
    }

    #[test]
    fn tokens_that_differ_after_the_shelf_are_told_apart() {
        let mut bytes = [7; 32];
        let first = TokenDigest(bytes);
        bytes[31] = 8;
        let second = TokenDigest(bytes);
        assert_eq!(first.shelf(), second.shelf());
        let bind = |digest, name| Binding { credential: Credential::Token(digest), principal: principal(name) };
        let authenticator = Authenticator::new([bind(first, "a"), bind(second, "b")]).unwrap();
        assert_eq!(authenticator.holder(&first).unwrap().name.to_string(), "a");
        assert_eq!(authenticator.holder(&second).unwrap().name.to_string(), "b");
        bytes[31] = 9;
        assert!(authenticator.holder(&TokenDigest(bytes)).is_none());
    }

    #[test]
    fn a_digest_is_what_sha256sum_prints() {
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(TokenDigest::parse(abc), Ok(TokenDigest::of(b"abc")));
        let empty = data_encoding::HEXLOWER.encode(&Sha256::digest(b""));
        assert_eq!(TokenDigest::parse(&empty), Err(NotADigest));
        assert_eq!(TokenDigest::parse(&abc.to_uppercase()), Ok(TokenDigest::of(b"abc")));
        for wrong in ["", "abc", &abc[1..], &format!("{abc}00"), &abc.replace('b', "g")] {
            assert_eq!(TokenDigest::parse(wrong), Err(NotADigest), "{wrong}");
        }
        assert!(!format!("{:?}", TokenDigest::of(b"abc")).contains("ba78"));
    }

    #[test]
    fn a_call_needs_a_principal_and_an_origin_needs_nothing() {
        let mut request = Request::new(());
        assert_eq!(call(&request).unwrap_err().code(), tonic::Code::Unauthenticated);
        assert_eq!(&*origin(&request), "");
        Caller::Anonymous(Anonymous { origin: "192.0.2.1".into() }).attach(request.extensions_mut());
        assert_eq!(call(&request).unwrap_err().code(), tonic::Code::Unauthenticated);
        assert_eq!(&*origin(&request), "192.0.2.1");
        let known = Call { principal: principal("me"), origin: "192.0.2.2".into(), ends: None };
        Caller::Known(Arc::new(known)).attach(request.extensions_mut());
        assert_eq!(&*origin(&request), "192.0.2.2");
        let call = call(&request).unwrap();
        assert_eq!((call.principal.name.to_string(), Arc::clone(&call.origin)), ("me".into(), "192.0.2.2".into()));
    }
}
