//! Why a request may not pass, and what that is in HTTP and gRPC: the one table.

use std::time::Duration;

use http::{HeaderName, HeaderValue, header};
use serde_json::json;

use super::identity::visible;
use super::route::RouteFault;
use crate::key::{Realm, Scope};
use crate::service::validate::Outcome;
use crate::service::{Error, ErrorKind};

/// Why a request may not pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::rpc) enum Reason {
    /// It has no key.
    NoKey,
    /// What it has is no key.
    Malformed,
    /// There is no such key, as far as the proxy may know.
    Unknown,
    /// The key is of another realm.
    WrongRealm,
    /// The key was revoked.
    Revoked,
    /// The key has expired.
    Expired,
    /// The key is suspended.
    Suspended,
    /// The key is not valid yet.
    NotYetValid,
    /// The owner is not active.
    OwnerInactive,
    /// The key does not cover a required scope.
    MissingScope,
    /// The key may not be used from that address.
    AddressDenied,
    /// The key may not be presented by that principal.
    PrincipalDenied,
    /// It has two keys.
    TwoKeys,
    /// The key was used too often.
    RateLimited,
    /// Nobody could decide.
    NoDecision,
    /// The proxy may not ask.
    CallerRefused,
    /// What the proxy's route requires cannot be understood.
    RouteFault,
    /// What the proxy sent cannot be read.
    Unreadable,
    /// What the proxy sent is too large.
    TooLarge,
    /// The client sent what an upstream may take for an identity, and nothing can take it away.
    SpoofedIdentity,
}

impl Reason {
    /// How many there are.
    pub(super) const COUNT: usize = 20;
    /// Every reason.
    pub(in crate::rpc) const ALL: [Self; Self::COUNT] = [
        Self::NoKey,
        Self::Malformed,
        Self::Unknown,
        Self::WrongRealm,
        Self::Revoked,
        Self::Expired,
        Self::Suspended,
        Self::NotYetValid,
        Self::OwnerInactive,
        Self::MissingScope,
        Self::AddressDenied,
        Self::PrincipalDenied,
        Self::TwoKeys,
        Self::RateLimited,
        Self::NoDecision,
        Self::CallerRefused,
        Self::RouteFault,
        Self::Unreadable,
        Self::TooLarge,
        Self::SpoofedIdentity,
    ];

