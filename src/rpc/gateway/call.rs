//! A call that runs: bounded in time, counted once, answered even if the service panics.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use tonic::body::Body;
use tonic::codegen::BoxFuture;
use tonic::{Code, Status};

use super::endpoint::Answering;
use super::route::Unanswered;
use super::{Peer, stream};
use crate::clock::alarm::Alarm;
use crate::rpc::deadline::Form;
use crate::rpc::error::{refuse, status};
use crate::rpc::json;
use crate::rpc::methods::Method;
use crate::rpc::metrics::Place;
use crate::service::{Error, ErrorKind};

/// What a call does.
pub(super) enum Work {
    /// The service itself.
    Grpc(BoxFuture<Response<Body>, Infallible>),
    /// The service behind the JSON mapping.
    Json(Pin<Box<dyn Future<Output = Result<Bytes, Status>> + Send>>),
}

/// A call's place among those in flight, until dropped, and what its answer needs to know.
pub(super) struct Ticket {
    peer: Arc<Peer>,
    method: Arc<Method>,
    form: Form,
    started: Duration,
    /// How long the work may take from `started` on.
    pub(super) budget: Duration,
    /// What it occupies. None: it does not count among those in flight.
    place: Option<Place>,
    /// Whether its answer was counted.
    answered: bool,
}

impl Ticket {
    pub(super) fn new(
        peer: Arc<Peer>,
        method: Arc<Method>,
        form: Form,
        started: Duration,
        place: Option<Place>,
    ) -> Self {
        Self { peer, method, form, started, budget: Duration::ZERO, place, answered: false }
    }

    /// The call ends before it began; somebody else counts its answer.
    pub(super) fn forget(mut self) {
        self.answered = true;
    }

    fn count(&mut self, code: Code) {
        self.answered = true;
        let shared = self.peer.shared();
        shared.metrics.answered(self.method.index, code, shared.clock.elapsed().saturating_sub(self.started));
    }

    fn left(&self) -> Duration {
        let used = self.peer.shared().clock.elapsed().saturating_sub(self.started);
        self.budget.saturating_sub(used)
    }

    /// The answer to a call that failed, in the form of the call.
    fn failure(&self, status: Status) -> Response<Body> {
        match self.form {
            Form::Grpc => status.into_http(),
            Form::Json => json::failure(&self.peer.shared().methods, &status),
        }
    }

    /// The answer to a call whose service does not answer, with its code.
    fn unanswered(&self, why: Unanswered, status: Status) -> (Response<Body>, Code) {
        let entry = self.peer.gateway.routes.get(&self.method.path).filter(|_| self.form == Form::Grpc);
        match entry.and_then(|entry| entry.route.refuse(why)) {
            Some(response) => (response, Code::Ok),
            None => {
                let code = status.code();
                (self.failure(status), code)
            }
        }
    }

    /// The service's answer, with its code.
    fn done(&mut self, response: Response<Body>) -> (Response<Body>, Code) {
        // A unary call that fails has its status among the headers; an error on the way of a
        // stream comes too late to be counted.
        if !response.headers().contains_key(Status::GRPC_STATUS) {
            return (self.opened(response), Code::Ok);
        }
        let Some(status) = Status::from_header_map(response.headers()) else { return (response, Code::Unknown) };
        let adopted = adopt(status, &self.method, self.peer.shared().limits.message_bytes);
        let code = adopted.code();
        (if code == Code::Ok { response } else { adopted.into_http() }, code)
    }
}

impl Ticket {
    /// A stream keeps its place until its last message was sent or its peer has gone.
    fn opened(&mut self, response: Response<Body>) -> Response<Body> {
        match self.place.take_if(|place| *place == Place::Stream) {
            Some(place) => response.map(|body| stream::open(body, Arc::clone(&self.peer), place)),
            None => response,
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.answered {
            self.count(Code::Cancelled);
        }
        if let Some(place) = self.place {
            self.peer.shared().metrics.end_call(place);
        }
    }
}

/// The answer to one request.
pub struct CallFuture {
    state: State,
}

enum State {
    /// Nothing had to be done; empty once it was taken.
    Answered(Option<Response<Body>>),
    /// Plain HTTP, which is bounded and counted where it is made.
    Plain(Answering),
    Running {
        work: Work,
        ticket: Ticket,
        /// Set when the call has to wait for the first time: most calls never do.
        timer: Option<Alarm>,
    },
}

impl CallFuture {
    pub(super) const fn answered(response: Response<Body>) -> Self {
        Self { state: State::Answered(Some(response)) }
    }

    pub(super) const fn plain(answer: Answering) -> Self {
        Self { state: State::Plain(answer) }
    }

    pub(super) const fn running(work: Work, ticket: Ticket) -> Self {
        Self { state: State::Running { work, ticket, timer: None } }
    }
}

impl fmt::Debug for CallFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CallFuture")
    }
}

impl Future for CallFuture {
    type Output = Result<Response<Body>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let (work, ticket, timer) = match &mut self.state {
            State::Answered(response) => return response.take().map_or(Poll::Pending, |it| Poll::Ready(Ok(it))),
            State::Plain(answer) => return answer.as_mut().poll(context).map(Ok),
            State::Running { work, ticket, timer } => (work, ticket, timer),
        };
        let polled = catch_unwind(AssertUnwindSafe(|| match work {
            Work::Grpc(work) => work.as_mut().poll(context).map(|Ok(response)| ticket.done(response)),
            Work::Json(work) => work.as_mut().poll(context).map(|answer| match answer {
                Ok(body) => (json::success(body), Code::Ok),
                Err(status) => (ticket.failure(status.clone()), status.code()),
            }),
        }));
        let (response, code) = match polled {
            Ok(Poll::Ready(answer)) => answer,
            Ok(Poll::Pending) => {
                let timer = timer.get_or_insert_with(|| Alarm::after(ticket.left()));
                ready!(Pin::new(timer).poll(context));
                ticket.unanswered(Unanswered::Late, too_late())
            }
            Err(_) => ticket.unanswered(Unanswered::Panicked, panicked(&ticket.method)),
        };
        ticket.count(code);
        // The work ends here, and with it its place among the calls in flight.
        self.state = State::Answered(None);
        Poll::Ready(Ok(response))
    }
}

fn too_late() -> Status {
    refuse(
        ErrorKind::DeadlineExceeded,
        "the time for this call was up; whether a change was made is not known: repeat it; a change only with a request_id",
    )
}

fn panicked(method: &Method) -> Status {
    status(Error {
        internal: Some(format!("{} panicked", method.path)),
        ..Error::new(ErrorKind::Internal, "internal error; the log has more")
    })
}

/// Gives an error that the gRPC library made, and not a use case, its place in our table. What it
/// says of a message that it cannot decode names fields, not their values.
pub(in crate::rpc) fn adopt(status: Status, method: &Method, limit: usize) -> Status {
    if !method.ours || !status.details().is_empty() {
        return status;
    }
    match status.code() {
        Code::OutOfRange | Code::ResourceExhausted => json::too_large(limit),
        Code::Internal => refuse(
            ErrorKind::RequestMalformed,
            format!("the request is not a {}: {}", method.input.full_name(), status.message()),
        ),
        _ => status,
    }
}
