//! Why a use case did not do what it was asked. Knows no wire codes: `rpc/error.rs` has the one
//! table that maps [`ErrorKind`] to them.

use std::time::Duration;

use crate::fence::Unfenced;
use crate::hash::HashError;
use crate::key::{LifeError, PolicyViolation};
use crate::random::EntropyError;
use crate::store::StoreError;

/// What kind of failure it is: what a program acts on. Each kind has a stable name on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The caller did not prove who it is.
    Unauthenticated,
    /// The caller has not the role that the method needs.
    RoleMissing,
    /// The caller's caps do not allow the result.
    CapExceeded,
    /// Fields of the request are wrong; the violations name them.
    InvalidArgument,
    /// The realm's policy does not allow the result; the violations name the fields.
    PolicyViolated,
    /// There is no such key, or the caller has no role in its realm.
    KeyNotFound,
    /// The presented key is not one that can be revoked by itself.
    KeyNotRecognized,
    /// The request_id was used before, with another content.
    RequestIdReused,
    /// The key is revoked.
    KeyRevoked,
    /// The key was rotated before.
    KeyRotated,
    /// The key has another version than the caller expected.
    VersionMismatch,
    /// The owner has as many living keys as the realm allows.
    OwnerKeyLimit,
    /// Others kept changing the key; trying again can help.
    TooMuchContention,
    /// The page token is not one of this list.
    PageTokenInvalid,
    /// The method or path does not exist.
    MethodUnknown,
    /// The request is larger than allowed, or not decodable.
    RequestMalformed,
    /// The store did not answer.
    StoreUnavailable,
    /// The store has no room.
    StoreFull,
    /// The service is at its limit of work.
    Overloaded,
    /// The time that the caller gave was not enough.
    DeadlineExceeded,
    /// A change that takes something away is stored, and not every replica has confirmed it.
    NotFenced,
    /// The service is stopping.
    ShuttingDown,
    /// The stored data cannot be read by this version.
    DataUnreadable,
    /// A fault of this program; the log has more.
    Internal,
}

impl ErrorKind {
    /// Every kind.
    pub const ALL: [Self; 24] = [
        Self::Unauthenticated,
        Self::RoleMissing,
        Self::CapExceeded,
        Self::InvalidArgument,
        Self::PolicyViolated,
        Self::KeyNotFound,
        Self::KeyNotRecognized,
        Self::RequestIdReused,
        Self::KeyRevoked,
        Self::KeyRotated,
        Self::VersionMismatch,
        Self::OwnerKeyLimit,
        Self::TooMuchContention,
        Self::PageTokenInvalid,
        Self::MethodUnknown,
        Self::RequestMalformed,
        Self::StoreUnavailable,
        Self::StoreFull,
        Self::Overloaded,
        Self::DeadlineExceeded,
        Self::NotFenced,
        Self::ShuttingDown,
        Self::DataUnreadable,
        Self::Internal,
    ];
}

/// Most violations that one error tells.
const MAX_VIOLATIONS: usize = 32;

/// A field of the request that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldViolation {
    /// Path of the field, such as `owner.id`.
    pub field: String,
    /// What is wrong and what to do about it.
    pub problem: String,
}

/// Why a use case did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// What a program acts on.
    pub kind: ErrorKind,
    /// What the caller is told. Holds no secret and nothing internal.
    pub message: String,
    /// What only the log is told.
    pub internal: Option<String>,
    /// The fields at fault.
    pub violations: Vec<FieldViolation>,
    /// When trying again can help.
    pub retry_after: Option<Duration>,
}

