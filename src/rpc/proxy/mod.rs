//! What a proxy asks about the request that it holds, and what keyclasp decides: the same for Envoy's
//! ext_authz and for forward-auth. Knows neither's messages; `envoy` and `forward_auth` translate.
//!
//! A decision is never an error. Whoever is refused, whatever the reason, gets a [`Refusal`]: an error on
//! the wire would open the door of a proxy that fails open.

mod address;
mod hosts;
mod identity;
mod metrics;
mod refusal;
mod route;
mod sources;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

pub(in crate::rpc) use self::address::read as read_address;
pub use self::hosts::{Host, Hosts};
pub(in crate::rpc) use self::identity::{IDENTITY, Identity, is_identity};
use self::metrics::Decision;
pub use self::metrics::{Proxy, ProxyMetrics};
pub(in crate::rpc) use self::refusal::{PROBLEM, Reason, Refusal};
pub(in crate::rpc) use self::route::{Route, RouteFault, Token};
use self::sources::Found;
pub(in crate::rpc) use self::sources::{Holder, Strip, StripCookie};
pub use self::sources::{Source, Sources};
use crate::clock::Throttle;
use crate::key::{ApiKey, Cidrs, Realm};
use crate::service::access::{Call, Right};
use crate::service::validate::{Check, Outcome};
use crate::service::{Error, ErrorKind, Held, Service};

/// A header field of the request that a proxy holds.
#[derive(Clone, Copy)]
pub struct Field<'a> {
    /// In lower case.
    pub name: &'a [u8],
    /// As it came. May be a secret.
    pub value: &'a [u8],
}

impl fmt::Debug for Field<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Field").field(&String::from_utf8_lossy(self.name)).finish()
    }
}

/// What a proxy asks about one request.
pub(in crate::rpc) struct Asked<'a> {
    /// Every header field that arrived, repeated ones as they came.
    pub(in crate::rpc) fields: &'a [Field<'a>],
    /// Path and query, raw; empty where they are not known. May hold a secret.
    pub(in crate::rpc) target: &'a [u8],
    /// Who is connected to the proxy.
    pub(in crate::rpc) address: Option<IpAddr>,
    /// Who that proved to be, by a client certificate.
    pub(in crate::rpc) principal: Option<&'a str>,
    /// The host that was asked for, for the host map.
    pub(in crate::rpc) host: &'a [u8],
    /// What the route requires.
    pub(in crate::rpc) route: Result<&'a Route, &'a RouteFault>,
}

/// A decision.
#[derive(Debug)]
pub(in crate::rpc) struct Verdict {
    /// Whether the request may pass.
    pub(in crate::rpc) conclusion: Conclusion,
    /// Where the key was, so that it goes no further.
    pub(in crate::rpc) strip: Strip,
    /// In a dry run: why the request would have been refused.
    pub(in crate::rpc) would: Option<Refusal>,
    /// Whether this is a dry run.
    pub(in crate::rpc) dry_run: bool,
    /// The realm in which it was decided, where that was not with a key, whose record says it.
    pub(in crate::rpc) realm: Option<Realm>,
    /// The record of a key whose secret matched, though it was refused.
    pub(in crate::rpc) record: Option<Arc<Held>>,
}

/// Whether a request may pass.
#[derive(Debug)]
pub(in crate::rpc) enum Conclusion {
    /// With this key.
    Key(Arc<Held>),
    /// Without one.
    Anonymous,
    /// It may not.
    Refused(Refusal),
}

/// What holds for every request that comes by one kind of proxy.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Where keys are looked for.
    pub sources: Sources,
    /// Decide, say and count, but refuse nobody.
    pub dry_run: bool,
    /// The realm of a route that names none.
    pub realm: Option<Realm>,
    /// Realm and scopes by host, for a mesh whose routes name none.
    pub hosts: Hosts,
    /// Proxies before the one that asks, whose X-Forwarded-For is believed.
    pub trusted_proxies: Cidrs,
}

/// Decides for one kind of proxy. Clones are the same.
#[derive(Debug, Clone)]
pub struct Decider {
    service: Service,
    settings: Arc<Settings>,
    metrics: ProxyMetrics,
    proxy: Proxy,
    said: Arc<Throttle>,
}

impl Decider {
    /// Over the use cases.
    #[must_use]
    pub fn new(service: Service, settings: Settings, metrics: ProxyMetrics, proxy: Proxy) -> Self {
        Self { service, settings: Arc::new(settings), metrics, proxy, said: Arc::new(Throttle::new(1)) }
    }

    /// Decides about a request that `call` asks about; none: whoever asks did not prove who it is.
    pub(in crate::rpc) async fn decide(&self, call: Option<&Call>, asked: &Asked<'_>) -> Verdict {
        let verdict = self.judge(call, asked).await;
        // A route that says that it is a dry run says it by somebody who may ask about routes at all.
        let may_ask = || call.is_some_and(|call| call.principal.may_somewhere(Right::Validate));
        self.conclude(verdict, asked.route.ok().filter(|route| !route.dry_run || may_ask()))
    }

    /// The decision about a request that could not be read, or not be decided about; `route`, where it is known all
    /// the same. What is wrong is for the log.
    pub(in crate::rpc) fn refuse(&self, reason: Reason, route: Option<&Route>, what: impl Into<String>) -> Verdict {
        self.conclude(refused(Refusal::new(reason).saying(what.into()), None), route)
    }

    /// The reason that an error is.
    pub(in crate::rpc) fn reason_of(error: &Error) -> Reason {
        match error.kind {
            ErrorKind::Unauthenticated | ErrorKind::RoleMissing => Reason::CallerRefused,
            ErrorKind::RequestMalformed | ErrorKind::InvalidArgument => Reason::Unreadable,
            _ => Reason::NoDecision,
        }
    }

