//! What each kind of proxy says about the request that it holds, and in which header fields.
//!
//! Only the fields of the style that the query names are read: a client can send all others. Those of the
//! style are the proxy's own, which it puts in place of what the client sent; so there is exactly one of each.

use std::net::IpAddr;

use crate::rpc::proxy::{Field, Strip, StripCookie, read_address};

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
    pub(super) fn read<'a>(self, fields: &[Field<'a>]) -> Result<Original<'a>, Unreadable> {
        let names = match self {
            Self::Forwarded | Self::HaProxy | Self::Traefik => {
                ["x-forwarded-method", "x-forwarded-uri", "x-forwarded-host", "x-forwarded-for"]
            }
            Self::Nginx => ["x-original-method", "x-original-uri", "x-original-host", "x-real-ip"],
        };
        let mut said = names.map(|name| (name, None));
        for field in fields.iter().filter(|field| field.name.starts_with(b"x-")) {
            if let Some((name, value)) = said.iter_mut().find(|(name, _)| name.as_bytes() == field.name)
                && value.replace(field.value).is_some()
            {
                return Err(Unreadable::Repeated(name));
            }
        }
        // Nothing is decided by method and host; but where there are two, somebody meddled.
        let [(method_name, method), (target_name, target), _, (_, entries)] = said;
        let target = target.ok_or(Unreadable::Missing(target_name))?;
        // RFC 9112, section 3.2: the target of an OPTIONS may be an asterisk. A proxy makes a path of all others.
        if !(target.starts_with(b"/") || target == b"*") {
            return Err(Unreadable::NoPath(target_name));
        }
        if method.is_none_or(<[u8]>::is_empty) {
            return Err(Unreadable::Missing(method_name));
        }
        // The last entry is the proxy's own: who is connected to it. Those before are for
        // `forward_auth.trusted_proxies` to judge.
        let address = entries.and_then(|entries| read_address(entries.rsplit(|byte| *byte == b',').next()?));
        Ok(Original { target, address })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::proxy::Holder;

    fn headers<'a>(fields: &[(&'a str, &'a str)]) -> Vec<Field<'a>> {
        fields.iter().map(|(name, value)| Field { name: name.as_bytes(), value: value.as_bytes() }).collect()
    }

    /// As Traefik 3 and Caddy 2 send them, and as the configuration of nginx has it.
    const FORWARDED: [(&str, &str); 5] = [
        ("x-forwarded-method", "POST"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "api.example.com"),
        ("x-forwarded-uri", "/a?b=c"),
        ("x-forwarded-for", "203.0.113.9, 192.0.2.7"),
    ];
    const NGINX: [(&str, &str); 4] = [
        ("x-original-method", "POST"),
        ("x-original-uri", "/a?b=c"),
        ("x-original-host", "api.example.com"),
        ("x-real-ip", "192.0.2.7"),
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
        let both = headers(&[&FORWARDED[..], &[("x-original-uri", "/x"), ("x-real-ip", "203.0.113.1")]].concat());
        assert_eq!(Style::Forwarded.read(&both).unwrap().target, b"/a?b=c");
        assert_eq!(Style::Forwarded.read(&both).unwrap().address, Some("192.0.2.7".parse().unwrap()));
    }

    #[test]
    fn what_is_there_twice_is_not_believed() {
        for (style, fields) in [(Style::Forwarded, &FORWARDED[..]), (Style::Nginx, &NGINX)] {
            for (name, value) in fields.iter().filter(|(name, _)| *name != "x-forwarded-proto") {
                let twice = headers(&[fields, &[(*name, *value)]].concat());
                assert!(matches!(style.read(&twice), Err(Unreadable::Repeated(named)) if named == *name), "{name}");
            }
        }
    }

    #[test]
    fn target_and_method_have_to_be_there_and_the_address_need_not() {
        for (name, replaced, readable) in [
            ("x-forwarded-uri", None, false),
            ("x-forwarded-uri", Some("a"), false),
            ("x-forwarded-uri", Some(""), false),
            ("x-forwarded-uri", Some("http://x/a"), false),
            ("x-forwarded-uri", Some("*"), true),
            ("x-forwarded-method", None, false),
            ("x-forwarded-method", Some(""), false),
            ("x-forwarded-host", None, true),
            ("x-forwarded-for", None, true),
            ("x-forwarded-for", Some("192.0.2.1, unknown"), true),
        ] {
            let fields = FORWARDED.iter().filter_map(|(known, value)| {
                if *known == name { replaced.map(|value| (*known, value)) } else { Some((*known, *value)) }
            });
            let headers = headers(&fields.collect::<Vec<_>>());
            let read = Style::Forwarded.read(&headers);
            assert_eq!(read.is_ok(), readable, "{name} {replaced:?}");
            assert!(read.is_err() || name != "x-forwarded-for" || read.unwrap().address.is_none());
        }
    }

    #[test]
    fn a_key_that_cannot_be_taken_away_does_not_pass() {
        let header = Strip { headers: [Holder::XApiKey].into(), ..Strip::default() };
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
