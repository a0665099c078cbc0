//! `/forward-auth`: what nginx's auth_request, Traefik's ForwardAuth, Caddy's forward_auth and HAProxy ask
//! about each request that they hold.
//!
//! What a route requires stands in the query, which the proxy's configuration fixes and a client cannot
//! reach. What the client sent stands in the header, with what the proxy says about it (`style.rs`). The
//! decision is [`proxy`]'s; here it becomes an answer (`answer.rs`). Nobody is believed who is not
//! one of the configured peers.

mod answer;
mod style;

use std::sync::Arc;

use http::request::Parts;
use http::{HeaderMap, Response, StatusCode, Uri};
use tonic::body::Body;

use self::answer::answer;
use self::style::Style;
use super::auth::Caller;
use super::gateway::endpoint::{Access, Answering, Asked, Endpoint, Handler, Unserved, Verbs};
use super::proxy::{self, Decider, Field, IDENTITY, Reason, Route, RouteFault, Verdict, is_identity};
use super::urlencoded;
use crate::key::{Actor, Caps, Cidrs, Invalid};
use crate::service::access::{Grant, Principal, Realms, Role};

/// Where it is.
pub const PATH: &str = "/forward-auth";

/// The endpoint, for proxies at these addresses: there, whoever asks may validate keys of all realms.
///
/// # Errors
/// Never: the name of who asks is fixed and good.
pub fn endpoint(decider: Decider, peers: Cidrs) -> Result<Endpoint, Invalid> {
    let principal = Arc::new(Principal {
        name: Actor::parse("forward-auth")?,
        grants: vec![Grant { role: Role::Validator, realms: Realms::All }],
        caps: Caps::default(),
    });
    Ok(Endpoint {
        path: PATH.to_owned(),
        verbs: Verbs::Any,
        access: Access::Peers { peers, principal },
        body: None,
        handler: Arc::new(ForwardAuth { decider }),
    })
}

#[derive(Clone)]
struct ForwardAuth {
    decider: Decider,
}

impl Handler for ForwardAuth {
    fn handle(&self, asked: Asked) -> Answering {
        let this = self.clone();
        Box::pin(async move {
            let (style, route) = read_query(asked.head.uri.query());
            let verdict = this.decide(&asked.head, &asked.caller, style, route).await;
            answer(&verdict, style, Some(&asked.head.headers))
        })
    }

    fn refuse(&self, uri: &Uri, unserved: &Unserved) -> Response<Body> {
        self.unserved(uri, None, unserved)
    }

    fn refuse_asked(&self, uri: &Uri, headers: &HeaderMap, unserved: &Unserved) -> Response<Body> {
        self.unserved(uri, Some(headers), unserved)
    }

    fn keeps_headers(&self, uri: &Uri) -> bool {
        // A dry run, which may be this process's own choice, takes nothing away, whatever failed.
        read_query(uri.query()).0.takes_fields_from_the_answer()
    }
}

impl ForwardAuth {
    fn unserved(&self, uri: &Uri, headers: Option<&HeaderMap>, unserved: &Unserved) -> Response<Body> {
        let reason = match unserved.status {
            StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED => Reason::CallerRefused,
            status if status.is_client_error() => Reason::Unreadable,
            _ => Reason::NoDecision,
        };
        let (style, route) = read_query(uri.query());
        answer(&self.decider.refuse(reason, route.ok().as_ref(), unserved.error.message.as_str()), style, headers)
    }

    async fn decide(&self, head: &Parts, caller: &Caller, style: Style, route: Result<Route, RouteFault>) -> Verdict {
        let fields: Vec<_> = head
            .headers
            .iter()
            .map(|(name, value)| Field { name: name.as_str().as_bytes(), value: value.as_bytes() })
            .collect();
        // Proxies replace such a field that is spelled as they spell it. One that an upstream behind CGI would take
        // for the same goes on beside it, and nothing in an answer could take it away.
        if fields
            .iter()
            .any(|field| is_identity(field.name) && !IDENTITY.iter().any(|name| name.as_bytes() == field.name))
        {
            let what = "the client sent a field whose name reads like one of the identity's";
            return self.decider.refuse(Reason::SpoofedIdentity, route.ok().as_ref(), what);
        }
        let original = match style.read(&head.headers) {
            Ok(original) => original,
            Err(fault) => return self.decider.refuse(Reason::Unreadable, route.ok().as_ref(), fault.to_string()),
        };
        let call = match caller {
            Caller::Known(call) => Some(&**call),
            Caller::Anonymous(_) | Caller::Refused(_) => None,
        };
        let asked = proxy::Asked {
            fields: &fields,
            target: original.target,
            address: original.address,
            principal: None,
            host: b"",
            route,
        };
        let verdict = self.decider.decide(call, &asked).await;
        match style.cannot_take_away(&verdict.strip) {
            Some(what) => self.decider.refuse(Reason::Unreadable, asked.route.as_ref().ok(), what),
            None => verdict,
        }
    }
}

/// What the proxy's configuration says: which proxy it is, and what the route requires. A query that cannot be
/// read is a route that lets nobody through.
fn read_query(query: Option<&str>) -> (Style, Result<Route, RouteFault>) {
    let mut style = None;
    let mut fault = None;
    let mut pairs = Vec::new();
    for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        match (urlencoded::decode(name.as_bytes()), urlencoded::decode(value.as_bytes())) {
            (Some(name), Some(value)) if *name == "style" => match Style::parse(&value) {
                Some(named) if style.is_none() => style = Some(named),
                _ => fault = Some(RouteFault::new(format!("`style` must be one of {}, once", Style::names()))),
            },
            (Some(name), Some(value)) => pairs.push((name, value)),
            _ => fault = Some(RouteFault::new("the query is not percent-encoded UTF-8")),
        }
    }
    let route = Route::parse(pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    (style.unwrap_or_default(), fault.map_or(route, Err))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_says_which_proxy_asks_and_what_the_route_requires() {
        let read = |query: &str| {
            let (style, route) = read_query(Some(query));
            route.map(|route| (style, route)).map_err(|fault| fault.to_string())
        };
        let (style, route) =
            read("realm=acme%20inc&scopes=orders:read+orders%3Awrite&optional=true&style=nginx").unwrap();
        assert_eq!((style, route.realm.unwrap().as_str(), route.optional), (Style::Nginx, "acme inc", true));
        assert_eq!(route.scopes.unwrap().len(), 2);
        assert_eq!(read_query(None), (Style::Forwarded, Ok(Route::default())));
        for (query, said) in [
            ("realm=a&realm=b", "`realm`"),
            ("rea%6Cm=a&realm=b", "`realm`"),
            ("relm=a", "`relm`"),
            ("realm=%", "percent"),
            ("realm=%ff", "percent"),
            ("style=apache", "`style`"),
            ("style=nginx&style=nginx", "`style`"),
            ("optional", "`optional`"),
        ] {
            assert!(read(query).unwrap_err().contains(said), "{query}");
        }
        // Also where the route is at fault, the proxy is told so in its way.
        assert_eq!(read_query(Some("relm=a&style=nginx")).0, Style::Nginx);
    }
}
