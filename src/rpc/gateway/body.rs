//! The body of a request, and how long it may take to arrive.

use std::fmt;
use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Sleep;
use tonic::Status;

use crate::rpc::error::refuse;
use crate::service::ErrorKind;

/// The body of a request, as it comes or as it was transcoded. Its error is a status: where the
/// gRPC library passes it on, it is answered as it is.
#[derive(Debug)]
pub enum RequestBody {
    /// From the connection.
    Arriving(Arriving),
    /// All of it at once.
    Whole(Option<Bytes>),
}

/// A body from the connection.
pub struct Arriving {
    body: Incoming,
    /// For the whole of it. None: for as long as the call may take.
    within: Option<Duration>,
    /// Made when the body has to be waited for: most are there with their headers.
    timer: Option<Pin<Box<Sleep>>>,
}

impl RequestBody {
    pub(super) const fn incoming(body: Incoming) -> Self {
        Self::Arriving(Arriving { body, within: None, timer: None })
    }

    /// All of it has to be there within this time from when it is first waited for.
    pub(super) const fn arrives_within(&mut self, time: Duration) {
        if let Self::Arriving(arriving) = self {
            arriving.within = Some(time);
        }
    }
}

impl Arriving {
    fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            return Poll::Ready(frame.map(|frame| frame.map_err(|error| Status::from_error(Box::new(error)))));
        }
        let Some(within) = self.within else { return Poll::Pending };
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(within)));
        timer.as_mut().poll(context).map(|()| Some(Err(late(within))))
    }
}

fn late(within: Duration) -> Status {
    let message = format!("the request did not arrive within {within:?}; nothing was done");
    refuse(ErrorKind::DeadlineExceeded, message)
}

impl fmt::Debug for Arriving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Arriving(…)")
    }
}

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        match self.get_mut() {
            Self::Arriving(arriving) => arriving.poll_frame(context),
            Self::Whole(body) => Poll::Ready(body.take().map(|body| Ok(Frame::data(body)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Arriving(arriving) => arriving.body.is_end_stream(),
            Self::Whole(body) => body.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Arriving(arriving) => arriving.body.size_hint(),
            Self::Whole(body) => SizeHint::with_exact(body.as_ref().map_or(0, |body| body.len() as u64)),
        }
    }
}
