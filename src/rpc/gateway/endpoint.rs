//! Plain HTTP beside the methods of the API: an endpoint has a path, and its own form of answer and error.
//!
//! What stands between a connection and an endpoint is the same as for a method: room, the caller, a
//! bound on the body and on the time, a count, and a panic is answered. What may be asked of an
//! endpoint, and how it says no, is its own. Queries may hold secrets: none is printed here.

use std::fmt;
use std::future::{Future, poll_fn};
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, AUTHORIZATION, CACHE_CONTROL, RETRY_AFTER};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method as Verb, Request, Response, StatusCode, Uri};
use http_body::Body as _;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use tonic::body::Body;
use tonic::{Code, Status};

use super::body::RequestBody;
use super::lean::LeanHandler;
use super::{Peer, overloaded};
use crate::clock::alarm::{Late, within};
use crate::key::Cidrs;
use crate::rpc::auth::{Anonymous, Caller};
use crate::rpc::error;
use crate::rpc::metrics::{PerMethod, Place};
use crate::service::access::{Call, Principal};
use crate::service::{Error, ErrorKind};

/// An answer in the making.
pub type Answering = Pin<Box<dyn Future<Output = Response<Body>> + Send>>;

/// What answers at an endpoint.
pub trait Handler: Send + Sync + 'static {
    /// Answers one request, which the gateway let through.
    fn handle(&self, asked: Asked) -> Answering;

    /// What is answered where the gateway does not let a request through, or its answer failed: the status is a
    /// proposal. The gateway adds `Allow` and `Retry-After`. `uri` holds the query.
    fn refuse(&self, uri: &Uri, unserved: &Unserved) -> Response<Body>;

    /// The same where the request's header is known.
    fn refuse_asked(&self, uri: &Uri, _headers: &HeaderMap, unserved: &Unserved) -> Response<Body> {
        self.refuse(uri, unserved)
    }

    /// Whether the header has to be known also when an answer failed. That takes a copy of it for each request.
    fn keeps_headers(&self, _uri: &Uri) -> bool {
        false
    }

    /// What answers those requests of one connection that are served without hyper; None: there are none.
    fn lean(&self) -> Option<Box<dyn LeanHandler>> {
        None
    }
}

/// A request that passed the gateway. Its query, header and body may hold secrets: none of them is printed.
pub struct Asked {
    /// Method, URI with its query, headers. `Authorization` is gone where the gateway judged it or nobody was to.
    pub head: Parts,
    /// All of the body; empty where the endpoint reads none.
    pub body: Bytes,
    /// Who asks, and from where.
    pub caller: Caller,
    /// When the time for the answer is up, by [`crate::clock::Clock::elapsed`].
    pub ends: Duration,
}

impl fmt::Debug for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Asked")
            .field("method", &self.head.method)
            .field("path", &self.head.uri.path())
            .field("caller", &self.caller)
            .finish_non_exhaustive()
    }
}

/// Why the gateway answers and not the endpoint.
#[derive(Debug)]
pub struct Unserved {
    /// What HTTP calls it.
    pub status: StatusCode,
    /// The failure. Its `internal` was logged already.
    pub error: Error,
}

/// Where an endpoint is, and what it takes.
#[derive(Clone)]
pub struct Endpoint {
    /// The whole path.
    pub path: String,
    /// Methods that it takes.
    pub verbs: Verbs,
    /// Who may ask.
    pub access: Access,
    /// Longest body that is read, in bytes. None: a body is not read at all.
    pub body: Option<usize>,
    /// What answers.
    pub handler: Arc<dyn Handler>,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint").field("path", &self.path).field("access", &self.access).finish_non_exhaustive()
    }
}

/// HTTP methods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verbs {
    /// Whatever it is.
    Any,
    /// One of these; `Allow` names them in this order.
    Only(&'static [Verb]),
}