    /// Its name in metrics, logs and metadata.
    #[must_use]
    pub(in crate::rpc) const fn name(self) -> &'static str {
        match self {
            Self::NoKey => "no_key",
            Self::Malformed => "malformed",
            Self::Unknown => "unknown",
            Self::WrongRealm => "wrong_realm",
            Self::Revoked => "revoked",
            Self::Expired => "expired",
            Self::Suspended => "suspended",
            Self::NotYetValid => "not_yet_valid",
            Self::OwnerInactive => "owner_inactive",
            Self::MissingScope => "missing_scope",
            Self::AddressDenied => "address_denied",
            Self::PrincipalDenied => "principal_denied",
            Self::TwoKeys => "two_keys",
            Self::RateLimited => "rate_limited",
            Self::NoDecision => "no_decision",
            Self::CallerRefused => "caller_refused",
            Self::RouteFault => "route_fault",
            Self::Unreadable => "unreadable",
            Self::TooLarge => "too_large",
            Self::SpoofedIdentity => "spoofed_identity",
        }
    }

    /// Whether it is about the proxy and what it sent, and not about the request that it holds.
    pub(super) const fn is_of_the_proxy(self) -> bool {
        matches!(self, Self::CallerRefused | Self::RouteFault | Self::Unreadable)
    }

    /// Status, grpc-status, a name for programs, a title and a text for people. What has the same name is not
    /// told apart: a stranger learns nothing about keys that are not theirs.
    const fn row(self) -> (u16, u8, &'static str, &'static str, &'static str) {
        const CREDENTIALS: (u16, u8, &str, &str, &str) =
            (401, 16, "invalid-key", "A valid API key is required", "send a valid API key of this realm");
        match self {
            Self::NoKey | Self::Malformed | Self::Unknown | Self::WrongRealm => CREDENTIALS,
            Self::Revoked => (401, 16, "key-revoked", "The API key was revoked", "use another key"),
            Self::Expired => (401, 16, "key-expired", "The API key has expired", "rotate it, or use another key"),
            Self::Suspended => {
                (401, 16, "key-suspended", "The API key is suspended", "have it resumed, or use another key")
            }
            Self::NotYetValid => (401, 16, "key-not-yet-valid", "The API key is not valid yet", "use it later"),
            Self::OwnerInactive => (
                401,
                16,
                "owner-inactive",
                "The owner of the API key is not active",
                "have the owner's account enabled",
            ),
            Self::MissingScope => (
                403,
                7,
                "missing-scope",
                "The API key does not have every required scope",
                "use a key with these scopes",
            ),
            Self::AddressDenied => (
                403,
                7,
                "address-denied",
                "The API key may not be used from this address",
                "use it from where it may be",
            ),
            Self::PrincipalDenied => (
                403,
                7,
                "principal-denied",
                "The API key may not be presented by this principal",
                "present it by one of its principals",
            ),
            Self::TwoKeys => (400, 16, "two-keys", "More than one API key was sent", "send one API key, in one place"),
            Self::RateLimited => (429, 8, "rate-limited", "The API key was used too often", "try again later"),
            Self::NoDecision => {
                (503, 14, "no-decision", "It could not be decided whether the API key may pass", "try again later")
            }
            Self::CallerRefused => (
                403,
                7,
                "proxy-refused",
                "The proxy may not ask about API keys",
                "its operator finds the reason in keyclasp's log",
            ),
            Self::RouteFault => (
                403,
                7,
                "route-misconfigured",
                "The proxy's route is misconfigured",
                "its operator finds the reason in keyclasp's log",
            ),
            Self::Unreadable => (400, 16, "unreadable", "The request cannot be read", "send a well-formed request"),
            Self::SpoofedIdentity => (
                400,
                16,
                "spoofed-identity",
                "The request claims an identity",
                "send no header field that reads like one of x-keyclasp-*",
            ),
            Self::TooLarge => (413, 8, "too-large", "The request is too large to be decided about", "send less"),
        }
    }
}

/// When to try again, where nothing is known about that.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Longest wait that is asked for, in seconds.
const LONGEST_WAIT: u64 = 3600;

/// Why a request may not pass, with what is told about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::rpc) struct Refusal {
    reason: Reason,
    realm: Option<Realm>,
    missing: Vec<Scope>,
    retry_after: Option<Duration>,
    /// Whether nobody could decide for a while only, as operators have to expect: a fault is none.
    outage: bool,
    /// For the log alone.
    internal: String,
}

impl Refusal {
    pub(in crate::rpc) fn new(reason: Reason) -> Self {
        let retry_after = matches!(reason, Reason::NoDecision | Reason::RateLimited).then_some(RETRY_AFTER);
        Self {
            reason,
            realm: None,
            missing: Vec::new(),
            retry_after,
            outage: reason == Reason::NoDecision,
            internal: String::new(),
        }
    }

    /// For an outcome of a check that is not VALID.
    pub(super) fn of(outcome: Outcome, missing: &[Scope]) -> Self {
        let reason = match outcome {
            // A check that passed has a record; without one nobody passes.
            Outcome::Valid => Reason::NoDecision,
            Outcome::Malformed => Reason::Malformed,
            Outcome::Unknown => Reason::Unknown,
            Outcome::Revoked => Reason::Revoked,
            Outcome::Suspended => Reason::Suspended,
            Outcome::Expired => Reason::Expired,
            Outcome::NotYetValid => Reason::NotYetValid,
            Outcome::WrongRealm => Reason::WrongRealm,
            Outcome::MissingScope => Reason::MissingScope,
            Outcome::AddressDenied => Reason::AddressDenied,
            Outcome::PrincipalDenied => Reason::PrincipalDenied,
            Outcome::OwnerInactive => Reason::OwnerInactive,
            Outcome::RateLimited => Reason::RateLimited,
        };
        Self { missing: missing.to_vec(), ..Self::new(reason) }
    }

