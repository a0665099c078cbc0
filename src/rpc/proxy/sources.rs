//! Where in a request a key may stand, and finding the one that is there.
//!
//! A request has at most one key: two different ones, or one beside something else in the same field, is
//! nobody's honest request, and what reads it later might choose the other one.

use data_encoding::BASE64;
use zeroize::Zeroizing;

use super::{Field, presented};
use crate::key::{ApiKey, Invalid};

/// A place where a key may stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// `Authorization: ApiKey KEY`.
    ApiKey,
    /// `Authorization: Bearer KEY`, if the text has the form of a key: other tokens are somebody else's.
    Bearer,
    /// `Authorization: Basic …` with the key as its password, if that has the form of a key.
    Basic,
    /// `X-API-Key: KEY`.
    XApiKeyHeader,
    /// `API-Key: KEY`.
    ApiKeyHeader,
    /// A parameter of the query.
    Query(String),
    /// A cookie.
    Cookie(String),
}

impl Source {
    /// Parses a source as it is configured: `apikey`, `bearer`, `basic`, `x-api-key`, `api-key`, `query:NAME`
    /// or `cookie:NAME`.
    ///
    /// # Errors
    /// When it is none of these.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let named = |name: &str| {
            let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
            let good = !name.is_empty() && name.len() <= 64 && name.bytes().all(fits);
            good.then(|| name.to_owned()).ok_or_else(|| Invalid::new("name it with up to 64 of A-Z a-z 0-9 - _ ."))
        };
        match text {
            "apikey" => Ok(Self::ApiKey),
            "bearer" => Ok(Self::Bearer),
            "basic" => Ok(Self::Basic),
            "x-api-key" => Ok(Self::XApiKeyHeader),
            "api-key" => Ok(Self::ApiKeyHeader),
            _ => match text.split_once(':') {
                Some(("query", name)) => named(name).map(Self::Query),
                Some(("cookie", name)) => named(name).map(Self::Cookie),
                _ => Err(Invalid::new("use apikey, bearer, basic, x-api-key, api-key, query:NAME or cookie:NAME")),
            },
        }
    }
}

/// The places that are looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sources {
    api_key: bool,
    bearer: bool,
    basic: bool,
    x_api_key_header: bool,
    api_key_header: bool,
    query: Vec<String>,
    cookies: Vec<String>,
}

impl Default for Sources {
    /// The headers.
    fn default() -> Self {
        Self::new([Source::ApiKey, Source::Bearer, Source::Basic, Source::XApiKeyHeader, Source::ApiKeyHeader])
    }
}

/// What was found.
#[derive(Debug)]
pub(super) enum Found {
    /// No key.
    None,
    /// A key, and all the places where it stands.
    One(ApiKey, Strip),
    /// Two different keys, or something beside a key in the field that holds it.
    Several,
}

/// Where a key stood, so that it can be taken out there and nowhere else.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(in crate::rpc) struct Strip {
    /// Header fields, but for the cookies.
    pub(in crate::rpc) headers: Holders,
    /// Names of parameters of the query.
    pub(in crate::rpc) query: Vec<String>,
    /// The cookies.
    pub(in crate::rpc) cookie: StripCookie,
}

/// A header field of which all goes where it holds a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::rpc) enum Holder {
    Authorization,
    XApiKey,
    ApiKey,
}

impl Holder {
    pub(in crate::rpc) const ALL: [Self; 3] = [Self::Authorization, Self::XApiKey, Self::ApiKey];

    /// In lower case.
    pub(in crate::rpc) const fn name(self) -> &'static str {
        match self {
            Self::Authorization => "authorization",
            Self::XApiKey => "x-api-key",
            Self::ApiKey => "api-key",
        }
    }
}

/// Some of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::rpc) struct Holders([bool; Holder::ALL.len()]);

impl Holders {
    /// Their names, in lower case.
    pub(in crate::rpc) fn names(self) -> impl Iterator<Item = &'static str> {
        Holder::ALL.into_iter().filter(move |holder| self.contain(*holder)).map(Holder::name)
    }

    pub(in crate::rpc) fn contain(self, holder: Holder) -> bool {
        self.0.get(holder as usize).copied().unwrap_or_default()
    }

    fn add(&mut self, holder: Holder) {
        if let Some(is_one) = self.0.get_mut(holder as usize) {
            *is_one = true;
        }
    }
}

