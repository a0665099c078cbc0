//! The generated servers behind one type that can be kept in a table.

use std::convert::Infallible;
use std::sync::Arc;

use http::{Request, Response};
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service};
use tonic::server::NamedService;

use super::body::RequestBody;
use crate::rpc::auth::Caller;

/// A service of the API. The generated servers box their future themselves: a route adds nothing.
pub trait Route: Send + Sync {
    /// Handles one gRPC request of `caller`.
    fn call(&self, caller: Caller, request: Request<RequestBody>) -> BoxFuture<Response<Body>, Infallible>;

    /// The answer to a gRPC call that the service does not answer. None: the error that others get.
    fn refuse(&self, why: Unanswered) -> Option<Response<Body>> {
        let _ = why;
        None
    }
}

/// Why the gateway answers a call in the place of its service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unanswered {
    /// As many calls as allowed are in flight.
    Shed,
    /// The same, and whoever calls did not prove who it is.
    Stranger,
    /// What the call says of itself cannot be read.
    Malformed,
    /// Its time is up.
    Late,
    /// The service panicked.
    Panicked,
}

struct Server<S>(S);

impl<S> Route for Server<S>
where
    S: Service<
            Request<RequestBody>,
            Response = Response<Body>,
            Error = Infallible,
            Future = BoxFuture<Response<Body>, Infallible>,
        > + Clone
        + Send
        + Sync,
{
    fn call(&self, caller: Caller, mut request: Request<RequestBody>) -> BoxFuture<Response<Body>, Infallible> {
        caller.attach(request.extensions_mut());
        // Generated servers are always ready, and are made to be cloned for a call.
        self.0.clone().call(request)
    }
}

/// A generated server as a route, with the name of its service.
pub(super) fn named<S>(server: S) -> (&'static str, Arc<dyn Route>)
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
    (S::NAME, Arc::new(Server(server)))
}
