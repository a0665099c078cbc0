//! What stands between a connection and the services: every request to port 7413 passes here.
//!
//! In this order: which method or endpoint (else 404 or UNIMPLEMENTED); room for one more call (else it is shed
//! at once); who calls; how long it may take; the service. The path of a gRPC call is kept short: a
//! look-up of its path, a comparison with the token that its connection showed first. Nothing here waits
//! before the caller is known: a place that a stranger takes is one for strangers, or free at once.

mod body;
mod call;
pub mod endpoint;
mod form;
mod health;
mod judge;
pub mod lean;
mod route;
mod stream;
mod unary;

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt;
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::Duration;

use http::header::AUTHORIZATION;
use http::{Request, Response};
use hyper::body::Incoming;
use tonic::Code;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service};
use tonic::server::NamedService;

pub use self::body::RequestBody;
pub use self::call::CallFuture;
pub(super) use self::call::adopt;
use self::call::{Ticket, Work};
use self::endpoint::{Endpoint, Served};
use self::form::{Refused, Speech};
pub use self::health::Health;
pub use self::judge::{Judge, Unread};
pub use self::route::{Route, Unanswered};
pub use self::unary::{KeyCheck, Written};
use super::auth::{self, Anonymous, Authenticator, Caller, Ends, Shown};
use super::deadline::Form;
use super::error::status;
use super::json;
use super::limits::ServerLimits;
use super::methods::{Method, Methods};
use super::metrics::{Place, RpcMetrics, UNKNOWN_METHOD};
use super::proto::v1::admin_service_server::{AdminService, AdminServiceServer};
use super::proto::v1::audit_service_server::{AuditService, AuditServiceServer};
use super::proto::v1::key_service_server::{KeyService, KeyServiceServer};
use crate::clock::{Clock, Throttle};
use crate::service::{Error, ErrorKind};

/// What all gateways of a process share; clones are the same.
#[derive(Clone)]
pub struct Rpc {
    inner: Arc<Shared>,
}

struct Shared {
    methods: Methods,
    metrics: RpcMetrics,
    limits: ServerLimits,
    authenticator: Authenticator,
    clock: Arc<dyn Clock>,
    health: Health,
    /// Health and reflection, by the name of the service.
    standard: Vec<(&'static str, Arc<dyn Route>)>,
}

/// The gateway could not be made: a fault of the build, not of the configuration.
#[derive(Debug, thiserror::Error)]
#[error("the API's descriptors cannot be used: {0}")]
pub struct GatewayError(String);

impl Rpc {
    /// Starts NOT_SERVING.
    ///
    /// # Errors
    /// When the descriptors inside this program cannot be used.
    pub fn new(
        authenticator: Authenticator,
        limits: ServerLimits,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, GatewayError> {
        let methods = Methods::load().map_err(|error| GatewayError(error.to_string()))?;
        let metrics = RpcMetrics::new(methods.all().iter().map(|method| method.path.as_str()));
        let health = Health::new(
            methods.all().iter().filter(|method| method.ours || method.judges).map(|method| method.service.as_str()),
        );
        let mut standard = vec![route::named(health.server())];
        let descriptors = methods.reflection();
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(&descriptors)
                .include_reflection_service(false)
        };
        let unusable = |error: tonic_reflection::server::Error| GatewayError(error.to_string());
        standard.push(route::named(reflection().build_v1().map_err(unusable)?));
        standard.push(route::named(reflection().build_v1alpha().map_err(unusable)?));
        Ok(Self { inner: Arc::new(Shared { methods, metrics, limits, authenticator, clock, health, standard }) })
    }

    /// Begins a gateway, which serves health and reflection.
    #[must_use]
    pub fn gateway(&self) -> GatewayBuilder {
        let mut builder = GatewayBuilder { rpc: self.clone(), routes: HashMap::new(), endpoints: HashMap::new() };
        for (name, route) in &self.inner.standard {
            builder.insert(name, route);
        }
        builder
    }

    /// The counters.
    #[must_use]
    pub fn metrics(&self) -> &RpcMetrics {
        &self.inner.metrics
    }

    /// The bounds.
    #[must_use]
    pub fn limits(&self) -> &ServerLimits {
        &self.inner.limits
    }

    /// Says whether this process serves.
    #[must_use]
    pub fn health(&self) -> &Health {
        &self.inner.health
    }
}

impl fmt::Debug for Rpc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rpc").field("limits", &self.inner.limits).finish_non_exhaustive()
    }
}

/// A gateway in the making.
#[derive(Debug)]
pub struct GatewayBuilder {
    rpc: Rpc,
    routes: HashMap<String, Entry>,
    endpoints: HashMap<String, Arc<Served>>,
}

struct Entry {
    method: Arc<Method>,
    route: Arc<dyn Route>,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.method.path)
    }
}