/// Who may ask.
#[derive(Debug, Clone)]
pub enum Access {
    /// Anybody. A credential in `Authorization` is not judged, and not passed on.
    Open,
    /// Who has a token: `Bearer TOKEN`, or `Basic` with the caller's name and the token as its password
    /// (RFC 6749, section 2.3.1).
    Token,
    /// Who asks from one of these addresses is `principal`. `Authorization` is none of the gateway's business.
    Peers {
        /// The addresses.
        peers: Cidrs,
        /// Who that is.
        principal: Arc<Principal>,
    },
}

/// Has an answer counted as if it had `status`, where its own says less.
pub fn count_as(response: &mut Response<Body>, status: StatusCode) {
    response.extensions_mut().insert(CountAs(status));
}

#[derive(Clone, Copy)]
struct CountAs(StatusCode);

/// An endpoint in the table of a gateway.
#[derive(Debug)]
pub(super) struct Served {
    endpoint: Endpoint,
    counts: Arc<PerMethod>,
}

impl Served {
    pub(super) const fn new(endpoint: Endpoint, counts: Arc<PerMethod>) -> Self {
        Self { endpoint, counts }
    }

    pub(super) fn refuse(&self, uri: &Uri, headers: Option<&HeaderMap>, unserved: &Unserved) -> Response<Body> {
        let mut response = match headers {
            Some(headers) => self.endpoint.handler.refuse_asked(uri, headers, unserved),
            None => self.endpoint.handler.refuse(uri, unserved),
        };
        let headers = response.headers_mut();
        if let Some(after) = unserved.error.retry_after {
            // Whole seconds, never zero (RFC 9110, section 10.2.3).
            let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        if let (StatusCode::METHOD_NOT_ALLOWED, Verbs::Only(verbs)) = (unserved.status, self.endpoint.verbs) {
            let names: Vec<_> = verbs.iter().map(Verb::as_str).collect();
            if let Ok(names) = HeaderValue::from_str(&names.join(", ")) {
                headers.insert(ALLOW, names);
            }
        }
        response
    }

    /// Its whole path.
    pub(super) fn path(&self) -> &str {
        &self.endpoint.path
    }

    pub(super) fn lean(&self) -> Option<Box<dyn LeanHandler>> {
        self.endpoint.handler.lean()
    }

    /// Counts an answer to a request that had no place.
    pub(super) fn count(&self, peer: &Peer, started: Duration, status: StatusCode) -> Duration {
        count(peer, &self.counts, started, status)
    }

    /// What `work` comes to, unless it panics or takes longer than `budget`.
    pub(super) async fn bounded<T>(&self, budget: Duration, work: impl Future<Output = T>) -> Result<T, Unserved> {
        match within(budget, unpanicked(work)).await {
            Ok(Some(output)) => Ok(output),
            Ok(None) => Err(panicked(self.path())),
            Err(Late) => Err(too_late()),
        }
    }

    /// Everything that comes before the body. Nothing here waits.
    fn admit(
        &self,
        peer: &Arc<Peer>,
        started: Duration,
        request: &mut Request<RequestBody>,
    ) -> Result<(Caller, Ticket), Unserved> {
        if let Verbs::Only(verbs) = self.endpoint.verbs
            && !verbs.contains(request.method())
        {
            let error = Error::new(ErrorKind::RequestMalformed, "this path does not take this method");
            return Err(Unserved { status: StatusCode::METHOD_NOT_ALLOWED, error });
        }
        let ticket = self.ticket(peer, started)?;
        match self.caller(peer, request) {
            Ok(caller) => Ok((caller, ticket)),
            Err(unserved) => {
                ticket.forget();
                Err(unserved)
            }
        }
    }

    /// A place among the requests in flight.
    pub(super) fn ticket(&self, peer: &Arc<Peer>, started: Duration) -> Result<Ticket, Unserved> {
        let shared = peer.shared();
        let (place, limit) = match self.endpoint.access {
            Access::Open => (Place::Open, shared.limits.open_in_flight()),
            Access::Token | Access::Peers { .. } => (Place::Known, shared.limits.in_flight),
        };
        if !shared.metrics.begin_call(place, limit) {
            return Err(Unserved { status: StatusCode::SERVICE_UNAVAILABLE, error: overloaded(place) });
        }
        Ok(Ticket { peer: Arc::clone(peer), counts: Arc::clone(&self.counts), started, place, answered: false })
    }

    /// Who a peer is, by where it connects from. None: nobody who may ask, or the endpoint judges otherwise.
    pub(super) fn known_peer(&self, peer: &Peer) -> Option<Caller> {
        let Access::Peers { peers, principal } = &self.endpoint.access else { return None };
        let address = peer.origin.parse::<IpAddr>().ok()?;
        peers.contain(address).then(|| {
            let (principal, origin) = (Arc::clone(principal), Arc::clone(&peer.origin));
            Caller::Known(Arc::new(Call { principal, origin, ends: None }))
        })
    }

    fn caller(&self, peer: &Peer, request: &mut Request<RequestBody>) -> Result<Caller, Unserved> {
        let anonymous = || Caller::Anonymous(Anonymous { origin: Arc::clone(&peer.origin) });
        match &self.endpoint.access {
            Access::Open => {
                request.headers_mut().remove(AUTHORIZATION);
                Ok(anonymous())
            }
            Access::Token => {
                let authenticator = &peer.shared().authenticator;
                let call = authenticator
                    .client(request.headers(), &peer.origin, &peer.shown)
                    .map_err(|error| Unserved { status: StatusCode::UNAUTHORIZED, error })?;
                request.headers_mut().remove(AUTHORIZATION);
                Ok(Caller::Known(call))
            }
            Access::Peers { .. } => self.known_peer(peer).ok_or_else(|| {
                let error = Error::new(
                    ErrorKind::RoleMissing,
                    format!("{} may not ask; the proxies that may are configured in keyclasp", peer.origin),
                );
                Unserved { status: StatusCode::FORBIDDEN, error }
            }),
        }
    }
}

/// Answers one request, whatever comes of it.
pub(super) fn answer(
    peer: &Arc<Peer>,
    served: &Arc<Served>,
    started: Duration,
    mut request: Request<RequestBody>,
) -> Answering {
    let head = *request.method() == Verb::HEAD;
    let admitted = served.admit(peer, started, &mut request);
    let (caller, mut ticket) = match admitted {
        Ok(admitted) => admitted,
        Err(unserved) => {
            let response = served.refuse(request.uri(), Some(request.headers()), &unserved);
            served.count(peer, started, counted(&response));
            return Box::pin(std::future::ready(finished(response, head)));
        }
    };
    let limits = &peer.shared().limits;
    let (budget, message_time) = (limits.deadlines.default, limits.message_time);
    let served = Arc::clone(served);
    Box::pin(async move {
        let uri = request.uri().clone();
        let headers = served.endpoint.handler.keeps_headers(&uri).then(|| request.headers().clone());
        let refuse = |unserved: &Unserved| served.refuse(&uri, headers.as_ref(), unserved);
        let work = work(&served, caller, request, started.saturating_add(budget), message_time);
        let response = match served.bounded(ticket.left(budget), work).await {
            Ok(Ok(response)) => response,
            Ok(Err(unserved)) | Err(unserved) => refuse(&unserved),
        };
        ticket.count(counted(&response));
        finished(response, head)
    })
}

async fn work(
    served: &Served,
    caller: Caller,
    request: Request<RequestBody>,
    ends: Duration,
    message_time: Duration,
) -> Result<Response<Body>, Unserved> {
    let (head, mut body) = request.into_parts();
    let body = match served.endpoint.body {
        Some(limit) => {
            body.arrives_within(message_time);
            read(body, limit).await?
        }
        None => Bytes::new(),
    };
    Ok(served.endpoint.handler.handle(Asked { head, body, caller, ends }).await)
}

/// None: it panicked.
async fn unpanicked<T>(work: impl Future<Output = T>) -> Option<T> {
    let mut work = std::pin::pin!(work);
    poll_fn(|context| match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(context))) {
        Ok(polled) => polled.map(Some),
        Err(_) => Poll::Ready(None),
    })
    .await
}

