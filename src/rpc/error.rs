//! The one table from failures of the domain to the wire: gRPC code, stable reason, HTTP status.
//! Whatever is answered to a caller, in gRPC or in JSON, got its code here; `docs/ERRORS.md`
//! is the same table for people, and a test compares the two.

use std::collections::HashMap;
use std::sync::LazyLock;

use tonic::{Code, Status};
use tonic_types::{BadRequest, ErrorDetail, ErrorInfo, FieldViolation, RetryInfo, StatusExt as _};

use crate::clock::Throttle;
use crate::service::{Error, ErrorKind};

/// `google.rpc.ErrorInfo.domain` of every error.
pub const DOMAIN: &str = "keyclasp";

/// How one kind of failure looks from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wire {
    /// The gRPC code.
    pub code: Code,
    /// `google.rpc.ErrorInfo.reason`: what a program may match on. Never changes.
    pub reason: &'static str,
    /// The HTTP status where the call was JSON.
    pub http: u16,
}

/// The table.
#[must_use]
pub const fn wire(kind: ErrorKind) -> Wire {
    let (code, reason) = match kind {
        ErrorKind::Unauthenticated => (Code::Unauthenticated, "UNAUTHENTICATED"),
        ErrorKind::RoleMissing => (Code::PermissionDenied, "ROLE_MISSING"),
        ErrorKind::CapExceeded => (Code::PermissionDenied, "CAP_EXCEEDED"),
        ErrorKind::InvalidArgument => (Code::InvalidArgument, "INVALID_ARGUMENT"),
        ErrorKind::PolicyViolated => (Code::InvalidArgument, "POLICY_VIOLATED"),
        ErrorKind::KeyNotFound => (Code::NotFound, "KEY_NOT_FOUND"),
        ErrorKind::KeyNotRecognized => (Code::NotFound, "KEY_NOT_RECOGNIZED"),
        ErrorKind::RequestIdReused => (Code::AlreadyExists, "REQUEST_ID_REUSED"),
        ErrorKind::KeyRevoked => (Code::FailedPrecondition, "KEY_REVOKED"),
        ErrorKind::KeyRotated => (Code::FailedPrecondition, "KEY_ROTATED"),
        ErrorKind::VersionMismatch => (Code::Aborted, "VERSION_MISMATCH"),
        ErrorKind::OwnerKeyLimit => (Code::FailedPrecondition, "OWNER_KEY_LIMIT"),
        ErrorKind::TooMuchContention => (Code::Aborted, "TOO_MUCH_CONTENTION"),
        ErrorKind::PageTokenInvalid => (Code::InvalidArgument, "PAGE_TOKEN_INVALID"),
        ErrorKind::MethodUnknown => (Code::Unimplemented, "METHOD_UNKNOWN"),
        ErrorKind::RequestMalformed => (Code::InvalidArgument, "REQUEST_MALFORMED"),
        ErrorKind::StoreUnavailable => (Code::Unavailable, "STORE_UNAVAILABLE"),
        ErrorKind::StoreFull => (Code::ResourceExhausted, "STORE_FULL"),
        ErrorKind::Overloaded => (Code::ResourceExhausted, "OVERLOADED"),
        ErrorKind::DeadlineExceeded => (Code::DeadlineExceeded, "DEADLINE_EXCEEDED"),
        ErrorKind::NotFenced => (Code::DeadlineExceeded, "REVOKED_NOT_FENCED"),
        ErrorKind::ShuttingDown => (Code::Unavailable, "SHUTTING_DOWN"),
        ErrorKind::DataUnreadable => (Code::Internal, "DATA_UNREADABLE"),
        ErrorKind::Internal => (Code::Internal, "INTERNAL"),
    };
    Wire { code, reason, http: http_status(code) }
}

/// The status that the caller gets. What only the log is told goes there, here and nowhere else.
#[must_use]
pub fn status(error: Error) -> Status {
    log(&error);
    let Wire { code, reason, .. } = wire(error.kind);
    // In this order: what a program matches on comes first.
    let mut details: Vec<ErrorDetail> = vec![ErrorInfo::new(reason, DOMAIN, HashMap::new()).into()];
    if !error.violations.is_empty() {
        let violations = error.violations.into_iter().map(|one| FieldViolation::new(one.field, one.problem));
        details.push(BadRequest::new(violations.collect::<Vec<_>>()).into());
    }
    if let Some(after) = error.retry_after {
        details.push(RetryInfo::new(Some(after)).into());
    }
    Status::with_error_details_vec(code, error.message, details)
}

/// A kind with its message, for what fails before a use case is reached.
#[must_use]
pub fn refuse(kind: ErrorKind, message: impl Into<String>) -> Status {
    status(Error::new(kind, message))
}

/// The HTTP status that Connect gives a code.
#[must_use]
pub const fn http_status(code: Code) -> u16 {
    match code {
        Code::Ok => 200,
        Code::Cancelled => 499,
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => 400,
        Code::Unauthenticated => 401,
        Code::PermissionDenied => 403,
        Code::NotFound => 404,
        Code::AlreadyExists | Code::Aborted => 409,
        Code::ResourceExhausted => 429,
        Code::Unknown | Code::Internal | Code::DataLoss => 500,
        Code::Unimplemented => 501,
        Code::Unavailable => 503,
        Code::DeadlineExceeded => 504,
    }
}

