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

use http::{HeaderMap, Response, StatusCode, Uri};
use tonic::body::Body;

use self::answer::answer;
use self::style::Style;
use super::auth::Caller;
use super::gateway::endpoint::{Access, Answering, Asked, Endpoint, Handler, Unserved, Verbs};
use super::gateway::lean::{LeanAnswering, LeanHandler};
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
            let query = Query::read(asked.head.uri.query());
            let fields = fields(&asked.head.headers);
            answer(&this.decide(&query, &fields, &asked.caller).await, query.style, Some(&fields))
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
        Query::read(uri.query()).style.takes_fields_from_the_answer()
    }

    fn lean(&self) -> Option<Box<dyn LeanHandler>> {
        Some(Box::new(Known { forward_auth: self.clone(), queries: Vec::new() }))
    }
}

impl ForwardAuth {
    fn unserved(&self, uri: &Uri, headers: Option<&HeaderMap>, unserved: &Unserved) -> Response<Body> {
        let reason = match unserved.status {
            StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED => Reason::CallerRefused,
            status if status.is_client_error() => Reason::Unreadable,
            _ => Reason::NoDecision,
        };
        let Query { style, route } = Query::read(uri.query());
        let verdict = self.decider.refuse(reason, route.ok().as_ref(), unserved.error.message.as_str());
        answer(&verdict, style, headers.map(fields).as_deref())
    }

    async fn decide(&self, query: &Query, fields: &[Field<'_>], caller: &Caller) -> Verdict {
        let route = query.route.as_ref();
        // Proxies replace such a field that is spelled as they spell it. One that an upstream behind CGI would take
        // for the same goes on beside it, and nothing in an answer could take it away.
        if fields
            .iter()
            .any(|field| is_identity(field.name) && !IDENTITY.iter().any(|name| name.as_bytes() == field.name))
        {
            let what = "the client sent a field whose name reads like one of the identity's";
            return self.decider.refuse(Reason::SpoofedIdentity, route.ok(), what);
        }
        let original = match query.style.read(fields) {
            Ok(original) => original,
            Err(fault) => return self.decider.refuse(Reason::Unreadable, route.ok(), fault.to_string()),
        };
        let call = match caller {
            Caller::Known(call) => Some(&**call),
            Caller::Anonymous(_) | Caller::Refused(_) => None,
        };
        let asked = proxy::Asked {
            fields,
            target: original.target,
            address: original.address,
            principal: None,
            host: b"",
            route,
        };
        let verdict = self.decider.decide(call, &asked).await;
        match query.style.cannot_take_away(&verdict.strip) {
            Some(what) => self.decider.refuse(Reason::Unreadable, route.ok(), what),
            None => verdict,
        }
    }
}

/// It for one connection: a proxy asks with few queries, each of them again and again.
struct Known {
    forward_auth: ForwardAuth,
    /// Those that were read, the last one last.
    queries: Vec<(String, Arc<Query>)>,
}

/// Most queries of one connection that are remembered.
const MOST_QUERIES: usize = 16;
/// Longest query that is.
const LONGEST_QUERY: usize = 1024;

impl LeanHandler for Known {
    fn answer<'a>(&'a mut self, query: &str, fields: &'a [Field<'a>], caller: &'a Caller) -> Option<LeanAnswering<'a>> {
        let query = self.query(query)?;
        let forward_auth = &self.forward_auth;
        Some(Box::pin(async move {
            let verdict = forward_auth.decide(&query, fields, caller).await;
            answer::lean(&verdict, query.style, fields)
        }))
    }
}

impl Known {
    /// What a query says. None: it is none that a proxy's configuration fixes; it may hold anything.
    fn query(&mut self, text: &str) -> Option<Arc<Query>> {
        if let Some((_, query)) = self.queries.iter().find(|(known, _)| known == text) {
            return Some(Arc::clone(query));
        }
        if text.len() > LONGEST_QUERY || !text.bytes().all(means_itself) {
            return None;
        }
        let query = Query::read(Some(text));
        query.route.is_ok().then(|| {
            if self.queries.len() == MOST_QUERIES {
                self.queries.remove(0);
            }
            let query = Arc::new(query);
            self.queries.push((text.to_owned(), Arc::clone(&query)));
            query
        })
    }
}

/// Whether a byte means itself in the query of any URI (RFC 3986, section 3.4). Others are for a parser of URIs.
const fn means_itself(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'%' | b'&' | b'=' | b'+' | b':' | b'/' | b'*' | b',')
}

/// Header fields where they lie.
fn fields(headers: &HeaderMap) -> Vec<Field<'_>> {
    headers.iter().map(|(name, value)| Field { name: name.as_str().as_bytes(), value: value.as_bytes() }).collect()
}

/// What the proxy's configuration says.
#[derive(Debug)]
struct Query {
    /// Which proxy it is.
    style: Style,
    /// What the route requires. A query that cannot be read is a route that lets nobody through.
    route: Result<Route, RouteFault>,
}

impl Query {
    fn read(query: Option<&str>) -> Self {
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
        Self { style: style.unwrap_or_default(), route: fault.map_or(route, Err) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_says_which_proxy_asks_and_what_the_route_requires() {
        let read = |query: &str| {
            let Query { style, route } = Query::read(Some(query));
            route.map(|route| (style, route)).map_err(|fault| fault.to_string())
        };
        let (style, route) =
            read("realm=acme%20inc&scopes=orders:read+orders%3Awrite&optional=true&style=nginx").unwrap();
        assert_eq!((style, route.realm.unwrap().as_str(), route.optional), (Style::Nginx, "acme inc", true));
        assert_eq!(route.scopes.unwrap().len(), 2);
        let Query { style, route } = Query::read(None);
        assert_eq!((style, route), (Style::Forwarded, Ok(Route::default())));
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
        assert_eq!(Query::read(Some("relm=a&style=nginx")).style, Style::Nginx);
    }
}
