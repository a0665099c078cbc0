//! Failures as OAuth clients are told them (RFC 6749, section 5.2): a code, a text for people, and a
//! status. The one table from our kinds of failure to these.

use std::time::Duration;

use http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, Response, StatusCode};
use serde::Serialize;
use tonic::body::Body;

use super::json;
use crate::service::{Error, ErrorKind};

/// How one kind of failure looks to an OAuth client.
const fn wire(kind: ErrorKind) -> (StatusCode, &'static str) {
    match kind {
        // RFC 6749, section 5.2.
        ErrorKind::Unauthenticated => (StatusCode::UNAUTHORIZED, "invalid_client"),
        // RFC 6750, section 3.1, to which RFC 7662, section 2.3, refers: the one code for a caller who is
        // known and may not.
        ErrorKind::RoleMissing | ErrorKind::CapExceeded => (StatusCode::FORBIDDEN, "insufficient_scope"),
        ErrorKind::InvalidArgument
        | ErrorKind::PolicyViolated
        | ErrorKind::KeyNotFound
        | ErrorKind::KeyNotRecognized
        | ErrorKind::RequestIdReused
        | ErrorKind::KeyRevoked
        | ErrorKind::KeyRotated
        | ErrorKind::OwnerKeyLimit
        | ErrorKind::PageTokenInvalid
        | ErrorKind::MethodUnknown
        | ErrorKind::RequestMalformed => (StatusCode::BAD_REQUEST, "invalid_request"),
        // RFC 7009, section 2.2.1: the client must take the token for one that still exists, and may try again.
        ErrorKind::StoreUnavailable
        | ErrorKind::StoreFull
        | ErrorKind::Overloaded
        | ErrorKind::TooMuchContention
        | ErrorKind::VersionMismatch
        | ErrorKind::DeadlineExceeded
        | ErrorKind::NotFenced
        | ErrorKind::ShuttingDown => (StatusCode::SERVICE_UNAVAILABLE, "temporarily_unavailable"),
        ErrorKind::DataUnreadable | ErrorKind::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "server_error"),
    }
}

#[derive(Serialize)]
struct Failure<'a> {
    error: &'static str,
    error_description: &'a str,
}

/// The answer to a request that failed with `error`. `http`: the status, where the request was wrong in terms of HTTP.
pub(super) fn answer(error: &Error, http: Option<StatusCode>) -> Response<Body> {
    let (status, code) = wire(error.kind);
    let status = http.unwrap_or(status);
    let failure = Failure { error: code, error_description: &described(&error.message) };
    let mut response = json(status, serde_json::to_vec(&failure).unwrap_or_default().into());
    let headers = response.headers_mut();
    match status {
        StatusCode::UNAUTHORIZED => {
            headers.append(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"keyclasp\", charset=\"UTF-8\""));
            headers.append(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"keyclasp\""));
        }
        StatusCode::FORBIDDEN => {
            let challenge = HeaderValue::from_static("Bearer realm=\"keyclasp\", error=\"insufficient_scope\"");
            headers.append(WWW_AUTHENTICATE, challenge);
        }
        StatusCode::SERVICE_UNAVAILABLE => {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds(error.retry_after)));
        }
        _ => {}
    }
    response
}

/// Whole seconds, and not at once.
fn seconds(after: Option<Duration>) -> u64 {
    after.map_or(1, |after| after.as_secs() + u64::from(after.subsec_nanos() > 0)).max(1)
}

/// A message of the characters that a description may have (RFC 6749, section 5.2).
fn described(message: &str) -> String {
    let allowed = |character: char| matches!(character, ' '..='~') && !matches!(character, '"' | '\\');
    message.chars().map(|character| if allowed(character) { character } else { '\'' }).collect()
}

#[cfg(test)]
mod tests {
    use http::header::{CACHE_CONTROL, PRAGMA};
    use http_body_util::BodyExt as _;
    use serde_json::Value;

    use super::*;

    fn all(response: &Response<Body>, name: http::HeaderName) -> Vec<&str> {
        response.headers().get_all(name).iter().map(|value| value.to_str().unwrap()).collect()
    }

    #[tokio::test]
    async fn each_kind_has_a_status_a_code_and_what_goes_with_them() {
        for kind in ErrorKind::ALL {
            let response = answer(&Error::new(kind, "it is \"so\" — and\nso"), None);
            let (status, code) = wire(kind);
            assert_eq!(response.status(), status);
            assert_eq!(all(&response, CACHE_CONTROL), ["no-store"]);
            assert_eq!(all(&response, PRAGMA), ["no-cache"]);
            let challenges = match status.as_u16() {
                401 => 2,
                403 => 1,
                _ => 0,
            };
            assert_eq!(all(&response, WWW_AUTHENTICATE).len(), challenges, "{kind:?}");
            assert_eq!(all(&response, RETRY_AFTER).len(), usize::from(status == 503), "{kind:?}");
            let body: Value =
                serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap();
            assert_eq!(body, serde_json::json!({"error": code, "error_description": "it is 'so' ' and'so"}));
        }
    }

    #[test]
    fn no_failure_looks_like_an_answer() {
        assert!(ErrorKind::ALL.into_iter().all(|kind| wire(kind).0.as_u16() >= 400));
        // What can be over in a moment is never what a client takes for an end.
        for kind in ErrorKind::ALL {
            let grpc = crate::rpc::error::wire(kind).code;
            let passing = [tonic::Code::Unavailable, tonic::Code::ResourceExhausted, tonic::Code::DeadlineExceeded];
            if passing.contains(&grpc) {
                assert_eq!(wire(kind).0, StatusCode::SERVICE_UNAVAILABLE, "{kind:?}");
            }
        }
    }

    #[test]
    fn the_time_to_wait_is_rounded_up() {
        let seconds = |millis| seconds(Some(Duration::from_millis(millis)));
        assert_eq!([seconds(0), seconds(1), seconds(1000), seconds(1001), seconds(30_000)], [1, 1, 1, 2, 30]);
        assert_eq!(super::seconds(None), 1);
    }

    #[test]
    fn a_status_of_http_wins() {
        let error = Error::new(ErrorKind::RequestMalformed, "use POST");
        assert_eq!(answer(&error, Some(StatusCode::METHOD_NOT_ALLOWED)).status(), 405);
    }
}
