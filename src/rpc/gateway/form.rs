//! In which form a request calls: gRPC, JSON, or none that there is; and answers without a call.

use http::header::{ALLOW, CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method as Verb, Request, Response, StatusCode, Version};
use tonic::body::Body;
use tonic::{Code, Status};

use super::route::Unanswered;
use crate::rpc::deadline::Form;
use crate::rpc::error::refuse;
use crate::rpc::json;
use crate::rpc::methods::{Method, Methods};
use crate::service::ErrorKind;

/// What a request's content type says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Speech {
    /// A gRPC call.
    Grpc,
    /// A JSON call.
    Json,
    /// Nothing that is understood here.
    Other,
}

impl Speech {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let Some(value) = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes) else { return Self::Other };
        let media_type = value.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        if [b"application/grpc".as_slice(), b"application/grpc+proto"].contains(&media_type) {
            Self::Grpc
        } else if media_type.eq_ignore_ascii_case(b"application/json") {
            Self::Json
        } else {
            Self::Other
        }
    }
}

/// In which form `request` calls `method`.
pub(super) fn of<B>(method: &Method, speaks: Speech, request: &Request<B>) -> Result<Form, Refused> {
    if request.method() != Verb::POST {
        let message = "this path is a method of the API; it takes POST";
        return Err(Refused::malformed(StatusCode::METHOD_NOT_ALLOWED, message).with(ALLOW, "POST"));
    }
    match speaks {
        Speech::Grpc if request.version() < Version::HTTP_2 => {
            let message = "gRPC needs HTTP/2; over HTTP/1.1 send content-type application/json";
            Err(Refused::malformed(StatusCode::HTTP_VERSION_NOT_SUPPORTED, message))
        }
        Speech::Grpc => Ok(Form::Grpc),
        Speech::Json if !method.unary => {
            let message = "this method streams; it can be called with gRPC only";
            Err(Refused::new(Form::Json, refuse(ErrorKind::MethodUnknown, message)))
        }
        Speech::Json if request.headers().get(CONTENT_ENCODING).is_some_and(|value| value != "identity") => {
            let message = "compressed bodies are not accepted";
            Err(Refused::malformed(StatusCode::UNSUPPORTED_MEDIA_TYPE, message))
        }
        Speech::Json => Ok(Form::Json),
        Speech::Other => {
            let message = "the content-type must be application/json, or application/grpc over HTTP/2";
            let accepted = (HeaderName::from_static("accept-post"), "application/json, application/grpc");
            let refused = Refused::malformed(StatusCode::UNSUPPORTED_MEDIA_TYPE, message);
            Err(refused.with(accepted.0, accepted.1))
        }
    }
}

/// An answer without a call.
#[derive(Debug)]
pub(super) struct Refused {
    form: Form,
    status: Status,
    /// Where the request was wrong in terms of HTTP: that status, not the one of the code.
    http: Option<StatusCode>,
    header: Option<(HeaderName, &'static str)>,
    /// For a route that has an answer of its own to that.
    pub(super) why: Option<Unanswered>,
}

impl Refused {
    pub(super) const fn new(form: Form, status: Status) -> Self {
        Self { form, status, http: None, header: None, why: None }
    }

    /// There is no method at the request's path.
    pub(super) fn nowhere(speaks: Speech) -> Self {
        if speaks == Speech::Grpc {
            let message = "there is no such method; reflection lists what there is";
            return Self::new(Form::Grpc, refuse(ErrorKind::MethodUnknown, message));
        }
        let message = "there is nothing at this path; methods are called with POST /package.Service/Method, \
                       such as /keyclasp.v1.KeyService/ValidateKey";
        let http = Some(StatusCode::NOT_FOUND);
        Self { http, ..Self::new(Form::Json, refuse(ErrorKind::MethodUnknown, message)) }
    }

    fn malformed(http: StatusCode, message: &str) -> Self {
        Self { http: Some(http), ..Self::new(Form::Json, refuse(ErrorKind::RequestMalformed, message)) }
    }

    /// With what a route needs to answer a gRPC call itself.
    pub(super) fn because(self, why: Unanswered) -> Self {
        Self { why: (self.form == Form::Grpc).then_some(why), ..self }
    }

    fn with(self, name: HeaderName, value: &'static str) -> Self {
        Self { header: Some((name, value)), ..self }
    }

    pub(super) fn code(&self) -> Code {
        self.status.code()
    }

    pub(super) fn response(self, methods: &Methods) -> Response<Body> {
        let mut response = match self.form {
            Form::Grpc => self.status.into_http(),
            Form::Json => json::failure(methods, &self.status),
        };
        if let Some(http) = self.http {
            *response.status_mut() = http;
        }
        if let Some((name, value)) = self.header {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        response
    }
}