async fn read(body: RequestBody, limit: usize) -> Result<Bytes, Unserved> {
    let malformed =
        |status, message: String| Unserved { status, error: Error::new(ErrorKind::RequestMalformed, message) };
    let too_large = || {
        let message = format!("the request is larger than the {limit} bytes that are accepted");
        malformed(StatusCode::PAYLOAD_TOO_LARGE, message)
    };
    if body.size_hint().lower() > u64::try_from(limit).unwrap_or(u64::MAX) {
        return Err(too_large());
    }
    match Limited::new(body, limit).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large()),
        Err(error) => Err(match error.downcast::<Status>() {
            // Ours: it took too long.
            Ok(status) if status.code() == Code::DeadlineExceeded => Unserved {
                status: StatusCode::REQUEST_TIMEOUT,
                error: Error::new(ErrorKind::DeadlineExceeded, status.message()),
            },
            _ => malformed(StatusCode::BAD_REQUEST, "the body ended before it was whole".to_owned()),
        }),
    }
}

fn too_late() -> Unserved {
    let error = Error::new(ErrorKind::DeadlineExceeded, "the time for this request was up");
    Unserved { status: StatusCode::SERVICE_UNAVAILABLE, error: error.retry_after(Duration::from_secs(1)) }
}

fn panicked(path: &str) -> Unserved {
    let error = Error {
        internal: Some(format!("{path} panicked")),
        ..Error::new(ErrorKind::Internal, "internal error; the log has more")
    };
    error::log(&error);
    Unserved { status: StatusCode::INTERNAL_SERVER_ERROR, error }
}