    /// Counts and says what was decided; a dry run refuses nobody.
    fn conclude(&self, mut verdict: Verdict, route: Option<&Route>) -> Verdict {
        let refused_for = match &verdict.conclusion {
            Conclusion::Refused(refusal) => Some(refusal.reason()),
            Conclusion::Key(_) | Conclusion::Anonymous => None,
        };
        verdict.dry_run = match refused_for {
            // A dry run lets a request pass without an identity; this one would pass with one.
            Some(Reason::SpoofedIdentity) => false,
            // What somebody says of a route who may not ask about it counts for nothing.
            Some(Reason::CallerRefused) => self.settings.dry_run,
            _ => self.settings.dry_run || route.is_some_and(|route| route.dry_run),
        };
        let decision = match &verdict.conclusion {
            Conclusion::Key(_) => Decision::Allowed,
            Conclusion::Anonymous => Decision::Anonymous,
            Conclusion::Refused(refusal) => Decision::Refused(refusal.reason()),
        };
        self.metrics.decided(self.proxy, decision, verdict.dry_run);
        let Conclusion::Refused(refusal) = &verdict.conclusion else { return verdict };
        if (verdict.dry_run || refusal.reason().is_of_the_proxy())
            && let Some(left_out) = self.said.admit()
        {
            let (proxy, reason, detail) = (self.proxy.name(), refusal.reason().name(), refusal.internal());
            if verdict.dry_run {
                tracing::info!(proxy, reason, detail, left_out, "dry run: a request passed that would be refused");
            } else {
                tracing::warn!(
                    proxy,
                    reason,
                    detail,
                    left_out,
                    "a proxy's request was refused for what the proxy sent"
                );
            }
        }
        if verdict.dry_run {
            self.service.validator.let_through();
            // Whatever the credentials of such a request are, they may be somebody else's: they stay.
            verdict.strip = Strip::default();
            if let Conclusion::Refused(refusal) = std::mem::replace(&mut verdict.conclusion, Conclusion::Anonymous) {
                verdict.would = Some(refusal);
            }
        }
        verdict
    }

    async fn judge(&self, call: Option<&Call>, asked: &Asked<'_>) -> Verdict {
        let route = match asked.route {
            Ok(route) => route,
            Err(fault) => return refused(Refusal::fault(fault), None),
        };
        let host = self.settings.hosts.of(asked.host);
        let realm = route.realm.as_ref().or(host.map(|host| &host.realm)).or(self.settings.realm.as_ref());
        let Some(realm) = realm else { return refused(Refusal::fault(&RouteFault::no_realm()), None) };
        if route.token == Token::Inject {
            return refused(Refusal::fault(&RouteFault::no_tokens()), Some(realm));
        }
        let Some(call) = call.filter(|call| call.principal.may(Right::Validate, realm)) else {
            let who = call.map_or("somebody unknown", |call| call.principal.name.as_str());
            let what = format!("{who} may not validate keys of realm {realm}");
            return refused(Refusal::new(Reason::CallerRefused).saying(what), Some(realm));
        };
        let (text, strip) = match self.settings.sources.find(asked.fields, asked.target) {
            Found::One(text, strip) => (text, strip),
            Found::None if route.optional => return anonymous(realm),
            Found::None => return refused(Refusal::new(Reason::NoKey), Some(realm)),
            Found::Several => return refused(Refusal::new(Reason::TwoKeys), Some(realm)),
        };
        let required_scopes = match (&route.scopes, host) {
            (Some(scopes), _) => scopes.as_slice(),
            // A route that names the host's own realm does not lose the host's scopes by that.
            (None, Some(host)) if *realm == host.realm => host.scopes.as_slice(),
            _ => &[],
        };
        let source_address =
            asked.address.map(|address| address::client(address, asked.fields, &self.settings.trusted_proxies));
        let check = Check {
            text: &text,
            realm: Some(realm),
            required_scopes,
            source_address,
            source_principal: asked.principal,
        };
        match self.service.validator.validate(call, &check).await {
            Ok(checked) => match (checked.outcome, checked.record) {
                (Outcome::Valid, Some(held)) => finish(Conclusion::Key(held), strip, Some(realm)),
                (outcome, record) => {
                    Verdict { record, ..refused(Refusal::of(outcome, &checked.missing_scopes), Some(realm)) }
                }
            },
            Err(error) => refused(Refusal::new(Self::reason_of(&error)).because(error), Some(realm)),
        }
    }
}

fn finish(conclusion: Conclusion, strip: Strip, realm: Option<&Realm>) -> Verdict {
    let conclusion = match (conclusion, realm) {
        (Conclusion::Refused(refusal), Some(realm)) => Conclusion::Refused(refusal.within(realm)),
        (conclusion, _) => conclusion,
    };
    // A key's record says it.
    let realm = realm.filter(|_| !matches!(conclusion, Conclusion::Key(_))).cloned();
    Verdict { conclusion, strip, would: None, dry_run: false, realm, record: None }
}

fn refused(refusal: Refusal, realm: Option<&Realm>) -> Verdict {
    finish(Conclusion::Refused(refusal), Strip::default(), realm)
}

fn anonymous(realm: &Realm) -> Verdict {
    finish(Conclusion::Anonymous, Strip::default(), Some(realm))
}

/// The text of a presented key.
fn presented(text: &[u8]) -> ApiKey {
    /// No key is longer; what is, is not copied.
    const LONGEST: usize = 256;
    let text = std::str::from_utf8(text).ok().filter(|text| text.len() <= LONGEST);
    ApiKey::new(text.unwrap_or_default().to_owned())
}