impl GatewayBuilder {
    /// Serves KeyService.
    #[must_use]
    pub fn keys(self, service: impl KeyService + KeyCheck) -> Self {
        let limit = self.rpc.limits().message_bytes;
        let service = Arc::new(service);
        let check = unary::route(
            Arc::clone(&service),
            |service, caller, request| async move { service.check(&*caller.known()?, request).await },
            limit,
        );
        let mut all = self.service(KeyServiceServer::from_arc(service).max_decoding_message_size(limit));
        all.replace("/keyclasp.v1.KeyService/ValidateKey", check);
        all
    }

    /// Serves AuditService.
    #[must_use]
    pub fn audit(self, service: impl AuditService) -> Self {
        let limit = self.rpc.limits().message_bytes;
        self.service(AuditServiceServer::new(service).max_decoding_message_size(limit))
    }

    /// Serves AdminService.
    #[must_use]
    pub fn admin(self, service: impl AdminService) -> Self {
        let limit = self.rpc.limits().message_bytes;
        self.service(AdminServiceServer::new(service).max_decoding_message_size(limit))
    }

    /// Serves Envoy's ext_authz.
    #[must_use]
    pub fn envoy(mut self, judge: impl Judge) -> Self {
        let route = judge::route(judge, self.rpc.limits().message_bytes);
        self.insert("envoy.service.auth.v3.Authorization", &route);
        self
    }

    /// Serves any generated service whose descriptors are known. The limit of its messages is its own.
    #[must_use]
    pub fn service<S>(mut self, server: S) -> Self
    where
        S: Service<
                Request<RequestBody>,
                Response = Response<Body>,
                Error = Infallible,
                Future = BoxFuture<Response<Body>, Infallible>,
            > + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
    {
        let (name, route) = route::named(server);
        self.insert(name, &route);
        self
    }

    /// Serves plain HTTP at a path of its own, which is its name in the metrics.
    #[must_use]
    pub fn endpoint(mut self, endpoint: Endpoint) -> Self {
        let counts = self.rpc.metrics().endpoint(&endpoint.path);
        self.endpoints.insert(endpoint.path.clone(), Arc::new(Served::new(endpoint, counts)));
        self
    }

    fn insert(&mut self, service: &str, route: &Arc<dyn Route>) {
        let methods = self.rpc.inner.methods.all().iter().filter(|method| method.service == service);
        for method in methods {
            let entry = Entry { method: Arc::clone(method), route: Arc::clone(route) };
            self.routes.insert(method.path.clone(), entry);
        }
    }

    /// Has another route serve the method at `path`.
    fn replace(&mut self, path: &str, route: Arc<dyn Route>) {
        if let Some(entry) = self.routes.get_mut(path) {
            entry.route = route;
        }
    }

    /// The gateway.
    #[must_use]
    pub fn build(self) -> Gateway {
        Gateway { rpc: self.rpc, routes: Arc::new(self.routes), endpoints: Arc::new(self.endpoints) }
    }
}

/// Services behind limits, authentication, deadlines and metrics; clones are the same.
#[derive(Debug, Clone)]
pub struct Gateway {
    rpc: Rpc,
    routes: Arc<HashMap<String, Entry>>,
    endpoints: Arc<HashMap<String, Arc<Served>>>,
}

impl Gateway {
    /// The service of one connection from `origin` (an address without port; may be empty).
    #[must_use]
    pub fn connection(&self, origin: impl Into<Arc<str>>) -> Connection {
        // One count of references for each connection: what all connections shared would travel
        // from core to core with each call.
        Connection { peer: Arc::new(Peer { gateway: self.clone(), origin: origin.into(), shown: OnceLock::new() }) }
    }
}

/// The gateway as one connection sees it.
#[derive(Debug, Clone)]
pub struct Connection {
    peer: Arc<Peer>,
}

#[derive(Debug)]
struct Peer {
    gateway: Gateway,
    origin: Arc<str>,
    shown: OnceLock<Shown>,
}

impl Peer {
    fn shared(&self) -> &Shared {
        &self.gateway.rpc.inner
    }
}

impl hyper::service::Service<Request<Incoming>> for Connection {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = CallFuture;

    fn call(&self, request: Request<Incoming>) -> CallFuture {
        self.handle(request.map(RequestBody::incoming))
    }
}