impl Error {
    /// An error with a message for the caller.
    #[must_use]
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), internal: None, violations: Vec::new(), retry_after: None }
    }

    /// One wrong field.
    #[must_use]
    pub fn field(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::fields(vec![FieldViolation { field: field.into(), problem: problem.into() }])
    }

    /// Several wrong fields; at least one. Of very many, the first are told: an error must not be
    /// larger than what it answers.
    #[must_use]
    pub fn fields(mut violations: Vec<FieldViolation>) -> Self {
        violations.truncate(MAX_VIOLATIONS);
        let text = violations.iter().map(|one| format!("{}: {}", one.field, one.problem)).collect::<Vec<_>>();
        Self { violations, ..Self::new(ErrorKind::InvalidArgument, text.join("; ")) }
    }

    /// There is no such key, as far as this caller may know.
    #[must_use]
    pub fn key_not_found() -> Self {
        Self::new(ErrorKind::KeyNotFound, "there is no key with this id in a realm where this caller has a role")
    }

    fn policy(kind: ErrorKind, violation: &PolicyViolation) -> Self {
        let violations = vec![FieldViolation { field: violation.field().to_owned(), problem: violation.to_string() }];
        Self { violations, ..Self::new(kind, violation.to_string()) }
    }

    /// The caller's caps do not allow it.
    #[must_use]
    pub fn cap(violation: &PolicyViolation) -> Self {
        Self { message: format!("this caller's caps: {violation}"), ..Self::policy(ErrorKind::CapExceeded, violation) }
    }

    fn internal(kind: ErrorKind, message: &str, internal: impl ToString) -> Self {
        Self { internal: Some(internal.to_string()), ..Self::new(kind, message) }
    }

    /// The store did not answer one who only reads, or has written nothing yet.
    #[must_use]
    pub fn unread(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(_) => {
                let message = "the store did not answer; this call has decided nothing and changed nothing. Repeat it";
                Self { message: message.to_owned(), ..error.into() }
            }
            other => other.into(),
        }
    }

    /// With advice when to try again.
    #[must_use]
    pub fn retry_after(self, after: Duration) -> Self {
        Self { retry_after: Some(after), ..self }
    }
}

impl From<Unfenced> for Error {
    fn from(unfenced: Unfenced) -> Self {
        match unfenced {
            Unfenced::TimeUp { left } => Self::new(
                ErrorKind::NotFenced,
                "the change is stored, but not every replica has confirmed it: some may still let the key pass; repeat the call",
            )
            .retry_after(left),
            Unfenced::Unknown(error) => error.into(),
        }
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(_) => Self::internal(
                ErrorKind::StoreUnavailable,
                "the store did not answer; whether a change was made is not known. Repeat the call; one that makes a key \
                 only with a request_id",
                error,
            )
            .retry_after(Duration::from_millis(500)),
            StoreError::Full(_) => Self::internal(
                ErrorKind::StoreFull,
                "the store is full; keys can still be validated, suspended and revoked",
                error,
            )
            .retry_after(Duration::from_secs(30)),
            StoreError::Unreadable { .. } => Self::internal(
                ErrorKind::DataUnreadable,
                "what is stored cannot be read by this version of keyclasp; the log has more",
                error,
            ),
            StoreError::Refused(_) | StoreError::Misuse(_) => {
                Self::internal(ErrorKind::Internal, "internal error; the log has more", error)
            }
        }
    }
}

impl From<LifeError> for Error {
    fn from(error: LifeError) -> Self {
        match &error {
            LifeError::Revoked => Self::new(ErrorKind::KeyRevoked, error.to_string()),
            LifeError::AlreadyRotated(_) => Self::new(ErrorKind::KeyRotated, error.to_string()),
            LifeError::Policy(violation) => Self::policy(ErrorKind::PolicyViolated, violation),
            LifeError::EndInPast => Self::field("expires_at", error.to_string()),
            LifeError::LiftedInPast => Self::field("until", error.to_string()),
            LifeError::EndsBeforeItBegins => Self::field("not_before", error.to_string()),
            LifeError::Version(_) => Self::new(ErrorKind::VersionMismatch, error.to_string()),
        }
    }
}

impl From<HashError> for Error {
    fn from(error: HashError) -> Self {
        Self::internal(ErrorKind::Internal, "internal error; the log has more", error)
    }
}

impl From<EntropyError> for Error {
    fn from(error: EntropyError) -> Self {
        Self::internal(ErrorKind::Internal, "internal error; the log has more", error)
    }
}