/// Answers are decisions about secrets: nobody keeps them, unless the endpoint says otherwise.
fn finished(mut response: Response<Body>, head: bool) -> Response<Body> {
    response.headers_mut().entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    if head {
        // Over HTTP/2 nobody else leaves it out.
        return response.map(|_| Body::empty());
    }
    response
}

/// A request's place among those in flight, until dropped.
pub(super) struct Ticket {
    peer: Arc<Peer>,
    counts: Arc<PerMethod>,
    started: Duration,
    place: Place,
    answered: bool,
}

impl Ticket {
    fn left(&self, budget: Duration) -> Duration {
        budget.saturating_sub(self.peer.shared().clock.elapsed().saturating_sub(self.started))
    }

    /// Somebody else counts the answer.
    fn forget(mut self) {
        self.answered = true;
    }

    /// Counts the answer; says when that was, by the clock's `elapsed`.
    pub(super) fn count(&mut self, status: StatusCode) -> Duration {
        self.answered = true;
        count(&self.peer, &self.counts, self.started, status)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let shared = self.peer.shared();
        if !self.answered {
            self.counts.answered(Code::Cancelled, shared.clock.elapsed().saturating_sub(self.started));
        }
        shared.metrics.end_call(self.place);
    }
}

fn count(peer: &Peer, counts: &PerMethod, started: Duration, status: StatusCode) -> Duration {
    let now = peer.shared().clock.elapsed();
    counts.answered(code(status), now.saturating_sub(started));
    now
}

/// The status as which an answer is counted.
pub(super) fn counted(response: &Response<Body>) -> StatusCode {
    response.extensions().get::<CountAs>().map_or(response.status(), |counted| counted.0)
}

/// The code as which an HTTP status is counted.
fn code(status: StatusCode) -> Code {
    match status.as_u16() {
        200..400 => Code::Ok,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::NotFound,
        408 | 504 => Code::DeadlineExceeded,
        429 => Code::ResourceExhausted,
        400..500 => Code::InvalidArgument,
        503 => Code::Unavailable,
        _ => Code::Internal,
    }
}
