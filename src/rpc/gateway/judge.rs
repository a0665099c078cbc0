//! A route that answers whatever happens: for proxies, which take an error for an outage, and may let
//! requests pass while there is one.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use tonic::body::Body;
use tonic::codegen::BoxFuture;
use tonic::{Code, Status};

use super::body::RequestBody;
use super::route::{Route, Unanswered};
use super::unary;
use crate::rpc::auth::Caller;

/// Judges what a proxy asks about.
pub trait Judge: Send + Sync + 'static {
    /// Largest message that it reads from a caller who is known.
    fn limit(&self) -> usize;

    /// Answers one message, or says why there is none, as gRPC frames it. A caller may be
    /// [`Caller::Refused`]. An error is for an outage alone.
    fn judge(
        &self,
        caller: Caller,
        message: Result<Bytes, Unread>,
    ) -> impl Future<Output = Result<Bytes, Status>> + Send;

    /// The answer to a call that does not come so far. None: an error.
    fn refuse(&self, why: Unanswered) -> Option<Bytes>;
}

/// Why there is no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unread {
    /// It is not one.
    Malformed,
    /// It is too large.
    TooLarge,
    /// It did not arrive in time.
    Late,
}

/// A judge as a route. Of a stranger it reads messages of up to `stranger_limit` bytes.
pub(super) fn route(judge: impl Judge, stranger_limit: usize) -> Arc<dyn Route> {
    Arc::new(Judging { judge: Arc::new(judge), stranger_limit })
}

struct Judging<J> {
    judge: Arc<J>,
    stranger_limit: usize,
}

impl<J: Judge> Route for Judging<J> {
    fn call(&self, caller: Caller, request: Request<RequestBody>) -> BoxFuture<Response<Body>, Infallible> {
        let limit = self.judge.limit();
        let limit = if matches!(caller, Caller::Known(_)) { limit } else { limit.min(self.stranger_limit) };
        let (judge, body) = (Arc::clone(&self.judge), unary::body(request));
        Box::pin(async move {
            let message = unary::message(body, limit).await.map_err(|status| unread(&status));
            Ok(match judge.judge(caller, message).await {
                Ok(framed) => unary::answered(framed),
                Err(status) => status.into_http(),
            })
        })
    }

    fn refuse(&self, why: Unanswered) -> Option<Response<Body>> {
        self.judge.refuse(why).map(unary::answered)
    }
}

fn unread(status: &Status) -> Unread {
    match status.code() {
        Code::OutOfRange => Unread::TooLarge,
        Code::DeadlineExceeded => Unread::Late,
        _ => Unread::Malformed,
    }
}
