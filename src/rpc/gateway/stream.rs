//! The answer of a method that streams, which has its place until it ends.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tonic::Status;
use tonic::body::Body;

use super::Peer;
use crate::rpc::metrics::Place;

/// `body`, at whose end `place` is given back.
pub(super) fn open(body: Body, peer: Arc<Peer>, place: Place) -> Body {
    Body::new(Open { body, _held: Held { peer, place } })
}

struct Open {
    body: Body,
    _held: Held,
}

struct Held {
    peer: Arc<Peer>,
    place: Place,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.peer.shared().metrics.end_call(self.place);
    }
}

impl http_body::Body for Open {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
