//! How a command ends: its exit code, and what is said when it did not do what it was asked.

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use prost::Message;
use tonic::{Code, Status};

/// The exit codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exit {
    /// Done.
    Done,
    /// Refused; also a key that may not pass.
    Refused,
    /// The command line was wrong.
    Usage,
    /// The service is out of reach: trying again can help.
    Unavailable,
}

impl Exit {
    pub(super) fn code(self) -> ExitCode {
        ExitCode::from(match self {
            Self::Done => 0,
            Self::Refused => 1,
            Self::Usage => 2,
            Self::Unavailable => 3,
        })
    }
}

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub(super) struct Failure {
    exit: Exit,
    text: String,
}

impl Failure {
    /// It was refused.
    pub(super) fn refused(text: impl Into<String>) -> Self {
        Self { exit: Exit::Refused, text: text.into() }
    }

    /// The command line was wrong.
    pub(super) fn usage(text: impl Into<String>) -> Self {
        Self { exit: Exit::Usage, text: text.into() }
    }

    /// The service is out of reach.
    pub(super) fn unavailable(text: impl Into<String>) -> Self {
        Self { exit: Exit::Unavailable, text: text.into() }
    }

    /// How the process ends.
    pub(super) const fn exit(&self) -> Exit {
        self.exit
    }

    /// What is said; empty: nothing.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// With more to say.
    pub(super) fn and(mut self, hint: &str) -> Self {
        self.text.push('\n');
        self.text.push_str(hint);
        self
    }

    /// From what the service answered.
    pub(super) fn from_status(status: &Status) -> Self {
        let details = Details::of(status);
        let mut text = match status.message() {
            "" => format!("the service answered {:?} without a word", status.code()),
            message => message.to_owned(),
        };
        match details.reason {
            Some(reason) => text.push_str(&format!(" ({reason})")),
            None => text.push_str(&format!(" ({:?})", status.code())),
        }
        for (field, problem) in &details.violations {
            // A message that says the same already is not repeated.
            if !text.contains(problem.as_str()) || !text.contains(field.as_str()) {
                text.push_str(&format!("\n  {field}: {problem}"));
            }
        }
        let exit = match status.code() {
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown => Exit::Unavailable,
            Code::ResourceExhausted if details.retry_after.is_some() => Exit::Unavailable,
            _ => Exit::Refused,
        };
        if let Some(after) = details.retry_after {
            text.push_str(&format!("\nTrying again after {} can help.", humantime::format_duration(after)));
        }
        Self { exit, text }
    }
}

/// Nobody reads what is written: that is not an error (`keyclasp key list | head -n 1`).
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self { exit: Exit::Done, text: String::new() },
            _ => Self::refused(format!("the output could not be written: {error}")),
        }
    }
}

/// What an error of the service carries beside its message (google.rpc.Status and its details).
#[derive(Debug, Default)]
pub(super) struct Details {
    pub(super) reason: Option<String>,
    pub(super) violations: Vec<(String, String)>,
    pub(super) retry_after: Option<Duration>,
}

impl Details {
    pub(super) fn of(status: &Status) -> Self {
        let mut details = Self::default();
        let Ok(rpc) = RpcStatus::decode(status.details()) else { return details };
        for any in rpc.details {
            match any.type_url.rsplit('/').next().unwrap_or_default() {
                "google.rpc.ErrorInfo" => {
                    let info = ErrorInfo::decode(any.value.as_slice()).unwrap_or_default();
                    details.reason = Some(info.reason).filter(|reason| !reason.is_empty());
                }
                "google.rpc.BadRequest" => {
                    let bad = BadRequest::decode(any.value.as_slice()).unwrap_or_default();
                    let violations = bad.field_violations.into_iter();
                    details.violations = violations.map(|one| (one.field, one.description)).collect();
                }
                "google.rpc.RetryInfo" => {
                    let retry = RetryInfo::decode(any.value.as_slice()).unwrap_or_default();
                    details.retry_after = retry.retry_delay.and_then(|delay| Duration::try_from(delay).ok());
                }
                _ => {}
            }
        }
        details
    }
}

#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(message, repeated, tag = "3")]
    details: Vec<prost_types::Any>,
}

#[derive(Clone, PartialEq, Message)]
struct ErrorInfo {
    #[prost(string, tag = "1")]
    reason: String,
}

#[derive(Clone, PartialEq, Message)]
struct BadRequest {
    #[prost(message, repeated, tag = "1")]
    field_violations: Vec<FieldViolation>,
}

#[derive(Clone, PartialEq, Message)]
struct FieldViolation {
    #[prost(string, tag = "1")]
    field: String,
    #[prost(string, tag = "2")]
    description: String,
}

#[derive(Clone, PartialEq, Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<prost_types::Duration>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: Code, message: &str, details: Vec<(&str, Vec<u8>)>) -> Status {
        let details = details
            .into_iter()
            .map(|(name, value)| prost_types::Any { type_url: format!("type.googleapis.com/{name}"), value })
            .collect();
        Status::with_details(code, message, RpcStatus { details }.encode_to_vec().into())
    }

    #[test]
    fn an_error_is_shown_with_its_reason_its_fields_and_when_to_try_again() {
        let info = ErrorInfo { reason: "INVALID_ARGUMENT".to_owned() }.encode_to_vec();
        let violation = |field: &str, description: &str| FieldViolation {
            field: field.to_owned(),
            description: description.to_owned(),
        };
        let bad = BadRequest { field_violations: vec![violation("name", "is too long"), violation("ttl", "is zero")] };
        let retry = RetryInfo { retry_delay: Some(prost_types::Duration { seconds: 0, nanos: 500_000_000 }) };
        let failure = Failure::from_status(&status(
            Code::InvalidArgument,
            "name: is too long",
            vec![
                ("google.rpc.ErrorInfo", info),
                ("google.rpc.BadRequest", bad.encode_to_vec()),
                ("google.rpc.RetryInfo", retry.encode_to_vec()),
                ("something.else", vec![1]),
            ],
        ));
        assert_eq!(failure.exit(), Exit::Refused);
        assert_eq!(
            failure.text(),
            "name: is too long (INVALID_ARGUMENT)\n  ttl: is zero\nTrying again after 500ms can help."
        );
    }

    #[test]
    fn what_trying_again_can_help_has_a_code_of_its_own() {
        let retry = RetryInfo { retry_delay: Some(prost_types::Duration { seconds: 1, nanos: 0 }) }.encode_to_vec();
        let table = [
            (status(Code::Unavailable, "x", vec![]), Exit::Unavailable),
            (status(Code::DeadlineExceeded, "x", vec![]), Exit::Unavailable),
            (status(Code::ResourceExhausted, "x", vec![("google.rpc.RetryInfo", retry)]), Exit::Unavailable),
            (status(Code::ResourceExhausted, "x", vec![]), Exit::Refused),
            (status(Code::PermissionDenied, "x", vec![]), Exit::Refused),
            (status(Code::NotFound, "", vec![]), Exit::Refused),
        ];
        for (status, exit) in table {
            assert_eq!(Failure::from_status(&status).exit(), exit, "{status:?}");
        }
    }

    #[test]
    fn a_reader_that_goes_away_is_no_error() {
        assert_eq!(Failure::from(io::Error::from(io::ErrorKind::BrokenPipe)).exit(), Exit::Done);
        assert_eq!(Failure::from(io::Error::from(io::ErrorKind::StorageFull)).exit(), Exit::Refused);
    }
}