#[cfg(test)]
impl<const N: usize> From<[Holder; N]> for Holders {
    fn from(some: [Holder; N]) -> Self {
        let mut holders = Self::default();
        some.into_iter().for_each(|holder| holders.add(holder));
        holders
    }
}

/// What becomes of the Cookie field.
#[derive(Clone, PartialEq, Eq, Default)]
pub(in crate::rpc) enum StripCookie {
    /// It stays.
    #[default]
    Keep,
    /// It goes: it held nothing but the key.
    Remove,
    /// It is replaced by the other cookies. Those may be secrets.
    Replace(Vec<u8>),
}

impl std::fmt::Debug for StripCookie {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Keep => "Keep",
            Self::Remove => "Remove",
            Self::Replace(_) => "Replace(redacted)",
        })
    }
}

impl Sources {
    /// These.
    #[must_use]
    pub fn new(sources: impl IntoIterator<Item = Source>) -> Self {
        let mut all = Self {
            api_key: false,
            bearer: false,
            basic: false,
            x_api_key_header: false,
            api_key_header: false,
            query: Vec::new(),
            cookies: Vec::new(),
        };
        for source in sources {
            match source {
                Source::ApiKey => all.api_key = true,
                Source::Bearer => all.bearer = true,
                Source::Basic => all.basic = true,
                Source::XApiKeyHeader => all.x_api_key_header = true,
                Source::ApiKeyHeader => all.api_key_header = true,
                Source::Query(name) => all.query.push(name),
                Source::Cookie(name) => all.cookies.push(name),
            }
        }
        all
    }

    /// Finds the key of a request with these header fields and this path and query.
    pub(super) fn find(&self, fields: &[Field<'_>], target: &[u8]) -> Found {
        let mut search = Search::default();
        for field in fields {
            match field.name {
                b"authorization" => self.authorization(field.value, &mut search),
                b"x-api-key" if self.x_api_key_header => search.header(Holder::XApiKey, field.value),
                b"api-key" if self.api_key_header => search.header(Holder::ApiKey, field.value),
                b"cookie" if !self.cookies.is_empty() => self.cookie(field.value, &mut search),
                _ => {}
            }
        }
        if !self.query.is_empty() {
            self.query(target, &mut search);
        }
        search.found()
    }

    /// The credentials of an Authorization field (RFC 9110, section 11.6.2). Proxies join repeated fields by
    /// commas, and some schemes have commas of their own: so one piece that is a key makes all others suspicious.
    fn authorization<'a>(&self, value: &'a [u8], search: &mut Search<'a>) {
        for piece in value.split(|byte| *byte == b',') {
            match self.credential(trimmed(piece)) {
                Some(text) => search.add(Holder::Authorization, text),
                None => search.other_authorization = true,
            }
        }
    }

