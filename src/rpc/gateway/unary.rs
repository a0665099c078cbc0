//! The exchange of a unary call on the check path: one message in, one message out.
//!
//! The generated servers can do this too, and do it for every other method. They are made for
//! streams: buffers of 8 KiB in both directions, a decoder and an encoder behind pointers, and the
//! answer moved through each of them. Here a message that arrived in one piece is decoded where it
//! lies, and the answer is written once, into a buffer of its size. Neither compresses.

use std::convert::Infallible;
use std::fmt;
use std::future::{Future, poll_fn};
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use futures_util::FutureExt as _;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body::{Body as _, Frame, SizeHint};
use prost::{DecodeError, Message};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::BoxFuture;
use tonic::metadata::MetadataValue;

use super::body::RequestBody;
use super::route::Route;
use crate::rpc::auth::Caller;
use crate::rpc::proto::v1;
use crate::service::access::Call;

/// Most bytes of an answer in one frame: h2 copies frames below 1 KiB into its buffer, so that the status behind them
/// goes out by the same write. Larger ones it writes before it looks at what follows.
const PIECE: usize = 1000;
/// Bytes before a message: whether it is compressed, and its length.
const PREFIX: usize = 5;
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const OK: HeaderValue = HeaderValue::from_static("0");
const ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
const ACCEPT_ENCODING: &str = "grpc-accept-encoding";

/// ValidateKey without what a generated server wraps around it: no metadata in either direction, and an
/// answer that may have been written before.
pub trait KeyCheck: Send + Sync + 'static {
    /// Answers a request of `call`.
    fn check(
        &self,
        call: &Call,
        request: v1::ValidateKeyRequest,
    ) -> impl Future<Output = Result<Written<v1::ValidateKeyResponse>, Status>> + Send;
}

/// A message as it goes over the wire, with its prefix. Clones share the bytes.
pub struct Written<A> {
    framed: Bytes,
    message: PhantomData<fn() -> A>,
}

impl<A: Message + Default> Written<A> {
    /// Writes a message.
    #[must_use]
    pub fn new(message: &A) -> Self {
        let length = message.encoded_len();
        let mut framed = BytesMut::with_capacity(PREFIX + length);
        framed.put_u8(0);
        // The messages of these methods are some hundred bytes.
        framed.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
        message.encode_raw(&mut framed);
        Self { framed: framed.freeze(), message: PhantomData }
    }

    /// One that was written before, prefix and all.
    pub(in crate::rpc) const fn from_bytes(framed: Bytes) -> Self {
        Self { framed, message: PhantomData }
    }

    /// The message.
    ///
    /// # Errors
    /// When the bytes are not one.
    pub fn message(&self) -> Result<A, DecodeError> {
        A::decode(self.framed.get(PREFIX..).unwrap_or_default())
    }
}

impl<A> fmt::Debug for Written<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Written").field("len", &self.framed.len()).finish()
    }
}

/// One unary method of `service` as a route: `handle` is called with each request message, which
/// may be up to `limit` bytes long.
pub(super) fn route<S, H, F, Q, A>(service: Arc<S>, handle: H, limit: usize) -> Arc<dyn Route>
where
    S: Send + Sync + 'static,
    H: Fn(Arc<S>, Caller, Q) -> F + Copy + Send + Sync + 'static,
    F: Future<Output = Result<Written<A>, Status>> + Send + 'static,
    Q: Message + Default + 'static,
    A: 'static,
{
    Arc::new(Unary {
        call: move |caller, request| exchange(Arc::clone(&service), handle, caller, body(request), limit),
    })
}

struct Unary<C> {
    call: C,
}

impl<C, F> Route for Unary<C>
where
    C: Fn(Caller, Request<RequestBody>) -> F + Send + Sync,
    F: Future<Output = Result<Response<Body>, Status>> + Send + 'static,
{
    fn call(&self, caller: Caller, request: Request<RequestBody>) -> BoxFuture<Response<Body>, Infallible> {
        // Mapped, not awaited in a further block: that would have room for it twice.
        Box::pin((self.call)(caller, request).map(|answer| Ok(answer.unwrap_or_else(Status::into_http))))
    }
}

async fn exchange<S, H, F, Q, A>(
    service: Arc<S>,
    handle: H,
    caller: Caller,
    body: Result<RequestBody, Status>,
    limit: usize,
) -> Result<Response<Body>, Status>
where
    H: Fn(Arc<S>, Caller, Q) -> F,
    F: Future<Output = Result<Written<A>, Status>>,
    Q: Message + Default,
{
    let (bytes, _) = message(body, limit, |_| Ok(())).await?;
    let message = Q::decode(bytes).map_err(|error| Status::internal(error.to_string()))?;
    let answer = handle(service, caller, message).await?;
    Ok(answered(answer.framed))
}

/// The answer that is this message, which has its prefix already.
pub(super) fn answered(framed: Bytes) -> Response<Body> {
    let mut response = Response::new(Body::new(Answer { message: Some(framed), ended: false }));
    response.headers_mut().insert(CONTENT_TYPE, GRPC);
    response
}