impl Connection {
    /// Handles one request.
    #[must_use]
    pub fn handle(&self, mut request: Request<RequestBody>) -> CallFuture {
        let shared = self.peer.shared();
        let started = shared.clock.elapsed();
        let speaks = Speech::of(request.headers());
        let Some(entry) = self.peer.gateway.routes.get(request.uri().path()) else {
            if let Some(served) = self.peer.gateway.endpoints.get(request.uri().path()) {
                return CallFuture::plain(endpoint::answer(&self.peer, served, started, request));
            }
            return self.answer(UNKNOWN_METHOD, started, Refused::nowhere(speaks));
        };
        let method = &entry.method;
        let (form, caller, ticket) = match self.admit(method, started, speaks, &mut request) {
            Ok(admitted) => admitted,
            Err(refused) => {
                return match refused.why.and_then(|why| entry.route.refuse(why)) {
                    Some(response) => {
                        let took = shared.clock.elapsed().saturating_sub(started);
                        shared.metrics.answered(method.index, Code::Ok, took);
                        CallFuture::answered(response)
                    }
                    None => self.answer(method.index, started, refused),
                };
            }
        };
        if method.one_message {
            request.body_mut().arrives_within(shared.limits.message_time);
        }
        if method.fences {
            request.extensions_mut().insert(Ends(started.saturating_add(ticket.budget)));
        }
        let work = match form {
            Form::Grpc => Work::Grpc(entry.route.call(caller, request)),
            Form::Json => {
                let (method, route) = (Arc::clone(method), Arc::clone(&entry.route));
                let limit = shared.limits.message_bytes;
                Work::Json(Box::pin(async move { json::call(&method, &*route, caller, request, limit).await }))
            }
        };
        CallFuture::running(work, ticket)
    }

    /// Everything that comes before the service.
    fn admit(
        &self,
        method: &Arc<Method>,
        started: Duration,
        speaks: Speech,
        request: &mut Request<RequestBody>,
    ) -> Result<(Form, Caller, Ticket), Refused> {
        let shared = self.peer.shared();
        let form = form::of(method, speaks, request)?;
        let refused = |error: Error| Refused::new(form, status(error));
        // Whoever asks such a method without a proof gets a denial, in a place for strangers.
        let judged = method.judges.then(|| self.judged(method, request));
        let stranger = matches!(judged, Some(Caller::Refused(_)));
        let place = if !method.unary {
            Some((Place::Stream, shared.limits.open_streams))
        } else if method.health {
            None
        } else if method.open || stranger {
            Some((Place::Open, shared.limits.open_in_flight()))
        } else {
            Some((Place::Known, shared.limits.in_flight))
        };
        if let Some((place, limit)) = place
            && !shared.metrics.begin_call(place, limit)
        {
            let why = if stranger { Unanswered::Stranger } else { Unanswered::Shed };
            return Err(refused(overloaded(place)).because(why));
        }
        let place = place.map(|(place, _)| place);
        let mut ticket = Ticket::new(Arc::clone(&self.peer), Arc::clone(method), form, started, place);
        let caller = match judged {
            Some(caller) => Ok(caller),
            None => self.authenticate(method, request),
        };
        let admitted = caller.and_then(|caller| {
            let budget = shared.limits.deadlines.budget(request.headers(), form)?;
            Ok((caller, budget))
        });
        match admitted {
            Ok((caller, budget)) => {
                ticket.budget = budget;
                Ok((form, caller, ticket))
            }
            Err(error) => {
                ticket.forget();
                Err(refused(error).because(Unanswered::Malformed))
            }
        }
    }

    fn authenticate(&self, method: &Method, request: &mut Request<RequestBody>) -> Result<Caller, Error> {
        let Peer { origin, shown, .. } = &*self.peer;
        let caller = if method.open {
            // A credential that such a method does not need is not judged either.
            Caller::Anonymous(Anonymous { origin: Arc::clone(origin) })
        } else {
            let found = self.peer.shared().authenticator.call(request.headers(), origin, shown)?;
            Caller::Known(found.ok_or_else(auth::absent)?)
        };
        // Nothing behind this point can print or pass on the token.
        request.headers_mut().remove(AUTHORIZATION);
        Ok(caller)
    }

    /// The caller of a method that answers whoever it is.
    fn judged(&self, method: &Method, request: &mut Request<RequestBody>) -> Caller {
        static SAID: LazyLock<Throttle> = LazyLock::new(|| Throttle::new(1));
        self.authenticate(method, request).unwrap_or_else(|error| {
            request.headers_mut().remove(AUTHORIZATION);
            let origin = Arc::clone(&self.peer.origin);
            if let Some(left_out) = SAID.admit() {
                let (path, why) = (&method.path, error.message);
                tracing::warn!(%origin, path, why, left_out, "who asks is not known, and is answered by a denial");
            }
            Caller::Refused(Anonymous { origin })
        })
    }

    fn answer(&self, method: usize, started: Duration, refused: Refused) -> CallFuture {
        let shared = self.peer.shared();
        shared.metrics.answered(method, refused.code(), shared.clock.elapsed().saturating_sub(started));
        CallFuture::answered(refused.response(&shared.methods))
    }
}

fn overloaded(place: Place) -> Error {
    let message = match place {
        Place::Known | Place::Open => "as many calls as allowed are in flight; nothing was done",
        Place::Stream => "as many streams as allowed are open; nothing was done",
    };
    Error::new(ErrorKind::Overloaded, message).retry_after(Duration::from_millis(100))
}