    /// The key among credentials; none: they are somebody else's.
    fn credential<'a>(&self, piece: &'a [u8]) -> Option<Text<'a>> {
        let end = piece.iter().position(|byte| matches!(byte, b' ' | b'\t')).unwrap_or(piece.len());
        let (scheme, rest) = piece.split_at_checked(end)?;
        let token = trimmed(rest);
        let is = |name: &str| scheme.eq_ignore_ascii_case(name.as_bytes());
        if is("apikey") {
            return self.api_key.then_some(Text::Sent(token));
        }
        if is("bearer") {
            return (self.bearer && has_form(token)).then_some(Text::Sent(token));
        }
        if is("basic") && self.basic {
            // RFC 7617, section 2: the user id has no colon.
            let pair = Zeroizing::new(BASE64.decode(token).ok()?);
            let colon = pair.iter().position(|byte| *byte == b':')?;
            let password = pair.get(colon + 1..)?;
            return has_form(password).then(|| Text::Decoded(Zeroizing::new(password.to_vec())));
        }
        None
    }

    fn cookie<'a>(&self, value: &'a [u8], search: &mut Search<'a>) {
        for pair in value.split(|byte| *byte == b';').map(trimmed).filter(|pair| !pair.is_empty()) {
            let (name, text) = split_pair(pair);
            let is_known = |name: &[u8]| self.cookies.iter().any(|known| known.as_bytes() == name);
            // Envoy joins the Cookie fields of HTTP/1.1 by commas, which are no part of a cookie (RFC 6265, section
            // 4.1.1), but which upstreams take for one: whose value the key is, depends on who reads it.
            let joined = pair.split(|byte| *byte == b',').skip(1);
            search.several |= joined.into_iter().any(|piece| is_known(split_pair(trimmed(piece)).0));
            if is_known(name) {
                let bare = text.strip_prefix(b"\"").and_then(|text| text.strip_suffix(b"\"")).unwrap_or(text);
                search.in_cookie = true;
                search.text(Text::Sent(bare));
            } else {
                search.other_cookies.push(pair);
            }
        }
    }

    /// Parameters by their names as they are spelled: a proxy takes them out by that, so a key under another
    /// spelling of the name is none, and does not pass.
    fn query<'a>(&'a self, target: &'a [u8], search: &mut Search<'a>) {
        let Some(at) = target.iter().position(|byte| *byte == b'?') else { return };
        let query = target.get(at + 1..).unwrap_or_default();
        let query = query.split(|byte| *byte == b'#').next().unwrap_or_default();
        for pair in query.split(|byte| *byte == b'&') {
            let (name, text) = split_pair(pair);
            if let Some(known) = self.query.iter().find(|known| known.as_bytes() == name) {
                if !search.query.contains(&known.as_str()) {
                    search.query.push(known);
                }
                search.text(Text::Sent(text));
            }
        }
    }
}

/// The text of a key, as it was sent or as it was wrapped.
enum Text<'a> {
    Sent(&'a [u8]),
    Decoded(Zeroizing<Vec<u8>>),
}

impl Text<'_> {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Sent(bytes) => bytes,
            Self::Decoded(bytes) => bytes,
        }
    }
}

/// What was found so far.
#[derive(Default)]
struct Search<'a> {
    text: Option<Text<'a>>,
    several: bool,
    headers: Holders,
    in_cookie: bool,
    query: Vec<&'a str>,
    /// Something that is no key stands in an Authorization field.
    other_authorization: bool,
    other_cookies: Vec<&'a [u8]>,
}

impl<'a> Search<'a> {
    /// A field that holds a key and nothing else. Proxies join repeated ones by commas.
    fn header(&mut self, holder: Holder, value: &'a [u8]) {
        if value.contains(&b',') {
            for piece in value.split(|byte| *byte == b',') {
                self.add(holder, Text::Sent(trimmed(piece)));
            }
        } else {
            self.add(holder, Text::Sent(trimmed(value)));
        }
    }

    fn add(&mut self, holder: Holder, text: Text<'a>) {
        self.headers.add(holder);
        self.text(text);
    }

    fn text(&mut self, text: Text<'a>) {
        match &self.text {
            // Both are what one and the same client sent: there is nothing to learn from how long this takes.
            Some(first) => self.several |= first.bytes() != text.bytes(),
            None => self.text = Some(text),
        }
    }

    fn found(self) -> Found {
        if self.several {
            return Found::Several;
        }
        let Some(text) = self.text else { return Found::None };
        if self.other_authorization && self.headers.contain(Holder::Authorization) {
            return Found::Several;
        }
        let cookie = if !self.in_cookie {
            StripCookie::Keep
        } else if self.other_cookies.is_empty() {
            StripCookie::Remove
        } else {
            StripCookie::Replace(self.other_cookies.join(&b"; "[..]))
        };
        let query = self.query.into_iter().map(str::to_owned).collect();
        Found::One(presented(text.bytes()), Strip { headers: self.headers, query, cookie })
    }
}

fn has_form(text: &[u8]) -> bool {
    std::str::from_utf8(text).is_ok_and(ApiKey::has_form)
}

/// `name=value`.
fn split_pair(pair: &[u8]) -> (&[u8], &[u8]) {
    match pair.iter().position(|byte| *byte == b'=') {
        Some(at) => (pair.get(..at).unwrap_or_default(), pair.get(at + 1..).unwrap_or_default()),
        None => (pair, b""),
    }
}

