//! What each kind of proxy says about the request that it holds, and in which header fields.
//!
//! Only the fields of the style that the query names are read: a client can send all others. Those of the
//! style are the proxy's own, which it puts in place of what the client sent; so there is exactly one of each.

use std::net::IpAddr;

use http::HeaderMap;

use crate::rpc::proxy::{Strip, StripCookie, read_address};

/// A kind of proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Style {
    /// X-Forwarded-Method, -Uri, -Host and -For: Caddy.
    #[default]
    Forwarded,
    /// The same, for HAProxy, whose script changes queries and cookies too.
    HaProxy,
    /// The same, for Traefik, which can take a field away from a request only by taking it from the answer.
    Traefik,
    /// X-Original-Method, X-Original-URI and X-Real-IP, and no other answer than 200, 401 and 403.
    Nginx,
}

/// The request that a proxy holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Original<'a> {
    /// Path and query.
    pub(super) target: &'a [u8],
    /// Who is connected to the proxy.
    pub(super) address: Option<IpAddr>,
}

/// What the proxy says cannot be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unreadable {
    /// It does not say it.
    #[error("the proxy sends no {0}; configure it as the page about it shows, or name its `style` in the query")]
    Missing(&'static str),
    /// It says it more than once, or passes on what a client sent.
    #[error("{0} is there more than once; the proxy has to replace what a client sends under this name")]
    Repeated(&'static str),
    /// It says something else.
    #[error("{0} holds no path; the proxy has to send path and query as they came")]
    NoPath(&'static str),
}

impl Style {
    const ALL: [Self; 4] = [Self::Forwarded, Self::HaProxy, Self::Traefik, Self::Nginx];

    const fn name(self) -> &'static str {
        match self {
            Self::Forwarded => "forwarded",
            Self::HaProxy => "haproxy",
            Self::Traefik => "traefik",
            Self::Nginx => "nginx",
        }
    }

    pub(super) fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|style| style.name() == name)
    }

    pub(super) fn names() -> String {
        Self::ALL.map(Self::name).join(", ")
    }

    /// Whether the proxy knows no refusals but 401 and 403.
    pub(super) const fn knows_two_refusals(self) -> bool {
        matches!(self, Self::Nginx)
    }

    /// Whether the answer has to hold the fields that may go on.
    pub(super) const fn takes_fields_from_the_answer(self) -> bool {
        matches!(self, Self::Traefik)
    }

    /// Why a request must not pass whose key stands where this proxy cannot take it away: it would go on to the upstream.
    pub(super) fn cannot_take_away(self, key: &Strip) -> Option<&'static str> {
        let (query, cookie) = match self {
            Self::Forwarded => (false, false),
            Self::Traefik => (false, true),
            Self::HaProxy | Self::Nginx => (true, true),
        };
        if !query && !key.query.is_empty() {
            Some(
                "the key stands in the query, from where this proxy cannot take it; take `query:` out of proxy.sources",
            )
        } else if !cookie && key.cookie != StripCookie::Keep {
            Some(
                "the key stands in a cookie, from where this proxy cannot take it; take `cookie:` out of proxy.sources",
            )
        } else {
            None
        }
    }

    /// What the proxy says.
    pub(super) fn read(self, headers: &HeaderMap) -> Result<Original<'_>, Unreadable> {
        let (method, target_name, host, address) = match self {
            Self::Forwarded | Self::HaProxy | Self::Traefik => {
                ("x-forwarded-method", "x-forwarded-uri", "x-forwarded-host", "x-forwarded-for")
            }
            Self::Nginx => ("x-original-method", "x-original-uri", "x-original-host", "x-real-ip"),
        };
        let target = only(headers, target_name)?.ok_or(Unreadable::Missing(target_name))?;
        // RFC 9112, section 3.2: the target of an OPTIONS may be an asterisk. A proxy makes a path of all others.
        if !(target.starts_with(b"/") || target == b"*") {
            return Err(Unreadable::NoPath(target_name));
        }
        // Nothing is decided by method and host; but where there are two, somebody meddled.
        if only(headers, method)?.is_none_or(<[u8]>::is_empty) {
            return Err(Unreadable::Missing(method));
        }
        only(headers, host)?;
        // The last entry is the proxy's own: who is connected to it. Those before are for
        // `forward_auth.trusted_proxies` to judge.
        let entries = only(headers, address)?;
        let address = entries.and_then(|entries| read_address(entries.rsplit(|byte| *byte == b',').next()?));
        Ok(Original { target, address })
    }
}