/// The name of a code, as gRPC's documentation and our metrics spell it.
#[must_use]
pub const fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// Every code, by number.
pub const CODES: [Code; 17] = [
    Code::Ok,
    Code::Cancelled,
    Code::Unknown,
    Code::InvalidArgument,
    Code::DeadlineExceeded,
    Code::NotFound,
    Code::AlreadyExists,
    Code::PermissionDenied,
    Code::ResourceExhausted,
    Code::FailedPrecondition,
    Code::Aborted,
    Code::OutOfRange,
    Code::Unimplemented,
    Code::Internal,
    Code::Unavailable,
    Code::DataLoss,
    Code::Unauthenticated,
];

/// A store that is away fails every call: lines of warning are bounded, faults are all written.
pub(super) fn log(error: &Error) {
    static WARNINGS: LazyLock<Throttle> = LazyLock::new(|| Throttle::new(10));
    let Some(internal) = &error.internal else { return };
    let reason = wire(error.kind).reason;
    if matches!(error.kind, ErrorKind::Internal | ErrorKind::DataUnreadable) {
        tracing::error!(reason, internal, "a call failed by a fault of this service or its data");
    } else if let Some(left_out) = WARNINGS.admit() {
        tracing::warn!(reason, internal, left_out, "a call failed");
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_kind_has_its_own_reason_and_the_code_that_is_documented() {
        let expected = [
            ("UNAUTHENTICATED", Code::Unauthenticated, 401),
            ("ROLE_MISSING", Code::PermissionDenied, 403),
            ("CAP_EXCEEDED", Code::PermissionDenied, 403),
            ("INVALID_ARGUMENT", Code::InvalidArgument, 400),
            ("POLICY_VIOLATED", Code::InvalidArgument, 400),
            ("KEY_NOT_FOUND", Code::NotFound, 404),
            ("KEY_NOT_RECOGNIZED", Code::NotFound, 404),
            ("REQUEST_ID_REUSED", Code::AlreadyExists, 409),
            ("KEY_REVOKED", Code::FailedPrecondition, 400),
            ("KEY_ROTATED", Code::FailedPrecondition, 400),
            ("VERSION_MISMATCH", Code::Aborted, 409),
            ("OWNER_KEY_LIMIT", Code::FailedPrecondition, 400),
            ("TOO_MUCH_CONTENTION", Code::Aborted, 409),
            ("PAGE_TOKEN_INVALID", Code::InvalidArgument, 400),
            ("METHOD_UNKNOWN", Code::Unimplemented, 501),
            ("REQUEST_MALFORMED", Code::InvalidArgument, 400),
            ("STORE_UNAVAILABLE", Code::Unavailable, 503),
            ("STORE_FULL", Code::ResourceExhausted, 429),
            ("OVERLOADED", Code::ResourceExhausted, 429),
            ("DEADLINE_EXCEEDED", Code::DeadlineExceeded, 504),
            ("REVOKED_NOT_FENCED", Code::DeadlineExceeded, 504),
            ("SHUTTING_DOWN", Code::Unavailable, 503),
            ("DATA_UNREADABLE", Code::Internal, 500),
            ("INTERNAL", Code::Internal, 500),
        ];
        let found = ErrorKind::ALL.map(|kind| {
            let Wire { code, reason, http } = wire(kind);
            (reason, code, http)
        });
        assert_eq!(found, expected);
        let reasons: BTreeSet<_> = found.iter().map(|(reason, ..)| reason).collect();
        assert_eq!(reasons.len(), ErrorKind::ALL.len(), "two kinds have one reason");
        let upper_snake = |reason: &str| reason.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_');
        assert!(reasons.iter().all(|reason| upper_snake(reason)));
    }

    #[test]
    fn the_documented_table_is_this_table() {
        let page = include_str!("../../docs/ERRORS.md");
        let documented: Vec<Vec<&str>> = page
            .lines()
            .filter(|line| line.starts_with("| `"))
            .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
            .collect();
        assert_eq!(documented.len(), ErrorKind::ALL.len(), "one line of docs/ERRORS.md per kind");
        for (line, kind) in documented.iter().zip(ErrorKind::ALL) {
            let Wire { code, reason, http } = wire(kind);
            let http = http.to_string();
            assert_eq!(line.get(..3), Some(&[format!("`{reason}`").as_str(), code_name(code), &http][..]));
            assert!(line.len() == 5 && line.iter().all(|cell| !cell.is_empty()), "{reason}: meaning and remedy");
        }
    }

    #[test]
    fn a_status_tells_reason_fields_and_when_to_try_again_but_nothing_internal() {
        let error = Error {
            internal: Some("redis://10.0.0.1 said no".into()),
            ..Error::field("owner.id", "must not be empty").retry_after(Duration::from_millis(1500))
        };
        let status = status(error);
        assert_eq!((status.code(), status.message()), (Code::InvalidArgument, "owner.id: must not be empty"));
        let details = status.get_error_details();
        let info = details.error_info().unwrap();
        assert_eq!((info.reason.as_str(), info.domain.as_str()), ("INVALID_ARGUMENT", "keyclasp"));
        let violations = &details.bad_request().unwrap().field_violations;
        assert_eq!(violations.len(), 1);
        assert_eq!(
            (violations[0].field.as_str(), violations[0].description.as_str()),
            ("owner.id", "must not be empty")
        );
        assert_eq!(details.retry_info().unwrap().retry_delay, Some(Duration::from_millis(1500)));
        assert!(!format!("{status:?}").contains("redis"), "the log alone is told");
        assert!(!String::from_utf8_lossy(status.details()).contains("redis"), "the log alone is told");
    }

    #[test]
    fn codes_are_in_the_order_of_their_numbers() {
        for (index, code) in CODES.into_iter().enumerate() {
            assert_eq!(code as usize, index, "{code:?}");
        }
    }
}