    /// For a route that cannot be understood.
    pub(super) fn fault(fault: &RouteFault) -> Self {
        Self { internal: fault.to_string(), ..Self::new(Reason::RouteFault) }
    }

    /// With what a failed use case says.
    pub(super) fn because(mut self, error: Error) -> Self {
        self.retry_after = error.retry_after.or(self.retry_after);
        self.outage =
            self.reason == Reason::NoDecision && !matches!(error.kind, ErrorKind::DataUnreadable | ErrorKind::Internal);
        self.internal = error.internal.unwrap_or(error.message);
        self
    }

    /// With this for the log.
    pub(super) fn saying(mut self, internal: String) -> Self {
        self.internal = internal;
        self
    }

    /// In this realm.
    pub(super) fn within(mut self, realm: &Realm) -> Self {
        self.realm = Some(realm.clone());
        self
    }

    /// Why.
    #[must_use]
    pub(in crate::rpc) const fn reason(&self) -> Reason {
        self.reason
    }

    /// Its name for programs: the last part of the problem's type.
    #[must_use]
    pub(in crate::rpc) const fn name(&self) -> &'static str {
        self.reason.row().2
    }

    /// Whether it is no fault of anybody, and over soon.
    #[must_use]
    pub(in crate::rpc) const fn is_outage(&self) -> bool {
        self.outage
    }

    /// What the log is told beside the reason.
    pub(super) fn internal(&self) -> &str {
        &self.internal
    }

    /// The HTTP status.
    #[must_use]
    pub(in crate::rpc) const fn status(&self) -> u16 {
        self.reason.row().0
    }

    /// The grpc-status for a caller that speaks gRPC.
    #[must_use]
    pub(in crate::rpc) const fn grpc_status(&self) -> u8 {
        self.reason.row().1
    }

    /// The header fields of the answer: the challenge of a 401 (RFC 9110, section 11.6.1; never Basic, for which
    /// browsers open a dialogue) and when to try again.
    #[must_use]
    pub(in crate::rpc) fn headers(&self) -> Vec<(HeaderName, HeaderValue)> {
        let mut headers = Vec::with_capacity(2);
        if self.status() == 401 {
            let realm =
                self.realm.as_ref().map_or_else(|| "keyclasp".to_owned(), |realm| visible(realm.as_str()).into_owned());
            let quoted = realm.replace('\\', "\\\\").replace('"', "\\\"");
            // Visible ASCII is always a value.
            if let Ok(value) = HeaderValue::try_from(format!("ApiKey realm=\"{quoted}\"")) {
                headers.push((header::WWW_AUTHENTICATE, value));
            }
        }
        if let Some(wait) = self.retry_after {
            headers.push((
                header::RETRY_AFTER,
                HeaderValue::from(
                    u64::try_from(wait.as_millis().div_ceil(1000)).unwrap_or(LONGEST_WAIT).clamp(1, LONGEST_WAIT),
                ),
            ));
        }
        headers
    }

    /// The body: a problem (RFC 9457).
    #[must_use]
    pub(in crate::rpc) fn problem(&self) -> Vec<u8> {
        let (status, _, name, title, detail) = self.reason.row();
        let mut problem = json!({
            "type": format!("urn:keyclasp:problem:{name}"),
            "title": title,
            "status": status,
            "detail": self.detail(detail),
        });
        if !self.missing.is_empty()
            && let Some(members) = problem.as_object_mut()
        {
            let scopes: Vec<_> = self.missing.iter().map(|scope| scope.as_str()).collect();
            members.insert("missing_scopes".to_owned(), json!(scopes));
        }
        problem.to_string().into_bytes()
    }

    /// In a line of visible ASCII and spaces, for grpc-message.
    #[must_use]
    pub(in crate::rpc) fn text(&self) -> String {
        let (_, _, _, title, detail) = self.reason.row();
        format!("{title}; {}", self.detail(detail))
    }

    fn detail(&self, detail: &str) -> String {
        if self.missing.is_empty() {
            return detail.to_owned();
        }
        let scopes: Vec<_> = self.missing.iter().map(|scope| scope.as_str()).collect();
        format!("{detail}: {}", scopes.join(" "))
    }
}