/// The body of a request, which must not be compressed. The headers go here, and not along with the call.
pub(super) fn body(request: Request<RequestBody>) -> Result<RequestBody, Status> {
    uncompressed(request.headers())?;
    Ok(request.into_body())
}

/// The one message of a body, which may be up to `limit` bytes long. `begins` is asked once its length is known;
/// what it answers is for as long as the message is.
pub(super) async fn message<K>(
    body: Result<RequestBody, Status>,
    limit: usize,
    begins: impl Fn(usize) -> Result<K, Status>,
) -> Result<(Bytes, Option<K>), Status> {
    let mut body = body?;
    let (mut gathered, mut kept) = (Gathered::default(), None);
    // Until the end of the body: what comes after it is no part of the call.
    while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        // Trailers of a request say nothing.
        if let Ok(data) = frame?.into_data() {
            let length = gathered.add(data, limit)?;
            if let (Some(length), None) = (length, &kept) {
                kept = Some(begins(length)?);
            }
        }
        if body.is_end_stream() {
            break;
        }
    }
    Ok((gathered.message()?, kept))
}

/// Refuses an encoding that was never offered (gRPC, "Message-Encoding").
fn uncompressed(headers: &HeaderMap) -> Result<(), Status> {
    match headers.get(ENCODING) {
        None => Ok(()),
        Some(encoding) if encoding == "identity" => Ok(()),
        Some(_) => {
            let mut status = Status::unimplemented("compressed messages are not accepted; send grpc-encoding identity");
            status.metadata_mut().insert(ACCEPT_ENCODING, MetadataValue::from_static("identity"));
            Err(status)
        }
    }
}

/// What has arrived of a message and its prefix (gRPC, "Length-Prefixed-Message").
#[derive(Default)]
struct Gathered {
    /// All of it, while it is one piece.
    piece: Bytes,
    /// All of it, once there were several.
    pieces: BytesMut,
}

impl Gathered {
    /// Adds what arrived, as long as it may belong to one message of up to `limit` bytes; answers how long that
    /// is, once it is known.
    fn add(&mut self, data: Bytes, limit: usize) -> Result<Option<usize>, Status> {
        if self.piece.is_empty() && self.pieces.is_empty() {
            self.piece = data;
        } else {
            if self.pieces.is_empty() {
                self.pieces.extend_from_slice(&std::mem::take(&mut self.piece));
            }
            self.pieces.extend_from_slice(&data);
        }
        let arrived = self.bytes();
        match arrived.first() {
            None | Some(0) => {}
            Some(1) => return Err(Status::internal("the message is marked as compressed; no encoding was agreed on")),
            Some(_) => return Err(Status::internal("the message begins with a byte that gRPC does not know")),
        }
        let Some(length) = length(arrived) else { return Ok(None) };
        if length > limit {
            Err(Status::out_of_range("the message is too large"))
        } else if arrived.len() > PREFIX + length {
            Err(Status::internal("more than one message was sent; this method takes one"))
        } else {
            Ok(Some(length))
        }
    }

    fn bytes(&self) -> &[u8] {
        if self.pieces.is_empty() { &self.piece } else { &self.pieces }
    }

    /// The message without its prefix.
    fn message(self) -> Result<Bytes, Status> {
        let mut whole = if self.pieces.is_empty() { self.piece } else { self.pieces.freeze() };
        match length(&whole) {
            Some(length) if whole.len() == PREFIX + length => {
                whole.advance(PREFIX);
                Ok(whole)
            }
            None if whole.is_empty() => Err(Status::internal("no message was sent; this method takes one")),
            _ => Err(Status::internal("the message ended before it was whole")),
        }
    }
}

/// The length that a prefix names, once it is there.
fn length(bytes: &[u8]) -> Option<usize> {
    let (prefix, _) = bytes.split_first_chunk::<PREFIX>()?;
    let [_, length @ ..] = *prefix;
    // On a machine where this does not fit, no limit does.
    Some(usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX))
}

