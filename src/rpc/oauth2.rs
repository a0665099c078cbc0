//! OAuth for who speaks it: resource servers ask whether a key may pass (RFC 7662), whoever holds one
//! ends it (RFC 7009), and clients read where that is (RFC 8414). A key is an opaque access token here.
//!
//! These are other words for ValidateKey and RevokeOwnKey; nothing is decided here. Tokens are not made
//! here either.

mod error;
mod introspect;
mod issuer;
mod metadata;
mod revoke;

use std::sync::Arc;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, PRAGMA};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Uri};
use http_body_util::Full;
use tonic::body::Body;
use zeroize::Zeroizing;

pub use self::issuer::Issuer;
use super::auth::Caller;
use super::gateway::endpoint::{Access, Answering, Asked, Endpoint, Handler, Unserved, Verbs};
use super::urlencoded::Fault;
use crate::key::ApiKey;
use crate::service::{Error, ErrorKind, Service};

/// Where introspection is.
const INTROSPECT: &str = "/oauth2/introspect";
/// Where revocation is.
const REVOKE: &str = "/oauth2/revoke";
/// What both take.
const FORM: &str = "application/x-www-form-urlencoded";

/// The endpoints over `service`, which read bodies of up to `limit` bytes. With an issuer that has a path they are
/// at that path too, whether or not a proxy before this process takes it away.
#[must_use]
pub fn endpoints(service: &Service, issuer: Option<&Issuer>, limit: usize) -> Vec<Endpoint> {
    let introspection =
        Arc::new(Introspection { service: service.clone(), issuer: issuer.cloned().map(Arc::new) }) as Arc<dyn Handler>;
    let revocation = Arc::new(Revocation { service: service.clone() }) as Arc<dyn Handler>;
    let mut endpoints = Vec::new();
    let below = issuer.map(Issuer::path).filter(|path| !path.is_empty());
    for base in [Some(""), below].into_iter().flatten() {
        for (path, access, handler) in
            [(INTROSPECT, Access::Token, &introspection), (REVOKE, Access::Open, &revocation)]
        {
            endpoints.push(Endpoint {
                path: format!("{base}{path}"),
                verbs: Verbs::Only(&[Method::POST]),
                access,
                body: Some(limit),
                handler: Arc::clone(handler),
            });
        }
    }
    endpoints.extend(issuer.map(|issuer| Endpoint {
        path: issuer.metadata_path(),
        verbs: Verbs::Only(&[Method::GET, Method::HEAD]),
        access: Access::Open,
        body: None,
        handler: Arc::new(Metadata { document: metadata::document(issuer) }),
    }));
    endpoints
}

struct Introspection {
    service: Service,
    issuer: Option<Arc<Issuer>>,
}

impl Handler for Introspection {
    fn handle(&self, asked: Asked) -> Answering {
        let (service, issuer) = (self.service.clone(), self.issuer.clone());
        Box::pin(async move {
            match decided(&service, issuer.as_deref(), &asked).await {
                Ok(answer) => json(StatusCode::OK, answer.into()),
                Err(failed) => failed.response(),
            }
        })
    }

    fn refuse(&self, _: &Uri, unserved: &Unserved) -> Response<Body> {
        error::answer(&unserved.error, Some(unserved.status))
    }
}

async fn decided(service: &Service, issuer: Option<&Issuer>, asked: &Asked) -> Result<Vec<u8>, Failed> {
    let Caller::Known(call) = &asked.caller else { return Err(super::auth::absent().into()) };
    let question = introspect::Question::parse(form(asked)?)?;
    Ok(introspect::introspect(service, issuer, call, &question).await?)
}

struct Revocation {
    service: Service,
}

impl Handler for Revocation {
    fn handle(&self, asked: Asked) -> Answering {
        let service = self.service.clone();
        Box::pin(async move {
            match revoked(&service, &asked).await {
                // Clients do not look at the body (RFC 7009, section 2.2).
                Ok(()) => uncached(Response::new(Body::empty())),
                Err(failed) => failed.response(),
            }
        })
    }

    fn refuse(&self, _: &Uri, unserved: &Unserved) -> Response<Body> {
        error::answer(&unserved.error, Some(unserved.status))
    }
}

async fn revoked(service: &Service, asked: &Asked) -> Result<(), Failed> {
    let key = revoke::parse(form(asked)?)?;
    let origin = match &asked.caller {
        Caller::Known(call) => &call.origin,
        Caller::Anonymous(anonymous) | Caller::Refused(anonymous) => &anonymous.origin,
    };
    Ok(revoke::revoke(service, &key, origin, Some(asked.ends)).await?)
}

struct Metadata {
    document: Bytes,
}

impl Handler for Metadata {
    fn handle(&self, _: Asked) -> Answering {
        let mut response = json(StatusCode::OK, self.document.clone());
        let headers = response.headers_mut();
        // No secret, and the same for as long as this process runs.
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=300"));
        headers.remove(PRAGMA);
        // The length is that of the document, also where HEAD leaves it out (RFC 9110, section 9.3.2).
        headers.insert(CONTENT_LENGTH, HeaderValue::from(self.document.len()));
        Box::pin(std::future::ready(response))
    }

    fn refuse(&self, _: &Uri, unserved: &Unserved) -> Response<Body> {
        error::answer(&unserved.error, Some(unserved.status))
    }
}

/// Why a request was not done.
struct Failed {
    error: Error,
    /// The status, where the request was wrong in terms of HTTP.
    http: Option<StatusCode>,
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self { error, http: None }
    }
}

impl Failed {
    fn response(self) -> Response<Body> {
        super::error::log(&self.error);
        let mut response = error::answer(&self.error, self.http);
        if self.http == Some(StatusCode::UNSUPPORTED_MEDIA_TYPE) {
            response.headers_mut().insert(HeaderName::from_static("accept-post"), HeaderValue::from_static(FORM));
        }
        response
    }
}

/// The form that was sent.
fn form(asked: &Asked) -> Result<&[u8], Failed> {
    let headers = &asked.head.headers;
    let unsupported = |message: &str| Failed {
        error: Error::new(ErrorKind::RequestMalformed, message),
        http: Some(StatusCode::UNSUPPORTED_MEDIA_TYPE),
    };
    if !is_form(headers) {
        return Err(unsupported("the content-type must be application/x-www-form-urlencoded"));
    }
    if headers.get(CONTENT_ENCODING).is_some_and(|value| value != "identity") {
        return Err(unsupported("compressed bodies are not accepted"));
    }
    Ok(&asked.body)
}

/// Whatever its parameters: all that is sent is ASCII.
fn is_form(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(CONTENT_TYPE).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return false };
    let media_type = value.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default();
    media_type.trim_ascii().eq_ignore_ascii_case(FORM.as_bytes())
}

/// The parameter `token`, which both requests need.
fn token(token: Option<Zeroizing<String>>) -> Result<ApiKey, Error> {
    let missing = || Error::new(ErrorKind::RequestMalformed, "token is missing; send it in the body of the request");
    token.map(|mut token| ApiKey::new(std::mem::take(&mut *token))).ok_or_else(missing)
}

fn malformed(fault: Fault) -> Error {
    Error::new(ErrorKind::RequestMalformed, fault.to_string())
}

fn json(status: StatusCode, body: Bytes) -> Response<Body> {
    let mut response = Response::new(Body::new(Full::new(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    uncached(response)
}

/// Nobody keeps it: it is a decision about a secret (RFC 6749, section 5.1).
fn uncached(mut response: Response<Body>) -> Response<Body> {
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(PRAGMA, HeaderValue::from_static("no-cache"));
    response
}