/// The value of a field of which there is at most one.
fn only<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<Option<&'a [u8]>, Unreadable> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (value, None) => Ok(value.map(http::HeaderValue::as_bytes)),
        _ => Err(Unreadable::Repeated(name)),
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn headers(fields: &[(&str, &str)]) -> HeaderMap {
        let field = |(name, value): &(&str, &str)| {
            (HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_bytes(value.as_bytes()).unwrap())
        };
        fields.iter().map(field).collect()
    }

    /// As Traefik 3 and Caddy 2 send them, and as the configuration of nginx has it.
    const FORWARDED: [(&str, &str); 5] = [
        ("X-Forwarded-Method", "POST"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "api.example.com"),
        ("X-Forwarded-Uri", "/a?b=c"),
        ("X-Forwarded-For", "203.0.113.9, 192.0.2.7"),
    ];
    const NGINX: [(&str, &str); 4] = [
        ("X-Original-Method", "POST"),
        ("X-Original-URI", "/a?b=c"),
        ("X-Original-Host", "api.example.com"),
        ("X-Real-IP", "192.0.2.7"),
    ];

    #[test]
    fn each_proxy_is_read_by_its_own_fields() {
        for (style, fields) in [
            (Style::Forwarded, &FORWARDED[..]),
            (Style::Traefik, &FORWARDED),
            (Style::HaProxy, &FORWARDED),
            (Style::Nginx, &NGINX),
        ] {
            let headers = headers(fields);
            let original = style.read(&headers).unwrap();
            assert_eq!((original.target, original.address), (&b"/a?b=c"[..], Some("192.0.2.7".parse().unwrap())));
        }
        // Those of another style are a client's.
        assert_eq!(Style::Nginx.read(&headers(&FORWARDED)), Err(Unreadable::Missing("x-original-uri")));
        assert_eq!(Style::Forwarded.read(&headers(&NGINX)), Err(Unreadable::Missing("x-forwarded-uri")));
        let both = headers(&[&FORWARDED[..], &[("X-Original-URI", "/x"), ("X-Real-IP", "203.0.113.1")]].concat());
        assert_eq!(Style::Forwarded.read(&both).unwrap().target, b"/a?b=c");
        assert_eq!(Style::Forwarded.read(&both).unwrap().address, Some("192.0.2.7".parse().unwrap()));
    }

    #[test]
    fn what_is_there_twice_is_not_believed() {
        for (style, fields) in [(Style::Forwarded, &FORWARDED[..]), (Style::Nginx, &NGINX)] {
            for (name, value) in fields.iter().filter(|(name, _)| *name != "X-Forwarded-Proto") {
                let twice = headers(&[fields, &[(*name, *value)]].concat());
                assert!(
                    matches!(style.read(&twice), Err(Unreadable::Repeated(named)) if named.eq_ignore_ascii_case(name)),
                    "{name}"
                );
            }
        }
    }

    #[test]
    fn target_and_method_have_to_be_there_and_the_address_need_not() {
        for (name, replaced, readable) in [
            ("X-Forwarded-Uri", None, false),
            ("X-Forwarded-Uri", Some("a"), false),
            ("X-Forwarded-Uri", Some(""), false),
            ("X-Forwarded-Uri", Some("http://x/a"), false),
            ("X-Forwarded-Uri", Some("*"), true),
            ("X-Forwarded-Method", None, false),
            ("X-Forwarded-Method", Some(""), false),
            ("X-Forwarded-Host", None, true),
            ("X-Forwarded-For", None, true),
            ("X-Forwarded-For", Some("192.0.2.1, unknown"), true),
        ] {
            let fields = FORWARDED.iter().filter_map(|(known, value)| {
                if *known == name { replaced.map(|value| (*known, value)) } else { Some((*known, *value)) }
            });
            let headers = headers(&fields.collect::<Vec<_>>());
            let read = Style::Forwarded.read(&headers);
            assert_eq!(read.is_ok(), readable, "{name} {replaced:?}");
            assert!(read.is_err() || name != "X-Forwarded-For" || read.unwrap().address.is_none());
        }
    }

    #[test]
    fn a_key_that_cannot_be_taken_away_does_not_pass() {
        let header = Strip { headers: vec!["x-api-key"], ..Strip::default() };
        let query = Strip { query: vec!["key".to_owned()], ..Strip::default() };
        let cookies = [StripCookie::Remove, StripCookie::Replace(b"a=b".to_vec())];
        for (style, in_query, in_cookie) in [
            (Style::Forwarded, false, false),
            (Style::Traefik, false, true),
            (Style::HaProxy, true, true),
            (Style::Nginx, true, true),
        ] {
            assert_eq!(style.cannot_take_away(&header), None);
            assert_eq!(style.cannot_take_away(&query).is_none(), in_query, "{style:?}");
            for cookie in cookies.clone() {
                let strip = Strip { cookie, ..Strip::default() };
                assert_eq!(style.cannot_take_away(&strip).is_none(), in_cookie, "{style:?}");
            }
        }
    }

    #[test]
    fn styles_have_names() {
        assert!(Style::ALL.into_iter().all(|style| Style::parse(style.name()) == Some(style)));
        assert_eq!(Style::parse("Nginx"), None);
        assert_eq!(Style::names(), "forwarded, haproxy, traefik, nginx");
    }
}
