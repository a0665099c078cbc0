//! JSON beside gRPC: `POST /package.Service/Method` with `application/json`, for every unary method.
//!
//! Messages follow protobuf's JSON mapping; unknown fields are refused, and so are fields that are
//! given twice and an empty body (a request without fields is `{}`). Errors have Connect's form
//! and status. A request body may hold a key: no part of it is ever logged or repeated in an error,
//! names of fields apart.

mod duplicates;
mod explain;

use bytes::{BufMut as _, Bytes, BytesMut};
use data_encoding::BASE64_NOPAD;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, TE};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body::Body as _;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use prost::Message as _;
use prost_reflect::{DynamicMessage, MessageDescriptor};
use serde::Serialize;
use serde_json::Value;
use tonic::body::Body;
use tonic::{Code, Status};

use super::auth::Caller;
use super::error::{http_status, refuse, status};
use super::gateway::{RequestBody, Route, adopt};
use super::methods::{Method, Methods};
use crate::service::{Error, ErrorKind};

/// Bytes before a message in a gRPC body: a flag and a length.
const FRAME: usize = 5;

/// Calls `route` with the message that the JSON body of `request` is; the answer as JSON.
///
/// # Errors
/// What the method answered, or what is wrong with the body.
pub(super) async fn call(
    method: &Method,
    route: &dyn Route,
    caller: Caller,
    request: Request<RequestBody>,
    limit: usize,
) -> Result<Bytes, Status> {
    let (mut head, body) = request.into_parts();
    let text = read(body, limit).await?;
    let message = parse(&method.input, &text).map_err(status)?;
    drop(text);
    head.headers.remove(CONTENT_LENGTH);
    head.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    head.headers.insert(TE, HeaderValue::from_static("trailers"));
    let request = Request::from_parts(head, RequestBody::Whole(Some(frame(&message))));

    let response = match route.call(caller, request).await {
        Ok(response) => response,
        Err(never) => match never {},
    };
    let message = message_of(response).await.map_err(|status| adopt(status, method, limit))?;
    print(&method.output, message)
}

/// The answer to a JSON call that was done.
pub(super) fn success(body: Bytes) -> Response<Body> {
    let mut response = Response::new(Body::new(Full::new(body)));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    // The answer to CreateKey is a secret.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// The answer to a JSON call that was not.
pub(super) fn failure(methods: &Methods, status: &Status) -> Response<Body> {
    let mut details = Vec::new();
    let mut retry_after = None;
    let known = tonic_types::pb::Status::decode(status.details()).unwrap_or_default();
    for detail in known.details {
        let name = detail.type_url.rsplit('/').next().unwrap_or_default().to_owned();
        if name == "google.rpc.RetryInfo" {
            let info = tonic_types::pb::RetryInfo::decode(detail.value.as_slice()).unwrap_or_default();
            retry_after = info.retry_delay.map(|delay| delay.seconds + i64::from(delay.nanos > 0));
        }
        let debug = methods
            .message(&name)
            .and_then(|descriptor| DynamicMessage::decode(descriptor, detail.value.as_slice()).ok())
            .and_then(|message| serde_json::to_value(&message).ok())
            .unwrap_or(Value::Null);
        details.push(Detail { kind: name, value: BASE64_NOPAD.encode(&detail.value), debug });
    }
    let body = Failure { code: connect_code(status.code()), message: status.message(), details };
    let mut response = success(Bytes::from(serde_json::to_vec(&body).unwrap_or_default()));
    *response.status_mut() =
        StatusCode::from_u16(http_status(status.code())).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if let Some(seconds) = retry_after {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
    }
    response
}

/// The body of an error: Connect's form.
#[derive(Serialize)]
struct Failure<'a> {
    code: String,
    message: &'a str,
    details: Vec<Detail>,
}

#[derive(Serialize)]
struct Detail {
    #[serde(rename = "type")]
    kind: String,
    /// The message's bytes, in base64 without padding.
    value: String,
    /// The same for people.
    debug: Value,
}

/// A code as Connect spells it.
fn connect_code(code: Code) -> String {
    match code {
        Code::Cancelled => "canceled".to_owned(),
        code => super::error::code_name(code).to_lowercase(),
    }
}

async fn read(body: RequestBody, limit: usize) -> Result<Bytes, Status> {
    if body.size_hint().lower() > u64::try_from(limit).unwrap_or(u64::MAX) {
        return Err(too_large(limit));
    }
    match Limited::new(body, limit).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large(limit)),
        Err(error) => Err(match error.downcast::<Status>() {
            // Ours: it took too long.
            Ok(status) if status.code() == Code::DeadlineExceeded => *status,
            _ => refuse(ErrorKind::RequestMalformed, "the body ended before it was whole"),
        }),
    }
}

/// One message for a body that is too large, in whatever form it came.
pub(super) fn too_large(limit: usize) -> Status {
    refuse(ErrorKind::RequestMalformed, format!("the request is larger than the {limit} bytes that are accepted"))
}

/// The message that `text` is.
fn parse(descriptor: &MessageDescriptor, text: &[u8]) -> Result<DynamicMessage, Error> {
    if text.is_empty() {
        let message = "the body is empty; send `{}` for a request without fields";
        return Err(Error::new(ErrorKind::RequestMalformed, message));
    }
    match duplicates::duplicates(descriptor, text) {
        Ok(found) if found.is_empty() => {}
        Ok(found) => return Err(Error::fields(found)),
        Err(_) => return Err(explain::explain(descriptor, text)),
    }
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let message = DynamicMessage::deserialize(descriptor.clone(), &mut deserializer);
    match message.and_then(|message| deserializer.end().map(|()| message)) {
        Ok(message) => Ok(message),
        Err(_) => Err(explain::explain(descriptor, text)),
    }
}

fn frame(message: &DynamicMessage) -> Bytes {
    let length = message.encoded_len();
    let mut framed = BytesMut::with_capacity(FRAME + length);
    framed.put_u8(0);
    framed.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    // A BytesMut grows: it has room for any message.
    let _ = message.encode(&mut framed);
    framed.freeze()
}

/// The one message of a gRPC answer.
async fn message_of(response: Response<Body>) -> Result<Bytes, Status> {
    if let Some(status) = Status::from_header_map(response.headers()).filter(|status| status.code() != Code::Ok) {
        return Err(status);
    }
    let body = response.into_body().collect().await?;
    match body.trailers().map(Status::from_header_map) {
        Some(Some(status)) if status.code() == Code::Ok => {}
        Some(Some(status)) => return Err(status),
        _ => return Err(internal("an answer without a status")),
    }
    let mut framed = body.to_bytes();
    if framed.len() < FRAME {
        return Err(internal("an answer without a message"));
    }
    Ok(framed.split_off(FRAME))
}

fn print(descriptor: &MessageDescriptor, message: Bytes) -> Result<Bytes, Status> {
    let message = DynamicMessage::decode(descriptor.clone(), message).map_err(|_| internal("an undecodable answer"))?;
    let text = serde_json::to_vec(&message).map_err(|_| internal("an answer that JSON cannot hold"))?;
    Ok(Bytes::from(text))
}

fn internal(what: &str) -> Status {
    status(Error {
        internal: Some(format!("transcoding JSON: {what}")),
        ..Error::new(ErrorKind::Internal, "internal error; the log has more")
    })
}
