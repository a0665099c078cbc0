//! A route that answers whatever happens: for proxies, which take an error for an outage, and may let
//! requests pass while there is one.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

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
    /// It is large, and so are too many others at the moment.
    Crowded,
}

/// How many messages of the largest size a worker may have in memory at a time. Usual ones do not count.
const LARGEST_AT_ONCE: usize = 32;

/// A judge as a route. Of a stranger it reads messages of up to `usual` bytes, of others larger ones too, as long as
/// there is room for them.
pub(super) fn route(judge: impl Judge, usual: usize) -> Arc<dyn Route> {
    let room = Arc::new(AtomicUsize::new(judge.limit().saturating_mul(LARGEST_AT_ONCE)));
    Arc::new(Judging { judge: Arc::new(judge), usual, room })
}

struct Judging<J> {
    judge: Arc<J>,
    usual: usize,
    /// Bytes that large messages may still take.
    room: Arc<AtomicUsize>,
}

impl<J: Judge> Route for Judging<J> {
    fn call(&self, caller: Caller, request: Request<RequestBody>) -> BoxFuture<Response<Body>, Infallible> {
        let (limit, usual) = (self.judge.limit(), self.usual);
        let limit = if matches!(caller, Caller::Known(_)) { limit } else { limit.min(usual) };
        let (judge, room) = (Arc::clone(&self.judge), Arc::clone(&self.room));
        let body = unary::body(request);
        Box::pin(async move {
            let begins = |length| if length > usual { Room::take(&room, length).map(Some) } else { Ok(None) };
            let (message, _room) = match unary::message(body, limit, begins).await {
                Ok((message, room)) => (Ok(message), room),
                Err(status) => (Err(unread(&status)), None),
            };
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
        Code::ResourceExhausted => Unread::Crowded,
        _ => Unread::Malformed,
    }
}

/// Room that a large message takes, until it is dropped.
struct Room {
    left: Arc<AtomicUsize>,
    length: usize,
}

impl Room {
    fn take(left: &Arc<AtomicUsize>, length: usize) -> Result<Self, Status> {
        left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(length))
            .map_err(|_| Status::resource_exhausted("as many large messages as allowed are in memory"))?;
        Ok(Self { left: Arc::clone(left), length })
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.left.fetch_add(self.length, Ordering::Relaxed);
    }
}
