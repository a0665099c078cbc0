//! Envoy's ext_authz: `envoy.service.auth.v3.Authorization/Check`. Reads what Envoy asks, has it decided, and
//! writes what Envoy is to do; what is decided is the business of `proxy`.
//!
//! An RPC error opens an Envoy under `failure_mode_allow`. So whatever is wrong with the caller, the question or
//! the key is a denial within an answer; an error is for an outage, and only where the operator wants it.

pub mod request;
mod response;
mod wire;

use bytes::Bytes;
use tonic::Status;

use self::request::CheckRequest;
use super::auth::Caller;
use super::error;
use super::gateway::{Judge, Unanswered, Unread};
use super::proxy::{Asked, Conclusion, Decider, Field, Reason, Route, Verdict};
use crate::service::ErrorKind;

/// The service.
#[derive(Debug, Clone)]
pub struct Authorization {
    decider: Decider,
    limits: Limits,
}

/// How it answers.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Largest question that is read, in bytes.
    pub message_bytes: usize,
    /// Whether an outage is an RPC error, and no denial.
    pub outage_is_error: bool,
}

impl Authorization {
    /// Over the decision that all proxies share.
    #[must_use]
    pub const fn new(decider: Decider, limits: Limits) -> Self {
        Self { decider, limits }
    }

    /// The answer to a question that cannot be decided about. Whether it is about a call of gRPC is not known.
    fn refused(&self, reason: Reason) -> Result<Bytes, Status> {
        self.answer(&self.decider.refuse(reason, None, ""), &[], false)
    }

    fn answer(&self, verdict: &Verdict, fields: &[Field<'_>], grpc: bool) -> Result<Bytes, Status> {
        if self.limits.outage_is_error
            && let Conclusion::Refused(refusal) = &verdict.conclusion
            && refusal.is_outage()
        {
            return Err(error::refuse(ErrorKind::StoreUnavailable, refusal.text()));
        }
        Ok(response::answer(verdict, fields, grpc))
    }
}

impl Judge for Authorization {
    fn limit(&self) -> usize {
        self.limits.message_bytes
    }

    async fn judge(&self, caller: Caller, message: Result<Bytes, Unread>) -> Result<Bytes, Status> {
        let call = match caller {
            Caller::Known(call) => Some(call),
            Caller::Anonymous(_) | Caller::Refused(_) => None,
        };
        let request = match &message {
            Ok(message) => CheckRequest::scan(message).map_err(|why| (Reason::Unreadable, why.to_string())),
            Err(unread) => Err(match unread {
                Unread::Malformed => (Reason::Unreadable, "it is not one message of gRPC, uncompressed".to_owned()),
                Unread::TooLarge => {
                    (Reason::TooLarge, format!("it is larger than {} bytes", self.limits.message_bytes))
                }
                Unread::Late => (Reason::NoDecision, "it did not arrive in time".to_owned()),
                Unread::Crowded => (Reason::NoDecision, "too many large ones are in memory".to_owned()),
            }),
        };
        let request = match request {
            Ok(request) => request,
            // Whatever a stranger sends.
            Err(_) if call.is_none() => return self.refused(Reason::CallerRefused),
            Err((reason, why)) => {
                return self.answer(&self.decider.refuse(reason, None, why), &[], false);
            }
        };
        let route = Route::parse(request.extensions.iter().copied());
        let asked = Asked {
            fields: &request.fields,
            target: request.target,
            address: request.address,
            principal: request.principal,
            host: request.host,
            route: route.as_ref(),
        };
        let verdict = self.decider.decide(call.as_deref(), &asked).await;
        self.answer(&verdict, &request.fields, request.is_grpc())
    }

    fn refuse(&self, why: Unanswered) -> Option<Bytes> {
        let reason = match why {
            Unanswered::Stranger => Reason::CallerRefused,
            Unanswered::Malformed => Reason::Unreadable,
            Unanswered::Shed | Unanswered::Late => Reason::NoDecision,
            // A fault of this program is no outage that an operator foresaw.
            Unanswered::Panicked => {
                return Some(response::answer(
                    &self.decider.refuse(Reason::NoDecision, None, "it panicked"),
                    &[],
                    false,
                ));
            }
        };
        self.refused(reason).ok()
    }
}