/// Without the white space around a field's value (RFC 9110, section 5.5), which is no part of it.
fn trimmed(value: &[u8]) -> &[u8] {
    let mut value = value;
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Texts of the form of keys; what their checksums say does not matter here.
    fn key(letter: char) -> String {
        let digits = |count| std::iter::repeat_n(letter, count).collect::<String>();
        format!("kc_{}_{}", digits(22), digits(60))
    }

    /// What is found: the first letter of the key's digits, with what is stripped; or `none`, `several`.
    fn find(sources: &Sources, fields: &[(&str, &str)], target: &str) -> String {
        let fields: Vec<_> =
            fields.iter().map(|(name, value)| Field { name: name.as_bytes(), value: value.as_bytes() }).collect();
        match sources.find(&fields, target.as_bytes()) {
            Found::None => "none".to_owned(),
            Found::Several => "several".to_owned(),
            Found::One(text, strip) => {
                let cookie = match strip.cookie {
                    StripCookie::Keep => String::new(),
                    StripCookie::Remove => " -cookie".to_owned(),
                    StripCookie::Replace(rest) => format!(" cookie={}", String::from_utf8(rest).unwrap()),
                };
                let letter = text.expose().chars().nth(3).map_or("bad".to_owned(), |letter| letter.to_string());
                let names: Vec<_> = strip.headers.names().map(str::to_owned).chain(strip.query).collect();
                format!("{letter}: {}{cookie}", names.join(" "))
            }
        }
    }

    fn all() -> Sources {
        let more = ["query:api_key", "cookie:key"].map(|text| Source::parse(text).unwrap());
        let names = ["apikey", "bearer", "basic", "x-api-key", "api-key"];
        Sources::new(names.map(|name| Source::parse(name).unwrap()).into_iter().chain(more))
    }

    #[test]
    fn every_place_is_looked_at_and_what_was_found_there_is_stripped_there() {
        let a = key('A');
        let basic = format!("Basic {}", BASE64.encode(format!("me:{a}").as_bytes()));
        let (api_key, bearer) = (format!("ApiKey {a}"), format!("bEARER  {a} "));
        for (fields, target, found) in [
            (vec![("authorization", api_key.as_str())], "/", "A: authorization"),
            (vec![("authorization", &bearer)], "/", "A: authorization"),
            (vec![("authorization", &basic)], "/", "A: authorization"),
            (vec![("x-api-key", &a)], "/", "A: x-api-key"),
            (vec![("api-key", &a)], "/", "A: api-key"),
            (vec![("x-api-key", &a), ("api-key", &a)], "/", "A: x-api-key api-key"),
            (vec![("authorization", "Bearer eyJh.x.y"), ("api-key", &a)], "/", "A: api-key"),
            (vec![("authorization", "Digest a=\"b\", c=d"), ("api-key", &a)], "/", "A: api-key"),
            (vec![], &format!("/x?b=1&api_key={a}#api_key=x"), "A: api_key"),
            (vec![("x-api-key", &a)], &format!("/x?api_key={a}"), "A: x-api-key api_key"),
            (vec![("cookie", &format!("a=b; key={a};c=d"))], "/", "A:  cookie=a=b; c=d"),
            (vec![("cookie", &format!("key=\"{a}\""))], "/", "A:  -cookie"),
            (vec![("cookie", "a=b"), ("cookie", &format!("key={a}"))], "/", "A:  cookie=a=b"),
        ] {
            assert_eq!(find(&all(), &fields, target), found, "{fields:?} {target}");
        }
    }

    #[test]
    fn what_is_no_key_is_left_alone() {
        let a = key('A');
        let no_user = format!("Basic {}", BASE64.encode(a.as_bytes()));
        for (fields, target) in [
            (vec![], "/"),
            (vec![("authorization", "Bearer eyJh.x.y")], "/"),
            (vec![("authorization", "Basic bWU6cHc=")], "/"),
            (vec![("authorization", no_user.as_str())], "/"),
            (vec![("authorization", "Basic %%%")], "/"),
            (vec![("authorization", "")], "/"),
            (vec![("authorization", &a)], "/"),
            (vec![("cookie", "a=b; keys=c")], "/?apikey=x"),
            (vec![("x-apikey", &a)], &format!("/?api%5Fkey={a}")),
            (vec![("x-api-key ", &a)], &format!("/api_key={a}")),
        ] {
            assert_eq!(find(&all(), &fields, target), "none", "{fields:?} {target}");
        }
        // What is off is not looked at.
        let none = Sources::new([]);
        let headers = [("authorization", format!("ApiKey {a}")), ("x-api-key", a.clone()), ("api-key", a.clone())];
        let cookie = ("cookie", format!("key={a}"));
        let fields: Vec<_> = headers.iter().chain([&cookie]).map(|(name, value)| (*name, value.as_str())).collect();
        assert_eq!(find(&none, &fields, &format!("/?api_key={a}")), "none");
        let default: Vec<_> = vec![("cookie", cookie.1.as_str())];
        assert_eq!(find(&Sources::default(), &default, &format!("/?api_key={a}")), "none", "off by default");
    }

    #[test]
    fn an_empty_or_foreign_text_where_only_keys_stand_is_a_bad_key() {
        for (fields, target) in [
            (vec![("x-api-key", "")], "/"),
            (vec![("api-key", " ")], "/"),
            (vec![("authorization", "ApiKey")], "/"),
            (vec![("authorization", "apikey ")], "/"),
            (vec![("cookie", "key=")], "/"),
            (vec![("cookie", "key")], "/"),
            (vec![], "/?api_key"),
            (vec![], "/?api_key="),
        ] {
            assert!(find(&all(), &fields, target).starts_with("bad: "), "{fields:?} {target}");
        }
        let long = "x".repeat(70_000);
        assert!(find(&all(), &[("x-api-key", &long)], "/").starts_with("bad: "), "not even copied");
    }

    #[test]
    fn two_keys_are_refused_wherever_they_stand() {
        let (a, b) = (key('A'), key('B'));
        let joined = format!("{a},{b}");
        let (two, mixed) = (format!("ApiKey {a},ApiKey {b}"), format!("Bearer eyJh.x.y,ApiKey {a}"));
        let (api_key, basic) =
            (format!("ApiKey {a}"), format!("Basic {}", BASE64.encode(format!("me:{b}").as_bytes())));
        for (fields, target) in [
            (vec![("x-api-key", a.as_str()), ("api-key", &b)], "/"),
            (vec![("x-api-key", &a), ("x-api-key", &b)], "/"),
            (vec![("x-api-key", &joined)], "/"),
            (vec![("x-api-key", &a), ("api-key", "")], "/"),
            (vec![("authorization", &two)], "/"),
            (vec![("authorization", &mixed)], "/"),
            (vec![("authorization", &api_key), ("authorization", "Bearer eyJh.x.y")], "/"),
            (vec![("authorization", &api_key), ("authorization", &basic)], "/"),
            (vec![("authorization", &api_key), ("x-api-key", &b)], "/"),
            (vec![("x-api-key", &a)], &format!("/?api_key={b}")),
            (vec![], &format!("/?api_key={a}&api_key={b}")),
            (vec![("cookie", &format!("key={a}; key={b}"))], "/"),
            (vec![("cookie", &format!("a=b,key={a}"))], "/"),
            (vec![("cookie", &format!("c=d; a=b, key={a}"))], "/"),
            (vec![("cookie", &format!("key={a},key={a}"))], "/"),
            (vec![("cookie", &format!("key={a}")), ("cookie", &format!("key={b}"))], "/"),
        ] {
            assert_eq!(find(&all(), &fields, target), "several", "{fields:?} {target}");
        }
        let twice = format!("{a}, {a}");
        assert_eq!(find(&all(), &[("x-api-key", &twice)], "/"), "A: x-api-key", "one and the same");
    }

    #[test]
    fn sources_are_named() {
        assert_eq!(Source::parse("query:api_key").unwrap(), Source::Query("api_key".to_owned()));
        for text in ["", "ApiKey", "header:x", "query:", "cookie:a b", "query:a=b", "cookie"] {
            assert!(Source::parse(text).is_err(), "{text}");
        }
    }
}