/// `Content-Type` of [`Refusal::problem`].
pub(in crate::rpc) const PROBLEM: &str = "application/problem+json";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_answer() {
        use Reason as R;
        // The table of the contract.
        for (reasons, status, grpc) in [
            (&[R::NoKey, R::Malformed, R::Unknown, R::WrongRealm][..], 401, 16),
            (&[R::Revoked, R::Expired, R::Suspended, R::NotYetValid, R::OwnerInactive], 401, 16),
            (&[R::MissingScope, R::AddressDenied, R::PrincipalDenied, R::CallerRefused, R::RouteFault], 403, 7),
            (&[R::TwoKeys, R::Unreadable, R::SpoofedIdentity], 400, 16),
            (&[R::TooLarge], 413, 8),
            (&[R::RateLimited], 429, 8),
            (&[R::NoDecision], 503, 14),
        ] {
            for reason in reasons {
                let refusal = Refusal::new(*reason).within(&Realm::parse("a\"b é").unwrap());
                assert_eq!((refusal.status(), refusal.grpc_status()), (status, grpc), "{reason:?}");
                let headers = refusal.headers();
                let challenge = headers.iter().find(|(name, _)| *name == header::WWW_AUTHENTICATE);
                assert_eq!(challenge.is_some(), status == 401);
                assert!(challenge.is_none_or(|(_, value)| value == "ApiKey realm=\"a\\\"b%20%C3%A9\""));
                let waits = headers.iter().any(|(name, _)| *name == header::RETRY_AFTER);
                assert_eq!(waits, matches!(status, 429 | 503));
                let problem: serde_json::Value = serde_json::from_slice(&refusal.problem()).unwrap();
                assert_eq!(problem["status"], status);
                assert!(refusal.text().bytes().all(|byte| (b' '..=b'~').contains(&byte)));
            }
        }
        assert!(Reason::ALL.iter().enumerate().all(|(at, reason)| *reason as usize == at));
    }

    #[test]
    fn strangers_are_all_told_the_same_and_nobody_else_is() {
        let body = |reason| Refusal::new(reason).problem();
        let same = [Reason::NoKey, Reason::Malformed, Reason::Unknown, Reason::WrongRealm];
        for reason in Reason::ALL {
            assert_eq!(body(reason) == body(Reason::NoKey), same.contains(&reason), "{reason:?}");
        }
    }

    #[test]
    fn a_fault_is_no_outage() {
        for kind in ErrorKind::ALL {
            let error = Error::new(kind, "x");
            let refusal = Refusal::new(super::super::Decider::reason_of(&error)).because(error);
            let expected = refusal.reason() == Reason::NoDecision
                && !matches!(kind, ErrorKind::DataUnreadable | ErrorKind::Internal);
            assert_eq!(refusal.is_outage(), expected, "{kind:?}");
        }
        assert!(Refusal::new(Reason::NoDecision).is_outage() && !Refusal::new(Reason::Unknown).is_outage());
    }

    #[test]
    fn missing_scopes_are_named() {
        let missing = [Scope::parse("orders:write").unwrap(), Scope::parse("orders:read").unwrap()];
        let refusal = Refusal::of(Outcome::MissingScope, &missing);
        let problem: serde_json::Value = serde_json::from_slice(&refusal.problem()).unwrap();
        assert_eq!(problem["missing_scopes"], json!(["orders:write", "orders:read"]));
        assert!(refusal.text().ends_with(": orders:write orders:read"), "{}", refusal.text());
    }

    #[test]
    fn it_says_when_to_try_again() {
        let told = |millis| {
            let error = Error::new(crate::service::ErrorKind::StoreUnavailable, "x");
            let error = error.retry_after(Duration::from_millis(millis));
            let headers = Refusal::new(Reason::NoDecision).because(error).headers();
            headers.into_iter().find(|(name, _)| *name == header::RETRY_AFTER).unwrap().1
        };
        assert_eq!(
            [told(0), told(1), told(1000), told(1001)].map(|value| value.to_str().unwrap().to_owned()),
            ["1", "1", "1", "2"]
        );
    }
}