/// The body of an answer: its message, then the status OK.
struct Answer {
    message: Option<Bytes>,
    ended: bool,
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = self.get_mut();
        Poll::Ready(if let Some(mut message) = this.message.take() {
            let piece = message.split_to(message.len().min(PIECE));
            this.message = Some(message).filter(|rest| !rest.is_empty());
            Some(Ok(Frame::data(piece)))
        } else if this.ended {
            None
        } else {
            this.ended = true;
            let mut trailers = HeaderMap::with_capacity(1);
            trailers.insert(Status::GRPC_STATUS, OK);
            Some(Ok(Frame::trailers(trailers)))
        })
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }

    fn size_hint(&self) -> SizeHint {
        self.message.as_ref().map_or_else(SizeHint::default, |message| {
            let mut hint = SizeHint::new();
            hint.set_lower(u64::try_from(message.len()).unwrap_or_default());
            hint
        })
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use proptest::prelude::*;

    use super::*;
    use crate::rpc::auth::Anonymous;
    use crate::rpc::proto::v1::Fence;

    const LIMIT: usize = 64;

    fn framed(flag: u8, message: &[u8]) -> Vec<u8> {
        let length = u32::try_from(message.len()).unwrap();
        [&[flag][..], &length.to_be_bytes(), message].concat()
    }

    fn gathered(pieces: &[&[u8]]) -> Result<Bytes, Status> {
        let mut gathered = Gathered::default();
        for piece in pieces {
            gathered.add(Bytes::copy_from_slice(piece), LIMIT)?;
        }
        gathered.message()
    }

    fn refused(pieces: &[&[u8]]) -> String {
        gathered(pieces).unwrap_err().message().to_owned()
    }

    proptest! {
        #[test]
        fn a_message_is_whole_however_it_was_cut(
            message in proptest::collection::vec(any::<u8>(), 0..=LIMIT),
            cuts in proptest::collection::vec(0_usize..80, 0..6),
        ) {
            let whole = framed(0, &message);
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(whole.len())).chain([0, whole.len()]).collect();
            cuts.sort_unstable();
            let pieces: Vec<_> = cuts.windows(2).map(|pair| &whole[pair[0]..pair[1]]).collect();
            prop_assert_eq!(gathered(&pieces).unwrap(), message.clone());
            // And without its last byte it is not.
            let short = &whole[..whole.len() - 1];
            prop_assert!(gathered(&[short]).is_err());
        }
    }

    #[test]
    fn what_is_not_one_uncompressed_message_is_refused() {
        let one = framed(0, b"one");
        assert!(refused(&[]).contains("no message"));
        assert!(refused(&[&one[..4]]).contains("before it was whole"));
        assert!(refused(&[&one, &one]).contains("more than one message"));
        assert!(refused(&[&one, b"x"]).contains("more than one message"));
        assert!(refused(&[&framed(1, b"one")]).contains("compressed"));
        assert!(refused(&[&framed(2, b"one")]).contains("does not know"));
        // A length is believed only to be refused: nothing is reserved for it.
        let error = gathered(&[&[0, 255, 255, 255, 255]]).unwrap_err();
        assert_eq!(error.code(), tonic::Code::OutOfRange);
        assert_eq!(gathered(&[&framed(0, &[7; LIMIT + 1])]).unwrap_err().code(), tonic::Code::OutOfRange);
    }

    fn request(body: Vec<u8>, encoding: Option<&'static str>) -> Request<RequestBody> {
        let mut request = Request::new(RequestBody::Whole(Some(Bytes::from(body))));
        if let Some(encoding) = encoding {
            request.headers_mut().insert(ENCODING, HeaderValue::from_static(encoding));
        }
        request
    }

    fn nobody() -> Caller {
        Caller::Anonymous(Anonymous::default())
    }

    fn echo() -> Arc<dyn Route> {
        route(Arc::new(()), |_, _, request: Fence| async move { Ok(Written::new(&request)) }, LIMIT)
    }

    #[tokio::test]
    async fn the_answer_is_one_message_and_a_status() {
        let message = Fence { acknowledged: 7, ..Fence::default() };
        for encoding in [None, Some("identity")] {
            let sent = framed(0, &message.encode_to_vec());
            let Ok(response) = echo().call(nobody(), request(sent.clone(), encoding)).await;
            assert_eq!(response.headers()[CONTENT_TYPE], "application/grpc");
            assert!(!response.headers().contains_key(Status::GRPC_STATUS), "it has a message");
            let body = response.into_body().collect().await.unwrap();
            assert_eq!(body.trailers().unwrap()[Status::GRPC_STATUS], "0");
            assert_eq!(body.to_bytes(), sent);
        }
    }

    #[tokio::test]
    async fn a_long_answer_comes_in_pieces_that_are_buffered_with_its_status() {
        for length in [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 7] {
            let framed: Bytes = (0..length).map(|at| u8::try_from(at % 251).unwrap()).collect();
            let mut answer = Answer { message: Some(framed.clone()), ended: false };
            let (mut whole, mut status) = (Vec::new(), false);
            while let Some(frame) = answer.frame().await {
                assert!(!status, "nothing comes behind the status");
                match frame.unwrap().into_data() {
                    Ok(piece) => {
                        assert!(piece.len() <= PIECE);
                        whole.extend_from_slice(&piece);
                    }
                    Err(_) => status = true,
                }
            }
            assert!(status && whole == framed, "{length}");
        }
    }

    #[tokio::test]
    async fn an_encoding_that_was_not_offered_is_refused_and_the_answer_says_which_is() {
        let Ok(response) = echo().call(nobody(), request(framed(1, b"one"), Some("gzip"))).await;
        assert_eq!(response.headers()[Status::GRPC_STATUS], "12");
        assert_eq!(response.headers()[ACCEPT_ENCODING], "identity");
    }
}
